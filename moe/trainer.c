/* Opening a training run, and one optimizer step: micro-batches forward and backward, then the
 * optimizer. Sequence i of a micro-batch belongs to domain i / (sequences per domain): which text a
 * domain sees depends on D, never on P. */
#include "moe/trainer_internal.h"

#include "base/log.h"
#include "cluster/placement.h"
#include "moe/placement_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double gln_seconds(void);

double gln_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Whether evaluation takes its capacity factor from the schedule. */
static int eval_is_scheduled(const gln_trainer_t *x)
{
    return x->run.eval.routing == 1 && x->run.eval.capacity_factor < 0;
}

/* What the schedules say about the step that follows. */
static void set_schedule(const gln_trainer_t *x, gln_model_call_t *call)
{
    call->capacity_factor = gln_run_capacity_factor(&x->run, x->at);
    call->skip_fill = x->at < x->run.router.fill_from;
    call->skip_rectify = x->at < x->run.router.rectify_from;
}

/* The same for evaluation as trained: what the run file says about evaluation goes first. */
static void set_eval_schedule(const gln_trainer_t *x, gln_model_call_t *call)
{
    set_schedule(x, call);
    if (!eval_is_scheduled(x)) call->capacity_factor = 0;
    if (x->run.eval.fill != 2) call->skip_fill = 0;
    if (x->run.eval.rectify != 2) call->skip_rectify = 0;
}

static gln_status_t open_data(gln_trainer_t *x)
{
    const gln_run_options_t *run = &x->run;
    gln_status_t status = GLN_OK;
    if (x->mode == GLN_TRAINER_TRAIN)
        status = gln_data_open(run->data.train, (int)run->model.vocabulary, run->model.sequence,
                               &x->train);
    if (status == GLN_OK && run->data.valid[0])
        status = gln_data_open(run->data.valid, (int)run->model.vocabulary, run->model.sequence,
                               &x->valid);
    int rank = 0;
    return gln_comm_agree(x->comm, status, &rank);
}

gln_status_t gln_trainer_open_kernels(const gln_run_options_t *run, gln_pool_t **pool,
                                      gln_kernels_t **kernels)
{
    const int threads = run->parallel.threads > 0 ? (int)run->parallel.threads : 1;
    gln_status_t status = gln_pool_open(threads, pool);
    if (status != GLN_OK) return status;
    return gln_kernels_open(run->parallel.backend == 1 ? GLN_BACKEND_REF : GLN_BACKEND_CPU,
                            gln_run_dtype(run), *pool, kernels);
}

static gln_status_t open_kernels(gln_trainer_t *x)
{
    gln_status_t status = gln_trainer_open_kernels(&x->run, &x->pool, &x->kernels);
    int rank = 0;
    return gln_comm_agree(x->comm, status, &rank);
}

/* Rank 0 reads the file, so that all ranks act on the same placement. */
static gln_status_t open_placement(gln_trainer_t *x)
{
    const gln_run_options_t *run = &x->run;
    const int64_t layers = run->model.layers, experts = run->model.experts;
    const size_t bytes = (size_t)(layers * experts) * sizeof *x->expert_at;
    int rank = 0;
    if (!run->parallel.placement[0]) return GLN_OK;
    int32_t *domain_of = malloc(bytes);
    x->expert_at = malloc(bytes);
    gln_status_t status = GLN_OK;
    if (!domain_of || !x->expert_at)
        status = gln_fail(GLN_ERR_MEMORY, "no memory for a placement of %zu bytes", bytes);
    else if (x->parallel.rank == 0 || x->mode == GLN_TRAINER_PLAN) /* alone there */
        status = gln_placement_file_read(run->parallel.placement, (int)experts,
                                         x->parallel.group_domains, (int)layers, domain_of);
    status = gln_comm_agree(x->comm, status, &rank);
    if (status == GLN_OK) status = gln_comm_broadcast(x->comm, domain_of, bytes, 0);
    for (int64_t i = 0; i < layers && status == GLN_OK; i++)
        gln_placement_order((int)experts, domain_of + i * experts, x->expert_at + i * experts);
    free(domain_of);
    return status;
}

/* A model that evaluates with another router on the trainer's weights. Dropless, a token's loss
 * depends on its past alone (where the policy is causal), and few sequences at a time keep its
 * worst-case buffers small; with capacity a domain has as many tokens as in training. */
static gln_status_t open_eval_model(gln_trainer_t *x)
{
    gln_model_options_t options = gln_run_model_options(&x->run);
    int64_t few = 1024 / x->run.model.sequence;
    if (few < 1) few = 1;
    if (x->run.eval.routing == 0 && few < x->eval_sequences) x->eval_sequences = few;
    options.router = gln_run_eval_router_options(&x->run);
    options.expert_at = x->expert_at;
    if (!eval_is_scheduled(x)) options.capacity_factor_max = 0;
    return gln_model_open(&x->parallel, x->kernels, &options, x->eval_sequences, 0,
                          gln_model_params(x->model), &x->eval_model);
}

/* A planned world adds nothing up, so that its scratch for that is never made: as in reduce of the
 * optimizer. */
static void note_sums(gln_trainer_t *x)
{
    const gln_params_t *params = gln_model_params(x->model);
    const gln_parallel_t *p = &x->parallel;
    int replicas = p->local_domains >= p->group_domains ? p->ranks : p->groups;
    if (p->ranks > 1)
        x->noted_sums = (int64_t)gln_comm_tree_scratch(params->dense_count, params->acc);
    if (replicas > 1)
        x->noted_sums += (int64_t)gln_comm_tree_scratch(params->expert_count, params->acc);
    gln_memory_note(GLN_MEMORY_SCRATCH, x->noted_sums);
}

static gln_status_t open_models(gln_trainer_t *x)
{
    const gln_run_options_t *run = &x->run;
    gln_model_options_t options = gln_run_model_options(run);
    const int training = x->mode != GLN_TRAINER_EVAL;
    options.expert_at = x->expert_at;
    x->sequences = run->train.batch / (x->parallel.domains * run->train.accumulation);
    if (x->sequences < 1) x->sequences = 1;
    x->eval_sequences = x->sequences;
    gln_status_t status =
        gln_model_open(&x->parallel, x->kernels, &options, x->sequences, training, NULL, &x->model);
    if (status == GLN_OK && run->data.valid[0] && !gln_run_eval_is_train(run))
        status = open_eval_model(x);
    if (status == GLN_OK && training) {
        const gln_optimizer_options_t o = {.lr = run->train.lr,
                                           .lr_min = run->train.lr_min,
                                           .beta1 = run->train.beta1,
                                           .beta2 = run->train.beta2,
                                           .eps = run->train.eps,
                                           .weight_decay = run->train.weight_decay,
                                           .clip = run->train.clip,
                                           .warmup_steps = run->train.warmup_steps,
                                           .decay_steps = run->train.decay_steps};
        status = gln_optimizer_open(gln_model_params(x->model), x->kernels, &o, &x->optimizer);
    }
    const size_t tokens = (size_t)(x->parallel.local_domains * x->sequences * run->model.sequence);
    if (status == GLN_OK) {
        x->ids = calloc(tokens, sizeof *x->ids);
        x->target = calloc(tokens, sizeof *x->target);
        if (!x->ids || !x->target)
            status = gln_fail(GLN_ERR_MEMORY, "no memory for a batch of %zu tokens", tokens);
        else
            gln_memory_note(GLN_MEMORY_OTHER, x->noted = (int64_t)(tokens * 2 * sizeof *x->ids));
    }
    if (status == GLN_OK && x->mode == GLN_TRAINER_PLAN) note_sums(x);
    int rank = 0;
    return gln_comm_agree(x->comm, status, &rank);
}

/* A run that has a checkpoint goes on from that one: the dense model may be gone by then. */
static gln_status_t open_start(gln_trainer_t *x)
{
    int found = 0;
    if (x->mode != GLN_TRAINER_TRAIN || !x->run.train.upcycle[0]) return GLN_OK;
    x->upcycle_due = 1;
    gln_status_t status = gln_trainer_find(x, &found);
    return status == GLN_OK && !found ? gln_trainer_upcycle(x) : status;
}

gln_status_t gln_trainer_open(gln_comm_t *comm, const gln_run_options_t *run,
                              gln_trainer_mode_t mode, gln_trainer_t **out)
{
    gln_trainer_t *x = calloc(1, sizeof *x);
    if (!x) return gln_fail(GLN_ERR_MEMORY, "no memory for a trainer");
    x->comm = comm;
    x->run = *run;
    x->mode = mode;
    gln_status_t status =
        gln_parallel_open(comm, (int)run->parallel.domains, (int)run->parallel.expert_replicas,
                          (int)run->model.experts, &x->parallel);
    if (status == GLN_OK && mode != GLN_TRAINER_PLAN) status = open_data(x);
    if (status == GLN_OK) status = open_kernels(x);
    if (status == GLN_OK) status = open_placement(x);
    if (status == GLN_OK) status = open_models(x);
    if (status == GLN_OK && mode != GLN_TRAINER_PLAN)
        gln_params_init(gln_model_params(x->model), (uint64_t)run->train.seed);
    if (status == GLN_OK) status = open_start(x);
    if (status != GLN_OK) {
        gln_trainer_close(x);
        return status;
    }
    *out = x;
    return GLN_OK;
}

void gln_trainer_close(gln_trainer_t *x)
{
    if (!x) return;
    gln_recorder_close(x->recorder);
    gln_memory_note(GLN_MEMORY_OTHER, -x->noted);
    gln_memory_note(GLN_MEMORY_SCRATCH, -x->noted_sums);
    free(x->target);
    free(x->ids);
    gln_optimizer_close(x->optimizer);
    gln_model_close(x->eval_model);
    gln_model_close(x->model);
    free(x->expert_at);
    gln_kernels_close(x->kernels);
    gln_pool_close(x->pool);
    gln_data_close(x->valid);
    gln_data_close(x->train);
    gln_parallel_close(&x->parallel);
    free(x);
}

int64_t gln_trainer_at(const gln_trainer_t *x)
{
    return x->at;
}

gln_model_t *gln_trainer_model(gln_trainer_t *x)
{
    return x->model;
}

const gln_run_options_t *gln_trainer_run(const gln_trainer_t *x)
{
    return &x->run;
}

gln_status_t gln_trainer_record(gln_trainer_t *x, const int64_t *steps, int count)
{
    if (!x->optimizer || x->recorder)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "recording: expected a trainer opened for training and recorded once");
    char path[GLN_CONFIG_TEXT_MAX + 32];
    snprintf(path, sizeof path, "%s/" GLN_RECORDING_NAME, x->run.run.dir);
    const gln_recorder_options_t options = {.path = path,
                                            .steps = steps,
                                            .steps_count = count,
                                            .done = x->at,
                                            .tokens = x->sequences * x->run.model.sequence,
                                            .k = (int)x->run.router.k,
                                            .model = x->model};
    return gln_recorder_open(&x->parallel, &options, &x->recorder);
}

/* ---- a step -------------------------------------------------------------------------------------
 */

static void load_micro_batch(gln_trainer_t *x, int64_t micro)
{
    const int64_t s = x->run.model.sequence;
    const int64_t number =
        x->at * x->run.train.accumulation + micro; /* micro-batches before this one */
    const int64_t first = (number * x->parallel.domains + x->parallel.first_domain) * x->sequences;
    for (int64_t i = 0; i < x->parallel.local_domains * x->sequences; i++)
        gln_data_sample(x->train, (uint64_t)x->run.train.seed, first + i, x->ids + i * s,
                        x->target + i * s);
}

static void add_result(gln_step_report_t *r, const gln_model_result_t *one,
                       const gln_layer_times_t *times)
{
    r->loss += one->loss_sum;
    r->balance_loss += one->balance_loss;
    r->z_loss += one->z_loss;
    r->tokens += one->tokens;
    gln_ledger_add(&r->ledger, &one->ledger);
    gln_traffic_add(&r->traffic, &one->traffic);
    r->gemm_seconds += times->gemm;
    r->exchange_seconds += times->exchange;
    r->router_seconds += times->router;
    r->flight_seconds += times->flight;
    r->hidden_seconds += times->hidden;
}

static gln_status_t run_micro_batches(gln_trainer_t *x, gln_step_report_t *r)
{
    const int64_t micro_batches = x->run.train.accumulation;
    const int64_t tokens = x->run.train.batch * x->run.model.sequence;
    for (int64_t i = 0; i < micro_batches; i++) {
        load_micro_batch(x, i);
        gln_model_call_t call = {.ids = x->ids,
                                 .target = x->target,
                                 .seed = (uint64_t)x->run.train.seed,
                                 .step = x->at * micro_batches + i,
                                 .backward = 1,
                                 .overwrite = i == 0,
                                 .loss_scale = 1.0 / (double)tokens,
                                 .aux_scale =
                                     1.0 / ((double)x->parallel.domains * (double)micro_batches)};
        gln_model_result_t one;
        set_schedule(x, &call);
        if (i == 0) call.logits = gln_recorder_buffer(x->recorder, x->at + 1);
        gln_status_t status = gln_model_run(x->model, &call, &one);
        if (status == GLN_OK && call.logits) status = gln_recorder_add(x->recorder, x->at + 1);
        if (status != GLN_OK) return status;
        const gln_layer_times_t times = gln_model_times(x->model);
        add_result(r, &one, &times);
    }
    r->loss /= (double)r->tokens;
    r->balance_loss /= (double)micro_batches;
    r->z_loss /= (double)micro_batches;
    return gln_ledger_check(&r->ledger, "all micro-batches of a step");
}

gln_status_t gln_trainer_step(gln_trainer_t *x, gln_step_report_t *report)
{
    const double start = gln_seconds();
    gln_step_report_t r;
    memset(&r, 0, sizeof r);
    if (!x->optimizer)
        return gln_fail(GLN_ERR_ARGUMENT, "this trainer was not opened for training");
    if (x->upcycle_due) { /* the caller did not resume */
        gln_status_t loaded = gln_trainer_upcycle(x);
        if (loaded != GLN_OK) return loaded;
    }
    gln_comm_set_step(x->comm, x->at + 1);
    gln_params_zero_dense_grad(gln_model_params(x->model));
    gln_model_reset_load(x->model);
    gln_status_t status = run_micro_batches(x, &r);
    if (status != GLN_OK) return status;
    if (!isfinite(r.loss))
        return gln_fail(
            GLN_ERR_NUMERIC,
            "step %lld: the loss is %g; nothing was updated: lower train.lr, or resume from "
            "the last checkpoint",
            (long long)x->at + 1, r.loss);
    status = gln_optimizer_step(x->optimizer, x->at + 1, &r.grad_norm);
    if (status == GLN_OK) status = gln_model_update_bias(x->model, x->run.router.bias_rate);
    if (status != GLN_OK) return status;
    x->at++;
    r.step = x->at;
    const gln_optimizer_options_t schedule = {.lr = x->run.train.lr,
                                              .lr_min = x->run.train.lr_min,
                                              .warmup_steps = x->run.train.warmup_steps,
                                              .decay_steps = x->run.train.decay_steps};
    r.lr = gln_optimizer_lr(&schedule, x->at);
    r.seconds = gln_seconds() - start;
    *report = r;
    return GLN_OK;
}

/* ---- evaluation ---------------------------------------------------------------------------------
 */

gln_status_t gln_trainer_evaluate(gln_trainer_t *x, gln_eval_report_t *report)
{
    const double start = gln_seconds();
    const int64_t s = x->run.model.sequence;
    gln_model_t *model = x->eval_model ? x->eval_model : x->model;
    gln_eval_report_t r;
    memset(&r, 0, sizeof r);
    if (!x->valid) return gln_fail(GLN_ERR_ARGUMENT, "no validation data: set data.valid");
    int64_t windows = gln_data_windows(x->valid);
    if (x->run.eval.windows > 0 && x->run.eval.windows < windows) windows = x->run.eval.windows;
    const int64_t per_call = x->parallel.domains * x->eval_sequences;
    for (int64_t first = 0; first < windows; first += per_call) {
        const int64_t mine = first + x->parallel.first_domain * x->eval_sequences;
        for (int64_t i = 0; i < x->parallel.local_domains * x->eval_sequences; i++) {
            /* past the last window wanted: a window past the end of the data counts nothing */
            const int64_t window = mine + i < windows ? mine + i : gln_data_windows(x->valid);
            gln_data_window(x->valid, window, x->ids + i * s, x->target + i * s);
        }
        gln_model_call_t call = {
            .ids = x->ids, .target = x->target, .seed = (uint64_t)x->run.train.seed, .step = -1};
        if (x->run.eval.routing == 1) set_eval_schedule(x, &call);
        gln_model_result_t one;
        gln_status_t status = gln_model_run(model, &call, &one);
        if (status != GLN_OK) return status;
        r.loss += one.loss_sum;
        r.tokens += one.tokens;
        gln_ledger_add(&r.ledger, &one.ledger);
    }
    r.loss /= (double)(r.tokens > 0 ? r.tokens : 1);
    r.bits_per_byte = r.loss / log(2.0);
    r.seconds = gln_seconds() - start;
    *report = r;
    return GLN_OK;
}
