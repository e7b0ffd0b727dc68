/* Dense products in tiles: two of inputs by two of weights, so that each that is loaded serves twice. Packed weights are
tiles as they lie. */

/* What is left of the inputs beyond a multiple of 64, of one strip: its weights with zeros behind. The tile of inputs
reads past the end of its rows, into others, and into memory that is the workspace's as well. */
static const int8_t *rest_of(const int8_t *w, uint32_t groups, int8_t *room)
{
    const uint32_t left = groups % TILE;
    memset(room, 0, TILE_SIZE);
    memcpy(room, w + (size_t)(groups - left) * TILE_BYTES, (size_t)left * TILE_BYTES);
    tiles_read(room);
    return room;
}

/* R tiles of rows x S strips, whose weights lie `strip` bytes apart */
#define MULTIPLY(R, S, x, w, v)                                                                                        \
    do {                                                                                                               \
        _tile_loadd(6, w, TILE_BYTES);                                                                                 \
        _tile_loadd(4, x, row);                                                                                        \
        _tile_dpbusd(0, 4, 6);                                                                                         \
        if (S > 1) {                                                                                                   \
            _tile_loadd(7, v, TILE_BYTES);                                                                             \
            _tile_dpbusd(1, 4, 7);                                                                                     \
        }                                                                                                              \
        if (R > 1) {                                                                                                   \
            _tile_loadd(5, (x) + TILE * row, row);                                                                     \
            _tile_dpbusd(2, 5, 6);                                                                                     \
            if (S > 1)                                                                                                 \
                _tile_dpbusd(3, 5, 7);                                                                                 \
        }                                                                                                              \
    } while (0)

INLINE void dense_tile(const int R, const int S, uint32_t groups, const uint8_t *x, const int8_t *w, int32_t *sums,
                       size_t stride)
{
    const size_t row = (size_t)groups * GROUP, strip = (size_t)groups * TILE_BYTES;
    const size_t to = stride * sizeof(int32_t);
    const int8_t *v = w + strip;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    UNROLL(1)
    for (uint32_t g = 0; g + TILE <= groups; g += TILE)
        MULTIPLY(R, S, x + (size_t)g * GROUP, w + (size_t)g * TILE_BYTES, v + (size_t)g * TILE_BYTES);
    if (groups % TILE) {
        int8_t rest[2][TILE_SIZE] __attribute__((aligned(64)));
        const uint8_t *end = x + (size_t)(groups - groups % TILE) * GROUP;
        rest_of(w, groups, rest[0]);
        if (S > 1)
            rest_of(v, groups, rest[1]);
        MULTIPLY(R, S, end, rest[0], rest[1]);
    }
    _tile_stored(0, sums, to);
    if (S > 1)
        _tile_stored(1, sums + STRIP, to);
    if (R > 1)
        _tile_stored(2, sums + TILE * stride, to);
    if (R > 1 && S > 1)
        _tile_stored(3, sums + TILE * stride + STRIP, to);
}

static void dense_rows(const Linear *l, uint32_t rows, const uint8_t *x, int32_t *sums)
{
    const uint32_t groups = l->inputs / GROUP, strips = l->outputs / STRIP;
    const size_t stride = bantam_stride(l), strip = (size_t)groups * TILE_BYTES;
    uint32_t s = 0;
    for (; s + 2 <= strips; s += 2)
        if (rows > TILE)
            dense_tile(2, 2, groups, x, l->dense + s * strip, sums + s * STRIP, stride);
        else
            dense_tile(1, 2, groups, x, l->dense + s * strip, sums + s * STRIP, stride);
    if (s == strips)
        return;
    if (rows > TILE)
        dense_tile(2, 1, groups, x, l->dense + s * strip, sums + s * STRIP, stride);
    else
        dense_tile(1, 1, groups, x, l->dense + s * strip, sums + s * STRIP, stride);
}

static void dense(const Linear *l, uint32_t rows, const uint8_t *x, int32_t *sums)
{
    tiles_read(x);
    for (uint32_t m = 0; m < rows; m += 2 * TILE) {
        const uint32_t some = rows - m < 2 * TILE ? rows - m : 2 * TILE;
        shape_tiles(some < TILE ? some : TILE, some > TILE ? some - TILE : 1);
        dense_rows(l, some, x + (size_t)m * l->inputs, sums + m * bantam_stride(l));
    }
    _tile_release();
}
