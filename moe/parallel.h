/* How the work is spread: what is semantic (domains, replica groups) and what is only placement
 * (ranks). */
#ifndef GLN_MOE_PARALLEL_H
#define GLN_MOE_PARALLEL_H

#include "comm/comm.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* D domains in R groups of G = D/R; E experts, L = E*R/D per domain: the expert at place p
 * lives on domain p / L of every group; expert e is at place e unless a placement says otherwise
 * (gln_layer_options_t). Rank r hosts the domains [r*D/P, (r+1)*D/P), hence one contiguous run of
 * experts.
 */
typedef struct gln_parallel {
    int ranks, rank;         /* P, this rank */
    int domains, groups;     /* D, R */
    int group_domains;       /* G */
    int experts, per_domain; /* E, L */
    int local_domains;       /* D/P */
    int first_domain;        /* first local domain, in [0, D) */
    int local_groups;        /* groups this rank has a part of: 1, or R/P */
    int first_group;         /* first of them */
    int local_experts;       /* experts whose weights this rank holds: E, or L*D/P */
    int first_expert;        /* place of the first of them */
    gln_comm_t *comm;        /* all ranks, borrowed */
    gln_comm_t *replicas;    /* ranks that hold the same experts, in group order; owned */
} gln_parallel_t;

/** COLLECTIVE. @return GLN_OK; GLN_ERR_CONFIG: the message says which number must divide which,
 * what was found, and which values would do. */
gln_status_t gln_parallel_open(gln_comm_t *comm, int domains, int groups, int experts,
                               gln_parallel_t *out);
void gln_parallel_close(gln_parallel_t *p); /* takes NULL and zeroed structs */

/** The arithmetic alone, for any rank of any world: no communicator (comm, replicas are NULL). */
gln_status_t gln_parallel_layout(int ranks, int rank, int domains, int groups, int experts,
                                 gln_parallel_t *out);

#ifdef __cplusplus
}
#endif
#endif
