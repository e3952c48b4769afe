/* A world of one rank: every collective is there and does what it does between many. */
#include "base/log.h"
#include "comm/comm_internal.h"
#include <criterion/criterion.h>
#include <string.h>

static gln_comm_t *comm;

static void open_self(void)
{
    cr_assert_eq(gln_comm_open_self(&comm), GLN_OK);
}

static void close_self(void)
{
    gln_comm_close(comm);
}

TestSuite(comm_self, .init = open_self, .fini = close_self);

Test(comm_self, is_alone)
{
    cr_expect_eq(gln_comm_rank(comm), 0);
    cr_expect_eq(gln_comm_size(comm), 1);
    cr_expect_eq(gln_comm_node_of(comm, 0), 0);
    cr_expect_eq(gln_comm_nodes_count(comm), 1);
}

Test(comm_self, collectives)
{
    int32_t in[3] = {1, 2, 3}, out[3] = {0};
    size_t bytes = sizeof in;
    int64_t values[2] = {5, -6};
    cr_expect_eq(gln_comm_barrier(comm), GLN_OK);
    cr_expect_eq(gln_comm_broadcast(comm, in, sizeof in, 0), GLN_OK);
    cr_expect_eq(in[2], 3);
    cr_expect_eq(gln_comm_allgather(comm, in, sizeof in, out), GLN_OK);
    cr_expect_arr_eq(in, out, sizeof in);
    memset(out, 0, sizeof out);
    cr_expect_eq(gln_comm_alltoall_i32(comm, in, 3, out), GLN_OK);
    cr_expect_arr_eq(in, out, sizeof in);
    memset(out, 0, sizeof out);
    cr_expect_eq(gln_comm_alltoallv(comm, in, &bytes, out, &bytes), GLN_OK);
    cr_expect_arr_eq(in, out, sizeof in);
    cr_expect_eq(gln_comm_sum_i64(comm, values, 2), GLN_OK);
    cr_expect(values[0] == 5 && values[1] == -6);
}

Test(comm_self, agrees_with_itself)
{
    int rank = -1;
    cr_expect_eq(gln_comm_agree(comm, GLN_OK, &rank), GLN_OK);
    cr_expect_eq(rank, 0);
    for (int status = 1; status < GLN_STATUS_COUNT; status++) {
        rank = -1;
        cr_expect_eq(gln_comm_agree(comm, (gln_status_t)status, &rank), (gln_status_t)status);
        cr_expect_eq(rank, 0);
    }
}

Test(comm_self, tree_sum_is_a_tree)
{
    /* 1 + 2^-24 is 1 in f32: a tree keeps the small ones together, adding in a row loses them */
    float a = 1, b = 0, c = 0x1p-24f, d = 0x1p-24f;
    void *parts[] = {&a, &b, &c, &d};
    cr_expect_eq(gln_comm_tree_sum(comm, parts, 4, 1, GLN_F32), GLN_OK);
    cr_expect_eq(a, 1 + 0x1p-23f);
    /* an absent leaf passes the other side through: ((a + b) + (c + d)) + e */
    float e = 3;
    void *five[] = {&a, &b, &c, &d, &e};
    a = 1, b = 0, c = d = 0x1p-24f;
    cr_expect_eq(gln_comm_tree_sum(comm, five, 5, 1, GLN_F32), GLN_OK);
    cr_expect_eq(a, (1 + 0x1p-23f) + 3);
    double alone = 2.5;
    void *one[] = {&alone};
    cr_expect_eq(gln_comm_tree_sum(comm, one, 1, 1, GLN_F64), GLN_OK);
    cr_expect_eq(alone, 2.5);
    cr_expect_eq(gln_comm_tree_sum(comm, one, 1, 0, GLN_F64), GLN_OK);
}

Test(comm_self, splits_into_itself)
{
    gln_comm_t *part = NULL;
    cr_assert_eq(gln_comm_split(comm, 4, &part), GLN_OK);
    cr_expect_eq(gln_comm_size(part), 1);
    gln_comm_close(part);
}

Test(comm_self, arguments)
{
    int32_t in[1] = {1}, out[1];
    size_t four = 4, none = 0;
    int64_t value = 0;
    gln_comm_t *part = NULL;
    cr_expect_eq(gln_comm_open_self(NULL), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_open_mpi(NULL, &part), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_open_world(NULL), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_split(comm, -1, &part), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_broadcast(comm, in, 4, 1), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_broadcast(comm, NULL, 4, 0), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_allgather(comm, in, 4, NULL), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_alltoall_i32(comm, in, -1, out), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_alltoallv(comm, in, &four, out, &none), GLN_ERR_ARGUMENT);
    cr_expect(strstr(gln_last_error(), "own block"), "%s", gln_last_error());
    cr_expect_eq(gln_comm_sum_i64(comm, &value, -1), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_barrier(NULL), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_broadcast(NULL, in, 4, 0), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_allgather(NULL, in, 4, out), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_alltoall_i32(NULL, in, 1, out), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_alltoallv(NULL, in, &four, out, &four), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_sum_i64(NULL, &value, 1), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_comm_agree(NULL, GLN_OK, NULL), GLN_ERR_ARGUMENT);
    gln_comm_close(NULL);
}

/* Nobody asks a world of one to send, but the table has no empty slot. */
Test(comm_self, has_no_peers)
{
    cr_expect_eq(comm->ops->send(comm, 1, "", 1), GLN_ERR_ARGUMENT);
    char byte;
    cr_expect_eq(comm->ops->receive(comm, 1, &byte, 1), GLN_ERR_ARGUMENT);
    cr_expect_eq(comm->ops->wait(comm), GLN_OK);
}

Test(comm_self, abort_ends_the_process, .exit_code = 37)
{
    gln_comm_abort(comm, 37);
}

/* MPI without mpirun is a world of one rank. */
Test(comm_world, works_without_mpirun)
{
    gln_comm_t *world = NULL;
    cr_assert_eq(gln_comm_open_world(&world), GLN_OK, "%s", gln_last_error());
    cr_expect_eq(gln_comm_size(world), 1);
    cr_expect_eq(gln_comm_nodes_count(world), 1);
    int64_t value = 3;
    cr_expect_eq(gln_comm_sum_i64(world, &value, 1), GLN_OK);
    cr_expect_eq(value, 3);
    gln_comm_close(world);
}
