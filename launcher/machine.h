/* The machine and the job as one rank sees them: cores, binding, features, and the number of
 * threads that is this rank's share. */
#ifndef GLN_LAUNCHER_MACHINE_H
#define GLN_LAUNCHER_MACHINE_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_machine {
    char summary[256];  /* "1 package, 1 NUMA node, 2 cores, 2 PUs, AVX-512 bf16" */
    char binding[128];  /* "core 1", "cores 0-1 (not bound)" */
    char features[128]; /* "AVX-512 bf16" */
    int ranks, nodes;
    int cores_allowed; /* cores this rank may run on */
    int sharing;       /* ranks of this node, this one included, that may run on some of them */
    int threads;       /* threads asked for, or cores_allowed / sharing, at least 1 */
} gln_machine_t;

/** COLLECTIVE over comm. @param threads_asked  0: the share of this rank
 *  @return GLN_OK; GLN_ERR_BACKEND; GLN_ERR_MEMORY; GLN_ERR_PEER. */
gln_status_t gln_machine_look(gln_comm_t *comm, int threads_asked, gln_machine_t *out);

#ifdef __cplusplus
}
#endif
#endif
