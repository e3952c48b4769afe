/* One MoE layer inside somebody's own MPI program: mpirun -n 2 ./example_layer
 *
 * Every rank brings the tokens of its domain; the experts are spread over the ranks. Here the
 * "loss" is half the squared distance of y from x, so dL/dy = y - x, and the gate's gradient is
 * printed. */
#include "moe/gleaner.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 64, HIDDEN = 32, COUNT = TOKENS * HIDDEN };

static float x[COUNT], y[COUNT], dy[COUNT], dx[COUNT];

static void require(gln_status_t status)
{
    if (status == GLN_OK) return;
    fprintf(stderr, "%s: %s\n", gln_status_name(status), gln_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm comm = MPI_COMM_WORLD;
    int rank;
    MPI_Comm_rank(comm, &rank);
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)((i * 7919 + rank * 104729) % 1000) / 500 - 1;

    gln_moe_t *moe = NULL;
    gln_moe_options_t o = {.tokens = TOKENS,
                           .hidden = HIDDEN,
                           .expert_hidden = 64,
                           .experts = 8,
                           .backend = GLN_BACKEND_CPU,
                           .router = {.k = 2, .fill = 1, .rectify = 1}};
    require(gln_moe_open(&o, &comm, &moe)); /* COLLECTIVE, like all calls */
    require(gln_moe_forward(moe, x, y));
    for (int i = 0; i < COUNT; i++)
        dy[i] = y[i] - x[i];
    require(gln_moe_backward(moe, dy, dx));

    gln_tensor_t gate, gradient;
    require(gln_moe_parameter(moe, "gate", &gate, &gradient)); /* [H, E] */
    gln_ledger_t ledger = gln_moe_ledger(moe);
    printf("rank %d: %lld tokens, %lld routed, %lld filled, %lld rectified, %lld dropped; "
           "first gate gradient %.6e\n",
           rank, (long long)ledger.tokens, (long long)ledger.routed, (long long)ledger.filled,
           (long long)ledger.rectified, (long long)ledger.dropped,
           gln_load(gradient.data, 0, gradient.dtype));
    gln_moe_close(moe);
    MPI_Finalize();
    return EXIT_SUCCESS;
}
