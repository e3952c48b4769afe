/* bf16 is the upper half of an f32. Conversions as plain integer arithmetic, so that loops over
 * them vectorise and every CPU level computes the same bits: to the nearest, ties to even,
 * infinities and signed zeros kept, subnormal numbers too, a NaN stays a (quiet) NaN. */
#ifndef GLN_BASE_BF16_H
#define GLN_BASE_BF16_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t gln_bf16_t;

static inline float gln_bf16_load(gln_bf16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline gln_bf16_t gln_bf16_round(float value)
{
    uint32_t bits, rounded;

    memcpy(&bits, &value, sizeof bits);
    rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (gln_bf16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

/** Rounded once: a double that lies beside a tie of bf16 is not first rounded onto it. */
static inline gln_bf16_t gln_bf16_round_double(double value)
{
    float single = (float)value;
    uint32_t bits;

    memcpy(&bits, &single, sizeof bits);
    if ((bits & 0xffffu) == 0x8000u && value == value && (double)single != value) {
        double magnitude = value < 0 ? -value : value;
        double single_magnitude = single < 0 ? -(double)single : (double)single;

        bits = magnitude > single_magnitude ? bits + 1 : bits - 1; /* not a tie after all */
        memcpy(&single, &bits, sizeof single);
    }
    return gln_bf16_round(single);
}

#ifdef __cplusplus
}
#endif
#endif
