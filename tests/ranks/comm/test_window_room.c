/* Shared windows where the node's memory falls short: on all ranks or on one, before MPI is asked
 * or in MPI. Auto takes messages on all ranks, with the same results, and says so once; what was
 * forced is refused by name; nobody hangs. RANKS: 1 2 4 */
#include "comm/comm_internal.h"
#include "comm/exchange.h"
#include "comm/window.h"
#include "tests/ranks/comm/check.h"

enum { tokens = 8, hidden = 3 };

static gln_comm_t *comm;
static const gln_comm_ops_t *real;
static int64_t room;
static int failing_rank;
static int errors, warnings;
static char warning[512];

static int64_t little_room(gln_comm_t *c, char *where, size_t size)
{
    snprintf(where, size, "/dev/shm");
    return failing_rank < 0 || c->rank == failing_rank ? room : -1;
}

static gln_status_t failing_open(gln_comm_t *c, size_t bytes, void **bases, void **handle)
{
    gln_status_t status = real->window_open(c, bytes, bases, handle);
    if (status != GLN_OK || c->rank != failing_rank) return status;
    return gln_fail(GLN_ERR_MEMORY, "planted: no window for rank %d", c->rank);
}

static void sink(void *ctx, gln_log_level_t level, const char *message)
{
    (void)ctx;
    errors += level == GLN_LOG_ERROR;
    warnings += level == GLN_LOG_WARN;
    if (level == GLN_LOG_WARN) snprintf(warning, sizeof warning, "%s", message);
}

static gln_exchange_options_t options_of(gln_exchange_path_t path)
{
    return (gln_exchange_options_t){.domains = gln_comm_size(comm),
                                    .tokens = tokens,
                                    .hidden = hidden,
                                    .dtype = GLN_F32,
                                    .rows_max = tokens,
                                    .path = path};
}

/* Every token to every domain, and back. */
static uint64_t outcome(gln_exchange_t *x)
{
    int ranks = gln_comm_size(comm);
    int32_t *counts = allocate((size_t)ranks * 4), *zeros = allocate((size_t)ranks * 4);
    int32_t *token = allocate((size_t)(ranks * tokens) * 4);
    float in[tokens * hidden], back[tokens * hidden];
    for (int j = 0; j < ranks; j++) {
        counts[j] = tokens;
        for (int t = 0; t < tokens; t++)
            token[j * tokens + t] = (t + j) % tokens;
    }
    for (int i = 0; i < tokens * hidden; i++)
        in[i] = (float)(1 + i) / (float)(3 + gln_comm_rank(comm));
    gln_exchange_send_t send = {counts, token, zeros, zeros, NULL};
    gln_exchange_received_t got;
    CHECK_OK(gln_exchange_plan(x, &send, &got));
    float *rows = allocate((size_t)(got.rows_count * hidden) * 4);
    CHECK_OK(gln_exchange_dispatch(x, in, rows));
    CHECK_OK(gln_exchange_combine(x, rows, back));
    uint64_t hash = hash_bytes(1, rows, (size_t)(got.rows_count * hidden) * 4);
    hash = hash_bytes(hash, back, sizeof back);
    free(counts), free(zeros), free(token), free(rows);
    return hash;
}

/* Auto falls back to messages; its warning and reason hold `words`. */
static void falls_back(uint64_t expected, const char *words)
{
    gln_exchange_options_t o = options_of(GLN_PATH_AUTO);
    int64_t said;
    char reason[GLN_WINDOW_REASON] = "", *all;
    comm->window_noticed = 0;
    errors = warnings = 0;
    for (int i = 0; i < 2; i++) {
        gln_exchange_t *x = NULL;
        CHECK_OK(gln_exchange_open(comm, &o, &x));
        CHECK(gln_exchange_path(x) == GLN_PATH_MESSAGES);
        snprintf(reason, sizeof reason, "%s", gln_exchange_path_reason(x));
        CHECK(strstr(reason, words), "found: %s", reason);
        CHECK(outcome(x) == expected, "messages bring the same bits");
        gln_exchange_close(x);
    }
    said = warnings;
    if (warnings > 0) CHECK(strstr(warning, words), "found: %s", warning);
    CHECK_OK(gln_comm_sum_i64(comm, &said, 1));
    CHECK(said == 1 && errors == 0, "%lld warnings, %d errors", (long long)said, errors);
    all = allocate(sizeof reason * (size_t)gln_comm_size(comm));
    CHECK_OK(gln_comm_allgather(comm, reason, sizeof reason, all));
    CHECK(memcmp(all, reason, sizeof reason) == 0, "the same reason everywhere");
    if (gln_comm_rank(comm) == 0) printf("%s\n", reason);
    free(all);
}

static void refuses(const char *words)
{
    gln_exchange_options_t o = options_of(GLN_PATH_SHARED);
    gln_exchange_t *x = NULL;
    int64_t said;
    errors = warnings = 0;
    CHECK(gln_exchange_open(comm, &o, &x) == GLN_ERR_MEMORY && x == NULL);
    said = errors;
    if (errors > 0) CHECK(strstr(gln_last_error(), words));
    CHECK_OK(gln_comm_sum_i64(comm, &said, 1));
    CHECK(said >= 1 && warnings == 0, "an error somewhere, no warning");
}

static uint64_t works(gln_exchange_path_t path, gln_exchange_path_t expected, const char *words)
{
    gln_exchange_options_t o = options_of(path);
    gln_exchange_t *x = NULL;
    errors = warnings = 0;
    CHECK_OK(gln_exchange_open(comm, &o, &x));
    CHECK(gln_exchange_path(x) == expected && errors == 0 && warnings == 0);
    CHECK(strstr(gln_exchange_path_reason(x), words), "%s", gln_exchange_path_reason(x));
    uint64_t hash = outcome(x);
    gln_exchange_close(x);
    return hash;
}

int main(void)
{
    CHECK_OK(gln_comm_open_world(&comm));
    gln_log_set_sink(sink, NULL);
    int ranks = gln_comm_size(comm);
    real = comm->ops;
    gln_comm_ops_t planted = *real;
    gln_exchange_path_t best = ranks > 1 ? GLN_PATH_SHARED : GLN_PATH_MESSAGES;
    uint64_t expected = works(GLN_PATH_MESSAGES, GLN_PATH_MESSAGES, "asked for");
    CHECK(works(GLN_PATH_AUTO, best, ranks > 1 ? "share a node" : "") == expected);
    CHECK(works(GLN_PATH_SHARED, best, ranks > 1 ? "asked for" : "") == expected);
    char where[128] = "";
    int64_t left = real->window_room(comm, where, sizeof where);
    CHECK(left == -1 || (left >= 0 && where[0] == '/'), "%lld in %s", (long long)left, where);

    comm->ops = &planted;
    for (failing_rank = -1; failing_rank < ranks && ranks > 1; failing_rank += ranks - 1) {
        planted.window_room = little_room;
        room =
            40 << 20; /* enough for these windows, so little that their pages are taken at once */
        CHECK(works(GLN_PATH_AUTO, best, "share a node") == expected);
        room = 4096;
        falls_back(expected, "/dev/shm of rank");
        refuses("has 4.0 KiB free");
        planted.window_room = real->window_room;
        if (failing_rank < 0) continue;
        planted.window_open = failing_open;
        falls_back(expected, "planted: no window for rank");
        refuses("planted: no window for rank");
        planted.window_open = real->window_open;
    }
    comm->ops = real;
    CHECK(works(GLN_PATH_AUTO, best, ranks > 1 ? "share a node" : "") == expected);
    if (gln_comm_rank(comm) == 0) printf("ok\n");
    gln_log_set_sink(NULL, NULL);
    gln_comm_close(comm);
    return 0;
}
