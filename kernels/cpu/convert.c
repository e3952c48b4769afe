/* bf16 to f32 and back, O(n). */
#include "base/clones.h"
#include "kernels/cpu/cpu_internal.h"

GLN_CLONES void gln_cpu_widen(const gln_bf16_t *restrict from, int64_t count, float *restrict to)
{
    for (int64_t i = 0; i < count; ++i)
        to[i] = gln_bf16_load(from[i]);
}

GLN_CLONES void gln_cpu_round(const float *restrict from, int64_t count, gln_bf16_t *restrict to)
{
    for (int64_t i = 0; i < count; ++i)
        to[i] = gln_bf16_round(from[i]);
}
