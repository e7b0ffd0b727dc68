/* x86-64 with tiles. Flags: those of avx512bf16 and -mamx-tile -mamx-int8 -mamx-bf16 */
#include "common.h"

#include "lanes_avx512.h"
#include "dot_avx512.h"
#include "tiles.h"
#include "dense_tiles.h"
#include "strips.h"
#include "sparse_avx512.h"

static int best_format(const Linear *l, uint32_t rows)
{
    static const Costs costs = {{0.05f, 1.24f}, {0.07f, 1.15f}, {0.08f, 1.85f}, {0.06f, 1.10f}, 64, 32};
    return best_of(l, rows, &costs);
}

#define TILES
#define PATH bantam_amx
#define PATH_NAME "amx"
#include "path.h"
