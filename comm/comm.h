/* Ranks and the few collectives that gleaner needs, behind an ops table. The MPI backend is
 * comm_mpi.c; a world of one rank without MPI is comm_self.c.
 *
 * COLLECTIVE means: every rank of the communicator calls it, in the same order. Every rank enters
 * every collective also with nothing to send. One caller per communicator at a time (the thread
 * that opened it: MPI runs as MPI_THREAD_FUNNELED). A failing MPI call is reported and returns
 * GLN_ERR_PEER. */
#ifndef GLN_COMM_COMM_H
#define GLN_COMM_COMM_H

#include "base/status.h"
#include "base/tensor.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ranks that talk to each other. */
typedef struct gln_comm gln_comm_t;

/** Join the MPI job (initialises MPI if nobody has) and duplicate MPI_COMM_WORLD. Works without
 * mpirun as a world of one. COLLECTIVE over the job. */
gln_status_t gln_comm_open_world(gln_comm_t **out);
/** Duplicate the caller's communicator. @param mpi_comm address of an MPI_Comm; MPI is initialised
 *  already and stays the caller's. COLLECTIVE over it. */
gln_status_t gln_comm_open_mpi(const void *mpi_comm, gln_comm_t **out);
/** A world of one rank; touches no MPI. */
gln_status_t gln_comm_open_self(gln_comm_t **out);
/** Rank `rank` of a world of `ranks` that is only planned, `ranks_per_node` consecutive ones a
 * node: objects can be opened on it, to learn their sizes, and no data be moved. Touches no MPI.
 * Where a choice hangs on measured links, links of 2.5 GB/s between nodes are assumed. */
gln_status_t gln_comm_open_plan(int rank, int ranks, int ranks_per_node, gln_comm_t **out);
/** Ranks with the same `color`, ordered by rank here. COLLECTIVE over `parent`. */
gln_status_t gln_comm_split(gln_comm_t *parent, int color, gln_comm_t **out);
/** COLLECTIVE. Takes NULL. Finalises MPI if gln_comm_open_world initialised it and this is that
 * one. */
void gln_comm_close(gln_comm_t *comm);

/** This rank, from 0. */
int gln_comm_rank(const gln_comm_t *comm);
/** Ranks. */
int gln_comm_size(const gln_comm_t *comm);
/** Index of the node (ranks that share memory) that `rank` lives on, numbered by lowest rank. */
int gln_comm_node_of(const gln_comm_t *comm, int rank);
/** Nodes that the ranks live on. */
int gln_comm_nodes_count(const gln_comm_t *comm);

/** End the whole job at once with this exit status; for errors that cannot be agreed upon. */
void gln_comm_abort(gln_comm_t *comm, int exit_status) __attribute__((noreturn));

/** From now on a rank that waits longer than this for another one reports who is missing, by rank,
 * host and process, and returns GLN_ERR_PEER, at most a second later; where a process of the same
 * node is gone, at once. The communicator is good for abort and close then. 0 (so it begins):
 * wait for ever. Communicators split from this one afterwards inherit it. LOCAL; the same on all
 * ranks. Inside MPI itself (MPI_Init, the making of communicators) there is no such bound: see
 * gln_comm_set_guard. */
void gln_comm_set_timeout(gln_comm_t *comm, int64_t timeout_ms);
/** Where the program is, for messages about ranks that do not arrive. */
typedef struct gln_comm_place {
    const char *operation;  /* static storage; NULL: the collective's own name */
    const char *collective; /* in which this rank waits, static storage; NULL: in none */
    int layer;              /* -1: none */
    int64_t step;           /* 0: none */
} gln_comm_place_t;
/** What the program around can do where comm/ cannot. Bounds MPI's own making and freeing of
 * communicators and windows, where no wait can be ended: `begin` is called before it, `end` after
 * it, on the thread that calls MPI. */
typedef struct gln_comm_guard {
    void (*begin)(void *ctx, const char *operation, int64_t timeout_ms); /* before */
    void (*end)(void *ctx);                                              /* after */
    /* signals caught so far by which a daemon ends its ranks (SIGCONT, SIGTERM); NULL: not known */
    int (*signals)(void *ctx);
    /* where communicators opened from now on keep their place, for others to see; NULL: inside */
    gln_comm_place_t *place;
    void *ctx; /* handed to the functions */
} gln_comm_guard_t;
/** When a wait for other ranks has ended well in this process last, a sign that they live:
 * nanoseconds of CLOCK_MONOTONIC_COARSE; 0: never. May be called by a signal handler. */
int64_t gln_comm_met_ns(void);
/** Process-wide; copied. NULL (so it begins): none. Not called where the timeout is 0. */
void gln_comm_set_guard(const gln_comm_guard_t *guard);
/** What these messages say about the place: operation (static storage; NULL: the collective's own
 * name) and layer (-1: none). Shared with all communicators split from this one. LOCAL, cheap. */
void gln_comm_set_place(gln_comm_t *comm, const char *operation, int layer);
/** Likewise the optimizer step that is under way, from 1; 0: none. */
void gln_comm_set_step(gln_comm_t *comm, int64_t step);

/** Wait until every rank is here. COLLECTIVE. */
gln_status_t gln_comm_barrier(gln_comm_t *comm);
/** `bytes` bytes of rank `root` to all. COLLECTIVE. */
gln_status_t gln_comm_broadcast(gln_comm_t *comm, void *data, size_t bytes, int root);
/** Every rank's `bytes` bytes, in rank order, into `out` [P * bytes]. */
gln_status_t gln_comm_allgather(gln_comm_t *comm, const void *in, size_t bytes, void *out);
/** Agree on a status: returns, on every rank, the largest status any rank brought, and in *rank the
 *  lowest rank that brought it. So that all ranks leave together, and one of them speaks.
 * COLLECTIVE. */
gln_status_t gln_comm_agree(gln_comm_t *comm, gln_status_t mine, int *rank);

/** Blocks of bytes to every rank: block i is send_bytes[i] long, blocks lie in rank order without
 * gaps; likewise received. Counts are [P], own block included. COLLECTIVE; zero bytes are ordinary.
 */
gln_status_t gln_comm_alltoallv(gln_comm_t *comm, const void *send, const size_t *send_bytes,
                                void *receive, const size_t *receive_bytes);
/** The same by the library's own collective (MPI_Alltoallv), for comparison: less than 2 GiB in
 * all, allocates its counts. COLLECTIVE.
 *  @return GLN_OK; GLN_ERR_ARGUMENT: 2 GiB or more; GLN_ERR_MEMORY; GLN_ERR_PEER. */
gln_status_t gln_comm_library_alltoallv(gln_comm_t *comm, const void *send,
                                        const size_t *send_bytes, void *receive,
                                        const size_t *receive_bytes);
/** One int32 block of `count` to each rank: send [P, count], receive [P, count]. COLLECTIVE. */
gln_status_t gln_comm_alltoall_i32(gln_comm_t *comm, const int32_t *send, int count,
                                   int32_t *receive);

/** Sum over leaves with a fixed shape: a binary tree over the leaf index, in which the node of
 * level s over leaves [i*2^s, (i+1)*2^s) adds its left and its right child, and an absent child
 * passes the other through. Rank r holds the leaves [r*local, (r+1)*local). The result depends on
 * the leaves alone, not on how many ranks hold them, bit for bit, for any P and any `local`.
 *  @param parts  [local] arrays of n elements; overwritten; parts[0] receives the sum on every rank
 *  @param dtype  F32 or F64
 *  COLLECTIVE. Allocates nothing after the first call with this n or a larger one. */
gln_status_t gln_comm_tree_sum(gln_comm_t *comm, void *const *parts, int local, int64_t n,
                               gln_dtype_t dtype);
/** Bytes of scratch that the communicator grows to for a sum of n elements over several ranks. */
size_t gln_comm_tree_scratch(int64_t n, gln_dtype_t dtype);
/** Exact sum of integers, any order. In place. COLLECTIVE. */
gln_status_t gln_comm_sum_i64(gln_comm_t *comm, int64_t *values, int count);

#ifdef __cplusplus
}
#endif
#endif
