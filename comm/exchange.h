/* Dispatch and combine: rows to the domains of their experts, and partial sums back.
 *
 * The exchange speaks of domains and rows and knows no experts. A communicator of P ranks hosts D
 * domains, rank r the contiguous D/P of them; domains fall into R replica groups of G = D/R
 * consecutive ones, and rows travel inside their group only. A row travels once per destination
 * domain, with metadata bytes that the caller defines (which expert, which weight). Row buffers are
 * sized at open: rows_max per (source, destination) pair bounds everything.
 *
 * Between nodes there are two forms, with the same bits. Flat: every pair of ranks for itself.
 * Hierarchical: a row that several domains of a remote node want travels there once and fans out
 * inside the node, and one partial sum per (token, remote node) comes back.
 *
 * Order of received rows: by destination domain of this rank, then by source domain within the
 * group, then in the order the source listed them. It depends on no rank count.
 *
 * Per step: plan, then any number of dispatch, combine, scalars. All COLLECTIVE over the
 * communicator. */
#ifndef GLN_COMM_EXCHANGE_H
#define GLN_COMM_EXCHANGE_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An exchange: buffers, and what is under way. */
typedef struct gln_exchange gln_exchange_t;

/* Form of the exchange between nodes. */
typedef enum gln_exchange_across {
    GLN_ACROSS_AUTO = 0,    /* hierarchical where it is possible, a node hosts several domains, and
                               the measured cost of messages (links.h) makes it the faster one */
    GLN_ACROSS_FLAT,        /* every pair of ranks for itself */
    GLN_ACROSS_HIERARCHICAL /* refused where it is impossible */
} gln_exchange_across_t;

/* How rows travel between ranks of one node; between nodes they always go as messages. Scalars and
 * metadata are small and go as messages everywhere. The result is the same, bit for bit. */
typedef enum gln_exchange_path {
    GLN_PATH_AUTO = 0, /* shared where ranks share a node and memory can be had, else messages; one
                          warning on a communicator says why it cannot */
    GLN_PATH_MESSAGES, /* by MPI messages inside a node too */
    GLN_PATH_SHARED    /* GLN_ERR_MEMORY or GLN_ERR_PEER where the node's memory cannot be shared */
} gln_exchange_path_t;

/* Shapes and bounds, by which buffers are sized. */
typedef struct gln_exchange_options {
    int domains;                  /* D; P divides D */
    int groups;                   /* R; divides D; P divides R or R divides P. 0: 1 */
    int64_t tokens;               /* T of one domain */
    int64_t hidden;               /* H */
    gln_dtype_t dtype;            /* of rows; scalars are of acc(dtype) */
    int64_t rows_max;             /* rows of one (source, destination) pair at most, <= T */
    int64_t scalars_max;          /* scalars of one (source, destination) pair at most */
    size_t meta_bytes_max;        /* metadata bytes of one (source, destination) pair at most */
    gln_exchange_path_t path;     /* of rows inside a node */
    gln_exchange_across_t across; /* form of the exchange between nodes */
    int64_t received_rows_max;    /* rows that one rank receives at most; 0: D/P * G * rows_max */
    double rows_expected; /* rows of one (source, destination) pair on average, to choose the
                             form by; 0: rows_max */
} gln_exchange_options_t;

/* What one source rank sends, for each of its local domains s in [0, D/P) and each destination j in
 * [0, G) of that domain's group; pair index s*G + j. */
typedef struct gln_exchange_send {
    const int32_t *rows_count; /* [D/P * G] */
    const int32_t *row_token; /* tokens (0 .. T-1 of the source domain) of all pairs, in pair order;
                                 within a pair each token at most once */
    const int32_t *scalars_count; /* [D/P * G] scalars per pair (one per route) */
    const int32_t *meta_bytes;    /* [D/P * G] */
    const void *meta;             /* metadata of all pairs, in pair order, without gaps */
} gln_exchange_send_t;

/* What this rank received; for each local destination domain i and each source j of its group in
 * order; pair index i*G + j. Owned by the exchange, valid until the next plan. */
typedef struct gln_exchange_received {
    int64_t rows_count;           /* all rows */
    const int32_t *rows;          /* [D/P * G] rows per pair */
    const int64_t *row_offset;    /* [D/P * G + 1] */
    const int32_t *scalars;       /* [D/P * G] scalars per pair */
    const int64_t *scalar_offset; /* [D/P * G + 1] */
    const void *meta;             /* of all pairs, in pair order, without gaps */
    const size_t *meta_offset;    /* [D/P * G + 1] bytes */
} gln_exchange_received_t;

/* Rows that crossed each kind of link in the last dispatch or combine, counted at the sender. In
 * the hierarchical form a row that a node passes on inside counts as a row of that node. */
typedef struct gln_traffic {
    int64_t rank_rows;                            /* inside this rank */
    int64_t node_rows;                            /* inside the node */
    int64_t remote_rows;                          /* between nodes */
    int64_t rank_bytes, node_bytes, remote_bytes; /* rows only */
} gln_traffic_t;

/** COLLECTIVE, with the same options on every rank; a failure on one rank is returned on all.
 *  @return GLN_OK; GLN_ERR_ARGUMENT (P, D, R do not fit: the message says which must divide which;
 *          or the hierarchical form is asked for and impossible: it says why);
 *          GLN_ERR_MEMORY. `comm` is borrowed until close. */
gln_status_t gln_exchange_open(gln_comm_t *comm, const gln_exchange_options_t *options,
                               gln_exchange_t **out);
void gln_exchange_close(gln_exchange_t *x); /* COLLECTIVE; takes NULL */

/** "flat" or "hierarchical": the form between nodes; and why, in a few words. The hierarchical form
 * is possible where every group spans several nodes and each of these hosts an aligned power-of-two
 * part of the group's domains, the same on all. Both texts are the same on every rank and live as
 * long as the exchange. */
const char *gln_exchange_form(const gln_exchange_t *x);
/** Why it is this form. */
const char *gln_exchange_form_reason(const gln_exchange_t *x);

/** The path that node peers use: GLN_PATH_SHARED or GLN_PATH_MESSAGES, the same on every rank; and
 * why, the same text on every rank. It lives as long as the exchange. */
gln_exchange_path_t gln_exchange_path(const gln_exchange_t *x);
/** Why it is this path. */
const char *gln_exchange_path_reason(const gln_exchange_t *x);
/** Where received rows lie best: [receive_max, H], owned by the exchange. As `out` of dispatch and
 * `in` of combine it saves a copy on the shared path: peers write into it, and read from it. On the
 * shared path every dispatch and combine may overwrite it whatever buffers it is called with: rows
 * of node peers for another `out`, or of another `in`, pass through it by one copy. Each rank may
 * choose its buffers for itself. Outside the calls it belongs to the caller. */
void *gln_exchange_receive_buffer(gln_exchange_t *x);

/** Bytes that the exchange holds, its receive buffer included. */
size_t gln_exchange_bytes(const gln_exchange_t *x);
/** Rows that this rank can receive at most: D/P * G * rows_max or received_rows_max, the smaller.
 */
int64_t gln_exchange_receive_max(const gln_exchange_t *x);

/** Fix who sends what in this step; exchanges counts and metadata. `send` is borrowed during the
 * call.
 *  @return GLN_OK; GLN_ERR_CAPACITY when a pair or what a rank receives exceeds its bound on any
 * rank (agreed: all ranks return it, no row was sent; the message is at the rank with that pair);
 * GLN_ERR_PEER. */
gln_status_t gln_exchange_plan(gln_exchange_t *x, const gln_exchange_send_t *send,
                               gln_exchange_received_t *received);

/** Send every planned row: start and finish in one. @param in [D/P * T, H] local domains' tokens;
 * @param out [rows_count, H]. */
gln_status_t gln_exchange_dispatch(gln_exchange_t *x, const void *in, void *out);

/** Return one row per received row and sum them per token: over destination domains in the binary
 * tree over the domain's index in its group, absent leaves passing the other side through; every
 * node of the tree rounds to dtype. Tokens without rows get zeros.
 *  @param in [rows_count, H] in received order; @param out [D/P * T, H], overwritten. */
gln_status_t gln_exchange_combine(gln_exchange_t *x, const void *in, void *out);

/* Dispatch and combine in parts, to compute in between. COLLECTIVE each, but a rank may choose
 * parts or the whole for itself. One of them at a time; until it is finished nothing else may be
 * called on the exchange or its communicator but what stands here. `in` and `out` are borrowed
 * until then. On an error it is over, except in progress and near, after which the finish returns
 * the same error.
 *
 * Rows are near or far. Near are the sources gln_exchange_near tells: this rank and the node peers
 * beside it that share memory with it; far ones come by message.
 *
 *     gln_exchange_dispatch_start(x, in, out);  rows that stay on this rank are in `out`
 *     gln_exchange_dispatch_near(x);            so are the near ones; may be left out
 *     ... compute on them, calling gln_exchange_progress now and then ...
 *     gln_exchange_dispatch_finish(x);          all are
 *     ... compute on the far ones ...
 *     gln_exchange_combine_start(x, in, out);   the far ones must be in `in`
 *     ... compute on the near ones, calling gln_exchange_progress now and then ...
 *     gln_exchange_combine_finish(x);           they must be in `in`
 *
 * Far rows can be cut into stages by source rank, so that some are computed, and their results
 * sent, while others are still under way:
 *
 *     gln_exchange_dispatch_start(x, in, out);
 *     gln_exchange_dispatch_await(x, 4, 2);     the rows of sources 4 and 5 are in `out`
 *     ... compute on these ...
 *     gln_exchange_combine_begin(x, in, out);   in place of dispatch_finish and combine_start,
 * waits for near rows; or between those two gln_exchange_combine_send(x, 4, 2);       their results
 * are in `in`
 *     ... the other stages: await, compute, send ...
 *     gln_exchange_combine_finish(x);           all results are in `in`; what was not sent leaves
 *
 * A stage is sources [first, first + count) of the group, all those of the ranks it touches; near
 * ones among them are awaited, and left to the finish in send. A rank may choose any stages in any
 * order for itself. In the hierarchical form the first await of a far source waits for all, and
 * results leave when all were handed over. Where the flights of dispatch and combine overlap,
 * gln_exchange_times counts them as one.
 *
 *  @return as the whole; GLN_ERR_ARGUMENT when something is under way already (start) or the right
 *          thing is not (near, finish, await, send), when a stage cuts a rank in two, when results
 *          are sent twice, or are sent or finished before their rows were awaited. These change
 *          nothing. */
gln_status_t gln_exchange_dispatch_start(gln_exchange_t *x, const void *in, void *out);
/** Wait for the near rows. */
gln_status_t gln_exchange_dispatch_near(gln_exchange_t *x);
/** Wait for all rows. */
gln_status_t gln_exchange_dispatch_finish(gln_exchange_t *x);
/** Begin to send results back. */
gln_status_t gln_exchange_combine_start(gln_exchange_t *x, const void *in, void *out);
/** Wait for all results, and sum them. */
gln_status_t gln_exchange_combine_finish(gln_exchange_t *x);
/** Wait for a stage. */
gln_status_t gln_exchange_dispatch_await(gln_exchange_t *x, int first, int count);
/** Dispatch has been awaited in stages: begin combine, before any result is ready. */
gln_status_t gln_exchange_combine_begin(gln_exchange_t *x, const void *in, void *out);
/** Send the results of a stage. */
gln_status_t gln_exchange_combine_send(gln_exchange_t *x, int first, int count);
/** Move on what is under way; never waits. Without calls messages advance as far as MPI does by
 * itself, which on TCP is what fits the sockets. Does nothing when nothing is under way. */
gln_status_t gln_exchange_progress(gln_exchange_t *x);

/** The near sources, for every local domain: domains [first, first + count) of its group. All G
 * where nothing comes by message. */
void gln_exchange_near(const gln_exchange_t *x, int *first, int *count);

/* Seconds of this rank, over all dispatches and combines since open. */
typedef struct gln_exchange_times {
    double flight_s; /* from the start until the last row was seen to have arrived */
    double hidden_s; /* of it: outside the exchange, computing. The rest was exposed: spent in the
                        exchange's calls, copying or waiting */
} gln_exchange_times_t;
/** The times so far. */
gln_exchange_times_t gln_exchange_times(const gln_exchange_t *x);

/** Return one scalar per received scalar to its source.
 *  @param in  [sum of received scalars] in received order, of type acc(dtype)
 *  @param out [sum of sent scalars] in pair order of the sender */
gln_status_t gln_exchange_scalars(gln_exchange_t *x, const void *in, void *out);

/** Traffic of the last dispatch or combine of this rank. */
gln_traffic_t gln_exchange_traffic(const gln_exchange_t *x);
/** sum += item, field by field. */
void gln_traffic_add(gln_traffic_t *sum, const gln_traffic_t *item);

#ifdef __cplusplus
}
#endif
#endif
