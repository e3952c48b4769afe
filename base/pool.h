/* Threads of one rank. A pool runs a number of independent tasks on its workers; which worker runs
 * which task is not fixed, so results must never depend on it: cut work into tasks by the size of
 * the problem, not by the number of threads. */
#ifndef GLN_BASE_POOL_H
#define GLN_BASE_POOL_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The threads of one rank. */
typedef struct gln_pool gln_pool_t;

/** @param worker in [0, threads): for per-thread scratch. Worker 0 is the caller of gln_pool_run.
 */
typedef void (*gln_task_fn)(void *ctx, int task, int worker);

/** Start threads_count - 1 threads (the caller is the last one). threads_count >= 1.
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY when a thread cannot be started. */
gln_status_t gln_pool_open(int threads_count, gln_pool_t **out);

/** Run tasks 0 .. tasks_count-1 and return when all are done. tasks_count 0 is fine. Tasks are
 *  claimed in ascending order. One caller at a time, always the same thread; not re-entrant: a task
 *  must not call it. Allocates nothing. Idle workers spin briefly, then sleep. */
void gln_pool_run(gln_pool_t *pool, int tasks_count, gln_task_fn task, void *ctx);

/** From now on gln_pool_run calls `hook` on its caller's thread after each task it did itself and
 *  while it waits for the others (which it then does awake): for what has to be moved on during
 * long runs. A hook must be short, must not call gln_pool_run, and has no part in the result. NULL:
 * none. Not from inside a run. */
typedef void (*gln_pool_hook_fn)(void *ctx);
/** Set or clear the hook. */
void gln_pool_set_hook(gln_pool_t *pool, gln_pool_hook_fn hook, void *ctx);

/** Workers, the caller of gln_pool_run included. */
int gln_pool_threads(const gln_pool_t *pool);

/** Stop and join the threads. Takes NULL. */
void gln_pool_close(gln_pool_t *pool);

#ifdef __cplusplus
}
#endif
#endif
