/* x86-64 with the 256-bit dot product. Flags: -mavx2 -mfma (the instruction itself stands in assembly) */
#include "common.h"

#include "lanes_avx2.h"
#include "dot_avxvnni.h"
#include "products.h"
#include "strips.h"
#include "sparse_256.h"

static int best_format(const Linear *l, uint32_t rows)
{
    static const Costs costs = {{0.03f, 1.0f}, {0.05f, 1.7f}, {0.05f, 1.7f}, {0.05f, 1.05f}, 16, 16};
    return best_of(l, rows, &costs);
}

#define PATH bantam_avxvnni
#define PATH_NAME "avxvnni"
#include "path.h"
