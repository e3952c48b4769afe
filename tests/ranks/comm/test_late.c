/* A rank that does not enter a collective: all others that wait for it return GLN_ERR_PEER, and the
 * message names that rank alone, the operation, the layer and the step. A rank that is merely late
 * is waited for. RANKS: 2 4 */
#include "comm/exchange.h"
#include "tests/ranks/comm/check.h"
#include <mpi.h>
#include <time.h>
#include <unistd.h>

enum { timeout_ms = 300, patient_ms = 60000, late_us = 200000, layer = 3, step = 17, count = 8 };

static int rank, ranks;

static gln_status_t barrier(gln_comm_t *comm)
{
    return gln_comm_barrier(comm);
}

static gln_status_t broadcast(gln_comm_t *comm)
{
    int value = 1; /* from the rank that is missing in these tests */
    return gln_comm_broadcast(comm, &value, sizeof value, ranks - 1);
}

static gln_status_t allgather(gln_comm_t *comm)
{
    int value = rank, all[64];
    return gln_comm_allgather(comm, &value, sizeof value, all);
}

static gln_status_t alltoall(gln_comm_t *comm)
{
    int32_t send[64] = {0}, receive[64];
    return gln_comm_alltoall_i32(comm, send, 1, receive);
}

static gln_status_t sum(gln_comm_t *comm)
{
    int64_t value = 1;
    return gln_comm_sum_i64(comm, &value, 1);
}

static gln_status_t agree(gln_comm_t *comm)
{
    int speaker;
    return gln_comm_agree(comm, GLN_OK, &speaker);
}

/* Every rank gets a block from everyone. Long ones, which need the other side to take them. */
static gln_status_t messages(gln_comm_t *comm)
{
    static char send[64 << 16], receive[64 << 16];
    size_t bytes[64];
    for (int r = 0; r < ranks; r++)
        bytes[r] = 1 << 16;
    return gln_comm_alltoallv(comm, send, bytes, receive, bytes);
}

/* Agrees on its memory first. */
static gln_status_t tree(gln_comm_t *comm)
{
    float values[count] = {0};
    void *part = values;
    return gln_comm_tree_sum(comm, &part, 1, count, GLN_F32);
}

static gln_status_t split(gln_comm_t *comm)
{
    gln_comm_t *part = NULL;
    return gln_comm_split(comm, 0, &part);
}

typedef struct one_case {
    const char *operation;
    gln_status_t (*enter)(gln_comm_t *comm);
} one_case_t;

static const one_case_t cases[] = {
    {"barrier", barrier},     {"messages", messages},   {"broadcast", broadcast},
    {"allgather", allgather}, {"all-to-all", alltoall}, {"sum", sum},
    {"agreement", agree},     {"agreement", tree},      {"barrier", split},
};

static gln_comm_t *open_comm(int64_t limit_ms)
{
    MPI_Comm world = MPI_COMM_WORLD;
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_mpi(&world, &comm));
    gln_comm_set_timeout(comm, limit_ms);
    return comm;
}

static void check_message(int missing, const char *operation)
{
    char wanted[128], one[32];
    const char *message = gln_last_error();
    for (int r = 0; r < ranks; r++) {
        snprintf(one, sizeof one, "rank %d (host ", r);
        CHECK((strstr(message, one) != NULL) == (r == missing), "rank %d", r);
    }
    CHECK(strstr(message, "did not arrive within 300 ms"));
    snprintf(wanted, sizeof wanted, "; operation %s, layer %d, step %d; waiting: rank", operation,
             layer, step);
    CHECK(strstr(message, wanted), "expected %s", wanted);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void missing_rank(const one_case_t *one)
{
    int missing = ranks - 1;
    gln_comm_t *comm = open_comm(timeout_ms);
    gln_comm_set_place(comm, NULL, layer);
    gln_comm_set_step(comm, step);
    if (rank != missing) {
        double begin = seconds();
        CHECK(one->enter(comm) == GLN_ERR_PEER, "%s", one->operation);
        CHECK(seconds() - begin >= 0.25, "%s: returned too early", one->operation);
        check_message(missing, one->operation);
        begin = seconds(); /* given up: no wait again */
        CHECK(one->enter(comm) == GLN_ERR_PEER);
        CHECK(seconds() - begin < 0.25, "%s: waits again", one->operation);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    gln_comm_close(comm);
}

/* Ranks 0 and 2 wait for messages of rank 1; rank 3 has none and is elsewhere: it is not named. */
static void bystander(void)
{
    size_t send_bytes[4] = {0}, receive_bytes[4] = {0};
    char send[4] = "abc", receive[4];
    gln_comm_t *comm = open_comm(timeout_ms);
    gln_comm_set_place(comm, "dispatch", layer);
    gln_comm_set_step(comm, step);
    if (rank == 0 || rank == 2) receive_bytes[1] = 1;
    gln_status_t status = GLN_OK;
    if (rank != 1) status = gln_comm_alltoallv(comm, send, send_bytes, receive, receive_bytes);
    if (rank == 0 || rank == 2) {
        CHECK(status == GLN_ERR_PEER);
        check_message(1, "dispatch");
    } else {
        CHECK(status == GLN_OK);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    gln_comm_close(comm);
}

static void exchange_names_itself(void)
{
    const gln_exchange_options_t options = {
        .domains = ranks, .groups = 1, .tokens = 1, .hidden = 1, .dtype = GLN_F32, .rows_max = 1};
    int32_t rows[64], tokens[64] = {0}, none[64] = {0};
    float in = 1, out[64];
    gln_exchange_received_t received;
    for (int r = 0; r < ranks; r++)
        rows[r] = 1;
    const gln_exchange_send_t send = {
        .rows_count = rows, .row_token = tokens, .scalars_count = none, .meta_bytes = none};
    for (int part = 0; part < 3; part++) { /* who is missing in plan, dispatch, combine */
        static const char *const names[] = {"plan", "dispatch", "combine"};
        gln_exchange_t *x = NULL;
        gln_comm_t *comm = open_comm(patient_ms);
        CHECK_OK(gln_exchange_open(comm, &options, &x));
        gln_comm_set_place(comm, NULL, layer);
        gln_comm_set_step(comm, step);
        if (part > 0) CHECK_OK(gln_exchange_plan(x, &send, &received));
        if (part > 1) CHECK_OK(gln_exchange_dispatch(x, &in, out));
        gln_comm_set_timeout(comm, timeout_ms);
        if (rank != ranks - 1) {
            gln_status_t status = part == 0   ? gln_exchange_plan(x, &send, &received)
                                  : part == 1 ? gln_exchange_dispatch(x, &in, out)
                                              : gln_exchange_combine(x, out, &in);
            CHECK(status == GLN_ERR_PEER);
            check_message(ranks - 1, names[part]);
        }
        MPI_Barrier(MPI_COMM_WORLD);
        gln_exchange_close(x);
        gln_comm_close(comm);
    }
}

static void late_rank_is_waited_for(int64_t limit_ms)
{
    gln_comm_t *comm = open_comm(limit_ms), *part = NULL;
    CHECK_OK(gln_comm_split(comm, rank % 2, &part));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] - 1; i++) {
        if (rank == (int)i % ranks && i < 3) usleep(late_us);
        CHECK_OK(cases[i].enter(comm));
    }
    CHECK_OK(gln_comm_barrier(part));
    gln_comm_close(comm); /* the part has its own share in what is common */
    CHECK_OK(gln_comm_barrier(part));
    gln_comm_close(part);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    late_rank_is_waited_for(0);
    late_rank_is_waited_for(patient_ms);
    /* with more than one waiting rank the others hold back for a second: a few will do */
    size_t some = ranks == 2 ? sizeof cases / sizeof cases[0] : 2;
    for (size_t i = 0; i < some; i++)
        missing_rank(&cases[i]);
    if (ranks == 2) exchange_names_itself();
    if (ranks == 4) bystander();
    if (rank == 0) printf("ok\n");
    MPI_Finalize();
    return 0;
}
