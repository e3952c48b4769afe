#include "base/log.h"
#include "base/memory.h"
#include "comm/comm.h"
#include "comm/exchange.h"
#include <criterion/criterion.h>
#include <string.h>

static gln_exchange_options_t options(int domains)
{
    return (gln_exchange_options_t){.domains = domains,
                                    .groups = 1,
                                    .tokens = 4096,
                                    .hidden = 1024,
                                    .dtype = GLN_F32,
                                    .rows_max = 2048,
                                    .scalars_max = 2048,
                                    .meta_bytes_max = 64};
}

/* Bytes of an exchange opened on a planned world, as one rank counts them. */
static int64_t planned(int rank, int ranks, int per_node, gln_exchange_path_t path,
                       gln_memory_kind_t kind)
{
    gln_comm_t *comm = NULL;
    gln_exchange_t *exchange = NULL;
    gln_exchange_options_t o = options(ranks);
    o.path = path;
    gln_memory_reserve(1);
    cr_assert_eq(gln_comm_open_plan(rank, ranks, per_node, &comm), GLN_OK);
    cr_assert_eq(gln_exchange_open(comm, &o, &exchange), GLN_OK);
    int64_t bytes = gln_memory_held(kind);
    gln_exchange_close(exchange);
    gln_comm_close(comm);
    gln_memory_reserve(0);
    for (int i = 0; i < GLN_MEMORY_KINDS; i++)
        cr_expect_eq(gln_memory_held((gln_memory_kind_t)i), 0);
    return bytes;
}

Test(comm_plan, a_rank_of_a_world)
{
    gln_comm_t *comm = NULL, *part = NULL;
    int32_t mine = 7, all[6] = {0};
    int rank = -1;
    cr_assert_eq(gln_comm_open_plan(3, 6, 4, &comm), GLN_OK);
    cr_expect_eq(gln_comm_rank(comm), 3);
    cr_expect_eq(gln_comm_size(comm), 6);
    cr_expect_eq(gln_comm_nodes_count(comm), 2);
    cr_expect_eq(gln_comm_node_of(comm, 3), 0);
    cr_expect_eq(gln_comm_node_of(comm, 4), 1);
    cr_expect_eq(gln_comm_barrier(comm), GLN_OK);
    cr_expect_eq(gln_comm_agree(comm, GLN_ERR_MEMORY, &rank), GLN_ERR_MEMORY);
    cr_expect_eq(rank, 3);
    cr_expect_eq(gln_comm_allgather(comm, &mine, sizeof mine, all), GLN_OK);
    for (int r = 0; r < 6; r++)
        cr_expect_eq(all[r], 7);
    cr_expect_eq(gln_comm_split(comm, 0, &part), GLN_OK);
    gln_comm_close(part);
    gln_comm_close(comm);
}

Test(comm_plan, moves_no_data)
{
    gln_comm_t *comm = NULL;
    int32_t send[2] = {1, 2}, receive[2] = {0};
    gln_log_hold(1);
    cr_assert_eq(gln_comm_open_plan(0, 2, 2, &comm), GLN_OK);
    cr_expect_eq(gln_comm_alltoall_i32(comm, send, 1, receive), GLN_ERR_ARGUMENT);
    gln_comm_close(comm);
}

Test(comm_plan, refuses_what_is_no_world)
{
    gln_comm_t *comm = NULL;
    gln_log_hold(1);
    cr_expect_eq(gln_comm_open_plan(0, 0, 1, &comm), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_open_plan(2, 2, 1, &comm), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_open_plan(-1, 2, 1, &comm), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_open_plan(0, 2, 0, &comm), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_open_plan(0, 2, 1, NULL), GLN_ERR_ARGUMENT);
    cr_expect_null(comm);
}

/* 8 MiB from every one of 256 ranks: sizes without the memory. */
Test(comm_plan, windows_within_a_node_staging_between_nodes)
{
    const int64_t rows = (int64_t)2048 * 1024 * 4;
    int64_t window = planned(0, 256, 256, GLN_PATH_AUTO, GLN_MEMORY_WINDOW);
    cr_expect_geq(window, 256 * rows);
    cr_expect_lt(window, 256 * rows + (1 << 20));
    cr_expect_lt(planned(0, 256, 256, GLN_PATH_AUTO, GLN_MEMORY_EXCHANGE), rows * 8);
    /* one rank a node: no window, all is received here and staged here */
    cr_expect_eq(planned(0, 256, 1, GLN_PATH_AUTO, GLN_MEMORY_WINDOW), 0);
    cr_expect_geq(planned(0, 256, 1, GLN_PATH_AUTO, GLN_MEMORY_EXCHANGE), 511 * rows);
    cr_expect_eq(planned(1, 8, 8, GLN_PATH_MESSAGES, GLN_MEMORY_WINDOW), 0);
    cr_expect_geq(planned(1, 8, 8, GLN_PATH_MESSAGES, GLN_MEMORY_EXCHANGE), 15 * rows);
}
