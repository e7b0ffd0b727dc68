/* Slots to logits: the mean of their rows, then two layers. The operations of serve/ngram/runtime.py on 32-bit floats in
its order: each output's sum begins with the bias and takes one input after the other, no multiplication is fused with
an addition. Compile with -ffp-contract=off. */

typedef float V __attribute__((vector_size(VECTOR), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(VECTOR / 2), aligned(1), may_alias));
typedef int16_t Halves __attribute__((vector_size(VECTOR), may_alias));
enum { LANES = VECTOR / 4, HALVES = VECTOR / 2 };
enum { BEFORE_OVERFLOW = 256 }; /* rows: 256 * -128 fits in 16 bits */

/* Adds `columns` columns from `at` of rows, a number known when compiled. */
INLINE void add_rows(const Given *g, const uint32_t *slot, size_t count, size_t at, const int columns, int32_t *sum)
{
    Halves total[64 / HALVES];
    for (size_t from = 0; from < count; from += BEFORE_OVERFLOW) {
        const size_t to = count - from < BEFORE_OVERFLOW ? count : from + BEFORE_OVERFLOW;
        for (int i = 0; i < columns / HALVES; i++)
            total[i] = (Halves){0};
        for (size_t s = from; s < to; s++) {
            const int8_t *row = g->rows + slot[s] * g->width + at;
            UNROLL(8)
            for (int i = 0; i < columns / HALVES; i++)
                total[i] += __builtin_convertvector(*(const Bytes *)(const void *)(row + i * HALVES), Halves);
        }
        for (int i = 0; i < columns; i++)
            sum[at + (size_t)i] += ((const int16_t *)total)[i];
    }
}

static void add_few(const Given *g, const uint32_t *slot, size_t count, size_t at, int32_t *sum)
{
    for (size_t s = 0; s < count; s++)
        for (size_t i = 0; i < 16; i++)
            sum[at + i] += g->rows[slot[s] * g->width + at + i];
}

static void mean(const Given *g, const uint32_t *slot, size_t count, int32_t *sum, float *to)
{
    memset(sum, 0, g->width * sizeof *sum);
    size_t at = 0;
    for (; at + 64 <= g->width; at += 64)
        add_rows(g, slot, count, at, 64, sum);
    for (; at + HALVES <= g->width; at += HALVES)
        add_rows(g, slot, count, at, HALVES, sum);
    for (; at < g->width; at += 16)
        add_few(g, slot, count, at, sum);
    const float divisor = (float)(count ? count : 1);
    for (size_t i = 0; i < g->width; i++)
        to[i] = (float)sum[i] * g->scale[i] / divisor;
}

/* `rows` outputs of `vectors` vectors each from output `at`; both are numbers known when compiled. */
INLINE void tile(const Dense *l, const float *x, size_t x_stride, float *y, uint32_t at, const int rows,
                 const int vectors)
{
    V sum[TILE][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = *(const V *)(const void *)(l->bias + at + v * LANES);
    for (uint32_t k = 0; k < l->inputs; k++) {
        const V *w = (const V *)(const void *)(l->weights + (size_t)k * l->stride + at);
        UNROLL(8)
        for (int r = 0; r < rows; r++) {
            const float input = x[(size_t)r * x_stride + k];
            UNROLL(4)
            for (int v = 0; v < vectors; v++)
                sum[r][v] += w[v] * input;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            *(V *)(void *)(y + (size_t)r * l->stride + at + v * LANES) = sum[r][v];
}

/* y [texts][stride] of x [texts][x_stride]; both have room for TILE texts more. */
static void layer(const Dense *l, const float *x, size_t x_stride, uint32_t texts, float *y)
{
    uint32_t at = 0;
    for (; at + VECTORS * LANES <= l->stride; at += VECTORS * LANES)
        for (uint32_t t = 0; t < texts; t += 4)
            tile(l, x + (size_t)t * x_stride, x_stride, y + (size_t)t * l->stride, at, 4, VECTORS);
    for (; at < l->stride; at += LANES)
        for (uint32_t t = 0; t < texts; t += TILE)
            tile(l, x + (size_t)t * x_stride, x_stride, y + (size_t)t * l->stride, at, TILE, 1);
}
