/* N-grams on x86-64 with 512-bit registers. Flags: -mavx512f -mavx512bw -mavx512vl -mavx512dq -mbmi -mbmi2 -mpopcnt */
#include "ngram_common.h"

#include <immintrin.h>

/* Bytes in `first` .. `first` + `count` - 1, as unsigned numbers. */
INLINE uint64_t within(__m512i bytes, char first, char count)
{
    return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8(first)), _mm512_set1_epi8(count));
}

INLINE uint64_t equal(__m512i bytes, char to) { return _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(to)); }

static void mark(const Characters *c, const uint8_t *text, unsigned count, uint8_t *letters, Marks *m)
{
    if (!c->usual) {
        mark_each(c, text, count, letters, m);
        return;
    }
    const __m512i bytes = _mm512_maskz_loadu_epi8(~0ULL >> (64 - count), text);
    const __m512i small = _mm512_or_si512(bytes, _mm512_set1_epi8(32));
    const uint64_t letter = within(small, 'a', 26);
    _mm512_storeu_si512(letters, _mm512_mask_mov_epi8(bytes, letter, small));
    m->inside = letter | within(bytes, '0', 10) | equal(bytes, '_');
    m->first = m->last = equal(bytes, '!') | equal(bytes, '?');
    m->apostrophes = equal(bytes, '\'');
    m->foreign = _mm512_movepi8_mask(bytes);
}

static size_t positions(uint64_t bits, uint32_t base, uint32_t *to)
{
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t count = 0;
    for (uint32_t at = 0; at < 64; at += 16) {
        const __mmask16 part = (__mmask16)(bits >> at);
        const __m512i found = _mm512_add_epi32(first, _mm512_set1_epi32((int)(base + at)));
        _mm512_storeu_si512(to + count, _mm512_maskz_compress_epi32(part, found));
        count += (size_t)__builtin_popcount(part);
    }
    return count;
}

#define VECTORS_OF_KEYS "ngram_find_avx512.h"
#define VECTOR 64
#define VECTORS 4
#define PATH bantam_ngram_avx512
#define PATH_NAME "avx512"
#include "ngram_path.h"
