/* The fast CPU backend's own promises: results do not depend on what scratch holds, the library it
 * calls stays on the pool's threads, a known shape makes nothing new. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/cpu/cpu_internal.h"
#include "tests/support/fill.h"
#include "tests/support/op_cases.h"

#define VARIANTS 8

typedef struct fixture {
    gln_pool_t *pool;
    gln_kernels_t *cpu, *ref;
} fixture_t;

static fixture_t open_fixture(int threads_count)
{
    fixture_t fixture;

    cr_assert_eq(gln_pool_open(threads_count, &fixture.pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_CPU, GLN_F32, fixture.pool, &fixture.cpu), GLN_OK,
                 "%s", gln_last_error());
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F32, fixture.pool, &fixture.ref), GLN_OK);
    return fixture;
}

static void close_fixture(fixture_t *fixture)
{
    gln_kernels_close(fixture->ref);
    gln_kernels_close(fixture->cpu);
    gln_pool_close(fixture->pool);
}

static void fill_scratch(gln_cpu_state_t *state, int byte)
{
    for (int i = 0; i < state->workers_count; ++i)
        memset(state->scratch[i], byte, state->scratch_bytes);
    if (state->partials != NULL)
        memset(state->partials, byte,
               (size_t)state->partials_width * GLN_CPU_PARTIALS_MAX * sizeof *state->partials);
    memset(state->squares, byte, sizeof state->squares);
}

/* The same call over zeros and over NaNs. */
static void check_scratch(gln_op_case_fn call)
{
    fixture_t fixture = open_fixture(2);

    for (int variant = 0; variant < VARIANTS; ++variant) {
        gln_record_t records[3];
        const char *difference;

        for (int i = 0; i < 3; ++i) { /* the first call only makes scratch large enough */
            gln_record_open(11 + (uint64_t)variant, &records[i]);
            fill_scratch(fixture.cpu->state, i == 1 ? 0 : 0xff);
            cr_assert_eq(call(fixture.cpu, fixture.ref, variant, &records[i]), GLN_OK, "%s",
                         gln_last_error());
        }
        difference = gln_record_differs_in_bits(&records[2], &records[1]);
        cr_expect_null(difference, "variant %d: %s", variant, difference);
        for (int i = 0; i < 3; ++i)
            gln_record_close(&records[i]);
    }
    close_fixture(&fixture);
}

Test(cpu, scratch_does_not_matter)
{
    static const gln_op_case_fn calls[] = {
        gln_case_gemm,          gln_case_rmsnorm_backward,   gln_case_rope,
        gln_case_attention,     gln_case_attention_backward, gln_case_swiglu_backward,
        gln_case_cross_entropy, gln_case_sum_squares,
    };

    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; ++i)
        check_scratch(calls[i]);
}

/* ---- products ---------------------------------------------------------------------------- */
#define ROWS_MAX 300
#define WIDTH 96

typedef struct operands {
    float a[ROWS_MAX * WIDTH], b[WIDTH * WIDTH], c[ROWS_MAX * WIDTH];
} operands_t;

static operands_t *make_operands(void)
{
    operands_t *x = malloc(sizeof *x);

    cr_assert_not_null(x);
    gln_fill_normal(GLN_F32, 3, 1, 0, 1, sizeof *x / sizeof(float), x);
    return x;
}

static void multiply(gln_kernels_t *k, gln_gemm_form_t form, int64_t rows, operands_t *x)
{
    gln_gemm_t item = {rows, WIDTH, WIDTH, x->a, WIDTH, x->b, WIDTH, x->c, WIDTH};

    if (form == GLN_GEMM_TN)
        item = (gln_gemm_t){WIDTH, WIDTH, rows, x->a, WIDTH, x->c, WIDTH, x->b, WIDTH};
    cr_assert_eq(k->ops->gemm(k, (gln_gemm_mode_t){form, 0, 0}, &item, 1), GLN_OK, "%s",
                 gln_last_error());
}

static int count_products(const gln_cpu_state_t *state)
{
    int count = 0;

    for (int i = 0; i < GLN_CPU_BUCKETS; ++i)
        for (const gln_product_t *product = state->products[i]; product != NULL;
             product = product->next)
            ++count;
    return count;
}

/* The number of rows varies from step to step; it must not make anything. */
static void expect_nothing_made(int on_library)
{
    fixture_t fixture = open_fixture(2);
    gln_cpu_state_t *state = fixture.cpu->state;
    operands_t *x = make_operands();

    if (on_library) state->panels = NULL;
    for (int form = GLN_GEMM_NN; form <= GLN_GEMM_TN; ++form) {
        int products;
        size_t scratch_bytes;

        multiply(fixture.cpu, (gln_gemm_form_t)form, 64, x);
        products = count_products(state);
        scratch_bytes = state->scratch_bytes;
        cr_assert_eq(products > 0, state->panels == NULL);
        for (int64_t rows = 1; rows <= ROWS_MAX; rows += 13)
            multiply(fixture.cpu, (gln_gemm_form_t)form, rows, x);
        cr_expect_eq(count_products(state), products, "form %d: %d products became %d", form,
                     products, count_products(state));
        cr_expect_eq(state->scratch_bytes, scratch_bytes);
    }
    free(x);
    close_fixture(&fixture);
}

Test(cpu, a_known_shape_makes_nothing)
{
    expect_nothing_made(0);
    expect_nothing_made(1);
}

static int count_threads(void)
{
    DIR *directory = opendir("/proc/self/task");
    int count = 0;

    if (directory == NULL) return -1;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.') ++count;
    closedir(directory);
    return count;
}

/* oneDNN would start threads of its own, which then spin beside the pool's. */
Test(cpu, the_library_starts_no_threads)
{
    fixture_t fixture = open_fixture(3);
    operands_t *x = make_operands();
    gln_attention_t attention = {1, 32, 4, 2, 8, x->a, x->a + 32, x->a + 48, WIDTH, x->c, x->b};
    int before = count_threads();

    if (before < 0) {
        free(x);
        close_fixture(&fixture);
        cr_skip_test("no /proc here: threads cannot be counted");
    }
    omp_set_num_threads(4);
    multiply(fixture.cpu, GLN_GEMM_NN, ROWS_MAX, x);
    multiply(fixture.cpu, GLN_GEMM_TN, ROWS_MAX, x);
    cr_assert_eq(fixture.cpu->ops->attention(fixture.cpu, &attention), GLN_OK);
    cr_expect_eq(count_threads(), before, "%d threads became %d", before, count_threads());
    cr_expect_eq(omp_get_max_threads(), 4, "the caller's own setting of 4 threads became %d",
                 omp_get_max_threads());
    free(x);
    close_fixture(&fixture);
}

/* Items beyond what one run of the pool takes, and items of nothing among them. */
Test(cpu, many_items)
{
    enum { COUNT = GLN_CPU_ITEMS_MAX + 10, SIDE = 8 };
    fixture_t fixture = open_fixture(2);
    float *a = malloc(COUNT * SIDE * SIDE * sizeof *a), *c = calloc(COUNT * SIDE * SIDE, sizeof *c);
    float b[SIDE * SIDE];
    static gln_gemm_t items[COUNT];

    cr_assert(a != NULL && c != NULL);
    gln_fill_normal(GLN_F32, 3, 2, 0, 1, COUNT * SIDE * SIDE, a);
    for (int i = 0; i < SIDE * SIDE; ++i)
        b[i] = i % (SIDE + 1) == 0 ? 2.0f : 0.0f;
    for (int i = 0; i < COUNT; ++i)
        items[i] =
            (gln_gemm_t){i % 3 == 0 ? 0 : SIDE, SIDE, SIDE, a + i * SIDE * SIDE, SIDE, b, SIDE,
                         c + i * SIDE * SIDE,   SIDE};
    cr_assert_eq(
        fixture.cpu->ops->gemm(fixture.cpu, (gln_gemm_mode_t){GLN_GEMM_NN, 0, 0}, items, COUNT),
        GLN_OK);
    for (int i = 0; i < COUNT * SIDE * SIDE; ++i)
        cr_assert_eq(c[i], i / (SIDE * SIDE) % 3 == 0 ? 0.0f : 2.0f * a[i], "element %d of item %d",
                     i % (SIDE * SIDE), i / (SIDE * SIDE));
    free(a);
    free(c);
    close_fixture(&fixture);
}

/* Weights wider and longer than a tile: every tile, also the last ones, at its place, and the same
 * bits however many threads and other items the tiles are cut for. */
Test(cpu, tiles_of_a_large_weight)
{
    enum { M = 300, N = 700, K = 150, PAD = 5 };
    size_t count = (size_t)M * (N + PAD);
    float *a = malloc(K * M * sizeof *a), *b = malloc(K * N * sizeof *b);
    float *c =
        malloc(4 * count * sizeof *c); /* reference, 1 thread, 3 threads, with a small item */

    cr_assert(a != NULL && b != NULL && c != NULL);
    gln_fill_normal(GLN_F32, 3, 4, 0, 1, K * M, a);
    gln_fill_normal(GLN_F32, 3, 5, 0, 1, K * N, b);
    for (int i = 0; i < 4; ++i) {
        fixture_t fixture = open_fixture(i == 2 ? 3 : 1);
        gln_kernels_t *k = i == 0 ? fixture.ref : fixture.cpu;
        gln_gemm_t items[] = {
            {M, N, K, a, M, b, N, c + (size_t)i * count, N + PAD},
            {1, 1, 1, a, 1, b, 1, c + (size_t)i * count + N, 1}, /* into the pad */
        };

        for (size_t j = 0; j < count; ++j)
            c[(size_t)i * count + j] = (float)(j % 10);
        cr_assert_eq(k->ops->gemm(k, (gln_gemm_mode_t){GLN_GEMM_TN, 1, 0}, items, i == 3 ? 2 : 1),
                     GLN_OK);
        close_fixture(&fixture);
    }
    for (size_t j = 0; j < count; ++j) {
        cr_assert_float_eq(c[count + j], c[j], 1e-4, "row %zu column %zu: %g, reference %g",
                           j / (N + PAD), j % (N + PAD), (double)c[count + j], (double)c[j]);
        cr_assert(j % (N + PAD) >= N || c[2 * count + j] == c[count + j]);
        cr_assert(j % (N + PAD) >= N || c[3 * count + j] == c[count + j]);
    }
    free(a);
    free(b);
    free(c);
}
