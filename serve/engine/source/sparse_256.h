/* Blocks four outputs high on 256 bits: 16 tokens lie side by side in two vectors, each weight goes to both. */

/* Words [K / 4][T] as columns of bytes [K][CHUNK] */
static void split_columns(const uint32_t *x, size_t T, uint32_t K, uint32_t rows, uint8_t *to)
{
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (uint32_t g = 0; g < K / GROUP; g++)
        for (uint32_t m = 0; m < rows; m += 16) {
            __m128i r[4];
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                r[i] = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(x + g * T + m + 4 * i)), order);
            __m128i low01 = _mm_unpacklo_epi32(r[0], r[1]), high01 = _mm_unpackhi_epi32(r[0], r[1]);
            __m128i low23 = _mm_unpacklo_epi32(r[2], r[3]), high23 = _mm_unpackhi_epi32(r[2], r[3]);
            uint8_t *column = to + (size_t)g * 4 * CHUNK + m;
            _mm_storeu_si128((void *)column, _mm_unpacklo_epi64(low01, low23));
            _mm_storeu_si128((void *)(column + CHUNK), _mm_unpackhi_epi64(low01, low23));
            _mm_storeu_si128((void *)(column + 2 * CHUNK), _mm_unpacklo_epi64(high01, high23));
            _mm_storeu_si128((void *)(column + 3 * CHUNK), _mm_unpackhi_epi64(high01, high23));
        }
}

/* Words of 16 tokens from four columns */
INLINE void join_columns(const uint8_t *x, const uint32_t *at, I *words)
{
    __m128i r[4];
    UNROLL(4)
    for (int i = 0; i < 4; i++)
        r[i] = _mm_loadu_si128((const void *)(x + (size_t)at[i] * CHUNK));
    __m128i low01 = _mm_unpacklo_epi8(r[0], r[1]), high01 = _mm_unpackhi_epi8(r[0], r[1]);
    __m128i low23 = _mm_unpacklo_epi8(r[2], r[3]), high23 = _mm_unpackhi_epi8(r[2], r[3]);
    words[0] = _mm256_set_m128i(_mm_unpackhi_epi16(low01, low23), _mm_unpacklo_epi16(low01, low23));
    words[1] = _mm256_set_m128i(_mm_unpackhi_epi16(high01, high23), _mm_unpacklo_epi16(high01, high23));
}

/* Four outputs of 16 tokens: of blocks 4x4 from words, of blocks 4x1 from columns */
INLINE void four_tile(const int squares, const uint32_t *at, const int8_t *w, uint32_t kept, const uint32_t *x, size_t T,
                      const uint8_t *columns, int32_t *tile)
{
    V a[8];
    UNROLL(8)
    for (int i = 0; i < 8; i++)
        a[i] = v_zero();
    UNROLL(1)
    for (uint32_t b = 0; b < kept; b++, w += 16) {
        I words[2];
        if (squares) {
            words[0] = _mm256_loadu_si256((const void *)(x + at[b] * T));
            words[1] = _mm256_loadu_si256((const void *)(x + at[b] * T + 8));
        } else
            join_columns(columns, at + 4 * (size_t)b, words);
        Bytes first = v_words(words[0]), second = v_words(words[1]);
        UNROLL(4)
        for (int n = 0; n < 4; n++) {
            Weights weights = v_weight(w + 4 * n);
            a[2 * n] = v_dot(a[2 * n], first, weights);
            a[2 * n + 1] = v_dot(a[2 * n + 1], second, weights);
        }
    }
    UNROLL(8)
    for (int i = 0; i < 8; i++)
        _mm256_storeu_si256((void *)(tile + (i / 2) * CHUNK + (i % 2) * 8), a[i]);
}

INLINE void fours(const int squares, const Blocks *c, const Linear *l, uint32_t rows, const uint32_t *x, size_t T,
                  Workspace *ws)
{
    for (uint32_t s = 0; s < l->outputs / 4; s++) {
        const uint32_t b = c->start[s], kept = c->start[s + 1] - b;
        const uint32_t *at = c->at + (squares ? 1 : 4) * (size_t)b;
        int32_t *tile = ws->tile + s % 4 * 4 * CHUNK;
        for (uint32_t m = 0; m < rows; m += 16)
            four_tile(squares, at, c->weights + 16 * (size_t)b, kept, x + m, T, ws->columns + m, tile + m);
        if (s % 4 == 3) /* 16 outputs of all tokens become rows; sums has room for whole chunks */
            for (uint32_t n = 0; n < STRIP; n += LANES)
                for (uint32_t m = 0; m < rows; m += LANES)
                    transpose((const uint32_t *)ws->tile + n * CHUNK + m, CHUNK,
                              (uint32_t *)ws->sums + m * bantam_stride(l) + (s - 3) * 4 + n, bantam_stride(l));
    }
}

static void columns(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    split_columns(x, T, l->inputs, rows, ws->columns);
    fours(0, &l->columns, l, rows, x, T, ws);
}

static void squares(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    fours(1, &l->squares, l, rows, x, T, ws);
}
