/* Four floats side by side in plain C, which any compiler turns into something. */
#include <math.h>
#include <string.h>

#define LANES 4
#define ELEMENTS 1
typedef struct {
    float lane[LANES];
} F;

#define EACH for (int i = 0; i < LANES; i++)

INLINE F f_set(float a) { F r; EACH r.lane[i] = a; return r; }
INLINE F f_load(const float *p) { F r; EACH r.lane[i] = p[i]; return r; }
INLINE void f_store(float *p, F a) { EACH p[i] = a.lane[i]; }
INLINE F f_add(F a, F b) { EACH a.lane[i] += b.lane[i]; return a; }
INLINE F f_sub(F a, F b) { EACH a.lane[i] -= b.lane[i]; return a; }
INLINE F f_mul(F a, F b) { EACH a.lane[i] *= b.lane[i]; return a; }
INLINE F f_div(F a, F b) { EACH a.lane[i] /= b.lane[i]; return a; }
INLINE F f_min(F a, F b) { EACH a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
INLINE F f_max(F a, F b) { EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
INLINE F f_fma(F a, F b, F c) { EACH c.lane[i] = a.lane[i] * b.lane[i] + c.lane[i]; return c; }
INLINE F f_minus(F a, F b, F c) { EACH c.lane[i] = c.lane[i] - a.lane[i] * b.lane[i]; return c; } /* c - a b */
INLINE float f_sum(F a) { return (a.lane[0] + a.lane[2]) + (a.lane[1] + a.lane[3]); }
INLINE F f_int(const int32_t *p) { F r; EACH r.lane[i] = (float)p[i]; return r; }
INLINE F f_word(const uint32_t *p) { F r; memcpy(&r, p, sizeof r); return r; }
INLINE F f_bytes_in(const int8_t *p) { F r; EACH r.lane[i] = (float)p[i]; return r; }
INLINE F f_dot(F sum, F a, F b) { return f_fma(a, b, sum); }

INLINE F f_word_set(const uint32_t *p) { float a; memcpy(&a, p, sizeof a); return f_set(a); }

INLINE float f_highest(F a)
{
    float b = a.lane[0];
    EACH b = a.lane[i] > b ? a.lane[i] : b;
    return b;
}

INLINE float f_lowest(F a)
{
    float b = a.lane[0];
    EACH b = a.lane[i] < b ? a.lane[i] : b;
    return b;
}

/* To the nearest whole number, ties to even, of numbers below 2^22: what is added leaves no bits for a fraction. */
INLINE F f_round(F a)
{
    const float big = 12582912.0f;
    EACH a.lane[i] = (a.lane[i] + big) - big;
    return a;
}

INLINE F f_scale2(F a, F n) /* a 2^n, n whole and above -126 */
{
    EACH {
        uint32_t exponent = (uint32_t)((int32_t)n.lane[i] + 127) << 23;
        float power;
        memcpy(&power, &exponent, sizeof power);
        a.lane[i] *= power;
    }
    return a;
}

/* LANES values, rounded to whole numbers and cut to 0..255 */
INLINE void f_bytes_out(uint8_t *p, F a)
{
    a = f_round(f_min(f_max(a, f_set(0)), f_set(255)));
    EACH p[i] = (uint8_t)a.lane[i];
}

/* Words [LANES][LANES] turned over; strides in words. */
INLINE void transpose(const uint32_t *from, size_t from_stride, uint32_t *to, size_t to_stride)
{
    EACH for (int j = 0; j < LANES; j++)
        to[j * to_stride + i] = from[i * from_stride + j];
}
