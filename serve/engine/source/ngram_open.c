/* Opens a model of the n-gram student: checks its sizes and lays its layers out as the paths read them. */
#include "arena.h"
#include "compiler.h"
#include "ngram.h"

#include <stdlib.h>
#include <string.h>

enum { PAGES = 4352 };

int bantam_ngram_characters(Characters *c, const uint16_t *index, const int32_t *pages, uint64_t count)
{
    *c = (Characters){.index = index, .pages = pages, .usual = 1};
    for (uint32_t page = 0; page < PAGES; page++)
        if (index[page] >= count)
            return 0;
    memset(c->kind, FOREIGN, sizeof c->kind);
    for (uint32_t i = 0; i < 128; i++) {
        const uint32_t entry = (uint32_t)pages[(size_t)index[0] * 256 + i], kind = entry >> 24;
        const uint32_t upper = i >= 'A' && i <= 'Z', lower = i >= 'a' && i <= 'z', digit = i >= '0' && i <= '9';
        uint32_t usual = (i == '\'' ? APOSTROPHE : SEPARATOR) << 24;
        if (upper || lower || digit || i == '_')
            usual = LETTER << 24 | (i + 32 * upper);
        else if (i == '!' || i == '?')
            usual = ALONE << 24 | i;
        c->usual &= entry == usual;
        c->letter[i] = kind == APOSTROPHE ? '\'' : ' ';
        if (kind == LETTER || kind == ALONE)
            c->letter[i] = entry & 0x7f;
        if (kind < DROPPED && (entry & 0xffffff) < 128)
            c->kind[i] = (uint8_t)kind;
    }
    return 1;
}

/* A layer's weights as its inputs come, padded to whole strides. */
static void turned(Dense *l, Arena *a, const float *weights, const float *bias, uint64_t inputs, uint64_t outputs)
{
    const size_t stride = (outputs + STRIDE - 1) / STRIDE * STRIDE;
    float *to = carve(a, inputs * stride, sizeof *to), *bias_to = carve(a, stride, sizeof *to);
    *l = (Dense){(uint32_t)inputs, (uint32_t)outputs, (uint32_t)stride, to, bias_to};
    if (!a->memory)
        return;
    for (size_t n = 0; n < outputs; n++) {
        bias_to[n] = bias[n];
        for (size_t k = 0; k < inputs; k++)
            to[k * stride + n] = weights[n * inputs + k];
    }
}

/* The model's own copies; returns the bytes they take. Tables of which whole words are read are copied, too. */
static size_t lay_out(NgramModel *m, const Given *g)
{
    Arena a = {.memory = m->memory, .beyond = LINE};
    const size_t slots = (size_t)1 << g->slot_bits, buckets = (size_t)1 << g->bucket_bits;
    uint8_t *tags = carve(&a, slots, 1);
    uint16_t *displacement = carve(&a, buckets, sizeof *displacement);
    turned(&m->dense, &a, g->dense_weight, g->dense_bias, g->width * (g->inputs == 2 ? 4 : 1), g->hidden);
    turned(&m->out, &a, g->out_weight, g->out_bias, g->hidden, g->classes);
    m->given = *g;
    if (a.memory) {
        m->given.tags = memcpy(tags, g->tags, slots);
        m->given.displacement = memcpy(displacement, g->displacement, buckets * sizeof *displacement);
    }
    return a.used;
}

static int sound(const Given *g)
{
    return g->width && g->width <= 1024 && g->width % 16 == 0 && g->hidden && g->hidden < 1 << 20 && g->classes &&
           g->classes < 1 << 20 && g->slot_bits && g->slot_bits <= 24 && g->bucket_bits && g->bucket_bits <= 24 &&
           g->orders && g->orders <= MOST_ORDERS && g->inputs && g->inputs <= 2 && g->activation <= RELU &&
           g->most_words && g->most_words <= 1 << 22;
}

/* NULL, or why the model is refused. On success `opened` is to be closed; what is given stays where it is until then. */
SHOWN const char *bantam_ngram_open(const Given *given, NgramModel **opened)
{
    Characters c;
    if (!sound(given))
        return "it has sizes that are not known here";
    if (!bantam_ngram_characters(&c, given->index, given->pages, given->pages_count))
        return "its table of characters has not all pages";
    NgramModel *m = calloc(1, sizeof *m);
    if (!m)
        return "there is no memory for it";
    const size_t size = lay_out(m, given);
    m->memory = aligned_memory(size);
    if (!m->memory) {
        free(m);
        return "there is no memory for it";
    }
    memset(m->memory, 0, size);
    lay_out(m, given);
    m->characters = c;
    *opened = m;
    return NULL;
}

SHOWN void bantam_ngram_close(NgramModel *m)
{
    if (m)
        free(m->memory);
    free(m);
}
