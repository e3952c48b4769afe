/* Which cores and which memory each rank of a machine gets: a plan, which is a pure function of the
 * topology and the number of ranks, and its application to this process, verified afterwards.
 *
 *     gln_binding_plan_open(topology, &(gln_binding_options_t){.ranks = 4}, &plan);
 *     gln_binding_apply(topology, plan, local_rank, &result);    // result.text says what came of
 * it gln_binding_plan_close(plan);
 */
#ifndef GLN_CLUSTER_BINDING_H
#define GLN_CLUSTER_BINDING_H

#include "cluster/topology.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_binding_options {
    int ranks;    /* of this machine, at least 1 */
    bool devices; /* each rank has a GPU and wants to be near it: rank i GPU i, or GPU i G / ranks
                   * where there are more ranks than the G GPUs */
} gln_binding_options_t;

typedef struct gln_binding_plan gln_binding_plan_t;

/** Make the plan. Every core goes to exactly one rank and every rank gets at least one, or no rank
 * gets any and gln_binding_plan_reason says why.
 *
 * Near devices: the ranks whose GPUs belong to one NUMA node share its cores evenly; if the machine
 * does not tell the NUMA node of some GPU in use, or has no GPU, ranks are spread as without
 * devices. (Cores of NUMA nodes without a GPU in use then go to nobody.) Without devices: cores are
 * dealt out in order. With at least as many ranks as NUMA nodes no rank gets cores of two; with
 * fewer, each gets whole NUMA nodes.
 *  @param out  owned by the caller until close; set on success only
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY. */
gln_status_t gln_binding_plan_open(const gln_topology_t *topology,
                                   const gln_binding_options_t *options, gln_binding_plan_t **out);

void gln_binding_plan_close(gln_binding_plan_t *plan); /* takes NULL */

/** "" where cores were dealt out; otherwise why not: "8 ranks share 2 cores". Valid until close. */
const char *gln_binding_plan_reason(const gln_binding_plan_t *plan);

/** True where ranks got their cores by their devices. */
bool gln_binding_plan_near_devices(const gln_binding_plan_t *plan);

/** The cores of a rank, ascending; none where there is a reason not to bind. Borrowed until close.
 */
const int *gln_binding_plan_cores(const gln_binding_plan_t *plan, int rank, int *count);

/** Rank that has a core; -1: nobody. */
int gln_binding_plan_rank_of(const gln_binding_plan_t *plan, int core);

/** The NUMA node that holds all cores of a rank; -1: none does. */
int gln_binding_plan_numa(const gln_binding_plan_t *plan, int rank);

/** GPU of a rank, by its number as a device, also where it does not decide the cores; -1: none. */
int gln_binding_plan_device(const gln_binding_plan_t *plan, int rank);

/** Cores in words: "core 1", "cores 0-2,7", "no core". Cut to `size` bytes, size >= 1. */
void gln_binding_cores_text(const int *cores, int count, char *out, size_t size);

typedef enum gln_binding_state {
    GLN_BINDING_DONE,    /* bound, and seen to be bound */
    GLN_BINDING_WHOLE,   /* the plan gives this rank the whole machine: nothing to do */
    GLN_BINDING_FOUND,   /* bound before, by the launcher or the user: left as it is */
    GLN_BINDING_LEFT,    /* the plan gives no cores: left as it is */
    GLN_BINDING_REFUSED, /* the system does not permit it, or did not do it: left as it is */
} gln_binding_state_t;

typedef struct gln_binding_result {
    gln_binding_state_t state;
    bool memory;    /* memory is bound too: new pages come from the NUMA nodes of the cores first */
    char text[160]; /* "bound to cores 0-7 and its memory", "not bound: 8 ranks share 2 cores" */
} gln_binding_result_t;

/** What gln_binding_apply would do, without doing it: DONE, "to be bound to cores
 *  0-7", or one of the reasons not to. */
gln_status_t gln_binding_check(const gln_topology_t *topology, const gln_binding_plan_t *plan,
                               int rank, gln_binding_result_t *out);

/** Bind all threads of this process to the cores of `rank`, and its memory to their NUMA nodes
 * (preferred, not forced: a full node overflows into the next). Call it before threads start: later
 * ones inherit both. A refusal is a result, not an error. Threads stay as they were then.
 *  @param topology  of this machine (gln_topology_open)
 *  @return GLN_OK; GLN_ERR_ARGUMENT: not this machine, or no such rank; GLN_ERR_MEMORY. */
gln_status_t gln_binding_apply(const gln_topology_t *topology, const gln_binding_plan_t *plan,
                               int rank, gln_binding_result_t *out);

#ifdef __cplusplus
}
#endif
#endif
