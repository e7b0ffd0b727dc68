/* The n-gram student in C: its structures, shared by ngram.c and the code of each path. What it computes stands in
serve/ngram: words.py, keys.py, lookup.py and runtime.py, whose answers it gives bit for bit.

Words: an *entry* is one text of those that are answered, or one of the two of a pair. A *block* is some entries that
walk through the stages together, so that what one stage asks of memory is there when the next one reads it. */
#ifndef BANTAM_NGRAM_H
#define BANTAM_NGRAM_H

#include <stddef.h>
#include <stdint.h>

#define NGRAM_ABI 1

enum {
    BLOCK_BYTES = 4096,   /* of a block's texts, unless one alone has more */
    BLOCK_ENTRIES = 64,   /* even, so that no pair is torn apart */
    LARGEST_ENTRY = 1 << 29, /* bytes of a text: four times as many fit into 32 bits */
    MOST_ORDERS = 4,
    STRIDE = 16,          /* floats that rows of the layers' weights and results are padded to */
    TILE = 8              /* texts that a layer takes at once, at most */
};

enum { SEPARATOR, LETTER, ALONE, APOSTROPHE, DROPPED, FOREIGN }; /* FOREIGN, of a byte: ask the table */
enum { TANH, RELU };

/* Which word each character belongs to. The table of code point c is pages[index[c / 256] * 256 + c % 256]: its kind
in the upper bits, what stands for it in the lower 24. */
typedef struct {
    const uint16_t *index; /* [4352] */
    const int32_t *pages;
    int usual;             /* whether ASCII is as serve/ngram/words.py has it, which paths may know by heart */
    uint8_t kind[256], letter[256]; /* of a byte */
} Characters;

/* As Python gives it, in 64-bit numbers each. */
typedef struct {
    const int8_t *rows;           /* [slots + 1][width] */
    const float *scale;           /* [width] */
    const uint64_t *keys;         /* [slots] */
    const uint8_t *tags;          /* [slots] */
    const uint16_t *displacement; /* [2^bucket_bits] */
    const uint16_t *index;
    const int32_t *pages;
    const float *dense_weight, *dense_bias, *out_weight, *out_bias; /* [hidden][features], [classes][hidden] */
    uint64_t pages_count, width, hidden, classes, slot_bits, bucket_bits, orders, inputs, activation, most_words;
    uint64_t bucket_multiplier, slot_multiplier;
} Given;

typedef struct {
    uint32_t inputs, outputs, stride; /* stride: outputs, padded */
    const float *weights;             /* [inputs][stride] */
    const float *bias;                /* [stride] */
} Dense;

typedef struct {
    Given given;
    Characters characters;
    Dense dense, out;
    void *memory;
} NgramModel;

enum { TIME_SPLIT, TIME_LOOKUP, TIME_ROWS, TIME_LAYERS, NGRAM_TIMES };

typedef struct {
    size_t room, most_words;      /* bytes of a block's texts, words of an entry */
    uint64_t orders;
    void *memory, *fixed;
    uint8_t *letters;             /* the block's texts, spelt as in their words; each begins at a multiple of 64 */
    uint64_t *inside, *first, *last, *apostrophes; /* a bit a byte: of runs; of what stands alone; apostrophes */
    uint32_t *start, *end;        /* [words] in `letters` */
    uint64_t *word;               /* [words] keys */
    uint64_t *gram;               /* [words * orders] keys */
    uint32_t *slot;               /* [words * orders] where they would lie, then where those found lie */
    float *features, *hidden, *logits; /* [BLOCK_ENTRIES + TILE][features, stride, stride] */
    float *mean;                  /* [2][width] */
    int32_t *sum;                 /* [width] */
    uint32_t entries, words, hits;
    size_t at;                    /* in `letters`, where the next one begins */
    uint32_t word_end[BLOCK_ENTRIES], hit_end[BLOCK_ENTRIES];
    uint8_t cut[BLOCK_ENTRIES];   /* whether it had more than `most_words` */
    uint64_t time[NGRAM_TIMES];
    int timed;
} NgramWorkspace;

/* The code for one kind of processor. All give the same bits. */
typedef struct {
    const char *name;
    /* Appends an entry of the block: its words, at most `most`, and more than that is 1. */
    int (*split)(const Characters *, NgramWorkspace *, const uint8_t *text, size_t bytes, uint64_t most);
    void (*keys)(NgramWorkspace *);                    /* word [words] of the block */
    void (*find)(const NgramModel *, NgramWorkspace *); /* slot [hits], hit_end */
    void (*rows)(const NgramModel *, NgramWorkspace *); /* features [texts][inputs of the dense layer] */
    void (*layers)(const NgramModel *, NgramWorkspace *); /* logits [texts][stride] */
} NgramPath;

extern const NgramPath bantam_ngram_plain;
#if defined(__x86_64__)
extern const NgramPath bantam_ngram_avx2, bantam_ngram_avx512;
#endif

/* What each byte is, by a table whose every page is there; 0 where one is not. */
int bantam_ngram_characters(Characters *, const uint16_t *index, const int32_t *pages, uint64_t count);

#endif
