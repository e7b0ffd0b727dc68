/* The functions that the library shows: choose a path, open a model file, run texts. Nothing here allocates once a
workspace is made. */
#define _DEFAULT_SOURCE /* syscall */
#include "arena.h"
#include "compiler.h"
#include "engine.h"

#include <stdlib.h>
#include <string.h>

enum { OK, NO_MEMORY, BAD_LENGTH, BAD_ID, BAD_TYPE };

static const Path *const PATHS[] = {
#if defined(__x86_64__)
#ifndef WITHOUT_TILES
    &bantam_amx,
#endif
    &bantam_avx512bf16, &bantam_avx512, &bantam_avxvnni, &bantam_avx2,
#endif
    &bantam_plain,
};

enum { PATHS_COUNT = sizeof PATHS / sizeof *PATHS };

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* vpdpbusd in the VEX form; __builtin_cpu_supports of gcc 12 does not know it. */
static int has_avx_vnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

#ifndef WITHOUT_TILES
/* Tiles of bytes and of bf16; that the system saves tiles; that it lets this process have them. It is asked for that once, and
children and threads inherit it. It refuses where a thread's stack for signals has no room for tiles. */
static int has_tiles(void)
{
#if defined(__linux__)
    enum { TILES_AND_BOTH = 3u << 24 | 1u << 22, SAVED = 3u << 17, ASK_FOR = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILES_AND_BOTH) != TILES_AND_BOTH)
        return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & SAVED) == SAVED && syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
#else
    return 0;
#endif
}
#endif

static int runs(const Path *path)
{
    __builtin_cpu_init(); /* looks at what the system saves of the registers, too */
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vnni");
    const int bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
#ifndef WITHOUT_TILES
    if (path == &bantam_amx)
        return bf16 && has_tiles();
#endif
    if (path == &bantam_avx512bf16)
        return bf16;
    if (path == &bantam_avx512)
        return avx512;
    if (path == &bantam_avxvnni)
        return avx2 && has_avx_vnni();
    return path == &bantam_avx2 ? avx2 : 1;
}
#else
static int runs(const Path *path) { return path == &bantam_plain; }
#endif

SHOWN uint32_t bantam_abi(void) { return BANTAM_ABI; }

/* The name of the path at `index`, best first, NULL past the last; whether this processor runs it in `possible`. */
SHOWN const char *bantam_path(uint32_t index, uint32_t *possible)
{
    if (index >= PATHS_COUNT)
        return NULL;
    *possible = (uint32_t)runs(PATHS[index]);
    return PATHS[index]->name;
}

/* NULL, or why the file at `data` is refused. On success `opened` is to be closed, and `data` stays where it is until
then; `shape` is {vocabulary, longest text, types, outputs, reads, width}. */
SHOWN const char *bantam_open(const void *data, size_t size, Model **opened, uint32_t *shape)
{
    Model *m = malloc(sizeof *m);
    if (!m)
        return "there is no memory for it";
    const char *refusal = bantam_read(data, size, m);
    if (refusal) {
        free(m);
        return refusal;
    }
    const uint32_t found[6] = {m->vocabulary, m->positions - m->first_position, m->types, m->outputs, m->reads, m->width};
    memcpy(shape, found, sizeof found);
    *opened = m;
    return NULL;
}

SHOWN void bantam_close(Model *m) { free(m); }

/* Buffers for texts of up to `longest` tokens; returns the bytes they take. */
static size_t lay_out(const Model *m, Workspace *ws, void *memory, uint32_t longest)
{
    const size_t most = (size_t)longest + FEWEST - 1; /* of a pass */
    const size_t rows = (most > TOGETHER ? most : TOGETHER) + CHUNK; /* tiles read past the last row */
    const size_t inner = (size_t)m->most_heads * m->head_size, D = m->width, widest = m->widest;
    Arena a = {.memory = memory};
    ws->rows = (uint32_t)rows - CHUNK;
    ws->x = carve(&a, rows * D, sizeof(float));
    ws->head_x = carve(&a, rows * D, sizeof(float));
    ws->xq = carve(&a, rows * D, 1);
    ws->qkv = carve(&a, rows * 3 * inner + 64, sizeof(uint32_t));
    ws->context = carve(&a, rows * inner, sizeof(float));
    ws->cq = carve(&a, CHUNK * widest, 1);
    ws->step = carve(&a, rows, sizeof(float));
    ws->shift = carve(&a, rows, sizeof(float));
    ws->cstep = carve(&a, CHUNK, sizeof(float));
    ws->cshift = carve(&a, CHUNK, sizeof(float));
    ws->sums = carve(&a, CHUNK * (widest + STRIP), sizeof(int32_t));
    ws->inter = carve(&a, widest / GROUP * (CHUNK + 16), sizeof(uint32_t));
    ws->columns = carve(&a, widest * CHUNK, 1);
    ws->tile = carve(&a, 2 * STRIP * CHUNK, sizeof(int32_t));
    ws->inner = carve(&a, widest / GROUP * (CHUNK + 16), sizeof(uint32_t));
    ws->gathered = carve(&a, 2 * (size_t)widest / GROUP * 32 + 2 * 16 * 32, sizeof(uint32_t));
    ws->line = carve(&a, widest, sizeof(float));
    ws->queries = carve(&a, (size_t)m->head_size * 16 + 256, sizeof(uint32_t));
    ws->scores = carve(&a, (rows + 16) * 16, sizeof(float));
    ws->values = carve(&a, rows * m->head_size, sizeof(uint32_t));
    return a.used;
}

SHOWN Workspace *bantam_workspace(const Model *m, uint32_t timed)
{
    Workspace *ws = calloc(1, sizeof *ws);
    if (!ws)
        return NULL;
    const size_t size = lay_out(m, ws, NULL, m->positions - m->first_position);
    ws->memory = aligned_memory(size);
    if (!ws->memory) {
        free(ws);
        return NULL;
    }
    memset(ws->memory, 0, size); /* also touches each page, now rather than in a caller's time */
    lay_out(m, ws, ws->memory, m->positions - m->first_position);
    ws->timed = timed != 0;
    return ws;
}

SHOWN void bantam_free(Workspace *ws)
{
    if (ws)
        free(ws->memory);
    free(ws);
}

SHOWN void bantam_times(Workspace *ws, uint64_t *times)
{
    memcpy(times, ws->time, sizeof ws->time);
    memset(ws->time, 0, sizeof ws->time);
}

static int check(const Model *m, const int32_t *ids, const int32_t *types, const int32_t *lengths, uint32_t texts)
{
    for (uint32_t t = 0; t < texts; t++) {
        if (lengths[t] < 1 || (uint32_t)lengths[t] > m->positions - m->first_position)
            return BAD_LENGTH;
        for (int32_t i = 0; i < lengths[t]; i++, ids++) {
            if (*ids < 0 || (uint32_t)*ids >= m->vocabulary)
                return BAD_ID;
            if (types && (*types < 0 || (uint32_t)*types >= m->types))
                return BAD_TYPE;
            types += types != NULL;
        }
    }
    return OK;
}

/* ids, types (or NULL) of all texts in a row, their lengths; out [texts or tokens][outputs]. 0, or what is wrong. */
SHOWN int bantam_run(const Model *m, uint32_t path, Workspace *ws, const int32_t *ids, const int32_t *types,
                     const int32_t *lengths, uint32_t texts, float *out)
{
    const int wrong = check(m, ids, types, lengths, texts);
    if (wrong)
        return wrong;
    for (uint32_t t = 0; t < texts;) {
        uint32_t end = t, tokens = 0;
        while (end < texts && (tokens < FEWEST || tokens + (uint32_t)lengths[end] <= TOGETHER))
            tokens += (uint32_t)lengths[end++];
        PATHS[path]->forward(m, ws, ids, types, lengths + t, end - t, out);
        out += (size_t)(m->reads == READS_ALL ? tokens : end - t) * m->outputs;
        ids += tokens;
        types = types ? types + tokens : NULL;
        t = end;
    }
    return OK;
}

/* For rehearsals: a part of the network alone, x [length][D] of one text and its ids as in bantam_run. */
SHOWN int bantam_part(const Model *m, uint32_t path, Workspace *ws, uint32_t part, const int32_t *ids,
                      const int32_t *types, int32_t length, float *x, float *out)
{
    const int wrong = check(m, ids, types, &length, 1);
    if (wrong)
        return wrong;
    PATHS[path]->part(m, ws, part, ids, types, length, x, out);
    return OK;
}

/* For tests and measurements: the product of a layer's matrix 0 qkv, 1 out, 2 up, 3 down, in one of the formats. */
SHOWN int bantam_product(const Model *m, uint32_t path, Workspace *ws, uint32_t layer, uint32_t which, int format,
                         uint32_t rows, const uint8_t *x, int32_t *sums, uint32_t repeat)
{
    if (layer >= m->layers || which > 3 || rows > CHUNK || path >= PATHS_COUNT)
        return BAD_LENGTH;
    const Layer *l = &m->layer[layer];
    const Linear *linears[4] = {&l->qkv, &l->out, &l->up, &l->down}, *found = linears[which];
    const void *have[] = {found, found->dense, found->strips.start, found->columns.start, found->squares.start};
    if (format < FORMAT_BEST || format > FORMAT_SQUARES || !have[format])
        return BAD_ID;
    memcpy(ws->cq, x, (size_t)rows * found->inputs);
    for (uint32_t i = 0; i < repeat; i++)
        PATHS[path]->product(found, format, rows, ws->cq, ws);
    for (uint32_t m = 0; m < rows; m++)
        memcpy(sums + (size_t)m * found->outputs, ws->sums + m * bantam_stride(found), found->outputs * sizeof(int32_t));
    return OK;
}

SHOWN void bantam_apply(uint32_t path, int what, uint32_t count, const float *x, float *y)
{
    PATHS[path]->apply(what, count, x, y);
}

SHOWN uint32_t bantam_peak(uint32_t path, uint32_t rounds, int32_t *sum) { return PATHS[path]->peak(rounds, sum); }
