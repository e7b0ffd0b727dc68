/* Dense products, tile by tile. They read the inputs as they are, bytes [M][K]; a word of four of them goes to all outputs
of a strip. */

/* R rows x S strips of outputs. */
INLINE void dense_tile(const int R, const int S, uint32_t groups, const uint8_t *x, const int8_t *w,
                       int32_t *sums, size_t stride)
{
    V a[TILE_ROWS * TILE_STRIPS * PARTS]; /* gcc gives up on arrays whose size is a variable */
    const size_t strip = (size_t)groups * 64, row = (size_t)groups * GROUP;
    UNROLL(64)
    for (int i = 0; i < R * S * PARTS; i++)
        a[i] = v_zero();
    UNROLL(1)
    for (uint32_t g = 0; g < groups; g++, x += GROUP, w += 64) {
        Weights b[TILE_STRIPS * PARTS];
        UNROLL(8)
        for (int s = 0; s < S * PARTS; s++)
            b[s] = v_weights(w + (s / PARTS) * strip + (s % PARTS) * VECTOR);
        UNROLL(8)
        for (int r = 0; r < R; r++) {
            Bytes bytes = v_bytes((const uint32_t *)(const void *)(x + r * row));
            UNROLL(8)
            for (int s = 0; s < S * PARTS; s++)
                a[r * S * PARTS + s] = v_dot(a[r * S * PARTS + s], bytes, b[s]);
        }
    }
    UNROLL(8)
    for (int r = 0; r < R; r++)
        UNROLL(8)
        for (int s = 0; s < S * PARTS; s++)
            v_store(sums + r * stride + s * (VECTOR / 4), a[r * S * PARTS + s]);
}

#define DENSE(S)                                                                                                       \
    static void dense_##S(int rows, uint32_t groups, const uint8_t *x, const int8_t *w, int32_t *sums,                 \
                          size_t stride)                                                                               \
    {                                                                                                                  \
        switch (rows) {                                                                                                \
        case 1: dense_tile(1, S, groups, x, w, sums, stride); break;                                                   \
        case 2: dense_tile(2, S, groups, x, w, sums, stride); break;                                                   \
        case 3: dense_tile(3, S, groups, x, w, sums, stride); break;                                                   \
        case 4: dense_tile(4, S, groups, x, w, sums, stride); break;                                                   \
        case 5: dense_tile(TILE_ROWS < 5 ? 1 : 5, S, groups, x, w, sums, stride); break;                               \
        default: dense_tile(TILE_ROWS < 5 ? 1 : 6, S, groups, x, w, sums, stride); break;                              \
        }                                                                                                              \
    }
DENSE(1)
#if VECTOR == 64
DENSE(2)
DENSE(3)
DENSE(4)
#endif

static void dense(const Linear *l, uint32_t rows, const uint8_t *x, int32_t *sums)
{
    const uint32_t groups = l->inputs / GROUP, strips = l->outputs / STRIP, tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (uint32_t s = 0; s < strips;) {
        uint32_t wide = strips - s < TILE_STRIPS ? strips - s : TILE_STRIPS;
        const int8_t *w = l->dense + (size_t)s * groups * 64;
        for (uint32_t t = 0, m = 0; t < tiles; t++) { /* of even height: 25 rows are 5 x 5, not 4 x 6 + 1 */
            int height = (int)((rows - m + (tiles - t) - 1) / (tiles - t));
            int32_t *to = sums + m * bantam_stride(l) + s * STRIP;
            switch (wide) {
            case 1: dense_1(height, groups, x + (size_t)m * l->inputs, w, to, bantam_stride(l)); break;
#if VECTOR == 64
            case 2: dense_2(height, groups, x + (size_t)m * l->inputs, w, to, bantam_stride(l)); break;
            case 3: dense_3(height, groups, x + (size_t)m * l->inputs, w, to, bantam_stride(l)); break;
            default: dense_4(height, groups, x + (size_t)m * l->inputs, w, to, bantam_stride(l)); break;
#endif
            }
            m += (uint32_t)height;
        }
        s += wide;
    }
}

/* Sums in turn, so many that none waits for itself: with twelve a wide processor came 7 % short. */
enum { SUMS = VECTOR == 64 ? 24 : 12 };
static uint32_t peak(uint32_t rounds, int32_t *sum)
{
    const int8_t two[64] = {1, 2};
    V a[SUMS];
    const Weights weights = v_weights(two);
    Bytes bytes = v_bytes((const uint32_t *)sum);
    UNROLL(24)
    for (int i = 0; i < SUMS; i++)
        a[i] = v_zero();
    UNROLL(1)
    for (uint32_t r = 0; r < rounds; r++) {
        UNROLL(96)
        for (int i = 0; i < 4 * SUMS; i++) {
            v_hide(&bytes);
            a[i % SUMS] = v_dot(a[i % SUMS], bytes, weights);
        }
    }
    int32_t out[VECTOR / 4];
    UNROLL(24)
    for (int i = 0; i < SUMS; i++) {
        v_store(out, a[i]);
        *sum += out[0];
    }
    return 4 * SUMS * VECTOR;
}
