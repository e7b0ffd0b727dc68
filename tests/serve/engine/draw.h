/* Random numbers of the fuzzers: xorshift64*, the same on every machine. */
#include <stdint.h>

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 2685821657736338717ULL) >> 33) % below;
}
