/* Matrix products of fixed shape on oneDNN (version 2.6, matmul primitives).
 *
 * A primitive with all three dimensions fixed and dense operands is oneDNN's "brgemm" on machines
 * with AVX-512: every row of C is a sum over k in one order that m does not enter, which the tests
 * check bit by bit. With free dimensions, with strides beyond the width, or without AVX-512 the
 * library falls back to a blocked GEMM that splits k by m; such products say rows_independent = 0
 * and gemm.c then runs every row in blocks of one size.
 *
 * In bf16 (operands; sums are in f32 always) that holds on machines with AVX-512 bf16. Without them
 * the library emulates at a tenth of the speed of f32, or refuses: such products are widened, that
 * is they run in f32 on copies, and what is bf16 in C is rounded once.
 *
 * Making one costs 0.2 to 0.5 ms, so each is made once and kept; running one costs about 0.3 us. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/wide.h"

static dnnl_data_type_t library_dtype(gln_dtype_t dtype)
{
    return dtype == GLN_BF16 ? dnnl_bf16 : dnnl_f32;
}

static unsigned bucket_of(const gln_product_key_t *key)
{
    uint64_t hash = (uint64_t)key->m * 1000003u + (uint64_t)key->n;

    hash = hash * 1000003u + (uint64_t)key->k;
    hash = hash * 1000003u +
           (uint64_t)(key->a_transposed * 4 + key->b_transposed * 2 + key->accumulate);
    hash = hash * 1000003u + (uint64_t)((int)key->a * 9 + (int)key->b * 3 + (int)key->c);
    hash ^= hash >> 29;
    return (unsigned)((hash * 0x9e3779b97f4a7c15u) >> 56) % GLN_CPU_BUCKETS;
}

static int keys_equal(const gln_product_key_t *x, const gln_product_key_t *y)
{
    return x->m == y->m && x->n == y->n && x->k == y->k && x->a_transposed == y->a_transposed &&
           x->b_transposed == y->b_transposed && x->accumulate == y->accumulate && x->a == y->a &&
           x->b == y->b && x->c == y->c;
}

/* Description of a dense [rows, columns] matrix, stored transposed or not. */
static dnnl_status_t describe(int64_t rows, int64_t columns, int transposed, gln_dtype_t dtype,
                              dnnl_memory_desc_t *out)
{
    dnnl_dims_t dims = {rows, columns}, plain = {columns, 1}, turned = {1, rows};

    return dnnl_memory_desc_init_by_strides(out, 2, dims, library_dtype(dtype),
                                            transposed ? turned : plain);
}

static dnnl_status_t make_attributes(int accumulate, dnnl_primitive_attr_t *out)
{
    dnnl_post_ops_t post_ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(out);

    if (status != dnnl_success) return status;
    status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status == dnnl_success && accumulate) {
        status = dnnl_post_ops_create(&post_ops);
        if (status == dnnl_success) status = dnnl_post_ops_append_sum(post_ops, 1.0f);
        if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(*out, post_ops);
        if (post_ops != NULL) dnnl_post_ops_destroy(post_ops);
    }
    return status;
}

static dnnl_status_t make_memory(gln_cpu_state_t *state, gln_product_memory_t *memory,
                                 const dnnl_memory_desc_t desc[3],
                                 const dnnl_memory_desc_t *scratchpad)
{
    dnnl_status_t status = dnnl_memory_create(&memory->a, &desc[0], state->engine, NULL);

    if (status == dnnl_success)
        status = dnnl_memory_create(&memory->b, &desc[1], state->engine, NULL);
    if (status == dnnl_success)
        status = dnnl_memory_create(&memory->c, &desc[2], state->engine, NULL);
    if (status == dnnl_success)
        status = dnnl_memory_create(&memory->scratchpad, scratchpad, state->engine, NULL);
    return status;
}

/* Bytes of the copies of A, B and C that a widened product makes. */
static void copy_bytes(const gln_product_key_t *key, size_t bytes[3])
{
    bytes[0] = key->a == GLN_BF16 ? gln_cpu_bytes(key->m * key->k, sizeof(float)) : 0;
    bytes[1] = key->b == GLN_BF16 ? gln_cpu_bytes(key->k * key->n, sizeof(float)) : 0;
    bytes[2] = key->c == GLN_BF16 ? gln_cpu_bytes(key->m * key->n, sizeof(float)) : 0;
}

/* Fill `product` from its key; what was made on failure is left in it for close_product. */
static dnnl_status_t make_product(gln_cpu_state_t *state, gln_product_t *product)
{
    gln_product_key_t library_key = product->key;
    const gln_product_key_t *key = &library_key;
    size_t bytes[3];
    dnnl_memory_desc_t desc[3]; /* a, b, c */
    const dnnl_memory_desc_t *scratchpad;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t primitive_desc = NULL;
    const char *implementation = "";
    dnnl_status_t status;

    product->widened =
        !state->bf16_products && (key->a == GLN_BF16 || key->b == GLN_BF16 || key->c == GLN_BF16);
    if (product->widened) library_key.a = library_key.b = library_key.c = GLN_F32;
    status = describe(key->m, key->k, key->a_transposed, key->a, &desc[0]);
    if (status == dnnl_success)
        status = describe(key->k, key->n, key->b_transposed, key->b, &desc[1]);
    if (status == dnnl_success) status = describe(key->m, key->n, 0, key->c, &desc[2]);
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(&matmul, &desc[0], &desc[1], NULL, &desc[2]);
    if (status == dnnl_success) status = make_attributes(key->accumulate, &attributes);
    if (status == dnnl_success)
        status =
            dnnl_primitive_desc_create(&primitive_desc, &matmul, attributes, state->engine, NULL);
    if (status == dnnl_success)
        status =
            dnnl_primitive_desc_query(primitive_desc, dnnl_query_impl_info_str, 0, &implementation);
    if (status == dnnl_success) status = dnnl_primitive_create(&product->primitive, primitive_desc);
    if (status == dnnl_success) {
        product->rows_independent = strncmp(implementation, "brg", 3) == 0;
        scratchpad = dnnl_primitive_desc_query_md(primitive_desc, dnnl_query_scratchpad_md, 0);
        product->library_bytes = gln_cpu_bytes((int64_t)dnnl_memory_desc_get_size(scratchpad), 1);
        product->scratchpad_bytes = product->library_bytes;
        copy_bytes(&product->key, bytes);
        if (product->widened) product->scratchpad_bytes += bytes[0] + bytes[1] + bytes[2];
        for (int i = 0; i < state->workers_count && status == dnnl_success; ++i)
            status = make_memory(state, &product->memory[i], desc, scratchpad);
    }
    if (primitive_desc != NULL) dnnl_primitive_desc_destroy(primitive_desc);
    if (attributes != NULL) dnnl_primitive_attr_destroy(attributes);
    return status;
}

static void close_product(gln_cpu_state_t *state, gln_product_t *product)
{
    for (int i = 0; i < state->workers_count && product->memory != NULL; ++i) {
        gln_product_memory_t *memory = &product->memory[i];

        if (memory->a != NULL) dnnl_memory_destroy(memory->a);
        if (memory->b != NULL) dnnl_memory_destroy(memory->b);
        if (memory->c != NULL) dnnl_memory_destroy(memory->c);
        if (memory->scratchpad != NULL) dnnl_memory_destroy(memory->scratchpad);
    }
    if (product->primitive != NULL) dnnl_primitive_destroy(product->primitive);
    free(product->memory);
    free(product);
}

gln_status_t gln_product_get(gln_cpu_state_t *state, const gln_product_key_t *key,
                             const gln_product_t **out)
{
    gln_product_t **bucket = &state->products[bucket_of(key)];
    gln_product_t *product = *bucket;
    dnnl_status_t status;

    while (product != NULL && !keys_equal(&product->key, key))
        product = product->next;
    if (product == NULL) {
        product = calloc(1, sizeof *product);
        if (product != NULL)
            product->memory = calloc((size_t)state->workers_count, sizeof *product->memory);
        if (product == NULL || product->memory == NULL) {
            free(product);
            return gln_fail(GLN_ERR_MEMORY, "cpu backend: no memory for a matrix product");
        }
        product->key = *key;
        status = make_product(state, product);
        if (status != dnnl_success) {
            close_product(state, product);
            return gln_fail(GLN_ERR_BACKEND,
                            "cpu backend: oneDNN refuses the product m %lld n %lld k %lld with "
                            "status %d; use the ref backend",
                            (long long)key->m, (long long)key->n, (long long)key->k, (int)status);
        }
        product->next = *bucket;
        *bucket = product;
    }
    *out = product;
    return GLN_OK;
}

static dnnl_status_t set_handles(gln_product_memory_t *memory, const void *a, const void *b,
                                 void *c, void *scratchpad)
{
    dnnl_status_t status = dnnl_memory_set_data_handle(memory->a, (void *)(uintptr_t)a);

    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(memory->b, (void *)(uintptr_t)b);
    if (status == dnnl_success) status = dnnl_memory_set_data_handle(memory->c, c);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(memory->scratchpad, scratchpad);
    return status;
}

static void run_library(gln_cpu_state_t *state, const gln_product_t *product, int worker,
                        const void *a, const void *b, void *c, void *scratchpad)
{
    gln_product_memory_t *memory = &product->memory[worker];
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, memory->a},
                                   {DNNL_ARG_WEIGHTS, memory->b},
                                   {DNNL_ARG_DST, memory->c},
                                   {DNNL_ARG_SCRATCHPAD, memory->scratchpad}};
    dnnl_status_t status = set_handles(memory, a, b, c, scratchpad);
    int expected = dnnl_success;

    if (omp_get_max_threads() != 1) omp_set_num_threads(1); /* this thread's own setting */
    if (status == dnnl_success)
        status = dnnl_primitive_execute(product->primitive, state->streams[worker], 4, arguments);
    if (status != dnnl_success)
        atomic_compare_exchange_strong(&state->library_status, &expected, (int)status);
}

static const void *widened(const void *from, gln_dtype_t dtype, int64_t count, void *copy)
{
    if (dtype != GLN_BF16) return from;
    gln_cpu_widen(from, count, copy);
    return copy;
}

void gln_product_run(gln_cpu_state_t *state, const gln_product_t *product, int worker,
                     const void *a, const void *b, void *c, void *scratchpad)
{
    const gln_product_key_t *key = &product->key;
    char *copy_a = (char *)scratchpad + product->library_bytes, *copy_b, *copy_c;
    size_t bytes[3];

    if (!product->widened) {
        run_library(state, product, worker, a, b, c, scratchpad);
        return;
    }
    copy_bytes(key, bytes);
    copy_b = copy_a + bytes[0];
    copy_c = copy_b + bytes[1];
    a = widened(a, key->a, key->m * key->k, copy_a);
    b = widened(b, key->b, key->k * key->n, copy_b);
    if (key->c != GLN_BF16) {
        run_library(state, product, worker, a, b, c, scratchpad);
        return;
    }
    if (key->accumulate) gln_cpu_widen(c, key->m * key->n, (float *)(void *)copy_c);
    run_library(state, product, worker, a, b, copy_c, scratchpad);
    gln_cpu_round((const float *)(void *)copy_c, key->m * key->n, c);
}

/* Does the library multiply this type natively and row by row? A product of any size tells: what it
 * runs depends on the machine, and on what the environment allows it to use. */
static int runs_natively(gln_cpu_state_t *state, gln_dtype_t dtype)
{
    dnnl_memory_desc_t desc[3];
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t primitive_desc = NULL;
    const char *implementation = "";
    int native;

    if (describe(64, 64, 0, dtype, &desc[0]) != dnnl_success ||
        describe(64, 64, 0, dtype, &desc[1]) != dnnl_success ||
        describe(64, 64, 0, dtype, &desc[2]) != dnnl_success ||
        dnnl_matmul_desc_init(&matmul, &desc[0], &desc[1], NULL, &desc[2]) != dnnl_success ||
        dnnl_primitive_desc_create(&primitive_desc, &matmul, NULL, state->engine, NULL) !=
            dnnl_success)
        return 0;
    dnnl_primitive_desc_query(primitive_desc, dnnl_query_impl_info_str, 0, &implementation);
    native = strncmp(implementation, "brg:avx512", 10) == 0;
    dnnl_primitive_desc_destroy(primitive_desc);
    return native;
}

void gln_product_probe(gln_cpu_state_t *state)
{
    state->bf16_products = runs_natively(state, GLN_BF16);
    if (runs_natively(state, state->dtype)) state->panels = gln_panel_ops(state->dtype);
    if (runs_natively(state, GLN_F32))
        state->wide = gln_wide_ops(state->dtype, state->bf16_products);
}

void gln_product_close_all(gln_cpu_state_t *state)
{
    for (int i = 0; i < GLN_CPU_BUCKETS; ++i)
        while (state->products[i] != NULL) {
            gln_product_t *product = state->products[i];

            state->products[i] = product->next;
            close_product(state, product);
        }
}

int gln_cpu_library_enter(gln_cpu_state_t *state)
{
    int threads = omp_get_max_threads();

    atomic_store(&state->library_status, dnnl_success);
    if (threads != 1) omp_set_num_threads(1);
    return threads;
}

gln_status_t gln_cpu_library_leave(gln_cpu_state_t *state, int entered, gln_status_t status)
{
    int library = atomic_load(&state->library_status);

    if (entered != 1) omp_set_num_threads(entered);
    if (status == GLN_OK && library != dnnl_success)
        status = gln_fail(GLN_ERR_BACKEND,
                          "cpu backend: a oneDNN product failed with status %d; use the ref "
                          "backend",
                          library);
    return status;
}
