/* Products with 16x4 blocks in tiles: 16 outputs are the rows, 16 tokens the columns. Of the inputs [K / 4][T] those rows
that a strip kept are laid together, its next strip's while this one's are multiplied; the sums are turned over. */

/* Inputs of a strip's blocks: [blocks][32] */
INLINE void gather_blocks(const uint32_t *at, uint32_t kept, const uint32_t *x, size_t T, const int wide, uint32_t *to)
{
    UNROLL(4)
    for (uint32_t b = 0; b < kept; b++, to += ABREAST) {
        const uint32_t *from = x + at[b] * T;
        _mm512_store_si512(to, _mm512_loadu_si512(from));
        if (wide)
            _mm512_store_si512(to + TILE, _mm512_loadu_si512(from + TILE));
    }
}

/* Sums [16 outputs][16 tokens], twice where `wide`; what lies behind the last block meets weights of 0. */
INLINE void strip_tiles(uint32_t tiles, const int8_t *w, const uint32_t *x, const int wide, int32_t *sums)
{
    _tile_zero(0);
    _tile_zero(1);
    UNROLL(1)
    for (uint32_t t = 0; t < tiles; t++, w += TILE_SIZE, x += TILE * ABREAST) {
        _tile_loadd(4, w, TILE_BYTES);
        _tile_loadd(6, x, ABREAST * sizeof *x);
        _tile_dpbsud(0, 4, 6);
        if (wide) {
            _tile_loadd(7, x + TILE, ABREAST * sizeof *x);
            _tile_dpbsud(1, 4, 7);
        }
    }
    _tile_stored(0, sums, TILE_BYTES);
    if (wide)
        _tile_stored(1, sums + TILE * TILE, TILE_BYTES);
}

/* Sums of one strip, `rows` tokens of them */
INLINE void turn_strip(const int32_t *sums, uint32_t rows, int32_t *to, size_t stride)
{
    for (uint32_t m = 0; m < rows; m += TILE, sums += TILE * TILE, to += TILE * stride)
        transpose((const uint32_t *)sums, TILE, (uint32_t *)to, stride); /* rows past the last are nobody's */
}

/* What becomes of the sums [16 outputs][16 tokens], twice where `rows` is above 16, of strip s */
typedef void After(const void *sink, uint32_t s, const int32_t *sums, uint32_t rows);

typedef struct {
    int32_t *sums;
    size_t stride;
} Turned;

static void turn_after(const void *sink, uint32_t s, const int32_t *sums, uint32_t rows)
{
    const Turned *t = sink;
    turn_strip(sums, rows, t->sums + s * STRIP, t->stride);
}

INLINE void strips_abreast(const Linear *l, uint32_t rows, const int wide, const uint32_t *x, size_t T, Workspace *ws,
                           After *after, const void *sink)
{
    const Blocks *c = &l->strips;
    const uint32_t strips = l->outputs / STRIP;
    const size_t half = (l->inputs / GROUP + TILE) * (size_t)ABREAST;
    const int8_t *w = c->tiles;
    if (strips == 0)
        return;
    gather_blocks(c->at, c->start[1], x, T, wide, ws->gathered);
    for (uint32_t s = 0; s < strips; s++) {
        const uint32_t tiles = (c->start[s + 1] - c->start[s] + TILE - 1) / TILE;
        if (s + 1 < strips)
            gather_blocks(c->at + c->start[s + 1], c->start[s + 2] - c->start[s + 1], x, T, wide,
                          ws->gathered + (s + 1) % 2 * half);
        tiles_read(ws->gathered);
        strip_tiles(tiles, w, ws->gathered + s % 2 * half, wide, ws->tile + s % 2 * ABREAST * TILE);
        w += (size_t)tiles * TILE_SIZE;
        if (s > 0) /* that before, which is finished by now */
            after(sink, c->order[s - 1], ws->tile + (s - 1) % 2 * ABREAST * TILE, rows);
    }
    after(sink, c->order[strips - 1], ws->tile + (strips - 1) % 2 * ABREAST * TILE, rows);
}

INLINE void strips_of(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws, After *after,
                      const void *sink)
{
    if (rows > TILE)
        strips_abreast(l, rows, 1, x, T, ws, after, sink);
    else
        strips_abreast(l, rows, 0, x, T, ws, after, sink);
}

static void strips(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    shape_tiles(TILE, TILE);
    for (uint32_t m = 0; m < rows; m += ABREAST) {
        const uint32_t some = rows - m < ABREAST ? rows - m : ABREAST;
        const Turned sink = {ws->sums + m * bantam_stride(l), bantam_stride(l)};
        strips_of(l, some, x + m, T, ws, turn_after, &sink);
    }
    _tile_release();
}
