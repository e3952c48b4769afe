/* Dispatch and combine in parts and stages: order of calls, whom a stage waits for, and time that
 * is hidden. That rows are right in parts too is tested in test_exchange.c and
 * test_exchange_node.c. RANKS: 1 2 4 */
#include "comm/exchange.h"
#include "tests/ranks/comm/check.h"
#include <time.h>

enum { domains = 12, tokens = 3, hidden = 5 };

typedef struct world {
    int ranks, rank, local;
    int32_t ones[domains * domains], tokens[domains * domains], none[domains * domains];
    gln_exchange_send_t send; /* token 0 of every domain to every domain */
} world_t;

static world_t w;

static gln_exchange_t *one_row_each(gln_comm_t *comm, gln_exchange_path_t path, int64_t width)
{
    gln_exchange_options_t options = {.domains = domains,
                                      .tokens = tokens,
                                      .hidden = width,
                                      .dtype = GLN_F32,
                                      .rows_max = 1,
                                      .scalars_max = 1,
                                      .meta_bytes_max = 8,
                                      .path = path};
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    w.ranks = gln_comm_size(comm);
    w.rank = gln_comm_rank(comm);
    w.local = domains / w.ranks;
    for (int p = 0; p < domains * domains; p++)
        w.ones[p] = 1;
    w.send = (gln_exchange_send_t){w.ones, w.tokens, w.none, w.none, NULL};
    CHECK_OK(gln_exchange_open(comm, &options, &x));
    CHECK_OK(gln_exchange_plan(x, &w.send, &got));
    return x;
}

/* Parts out of order are refused, on every rank alike, and change nothing. */
static void wrong_order(gln_comm_t *comm)
{
    gln_exchange_t *x = one_row_each(comm, GLN_PATH_AUTO, hidden);
    gln_exchange_received_t got;
    float *in = allocate((size_t)(w.local * tokens * hidden) * 4);
    void *rows = gln_exchange_receive_buffer(x);
    gln_exchange_times_t before = gln_exchange_times(x), after;
    CHECK_OK(gln_exchange_progress(x)); /* nothing to do */
    CHECK(gln_exchange_dispatch_finish(x) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "no dispatch is under way"), "%s", gln_last_error());
    CHECK(gln_exchange_dispatch_near(x) == GLN_ERR_ARGUMENT);
    CHECK(gln_exchange_combine_finish(x) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "no combine is under way"), "%s", gln_last_error());
    for (int back = 0; back < 2; back++) {
        for (int64_t k = 0; k < w.local * tokens * hidden; k++)
            in[k] = (float)(w.rank + 1);
        if (back)
            CHECK_OK(gln_exchange_combine_start(x, rows, in));
        else
            CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
        CHECK(gln_exchange_dispatch_start(x, in, rows) == GLN_ERR_ARGUMENT);
        CHECK(strstr(gln_last_error(), back ? "a combine is under way" : "a dispatch is under way"),
              "%s", gln_last_error());
        CHECK(gln_exchange_combine_start(x, rows, in) == GLN_ERR_ARGUMENT);
        CHECK(gln_exchange_scalars(x, in, in) == GLN_ERR_ARGUMENT);
        CHECK(gln_exchange_plan(x, &w.send, &got) == GLN_ERR_ARGUMENT);
        if (back) {
            CHECK(gln_exchange_dispatch_near(x) == GLN_ERR_ARGUMENT);
            CHECK(gln_exchange_dispatch_finish(x) == GLN_ERR_ARGUMENT);
            CHECK_OK(gln_exchange_combine_finish(x));
            CHECK(in[0] == 12 * (float)(w.rank + 1), "%g", (double)in[0]);
        } else {
            CHECK(gln_exchange_combine_finish(x) == GLN_ERR_ARGUMENT);
            CHECK_OK(gln_exchange_dispatch_finish(x));
            for (int k = 0; k < w.local * domains; k++)
                CHECK(((float *)rows)[k * hidden] == (float)(k % 12 / w.local + 1));
        }
        after = gln_exchange_times(x);
        CHECK(after.flight_s > before.flight_s && after.hidden_s >= before.hidden_s);
        CHECK(after.hidden_s <= after.flight_s);
        before = after;
    }
    gln_exchange_close(x);
    free(in);
}

/* Stages out of order are refused in the same way. */
static void wrong_stages(gln_comm_t *comm)
{
    gln_exchange_t *x = one_row_each(comm, GLN_PATH_MESSAGES, hidden);
    float *in = allocate((size_t)(w.local * tokens * hidden) * 4);
    void *rows = gln_exchange_receive_buffer(x);
    int unit = w.ranks > 1 ? w.local : domains, other = w.rank > 0 ? 0 : domains - unit;
    for (int64_t k = 0; k < w.local * tokens * hidden; k++)
        in[k] = (float)(w.rank + 1);
    CHECK(gln_exchange_dispatch_await(x, 0, unit) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "no dispatch is under way"), "%s", gln_last_error());
    CHECK(gln_exchange_combine_send(x, 0, unit) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "no combine is under way"), "%s", gln_last_error());
    CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
    CHECK(gln_exchange_combine_send(x, 0, unit) == GLN_ERR_ARGUMENT);
    CHECK(gln_exchange_dispatch_await(x, -1, 1) == GLN_ERR_ARGUMENT);
    CHECK(gln_exchange_dispatch_await(x, 0, -1) == GLN_ERR_ARGUMENT);
    CHECK(gln_exchange_dispatch_await(x, unit, domains) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "expected sources in [0, 12)"), "%s", gln_last_error());
    if (w.ranks > 1) {
        CHECK(gln_exchange_dispatch_await(x, 0, 1) == GLN_ERR_ARGUMENT);
        CHECK(gln_exchange_dispatch_await(x, 1, unit) == GLN_ERR_ARGUMENT);
        CHECK(strstr(gln_last_error(), "sources of each rank"), "%s", gln_last_error());
    }
    CHECK_OK(gln_exchange_combine_begin(x, rows, in));
    CHECK(gln_exchange_combine_begin(x, rows, in) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "a combine is under way"), "%s", gln_last_error());
    CHECK(gln_exchange_dispatch_finish(x) == GLN_ERR_ARGUMENT);
    if (w.ranks > 1) {
        CHECK(gln_exchange_combine_send(x, other, unit) == GLN_ERR_ARGUMENT);
        CHECK(strstr(gln_last_error(), "were not awaited"), "%s", gln_last_error());
        CHECK(gln_exchange_combine_finish(x) == GLN_ERR_ARGUMENT);
        CHECK(strstr(gln_last_error(), "were not awaited"), "%s", gln_last_error());
    }
    CHECK_OK(gln_exchange_dispatch_await(x, 0, domains));
    CHECK_OK(gln_exchange_dispatch_await(x, 0, domains));
    for (int k = 0; k < w.local * domains; k++)
        CHECK(((float *)rows)[k * hidden] == (float)(k % domains / w.local + 1));
    CHECK_OK(gln_exchange_combine_send(x, other, unit));
    if (w.ranks > 1) {
        CHECK(gln_exchange_combine_send(x, other, unit) == GLN_ERR_ARGUMENT);
        CHECK(strstr(gln_last_error(), "sent already"), "%s", gln_last_error());
    }
    CHECK_OK(gln_exchange_combine_finish(x));
    CHECK(in[0] == 12 * (float)(w.rank + 1), "%g", (double)in[0]);
    CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
    CHECK_OK(gln_exchange_dispatch_finish(x));
    CHECK_OK(gln_exchange_combine_start(x, rows, in));
    CHECK(gln_exchange_combine_send(x, 0, unit) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "left at the start"), "%s", gln_last_error());
    CHECK_OK(gln_exchange_combine_finish(x));
    gln_exchange_close(x);
    free(in);
}

/* Far rows are there, and their results come back, while the rows of a rank that has not started
 * are still missing: the others wait for nobody but those whose rows they ask for. */
static void early_stages(gln_comm_t *comm)
{
    enum { wide = 20000 }; /* MPI sends no such message before it is received */
    gln_exchange_t *x = one_row_each(comm, GLN_PATH_MESSAGES, wide);
    gln_comm_t *other = NULL;
    CHECK_OK(gln_comm_split(comm, 0, &other));
    float *in = allocate((size_t)(w.local * tokens * wide) * 4);
    void *rows = gln_exchange_receive_buffer(x);
    for (int64_t k = 0; k < w.local * tokens * wide; k++)
        in[k] = (float)(w.rank + 1);
    if (w.rank > 0) {
        CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
        CHECK_OK(gln_exchange_dispatch_await(x, w.local, domains - w.local));
        CHECK_OK(gln_exchange_combine_begin(x, rows, in));
        CHECK_OK(gln_exchange_combine_send(x, w.local, domains - w.local));
    }
    CHECK_OK(gln_comm_barrier(other)); /* rank 0 starts now */
    if (w.rank == 0) {
        CHECK_OK(gln_exchange_dispatch(x, in, rows));
        CHECK_OK(gln_exchange_combine(x, rows, in));
    } else {
        CHECK_OK(gln_exchange_dispatch_await(x, 0, w.local));
        CHECK_OK(gln_exchange_combine_finish(x));
    }
    CHECK(in[0] == 12 * (float)(w.rank + 1), "%g", (double)in[0]);
    gln_exchange_close(x);
    gln_comm_close(other);
    free(in);
}

/* Rank 0 starts after all others have computed for a while: they have hidden that time at least,
 * and none of it where the parts follow each other at once. */
static void hidden_time(gln_comm_t *comm)
{
    gln_exchange_t *x = one_row_each(comm, GLN_PATH_MESSAGES, hidden);
    gln_comm_t *other = NULL; /* none but the exchange may use its communicator meanwhile */
    CHECK_OK(gln_comm_split(comm, 0, &other));
    void *in = allocate((size_t)(w.local * tokens * hidden) * 4);
    void *rows = gln_exchange_receive_buffer(x);
    CHECK_OK(gln_exchange_dispatch(x, in, rows));
    CHECK(gln_exchange_times(x).hidden_s == 0, "nothing is computed inside a whole dispatch");
    if (w.rank > 0) {
        CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        CHECK_OK(gln_exchange_progress(x));
    }
    CHECK_OK(gln_comm_barrier(other));
    if (w.rank == 0) CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
    for (int k = 0; k < 100; k++)
        CHECK_OK(gln_exchange_progress(x));
    CHECK_OK(gln_exchange_dispatch_finish(x));
    gln_exchange_times_t times = gln_exchange_times(x);
    CHECK(w.rank == 0 || times.hidden_s >= 0.02, "%g s were hidden", times.hidden_s);
    CHECK(w.ranks > 1 || times.hidden_s == 0, "there is nothing to hide");
    CHECK(times.flight_s > times.hidden_s);
    gln_exchange_close(x);
    gln_comm_close(other);
    free(in);
}

int main(void)
{
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_world(&comm));
    wrong_order(comm);
    wrong_stages(comm);
    early_stages(comm);
    hidden_time(comm);
    int rank = gln_comm_rank(comm);
    gln_comm_close(comm);
    if (rank == 0) printf("ok\n");
    return 0;
}
