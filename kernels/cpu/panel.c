/* Products on panels: the layout of BLIS ("BLIS: a framework for rapidly instantiating BLAS
 * functionality", ACM TOMS 41(3), 2015) with a tile of 14 x 32 sums in registers.
 *
 * B is packed into panels of 32 columns, step by step; A into 14 rows. A tile reads 14 + 32 words
 * a step and computes 448 sums, so panels may come from the second-level cache. Packing touches an
 * element once: at 500 rows it is a few per cent of the product, at two rows it is the reading of B
 * that any product has to do. */
#include "kernels/cpu/panel.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET_WIDE target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#define TARGET_BF16 target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")
#define WIDE __attribute__((TARGET_WIDE))
#define WIDE_INLINE static inline __attribute__((always_inline, TARGET_WIDE))
#define UNROLL _Pragma("GCC unroll 16")
enum { AHEAD = 4 }; /* rows of B, or lines of a row, asked for before they are packed */

WIDE_INLINE __m512 widen16(__m256i half)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* gln_bf16_round of 16 numbers. */
WIDE_INLINE __m256i round16(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);

    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, quiet), 16));
}

#define NAME(x) f32_##x
#define TARGET TARGET_WIDE
#define STEP(sum, a, b) _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
#include "kernels/cpu/panel.inc"
#undef NAME
#undef TARGET
#undef STEP

#define NAME(x) bf16_##x
#define TARGET TARGET_BF16
#define STEP(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
#include "kernels/cpu/panel.inc"
#undef NAME
#undef TARGET
#undef STEP

static uint32_t columns_mask(int64_t columns)
{
    return columns >= 32 ? 0xffffffffu : (1u << columns) - 1;
}

WIDE static void f32_pack_b(const void *from, int64_t ldb, int64_t k, int64_t columns,
                            uint32_t *out)
{
    for (int64_t s = 0; s < k; ++s) {
        const float *b = (const float *)from + s * ldb;

        for (int64_t j = 0; j < columns; j += 32) {
            const uint32_t mask = columns_mask(columns - j);
            uint32_t *to = out + j * k + s * 32;

            __builtin_prefetch(b + AHEAD * ldb + j);
            __builtin_prefetch(b + AHEAD * ldb + j + 16);
            _mm512_storeu_si512(to, _mm512_maskz_loadu_epi32((__mmask16)mask, b + j));
            _mm512_storeu_si512(to + 16,
                                _mm512_maskz_loadu_epi32((__mmask16)(mask >> 16), b + j + 16));
        }
    }
}

WIDE static void bf16_pack_b(const void *from, int64_t ldb, int64_t k, int64_t columns,
                             uint32_t *out)
{
    const __m512i low =
        _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b, 0x002a000a,
                         0x00290009, 0x00280008, 0x00270007, 0x00260006, 0x00250005, 0x00240004,
                         0x00230003, 0x00220002, 0x00210001, 0x00200000);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const int64_t steps = (k + 1) / 2;

    for (int64_t s = 0; s < steps; ++s) {
        const gln_bf16_t *b = (const gln_bf16_t *)from + 2 * s * ldb;

        for (int64_t j = 0; j < columns; j += 32) {
            const __mmask32 mask = columns_mask(columns - j), second = 2 * s + 1 < k ? mask : 0;
            const __m512i x = _mm512_maskz_loadu_epi16(mask, b + j);
            const __m512i y = _mm512_maskz_loadu_epi16(second, b + ldb + j);
            uint32_t *to = out + j * steps + s * 32;

            __builtin_prefetch(b + AHEAD * ldb + j);
            __builtin_prefetch(b + (AHEAD + 1) * ldb + j);
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(x, low, y));
            _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(x, high, y));
        }
    }
}

/* 16 x 16 words, turned in place: by 1, 2, 4, then 8. */
WIDE_INLINE void turn(__m512i r[16])
{
    __m512i t[16];

    UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLL
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* Columns [j, j + 32) of B, whose columns are stored as rows of `bytes` bytes. */
WIDE static void pack_turned(const char *from, int64_t ld_bytes, int64_t bytes, int64_t columns,
                             uint32_t *out)
{
    const int64_t steps = (bytes + 3) / 4;

    for (int64_t s = 0; s < steps; s += 16)
        for (int half = 0; half < 2; ++half) {
            const int64_t left = bytes - 4 * s, last = gln_cpu_min(steps - s, 16);
            const __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
            __m512i r[16];

            UNROLL
            for (int i = 0; i < 16; ++i) {
                const int64_t column = 16 * half + i;

                r[i] = _mm512_setzero_si512();
                if (column < columns) {
                    const char *at = from + column * ld_bytes + 4 * s;

                    __builtin_prefetch(at + AHEAD * 64);
                    r[i] = _mm512_maskz_loadu_epi8(mask, at);
                }
            }
            turn(r);
            if (last == 16)
                UNROLL for (int i = 0; i < 16; ++i)
                    _mm512_storeu_si512(out + (s + i) * 32 + 16 * half, r[i]);
            else
                for (int64_t i = 0; i < last; ++i)
                    _mm512_storeu_si512(out + (s + i) * 32 + 16 * half, r[i]);
        }
}

static void f32_pack_b_turned(const void *b, int64_t ldb, int64_t k, int64_t columns, uint32_t *out)
{
    for (int64_t j = 0; j < columns; j += 32)
        pack_turned((const char *)b + j * ldb * 4, ldb * 4, k * 4, columns - j, out + j * k);
}

static void bf16_pack_b_turned(const void *b, int64_t ldb, int64_t k, int64_t columns,
                               uint32_t *out)
{
    for (int64_t j = 0; j < columns; j += 32)
        pack_turned((const char *)b + j * ldb * 2, ldb * 2, k * 2, columns - j,
                    out + j * ((k + 1) / 2));
}

WIDE static void f32_pack_a_turned(const void *from, int64_t lda, int64_t k, int64_t rows,
                                   uint32_t *out)
{
    const __mmask16 mask = (__mmask16)columns_mask(rows);
    const float *a = from;

    for (int64_t s = 0; s < k; ++s)
        _mm512_storeu_si512(out + s * GLN_PANEL_A_STEP,
                            _mm512_maskz_loadu_epi32(mask, a + s * lda));
}

WIDE static void bf16_pack_a_turned(const void *from, int64_t lda, int64_t k, int64_t rows,
                                    uint32_t *out)
{
    const __mmask16 mask = (__mmask16)columns_mask(rows);
    const gln_bf16_t *a = from;

    for (int64_t s = 0; 2 * s < k; ++s) {
        const __mmask16 second = 2 * s + 1 < k ? mask : 0;
        const __m256i x = _mm256_maskz_loadu_epi16(mask, a + 2 * s * lda);
        const __m256i y = _mm256_maskz_loadu_epi16(second, a + (2 * s + 1) * lda);

        _mm512_storeu_si512(out + s * GLN_PANEL_A_STEP,
                            _mm512_or_si512(_mm512_cvtepu16_epi32(x),
                                            _mm512_slli_epi32(_mm512_cvtepu16_epi32(y), 16)));
    }
}

#define TILES(type, order)                                                                     \
    {                                                                                          \
        type##_##order##_1, type##_##order##_2, type##_##order##_3, type##_##order##_4,        \
            type##_##order##_5, type##_##order##_6, type##_##order##_7, type##_##order##_8,    \
            type##_##order##_9, type##_##order##_10, type##_##order##_11, type##_##order##_12, \
            type##_##order##_13, type##_##order##_14                                           \
    }
#define TABLE(type)                                                                              \
    {                                                                                            \
        .by_row = TILES(type, by_row), .by_step = TILES(type, by_step), .pack_b = type##_pack_b, \
        .pack_b_turned = type##_pack_b_turned, .pack_a_turned = type##_pack_a_turned,            \
    }

static const gln_panel_ops_t ops_f32 = TABLE(f32), ops_bf16 = TABLE(bf16);

const gln_panel_ops_t *gln_panel_ops(gln_dtype_t dtype)
{
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return NULL;
    if (dtype == GLN_F32) return &ops_f32;
    return dtype == GLN_BF16 && __builtin_cpu_supports("avx512bf16") ? &ops_bf16 : NULL;
}
#else
const gln_panel_ops_t *gln_panel_ops(gln_dtype_t dtype)
{
    (void)dtype;
    return NULL;
}
#endif
