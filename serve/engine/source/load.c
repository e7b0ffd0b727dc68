/* A model file, checked before any of it is used. The description fixes which tensors follow, in which order and of
   which size; offsets are computed, never read, so that a file can only be right or refused. */
#include "engine.h"

#include <string.h>

enum { ALIGNMENT = 64 };

typedef struct {
    const unsigned char *data;
    size_t size, at;
    const char *refusal;
} Reader;

static const void *take(Reader *r, uint64_t count, size_t item)
{
    /* Counts are products of two numbers below 2^32, so neither this product nor the sum below can overflow. */
    static const char nothing[ALIGNMENT] __attribute__((aligned(64)));
    uint64_t start = ((uint64_t)r->at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (r->refusal)
        return nothing;
    if (start > r->size || count > (r->size - start) / item) {
        r->refusal = "it ends too early";
        return nothing;
    }
    r->at = (size_t)(start + count * item);
    return r->data + start;
}

static void refuse_unless(Reader *r, int holds, const char *refusal)
{
    if (!holds && !r->refusal)
        r->refusal = refusal;
}

static int width(uint32_t value) { return value % STRIP == 0 && value <= LARGEST_WIDTH; }

static void finite(Reader *r, const float *values, uint64_t count)
{
    for (uint64_t i = 0; i < count && !r->refusal; i++)
        refuse_unless(r, values[i] - values[i] == 0, "a number in it is not finite");
}

static const float *floats(Reader *r, uint64_t count)
{
    const float *found = take(r, count, sizeof(float));
    finite(r, found, r->refusal ? 0 : count);
    return found;
}

static Blocks blocks(Reader *r, uint32_t outputs, uint32_t inputs, uint32_t height, uint32_t across)
{
    /* `across` inputs a block: 4 neighbours of which `at` names the group, or 4 columns each named */
    Blocks b = {0};
    const uint32_t *kept = take(r, 1, sizeof(uint32_t));
    uint32_t strips = outputs / height, named = across == 1 ? GROUP : 1;
    if (r->refusal || *kept == UINT32_MAX)
        return b;
    refuse_unless(r, *kept <= (uint64_t)strips * (inputs / GROUP), "it keeps more blocks than there are");
    b.kept = *kept;
    b.start = take(r, (uint64_t)strips + 1, sizeof(uint32_t));
    b.order = take(r, strips, sizeof(uint32_t));
    b.at = take(r, (uint64_t)b.kept * named, sizeof(uint32_t));
    b.weights = take(r, (uint64_t)b.kept * height * GROUP, 1);
    if (r->refusal)
        return b;
    refuse_unless(r, b.start[0] == 0 && b.start[strips] == b.kept, "blocks are miscounted");
    for (uint32_t s = 0; s < strips; s++)
        refuse_unless(r, b.order[s] < strips && (height == STRIP || b.order[s] == s), "strips are out of order");
    for (uint32_t s = 0; s < strips; s++)
        refuse_unless(r, b.start[s] <= b.start[s + 1] && b.start[s + 1] <= b.kept, "blocks are miscounted");
    uint64_t tiles = 0;
    for (uint32_t s = 0; s < strips && !r->refusal; s++)
        tiles += (b.start[s + 1] - b.start[s] + 15) / 16;
    b.tiles = height == STRIP ? take(r, tiles * 1024, 1) : NULL;
    for (uint64_t i = 0; i < (uint64_t)b.kept * named && !r->refusal; i++)
        refuse_unless(r, b.at[i] < (across == 1 ? inputs : inputs / GROUP), "a block lies outside of its matrix");
    return b;
}

static Linear linear(Reader *r, uint32_t inputs, uint32_t outputs)
{
    Linear l = {.inputs = inputs, .outputs = outputs};
    const float *grid = floats(r, 2);
    if (!r->refusal) {
        l.step = grid[0];
        l.zero = grid[1];
        refuse_unless(r, l.step >= 0 && l.zero >= 0 && l.zero <= 255, "a range of activations is none");
    }
    l.scale = floats(r, outputs);
    l.correction = floats(r, outputs);
    l.bias = floats(r, outputs);
    l.dense = take(r, (uint64_t)inputs * outputs, 1);
    l.strips = blocks(r, outputs, inputs, 16, 4);
    l.columns = blocks(r, outputs, inputs, 4, 1);
    l.squares = blocks(r, outputs, inputs, 4, 4);
    return l;
}

static Norm norm(Reader *r, uint32_t width)
{
    Norm n;
    n.gain = floats(r, width);
    n.bias = floats(r, width);
    return n;
}

static void layer(Reader *r, const Model *m, Layer *l)
{
    const uint32_t *shape = take(r, 2, sizeof(uint32_t));
    if (r->refusal)
        return;
    l->heads = shape[0];
    l->neurons = shape[1];
    refuse_unless(r, l->heads <= MOST_HEADS && width(l->heads * m->head_size), "it has too many heads");
    refuse_unless(r, width(l->heads * m->head_size * 3), "it has too many heads");
    refuse_unless(r, width(l->neurons), "a width is not a multiple of 16, or too large");
    if (r->refusal)
        return;
    l->qkv = linear(r, m->width, l->heads * m->head_size * 3);
    l->out = linear(r, l->heads * m->head_size, m->width);
    l->first = norm(r, m->width);
    l->up = linear(r, m->width, l->neurons);
    l->down = linear(r, l->neurons, m->width);
    l->second = norm(r, m->width);
}

static void description(Reader *r, Model *m)
{
    const uint32_t *d = take(r, 16, sizeof(uint32_t));
    const float *epsilon = floats(r, 1);
    if (r->refusal)
        return;
    m->layers = d[0];
    m->width = d[1];
    m->true_width = d[2];
    m->vocabulary = d[3];
    m->positions = d[4];
    m->types = d[5];
    m->head_size = d[6];
    m->activation = d[7];
    m->first_position = d[8];
    m->skip_pad = d[9];
    m->pad = d[10];
    m->reads = d[11];
    m->linears = d[12];
    m->head_activation = d[13];
    m->outputs = d[14];
    m->unit = d[15];
    m->epsilon = *epsilon;
    refuse_unless(r, m->layers > 0 && m->layers <= MOST_LAYERS, "it has no layers, or too many");
    refuse_unless(r, width(m->width) && m->true_width > 0 && m->true_width <= m->width && m->width - m->true_width < STRIP,
                  "a width is not a multiple of 16, or too large");
    refuse_unless(r, m->vocabulary > 0 && m->vocabulary <= 1u << 24, "its vocabulary is empty or too large");
    refuse_unless(r, m->first_position < m->positions && m->positions <= MOST_LENGTH, "it has no positions, or too many");
    refuse_unless(r, m->types > 0 && m->types <= 16, "it has no token types, or too many");
    refuse_unless(r, m->head_size > 0 && m->head_size <= 512 && width(m->head_size), "its head size is unknown");
    refuse_unless(r, m->activation == ACTIVATION_GELU || m->activation == ACTIVATION_GELU_TANH ||
                         m->activation == ACTIVATION_RELU, "its activation is unknown");
    refuse_unless(r, m->head_activation < ACTIVATIONS && m->reads < READS && m->linears <= MOST_LINEARS,
                  "its head is unknown");
    refuse_unless(r, m->unit <= 1 && !(m->unit && (m->linears || m->reads == READS_ALL)), "its head is unknown");
    refuse_unless(r, m->skip_pad <= 1 && (!m->skip_pad || m->pad < m->positions), "its positions are unknown");
    refuse_unless(r, m->epsilon > 0, "its epsilon is not above 0");
}

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

static void head(Reader *r, Model *m)
{
    uint32_t inputs = m->width;
    for (uint32_t i = 0; i < m->linears && !r->refusal; i++) {
        const uint32_t *outputs = take(r, 1, sizeof(uint32_t));
        if (r->refusal)
            return;
        refuse_unless(r, *outputs > 0 && width(*outputs), "a width is not a multiple of 16, or too large");
        if (r->refusal)
            return;
        m->head[i] = linear(r, inputs, *outputs);
        inputs = *outputs;
        m->widest = larger(m->widest, inputs);
    }
    refuse_unless(r, m->outputs > 0 && m->outputs <= inputs, "its head has more answers than outputs");
    refuse_unless(r, m->linears || m->outputs == m->true_width, "its head has other answers than the network's width");
}

const char *bantam_read(const void *data, size_t size, Model *m)
{
    Reader r = {.data = data, .size = size};
    memset(m, 0, sizeof *m);
    if ((uintptr_t)data % ALIGNMENT)
        return "it does not lie at a multiple of 64 bytes";
    const unsigned char *front = take(&r, ALIGNMENT, 1); /* magic, version, and a checksum that Python looks at */
    if (r.refusal || memcmp(front, "BANTAM\n\0", 8) != 0)
        return "it is not a model file of this engine";
    uint32_t version;
    memcpy(&version, front + 8, sizeof version);
    if (version != BANTAM_VERSION)
        return "it is of another version";
    description(&r, m);
    if (r.refusal)
        return r.refusal;
    m->words = take(&r, (uint64_t)m->vocabulary * m->width, 1);
    m->word_scale = floats(&r, m->vocabulary);
    m->position = floats(&r, (uint64_t)m->positions * m->width);
    m->type = floats(&r, (uint64_t)m->types * m->width);
    m->norm = norm(&r, m->width);
    m->widest = m->width;
    for (uint32_t i = 0; i < m->layers && !r.refusal; i++) {
        Layer *l = &m->layer[i];
        layer(&r, m, l);
        m->most_heads = larger(m->most_heads, l->heads);
        m->widest = larger(m->widest, larger(l->neurons, 3 * l->heads * m->head_size));
    }
    head(&r, m);
    refuse_unless(&r, r.at == r.size, "it is longer than it should be");
    return r.refusal;
}
