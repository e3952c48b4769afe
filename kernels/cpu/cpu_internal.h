/* State of the fast CPU backend, shared by its files. Included by kernels/cpu alone. */
#ifndef GLN_KERNELS_CPU_CPU_INTERNAL_H
#define GLN_KERNELS_CPU_CPU_INTERNAL_H

#include <dnnl.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/bf16.h"
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- products of fixed shape (product.c) ------------------------------------------------- */
/* C[m,n] = (or +=) op(A) op(B), all dense. A is stored [m,k], or [k,m] with a_transposed; B is
 * stored [k,n], or [n,k] with b_transposed. */
typedef struct gln_product_key {
    int64_t m, n, k;
    int32_t a_transposed, b_transposed, accumulate;
    gln_dtype_t a, b, c;
} gln_product_key_t;

/* What a worker hands to the library: handles are set at each run. */
typedef struct gln_product_memory {
    dnnl_memory_t a, b, c, scratchpad;
} gln_product_memory_t;

typedef struct gln_product {
    gln_product_key_t key;
    dnnl_primitive_t primitive;
    int widened;                  /* runs in f32 on copies of its bf16 operands */
    size_t library_bytes;         /* of scratch for the library, multiple of 64 */
    size_t scratchpad_bytes;      /* that a run needs: these and the copies, multiple of 64 */
    int rows_independent;         /* a row of C has the same bits for every m */
    gln_product_memory_t *memory; /* [workers] */
    struct gln_product *next;     /* in its bucket */
} gln_product_t;

#define GLN_CPU_BUCKETS 256
#define GLN_CPU_ITEMS_MAX 256    /* GEMM items of one run of the pool */
#define GLN_CPU_PARTIALS_MAX 256 /* partial sums of one run of the pool */

struct gln_gemm_shape; /* gemm_shape.h */
struct gln_gemm_item;
struct gln_panel_ops; /* panel.h */
struct gln_wide_ops;  /* wide.h */

/* cos and sin of the angles, [s, dh/2] each; serves every shorter s. */
typedef struct gln_rope_table {
    int64_t s;
    int dh;
    double theta;
    float *cosine, *sine;
    struct gln_rope_table *next;
} gln_rope_table_t;

typedef struct gln_cpu_state {
    gln_pool_t *pool;
    int workers_count;
    gln_dtype_t dtype;
    int bf16_products; /* the library multiplies bf16 as fast as it can, and row by row */
    const struct gln_panel_ops *panels; /* grouped products run on them; NULL: on the library */
    const struct gln_wide_ops *wide;    /* row-wise loops for AVX-512; NULL: for every CPU level */
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [workers] */
    char **scratch;         /* [workers] blocks of scratch_bytes, aligned to 64 */
    size_t scratch_bytes;
    float *partials; /* [GLN_CPU_PARTIALS_MAX, partials_width]: sums of row blocks */
    int64_t partials_width;
    double squares[GLN_CPU_PARTIALS_MAX];
    gln_product_t *products[GLN_CPU_BUCKETS];
    struct gln_gemm_shape *shapes[GLN_CPU_BUCKETS];
    struct gln_gemm_item *items; /* [GLN_CPU_ITEMS_MAX] */
    gln_rope_table_t *rope_tables;
    atomic_int library_status; /* first dnnl_status_t a task met; dnnl_success otherwise */
} gln_cpu_state_t;

/** Find or make a product. Not from a task; between gln_cpu_library_enter and _leave.
 *  @return GLN_OK; GLN_ERR_BACKEND; GLN_ERR_MEMORY. */
gln_status_t gln_product_get(gln_cpu_state_t *state, const gln_product_key_t *key,
                             const gln_product_t **out);

/** Run it, on worker's thread, with scratchpad_bytes at `scratchpad`. A failure is kept for
 *  gln_cpu_library_leave. */
void gln_product_run(gln_cpu_state_t *state, const gln_product_t *product, int worker,
                     const void *a, const void *b, void *c, void *scratchpad);

void gln_product_close_all(gln_cpu_state_t *state);

/** Find out bf16_products, panels and wide, once the engine is open. */
void gln_product_probe(gln_cpu_state_t *state);

/* ---- conversions (convert.c) ------------------------------------------------------------- */
void gln_cpu_widen(const gln_bf16_t *restrict from, int64_t count, float *restrict to);
void gln_cpu_round(const float *restrict from, int64_t count, gln_bf16_t *restrict to);

/** Keep the library single-threaded on the calling thread: it brings threads of its own (OpenMP),
 * the pool already has one per core. @return what to hand to gln_cpu_library_leave. */
int gln_cpu_library_enter(gln_cpu_state_t *state);

/** Restore the calling thread's setting and report what a task met.
 *  @return `status` if it is an error; else GLN_OK or GLN_ERR_BACKEND. */
gln_status_t gln_cpu_library_leave(gln_cpu_state_t *state, int entered, gln_status_t status);

/* ---- memory and tasks (cpu.c) ------------------------------------------------------------ */
/** At least `bytes` of scratch for every worker; grows on the first use of a shape. */
gln_status_t gln_cpu_scratch(gln_cpu_state_t *state, size_t bytes);

/** `elements` of `bytes_each`, rounded up to a multiple of 64 bytes. */
static inline size_t gln_cpu_bytes(int64_t elements, size_t bytes_each)
{
    return ((size_t)elements * bytes_each + 63) / 64 * 64;
}

/** Elements of memory-bound work in one task. */
#define GLN_CPU_TASK_ELEMENTS 32768

/** Rows of one task for rows of `width` elements: a function of the problem alone. */
static inline int64_t gln_cpu_task_rows(int64_t width)
{
    int64_t rows = GLN_CPU_TASK_ELEMENTS / (width > 0 ? width : 1);

    return rows > 0 ? rows : 1;
}

static inline int gln_cpu_tasks(int64_t n, int64_t rows_per_task)
{
    return (int)((n + rows_per_task - 1) / rows_per_task);
}

static inline int64_t gln_cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Parts of a cloned function: inlined, so that each clone has its own. */
#define GLN_INLINE static inline __attribute__((always_inline))

/* ---- sums in a fixed order --------------------------------------------------------------- */
#define GLN_LANES 16

/** Sum of 16 lanes by halves. */
static inline float gln_lanes_sum(const float lanes[GLN_LANES])
{
    float half[8], quarter[4];

    for (int i = 0; i < 8; ++i)
        half[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; ++i)
        quarter[i] = half[i] + half[i + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

/* Before a short loop: keep it a loop, so that the vectoriser sees it. Unrolled first, its maxima
 * would stay scalar. */
#define GLN_KEEP_LOOP _Pragma("GCC unroll 1")

#define GLN_MAX_LANES 64

/** The highest of 64 numbers. */
GLN_INLINE float gln_lanes_max(const float lanes[GLN_MAX_LANES])
{
    float max[32], a, b;

    for (int i = 0; i < 32; ++i)
        max[i] = lanes[i] > lanes[i + 32] ? lanes[i] : lanes[i + 32];
    GLN_KEEP_LOOP for (int i = 0; i < 16; ++i) max[i] = max[i] > max[i + 16] ? max[i] : max[i + 16];
    GLN_KEEP_LOOP for (int i = 0; i < 8; ++i) max[i] = max[i] > max[i + 8] ? max[i] : max[i + 8];
    GLN_KEEP_LOOP for (int i = 0; i < 4; ++i) max[i] = max[i] > max[i + 4] ? max[i] : max[i + 4];
    a = max[0] > max[2] ? max[0] : max[2];
    b = max[1] > max[3] ? max[1] : max[3];
    return a > b ? a : b;
}

/** Of a short array, added in fixed order: 16 lanes, then gln_lanes_sum. */
GLN_INLINE void gln_lanes_add(const float *x, int64_t count, float lanes[GLN_LANES])
{
    int64_t i = 0;

    for (; i + GLN_LANES <= count; i += GLN_LANES)
        for (int lane = 0; lane < GLN_LANES; ++lane)
            lanes[lane] += x[i + lane];
    for (int lane = 0; i < count; ++i, ++lane)
        lanes[lane] += x[i];
}

#define GLN_CHUNK 512 /* elements that loops hand to each other through the first-level cache */

/* ---- the slots --------------------------------------------------------------------------- */
gln_status_t gln_cpu_gemm(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items,
                          int count);
gln_status_t gln_cpu_gemm_library(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items,
                                  int count);
void gln_cpu_gemm_close(gln_cpu_state_t *state);
void gln_cpu_rope_close(gln_cpu_state_t *state);
gln_status_t gln_cpu_sum_squares(gln_kernels_t *k, int64_t n, const void *x, double *out);

/* For each element type; see both_types.inc. */
#define GLN_CPU_DECLARE(type)                                                               \
    gln_status_t gln_cpu_##type##_rmsnorm(gln_kernels_t *k, const gln_rmsnorm_t *args);     \
    gln_status_t gln_cpu_##type##_rmsnorm_backward(gln_kernels_t *k,                        \
                                                   const gln_rmsnorm_backward_t *args);     \
    gln_status_t gln_cpu_##type##_rope(gln_kernels_t *k, const gln_rope_t *args);           \
    gln_status_t gln_cpu_##type##_attention(gln_kernels_t *k, const gln_attention_t *args); \
    gln_status_t gln_cpu_##type##_attention_backward(gln_kernels_t *k,                      \
                                                     const gln_attention_backward_t *args); \
    gln_status_t gln_cpu_##type##_swiglu(gln_kernels_t *k, const gln_swiglu_t *args);       \
    gln_status_t gln_cpu_##type##_swiglu_backward(gln_kernels_t *k,                         \
                                                  const gln_swiglu_backward_t *args);       \
    gln_status_t gln_cpu_##type##_gather(gln_kernels_t *k, const gln_gather_t *args);       \
    gln_status_t gln_cpu_##type##_combine(gln_kernels_t *k, const gln_combine_t *args);     \
    gln_status_t gln_cpu_##type##_embed(gln_kernels_t *k, const gln_embed_t *args);         \
    gln_status_t gln_cpu_##type##_embed_backward(gln_kernels_t *k,                          \
                                                 const gln_embed_backward_t *args);         \
    gln_status_t gln_cpu_##type##_cross_entropy(gln_kernels_t *k,                           \
                                                const gln_cross_entropy_t *args);           \
    gln_status_t gln_cpu_##type##_adamw(gln_kernels_t *k, const gln_adamw_t *args);         \
    gln_status_t gln_cpu_##type##_add(gln_kernels_t *k, int64_t n, const void *x, void *y); \
    gln_status_t gln_cpu_##type##_round(gln_kernels_t *k, int64_t n, const void *x, void *y);

GLN_CPU_DECLARE(f32)
GLN_CPU_DECLARE(bf16)

#ifdef __cplusplus
}
#endif
#endif
