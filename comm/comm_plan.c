/* A world that is only planned: one rank of P, which opens its objects as it would in the job and
 * moves nothing. Every other rank is taken to bring what this one brings, so that agreements end as
 * this rank's own part does. Windows are address space, one part for all ranks of the node. Where
 * links would be measured, those of a common cluster stand in. O(P). */
#include "comm/comm_internal.h"

#include "base/log.h"
#include "base/memory.h"
#include "comm/links.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static gln_status_t plan_barrier(gln_comm_t *comm)
{
    (void)comm;
    return GLN_OK;
}

static gln_status_t plan_broadcast(gln_comm_t *comm, void *data, size_t bytes, int root)
{
    (void)comm, (void)data, (void)bytes, (void)root;
    return GLN_OK;
}

static gln_status_t plan_allgather(gln_comm_t *comm, const void *in, size_t bytes, void *out)
{
    for (int r = 0; r < comm->size; r++)
        memmove((char *)out + (size_t)r * bytes, in, bytes);
    return GLN_OK;
}

static gln_status_t plan_reduce_i64(gln_comm_t *comm, int64_t *values, int count)
{
    (void)comm, (void)values, (void)count;
    return GLN_OK;
}

static gln_status_t moves_nothing(void)
{
    return gln_fail(GLN_ERR_ARGUMENT, "a planned world moves no data between ranks");
}

static gln_status_t plan_alltoall_i32(gln_comm_t *comm, const int32_t *send, int count,
                                      int32_t *receive)
{
    (void)comm, (void)send, (void)count, (void)receive;
    return moves_nothing();
}

static gln_status_t plan_alltoallv(gln_comm_t *comm, const void *send, const int *send_bytes,
                                   const int *send_offset, void *receive, const int *receive_bytes,
                                   const int *receive_offset)
{
    (void)comm, (void)send, (void)send_bytes, (void)send_offset, (void)receive;
    (void)receive_bytes, (void)receive_offset;
    return moves_nothing();
}

static gln_status_t plan_send(gln_comm_t *comm, int peer, const void *data, size_t bytes)
{
    (void)comm, (void)peer, (void)data, (void)bytes;
    return moves_nothing();
}

static gln_status_t plan_receive(gln_comm_t *comm, int peer, void *data, size_t bytes)
{
    (void)comm, (void)peer, (void)data, (void)bytes;
    return moves_nothing();
}

static gln_status_t plan_test(gln_comm_t *comm, int *done)
{
    (void)comm;
    *done = 1; /* nothing is ever started */
    return GLN_OK;
}

static gln_status_t plan_settled(gln_comm_t *comm, int peer, int batch, int incoming, int *done)
{
    (void)peer, (void)batch, (void)incoming;
    return plan_test(comm, done);
}

typedef struct plan_window {
    void *memory;
    size_t bytes;
} plan_window_t;

static gln_status_t plan_window_open(gln_comm_t *comm, size_t bytes, void **bases, void **handle)
{
    plan_window_t *w = malloc(sizeof *w);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!w || memory == MAP_FAILED) {
        free(w);
        if (memory != MAP_FAILED) munmap(memory, bytes);
        return gln_fail(GLN_ERR_MEMORY, "cannot reserve a window of %zu bytes", bytes);
    }
    *w = (plan_window_t){memory, bytes};
    for (int r = 0; r < comm->size; r++)
        if (comm->nodes[r] == comm->nodes[comm->rank]) bases[r] = memory;
    *handle = w;
    return GLN_OK;
}

static void plan_window_close(gln_comm_t *comm, void *handle)
{
    plan_window_t *w = handle;
    (void)comm;
    munmap(w->memory, w->bytes);
    free(w);
}

static int64_t plan_window_room(gln_comm_t *comm, char *where, size_t where_size)
{
    (void)comm, (void)where, (void)where_size;
    return -1; /* that of another machine cannot be known */
}

/* Who else has this color cannot be known. Replicas hold no memory of their own. */
static gln_status_t plan_split(gln_comm_t *comm, int color, gln_comm_t **out)
{
    (void)comm, (void)color;
    return gln_comm_open_self(out);
}

static void __attribute__((noreturn)) plan_abort(gln_comm_t *comm, int exit_status)
{
    (void)comm;
    _Exit(exit_status);
}

static void plan_close(gln_comm_t *comm)
{
    free(comm);
}

static const gln_comm_ops_t plan_ops = {
    .name = "plan",
    .barrier = plan_barrier,
    .broadcast = plan_broadcast,
    .allgather = plan_allgather,
    .alltoall_i32 = plan_alltoall_i32,
    .alltoallv = plan_alltoallv,
    .sum_i64 = plan_reduce_i64,
    .max_i64 = plan_reduce_i64,
    .send = plan_send,
    .receive = plan_receive,
    .wait = plan_barrier,
    .test = plan_test,
    .settled = plan_settled,
    .window_open = plan_window_open,
    .window_close = plan_window_close,
    .window_room = plan_window_room,
    .split = plan_split,
    .abort = plan_abort,
    .close = plan_close,
};

/* 1 us and 5 GB/s inside a node, 10 us and 2.5 GB/s (25 Gbit/s) between nodes. */
static gln_links_t *links_assumed(int nodes, int per_node)
{
    gln_links_t *links = calloc(1, sizeof *links);
    if (!links) return NULL;
    for (int i = 0; i < GLN_LINKS_POINTS; i++) {
        double messages = gln_links_messages[i], bytes = messages * (double)gln_links_bytes[i];
        links->inside.seconds[i] = 1e-6 + (messages - 1) * 0.3e-6 + bytes * 2e-10;
        links->between.seconds[i] = 10e-6 + (messages - 1) * 2e-6 + bytes * 4e-10;
    }
    links->inside.points = per_node > 1 ? GLN_LINKS_POINTS : 0;
    links->between.points = nodes > 1 ? GLN_LINKS_POINTS : 0;
    if (per_node > 1) gln_link_fit(&links->inside);
    if (nodes > 1) gln_link_fit(&links->between);
    links->copy_byte = 2e-10;
    return links;
}

gln_status_t gln_comm_open_plan(int rank, int ranks, int ranks_per_node, gln_comm_t **out)
{
    if (!out || ranks < 1 || rank < 0 || rank >= ranks || ranks_per_node < 1)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "a planned world: expected a rank below the ranks and at least one a node, "
                        "found rank %d of %d, %d a node",
                        rank, ranks, ranks_per_node);
    gln_comm_t *comm = calloc(1, sizeof *comm);
    int *nodes = calloc((size_t)ranks, sizeof *nodes);
    gln_links_t *links =
        links_assumed((ranks + ranks_per_node - 1) / ranks_per_node, ranks_per_node);
    if (!comm || !nodes || !links) {
        free(comm);
        free(nodes);
        free(links);
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate a planned world of %d ranks", ranks);
    }
    for (int r = 0; r < ranks; r++)
        nodes[r] = r / ranks_per_node;
    gln_comm_set_up(comm, &plan_ops, rank, ranks, nodes);
    comm->links = links;
    *out = comm;
    return GLN_OK;
}
