/* The one addition that every sum over ranks and domains is made of. Elementwise, in the given
 * order, rounded to the element's type; bound by memory. bf16 is added in f32 and rounded by
 * integer operations, so that every CPU level gives the same bits; 6 bytes an element. `ivdep`
 * holds because operands are equal or do not overlap. */
#include "comm/comm_internal.h"

#include "base/bf16.h"
#include "base/clones.h"
#include "base/log.h"

GLN_CLONES static void add_f32(const float *lower, const float *upper, int64_t n, float *out)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        out[i] = lower[i] + upper[i];
}

GLN_CLONES static void add_f64(const double *lower, const double *upper, int64_t n, double *out)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        out[i] = lower[i] + upper[i];
}

GLN_CLONES static void add_bf16(const uint16_t *lower, const uint16_t *upper, int64_t n,
                                uint16_t *out)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        out[i] = gln_bf16_round(gln_bf16_load(lower[i]) + gln_bf16_load(upper[i]));
}

void gln_comm_add(const void *lower, const void *upper, int64_t n, gln_dtype_t dtype, void *out)
{
    switch (dtype) {
    case GLN_F32:
        add_f32(lower, upper, n, out);
        return;
    case GLN_BF16:
        add_bf16(lower, upper, n, out);
        return;
    case GLN_F64:
        add_f64(lower, upper, n, out);
        return;
    }
    GLN_ASSERT(!"a known dtype");
}
