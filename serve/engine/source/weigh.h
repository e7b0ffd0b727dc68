/* What follows the scores of a text's keys: the highest of each query, and the weights. */

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
