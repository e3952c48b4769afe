/* Grouped matrix products on packed panels (panel.h), 2 m n k operations.
 *
 * Every C is cut into blocks of up to 504 x 256, each a task: about as many blocks as threads times
 * TASKS_PER_THREAD, by operations, whatever the number of items. A task walks over the summed
 * dimension in chunks of GLN_PANEL_STEPS: packs the chunk of B (half a megabyte, second-level
 * cache), then, 14 rows at a time, the chunk of A (first-level cache), and runs the tiles. Sums of
 * later chunks are added to C. An element's sum so depends on its operands and on k alone: the cut
 * into blocks changes no bit.
 *
 * Packing costs 1/(2 m) + 1/(2 n) of a product's operations in elements moved; operands of any
 * stride are read in place. Where few rows are summed (TN), blocks are as wide as the packed B
 * allows, for C is then read and written once and nothing else takes time. */
#include <string.h>

#include "kernels/cpu/gemm_shape.h"
#include "kernels/cpu/panel.h"

enum {
    TASKS_PER_THREAD = 16,
    BLOCK_ROWS = 36 * GLN_PANEL_ROWS,
    BLOCK_COLUMNS = 8 * GLN_PANEL_COLUMNS,
    BLOCK_COLUMNS_WIDE = 4096,
    CACHE_LINE = 64,
    BLOCK_MIN = 64, /* rows or columns: smaller blocks pack too much */
};
#define B_WORDS ((size_t)GLN_PANEL_STEPS * BLOCK_COLUMNS)
#define SUMS_WORDS ((size_t)BLOCK_ROWS * BLOCK_COLUMNS)

typedef struct panel_run {
    gln_cpu_state_t *state;
    gln_gemm_mode_t mode;
    int items_count;
} panel_run_t;

typedef struct block { /* of C of one item */
    const gln_gemm_t *g;
    int64_t row, rows, column, columns;
} block_t;

static int64_t round_up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* Up to 14 rows of A and up to GLN_PANEL_STEPS steps from element k0 of the summed dimension on. */
static void pack_a(const panel_run_t *run, const gln_gemm_t *g, int64_t row, int64_t rows,
                   int64_t k0, int64_t k, uint32_t *out)
{
    gln_dtype_t dtype = run->state->dtype;
    size_t bytes = (size_t)k * gln_dtype_bytes(dtype);

    if (run->mode.form == GLN_GEMM_TN) {
        run->state->panels->pack_a_turned(gln_at(g->a, k0 * g->lda + row, dtype), g->lda, k, rows,
                                          out);
        return;
    }
    for (int64_t i = 0; i < rows; ++i) {
        char *to = (char *)(out + i * GLN_PANEL_A_ROW);

        memcpy(to, gln_at(g->a, (row + i) * g->lda + k0, dtype), bytes);
        if (bytes % 4 != 0) memset(to + bytes, 0, 2);
    }
}

/* Ask for a share, number `part` of `parts`, of the rows of A that are packed next: from where they
 * lie to the first-level cache takes as long as many tiles' worth of additions. */
static void ask_for_a(const panel_run_t *run, const gln_gemm_t *g, int64_t row, int64_t rows,
                      int64_t k0, int64_t k, int64_t part, int64_t parts)
{
    gln_dtype_t dtype = run->state->dtype;
    int64_t bytes = k * (int64_t)gln_dtype_bytes(dtype);
    int64_t begin = bytes * part / parts / CACHE_LINE * CACHE_LINE,
            end = bytes * (part + 1) / parts;

    for (int64_t i = 0; i < rows; ++i) {
        const char *from = gln_at(g->a, (row + i) * g->lda + k0, dtype);

        for (int64_t at = begin; at < end; at += CACHE_LINE)
            __builtin_prefetch(from + at, 0, 2);
    }
}

/* One chunk of the summed dimension: c (+)= A B for the block. */
static void run_chunk(const panel_run_t *run, const block_t *at, int64_t k0, int64_t k, uint32_t *a,
                      uint32_t *b, gln_panel_store_t store, void *c, int64_t ldc)
{
    const gln_panel_ops_t *ops = run->state->panels;
    const gln_gemm_t *g = at->g;
    gln_dtype_t dtype = run->state->dtype;
    gln_dtype_t dtype_c = store <= GLN_PANEL_ADD ? GLN_F32 : GLN_BF16;
    int64_t steps = dtype == GLN_F32 ? k : (k + 1) / 2;
    int64_t panels = (at->rows + GLN_PANEL_ROWS - 1) / GLN_PANEL_ROWS;

    if (run->mode.form == GLN_GEMM_NT)
        ops->pack_b_turned(gln_at(g->b, at->column * g->ldb + k0, dtype), g->ldb, k, at->columns,
                           b);
    else
        ops->pack_b(gln_at(g->b, k0 * g->ldb + at->column, dtype), g->ldb, k, at->columns, b);
    for (int64_t p = 0; p < panels; ++p) { /* as equal as can be */
        int64_t row = at->rows * p / panels, next = at->rows * (p + 1) / panels;
        int64_t rows = next - row, next_rows = at->rows * (p + 2) / panels - next;
        gln_panel_tile_t tile = {.a = a, .steps = steps, .ldc = ldc, .store = store};

        pack_a(run, g, at->row + row, rows, k0, k, a);
        for (int64_t j = 0; j < at->columns; j += GLN_PANEL_COLUMNS) {
            int64_t columns = at->columns - j;

            if (p + 1 < panels && run->mode.form != GLN_GEMM_TN)
                ask_for_a(run, g, at->row + next, next_rows, k0, k, j / GLN_PANEL_COLUMNS,
                          round_up(at->columns, GLN_PANEL_COLUMNS) / GLN_PANEL_COLUMNS);
            tile.b = b + j * steps;
            tile.c = gln_at(c, row * ldc + j, dtype_c);
            tile.mask = columns >= GLN_PANEL_COLUMNS ? ~0u : (1u << columns) - 1;
            (run->mode.form == GLN_GEMM_TN ? ops->by_step : ops->by_row)[rows - 1](&tile);
        }
    }
}

/* bf16 C of more than one chunk: rounded once, from sums in f32. */
static void store_sums(const block_t *at, int accumulate, const float *sums, gln_bf16_t *c)
{
    for (int64_t i = 0; i < at->rows; ++i) {
        const float *from = sums + i * at->columns;
        gln_bf16_t *to = c + i * at->g->ldc;

        if (!accumulate)
            gln_cpu_round(from, at->columns, to);
        else
            for (int64_t j = 0; j < at->columns; ++j)
                to[j] = gln_bf16_round(gln_bf16_load(to[j]) + from[j]);
    }
}

static void run_block(const panel_run_t *run, const block_t *at, int worker)
{
    const gln_gemm_t *g = at->g;
    int narrow = run->state->dtype == GLN_BF16 && !run->mode.c_acc;
    int64_t chunk = GLN_PANEL_STEPS * (run->state->dtype == GLN_F32 ? 1 : 2);
    uint32_t *a = (uint32_t *)(void *)run->state->scratch[worker];
    uint32_t *b = a + GLN_PANEL_A_WORDS;
    float *sums = (float *)(void *)(b + B_WORDS);
    void *c = gln_at(g->c, at->row * g->ldc + at->column, narrow ? GLN_BF16 : GLN_F32);

    if (narrow && g->k <= chunk) {
        run_chunk(run, at, 0, g->k, a, b,
                  run->mode.accumulate ? GLN_PANEL_ADD_BF16 : GLN_PANEL_PUT_BF16, c, g->ldc);
        return;
    }
    for (int64_t k0 = 0; k0 < g->k; k0 += chunk) {
        int add = k0 > 0 || (run->mode.accumulate && !narrow);

        run_chunk(run, at, k0, gln_cpu_min(chunk, g->k - k0), a, b,
                  add ? GLN_PANEL_ADD : GLN_PANEL_PUT, narrow ? sums : c,
                  narrow ? at->columns : g->ldc);
    }
    if (narrow) store_sums(at, run->mode.accumulate, sums, c);
}

static void panel_task(void *ctx, int task, int worker)
{
    const panel_run_t *run = ctx;
    const gln_gemm_item_t *items = run->state->items;
    int low = 0, high = run->items_count - 1; /* the last item that starts at or before the task */

    while (low < high) {
        int middle = (low + high + 1) / 2;

        if (items[middle].first_task <= task)
            low = middle;
        else
            high = middle - 1;
    }
    const gln_gemm_item_t *item = &items[low];
    const gln_gemm_t *g = &item->args;
    int64_t across = (g->n + item->block_columns - 1) / item->block_columns;
    int64_t number = task - item->first_task;
    block_t at = {.g = g,
                  .row = number / across * item->block_rows,
                  .column = number % across * item->block_columns};

    at.rows = gln_cpu_min(item->block_rows, g->m - at.row);
    at.columns = gln_cpu_min(item->block_columns, g->n - at.column);
    run_block(run, &at, worker);
}

/* Equal parts of at most `most`, multiples of `unit` but for the last. */
static int64_t equal_parts(int64_t size, int64_t most, int64_t unit)
{
    int64_t parts = (size + most - 1) / most;

    return round_up((size + parts - 1) / parts, unit);
}

/* @param work_wanted operations of a task */
static void cut_item(const gln_cpu_state_t *state, gln_gemm_mode_t mode, double work_wanted,
                     gln_gemm_item_t *item)
{
    const gln_gemm_t *g = &item->args;
    int64_t rows = BLOCK_ROWS, columns = BLOCK_COLUMNS;
    int64_t steps = state->dtype == GLN_F32 ? g->k : (g->k + 1) / 2;

    if (mode.form == GLN_GEMM_TN && steps < GLN_PANEL_STEPS)
        columns = gln_cpu_min(BLOCK_COLUMNS_WIDE,
                              (int64_t)B_WORDS / steps / GLN_PANEL_COLUMNS * GLN_PANEL_COLUMNS);
    rows = gln_cpu_min(rows, round_up(g->m, GLN_PANEL_ROWS));
    columns = gln_cpu_min(columns, round_up(g->n, GLN_PANEL_COLUMNS));
    while (2.0 * (double)rows * (double)columns * (double)g->k > work_wanted &&
           (rows > BLOCK_MIN || columns > BLOCK_MIN)) {
        if (rows >= columns)
            rows = round_up((rows + 1) / 2, GLN_PANEL_ROWS);
        else
            columns = round_up((columns + 1) / 2, GLN_PANEL_COLUMNS);
    }
    item->block_rows = equal_parts(g->m, rows, GLN_PANEL_ROWS);
    item->block_columns = equal_parts(g->n, columns, GLN_PANEL_COLUMNS);
    item->tasks_count = (int)((g->m + item->block_rows - 1) / item->block_rows *
                              ((g->n + item->block_columns - 1) / item->block_columns));
}

gln_status_t gln_cpu_gemm_panels(gln_cpu_state_t *state, gln_gemm_mode_t mode,
                                 const gln_gemm_t *items, int count)
{
    panel_run_t run = {state, mode, 0};
    double work = 0;
    int tasks_count = 0, tasks_wanted = TASKS_PER_THREAD * state->workers_count;
    gln_status_t status =
        gln_cpu_scratch(state, (GLN_PANEL_A_WORDS + B_WORDS + SUMS_WORDS) * sizeof(uint32_t));

    if (status != GLN_OK) return status;
    for (int i = 0; i < count; ++i)
        work += 2.0 * (double)items[i].m * (double)items[i].n * (double)items[i].k;
    for (int i = 0; i < count; ++i) {
        gln_gemm_item_t *item = &state->items[run.items_count];

        if (items[i].m == 0 || items[i].n == 0) continue;
        if (items[i].k == 0) {
            gln_gemm_zero(state, mode, &items[i]);
            continue;
        }
        item->args = items[i];
        cut_item(state, mode, work / tasks_wanted, item);
        item->first_task = tasks_count;
        tasks_count += item->tasks_count;
        ++run.items_count;
    }
    gln_pool_run(state->pool, tasks_count, panel_task, &run);
    return GLN_OK;
}
