/* Word pieces of ASCII texts, as the tokenizers library makes them with BERT's rules: control characters go, letters
become small where the vocabulary is of small ones, spaces part words, each punctuation mark is a word, and of a word
the longest piece at its front is taken again and again. Any other text is left to that library.

Nothing here allocates: the table lies in the caller's memory, and so does what is written. */
#include "compiler.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { NEXT = 0xfe, END = 0xff };    /* behind the first text of a pair, between texts: bytes that are not of UTF-8 */
enum { LONGEST_WORD = 256 };         /* letters of a word, at most */
enum { FRONT, INSIDE };              /* of a word; pieces inside have ## before them in the vocabulary */
enum { LETTER, DROPPED, SPACE, MARK, FOREIGN, PART, KINDS = 7, MAY_BE_SPECIAL = 8 };
enum { IGNORED = -1, FITS, CUT };    /* what became of a text */

typedef struct {
    uint32_t hash, at, id; /* `at` of its letters in `words` */
    uint32_t length;       /* of its letters, without ##; 0 in an empty slot */
} Slot;

typedef struct {
    const uint8_t *words, *specials, *specials_end; /* the caller's; specials end with END each */
    uint32_t mask;         /* slots, a power of two, less one */
    uint32_t longest[2];   /* letters of a piece */
    uint32_t most;         /* letters of a word that is looked at; longer ones are unknown */
    uint32_t unknown, first, last;
    uint8_t kind[256], small[256];
    Slot slot[];
} Vocabulary;

/* The caller's. Texts lie one behind the other, `ends` tell where each ends and `became` what became of it. */
typedef struct {
    int64_t *ids, *types;    /* [room] */
    int64_t *ends, *became;  /* [texts] */
    uint64_t room, texts, most; /* most: ids of a text */
} Results;

typedef struct {
    int64_t *start, *at, *limit; /* ids; at `limit` the last one has its place */
    int cut;
} Row;

typedef struct {
    size_t length;                   /* may be more than the letters kept */
    uint8_t letter[LONGEST_WORD];
    uint32_t hash[LONGEST_WORD + 1]; /* of each front part */
} Word;

/* FNV-1a; the second is any other number. Each step maps different hashes to different ones, so the same letters never
hash alike at the front and inside of a word, and an equal hash tells the place. */
static const uint32_t SEED[2] = {2166136261u, 2747636419u};

static inline uint32_t mixed(uint32_t hash, uint8_t letter) { return (hash ^ letter) * 16777619u; }

static inline uint32_t slot_of(const Vocabulary *v, uint32_t hash) { return (hash ^ hash >> 15) & v->mask; }

/* Slots for so many words: at least half of them stay empty, so that each search ends. */
static uint32_t slots_for(uint32_t count)
{
    uint32_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    return slots;
}

static void characters(Vocabulary *v, uint32_t lowercase)
{
    for (uint32_t c = 0; c < 256; c++) {
        v->small[c] = (uint8_t)(lowercase && c >= 'A' && c <= 'Z' ? c + 32 : c);
        v->kind[c] = c < 32 || c == 127 ? DROPPED : c > 127 ? FOREIGN : LETTER;
        if ((c > 32 && c < 48) || (c > 57 && c < 65) || (c > 90 && c < 97) || (c > 122 && c < 127))
            v->kind[c] = MARK;
    }
    v->kind[' '] = v->kind['\t'] = v->kind['\n'] = v->kind['\r'] = SPACE;
    v->kind[NEXT] = v->kind[END] = PART;
}

static void add(Vocabulary *v, uint32_t at, uint32_t length, uint32_t id)
{
    const int inside = length > 2 && v->words[at] == '#' && v->words[at + 1] == '#';
    at += inside ? 2 : 0;
    length -= inside ? 2 : 0;
    if (length == 0 || length > LONGEST_WORD) /* of no word that is looked at */
        return;
    uint32_t hash = SEED[inside], s;
    for (uint32_t i = 0; i < length; i++)
        hash = mixed(hash, v->words[at + i]);
    for (s = slot_of(v, hash); v->slot[s].length; s = (s + 1) & v->mask)
        ;
    v->slot[s] = (Slot){hash, at, id, length};
    if (length > v->longest[inside])
        v->longest[inside] = length;
}

/* Bytes of memory that a vocabulary of `count` words takes, at most 2^24 of them. */
SHOWN size_t bantam_pieces_size(uint32_t count) { return sizeof(Vocabulary) + slots_for(count) * sizeof(Slot); }

/* `words` [count] and `specials`, texts of which none may be cut into pieces, end with END each and stay where they are
as long as the vocabulary is used. `settings` are the ids of the unknown word, of the first and of the last piece of
each text, letters of a word at most, and whether letters become small. 0, or 1 where it does not fit. */
SHOWN int bantam_pieces_make(Vocabulary *v, size_t size, const uint8_t *words, size_t bytes, const uint32_t *ids,
                             uint32_t count, const uint8_t *specials, size_t special_bytes, const uint32_t *settings)
{
    if (count > 1u << 24 || bytes > UINT32_MAX || size < bantam_pieces_size(count) || settings[3] > LONGEST_WORD)
        return 1;
    memset(v, 0, size);
    v->words = words;
    v->mask = slots_for(count) - 1;
    v->unknown = settings[0];
    v->first = settings[1];
    v->last = settings[2];
    v->most = settings[3];
    characters(v, settings[4]);
    for (uint32_t at = 0, start = 0, done = 0; at < bytes && done < count; at++)
        if (words[at] == END) {
            add(v, start, at - start, ids[done++]);
            start = at + 1;
        }
    v->specials = specials;
    v->specials_end = specials + special_bytes;
    for (const uint8_t *s = specials; s < v->specials_end; s++)
        if (*s < 128 && (s == specials || s[-1] == END))
            v->kind[*s] |= MAY_BE_SPECIAL;
    return 0;
}

static const Slot *find(const Vocabulary *v, const uint8_t *letters, uint32_t length, uint32_t hash)
{
    for (uint32_t s = slot_of(v, hash); v->slot[s].length; s = (s + 1) & v->mask) {
        const Slot *found = &v->slot[s];
        if (found->hash == hash && found->length == length && memcmp(v->words + found->at, letters, length) == 0)
            return found;
    }
    return NULL;
}

/* The longest piece that begins at `from`, or NULL. `hash` of the parts that begin there. */
static const Slot *longest(const Vocabulary *v, const Word *w, uint32_t from, const uint32_t *hash)
{
    const int place = from ? INSIDE : FRONT;
    uint32_t length = (uint32_t)w->length - from;
    const Slot *found = NULL;
    for (length = length < v->longest[place] ? length : v->longest[place]; length > 0 && !found; length--)
        found = find(v, w->letter + from, length, hash[length]);
    return found;
}

static inline void put(Row *row, uint32_t id)
{
    if (row->at == row->limit)
        row->cut = 1;
    else
        *row->at++ = id;
}

/* The word's pieces, or the unknown word where no piece begins with what is left of it. */
static void close_word(const Vocabulary *v, Word *w, Row *row)
{
    uint32_t pieces[LONGEST_WORD], hash[LONGEST_WORD + 1], count = 0, from = 0;
    const Slot *found = w->length <= v->most ? longest(v, w, 0, w->hash) : NULL;
    while (found) {
        pieces[count++] = found->id;
        from += found->length;
        if (from == w->length)
            break;
        hash[0] = SEED[INSIDE];
        for (uint32_t i = 0; from + i < w->length; i++)
            hash[i + 1] = mixed(hash[i], w->letter[from + i]);
        found = longest(v, w, from, hash);
    }
    for (uint32_t i = 0; found && i < count; i++)
        put(row, pieces[i]);
    if (!found)
        put(row, v->unknown);
    w->length = 0;
}

static inline void add_letter(const Vocabulary *v, Word *w, uint8_t letter)
{
    if (w->length < v->most) {
        w->letter[w->length] = letter;
        w->hash[w->length + 1] = mixed(w->hash[w->length], letter);
    }
    w->length++;
}

static int is_special(const Vocabulary *v, const uint8_t *at, const uint8_t *end)
{
    for (const uint8_t *s = v->specials, *stop; s < v->specials_end; s = stop + 1) {
        stop = memchr(s, END, (size_t)(v->specials_end - s));
        if (!stop)
            return 0;
        if (stop > s && stop - s <= end - at && memcmp(s, at, (size_t)(stop - s)) == 0)
            return 1;
    }
    return 0;
}

/* Pieces of a text, up to the row's limit or to the byte that ends it, which is returned; NULL where the text is not
to be cut here. What follows the piece that finds no place changes none before it, so nothing but its kind is read. */
static const uint8_t *text(const Vocabulary *v, const uint8_t *at, const uint8_t *end, Row *row)
{
    Word w;
    w.length = 0;
    w.hash[0] = SEED[FRONT];
    for (; at < end && !row->cut; at++) {
        const int kind = v->kind[*at] & KINDS;
        if (v->kind[*at] & MAY_BE_SPECIAL && is_special(v, at, end))
            return NULL;
        if (kind == LETTER) {
            add_letter(v, &w, v->small[*at]);
            continue;
        }
        if (kind == DROPPED)
            continue;
        if (w.length)
            close_word(v, &w, row);
        if (kind == MARK) {
            add_letter(v, &w, *at);
            close_word(v, &w, row);
        } else if (kind != SPACE)
            return kind == PART ? at : NULL;
    }
    if (w.length)
        close_word(v, &w, row);
    while (at < end && *at < 128)
        at++;
    return at < end && v->kind[*at] != PART ? NULL : at;
}

/* A text or a pair: [first] A [last] or [first] A [last] B [last], types 0 up to the first [last] and 1 behind it. A
pair that is too long is not cut here. */
static int row_of(const Vocabulary *v, const uint8_t *at, const uint8_t *end, Row *row, int64_t *types)
{
    put(row, v->first);
    at = text(v, at, end, row);
    if (!at)
        return IGNORED;
    const int pair = at < end && *at == NEXT;
    int64_t *second = NULL;
    if (pair) {
        put(row, v->last);
        second = row->at;
        at = row->cut ? NULL : text(v, at + 1, end, row);
        if (!at || row->cut || (at < end && *at == NEXT))
            return IGNORED;
    }
    *row->at++ = v->last;
    for (int64_t *one = row->start; one < row->at; one++)
        *types++ = pair && one >= second;
    return row->cut ? CUT : FITS;
}

/* `data` holds `count` texts, END between them. Of each, up to `most` ids are written to the results, or nothing where
it is left to others. Returns the texts seen. */
SHOWN uint32_t bantam_pieces(const Vocabulary *v, const uint8_t *data, size_t bytes, uint32_t count, Results *r)
{
    const uint8_t *const last = data + bytes;
    size_t used = 0;
    uint32_t seen = 0;
    while (seen < count && seen < r->texts && r->most > 1) {
        const uint8_t *end = memchr(data, END, (size_t)(last - data));
        end = end ? end : last;
        r->became[seen] = IGNORED;
        if (r->room - used >= r->most) {
            int64_t *start = r->ids + used;
            Row row = {start, start, start + r->most - 1, 0};
            r->became[seen] = row_of(v, data, end, &row, r->types + used);
            used += r->became[seen] == IGNORED ? 0 : (size_t)(row.at - start);
        }
        r->ends[seen++] = (int64_t)used;
        if (end == last)
            break;
        data = end + 1;
    }
    return seen;
}
