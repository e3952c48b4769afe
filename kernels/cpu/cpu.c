/* Opening the fast CPU backend: one library engine, one stream and one block of scratch per worker
 * of the pool. Scratch and products grow when a shape is first met, so a step that repeats known
 * shapes allocates nothing here. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>

#include "base/log.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/gemm_shape.h"

#define GLN_CPU_TABLE(type)                                                                     \
    {                                                                                           \
        .name = "cpu", .gemm = gln_cpu_gemm, .gemm_library = gln_cpu_gemm_library,              \
        .sum_squares = gln_cpu_sum_squares, .rmsnorm = gln_cpu_##type##_rmsnorm,                \
        .rmsnorm_backward = gln_cpu_##type##_rmsnorm_backward, .rope = gln_cpu_##type##_rope,   \
        .attention = gln_cpu_##type##_attention,                                                \
        .attention_backward = gln_cpu_##type##_attention_backward,                              \
        .swiglu = gln_cpu_##type##_swiglu, .swiglu_backward = gln_cpu_##type##_swiglu_backward, \
        .gather = gln_cpu_##type##_gather, .combine = gln_cpu_##type##_combine,                 \
        .embed = gln_cpu_##type##_embed, .embed_backward = gln_cpu_##type##_embed_backward,     \
        .cross_entropy = gln_cpu_##type##_cross_entropy, .adamw = gln_cpu_##type##_adamw,       \
        .add = gln_cpu_##type##_add, .round = gln_cpu_##type##_round,                           \
    }

static const gln_kernel_ops_t ops_f32 = GLN_CPU_TABLE(f32);
static const gln_kernel_ops_t ops_bf16 = GLN_CPU_TABLE(bf16);

static gln_status_t open_library(gln_cpu_state_t *state)
{
    dnnl_status_t library = dnnl_engine_create(&state->engine, dnnl_cpu, 0);

    for (int i = 0; i < state->workers_count && library == dnnl_success; ++i)
        library = dnnl_stream_create(&state->streams[i], state->engine, dnnl_stream_default_flags);
    if (library == dnnl_success) return GLN_OK;
    return gln_fail(GLN_ERR_BACKEND,
                    "cpu backend: oneDNN gave status %d for its cpu engine and %d streams; use the "
                    "ref backend",
                    (int)library, state->workers_count);
}

gln_status_t gln_cpu_overlay(gln_kernels_t *k, gln_kernel_ops_t *ops)
{
    gln_cpu_state_t *state = calloc(1, sizeof *state);
    gln_status_t status;

    if (state == NULL)
        return gln_fail(GLN_ERR_MEMORY, "cpu backend: no memory for %zu bytes", sizeof *state);
    k->state = state;
    state->pool = k->pool;
    state->workers_count = gln_pool_threads(k->pool);
    state->dtype = k->dtype;
    atomic_init(&state->library_status, dnnl_success);
    state->streams = calloc((size_t)state->workers_count, sizeof *state->streams);
    state->scratch = calloc((size_t)state->workers_count, sizeof *state->scratch);
    state->items = calloc(GLN_CPU_ITEMS_MAX, sizeof *state->items);
    if (state->streams == NULL || state->scratch == NULL || state->items == NULL) {
        status =
            gln_fail(GLN_ERR_MEMORY, "cpu backend: no memory for %d workers", state->workers_count);
        goto close;
    }
    status = open_library(state);
    if (status != GLN_OK) goto close;
    status = gln_cpu_scratch(state, 1 << 20);
    if (status != GLN_OK) goto close;
    gln_product_probe(state);
    *ops = k->dtype == GLN_BF16 ? ops_bf16 : ops_f32;
    return GLN_OK;
close:
    gln_cpu_close(k);
    return status;
}

void gln_cpu_close(gln_kernels_t *k)
{
    gln_cpu_state_t *state = k->state;

    if (state == NULL) return;
    gln_cpu_rope_close(state);
    gln_cpu_gemm_close(state);
    gln_product_close_all(state);
    for (int i = 0; i < state->workers_count; ++i) {
        if (state->scratch != NULL) free(state->scratch[i]);
        if (state->streams != NULL && state->streams[i] != NULL)
            dnnl_stream_destroy(state->streams[i]);
    }
    if (state->engine != NULL) dnnl_engine_destroy(state->engine);
    free(state->partials);
    free(state->items);
    free(state->scratch);
    free(state->streams);
    free(state);
    k->state = NULL;
}

gln_status_t gln_cpu_scratch(gln_cpu_state_t *state, size_t bytes)
{
    if (bytes <= state->scratch_bytes) return GLN_OK;
    bytes = (bytes + 4095) / 4096 * 4096;
    state->scratch_bytes = 0;
    for (int i = 0; i < state->workers_count; ++i) {
        free(state->scratch[i]);
        state->scratch[i] = aligned_alloc(64, bytes);
        if (state->scratch[i] == NULL)
            return gln_fail(GLN_ERR_MEMORY,
                            "cpu backend: no memory for %zu bytes of scratch for each of %d "
                            "workers; use smaller batches or fewer threads",
                            bytes, state->workers_count);
    }
    state->scratch_bytes = bytes;
    return GLN_OK;
}
