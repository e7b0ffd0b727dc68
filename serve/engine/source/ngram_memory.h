/* Memory that is taken at once and cut into buffers. */
#include "ngram.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN __attribute__((visibility("default")))

enum { LINE = 64 }; /* bytes that buffers are aligned to, and that may be read beyond them */

typedef struct {
    char *memory; /* NULL to count only */
    size_t used;
} Arena;

static void *carve(Arena *a, size_t count, size_t item)
{
    void *found = a->memory ? a->memory + a->used : NULL;
    a->used += (count * item + 2 * LINE - 1) / LINE * LINE;
    return found;
}

static void *aligned(size_t size) { return aligned_alloc(LINE, (size + LINE - 1) / LINE * LINE); }
