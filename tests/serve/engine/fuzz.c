/* Model files changed at random: the loader refuses each, or it runs on every path without touching what is not its.
Built with the address and undefined-behaviour sanitizers by test_file.py.  fuzz SEED ROUNDS FILE... */
#include "engine.c"
#include "draw.h"

#include <stdio.h>

static const uint32_t ODD[] = {0, 1, 2, 3, 15, 16, 17, 48, 64, 255, 256, 8192, 8193, 16384, 16400, 65536,
                               0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff};

static void change(unsigned char *data, size_t *size)
{
    for (uint32_t times = 1 + draw(3); times > 0; times--) {
        /* mostly where counts lie: the description, and the words at multiples of 64 */
        size_t at = draw(3) ? draw(3) ? 64 + 4 * draw(17) : 64 * (size_t)draw((uint32_t)(*size / 64)) + 4 * draw(2)
                            : (size_t)draw((uint32_t)*size);
        uint32_t value = draw(2) ? ODD[draw(sizeof ODD / sizeof *ODD)] : draw(1u << 31);
        if (at + 4 <= *size && draw(4))
            memcpy(data + at, &value, 4);
        else if (at < *size)
            data[at] ^= (unsigned char)(1u << draw(8));
        if (!draw(12))
            *size = draw((uint32_t)*size) + 1;
    }
}

/* Each part of the network for one text, of which some are to be refused; x and out of their very sizes. */
static uint32_t run_parts(const Model *m, uint32_t path, Workspace *ws)
{
    const uint32_t longest = m->positions - m->first_position;
    uint32_t runs_done = 0;
    for (uint32_t part = 0; part <= m->layers + 1; part++) {
        const uint32_t length = 1 + draw(longest < 120 ? longest : 120), beyond = part == m->layers + 1;
        int32_t ids[120], types[120];
        for (uint32_t i = 0; i < length; i++) {
            ids[i] = (int32_t)draw(m->vocabulary);
            types[i] = (int32_t)draw(m->types);
        }
        if (!draw(8))
            types[draw(length)] = -1;
        float *x = malloc((size_t)length * m->width * sizeof *x);
        float *out = malloc((m->reads == READS_ALL ? length : 1) * (size_t)m->outputs * sizeof *out);
        for (size_t i = 0; i < (size_t)length * m->width; i++)
            x[i] = (float)draw(2000) / 500 - 2;
        bantam_part(m, path, ws, beyond && draw(2) ? UINT32_MAX : part, ids, types, (int32_t)length, x, out);
        free(x);
        free(out);
        runs_done++;
    }
    return runs_done;
}

static uint32_t run_all(const Model *m, uint32_t *parts)
{
    const uint32_t longest = m->positions - m->first_position;
    uint32_t runs_done = 0;
    Workspace *ws = bantam_workspace(m, 1);
    if (!ws) /* a model that claims more than the machine has */
        return 0;
    for (uint32_t p = 0; p < PATHS_COUNT; p++) {
        if (!runs(PATHS[p]))
            continue;
        int32_t lengths[8], ids[1024], types[1024];
        uint32_t texts = 1 + draw(8), tokens = 0;
        for (uint32_t t = 0; t < texts; t++) {
            lengths[t] = 1 + (int32_t)draw(longest < 120 ? longest : 120);
            for (int32_t i = 0; i < lengths[t]; i++, tokens++) {
                ids[tokens] = (int32_t)draw(m->vocabulary);
                types[tokens] = (int32_t)draw(m->types);
            }
        }
        if (!draw(8))
            ids[draw(tokens)] = (int32_t)(m->vocabulary + draw(5)); /* to be refused */
        const size_t rows = m->reads == READS_ALL ? tokens : texts;
        float *out = malloc(rows * m->outputs * sizeof *out);
        bantam_run(m, p, ws, ids, types, lengths, texts, out);
        free(out);
        runs_done++;
        *parts += run_parts(m, p, ws);
    }
    bantam_free(ws);
    return runs_done;
}

int main(int count, char **arguments)
{
    uint32_t refused = 0, accepted = 0, ran = 0, parts = 0;
    if (count < 4)
        return 2;
    state = 88172645463325252ULL + strtoull(arguments[1], NULL, 10);
    for (long round = 0; round < atol(arguments[2]); round++) {
        FILE *file = fopen(arguments[3 + round % (count - 3)], "rb");
        if (!file)
            return 2;
        fseek(file, 0, SEEK_END);
        size_t size = (size_t)ftell(file);
        rewind(file);
        unsigned char *seed = malloc(size);
        if (!seed || fread(seed, 1, size, file) != size)
            return 2;
        fclose(file);
        if (round >= count - 3) /* the first time as it is */
            change(seed, &size);
        unsigned char *data = NULL; /* of its very size, so that a byte beyond it is seen */
        if (posix_memalign((void **)&data, 64, size))
            return 2;
        memcpy(data, seed, size);
        free(seed);
        Model *m = NULL;
        uint32_t shape[6];
        if (bantam_open(data, size, &m, shape))
            refused++;
        else {
            accepted++;
            if ((uint64_t)shape[1] * shape[5] < 1u << 16)
                ran += run_all(m, &parts);
            bantam_close(m);
        }
        free(data);
    }
    printf("%u refused, %u accepted, %u runs, %u parts\n", refused, accepted, ran, parts);
    return 0;
}
