/* The promises about matrix products that hold bit for bit, on every backend: a row of NN and NT is
 * a function of that row and of B, and TN of its rows, whatever the batch, the group, the strides.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fill.h"
#include "tests/support/subjects.h"

#define ROWS 300

static gln_bench_t open_bench(int subject)
{
    gln_bench_t bench;

    cr_assert_eq(gln_bench_open(&gln_subjects[subject], 2, &bench), GLN_OK, "%s: %s",
                 gln_subjects[subject].name, gln_last_error());
    return bench;
}

/* A copy of rows x columns with another stride, at an odd address. *block is what to free. */
static void *copy_matrix(const void *from, int64_t rows, int64_t columns, int64_t ld_from,
                         int64_t ld, gln_dtype_t dtype, void **block)
{
    char *to;

    *block = malloc((size_t)(rows * ld + 8) * gln_dtype_bytes(dtype));
    cr_assert_not_null(*block);
    to = gln_at(*block, 3, dtype);
    for (int64_t i = 0; i < rows; ++i)
        memcpy(gln_at(to, i * ld, dtype), gln_at(from, i * ld_from, dtype),
               (size_t)columns * gln_dtype_bytes(dtype));
    return to;
}

static void *random_matrix(gln_dtype_t dtype, uint64_t stream, int64_t count)
{
    void *block = malloc((size_t)(count + 1) * gln_dtype_bytes(dtype));

    cr_assert_not_null(block);
    gln_fill_normal(dtype, 5, stream, 0, 1, count, block);
    return block;
}

/* One product of ROWS rows, and the memory for parts of it. */
typedef struct whole {
    gln_gemm_mode_t mode;
    gln_dtype_t dtype, dtype_c;
    int64_t n, k, lda_other, ldc_other;
    void *a, *b, *c_before, *c; /* dense */
    void *a_other, *a_block;    /* the same rows with a stride and an offset */
    char *part;                 /* [ROWS, ldc_other] */
} whole_t;

static whole_t compute_whole(gln_bench_t *bench, gln_gemm_mode_t mode, int64_t n, int64_t k)
{
    gln_kernels_t *kernels = bench->kernels;
    whole_t w = {.mode = mode,
                 .dtype = kernels->dtype,
                 .dtype_c = mode.c_acc ? kernels->acc : kernels->dtype,
                 .n = n,
                 .k = k,
                 .lda_other = k + 5,
                 .ldc_other = n + 3};
    gln_gemm_t g = {.m = ROWS, .n = n, .k = k, .lda = k, .ldc = n};

    w.a = random_matrix(w.dtype, 1, ROWS * k);
    w.b = random_matrix(w.dtype, 2, n * k);
    w.c_before = random_matrix(w.dtype_c, 3, ROWS * n);
    w.c = random_matrix(w.dtype_c, 3, ROWS * n);
    w.part = random_matrix(w.dtype_c, 4, ROWS * w.ldc_other);
    w.a_other = copy_matrix(w.a, ROWS, k, k, w.lda_other, w.dtype, &w.a_block);
    g.a = w.a;
    g.b = w.b;
    g.ldb = mode.form == GLN_GEMM_NT ? k : n;
    g.c = w.c;
    cr_assert_eq(kernels->ops->gemm(kernels, mode, &g, 1), GLN_OK);
    return w;
}

static void free_whole(whole_t *w)
{
    free(w->a);
    free(w->b);
    free(w->c_before);
    free(w->c);
    free(w->a_block);
    free(w->part);
}

/* Rows [start, start + rows) as an item that writes its own rows of `part`. */
static gln_gemm_t item_of(whole_t *w, int64_t start, int64_t rows, int strided)
{
    gln_gemm_t g = {.m = rows, .n = w->n, .k = w->k, .b = w->b};

    g.lda = strided ? w->lda_other : w->k;
    g.a = gln_at(strided ? w->a_other : w->a, start * g.lda, w->dtype);
    g.ldb = w->mode.form == GLN_GEMM_NT ? w->k : w->n;
    g.ldc = strided ? w->ldc_other : w->n;
    g.c = gln_at(w->part, start * w->ldc_other, w->dtype_c);
    for (int64_t i = 0; i < rows; ++i) /* what an accumulating product finds */
        memcpy(gln_at(g.c, i * g.ldc, w->dtype_c),
               gln_at(w->c_before, (start + i) * w->n, w->dtype_c),
               (size_t)w->n * gln_dtype_bytes(w->dtype_c));
    return g;
}

static int same_rows(const whole_t *w, const gln_gemm_t *g, int64_t start)
{
    for (int64_t i = 0; i < g->m; ++i)
        if (memcmp(gln_at(g->c, i * g->ldc, w->dtype_c),
                   gln_at(w->c, (start + i) * w->n, w->dtype_c),
                   (size_t)w->n * gln_dtype_bytes(w->dtype_c)) != 0)
            return 0;
    return 1;
}

/* Batches of `rows` rows; step says how many sizes are left out. */
static void check_batches(gln_bench_t *bench, gln_gemm_mode_t mode, int64_t n, int64_t k,
                          int64_t step)
{
    gln_kernels_t *kernels = bench->kernels;
    whole_t w = compute_whole(bench, mode, n, k);

    for (int64_t rows = 1; rows <= ROWS; rows += rows < 9 ? 1 : step) {
        int64_t start = rows * 37 % (ROWS - rows + 1);
        gln_gemm_t g = item_of(&w, start, rows, rows % 2);

        cr_assert_eq(kernels->ops->gemm(kernels, mode, &g, 1), GLN_OK);
        cr_expect(same_rows(&w, &g, start),
                  "%s %s, n %lld, k %lld, accumulate %d: %lld rows alone differ from the same rows "
                  "among %d",
                  bench->subject->name, mode.form == GLN_GEMM_NN ? "NN" : "NT", (long long)n,
                  (long long)k, mode.accumulate, (long long)rows, ROWS);
    }
    free_whole(&w);
}

/* The same rows as items of one call, empty ones between. */
static void check_group(gln_bench_t *bench, gln_gemm_mode_t mode, int64_t n, int64_t k)
{
    static const int64_t sizes[] = {0, 1, 2, 0, 4, 8, 17, 0, 31, 64, 65, 0, 108, 0};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    gln_kernels_t *kernels = bench->kernels;
    whole_t w = compute_whole(bench, mode, n, k);
    gln_gemm_t items[COUNT];
    int64_t starts[COUNT], start = 0;

    for (int i = 0; i < COUNT; start += sizes[i++]) {
        starts[i] = start;
        items[i] = item_of(&w, start, sizes[i], i % 2);
    }
    cr_assert_eq(start, ROWS);
    cr_assert_eq(kernels->ops->gemm(kernels, mode, items, COUNT), GLN_OK);
    for (int i = 0; i < COUNT; ++i)
        cr_expect(same_rows(&w, &items[i], starts[i]),
                  "%s %s, n %lld, k %lld: item %d of a group differs", bench->subject->name,
                  mode.form == GLN_GEMM_NN ? "NN" : "NT", (long long)n, (long long)k, i);
    free_whole(&w);
}

static void check_rows(gln_gemm_form_t form)
{
    /* n, k, step between batch sizes; the last two are for backends that are fast */
    static const int64_t shapes[][3] = {{1, 1, 1},       {16, 64, 1},     {33, 48, 1},
                                        {64, 96, 1},     {130, 57, 7},    {256, 512, 41},
                                        {512, 1024, 31}, {1024, 1024, 31}};

    for (int i = 0; i < gln_subjects_count; ++i) {
        gln_bench_t bench = open_bench(i);
        int count = bench.subject->backend == GLN_BACKEND_REF ? 6 : 8;

        for (int s = 0; s < count; ++s)
            for (int accumulate = 0; accumulate < 2; ++accumulate) {
                gln_gemm_mode_t mode = {.form = form, .accumulate = accumulate, .c_acc = s % 2};

                check_batches(&bench, mode, shapes[s][0], shapes[s][1], shapes[s][2]);
                check_group(&bench, mode, shapes[s][0], shapes[s][1]);
            }
        gln_bench_close(&bench);
    }
}

Test(gemm_bits, nn_row_is_its_own)
{
    check_rows(GLN_GEMM_NN);
}

Test(gemm_bits, nt_row_is_its_own)
{
    check_rows(GLN_GEMM_NT);
}

/* C[m, n] over `rows` rows, alone and dense, then between others of a group and strided. */
static void check_tn(gln_bench_t *bench, int64_t m, int64_t n, int64_t rows, int accumulate)
{
    gln_kernels_t *kernels = bench->kernels;
    gln_dtype_t dtype = kernels->dtype, acc = kernels->acc;
    gln_gemm_mode_t mode = {.form = GLN_GEMM_TN, .accumulate = accumulate, .c_acc = 1};
    void *a = random_matrix(dtype, 1, rows * m), *b = random_matrix(dtype, 2, rows * n);
    void *c = random_matrix(acc, 3, m * n), *blocks[3], *spare[2];
    gln_gemm_t g = {.m = m, .n = n, .k = rows, .a = a, .lda = m, .b = b, .ldb = n, .c = c};
    gln_gemm_t items[3];

    g.ldc = n;
    for (int i = 0; i < 3; ++i)
        items[i] = g;
    items[1].lda = m + 3;
    items[1].a = copy_matrix(a, rows, m, m, m + 3, dtype, &blocks[0]);
    items[1].ldb = n + 1;
    items[1].b = copy_matrix(b, rows, n, n, n + 1, dtype, &blocks[1]);
    items[1].ldc = n + 2;
    items[1].c = copy_matrix(c, m, n, n, n + 2, acc, &blocks[2]);
    items[0].k = rows / 2;
    items[0].c = spare[0] = random_matrix(acc, 4, m * n);
    items[2].k = 0;
    items[2].c = spare[1] = random_matrix(acc, 5, m * n);
    cr_assert_eq(kernels->ops->gemm(kernels, mode, &g, 1), GLN_OK);
    cr_assert_eq(kernels->ops->gemm(kernels, mode, items, 3), GLN_OK);
    for (int64_t i = 0; i < m; ++i)
        cr_expect_eq(memcmp(gln_at(c, i * n, acc), gln_at(items[1].c, i * (n + 2), acc),
                            (size_t)n * gln_dtype_bytes(acc)),
                     0, "%s TN, m %lld, n %lld, %lld rows: row %lld differs in a group",
                     bench->subject->name, (long long)m, (long long)n, (long long)rows,
                     (long long)i);
    for (int i = 0; i < 3; ++i)
        free(blocks[i]);
    for (int i = 0; i < 2; ++i)
        free(spare[i]);
    free(a);
    free(b);
    free(c);
}

Test(gemm_bits, tn_depends_on_its_rows_alone)
{
    static const int64_t rows[] = {0, 1, 2, 5, 16, 63, 64, 65, 300};

    for (int i = 0; i < gln_subjects_count; ++i) {
        gln_bench_t bench = open_bench(i);

        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; ++r)
            for (int accumulate = 0; accumulate < 2; ++accumulate) {
                check_tn(&bench, 1, 1, rows[r], accumulate);
                check_tn(&bench, 33, 47, rows[r], accumulate);
                check_tn(&bench, 128, 96, rows[r], accumulate);
            }
        gln_bench_close(&bench);
    }
}

Test(gemm_bits, empty_sum_is_zero)
{
    for (int i = 0; i < gln_subjects_count; ++i) {
        gln_bench_t bench = open_bench(i);
        gln_kernels_t *kernels = bench.kernels;

        for (int variant = 0; variant < 6; ++variant) {
            gln_gemm_mode_t mode = {(gln_gemm_form_t)(variant % 3), variant / 3, 1};
            double seven = 7, c[12];
            gln_gemm_t g = {
                .m = 3, .n = 4, .k = 0, .a = c, .lda = 4, .b = c, .ldb = 4, .c = c, .ldc = 4};

            for (int e = 0; e < 12; ++e)
                gln_store(c, e, kernels->acc, seven);
            cr_assert_eq(kernels->ops->gemm(kernels, mode, &g, 1), GLN_OK);
            for (int e = 0; e < 12; ++e)
                cr_expect_eq(gln_load(c, e, kernels->acc), mode.accumulate ? seven : 0,
                             "%s, form %d, accumulate %d", bench.subject->name, (int)mode.form,
                             mode.accumulate);
        }
        gln_bench_close(&bench);
    }
}
