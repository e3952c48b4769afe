#include "base/log.h"
#include "base/pool.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { TASKS_MAX = 1000, THREADS_MAX = 9 };

typedef struct count {
    _Atomic int runs[TASKS_MAX];
    _Atomic int last[THREADS_MAX]; /* the latest task of each worker */
    _Atomic int descents, bad_workers;
    int threads_count, plain[TASKS_MAX];
} count_t;

static void count_task(void *ctx, int task, int worker)
{
    count_t *count = ctx;
    if (worker < 0 || worker >= count->threads_count) {
        atomic_fetch_add(&count->bad_workers, 1);
        return;
    }
    atomic_fetch_add(&count->runs[task], 1);
    count->plain[task] += 1; /* not atomic: must be ordered before the return of gln_pool_run */
    if (atomic_exchange(&count->last[worker], task) >= task) atomic_fetch_add(&count->descents, 1);
}

static void check_runs(gln_pool_t *pool, int tasks_count)
{
    static count_t count;
    memset(&count, 0, sizeof count);
    for (int w = 0; w < THREADS_MAX; w++)
        count.last[w] = -1;
    count.threads_count = gln_pool_threads(pool);
    gln_pool_run(pool, tasks_count, count_task, &count);
    for (int i = 0; i < TASKS_MAX; i++) {
        cr_assert_eq(count.runs[i], i < tasks_count, "task %d of %d", i, tasks_count);
        cr_assert_eq(count.plain[i], i < tasks_count);
    }
    cr_assert_eq(count.bad_workers, 0);
    cr_assert_eq(count.descents, 0, "tasks were not claimed in ascending order");
}

Test(pool, every_task_runs_exactly_once)
{
    const int tasks[] = {0, 1, 2, 3, 7, 8, 100, TASKS_MAX};
    for (int threads = 1; threads <= THREADS_MAX; threads += threads < 4 ? 1 : 5) {
        gln_pool_t *pool = NULL;
        cr_assert_eq(gln_pool_open(threads, &pool), GLN_OK);
        cr_assert_eq(gln_pool_threads(pool), threads);
        for (int repeat = 0; repeat < 200; repeat++)
            check_runs(pool, tasks[repeat % 8]);
        gln_pool_close(pool);
    }
}

static void nap(long us)
{
    struct timespec time = {0, us * 1000};
    nanosleep(&time, NULL);
}

Test(pool, sleeping_workers_wake_up)
{
    gln_pool_t *pool = NULL;
    cr_assert_eq(gln_pool_open(4, &pool), GLN_OK);
    for (int repeat = 0; repeat < 50; repeat++) {
        nap(repeat % 2 ? 60 : 1000); /* about when they fall asleep, and long after */
        check_runs(pool, 40);
    }
    gln_pool_close(pool);
}

static void meet(void *ctx, int task, int worker)
{
    (void)task;
    _Atomic int *here = ctx;
    atomic_fetch_add(here, 1);
    for (int i = 0; atomic_load(here) < 3 && i < 50000; i++)
        nap(100);
    if (worker != 0) nap(2000); /* so long that the caller falls asleep and must be woken */
}

Test(pool, tasks_run_at_the_same_time)
{
    gln_pool_t *pool = NULL;
    cr_assert_eq(gln_pool_open(3, &pool), GLN_OK);
    for (int repeat = 0; repeat < 5; repeat++) {
        _Atomic int here = 0;
        gln_pool_run(pool, 3, meet, (void *)&here);
        cr_assert_eq(here, 3);
    }
    gln_pool_close(pool);
}

static void keep_thread(void *ctx, int task, int worker)
{
    pthread_t *threads = ctx;
    if (worker == 0) threads[task] = pthread_self();
}

Test(pool, the_caller_is_worker_zero)
{
    for (int threads_count = 1; threads_count <= 3; threads_count++) {
        gln_pool_t *pool = NULL;
        cr_assert_eq(gln_pool_open(threads_count, &pool), GLN_OK);
        pthread_t threads[100];
        for (int i = 0; i < 100; i++)
            threads[i] = pthread_self();
        gln_pool_run(pool, 100, keep_thread, threads);
        for (int i = 0; i < 100; i++)
            cr_assert(pthread_equal(threads[i], pthread_self()));
        gln_pool_close(pool);
    }
}

typedef struct hooked {
    _Atomic int runs, own; /* tasks; those of worker 0 */
    int calls, elsewhere;
    pthread_t caller;
    _Atomic int release; /* worker 1 waits for it: only the hook gives it */
} hooked_t;

static void hooked_task(void *ctx, int task, int worker)
{
    (void)task;
    hooked_t *h = ctx;
    atomic_fetch_add(&h->runs, 1);
    if (worker == 0) atomic_fetch_add(&h->own, 1);
    while (worker != 0 && !atomic_load(&h->release))
        sched_yield();
}

static void hook(void *ctx)
{
    hooked_t *h = ctx;
    h->calls++;
    h->elsewhere += !pthread_equal(pthread_self(), h->caller);
    if (h->calls > 200) atomic_store(&h->release, 1); /* more than tasks: so also while waiting */
}

/* After each task of the caller, and while it waits for a worker whose task ends by the hook alone.
 */
Test(pool, the_hook_runs_on_the_caller)
{
    for (int threads = 1; threads <= 3; threads++) {
        gln_pool_t *pool = NULL;
        hooked_t h = {.caller = pthread_self()};
        cr_assert_eq(gln_pool_open(threads, &pool), GLN_OK);
        gln_pool_set_hook(pool, hook, &h);
        gln_pool_run(pool, 100, hooked_task, &h);
        cr_expect_eq(h.runs, 100);
        cr_expect_geq(h.calls, h.own);
        if (threads == 1) cr_expect_eq(h.calls, 100);
        cr_expect_eq(h.elsewhere, 0);
        int calls = h.calls;
        gln_pool_set_hook(pool, NULL, NULL);
        h.release = 1;
        gln_pool_run(pool, 100, hooked_task, &h);
        cr_expect_eq(h.calls, calls, "taken off");
        gln_pool_close(pool);
    }
}

Test(pool, wrong_arguments_are_refused)
{
    gln_pool_t *pool = NULL;
    cr_assert_eq(gln_pool_open(0, &pool), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_pool_open(-3, &pool), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "at least 1 thread, found -3"));
    cr_assert_null(pool);
    cr_assert_eq(gln_pool_open(1, NULL), GLN_ERR_ARGUMENT);
    gln_pool_close(NULL);
}

Test(pool, open_and_close_without_a_run)
{
    for (int repeat = 0; repeat < 20; repeat++) {
        gln_pool_t *pool = NULL;
        cr_assert_eq(gln_pool_open(1 + repeat % 4, &pool), GLN_OK);
        if (repeat % 3 == 0) nap(200);
        gln_pool_close(pool);
    }
}

static void run_again(void *ctx, int task, int worker)
{
    (void)task, (void)worker;
    gln_pool_run(ctx, 1, run_again, ctx);
}

Test(pool, a_task_that_calls_run_is_an_assertion, .signal = SIGABRT)
{
    gln_pool_t *pool = NULL;
    if (gln_pool_open(1, &pool) == GLN_OK) gln_pool_run(pool, 1, run_again, pool);
}
