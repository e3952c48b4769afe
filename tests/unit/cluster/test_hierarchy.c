#include "base/log.h"
#include "cluster/hierarchy.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Eight ranks, named out of order: nodes 7 (two NUMA nodes), 3, 9; 7 and 9 in switch group 5. */
static const gln_place_t places[8] = {
    {7, 0, 0, 5}, {3, 0, 0, 2}, {7, 0, 0, 5}, {9, -1, -1, 5},
    {7, 1, 1, 5}, {3, 0, 0, 2}, {7, 1, 1, 5}, {9, -1, -1, 5},
};

static gln_hierarchy_t *open_eight(void)
{
    gln_hierarchy_t *h = NULL;
    cr_assert_eq(gln_hierarchy_open(places, 8, &h), GLN_OK);
    return h;
}

Test(hierarchy, parts_are_numbered_by_their_lowest_rank)
{
    const int node[8] = {0, 1, 0, 2, 0, 1, 0, 2}, group[8] = {0, 1, 0, 0, 0, 1, 0, 0};
    const int numa[8] = {0, 1, 0, -1, 2, 1, 2, -1}, local[8] = {0, 0, 1, 0, 2, 1, 3, 1};
    gln_hierarchy_t *h = open_eight();
    cr_assert_eq(gln_hierarchy_ranks(h), 8);
    cr_assert_eq(gln_hierarchy_nodes(h), 3);
    cr_assert_eq(gln_hierarchy_numa_nodes(h), 3);
    cr_assert_eq(gln_hierarchy_groups(h), 2);
    for (int r = 0; r < 8; r++) {
        cr_assert_eq(gln_hierarchy_node(h, r), node[r]);
        cr_assert_eq(gln_hierarchy_group(h, r), group[r]);
        cr_assert_eq(gln_hierarchy_numa_node(h, r), numa[r]);
        cr_assert_eq(gln_hierarchy_local_rank(h, r), local[r]);
        cr_assert_eq(gln_hierarchy_place(h, r).package, places[r].package);
        cr_assert_eq(gln_hierarchy_rank_on_node(h, node[r], local[r]), r);
    }
    gln_hierarchy_close(h);
}

Test(hierarchy, sizes)
{
    gln_hierarchy_t *h = open_eight();
    const int ranks[3] = {4, 2, 2}, groups[3] = {0, 1, 0};
    for (int node = 0; node < 3; node++) {
        cr_assert_eq(gln_hierarchy_ranks_on_node(h, node), ranks[node]);
        cr_assert_eq(gln_hierarchy_node_group(h, node), groups[node]);
    }
    cr_assert_eq(gln_hierarchy_nodes_in_group(h, 0), 2);
    cr_assert_eq(gln_hierarchy_nodes_in_group(h, 1), 1);
    gln_hierarchy_close(h);
}

Test(hierarchy, links)
{
    gln_hierarchy_t *h = open_eight();
    enum {
        R = GLN_LINK_RANK,
        M = GLN_LINK_NUMA,
        N = GLN_LINK_NODE,
        G = GLN_LINK_GROUP,
        B = GLN_LINK_BEYOND
    };
    const int links[8][8] = {
        {R, B, M, G, N, B, N, G}, {B, R, B, B, B, M, B, B},
        {M, B, R, G, N, B, N, G}, {G, B, G, R, G, B, G, N}, /* one node, kept to no NUMA node */
        {N, B, N, G, R, B, M, G}, {B, M, B, B, B, R, B, B},
        {N, B, N, G, M, B, R, G}, {G, B, G, N, G, B, G, R},
    };
    for (int a = 0; a < 8; a++)
        for (int b = 0; b < 8; b++) {
            cr_assert_eq((int)gln_hierarchy_link(h, a, b), links[a][b], "%d to %d", a, b);
            cr_assert_eq(gln_hierarchy_same_node(h, a, b), links[a][b] <= N);
        }
    cr_assert_str_eq(gln_link_name(GLN_LINK_NUMA), "NUMA node");
    cr_assert_str_eq(gln_link_name(GLN_LINKS), "unknown");
    gln_hierarchy_close(h);
}

Test(hierarchy, many_ranks_round_robin)
{
    enum { P = 4096, NODES = 512 };
    gln_place_t *many = calloc(P, sizeof *many);
    for (int r = 0; r < P; r++)
        many[r] = (gln_place_t){r % NODES, r / NODES % 2, 0, r % NODES / 32};
    gln_hierarchy_t *h = NULL;
    cr_assert_eq(gln_hierarchy_open(many, P, &h), GLN_OK);
    cr_assert_eq(gln_hierarchy_nodes(h), NODES);
    cr_assert_eq(gln_hierarchy_numa_nodes(h), 2 * NODES);
    cr_assert_eq(gln_hierarchy_groups(h), NODES / 32);
    for (int r = 0; r < P; r++) {
        cr_assert_eq(gln_hierarchy_node(h, r), r % NODES);
        cr_assert_eq(gln_hierarchy_local_rank(h, r), r / NODES);
        cr_assert_eq(gln_hierarchy_numa_node(h, r), r % (2 * NODES));
        cr_assert_eq(gln_hierarchy_rank_on_node(h, r % NODES, r / NODES), r);
    }
    cr_assert_eq(gln_hierarchy_nodes_in_group(h, 15), 32);
    gln_hierarchy_close(h);
    free(many);
}

Test(hierarchy, wrong_arguments_are_refused)
{
    gln_hierarchy_t *h = NULL;
    const gln_place_t torn[2] = {{4, 0, 0, 1}, {4, 0, 0, 2}};
    cr_assert_eq(gln_hierarchy_open(NULL, 1, &h), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_hierarchy_open(places, 1, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_hierarchy_open(places, 0, &h), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_hierarchy_open(torn, 2, &h), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "1 at rank 0 and 2 at rank 1 of node 4"));
    cr_assert_null(h);
    gln_hierarchy_close(NULL);
}

Test(hierarchy, a_rank_outside_is_an_assertion, .signal = SIGABRT)
{
    gln_hierarchy_node(open_eight(), 8);
}
