/* The waste ledger: what became of every token and every slot, for one layer, one step, one domain.
 * Ledgers add: over domains, layers, steps. */
#ifndef GLN_ROUTER_LEDGER_H
#define GLN_ROUTER_LEDGER_H

#include "base/status.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counts of routes unless said otherwise. Equations (rectify-router.md section 6):
 *   tokens * K = routed + overflow
 *   overflow   = rescued + rectified + dropped
 *   slots      = routed + filled + padded          (slots = E * C per domain)
 * The order of the fields is part of the checkpoint and of --json: append only. */
typedef struct gln_ledger {
    int64_t tokens;      /* tokens that entered the router */
    int64_t choices;     /* tokens * K: what was asked for */
    int64_t slots;       /* E * C */
    int64_t routed;      /* top-k routes that found a slot */
    int64_t overflow;    /* top-k routes that did not */
    int64_t filled;      /* slots given to fill-in routes */
    int64_t padded;      /* slots that nobody took */
    int64_t rescued;     /* overflow made good by a fill-in route of the same token */
    int64_t rectified;   /* overflow made good by intra-device rectification */
    int64_t dropped;     /* overflow that nothing made good */
    int64_t rect_tokens; /* tokens that intra-device rectification served */
    int64_t
        rect_rows; /* extra rows computed for them (fewer: a token may already visit that expert) */
    int64_t unserved; /* tokens without any route: their output is zero */
    int64_t
        sent_rows; /* (token, destination domain) pairs: rows of dispatch, own domain included */
} gln_ledger_t;

#define GLN_LEDGER_FIELDS 14 /* of gln_ledger_t */

/** Names of the fields in order; GLN_LEDGER_FIELDS strings. Static storage. */
const char *const *gln_ledger_names(void);

/** sum += item, field by field. */
void gln_ledger_add(gln_ledger_t *sum, const gln_ledger_t *item);

/** Check every equation and that no count is negative.
 *  @param where  named in the message, e.g. "step 12, layer 3, domain 1"
 *  @return GLN_OK; GLN_ERR_LEDGER: the equation, both sides and `where` are reported. */
gln_status_t gln_ledger_check(const gln_ledger_t *ledger, const char *where);

#ifdef __cplusplus
}
#endif
#endif
