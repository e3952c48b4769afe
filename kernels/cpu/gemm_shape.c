/* Shapes: the products behind one (form, n, k or m), made together when the shape is first met, so
 * that later calls with other numbers of rows make none. */
#include "kernels/cpu/gemm_shape.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum { ROW_SIZES = GLN_GEMM_SIZES_MAX, CHUNK_SIZES = 4 }; /* TN: from 128 on */

static const int row_sizes[ROW_SIZES] = {256, 128, 64, 32, 16};
static const int uniform_size = 64;

static unsigned bucket_of(gln_gemm_mode_t mode, int64_t n, int64_t inner)
{
    uint64_t hash = (uint64_t)n * 1000003u + (uint64_t)inner;

    hash = hash * 1000003u +
           (uint64_t)((int)mode.form * 4 + (mode.accumulate != 0) * 2 + (mode.c_acc != 0));
    hash ^= hash >> 29;
    return (unsigned)((hash * 0x9e3779b97f4a7c15u) >> 56) % GLN_CPU_BUCKETS;
}

/* The product of sizes[size], for a tile of [rows, columns] in TN. */
static gln_status_t get_product(gln_cpu_state_t *state, gln_gemm_shape_t *shape, int64_t rows,
                                int64_t columns, int size, const gln_product_t **out)
{
    gln_product_key_t key = {.n = columns, .a = state->dtype, .b = state->dtype, .c = GLN_F32};
    gln_status_t status;

    if (shape->mode.form == GLN_GEMM_TN) {
        key.m = rows;
        key.k = shape->sizes[size];
        key.a_transposed = 1;
        key.accumulate = 1; /* the first chunk adds to zeros */
    } else {
        key.m = shape->sizes[size];
        key.k = shape->inner;
        key.b_transposed = shape->mode.form == GLN_GEMM_NT;
        key.accumulate = shape->mode.accumulate != 0;
        if (!shape->mode.c_acc) key.c = state->dtype;
    }
    status = gln_product_get(state, &key, out);
    if (status != GLN_OK) return status;
    if (!(*out)->rows_independent) shape->rows_independent = 0;
    if ((*out)->scratchpad_bytes > shape->scratchpad_bytes)
        shape->scratchpad_bytes = (*out)->scratchpad_bytes;
    return GLN_OK;
}

/* All products of a shape whose sizes, tile and width are set. */
static gln_status_t fill_products(gln_cpu_state_t *state, gln_gemm_shape_t *shape)
{
    int tn = shape->mode.form == GLN_GEMM_TN;
    int64_t rows[2] = {shape->tile, tn ? shape->inner % shape->tile : 0};
    int64_t columns[2] = {shape->width, shape->n % shape->width};

    memset(shape->products, 0, sizeof shape->products);
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
            for (int size = 0; size < shape->sizes_count; ++size) {
                gln_status_t status = GLN_OK;

                if ((i == 0 || rows[1] > 0) && (j == 0 || columns[1] > 0))
                    status = get_product(state, shape, rows[i], columns[j], size,
                                         &shape->products[i][j][size]);
                if (status != GLN_OK) return status;
            }
    return GLN_OK;
}

/* Columns of a tile: equal ones, multiples of 64, as few as GLN_GEMM_WIDTH_MAX allows. */
static int64_t tile_columns(int64_t n)
{
    int64_t tiles = (n + GLN_GEMM_WIDTH_MAX - 1) / GLN_GEMM_WIDTH_MAX;
    int64_t width = ((n + tiles - 1) / tiles + 63) / 64 * 64;

    return gln_cpu_min(width, n);
}

static gln_status_t make_shape(gln_cpu_state_t *state, gln_gemm_shape_t *shape)
{
    int tn = shape->mode.form == GLN_GEMM_TN;
    gln_status_t status;

    shape->rows_independent = 1;
    shape->tile = gln_cpu_min(shape->tile_wanted, shape->inner);
    shape->width = tn ? tile_columns(shape->n) : shape->n;
    shape->sizes_count = tn ? CHUNK_SIZES : ROW_SIZES;
    memcpy(shape->sizes, row_sizes + ROW_SIZES - shape->sizes_count,
           (size_t)shape->sizes_count * sizeof *shape->sizes);
    status = fill_products(state, shape);
    if (status != GLN_OK || shape->rows_independent) return status;
    /* A row's bits may depend on the number of rows run together: run them in one size always. */
    if (tn) {
        shape->tile = gln_cpu_min(uniform_size, shape->inner);
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

/* TN: a shape for every tile. All ask for the scratchpad of the largest. */
static gln_status_t add_tiles(gln_cpu_state_t *state, gln_gemm_mode_t mode, const gln_gemm_t *args,
                              int64_t inner, gln_gemm_shape_t **bucket)
{
    gln_gemm_shape_t *tail = *bucket;
    size_t scratchpad_bytes = 0;

    for (int64_t rows = GLN_GEMM_TILE_MIN; rows <= GLN_GEMM_TILE_MAX; rows *= 2) {
        gln_status_t status = add_shape(state, mode, args, inner, rows, bucket);

        if (status != GLN_OK) return status;
        if ((*bucket)->scratchpad_bytes > scratchpad_bytes)
            scratchpad_bytes = (*bucket)->scratchpad_bytes;
    }
    for (gln_gemm_shape_t *shape = *bucket; shape != tail; shape = shape->next)
        shape->scratchpad_bytes = scratchpad_bytes;
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
        /* a later call with other rows wants another tile: none is made in a step then */
        status = add_tiles(state, mode, args, inner, bucket);
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
