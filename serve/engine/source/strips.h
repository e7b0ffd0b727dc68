/* Products with 16x4 blocks: words of four inputs lie as [K / 4][T], where the rows of a tile are neighbours. A word of
inputs goes to all outputs of a strip. */

/* R rows of one strip, 16x4 blocks: a block's weights serve all rows, no gather is needed. */
INLINE void strip_tile(const int R, const uint32_t *at, const int8_t *w, uint32_t kept, const uint32_t *x, size_t T,
                       int32_t *sums, size_t stride)
{
    V a[STRIP_ROWS * PARTS];
    UNROLL(64)
    for (int i = 0; i < R * PARTS; i++)
        a[i] = v_zero();
    UNROLL(1)
    for (uint32_t b = 0; b < kept; b++, w += 64) {
        const uint32_t *row = x + at[b] * T;
        Weights weights[PARTS];
        UNROLL(2)
        for (int p = 0; p < PARTS; p++)
            weights[p] = v_weights(w + p * VECTOR);
        UNROLL(32)
        for (int r = 0; r < R; r++) {
            Bytes bytes = v_bytes(row + r);
            UNROLL(2)
            for (int p = 0; p < PARTS; p++)
                a[r * PARTS + p] = v_dot(a[r * PARTS + p], bytes, weights[p]);
        }
    }
    UNROLL(32)
    for (int r = 0; r < R; r++)
        UNROLL(2)
        for (int p = 0; p < PARTS; p++)
            v_store(sums + r * stride + p * (VECTOR / 4), a[r * PARTS + p]);
}

#define CASE(R) case R: strip_tile(R, at, w, kept, x, T, sums, stride); break;
static void strip_rows(int rows, const uint32_t *at, const int8_t *w, uint32_t kept, const uint32_t *x, size_t T,
                       int32_t *sums, size_t stride)
{
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
#if VECTOR == 64 || defined(SIX_ROWS)
        CASE(5) CASE(6)
#endif
#if VECTOR == 64
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15)
        CASE(16) CASE(17) CASE(18) CASE(19) CASE(20) CASE(21) CASE(22) CASE(23) CASE(24)
#endif
    }
}
#undef CASE

static void strips(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    const uint32_t tiles = (rows + STRIP_ROWS - 1) / STRIP_ROWS;
    for (uint32_t t = 0, m = 0; t < tiles; t++) {
        int height = (int)((rows - m + (tiles - t) - 1) / (tiles - t));
        for (uint32_t s = 0; s < l->outputs / STRIP; s++) {
            uint32_t b = l->strips.start[s], kept = l->strips.start[s + 1] - b;
            strip_rows(height, l->strips.at + b, l->strips.weights + (size_t)b * 64, kept, x + m, T,
                       ws->sums + m * bantam_stride(l) + l->strips.order[s] * STRIP, bantam_stride(l));
        }
        m += (uint32_t)height;
    }
}
