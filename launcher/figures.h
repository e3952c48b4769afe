/* Figures as JSON objects and as text: one place for their names. docs/json.md documents them. */
#ifndef GLN_LAUNCHER_FIGURES_H
#define GLN_LAUNCHER_FIGURES_H

#include "moe/trainer.h"
#include <jansson.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/** New references; NULL only when out of memory. */
json_t *gln_figures_ledger(const gln_ledger_t *ledger);
json_t *gln_figures_traffic(const gln_traffic_t *traffic);
json_t *gln_figures_step(const gln_step_report_t *report);
json_t *gln_figures_eval(const gln_eval_report_t *report);

/** Print an object on a line of its own and release it. Reals carry 17 digits; NaN and infinity,
 * which JSON lacks, are null. @return GLN_OK; GLN_ERR_IO (`name` is in the message);
 * GLN_ERR_MEMORY. */
gln_status_t gln_figures_print(json_t *object, FILE *file, const char *name);

/** A real, null where it is not finite. */
json_t *gln_figures_real(double value);

/** "routed 91.2  rescued 0.8  rectified 8.0  dropped 0.0 | filled 5.1  padded 3.7": per cent of the
 * choices, then per cent of the slots. */
void gln_figures_ledger_text(const gln_ledger_t *ledger, char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
