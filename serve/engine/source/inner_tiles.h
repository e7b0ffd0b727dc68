/* A feed-forward layer whose inner activations have a range of their own in the file: sums go from the tile through the
activation to bytes at once, in the order in which the next product reads them. The same operations in the same order as
`activation` in encoder.h, hence the same bits. */

typedef struct {
    const Linear *l;
    const float *step, *shift; /* of the rows */
    F inverse, zero;           /* of the bytes */
    uint8_t *bytes;            /* [rows][N] */
    uint32_t *words;           /* [N / 4][T] */
    size_t T;
} Inner;

INLINE I byte_of(F y, const Inner *in)
{
    I whole = _mm512_cvtps_epi32(f_fma(y, in->inverse, in->zero));
    return _mm512_min_epi32(_mm512_max_epi32(whole, _mm512_setzero_si512()), _mm512_set1_epi32(255));
}

/* Sums of strip s output by output: four outputs of 16 tokens become words. */
INLINE void inner_turned(const uint32_t what, const Inner *in, uint32_t s, const int32_t *sums, uint32_t rows)
{
    const float *scale = in->l->scale + s * STRIP, *correction = in->l->correction + s * STRIP;
    const float *bias = in->l->bias + s * STRIP;
    for (uint32_t m = 0; m < rows; m += TILE)
        for (uint32_t n = 0; n < STRIP; n += GROUP) {
            F step = f_load(in->step + m), shift = f_load(in->shift + m);
            I word = _mm512_setzero_si512();
            UNROLL(4)
            for (uint32_t k = 0; k < GROUP; k++, sums += TILE) {
                F offset = f_minus(shift, f_set(correction[n + k]), f_set(bias[n + k]));
                F y = activate(what, f_fma(f_int(sums), f_mul(f_set(scale[n + k]), step), offset));
                word = _mm512_or_si512(word, _mm512_slli_epi32(byte_of(y, in), (unsigned)(8 * k)));
            }
            _mm512_storeu_si512(in->words + (s * STRIP + n) / GROUP * in->T + m, word);
        }
}

/* Sums [rows][32] of the outputs from n on, row by row; `wide`: whether both halves are outputs */
INLINE void inner_rows(const uint32_t what, const Inner *in, uint32_t n, const int32_t *sums, uint32_t rows,
                       const int wide)
{
    for (uint32_t i = 0; i < rows; i++, sums += 2 * STRIP) {
        F step = f_set(in->step[i]), shift = f_set(in->shift[i]);
        uint8_t *to = in->bytes + (size_t)i * in->l->outputs + n;
        F y = activate(what, real_of(in->l, f_int(sums), n, step, shift));
        f_bytes_out(to, f_fma(y, in->inverse, in->zero));
        if (wide) {
            F z = activate(what, real_of(in->l, f_int(sums + STRIP), n + STRIP, step, shift));
            f_bytes_out(to + STRIP, f_fma(z, in->inverse, in->zero));
        }
    }
}

INLINE void inner_strips(After *after, const Linear *up, uint32_t rows, Workspace *ws, const Inner *in, size_t T)
{
    for (uint32_t m = 0; m < rows; m += ABREAST) {
        Inner part = *in;
        part.step += m;
        part.shift += m;
        part.words += m;
        strips_of(up, rows - m < ABREAST ? rows - m : ABREAST, ws->inter + m, T, ws, after, &part);
    }
}

/* Pair of strips after pair, rows after rows; what was multiplied becomes bytes while the next is multiplied. */
INLINE void inner_dense(const uint32_t what, const Linear *up, uint32_t rows, Workspace *ws, const Inner *in)
{
    const uint32_t N = up->outputs;
    for (uint32_t m0 = 0, some; m0 < rows; m0 += some) {
        some = shape_for(rows, m0);
        const uint32_t blocks = (some + ABREAST - 1) / ABREAST, pairs = (N / STRIP + 1) / 2, high = least(some, ABREAST);
        for (uint32_t i = 0; i <= pairs * blocks; i++) {
            int32_t *tile = ws->tile + i % 2 * ABREAST * 2 * STRIP;
            const uint32_t m = m0 + i % blocks * ABREAST;
            if (i < pairs * blocks)
                dense_pair(up, i / blocks * 2, high, ws->cq + (size_t)m * up->inputs, tile, 2 * STRIP);
            if (i > 0) {
                const uint32_t n = (i - 1) / blocks * 2 * STRIP, before = m0 + (i - 1) % blocks * ABREAST;
                Inner part = *in;
                part.step += before;
                part.shift += before;
                part.bytes += (size_t)before * N;
                inner_rows(what, &part, n, ws->tile + (i - 1) % 2 * ABREAST * 2 * STRIP, high, n + STRIP < N);
            }
        }
    }
}

#define INNER(what)                                                                                                    \
    static void after_##what(const void *sink, uint32_t s, const int32_t *sums, uint32_t rows)                         \
    {                                                                                                                  \
        inner_turned(what, sink, s, sums, rows);                                                                       \
    }                                                                                                                  \
    static void inner_##what(int sparse, const Linear *up, uint32_t rows, Workspace *ws, const Inner *in, size_t T)    \
    {                                                                                                                  \
        if (sparse)                                                                                                    \
            inner_strips(after_##what, up, rows, ws, in, T);                                                           \
        else                                                                                                           \
            inner_dense(what, up, rows, ws, in);                                                                       \
    }
INNER(ACTIVATION_GELU)
INNER(ACTIVATION_GELU_TANH)
INNER(ACTIVATION_RELU)

/* Sums of `down` from the bytes of `up`, as product, activation and product give them; 0 where that is left to them. */
static int up_and_down(uint32_t what, Workspace *ws, const Linear *up, uint32_t rows, const Linear *down)
{
    const int format = best_format(up, rows), sparse = format == FORMAT_STRIPS;
    if (down->step == 0 || up->inputs == 0 || up->outputs == 0 || best_format(down, rows) != format ||
        (!sparse && format != FORMAT_DENSE))
        return 0;
    const size_t T = lanes_of(format, rows);
    const Inner in = {.l = up, .step = ws->cstep, .shift = ws->cshift, .inverse = f_set(1.0f / down->step),
                      .zero = f_set(down->zero), .bytes = (uint8_t *)ws->inner, .words = ws->inner, .T = T};
    if (sparse) {
        interleave(ws->cq, up->inputs, rows, T, ws->inter);
        shape_tiles(TILE, TILE);
    }
    tiles_read(ws->cq);
    switch (what) {
    case ACTIVATION_GELU: inner_ACTIVATION_GELU(sparse, up, rows, ws, &in, T); break;
    case ACTIVATION_GELU_TANH: inner_ACTIVATION_GELU_TANH(sparse, up, rows, ws, &in, T); break;
    default: inner_ACTIVATION_RELU(sparse, up, rows, ws, &in, T); break;
    }
    _tile_release();
    for (uint32_t i = 0; i < rows; i++) {
        ws->cstep[i] = down->step;
        ws->cshift[i] = down->step * down->zero;
    }
    if (sparse)
        strips(down, rows, ws->inner, T, ws);
    else
        dense(down, rows, (const uint8_t *)ws->inner, ws->sums);
    return 1;
}
