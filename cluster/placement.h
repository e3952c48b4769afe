/* Which domain hosts which expert: counting what a placement costs, and choosing one.
 *
 * A placement is domain_of[E]: the domain, inside a replica group, that hosts expert e; each domain
 * of a group hosts L = E R / D experts and all R groups are placed alike. Without one, expert e
 * lives on domain e / L. It is judged by the routes of recorded tokens, exactly: a token sends one
 * row to each domain that hosts one of its experts, or one to each other node. Pure functions; no
 * result depends on time or threads. */
#ifndef GLN_CLUSTER_PLACEMENT_H
#define GLN_CLUSTER_PLACEMENT_H

#include "base/status.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What travels between nodes. */
typedef enum gln_placement_copies {
    GLN_COPIES_DOMAIN = 0, /* one row per (token, domain on another node) */
    GLN_COPIES_NODE        /* one row per (token, other node), spread inside it */
} gln_placement_copies_t;

/* What is placed where, and what is looked at. */
typedef struct gln_placement_shape {
    int domains; /* D */
    int groups;  /* R, divides D; 0: 1 */
    int experts; /* E, a multiple of D / R */
    int nodes;   /* divides D: node n hosts the domains [n D / nodes, (n + 1) D / nodes) */
    gln_placement_copies_t copies; /* rows that choosing looks at; counting gives both */
    double imbalance;              /* load of a domain over the mean that choosing aims to stay
                                      below, at least 1; 0: 1.1 */
    int any_source; /* 1: choosing takes a token as sent by every domain of its group alike, so that
                       only experts used together count; counting goes by the domains given */
} gln_placement_shape_t;

/* Tokens with their routes; arrays are borrowed. */
typedef struct gln_placement_tokens {
    int64_t count;         /* tokens */
    const int32_t *source; /* [count] domain of the token, in [0, D) */
    const int64_t *offset; /* [count + 1] into expert */
    const int32_t *expert; /* experts of its routes; a token's are distinct */
} gln_placement_tokens_t;

/* What a placement costs these tokens, one way. */
typedef struct gln_placement_count {
    int64_t own_rows;        /* (token, own domain) */
    int64_t near_rows;       /* (token, other domain of the same node) */
    int64_t far_domain_rows; /* (token, domain of another node) */
    int64_t far_node_rows;   /* (token, other node) */
    int64_t routes;          /* expert rows computed */
    int64_t load_max;        /* most of them on one domain */
    double imbalance;        /* load_max over the mean; 1: level. 1 without routes */
} gln_placement_count_t;

/** domain_of of no placement: e / L. @param domain_of [E] out */
void gln_placement_default(const gln_placement_shape_t *shape, int32_t *domain_of);

/** The experts domain by domain, ascending within one.
 *  @param domain_of [E]
 *  @param expert_at [E] out */
void gln_placement_order(int experts, const int32_t *domain_of, int32_t *expert_at);

/** @param domain_of [E]
 *  @return GLN_OK; GLN_ERR_ARGUMENT: a number that does not fit the shape, a token's expert or
 *          source out of range, or a domain that hosts not exactly L experts; GLN_ERR_MEMORY. */
gln_status_t gln_placement_count(const gln_placement_shape_t *shape,
                                 const gln_placement_tokens_t *tokens, const int32_t *domain_of,
                                 gln_placement_count_t *out);

/** A placement that sends few rows between nodes, then few inside them, without a domain above the
 *  aimed load where that can be. Never worse than `from` by that measure.
 *  @param from      [E] the placement to better; NULL: the default
 *  @param domain_of [E] out
 *  @return as gln_placement_count. */
gln_status_t gln_placement_choose(const gln_placement_shape_t *shape,
                                  const gln_placement_tokens_t *tokens, const int32_t *from,
                                  int32_t *domain_of);

#ifdef __cplusplus
}
#endif
#endif
