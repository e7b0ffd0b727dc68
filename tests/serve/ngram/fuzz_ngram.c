/* Random models and random bytes: whatever a text and the tables hold, only what was given is read and written, and
every path of this processor gives the same. Built with the address and undefined-behaviour sanitizers by
test_native.py.  fuzz_ngram SEED ROUNDS */
#include "ngram.c"
#include "draw.h"

#include <stdio.h>

enum { PAGES = 4352, FEW_PAGES = 3, MOST_TEXTS = 90 };

static void check(int holds)
{
    if (!holds)
        abort();
}

/* Of its very size, so that a byte beyond it is seen. */
static void *bytes_of(size_t size)
{
    uint8_t *made = malloc(size ? size : 1);
    for (size_t i = 0; i < size; i++)
        made[i] = (uint8_t)draw(256);
    return made;
}

static float *floats(size_t count)
{
    float *made = malloc(count * sizeof *made);
    for (size_t i = 0; i < count; i++)
        made[i] = (float)draw(2001) / 1000.0f - 1.0f;
    return made;
}

/* Words, marks and endings, characters of every length, some cut short or no UTF-8 at all. */
static size_t letters(uint8_t *to, size_t room)
{
    static const char *const LIKELY[] = {"a", "n't", "'s", " ", "the ", "!", "'", "n", "t", "'ll", "É", "日", "😀", "B",
                                         "\xe2\x80\x99", "\xcc\x81", "Z9_", "averylongword", "re "};
    size_t size = 0;
    while (size < room && draw(200)) {
        const char *next = LIKELY[draw(sizeof LIKELY / sizeof *LIKELY)];
        size_t length = strlen(next), times = draw(60) ? 1 : draw(300);
        for (; times && size + length <= room; times--, size += length)
            memcpy(to + size, next, length);
        if (size < room && !draw(12))
            to[size++] = (uint8_t)(1 + draw(254));
        if (draw(40) == 0)
            break;
    }
    return size;
}

static void usual(int32_t *page)
{
    for (int32_t i = 0; i < 128; i++) {
        const int upper = i >= 'A' && i <= 'Z', lower = i >= 'a' && i <= 'z', digit = i >= '0' && i <= '9';
        page[i] = upper || lower || digit || i == '_' ? LETTER << 24 | (upper ? i + 32 : i)
                  : i == '!' || i == '?'             ? ALONE << 24 | i
                                                     : (i == '\'' ? APOSTROPHE : SEPARATOR) << 24;
    }
}

/* Kinds that there are, mostly, and code points that there are, mostly. */
static int32_t *pages_of(void)
{
    int32_t *made = bytes_of(FEW_PAGES * 256 * sizeof *made);
    for (int i = 0; i < FEW_PAGES * 256; i++)
        if (draw(20))
            made[i] = (int32_t)(draw(5) << 24 | draw(draw(2) ? 300 : 0x110000));
    if (draw(3))
        usual(made);
    return made;
}

static Given model(void)
{
    const uint64_t bits = 4 + draw(5), slots = 1u << bits, orders = 1 + draw(4), inputs = 1 + draw(2);
    const uint64_t width = 16 * (1 + draw(draw(10) ? 6 : 64)), hidden = 1 + draw(70), classes = 1 + draw(20);
    uint16_t *index = calloc(PAGES, sizeof *index);
    for (int i = 1; i < PAGES; i++)
        index[i] = (uint16_t)draw(FEW_PAGES);
    return (Given){
        bytes_of((slots + 1) * width), floats(width), bytes_of(8 * slots), bytes_of(slots), bytes_of(slots / 4 * 2),
        index, pages_of(), floats(hidden * width * (inputs == 2 ? 4 : 1)), floats(hidden), floats(classes * hidden),
        floats(classes), FEW_PAGES, width, hidden, classes, bits, bits - 2, orders, inputs, draw(2),
        1 + draw(draw(3) ? 600 : 5), draw(1u << 30) * 8589934593ULL | 1, draw(1u << 30) * 8589934593ULL | 1,
    };
}

/* Puts a key where it is looked for. */
static void know(const Given *g, uint64_t key)
{
    const uint64_t mixed = key * g->bucket_multiplier, hash = key * g->slot_multiplier;
    const uint64_t far = g->displacement[mixed >> (64 - g->bucket_bits)] * ((hash >> 20 & 0xfffff) | 1);
    const uint64_t slot = ((hash >> (64 - g->slot_bits)) + far) & ((1u << g->slot_bits) - 1);
    ((uint64_t *)(uintptr_t)g->keys)[slot] = key;
    ((uint8_t *)(uintptr_t)g->tags)[slot] = (uint8_t)(mixed >> 40);
}

typedef struct {
    uint8_t *data;
    size_t size;
    uint64_t texts; /* entries */
    int between;
} Batch;

static Batch batch(uint32_t inputs)
{
    Batch b = {.texts = inputs * draw(MOST_TEXTS / 2), .between = draw(2) ? 0 : 0xff};
    uint8_t room[8192 + MOST_TEXTS];
    for (uint64_t i = 0; i < b.texts; i++) {
        if (b.size < 8192)
            b.size += letters(room + b.size, 8192 - b.size);
        if (i + 1 < b.texts)
            room[b.size++] = (uint8_t)b.between;
    }
    b.data = malloc(b.size ? b.size : 1);
    memcpy(b.data, room, b.size);
    if (!draw(20)) /* more than there are */
        b.texts += inputs;
    else if (b.texts && !draw(20))
        b.texts -= inputs;
    return b;
}

/* What a path gives, in memory of its very size. */
typedef struct {
    size_t size[7];
    void *part[7];
    int wrong[3];
} Found;

static Found run(const NgramModel *m, uint32_t path, NgramWorkspace *ws, const Batch *b)
{
    const Given *g = &m->given;
    const uint64_t texts = b->texts / g->inputs;
    Found f = {.size = {4 * texts * g->classes, 8 * texts, texts, 8 * g->orders * (b->size + 1), 8 * b->texts,
                        8 * (b->size + 1), 8 * b->texts}};
    for (int i = 0; i < 7; i++)
        f.part[i] = calloc(f.size[i] ? f.size[i] : 1, 1);
    f.wrong[0] = bantam_ngram_run(m, path, ws, b->data, b->size, b->between, texts, f.part[0], f.part[1], f.part[2]);
    f.wrong[1] = bantam_ngram_slots(m, path, ws, b->data, b->size, b->between, b->texts, f.part[3], f.part[4]);
    f.wrong[2] = bantam_ngram_words(g->index, g->pages, g->pages_count, path, ws, b->data, b->size, b->between, b->texts,
                                    g->most_words, f.part[5], f.part[6]);
    return f;
}

static void drop(Found *f)
{
    for (int i = 0; i < 7; i++)
        free(f->part[i]);
}

/* Hits; those who run are the paths of this processor. */
static uint64_t compare(const NgramModel *m, NgramWorkspace *ws, const Batch *b)
{
    Found first = run(m, 0, ws, b);
    const int64_t *ends = first.part[4], *word_ends = first.part[6];
    const uint64_t hits = b->texts && !first.wrong[1] ? (uint64_t)ends[b->texts - 1] : 0;
    if (b->texts && !first.wrong[2])
        for (int64_t i = 0; i < word_ends[b->texts - 1]; i += 1 + draw(30))
            know(&m->given, ((uint64_t *)first.part[5])[i]); /* seen by `keys`, which is not copied */
    drop(&first);
    first = run(m, 0, ws, b);
    for (uint32_t path = 1; path < sizeof PATHS / sizeof *PATHS; path++) {
        if (!runs(PATHS[path]))
            continue;
        Found other = run(m, path, ws, b);
        check(memcmp(first.wrong, other.wrong, sizeof first.wrong) == 0);
        for (int i = 0; i < 7; i++)
            check(memcmp(first.part[i], other.part[i], first.size[i]) == 0);
        drop(&other);
    }
    drop(&first);
    return hits;
}

int main(int count, char **arguments)
{
    uint64_t hits = 0;
    if (count < 3)
        return 2;
    state = 88172645463325252ULL + strtoull(arguments[1], NULL, 10);
    for (long round = 0; round < atol(arguments[2]); round++) {
        Given g = model();
        NgramModel *m = NULL;
        const void *made[] = {g.rows, g.scale, g.keys, g.tags, g.displacement, g.index, g.pages, g.dense_weight,
                              g.dense_bias, g.out_weight, g.out_bias};
        check(bantam_ngram_open(&g, &m) == NULL);
        g.pages_count = 1;
        check(bantam_ngram_open(&g, &m) != NULL);
        NgramWorkspace *ws = bantam_ngram_workspace(m, 1);
        for (int i = 0; i < 4; i++) {
            Batch b = batch((uint32_t)g.inputs);
            hits += compare(m, ws, &b);
            free(b.data);
        }
        bantam_ngram_free(ws);
        bantam_ngram_close(m);
        for (size_t i = 0; i < sizeof made / sizeof *made; i++)
            free((void *)(uintptr_t)made[i]);
    }
    printf("%llu\n", (unsigned long long)hits);
    return 0;
}
