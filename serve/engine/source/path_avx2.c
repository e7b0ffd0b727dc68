/* x86-64 with AVX2 and FMA. Flags: -mavx2 -mfma */
#include "common.h"

#include "lanes_avx2.h"
#include "dot_avx2.h"
#include "products.h"
#include "strips.h"
#include "sparse_256.h"

static int best_format(const Linear *l, uint32_t rows)
{
    static const Costs costs = {{0.0f, 1.0f}, {0.02f, 1.4f}, {0.02f, 1.4f}, {0.02f, 1.05f}, 16, 16};
    return best_of(l, rows, &costs);
}

#define PATH bantam_avx2
#define PATH_NAME "avx2"
#include "path.h"
