/* The MPI backend. Every communicator is a duplicate of its own, so that our messages never meet
 * the caller's. MPI counts are int: longer transfers are cut into chunks, which match because
 * messages between two ranks keep their order. Messages in flight stand in one list per
 * communicator that grows to the largest number ever needed. Nodes are found once per communicator
 * with MPI_Comm_split_type.
 *
 * Every wait polls a request, so that it can end when a rank does not arrive (late.c); MPI's own
 * progress runs in the polls. After such an end what was begun stays with MPI, buffers included:
 * nothing more is done on that communicator. */
#include "comm/roster_internal.h"

#include "base/log.h"
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

typedef struct mpi_comm {
    gln_comm_t base;
    MPI_Comm comm;
    MPI_Request *requests; /* [capacity] in flight */
    MPI_Status *statuses;  /* [capacity] */
    int *peers;            /* [capacity] rank at the other end, for messages */
    int *kinds;            /* [capacity] kind_of */
    int count, capacity;
    int finalizes;    /* this one initialised MPI */
    int *world_ranks; /* [P] base.roster_rank, where this one was split off */
} mpi_comm_t;

enum { message_tag = 1 };

static int kind_of(int batch, int incoming)
{
    return 2 * batch + (incoming != 0);
}

static gln_status_t mpi_fail(int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return gln_fail(GLN_ERR_PEER, "%s: %s", call, text);
}

#define MPI_TRY(call)                                                  \
    do {                                                               \
        int mpi_code = (call);                                         \
        if (mpi_code != MPI_SUCCESS) return mpi_fail(mpi_code, #call); \
    } while (0)

static mpi_comm_t *of(gln_comm_t *comm)
{
    return (mpi_comm_t *)comm;
}

/* Where it is known already who is missing, that is the cause. */
static gln_status_t wait_failed(gln_comm_t *comm, int code, const char *collective)
{
    if (comm->roster && gln_roster_verdict(comm->roster, NULL)) return gln_comm_late(comm, NULL, 0);
    return mpi_fail(code, collective);
}

/* `code` is what starting `request` gave. */
static gln_status_t request_wait(mpi_comm_t *m, int code, MPI_Request *request,
                                 const char *collective)
{
    gln_comm_t *comm = &m->base;
    gln_wait_t wait;
    int done = 0;
    if (code != MPI_SUCCESS) return mpi_fail(code, collective);
    gln_wait_begin(comm, collective, &wait);
    for (;;) {
        code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS || done) break;
        if (gln_wait_over(&wait)) return gln_comm_late(comm, NULL, 0);
    }
    gln_wait_end(comm);
    return code == MPI_SUCCESS ? GLN_OK : wait_failed(comm, code, collective);
}

static gln_status_t usable(const gln_comm_t *comm)
{
    if (!comm->given_up) return GLN_OK;
    return gln_fail(GLN_ERR_PEER, "a rank did not arrive before; the job can only be ended");
}

/* Start with `call`, whose last argument is the request, and wait. */
#define COLLECTIVE(comm, name, call, ...)                                                    \
    do {                                                                                     \
        MPI_Request request;                                                                 \
        gln_status_t able = usable(comm);                                                    \
        if (able != GLN_OK) return able;                                                     \
        return request_wait(of(comm), call(__VA_ARGS__, of(comm)->comm, &request), &request, \
                            name);                                                           \
    } while (0)

static gln_status_t mpi_barrier(gln_comm_t *comm)
{
    MPI_Request request;
    gln_status_t status = usable(comm);
    if (status != GLN_OK) return status;
    return request_wait(of(comm), MPI_Ibarrier(of(comm)->comm, &request), &request, "barrier");
}

static gln_status_t mpi_broadcast(gln_comm_t *comm, void *data, size_t bytes, int root)
{
    gln_status_t status = usable(comm);
    for (size_t at = 0; at < bytes && status == GLN_OK; at += comm->chunk_bytes) {
        size_t part = bytes - at < comm->chunk_bytes ? bytes - at : comm->chunk_bytes;
        MPI_Request request;
        int code =
            MPI_Ibcast((char *)data + at, (int)part, MPI_BYTE, root, of(comm)->comm, &request);
        status = request_wait(of(comm), code, &request, "broadcast");
    }
    return status;
}

static gln_status_t mpi_allgather(gln_comm_t *comm, const void *in, size_t bytes, void *out)
{
    COLLECTIVE(comm, "allgather", MPI_Iallgather, in, (int)bytes, MPI_BYTE, out, (int)bytes,
               MPI_BYTE);
}

static gln_status_t mpi_alltoall_i32(gln_comm_t *comm, const int32_t *send, int count,
                                     int32_t *receive)
{
    COLLECTIVE(comm, "all-to-all", MPI_Ialltoall, send, count, MPI_INT32_T, receive, count,
               MPI_INT32_T);
}

static gln_status_t mpi_alltoallv(gln_comm_t *comm, const void *send, const int *send_bytes,
                                  const int *send_offset, void *receive, const int *receive_bytes,
                                  const int *receive_offset)
{
    MPI_TRY(MPI_Alltoallv(send, send_bytes, send_offset, MPI_BYTE, receive, receive_bytes,
                          receive_offset, MPI_BYTE, of(comm)->comm));
    return GLN_OK;
}

static gln_status_t mpi_sum_i64(gln_comm_t *comm, int64_t *values, int count)
{
    COLLECTIVE(comm, "sum", MPI_Iallreduce, MPI_IN_PLACE, values, count, MPI_INT64_T, MPI_SUM);
}

static gln_status_t mpi_max_i64(gln_comm_t *comm, int64_t *values, int count)
{
    COLLECTIVE(comm, "agreement", MPI_Iallreduce, MPI_IN_PLACE, values, count, MPI_INT64_T,
               MPI_MAX);
}

/* After a failure nothing may stay in flight: buffers are the caller's again. */
static void give_up(mpi_comm_t *m)
{
    for (int i = 0; i < m->count; i++) {
        if (m->requests[i] == MPI_REQUEST_NULL) continue;
        MPI_Cancel(&m->requests[i]);
        MPI_Request_free(&m->requests[i]);
    }
    m->count = 0;
}

static gln_status_t list_grow(mpi_comm_t *m, int capacity)
{
    MPI_Request *requests = realloc(m->requests, (size_t)capacity * sizeof *requests);
    if (requests) m->requests = requests;
    MPI_Status *statuses = realloc(m->statuses, (size_t)capacity * sizeof *statuses);
    if (statuses) m->statuses = statuses;
    int *peers = realloc(m->peers, (size_t)capacity * sizeof *peers);
    if (peers) m->peers = peers;
    int *kinds = realloc(m->kinds, (size_t)capacity * sizeof *kinds);
    if (kinds) m->kinds = kinds;
    if (!requests || !statuses || !peers || !kinds)
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate a list of %d messages", capacity);
    m->capacity = capacity;
    return GLN_OK;
}

/* One of the two directions: exactly one of `out` and `in` is set. */
static gln_status_t message_start(mpi_comm_t *m, int peer, const char *out, char *in, size_t bytes)
{
    size_t chunk = m->base.chunk_bytes;
    gln_status_t status = usable(&m->base);
    if (status != GLN_OK) return status;
    for (size_t at = 0; at < bytes; at += chunk) {
        int part = (int)(bytes - at < chunk ? bytes - at : chunk);
        status = m->count < m->capacity ? GLN_OK : list_grow(m, 2 * m->capacity);
        if (status != GLN_OK) {
            give_up(m);
            return status;
        }
        MPI_Request *request = &m->requests[m->count];
        int code = out ? MPI_Isend(out + at, part, MPI_BYTE, peer, message_tag, m->comm, request)
                       : MPI_Irecv(in + at, part, MPI_BYTE, peer, message_tag, m->comm, request);
        if (code != MPI_SUCCESS) {
            give_up(m);
            return mpi_fail(code, out ? "MPI_Isend" : "MPI_Irecv");
        }
        m->kinds[m->count] = kind_of(m->base.batch, in != NULL);
        m->peers[m->count++] = peer;
    }
    return GLN_OK;
}

static gln_status_t mpi_send(gln_comm_t *comm, int peer, const void *data, size_t bytes)
{
    return message_start(of(comm), peer, data, NULL, bytes);
}

static gln_status_t mpi_receive(gln_comm_t *comm, int peer, void *data, size_t bytes)
{
    return message_start(of(comm), peer, NULL, data, bytes);
}

/* The peers of what is still under way are waited for: one that has not taken a message has not
 * arrived either. */
static gln_status_t messages_late(mpi_comm_t *m)
{
    int open = 0;
    for (int i = 0; i < m->count; i++) {
        int done = 0;
        MPI_Request_get_status(m->requests[i], &done, MPI_STATUS_IGNORE);
        if (!done) m->peers[open++] = m->peers[i];
    }
    m->count = 0;
    return gln_comm_late(&m->base, m->peers, open);
}

static gln_status_t message_failed(mpi_comm_t *m, int code)
{
    int first = 0;
    if (m->base.roster && gln_roster_verdict(m->base.roster, NULL)) return messages_late(m);
    if (code == MPI_ERR_IN_STATUS) {
        while (first + 1 < m->count && (m->statuses[first].MPI_ERROR == MPI_SUCCESS ||
                                        m->statuses[first].MPI_ERROR == MPI_ERR_PENDING))
            first++;
        code = m->statuses[first].MPI_ERROR;
    }
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    gln_status_t status = gln_fail(GLN_ERR_PEER, "rank %d: a message with rank %d failed: %s",
                                   m->base.rank, m->count > 0 ? m->peers[first] : -1, text);
    give_up(m);
    return status;
}

static gln_status_t mpi_wait(gln_comm_t *comm)
{
    mpi_comm_t *m = of(comm);
    gln_wait_t wait;
    int code, done = 0;
    gln_status_t status = usable(comm);
    if (status != GLN_OK) return status;
    gln_wait_begin(comm, "messages", &wait);
    for (;;) {
        code = MPI_Testall(m->count, m->requests, &done, m->statuses);
        if (code != MPI_SUCCESS || done) break;
        if (gln_wait_over(&wait)) return messages_late(m);
    }
    gln_wait_end(comm);
    if (code != MPI_SUCCESS) return message_failed(m, code);
    m->count = 0;
    return GLN_OK;
}

static gln_status_t mpi_test(gln_comm_t *comm, int *done)
{
    mpi_comm_t *m = of(comm);
    gln_status_t status = usable(comm);
    if (status != GLN_OK) return status;
    int code = MPI_Testall(m->count, m->requests, done, m->statuses);
    if (code != MPI_SUCCESS) return message_failed(m, code);
    if (*done) m->count = 0;
    return GLN_OK;
}

/* What has arrived leaves an empty request in the list, which testing and waiting pass over. */
static gln_status_t mpi_settled(gln_comm_t *comm, int peer, int batch, int incoming, int *done)
{
    mpi_comm_t *m = of(comm);
    gln_status_t status = usable(comm);
    int found = 1;
    if (status != GLN_OK) return status;
    for (int i = 0; i < m->count && found; i++) {
        if (m->peers[i] != peer || m->kinds[i] != kind_of(batch, incoming)) continue;
        int code = MPI_Test(&m->requests[i], &found, MPI_STATUS_IGNORE);
        if (code == MPI_SUCCESS) continue;
        m->peers[0] = peer;
        return message_failed(m, code);
    }
    *done = found;
    return GLN_OK;
}

static void __attribute__((noreturn)) mpi_abort(gln_comm_t *comm, int exit_status)
{
    (void)comm;
    MPI_Abort(MPI_COMM_WORLD, exit_status);
    _Exit(exit_status);
}

/* Finalizing waits for all ranks inside MPI: a barrier that has an end goes before it, and when
 * somebody is missing MPI is left as it is. */
static void mpi_close(gln_comm_t *comm)
{
    mpi_comm_t *m = of(comm);
    int finalized = 0, finalizes = m->finalizes;
    MPI_Finalized(&finalized);
    if (!finalized && finalizes && !comm->given_up) mpi_barrier(comm);
    if (comm->given_up) finalizes = 0;
    gln_roster_release(comm->roster);
    if (!finalized && m->comm != MPI_COMM_NULL && !comm->given_up) MPI_Comm_free(&m->comm);
    free(m->world_ranks);
    free(m->requests);
    free(m->statuses);
    free(m->peers);
    free(m->kinds);
    free(m);
    if (!finalized && finalizes) MPI_Finalize();
}

/* nodes[r] = number of the node of rank r, nodes counted by their lowest rank. Each rank learns the
 * lowest rank of its node inside the node, and all tell all. */
static gln_status_t nodes_find(MPI_Comm comm, int rank, int size, int *nodes)
{
    MPI_Comm node = MPI_COMM_NULL;
    int lowest = rank;
    MPI_TRY(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node));
    int code = MPI_Bcast(&lowest, 1, MPI_INT, 0, node);
    MPI_Comm_free(&node);
    if (code != MPI_SUCCESS) return mpi_fail(code, "MPI_Bcast");
    MPI_TRY(MPI_Allgather(&lowest, 1, MPI_INT, nodes, 1, MPI_INT, comm));
    int count = 0;
    for (int r = 0; r < size; r++) /* nodes[r] <= r, and what stands below r is numbered already */
        nodes[r] = nodes[r] == r ? count++ : nodes[nodes[r]];
    return GLN_OK;
}

/* Shared memory of the ranks of one node. */
typedef struct mpi_window {
    MPI_Comm node;
    MPI_Win win;
    int whole; /* every rank of the node has it: freeing it waits for all of them */
} mpi_window_t;

static void mpi_window_close(gln_comm_t *comm, void *handle)
{
    mpi_window_t *w = handle;
    int finalized = 0;
    MPI_Finalized(&finalized);
    gln_comm_guard_begin(comm, "freeing of a shared window");
    if (!finalized && w->win != MPI_WIN_NULL && w->whole) {
        MPI_Win_unlock_all(w->win);
        MPI_Win_free(&w->win);
    }
    if (!finalized && w->node != MPI_COMM_NULL) MPI_Comm_free(&w->node);
    gln_comm_guard_end(comm);
    free(w);
}

static gln_status_t window_map(gln_comm_t *comm, size_t bytes, void **bases, mpi_window_t *w)
{
    void *own = NULL;
    MPI_Info info = MPI_INFO_NULL;
    MPI_TRY(MPI_Comm_split(of(comm)->comm, comm->nodes[comm->rank], comm->rank, &w->node));
    MPI_Comm_set_errhandler(w->node, MPI_ERRORS_RETURN);
    MPI_TRY(MPI_Info_create(&info));
    MPI_Info_set(info, "alloc_shared_noncontig", "true"); /* each part near its rank */
    int code = MPI_Win_allocate_shared((MPI_Aint)bytes, 1, info, w->node, &own, &w->win);
    MPI_Info_free(&info);
    if (code != MPI_SUCCESS) w->win = MPI_WIN_NULL;
    MPI_Request request;
    w->whole = code == MPI_SUCCESS;
    gln_status_t told = request_wait(
        of(comm), MPI_Iallreduce(MPI_IN_PLACE, &w->whole, 1, MPI_INT, MPI_MIN, w->node, &request),
        &request, "window");
    if (code != MPI_SUCCESS) return mpi_fail(code, "MPI_Win_allocate_shared");
    if (told != GLN_OK) return told;
    MPI_Win_set_errhandler(w->win, MPI_ERRORS_RETURN);
    MPI_TRY(MPI_Win_lock_all(MPI_MODE_NOCHECK, w->win));
    int place = 0;
    for (int r = 0; r < comm->size; r++) {
        if (comm->nodes[r] != comm->nodes[comm->rank]) continue;
        MPI_Aint size = 0;
        int unit = 1;
        MPI_TRY(MPI_Win_shared_query(w->win, place++, &size, &unit, &bases[r]));
    }
    return GLN_OK;
}

static gln_status_t mpi_window_open(gln_comm_t *comm, size_t bytes, void **bases, void **handle)
{
    mpi_window_t *w = malloc(sizeof *w);
    gln_status_t status =
        w ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "cannot allocate a window's handle");
    status = gln_comm_agree(comm, status, NULL);
    if (status != GLN_OK) {
        free(w);
        return status;
    }
    *w = (mpi_window_t){MPI_COMM_NULL, MPI_WIN_NULL, 0};
    *handle = w;
    gln_comm_guard_begin(comm, "making of a shared window");
    status = window_map(comm, bytes, bases, w);
    gln_comm_guard_end(comm);
    return status;
}

/* Where MPI keeps windows: Open MPI says so by a control variable, others use /dev/shm too. Asked
 * once: opening and closing the tool interface takes Open MPI tens of milliseconds. */
static const char *window_folder(void)
{
    enum { LONGEST = 4096 };
    static char folder[LONGEST + 1];
    char value[LONGEST + 1] = "";
    int provided, index, count;
    MPI_T_cvar_handle handle;
    if (folder[0]) return folder;
    strcpy(folder, "/dev/shm");
    if (MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) return folder;
    if (MPI_T_cvar_get_index("osc_sm_backing_directory", &index) == MPI_SUCCESS &&
        MPI_T_cvar_handle_alloc(index, NULL, &handle, &count) == MPI_SUCCESS) {
        if (count <= LONGEST && MPI_T_cvar_read(handle, value) == MPI_SUCCESS && value[0] == '/')
            strcpy(folder, value);
        MPI_T_cvar_handle_free(&handle);
    }
    MPI_T_finalize();
    return folder;
}

static int64_t mpi_window_room(gln_comm_t *comm, char *where, size_t where_size)
{
    struct statvfs fs;
    (void)comm;
    snprintf(where, where_size, "%s", window_folder());
    /* no blocks at all: a file system without a bound */
    if (statvfs(where, &fs) != 0 || fs.f_blocks == 0) return -1;
    return (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
}

static gln_status_t mpi_split(gln_comm_t *comm, int color, gln_comm_t **out);

static const gln_comm_ops_t mpi_ops = {
    .name = "mpi",
    .barrier = mpi_barrier,
    .broadcast = mpi_broadcast,
    .allgather = mpi_allgather,
    .alltoall_i32 = mpi_alltoall_i32,
    .alltoallv = mpi_alltoallv,
    .sum_i64 = mpi_sum_i64,
    .max_i64 = mpi_max_i64,
    .send = mpi_send,
    .receive = mpi_receive,
    .wait = mpi_wait,
    .test = mpi_test,
    .settled = mpi_settled,
    .window_open = mpi_window_open,
    .window_close = mpi_window_close,
    .window_room = mpi_window_room,
    .split = mpi_split,
    .abort = mpi_abort,
    .close = mpi_close,
};

/* Take part in the roster of `parent`, or open one. */
static gln_status_t roster_join(mpi_comm_t *m, const gln_comm_t *parent)
{
    gln_comm_t *comm = &m->base;
    gln_status_t status = GLN_OK;
    if (!parent) {
        status = gln_roster_open(&m->comm, comm->rank, comm->size, comm->nodes, &comm->roster);
    } else {
        MPI_Group ours, theirs;
        int *here = calloc((size_t)comm->size, sizeof *here);
        m->world_ranks = calloc((size_t)comm->size, sizeof *m->world_ranks);
        if (!here || !m->world_ranks) {
            free(here);
            return gln_fail(GLN_ERR_MEMORY, "cannot allocate a list of %d ranks", comm->size);
        }
        for (int r = 0; r < comm->size; r++)
            here[r] = r;
        MPI_Comm_group(m->comm, &ours);
        MPI_Comm_group(((const mpi_comm_t *)parent)->comm, &theirs);
        MPI_Group_translate_ranks(ours, comm->size, here, theirs, m->world_ranks);
        MPI_Group_free(&ours);
        MPI_Group_free(&theirs);
        free(here);
        for (int r = 0; r < comm->size && parent->roster_rank; r++)
            m->world_ranks[r] = parent->roster_rank[m->world_ranks[r]];
        comm->roster = parent->roster;
        comm->roster->users++;
        comm->roster_rank = m->world_ranks;
        comm->timeout_ms = parent->timeout_ms;
    }
    if (status == GLN_OK) comm->place = comm->roster->shown;
    return status;
}

/* Take over `own` (freed on error as well). */
static gln_status_t handle_open(MPI_Comm own, const gln_comm_t *parent, gln_comm_t **out)
{
    gln_status_t status = GLN_OK;
    int rank = 0, size = 1;
    MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
    MPI_Comm_rank(own, &rank);
    MPI_Comm_size(own, &size);
    mpi_comm_t *m = calloc(1, sizeof *m);
    int *nodes = calloc((size_t)size, sizeof *nodes);
    if (!m || !nodes) {
        status = gln_fail(GLN_ERR_MEMORY, "cannot allocate a communicator of %d ranks", size);
        goto free_memory;
    }
    status = list_grow(m, 4 * size);
    if (status != GLN_OK) goto free_memory;
    status = nodes_find(own, rank, size, nodes);
    if (status != GLN_OK) goto free_memory;
    m->comm = own;
    gln_comm_set_up(&m->base, &mpi_ops, rank, size, nodes);
    status = roster_join(m, parent);
    if (status != GLN_OK) goto free_memory;
    *out = &m->base;
    return GLN_OK;

free_memory:
    if (m) {
        free(m->world_ranks);
        free(m->requests);
        free(m->statuses);
        free(m->peers);
    }
    free(m);
    free(nodes);
    MPI_Comm_free(&own);
    return status;
}

static gln_status_t mpi_split(gln_comm_t *comm, int color, gln_comm_t **out)
{
    MPI_Comm part = MPI_COMM_NULL;
    gln_status_t status = mpi_barrier(comm); /* MPI_Comm_split waits without an end */
    if (status != GLN_OK) return status;
    gln_comm_guard_begin(comm, "making of a communicator");
    int code = MPI_Comm_split(of(comm)->comm, color, comm->rank, &part);
    status = code == MPI_SUCCESS ? handle_open(part, comm, out) : mpi_fail(code, "MPI_Comm_split");
    gln_comm_guard_end(comm);
    return status;
}

gln_status_t gln_comm_open_mpi(const void *mpi_comm, gln_comm_t **out)
{
    if (!mpi_comm || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_open_mpi: expected two addresses, found NULL");
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (!initialized || finalized)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_comm_open_mpi: MPI is %s; call it between MPI_Init "
                        "and MPI_Finalize",
                        finalized ? "finalized" : "not initialised");
    MPI_Comm given;
    memcpy(&given, mpi_comm, sizeof given);
    if (given == MPI_COMM_NULL)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_open_mpi: found MPI_COMM_NULL");
    MPI_Comm own = MPI_COMM_NULL;
    MPI_TRY(MPI_Comm_dup(given, &own));
    return handle_open(own, NULL, out);
}

gln_status_t gln_comm_open_world(gln_comm_t **out)
{
    if (!out)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_open_world: expected an address, found NULL");
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (finalized)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_comm_open_world: MPI is finalized; a process can join "
                        "a job only once");
    if (!initialized) {
        int provided = MPI_THREAD_SINGLE;
        MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
        if (provided < MPI_THREAD_FUNNELED) {
            MPI_Finalize();
            return gln_fail(GLN_ERR_BACKEND, "MPI offers no threads beside the one that calls it: "
                                             "expected MPI_THREAD_FUNNELED");
        }
    }
    MPI_Comm world = MPI_COMM_WORLD;
    gln_status_t status = gln_comm_open_mpi(&world, out);
    if (status != GLN_OK) {
        if (!initialized) MPI_Finalize();
        return status;
    }
    of(*out)->finalizes = !initialized;
    return GLN_OK;
}
