/* A child process that runs a job, signals passed on to it, and a log of what happened. */
#ifndef GLN_LAUNCHER_SUPERVISE_H
#define GLN_LAUNCHER_SUPERVISE_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Lines with the time, to stderr and to a file. The file's folder is the run directory, which the
 * job makes when its input was found good: lines wait for it, and are dropped if it never comes. */
typedef struct gln_launch_log {
    char path[1024];
    char *waiting; /* lines not in the file yet */
    size_t size;
} gln_launch_log_t;

/** @param folder  NULL: stderr alone */
void gln_launch_log_open(gln_launch_log_t *log, const char *folder);
void gln_launch_log_say(gln_launch_log_t *log, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void gln_launch_log_close(gln_launch_log_t *log);

typedef struct gln_supervisor {
    int signals;      /* SIGINT, SIGTERM, SIGHUP, SIGUSR1 that came */
    int first_signal; /* 0: none */
} gln_supervisor_t;

/** From now on these signals wait to be seen by the calls below; children get them unblocked. */
void gln_supervisor_open(gln_supervisor_t *supervisor);

/** Start argv in a session of its own, without input, and wait for its end. The first signal is
 * passed on as SIGUSR1, upon which ranks save and leave; a second one ends the child: SIGTERM, 5 s
 * later SIGKILL. When this process is killed, the child gets SIGTERM.
 *  @param out  exit status of the child, 128 + n after signal n, 127: it could not be started
 *  @return GLN_OK; GLN_ERR_MEMORY: no process could be made. */
gln_status_t gln_supervisor_run(gln_supervisor_t *supervisor, char *const *argv,
                                gln_launch_log_t *log, int *out);

/** Wait so long, or until a signal comes. */
void gln_supervisor_sleep(gln_supervisor_t *supervisor, int64_t ms);

#ifdef __cplusplus
}
#endif
#endif
