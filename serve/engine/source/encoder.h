/* The network: embeddings, layers of attention and feed-forward with LayerNorm after each, a head.

Everything is done row by row or, in attention, text by text, in one order of additions: an answer is the same, bit for
bit, in any company. */

#if defined(__x86_64__)
INLINE uint64_t now(void) { return __builtin_ia32_rdtsc(); }
#else
INLINE uint64_t now(void) { return 0; }
#endif

INLINE void lap(Workspace *ws, uint64_t *since, int what)
{
    if (ws->timed) {
        uint64_t at = now();
        ws->time[what] += at - *since;
        *since = at;
    }
}

INLINE uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Sums of outputs n .. n + LANES - 1 in real numbers; rows were quantised as (value / step + shift / step). */
INLINE F real_of(const Linear *l, F sums, uint32_t n, F step, F shift)
{
    F offset = f_minus(shift, f_load(l->correction + n), f_load(l->bias + n));
    return f_fma(sums, f_mul(f_load(l->scale + n), step), offset);
}

/* Outputs n .. n + LANES - 1 of a product in real numbers */
INLINE F real(const Linear *l, const int32_t *sums, uint32_t n, F step, F shift)
{
    return real_of(l, f_int(sums + n), n, step, shift);
}

/* The grid of a row that feeds `next`: its own where the file has one, else over the row's range and 0. */
INLINE void grid(const Linear *next, F low, F high, float *step, float *shift, F *inverse, F *zero)
{
    float s = next->step, z = next->zero;
    if (s == 0) {
        float lowest = f_lowest(low), highest = f_highest(high);
        lowest = lowest < 0 ? lowest : 0;
        highest = highest > 0 ? highest : 0;
        s = (highest - lowest) * (1.0f / 255);
        s = s > 1e-8f ? s : 1e-8f;
        float parts[LANES];
        f_store(parts, f_round(f_set(-lowest / s)));
        z = parts[0];
    }
    *step = s;
    *shift = s * z;
    *inverse = f_set(1.0f / s);
    *zero = f_set(z);
}

INLINE void quantise(const Linear *next, const float *row, uint32_t n, F low, F high, uint8_t *bytes, float *step,
                     float *shift)
{
    F inverse, zero;
    grid(next, low, high, step, shift, &inverse, &zero);
    uint32_t i = 0;
#ifdef FOUR_OUT
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        f_bytes_out4(bytes + i, f_fma(f_load(row + i), inverse, zero), f_fma(f_load(row + i + LANES), inverse, zero),
                     f_fma(f_load(row + i + 2 * LANES), inverse, zero),
                     f_fma(f_load(row + i + 3 * LANES), inverse, zero));
#endif
    for (; i < n; i += LANES)
        f_bytes_out(bytes + i, f_fma(f_load(row + i), inverse, zero));
}

static void quantise_row(const Linear *next, const float *row, uint8_t *bytes, float *step, float *shift)
{
    F low = f_set(0), high = low;
    if (next->step == 0)
        for (uint32_t i = 0; i < next->inputs; i += LANES) {
            F value = f_load(row + i);
            low = f_min(low, value);
            high = f_max(high, value);
        }
    quantise(next, row, next->inputs, low, high, bytes, step, shift);
}

/* Row x, of which the sum is known, becomes its LayerNorm, and as bytes the input of `next`. What the width was padded
with is 0 and stays 0; it is taken out of the variance again. */
INLINE void normalise(const Model *m, const Norm *n, float *x, F sum, const Linear *next, uint8_t *bytes, float *step,
                      float *shift)
{
    const uint32_t D = m->width;
    const float mean = f_sum(sum) / (float)m->true_width;
    F mu = f_set(mean), a = f_set(0), b = a, low = a, high = a;
    for (uint32_t i = 0; i < D; i += 16)
        UNROLL(4)
        for (uint32_t j = i; j < i + 16; j += LANES) {
            F d = f_sub(f_load(x + j), mu);
            if (j % 32 < 16)
                a = f_fma(d, d, a);
            else
                b = f_fma(d, d, b);
        }
    float squares = f_sum(f_add(a, b)) - (float)(D - m->true_width) * mean * mean;
    F scale = f_set(1.0f / sqrtf((squares > 0 ? squares : 0) / (float)m->true_width + m->epsilon));
    F centre = f_mul(mu, scale);
    for (uint32_t i = 0; i < D; i += LANES) {
        F unit = f_sub(f_mul(f_load(x + i), scale), centre);
        F y = f_fma(unit, f_load(n->gain + i), f_load(n->bias + i));
        f_store(x + i, y);
        low = f_min(low, y);
        high = f_max(high, y);
    }
    if (next)
        quantise(next, x, D, low, high, bytes, step, shift);
}

static void embed(const Model *m, Workspace *ws, const int32_t *ids, const int32_t *types, const int32_t *lengths,
                  uint32_t texts)
{
    for (uint32_t t = 0, row = 0; t < texts; t++) {
        uint32_t position = m->first_position;
        for (int32_t i = 0; i < lengths[t]; i++, row++) {
            const uint32_t id = (uint32_t)ids[row];
            const uint32_t at = m->skip_pad && id == m->pad ? m->pad : position++;
            const int8_t *word = m->words + (size_t)id * m->width;
            const float *place = m->position + (size_t)at * m->width;
            const float *type = m->type + (size_t)(types ? types[row] : 0) * m->width;
            float *x = ws->x + (size_t)row * m->width;
            F scale = f_set(m->word_scale[id]), sum = f_set(0);
            for (uint32_t d = 0; d < m->width; d += LANES) {
                F y = f_fma(f_bytes_in(word + d), scale, f_add(f_load(place + d), f_load(type + d)));
                f_store(x + d, y);
                sum = f_add(sum, y);
            }
            normalise(m, &m->norm, x, sum, &m->layer[0].qkv, ws->xq + (size_t)row * m->width, ws->step + row,
                      ws->shift + row);
        }
    }
}

/* x += the product of `l`, then LayerNorm; as bytes the input of `next`. Rows m0 .. m0 + rows - 1 of x. */
static void residual(const Model *m, Workspace *ws, const Linear *l, const Norm *n, float *x, uint32_t rows,
                     const float *from_step, const float *from_shift, const Linear *next, uint8_t *bytes, float *step,
                     float *shift)
{
    for (uint32_t i = 0; i < rows; i++, x += m->width, bytes += m->width) {
        const int32_t *sums = ws->sums + i * bantam_stride(l);
        F s = f_set(from_step[i]), z = f_set(from_shift[i]), sum = f_set(0);
        for (uint32_t d = 0; d < m->width; d += LANES) {
            F y = f_add(f_load(x + d), real(l, sums, d, s, z));
            f_store(x + d, y);
            sum = f_add(sum, y);
        }
        normalise(m, n, x, sum, next, bytes, step + i, shift + i);
    }
}

/* Rows of sums become the activation's bytes. */
INLINE void activate_rows(const uint32_t what, Workspace *ws, const Linear *l, uint32_t rows, const Linear *next)
{
    const uint32_t N = l->outputs;
    for (uint32_t i = 0; i < rows; i++) {
        const int32_t *sums = ws->sums + i * bantam_stride(l);
        F s = f_set(ws->cstep[i]), z = f_set(ws->cshift[i]), low = f_set(0), high = low;
        for (uint32_t n = 0; n < N; n += 16)
            UNROLL(4)
            for (uint32_t j = n; j < n + 16; j += LANES) {
                F y = activate(what, real(l, sums, j, s, z));
                f_store(ws->line + j, y);
                low = f_min(low, y);
                high = f_max(high, y);
            }
        quantise(next, ws->line, N, low, high, ws->cq + (size_t)i * N, ws->cstep + i, ws->cshift + i);
    }
}

static void activation(uint32_t what, Workspace *ws, const Linear *l, uint32_t rows, const Linear *next)
{
    switch (what) { /* outside of the loops, where it costs nothing */
    case ACTIVATION_GELU: activate_rows(ACTIVATION_GELU, ws, l, rows, next); break;
    case ACTIVATION_GELU_TANH: activate_rows(ACTIVATION_GELU_TANH, ws, l, rows, next); break;
    case ACTIVATION_RELU: activate_rows(ACTIVATION_RELU, ws, l, rows, next); break;
    case ACTIVATION_TANH: activate_rows(ACTIVATION_TANH, ws, l, rows, next); break;
    default: activate_rows(ACTIVATION_NONE, ws, l, rows, next); break;
    }
}

/* Rows of each chunk, all about as many. Dense weights and 16x4 blocks are quickest while the results are small; what
puts tokens side by side wants a whole chunk, and tiles whole pairs of tiles. */
static uint32_t chunk(const Linear *l, uint32_t tokens)
{
#ifdef TILES
    const uint32_t pairs = (tokens + 2 * TILE - 1) / (2 * TILE), pieces = (tokens + CHUNK - 1) / CHUNK;
    return (pairs + pieces - 1) / pieces * 2 * TILE;
#else
    const uint32_t most = best_format(l, least(tokens, CHUNK)) >= FORMAT_COLUMNS ? CHUNK : NARROW;
    const uint32_t pieces = (tokens + most - 1) / most;
    return (tokens + pieces - 1) / pieces;
#endif
}

static void project(const Model *m, Workspace *ws, const Linear *l, uint32_t tokens)
{
    const size_t words = l->outputs / ELEMENTS;
    const uint32_t at_once = chunk(l, tokens);
    for (uint32_t m0 = 0; m0 < tokens; m0 += at_once) {
        const uint32_t rows = least(tokens - m0, at_once);
        uint64_t since = now();
        product(l, FORMAT_BEST, rows, ws->xq + (size_t)m0 * m->width, ws);
        lap(ws, &since, TIME_PRODUCT);
        for (uint32_t i = 0; i < rows; i++) {
            const int32_t *sums = ws->sums + i * bantam_stride(l);
            uint32_t *to = ws->qkv + (m0 + i) * words;
            F s = f_set(ws->step[m0 + i]), z = f_set(ws->shift[m0 + i]);
            for (uint32_t n = 0; n < l->outputs; n += LANES * ELEMENTS) {
#if ELEMENTS == 2
                F odd = n + LANES < l->outputs ? real(l, sums, n + LANES, s, z) : f_set(0); /* into the next row */
                f_words_out(to + n / 2, real(l, sums, n, s, z), odd);
#else
                f_store((float *)(void *)(to + n), real(l, sums, n, s, z));
#endif
            }
        }
        lap(ws, &since, TIME_REST);
    }
}

#ifdef TILES
#include "inner_tiles.h"
#else
static int up_and_down(uint32_t what, Workspace *ws, const Linear *up, uint32_t rows, const Linear *down) { return 0; }
#endif

/* All that follows attention in a layer, for rows of x [tokens][D]. */
static void feed_forward(const Model *m, Workspace *ws, const Layer *l, float *x, uint32_t tokens, const Linear *next)
{
    const uint32_t at_once = chunk(&l->up, tokens), inner = l->out.inputs;
    for (uint32_t m0 = 0; m0 < tokens; m0 += at_once) {
        const uint32_t rows = least(tokens - m0, at_once);
        float *xs = x + (size_t)m0 * m->width;
        uint64_t since = now();
        for (uint32_t i = 0; i < rows; i++)
            quantise_row(&l->out, ws->context + (size_t)(m0 + i) * inner, ws->cq + (size_t)i * inner, ws->cstep + i,
                         ws->cshift + i);
        lap(ws, &since, TIME_REST);
        product(&l->out, FORMAT_BEST, rows, ws->cq, ws);
        lap(ws, &since, TIME_PRODUCT);
        residual(m, ws, &l->out, &l->first, xs, rows, ws->cstep, ws->cshift, &l->up, ws->cq, ws->cstep, ws->cshift);
        lap(ws, &since, TIME_NORM);
        if (!up_and_down(m->activation, ws, &l->up, rows, &l->down)) {
            product(&l->up, FORMAT_BEST, rows, ws->cq, ws);
            lap(ws, &since, TIME_PRODUCT);
            activation(m->activation, ws, &l->up, rows, &l->down);
            lap(ws, &since, TIME_ACTIVATION);
            product(&l->down, FORMAT_BEST, rows, ws->cq, ws);
        }
        lap(ws, &since, TIME_PRODUCT);
        residual(m, ws, &l->down, &l->second, xs, rows, ws->cstep, ws->cshift, next, ws->xq + (size_t)m0 * m->width,
                 ws->step + m0, ws->shift + m0);
        lap(ws, &since, TIME_NORM);
    }
}

/* x and context of each text's first token move to the front: the last layer is run for those alone. */
static void keep_first(const Model *m, Workspace *ws, uint32_t inner, const int32_t *lengths, uint32_t texts)
{
    for (uint32_t t = 0, row = 0; t < texts; row += (uint32_t)lengths[t++]) {
        memcpy(ws->head_x + (size_t)t * m->width, ws->x + (size_t)row * m->width, m->width * sizeof(float));
        memmove(ws->context + (size_t)t * inner, ws->context + (size_t)row * inner, inner * sizeof(float));
    }
}

static void mean(const Model *m, Workspace *ws, const int32_t *lengths, uint32_t texts)
{
    const float *x = ws->x;
    for (uint32_t t = 0; t < texts; t++) {
        float *to = ws->head_x + (size_t)t * m->width;
        memset(to, 0, m->width * sizeof(float));
        for (int32_t i = 0; i < lengths[t]; i++, x += m->width)
            for (uint32_t d = 0; d < m->width; d += LANES)
                f_store(to + d, f_add(f_load(to + d), f_load(x + d)));
        F share = f_set(1.0f / (float)lengths[t]);
        for (uint32_t d = 0; d < m->width; d += LANES)
            f_store(to + d, f_mul(f_load(to + d), share));
        if (m->linears)
            quantise_row(&m->head[0], to, ws->xq + (size_t)t * m->width, ws->step + t, ws->shift + t);
    }
}

/* x divided by its length */
static void make_unit(const Model *m, Workspace *ws, const float *x, float *out)
{
    F sum = f_set(0);
    for (uint32_t d = 0; d < m->width; d += LANES)
        sum = f_fma(f_load(x + d), f_load(x + d), sum);
    const float length = sqrtf(f_sum(sum));
    F inverse = f_set(1.0f / (length > 1e-12f ? length : 1e-12f));
    for (uint32_t d = 0; d < m->width; d += LANES)
        f_store(ws->line + d, f_mul(f_load(x + d), inverse));
    memcpy(out, ws->line, m->outputs * sizeof(float));
}

/* out [rows][outputs] from x [rows][D], of which xq are the bytes */
static void answer(const Model *m, Workspace *ws, const float *x, uint32_t rows, float *out)
{
    for (uint32_t i = 0; i < rows && !m->linears; i++) {
        const float *row = x + (size_t)i * m->width;
        if (m->unit)
            make_unit(m, ws, row, out + (size_t)i * m->outputs);
        else
            memcpy(out + (size_t)i * m->outputs, row, m->outputs * sizeof(float));
    }
    for (uint32_t m0 = 0; m0 < rows && m->linears; m0 += CHUNK) {
        const uint32_t some = least(rows - m0, CHUNK);
        memcpy(ws->cstep, ws->step + m0, some * sizeof(float));
        memcpy(ws->cshift, ws->shift + m0, some * sizeof(float));
        product(&m->head[0], FORMAT_BEST, some, ws->xq + (size_t)m0 * m->width, ws);
        for (uint32_t k = 0; k + 1 < m->linears; k++) {
            activation(m->head_activation, ws, &m->head[k], some, &m->head[k + 1]);
            product(&m->head[k + 1], FORMAT_BEST, some, ws->cq, ws);
        }
        const Linear *last = &m->head[m->linears - 1];
        for (uint32_t i = 0; i < some; i++) {
            F s = f_set(ws->cstep[i]), z = f_set(ws->cshift[i]);
            for (uint32_t n = 0; n < last->outputs; n += LANES)
                f_store(ws->line + n, real(last, ws->sums + i * bantam_stride(last), n, s, z));
            memcpy(out + (size_t)(m0 + i) * m->outputs, ws->line, m->outputs * sizeof(float));
        }
    }
}

static void forward(const Model *m, Workspace *ws, const int32_t *ids, const int32_t *types, const int32_t *lengths,
                    uint32_t texts, float *out)
{
    uint32_t tokens = 0, asked = 0;
    float *x = ws->x;
    for (uint32_t t = 0; t < texts; t++)
        tokens += (uint32_t)lengths[t];
    asked = tokens;
    uint64_t since = now();
    embed(m, ws, ids, types, lengths, texts);
    lap(ws, &since, TIME_EMBED);
    for (uint32_t i = 0; i < m->layers; i++) {
        const Layer *l = &m->layer[i];
        const int last = i + 1 == m->layers, first_only = last && m->reads == READS_FIRST;
        const Linear *next = !last ? &m->layer[i + 1].qkv : m->linears && m->reads != READS_MEAN ? &m->head[0] : NULL;
        if (l->heads)
            project(m, ws, &l->qkv, tokens);
        since = now();
        for (uint32_t t = 0, row = 0; t < texts && l->heads; row += (uint32_t)lengths[t++])
            attend(m, l->heads, ws, row, (uint32_t)lengths[t], first_only ? 1 : (uint32_t)lengths[t]);
        lap(ws, &since, TIME_ATTENTION);
        if (first_only) {
            keep_first(m, ws, l->out.inputs, lengths, texts);
            x = ws->head_x;
            asked = texts;
        }
        feed_forward(m, ws, l, x, asked, next);
    }
    since = now();
    if (m->reads == READS_MEAN) {
        mean(m, ws, lengths, texts);
        x = ws->head_x;
        asked = texts;
    }
    answer(m, ws, x, asked, out);
    lap(ws, &since, TIME_REST);
}
