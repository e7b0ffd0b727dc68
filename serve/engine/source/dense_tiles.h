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

/* One pair of strips, or the last that has no partner, for up to 32 rows */
INLINE void dense_pair(const Linear *l, uint32_t s, uint32_t rows, const uint8_t *x, int32_t *sums, size_t stride)
{
    const uint32_t groups = l->inputs / GROUP;
    const int8_t *w = l->dense + (size_t)s * groups * TILE_BYTES;
    const int two = s + 2 <= l->outputs / STRIP;
    if (rows > TILE && two)
        dense_tile(2, 2, groups, x, w, sums, stride);
    else if (two)
        dense_tile(1, 2, groups, x, w, sums, stride);
    else if (rows > TILE)
        dense_tile(2, 1, groups, x, w, sums, stride);
    else
        dense_tile(1, 1, groups, x, w, sums, stride);
}

/* Rows that tiles of one shape hold from m on: all that fill two, so that weights are read once for them, or the rest. */
static uint32_t shape_for(uint32_t rows, uint32_t m)
{
    const uint32_t left = rows - m, whole = left / ABREAST * ABREAST;
    if (whole)
        shape_tiles(TILE, TILE);
    else
        shape_tiles(left < TILE ? left : TILE, left > TILE ? left - TILE : 1);
    return whole ? whole : left;
}

static void dense(const Linear *l, uint32_t rows, const uint8_t *x, int32_t *sums)
{
    const size_t stride = bantam_stride(l);
    tiles_read(x);
    for (uint32_t m0 = 0, some; m0 < rows; m0 += some) {
        some = shape_for(rows, m0);
        for (uint32_t s = 0; s < l->outputs / STRIP; s += 2)
            for (uint32_t m = m0; m < m0 + some; m += ABREAST)
                dense_pair(l, s, some, x + (size_t)m * l->inputs, sums + m * stride + s * STRIP, stride);
    }
    _tile_release();
}
