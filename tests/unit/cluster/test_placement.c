/* Counting rows of a placement by hand, and choosing one: planted groups of experts are found,
 * small cases reach the optimum of all placements, load is levelled, bad numbers are refused. */
#include "base/log.h"
#include "base/rng.h"
#include "cluster/placement.h"
#include <criterion/criterion.h>
#include <string.h>

TestSuite(placement);

enum { TOKENS_MAX = 4096, K_MAX = 4, EXPERTS_MAX = 32 };

typedef struct case_data {
    int64_t count;
    int32_t source[TOKENS_MAX];
    int64_t offset[TOKENS_MAX + 1];
    int32_t expert[TOKENS_MAX * K_MAX];
    uint64_t draws;
} case_t;

static int draw(case_t *c, int below)
{
    uint64_t stream = gln_rng_stream(GLN_RNG_TEST, 7, 0);
    return (int)(gln_rng_u64(3, stream, c->draws++) % (uint64_t)below);
}

static void add(case_t *c, int source, int k, const int32_t *expert)
{
    c->source[c->count] = source;
    for (int i = 0; i < k; i++)
        c->expert[c->offset[c->count] + i] = expert[i];
    c->offset[c->count + 1] = c->offset[c->count] + k;
    c->count++;
}

static gln_placement_tokens_t tokens_of(const case_t *c)
{
    return (gln_placement_tokens_t){c->count, c->source, c->offset, c->expert};
}

static gln_placement_count_t count(const gln_placement_shape_t *shape, const case_t *c,
                                   const int32_t *domain_of)
{
    gln_placement_tokens_t tokens = tokens_of(c);
    gln_placement_count_t out;
    cr_assert_eq(gln_placement_count(shape, &tokens, domain_of, &out), GLN_OK);
    return out;
}

static gln_placement_count_t choose(const gln_placement_shape_t *shape, const case_t *c,
                                    int32_t *domain_of)
{
    gln_placement_tokens_t tokens = tokens_of(c);
    cr_assert_eq(gln_placement_choose(shape, &tokens, NULL, domain_of), GLN_OK);
    return count(shape, c, domain_of);
}

Test(placement, counts_rows_by_hand)
{
    /* 4 domains on 2 nodes, 8 experts: domain e / 2 */
    gln_placement_shape_t shape = {.domains = 4, .experts = 8, .nodes = 2};
    int32_t domain_of[8];
    static case_t c;
    memset(&c, 0, sizeof c);
    gln_placement_default(&shape, domain_of);
    add(&c, 0, 2, (int32_t[]){0, 1});    /* own, once */
    add(&c, 0, 3, (int32_t[]){2, 0, 3}); /* own and near */
    add(&c, 0, 3, (int32_t[]){4, 5, 7}); /* two domains of one other node */
    add(&c, 3, 2, (int32_t[]){0, 6});    /* far and own */
    add(&c, 2, 0, NULL);                 /* a token without routes */
    gln_placement_count_t n = count(&shape, &c, domain_of);
    cr_expect_eq(n.own_rows, 3);
    cr_expect_eq(n.near_rows, 1);
    cr_expect_eq(n.far_domain_rows, 3);
    cr_expect_eq(n.far_node_rows, 2);
    cr_expect_eq(n.routes, 10);
    cr_expect_eq(n.load_max, 4); /* domain 0: tokens 0, 0, 1, 3 */
    cr_expect_float_eq(n.imbalance, 4 / 2.5, 1e-12);

    /* expert 4 to domain 0, expert 0 to domain 2 */
    domain_of[4] = 0;
    domain_of[0] = 2;
    n = count(&shape, &c, domain_of);
    cr_expect_eq(n.own_rows, 3);        /* tokens 0 and 2 on domain 0, token 3 on domain 3 */
    cr_expect_eq(n.near_rows, 2);       /* experts 2, 3 of token 1; expert 0 of token 3 */
    cr_expect_eq(n.far_domain_rows, 4); /* expert 0 twice, experts 5 and 7 */
    cr_expect_eq(n.far_node_rows, 3);
}

Test(placement, groups_keep_their_tokens)
{
    /* 2 groups of 2 domains, a node each: nothing leaves a node */
    gln_placement_shape_t shape = {.domains = 4, .groups = 2, .experts = 4, .nodes = 2};
    int32_t domain_of[4];
    static case_t c;
    memset(&c, 0, sizeof c);
    gln_placement_default(&shape, domain_of);
    add(&c, 2, 2, (int32_t[]){0, 3});
    add(&c, 1, 2, (int32_t[]){0, 1});
    gln_placement_count_t n = count(&shape, &c, domain_of);
    cr_expect_eq(n.far_domain_rows, 0);
    cr_expect_eq(n.own_rows, 1);
    cr_expect_eq(n.near_rows, 2);
    cr_expect_eq(n.load_max, 2);
    shape.nodes = 4; /* a node per domain */
    n = count(&shape, &c, domain_of);
    cr_expect_eq(n.far_node_rows, 2);
}

/* Tokens of a node use the experts of one planted set; sets are spread over the ids. */
static void plant(case_t *c, int domains, int nodes, int experts, int k, int tokens, int stray)
{
    memset(c, 0, sizeof *c);
    for (int t = 0; t < tokens; t++) {
        int source = t % domains, node = source / (domains / nodes), n = 0;
        int32_t expert[K_MAX];
        while (n < k) {
            int set = stray > 0 && draw(c, 100) < stray ? draw(c, nodes) : node;
            int e = draw(c, experts / nodes) * nodes + (set + 1) % nodes, taken = 0;
            for (int i = 0; i < n; i++)
                taken |= expert[i] == e;
            if (!taken) expert[n++] = e;
        }
        add(c, source, k, expert);
    }
}

Test(placement, finds_planted_sets)
{
    static case_t c;
    for (int copies = 0; copies < 2; copies++)
        for (int nodes = 2; nodes <= 4; nodes *= 2) {
            gln_placement_shape_t shape = {.domains = 8,
                                           .experts = 32,
                                           .nodes = nodes,
                                           .copies = (gln_placement_copies_t)copies};
            int32_t domain_of[32], again[32];
            plant(&c, 8, nodes, 32, 2, 4000, 0);
            gln_placement_default(&shape, domain_of);
            gln_placement_count_t before = count(&shape, &c, domain_of);
            gln_placement_count_t after = choose(&shape, &c, domain_of);
            cr_expect_gt(before.far_node_rows, c.count / 2);
            cr_expect_eq(after.far_node_rows, 0, "%d nodes: %lld rows left", nodes,
                         (long long)after.far_node_rows);
            cr_expect_leq(after.imbalance, 1.12);
            choose(&shape, &c, again);
            cr_expect_arr_eq(domain_of, again, sizeof again, "two calls, two placements");
        }
}

/* 16 times the rows between nodes, the rows inside nodes, 64 times the routes beyond the limit. */
static int64_t cost_of(const gln_placement_shape_t *shape, const case_t *c,
                       const int32_t *domain_of)
{
    gln_placement_count_t n = count(shape, c, domain_of);
    int64_t load[4] = {0}, cost = 16 * n.far_domain_rows + n.near_rows;
    if (shape->copies == GLN_COPIES_NODE)
        cost = 16 * n.far_node_rows + n.near_rows + n.far_domain_rows;
    for (int64_t i = 0; i < c->offset[c->count]; i++)
        load[domain_of[c->expert[i]]]++;
    for (int d = 0; d < 4; d++) {
        int64_t over = load[d] - (int64_t)(shape->imbalance * (double)n.routes / 4);
        cost += over > 0 ? 64 * over : 0;
    }
    return cost;
}

/* The least cost over all placements of 8 experts on 4 domains, 2 each. */
static int64_t least_cost(const gln_placement_shape_t *shape, const case_t *c)
{
    int64_t least = INT64_MAX;
    for (int code = 0; code < 1 << 16; code++) {
        int32_t domain_of[8];
        int room[4] = {2, 2, 2, 2}, fits = 1;
        for (int e = 0; e < 8; e++) {
            domain_of[e] = code >> 2 * e & 3;
            fits &= room[domain_of[e]]-- > 0;
        }
        if (!fits) continue;
        int64_t cost = cost_of(shape, c, domain_of);
        if (cost < least) least = cost;
    }
    return least;
}

/* Experts of drawn popularity, so that load matters. */
static void plant_loads(case_t *c)
{
    memset(c, 0, sizeof *c);
    for (int t = 0; t < 80; t++) {
        int a = draw(c, 8), b = draw(c, 8);
        add(c, t % 4, 1, (int32_t[]){a < b ? a : b});
    }
}

Test(placement, reaches_the_optimum_of_small_cases)
{
    static case_t c;
    for (int copies = 0; copies < 2; copies++)
        for (int level = 0; level < 2; level++)
            for (int stray = 20; stray <= 140; stray += 40) {
                gln_placement_shape_t shape = {.domains = 4,
                                               .experts = 8,
                                               .nodes = 2,
                                               .copies = (gln_placement_copies_t)copies,
                                               .imbalance = level ? 1 : 1000};
                int32_t domain_of[8];
                if (stray > 100)
                    plant_loads(&c);
                else
                    plant(&c, 4, 2, 8, 3, 60, stray);
                choose(&shape, &c, domain_of);
                cr_expect_eq(cost_of(&shape, &c, domain_of), least_cost(&shape, &c),
                             "copies %d, level %d, stray %d", copies, level, stray);
            }
}

Test(placement, levels_the_load)
{
    /* experts 0 and 1 are wanted by all: the default puts both on domain 0 */
    gln_placement_shape_t shape = {.domains = 4, .experts = 8, .nodes = 4, .imbalance = 1.25};
    int32_t domain_of[8];
    static case_t c;
    memset(&c, 0, sizeof c);
    for (int t = 0; t < 400; t++)
        add(&c, 0, 2, (int32_t[]){t % 2, 2 + t / 2 % 6});
    gln_placement_default(&shape, domain_of);
    gln_placement_count_t before = count(&shape, &c, domain_of);
    gln_placement_count_t after = choose(&shape, &c, domain_of);
    cr_expect_gt(before.imbalance, 1.9);
    cr_expect_leq(after.imbalance, 1.35); /* 200 and a sixth of 400 on each of two domains */
    cr_expect_neq(domain_of[0], domain_of[1]);
    shape.imbalance = 100; /* rows alone: both stay with the tokens */
    after = choose(&shape, &c, domain_of);
    cr_expect_eq(domain_of[0], 0);
    cr_expect_eq(domain_of[1], 0);
    cr_expect_leq(after.far_domain_rows, before.far_domain_rows);
}

/* Nothing to gain: what is there stays as good. */
Test(placement, is_never_worse_than_before)
{
    static case_t c;
    gln_placement_shape_t shape = {.domains = 8, .experts = 32, .nodes = 4, .imbalance = 1000};
    int32_t domain_of[32], from[32];
    plant(&c, 8, 4, 32, 2, 1000, 100);
    choose(&shape, &c, from);
    gln_placement_tokens_t tokens = tokens_of(&c);
    cr_assert_eq(gln_placement_choose(&shape, &tokens, from, domain_of), GLN_OK);
    gln_placement_count_t a = count(&shape, &c, from), b = count(&shape, &c, domain_of);
    cr_expect_leq(16 * b.far_domain_rows + b.near_rows, 16 * a.far_domain_rows + a.near_rows);
}

/* Pairs of experts are used together, from drawn domains: what choosing sees is the sum over all
 * domains as sources, so it equals choosing on the tokens repeated from each of them. */
Test(placement, any_source_is_every_source)
{
    static case_t once, repeated;
    for (int nodes = 2; nodes <= 4; nodes *= 2)
        for (int groups = 1; groups <= 2; groups++) {
            gln_placement_shape_t shape = {.domains = 4 * groups,
                                           .groups = groups,
                                           .experts = 8,
                                           .nodes = nodes * (nodes == 4 ? groups : 1)};
            int32_t any[8], every[8];
            memset(&once, 0, sizeof once);
            memset(&repeated, 0, sizeof repeated);
            for (int t = 0; t < 200; t++) {
                int a = draw(&once, 8), b = draw(&once, 4) ? (a + 4) % 8 : (a + 1) % 8;
                int group = draw(&once, groups);
                add(&once, 4 * group + draw(&once, 4), 2, (int32_t[]){a, b});
                for (int d = 0; d < 4; d++)
                    add(&repeated, 4 * group + d, 2, (int32_t[]){a, b});
            }
            choose(&shape, &repeated, every);
            shape.any_source = 1;
            choose(&shape, &once, any);
            gln_placement_count_t n = count(&shape, &repeated, any);
            gln_placement_count_t m = count(&shape, &repeated, every);
            cr_expect_eq(n.far_domain_rows, m.far_domain_rows, "%d nodes, %d groups", nodes,
                         groups);
            cr_expect_eq(n.near_rows, m.near_rows);
            if (groups == 1)
                for (int e = 0; e < 4; e++)
                    cr_expect_eq(any[e], any[e + 4], "%d and %d are apart", e, e + 4);
        }
}

Test(placement, orders_experts_by_domain)
{
    int32_t expert_at[6];
    gln_placement_order(6, (int32_t[]){2, 0, 1, 2, 1, 0}, expert_at);
    cr_expect_arr_eq(expert_at, ((int32_t[]){1, 5, 2, 4, 0, 3}), sizeof expert_at);
}

Test(placement, no_tokens_and_one_domain)
{
    static case_t c;
    memset(&c, 0, sizeof c);
    gln_placement_shape_t shape = {.domains = 4, .experts = 8, .nodes = 2};
    int32_t domain_of[8];
    gln_placement_count_t n = choose(&shape, &c, domain_of);
    cr_expect_eq(n.routes, 0);
    cr_expect_float_eq(n.imbalance, 1, 0);
    shape = (gln_placement_shape_t){.domains = 1, .experts = 8, .nodes = 1};
    add(&c, 0, 2, (int32_t[]){0, 5});
    n = choose(&shape, &c, domain_of);
    cr_expect_eq(n.own_rows, 1);
}

Test(placement, refuses)
{
    static case_t c;
    int32_t domain_of[8];
    gln_placement_count_t n;
    memset(&c, 0, sizeof c);
    add(&c, 3, 2, (int32_t[]){0, 5});
    gln_placement_tokens_t tokens = tokens_of(&c);
    const gln_placement_shape_t good = {.domains = 4, .experts = 8, .nodes = 2};
    gln_placement_shape_t bad[] = {good, good, good, good, good, good};
    bad[0].domains = 0;
    bad[1].groups = 3;
    bad[2].experts = 6;
    bad[3].nodes = 3;
    bad[4].imbalance = 0.5;
    bad[5].domains = 2; /* the token's source is 3 */
    gln_placement_default(&good, domain_of);
    gln_log_hold(1);
    for (int i = 0; i < 6; i++) {
        cr_expect_eq(gln_placement_choose(&bad[i], &tokens, NULL, domain_of), GLN_ERR_ARGUMENT,
                     "%d", i);
        cr_expect_eq(gln_placement_count(&bad[i], &tokens, domain_of, &n), GLN_ERR_ARGUMENT, "%d",
                     i);
    }
    domain_of[7] = 4;
    cr_expect_eq(gln_placement_count(&good, &tokens, domain_of, &n), GLN_ERR_ARGUMENT);
    domain_of[7] = 0;
    cr_expect_eq(gln_placement_count(&good, &tokens, domain_of, &n), GLN_ERR_ARGUMENT);
    cr_expect(strstr(gln_last_error(), "domain 0 hosts 3"), "%s", gln_last_error());
    cr_expect_eq(gln_placement_choose(&good, &tokens, domain_of, domain_of), GLN_ERR_ARGUMENT);
    c.expert[1] = 8;
    cr_expect_eq(gln_placement_choose(&good, &tokens, NULL, domain_of), GLN_ERR_ARGUMENT);
    gln_log_hold(0);
}
