/* Products in plain C, the measure of all others. */

static void dense(const Linear *l, uint32_t rows, const uint8_t *x, int32_t *sums)
{
    const uint32_t groups = l->inputs / GROUP;
    for (uint32_t s = 0; s < l->outputs / STRIP; s++)
        for (uint32_t m = 0; m < rows; m++) {
            const int8_t *w = l->dense + (size_t)s * groups * 64;
            int32_t a[STRIP] = {0};
            for (uint32_t g = 0; g < groups; g++, w += 64) {
                const uint8_t *bytes = x + (size_t)m * l->inputs + g * GROUP;
                for (int n = 0; n < STRIP; n++)
                    for (int k = 0; k < GROUP; k++)
                        a[n] += bytes[k] * w[n * GROUP + k];
            }
            memcpy(sums + m * bantam_stride(l) + s * STRIP, a, sizeof a);
        }
}

static void strips(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    for (uint32_t s = 0; s < l->outputs / STRIP; s++)
        for (uint32_t m = 0; m < rows; m++) {
            int32_t a[STRIP] = {0};
            for (uint32_t b = l->strips.start[s]; b < l->strips.start[s + 1]; b++) {
                const uint8_t *bytes = (const uint8_t *)(x + l->strips.at[b] * T + m);
                const int8_t *w = l->strips.weights + (size_t)b * 64;
                for (int n = 0; n < STRIP; n++)
                    for (int k = 0; k < GROUP; k++)
                        a[n] += bytes[k] * w[n * GROUP + k];
            }
            memcpy(ws->sums + m * bantam_stride(l) + l->strips.order[s] * STRIP, a, sizeof a);
        }
}

/* There is no instruction to compare with. */
static uint32_t peak(uint32_t rounds, int32_t *sum)
{
    (void)rounds, (void)sum;
    return 0;
}
