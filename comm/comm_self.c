/* A world of one rank that touches no MPI: every collective is a copy or nothing. */
#include "comm/comm_internal.h"

#include "base/log.h"
#include <stdlib.h>
#include <string.h>

static gln_status_t self_barrier(gln_comm_t *comm)
{
    (void)comm;
    return GLN_OK;
}

static gln_status_t self_broadcast(gln_comm_t *comm, void *data, size_t bytes, int root)
{
    (void)comm, (void)data, (void)bytes, (void)root;
    return GLN_OK;
}

static gln_status_t self_allgather(gln_comm_t *comm, const void *in, size_t bytes, void *out)
{
    (void)comm;
    memmove(out, in, bytes);
    return GLN_OK;
}

static gln_status_t self_alltoall_i32(gln_comm_t *comm, const int32_t *send, int count,
                                      int32_t *receive)
{
    (void)comm;
    memmove(receive, send, (size_t)count * sizeof *send);
    return GLN_OK;
}

static gln_status_t self_alltoallv(gln_comm_t *comm, const void *send, const int *send_bytes,
                                   const int *send_offset, void *receive, const int *receive_bytes,
                                   const int *receive_offset)
{
    (void)comm, (void)send_offset, (void)receive_bytes, (void)receive_offset;
    if (send_bytes[0] > 0) memmove(receive, send, (size_t)send_bytes[0]);
    return GLN_OK;
}

static gln_status_t self_reduce_i64(gln_comm_t *comm, int64_t *values, int count)
{
    (void)comm, (void)values, (void)count;
    return GLN_OK;
}

/* There is no other rank, so nobody can ask for these two. */
static gln_status_t self_send(gln_comm_t *comm, int peer, const void *data, size_t bytes)
{
    (void)comm, (void)data, (void)bytes;
    return gln_fail(GLN_ERR_ARGUMENT, "a world of one rank cannot send to rank %d", peer);
}

static gln_status_t self_receive(gln_comm_t *comm, int peer, void *data, size_t bytes)
{
    (void)comm, (void)data, (void)bytes;
    return gln_fail(GLN_ERR_ARGUMENT, "a world of one rank cannot receive from rank %d", peer);
}

static gln_status_t self_test(gln_comm_t *comm, int *done)
{
    (void)comm;
    *done = 1; /* nothing is ever started */
    return GLN_OK;
}

static gln_status_t self_settled(gln_comm_t *comm, int peer, int batch, int incoming, int *done)
{
    (void)peer, (void)batch, (void)incoming;
    return self_test(comm, done);
}

static gln_status_t self_window_open(gln_comm_t *comm, size_t bytes, void **bases, void **handle)
{
    (void)comm;
    if (posix_memalign(handle, 64, bytes) != 0) {
        *handle = NULL;
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate a window of %zu bytes", bytes);
    }
    bases[0] = *handle;
    return GLN_OK;
}

static void self_window_close(gln_comm_t *comm, void *handle)
{
    (void)comm;
    free(handle);
}

static int64_t self_window_room(gln_comm_t *comm, char *where, size_t where_size)
{
    (void)comm, (void)where, (void)where_size;
    return -1; /* plain memory */
}

static gln_status_t self_split(gln_comm_t *comm, int color, gln_comm_t **out)
{
    (void)comm, (void)color;
    return gln_comm_open_self(out);
}

static void __attribute__((noreturn)) self_abort(gln_comm_t *comm, int exit_status)
{
    (void)comm;
    _Exit(exit_status);
}

static void self_close(gln_comm_t *comm)
{
    free(comm);
}

static const gln_comm_ops_t self_ops = {
    .name = "self",
    .barrier = self_barrier,
    .broadcast = self_broadcast,
    .allgather = self_allgather,
    .alltoall_i32 = self_alltoall_i32,
    .alltoallv = self_alltoallv,
    .sum_i64 = self_reduce_i64,
    .max_i64 = self_reduce_i64,
    .send = self_send,
    .receive = self_receive,
    .wait = self_barrier,
    .test = self_test,
    .settled = self_settled,
    .window_open = self_window_open,
    .window_close = self_window_close,
    .window_room = self_window_room,
    .split = self_split,
    .abort = self_abort,
    .close = self_close,
};

gln_status_t gln_comm_open_self(gln_comm_t **out)
{
    if (!out)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_open_self: expected an address, found NULL");
    gln_comm_t *comm = calloc(1, sizeof *comm);
    int *nodes = calloc(1, sizeof *nodes);
    if (!comm || !nodes) {
        free(comm);
        free(nodes);
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate a communicator");
    }
    gln_comm_set_up(comm, &self_ops, 0, 1, nodes);
    *out = comm;
    return GLN_OK;
}
