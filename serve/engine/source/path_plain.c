/* Any processor. */
#include "common.h"

#include "lanes_plain.h"
#include "products_plain.h"
#include "sparse_plain.h"

static int best_format(const Linear *l, uint32_t rows)
{
    static const Costs costs = {{0.0f, 0.8f}, {0.0f, 1.3f}, {0.0f, 1.3f}, {0.0f, 1.0f}, 1, 1};
    return best_of(l, rows, &costs);
}

#define PATH bantam_plain
#define PATH_NAME "plain"
#include "path.h"
