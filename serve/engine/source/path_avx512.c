/* x86-64 with the 512-bit dot product. Flags: -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma (-DBF16 -mavx512bf16) */
#include "common.h"

#include "lanes_avx512.h"
#include "dot_avx512.h"
#include "products.h"
#include "strips.h"
#include "sparse_avx512.h"

static int best_format(const Linear *l, uint32_t rows)
{
    static const Costs costs = {{0.05f, 1.24f}, {0.07f, 1.15f}, {0.08f, 1.85f}, {0.06f, 1.10f}, 64, 32};
    return best_of(l, rows, &costs);
}

#ifdef BF16
#define PATH bantam_avx512bf16
#define PATH_NAME "avx512bf16"
#else
#define PATH bantam_avx512
#define PATH_NAME "avx512"
#endif
#include "path.h"
