/* The table of the reference. */
#include "kernels/ref/ref.h"

#include "kernels/ref/ops.h"

#define GLN_REF_TABLE(type)                                                                     \
    {                                                                                           \
        .name = "ref", .gemm = gln_ref_##type##_gemm, .gemm_library = gln_ref_##type##_gemm,    \
        .rmsnorm = gln_ref_##type##_rmsnorm,                                                    \
        .rmsnorm_backward = gln_ref_##type##_rmsnorm_backward, .rope = gln_ref_##type##_rope,   \
        .attention = gln_ref_##type##_attention,                                                \
        .attention_backward = gln_ref_##type##_attention_backward,                              \
        .swiglu = gln_ref_##type##_swiglu, .swiglu_backward = gln_ref_##type##_swiglu_backward, \
        .gather = gln_ref_##type##_gather, .combine = gln_ref_##type##_combine,                 \
        .embed = gln_ref_##type##_embed, .embed_backward = gln_ref_##type##_embed_backward,     \
        .cross_entropy = gln_ref_##type##_cross_entropy, .adamw = gln_ref_##type##_adamw,       \
        .add = gln_ref_##type##_add, .round = gln_ref_##type##_round,                           \
        .sum_squares = gln_ref_##type##_sum_squares,                                            \
    }

static const gln_kernel_ops_t ops_f32 = GLN_REF_TABLE(f32);
static const gln_kernel_ops_t ops_f64 = GLN_REF_TABLE(f64);
static const gln_kernel_ops_t ops_bf16 = GLN_REF_TABLE(bf16);

void gln_ref_fill(gln_dtype_t dtype, gln_kernel_ops_t *ops)
{
    *ops = dtype == GLN_F64 ? ops_f64 : dtype == GLN_BF16 ? ops_bf16 : ops_f32;
}
