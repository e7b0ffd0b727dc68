/* Sixteen floats side by side. */
#include <immintrin.h>

#define LANES 16
typedef __m512 F;
typedef __m512i I;

INLINE F f_set(float a) { return _mm512_set1_ps(a); }
INLINE F f_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void f_store(float *p, F a) { _mm512_storeu_ps(p, a); }
INLINE F f_add(F a, F b) { return a + b; }
INLINE F f_sub(F a, F b) { return a - b; }
INLINE F f_mul(F a, F b) { return a * b; }
INLINE F f_div(F a, F b) { return a / b; }
INLINE F f_min(F a, F b) { return _mm512_min_ps(a, b); }
INLINE F f_max(F a, F b) { return _mm512_max_ps(a, b); }
INLINE F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F f_minus(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
INLINE float f_sum(F a) { return _mm512_reduce_add_ps(a); }
INLINE float f_highest(F a) { return _mm512_reduce_max_ps(a); }
INLINE float f_lowest(F a) { return _mm512_reduce_min_ps(a); }
INLINE F f_round(F a) { return _mm512_roundscale_ps(a, 8); }
INLINE F f_scale2(F a, F n) { return _mm512_scalef_ps(a, n); } /* a 2^n, n whole and above -126 */
INLINE F f_int(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
INLINE F f_word(const uint32_t *p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
INLINE F f_word_set(const uint32_t *p) { return _mm512_castsi512_ps(_mm512_set1_epi32((int)*p)); }
INLINE F f_bytes_in(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p))); }

/* LANES values, rounded to whole numbers and cut to 0..255 */
INLINE void f_bytes_out(uint8_t *p, F a)
{
    I whole = _mm512_max_epi32(_mm512_cvtps_epi32(a), _mm512_setzero_si512());
    _mm_storeu_si128((void *)p, _mm512_cvtusepi32_epi8(whole));
}

/* The same of 4 LANES values */
#define FOUR_OUT
INLINE void f_bytes_out4(uint8_t *p, F a, F b, F c, F d)
{
    const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    I low = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
    I high = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}

/* Words [LANES][LANES] turned over; strides in words. */
INLINE void transpose(const uint32_t *from, size_t from_stride, uint32_t *to, size_t to_stride)
{
    I r[16], t[16];
    UNROLL(16)
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_si512(from + i * from_stride);
    UNROLL(8)
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
        _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

#ifdef BF16
/* Two bf16 a word: the even element in the low half. */
#define ELEMENTS 2
INLINE F f_dot(F sum, F a, F b)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
INLINE void f_words_out(uint32_t *p, F low, F high) /* 2 LANES neighbours */
{
    _mm512_storeu_si512(p, (I)_mm512_cvtne2ps_pbh(high, low));
}
INLINE F f_pair(F even, F odd) /* word i holds (even[i], odd[i]) */
{
    const I half = _mm512_set1_epi32(0x8000), top = _mm512_set1_epi32((int)0xffff0000);
    I low = _mm512_srli_epi32(_mm512_add_epi32((I)even, half), 16);
    return (F)_mm512_or_si512(low, _mm512_and_si512(_mm512_add_epi32((I)odd, half), top));
}
#else
#define ELEMENTS 1
INLINE F f_dot(F sum, F a, F b) { return f_fma(a, b, sum); }
#endif
