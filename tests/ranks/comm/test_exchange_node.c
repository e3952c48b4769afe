/* The hierarchical form of the exchange against the flat one, on pretended nodes: random plans,
 * with ranks and pairs that send or receive nothing; received order, rows, sums and scalars are the
 * same bit for bit, and between nodes one row travels per distinct (token, remote node) pair. Where
 * the form is impossible the reason is named. RANKS: 2 4 8 */
#include "base/rng.h"
#include "comm/comm_internal.h"
#include "comm/exchange.h"
#include "tests/ranks/comm/check.h"
#include <math.h>

enum { scalars_max = 5, meta_max = 7, ranks_max = 8 };

typedef struct world {
    gln_exchange_options_t options;
    int ranks, rank, local, group, pairs;
    uint64_t seed;
    int step;
} world_t;

static gln_comm_t *comm;

static uint64_t random_bits(const world_t *w, int use, int64_t index)
{
    uint64_t stream =
        gln_rng_stream(GLN_RNG_TEST, (uint64_t)(w->step * 16 + use), (uint64_t)w->rank);
    return gln_rng_u64(w->seed, stream, (uint64_t)index);
}

/* Values of very different sizes, so that another order of a sum has other bits. */
static void *random_values(const world_t *w, int use, int64_t count, gln_dtype_t dtype)
{
    void *values = allocate((size_t)(count + 1) * gln_dtype_bytes(dtype));
    for (int64_t k = 0; k < count; k++) {
        uint64_t bits = random_bits(w, use, k);
        double value = ldexp((double)(bits >> 32) / 0x1p32 - 0.5, (int)(bits % 31) - 15);
        gln_store(values, k, dtype, value);
    }
    return values;
}

typedef struct plan {
    int32_t *rows, *scalars, *meta_bytes, *tokens;
    unsigned char *meta;
    int64_t scalars_count;
    gln_exchange_send_t send;
} plan_t;

/* Step 0: ordinary; 1: every third rank sends nothing; 2: half of the destinations get nothing; 3:
 * nobody sends anything; 4: everybody sends everything that fits. */
static void plan_fill(const world_t *w, plan_t *p)
{
    int64_t tokens = w->options.tokens, rows = 0, bytes = 0;
    size_t pairs = (size_t)w->pairs;
    *p = (plan_t){.rows = allocate(pairs * 4),
                  .scalars = allocate(pairs * 4),
                  .meta_bytes = allocate(pairs * 4),
                  .tokens = allocate(pairs * (size_t)w->options.rows_max * 4),
                  .meta = allocate(pairs * meta_max)};
    for (int pair = 0; pair < w->pairs; pair++) {
        int s = pair / w->group, j = pair % w->group;
        int silent = w->step == 3 || (w->step == 1 && w->rank % 3 == 0) ||
                     (w->step == 2 && j % 2 == (w->seed % 2 == 0));
        uint64_t stream =
            gln_rng_stream(GLN_RNG_TEST, (uint64_t)w->step, (uint64_t)(w->rank * 1024 + pair));
        for (int64_t k = 0; k < tokens && !silent; k++) { /* in an order that is not ascending */
            int64_t t = (int64_t)gln_rng_permute(w->seed, stream, (uint64_t)tokens, (uint64_t)k);
            int64_t share = (int64_t)(random_bits(w, 1, s * tokens + t) % 4);
            int64_t draw = (int64_t)(random_bits(w, 2, pair * tokens + t) % 3);
            if ((draw < share || w->step == 4) && p->rows[pair] < w->options.rows_max)
                p->tokens[rows + p->rows[pair]++] = (int32_t)t;
        }
        p->scalars[pair] = silent ? 0 : (int32_t)(random_bits(w, 3, pair) % (scalars_max + 1));
        p->meta_bytes[pair] = silent ? 0 : (int32_t)(random_bits(w, 4, pair) % (meta_max + 1));
        for (int b = 0; b < p->meta_bytes[pair]; b++)
            p->meta[bytes + b] = (unsigned char)random_bits(w, 5, pair * 16 + b);
        rows += p->rows[pair];
        bytes += p->meta_bytes[pair];
        p->scalars_count += p->scalars[pair];
    }
    p->send = (gln_exchange_send_t){p->rows, p->tokens, p->scalars, p->meta_bytes, p->meta};
}

static void plan_free(plan_t *p)
{
    free(p->rows), free(p->scalars), free(p->meta_bytes), free(p->tokens), free(p->meta);
}

/* Distinct (token, remote node) pairs among this rank's rows; *flat: its rows for other nodes. */
static int64_t distinct_count(const world_t *w, const plan_t *p, int64_t *flat)
{
    int64_t tokens = w->options.tokens, distinct = 0, at = 0;
    unsigned char *seen = allocate((size_t)(w->local * tokens * ranks_max));
    *flat = 0;
    for (int pair = 0; pair < w->pairs; pair++) {
        int s = pair / w->group, domain = w->rank * w->local + s;
        int peer = (domain / w->group * w->group + pair % w->group) / w->local;
        int node = gln_comm_node_of(comm, peer);
        for (int32_t r = 0; r < p->rows[pair]; r++, at++) {
            if (node == gln_comm_node_of(comm, w->rank)) continue;
            unsigned char *mark = &seen[(s * tokens + p->tokens[at]) * ranks_max + node];
            distinct += *mark == 0;
            *mark = 1;
            *flat += 1;
        }
    }
    free(seen);
    return distinct;
}

typedef struct outcome {
    int64_t rows_count;
    void *received, *combined, *scalars;
    gln_traffic_t dispatch, combine;
} outcome_t;

static void progress(gln_exchange_t *x, uint64_t calls)
{
    for (uint64_t k = 0; k < calls; k++)
        CHECK_OK(gln_exchange_progress(x));
}

static int by_stages(uint64_t choice)
{
    return choice % 4 > 0 && (choice >> 20 & 1);
}

/* As a whole, in parts or stages, each rank for itself, with calls of progress in between. */
static void dispatch(const world_t *w, gln_exchange_t *x, const void *in, void *out,
                     uint64_t choice)
{
    if (choice % 4 == 0) {
        CHECK_OK(gln_exchange_dispatch(x, in, out));
        return;
    }
    CHECK_OK(gln_exchange_dispatch_start(x, in, out));
    progress(x, choice / 4 % 60);
    if (choice % 4 > 1) CHECK_OK(gln_exchange_dispatch_near(x));
    progress(x, choice / 256 % 60);
    if (by_stages(choice)) {
        int half = w->group / w->local / 2 * w->local;
        CHECK_OK(gln_exchange_dispatch_await(x, half, w->group - half));
        CHECK_OK(gln_exchange_dispatch_await(x, 0, half));
        return; /* combine goes on from here */
    }
    CHECK_OK(gln_exchange_dispatch_finish(x));
}

/* The results of near rows come after the start, those of far ones before. */
static void combine(const world_t *w, gln_exchange_t *x, const gln_exchange_received_t *got,
                    const void *results, void *out, uint64_t choice, int stages)
{
    size_t row = (size_t)w->options.hidden * gln_dtype_bytes(w->options.dtype);
    char *rows = allocate((size_t)got->rows_count * row + 1);
    int first, count;
    int half = w->group / w->local / 2 * w->local;
    if (choice % 4 == 0 && !stages) {
        CHECK_OK(gln_exchange_combine(x, results, out));
        free(rows);
        return;
    }
    gln_exchange_near(x, &first, &count);
    for (int near = 0; near < 2; near++) {
        for (int pair = 0; pair < w->pairs; pair++) {
            int j = pair % w->group;
            size_t at = (size_t)got->row_offset[pair] * row;
            if ((j >= first && j < first + count) == near)
                memcpy(rows + at, (const char *)results + at, (size_t)got->rows[pair] * row);
        }
        if (!near && stages) {
            CHECK_OK(gln_exchange_combine_begin(x, rows, out));
            if (choice >> 20 & 1) CHECK_OK(gln_exchange_combine_send(x, half, w->group - half));
            progress(x, choice / 256 % 60);
            if (choice >> 21 & 1) CHECK_OK(gln_exchange_combine_send(x, 0, half));
        } else if (!near) {
            CHECK_OK(gln_exchange_combine_start(x, rows, out));
        }
        progress(x, choice / 4 % 60);
    }
    CHECK_OK(gln_exchange_combine_finish(x));
    free(rows);
}

static outcome_t outcome_of(const world_t *w, gln_exchange_t *x, const plan_t *p,
                            gln_exchange_received_t *got)
{
    outcome_t o;
    gln_dtype_t dtype = w->options.dtype, acc = gln_dtype_acc(dtype);
    size_t unit = gln_dtype_bytes(dtype);
    int64_t hidden = w->options.hidden, values = w->local * w->options.tokens * hidden;
    CHECK_OK(gln_exchange_plan(x, &p->send, got));
    o.rows_count = got->rows_count;
    void *in = random_values(w, 6, values, dtype);
    o.received = allocate((size_t)(got->rows_count * hidden + 1) * unit);
    gln_store(o.received, got->rows_count * hidden, w->options.dtype, 77.0);
    uint64_t choice = random_bits(w, 10, 0);
    dispatch(w, x, in, o.received, choice);
    o.dispatch = gln_exchange_traffic(x);
    double behind = gln_load(o.received, got->rows_count * hidden, w->options.dtype);
    CHECK(behind == 77.0, "wrote behind the last row");

    void *results = random_values(w, 7, got->rows_count * hidden, dtype);
    o.combined = random_values(w, 8, values, dtype);
    combine(w, x, got, results, o.combined, random_bits(w, 11, 0), by_stages(choice));
    o.combine = gln_exchange_traffic(x);
    void *back = random_values(w, 9, got->scalar_offset[w->pairs], acc);
    o.scalars = allocate((size_t)(p->scalars_count + 1) * gln_dtype_bytes(acc));
    CHECK_OK(gln_exchange_scalars(x, back, o.scalars));
    free(in), free(results), free(back);
    return o;
}

static void outcome_free(outcome_t *o)
{
    free(o->received), free(o->combined), free(o->scalars);
}

/* Traffic of both forms against the plan. */
static void traffic_check(const world_t *w, const plan_t *p, const outcome_t *flat,
                          const outcome_t *hierarchical)
{
    int64_t row = w->options.hidden * (int64_t)gln_dtype_bytes(w->options.dtype), crossing;
    int64_t distinct = distinct_count(w, p, &crossing);
    const gln_traffic_t *f = &flat->dispatch, *h = &hierarchical->dispatch;
    const gln_traffic_t *fc = &flat->combine, *hc = &hierarchical->combine;
    CHECK(f->remote_rows == crossing, "%lld rows", (long long)f->remote_rows);
    CHECK(h->remote_rows == distinct, "dispatch: %lld rows between nodes, %lld distinct pairs",
          (long long)h->remote_rows, (long long)distinct);
    CHECK(h->remote_bytes == distinct * row && hc->remote_bytes == hc->remote_rows * row);
    CHECK(h->node_bytes == h->node_rows * row && hc->node_bytes == hc->node_rows * row);
    CHECK(h->rank_rows == f->rank_rows && hc->rank_rows == fc->rank_rows);
    /* each planned row between nodes ends at its gateway or goes on to another rank */
    int64_t sums[] = {distinct, hc->remote_rows, h->node_rows - f->node_rows,
                      hc->node_rows - fc->node_rows, crossing};
    CHECK_OK(gln_comm_sum_i64(comm, sums, 5));
    CHECK(sums[1] == sums[0], "combine: %lld rows between nodes, %lld distinct pairs",
          (long long)sums[1], (long long)sums[0]);
    CHECK(sums[2] == sums[3] && sums[2] >= 0 && sums[2] <= sums[4], "%lld and %lld rows relayed",
          (long long)sums[2], (long long)sums[3]);
}

static void received_check(const world_t *w, const gln_exchange_received_t *a,
                           const gln_exchange_received_t *b)
{
    size_t pairs = (size_t)w->pairs;
    CHECK(a->rows_count == b->rows_count);
    CHECK(memcmp(a->row_offset, b->row_offset, (pairs + 1) * sizeof *a->row_offset) == 0);
    CHECK(memcmp(a->scalar_offset, b->scalar_offset, (pairs + 1) * sizeof *a->scalar_offset) == 0);
    CHECK(memcmp(a->meta_offset, b->meta_offset, (pairs + 1) * sizeof *a->meta_offset) == 0);
    CHECK(memcmp(a->meta, b->meta, a->meta_offset[pairs]) == 0, "metadata differ");
}

/* Both forms, several plans on the same two exchanges. */
static void world_check(world_t *w)
{
    gln_exchange_t *flat = NULL, *hierarchical = NULL;
    size_t unit = gln_dtype_bytes(w->options.dtype);
    w->options.across = GLN_ACROSS_FLAT;
    CHECK_OK(gln_exchange_open(comm, &w->options, &flat));
    w->options.across = GLN_ACROSS_HIERARCHICAL;
    CHECK_OK(gln_exchange_open(comm, &w->options, &hierarchical));
    CHECK(strcmp(gln_exchange_form(flat), "flat") == 0);
    CHECK(strcmp(gln_exchange_form(hierarchical), "hierarchical") == 0);
    size_t bytes = gln_exchange_bytes(hierarchical);
    CHECK(bytes > gln_exchange_bytes(flat), "the buffers of the form are counted");
    for (w->step = 0; w->step < 6; w->step++) {
        plan_t p;
        gln_exchange_received_t got_flat, got;
        plan_fill(w, &p);
        outcome_t a = outcome_of(w, flat, &p, &got_flat);
        outcome_t b = outcome_of(w, hierarchical, &p, &got);
        received_check(w, &got_flat, &got);
        int64_t values = w->local * w->options.tokens * w->options.hidden;
        CHECK(memcmp(a.received, b.received, (size_t)(a.rows_count * w->options.hidden) * unit) ==
                  0,
              "step %d: dispatched rows differ", w->step);
        CHECK(memcmp(a.combined, b.combined, (size_t)values * unit) == 0,
              "step %d: combined rows differ", w->step);
        CHECK(memcmp(a.scalars, b.scalars,
                     (size_t)p.scalars_count * gln_dtype_bytes(gln_dtype_acc(w->options.dtype))) ==
                  0,
              "step %d: scalars differ", w->step);
        traffic_check(w, &p, &a, &b);
        outcome_free(&a);
        outcome_free(&b);
        plan_free(&p);
    }
    CHECK(gln_exchange_bytes(hierarchical) == bytes, "memory is fixed at open");
    gln_exchange_close(flat);
    gln_exchange_close(hierarchical);
}

static world_t world_of(int domains, int groups, uint64_t seed)
{
    static const gln_dtype_t dtypes[] = {GLN_F32, GLN_F64, GLN_BF16};
    gln_dtype_t dtype = dtypes[seed / 3 % 3];
    world_t w = {.ranks = gln_comm_size(comm),
                 .rank = gln_comm_rank(comm),
                 .local = domains / gln_comm_size(comm),
                 .group = domains / groups,
                 .seed = seed};
    w.pairs = w.local * w.group;
    int64_t tokens = 3 + (int64_t)(seed % 29);
    w.options = (gln_exchange_options_t){.domains = domains,
                                         .groups = groups,
                                         .tokens = tokens,
                                         .hidden = 1 + (int64_t)(seed % 13),
                                         .dtype = dtype,
                                         .rows_max = seed % 3 ? tokens : (tokens + 1) / 2,
                                         .scalars_max = scalars_max,
                                         .meta_bytes_max = meta_max};
    return w;
}

/* Nodes of `size` consecutive ranks; node numbers fall, so that nothing leans on their order. */
static void nodes_set(int size)
{
    int nodes[ranks_max], ranks = gln_comm_size(comm);
    for (int r = 0; r < ranks; r++)
        nodes[r] = (ranks - 1 - r) / size;
    gln_comm_set_nodes(comm, nodes, ranks / size);
}

/* @return worlds in which the form was possible */
static int all_worlds(void)
{
    int ranks = gln_comm_size(comm), possible = 0;
    for (int size = 1; size < ranks; size *= 2)
        for (int local = 1; local <= 4; local *= 2)
            for (int groups = 1; groups <= ranks; groups *= 2) {
                if (ranks / groups <= size) continue; /* every group lies inside one node */
                nodes_set(size);
                for (int k = 0; k < 3; k++) {
                    uint64_t seed = (uint64_t)(size * 1000 + local * 100 + groups * 10 + k);
                    world_t w = world_of(ranks * local, groups, seed * 7 + 1);
                    comm->chunk_bytes = k == 2 ? 50 : GLN_COMM_CHUNK_BYTES;
                    world_check(&w);
                }
                comm->chunk_bytes = GLN_COMM_CHUNK_BYTES;
                possible++;
            }
    return possible;
}

/* Auto and forced where `reason` makes the form impossible. */
static void refused(int domains, int groups, const char *reason)
{
    world_t w = world_of(domains, groups, 5);
    gln_exchange_t *x = NULL;
    w.options.across = GLN_ACROSS_HIERARCHICAL;
    CHECK(gln_exchange_open(comm, &w.options, &x) == GLN_ERR_ARGUMENT && x == NULL);
    CHECK(strstr(gln_last_error(), reason), "expected: %s", reason);
    w.options.across = GLN_ACROSS_AUTO;
    CHECK_OK(gln_exchange_open(comm, &w.options, &x));
    CHECK(strcmp(gln_exchange_form(x), "flat") == 0);
    CHECK(strstr(gln_exchange_form_reason(x), reason), "found: %s", gln_exchange_form_reason(x));
    gln_exchange_close(x);
}

static void chosen(int domains, gln_exchange_across_t across, const char *form, const char *reason)
{
    world_t w = world_of(domains, 1, 5);
    gln_exchange_t *x = NULL;
    w.options.across = across;
    CHECK_OK(gln_exchange_open(comm, &w.options, &x));
    CHECK(strcmp(gln_exchange_form(x), form) == 0, "%s", gln_exchange_form(x));
    CHECK(strstr(gln_exchange_form_reason(x), reason), "found: %s", gln_exchange_form_reason(x));
    gln_exchange_close(x);
}

static void reasons(void)
{
    int ranks = gln_comm_size(comm), nodes[ranks_max] = {0};
    gln_comm_set_nodes(comm, nodes, 1);
    refused(ranks, 1, "all ranks share one node");
    nodes_set(ranks / 2);
    refused(ranks, ranks, "every rank hosts whole groups");
    refused(3 * ranks, 1, "powers of two");
    if (ranks > 2) refused(ranks, 2, "every group lies inside one node");
    chosen(ranks, GLN_ACROSS_FLAT, "flat", "asked for");
    chosen(2 * ranks, GLN_ACROSS_HIERARCHICAL, "hierarchical", "asked for");
    nodes_set(1);
    chosen(ranks, GLN_ACROSS_AUTO, "flat", "every node hosts one domain");
    chosen(ranks, GLN_ACROSS_HIERARCHICAL, "hierarchical", "asked for");
    if (ranks == 2) return;
    for (int r = 0; r < ranks; r++) /* the last rank alone */
        nodes[r] = r == ranks - 1;
    gln_comm_set_nodes(comm, nodes, 2);
    refused(ranks, 1, "as many on each");
    for (int r = 0; r < ranks; r++) /* in turns */
        nodes[r] = r % 2;
    gln_comm_set_nodes(comm, nodes, 2);
    refused(ranks, 1, "in order");
    for (int r = 0; r < ranks; r++) /* the first half on one node, the others on their own */
        nodes[r] = r < ranks / 2 ? 0 : 1 + r - ranks / 2;
    gln_comm_set_nodes(comm, nodes, 1 + ranks / 2);
    refused(ranks, 2, "in different ways");
    world_t w = world_of(ranks, 1, 5);
    gln_exchange_t *x = NULL;
    w.options.across = (gln_exchange_across_t)3;
    CHECK(gln_exchange_open(comm, &w.options, &x) == GLN_ERR_ARGUMENT);
}

/* Every token to k = 8 of 64 experts at random, on 2 nodes of 4 ranks. */
static void uniform_share(void)
{
    enum { tokens = 512, k = 8, experts = 64 };
    world_t w = world_of(8, 1, 5);
    w.options.tokens = w.options.rows_max = tokens;
    nodes_set(4);
    plan_t p = {.rows = allocate(8 * 4),
                .scalars = allocate(8 * 4),
                .meta_bytes = allocate(8 * 4),
                .tokens = allocate(8 * tokens * 4)};
    int64_t rows = 0;
    for (int j = 0; j < 8; j++)
        for (int t = 0; t < tokens; t++)
            for (int e = 0; e < k; e++) {
                uint64_t stream = gln_rng_stream(GLN_RNG_TEST, 99, (uint64_t)(w.rank * tokens + t));
                if (gln_rng_permute(w.seed, stream, experts, (uint64_t)e) / 8 != (uint64_t)j)
                    continue;
                p.tokens[rows++] = t;
                p.rows[j]++;
                break;
            }
    p.send = (gln_exchange_send_t){p.rows, p.tokens, p.scalars, p.meta_bytes, p.meta};
    int64_t sent[4] = {0}; /* flat, hierarchical; dispatch, combine */
    for (int form = 0; form < 2; form++) {
        gln_exchange_t *x = NULL;
        gln_exchange_received_t got;
        w.options.across = form == 0 ? GLN_ACROSS_FLAT : GLN_ACROSS_HIERARCHICAL;
        CHECK_OK(gln_exchange_open(comm, &w.options, &x));
        outcome_t o = outcome_of(&w, x, &p, &got);
        sent[form] = o.dispatch.remote_bytes;
        sent[2 + form] = o.combine.remote_bytes;
        outcome_free(&o);
        gln_exchange_close(x);
    }
    plan_free(&p);
    CHECK_OK(gln_comm_sum_i64(comm, sent, 4));
    for (int way = 0; way < 4; way += 2) {
        double share = (double)sent[way + 1] / (double)sent[way];
        if (w.rank == 0)
            printf("%s: bytes between nodes %lld, flat %lld: %.3f\n", way ? "combine" : "dispatch",
                   (long long)sent[way + 1], (long long)sent[way], share);
        CHECK(share <= 0.45, "%.3f", share);
    }
}

int main(void)
{
    CHECK_OK(gln_comm_open_world(&comm));
    int rank = gln_comm_rank(comm);
    CHECK(gln_comm_size(comm) <= ranks_max);
    int worlds = all_worlds();
    if (rank == 0) printf("%d worlds\n", worlds);
    CHECK(worlds > 0);
    reasons();
    if (gln_comm_size(comm) == 8) uniform_share();
    gln_comm_close(comm);
    if (rank == 0) printf("ok\n");
    return 0;
}
