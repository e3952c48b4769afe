/* Row-wise loops for AVX-512, O(count) each, 32 elements a turn.
 *
 * exp: Cody-Waite reduction x = n ln 2 + r, a polynomial of degree 6 in r (interpolated at the
 * Chebyshev nodes of [-0.3466, 0.3466], 1 + r exact: 0.18 ulp off), 2^n by an instruction.
 * 1 / (1 + e): the 14-bit approximation and one step of Newton's, 2^-28 off.
 * bf16: the CPU's own rounding takes subnormal numbers for zero, so where one turns up the 32
 * are rounded in integers. */
#include "kernels/cpu/wide.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <float.h>
#include <immintrin.h>

#define TARGET_WIDE target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#define TARGET_BF16 target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")
#define WIDE __attribute__((TARGET_WIDE))
#define WIDE_INLINE static inline __attribute__((always_inline, TARGET_WIDE))

#define EXP_LOWEST -87.3365f

static inline __mmask32 count_mask(int64_t count)
{
    return count >= 32 ? 0xffffffffu : (1u << count) - 1;
}

WIDE_INLINE __m512 all(float x)
{
    return _mm512_set1_ps(x);
}

/* exp of numbers of at most 88.7228; 0 below EXP_LOWEST, NaN for NaN. */
WIDE_INLINE __m512 exp_below(__m512 x)
{
    const __m512 shift = all(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    const __mmask16 normal = _mm512_cmp_ps_mask(x, all(EXP_LOWEST), _CMP_NLT_UQ);
    const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, all(1.44269504f), shift), shift);
    const __m512 high = _mm512_fnmadd_ps(n, all(0.693359375f), x);
    const __m512 r = _mm512_fnmadd_ps(n, all(-2.1219444e-4f), high);
    __m512 p = _mm512_fmadd_ps(all(1.3926181810e-3f), r, all(8.3631776300e-3f));

    p = _mm512_fmadd_ps(p, r, all(4.1666554628e-2f));
    p = _mm512_fmadd_ps(p, r, all(1.6666576998e-1f));
    p = _mm512_fmadd_ps(p, r, all(0.5f));
    p = _mm512_fmadd_ps(p, r, all(1.0f));
    p = _mm512_fmadd_ps(p, r, all(1.0f));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

/* 1 / (1 + exp(-g)); 0 below -87, NaN for NaN. */
WIDE_INLINE __m512 sigmoid(__m512 g)
{
    const __mmask16 visible = _mm512_cmp_ps_mask(g, all(-87.0f), _CMP_NLT_UQ);
    const __m512 minus = _mm512_sub_ps(_mm512_setzero_ps(), g);
    const __m512 d = _mm512_add_ps(all(1.0f), exp_below(_mm512_min_ps(all(88.0f), minus)));
    const __m512 near = _mm512_rcp14_ps(d);

    return _mm512_maskz_fmadd_ps(visible, near, _mm512_fnmadd_ps(d, near, all(1.0f)), near);
}

/* ---- elements ---------------------------------------------------------------------------- */
WIDE_INLINE __m512 f32_load(const float *x, __mmask16 mask)
{
    return _mm512_maskz_loadu_ps(mask, x);
}

WIDE_INLINE void f32_store(float *y, __mmask32 mask, int past, __m512 low, __m512 high)
{
    if (past) {
        _mm512_stream_ps(y, low);
        _mm512_stream_ps(y + 16, high);
    } else {
        _mm512_mask_storeu_ps(y, (__mmask16)mask, low);
        _mm512_mask_storeu_ps(y + 16, (__mmask16)(mask >> 16), high);
    }
}

WIDE_INLINE __m512 bf16_load(const gln_bf16_t *x, __mmask16 mask)
{
    const __m256i half = _mm256_maskz_loadu_epi16(mask, x);

    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* gln_bf16_round of 16 numbers. */
WIDE_INLINE __m256i round16(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));

    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}

WIDE_INLINE __m512i bf16_round(__m512 low, __m512 high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(round16(low)), round16(high), 1);
}

WIDE_INLINE void bf16_put(gln_bf16_t *y, __mmask32 mask, int past, __m512i rounded)
{
    if (past)
        _mm512_stream_si512((__m512i *)(void *)y, rounded);
    else
        _mm512_mask_storeu_epi16(y, mask, rounded);
}

WIDE_INLINE void bf16_store(gln_bf16_t *y, __mmask32 mask, int past, __m512 low, __m512 high)
{
    bf16_put(y, mask, past, bf16_round(low, high));
}

static inline __attribute__((always_inline, TARGET_BF16)) void
unit_store(gln_bf16_t *y, __mmask32 mask, int past, __m512 low, __m512 high)
{
    enum { SUBNORMAL = 0x20 };
    const __mmask16 in_low = _mm512_fpclass_ps_mask(low, SUBNORMAL);
    const __mmask16 in_high = _mm512_fpclass_ps_mask(high, SUBNORMAL);
    __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);

    if (__builtin_expect(!_kortestz_mask16_u8(in_low, in_high), 0)) rounded = bf16_round(low, high);
    bf16_put(y, mask, past, rounded);
}

/* ---- numbers that are float whatever the element type --------------------------------------- */
WIDE static void wide_exp(const float *x, int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = (__mmask16)count_mask(count - i);
        const __m512 v = f32_load(x + i, mask), highest = all(88.7228317f);
        const __mmask16 above = _mm512_cmp_ps_mask(v, highest, _CMP_GT_OQ);
        const __m512 e = exp_below(_mm512_min_ps(highest, v));

        _mm512_mask_storeu_ps(y + i, mask, _mm512_mask_mov_ps(e, above, all(__builtin_inff())));
    }
}

WIDE static void wide_exp_sum(const float *x, const float *ahead, int64_t count, float *max,
                              float lanes[GLN_LANES], float *e)
{
    const float before = *max;
    __m512 most = all(before > -FLT_MAX ? before : -FLT_MAX), highest, sum, other = most;

    for (int64_t i = 0; i < count; i += 32) {
        const __mmask32 mask = count_mask(count - i);

        most = _mm512_mask_max_ps(most, (__mmask16)mask, most, f32_load(x + i, (__mmask16)mask));
        other = _mm512_mask_max_ps(other, (__mmask16)(mask >> 16), other,
                                   f32_load(x + i + 16, (__mmask16)(mask >> 16)));
    }
    *max = _mm512_reduce_max_ps(_mm512_max_ps(most, other));
    highest = all(*max);
    sum = _mm512_mul_ps(_mm512_loadu_ps(lanes), exp_below(_mm512_sub_ps(all(before), highest)));
    for (int64_t i = 0; i < count; i += 32) {
        const __mmask32 mask = count_mask(count - i);
        const __mmask16 m = (__mmask16)mask, m2 = (__mmask16)(mask >> 16);
        const __m512 a = exp_below(_mm512_sub_ps(f32_load(x + i, m), highest));
        const __m512 b = exp_below(_mm512_sub_ps(f32_load(x + i + 16, m2), highest));

        _mm_prefetch((const char *)(ahead + i), _MM_HINT_T1);
        _mm_prefetch((const char *)(ahead + i + 16), _MM_HINT_T1);
        sum = _mm512_mask_add_ps(sum, m, sum, a);
        sum = _mm512_mask_add_ps(sum, m2, sum, b);
        f32_store(e + i, mask, 0, a, b);
    }
    _mm512_storeu_ps(lanes, sum);
}

#define NAME(x) f32_##x
#define TARGET TARGET_WIDE
#define ELEM float
#define LOAD f32_load
#define STORE f32_store
#include "kernels/cpu/wide.inc"
#undef NAME
#undef TARGET
#undef ELEM
#undef LOAD
#undef STORE

#define NAME(x) bf16_##x
#define TARGET TARGET_WIDE
#define ELEM gln_bf16_t
#define LOAD bf16_load
#define STORE bf16_store
#include "kernels/cpu/wide.inc"
#undef NAME
#undef TARGET
#undef STORE

#define NAME(x) unit_##x
#define TARGET TARGET_BF16
#define STORE unit_store
#include "kernels/cpu/wide.inc"
#undef NAME
#undef TARGET
#undef ELEM
#undef LOAD
#undef STORE

const gln_wide_ops_t *gln_wide_ops(gln_dtype_t dtype, int bf16_unit)
{
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return NULL;
    if (dtype == GLN_F32) return &f32_ops;
    if (dtype != GLN_BF16) return NULL;
    return bf16_unit && __builtin_cpu_supports("avx512bf16") ? &unit_ops : &bf16_ops;
}
#else
const gln_wide_ops_t *gln_wide_ops(gln_dtype_t dtype, int bf16_unit)
{
    (void)dtype, (void)bf16_unit;
    return NULL;
}
#endif
