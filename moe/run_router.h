/* The router's keys of a run file: defaults of the policy, schedules, evaluation. Internal to the
 * loading of run options. */
#ifndef GLN_MOE_RUN_ROUTER_H
#define GLN_MOE_RUN_ROUTER_H

#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Check the router's and the evaluation's keys and replace what was left to the policy by its
 * values. Domains and k <= experts are checked already.
 *  @return GLN_OK; GLN_ERR_CONFIG names the key; run is unfinished then. */
gln_status_t gln_run_router_resolve(const gln_config_t *config, gln_run_options_t *run);

#ifdef __cplusplus
}
#endif
#endif
