/* The memory of one rank of a run, computed before there is a run: the objects of a training are
 * opened by the code that opens them in the run, on a planned world (gln_comm_open_plan), while
 * memory is only reserved (base/memory.h). So a plan cannot drift from what a run allocates. */
#ifndef GLN_MOE_MEMORY_PLAN_H
#define GLN_MOE_MEMORY_PLAN_H

#include "base/memory.h"
#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_memory_plan {
    int64_t bytes[GLN_MEMORY_KINDS]; /* that are allocated, all of them resident */
    int64_t process_bytes; /* program, libraries, MPI, the products' code: measured in this process
                              once a small training step has run */
    int64_t allowance_bytes; /* what a run and MPI take beyond that later; a constant */
    int64_t total_bytes;     /* sum of all above */
    int64_t dense_parameters, expert_parameters; /* held by this rank */
    int64_t parameters;                          /* of the model */
} gln_memory_plan_t;

/** Plan rank `rank` of `ranks`, `ranks_per_node` consecutive ones a node. The process's own
 * memory is left at 0, and out of the total.
 *  @param run with parallel.threads set
 *  @return GLN_OK; what opening gives (GLN_ERR_CONFIG, GLN_ERR_ARGUMENT, GLN_ERR_MEMORY). */
gln_status_t gln_memory_plan(const gln_run_options_t *run, int rank, int ranks, int ranks_per_node,
                             gln_memory_plan_t *out);
/** Fill in process_bytes and allowance_bytes: run one forward and backward of a model of the same
 * widths, with one expert and one short sequence, and see what is resident when it is closed. */
gln_status_t gln_memory_plan_process(const gln_run_options_t *run, int ranks,
                                     gln_memory_plan_t *plan);

#ifdef __cplusplus
}
#endif
#endif
