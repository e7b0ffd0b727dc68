/* What the code of every path for n-grams begins with. */
#include "compiler.h"
#include "ngram.h"

#include <string.h>

enum { SLOT = (1 << 24) - 1 }; /* lower bits of where a key would lie; the upper 8 are its tag */

/* Of 64 bytes, a bit each. */
typedef struct {
    uint64_t inside, first, last; /* letters; the first and the last byte of a character that stands alone */
    uint64_t apostrophes, foreign;
} Marks;

/* By the model's own table. */
static inline void mark_each(const Characters *c, const uint8_t *text, unsigned count, uint8_t *letters, Marks *m)
{
    uint64_t kinds[FOREIGN + 1] = {0};
    for (unsigned i = 0; i < count; i++) {
        letters[i] = c->letter[text[i]];
        kinds[c->kind[text[i]]] |= 1ULL << i;
    }
    *m = (Marks){kinds[LETTER], kinds[ALONE], kinds[ALONE], kinds[APOSTROPHE], kinds[FOREIGN]};
}

static inline size_t each_position(uint64_t bits, uint32_t base, uint32_t *to)
{
    size_t count = 0;
    for (; bits; bits &= bits - 1)
        to[count++] = base + (uint32_t)__builtin_ctzll(bits);
    return count;
}
