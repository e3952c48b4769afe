/* Shapes: the products behind one (form, n, k or m), made together when the shape is first met, so
 * that later calls with other numbers of rows make none. */
#include "kernels/cpu/gemm_shape.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const int row_sizes[] = {256, 128, 64, 32, 16};
static const int uniform_size = 64;

static unsigned bucket_of(gln_gemm_mode_t mode, int64_t n, int64_t inner)
{
    uint64_t hash = (uint64_t)n * 1000003u + (uint64_t)inner;

    hash = hash * 1000003u +
           (uint64_t)((int)mode.form * 4 + (mode.accumulate != 0) * 2 + (mode.c_acc != 0));
    hash ^= hash >> 29;
    return (unsigned)((hash * 0x9e3779b97f4a7c15u) >> 56) % GLN_CPU_BUCKETS;
}

static gln_status_t get_product(gln_cpu_state_t *state, gln_gemm_shape_t *shape, int64_t tile,
                                int size, const gln_product_t **out)
{
    gln_product_key_t key = {.n = shape->n, .a = GLN_F32, .b = GLN_F32, .c = GLN_F32};
    gln_status_t status;

    if (shape->mode.form == GLN_GEMM_TN) {
        key.m = tile;
        key.k = size;
        key.a_transposed = 1;
        key.accumulate = 1; /* the first chunk adds to zeros */
    } else {
        key.m = size;
        key.k = shape->inner;
        key.b_transposed = shape->mode.form == GLN_GEMM_NT;
        key.accumulate = shape->mode.accumulate != 0;
    }
    status = gln_product_get(state, &key, out);
    if (status != GLN_OK) return status;
    if (!(*out)->rows_independent) shape->rows_independent = 0;
    if ((*out)->scratchpad_bytes > shape->scratchpad_bytes)
        shape->scratchpad_bytes = (*out)->scratchpad_bytes;
    return GLN_OK;
}

static gln_status_t fill_products(gln_cpu_state_t *state, gln_gemm_shape_t *shape)
{
    int64_t last = shape->mode.form == GLN_GEMM_TN ? shape->inner % shape->tile : 0;
    gln_status_t status;

    for (int i = 0; i < shape->sizes_count; ++i) {
        status = get_product(state, shape, shape->tile, shape->sizes[i], &shape->products[i]);
        if (status == GLN_OK && last > 0)
            status = get_product(state, shape, last, shape->sizes[i], &shape->last[i]);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

static gln_status_t make_shape(gln_cpu_state_t *state, gln_gemm_shape_t *shape)
{
    gln_status_t status;

    shape->rows_independent = 1;
    shape->tile = gln_cpu_min(shape->tile_wanted, shape->inner);
    shape->sizes_count = GLN_GEMM_SIZES_MAX;
    memcpy(shape->sizes, row_sizes, sizeof row_sizes);
    status = fill_products(state, shape);
    if (status != GLN_OK || shape->rows_independent) return status;
    /* A row's bits may depend on the number of rows run together: run them in one size always. */
    if (shape->mode.form == GLN_GEMM_TN) {
        shape->tile = gln_cpu_min(uniform_size, shape->inner);
        memset(shape->last, 0, sizeof shape->last);
    } else {
        shape->sizes_count = 1;
        shape->sizes[0] = uniform_size;
    }
    return fill_products(state, shape);
}

static gln_gemm_shape_t *find_shape(gln_gemm_shape_t *shape, gln_gemm_mode_t mode,
                                    const gln_gemm_t *args, int64_t inner, int64_t tile)
{
    for (; shape != NULL; shape = shape->next)
        if (shape->n == args->n && shape->inner == inner && shape->mode.form == mode.form &&
            shape->tile_wanted == tile && !shape->mode.accumulate == !mode.accumulate &&
            !shape->mode.c_acc == !mode.c_acc)
            return shape;
    return NULL;
}

static gln_status_t add_shape(gln_cpu_state_t *state, gln_gemm_mode_t mode, const gln_gemm_t *args,
                              int64_t inner, int64_t tile, gln_gemm_shape_t **bucket)
{
    gln_gemm_shape_t *shape = calloc(1, sizeof *shape);
    gln_status_t status;

    if (shape == NULL) return gln_fail(GLN_ERR_MEMORY, "cpu backend: no memory for a matrix shape");
    shape->mode = mode;
    shape->n = args->n;
    shape->inner = inner;
    shape->tile_wanted = tile;
    status = make_shape(state, shape);
    if (status != GLN_OK) {
        free(shape);
        return status;
    }
    shape->next = *bucket;
    *bucket = shape;
    return GLN_OK;
}

gln_status_t gln_gemm_shape_get(gln_cpu_state_t *state, gln_gemm_mode_t mode,
                                const gln_gemm_t *args, int64_t tile, const gln_gemm_shape_t **out)
{
    int64_t inner = mode.form == GLN_GEMM_TN ? args->m : args->k;
    gln_gemm_shape_t **bucket = &state->shapes[bucket_of(mode, args->n, inner)];
    gln_gemm_shape_t *shape = find_shape(*bucket, mode, args, inner, tile);
    gln_status_t status = GLN_OK;

    if (shape == NULL && tile == 0) {
        status = add_shape(state, mode, args, inner, 0, bucket);
    } else if (shape == NULL) {
        /* a later call with more or fewer items wants another tile: none is made in a step then */
        for (int64_t rows = GLN_GEMM_TILE_MIN; rows <= GLN_GEMM_TILE_MAX && status == GLN_OK;
             rows *= 2)
            status = add_shape(state, mode, args, inner, rows, bucket);
    }
    if (status != GLN_OK) return status;
    *out = shape != NULL ? shape : find_shape(*bucket, mode, args, inner, tile);
    GLN_ASSERT(*out != NULL);
    return GLN_OK;
}

void gln_cpu_gemm_close(gln_cpu_state_t *state)
{
    for (int i = 0; i < GLN_CPU_BUCKETS; ++i)
        while (state->shapes[i] != NULL) {
            gln_gemm_shape_t *shape = state->shapes[i];

            state->shapes[i] = shape->next;
            free(shape);
        }
}

gln_gemm_block_t gln_gemm_block_at(const gln_gemm_shape_t *shape, int first_size, int64_t rows,
                                   int block)
{
    gln_gemm_block_t at = {0, 0, first_size};

    for (;; ++at.size) {
        int64_t size = shape->sizes[at.size], count = (rows - at.start) / size;

        if (block < count) {
            at.start += block * size;
            at.rows = size;
            return at;
        }
        block -= (int)count;
        at.start += count * size;
        if (at.size == shape->sizes_count - 1) break;
    }
    at.rows = rows - at.start; /* the last block, to be filled up */
    return at;
}

int gln_gemm_blocks(const gln_gemm_shape_t *shape, int first_size, int64_t rows)
{
    int64_t blocks = 0;

    for (int i = first_size; i < shape->sizes_count; ++i) {
        blocks += rows / shape->sizes[i];
        rows %= shape->sizes[i];
    }
    return (int)blocks + (rows > 0);
}
