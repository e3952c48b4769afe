/* Every collective of comm.h between ranks, as shipped and with messages cut into tiny chunks.
 * RANKS: 1 2 3 4 */
#include "comm/comm_internal.h"
#include "tests/ranks/comm/check.h"
#include <mpi.h>
#include <time.h>

static void broadcast(gln_comm_t *comm)
{
    int rank = gln_comm_rank(comm), size = gln_comm_size(comm);
    for (int root = 0; root < size; root++) {
        unsigned char data[1001];
        memset(data, rank == root ? 100 + root : 0, sizeof data);
        data[1000] = 7;
        CHECK_OK(gln_comm_broadcast(comm, data, 1000, root));
        for (int i = 0; i < 1000; i++)
            CHECK(data[i] == 100 + root, "root %d byte %d: %d", root, i, data[i]);
        CHECK(data[1000] == 7, "wrote behind the end");
    }
    CHECK_OK(gln_comm_broadcast(comm, NULL, 0, 0));
    CHECK(gln_comm_broadcast(comm, &rank, 4, size) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_broadcast(comm, &rank, 4, -1) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_broadcast(comm, NULL, 4, 0) == GLN_ERR_ARGUMENT);
}

static void allgather(gln_comm_t *comm)
{
    int rank = gln_comm_rank(comm), size = gln_comm_size(comm);
    int32_t mine[50];
    int32_t *all = allocate((size_t)size * sizeof mine);
    for (int i = 0; i < 50; i++)
        mine[i] = rank * 1000 + i;
    CHECK_OK(gln_comm_allgather(comm, mine, sizeof mine, all));
    for (int r = 0; r < size; r++)
        for (int i = 0; i < 50; i++)
            CHECK(all[r * 50 + i] == r * 1000 + i, "rank %d entry %d", r, i);
    CHECK_OK(gln_comm_allgather(comm, NULL, 0, NULL));
    CHECK(gln_comm_allgather(comm, NULL, 4, all) == GLN_ERR_ARGUMENT);
    free(all);
}

/* Bytes from a to b: also none at all, and a rank that neither sends nor receives. */
static size_t block_bytes(int a, int b, int size)
{
    if (size > 2 && (a == 1 || b == 1)) return 0;
    return (size_t)(7 * a + 3 * b) * 5 % 97;
}

static void alltoallv(gln_comm_t *comm)
{
    int rank = gln_comm_rank(comm), size = gln_comm_size(comm);
    size_t send_bytes[8], receive_bytes[8], sent = 0, received = 0;
    unsigned char send[1024], receive[1024];
    for (int r = 0; r < size; r++) {
        send_bytes[r] = block_bytes(rank, r, size);
        receive_bytes[r] = block_bytes(r, rank, size);
        for (size_t i = 0; i < send_bytes[r]; i++)
            send[sent++] = (unsigned char)(rank * 64 + r * 16 + (int)i);
    }
    memset(receive, 0xee, sizeof receive);
    CHECK_OK(gln_comm_alltoallv(comm, send, send_bytes, receive, receive_bytes));
    for (int r = 0; r < size; r++)
        for (size_t i = 0; i < receive_bytes[r]; i++, received++)
            CHECK(receive[received] == (unsigned char)(r * 64 + rank * 16 + (int)i),
                  "from %d byte %zu", r, i);
    CHECK(receive[received] == 0xee, "wrote behind the end");
    unsigned char again[1024];
    memset(again, 0xee, sizeof again);
    CHECK_OK(gln_comm_library_alltoallv(comm, send, send_bytes, again, receive_bytes));
    CHECK(memcmp(again, receive, sizeof again) == 0, "the library moves the same");
    CHECK(gln_comm_library_alltoallv(comm, send, NULL, again, NULL) == GLN_ERR_ARGUMENT);
    memset(send_bytes, 0, sizeof send_bytes);
    CHECK_OK(gln_comm_alltoallv(comm, NULL, send_bytes, NULL, send_bytes));
    CHECK(gln_comm_alltoallv(comm, send, NULL, receive, receive_bytes) == GLN_ERR_ARGUMENT);
    send_bytes[0] = 4;
    CHECK(gln_comm_alltoallv(comm, NULL, send_bytes, receive, send_bytes) == GLN_ERR_ARGUMENT);
}

static void integers(gln_comm_t *comm)
{
    int rank = gln_comm_rank(comm), size = gln_comm_size(comm);
    int32_t send[8 * 3], receive[8 * 3];
    for (int r = 0; r < size; r++)
        for (int i = 0; i < 3; i++)
            send[r * 3 + i] = rank * 100 + r * 10 + i;
    CHECK_OK(gln_comm_alltoall_i32(comm, send, 3, receive));
    for (int r = 0; r < size; r++)
        for (int i = 0; i < 3; i++)
            CHECK(receive[r * 3 + i] == r * 100 + rank * 10 + i, "from %d entry %d", r, i);
    CHECK_OK(gln_comm_alltoall_i32(comm, NULL, 0, NULL));
    CHECK(gln_comm_alltoall_i32(comm, send, -1, receive) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_alltoall_i32(comm, NULL, 1, receive) == GLN_ERR_ARGUMENT);

    int64_t values[] = {rank + 1, (int64_t)1 << 53, -rank};
    int64_t ranks = size;
    CHECK_OK(gln_comm_sum_i64(comm, values, 3));
    CHECK(values[0] == ranks * (ranks + 1) / 2 && values[1] == ranks << 53 &&
          values[2] == -ranks * (ranks - 1) / 2);
    CHECK_OK(gln_comm_sum_i64(comm, NULL, 0));
    CHECK(gln_comm_sum_i64(comm, values, -1) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_sum_i64(comm, NULL, 1) == GLN_ERR_ARGUMENT);
}

static void agree(gln_comm_t *comm)
{
    int rank = gln_comm_rank(comm), size = gln_comm_size(comm), who = -1;
    CHECK(gln_comm_agree(comm, GLN_OK, &who) == GLN_OK && who == 0, "who %d", who);
    for (int bad = 0; bad < size; bad++) {
        gln_status_t mine = rank == bad ? GLN_ERR_LEDGER : GLN_OK;
        CHECK(gln_comm_agree(comm, mine, &who) == GLN_ERR_LEDGER && who == bad, "who %d", who);
        /* the largest status wins over a lower rank's smaller one; of equals the lowest rank */
        mine = rank >= bad ? GLN_ERR_NUMERIC : GLN_ERR_DATA;
        CHECK(gln_comm_agree(comm, mine, &who) == GLN_ERR_NUMERIC && who == bad, "who %d", who);
        CHECK(gln_comm_agree(comm, mine, NULL) == GLN_ERR_NUMERIC);
    }
}

static double now(void) /* one clock for all processes of a machine */
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* No rank leaves a barrier before the last one has come. */
static void barrier(gln_comm_t *comm)
{
    int rank = gln_comm_rank(comm), size = gln_comm_size(comm);
    for (int last = 0; last < size; last++) {
        double came = now();
        while (rank == last && now() < came + 0.02)
            ;
        came = now();
        CHECK_OK(gln_comm_barrier(comm));
        double left = now(), all[8];
        CHECK_OK(gln_comm_allgather(comm, &came, sizeof came, all));
        for (int r = 0; r < size; r++)
            CHECK(all[r] <= left, "rank %d left %.6f s before rank %d came", rank, all[r] - left,
                  r);
    }
}

static void collectives(gln_comm_t *comm)
{
    broadcast(comm);
    allgather(comm);
    alltoallv(comm);
    integers(comm);
    agree(comm);
}

static void split(gln_comm_t *world)
{
    int rank = gln_comm_rank(world), size = gln_comm_size(world);
    gln_comm_t *part = NULL, *again = NULL;
    CHECK_OK(gln_comm_split(world, rank % 2, &part));
    CHECK(gln_comm_size(part) == (size + 1 - rank % 2) / 2, "size %d", gln_comm_size(part));
    CHECK(gln_comm_rank(part) == rank / 2, "rank %d", gln_comm_rank(part));
    int64_t sum = rank, expected = 0;
    for (int r = rank % 2; r < size; r += 2)
        expected += r;
    CHECK_OK(gln_comm_sum_i64(part, &sum, 1));
    CHECK(sum == expected, "sum %lld", (long long)sum);
    collectives(part);
    CHECK_OK(gln_comm_split(part, 0, &again));
    CHECK(gln_comm_size(again) == gln_comm_size(part) && gln_comm_rank(again) == rank / 2);
    gln_comm_close(again);
    gln_comm_close(part);
    CHECK(gln_comm_split(world, -1, &part) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_split(NULL, 0, &part) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_split(world, 0, NULL) == GLN_ERR_ARGUMENT);
}

/* mpirun started all ranks on this machine, so they share one node. */
static void nodes(gln_comm_t *comm)
{
    CHECK(gln_comm_nodes_count(comm) == 1, "%d nodes", gln_comm_nodes_count(comm));
    for (int r = 0; r < gln_comm_size(comm); r++)
        CHECK(gln_comm_node_of(comm, r) == 0, "node of rank %d", r);
}

/* The caller's communicator stays the caller's, and messages do not mix with its own. */
static void callers_comm(void)
{
    MPI_Comm theirs, none = MPI_COMM_NULL;
    int rank, size, same;
    MPI_Comm_dup(MPI_COMM_WORLD, &theirs);
    MPI_Comm_rank(theirs, &rank);
    MPI_Comm_size(theirs, &size);
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_mpi(&theirs, &comm));
    CHECK(gln_comm_rank(comm) == rank && gln_comm_size(comm) == size);
    int token = rank, found = -1;
    MPI_Request request;
    MPI_Irecv(&found, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, theirs, &request);
    collectives(comm);
    MPI_Send(&token, 1, MPI_INT, (rank + 1) % size, 5, theirs);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    CHECK(found == (rank + size - 1) % size, "found %d", found);
    gln_comm_close(comm);
    MPI_Comm_compare(theirs, MPI_COMM_WORLD, &same);
    CHECK(same == MPI_CONGRUENT);
    CHECK(gln_comm_open_mpi(NULL, &comm) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_open_mpi(&none, &comm) == GLN_ERR_ARGUMENT);
    MPI_Comm_free(&theirs);
}

int main(void)
{
    gln_comm_t *world = NULL, *second = NULL;
    MPI_Comm before = MPI_COMM_WORLD;
    CHECK(gln_comm_open_mpi(&before, &world) == GLN_ERR_ARGUMENT, "MPI is not initialised");
    CHECK_OK(gln_comm_open_world(&world));
    int rank = gln_comm_rank(world), flag = 0;
    nodes(world);
    barrier(world);
    collectives(world);
    world->chunk_bytes = 3;
    collectives(world);
    world->chunk_bytes = GLN_COMM_CHUNK_BYTES;
    split(world);
    callers_comm();

    CHECK_OK(gln_comm_open_world(&second));
    gln_comm_close(second);
    MPI_Finalized(&flag);
    CHECK(!flag, "closing a second world must not finalize MPI");
    gln_comm_close(world);
    MPI_Finalized(&flag);
    CHECK(flag, "closing the first world must finalize MPI");
    CHECK(gln_comm_open_world(&world) == GLN_ERR_ARGUMENT, "MPI is finalized");
    gln_comm_close(NULL);
    if (rank == 0) printf("ok\n");
    return 0;
}
