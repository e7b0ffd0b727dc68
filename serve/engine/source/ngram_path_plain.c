/* N-grams on any processor. */
#include "ngram_common.h"

#define mark mark_each
#define positions each_position
#define VECTOR 16
#define VECTORS 2
#define PATH bantam_ngram_plain
#define PATH_NAME "plain"
#include "ngram_path.h"
