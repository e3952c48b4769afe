/* A bound on what happens inside MPI itself, at the start and the end of a job and where it makes
 * communicators, where no wait can be ended: a thread that ends this process, and with it the job,
 * when the time is over.
 *
 *     gln_start_watch_t watch;
 *     gln_start_watch_begin("start of MPI", timeout_ms, &watch);
 *     MPI_Init...
 *     gln_start_watch_end(&watch);
 */
#ifndef GLN_LAUNCHER_START_WATCH_H
#define GLN_LAUNCHER_START_WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_start_watch {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    const char *operation;
    int64_t timeout_ms;
    bool runs, over;
} gln_start_watch_t;

/** @param operation  static storage; named in the message
 *  @param timeout_ms 0: no bound. Without memory for a thread there is none either. */
void gln_start_watch_begin(const char *operation, int64_t timeout_ms, gln_start_watch_t *watch);
void gln_start_watch_end(gln_start_watch_t *watch);

#ifdef __cplusplus
}
#endif
#endif
