/* Random vocabularies and random bytes: whatever a text holds, only what was given is read and written.
Built with the address and undefined-behaviour sanitizers by test_wordpiece.py.  fuzz_wordpiece SEED ROUNDS */
#include "wordpiece.c"
#include "draw.h"

#include <stdio.h>
#include <stdlib.h>

/* Of its very size, so that a byte beyond it is seen. Few letters, so that words are found; some of any kind. */
static uint8_t *letters(size_t size)
{
    static const uint8_t LIKELY[] = "abcAB##[] ,\t\xfe\xff\xff";
    uint8_t *made = malloc(size ? size : 1);
    for (size_t i = 0; i < size; i++)
        made[i] = draw(24) ? LIKELY[draw(sizeof LIKELY - 1)] : (uint8_t)draw(256);
    if (size && draw(2))
        memset(made, 'a' + (int)draw(2), draw((uint32_t)size)); /* a long word */
    return made;
}

static void check(int holds)
{
    if (!holds)
        abort();
}

static Vocabulary *vocabulary(const uint8_t *words, size_t bytes, const uint8_t *specials, size_t special_bytes)
{
    uint32_t ids[200], count = draw(200), settings[] = {1, 2, 3, draw(LONGEST_WORD + 2), draw(2)};
    for (uint32_t i = 0; i < count; i++)
        ids[i] = 10 + draw(1u << 30);
    const size_t size = bantam_pieces_size(count);
    Vocabulary *made = malloc(size);
    const int wrong = bantam_pieces_make(made, size, words, bytes, ids, count, specials, special_bytes, settings);
    check(wrong == (settings[3] > LONGEST_WORD));
    if (wrong)
        free(made);
    return wrong ? NULL : made;
}

static uint32_t run(const Vocabulary *v)
{
    const size_t bytes = draw(900);
    uint8_t *data = letters(bytes);
    Results r = {.room = draw(400), .texts = draw(12), .most = draw(60)};
    r.ids = malloc(r.room * sizeof *r.ids + 1);
    r.types = malloc(r.room * sizeof *r.types + 1);
    r.ends = malloc(r.texts * sizeof *r.ends + 1);
    r.became = malloc(r.texts * sizeof *r.became + 1);
    const uint32_t seen = bantam_pieces(v, data, bytes, draw(14), &r);
    uint32_t cut = 0;
    check(seen <= r.texts);
    for (uint32_t t = 0; t < seen; t++) {
        const int64_t length = r.ends[t] - (t ? r.ends[t - 1] : 0);
        check(r.became[t] == IGNORED ? length == 0 : length >= 2 && length <= (int64_t)r.most);
        check(r.became[t] != CUT || length == (int64_t)r.most);
        cut += r.became[t] != IGNORED;
    }
    void *made[] = {data, r.ids, r.types, r.ends, r.became};
    for (int i = 0; i < 5; i++)
        free(made[i]);
    return cut;
}

int main(int count, char **arguments)
{
    uint32_t cut = 0;
    if (count < 3)
        return 2;
    state = 88172645463325252ULL + strtoull(arguments[1], NULL, 10);
    for (long round = 0; round < atol(arguments[2]); round++) {
        const size_t bytes = draw(1500), special_bytes = draw(20);
        uint8_t *words = letters(bytes), *specials = letters(special_bytes);
        Vocabulary *v = vocabulary(words, bytes, specials, special_bytes);
        for (int i = 0; v && i < 20; i++)
            cut += run(v);
        free(v);
        free(words);
        free(specials);
    }
    printf("%u\n", cut);
    return 0;
}
