/* What is shared by the files of the placement: the tokens as a hypergraph, and where its experts
 * lie. */
#ifndef GLN_CLUSTER_PLACEMENT_INTERNAL_H
#define GLN_CLUSTER_PLACEMENT_INTERNAL_H

#include "cluster/placement.h"

typedef struct gln_placement_search {
    gln_placement_shape_t shape;
    int group_domains, per_domain, node_domains; /* G, L, domains of a node */
    int64_t edges_count;
    int32_t *source;      /* [edges] */
    int64_t *offset;      /* [edges + 1] */
    int32_t *expert;      /* ascending within an edge */
    int64_t *weight;      /* [edges] tokens */
    int64_t *cost;        /* [edges] under domain_of */
    int64_t *edge_offset; /* [E + 1]: edges of an expert */
    int64_t *edge_of;
    int64_t *expert_load; /* [R, E] routes */
    int64_t *load;        /* [R, G] routes under domain_of */
    int64_t *limit;       /* [R] */
    int32_t *domain_of;   /* [E]; -1: not placed yet */
    int32_t *best;        /* [E] */
    int64_t *domain_mark; /* [D] */
    int64_t *node_mark;   /* [nodes] */
    int any_source;
    int64_t load_cost; /* of a route beyond the limit */
    int64_t mark, total, best_total, draws;
} gln_placement_search_t;

/** Checks shape and tokens and builds the hypergraph; `merge`: equal edges become one, with
 * any_source whatever their domain. load_cost and domain_of are the caller's to fill. */
gln_status_t gln_placement_search_open(const gln_placement_shape_t *shape,
                                       const gln_placement_tokens_t *tokens, int merge,
                                       gln_placement_search_t **out);
void gln_placement_search_close(gln_placement_search_t *s); /* takes NULL */

/** As many experts on every domain, all domains in range? */
gln_status_t gln_placement_check(const gln_placement_search_t *s, const int32_t *domain_of);

#endif
