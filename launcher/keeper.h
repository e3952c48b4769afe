/* A small process beside each rank of an MPI job, forked before MPI starts. It sees its rank die
 * and says what the rank was doing, and it hurries mpirun's daemon when the job is being ended.
 *
 *     gln_keeper_open(rank, timeout_ms);
 *     MPI_Init...                        messages of this rank's end name *gln_keeper_place()
 *     gln_keeper_ending();               from here on the job is to end: be quick
 *     gln_keeper_close();                the rank leaves in good order
 *
 * Without a launcher of MPI jobs, or memory for a process, there is none, and all calls do nothing.
 * It survives a SIGSTOP or SIGKILL of the rank, leaves with the rank or, when that
 * died, with the launcher (23 s later at the latest: a launcher that hangs is ended then), reads
 * four times a second how its rank is, and holds nothing of it but stderr. */
#ifndef GLN_LAUNCHER_KEEPER_H
#define GLN_LAUNCHER_KEEPER_H

#include "comm/comm.h"
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** To be called once, before MPI and before other threads.
 *  @param timeout_ms after which the others give up a rank that is stopped; 0: never */
void gln_keeper_open(int rank, int64_t timeout_ms);
/** What the rank does, shared with the keeper; never NULL. */
gln_comm_place_t *gln_keeper_place(void);
void gln_keeper_set_timeout(int64_t timeout_ms);
/** This rank ends the job, or knows that it is being ended. May be called by a signal handler. */
void gln_keeper_ending(void);
void gln_keeper_close(void);

/** True in the first process of this host's ranks (and keepers) that asks: it speaks, the others
 * keep quiet. Where there are no sockets, in all. */
bool gln_keeper_is_first(void);

#ifdef __cplusplus
}
#endif
#endif
