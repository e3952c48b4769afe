/* Memory of a run, planned and measured, as text and JSON. */
#ifndef GLN_LAUNCHER_MEMORY_H
#define GLN_LAUNCHER_MEMORY_H

#include "base/resident.h"
#include "launcher/figures.h"
#include "launcher/session.h"
#include "moe/memory_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_memory_measured {
    int64_t peak_bytes;                   /* of the rank that took most (gln_resident_t) */
    int64_t least_bytes;                  /* of the one that took least */
    int64_t node_bytes;                   /* sum over the ranks of the fullest node */
    int rank;                             /* that took most */
    int64_t held_bytes[GLN_MEMORY_KINDS]; /* by this rank now: what a plan counts */
} gln_memory_measured_t;

/** Plan this rank of the job, before it opens anything. LOCAL.
 *  @param run with parallel.threads set */
gln_status_t gln_memory_look_ahead(const gln_session_t *session, const gln_run_options_t *run,
                                   gln_memory_plan_t *out);
/** What ranks took at most so far. COLLECTIVE. */
gln_status_t gln_memory_measure(gln_session_t *session, gln_memory_measured_t *out);

/** {"total_bytes", "weights_bytes", ...}: one member a kind. */
json_t *gln_memory_plan_json(const gln_memory_plan_t *plan);
json_t *gln_memory_measured_json(const gln_memory_measured_t *measured);

#ifdef __cplusplus
}
#endif
#endif
