/* A permutation of experts over places moves what is local, and nothing else. */
#include "tests/unit/router/cases.h"

static gln_pool_t *pool;

static void setup(void)
{
    pool = pool_of(2);
}

static void teardown(void)
{
    gln_pool_close(pool);
}

TestSuite(expert_at, .init = setup, .fini = teardown, .timeout = 300);

enum { CASES = 2000, EXPERTS_MAX = 24 };

/* A drawn permutation, ascending within each domain. */
static void permute(test_case_t *c, int32_t *expert_at)
{
    int experts = c->shape.experts, per_domain = c->shape.per_domain;
    for (int e = 0; e < experts; e++)
        expert_at[e] = e;
    for (int e = experts - 1; e > 0; e--) {
        int other = case_below(c, e + 1);
        int32_t kept = expert_at[e];
        expert_at[e] = expert_at[other];
        expert_at[other] = kept;
    }
    for (int first = 0; first < experts; first += per_domain)
        for (int i = first; i < first + per_domain; i++)
            for (int j = i; j > first && expert_at[j - 1] > expert_at[j]; j--) {
                int32_t kept = expert_at[j];
                expert_at[j] = expert_at[j - 1];
                expert_at[j - 1] = kept;
            }
}

Test(expert_at, without_ir_the_plan_is_the_same_bit_for_bit)
{
    int compared = 0;
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        int32_t expert_at[EXPERTS_MAX];
        case_open(&c, id, GLN_F32);
        c.options.rectify = 0;
        if (c.options.policy != GLN_POLICY_EXPANDED_DROP) {
            test_run_t plain = run_open(&c, pool);
            permute(&c, expert_at);
            c.input.expert_at = expert_at;
            test_run_t placed = run_open(&c, pool);
            const char *what = plan_difference(plain.plan, placed.plan, GLN_F32);
            cr_assert_null(what, "case %llu: %s", (unsigned long long)id, what);
            run_close(&placed);
            run_close(&plain);
            compared++;
        }
        case_close(&c);
    }
    cr_assert_gt(compared, CASES / 2);
}

static int is_local(const test_case_t *c, const test_run_t *run, int expert)
{
    int reach = gln_router_options(run->router)->ir_scope * c->shape.per_domain;
    int first = c->input.first_local / reach * reach;
    for (int place = first; place < first + reach; place++)
        if (c->input.expert_at[place] == expert) return 1;
    return 0;
}

/* Rows and tokens tell the same. */
static void check_rows(const test_run_t *run)
{
    const gln_plan_t *plan = run->plan;
    for (int e = 0; e < plan->experts; e++)
        for (int32_t i = plan->rect_offset[e]; i < plan->rect_offset[e + 1]; i++) {
            cr_assert_eq(plan->token_h[plan->rect_token[i]], e);
            cr_assert_eq(plan->token_rect[plan->rect_token[i]], i);
        }
}

Test(expert_at, with_ir_tokens_go_to_the_local_places_alone)
{
    int rectified = 0, moved = 0;
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        int32_t expert_at[EXPERTS_MAX];
        case_open(&c, id, GLN_F32);
        permute(&c, expert_at);
        c.input.expert_at = expert_at;
        if (c.options.rectify) {
            test_run_t run = run_open(&c, pool);
            for (int64_t t = 0; t < c.shape.tokens; t++) {
                int h = run.plan->token_h[t];
                if (h < 0) continue;
                cr_assert(is_local(&c, &run, h), "case %llu, token %lld: expert %d",
                          (unsigned long long)id, (long long)t, h);
                rectified++;
                moved += h / c.shape.per_domain != c.input.first_local / c.shape.per_domain;
            }
            check_rows(&run);
            run_close(&run);
        }
        case_close(&c);
    }
    cr_assert_gt(rectified, 1000);
    cr_assert_gt(moved, 100);
}

/* 1 token, 4 experts, 2 a domain; domain 0 hosts 1 and 3, domain 1 hosts 0 and 2. */
static int rectified_to(const float *logits, int first)
{
    const int32_t expert_at[] = {1, 3, 0, 2};
    test_case_t c = {.options = {.k = 1, .capacity_factor = 1e-9, .rectify = 1},
                     .shape = {1, 4, 2, 0, GLN_F32},
                     .input = {.logits = logits, .first_local = first, .expert_at = expert_at}};
    test_run_t run = run_open(&c, pool);
    int h = run.plan->token_h[0];
    run_close(&run);
    return h;
}

Test(expert_at, by_hand)
{
    cr_assert_eq(rectified_to((float[]){4, 2, 3, 1}, 0), 1);
    cr_assert_eq(rectified_to((float[]){4, 1, 3, 2}, 0), 3);
    cr_assert_eq(rectified_to((float[]){3, 5, 4, 6}, 2), 2);
    cr_assert_eq(rectified_to((float[]){3, 5, 3, 6}, 2), 0); /* a tie: the lower expert */
}

/* Token 0 of one domain: its choice is expert 0, and the domain's experts 1 and 3 are candidates.
 */
Test(expert_at, expanded_drop_looks_at_the_local_places)
{
    const int32_t expert_at[] = {1, 3, 0, 2};
    const float logits[] = {4, 1, 3, 2};
    test_case_t c = {.options = {.policy = GLN_POLICY_EXPANDED_DROP, .k = 1, .capacity_factor = 4},
                     .shape = {1, 4, 2, 0, GLN_F32},
                     .input = {.logits = logits, .first_local = 0, .expert_at = expert_at}};
    test_run_t run = run_open(&c, pool);
    const int32_t want[] = {0, 1, 3};
    cr_assert_eq(run.plan->routes_count, 3);
    cr_assert_arr_eq(run.plan->token_expert, want, sizeof want);
    run_close(&run);
}
