/* Texts to words: serve/ngram/words.py, 64 bytes at a time where they are ASCII. A path defines, before this,

   mark(characters, bytes, count, letters, marks): reads `count` bytes (1 to 64), writes up to 64 letters; bits of what
       lies behind `count` are 0
   positions(bits, base, to): writes base + the place of each bit, and up to 64 words more than that, and returns
       how many there are */

/* The next character of a text: its bytes, or 1 where they are none of UTF-8's, and its code point in `code`. */
static size_t decode(const uint8_t *text, size_t bytes, uint32_t *code)
{
    const uint8_t lead = text[0];
    const size_t size = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    *code = size == 1 ? lead : lead & (0xffu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if (i >= bytes || (text[i] & 0xc0) != 0x80)
            return *code = 0, 1;
        *code = *code << 6 | (text[i] & 0x3f);
    }
    if (size == 0 || *code > 0x10ffff)
        return *code = 0, 1;
    return size;
}

/* At most 4 bytes, of any number below 2^21. */
static unsigned encode(uint32_t code, uint8_t *to)
{
    if (code < 0x80)
        return to[0] = (uint8_t)code, 1;
    const unsigned size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (unsigned i = size; i-- > 1; code >>= 6)
        to[i] = 0x80 | (code & 0x3f);
    to[0] = (uint8_t)(0xf00u >> size | (code & (0x7fu >> size)));
    return size;
}

/* The bits of `count` more bytes; those behind them stay 0, so that the next ones can be or-ed to them. */
INLINE void append(NgramWorkspace *ws, const Marks *m, unsigned count)
{
    const size_t word = ws->at / 64, bit = ws->at % 64;
    uint64_t *const bits[] = {ws->inside, ws->first, ws->last, ws->apostrophes};
    const uint64_t more[] = {m->inside, m->first, m->last, m->apostrophes};
    for (int i = 0; i < 4; i++) {
        bits[i][word] |= more[i] << bit;
        bits[i][word + 1] = more[i] >> 1 >> (63 - bit);
    }
    ws->at += count;
}

/* One character by the table. Returns its bytes. */
static size_t look_up(const Characters *c, NgramWorkspace *ws, const uint8_t *text, size_t bytes)
{
    uint32_t code;
    const size_t size = decode(text, bytes, &code);
    const uint32_t entry = (uint32_t)c->pages[(size_t)c->index[code >> 8] * 256 + (code & 0xff)];
    const uint32_t kind = entry >> 24;
    uint8_t *to = ws->letters + ws->at;
    Marks m = {0};
    unsigned count = 1;
    to[0] = kind == APOSTROPHE ? '\'' : ' ';
    if (kind == LETTER || kind == ALONE)
        count = encode(entry & 0x1fffff, to);
    m.inside = kind == LETTER ? (1u << count) - 1 : 0;
    m.first = kind == ALONE;
    m.last = kind == ALONE ? 1u << (count - 1) : 0;
    m.apostrophes = kind == APOSTROPHE;
    if (kind != DROPPED)
        append(ws, &m, count);
    return size;
}

INLINE int bit(const uint64_t *bits, size_t at) { return bits[at / 64] >> (at % 64) & 1; }
INLINE void flip(uint64_t *bits, size_t at) { bits[at / 64] ^= 1ULL << (at % 64); }

/* Whether the run of letters at `at` is an English ending: 1, or 2 where it is "t". */
static int ending(const NgramWorkspace *ws, size_t at)
{
    const uint8_t *run = ws->letters + at;
    if (!bit(ws->inside, at))
        return 0;
    if (!bit(ws->inside, at + 1))
        return run[0] == 't' ? 2 : run[0] == 's' || run[0] == 'd' || run[0] == 'm';
    return !bit(ws->inside, at + 2) &&
           ((run[1] == 'e' && (run[0] == 'r' || run[0] == 'v')) || (run[0] == 'l' && run[1] == 'l'));
}

/* "it's" is "it" and "'s", "don't" is "do" and "n't": moves the bits where words begin and where they end. */
static void contract(NgramWorkspace *ws, size_t from, size_t at)
{
    const int found = ending(ws, at + 1);
    if (found == 1) {
        flip(ws->first, at);
        flip(ws->first, at + 1);
    } else if (found == 2 && at > from && bit(ws->inside, at - 1) && ws->letters[at - 1] == 'n') {
        flip(ws->first, at + 1);
        flip(ws->last, at);
        if (!bit(ws->first, at - 1)) { /* something is left before the n */
            flip(ws->first, at - 1);
            flip(ws->last, at - 1);
        }
    }
}

/* From runs and characters that stand alone to where words begin and where they end, in `first` and `last`. */
INLINE int edges(NgramWorkspace *ws, size_t from)
{
    uint64_t run = 0, alone = 0, apostrophes = 0; /* the bits before */
    for (size_t i = from / 64; i <= ws->at / 64; i++) {
        const uint64_t inside = ws->inside[i], last = ws->last[i], before = inside << 1 | run;
        ws->first[i] |= inside & ~before;
        ws->last[i] = (before & ~inside) | last << 1 | alone;
        run = inside >> 63;
        alone = last >> 63;
        apostrophes |= ws->apostrophes[i];
    }
    return apostrophes != 0;
}

static int split(const Characters *c, NgramWorkspace *ws, const uint8_t *text, size_t bytes, uint64_t most)
{
    const size_t from = ws->at;
    uint64_t *const bits[] = {ws->inside, ws->first, ws->last, ws->apostrophes};
    for (int i = 0; i < 4; i++)
        bits[i][from / 64] = 0;
    for (size_t i = 0; i < bytes;) {
        Marks m;
        unsigned count = bytes - i < 64 ? (unsigned)(bytes - i) : 64;
        mark(c, text + i, count, ws->letters + ws->at, &m);
        if (m.foreign) {
            count = (unsigned)__builtin_ctzll(m.foreign);
            const uint64_t before = (1ULL << count) - 1;
            m = (Marks){m.inside & before, m.first & before, m.last & before, m.apostrophes & before, 0};
        }
        append(ws, &m, count);
        for (i += count; i < bytes && c->kind[text[i]] == FOREIGN;)
            i += look_up(c, ws, text + i, bytes - i);
    }
    if (edges(ws, from))
        for (size_t i = from / 64; i <= ws->at / 64; i++)
            for (uint64_t left = ws->apostrophes[i]; left; left &= left - 1)
                contract(ws, from, i * 64 + (size_t)__builtin_ctzll(left));
    uint32_t *start = ws->start + ws->words, *end = ws->end + ws->words;
    for (size_t i = from / 64; i <= ws->at / 64 && (size_t)(start - ws->start) <= ws->words + most; i++)
        start += positions(ws->first[i], (uint32_t)(i * 64), start);
    for (size_t i = from / 64; i <= ws->at / 64 && (size_t)(end - ws->end) <= ws->words + most; i++)
        end += positions(ws->last[i], (uint32_t)(i * 64), end);
    const size_t found = (size_t)(start - ws->start) - ws->words;
    ws->words += (uint32_t)(found < most ? found : most);
    ws->at = (ws->at + 64) / 64 * 64;
    return found > most;
}
