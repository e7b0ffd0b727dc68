/* N-grams on x86-64 with 256-bit registers. Flags: -mavx2 -mbmi -mbmi2 -mpopcnt */
#include "ngram_common.h"

#include <immintrin.h>

INLINE uint64_t bits_of(__m256i low, __m256i high)
{
    return (uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32;
}

/* Bytes in `first` .. `first` + `count` - 1, as unsigned numbers. */
INLINE __m256i within(__m256i bytes, char first, char count)
{
    const __m256i from = _mm256_sub_epi8(bytes, _mm256_set1_epi8(first));
    return _mm256_cmpeq_epi8(_mm256_min_epu8(from, _mm256_set1_epi8(count - 1)), from);
}

INLINE __m256i equal(__m256i bytes, char to) { return _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(to)); }

/* Bytes in `first` .. `first` + `count` - 1, as unsigned numbers. */
INLINE __m256i letters_of(__m256i bytes, uint8_t *letters)
{
    const __m256i small = _mm256_or_si256(bytes, _mm256_set1_epi8(32)), letter = within(small, 'a', 26);
    _mm256_storeu_si256((void *)letters, _mm256_blendv_epi8(bytes, small, letter));
    return _mm256_or_si256(_mm256_or_si256(letter, within(bytes, '0', 10)), equal(bytes, '_'));
}

INLINE __m256i alone(__m256i bytes) { return _mm256_or_si256(equal(bytes, '!'), equal(bytes, '?')); }

static void mark(const Characters *c, const uint8_t *text, unsigned count, uint8_t *letters, Marks *m)
{
    uint8_t padded[64] = {0};
    if (!c->usual) {
        mark_each(c, text, count, letters, m);
        return;
    }
    if (count < 64)
        text = memcpy(padded, text, count);
    const __m256i low = _mm256_loadu_si256((const void *)text), high = _mm256_loadu_si256((const void *)(text + 32));
    m->inside = bits_of(letters_of(low, letters), letters_of(high, letters + 32));
    m->first = m->last = bits_of(alone(low), alone(high));
    m->apostrophes = bits_of(equal(low, '\''), equal(high, '\''));
    m->foreign = bits_of(low, high);
}

#define positions each_position
#define VECTOR 32
#define VECTORS 2
#define PATH bantam_ngram_avx2
#define PATH_NAME "avx2"
#include "ngram_path.h"
