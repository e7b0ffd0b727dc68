/* x86-64 with tiles. Flags: those of avx512bf16 and -mamx-tile -mamx-int8 -mamx-bf16 */
#include "common.h"

#include "lanes_avx512.h"
#include "dot_avx512.h"
#include "tiles.h"
#include "dense_tiles.h"
#include "strip_tiles.h"
#include "sparse_avx512.h"

static int best_format(const Linear *l, uint32_t rows)
{
    /* of products in a whole network, where zeros save the reading of weights, too; 4x1 and 4x4 are left to vectors */
    static const Costs costs = {{0.45f, 1.2f}, {0.3f, 5.2f}, {0.3f, 8.3f}, {0.3f, 5.0f}, 64, 32};
    return best_of(l, rows, &costs);
}

#define TILES
#define PATH bantam_amx
#define PATH_NAME "amx"
#include "path.h"
