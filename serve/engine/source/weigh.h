/* What all ways of attention share: the highest score of each query, the weights, and the context's way out. */

INLINE F highest_of(const float *scores, uint32_t length)
{
    F a = f_load(scores), b = a;
    for (uint32_t j = 1; j + 1 < length; j += 2) {
        a = f_max(a, f_load(scores + j * LANES));
        b = f_max(b, f_load(scores + (j + 1) * LANES));
    }
    return f_max(f_max(a, b), f_load(scores + (length - 1) * LANES));
}

/* scores[j] becomes 2^(score - highest), two keys a word where words hold two; returns 1 / their sum */
INLINE F weigh(float *scores, uint32_t length, F highest)
{
    F sum = f_set(0);
#if ELEMENTS == 2
    for (uint32_t j = 0; j < length; j += 2) {
        F even = exp2_of(f_sub(f_load(scores + j * LANES), highest)), odd = f_set(0);
        if (j + 1 < length)
            odd = exp2_of(f_sub(f_load(scores + (j + 1) * LANES), highest));
        sum = f_add(sum, f_add(even, odd));
        f_store(scores + j / 2 * LANES, f_pair(even, odd));
    }
#else
    for (uint32_t j = 0; j < length; j++) {
        F power = exp2_of(f_sub(f_load(scores + j * LANES), highest));
        sum = f_add(sum, power);
        f_store(scores + j * LANES, power);
    }
#endif
    return f_div(f_set(1.0f), sum);
}

/* LANES elements of LANES queries, element by element, to the rows of the first `count` queries */
INLINE void turn_back(const float *turned, uint32_t count, float *context, size_t width)
{
    float rows[LANES * LANES];
    if (count == LANES) {
        transpose((const uint32_t *)(const void *)turned, LANES, (uint32_t *)(void *)context, width);
        return;
    }
    transpose((const uint32_t *)(const void *)turned, LANES, (uint32_t *)(void *)rows, LANES);
    for (uint32_t q = 0; q < count; q++)
        f_store(context + q * width, f_load(rows + q * LANES));
}
