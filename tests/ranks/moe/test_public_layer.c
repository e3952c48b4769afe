/* The public layer: state goes out in pieces and comes back on another number of ranks with the
 * same bits; a bad call, of one rank or of all, is one status and message on all ranks, and leaves
 * the layer as it was. Two layers live side by side on one communicator.
 * RANKS: 1 2 4 */
#include "moe/gleaner.h"
#include "tests/ranks/comm/check.h"
#include <mpi.h>

enum { DOMAINS = 4, TOKENS = 24, HIDDEN = 8, ROW_COUNT = DOMAINS * TOKENS * HIDDEN };

static MPI_Comm comm;
static int rank, ranks;
static float x[ROW_COUNT], y[ROW_COUNT], dx[ROW_COUNT], whole[ROW_COUNT];

static gln_moe_options_t options_of(void)
{
    return (gln_moe_options_t){.tokens = TOKENS,
                               .hidden = HIDDEN,
                               .expert_hidden = 12,
                               .experts = 8,
                               .domains = DOMAINS,
                               .seed = 3,
                               .router = {.policy = GLN_POLICY_DEEPSEEK_V3,
                                          .k = 2,
                                          .capacity_factor = 1,
                                          .priority = GLN_PRIORITY_RANDOM,
                                          .fill = 1,
                                          .rectify = 1}};
}

/* All ranks have this status, and every one a message with `text` in it (NULL: any). */
static void expect(const char *what, gln_status_t status, gln_status_t expected, const char *text)
{
    CHECK(status == expected, "%s: rank %d has \"%s\"", what, rank, gln_status_name(status));
    CHECK(gln_last_error()[0], "%s: no message", what);
    CHECK(!text || strstr(gln_last_error(), text), "%s: \"%s\" is not in the message", what, text);
    CHECK(MPI_Barrier(comm) == MPI_SUCCESS, "%s", what); /* nobody hangs in the call */
    gln_fail(GLN_OK, "%s", "");
}

static int is_last(void)
{
    return rank == ranks - 1;
}

static gln_moe_t *opened(void)
{
    const gln_moe_options_t o = options_of();
    gln_moe_t *moe = NULL;
    CHECK_OK(gln_moe_open(&o, &comm, &moe));
    return moe;
}

/* the rows of this rank's domains */
static const float *own(const float *rows)
{
    return rows + (size_t)rank * (ROW_COUNT / (size_t)ranks);
}

static void one_step(gln_moe_t *moe)
{
    gln_tensor_t w, g;
    CHECK_OK(gln_moe_forward(moe, own(x), y));
    CHECK_OK(gln_moe_update_bias(moe, 0.01));
    CHECK_OK(gln_moe_backward(moe, own(x), dx));
    static const char *const names[] = {"gate", "gate_up", "down"};
    for (int i = 0; i < 3; i++) {
        int64_t count = 1;
        CHECK_OK(gln_moe_parameter(moe, names[i], &w, &g));
        for (int d = 0; d < w.dims_count; d++)
            count *= w.dims[d];
        for (int64_t j = 0; j < count; j++)
            ((float *)w.data)[j] -= 0.5f * ((float *)g.data)[j];
    }
    gln_moe_zero_grad(moe);
}

/* Pieces of all ranks, on every rank. */
static char *gather(const gln_moe_t *moe, const void **pieces, size_t *bytes)
{
    const size_t size = gln_moe_state_bytes(moe);
    char *mine = allocate(size), *all = allocate(size * (size_t)ranks);
    CHECK_OK(gln_moe_state_out(moe, mine, size));
    MPI_Allgather(mine, (int)size, MPI_BYTE, all, (int)size, MPI_BYTE, comm);
    free(mine);
    for (int r = 0; r < ranks; r++) {
        pieces[r] = all + (size_t)r * size;
        bytes[r] = size;
    }
    return all;
}

static void test_state(void)
{
    const void *pieces[DOMAINS];
    size_t bytes[DOMAINS];
    gln_moe_t *moe = opened(), *alone = NULL, *again = opened();
    for (int i = 0; i < 3; i++)
        one_step(moe);
    char *all = gather(moe, pieces, bytes);
    CHECK_OK(gln_moe_forward(moe, own(x), y));

    /* the same ranks, and none but this one; its bits are those of the whole */
    CHECK_OK(gln_moe_state_in(again, pieces, bytes, ranks));
    CHECK_OK(gln_moe_forward(again, own(x), dx));
    CHECK(memcmp(dx, y, sizeof y / (size_t)ranks) == 0, "the state came back changed");
    const gln_moe_options_t o = options_of();
    CHECK_OK(gln_moe_open(&o, NULL, &alone));
    CHECK_OK(gln_moe_state_in(alone, pieces, bytes, ranks));
    CHECK_OK(gln_moe_forward(alone, x, whole));
    CHECK(memcmp(own(whole), y, sizeof y / (size_t)ranks) == 0, "other bits on one rank");

    /* damaged on one rank, for all: nothing is taken */
    if (is_last()) all[bytes[0] / 2] ^= 1;
    expect("damage", gln_moe_state_in(again, pieces, bytes, ranks), GLN_ERR_CHECKPOINT,
           is_last() ? "piece 0" : "refused");
    if (is_last()) all[bytes[0] / 2] ^= 1;
    expect("no piece", gln_moe_state_in(again, pieces, bytes, 0), GLN_ERR_ARGUMENT, "pieces");
    expect("half a piece", gln_moe_state_in(again, pieces, (size_t[]){bytes[0] - 4}, 1),
           GLN_ERR_CHECKPOINT, "piece 0");
    if (ranks > 1)
        expect("too few pieces", gln_moe_state_in(again, pieces, bytes, ranks - 1),
               GLN_ERR_CHECKPOINT, is_last() ? "in none of the" : "refused");
    gln_moe_options_t other = o;
    gln_moe_t *wide = NULL;
    other.expert_hidden = 16;
    CHECK_OK(gln_moe_open(&other, &comm, &wide));
    expect("another shape", gln_moe_state_in(wide, pieces, bytes, ranks), GLN_ERR_CHECKPOINT,
           "expert_hidden 12");
    expect("too small", gln_moe_state_out(wide, all, bytes[0]), GLN_ERR_ARGUMENT, "bytes");
    one_step(again);
    one_step(moe); /* one call behind */
    char *later = gather(moe, pieces, bytes);
    CHECK_OK(gln_moe_state_in(again, pieces, bytes, ranks));
    if (ranks > 1) {
        pieces[0] = all;
        expect("two times", gln_moe_state_in(again, pieces, bytes, ranks), GLN_ERR_CHECKPOINT,
               "forward calls");
    }
    free(later);
    free(all);
    gln_moe_close(wide);
    gln_moe_close(alone);
    gln_moe_close(again);
    gln_moe_close(moe);
}

static void test_bad_open(void)
{
    gln_moe_options_t o = options_of();
    gln_moe_t *moe = NULL;
    MPI_Comm none = MPI_COMM_NULL;
    expect("no options", gln_moe_open(is_last() ? NULL : &o, &comm, &moe), GLN_ERR_ARGUMENT,
           is_last() ? "NULL" : "refused");
    expect("nowhere to", gln_moe_open(&o, &comm, is_last() ? NULL : &moe), GLN_ERR_ARGUMENT,
           is_last() ? "NULL" : "refused");
    expect("no communicator", gln_moe_open(&o, &none, &moe), GLN_ERR_ARGUMENT, "MPI_COMM_NULL");
    o.hidden = is_last() ? 0 : HIDDEN;
    expect("bad hidden", gln_moe_open(&o, &comm, &moe), GLN_ERR_ARGUMENT, NULL);
    if (ranks > 1) {
        o.hidden = is_last() ? 16 : HIDDEN;
        expect("hidden differs", gln_moe_open(&o, &comm, &moe), GLN_ERR_ARGUMENT, "hidden is 8");
        o = options_of();
        if (is_last()) o.router.capacity_factor = 1.25;
        expect("capacity differs", gln_moe_open(&o, &comm, &moe), GLN_ERR_ARGUMENT,
               "router.capacity_factor");
        o = options_of();
        o.domains = ranks + 1; /* a communicator of the wrong size for it */
        expect("wrong size", gln_moe_open(&o, &comm, &moe), GLN_ERR_CONFIG, "must divide");
    }
    o = options_of();
    o.experts = 6; /* not over 4 domains */
    expect("experts", gln_moe_open(&o, &comm, &moe), GLN_ERR_CONFIG, NULL);
    o = options_of();
    o.router.k = 9;
    expect("k", gln_moe_open(&o, &comm, &moe), GLN_ERR_ARGUMENT, "k");
    o = options_of();
    o.backend = GLN_BACKEND_CPU;
    o.dtype = GLN_F64;
    expect("dtype", gln_moe_open(&o, &comm, &moe), GLN_ERR_ARGUMENT, NULL);
    CHECK(moe == NULL, "set on an error");
}

static void test_bad_calls(void)
{
    gln_moe_t *moe = opened();
    gln_tensor_t w, g;
    float bias[8] = {0};
    expect("bias early", gln_moe_update_bias(moe, 0.1), GLN_ERR_ARGUMENT, "no forward");
    expect("backward first", gln_moe_backward(moe, own(x), dx), GLN_ERR_ARGUMENT, "no forward");
    expect("x", gln_moe_forward(moe, is_last() ? NULL : own(x), y), GLN_ERR_ARGUMENT,
           is_last() ? "NULL" : "refused");
    expect("in place", gln_moe_forward(moe, y, y), GLN_ERR_ARGUMENT, "same memory");
    CHECK_OK(gln_moe_forward(moe, own(x), y));
    expect("dx", gln_moe_backward(moe, own(x), is_last() ? NULL : dx), GLN_ERR_ARGUMENT, NULL);
    CHECK_OK(gln_moe_backward(moe, own(x), dx));
    expect("twice", gln_moe_backward(moe, own(x), dx), GLN_ERR_ARGUMENT, "no forward");
    memcpy(whole, x, sizeof x);
    ((float *)(uintptr_t)own(whole))[5] = is_last() ? 0.0f / (float)(rank - rank) : 1;
    const gln_status_t status = gln_moe_forward(moe, own(whole), y);
    if (!is_last()) gln_fail(GLN_OK, "the rank that found it reports it");
    expect("NaN", status, GLN_ERR_NUMERIC, is_last() ? "token" : NULL);
    expect("name", gln_moe_parameter(moe, "gates", &w, &g), GLN_ERR_ARGUMENT, "gate_up");
    expect("no name", gln_moe_parameter(moe, NULL, &w, &g), GLN_ERR_ARGUMENT, "NULL");
    expect("bias", gln_moe_bias(moe, NULL), GLN_ERR_ARGUMENT, "NULL");
    CHECK_OK(gln_moe_forward(moe, own(x), y)); /* still good */
    CHECK(gln_moe_ledger(moe).tokens == DOMAINS / ranks * TOKENS, "ledger");
    CHECK(gln_moe_parallel(moe)->local_experts == 8 / ranks, "experts");
    CHECK(gln_moe_options(moe)->hidden == HIDDEN, "options");

    gln_moe_close(moe);
    gln_moe_close(NULL);
    gln_moe_close(moe);
    expect("close twice", GLN_ERR_ARGUMENT, GLN_ERR_ARGUMENT, "not open");
    expect("forward", gln_moe_forward(moe, own(x), y), GLN_ERR_ARGUMENT, "closed before");
    expect("backward", gln_moe_backward(moe, own(x), dx), GLN_ERR_ARGUMENT, "closed before");
    expect("parameter", gln_moe_parameter(moe, "gate", &w, &g), GLN_ERR_ARGUMENT, "closed");
    expect("set bias", gln_moe_set_bias(moe, bias), GLN_ERR_ARGUMENT, "closed before");
    expect("update", gln_moe_update_bias(moe, 0.1), GLN_ERR_ARGUMENT, "closed before");
    expect("in", gln_moe_state_in(moe, NULL, NULL, 1), GLN_ERR_ARGUMENT, "closed before");
    expect("out", gln_moe_state_out(moe, y, 8), GLN_ERR_ARGUMENT, "closed before");
    CHECK(gln_moe_state_bytes(moe) == 0 && !gln_moe_parallel(moe) && !gln_moe_options(moe), "open");
    CHECK(gln_moe_ledger(moe).tokens == 0, "ledger");
    expect("NULL", gln_moe_forward(NULL, own(x), y), GLN_ERR_ARGUMENT, "NULL");
}

/* Two layers with one workspace, hence one exchange: of other options the second is refused, and
 * bad calls of one rank reach all. */
static void test_one_exchange(void)
{
    gln_comm_t *world = NULL;
    gln_pool_t *pool = NULL;
    gln_kernels_t *kernels = NULL;
    gln_parallel_t parallel = {0};
    gln_layer_workspace_t *workspace = NULL;
    gln_layer_t *layer = NULL, *second = NULL;
    gln_layer_options_t o = {
        .tokens = TOKENS, .hidden = HIDDEN, .expert_hidden = 12, .router = {.k = 2}};
    static float memory[8 * HIDDEN * 24];
    const gln_layer_weights_t weights = {memory, memory, memory};
    CHECK_OK(gln_comm_open_mpi(&comm, &world));
    CHECK_OK(gln_pool_open(1, &pool));
    CHECK_OK(gln_kernels_open(GLN_BACKEND_REF, GLN_F32, pool, &kernels));
    CHECK_OK(gln_parallel_open(world, DOMAINS, 1, 8, &parallel));
    expect("workspace", gln_layer_workspace_open(&parallel, kernels, &o, NULL), GLN_ERR_ARGUMENT,
           "NULL");
    CHECK_OK(gln_layer_workspace_open(&parallel, kernels, &o, &workspace));
    CHECK_OK(gln_layer_open(&parallel, kernels, workspace, &o, 0, &layer));
    o.expert_hidden = 16;
    expect("another layer", gln_layer_open(&parallel, kernels, workspace, &o, 1, &second),
           GLN_ERR_ARGUMENT, "layer 1: its options are not those of the workspace");
    expect("no workspace", gln_layer_open(&parallel, kernels, NULL, &o, 1, &second),
           GLN_ERR_ARGUMENT, "NULL");
    const gln_layer_step_t step = {.keep = 1};
    CHECK(gln_layer_forward(layer, is_last() ? NULL : &weights, &step, own(x), y) ==
              GLN_ERR_ARGUMENT,
          "weights of one rank are NULL");
    CHECK_OK(gln_layer_forward(layer, &weights, &step, own(x), y));
    expect("no gradients", gln_layer_backward(layer, &weights, own(x), 1, dx, NULL),
           GLN_ERR_ARGUMENT, "NULL");

    gln_layer_close(layer);
    gln_layer_workspace_close(workspace);
    gln_parallel_close(&parallel);
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    gln_comm_close(world);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &ranks);
    for (int i = 0; i < ROW_COUNT; i++)
        x[i] = (float)(i * 7919 % 1000) / 500 - 1;
    test_state();
    test_bad_open();
    test_bad_calls();
    test_one_exchange();
    MPI_Comm_free(&comm);
    MPI_Finalize();
    gln_moe_t *moe = NULL;
    const gln_moe_options_t o = options_of();
    CHECK(gln_moe_open(&o, &comm, &moe) == GLN_ERR_ARGUMENT &&
              strstr(gln_last_error(), "finalized"),
          "opened after MPI_Finalize");
    if (rank == 0) printf("ok\n");
    return 0;
}
