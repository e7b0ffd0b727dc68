/* Attention of one text: queries lie side by side, so that nothing is summed across lanes. A word of `qkv` holds one
float, or two bf16 where the processor multiplies those. The scores come in powers of two: 1 / sqrt(head size) and
log2 e are in the weights of the queries. */

#include "weigh.h"

#if ELEMENTS == 2
/* Words (v[2j][d], v[2j + 1][d]), for a key without a partner (v, 0). */
static void pair_values(const uint32_t *v, size_t stride, uint32_t length, uint32_t size, uint32_t *pairs)
{
    for (uint32_t j = 0; j < length; j += 2, pairs += size)
        for (uint32_t d = 0; d < size; d += 16) {
            const __m256i *even = (const void *)(v + j * stride + d / 2);
            const __m256i *odd = (const void *)(v + (j + 1) * stride + d / 2);
            I word = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even));
            if (j + 1 < length)
                word = _mm512_or_si512(word, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(odd)), 16));
            _mm512_storeu_si512(pairs + d, word);
        }
}
#endif

/* scores[j][query] of LANES queries, and the highest of each query */
INLINE F score(const uint32_t *queries, const uint32_t *keys, size_t stride, uint32_t length, uint32_t words,
               float *scores)
{
    F highest = f_set(-3e38f);
    for (uint32_t j = 0; j < length; j += 4) { /* past the end the last key comes again */
        const uint32_t last = length - 1;
        const uint32_t *k0 = keys + j * stride, *k1 = keys + (j + 1 < last ? j + 1 : last) * stride;
        const uint32_t *k2 = keys + (j + 2 < last ? j + 2 : last) * stride;
        const uint32_t *k3 = keys + (j + 3 < last ? j + 3 : last) * stride;
        F a0 = f_set(0), a1 = a0, a2 = a0, a3 = a0;
        for (uint32_t d = 0; d < words; d += 8)
            UNROLL(8)
            for (uint32_t i = d; i < d + 8; i++) {
                F q = f_word(queries + i * LANES);
                a0 = f_dot(a0, q, f_word_set(k0 + i));
                a1 = f_dot(a1, q, f_word_set(k1 + i));
                a2 = f_dot(a2, q, f_word_set(k2 + i));
                a3 = f_dot(a3, q, f_word_set(k3 + i));
            }
        f_store(scores + j * LANES, a0);
        f_store(scores + (j + 1) * LANES, a1);
        f_store(scores + (j + 2) * LANES, a2);
        f_store(scores + (j + 3) * LANES, a3);
        highest = f_max(highest, f_max(f_max(a0, a1), f_max(a2, a3)));
    }
    return highest;
}

/* LANES elements of the context of LANES queries, of which `count` are stored */
INLINE void gather(const float *scores, const uint32_t *values, size_t stride, uint32_t steps, F inverse, uint32_t count,
                   float *context, size_t width)
{
    F a[LANES];
    float turned[LANES * LANES];
    UNROLL(16)
    for (int i = 0; i < LANES; i++)
        a[i] = f_set(0);
    for (uint32_t j = 0; j < steps; j++) {
        F p = f_load(scores + j * LANES);
        UNROLL(16)
        for (int i = 0; i < LANES; i++)
            a[i] = f_dot(a[i], p, f_word_set(values + j * stride + i));
    }
    UNROLL(16)
    for (int i = 0; i < LANES; i++)
        f_store(turned + i * LANES, f_mul(a[i], inverse));
    turn_back(turned, count, context, width);
}

/* Context of the first `asked` tokens of the text that lies in rows first .. first + length - 1. */
static void attend(const Model *m, uint32_t heads, Workspace *ws, uint32_t first, uint32_t length, uint32_t asked)
{
    const uint32_t size = m->head_size, width = heads * size, words = size / ELEMENTS;
    const size_t stride = 3 * (size_t)width / ELEMENTS;
    for (uint32_t h = 0; h < heads; h++) {
        const uint32_t *q = ws->qkv + first * stride + h * words, *k = q + width / ELEMENTS, *v = k + width / ELEMENTS;
#if ELEMENTS == 2
        pair_values(v, stride, length, size, ws->values);
        const uint32_t *values = ws->values, steps = (length + 1) / 2;
        const size_t step = size;
#else
        const uint32_t *values = v, steps = length;
        const size_t step = stride;
#endif
        for (uint32_t q0 = 0; q0 < asked; q0 += LANES) {
            const uint32_t count = asked - q0 < LANES ? asked - q0 : LANES;
            for (uint32_t d = 0; d < words; d += LANES)
                transpose(q + q0 * stride + d, stride, ws->queries + d * LANES, LANES);
            F highest = score(ws->queries, k, stride, length, words, ws->scores);
            F inverse = weigh(ws->scores, length, highest);
            for (uint32_t d = 0; d < size; d += LANES)
                gather(ws->scores, values + d, step, steps, inverse, count,
                       ws->context + (size_t)(first + q0) * width + h * size + d, width);
        }
    }
}
