/* A pool of threads over one 64-bit ticket: the number of the run in its upper half, the tasks
 * still unclaimed in its lower half. A claim is a compare-and-swap that takes one off the lower
 * half, so a worker that wakes late can never take a task of a run whose function it has not read,
 * and a run need not wait for sleepers: whoever is awake does the work. `pending` counts tasks not
 * yet done.
 *
 * Both waits (a worker for the next run, the caller for the last tasks) spin for SPIN_NS and then
 * sleep on a condition variable. Sleepers announce themselves before they look a last time, and
 * publishers look for sleepers after they publish, both sequentially consistent: no wake-up is
 * lost. A run costs a few hundred nanoseconds when the workers are awake. */
#include "base/pool.h"

#include "base/log.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPIN_NS = 50000, SPINS_PER_LOOK = 64, LINE_BYTES = 64 };

typedef struct worker {
    gln_pool_t *pool;
    pthread_t thread;
    int index;
} worker_t;

struct gln_pool {
    _Alignas(LINE_BYTES) _Atomic uint64_t ticket; /* run << 32 | tasks unclaimed */
    _Alignas(LINE_BYTES) _Atomic int pending;     /* tasks not yet done */
    /* The run: written only while no task is unclaimed or pending. Atomic because a late worker may
     * read it meanwhile; its claim then fails. */
    _Alignas(LINE_BYTES) _Atomic(gln_task_fn) task;
    _Atomic(void *) ctx;
    _Atomic int tasks_count;
    _Atomic bool stop;
    _Atomic int sleepers_count;
    _Atomic bool caller_sleeps;
    _Atomic bool running; /* to catch calls out of a task */
    pthread_mutex_t mutex;
    pthread_cond_t wake_workers;
    pthread_cond_t wake_caller;
    gln_pool_hook_fn hook; /* of the caller's thread alone */
    void *hook_ctx;
    int threads_count;
    int started_count;
    worker_t workers[]; /* [threads_count - 1] */
};

static uint32_t run_of(uint64_t ticket)
{
    return (uint32_t)(ticket >> 32);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Claim and run tasks until none is left; `worker` is this thread's index. */
static void work(gln_pool_t *pool, int worker)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    while ((uint32_t)ticket != 0) {
        gln_task_fn task = atomic_load_explicit(&pool->task, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&pool->ctx, memory_order_relaxed);
        int tasks_count = atomic_load_explicit(&pool->tasks_count, memory_order_relaxed);
        /* success means that this run was still open, so what was read above belongs to it */
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1)) continue;
        task(ctx, tasks_count - (int)(uint32_t)ticket, worker);
        if (atomic_fetch_sub(&pool->pending, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->wake_caller);
            pthread_mutex_unlock(&pool->mutex);
        }
        if (worker == 0 && pool->hook) pool->hook(pool->hook_ctx);
        ticket = atomic_load(&pool->ticket);
    }
}

static bool has_news(gln_pool_t *pool, uint32_t seen_run)
{
    return run_of(atomic_load(&pool->ticket)) != seen_run || atomic_load(&pool->stop);
}

static bool is_done(gln_pool_t *pool, uint32_t unused)
{
    (void)unused;
    return atomic_load(&pool->pending) == 0;
}

/* True as soon as the condition holds, false after SPIN_NS. Yields now and then: on a machine with
 * more threads than cores the thread waited for may need this core. */
static bool spin_until(bool (*holds)(gln_pool_t *, uint32_t), gln_pool_t *pool, uint32_t argument)
{
    if (holds(pool, argument)) return true;
    int64_t end = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (holds(pool, argument)) return true;
            relax();
        }
        sched_yield();
    } while (now_ns() < end);
    return holds(pool, argument);
}

static void *worker_main(void *argument)
{
    worker_t *self = argument;
    gln_pool_t *pool = self->pool;
    uint32_t seen_run = 0;
    for (;;) {
        if (!spin_until(has_news, pool, seen_run)) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->sleepers_count, 1);
            while (!has_news(pool, seen_run))
                pthread_cond_wait(&pool->wake_workers, &pool->mutex);
            atomic_fetch_sub(&pool->sleepers_count, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        if (atomic_load(&pool->stop)) return NULL;
        seen_run = run_of(atomic_load(&pool->ticket));
        work(pool, self->index);
    }
}

static void wait_done(gln_pool_t *pool)
{
    for (; pool->hook && !is_done(pool, 0); sched_yield())
        pool->hook(pool->hook_ctx);
    if (spin_until(is_done, pool, 0)) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (!is_done(pool, 0))
        pthread_cond_wait(&pool->wake_caller, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

static void wake_sleepers(gln_pool_t *pool)
{
    if (atomic_load(&pool->sleepers_count) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake_workers);
    pthread_mutex_unlock(&pool->mutex);
}

void gln_pool_run(gln_pool_t *pool, int tasks_count, gln_task_fn task, void *ctx)
{
    GLN_ASSERT(tasks_count >= 0);
    GLN_ASSERT(!atomic_load_explicit(&pool->running, memory_order_relaxed));
    atomic_store_explicit(&pool->running, true, memory_order_relaxed);
    if (pool->threads_count == 1 || tasks_count <= 1) {
        for (int i = 0; i < tasks_count; i++) {
            task(ctx, i, 0);
            if (pool->hook) pool->hook(pool->hook_ctx);
        }
    } else {
        atomic_store_explicit(&pool->task, task, memory_order_relaxed);
        atomic_store_explicit(&pool->ctx, ctx, memory_order_relaxed);
        atomic_store_explicit(&pool->tasks_count, tasks_count, memory_order_relaxed);
        atomic_store(&pool->pending, tasks_count);
        uint32_t run = run_of(atomic_load_explicit(&pool->ticket, memory_order_relaxed)) + 1;
        atomic_store(&pool->ticket, (uint64_t)run << 32 | (uint32_t)tasks_count);
        wake_sleepers(pool);
        work(pool, 0);
        wait_done(pool);
    }
    atomic_store_explicit(&pool->running, false, memory_order_relaxed);
}

void gln_pool_set_hook(gln_pool_t *pool, gln_pool_hook_fn hook, void *ctx)
{
    GLN_ASSERT(!atomic_load_explicit(&pool->running, memory_order_relaxed));
    pool->hook = hook;
    pool->hook_ctx = ctx;
}

/* Workers take no signals: handlers run on the threads of the program that opened the pool. */
static int start_workers(gln_pool_t *pool)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    for (int i = 0; i < pool->threads_count - 1 && !error; i++) {
        worker_t *worker = &pool->workers[i];
        *worker = (worker_t){.pool = pool, .index = i + 1};
        error = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (!error) pool->started_count++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error;
}

gln_status_t gln_pool_open(int threads_count, gln_pool_t **out)
{
    if (!out) return gln_fail(GLN_ERR_ARGUMENT, "pool: expected a place for the pool, found NULL");
    if (threads_count < 1)
        return gln_fail(GLN_ERR_ARGUMENT, "pool: expected at least 1 thread, found %d",
                        threads_count);
    size_t bytes = sizeof(gln_pool_t) + (size_t)(threads_count - 1) * sizeof(worker_t);
    bytes = (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
    gln_pool_t *pool = aligned_alloc(LINE_BYTES, bytes);
    if (!pool) return gln_fail(GLN_ERR_MEMORY, "pool: cannot allocate %zu bytes", bytes);
    memset(pool, 0, bytes);
    pool->threads_count = threads_count;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake_workers, NULL);
    pthread_cond_init(&pool->wake_caller, NULL);
    int error = start_workers(pool);
    if (error) {
        gln_status_t status =
            gln_fail(GLN_ERR_MEMORY, "pool: cannot start thread %d of %d: %s; use fewer threads",
                     pool->started_count + 2, threads_count, strerror(error));
        gln_pool_close(pool);
        return status;
    }
    *out = pool;
    return GLN_OK;
}

int gln_pool_threads(const gln_pool_t *pool)
{
    return pool->threads_count;
}

void gln_pool_close(gln_pool_t *pool)
{
    if (!pool) return;
    atomic_store(&pool->stop, true);
    wake_sleepers(pool);
    for (int i = 0; i < pool->started_count; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake_caller);
    pthread_cond_destroy(&pool->wake_workers);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}
