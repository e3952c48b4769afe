/* Inside of a communicator, for the files of comm/ and their tests. A backend embeds gln_comm_t as
 * its first member and fills every slot of the table. Arguments were checked by comm.c. */
#ifndef GLN_COMM_COMM_INTERNAL_H
#define GLN_COMM_COMM_INTERNAL_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_comm_ops {
    const char *name;
    gln_status_t (*barrier)(gln_comm_t *comm);
    gln_status_t (*broadcast)(gln_comm_t *comm, void *data, size_t bytes, int root);
    /* bytes <= chunk_bytes; longer blocks go through send and receive */
    gln_status_t (*allgather)(gln_comm_t *comm, const void *in, size_t bytes, void *out);
    gln_status_t (*alltoall_i32)(gln_comm_t *comm, const int32_t *send, int count,
                                 int32_t *receive);
    gln_status_t (*sum_i64)(gln_comm_t *comm, int64_t *values, int count);
    gln_status_t (*max_i64)(gln_comm_t *comm, int64_t *values, int count);
    /* counts and offsets are [P] bytes */
    gln_status_t (*alltoallv)(gln_comm_t *comm, const void *send, const int *send_bytes,
                              const int *send_offset, void *receive, const int *receive_bytes,
                              const int *receive_offset);
    /* Start moving `bytes` > 0 bytes to or from another rank. Messages between two ranks match in
     * the order in which they were started. `data` is borrowed until wait. On error everything that
     * was started is given up. */
    gln_status_t (*send)(gln_comm_t *comm, int peer, const void *data, size_t bytes);
    gln_status_t (*receive)(gln_comm_t *comm, int peer, void *data, size_t bytes);
    gln_status_t (*wait)(gln_comm_t *comm); /* for all that was started */
    /* *done: has all that was started arrived? Moves it on, never waits; wait may still follow. */
    gln_status_t (*test)(gln_comm_t *comm, int *done);
    /* The same for what was started under comm->batch = `batch` from (incoming) or to one peer. */
    gln_status_t (*settled)(gln_comm_t *comm, int peer, int batch, int incoming, int *done);
    /* Memory of `bytes` that the ranks of this node (comm->nodes) share: bases[r], for every rank r
     * of the node, is the start of that rank's part here. COLLECTIVE. */
    gln_status_t (*window_open)(gln_comm_t *comm, size_t bytes, void **bases, void **handle);
    void (*window_close)(gln_comm_t *comm, void *handle); /* COLLECTIVE */
    /* Bytes that the memory for windows of this node still holds, and what it is called; -1: cannot
     * be known. LOCAL. */
    int64_t (*window_room)(gln_comm_t *comm, char *where, size_t where_size);
    gln_status_t (*split)(gln_comm_t *comm, int color, gln_comm_t **out);
    void (*abort)(gln_comm_t *comm, int exit_status) __attribute__((noreturn));
    void (*close)(gln_comm_t *comm);
} gln_comm_ops_t;

typedef struct gln_roster gln_roster_t; /* roster_internal.h */

struct gln_comm {
    const gln_comm_ops_t *ops;
    int rank, size;
    int *nodes; /* [P] node of every rank */
    int nodes_count;
    size_t chunk_bytes;      /* longest single message; tests make it small */
    size_t tree_chunk_bytes; /* tree sum: elements are worked off in chunks of this size */
    size_t tree_small_bytes; /* tree sum: recursive doubling up to here */
    void *scratch;           /* grown by gln_comm_scratch */
    size_t scratch_bytes;
    int64_t timeout_ms;      /* 0: waits have no end */
    const char *collective;  /* that this rank entered last */
    int given_up;            /* a wait was: good for abort and close only */
    int batch;               /* 0 or 1, noted with messages that are started; see ops->settled */
    gln_roster_t *roster;    /* of the job; NULL: there is nobody to miss */
    const int *roster_rank;  /* [P] rank in the roster of every rank here; NULL: the same */
    gln_comm_place_t *place; /* the roster's, else own_place */
    gln_comm_place_t own_place;
    struct gln_links *links; /* links.h; NULL until asked for */
    int window_noticed;      /* it was said that windows cannot be had */
};

#define GLN_COMM_CHUNK_BYTES ((size_t)1 << 30)      /* MPI counts are int */
#define GLN_COMM_TREE_CHUNK_BYTES ((size_t)4 << 20) /* also the scratch */
#define GLN_COMM_TREE_SMALL_BYTES ((size_t)16 << 10)

/** Fill the fields that every backend shares. */
void gln_comm_set_up(gln_comm_t *comm, const gln_comm_ops_t *ops, int rank, int size, int *nodes);

/** Pretend that rank r lives on node nodes[r] < count, the same on every rank: before anything is
 * opened on the communicator, for tests of what happens between nodes. */
void gln_comm_set_nodes(gln_comm_t *comm, const int *nodes, int count);
/* A wait that polls. No slower than one that does not: the clock is read every 16th poll.
 *
 *     gln_wait_t wait;
 *     gln_wait_begin(comm, "barrier", &wait);
 *     while (!done())
 *         if (gln_wait_over(&wait)) return gln_comm_late(comm, ranks, count);
 *     gln_wait_end(comm);
 */
typedef struct gln_wait {
    gln_comm_t *comm;
    int64_t now_ns, end_ns, look_ns, ask_ns; /* 0 until the clock is read first */
    uint32_t polls;
} gln_wait_t;

/** This rank waits now, and the others can see it. @param collective static storage */
void gln_wait_begin(gln_comm_t *comm, const char *collective, gln_wait_t *wait);
void gln_wait_end(gln_comm_t *comm);
/** The rare part of gln_wait_over. */
int gln_wait_look(gln_wait_t *wait);
/** 1: the time is over, or a rank is found to be gone. Never with timeout_ms = 0. */
static inline int gln_wait_over(gln_wait_t *wait)
{
    return (++wait->polls & 15u) == 0 && gln_wait_look(wait);
}

/** Around a call of MPI that waits without an end. */
void gln_comm_guard_begin(const gln_comm_t *comm, const char *operation);
void gln_comm_guard_end(const gln_comm_t *comm);
/** Signals so far that tell of the end of the job. */
int gln_comm_guard_signals(void);
/** NULL: none is given. */
gln_comm_place_t *gln_comm_guard_place(void);

/** Find out who is missing and report it. To be called inside a wait that is over; the communicator
 * is given up then.
 *  @param ranks  [count] ranks of `comm` that this one waits for; NULL, 0: all
 *  @return GLN_ERR_PEER */
gln_status_t gln_comm_late(gln_comm_t *comm, const int *ranks, int count);

/** Make comm->scratch hold `bytes`, on every rank or on none. COLLECTIVE, same `bytes` everywhere.
 */
gln_status_t gln_comm_scratch(gln_comm_t *comm, size_t bytes);

/** out = lower + upper, n elements, rounded to dtype. `out` may be either operand, no other
 * overlap. */
void gln_comm_add(const void *lower, const void *upper, int64_t n, gln_dtype_t dtype, void *out);

#ifdef __cplusplus
}
#endif
#endif
