/* The face of the communicator: checks arguments, and builds on a backend's table what all backends
 * share: agreement, blocks longer than a message, all-to-all of blocks of any size. Blocks go
 * directly from rank to rank, each rank beginning with its right-hand neighbour, so that no rank is
 * the target of all others at the same moment: P - 1 messages per rank. */
#include "comm/comm_internal.h"

#include "base/log.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

void gln_comm_set_up(gln_comm_t *comm, const gln_comm_ops_t *ops, int rank, int size, int *nodes)
{
    comm->ops = ops;
    comm->rank = rank;
    comm->size = size;
    comm->nodes = nodes;
    comm->nodes_count = 0;
    for (int r = 0; r < size; r++)
        if (nodes[r] >= comm->nodes_count) comm->nodes_count = nodes[r] + 1;
    comm->chunk_bytes = GLN_COMM_CHUNK_BYTES;
    comm->tree_chunk_bytes = GLN_COMM_TREE_CHUNK_BYTES;
    comm->tree_small_bytes = GLN_COMM_TREE_SMALL_BYTES;
    comm->scratch = NULL;
    comm->scratch_bytes = 0;
    comm->timeout_ms = 0;
    comm->collective = "start";
    comm->given_up = 0;
    comm->roster = NULL;
    comm->roster_rank = NULL;
    comm->own_place = (gln_comm_place_t){.layer = -1};
    comm->place = &comm->own_place;
    comm->links = NULL;
    comm->window_noticed = 0;
}

void gln_comm_set_nodes(gln_comm_t *comm, const int *nodes, int count)
{
    GLN_ASSERT(comm && nodes && count > 0);
    for (int r = 0; r < comm->size; r++)
        GLN_ASSERT(nodes[r] >= 0 && nodes[r] < count);
    memcpy(comm->nodes, nodes, (size_t)comm->size * sizeof *comm->nodes);
    comm->nodes_count = count;
    free(comm->links); /* measured for other neighbours */
    comm->links = NULL;
}

gln_status_t gln_comm_scratch(gln_comm_t *comm, size_t bytes)
{
    if (bytes <= comm->scratch_bytes) return GLN_OK;
    gln_status_t status = GLN_OK;
    void *grown = NULL;
    if (posix_memalign(&grown, 64, bytes) != 0) {
        grown = NULL;
        status = gln_fail(GLN_ERR_MEMORY, "cannot allocate %zu bytes for sums over ranks", bytes);
    } else {
        memset(grown, 0, bytes); /* its pages are taken now */
    }
    status = gln_comm_agree(comm, status, NULL);
    if (status != GLN_OK) {
        free(grown);
        return status;
    }
    gln_memory_note(GLN_MEMORY_SCRATCH, (int64_t)bytes - (int64_t)comm->scratch_bytes);
    free(comm->scratch);
    comm->scratch = grown;
    comm->scratch_bytes = bytes;
    return GLN_OK;
}

static gln_status_t no_comm(const char *function)
{
    return gln_fail(GLN_ERR_ARGUMENT, "%s: expected a communicator, found NULL", function);
}

static gln_status_t no_data(const char *function, size_t bytes)
{
    return gln_fail(GLN_ERR_ARGUMENT, "%s: expected %zu bytes, found NULL", function, bytes);
}

void gln_comm_close(gln_comm_t *comm)
{
    if (!comm) return;
    gln_memory_note(GLN_MEMORY_SCRATCH, -(int64_t)comm->scratch_bytes);
    free(comm->scratch);
    free(comm->nodes);
    free(comm->links);
    comm->links = NULL;
    comm->scratch = NULL;
    comm->nodes = NULL;
    comm->ops->close(comm);
}

int gln_comm_rank(const gln_comm_t *comm)
{
    GLN_ASSERT(comm);
    return comm->rank;
}

int gln_comm_size(const gln_comm_t *comm)
{
    GLN_ASSERT(comm);
    return comm->size;
}

int gln_comm_node_of(const gln_comm_t *comm, int rank)
{
    GLN_ASSERT(comm && rank >= 0 && rank < comm->size);
    return comm->nodes[rank];
}

int gln_comm_nodes_count(const gln_comm_t *comm)
{
    GLN_ASSERT(comm);
    return comm->nodes_count;
}

void gln_comm_set_timeout(gln_comm_t *comm, int64_t timeout_ms)
{
    GLN_ASSERT(comm && timeout_ms >= 0);
    comm->timeout_ms = timeout_ms;
}

void gln_comm_set_place(gln_comm_t *comm, const char *operation, int layer)
{
    GLN_ASSERT(comm);
    comm->place->operation = operation;
    comm->place->layer = layer;
}

void gln_comm_set_step(gln_comm_t *comm, int64_t step)
{
    GLN_ASSERT(comm);
    comm->place->step = step;
}

void gln_comm_abort(gln_comm_t *comm, int exit_status)
{
    if (!comm) _Exit(exit_status);
    comm->ops->abort(comm, exit_status);
}

gln_status_t gln_comm_split(gln_comm_t *parent, int color, gln_comm_t **out)
{
    if (!parent) return no_comm("gln_comm_split");
    if (!out) return no_data("gln_comm_split", sizeof *out);
    if (color < 0)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_split: expected a color >= 0, found %d", color);
    return parent->ops->split(parent, color, out);
}

gln_status_t gln_comm_barrier(gln_comm_t *comm)
{
    return comm ? comm->ops->barrier(comm) : no_comm("gln_comm_barrier");
}

gln_status_t gln_comm_broadcast(gln_comm_t *comm, void *data, size_t bytes, int root)
{
    if (!comm) return no_comm("gln_comm_broadcast");
    if (root < 0 || root >= comm->size)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_broadcast: expected a root below %d, found %d",
                        comm->size, root);
    if (bytes == 0) return GLN_OK;
    if (!data) return no_data("gln_comm_broadcast", bytes);
    return comm->ops->broadcast(comm, data, bytes, root);
}

gln_status_t gln_comm_agree(gln_comm_t *comm, gln_status_t mine, int *rank)
{
    if (!comm) return no_comm("gln_comm_agree");
    GLN_ASSERT(mine >= GLN_OK && mine < GLN_STATUS_COUNT);
    /* the largest status wins; among its ranks the lowest, which has the largest complement */
    int64_t key = (int64_t)mine * comm->size + (comm->size - 1 - comm->rank);
    gln_status_t status = comm->ops->max_i64(comm, &key, 1);
    if (status != GLN_OK) return status;
    if (rank) *rank = comm->size - 1 - (int)(key % comm->size);
    return (gln_status_t)(key / comm->size);
}

/* Own block by memcpy, every other one directly; send_bytes[i] bytes lie at send + offset. */
static gln_status_t blocks_move(gln_comm_t *comm, const char *send, const size_t *send_bytes,
                                char *receive, const size_t *receive_bytes)
{
    const gln_comm_ops_t *ops = comm->ops;
    int me = comm->rank, size = comm->size;
    size_t own_send = 0, own_receive = 0;
    for (int r = 0; r < me; r++) {
        own_send += send_bytes[r];
        own_receive += receive_bytes[r];
    }
    size_t receive_total = own_receive;
    for (int r = me; r < size; r++)
        receive_total += receive_bytes[r];
    /* receives walk down from this rank, sends up from it: both sides meet in the same round */
    size_t at = own_receive;
    for (int step = 1; step < size; step++) {
        int peer = (me - step + size) % size;
        at = (peer == size - 1 ? receive_total : at) - receive_bytes[peer];
        if (receive_bytes[peer] == 0) continue;
        gln_status_t status = ops->receive(comm, peer, receive + at, receive_bytes[peer]);
        if (status != GLN_OK) return status;
    }
    at = own_send + send_bytes[me];
    for (int step = 1; step < size; step++) {
        int peer = (me + step) % size;
        if (peer == 0) at = 0;
        if (send_bytes[peer] > 0) {
            gln_status_t status = ops->send(comm, peer, send + at, send_bytes[peer]);
            if (status != GLN_OK) return status;
        }
        at += send_bytes[peer];
    }
    if (send_bytes[me] > 0) memcpy(receive + own_receive, send + own_send, send_bytes[me]);
    return ops->wait(comm);
}

gln_status_t gln_comm_alltoallv(gln_comm_t *comm, const void *send, const size_t *send_bytes,
                                void *receive, const size_t *receive_bytes)
{
    if (!comm) return no_comm("gln_comm_alltoallv");
    if (!send_bytes || !receive_bytes)
        return no_data("gln_comm_alltoallv", (size_t)comm->size * sizeof(size_t));
    size_t sent = 0, received = 0;
    for (int r = 0; r < comm->size; r++) {
        sent += send_bytes[r];
        received += receive_bytes[r];
    }
    if (sent > 0 && !send) return no_data("gln_comm_alltoallv", sent);
    if (received > 0 && !receive) return no_data("gln_comm_alltoallv", received);
    if (send_bytes[comm->rank] != receive_bytes[comm->rank])
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "gln_comm_alltoallv: own block is sent with %zu bytes and received with %zu",
            send_bytes[comm->rank], receive_bytes[comm->rank]);
    return blocks_move(comm, send, send_bytes, receive, receive_bytes);
}

gln_status_t gln_comm_library_alltoallv(gln_comm_t *comm, const void *send,
                                        const size_t *send_bytes, void *receive,
                                        const size_t *receive_bytes)
{
    if (!comm) return no_comm("gln_comm_library_alltoallv");
    if (!send_bytes || !receive_bytes)
        return no_data("gln_comm_library_alltoallv", (size_t)comm->size * sizeof(size_t));
    size_t size = (size_t)comm->size, sent = 0, received = 0;
    for (size_t r = 0; r < size; r++) {
        sent += send_bytes[r];
        received += receive_bytes[r];
    }
    gln_status_t status = GLN_OK;
    int *counts = malloc(4 * size * sizeof *counts);
    if (sent > INT32_MAX || received > INT32_MAX)
        status = gln_fail(GLN_ERR_ARGUMENT,
                          "gln_comm_library_alltoallv: expected less than 2 GiB, found %zu bytes",
                          sent > received ? sent : received);
    else if (!counts)
        status = gln_fail(GLN_ERR_MEMORY, "cannot allocate the counts of %zu ranks", size);
    status = gln_comm_agree(comm, status, NULL);
    int at[2] = {0, 0};
    for (size_t r = 0; r < size && status == GLN_OK; r++) {
        counts[r] = (int)send_bytes[r];
        counts[size + r] = at[0];
        counts[2 * size + r] = (int)receive_bytes[r];
        counts[3 * size + r] = at[1];
        at[0] += counts[r];
        at[1] += counts[2 * size + r];
    }
    if (status == GLN_OK)
        status = comm->ops->alltoallv(comm, send, counts, counts + size, receive, counts + 2 * size,
                                      counts + 3 * size);
    free(counts);
    return status;
}

/* A block too long for one message goes to every rank piece by piece. */
static gln_status_t allgather_long(gln_comm_t *comm, const void *in, size_t bytes, char *out)
{
    const gln_comm_ops_t *ops = comm->ops;
    int me = comm->rank, size = comm->size;
    for (int step = 1; step < size; step++) {
        int peer = (me - step + size) % size;
        gln_status_t status = ops->receive(comm, peer, out + (size_t)peer * bytes, bytes);
        if (status != GLN_OK) return status;
    }
    for (int step = 1; step < size; step++) {
        gln_status_t status = ops->send(comm, (me + step) % size, in, bytes);
        if (status != GLN_OK) return status;
    }
    memcpy(out + (size_t)me * bytes, in, bytes);
    return ops->wait(comm);
}

gln_status_t gln_comm_allgather(gln_comm_t *comm, const void *in, size_t bytes, void *out)
{
    if (!comm) return no_comm("gln_comm_allgather");
    if (bytes == 0) return GLN_OK;
    if (!in || !out) return no_data("gln_comm_allgather", bytes);
    if (bytes > comm->chunk_bytes) return allgather_long(comm, in, bytes, out);
    return comm->ops->allgather(comm, in, bytes, out);
}

gln_status_t gln_comm_alltoall_i32(gln_comm_t *comm, const int32_t *send, int count,
                                   int32_t *receive)
{
    if (!comm) return no_comm("gln_comm_alltoall_i32");
    if (count < 0)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_alltoall_i32: expected a count >= 0, found %d",
                        count);
    if (count == 0) return GLN_OK;
    if (!send || !receive)
        return no_data("gln_comm_alltoall_i32", (size_t)count * (size_t)comm->size * 4);
    return comm->ops->alltoall_i32(comm, send, count, receive);
}

gln_status_t gln_comm_sum_i64(gln_comm_t *comm, int64_t *values, int count)
{
    if (!comm) return no_comm("gln_comm_sum_i64");
    if (count < 0)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_sum_i64: expected a count >= 0, found %d",
                        count);
    if (count == 0) return GLN_OK;
    if (!values) return no_data("gln_comm_sum_i64", (size_t)count * 8);
    return comm->ops->sum_i64(comm, values, count);
}
