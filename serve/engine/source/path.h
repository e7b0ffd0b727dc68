/* The engine for one kind of processor. Included once by each path_*.c, after LANES and the products are chosen. */

/* Bytes [rows][K] as words [K / 4][T], T at least the next multiple of 16 of rows */
static void interleave(const uint8_t *x, uint32_t K, uint32_t rows, size_t T, uint32_t *to)
{
    const uint32_t *from = (const uint32_t *)(const void *)x;
    const uint32_t groups = K / GROUP;
    for (uint32_t m = 0; m < rows; m += LANES) {
        uint32_t g = 0;
        for (; g + LANES <= groups; g += LANES)
            transpose(from + (size_t)m * groups + g, groups, to + g * T + m, T);
        for (; g < groups; g++)
            for (uint32_t i = m; i < m + LANES; i++)
                to[g * T + i] = from[(size_t)i * groups + g];
    }
}

/* Tokens that the inputs of a product are padded to; what lies beyond `rows` is left over from other products. */
static size_t lanes_of(int format, uint32_t rows)
{
    if (format == FORMAT_COLUMNS)
        return rows > 32 ? 64 : 32;
    const size_t T = (rows + 15) / 16 * 16;
    return T == 64 ? 80 : T; /* groups 256 bytes apart would share a quarter of the cache sets */
}

static void product(const Linear *l, int format, uint32_t rows, const uint8_t *x, Workspace *ws)
{
    if (l->inputs == 0) {
        memset(ws->sums, 0, rows * bantam_stride(l) * sizeof(int32_t));
        return;
    }
    if (format == FORMAT_BEST)
        format = best_format(l, rows);
    if (format == FORMAT_DENSE) {
        dense(l, rows, x, ws->sums);
        return;
    }
    const size_t T = lanes_of(format, rows);
    interleave(x, l->inputs, rows, T, ws->inter);
    switch (format) {
    case FORMAT_STRIPS: strips(l, rows, ws->inter, T, ws); break;
    case FORMAT_COLUMNS: columns(l, rows, ws->inter, T, ws); break;
    case FORMAT_SQUARES: squares(l, rows, ws->inter, T, ws); break;
    }
}

#include "maths.h"
#ifdef TILES
#include "attention_tiles.h"
#else
#include "attention.h"
#endif
#include "encoder.h"
#include "parts.h"

const Path PATH = {PATH_NAME, ELEMENTS, product, forward, run_part, apply, peak};
