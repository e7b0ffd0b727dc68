/* Blocks four outputs high: 64 tokens lie side by side in four vectors, each weight goes to all of them. Results come
out token by token again: 16 outputs of 64 tokens at a time are turned over from a tile in the first-level cache. */

/* Columns as bytes [K][64] or [K][32]. In each vector the 4-byte pieces stand in the order that the unpacking below
turns into that of the tokens. */
static void split_columns(const uint32_t *x, size_t T, uint32_t K, int wide, uint8_t *to)
{
    /* columns of a group of words side by side */
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for (uint32_t g = 0; g < K / GROUP; g++, x += T) {
        __m512i v[4];
        if (wide) {
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                v[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(x + 16 * i), order);
        } else {
            /* of each vector of 16 tokens the upper 8 go to the third and fourth */
            __m512i a = _mm512_shuffle_epi8(_mm512_loadu_si512(x), order);
            __m512i b = _mm512_shuffle_epi8(_mm512_loadu_si512(x + 16), order);
            v[0] = a;
            v[1] = b;
            v[2] = _mm512_shuffle_i64x2(a, a, 0x4e);
            v[3] = _mm512_shuffle_i64x2(b, b, 0x4e);
        }
        __m512i low01 = _mm512_unpacklo_epi32(v[0], v[1]), high01 = _mm512_unpackhi_epi32(v[0], v[1]);
        __m512i low23 = _mm512_unpacklo_epi32(v[2], v[3]), high23 = _mm512_unpackhi_epi32(v[2], v[3]);
        __m512i column[4] = {_mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
                             _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
        if (wide) {
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                _mm512_storeu_si512(to + (size_t)(4 * g + i) * 64, column[i]);
        } else {
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                _mm256_storeu_si256((void *)(to + (size_t)(4 * g + i) * 32), _mm512_castsi512_si256(column[i]));
        }
    }
}

/* Four outputs of 64 tokens: [4][64] */
INLINE void columns_64(const uint32_t *at, const int8_t *w, uint32_t kept, const uint8_t *x, int32_t *tile)
{
    __m512i a[16];
    UNROLL(16)
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_setzero_si512();
    UNROLL(1)
    for (uint32_t b = 0; b < kept; b++, at += 4, w += 16) {
        __m512i r0 = _mm512_loadu_si512(x + (size_t)at[0] * 64), r1 = _mm512_loadu_si512(x + (size_t)at[1] * 64);
        __m512i r2 = _mm512_loadu_si512(x + (size_t)at[2] * 64), r3 = _mm512_loadu_si512(x + (size_t)at[3] * 64);
        __m512i low01 = _mm512_unpacklo_epi8(r0, r1), high01 = _mm512_unpackhi_epi8(r0, r1);
        __m512i low23 = _mm512_unpacklo_epi8(r2, r3), high23 = _mm512_unpackhi_epi8(r2, r3);
        __m512i v[4] = {_mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
                        _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
        UNROLL(4)
        for (int n = 0; n < 4; n++) {
            __m512i weights = v_weight(w + 4 * n);
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                a[4 * n + i] = v_dot(a[4 * n + i], v[i], weights);
        }
    }
    UNROLL(16)
    for (int i = 0; i < 16; i++)
        _mm512_storeu_si512(tile + (i / 4) * CHUNK + (i % 4) * 16, a[i]);
}

/* Four outputs of 32 tokens; the two halves of a vector come from the low and the high bytes. */
INLINE void columns_32(const uint32_t *at, const int8_t *w, uint32_t kept, const uint8_t *x, int32_t *tile)
{
    __m512i a[8];
    UNROLL(8)
    for (int i = 0; i < 8; i++)
        a[i] = _mm512_setzero_si512();
    UNROLL(1)
    for (uint32_t b = 0; b < kept; b++, at += 4, w += 16) {
        __m256i r[4];
        UNROLL(4)
        for (int i = 0; i < 4; i++)
            r[i] = _mm256_loadu_si256((const void *)(x + (size_t)at[i] * 32));
        __m512i c01 = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_unpacklo_epi8(r[0], r[1])),
                                         _mm256_unpackhi_epi8(r[0], r[1]), 1);
        __m512i c23 = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_unpacklo_epi8(r[2], r[3])),
                                         _mm256_unpackhi_epi8(r[2], r[3]), 1);
        __m512i v[2] = {_mm512_unpacklo_epi16(c01, c23), _mm512_unpackhi_epi16(c01, c23)};
        UNROLL(4)
        for (int n = 0; n < 4; n++) {
            __m512i weights = v_weight(w + 4 * n);
            a[2 * n] = v_dot(a[2 * n], v[0], weights);
            a[2 * n + 1] = v_dot(a[2 * n + 1], v[1], weights);
        }
    }
    UNROLL(8)
    for (int i = 0; i < 8; i++)
        _mm512_storeu_si512(tile + (i / 2) * CHUNK + (i % 2) * 16, a[i]);
}

/* Four outputs of 16 Q tokens; blocks of four neighbouring inputs lie ready as words. */
INLINE void square(const int Q, const uint32_t *at, const int8_t *w, uint32_t kept, const uint32_t *x, size_t T,
                   int32_t *tile)
{
    __m512i a[16];
    UNROLL(16)
    for (int i = 0; i < 4 * Q; i++)
        a[i] = _mm512_setzero_si512();
    UNROLL(1)
    for (uint32_t b = 0; b < kept; b++, w += 16) {
        const uint32_t *words = x + at[b] * T;
        __m512i v[4];
        UNROLL(4)
        for (int i = 0; i < Q; i++)
            v[i] = _mm512_loadu_si512(words + 16 * i);
        UNROLL(4)
        for (int n = 0; n < 4; n++) {
            __m512i weights = v_weight(w + 4 * n);
            UNROLL(4)
            for (int i = 0; i < Q; i++)
                a[n * Q + i] = v_dot(a[n * Q + i], v[i], weights);
        }
    }
    UNROLL(16)
    for (int i = 0; i < 4 * Q; i++)
        _mm512_storeu_si512(tile + (i / Q) * CHUNK + (i % Q) * 16, a[i]);
}

/* tile [16 outputs][64 tokens] into the rows of sums */
INLINE void turn(const int32_t *tile, uint32_t rows, int32_t *sums, size_t stride)
{
    for (uint32_t m = 0; m < rows; m += 16) /* sums has room for whole chunks */
        transpose((const uint32_t *)tile + m, CHUNK, (uint32_t *)sums + m * stride, stride);
}

static void columns(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    const Blocks *c = &l->columns;
    const int wide = rows > 32;
    split_columns(x, T, l->inputs, wide, ws->columns);
    for (uint32_t s = 0; s < l->outputs / 4; s++) {
        const uint32_t b = c->start[s], kept = c->start[s + 1] - b;
        int32_t *tile = ws->tile + s % 4 * 4 * CHUNK;
        if (wide)
            columns_64(c->at + 4 * (size_t)b, c->weights + 16 * (size_t)b, kept, ws->columns, tile);
        else
            columns_32(c->at + 4 * (size_t)b, c->weights + 16 * (size_t)b, kept, ws->columns, tile);
        if (s % 4 == 3)
            turn(ws->tile, rows, ws->sums + (s - 3) * 4, bantam_stride(l));
    }
}

static void squares(const Linear *l, uint32_t rows, const uint32_t *x, size_t T, Workspace *ws)
{
    const Blocks *c = &l->squares;
    for (uint32_t s = 0; s < l->outputs / 4; s++) {
        const uint32_t b = c->start[s], kept = c->start[s + 1] - b;
        const int8_t *w = c->weights + 16 * (size_t)b;
        int32_t *tile = ws->tile + s % 4 * 4 * CHUNK;
        switch ((rows + 15) / 16) {
        case 1: square(1, c->at + b, w, kept, x, T, tile); break;
        case 2: square(2, c->at + b, w, kept, x, T, tile); break;
        case 3: square(3, c->at + b, w, kept, x, T, tile); break;
        default: square(4, c->at + b, w, kept, x, T, tile); break;
        }
        if (s % 4 == 3)
            turn(ws->tile, rows, ws->sums + (s - 3) * 4, bantam_stride(l));
    }
}
