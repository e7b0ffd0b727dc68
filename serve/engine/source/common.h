/* What every path begins with. */
#include "compiler.h"
#include "engine.h"

#include <math.h>
#include <string.h>

/* Time of a product against the dense one: fixed + slope times the share of the matrix that is kept. Measured with
384 x 1536, which `python -m benchmarks.engine` tells for whole networks. */
typedef struct {
    float fixed, slope;
} Cost;

typedef struct {
    Cost strips, columns, columns_few, squares; /* few: up to 32 rows */
    uint32_t columns_rows, few_rows;            /* that columns are padded to, many and few */
} Costs;

static inline float cost_of(Cost c, uint32_t kept, uint32_t weights, uint32_t padded, const Linear *l, uint32_t rows)
{
    const float up = (float)((rows + padded - 1) / padded * padded) / (float)rows;
    return up * (c.fixed + c.slope * (float)kept * (float)weights / ((float)l->inputs * (float)l->outputs));
}

/* The cheapest format of the matrix for so many rows. All give the same sums. */
static inline int best_of(const Linear *l, uint32_t rows, const Costs *c)
{
    const int few = rows <= 32;
    const float cost[] = {
        [FORMAT_DENSE] = 1.0f,
        [FORMAT_STRIPS] = l->strips.start ? cost_of(c->strips, l->strips.kept, 64, 1, l, rows) : 2.0f,
        [FORMAT_COLUMNS] = l->columns.start ? cost_of(few ? c->columns_few : c->columns, l->columns.kept, 16,
                                                      few ? c->few_rows : c->columns_rows, l, rows)
                                            : 2.0f,
        [FORMAT_SQUARES] = l->squares.start ? cost_of(c->squares, l->squares.kept, 16, 16, l, rows) : 2.0f,
    };
    int best = FORMAT_DENSE;
    for (int format = FORMAT_STRIPS; format <= FORMAT_SQUARES; format++)
        if (cost[format] < cost[best])
            best = format;
    return best;
}
