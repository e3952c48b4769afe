/* moe/parallel.h: every layout against values written down by hand, and every error with its
 * message. */
#include "base/log.h"
#include "moe/parallel.h"
#include <criterion/criterion.h>
#include <string.h>

typedef struct expected {
    int ranks, rank, domains, groups, experts;                  /* given */
    int group_domains, per_domain, local_domains, first_domain; /* wanted */
    int local_groups, first_group, local_experts, first_expert;
} expected_t;

static const expected_t layouts[] = {
    /* P  r  D  R  E     G  L  D/P d0   g  g0  le e0 */
    {1, 0, 1, 1, 1, /**/ 1, 1, 1, 0, /**/ 1, 0, 1, 0},
    {1, 0, 4, 1, 8, /**/ 4, 2, 4, 0, /**/ 1, 0, 8, 0},
    {1, 0, 4, 4, 8, /**/ 1, 8, 4, 0, /**/ 4, 0, 8, 0},
    {2, 0, 4, 1, 8, /**/ 4, 2, 2, 0, /**/ 1, 0, 4, 0},
    {2, 1, 4, 1, 8, /**/ 4, 2, 2, 2, /**/ 1, 0, 4, 4},
    {2, 0, 4, 2, 8, /**/ 2, 4, 2, 0, /**/ 1, 0, 8, 0}, /* one whole group each */
    {2, 1, 4, 2, 8, /**/ 2, 4, 2, 2, /**/ 1, 1, 8, 0},
    {2, 1, 4, 4, 8, /**/ 1, 8, 2, 2, /**/ 2, 2, 8, 0}, /* two whole groups each */
    {4, 0, 4, 2, 8, /**/ 2, 4, 1, 0, /**/ 1, 0, 4, 0},
    {4, 1, 4, 2, 8, /**/ 2, 4, 1, 1, /**/ 1, 0, 4, 4},
    {4, 2, 4, 2, 8, /**/ 2, 4, 1, 2, /**/ 1, 1, 4, 0},
    {4, 3, 4, 2, 8, /**/ 2, 4, 1, 3, /**/ 1, 1, 4, 4},
    {4, 3, 4, 1, 4, /**/ 4, 1, 1, 3, /**/ 1, 0, 1, 3},
    {2, 1, 8, 4, 6, /**/ 2, 3, 4, 4, /**/ 2, 2, 6, 0},
    {8, 5, 8, 2, 16, /**/ 4, 4, 1, 5, /**/ 1, 1, 4, 4},
    {4, 3, 8, 2, 16, /**/ 4, 4, 2, 6, /**/ 1, 1, 8, 8},
    {3, 2, 6, 1, 12, /**/ 6, 2, 2, 4, /**/ 1, 0, 4, 8},
    {3, 1, 6, 3, 4, /**/ 2, 2, 2, 2, /**/ 1, 1, 4, 0},
};

Test(parallel, layouts_are_as_written_down)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; ++i) {
        const expected_t *w = &layouts[i];
        gln_parallel_t p;

        cr_assert_eq(gln_parallel_layout(w->ranks, w->rank, w->domains, w->groups, w->experts, &p),
                     GLN_OK, "row %zu: %s", i, gln_last_error());
        cr_expect(p.ranks == w->ranks && p.rank == w->rank && p.domains == w->domains, "row %zu",
                  i);
        cr_expect(p.groups == w->groups && p.experts == w->experts, "row %zu", i);
        cr_expect_eq(p.group_domains, w->group_domains, "row %zu: G %d", i, p.group_domains);
        cr_expect_eq(p.per_domain, w->per_domain, "row %zu: L %d", i, p.per_domain);
        cr_expect_eq(p.local_domains, w->local_domains, "row %zu: D/P %d", i, p.local_domains);
        cr_expect_eq(p.first_domain, w->first_domain, "row %zu: d0 %d", i, p.first_domain);
        cr_expect_eq(p.local_groups, w->local_groups, "row %zu: groups %d", i, p.local_groups);
        cr_expect_eq(p.first_group, w->first_group, "row %zu: g0 %d", i, p.first_group);
        cr_expect_eq(p.local_experts, w->local_experts, "row %zu: experts %d", i, p.local_experts);
        cr_expect_eq(p.first_expert, w->first_expert, "row %zu: e0 %d", i, p.first_expert);
        cr_expect(p.comm == NULL && p.replicas == NULL, "row %zu: no communicator", i);
    }
}

/* Over all ranks of a world, every (group, expert) is held exactly once and every domain hosted
 * once. */
Test(parallel, every_expert_of_every_group_has_one_home)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; ++i) {
        const expected_t *w = &layouts[i];
        int homes[8][16] = {{0}}, hosts[8] = {0};

        for (int rank = 0; rank < w->ranks; ++rank) {
            gln_parallel_t p;
            cr_assert_eq(gln_parallel_layout(w->ranks, rank, w->domains, w->groups, w->experts, &p),
                         GLN_OK);
            for (int g = 0; g < p.local_groups; ++g)
                for (int e = 0; e < p.local_experts; ++e)
                    homes[p.first_group + g][p.first_expert + e] += 1;
            for (int d = 0; d < p.local_domains; ++d)
                hosts[p.first_domain + d] += 1;
        }
        for (int g = 0; g < w->groups; ++g)
            for (int e = 0; e < w->experts; ++e)
                cr_expect_eq(homes[g][e], 1, "row %zu: group %d expert %d", i, g, e);
        for (int d = 0; d < w->domains; ++d)
            cr_expect_eq(hosts[d], 1, "row %zu: domain %d", i, d);
    }
}

typedef struct refusal {
    int ranks, rank, domains, groups, experts;
    const char *says; /* the whole message */
} refusal_t;

static const refusal_t refusals[] = {
    {0, 0, 4, 1, 8, "the number of ranks must be at least 1, found 0"},
    {1, 0, 0, 1, 8, "the number of domains must be at least 1, found 0"},
    {1, 0, 4, -1, 8, "the number of replica groups must be at least 1, found -1"},
    {1, 0, 4, 1, 0, "the number of experts must be at least 1, found 0"},
    {2, 2, 4, 1, 8, "rank 2 is outside the world of 2 ranks; use 0 to 1"},
    {2, -1, 4, 1, 8, "rank -1 is outside the world of 2 ranks; use 0 to 1"},
    {2, 0, 6, 4, 8,
     "the number of replica groups must divide the number of domains: found 4 groups and 6 "
     "domains; "
     "with 6 domains use 1, 2, 3, 6 groups"},
    {4, 0, 6, 1, 6,
     "the number of ranks must divide the number of domains: found 4 ranks and 6 domains; start 1, "
     "2, 3, 6 ranks, or set a multiple of 4 domains"},
    {8, 0, 4, 1, 8,
     "the number of ranks must divide the number of domains: found 8 ranks and 4 domains; start 1, "
     "2, 4 ranks, or set a multiple of 8 domains"},
    {3, 0, 6, 2, 6,
     "of the number of ranks and the number of replica groups one must divide the other: found 3 "
     "ranks and 2 groups; with 6 domains and 2 groups start 1, 2, 6 ranks"},
    {1, 0, 4, 1, 6,
     "the domains of a replica group must divide the number of experts: found 4 domains in a group "
     "(4 domains / 1 groups) and 6 experts; use 4, 8 or another multiple of 4 experts"},
    {1, 0, 8, 2, 3,
     "the domains of a replica group must divide the number of experts: found 4 domains in a group "
     "(8 domains / 2 groups) and 3 experts; use 4 or another multiple of 4 experts"},
    {7, 0, 5040, 11, 5040,
     "the number of replica groups must divide the number of domains: found 11 groups and 5040 "
     "domains; with 5040 domains use 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, ... groups"},
};

Test(parallel, refusals_say_what_divides_what_and_what_would_do)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; ++i) {
        const refusal_t *r = &refusals[i];
        gln_parallel_t p;

        memset(&p, 0x5a, sizeof p);
        cr_expect_eq(gln_parallel_layout(r->ranks, r->rank, r->domains, r->groups, r->experts, &p),
                     GLN_ERR_CONFIG, "row %zu", i);
        cr_expect_str_eq(gln_last_error(), r->says, "row %zu: %s", i, gln_last_error());
        cr_expect_eq(p.ranks, 0x5a5a5a5a, "row %zu: output on success only", i);
    }
}

Test(parallel, open_in_a_world_of_one)
{
    gln_comm_t *comm;
    gln_parallel_t p;

    cr_assert_eq(gln_comm_open_self(&comm), GLN_OK);
    cr_assert_eq(gln_parallel_open(comm, 4, 2, 8, &p), GLN_OK);
    cr_expect(p.comm == comm && p.replicas != NULL);
    cr_expect_eq(gln_comm_size(p.replicas), 1);
    cr_expect_eq(p.local_groups, 2);
    cr_expect_eq(p.local_experts, 8);
    gln_parallel_close(&p);
    cr_expect(p.comm == NULL && p.replicas == NULL, "closed means zeroed");
    gln_parallel_close(&p);
    gln_parallel_close(NULL);
    cr_expect_eq(gln_parallel_open(comm, 4, 3, 8, &p), GLN_ERR_CONFIG);
    gln_comm_close(comm);
}
