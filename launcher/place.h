/* Figures of `gleaner place`. */
#ifndef GLN_LAUNCHER_PLACE_H
#define GLN_LAUNCHER_PLACE_H

#include "cluster/placement.h"
#include "router/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One MoE layer, or the sum of all, on the steps chosen on or on those held out. */
typedef struct gln_place_figures {
    int layer;    /* -1: the sum; imbalance is then the worst */
    int held_out; /* 0: the steps that the placement was chosen on */
    gln_placement_count_t before, after;
    const int32_t *domain_of; /* [E] NULL in the sum */
} gln_place_figures_t;

typedef struct gln_place_head {
    const char *path;
    gln_placement_shape_t shape;
    const gln_router_options_t *router;
    int64_t tokens;             /* of a domain, one step */
    int chosen_steps, held_out; /* numbers of steps */
} gln_place_head_t;

void gln_place_print_head(const gln_place_head_t *head);
void gln_place_print_text(const gln_place_head_t *head, const gln_place_figures_t *figures);
gln_status_t gln_place_print_json(const gln_place_head_t *head, const gln_place_figures_t *figures);

#ifdef __cplusplus
}
#endif
#endif
