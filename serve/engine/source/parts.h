/* One part of the network alone: what a text's word pieces become in the embeddings, in a layer, in the head. With the
same inputs as another runtime a part has the same outputs but for its own rounding, while whole networks of many layers
drift apart: what is rounded to another byte in one layer rounds many in the next. */

static void run_layer(const Model *m, Workspace *ws, const Layer *l, uint32_t rows)
{
    if (l->heads) {
        for (uint32_t i = 0; i < rows; i++)
            quantise_row(&l->qkv, ws->x + (size_t)i * m->width, ws->xq + (size_t)i * m->width, ws->step + i,
                         ws->shift + i);
        project(m, ws, &l->qkv, rows);
        attend(m, l->heads, ws, 0, rows, rows);
    }
    feed_forward(m, ws, l, ws->x, rows, NULL);
}

static void run_head(const Model *m, Workspace *ws, int32_t length, float *out)
{
    const float *x = ws->x;
    uint32_t rows = m->reads == READS_ALL ? (uint32_t)length : 1;
    if (m->reads == READS_MEAN) {
        mean(m, ws, &length, 1);
        x = ws->head_x;
    } else if (m->linears) {
        for (uint32_t i = 0; i < rows; i++)
            quantise_row(&m->head[0], x + (size_t)i * m->width, ws->xq + (size_t)i * m->width, ws->step + i,
                         ws->shift + i);
    }
    answer(m, ws, x, rows, out);
}

/* Part 0 makes x of ids, parts 1 .. layers change it, any beyond them is the head, which makes `out` of it. */
static void run_part(const Model *m, Workspace *ws, uint32_t part, const int32_t *ids, const int32_t *types,
                     int32_t length, float *x, float *out)
{
    const size_t size = (size_t)length * m->width * sizeof(float);
    if (part > 0)
        memcpy(ws->x, x, size);
    if (part == 0)
        embed(m, ws, ids, types, &length, 1);
    else if (part <= m->layers)
        run_layer(m, ws, &m->layer[part - 1], (uint32_t)length);
    else
        run_head(m, ws, length, out);
    if (part <= m->layers)
        memcpy(x, ws->x, size);
}
