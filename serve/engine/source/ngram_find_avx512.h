/* The stages of ngram_find.h, 8 or 16 keys at a time. */

INLINE __mmask8 first_of_8(size_t count) { return count >= 8 ? 0xff : (__mmask8)((1u << count) - 1); }
INLINE __mmask16 first_of_16(size_t count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

static void keys(NgramWorkspace *ws)
{
    const __m512i all = _mm512_set1_epi64(-1), eight = _mm512_set1_epi64(8);
    for (uint32_t i = 0; i < ws->words; i += 8) {
        const __mmask8 lanes = first_of_8(ws->words - i);
        const __m256i begin = _mm256_loadu_si256((const void *)(ws->start + i));
        const __m256i end = _mm256_loadu_si256((const void *)(ws->end + i));
        __m512i at = _mm512_maskz_cvtepu32_epi64(lanes, begin);
        __m512i bytes = _mm512_maskz_cvtepu32_epi64(lanes, _mm256_sub_epi32(end, begin));
        __m512i key = _mm512_mullo_epi64(bytes, _mm512_set1_epi64((long long)LENGTH));
        for (__mmask8 left = lanes; left; left = _mm512_test_epi64_mask(bytes, bytes)) {
            const __m512i taken = _mm512_min_epu64(bytes, eight);
            const __m512i keep = _mm512_srlv_epi64(all, _mm512_slli_epi64(_mm512_sub_epi64(eight, taken), 3));
            __m512i chunk = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), left, at, ws->letters, 1);
            chunk = _mm512_xor_si512(key, _mm512_and_si512(chunk, keep));
            chunk = _mm512_mullo_epi64(chunk, _mm512_set1_epi64((long long)CHUNK));
            key = _mm512_mask_xor_epi64(key, left, chunk, _mm512_srli_epi64(chunk, 32));
            bytes = _mm512_sub_epi64(bytes, taken);
            at = _mm512_add_epi64(at, taken);
        }
        key = _mm512_max_epu64(key, _mm512_set1_epi64(1));
        _mm512_storeu_si512(ws->word + i, key);
    }
}

/* Where keys would lie, and their tags in the upper 8 bits. Reads 2 bytes beyond a displacement. */
INLINE __m256i places(const Given *g, __m512i key, __mmask8 lanes)
{
    const __m512i mixed = _mm512_mullo_epi64(key, _mm512_set1_epi64((long long)g->bucket_multiplier));
    const __m512i hash = _mm512_mullo_epi64(key, _mm512_set1_epi64((long long)g->slot_multiplier));
    const __m512i bucket = _mm512_srl_epi64(mixed, _mm_cvtsi64_si128((long long)(64 - g->bucket_bits)));
    const __m256i near = _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), lanes, bucket, g->displacement, 2);
    const __m512i moved = _mm512_and_si512(_mm512_cvtepu32_epi64(near), _mm512_set1_epi64(0xffff));
    const __m512i start = _mm512_srl_epi64(hash, _mm_cvtsi64_si128((long long)(64 - g->slot_bits)));
    const __m512i step = _mm512_and_si512(_mm512_srli_epi64(hash, 20), _mm512_set1_epi64(0xfffff));
    const __m512i far = _mm512_mul_epu32(moved, _mm512_or_si512(step, _mm512_set1_epi64(1)));
    const __m512i mask = _mm512_set1_epi64((1LL << g->slot_bits) - 1);
    const __m512i slot = _mm512_and_si512(_mm512_add_epi64(start, far), mask);
    const __m512i tag = _mm512_and_si512(_mm512_srli_epi64(mixed, 16), _mm512_set1_epi64(0xff000000));
    return _mm512_cvtepi64_epi32(_mm512_or_si512(slot, tag));
}

static size_t grams(const Given *g, const uint64_t *word, uint32_t words, uint64_t *gram, uint32_t *slot)
{
    size_t base[MOST_ORDERS], count = 0;
    for (uint32_t order = 0; order < g->orders; count += order < words ? words - order : 0, order++)
        base[order] = count;
    for (uint32_t t = 0; t < words; t += 8) {
        __m512i key = _mm512_loadu_si512(word + t);
        for (uint32_t order = 0; order < g->orders && t + order < words; order++) {
            const __mmask8 lanes = first_of_8(words - order - t);
            if (order) {
                key = _mm512_mullo_epi64(key, _mm512_set1_epi64((long long)NEXT));
                key = _mm512_add_epi64(key, _mm512_loadu_si512(word + t + order));
            }
            _mm512_mask_storeu_epi64(gram + base[order] + t, lanes, key);
            _mm256_mask_storeu_epi32(slot + base[order] + t, lanes, places(g, key, lanes));
        }
    }
    return count;
}

static size_t tagged(const Given *g, uint64_t *gram, uint32_t *slot, size_t count, uint64_t *gram_to, uint32_t *slot_to)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i += 16) {
        const __m512i place = _mm512_loadu_si512(slot + i), low = _mm512_loadu_si512(gram + i);
        const __m512i high = _mm512_loadu_si512(gram + i + 8);
        const __m512i at = _mm512_and_si512(place, _mm512_set1_epi32(SLOT));
        const __mmask16 lanes = first_of_16(count - i);
        __m512i tag = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), lanes, at, g->tags, 1);
        tag = _mm512_and_si512(tag, _mm512_set1_epi32(0xff));
        const __mmask16 right = _mm512_mask_cmpeq_epi32_mask(lanes, tag, _mm512_srli_epi32(place, 24));
        const size_t of_low = (size_t)__builtin_popcount(right & 0xff), of_all = (size_t)__builtin_popcount(right);
        const __m512i kept_low = _mm512_maskz_compress_epi64((__mmask8)right, low);
        const __m512i kept_high = _mm512_maskz_compress_epi64((__mmask8)(right >> 8), high);
        _mm512_mask_storeu_epi32(slot_to + kept, first_of_16(of_all), _mm512_maskz_compress_epi32(right, at));
        _mm512_mask_storeu_epi64(gram_to + kept, first_of_8(of_low), kept_low);
        _mm512_mask_storeu_epi64(gram_to + kept + of_low, first_of_8(of_all - of_low), kept_high);
        kept += of_all;
    }
    return kept;
}

static size_t matching(const Given *g, const uint64_t *gram, const uint32_t *slot, size_t count, uint32_t *slot_to)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i += 8) {
        const __mmask8 lanes = first_of_8(count - i);
        const __m256i at = _mm256_loadu_si256((const void *)(slot + i));
        const __m512i wanted = _mm512_maskz_loadu_epi64(lanes, gram + i);
        const __m512i found = _mm512_mask_i32gather_epi64(_mm512_setzero_si512(), lanes, at, g->keys, 8);
        const __mmask8 right = _mm512_mask_cmpeq_epi64_mask(_mm512_test_epi64_mask(wanted, wanted), wanted, found);
        const size_t more = (size_t)__builtin_popcount(right);
        _mm256_mask_storeu_epi32(slot_to + kept, first_of_8(more), _mm256_maskz_compress_epi32(right, at));
        kept += more;
    }
    return kept;
}
