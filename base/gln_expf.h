/* exp of a float as plain arithmetic, so that compilers vectorise loops over it and every CPU level
 * computes the same bits. Cody-Waite reduction x = n ln 2 + r with ln 2 in two parts (n times the
 * first is exact), a polynomial of degree 7 in r (coefficients of Cephes expf), and n added to the
 * exponent. At most 1.5 ulp from the true value; +inf above 88.7228, 0 below -87.3365 (where the
 * result would be subnormal), NaN for NaN, exactly 1 for 0. Needs -ffp-contract=off, as the whole
 * project does. */
#ifndef GLN_BASE_GLN_EXPF_H
#define GLN_BASE_GLN_EXPF_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/** exp(x). Never traps, sets no errno, reads no table; thread-safe. */
static inline float gln_expf(float x)
{
    const float shift =
        12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    float shifted = x * 1.44269504088896341f + shift;
    float n = shifted - shift;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = (p * (r * r) + r) + 1.0f; /* in [0.70, 1.42] */
    uint32_t y_bits, n_bits;
    memcpy(&y_bits, &y, sizeof y_bits);
    memcpy(&n_bits, &shifted, sizeof n_bits);
    y_bits += n_bits << 23; /* the bits of `shift` fall out at the top */
    memcpy(&y, &y_bits, sizeof y);
    y = x < -87.3365f ? 0.0f : y;
    y = x > 88.7228317f ? __builtin_inff() : y;
    return x != x ? x : y;
}

#ifdef __cplusplus
}
#endif
#endif
