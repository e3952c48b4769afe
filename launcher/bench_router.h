/* What `gleaner bench router` measured for one k, and printing it. */
#ifndef GLN_LAUNCHER_BENCH_ROUTER_H
#define GLN_LAUNCHER_BENCH_ROUTER_H

#include "base/status.h"
#include "router/ledger.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_timing {
    double median, min; /* seconds */
} gln_timing_t;

typedef struct gln_router_figures {
    const char *source; /* of the logits; NULL: random */
    const char *policy, *machine;
    int threads, domains, experts, k, rounds;
    int64_t tokens, hidden, expert_hidden, repeat; /* tokens of all domains */
    gln_timing_t gate, plain, full, layer;
    size_t scratch_bytes, plan_bytes,
        scores_bytes; /* of the router with rectification, one domain */
    gln_ledger_t ledger;
} gln_router_figures_t;

gln_status_t gln_bench_router_json(const gln_router_figures_t *r);
/** @param first  1: with the head that all share */
void gln_bench_router_text(const gln_router_figures_t *r, int first);

#ifdef __cplusplus
}
#endif
#endif
