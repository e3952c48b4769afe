#include "base/log.h"
#include "cluster/rank_map.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

Test(rank_map, nodes_are_numbered_by_their_lowest_rank)
{
    int ids[] = {42, -7, 42, 0, -7, 42};
    const int node[] = {0, 1, 0, 2, 1, 0}, local[] = {0, 0, 1, 0, 1, 2}, ranks[] = {3, 2, 1};
    gln_rank_map_t *map = NULL;
    cr_assert_eq(gln_rank_map_open(ids, 6, &map), GLN_OK);
    memset(ids, 0, sizeof ids); /* they were copied */
    cr_assert_eq(gln_rank_map_ranks(map), 6);
    cr_assert_eq(gln_rank_map_nodes(map), 3);
    for (int rank = 0; rank < 6; rank++) {
        cr_assert_eq(gln_rank_map_node(map, rank), node[rank]);
        cr_assert_eq(gln_rank_map_local_rank(map, rank), local[rank]);
        for (int other = 0; other < 6; other++)
            cr_assert_eq(gln_rank_map_same_node(map, rank, other), node[rank] == node[other]);
    }
    for (int i = 0; i < 3; i++)
        cr_assert_eq(gln_rank_map_ranks_on_node(map, i), ranks[i]);
    gln_rank_map_close(map);
}

Test(rank_map, one_rank_and_a_node_for_every_rank)
{
    const int ids[] = {5, 6, 7, 8};
    gln_rank_map_t *map = NULL;
    cr_assert_eq(gln_rank_map_open(ids, 1, &map), GLN_OK);
    cr_assert_eq(gln_rank_map_nodes(map), 1);
    cr_assert_eq(gln_rank_map_ranks_on_node(map, 0), 1);
    gln_rank_map_close(map);
    cr_assert_eq(gln_rank_map_open(ids, 4, &map), GLN_OK);
    cr_assert_eq(gln_rank_map_nodes(map), 4);
    cr_assert(!gln_rank_map_same_node(map, 0, 3));
    gln_rank_map_close(map);
    gln_rank_map_close(NULL);
}

Test(rank_map, wrong_arguments_are_refused)
{
    const int ids[] = {0};
    gln_rank_map_t *map = NULL;
    cr_assert_eq(gln_rank_map_open(NULL, 1, &map), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_rank_map_open(ids, 1, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_rank_map_open(ids, 0, &map), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "at least 1 rank, found 0"));
    cr_assert_null(map);
}

Test(rank_map, a_rank_outside_is_an_assertion, .signal = SIGABRT)
{
    const int ids[] = {0, 1};
    gln_rank_map_t *map = NULL;
    if (gln_rank_map_open(ids, 2, &map) == GLN_OK) gln_rank_map_node(map, 2);
}
