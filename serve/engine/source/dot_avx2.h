/* The same sums without an instruction for them. vpmaddubsw would saturate int16 (255 * 127 * 2), so both factors are
widened first: vpmaddwd sums two exact products, of bytes 0 and 2 of each word, and of 1 and 3. */

#define VECTOR 32
typedef __m256i V;
typedef struct {
    I even, odd;
} Bytes;
typedef Bytes Weights;
enum { PARTS = 2, TILE_ROWS = 4, TILE_STRIPS = 1, STRIP_ROWS = 4 };

INLINE V v_zero(void) { return _mm256_setzero_si256(); }
INLINE void v_store(void *p, V a) { _mm256_storeu_si256(p, a); }

INLINE Bytes v_words(I words)
{
    return (Bytes){_mm256_and_si256(words, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(words, 8)};
}

INLINE Weights v_widened(I words)
{
    return (Weights){_mm256_srai_epi16(_mm256_slli_epi16(words, 8), 8), _mm256_srai_epi16(words, 8)};
}

/* to a compiler other bytes than before */
INLINE void v_hide(Bytes *b) { __asm__("" : "+x"(b->even), "+x"(b->odd)); }
INLINE Bytes v_bytes(const uint32_t *p) { return v_words(_mm256_set1_epi32((int)*p)); }
INLINE Weights v_weights(const int8_t *p) { return v_widened(_mm256_loadu_si256((const void *)p)); }
INLINE Weights v_weight(const int8_t *p) { return v_widened(_mm256_set1_epi32(*(const int32_t *)(const void *)p)); }

INLINE V v_dot(V sum, Bytes bytes, Weights weights)
{
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(bytes.even, weights.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(bytes.odd, weights.odd));
}
