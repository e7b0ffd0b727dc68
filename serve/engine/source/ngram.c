/* The functions of the n-gram student that the library shows: choose a path, answer texts (ngram_open.c opens a model). Nothing here
allocates once a workspace has met its longest text. */
#include "arena.h"
#include "compiler.h"
#include "ngram.h"

#include <stdlib.h>
#include <string.h>

enum { OK, NO_MEMORY, TOO_LONG, BAD_COUNT };

static const NgramPath *const PATHS[] = {
#if defined(__x86_64__)
    &bantam_ngram_avx512, &bantam_ngram_avx2,
#endif
    &bantam_ngram_plain,
};

static int runs(const NgramPath *path)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                     __builtin_cpu_supports("popcnt");
    if (path == &bantam_ngram_avx2)
        return avx2;
    if (path == &bantam_ngram_avx512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni"); /* with whose flags it is compiled, as the engine's path */
#endif
    return path == &bantam_ngram_plain;
}

SHOWN uint32_t bantam_ngram_abi(void) { return NGRAM_ABI; }

/* As bantam_path in engine.c. */
SHOWN const char *bantam_ngram_path(uint32_t index, uint32_t *possible)
{
    if (index >= sizeof PATHS / sizeof *PATHS)
        return NULL;
    *possible = (uint32_t)runs(PATHS[index]);
    return PATHS[index]->name;
}

#if defined(__x86_64__)
static uint64_t ticks(void) { return __builtin_ia32_rdtsc(); }
#else
#include <time.h>
static uint64_t ticks(void) { return (uint64_t)clock(); }
#endif

/* Buffers for blocks of texts of so many bytes. */
static size_t lay_out_block(NgramWorkspace *ws, void *memory, size_t bytes)
{
    const size_t letters = 4 * bytes + 128 * BLOCK_ENTRIES + 256, bits = letters / 64 + 4;
    const size_t most = 2 * ws->most_words, words = (bytes < most ? bytes : most > BLOCK_BYTES ? most : BLOCK_BYTES) + 256;
    Arena a = {.memory = memory, .beyond = LINE};
    ws->room = bytes;
    ws->letters = carve(&a, letters, 1);
    ws->inside = carve(&a, bits, sizeof(uint64_t));
    ws->first = carve(&a, bits, sizeof(uint64_t));
    ws->last = carve(&a, bits, sizeof(uint64_t));
    ws->apostrophes = carve(&a, bits, sizeof(uint64_t));
    ws->start = carve(&a, words, sizeof(uint32_t));
    ws->end = carve(&a, words, sizeof(uint32_t));
    ws->word = carve(&a, words, sizeof(uint64_t));
    ws->gram = carve(&a, words * ws->orders, sizeof(uint64_t));
    ws->slot = carve(&a, words * ws->orders, sizeof(uint32_t));
    return a.used;
}

static int make_room(NgramWorkspace *ws, size_t bytes)
{
    if (bytes <= ws->room)
        return 1;
    free(ws->memory);
    ws->room = 0;
    ws->memory = aligned_memory(lay_out_block(ws, NULL, bytes));
    lay_out_block(ws, ws->memory, ws->memory ? bytes : 0);
    return ws->memory != NULL;
}

static size_t lay_out_floats(NgramWorkspace *ws, const NgramModel *m)
{
    Arena a = {.memory = ws->fixed, .beyond = LINE};
    const size_t texts = BLOCK_ENTRIES + TILE;
    ws->features = carve(&a, texts * m->dense.inputs, sizeof(float));
    ws->hidden = carve(&a, texts * m->dense.stride, sizeof(float));
    ws->logits = carve(&a, texts * m->out.stride, sizeof(float));
    ws->mean = carve(&a, 2 * m->given.width, sizeof(float));
    ws->sum = carve(&a, m->given.width, sizeof(int32_t));
    return a.used;
}

SHOWN void bantam_ngram_free(NgramWorkspace *ws)
{
    if (!ws)
        return;
    free(ws->memory);
    free(ws->fixed);
    free(ws);
}

/* For one thread at a time. Without a model it serves bantam_ngram_words only. */
SHOWN NgramWorkspace *bantam_ngram_workspace(const NgramModel *m, uint32_t timed)
{
    NgramWorkspace *ws = calloc(1, sizeof *ws);
    if (!ws)
        return NULL;
    ws->timed = timed != 0;
    ws->orders = m ? m->given.orders : 0;
    ws->most_words = m ? m->given.most_words : LARGEST_ENTRY;
    int made = make_room(ws, BLOCK_BYTES);
    if (made && m) {
        const size_t size = lay_out_floats(ws, m);
        ws->fixed = aligned_memory(size);
        made = ws->fixed != NULL;
        if (made) {
            memset(ws->fixed, 0, size);
            lay_out_floats(ws, m);
        }
    }
    if (made)
        return ws;
    bantam_ngram_free(ws);
    return NULL;
}

SHOWN void bantam_ngram_times(NgramWorkspace *ws, uint64_t *times)
{
    memcpy(times, ws->time, sizeof ws->time);
    memset(ws->time, 0, sizeof ws->time);
}

/* Texts one behind the other, with the byte `between` between them, which they do not hold. */
typedef struct {
    const uint8_t *at, *limit;
    uint64_t left; /* texts */
    int between;
} Texts;

/* The end of the text at `at`; NULL where there should be another behind it and is not. */
static const uint8_t *end_of(const Texts *t, const uint8_t *at, uint64_t left)
{
    const uint8_t *found = at < t->limit ? memchr(at, t->between, (size_t)(t->limit - at)) : NULL;
    return (found == NULL) == (left == 1) ? (found ? found : t->limit) : NULL;
}

/* Takes texts into the block until it is full, each of `inputs` entries. */
static int fill(const Characters *c, const NgramPath *path, NgramWorkspace *ws, Texts *t, uint32_t inputs, uint64_t most)
{
    size_t taken = 0;
    ws->entries = ws->words = 0;
    ws->at = 0;
    while (t->left && ws->entries + inputs <= BLOCK_ENTRIES) {
        const uint8_t *end[2] = {t->at, t->at};
        for (uint32_t i = 0; i < inputs; i++)
            if ((end[i] = end_of(t, i ? end[0] + 1 : t->at, t->left - i)) == NULL)
                return BAD_COUNT;
        const size_t bytes = (size_t)(end[inputs - 1] - t->at);
        if (bytes > LARGEST_ENTRY)
            return TOO_LONG;
        if (taken && taken + bytes > BLOCK_BYTES)
            break;
        if (!taken && !make_room(ws, bytes))
            return NO_MEMORY;
        taken += bytes ? bytes : 1;
        for (uint32_t i = 0; i < inputs; i++, ws->entries++) {
            const uint8_t *at = i ? end[0] + 1 : t->at;
            ws->cut[ws->entries] = (uint8_t)path->split(c, ws, at, (size_t)(end[i] - at), most);
            ws->word_end[ws->entries] = ws->words;
        }
        t->left -= inputs;
        t->at = end[inputs - 1] + (t->left != 0);
    }
    path->keys(ws);
    return OK;
}

static void spent(NgramWorkspace *ws, int what, uint64_t *since)
{
    if (!ws->timed)
        return;
    const uint64_t now = ticks();
    ws->time[what] += now - *since;
    *since = now;
}

/* `data` are `texts` of the model's `inputs` entries each. logits [texts][classes], words [texts] that were read,
truncated [texts]. 0, or what is wrong. */
SHOWN int bantam_ngram_run(const NgramModel *m, uint32_t path, NgramWorkspace *ws, const uint8_t *data, size_t size,
                           int between, uint64_t texts, float *logits, int64_t *words, uint8_t *truncated)
{
    const uint32_t inputs = (uint32_t)m->given.inputs;
    const NgramPath *p = PATHS[path];
    Texts t = {data, data + size, texts * inputs, between};
    uint64_t now = ws->timed ? ticks() : 0;
    while (t.left) {
        const int wrong = fill(&m->characters, p, ws, &t, inputs, m->given.most_words);
        if (wrong)
            return wrong;
        spent(ws, TIME_SPLIT, &now);
        p->find(m, ws);
        spent(ws, TIME_LOOKUP, &now);
        p->rows(m, ws);
        spent(ws, TIME_ROWS, &now);
        p->layers(m, ws);
        for (uint32_t i = 0; i < ws->entries; i += inputs, words++, truncated++, logits += m->out.outputs) {
            *words = ws->word_end[i + inputs - 1] - (i ? ws->word_end[i - 1] : 0);
            *truncated = ws->cut[i] | ws->cut[i + inputs - 1];
            memcpy(logits, ws->logits + (size_t)(i / inputs) * m->out.stride, m->out.outputs * sizeof *logits);
        }
        spent(ws, TIME_LAYERS, &now);
    }
    return OK;
}

/* The slots of each entry's kept n-grams, and where they end in `slots` [orders * (size + 1)]. */
SHOWN int bantam_ngram_slots(const NgramModel *m, uint32_t path, NgramWorkspace *ws, const uint8_t *data, size_t size,
                             int between, uint64_t texts, int64_t *slots, int64_t *ends)
{
    Texts t = {data, data + size, texts, between};
    int64_t count = 0;
    while (t.left) {
        const int wrong = fill(&m->characters, PATHS[path], ws, &t, 1, m->given.most_words);
        if (wrong)
            return wrong;
        PATHS[path]->find(m, ws);
        for (uint32_t i = 0; i < ws->entries; i++)
            *ends++ = count + ws->hit_end[i];
        for (uint32_t i = 0; i < ws->hits; i++)
            slots[count++] = ws->slot[i];
    }
    return OK;
}

/* The keys of each entry's first `most` words by a table of characters, and where they end in `keys` [size + 1]. */
SHOWN int bantam_ngram_words(const uint16_t *index, const int32_t *pages, uint64_t pages_count, uint32_t path,
                             NgramWorkspace *ws, const uint8_t *data, size_t size, int between, uint64_t texts,
                             uint64_t most, uint64_t *keys, int64_t *ends)
{
    Characters c;
    Texts t = {data, data + size, texts, between};
    int64_t count = 0;
    if (!bantam_ngram_characters(&c, index, pages, pages_count))
        return BAD_COUNT;
    while (t.left) {
        const int wrong = fill(&c, PATHS[path], ws, &t, 1, most);
        if (wrong)
            return wrong;
        for (uint32_t i = 0; i < ws->entries; i++)
            *ends++ = count + ws->word_end[i];
        memcpy(keys + count, ws->word, ws->words * sizeof *keys);
        count += ws->words;
    }
    return OK;
}
