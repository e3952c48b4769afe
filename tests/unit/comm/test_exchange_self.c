/* An exchange inside one rank without MPI: what it does for a plan written down by hand, and every
 * way in which opening it can be refused. */
#include "base/log.h"
#include "comm/exchange.h"
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

TestSuite(exchange_self, .init = open_self, .fini = close_self);

static const gln_exchange_options_t good = {.domains = 4,
                                            .groups = 2,
                                            .tokens = 3,
                                            .hidden = 2,
                                            .dtype = GLN_F32,
                                            .rows_max = 3,
                                            .scalars_max = 4,
                                            .meta_bytes_max = 8};

/* Four domains in two groups of two; domain 0 sends token 2 and 0 to itself and token 2 to domain
 * 1; domain 1 nothing; domain 2 token 1 to domain 3; domain 3 token 0 to domain 2. */
static const int32_t rows_count[8] = {2, 1, 0, 0, 0, 1, 1, 0};
static const int32_t row_token[5] = {2, 0, 2, 1, 0};
static const int32_t scalars_count[8] = {1, 2, 0, 1, 0, 0, 3, 0};
static const int32_t meta_bytes[8] = {1, 0, 2, 0, 0, 0, 0, 3};
static const gln_exchange_send_t by_hand = {rows_count, row_token, scalars_count, meta_bytes,
                                            "abcdef"};

Test(exchange_self, plan_by_hand)
{
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    cr_assert_eq(gln_exchange_open(comm, &good, &x), GLN_OK);
    cr_expect_eq(gln_exchange_receive_max(x), 4 * 2 * 3);
    cr_expect_gt(gln_exchange_bytes(x), 0);
    cr_assert_eq(gln_exchange_plan(x, &by_hand, &got), GLN_OK, "%s", gln_last_error());
    /* by destination, then source: (0<-0) (0<-1) (1<-0) (1<-1) (2<-2) (2<-3) (3<-2) (3<-3) */
    const int32_t rows[8] = {2, 0, 1, 0, 0, 1, 1, 0}, scalars[8] = {1, 0, 2, 1, 0, 3, 0, 0};
    const int64_t row_offset[9] = {0, 2, 2, 3, 3, 3, 4, 5, 5};
    const size_t meta_offset[9] = {0, 1, 3, 3, 3, 3, 3, 3, 6};
    cr_expect_eq(got.rows_count, 5);
    cr_expect_arr_eq(got.rows, rows, sizeof rows);
    cr_expect_arr_eq(got.row_offset, row_offset, sizeof row_offset);
    cr_expect_arr_eq(got.scalars, scalars, sizeof scalars);
    cr_expect_arr_eq(got.meta_offset, meta_offset, sizeof meta_offset);
    cr_expect_arr_eq(got.meta, "abcdef", 6);

    float in[12][2], out[5][2];
    for (int t = 0; t < 12; t++)
        in[t][0] = (float)t, in[t][1] = -(float)t;
    cr_assert_eq(gln_exchange_dispatch(x, in, out), GLN_OK);
    const float arrived[5] = {2, 0, 2, 9, 7};
    for (int r = 0; r < 5; r++)
        cr_expect(out[r][0] == arrived[r] && out[r][1] == -arrived[r], "row %d: %g", r, out[r][0]);

    const float results[5][2] = {{10, 1}, {20, 2}, {300, 3}, {4000, 4}, {50000, 5}};
    cr_assert_eq(gln_exchange_combine(x, results, in), GLN_OK);
    const float sums[12] = {20, 0, 310, 0, 0, 0, 0, 50000, 0, 4000, 0, 0};
    for (int t = 0; t < 12; t++)
        cr_expect_eq(in[t][0], sums[t], "token %d: %g", t, in[t][0]);

    const float theirs[7] = {1, 2, 3, 4, 5, 6, 7};
    float back[7];
    cr_assert_eq(gln_exchange_scalars(x, theirs, back), GLN_OK);
    cr_expect_arr_eq(back, theirs, sizeof back); /* this plan keeps their order */
    gln_traffic_t traffic = gln_exchange_traffic(x);
    cr_expect(traffic.rank_rows == 5 && traffic.rank_bytes == 40 && traffic.node_rows == 0);
    gln_exchange_close(x);
}

/* Rows of two bytes; sums are rounded at every node of the tree, scalars stay f32. */
Test(exchange_self, bf16_rows)
{
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    gln_exchange_options_t options = good;
    options.dtype = GLN_BF16, options.groups = 1;
    /* token 0 of domain 0 goes to all four domains */
    const int32_t counts[16] = {1, 1, 1, 1}, tokens[4] = {0}, scalars[16] = {1};
    const gln_exchange_send_t send = {counts, tokens, scalars, (int32_t[16]){0}, NULL};
    uint16_t in[12][2] = {{0}}, rows[4][2];
    cr_assert_eq(gln_exchange_open(comm, &options, &x), GLN_OK);
    cr_assert_eq(gln_exchange_plan(x, &send, &got), GLN_OK);
    cr_expect_eq(got.rows_count, 4);
    gln_store(in, 0, GLN_BF16, 1.5);
    gln_store(in, 1, GLN_BF16, -3);
    cr_assert_eq(gln_exchange_dispatch(x, in, rows), GLN_OK);
    gln_traffic_t traffic = gln_exchange_traffic(x);
    cr_expect(traffic.rank_rows == 4 && traffic.rank_bytes == 4 * 2 * 2);
    for (int r = 0; r < 4; r++)
        cr_expect(gln_load(rows[r], 0, GLN_BF16) == 1.5 && gln_load(rows[r], 1, GLN_BF16) == -3);
    /* (256 + 1) + (256 + 1): each pair loses its 1, so 512; in a row or at once it would be 514 or
     * 516. (1 + 2) + (253 + 258): 511 is a tie that goes to 512, and 3 + 512 to 516. */
    const double results[4][2] = {{256, 1}, {1, 2}, {256, 253}, {1, 258}};
    for (int r = 0; r < 4; r++)
        for (int h = 0; h < 2; h++)
            gln_store(rows[r], h, GLN_BF16, results[r][h]);
    cr_assert_eq(gln_exchange_combine(x, rows, in), GLN_OK);
    cr_expect_eq(gln_load(in, 0, GLN_BF16), 512, "%g", gln_load(in, 0, GLN_BF16));
    cr_expect_eq(gln_load(in, 1, GLN_BF16), 516, "%g", gln_load(in, 1, GLN_BF16));
    for (int k = 2; k < 24; k++)
        cr_expect_eq(gln_load(in, k, GLN_BF16), 0);
    const float scalar = 0x1.000002p0f; /* no bf16 */
    float back = 0;
    cr_assert_eq(gln_exchange_scalars(x, &scalar, &back), GLN_OK);
    cr_expect_eq(back, scalar);
    gln_exchange_close(x);
}

Test(exchange_self, nothing_to_send)
{
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    const int32_t none[8] = {0};
    gln_exchange_send_t send = {none, NULL, none, none, NULL};
    float out[12][2];
    memset(out, 0xff, sizeof out);
    cr_assert_eq(gln_exchange_open(comm, &good, &x), GLN_OK);
    cr_assert_eq(gln_exchange_plan(x, &send, &got), GLN_OK);
    cr_expect_eq(got.rows_count, 0);
    cr_expect_eq(gln_exchange_dispatch(x, NULL, NULL), GLN_OK);
    cr_expect_eq(gln_exchange_combine(x, NULL, out), GLN_OK);
    cr_expect_eq(gln_exchange_scalars(x, NULL, NULL), GLN_OK);
    for (int t = 0; t < 12; t++)
        cr_expect(out[t][0] == 0 && out[t][1] == 0);
    gln_exchange_close(x);
}

Test(exchange_self, order_of_calls)
{
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    float memory[64] = {0};
    cr_assert_eq(gln_exchange_open(comm, &good, &x), GLN_OK);
    cr_expect_eq(gln_exchange_dispatch(x, memory, memory), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_combine(x, memory, memory), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_scalars(x, memory, memory), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_plan(x, NULL, &got), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_plan(x, &by_hand, NULL), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_plan(NULL, &by_hand, &got), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_dispatch(NULL, memory, memory), GLN_ERR_ARGUMENT);
    gln_exchange_close(x);
    gln_exchange_close(NULL);
}

Test(exchange_self, plan_without_arrays)
{
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    cr_assert_eq(gln_exchange_open(comm, &good, &x), GLN_OK);
    gln_exchange_send_t send = by_hand;
    send.rows_count = NULL;
    cr_expect_eq(gln_exchange_plan(x, &send, &got), GLN_ERR_ARGUMENT);
    send = by_hand;
    send.row_token = NULL;
    cr_expect_eq(gln_exchange_plan(x, &send, &got), GLN_ERR_ARGUMENT);
    send = by_hand;
    send.meta = NULL;
    cr_expect_eq(gln_exchange_plan(x, &send, &got), GLN_ERR_ARGUMENT);
    gln_exchange_close(x);
}

Test(exchange_self, capacity_names_the_pair)
{
    gln_exchange_t *x = NULL;
    gln_exchange_received_t got;
    gln_exchange_options_t options = good;
    options.rows_max = 1;
    cr_assert_eq(gln_exchange_open(comm, &options, &x), GLN_OK);
    cr_expect_eq(gln_exchange_plan(x, &by_hand, &got), GLN_ERR_CAPACITY);
    cr_expect(strstr(gln_last_error(), "domain 0 sends 2 rows to domain 0"), "%s",
              gln_last_error());
    gln_exchange_close(x);
}

static void refused(gln_exchange_options_t options, const char *text)
{
    gln_exchange_t *x = NULL;
    cr_expect_eq(gln_exchange_open(comm, &options, &x), GLN_ERR_ARGUMENT, "%s", text);
    cr_expect_null(x);
    cr_expect(strstr(gln_last_error(), text), "expected '%s' in: %s", text, gln_last_error());
}

Test(exchange_self, options)
{
    gln_exchange_t *x = NULL;
    gln_exchange_options_t o = good;
    cr_expect_eq(gln_exchange_open(NULL, &good, &x), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_open(comm, NULL, &x), GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_exchange_open(comm, &good, NULL), GLN_ERR_ARGUMENT);
    o.groups = 3;
    refused(o, "(R = 3) must divide the number of domains (D = 4)");
    o = good, o.domains = 0;
    refused(o, "at least one domain");
    o = good, o.tokens = 0;
    refused(o, "at least one domain");
    o = good, o.groups = -1;
    refused(o, "at least one domain");
    o = good, o.dtype = (gln_dtype_t)3;
    refused(o, "f32, bf16 or f64");
    o = good, o.rows_max = 4;
    refused(o, "rows_max in [0, 3]");
    o = good, o.received_rows_max = -1;
    refused(o, "received_rows_max >= 0");
    o = good, o.path = (gln_exchange_path_t)3;
    refused(o, "a path of the list");
    o = good, o.scalars_max = -1;
    refused(o, "scalars_max");
    o = good, o.meta_bytes_max = (size_t)1 << 31;
    refused(o, "meta_bytes_max");
    o = good, o.tokens = o.rows_max = (int64_t)1 << 29;
    refused(o, "at most 2^31 rows");
    o = good, o.hidden = (int64_t)1 << 60;
    refused(o, "do not fit any memory");
}

/* groups = 0 means one group: all domains reach each other. */
Test(exchange_self, one_group_by_default)
{
    gln_exchange_t *x = NULL;
    gln_exchange_options_t options = good;
    options.groups = 0;
    cr_assert_eq(gln_exchange_open(comm, &options, &x), GLN_OK);
    cr_expect_eq(gln_exchange_receive_max(x), 4 * 4 * 3);
    gln_exchange_close(x);
}
