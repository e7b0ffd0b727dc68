/* The engine's structures, shared by the loader and by the code of each path.

Words: K inputs and N outputs of a linear layer, M rows (tokens) of a chunk. A path is the code for one kind of
processor. All widths in a model file are multiples of 16: what a network has less of is padded with zeros. */
#ifndef BANTAM_ENGINE_H
#define BANTAM_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#define BANTAM_VERSION 3  /* of the model file */
#define BANTAM_ABI 3      /* of the functions below */

enum {
    STRIP = 16,           /* outputs that lie side by side in packed weights */
    GROUP = 4,            /* inputs that one dot-product instruction sums up */
    CHUNK = 64,           /* rows of a product: its results stay in the second-level cache */
    NARROW = 36,          /* rows of a product whose weights are dense, or blocks 16 outputs high */
    TOGETHER = 256,       /* tokens of several texts that walk through the network in one pass, */
    FEWEST = 128,         /* or more, where a pass would have fewer than these without a text that goes beyond */
    LARGEST_WIDTH = 16384, /* 255 * 128 * 16384 fits in an int32 */
    MOST_LAYERS = 128,
    MOST_HEADS = 512,
    MOST_LENGTH = 8192,
    MOST_LINEARS = 4      /* of a head */
};

/* Blocks of a pruned matrix that are kept. Strips of `height` outputs; of the s-th those from start[s] to start[s + 1].
   It is strip order[s] of the matrix: 16x4 strips of like counts follow each other, so that processors foresee when
   a loop over blocks ends. The others are in order.
   16x4: at[b] is the group of inputs, 64 weights as [16 outputs][4 inputs]. The same again strip by strip as tiles
   [16 outputs][16 blocks][4 inputs], zeros behind a strip's last block.
   4x1:  at[4 b ...] are four columns, 16 weights as [4 outputs][4 columns].
   4x4:  at[b] is the group of inputs, 16 weights as [4 outputs][4 inputs]. */
typedef struct {
    const uint32_t *start, *order, *at;
    const int8_t *weights, *tiles;
    uint32_t kept;
} Blocks;

typedef struct {
    uint32_t inputs, outputs;
    float step, zero;         /* of the activations, where the file has them for all tokens; else step is 0 */
    const float *scale;       /* [N] of the weights */
    const float *correction;  /* [N] scale times the sum of the row's weights */
    const float *bias;        /* [N] */
    const int8_t *dense;      /* [N / 16][K / 4][16][4] */
    Blocks strips, columns, squares; /* 16x4, 4x1, 4x4; `start` is NULL where there are none */
} Linear;

typedef struct {
    const float *gain, *bias; /* [D] */
} Norm;

typedef struct {
    uint32_t heads, neurons;  /* as padded */
    Linear qkv, out, up, down;
    Norm first, second;
} Layer;

enum { ACTIVATION_NONE, ACTIVATION_GELU, ACTIVATION_GELU_TANH, ACTIVATION_RELU, ACTIVATION_TANH, ACTIVATIONS };
enum { READS_FIRST, READS_MEAN, READS_ALL, READS }; /* of the tokens; with ALL each is answered */

typedef struct {
    uint32_t layers, width, true_width, vocabulary, positions, types, head_size, activation;
    uint32_t first_position;  /* of the first token */
    uint32_t skip_pad, pad;   /* whether padding ids take no position of their own, as in RoBERTa */
    uint32_t reads, linears, head_activation, outputs;
    uint32_t unit;            /* whether answers, of a head without linears, are made 1 long */
    uint32_t widest;          /* of all rows of a chunk */
    uint32_t most_heads;
    float epsilon;
    const int8_t *words;      /* [vocabulary][D] */
    const float *word_scale;  /* [vocabulary] */
    const float *position, *type; /* [positions][D], [types][D] */
    Norm norm;
    Layer layer[MOST_LAYERS];
    Linear head[MOST_LINEARS];
} Model;

enum { TIME_EMBED, TIME_PRODUCT, TIME_ATTENTION, TIME_ACTIVATION, TIME_NORM, TIME_REST, TIMES };

/* Words from a row of `sums` to the next. Of a multiple of 64 all rows would fall on the same few cache sets. */
static inline size_t bantam_stride(const Linear *l) { return l->outputs + STRIP; }

typedef struct {
    void *memory;
    uint32_t rows;        /* tokens it has room for */
    float *x, *head_x;    /* [rows][D] the residual stream; [rows][D] of the tokens that the head reads */
    uint8_t *xq;          /* [rows][D] */
    uint32_t *qkv;        /* [rows][3 H d / elements a word] */
    float *context;       /* [rows][H d] */
    uint8_t *cq;          /* [CHUNK][widest] */
    float *step, *shift;  /* [rows] of xq: step, and step times zero */
    float *cstep, *cshift; /* [CHUNK] of cq */
    int32_t *sums;        /* [CHUNK][stride] results of a product */
    uint32_t *inter;      /* [widest / 4][CHUNK + 16] its inputs, a group of four bytes a word */
    uint8_t *columns;     /* [widest][CHUNK] the same, byte by byte */
    int32_t *tile;        /* [2][STRIP][CHUNK] */
    uint32_t *inner;      /* as inter, or as cq: bytes of a feed-forward layer's inside */
    uint32_t *gathered;   /* [2][widest / 4][32] inputs of a strip's blocks, of 32 tokens */
    float *line;          /* [widest] */
    uint32_t *queries;    /* [head size][lanes] */
    float *scores;        /* [rows][lanes] */
    uint32_t *values;     /* [rows][head size] */
    uint64_t time[TIMES];
    int timed;
} Workspace;

enum { FORMAT_BEST, FORMAT_DENSE, FORMAT_STRIPS, FORMAT_COLUMNS, FORMAT_SQUARES };

typedef struct {
    const char *name;
    uint32_t elements;    /* of a head that lie in one word of `qkv` */
    /* sums[m][n] = sum over k of x[m][k] * weight[n][k]; x [M][K], M at most CHUNK */
    void (*product)(const Linear *, int format, uint32_t rows, const uint8_t *x, Workspace *);
    void (*forward)(const Model *, Workspace *, const int32_t *ids, const int32_t *types, const int32_t *lengths,
                    uint32_t texts, float *out);
    /* for rehearsals: x [length][D] of one text, see parts.h */
    void (*part)(const Model *, Workspace *, uint32_t part, const int32_t *ids, const int32_t *types, int32_t length,
                 float *x, float *out);
    /* for tests: y[i] = f(x[i]), f an ACTIVATION_* or ACTIVATIONS for 2^x; count is a multiple of 16 */
    void (*apply)(int what, uint32_t count, const float *x, float *y);
    /* for measurements: as many multiplications as `rounds` times what is returned, from registers alone */
    uint32_t (*peak)(uint32_t rounds, int32_t *sum);
} Path;

extern const Path bantam_plain;
#if defined(__x86_64__)
extern const Path bantam_avx2, bantam_avxvnni, bantam_avx512, bantam_avx512bf16, bantam_amx;
#endif

/* NULL, or why the file is refused */
const char *bantam_read(const void *data, size_t size, Model *);

#endif
