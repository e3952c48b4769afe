/* A step of the layer allocates nothing after the first.
 * RANKS: 1 2
 * On the reference kernels without MPI nobody allocates. */
#include "base/log.h"
#include "base/rng.h"
#include "moe/layer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef GLN_SANITIZED
int main(void)
{
    printf("skipped: sanitizers replace the allocator themselves\n");
    return 77;
}
#else

#include "tests/ranks/moe/allocations.h"

enum { DOMAINS = 4, EXPERTS = 8, TOKENS = 64, HIDDEN = 64, EXPERT_HIDDEN = 48, STEPS = 6 };

static float *draw(uint64_t stream, int64_t count, double scale)
{
    float *values = calloc((size_t)count, sizeof *values);
    CHECK(values != NULL, "no memory");
    for (int64_t i = 0; i < count; ++i)
        values[i] = (float)(scale * gln_rng_normal(3, gln_rng_stream(GLN_RNG_TEST, stream, 0),
                                                   (uint64_t)i));
    return values;
}

/* The values in `dtype`, in place. */
static void *narrowed(float *values, int64_t count, gln_dtype_t dtype)
{
    for (int64_t i = 0; i < count; ++i)
        gln_store(values, i, dtype, (double)values[i]);
    return values;
}

typedef struct job {
    gln_dtype_t dtype; /* of rows and weights */
    gln_parallel_t parallel;
    gln_layer_t *layers[2];
    gln_layer_weights_t weights;
    gln_layer_gradients_t gradients;
    void *x, *y, *z, *dy, *dx;
} job_t;

/* Two layers forward and back; the tokens differ from step to step, so every count of rows does. */
static void run_step(job_t *job, int number)
{
    gln_layer_step_t step = {
        .seed = 1, .step = number, .keep = 1, .capacity_factor = number % 2 ? 0.0 : 1.5};
    const void *x = gln_at(job->x, number * 7 * HIDDEN, job->dtype);
    CHECK(gln_layer_forward(job->layers[0], &job->weights, &step, x, job->y) == GLN_OK, "forward");
    CHECK(gln_layer_forward(job->layers[1], &job->weights, &step, job->y, job->z) == GLN_OK,
          "forward");
    CHECK(gln_layer_backward(job->layers[1], &job->weights, job->dy, 0.1, job->dx,
                             &job->gradients) == GLN_OK,
          "backward");
    CHECK(gln_layer_backward(job->layers[0], &job->weights, job->dy, 0.1, job->dx,
                             &job->gradients) == GLN_OK,
          "backward");
}

static void check_steps(const char *name, gln_comm_t *comm, gln_backend_t backend,
                        gln_dtype_t dtype, gln_wire_t wire)
{
    gln_layer_options_t o = {.tokens = TOKENS,
                             .hidden = HIDDEN,
                             .expert_hidden = EXPERT_HIDDEN,
                             .capacity_factor_max = 1.5,
                             .wire = wire};
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_layer_workspace_t *workspace;
    job_t job = {.dtype = dtype};
    int64_t rows = DOMAINS * TOKENS;
    void *gate[DOMAINS + 1], *gate_up[DOMAINS + 1], *down[DOMAINS + 1]; /* the last: weights */

    o.router = (gln_router_options_t){.k = 2, .capacity_factor = 0.8, .fill = 1, .rectify = 1};
    CHECK(gln_parallel_open(comm, DOMAINS, 2, EXPERTS, &job.parallel) == GLN_OK, "parallel");
    CHECK(gln_pool_open(2, &pool) == GLN_OK, "pool");
    CHECK(gln_kernels_open(backend, dtype, pool, &kernels) == GLN_OK, "kernels");
    CHECK(gln_layer_workspace_open(&job.parallel, kernels, &o, &workspace) == GLN_OK, "workspace");
    for (int i = 0; i < 2; ++i)
        CHECK(gln_layer_open(&job.parallel, kernels, workspace, &o, i, &job.layers[i]) == GLN_OK,
              "layer");
    job.x = narrowed(draw(1, (rows + 7 * STEPS) * HIDDEN, 1.0), (rows + 7 * STEPS) * HIDDEN, dtype);
    job.y = draw(2, rows * HIDDEN, 1.0);
    job.z = draw(2, rows * HIDDEN, 1.0);
    job.dy = narrowed(draw(3, rows * HIDDEN, 1.0), rows * HIDDEN, dtype);
    job.dx = narrowed(draw(4, rows * HIDDEN, 1.0), rows * HIDDEN, dtype);
    for (int i = 0; i <= DOMAINS; ++i) {
        gate[i] = draw(5, HIDDEN * EXPERTS, 0.3);
        gate_up[i] = draw(6, EXPERTS * HIDDEN * 2 * EXPERT_HIDDEN, 0.2);
        down[i] = draw(7, EXPERTS * EXPERT_HIDDEN * HIDDEN, 0.2);
    }
    narrowed(gate[DOMAINS], HIDDEN * EXPERTS, dtype);
    narrowed(gate_up[DOMAINS], EXPERTS * HIDDEN * 2 * EXPERT_HIDDEN, dtype);
    narrowed(down[DOMAINS], EXPERTS * EXPERT_HIDDEN * HIDDEN, dtype);
    job.gradients = (gln_layer_gradients_t){gate, gate_up, down};
    job.weights = (gln_layer_weights_t){gate[DOMAINS], gate_up[DOMAINS], down[DOMAINS]};

    run_step(&job, 0);
    count_start();
    for (int number = 1; number < STEPS; ++number)
        run_step(&job, number);
    counts_t counts = count_stop();
    check_counts(name, STEPS - 1, counts);
    if (comm == self && backend == GLN_BACKEND_REF)
        CHECK(counts.foreign == 0, "%s: nobody has a reason to allocate", name);

    for (int i = 0; i <= DOMAINS; ++i)
        free(gate[i]), free(gate_up[i]), free(down[i]);
    free(job.x), free(job.y), free(job.z), free(job.dy), free(job.dx);
    gln_layer_close(job.layers[1]);
    gln_layer_close(job.layers[0]);
    gln_layer_workspace_close(workspace);
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    gln_parallel_close(&job.parallel);
}

int main(void)
{
    if (gln_comm_open_world(&world) != GLN_OK || gln_comm_open_self(&self) != GLN_OK) return 1;
    check_counter();
    check_steps("reference kernels, one rank", self, GLN_BACKEND_REF, GLN_F32, GLN_WIRE_AUTO);
    check_steps("cpu kernels, one rank", self, GLN_BACKEND_CPU, GLN_F32, GLN_WIRE_AUTO);
    check_steps("cpu kernels, all ranks", world, GLN_BACKEND_CPU, GLN_F32, GLN_WIRE_AUTO);
    check_steps("bf16 wire, one rank", self, GLN_BACKEND_REF, GLN_F32, GLN_WIRE_BF16);
    check_steps("bf16 wire, all ranks", world, GLN_BACKEND_CPU, GLN_F32, GLN_WIRE_BF16);
    check_steps("bf16, reference kernels", self, GLN_BACKEND_REF, GLN_BF16, GLN_WIRE_AUTO);
    check_steps("bf16, one rank", self, GLN_BACKEND_CPU, GLN_BF16, GLN_WIRE_AUTO);
    check_steps("bf16, all ranks", world, GLN_BACKEND_CPU, GLN_BF16, GLN_WIRE_AUTO);
    if (gln_comm_rank(world) == 0) printf("ok\n");
    gln_comm_close(self);
    gln_comm_close(world);
    return 0;
}
#endif
