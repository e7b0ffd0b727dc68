/* Four bytes without sign times four with, summed into an int32: 16 such sums at once. */

#define VECTOR 64
typedef __m512i V;
typedef __m512i Bytes;
typedef __m512i Weights;
enum { PARTS = 1, TILE_ROWS = 6, TILE_STRIPS = 4, STRIP_ROWS = 24 };

INLINE V v_zero(void) { return _mm512_setzero_si512(); }
INLINE void v_store(void *p, V a) { _mm512_storeu_si512(p, a); }
INLINE void v_hide(Bytes *b) { __asm__("" : "+v"(*b)); } /* to a compiler other bytes than before */
INLINE Bytes v_bytes(const uint32_t *p) { return _mm512_set1_epi32((int)*p); }
INLINE Weights v_weights(const int8_t *p) { return _mm512_loadu_si512(p); }
INLINE Weights v_weight(const int8_t *p) { return _mm512_set1_epi32(*(const int32_t *)(const void *)p); }

/* gcc 12 copies two registers for each _mm512_dpbusd_epi32 of an unrolled loop, which halves the speed. */
INLINE V v_dot(V sum, Bytes bytes, Weights weights)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));
    return sum;
}
