/* Words to the slots of their kept n-grams: serve/ngram/keys.py and lookup.py. */

static const uint64_t LENGTH = 0x9E3779B97F4A7C15ULL, CHUNK = 0xD6E8FEB86659FD93ULL, NEXT = 0xA0761D6478BD642FULL;

INLINE uint64_t eight(const uint8_t *from)
{
    uint64_t chunk;
    memcpy(&chunk, from, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    chunk = __builtin_bswap64(chunk);
#endif
    return chunk;
}

/* Of `bytes` letters; reads up to 8 beyond the last whole eight. */
INLINE uint64_t word_key(const uint8_t *letters, uint32_t bytes)
{
    uint64_t key = bytes * LENGTH;
    for (; bytes >= 8; bytes -= 8, letters += 8) {
        key = (key ^ eight(letters)) * CHUNK;
        key ^= key >> 32;
    }
    if (bytes) {
        key = (key ^ (eight(letters) & ((1ULL << 8 * bytes) - 1))) * CHUNK;
        key ^= key >> 32;
    }
    return key ? key : 1;
}

#ifdef VECTORS_OF_KEYS
#include VECTORS_OF_KEYS
#else

static void keys(NgramWorkspace *ws)
{
    for (uint32_t i = 0; i < ws->words; i++)
        ws->word[i] = word_key(ws->letters + ws->start[i], ws->end[i] - ws->start[i]);
}

/* Where a key would lie, and its tag in the upper 8 bits. */
INLINE uint32_t place(const Given *g, uint64_t key)
{
    const uint64_t mixed = key * g->bucket_multiplier, hash = key * g->slot_multiplier;
    const uint64_t moved = g->displacement[mixed >> 1 >> (63 - g->bucket_bits)];
    const uint64_t slot = (hash >> 1 >> (63 - g->slot_bits)) + moved * ((hash >> 20 & 0xfffff) | 1);
    return (uint32_t)(slot & ((1u << g->slot_bits) - 1)) | (uint32_t)(mixed >> 40 & 0xff) << 24;
}

/* The n-grams of an entry, whose words begin at `word`; returns how many there are. */
static size_t grams(const Given *g, const uint64_t *word, uint32_t words, uint64_t *gram, uint32_t *slot)
{
    size_t count = 0;
    const uint64_t *before = gram;
    for (uint32_t order = 0; order < g->orders && order < words; order++) {
        uint64_t *const these = gram + count;
        for (uint32_t t = 0; t < words - order; t++) {
            const uint64_t key = order ? before[t] * NEXT + word[t + order] : word[t];
            gram[count] = key;
            slot[count++] = place(g, key);
        }
        before = these;
    }
    return count;
}

/* Of `count` n-grams those whose tag is right, in place; returns how many they are. */
static size_t tagged(const Given *g, uint64_t *gram, uint32_t *slot, size_t count, uint64_t *gram_to, uint32_t *slot_to)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        const uint32_t found = slot[i];
        slot_to[kept] = found & SLOT;
        gram_to[kept] = gram[i];
        kept += g->tags[found & SLOT] == found >> 24;
    }
    return kept;
}

/* Of those the ones whose key is right. */
static size_t matching(const Given *g, const uint64_t *gram, const uint32_t *slot, size_t count, uint32_t *slot_to)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        slot_to[kept] = slot[i];
        kept += g->keys[slot[i]] == gram[i] && gram[i] != 0;
    }
    return kept;
}

#endif

static void find(const NgramModel *m, NgramWorkspace *ws)
{
    const Given *g = &m->given;
    size_t ends[BLOCK_ENTRIES], end = 0, kept = 0;
    for (uint32_t e = 0, from = 0; e < ws->entries; from = ws->word_end[e++])
        ends[e] = end += grams(g, ws->word + from, ws->word_end[e] - from, ws->gram + end, ws->slot + end);
    for (size_t i = 0; i < end; i++)
        __builtin_prefetch(&g->tags[ws->slot[i] & SLOT]);
    for (uint32_t e = 0, from = 0; e < ws->entries; e++) {
        const size_t count = ends[e] - from, before = kept;
        kept += tagged(g, ws->gram + from, ws->slot + from, count, ws->gram + kept, ws->slot + kept);
        for (size_t i = before; i < kept; i++)
            __builtin_prefetch(&g->keys[ws->slot[i]]);
        from = (uint32_t)ends[e];
        ends[e] = kept;
    }
    ws->hits = 0;
    for (uint32_t e = 0, from = 0; e < ws->entries; from = (uint32_t)ends[e++]) {
        const uint32_t before = ws->hits;
        ws->hits += (uint32_t)matching(g, ws->gram + from, ws->slot + from, ends[e] - from, ws->slot + before);
        ws->hit_end[e] = ws->hits;
        for (size_t i = before; i < ws->hits; i++)
            for (size_t d = 0; d < g->width; d += 64)
                __builtin_prefetch(&g->rows[ws->slot[i] * g->width + d]);
    }
}
