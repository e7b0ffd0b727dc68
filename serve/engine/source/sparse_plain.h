/* Blocks four outputs high in plain C: tokens lie side by side, so that a compiler may take several at once. */

static void columns(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    const uint8_t *bytes = (const uint8_t *)x;
    const Blocks *c = &l->columns;
    for (uint32_t s = 0; s < l->outputs / 4; s++) {
        int32_t *tile = ws->tile;
        memset(tile, 0, 4 * CHUNK * sizeof *tile);
        for (uint32_t b = c->start[s]; b < c->start[s + 1]; b++)
            for (int j = 0; j < 4; j++) {
                uint32_t k = c->at[4 * b + j];
                const uint8_t *column = bytes + (size_t)(k / 4) * T * 4 + k % 4;
                for (int n = 0; n < 4; n++) {
                    const int32_t weight = c->weights[(size_t)b * 16 + n * 4 + j];
                    for (uint32_t m = 0; m < rows; m++)
                        tile[n * CHUNK + m] += weight * column[4 * m];
                }
            }
        for (uint32_t m = 0; m < rows; m++)
            for (int n = 0; n < 4; n++)
                ws->sums[m * bantam_stride(l) + s * 4 + n] = tile[n * CHUNK + m];
    }
}

static void squares(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    const Blocks *c = &l->squares;
    for (uint32_t s = 0; s < l->outputs / 4; s++) {
        int32_t *tile = ws->tile;
        memset(tile, 0, 4 * CHUNK * sizeof *tile);
        for (uint32_t b = c->start[s]; b < c->start[s + 1]; b++) {
            const uint8_t *bytes = (const uint8_t *)(x + c->at[b] * T);
            const int8_t *w = c->weights + (size_t)b * 16;
            for (int n = 0; n < 4; n++)
                for (uint32_t m = 0; m < rows; m++)
                    tile[n * CHUNK + m] += w[4 * n] * bytes[4 * m] + w[4 * n + 1] * bytes[4 * m + 1] +
                                           w[4 * n + 2] * bytes[4 * m + 2] + w[4 * n + 3] * bytes[4 * m + 3];
        }
        for (uint32_t m = 0; m < rows; m++)
            for (int n = 0; n < 4; n++)
                ws->sums[m * bantam_stride(l) + s * 4 + n] = tile[n * CHUNK + m];
    }
}
