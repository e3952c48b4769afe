/* The one addition that every sum over ranks and domains is made of. Elementwise, in the given
 * order, rounded to the element's type; bound by memory. `ivdep` holds because operands are equal
 * or do not overlap. */
#include "comm/comm_internal.h"

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

void gln_comm_add(const void *lower, const void *upper, int64_t n, gln_dtype_t dtype, void *out)
{
    GLN_ASSERT(dtype == GLN_F32 || dtype == GLN_F64);
    if (dtype == GLN_F32)
        add_f32(lower, upper, n, out);
    else
        add_f64(lower, upper, n, out);
}
