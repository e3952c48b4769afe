/* Inside of an exchange, for exchange.c (moving) and exchange_plan.c (opening and planning). In
 * comments Dl = D/P: domains of one rank. Pairs as the header counts them: s*G + j for the source,
 * i*G + j for the destination. */
#ifndef GLN_COMM_EXCHANGE_INTERNAL_H
#define GLN_COMM_EXCHANGE_INTERNAL_H

#include "base/arena.h"
#include "comm/comm_internal.h"
#include "comm/exchange.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One kind of thing that pairs carry: rows, scalars or metadata bytes. Counts and offsets in units.
 */
typedef struct gln_exchange_flow {
    int32_t *sent;         /* [Dl*G] */
    int64_t *sent_offset;  /* [Dl*G + 1] in the caller's arrays, pair order */
    int64_t *stage_offset; /* [G*Dl + 1] in the staging buffer, at j*Dl + s; pairs that stay inside
                              this rank have no length there */
    int32_t *received;     /* [Dl*G] */
    int64_t *received_offset; /* [Dl*G + 1] */
} gln_exchange_flow_t;

/* One row that comes back for a token: from domain `domain` of the group, at row `row` of the
 * staging buffer or, when negative, at row ~row of the caller's array. */
typedef struct gln_exchange_entry {
    int32_t domain, row;
} gln_exchange_entry_t;

struct gln_exchange {
    gln_comm_t *comm;
    gln_exchange_options_t options;
    int local;       /* Dl */
    int group;       /* G */
    int group_ranks; /* ranks that share a group: G/Dl, or 1 when a rank hosts whole groups */
    int rank_first;  /* lowest rank of this rank's group */
    size_t row_bytes, element_bytes;
    int planned;

    gln_exchange_flow_t rows, scalars, meta;
    int32_t *row_source;  /* [Dl*G*rows_max] row of `in` of every planned row, pair order */
    int64_t *token_entry; /* [Dl*T + 1] first entry of each token */
    int32_t *token_stamp; /* [T] last destination that listed a token, while planning */
    gln_exchange_entry_t *entries;     /* [Dl*G*rows_max] by token, ascending domain */
    int32_t *records_out, *records_in; /* [P * record] */
    int record;          /* status, then rows, scalars, meta of pair (i, s) at 1 + 3*(i*Dl + s) */
    char *meta_received; /* [Dl*G*meta_bytes_max] */
    size_t *meta_offset; /* [Dl*G + 1] */
    char *stage;         /* rows, scalars or metadata on their way to or from other ranks */
    char *sums;          /* [levels, H] partial sums of one token */
    gln_traffic_t traffic_dispatch, traffic_combine, traffic;
    gln_arena_t arena;
};

/** Rank, and index there, of destination j of source s. */
int gln_exchange_rank_of(const gln_exchange_t *x, int s, int j);
int gln_exchange_index_of(const gln_exchange_t *x, int s, int j);

/** Send what the pairs of `flow` carry from `in` (caller's order; rows are gathered by row_source)
 * to `out` (received order). */
gln_status_t gln_exchange_forward(gln_exchange_t *x, const gln_exchange_flow_t *flow, size_t unit,
                                  const void *in, void *out);

#ifdef __cplusplus
}
#endif
#endif
