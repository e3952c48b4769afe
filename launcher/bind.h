/* Binding the ranks of a job, machine by machine. */
#ifndef GLN_LAUNCHER_BIND_H
#define GLN_LAUNCHER_BIND_H

#include "cluster/binding.h"
#include "launcher/session.h"
#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_bind {
    gln_binding_result_t mine;
    int bound, ranks; /* ranks bound (or to be bound), of all */
} gln_bind_t;

/** Give every rank cores of its own where they were started without any (docs/configuration.md,
 * Binding). Ranks whose kernels have one boot id are of one machine, whatever their host names.
 * A refusal is no error; the lowest rank that met one logs a warning.
 *  @param threads  asked for per rank, 0: any number; a share with fewer cores is not bound to
 *  @param apply    false: only say what would be done
 *  COLLECTIVE over comm.
 *  @return GLN_OK; GLN_ERR_BACKEND; GLN_ERR_MEMORY; GLN_ERR_PEER. */
gln_status_t gln_bind_ranks(gln_comm_t *comm, int threads, bool apply, gln_bind_t *out);

/** The same as a run file asks for it: parallel.bind auto binds, none leaves *out zeroed. The ranks
 * agree on the outcome. COLLECTIVE over the session. @param out  NULL: not wanted */
gln_status_t gln_bind_run(gln_session_t *session, const gln_run_options_t *run, gln_bind_t *out);

/** Which ranks share this one's machine: @param local receives its place among them, in order of
 * rank; @param count how many they are; @param alike whether all may run on the same cores.
 * COLLECTIVE over comm. */
gln_status_t gln_bind_machine(gln_comm_t *comm, int *local, int *count, bool *alike);

#ifdef __cplusplus
}
#endif
#endif
