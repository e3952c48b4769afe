/* A plan as text and as JSON lines on standard output: what `gleaner route` prints. docs/json.md
 * documents the keys. */
#ifndef GLN_LAUNCHER_ROUTE_PRINT_H
#define GLN_LAUNCHER_ROUTE_PRINT_H

#include "launcher/logits.h"
#include "router/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One line per token: the scores of all experts, exact in 9 digits. */
gln_status_t gln_route_print_scores(const gln_plan_t *plan, int64_t domain);
/** One line per route: slots expert by expert, then rectified rows. */
gln_status_t gln_route_print_routes(const gln_plan_t *plan, int64_t domain);
/** The ledger, the losses. */
gln_status_t gln_route_print_domain(const gln_plan_t *plan, int64_t domain);
gln_status_t gln_route_print_total(const gln_ledger_t *total, const gln_logits_t *logits,
                                   const gln_router_t *router);

/** The same for readers. */
void gln_route_print_head(const gln_logits_t *logits, const gln_router_t *router);
void gln_route_print_text(const gln_plan_t *plan, int64_t domain);
void gln_route_print_text_total(const gln_ledger_t *total, const char *scores_path);

#ifdef __cplusplus
}
#endif
#endif
