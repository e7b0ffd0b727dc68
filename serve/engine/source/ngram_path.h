/* The n-gram student for one kind of processor. Included once by each ngram_path_*.c, after `mark`, `positions`, VECTOR
(bytes of a register) and VECTORS (of floats that a layer's tile is wide) are chosen. */
#include "ngram_split.h"
#include "ngram_find.h"
#include "ngram_layers.h"

/* What 0 is for `maximum`: NaN stays NaN, as in numpy. */
static void relu(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] = x[i] <= 0.0f ? 0.0f : x[i];
}

/* See `tanh` in serve/ngram/plain.py. */
static void quarter_tanh(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float a = x[i] > 9.0f ? 9.0f : x[i];
        a = (a < -9.0f ? -9.0f : a) * 0.25f;
        const float square = a * a;
        float y = a * (105.0f + 10.0f * square) / (105.0f + square * (45.0f + square));
        y = (y + y) / (1.0f + y * y);
        x[i] = (y + y) / (1.0f + y * y);
    }
}

/* What the dense layer takes in, of a text or of a pair. */
static void features(const NgramModel *m, NgramWorkspace *ws, uint32_t text, float *to)
{
    const Given *g = &m->given;
    const size_t width = g->width;
    float *left = g->inputs == 1 ? to : ws->mean, *right = ws->mean + width;
    for (uint32_t i = 0; i < g->inputs; i++) {
        const uint32_t e = text * (uint32_t)g->inputs + i, from = e ? ws->hit_end[e - 1] : 0;
        mean(g, ws->slot + from, ws->hit_end[e] - from, ws->sum, i ? right : left);
    }
    if (g->inputs == 1)
        return;
    memcpy(to, left, 2 * width * sizeof *to);
    for (size_t d = 0; d < width; d++) {
        to[2 * width + d] = left[d] * right[d];
        to[3 * width + d] = __builtin_fabsf(left[d] - right[d]);
    }
}

static void rows(const NgramModel *m, NgramWorkspace *ws)
{
    const uint32_t texts = ws->entries / (uint32_t)m->given.inputs;
    for (uint32_t t = 0; t < texts; t++)
        features(m, ws, t, ws->features + (size_t)t * m->dense.inputs);
}

static void layers(const NgramModel *m, NgramWorkspace *ws)
{
    const uint32_t texts = ws->entries / (uint32_t)m->given.inputs;
    layer(&m->dense, ws->features, m->dense.inputs, texts, ws->hidden);
    const size_t count = (size_t)texts * m->dense.stride;
    if (m->given.activation == TANH)
        quarter_tanh(ws->hidden, count);
    else
        relu(ws->hidden, count);
    layer(&m->out, ws->hidden, m->dense.stride, texts, ws->logits);
}

const NgramPath PATH = {PATH_NAME, split, keys, find, rows, layers};
