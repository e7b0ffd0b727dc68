/* Memory that is taken at once and cut into buffers. */
#include <stddef.h>
#include <stdlib.h>

enum { LINE = 64 }; /* bytes that buffers are aligned to */

typedef struct {
    char *memory; /* NULL to count only */
    size_t used, beyond; /* bytes behind each buffer that may be read */
} Arena;

static void *carve(Arena *a, size_t count, size_t item)
{
    void *found = a->memory ? a->memory + a->used : NULL;
    a->used += (count * item + a->beyond + LINE - 1) / LINE * LINE;
    return found;
}

static void *aligned_memory(size_t size) { return aligned_alloc(LINE, (size + LINE - 1) / LINE * LINE); }
