/* Inside of an exchange, for exchange.c (moving), exchange_plan.c (opening and planning) and
 * exchange_node.c (the hierarchical form between nodes), exchange_window.c (rows inside the node
 * through shared memory) and exchange_flight.c (what happens when). In comments Dl = D/P: domains
 * of one rank; M nodes share a group, each hosts N of its ranks and W = N*Dl of its domains. Pairs
 * as the header counts them: s*G + j for the source, i*G + j for the destination. */
#ifndef GLN_COMM_EXCHANGE_INTERNAL_H
#define GLN_COMM_EXCHANGE_INTERNAL_H

#include "base/arena.h"
#include "comm/comm_internal.h"
#include "comm/exchange.h"
#include "comm/window.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One kind of thing that pairs carry: rows, scalars or metadata bytes. Counts and offsets in units.
 */
typedef struct gln_exchange_flow {
    int32_t *sent;         /* [Dl*G] */
    int64_t *sent_offset;  /* [Dl*G + 1] in the caller's arrays, pair order */
    int64_t *stage_offset; /* [G*Dl + 1] in the staging buffer, at j*Dl + s; pairs that travel by no
                              message have no length there */
    int32_t *received;     /* [Dl*G] */
    int64_t *received_offset; /* [Dl*G + 1] */
} gln_exchange_flow_t;

/* One row that comes back for a token: row `row` of what domain `domain` of the group received from
 * the token's. */
typedef struct gln_exchange_entry {
    int32_t domain, row;
} gln_exchange_entry_t;

/* The hierarchical form. Nodes are counted within the group, 0 to M - 1; ranks within their part of
 * the node, 0 to N - 1, domains likewise, 0 to W - 1. */
typedef struct gln_exchange_node {
    int nodes;      /* M; 0: the flat form, and nothing below is set */
    int ranks;      /* N */
    int width;      /* W */
    int own, index; /* this rank's node, and this rank within it */
    /* as a source. Distinct rows for node b stand from stage row stage_offset[b*W*Dl] on */
    int32_t *sent;       /* [M] distinct rows for each node */
    int32_t *row_source; /* [Dl*(G-Dl)*rows_max] row of `in` of a distinct row, by stage row */
    int32_t *row_index;  /* same size: which distinct row of its node each planned row is */
    /* as a gateway: for the rank with our index on each other node */
    int32_t *header_out, *header_in;   /* [M * (1 + W)] distinct rows, planned rows per domain */
    int64_t *hub_first;                /* [M + 1] distinct rows of each source node, in `hub` */
    int64_t *index_first;              /* [M*W + 1] planned rows, in hub_index */
    int64_t *relay_first;              /* [M*W] rows for other ranks of this node, in `relay` */
    int32_t *hub_index;                /* [(M-1)*W*Dl*rows_max] row_index of the sources */
    int64_t *hub_entry;                /* [hub rows + 1] first entry of each distinct row */
    gln_exchange_entry_t *hub_entries; /* [(M-1)*W*Dl*rows_max]; row: of those planned for the
                                          domain by the source node */
    const char **rows; /* [W] where the rows of each domain for one source node lie */
    char *hub;         /* distinct rows from (dispatch) or for (combine) other nodes */
    char *relay;       /* rows for (dispatch) or from (combine) other ranks of this node */
} gln_exchange_node_t;

/* A dispatch or combine between its start and its finish; see exchange_flight.c. */
typedef struct gln_exchange_flight {
    enum { GLN_FLIGHT_NONE = 0, GLN_FLIGHT_DISPATCH, GLN_FLIGHT_COMBINE } kind;
    int hop;    /* of the messages: 0, then 1 in the hierarchical form; 2: all have arrived */
    int near;   /* dispatch: the rows of node peers are in their place */
    int landed; /* everything has arrived, as far as this rank has noticed */
    int staged; /* combine: results leave with gln_exchange_combine_send */
    int unsent, unposted; /* of it: peers that get results yet; that are not received from yet */
    const char *in;
    char *out;
    gln_status_t status; /* of a call that failed; the finish returns it again */
    int64_t began_ns, entered_ns, inside_ns; /* start; this call; in all calls of this flight */
    int64_t hidden_ns;                       /* messages under way and no call */
    gln_exchange_times_t times;              /* of all flights that were finished */
} gln_exchange_flight_t;

struct gln_exchange {
    gln_comm_t *comm;
    gln_exchange_options_t options;
    int local;       /* Dl */
    int group;       /* G */
    int group_ranks; /* ranks that share a group: G/Dl, or 1 when a rank hosts whole groups */
    int rank_first;  /* lowest rank of this rank's group */
    size_t row_bytes, scalar_bytes;
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
    const char **pair_rows; /* [Dl*G] where the rows of a sent pair lie while they are summed */
    int64_t receive_max;    /* rows */
    gln_window_t window;    /* counters, offsets and the receive buffer; see exchange_window.c */
    size_t window_offsets, window_rows; /* bytes from the window's start */
    uint64_t epoch;                     /* dispatches and combines so far */
    const gln_counter_t *window_next;   /* dispatch: `ready` of the next peer to get rows, if any */
    int window_step;                    /* which neighbour to the right that is */
    gln_exchange_flight_t flight;
    unsigned char *stage_state; /* [group_ranks] bits of exchange_flight.c */
    char *sums;                 /* [levels, H] partial sums of one token */
    gln_traffic_t traffic_dispatch, traffic_combine, traffic;
    gln_exchange_node_t node;
    char form_reason[320], path_reason[GLN_WINDOW_REASON];
    gln_arena_t arena;
};

/** Rank, and index there, of destination j of source s. */
int gln_exchange_rank_of(const gln_exchange_t *x, int s, int j);
int gln_exchange_index_of(const gln_exchange_t *x, int s, int j);

/** Does pair (s, j) of `flow` reach its destination without a message? */
int gln_exchange_direct(const gln_exchange_t *x, const gln_exchange_flow_t *flow, int s, int j);
/** Copy what pair (s, j) carries from the caller's `in` to `to`. */
void gln_exchange_pair_copy(const gln_exchange_t *x, const gln_exchange_flow_t *flow, size_t unit,
                            const char *in, int s, int j, char *to);

/** The window; sets x->window and x->path_reason. COLLECTIVE, agreed. */
gln_status_t gln_exchange_window_open(gln_exchange_t *x);
/** Do rows to and from this other rank go through the window? */
int gln_exchange_window_has(const gln_exchange_t *x, int rank);
/** Tell peers the plan's offsets. */
void gln_exchange_window_plan(gln_exchange_t *x);
/** Dispatch: allow peers to write; copy a pair that stays on this rank, and in between write to
 * peers that allow it; write to the rest, to all or to those that are ready in turn; who still has
 * to be written to or to write here, -1: nobody; wait for theirs, and copy where `out` is not the
 * receive buffer. */
void gln_exchange_window_begin(gln_exchange_t *x);
void gln_exchange_window_own(gln_exchange_t *x, const char *in, int s, int j, char *to);
gln_status_t gln_exchange_window_write(gln_exchange_t *x, const char *in, int waits);
int gln_exchange_window_missing(const gln_exchange_t *x);
gln_status_t gln_exchange_window_written(gln_exchange_t *x, char *out);
/** Combine: show peers the results; wait for theirs and note where they lie (x->pair_rows); say
 * that all were read, and wait until the own ones were. */
void gln_exchange_window_show(gln_exchange_t *x, const char *in);
gln_status_t gln_exchange_window_find(gln_exchange_t *x);
gln_status_t gln_exchange_window_read(gln_exchange_t *x);

/** Start the messages that carry the pairs of `flow` from `in` (caller's order; rows are gathered
 * by row_source) to `out` (received order), and copy what stays on this rank. ops->wait ends. */
gln_status_t gln_exchange_forward_post(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                       size_t unit, const void *in, void *out);
/** The way back: from `in` (received order) to the staging buffer of the source. What stays inside
 * this rank stays where it is. ops->wait ends. */
gln_status_t gln_exchange_backward_post(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                        size_t unit, const void *in);
/** The two halves of it for one peer, rank number `index` of the group; nothing where the pairs do
 * not travel by messages of their own. */
gln_status_t gln_exchange_backward_receive(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                           size_t unit, int index);
gln_status_t gln_exchange_backward_send(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                        size_t unit, const void *in, int index);
/** Forward, to its end; not for rows. */
gln_status_t gln_exchange_forward(gln_exchange_t *x, const gln_exchange_flow_t *flow, size_t unit,
                                  const void *in, void *out);

/** GLN_OK where a plan is set and nothing is under way; reports what is not so. */
gln_status_t gln_exchange_check(const gln_exchange_t *x, const char *function);
/** Where the rows of every sent pair lie when all have come back, those of node peers excepted. */
void gln_exchange_pair_rows_set(gln_exchange_t *x, const char *in);

/** out [H] = tree over `count` >= 1 entries in ascending domain.
 *  @param rows where the rows of every domain of the entries begin */
void gln_exchange_token_sum(gln_exchange_t *x, const gln_exchange_entry_t *entries, int64_t count,
                            const char *const *rows, char *out);

/** Does `peer` live on another node, and do its rows take the hierarchical form? */
static inline int gln_exchange_apart(const gln_exchange_t *x, int peer)
{
    const int *nodes = x->comm->nodes;
    return x->node.nodes > 0 && nodes[peer] != nodes[x->comm->rank];
}

/** Choose the form between nodes (x->node.nodes ... index, x->form_reason).
 *  @return GLN_OK; GLN_ERR_ARGUMENT when it is forced and impossible; what measuring returns.
 *  COLLECTIVE. */
gln_status_t gln_exchange_node_choose(gln_exchange_t *x);
/** The rest is for the hierarchical form alone. Lay out its buffers. */
void gln_exchange_node_layout(gln_exchange_t *x, gln_arena_t *arena);
/** After the flat plan is complete: turn the entries of each remote node into one, and tell the
 * gateways. COLLECTIVE over the group. Adds to both counts of traffic. */
gln_status_t gln_exchange_node_plan(gln_exchange_t *x);
/** Dispatch: start sending between nodes; when that has arrived, start fanning out inside this one.
 */
gln_status_t gln_exchange_node_dispatch_start(gln_exchange_t *x, const char *in);
gln_status_t gln_exchange_node_fan_out(gln_exchange_t *x, char *out);
/** Combine: start collecting at the gateways of this node; when that has arrived, sum and start
 * returning sums to where x->entries point. */
gln_status_t gln_exchange_node_combine_start(gln_exchange_t *x, const char *in);
gln_status_t gln_exchange_node_sums_return(gln_exchange_t *x, const char *in);

#ifdef __cplusplus
}
#endif
#endif
