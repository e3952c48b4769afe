/* gln_exchange_*: random plans that every rank can compute for the whole world, so that each rank
 * knows what must arrive where. Rows, metadata, order, the sparse tree sum and scalars are compared
 * bit for bit; the hash of all combined rows is that of a serial oracle, hence the same for every
 * number of ranks. RANKS: 1 2 3 4 */
#include "comm/comm_internal.h"
#include "tests/ranks/comm/exchange_world.h"
#include <time.h>

static void progress(gln_exchange_t *x, uint64_t calls)
{
    for (uint64_t k = 0; k < calls; k++)
        CHECK_OK(gln_exchange_progress(x));
}

/* The sources whose rows are near, against what the header says of them. */
static part_t near_of(const world_t *w, const gln_comm_t *comm, const gln_exchange_t *x)
{
    part_t near = {0, 0, 0};
    gln_exchange_near(x, &near.first, &near.count);
    for (int j = 0; j < w->group; j++) {
        int rank = member_of(w, domain_of(w, 0), j) / w->local;
        if (w->local >= w->group || rank == w->rank)
            CHECK(in_part(near, j), "source %d is of this rank", j);
        else if (in_part(near, j))
            CHECK(gln_exchange_path(x) == GLN_PATH_SHARED &&
                      gln_comm_node_of(comm, rank) == gln_comm_node_of(comm, w->rank),
                  "source %d is on another node", j);
    }
    return near;
}

/* Dispatch as a whole or in parts; rows are where they must be after each part. */
static void dispatch_check(const world_t *w, const gln_exchange_received_t *got, gln_comm_t *comm,
                           gln_exchange_t *x, const void *in, void *out, uint64_t choice)
{
    if (choice % 4 == 0) {
        CHECK_OK(gln_exchange_dispatch(x, in, out));
        return;
    }
    part_t own = {domain_of(w, 0) % w->group, w->local, 0};
    if (w->local > w->group) own = everything;
    CHECK_OK(gln_exchange_dispatch_start(x, in, out));
    rows_check(w, got, out, got->rows_count, own);
    progress(x, choice / 4 % 5);
    if (choice % 4 > 1) {
        CHECK_OK(gln_exchange_dispatch_near(x));
        rows_check(w, got, out, got->rows_count, near_of(w, comm, x));
        progress(x, choice / 32 % 50);
    }
    CHECK_OK(gln_exchange_dispatch_finish(x));
}

/* Combine as a whole, or with the results of near rows only after its start. */
static void combine_check(const world_t *w, const gln_exchange_received_t *got, gln_comm_t *comm,
                          gln_exchange_t *x, void *rows, void *scalars, void *out, uint64_t choice)
{
    size_t bytes = (size_t)(got->rows_count * w->hidden) * gln_dtype_bytes(w->dtype);
    if (choice % 4 == 0) {
        results_fill(w, got, rows, scalars, everything);
        CHECK_OK(gln_exchange_combine(x, rows, out));
        return;
    }
    part_t near = near_of(w, comm, x), far = near;
    far.others = 1;
    memset(rows, 0xff, bytes);
    results_fill(w, got, rows, scalars, far);
    CHECK_OK(gln_exchange_combine_start(x, rows, out));
    progress(x, choice / 4 % 5);
    results_fill(w, got, rows, scalars, near);
    progress(x, choice / 32 % 50);
    CHECK_OK(gln_exchange_combine_finish(x));
}

/* Dispatch and combine in stages: the ranks of the group in up to four runs, in an order of the
 * rank's own; rows of a stage are there when it was awaited, and its far results leave, now or at
 * the finish, while rows of others may still come. */
static void stages_check(const world_t *w, const gln_exchange_received_t *got, gln_comm_t *comm,
                         gln_exchange_t *x, void *in, void *out, void *rows, void *scalars,
                         uint64_t choice)
{
    part_t near = near_of(w, comm, x);
    int ranks = w->group > w->local ? w->group / w->local : 1, begun = 0;
    int unit = ranks > 1 ? w->local : w->group, stages = 1 + (int)(choice % 4);
    CHECK_OK(gln_exchange_dispatch_start(x, in, out));
    progress(x, choice / 4 % 8);
    for (int k = 0; k < stages; k++) {
        int s = choice & 64 ? stages - 1 - k : (k + (int)(choice / 128 % 4)) % stages;
        part_t stage = {s * ranks / stages * unit, 0, 0};
        stage.count = (s + 1) * ranks / stages * unit - stage.first;
        CHECK_OK(gln_exchange_dispatch_await(x, stage.first, stage.count));
        rows_check(w, got, out, got->rows_count, stage);
        progress(x, choice / 512 % 16);
        for (int j = stage.first; j < stage.first + stage.count; j++)
            if (!in_part(near, j)) results_fill(w, got, rows, scalars, (part_t){j, 1, 0});
        if (k + 1 == stages && choice & 1 << 14 && !begun) {
            CHECK_OK(gln_exchange_dispatch_finish(x));
            traffic_check(w, comm, gln_exchange_traffic(x), 0);
        }
        if ((k + 1 == stages || choice & 1 << 13) && !begun) {
            CHECK_OK(gln_exchange_combine_begin(x, rows, in));
            begun = 1;
        }
        if (begun && (choice >> (16 + k) & 1)) {
            CHECK_OK(gln_exchange_combine_send(x, stage.first, stage.count));
            progress(x, choice / 512 % 16);
        }
    }
    results_fill(w, got, rows, scalars, near);
    CHECK_OK(gln_exchange_combine_finish(x));
}

/* One step: plan, dispatch, combine, scalars. @return hash of the combined rows of all domains */
static uint64_t step_check(const world_t *w, gln_comm_t *comm, gln_exchange_t *x)
{
    outgoing_t *o = allocate(sizeof *o);
    gln_exchange_received_t got;
    size_t unit = gln_dtype_bytes(w->dtype), row = (size_t)w->hidden * unit;
    size_t mine = (size_t)(w->local * w->tokens) * row, all = mine * (size_t)w->ranks;
    outgoing_fill(w, o);
    CHECK_OK(gln_exchange_plan(x, &o->send, &got));
    memset(o, 0xff, sizeof *o); /* borrowed during the call only */
    received_check(w, &got);

    /* each rank chooses its buffers for itself: that of the exchange or another one */
    uint64_t choice = random_bits(w, use_count, domain_of(w, 0), 62, 0);
    int64_t room = gln_exchange_receive_max(x);
    void *in = allocate(mine), *other = allocate((size_t)(room + 1) * row);
    void *out = choice & 1 ? gln_exchange_receive_buffer(x) : other;
    if (choice & 1) room--;
    for (int s = 0; s < w->local; s++)
        for (int64_t k = 0; k < w->tokens * w->hidden; k++)
            gln_store(in, s * w->tokens * w->hidden + k, w->dtype,
                      random_value(w, use_row, domain_of(w, s), 0, k));
    if (got.rows_count <= room) gln_store(out, got.rows_count * w->hidden, w->dtype, 77.0);
    size_t scalar_bytes =
        (size_t)(w->local * w->group * scalars_max) * gln_dtype_bytes(gln_dtype_acc(w->dtype));
    void *scalars = allocate(scalar_bytes), *scalars_back = allocate(scalar_bytes);
    void *world = allocate(all), *oracle = allocate(all);
    void *rows = choice & 2 ? gln_exchange_receive_buffer(x) : other;
    if ((choice >> 2 & 3) == 0) {
        stages_check(w, &got, comm, x, in, out, rows, scalars, choice >> 32);
        out = rows;
    } else {
        dispatch_check(w, &got, comm, x, in, out, choice >> 8);
        rows_check(w, &got, out, choice & 1 ? room + 1 : -1, everything);
        traffic_check(w, comm, gln_exchange_traffic(x), 0);
        out = rows;
        memset(in, 0xff, mine);
        combine_check(w, &got, comm, x, out, scalars, in, choice >> 32);
    }
    memset(out, 0xff, (size_t)got.rows_count * row); /* the caller's again: read before this */
    traffic_check(w, comm, gln_exchange_traffic(x), 1);
    CHECK_OK(gln_exchange_scalars(x, scalars, scalars_back));
    scalars_check(w, scalars_back);
    CHECK_OK(gln_comm_allgather(comm, in, mine, world));
    combine_oracle(w, oracle);
    for (size_t k = 0; k < all / unit; k++)
        CHECK(memcmp((char *)world + k * unit, (char *)oracle + k * unit, unit) == 0,
              "D %d R %d: combined element %zu is %a, not %a", w->domains, w->groups, k,
              gln_load(world, (int64_t)k, w->dtype), gln_load(oracle, (int64_t)k, w->dtype));
    uint64_t hash = hash_bytes(0xcbf29ce484222325u, world, all);
    void *memory[] = {o, in, other, scalars, scalars_back, world, oracle};
    for (size_t k = 0; k < sizeof memory / sizeof *memory; k++)
        free(memory[k]);
    return hash;
}

static gln_exchange_options_t options_of(const world_t *w)
{
    return (gln_exchange_options_t){.domains = w->domains,
                                    .groups = w->groups,
                                    .tokens = w->tokens,
                                    .hidden = w->hidden,
                                    .dtype = w->dtype,
                                    .rows_max = w->tokens,
                                    .scalars_max = scalars_max,
                                    .meta_bytes_max = meta_max,
                                    .path = w->path};
}

static world_t world_of(const gln_comm_t *comm, int domains, int groups, gln_dtype_t dtype)
{
    return (world_t){.domains = domains,
                     .groups = groups,
                     .group = domains / groups,
                     .ranks = gln_comm_size(comm),
                     .rank = gln_comm_rank(comm),
                     .local = domains / gln_comm_size(comm),
                     .tokens = 11 + domains,
                     .hidden = 9,
                     .dtype = dtype,
                     .seed = (uint64_t)(domains * 100 + groups)};
}

static void all_worlds(gln_comm_t *comm)
{
    static const int domains[] = {1, 2, 3, 4, 6, 8, 12}, groups[] = {1, 2, 3, 4};
    static const gln_dtype_t dtypes[] = {GLN_F32, GLN_F64, GLN_BF16};
    int ranks = gln_comm_size(comm), steps = 4;
    for (size_t a = 0; a < sizeof domains / sizeof *domains; a++)
        for (size_t b = 0; b < sizeof groups / sizeof *groups; b++) {
            if (domains[a] % ranks != 0 || domains[a] % groups[b] != 0 ||
                (ranks % groups[b] != 0 && groups[b] % ranks != 0))
                continue;
            uint64_t hashes[6] = {0};
            for (int kind = 0; kind < 6; kind++) {
                world_t w = world_of(comm, domains[a], groups[b], dtypes[kind % 3]);
                w.path = kind < 3 ? GLN_PATH_MESSAGES : GLN_PATH_SHARED;
                gln_exchange_options_t options = options_of(&w);
                gln_exchange_t *x = NULL;
                uint64_t hash = 0;
                CHECK_OK(gln_exchange_open(comm, &options, &x));
                CHECK(gln_exchange_receive_max(x) == w.local * w.group * w.tokens);
                size_t bytes = gln_exchange_bytes(x);
                for (w.step = 0; w.step < steps; w.step++)
                    hash = hash * 31 + step_check(&w, comm, x);
                CHECK(gln_exchange_bytes(x) == bytes, "memory is fixed at open");
                gln_exchange_close(x);
                CHECK(kind < 3 || hash == hashes[kind - 3], "both paths give the same bits");
                hashes[kind] = hash;
                if (w.rank == 0 && kind < 3)
                    printf("D %d R %d %s: %016llx\n", w.domains, w.groups, gln_dtype_name(w.dtype),
                           (unsigned long long)hash);
            }
        }
}

/* One rank alone breaks a bound: all of them refuse, nothing is sent, and the next plan works. */
static void refusals(gln_comm_t *comm)
{
    int ranks = gln_comm_size(comm), domains = 12;
    world_t w = world_of(comm, domains, 1, GLN_F32);
    gln_exchange_options_t options = options_of(&w);
    gln_exchange_t *x = NULL;
    outgoing_t *o = allocate(sizeof *o);
    gln_exchange_received_t got;
    options.rows_max = 5;
    CHECK_OK(gln_exchange_open(comm, &options, &x));
    for (int bad = 0; bad < ranks; bad++)
        for (int kind = 0; kind < 6; kind++) {
            memset(o, 0, sizeof *o);
            o->send = (gln_exchange_send_t){o->rows, o->tokens, o->scalars, o->meta_bytes, o->meta};
            int pairs = w.local * w.group;
            for (int p = 0; p < pairs; p++) { /* good: two tokens per pair */
                o->rows[p] = 2;
                o->tokens[2 * p + 1] = 1;
                o->scalars[p] = scalars_max;
                o->meta_bytes[p] = meta_max;
            }
            CHECK_OK(gln_exchange_plan(x, &o->send, &got));
            CHECK(got.rows_count == 2 * pairs);
            if (w.rank == bad) {
                o->rows[pairs - 1] = kind == 0 ? 6 : kind == 5 ? -1 : 2;
                o->scalars[pairs - 1] += kind == 1;
                o->meta_bytes[pairs - 1] += kind == 2;
                o->tokens[2 * pairs - 1] = kind == 3 ? 0 : kind == 4 ? (int32_t)w.tokens : 1;
                for (int t = 2; t < 6 && kind == 0; t++)
                    o->tokens[2 * pairs - 2 + t] = t;
            }
            gln_status_t expected = kind < 3 ? GLN_ERR_CAPACITY : GLN_ERR_ARGUMENT;
            gln_status_t found = gln_exchange_plan(x, &o->send, &got);
            CHECK(found == expected, "kind %d on rank %d: %s", kind, bad, gln_status_name(found));
            CHECK(gln_exchange_dispatch(x, o, o) == GLN_ERR_ARGUMENT, "the plan was refused");
        }
    gln_exchange_close(x);
    free(o);
}

static void open_errors(gln_comm_t *comm)
{
    int ranks = gln_comm_size(comm);
    world_t w = world_of(comm, 12, 1, GLN_F32);
    gln_exchange_options_t good = options_of(&w), bad = good;
    gln_exchange_t *x = NULL;
    char text[96];
    bad.domains = ranks + 1;
    if (ranks > 1) {
        CHECK(gln_exchange_open(comm, &bad, &x) == GLN_ERR_ARGUMENT);
        snprintf(text, sizeof text, "(P = %d) must divide the number of domains (D = %d)", ranks,
                 ranks + 1);
        CHECK(strstr(gln_last_error(), text), "the message must say which divides which");
    }
    bad = good;
    bad.groups = 5;
    CHECK(gln_exchange_open(comm, &bad, &x) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "(R = 5) must divide the number of domains (D = 12)"));
    bad.groups = ranks == 2 || ranks == 4 ? 3 : 2;
    if (ranks > 1) {
        CHECK(gln_exchange_open(comm, &bad, &x) == GLN_ERR_ARGUMENT);
        CHECK(strstr(gln_last_error(), "one must divide the other"));
    }
    /* one rank alone asks for the impossible: nobody opens */
    bad = good;
    bad.hidden = gln_comm_rank(comm) == ranks - 1 ? 0 : bad.hidden;
    CHECK(gln_exchange_open(comm, &bad, &x) == GLN_ERR_ARGUMENT);
    CHECK(x == NULL, "outputs are written on success only");
}

/* Counters when some ranks live on another node: pretend that each pair of ranks is one. */
static void pretended_nodes(gln_comm_t *comm, gln_dtype_t dtype)
{
    int ranks = gln_comm_size(comm);
    for (int r = 0; r < ranks; r++)
        comm->nodes[r] = r / 2;
    world_t w = world_of(comm, 12, 1, dtype);
    gln_exchange_options_t options = options_of(&w);
    gln_exchange_t *x = NULL;
    CHECK_OK(gln_exchange_open(comm, &options, &x));
    CHECK(gln_exchange_path(x) == (ranks > 1 ? GLN_PATH_SHARED : GLN_PATH_MESSAGES));
    for (w.step = 0; w.step < 20; w.step++)
        step_check(&w, comm, x);
    w.step = 0;
    step_check(&w, comm, x);
    if (ranks > 2) {
        gln_traffic_t traffic = gln_exchange_traffic(x);
        CHECK(traffic.remote_rows > 0, "the plan must cross nodes, or this test tests nothing");
    }
    gln_exchange_close(x);
    for (int r = 0; r < ranks; r++)
        comm->nodes[r] = 0;
}

/* Windows used many times by ranks out of step, with rows of odd and of long lengths. */
static void many_steps(gln_comm_t *comm)
{
    static const int64_t hidden[] = {1, 300, 17, 33, 130};
    static const gln_dtype_t dtypes[] = {GLN_F64, GLN_F32, GLN_F64, GLN_BF16, GLN_BF16};
    for (size_t k = 0; k < sizeof hidden / sizeof *hidden; k++) {
        world_t w = world_of(comm, 4, 1, dtypes[k]);
        w.hidden = hidden[k];
        gln_exchange_options_t options = options_of(&w);
        gln_exchange_t *x = NULL;
        if (4 % w.ranks != 0) return;
        CHECK_OK(gln_exchange_open(comm, &options, &x));
        for (w.step = 0; w.step < 60; w.step++)
            step_check(&w, comm, x);
        gln_exchange_close(x);
    }
}

/* A receive buffer smaller than what pairs allow together: the bound holds on every rank. */
static void receive_bound(gln_comm_t *comm)
{
    world_t w = world_of(comm, 12, 1, GLN_F32);
    gln_exchange_options_t options = options_of(&w);
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    outgoing_t *o = allocate(sizeof *o);
    options.received_rows_max = w.local * w.group + 1;
    CHECK_OK(gln_exchange_open(comm, &options, &x));
    CHECK(gln_exchange_receive_max(x) == w.local * w.group + 1);
    for (int more = 0; more < 4; more++) {
        memset(o, 0, sizeof *o);
        o->send = (gln_exchange_send_t){o->rows, o->tokens, o->scalars, o->meta_bytes, o->meta};
        for (int p = 0; p < w.local * w.group; p++)
            o->rows[p] = 1;
        if (w.rank == 0) { /* to the first domain, and so to the first rank */
            o->rows[0] += more % 3;
            for (int t = 0; t < 3; t++)
                o->tokens[t] = t;
        }
        memset(o->tokens + 3, 0, sizeof o->tokens - 3 * sizeof *o->tokens);
        gln_status_t status = gln_exchange_plan(x, &o->send, &got);
        CHECK(status == (more == 2 ? GLN_ERR_CAPACITY : GLN_OK), "%d: %s", more,
              gln_status_name(status));
        if (more == 2 && w.rank == 0)
            CHECK(strstr(gln_last_error(), "received_rows_max"), "%s", gln_last_error());
    }
    gln_exchange_close(x);
    options.received_rows_max = -1;
    CHECK(gln_exchange_open(comm, &options, &x) == GLN_ERR_ARGUMENT);
    free(o);
}

/* Opens an exchange in which every pair has one row. */
static gln_exchange_t *one_row_each(gln_comm_t *comm, const world_t *w)
{
    gln_exchange_options_t options = options_of(w);
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    outgoing_t *o = allocate(sizeof *o);
    CHECK_OK(gln_exchange_open(comm, &options, &x));
    o->send = (gln_exchange_send_t){o->rows, o->tokens, o->scalars, o->meta_bytes, o->meta};
    for (int p = 0; p < w->local * w->group; p++)
        o->rows[p] = 1;
    CHECK_OK(gln_exchange_plan(x, &o->send, &got));
    free(o);
    return x;
}

/* Between calls the receive buffer is its owner's: peers that are early wait before they write. */
static void late_receiver(gln_comm_t *comm)
{
    world_t w = world_of(comm, 12, 1, GLN_F32);
    gln_exchange_t *x = one_row_each(comm, &w);
    size_t bytes = (size_t)(w.local * w.group * w.hidden) * 4;
    unsigned char *buffer = gln_exchange_receive_buffer(x);
    void *in = allocate((size_t)(w.local * w.tokens * w.hidden) * 4);
    for (int late = 0; late < w.ranks; late++) {
        memset(buffer, 0x55, bytes);
        CHECK_OK(gln_comm_barrier(comm));
        if (late == w.rank) {
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
            for (size_t k = 0; k < bytes; k++)
                CHECK(buffer[k] == 0x55, "byte %zu was written before dispatch", k);
        }
        CHECK_OK(gln_exchange_dispatch(x, in, buffer));
    }
    gln_exchange_close(x);
    free(in);
}

/* A peer that does not come is named after the time that was set, in a stage too. */
static void missing_peer(gln_comm_t *all, int stages)
{
    gln_comm_t *comm = NULL; /* its own: a communicator with a missing rank is given up */
    CHECK_OK(gln_comm_split(all, 0, &comm));
    world_t w = world_of(comm, 12, 1, GLN_F32);
    if (w.ranks == 1) {
        gln_comm_close(comm);
        return;
    }
    if (stages) w.path = GLN_PATH_MESSAGES;
    gln_exchange_t *x = one_row_each(comm, &w);
    if (w.rank == 0) {
        void *in = allocate((size_t)(w.local * w.tokens * w.hidden) * 4);
        comm->timeout_ms = 50;
        void *rows = gln_exchange_receive_buffer(x);
        if (stages) {
            CHECK_OK(gln_exchange_dispatch_start(x, in, rows));
            CHECK(gln_exchange_dispatch_await(x, w.local, w.local) == GLN_ERR_PEER);
        } else {
            CHECK(gln_exchange_dispatch(x, in, rows) == GLN_ERR_PEER);
        }
        CHECK(strstr(gln_last_error(), "rank 1 (") &&
                  strstr(gln_last_error(), "did not arrive within 50 ms; operation dispatch"),
              "%s", gln_last_error());
        free(in);
    }
    CHECK_OK(gln_comm_barrier(all));
    gln_exchange_close(x);
    gln_comm_close(comm);
}

int main(void)
{
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_world(&comm));
    all_worlds(comm);
    comm->chunk_bytes = 50; /* messages in several chunks */
    for (int k = 0; k < 2; k++) {
        world_t w = world_of(comm, 12, 1, k == 0 ? GLN_F32 : GLN_BF16);
        gln_exchange_options_t options = options_of(&w);
        gln_exchange_t *x = NULL;
        CHECK_OK(gln_exchange_open(comm, &options, &x));
        step_check(&w, comm, x);
        gln_exchange_close(x);
    }
    comm->chunk_bytes = GLN_COMM_CHUNK_BYTES;
    pretended_nodes(comm, GLN_F64);
    pretended_nodes(comm, GLN_BF16);
    many_steps(comm);
    receive_bound(comm);
    late_receiver(comm);
    missing_peer(comm, 0);
    missing_peer(comm, 1);
    refusals(comm);
    open_errors(comm);
    int rank = gln_comm_rank(comm);
    gln_comm_close(comm);
    if (rank == 0) printf("ok\n");
    return 0;
}
