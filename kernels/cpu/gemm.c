/* Grouped matrix products out of oneDNN products of fixed shape, 2 m n k operations: on machines
 * for which gemm_panel.c has no inner loop.
 *
 * NN and NT cut the rows of every item into blocks of fixed sizes; each block is a task. TN cuts C
 * into tiles that stay in the second-level cache, each a task, and walks over the summed rows in
 * chunks of fixed sizes, largest first, adding each to C: the order depends on their number alone.
 * What a block does not fill is zeros, what is strided is copied: the library is fast, and a row's
 * bits are its own, only where operands are dense. A copy costs 1/(2 n) or 1/(2 k) of the product.
 *
 * The largest block and the tile are chosen so that every thread gets some tasks: the library is
 * slower at small ones, for it copies B each time. The choice does not change a bit where
 * rows_independent holds (product.c), and is not made elsewhere. */
#include <string.h>

#include "base/clones.h"
#include "base/log.h"
#include "kernels/cpu/gemm_shape.h"

#define TASKS_PER_THREAD 4
#define BLOCK_ROWS_MIN 32 /* smaller only as a rest: they read B too often */

typedef struct gemm_run {
    gln_cpu_state_t *state;
    int items_count;
} gemm_run_t;

/* [rows, columns] elements of `bytes` from row stride `from_ld` to `to_ld`. */
static void copy_rows(const void *from, int64_t from_ld, int64_t rows, int64_t columns,
                      int64_t to_ld, size_t bytes, void *to)
{
    for (int64_t i = 0; i < rows; ++i)
        memcpy((char *)to + (size_t)(i * to_ld) * bytes,
               (const char *)from + (size_t)(i * from_ld) * bytes, (size_t)columns * bytes);
}

static void zero_rows(void *to, int64_t rows, int64_t columns, size_t bytes)
{
    if (rows > 0 && columns > 0) memset(to, 0, (size_t)(rows * columns) * bytes);
}

/* Dense [size, columns] view of `rows` rows: the rows themselves, or a copy filled up with zeros.
 */
static const void *dense_rows(const void *from, int64_t ld, int64_t rows, int64_t columns,
                              int64_t size, size_t bytes, void *copy)
{
    if (ld == columns && rows == size) return from;
    copy_rows(from, ld, rows, columns, columns, bytes, copy);
    zero_rows((char *)copy + (size_t)(rows * columns) * bytes, size - rows, columns, bytes);
    return copy;
}

/* One block of rows of NN or NT. */
static void run_rows(gln_cpu_state_t *state, const gln_gemm_item_t *item, int block, int worker)
{
    const gln_gemm_t *g = &item->args;
    const gln_gemm_shape_t *shape = item->shape;
    gln_gemm_block_t at = gln_gemm_block_at(shape, item->first_size, g->m, block);
    int64_t size = shape->sizes[at.size];
    gln_dtype_t dtype_c = shape->mode.c_acc ? GLN_F32 : state->dtype;
    size_t bytes = gln_dtype_bytes(state->dtype), bytes_c = gln_dtype_bytes(dtype_c);
    char *scratch = state->scratch[worker];
    const void *a = gln_at(g->a, at.start * g->lda, state->dtype);
    const void *b = g->b;
    void *c = gln_at(g->c, at.start * g->ldc, dtype_c), *c_run = c;
    int c_copied = !item->c_dense || at.rows < size;

    a = dense_rows(a, g->lda, at.rows, g->k, size, bytes, scratch + item->a_at);
    if (!item->b_dense) {
        int nt = shape->mode.form == GLN_GEMM_NT;

        b = dense_rows(b, g->ldb, nt ? g->n : g->k, nt ? g->k : g->n, nt ? g->n : g->k, bytes,
                       scratch + item->b_at);
    }
    if (c_copied) {
        c_run = scratch + item->c_at;
        if (shape->mode.accumulate) {
            copy_rows(c, g->ldc, at.rows, g->n, g->n, bytes_c, c_run);
            zero_rows(gln_at(c_run, at.rows * g->n, dtype_c), size - at.rows, g->n, bytes_c);
        }
    }
    gln_product_run(state, shape->products[0][0][at.size], worker, a, b, c_run, scratch);
    if (c_copied) copy_rows(c_run, g->n, at.rows, g->n, g->ldc, bytes_c, c);
}

/* TN: the tile of C where products add to it, in f32: C itself, or its copy. */
static void load_tile(const void *c, gln_dtype_t dtype_c, int64_t ldc, int64_t rows,
                      int64_t columns, float *tile)
{
    if (dtype_c == GLN_F32) copy_rows(c, ldc, rows, columns, columns, sizeof *tile, tile);
    for (int64_t i = 0; dtype_c == GLN_BF16 && i < rows; ++i)
        gln_cpu_widen((const gln_bf16_t *)c + i * ldc, columns, tile + i * columns);
}

static void store_tile(const float *tile, gln_dtype_t dtype_c, int64_t ldc, int64_t rows,
                       int64_t columns, void *c)
{
    if (dtype_c == GLN_F32) copy_rows(tile, columns, rows, columns, ldc, sizeof *tile, c);
    for (int64_t i = 0; dtype_c == GLN_BF16 && i < rows; ++i)
        gln_cpu_round(tile + i * columns, columns, (gln_bf16_t *)c + i * ldc);
}

/* One tile of C of TN: all chunks of the summed rows. */
static void run_tile(gln_cpu_state_t *state, const gln_gemm_item_t *item, int task, int worker)
{
    const gln_gemm_t *g = &item->args;
    const gln_gemm_shape_t *shape = item->shape;
    int64_t across = (g->n + shape->width - 1) / shape->width;
    int64_t row = task / across * shape->tile, rows = gln_cpu_min(shape->tile, g->m - row);
    int64_t column = task % across * shape->width;
    int64_t columns = gln_cpu_min(shape->width, g->n - column);
    const gln_product_t *const *products =
        shape->products[rows < shape->tile][columns < shape->width];
    gln_dtype_t dtype = state->dtype, dtype_c = shape->mode.c_acc ? GLN_F32 : dtype;
    size_t bytes = gln_dtype_bytes(dtype);
    char *scratch = state->scratch[worker];
    void *c = gln_at(g->c, row * g->ldc + column, dtype_c);
    float *c_run = item->c_dense ? c : (void *)(scratch + item->c_at);
    int blocks = gln_gemm_blocks(shape, 0, g->k);

    if (!shape->mode.accumulate)
        zero_rows(c_run, rows, columns, sizeof *c_run);
    else if (!item->c_dense)
        load_tile(c, dtype_c, g->ldc, rows, columns, c_run);
    for (int block = 0; block < blocks; ++block) {
        gln_gemm_block_t at = gln_gemm_block_at(shape, 0, g->k, block);
        int64_t size = shape->sizes[at.size];
        const void *a = dense_rows(gln_at(g->a, at.start * g->lda + row, dtype), g->lda, at.rows,
                                   rows, size, bytes, scratch + item->a_at);
        const void *b = dense_rows(gln_at(g->b, at.start * g->ldb + column, dtype), g->ldb, at.rows,
                                   columns, size, bytes, scratch + item->b_at);

        gln_product_run(state, products[at.size], worker, a, b, c_run, scratch);
    }
    if (!item->c_dense) store_tile(c_run, dtype_c, g->ldc, rows, columns, c);
}

static void gemm_task(void *ctx, int task, int worker)
{
    const gemm_run_t *run = ctx;
    const gln_gemm_item_t *items = run->state->items;
    int low = 0, high = run->items_count - 1; /* the last item that starts at or before the task */

    while (low < high) {
        int middle = (low + high + 1) / 2;

        if (items[middle].first_task <= task)
            low = middle;
        else
            high = middle - 1;
    }
    if (items[low].shape->mode.form == GLN_GEMM_TN)
        run_tile(run->state, &items[low], task - items[low].first_task, worker);
    else
        run_rows(run->state, &items[low], task - items[low].first_task, worker);
}

void gln_gemm_zero(const gln_cpu_state_t *state, gln_gemm_mode_t mode, const gln_gemm_t *g)
{
    gln_dtype_t dtype_c = mode.c_acc ? GLN_F32 : state->dtype;

    for (int64_t i = 0; i < g->m && !mode.accumulate; ++i)
        zero_rows(gln_at(g->c, i * g->ldc, dtype_c), 1, g->n, gln_dtype_bytes(dtype_c));
}

/* Cut one item. @param work_per_task 2 m n k of a task wanted. @return bytes of scratch it needs.
 */
static size_t plan_item(const gln_cpu_state_t *state, gln_gemm_item_t *item, double work_per_task)
{
    const gln_gemm_t *g = &item->args;
    const gln_gemm_shape_t *shape = item->shape;
    int tn = shape->mode.form == GLN_GEMM_TN, nt = shape->mode.form == GLN_GEMM_NT;
    int64_t least = shape->sizes[shape->sizes_count - 1], size = shape->sizes[0], a, b, c;

    item->a_dense = g->lda == (tn ? g->m : g->k);
    item->b_dense = g->ldb == (nt ? g->k : g->n);
    item->c_dense = g->ldc == (tn ? shape->width : g->n) &&
                    (!tn || state->dtype == GLN_F32 || shape->mode.c_acc);
    item->first_size = 0;
    if (tn) {
        int64_t down = (g->m + shape->tile - 1) / shape->tile;
        int64_t across = (g->n + shape->width - 1) / shape->width;

        a = size * gln_cpu_min(GLN_GEMM_TILE_MAX, g->m); /* of any tile: a later call may want it */
        b = size * shape->width;
        c = item->c_dense ? 0 : gln_cpu_min(GLN_GEMM_TILE_MAX, g->m) * shape->width;
        item->tasks_count = (int)(down * across);
    } else {
        while (item->first_size + 1 < shape->sizes_count &&
               shape->sizes[item->first_size + 1] >= BLOCK_ROWS_MIN &&
               2.0 * (double)shape->sizes[item->first_size] * (double)g->n * (double)g->k >
                   work_per_task)
            ++item->first_size;
        a = (item->a_dense ? least : size) * g->k;
        b = item->b_dense ? 0 : g->k * g->n;
        c = (item->c_dense ? least : size) * g->n;
        item->tasks_count = gln_gemm_blocks(shape, item->first_size, g->m);
    }
    item->a_at = shape->scratchpad_bytes;
    item->b_at = item->a_at + gln_cpu_bytes(a, gln_dtype_bytes(state->dtype));
    item->c_at = item->b_at + gln_cpu_bytes(b, gln_dtype_bytes(state->dtype));
    return item->c_at + gln_cpu_bytes(c, sizeof(float));
}

/* TN: rows of a tile of C, so that a tile is not more work than wanted. */
static int64_t tile_rows(const gln_gemm_t *g, double work_per_task)
{
    double columns = (double)gln_cpu_min(g->n, GLN_GEMM_WIDTH_MAX);
    int64_t rows = GLN_GEMM_TILE_MAX;

    while (rows > GLN_GEMM_TILE_MIN && 2.0 * (double)rows * columns * (double)g->k > work_per_task)
        rows /= 2;
    return rows;
}

/* Run up to GLN_CPU_ITEMS_MAX items. */
static gln_status_t run_items(gln_cpu_state_t *state, gln_gemm_mode_t mode, const gln_gemm_t *items,
                              int count)
{
    gemm_run_t run = {state, 0};
    double work = 0;
    size_t scratch_bytes = 0;
    int tasks_count = 0, tasks_wanted = TASKS_PER_THREAD * state->workers_count;
    gln_status_t status;

    for (int i = 0; i < count; ++i)
        work += 2.0 * (double)items[i].m * (double)items[i].n * (double)items[i].k;
    for (int i = 0; i < count; ++i) {
        gln_gemm_item_t *item = &state->items[run.items_count];
        size_t bytes;

        if (items[i].m == 0 || items[i].n == 0) continue;
        if (items[i].k == 0) {
            gln_gemm_zero(state, mode, &items[i]);
            continue;
        }
        item->args = items[i];
        status = gln_gemm_shape_get(
            state, mode, &items[i],
            mode.form == GLN_GEMM_TN ? tile_rows(&items[i], work / tasks_wanted) : 0, &item->shape);
        if (status != GLN_OK) return status;
        bytes = plan_item(state, item, work / tasks_wanted);
        if (bytes > scratch_bytes) scratch_bytes = bytes;
        item->first_task = tasks_count;
        tasks_count += item->tasks_count;
        ++run.items_count;
    }
    status = gln_cpu_scratch(state, scratch_bytes);
    if (status == GLN_OK) gln_pool_run(state->pool, tasks_count, gemm_task, &run);
    return status;
}

static gln_status_t run_all(gln_cpu_state_t *state, int on_panels, gln_gemm_mode_t mode,
                            const gln_gemm_t *items, int count)
{
    int entered = gln_cpu_library_enter(state);
    gln_status_t status = GLN_OK;

    for (int first = 0; first < count && status == GLN_OK; first += GLN_CPU_ITEMS_MAX)
        status = (on_panels ? gln_cpu_gemm_panels : run_items)(
            state, mode, items + first, (int)gln_cpu_min(count - first, GLN_CPU_ITEMS_MAX));
    return gln_cpu_library_leave(state, entered, status);
}

gln_status_t gln_cpu_gemm(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items,
                          int count)
{
    gln_cpu_state_t *state = k->state;

    return run_all(state, state->panels != NULL, mode, items, count);
}

gln_status_t gln_cpu_gemm_library(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items,
                                  int count)
{
    return run_all(k->state, 0, mode, items, count);
}
