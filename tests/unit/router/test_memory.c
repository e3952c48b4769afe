/* A step allocates nothing: the allocator is counted, the C library's by standing in front of it,
 * AddressSanitizer's through its hook. */
#include "tests/unit/router/cases.h"
#include <sched.h>
#include <stdatomic.h>

static atomic_long allocations;

#ifdef __SANITIZE_ADDRESS__
/* of the sanitizer's interface; gcc ships it without the header */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));
static void count_malloc(const volatile void *memory, size_t bytes)
{
    (void)memory, (void)bytes;
    atomic_fetch_add(&allocations, 1);
}
static void count_free(const volatile void *memory)
{
    (void)memory;
}
static void count_from_now(void)
{
    __sanitizer_install_malloc_and_free_hooks(count_malloc, count_free);
}
#else
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *malloc(size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(bytes);
}
void *calloc(size_t count, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, bytes);
}
void *realloc(void *memory, size_t bytes)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(memory, bytes);
}
static void count_from_now(void)
{
}
#endif

/* Two tasks that wait for each other: afterwards both threads of the pool have started, which is
 * when a sanitizer allocates for them. */
static void meet(void *ctx, int task, int worker)
{
    (void)task, (void)worker;
    atomic_int *arrived = ctx;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2)
        sched_yield();
}

Test(memory, a_step_allocates_nothing, .timeout = 60)
{
    count_from_now();
    gln_pool_t *pool = pool_of(2);
    atomic_int arrived = 0;
    gln_pool_run(pool, 2, meet, &arrived);
    for (int i = 0; i < 2 * GLN_POLICIES_COUNT; i++) {
        test_case_t c = {.options = {.policy = (gln_policy_t)(i / 2),
                                     .capacity_factor = 0.7,
                                     .balance_coef = 0.1},
                         .shape = {500, 16, 4, 0, i % 2 ? GLN_F64 : GLN_F32}};
        if (case_rectifies(&c)) {
            c.options.fill = c.options.rectify = 1;
            c.options.ir_capacity = 5;
        }
        c.logits = calloc(500 * 16, 8);
        c.input.logits = c.logits;
        case_logits(&c, LOGITS_ZIPF);
        test_run_t run = run_open(&c, pool);
        void *a = calloc(500 * 16, 8), *b = calloc(500, 8), *d = calloc(500 * 16, 8);
        int64_t load[16] = {0};
        long before = atomic_load(&allocations);
        cr_assert_gt(before, 0, "the count does not count");
        gln_status_t routed = gln_router_route(run.router, &c.input, run.plan);
        gln_status_t back = gln_router_backward(run.router, run.plan, a, b, 1, d);
        gln_status_t step = c.options.policy == GLN_POLICY_DEEPSEEK_V3
                                ? gln_router_update_bias(run.router, load, 0.1)
                                : GLN_OK;
        long after = atomic_load(&allocations);
        cr_assert_eq(routed, GLN_OK);
        cr_assert_eq(back, GLN_OK);
        cr_assert_eq(step, GLN_OK);
        cr_assert_eq(after, before, "%s: %ld allocations", gln_policy_name(c.options.policy),
                     after - before);
        cr_assert(!case_rectifies(&c) || run.plan->ledger.rect_rows > 0);
        free(a), free(b), free(d);
        run_close(&run);
        case_close(&c);
    }
    gln_pool_close(pool);
}
