/* From logits to scores, and from scores to JSON: what runtime.py's softmax and protocols/ranked.py give, byte for byte. */
#include "compiler.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MOST = 16 }; /* labels that are ranked here */

static char *put(char *out, const char *text, size_t size)
{
    memcpy(out, text, size);
    return out + size;
}

/* scores [texts][labels] of logits, in double precision and rounded once; 0 where they are no finite numbers. */
SHOWN int bantam_softmax(const float *logits, uint64_t texts, uint64_t labels, float *scores)
{
    double powers[MOST];
    if (labels == 0 || labels > MOST)
        return 0;
    for (; texts--; logits += labels, scores += labels) {
        double total = 0, highest = logits[0];
        for (uint64_t i = 0; i < labels; i++) {
            if (!isfinite(logits[i]))
                return 0;
            highest = logits[i] > highest ? logits[i] : highest;
        }
        for (uint64_t i = 0; i < labels; i++)
            total += powers[i] = logits[i] == highest ? 1.0 : exp(logits[i] - highest);
        for (uint64_t i = 0; i < labels; i++)
            scores[i] = (float)(powers[i] / total);
    }
    return 1;
}

/* A list for each text, a comma behind each; starts [texts + 1] of them in `out`. `numbers` are the scores as JSON, in
rows or flat; `names` stand behind a label's score and end at `ends`. */
SHOWN void bantam_ranked(const float *scores, uint64_t texts, uint64_t labels, const char *numbers, const char *names,
                         const uint64_t *ends, char *out, uint64_t *starts)
{
    static const char OPEN[] = "{\"score\":";
    const char *number[MOST];
    size_t size[MOST];
    uint32_t order[MOST];
    char *const begin = out;
    for (; texts--; scores += labels) {
        for (uint32_t i = 0; i < labels; i++) {
            while (*numbers == '[' || *numbers == ',' || *numbers == ']')
                numbers++;
            number[i] = numbers;
            while (*numbers != ',' && *numbers != ']')
                numbers++;
            size[i] = (size_t)(numbers - number[i]);
            uint32_t at = i;
            for (; at && scores[order[at - 1]] < scores[i]; at--)
                order[at] = order[at - 1];
            order[at] = i;
        }
        *starts++ = (uint64_t)(out - begin);
        *out++ = '[';
        for (uint32_t i = 0; i < labels; i++) {
            const uint32_t one = order[i];
            const uint64_t from = one ? ends[one - 1] : 0;
            if (i)
                *out++ = ',';
            out = put(out, OPEN, sizeof OPEN - 1);
            out = put(out, number[one], size[one]);
            out = put(out, names + from, ends[one] - from);
        }
        *out++ = ']';
        *out++ = ',';
    }
    *starts = (uint64_t)(out - begin);
}
