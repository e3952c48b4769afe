/* Element types. bf16 is the upper half of an f32; stores round to nearest, ties to even, once: a
 * double that lies beside a tie of bf16 is not first rounded onto it. */
#include "base/tensor.h"

#include "base/bf16.h"
#include "base/log.h"

size_t gln_dtype_bytes(gln_dtype_t dtype)
{
    switch (dtype) {
    case GLN_F32:
        return 4;
    case GLN_BF16:
        return 2;
    case GLN_F64:
        return 8;
    }
    GLN_ASSERT(!"a known dtype");
    return 0;
}

const char *gln_dtype_name(gln_dtype_t dtype)
{
    switch (dtype) {
    case GLN_F32:
        return "f32";
    case GLN_BF16:
        return "bf16";
    case GLN_F64:
        return "f64";
    }
    return "unknown dtype";
}

gln_dtype_t gln_dtype_acc(gln_dtype_t dtype)
{
    return dtype == GLN_F64 ? GLN_F64 : GLN_F32;
}

double gln_load(const void *data, int64_t index, gln_dtype_t dtype)
{
    const void *at = gln_at(data, index, dtype);
    if (dtype == GLN_F64) return *(const double *)at;
    if (dtype == GLN_F32) return (double)*(const float *)at;
    return (double)gln_bf16_load(*(const gln_bf16_t *)at);
}

void gln_store(void *data, int64_t index, gln_dtype_t dtype, double value)
{
    void *at = gln_at(data, index, dtype);
    if (dtype == GLN_F64)
        *(double *)at = value;
    else if (dtype == GLN_F32)
        *(float *)at = (float)value;
    else
        *(gln_bf16_t *)at = gln_bf16_round_double(value);
}
