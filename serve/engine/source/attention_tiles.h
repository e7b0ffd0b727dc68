/* Attention of one text in tiles of bf16. Keys, and values turned over, are the rows of a product whose columns are 16
queries: weights come out key by key, as weigh.h wants them, and as pairs of keys they are columns again. */

#include "weigh.h"

enum { PAIRS = TILE }; /* of keys in a tile */

/* Tiles: 0 sums; 4 and 6 keys and queries, `words` wide; 5 and 7 values and weights */
static void shape_attention(uint32_t words)
{
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = (uint16_t)(i == 4 ? words * sizeof(uint32_t) : TILE_BYTES);
        shapes.rows[i] = (uint8_t)(i == 6 ? words : TILE);
    }
    tiles_read(&shapes);
    _tile_loadconfig(&shapes);
}

/* Tiles [size / 16][pairs of keys / 16] of words (v[2j][d], v[2j + 1][d]), d by d, with zeros past the last key */
static void turn_values(const uint32_t *v, size_t stride, uint32_t length, uint32_t size, uint32_t *tiles)
{
    uint32_t pairs[PAIRS * 16];
    for (uint32_t d = 0; d < size; d += 16)
        for (uint32_t j = 0; j < length; j += 2 * PAIRS, tiles += PAIRS * 16) {
            for (uint32_t p = 0; p < PAIRS; p++) {
                const uint32_t key = j + 2 * p;
                const __m256i *even = (const void *)(v + key * stride + d / 2);
                const __m256i *odd = (const void *)(v + (key + 1) * stride + d / 2);
                I word = _mm512_setzero_si512();
                if (key < length)
                    word = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even));
                if (key + 1 < length)
                    word = _mm512_or_si512(word, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(odd)), 16));
                _mm512_storeu_si512(pairs + p * 16, word);
            }
            transpose(pairs, 16, tiles, 16);
        }
}

/* scores[j][query] of LANES queries; what follows the last key is not to be looked at */
INLINE void score(const uint32_t *queries, const uint32_t *keys, size_t stride, uint32_t length, uint32_t words,
                  uint32_t step, float *scores)
{
    for (uint32_t j = 0; j < length; j += TILE) {
        _tile_zero(0);
        for (uint32_t w = 0; w < words; w += step) {
            _tile_loadd(4, keys + j * stride + w, stride * sizeof(uint32_t));
            _tile_loadd(6, queries + w * LANES, TILE_BYTES);
            _tile_dpbf16ps(0, 4, 6);
        }
        _tile_stored(0, scores + j * LANES, TILE_BYTES);
    }
}

/* 16 elements of the context of LANES queries, of which `count` are stored */
INLINE void gather(const float *scores, const uint32_t *values, uint32_t pairs, F inverse, uint32_t count,
                   float *context, size_t width)
{
    float turned[LANES * LANES];
    _tile_zero(0);
    for (uint32_t j = 0; j < pairs; j += PAIRS) {
        _tile_loadd(5, values + j * 16, TILE_BYTES);
        _tile_loadd(7, scores + j * LANES, TILE_BYTES);
        _tile_dpbf16ps(0, 5, 7);
    }
    _tile_stored(0, turned, TILE_BYTES);
    UNROLL(16)
    for (int i = 0; i < LANES; i++)
        f_store(turned + i * LANES, f_mul(f_load(turned + i * LANES), inverse));
    turn_back(turned, count, context, width);
}

/* Context of the first `asked` tokens of the text that lies in rows first .. first + length - 1. */
static void attend(const Model *m, uint32_t heads, Workspace *ws, uint32_t first, uint32_t length, uint32_t asked)
{
    const uint32_t size = m->head_size, width = heads * size, words = size / ELEMENTS;
    const uint32_t step = words % TILE ? TILE / 2 : TILE, pairs = (length + 2 * PAIRS - 1) / (2 * PAIRS) * PAIRS;
    const size_t stride = 3 * (size_t)width / ELEMENTS;
    shape_attention(step);
    for (uint32_t h = 0; h < heads; h++) {
        const uint32_t *q = ws->qkv + first * stride + h * words, *k = q + width / ELEMENTS, *v = k + width / ELEMENTS;
        turn_values(v, stride, length, size, ws->values);
        for (uint32_t q0 = 0; q0 < asked; q0 += LANES) {
            const uint32_t count = asked - q0 < LANES ? asked - q0 : LANES;
            for (uint32_t d = 0; d < words; d += LANES)
                transpose(q + q0 * stride + d, stride, ws->queries + d * LANES, LANES);
            tiles_read(ws->queries);
            score(ws->queries, k, stride, length, words, step, ws->scores);
            F highest = highest_of(ws->scores, length);
            F inverse = weigh(ws->scores, length, highest);
            for (uint32_t j = (length + 1) / 2; j < pairs; j++)
                f_store(ws->scores + j * LANES, f_set(0));
            tiles_read(ws->scores);
            for (uint32_t d = 0; d < size; d += LANES)
                gather(ws->scores, ws->values + d * pairs, pairs, inverse, count,
                       ws->context + (size_t)(first + q0) * width + h * size + d, width);
        }
    }
    _tile_release();
}
