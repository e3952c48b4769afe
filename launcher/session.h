/* One process of the job: its communicator, the errors it holds back, and how all ranks leave
 * together.
 *
 *     gln_session_start(&session);
 *     status = gln_session_join(&session);
 *     ...each phase:  if (gln_session_agree(&session, status) != GLN_OK) leave
 *     return gln_session_leave(&session, status);
 *
 * Errors reported through base/log.h are kept until the ranks agree; then exactly one rank prints
 * the message: the lowest that has one. Warnings are printed at once. */
#ifndef GLN_LAUNCHER_SESSION_H
#define GLN_LAUNCHER_SESSION_H

#include "comm/comm.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_SESSION_MESSAGE_MAX = 1024 };
/* Bound on waits until the run file sets another (parallel.timeout_ms). */
enum { GLN_SESSION_TIMEOUT_MS = 600000 };
/* MPI needs seconds to start on a loaded machine: its start and end are given so long at least. */
enum { GLN_SESSION_START_MS = 10000 };

typedef struct gln_session {
    gln_comm_t *comm; /* NULL until joined: then this process speaks for itself */
    int rank, ranks;
    int64_t timeout_ms; /* bound on the start and the end of MPI; set by start, may be changed */
    bool working; /* the input was found good: from now on an I/O error is not the input's fault */
    bool spoken;  /* an error was printed by some rank: later ones follow from it */
    char message[GLN_SESSION_MESSAGE_MAX]; /* first error kept, "" if none */
} gln_session_t;

/** Install the log sink. The session must live until gln_session_leave. */
void gln_session_start(gln_session_t *session);

/** Join the MPI job. COLLECTIVE over the job. An error is printed here. */
gln_status_t gln_session_join(gln_session_t *session);

/** Bring this rank's status of a phase; returns the same status on every rank: GLN_OK if all did
 * well, else that of the rank whose message is printed; only the first failed phase prints.
 * COLLECTIVE once joined. Ends the job when a rank is gone (GLN_ERR_PEER), since nothing can be
 * agreed upon then. */
gln_status_t gln_session_agree(gln_session_t *session, gln_status_t mine);

/** Forget errors kept so far: for attempts whose failure is handled. */
void gln_session_forget(gln_session_t *session);

/** Close the communicator, finalise MPI, remove the sink. COLLECTIVE once joined. Ends the job when
 * `status` is GLN_ERR_PEER.
 *  @return the exit status that belongs to `status`. */
int gln_session_leave(gln_session_t *session, gln_status_t status);

/** Exit status of a status: 2 for bad input (I/O included until `working`), 1 for others, 0 for OK.
 */
int gln_session_exit_status(gln_status_t status, bool working);

/** Rank of this process according to the environment of mpirun, srun or another PMI launcher,
 * without MPI; 0 when it says nothing. */
int gln_session_environment_rank(void);

/** From now on SIGINT, SIGTERM and SIGUSR1 ask this process to stop, and a reader of the screen
 * that leaves (as mpirun does when it is ended) does not end it: what was done is saved still. */
void gln_session_catch_signals(void);
/** 1 after such a signal. Of this rank: the ranks agree on it themselves. */
int gln_session_stop_asked(void);

#ifdef __cplusplus
}
#endif
#endif
