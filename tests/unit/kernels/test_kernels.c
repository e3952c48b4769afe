/* Opening and closing a backend. */
#include "kernels/kernels.h"

#include <criterion/criterion.h>

#include <string.h>

#include "base/log.h"

static gln_pool_t *pool;

static void open_pool(void)
{
    cr_assert_eq(gln_pool_open(2, &pool), GLN_OK);
}

static void close_pool(void)
{
    gln_pool_close(pool);
}

TestSuite(kernels, .init = open_pool, .fini = close_pool);

static void check_open(gln_backend_t backend, gln_dtype_t dtype, gln_dtype_t acc, const char *name)
{
    gln_kernels_t *k = NULL;

    cr_assert_eq(gln_kernels_open(backend, dtype, pool, &k), GLN_OK, "%s", gln_last_error());
    cr_expect_eq(k->backend, backend);
    cr_expect_eq(k->dtype, dtype);
    cr_expect_eq(k->acc, acc);
    cr_expect_eq(k->pool, pool);
    cr_expect_str_eq(k->ops->name, name);
    gln_kernels_close(k);
}

Test(kernels, open_ref_and_cpu)
{
    check_open(GLN_BACKEND_REF, GLN_F32, GLN_F32, "ref");
    check_open(GLN_BACKEND_REF, GLN_F64, GLN_F64, "ref");
    check_open(GLN_BACKEND_CPU, GLN_F32, GLN_F32, "cpu");
    check_open(GLN_BACKEND_REF, GLN_BF16, GLN_F32, "ref");
    check_open(GLN_BACKEND_CPU, GLN_BF16, GLN_F32, "cpu");
}

/* The table is a name and function pointers, nothing else: no word of it may be zero. */
static void check_slots(gln_backend_t backend, gln_dtype_t dtype)
{
    gln_kernels_t *k = NULL;
    void (*slots[sizeof(gln_kernel_ops_t) / sizeof(void (*)(void))])(void);

    cr_assert_eq(gln_kernels_open(backend, dtype, pool, &k), GLN_OK);
    memcpy(slots, k->ops, sizeof *k->ops);
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; ++i)
        cr_expect(slots[i] != NULL, "slot %zu of %s is NULL", i, k->ops->name);
    gln_kernels_close(k);
}

Test(kernels, no_slot_is_null)
{
    check_slots(GLN_BACKEND_REF, GLN_F32);
    check_slots(GLN_BACKEND_REF, GLN_F64);
    check_slots(GLN_BACKEND_CPU, GLN_F32);
    check_slots(GLN_BACKEND_REF, GLN_BF16);
    check_slots(GLN_BACKEND_CPU, GLN_BF16);
}

Test(kernels, unknown_type_names_the_known_ones)
{
    gln_kernels_t *k = NULL;

    cr_expect_eq(gln_kernels_open(GLN_BACKEND_CPU, GLN_F64, pool, &k), GLN_ERR_ARGUMENT);
    cr_expect_not_null(strstr(gln_last_error(), "f32"), "%s", gln_last_error());
    cr_expect_not_null(strstr(gln_last_error(), "cpu"), "%s", gln_last_error());
    cr_expect_eq(gln_kernels_open(GLN_BACKEND_REF, (gln_dtype_t)9, pool, &k), GLN_ERR_ARGUMENT);
    cr_expect_not_null(strstr(gln_last_error(), "f32, bf16, f64"), "%s", gln_last_error());
    cr_expect_null(k, "out was written on error");
}

Test(kernels, unknown_backend_and_missing_arguments)
{
    gln_kernels_t *k = NULL;

    cr_expect_eq(gln_kernels_open((gln_backend_t)77, GLN_F32, pool, &k), GLN_ERR_ARGUMENT);
    cr_expect_not_null(strstr(gln_last_error(), "77"), "%s", gln_last_error());
    cr_expect_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F32, NULL, &k), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F32, pool, NULL), GLN_ERR_ARGUMENT);
    cr_expect_null(k, "out was written on error");
}

Test(kernels, handles_are_independent)
{
    gln_kernels_t *a = NULL, *b = NULL;
    float x = 1, y = 2;
    double u = 1, v = 2;

    cr_assert_eq(gln_kernels_open(GLN_BACKEND_CPU, GLN_F32, pool, &a), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F64, pool, &b), GLN_OK);
    cr_expect_eq(a->ops->add(a, 1, &x, &y), GLN_OK);
    gln_kernels_close(a);
    cr_expect_eq(b->ops->add(b, 1, &u, &v), GLN_OK);
    gln_kernels_close(b);
    cr_expect_eq(y, 3);
    cr_expect_eq(v, 3);
}

Test(kernels, close_takes_null)
{
    gln_kernels_close(NULL);
}
