/* A trainer of its own around one gleaner MoE layer: mpirun -n 2 ./trainer
 *
 * Tokens 0 .. VOCABULARY-1 are to be mapped to fixed random vectors. The model is an embedding,
 * which belongs to this program and is the same on every rank, and an MoE layer with a residual
 * connection, y = x + MoE(x), whose experts are spread over the ranks. Every rank draws its own
 * tokens; the communicator, the data, the loss and the optimizer (Adam) are this program's. */
#include <gleaner/gleaner.h>

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 128, HIDDEN = 16, VOCABULARY = 64, STEPS = 200, ROWS = TOKENS * HIDDEN };

static float embedding[VOCABULARY * HIDDEN], embedding_gradient[VOCABULARY * HIDDEN];
static float target[VOCABULARY * HIDDEN];
static float x[ROWS], y[ROWS], dy[ROWS], dx[ROWS]; /* [TOKENS, HIDDEN] */

static void require(gln_status_t status)
{
    if (status == GLN_OK) return;
    fprintf(stderr, "%s: %s\n", gln_status_name(status), gln_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static float uniform(unsigned *state) /* in [-1, 1) */
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (1 << 23) - 1;
}

typedef struct {
    float *weight, *gradient, *m, *v;
    int64_t count;
} parameter_t;

static parameter_t parameter(void *weight, void *gradient, int64_t count)
{
    float *moments = calloc((size_t)(2 * count), sizeof *moments);
    if (!moments) MPI_Abort(MPI_COMM_WORLD, 1);
    return (parameter_t){weight, gradient, moments, moments + count, count};
}

/* "Adam: A Method for Stochastic Optimization", arXiv 1412.6980; the gradient becomes 0 */
static void adam(parameter_t *p, int step)
{
    const float rate = 0.01f, b1 = 0.9f, b2 = 0.99f;
    for (int64_t i = 0; i < p->count; i++) {
        const float g = p->gradient[i];
        p->m[i] = b1 * p->m[i] + (1 - b1) * g;
        p->v[i] = b2 * p->v[i] + (1 - b2) * g * g;
        p->weight[i] -= rate * (p->m[i] / (1 - powf(b1, (float)step))) /
                        (sqrtf(p->v[i] / (1 - powf(b2, (float)step))) + 1e-8f);
        p->gradient[i] = 0;
    }
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm comm; /* this program's own; the layer makes a duplicate of it */
    MPI_Comm_split(MPI_COMM_WORLD, 0, 0, &comm);
    int rank, ranks;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &ranks);

    unsigned common = 1, own = 1000u + (unsigned)rank;
    for (int i = 0; i < VOCABULARY * HIDDEN; i++) {
        embedding[i] = uniform(&common);
        target[i] = uniform(&common);
    }
    gln_moe_t *moe = NULL;
    const gln_moe_options_t options = {
        .tokens = TOKENS,
        .hidden = HIDDEN,
        .expert_hidden = 32,
        .experts = 8,
        .backend = GLN_BACKEND_CPU,
        .seed = 1,
        .timeout_ms = 60000,
        .router = {.k = 2, .capacity_factor = 1, .fill = 1, .rectify = 1}};
    require(gln_moe_open(&options, &comm, &moe));
    parameter_t all[4] = {parameter(embedding, embedding_gradient, VOCABULARY * HIDDEN)};
    const char *const names[] = {"gate", "gate_up", "down"};
    for (int i = 0; i < 3; i++) { /* this rank's experts; the gate is the same on every rank */
        gln_tensor_t w, g;
        int64_t count = 1;
        require(gln_moe_parameter(moe, names[i], &w, &g));
        for (int d = 0; d < w.dims_count; d++)
            count *= w.dims[d];
        all[i + 1] = parameter(w.data, g.data, count);
    }

    float first = 0, loss = 0;
    for (int step = 1; step <= STEPS; step++) {
        int ids[TOKENS];
        for (int i = 0; i < ROWS; i++) {
            if (i % HIDDEN == 0) ids[i / HIDDEN] = (int)((uniform(&own) + 1) / 2 * VOCABULARY);
            x[i] = embedding[ids[i / HIDDEN] * HIDDEN + i % HIDDEN];
        }
        require(gln_moe_forward(moe, x, y));
        loss = 0;
        for (int i = 0; i < ROWS;
             i++) { /* half the squared distance, mean over all ranks' tokens */
            dy[i] = (x[i] + y[i] - target[ids[i / HIDDEN] * HIDDEN + i % HIDDEN]) /
                    (TOKENS * (float)ranks);
            loss += 0.5f * dy[i] * dy[i] * TOKENS * (float)ranks;
        }
        MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_FLOAT, MPI_SUM, comm);
        require(gln_moe_backward(moe, dy, dx)); /* the layer sums its gradients over the ranks */
        for (int i = 0; i < ROWS; i++)
            embedding_gradient[ids[i / HIDDEN] * HIDDEN + i % HIDDEN] += dx[i] + dy[i];
        MPI_Allreduce(MPI_IN_PLACE, embedding_gradient, VOCABULARY * HIDDEN, MPI_FLOAT, MPI_SUM,
                      comm);
        for (int i = 0; i < 4; i++)
            adam(&all[i], step);
        if (step == 1) first = loss;
        if (rank == 0 && (step == 1 || step % 50 == 0)) printf("step %3d  loss %.4f\n", step, loss);
    }
    const gln_ledger_t ledger = gln_moe_ledger(moe);
    printf("rank %d: %lld choices, %lld routed, %lld rescued, %lld rectified, %lld dropped\n", rank,
           (long long)ledger.choices, (long long)ledger.routed, (long long)ledger.rescued,
           (long long)ledger.rectified, (long long)ledger.dropped);
    for (int i = 0; i < 4; i++)
        free(all[i].m);
    gln_moe_close(moe);
    MPI_Comm_free(&comm);
    MPI_Finalize();
    return loss < first / 4 ? EXIT_SUCCESS : EXIT_FAILURE;
}
