/* Random plans of every policy, dispatched and combined with experts that do nothing: every token
 * comes back as it was.
 *
 * A route of weight 1 to the identity adds the token itself, so that a token with r routes returns
 * as r times itself; rows have few bits, so that this is exact in any order, and every row of a
 * token with one route, of any bits at all, returns unchanged. One scalar per route travels back
 * too and names the expert it came from. Every case also runs as a world of one, whose ledgers must
 * be the same. RANKS: 1 2 4 */
#include "base/rng.h"
#include "comm/exchange.h"
#include "moe/parallel.h"
#include "router/router.h"
#include "tests/ranks/comm/check.h"
#include <math.h>

enum { CASES = 900, HIDDEN = 7, TOKENS_MAX = 40, EXPERTS_MAX = 24, DOMAINS_MAX = 8 };

typedef struct fuzz {
    uint64_t seed, drawn;
    gln_parallel_t parallel;
    gln_router_options_t options;
    gln_router_shape_t shape;
    int any_bits; /* rows are any floats: only tokens with one route are compared */
    gln_comm_t *comm;
    gln_exchange_t *exchange;
    gln_router_t *router;
    gln_plan_t *plan;
    gln_ledger_t ledger;
} fuzz_t;

static int below(fuzz_t *f, int count)
{
    return (int)(gln_rng_u64(f->seed, gln_rng_stream(GLN_RNG_TEST, 41, 0), f->drawn++) %
                 (uint64_t)count);
}

static double logit(const fuzz_t *f, int domain, int64_t index)
{
    double x = gln_rng_normal(f->seed, gln_rng_stream(GLN_RNG_TEST, 42, (uint64_t)domain),
                              (uint64_t)index);
    int expert = (int)(index % f->shape.experts);
    if (f->seed % 3 == 1) return 0.5 * x - 1.5 * log(1 + expert);
    if (f->seed % 3 == 2) return rint(x);
    return x;
}

/* Element of a token: up to 12 bits and a sign, or any finite float, denormals included. */
static float element(const fuzz_t *f, int domain, int64_t index)
{
    uint64_t bits =
        gln_rng_u64(f->seed, gln_rng_stream(GLN_RNG_TEST, 43, (uint64_t)domain), (uint64_t)index);
    if (!f->any_bits) return ldexpf((float)((int)(bits % 8191) - 4095), (int)(bits >> 32) % 9 - 4);
    uint32_t word = (uint32_t)(bits >> 32);
    if ((word >> 23 & 0xff) == 0xff) word &= ~(1u << 23);
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static int divisor(fuzz_t *f, int n)
{
    int d = 1 + below(f, n);
    while (n % d)
        d--;
    return d;
}

/* A function of the seed, whatever the number of ranks. */
static void draw(fuzz_t *f)
{
    static const int tokens[] = {1, 1, 2, 5, 11, 24, TOKENS_MAX}, per_domain[] = {1, 2, 3};
    static const double factors[] = {1e-9, 0.5, 0.75, 1, 1.25, 2, INFINITY};
    int domains = 4 << below(f, 2), groups = 1 << below(f, 3);
    int group = domains / groups, l = per_domain[below(f, 3)], experts = group * l;
    f->parallel.domains = domains;
    f->parallel.groups = groups;
    f->shape = (gln_router_shape_t){tokens[below(f, 7)], experts, l, 0, GLN_F32};
    gln_router_options_t *o = &f->options;
    o->policy = (gln_policy_t)(f->seed % GLN_POLICIES_COUNT);
    o->k = o->policy == GLN_POLICY_SWITCH   ? 1
           : o->policy == GLN_POLICY_GSHARD ? 2
                                            : 1 + below(f, experts < 4 ? experts : 4);
    o->capacity_factor = factors[below(f, 7)];
    o->min_capacity = below(f, 3) ? 0 : below(f, 4);
    if (o->policy != GLN_POLICY_EXPERT_CHOICE && o->policy != GLN_POLICY_EXPANDED_DROP) {
        o->fill = below(f, 3) > 0;
        o->rectify = below(f, 3) > 0;
    }
    o->ir_exclude = below(f, 2);
    o->ir_capacity = below(f, 3) ? 0 : 1 + below(f, 4);
    o->ir_scope = divisor(f, group);
    f->any_bits = below(f, 2);
}

/* serves[t, e]: how often expert e serves token t, which may be 0 or 1. */
static void list_routes(const gln_plan_t *plan, unsigned char *serves)
{
    int experts = plan->experts;
    memset(serves, 0, TOKENS_MAX * EXPERTS_MAX);
    for (int e = 0; e < experts; e++) {
        for (int32_t i = plan->expert_offset[e]; i < plan->expert_offset[e + 1]; i++)
            serves[plan->route_token[i] * experts + e]++;
        for (int32_t i = plan->rect_offset[e]; i < plan->rect_offset[e + 1]; i++)
            serves[plan->rect_token[i] * experts + e]++;
    }
    int64_t routes = 0, unserved = 0;
    for (int t = 0; t < plan->tokens; t++) {
        int64_t before = routes;
        for (int e = 0; e < experts; e++) {
            CHECK(serves[t * experts + e] <= 1, "expert %d serves token %d twice", e, t);
            routes += serves[t * experts + e];
        }
        unserved += routes == before;
    }
    const gln_ledger_t *l = &plan->ledger;
    CHECK(routes == l->routed + l->filled + l->rect_rows && unserved == l->unserved);
}

typedef struct outgoing { /* gln_exchange_send_t with its memory */
    int32_t rows[DOMAINS_MAX * DOMAINS_MAX], scalars[DOMAINS_MAX * DOMAINS_MAX],
        bytes[DOMAINS_MAX * DOMAINS_MAX];
    int32_t token[DOMAINS_MAX * DOMAINS_MAX * TOKENS_MAX];
    unsigned char meta[DOMAINS_MAX * DOMAINS_MAX * TOKENS_MAX * EXPERTS_MAX];
    unsigned char expert[DOMAINS_MAX * TOKENS_MAX * EXPERTS_MAX]; /* of every scalar sent */
    int routes[DOMAINS_MAX * TOKENS_MAX];                         /* of every local token */
    int rows_count, meta_count, scalars_count;
} outgoing_t;

/* Metadata of a row: how many experts of this domain serve it, then which. */
static void add_pair(const fuzz_t *f, const unsigned char *serves, int s, int j, outgoing_t *out)
{
    int pair = s * f->parallel.group_domains + j, l = f->shape.per_domain;
    for (int t = 0; t < f->shape.tokens; t++) {
        unsigned char *count = &out->meta[out->meta_count];
        *count = 0;
        for (int e = j * l; e < (j + 1) * l; e++) {
            if (!serves[t * f->shape.experts + e]) continue;
            out->meta[out->meta_count + 1 + *count] = (unsigned char)e;
            out->expert[out->scalars_count++] = (unsigned char)e;
            ++*count;
        }
        if (*count == 0) continue;
        out->routes[s * f->shape.tokens + t] += *count;
        out->meta_count += 1 + *count;
        out->bytes[pair] += 1 + *count;
        out->scalars[pair] += *count;
        out->rows[pair]++;
        out->token[out->rows_count++] = t;
    }
}

static void route(fuzz_t *f, int s, unsigned char *serves)
{
    int domain = f->parallel.first_domain + s, experts = f->shape.experts;
    float logits[TOKENS_MAX * EXPERTS_MAX];
    for (int64_t i = 0; i < f->shape.tokens * experts; i++)
        logits[i] = (float)logit(f, domain, i);
    gln_route_input_t input = {.logits = logits,
                               .domain = domain,
                               .first_local =
                                   domain % f->parallel.group_domains * f->shape.per_domain,
                               .seed = f->seed};
    CHECK_OK(gln_router_route(f->router, &input, f->plan));
    gln_ledger_add(&f->ledger, &f->plan->ledger);
    list_routes(f->plan, serves);
}

/* Experts that do nothing: a row times the number of its experts here; scalars name them. */
static void serve(const fuzz_t *f, const gln_exchange_received_t *got, float *rows, float *scalars)
{
    int pairs = f->parallel.local_domains * f->parallel.group_domains;
    for (int pair = 0; pair < pairs; pair++) {
        const unsigned char *meta = (const unsigned char *)got->meta + got->meta_offset[pair];
        int64_t scalar = got->scalar_offset[pair];
        int own = (f->parallel.first_domain + pair / f->parallel.group_domains) %
                  f->parallel.group_domains;
        for (int64_t r = got->row_offset[pair]; r < got->row_offset[pair + 1]; r++) {
            int count = *meta++;
            float sum[HIDDEN];
            for (int i = 0; i < count; i++) {
                CHECK(meta[i] / f->shape.per_domain == own, "expert %d is not here", meta[i]);
                scalars[scalar++] = (float)meta[i];
                for (int h = 0; h < HIDDEN; h++)
                    sum[h] = i ? sum[h] + rows[r * HIDDEN + h] : rows[r * HIDDEN + h];
            }
            memcpy(rows + r * HIDDEN, sum, sizeof sum);
            meta += count;
        }
        CHECK(scalar == got->scalar_offset[pair + 1]);
    }
}

static void check(const fuzz_t *f, const outgoing_t *out, const float *y, const float *scalars)
{
    for (int s = 0; s < f->parallel.local_domains; s++)
        for (int t = 0; t < f->shape.tokens; t++)
            for (int h = 0; h < HIDDEN; h++) {
                int routes = out->routes[s * f->shape.tokens + t];
                int64_t at = (s * f->shape.tokens + t) * HIDDEN + h;
                float x = element(f, f->parallel.first_domain + s, t * HIDDEN + h);
                if (f->any_bits && routes > 1) continue;
                float expected = routes == 1 ? x : (float)routes * x;
                CHECK(routes == 1 ? !memcmp(&y[at], &expected, sizeof x) : y[at] == expected,
                      "case %llu, domain %d, token %d, %d routes: %a, not %a",
                      (unsigned long long)f->seed, f->parallel.first_domain + s, t, routes,
                      (double)y[at], (double)expected);
            }
    for (int i = 0; i < out->scalars_count; i++)
        CHECK(scalars[i] == out->expert[i], "case %llu, scalar %d: %g, not %d",
              (unsigned long long)f->seed, i, (double)scalars[i], out->expert[i]);
}

static void step(fuzz_t *f)
{
    const gln_parallel_t *p = &f->parallel;
    unsigned char *serves = allocate(TOKENS_MAX * EXPERTS_MAX);
    outgoing_t *out = allocate(sizeof *out);
    gln_exchange_received_t got;
    int64_t local = p->local_domains * f->shape.tokens * HIDDEN;
    for (int s = 0; s < p->local_domains; s++) {
        route(f, s, serves);
        for (int j = 0; j < p->group_domains; j++)
            add_pair(f, serves, s, j, out);
    }
    gln_exchange_send_t send = {out->rows, out->token, out->scalars, out->bytes, out->meta};
    CHECK_OK(gln_exchange_plan(f->exchange, &send, &got));
    size_t row = HIDDEN * sizeof(float), scalar = sizeof(float);
    int pairs = p->local_domains * p->group_domains;
    float *x = allocate((size_t)local * sizeof *x), *y = allocate((size_t)local * sizeof *y);
    float *rows = allocate((size_t)got.rows_count * row);
    float *a = allocate((size_t)got.scalar_offset[pairs] * scalar);
    float *back = allocate((size_t)out->scalars_count * scalar);
    for (int s = 0; s < p->local_domains; s++)
        for (int64_t i = 0; i < f->shape.tokens * HIDDEN; i++)
            x[s * f->shape.tokens * HIDDEN + i] = element(f, p->first_domain + s, i);
    CHECK_OK(gln_exchange_dispatch(f->exchange, x, rows));
    serve(f, &got, rows, a);
    memset(y, 0xff, (size_t)local * sizeof *y);
    CHECK_OK(gln_exchange_combine(f->exchange, rows, y));
    CHECK_OK(gln_exchange_scalars(f->exchange, a, back));
    check(f, out, y, back);
    void *memory[] = {serves, out, x, y, rows, a, back};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

/* @return whether the policy takes these options */
static int run_case(gln_comm_t *comm, gln_pool_t *pool, uint64_t seed, uint64_t *hash)
{
    fuzz_t f = {.seed = seed, .comm = comm};
    draw(&f);
    gln_router_options_t resolved;
    if (gln_router_resolve(&f.options, &f.shape, &resolved) != GLN_OK) return 0;
    CHECK_OK(gln_parallel_open(comm, f.parallel.domains, f.parallel.groups, f.shape.experts,
                               &f.parallel));
    gln_exchange_options_t options = {.domains = f.parallel.domains,
                                      .groups = f.parallel.groups,
                                      .tokens = f.shape.tokens,
                                      .hidden = HIDDEN,
                                      .dtype = GLN_F32,
                                      .rows_max = f.shape.tokens,
                                      .scalars_max = f.shape.tokens * f.shape.per_domain,
                                      .meta_bytes_max =
                                          (size_t)(f.shape.tokens * (1 + f.shape.per_domain))};
    CHECK_OK(gln_router_open(&f.options, &f.shape, pool, &f.router));
    CHECK_OK(gln_plan_open(f.router, &f.plan));
    CHECK_OK(gln_exchange_open(comm, &options, &f.exchange));
    step(&f);
    gln_ledger_t all[4] = {{0}}, sum = {0};
    CHECK_OK(gln_comm_allgather(comm, &f.ledger, sizeof f.ledger, all));
    for (int r = 0; r < f.parallel.ranks; r++)
        gln_ledger_add(&sum, &all[r]);
    *hash = hash_bytes(*hash, &sum, sizeof sum);
    gln_exchange_close(f.exchange);
    gln_plan_close(f.plan);
    gln_router_close(f.router);
    gln_parallel_close(&f.parallel);
    return 1;
}

int main(void)
{
    gln_comm_t *comm = NULL, *self = NULL;
    gln_pool_t *pool = NULL;
    uint64_t hash = 0, alone = 0;
    int run = 0;
    CHECK_OK(gln_comm_open_world(&comm));
    CHECK_OK(gln_comm_open_self(&self));
    CHECK_OK(gln_pool_open(1, &pool));
    for (uint64_t seed = 0; seed < CASES; seed++) {
        run += run_case(comm, pool, seed, &hash);
        run_case(self, pool, seed, &alone);
        CHECK(hash == alone, "case %llu: the ledgers of a world of one differ",
              (unsigned long long)seed);
    }
    CHECK(run >= CASES * 3 / 4, "only %d cases ran", run);
    if (gln_comm_rank(comm) == 0)
        printf("%d plans, ledgers %016llx\nok\n", run, (unsigned long long)hash);
    gln_pool_close(pool);
    gln_comm_close(self);
    gln_comm_close(comm);
    return 0;
}
