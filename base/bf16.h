/* bf16 and f32: bf16 is the upper half of an f32. Inline, so that loops over them vectorise under
 * GLN_CLONES. For one element and for doubles see gln_load and gln_store (tensor.h). */
#ifndef GLN_BASE_BF16_H
#define GLN_BASE_BF16_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The value of a bf16: exact. */
static inline float gln_bf16_widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/** The nearest bf16, ties to even; a NaN stays one (quiet, its sign and upper bits kept). A sum or
 * product of two bf16 that was rounded to f32 first gives the bf16 nearest to the exact result, as
 * f32 has more than twice as many bits (Figueroa, "When is double rounding innocuous?", 1995). */
static inline uint16_t gln_bf16_round(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)((value != value ? bits | 0x400000u : rounded) >> 16);
}

#ifdef __cplusplus
}
#endif
#endif
