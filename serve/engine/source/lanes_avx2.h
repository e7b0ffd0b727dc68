/* Eight floats side by side. */
#include <immintrin.h>

#define LANES 8
#define ELEMENTS 1
typedef __m256 F;
typedef __m256i I;

INLINE F f_set(float a) { return _mm256_set1_ps(a); }
INLINE F f_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void f_store(float *p, F a) { _mm256_storeu_ps(p, a); }
INLINE F f_add(F a, F b) { return a + b; }
INLINE F f_sub(F a, F b) { return a - b; }
INLINE F f_mul(F a, F b) { return a * b; }
INLINE F f_div(F a, F b) { return a / b; }
INLINE F f_min(F a, F b) { return _mm256_min_ps(a, b); }
INLINE F f_max(F a, F b) { return _mm256_max_ps(a, b); }
INLINE F f_fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
INLINE F f_minus(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
INLINE F f_round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE F f_int(const int32_t *p) { return _mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)p)); }
INLINE F f_word(const uint32_t *p) { return _mm256_castsi256_ps(_mm256_loadu_si256((const void *)p)); }
INLINE F f_word_set(const uint32_t *p) { return _mm256_castsi256_ps(_mm256_set1_epi32((int)*p)); }
INLINE F f_bytes_in(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p))); }
INLINE F f_dot(F sum, F a, F b) { return f_fma(a, b, sum); }

INLINE F f_scale2(F a, F n) /* a 2^n, n whole and above -126 */
{
    I exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}

INLINE float f_sum(F a)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

INLINE float f_highest(F a)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

INLINE float f_lowest(F a) { return -f_highest(_mm256_sub_ps(_mm256_setzero_ps(), a)); }

/* LANES values, rounded to whole numbers and cut to 0..255 */
INLINE void f_bytes_out(uint8_t *p, F a)
{
    I whole = _mm256_cvtps_epi32(a);
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((void *)p, _mm_packus_epi16(half, half));
}

/* Words [LANES][LANES] turned over; strides in words. */
INLINE void transpose(const uint32_t *from, size_t from_stride, uint32_t *to, size_t to_stride)
{
    F r[8], t[8];
    UNROLL(8)
    for (int i = 0; i < 8; i++)
        r[i] = f_word(from + i * from_stride);
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL(2)
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps((float *)(void *)(to + i * to_stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps((float *)(void *)(to + (i + 4) * to_stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
