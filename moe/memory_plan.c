/* Two parts. What objects allocate is counted while they are opened in reserved address space: time
 * and memory of a plan do not hang on the size of the model. What the process takes without our
 * asking (program, libraries, MPI, oneDNN's code and its descriptions of products, scratch of the
 * threads) is measured: a model of the same widths, one block of each kind, one expert and a short
 * sequence makes one step, so that every product that the run will use has been made; then it is
 * closed and what is left counts. */
#include "moe/memory_plan.h"

#include "base/log.h"
#include "base/resident.h"
#include "moe/trainer_internal.h"
#include <stdlib.h>
#include <string.h>

/* What a run touches that the small step does not (data, checkpoint, report, code of these), and
 * what Open MPI takes beyond that in a job of several ranks: measured with 1 to 16 ranks of one
 * node, over which it does not grow (docs/memory.md). */
enum { RUN_BYTES = 400 << 10, JOB_BYTES = 2800 << 10 };

enum { WARM_TOKENS = 256 };

static void count(const int64_t before[GLN_MEMORY_KINDS], gln_memory_plan_t *plan)
{
    for (int i = 0; i < GLN_MEMORY_KINDS; i++) {
        plan->bytes[i] = gln_memory_held((gln_memory_kind_t)i) - before[i];
        plan->total_bytes += plan->bytes[i];
    }
}

static void count_parameters(const gln_params_t *params, gln_memory_plan_t *plan)
{
    plan->dense_parameters = params->dense_count;
    plan->expert_parameters = params->expert_count;
    for (int i = 0; i < params->count; i++)
        plan->parameters += params->items[i].count;
}

gln_status_t gln_memory_plan(const gln_run_options_t *run, int rank, int ranks, int ranks_per_node,
                             gln_memory_plan_t *out)
{
    gln_memory_plan_t plan = {0};
    int64_t before[GLN_MEMORY_KINDS];
    gln_comm_t *comm = NULL;
    gln_trainer_t *trainer = NULL;
    for (int i = 0; i < GLN_MEMORY_KINDS; i++)
        before[i] = gln_memory_held((gln_memory_kind_t)i);
    gln_memory_reserve(1);
    gln_status_t status = gln_comm_open_plan(rank, ranks, ranks_per_node, &comm);
    if (status == GLN_OK) status = gln_trainer_open(comm, run, GLN_TRAINER_PLAN, &trainer);
    if (status == GLN_OK) {
        count(before, &plan);
        count_parameters(gln_model_params(gln_trainer_model(trainer)), &plan);
    }
    gln_trainer_close(trainer);
    gln_comm_close(comm);
    gln_memory_reserve(0);
    if (status == GLN_OK) *out = plan;
    return status;
}

/* The model whose step makes all products: as in the run but for the numbers of layers, experts and
 * tokens. */
static gln_model_options_t warm_options(const gln_run_options_t *run)
{
    gln_run_options_t small = *run;
    small.model.experts = 1;
    small.model.layers = run->model.moe_every;
    if (small.model.sequence > WARM_TOKENS) small.model.sequence = WARM_TOKENS;
    gln_model_options_t o = gln_run_model_options(&small);
    o.router = (gln_router_options_t){.policy = GLN_POLICY_TOPK, .k = 1, .capacity_factor = 1};
    o.capacity_factor_max = 0;
    o.bias = 0;
    o.expert_at = NULL;
    o.across = GLN_ACROSS_AUTO; /* a world of one has no other rank, whatever the run asks for */
    o.path = GLN_PATH_AUTO;
    o.overlap = GLN_OVERLAP_AUTO;
    o.stages = 0;
    return o;
}

/* Rotations of all positions are kept in a table. */
static gln_status_t warm_rope(gln_kernels_t *kernels, const gln_run_options_t *run)
{
    const gln_rope_t args = {.n = 1,
                             .s = run->model.sequence,
                             .heads = 1,
                             .dh = (int)run->model.head_dim,
                             .x = calloc((size_t)run->model.head_dim, sizeof(double)),
                             .ldx = run->model.head_dim,
                             .theta = run->model.rope_theta};
    gln_status_t status = args.x ? kernels->ops->rope(kernels, &args)
                                 : gln_fail(GLN_ERR_MEMORY, "no memory for a row of positions");
    free(args.x);
    return status;
}

static gln_status_t warm_step(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                              const gln_run_options_t *run)
{
    const gln_model_options_t options = warm_options(run);
    gln_model_t *model = NULL;
    gln_model_result_t result;
    int32_t *ids = calloc((size_t)options.sequence, sizeof *ids);
    if (!ids) return gln_fail(GLN_ERR_MEMORY, "no memory for a sequence");
    gln_memory_reserve(1);
    gln_status_t status = gln_model_open(parallel, kernels, &options, 1, 1, NULL, &model);
    if (status == GLN_OK)
        status = gln_model_run(
            model,
            &(gln_model_call_t){
                .ids = ids, .target = ids, .backward = 1, .loss_scale = 1, .aux_scale = 1},
            &result);
    gln_model_close(model);
    gln_memory_reserve(0);
    free(ids);
    return status;
}

gln_status_t gln_memory_plan_process(const gln_run_options_t *run, int ranks,
                                     gln_memory_plan_t *plan)
{
    gln_comm_t *self = NULL;
    gln_parallel_t parallel = {0};
    gln_pool_t *pool = NULL;
    gln_kernels_t *kernels = NULL;
    gln_resident_t now;
    gln_status_t status = gln_comm_open_self(&self);
    if (status == GLN_OK) status = gln_parallel_open(self, 1, 1, 1, &parallel);
    if (status == GLN_OK) status = gln_trainer_open_kernels(run, &pool, &kernels);
    if (status == GLN_OK) status = warm_step(&parallel, kernels, run);
    if (status == GLN_OK) status = warm_rope(kernels, run);
    if (status == GLN_OK) status = gln_resident_read(&now);
    if (status == GLN_OK) {
        plan->process_bytes = now.own_bytes;
        plan->allowance_bytes = RUN_BYTES + (ranks > 1 ? JOB_BYTES : 0);
        plan->total_bytes += plan->process_bytes + plan->allowance_bytes;
    }
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    gln_parallel_close(&parallel);
    gln_comm_close(self);
    return status;
}
