/* Four bytes without sign times four with, summed into an int32: 8 such sums at once. */

#define VECTOR 32
#define SIX_ROWS
typedef __m256i V;
typedef __m256i Bytes;
typedef __m256i Weights;
enum { PARTS = 2, TILE_ROWS = 6, TILE_STRIPS = 1, STRIP_ROWS = 6 };

INLINE V v_zero(void) { return _mm256_setzero_si256(); }
INLINE void v_store(void *p, V a) { _mm256_storeu_si256(p, a); }
INLINE Bytes v_words(I words) { return words; }
INLINE void v_hide(Bytes *b) { __asm__("" : "+x"(*b)); } /* to a compiler other bytes than before */
INLINE Bytes v_bytes(const uint32_t *p) { return _mm256_set1_epi32((int)*p); }
INLINE Weights v_weights(const int8_t *p) { return _mm256_loadu_si256((const void *)p); }
INLINE Weights v_weight(const int8_t *p) { return _mm256_set1_epi32(*(const int32_t *)(const void *)p); }

/* In assembly for the reason that dot_avx512.h gives. */
INLINE V v_dot(V sum, Bytes bytes, Weights weights)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(weights));
    return sum;
}
