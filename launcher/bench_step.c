/* `gleaner bench step`: a whole training step (micro-batches forward and backward, gradients
 * summed, clipped, AdamW) on random tokens, against a plain matrix product.
 *
 * Repetitions of the two take turns, so that a slow moment of the machine meets both. A repetition
 * begins with a barrier; its time is the largest over the ranks. The plain product runs on every
 * rank at once, as the step does. Operations by formula (flops_of), 2 per multiply-add, backward
 * twice the forward; rows of experts are the ledger's; norms, activations, softmax, routing, moving
 * rows and the optimizer count as nothing. The parts of a step are its own laps (moe/step_times.h),
 * means over repetitions and ranks; what no lap claims is printed as unaccounted. */
#include "kernels/kernels.h"
#include "launcher/command.h"

#include "base/log.h"
#include "base/rng.h"
#include "launcher/bind.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "launcher/text.h"
#include "moe/optimizer.h"
#include "moe/run_options.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 2, REPEAT_MAX = 1000 };

/* Parts as printed, in the order of gln_step_part_t; `name` with '_' for ' ' is the JSON key. */
static const char *const part_names[GLN_STEP_PARTS] = {
    "embedding",      "norms",         "attention projections",
    "attention core", "rope",          "gate and router",
    "exchange",       "rows moved",    "expert products",
    "dense products", "activation",    "residual",
    "head",           "loss",          "gradients zeroed",
    "gradient sum",   "gradient norm", "adamw"};

typedef struct bench {
    gln_session_t session;
    gln_run_options_t run;
    gln_machine_t machine;
    int64_t repeat, gemm_n;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_parallel_t parallel;
    gln_model_options_t options;
    gln_model_t *model;
    gln_optimizer_t *optimizer;
    int64_t sequences; /* per domain and micro-batch */
    gln_arena_t arena;
    int32_t *ids, *target; /* [local_domains * sequences, S] */
    void *a, *b, *c;       /* [gemm_n, gemm_n] */
    int64_t steps;         /* optimizer steps done */
    double step_seconds[REPEAT_MAX], gemm_seconds[REPEAT_MAX];
    gln_step_times_t times; /* over repetitions; after gather, over ranks too */
    double total;           /* likewise, of whole steps by each rank's own clock */
    gln_ledger_t ledger;    /* all ranks, all repetitions */
} bench_t;

static gln_status_t load(const gln_arguments_t *arguments, bench_t *b)
{
    static const char *const base[] = {
        "data.train=none",     "run.dir=none",    "model.hidden=512",         "model.layers=4",
        "model.sequence=1024", "model.experts=8", "model.expert_hidden=1024", "router.k=2"};
    enum { BASE = sizeof base / sizeof base[0] };
    const char *sets[BASE + 1 + GLN_ARGUMENTS_SETS_MAX];
    const char *path = arguments->operands_count ? arguments->operands[0] : NULL;
    char batch[64];
    gln_status_t status =
        gln_arguments_int(arguments, GLN_OPTION_REPEAT, 5, 1, REPEAT_MAX, &b->repeat);
    if (status != GLN_OK) return status;
    int count = path ? 2 : BASE; /* a run file shapes the step itself */
    memcpy(sets, base, (size_t)count * sizeof *sets);
    if (!path) { /* four sequences a rank */
        snprintf(batch, sizeof batch, "train.batch=%d", 4 * b->session.ranks);
        sets[count++] = batch;
    }
    memcpy(sets + count, arguments->sets, (size_t)arguments->sets_count * sizeof *sets);
    count += arguments->sets_count;
    status = gln_run_options_load(path, sets, count, b->session.ranks, &b->run);
    if (status != GLN_OK) return status;
    gln_comm_set_timeout(b->session.comm, b->run.parallel.timeout_ms);
    int64_t size = b->run.parallel.backend == 0 ? 2048 : 192; /* the reference is slow */
    return gln_arguments_int(arguments, GLN_OPTION_GEMM, size, 1, 1 << 15, &b->gemm_n);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* Called twice: to count, and to place. */
static void lay_out(bench_t *b)
{
    size_t square = (size_t)(b->gemm_n * b->gemm_n) * gln_dtype_bytes(b->kernels->dtype);
    size_t tokens =
        (size_t)(b->parallel.local_domains * b->sequences * b->options.sequence) * sizeof(int32_t);
    b->ids = gln_arena_take(&b->arena, tokens);
    b->target = gln_arena_take(&b->arena, tokens);
    b->a = gln_arena_take(&b->arena, square);
    b->b = gln_arena_take(&b->arena, square);
    b->c = gln_arena_take(&b->arena, square);
}

static void fill(const bench_t *b)
{
    int64_t own = b->parallel.local_domains * b->sequences * b->options.sequence;
    int64_t first = b->parallel.first_domain * b->sequences * b->options.sequence;
    uint64_t vocabulary = (uint64_t)b->options.vocabulary, id = gln_rng_stream(GLN_RNG_TEST, 0, 0);
    for (int64_t i = 0; i < own; i++) {
        b->ids[i] = (int32_t)(gln_rng_u64(1, id, (uint64_t)(2 * (first + i))) % vocabulary);
        b->target[i] = (int32_t)(gln_rng_u64(1, id, (uint64_t)(2 * (first + i) + 1)) % vocabulary);
    }
    for (int64_t i = 0; i < b->gemm_n * b->gemm_n; i++) { /* any numbers of size 1 */
        gln_store(b->a, i, b->kernels->dtype, (double)((i * 7919) % 2001 - 1000) * 1e-3);
        gln_store(b->b, i, b->kernels->dtype, (double)((i * 6007) % 2001 - 1000) * 1e-3);
    }
}

static gln_status_t open_kernels(bench_t *b)
{
    gln_backend_t backend = b->run.parallel.backend == 0 ? GLN_BACKEND_CPU : GLN_BACKEND_REF;
    gln_status_t status = gln_pool_open(b->machine.threads, &b->pool);
    if (status == GLN_OK)
        status = gln_kernels_open(backend, gln_run_dtype(&b->run), b->pool, &b->kernels);
    return gln_session_agree(&b->session, status);
}

static gln_status_t open_model(bench_t *b)
{
    const gln_run_options_t *run = &b->run;
    gln_status_t status = gln_parallel_open(b->session.comm, (int)run->parallel.domains,
                                            (int)run->parallel.expert_replicas,
                                            (int)run->model.experts, &b->parallel);
    status = gln_session_agree(&b->session, status);
    if (status != GLN_OK) return status;
    b->options = gln_run_model_options(run);
    b->sequences = run->train.batch / (run->parallel.domains * run->train.accumulation);
    status =
        gln_model_open(&b->parallel, b->kernels, &b->options, b->sequences, 1, NULL, &b->model);
    status = gln_session_agree(&b->session, status);
    if (status != GLN_OK) return status;
    gln_params_init(gln_model_params(b->model), (uint64_t)run->train.seed);
    const gln_optimizer_options_t o = {.lr = run->train.lr,
                                       .beta1 = run->train.beta1,
                                       .beta2 = run->train.beta2,
                                       .eps = run->train.eps,
                                       .weight_decay = run->train.weight_decay,
                                       .clip = run->train.clip};
    status = gln_optimizer_open(gln_model_params(b->model), b->kernels, &o, &b->optimizer);
    if (status == GLN_OK) {
        lay_out(b);
        status = gln_arena_commit(&b->arena, gln_device_cpu());
    }
    if (status == GLN_OK) {
        lay_out(b);
        fill(b);
    }
    return gln_session_agree(&b->session, status);
}

/* ---- measuring ----------------------------------------------------------------------------------
 */

/* As gln_trainer_step does it, on the same tokens every time. */
static gln_status_t run_step(bench_t *b)
{
    const gln_run_options_t *run = &b->run;
    const double begin = gln_step_now();
    double norm;
    gln_status_t status = GLN_OK;
    gln_step_skip(&b->times);
    gln_params_zero_dense_grad(gln_model_params(b->model));
    gln_step_lap(&b->times, GLN_STEP_ZERO);
    gln_model_reset_load(b->model);
    memset(&b->ledger, 0, sizeof b->ledger);
    for (int64_t i = 0; i < run->train.accumulation && status == GLN_OK; i++) {
        const gln_model_call_t call = {
            .ids = b->ids,
            .target = b->target,
            .seed = 1,
            .step = b->steps * run->train.accumulation + i,
            .backward = 1,
            .overwrite = i == 0,
            .loss_scale = 1.0 / (double)(run->train.batch * run->model.sequence),
            .aux_scale = 1.0 / ((double)b->parallel.domains * (double)run->train.accumulation)};
        gln_model_result_t one;
        status = gln_model_run(b->model, &call, &one);
        if (status == GLN_OK) gln_ledger_add(&b->ledger, &one.ledger);
    }
    if (status == GLN_OK) status = gln_optimizer_step(b->optimizer, b->steps + 1, &norm);
    if (status == GLN_OK) status = gln_model_update_bias(b->model, run->router.bias_rate);
    b->steps++;
    b->total += gln_step_now() - begin;
    return status;
}

static gln_status_t run_gemm(bench_t *b)
{
    gln_gemm_t item = {.m = b->gemm_n,
                       .n = b->gemm_n,
                       .k = b->gemm_n,
                       .a = b->a,
                       .lda = b->gemm_n,
                       .b = b->b,
                       .ldb = b->gemm_n,
                       .c = b->c,
                       .ldc = b->gemm_n};
    return b->kernels->ops->gemm_library(b->kernels, (gln_gemm_mode_t){.form = GLN_GEMM_NN}, &item,
                                         1);
}

/* Time `work` on all ranks from a common start; *seconds is the largest over the ranks. */
static gln_status_t measure(bench_t *b, gln_status_t (*work)(bench_t *), double *all,
                            double *seconds)
{
    gln_status_t status = gln_comm_barrier(b->session.comm);
    if (status != GLN_OK) return status;
    double begin = gln_clock();
    status = work(b);
    double mine = gln_clock() - begin;
    status = gln_session_agree(&b->session, status);
    if (status == GLN_OK) status = gln_comm_allgather(b->session.comm, &mine, sizeof mine, all);
    *seconds = 0;
    for (int r = 0; status == GLN_OK && r < b->session.ranks; r++)
        *seconds = fmax(*seconds, all[r]);
    return status;
}

static gln_status_t repeat(bench_t *b)
{
    double *all = calloc((size_t)b->session.ranks, sizeof *all);
    gln_ledger_t ledger;
    memset(&ledger, 0, sizeof ledger);
    gln_model_set_times(b->model, &b->times);
    gln_optimizer_set_times(b->optimizer, &b->times);
    gln_status_t status = all ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(&b->session, status);
    for (int64_t i = -WARM_UPS; status == GLN_OK && i < b->repeat; i++) {
        int64_t place = i < 0 ? 0 : i;
        if (i == 0) {
            memset(&b->times, 0, sizeof b->times);
            b->total = 0;
        }
        status = measure(b, run_step, all, &b->step_seconds[place]);
        if (status == GLN_OK) status = measure(b, run_gemm, all, &b->gemm_seconds[place]);
        if (i >= 0) gln_ledger_add(&ledger, &b->ledger);
    }
    b->ledger = ledger; /* the model's result covers all ranks already */
    free(all);
    return status;
}

/* Sum times over the ranks. */
static gln_status_t gather(bench_t *b)
{
    typedef struct part {
        gln_step_times_t times;
        double total;
    } part_t;
    part_t mine = {b->times, b->total};
    part_t *all = calloc((size_t)b->session.ranks, sizeof *all);
    gln_status_t status = all ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(&b->session, status);
    if (status == GLN_OK) status = gln_comm_allgather(b->session.comm, &mine, sizeof mine, all);
    memset(&b->times, 0, sizeof b->times);
    b->total = 0;
    for (int r = 0; status == GLN_OK && r < b->session.ranks; r++) {
        b->total += all[r].total;
        for (int i = 0; i < GLN_STEP_PARTS; i++)
            b->times.seconds[i] += all[r].times.seconds[i];
    }
    free(all);
    return status;
}

/* ---- figures ------------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the finished measurement. Seconds of parts are means of a step on one rank. */
typedef struct figures {
    double step_median, step_min, gemm_median, gemm_min; /* seconds */
    double flops[GLN_STEP_PARTS], step_flops;            /* of one step, all ranks */
    double gemm_rate;                                    /* flops per second, all ranks */
    double seconds[GLN_STEP_PARTS], total, unaccounted;
    double tokens, rows; /* of a step, all ranks; rows: mean over repetitions */
    double ratio;        /* of median rates: step / plain product */
} figures_t;

/* Operations of forward and backward per part, over all domains. */
static void flops_of(const bench_t *b, figures_t *r)
{
    const gln_model_options_t *o = &b->options;
    double h = (double)o->hidden, s = (double)o->sequence, layers = (double)o->layers;
    double dh = (double)o->head_dim, heads = (double)o->heads, kv = (double)o->kv_heads;
    double moe = gln_model_moe_layers(b->model), t = r->tokens;
    r->flops[GLN_STEP_PROJECTIONS] =
        layers * t * (2 * h * (heads + 2 * kv) * dh + 2 * heads * dh * h);
    r->flops[GLN_STEP_ATTENTION] = layers * t * heads * 2 * dh * (s + 1); /* half of S x S */
    r->flops[GLN_STEP_ROUTER] = moe * 2 * t * h * (double)o->experts;
    r->flops[GLN_STEP_EXPERTS] = 6 * r->rows * h * (double)o->expert_hidden;
    r->flops[GLN_STEP_DENSE] =
        6 * t * h * (moe * (double)o->shared_hidden + (layers - moe) * (double)o->dense_hidden);
    r->flops[GLN_STEP_HEAD] = 2 * t * h * (double)o->vocabulary;
    for (int i = 0; i < GLN_STEP_PARTS; i++) {
        r->flops[i] *= 3;
        r->step_flops += r->flops[i];
    }
}

static figures_t reckon(bench_t *b)
{
    figures_t r = {0};
    double repeats = (double)b->repeat, calls = repeats * b->session.ranks;
    qsort(b->step_seconds, (size_t)b->repeat, sizeof(double), compare);
    qsort(b->gemm_seconds, (size_t)b->repeat, sizeof(double), compare);
    r.step_median = b->step_seconds[b->repeat / 2];
    r.step_min = b->step_seconds[0];
    r.gemm_median = b->gemm_seconds[b->repeat / 2];
    r.gemm_min = b->gemm_seconds[0];
    r.gemm_rate = 2 * pow((double)b->gemm_n, 3) * b->session.ranks / r.gemm_median;
    r.tokens = (double)b->run.train.batch * (double)b->options.sequence;
    r.rows = (double)(b->ledger.routed + b->ledger.filled + b->ledger.rect_rows) / repeats;
    flops_of(b, &r);
    r.total = r.unaccounted = b->total / calls;
    for (int i = 0; i < GLN_STEP_PARTS; i++) {
        r.seconds[i] = b->times.seconds[i] / calls;
        r.unaccounted -= r.seconds[i];
    }
    r.ratio = r.step_flops / r.step_median / r.gemm_rate;
    return r;
}

static json_t *part_json(const figures_t *r, double seconds, double flops)
{
    json_t *part = json_object();
    json_object_set_new(part, "seconds", gln_figures_real(seconds));
    json_object_set_new(part, "share", gln_figures_real(seconds / r->total));
    json_object_set_new(part, "flops", gln_figures_real(flops));
    json_object_set_new(part, "ratio",
                        flops > 0 ? gln_figures_real(flops / seconds / r->gemm_rate) : json_null());
    return part;
}

static gln_status_t print_json(const bench_t *b, const figures_t *r)
{
    const gln_model_options_t *o = &b->options;
    json_t *object = json_pack(
        "{s:s, s:s, s:i, s:i, s:I, s:i, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I}", "bench", "step",
        "dtype", gln_dtype_name(b->kernels->dtype), "ranks", b->session.ranks, "threads",
        b->machine.threads, "domains", (json_int_t)b->run.parallel.domains, "layers", o->layers,
        "hidden", (json_int_t)o->hidden, "expert_hidden", (json_int_t)o->expert_hidden, "experts",
        o->experts, "k", (json_int_t)b->run.router.k, "sequence", (json_int_t)o->sequence, "batch",
        (json_int_t)b->run.train.batch, "repeat", (json_int_t)b->repeat, "plain_n",
        (json_int_t)b->gemm_n);
    const struct {
        const char *key;
        double value;
    } reals[] = {{"tokens", r->tokens},
                 {"rows", r->rows},
                 {"median_seconds", r->step_median},
                 {"min_seconds", r->step_min},
                 {"tokens_per_second", r->tokens / r->step_median},
                 {"flops", r->step_flops},
                 {"gflops_per_second", 1e-9 * r->step_flops / r->step_median},
                 {"plain_median_seconds", r->gemm_median},
                 {"plain_min_seconds", r->gemm_min},
                 {"plain_gflops_per_second", 1e-9 * r->gemm_rate},
                 {"ratio", r->ratio},
                 {"mean_seconds", r->total}};
    json_t *parts = json_object();
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        json_object_set_new(object, reals[i].key, gln_figures_real(reals[i].value));
    for (int i = 0; i < GLN_STEP_PARTS; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s", part_names[i]);
        for (char *at = key; *at; at++)
            if (*at == ' ') *at = '_';
        json_object_set_new(parts, key, part_json(r, r->seconds[i], r->flops[i]));
    }
    json_object_set_new(parts, "unaccounted", part_json(r, r->unaccounted, 0));
    json_object_set_new(object, "parts", parts);
    return gln_figures_print(object, stdout, "standard output");
}

static void print_part(const figures_t *r, const char *name, double seconds, double flops)
{
    printf("%-22s %12.2f %10.1f", name, 1e3 * seconds, 100 * seconds / r->total);
    if (flops > 0)
        printf(" %12.1f %12.1f %8.2f", 1e-9 * flops, 1e-9 * flops / seconds,
               flops / seconds / r->gemm_rate);
    printf("\n");
}

static void print(const bench_t *b, const figures_t *r)
{
    const gln_model_options_t *o = &b->options;
    char pace[16], name[32];
    gln_text_count(r->tokens / r->step_median, pace, sizeof pace);
    printf(
        "one training step in %s: %d blocks, H %lld, F %lld, E %d, K %lld, S %lld, V %d, D %lld; "
        "%.0f tokens, %.0f rows\n",
        gln_dtype_name(b->kernels->dtype), o->layers, (long long)o->hidden,
        (long long)o->expert_hidden, o->experts, (long long)b->run.router.k, (long long)o->sequence,
        o->vocabulary, (long long)b->run.parallel.domains, r->tokens, r->rows);
    printf("%s; %d rank%s of %d thread%s; %lld repetitions\n\n", b->machine.summary,
           b->session.ranks, b->session.ranks == 1 ? "" : "s", b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)b->repeat);
    printf("%-22s %12s %12s %12s\n", "", "median ms", "minimum ms", "GFLOP/s");
    printf("%-22s %12.2f %12.2f %12.1f\n", "step", 1e3 * r->step_median, 1e3 * r->step_min,
           1e-9 * r->step_flops / r->step_median);
    snprintf(name, sizeof name, "plain %lld^3 product", (long long)b->gemm_n);
    printf("%-22s %12.2f %12.2f %12.1f\n\n", name, 1e3 * r->gemm_median, 1e3 * r->gemm_min,
           1e-9 * r->gemm_rate);
    printf("tokens/s %s; ratio to the plain product %.2f\n\n", pace, r->ratio);
    printf("%-22s %12s %10s %12s %12s %8s\n", "part", "mean ms", "per cent", "GFLOP", "GFLOP/s",
           "ratio");
    for (int i = 0; i < GLN_STEP_PARTS; i++)
        if (r->seconds[i] > 0) print_part(r, part_names[i], r->seconds[i], r->flops[i]);
    print_part(r, "unaccounted", r->unaccounted, 0);
    print_part(r, "whole step", r->total, r->step_flops);
}

static gln_status_t bench(const gln_arguments_t *arguments, bench_t *b)
{
    gln_session_t *session = &b->session;
    gln_status_t status = gln_session_agree(session, load(arguments, b));
    if (status != GLN_OK) return status;
    status = gln_bind_run(session, &b->run, NULL);
    if (status != GLN_OK) return status;
    status = gln_machine_look(session->comm, (int)b->run.parallel.threads, &b->machine);
    status = gln_session_agree(session, status);
    if (status == GLN_OK) status = open_kernels(b);
    if (status == GLN_OK) status = open_model(b);
    if (status != GLN_OK) return status;
    session->working = true;
    status = repeat(b);
    if (status == GLN_OK) status = gather(b);
    status = gln_session_agree(session, status);
    if (status == GLN_OK && session->rank == 0) {
        figures_t figures = reckon(b);
        if (arguments->given[GLN_OPTION_JSON])
            status = print_json(b, &figures);
        else
            print(b, &figures);
    }
    return gln_session_agree(session, status);
}

int gln_command_bench_step(const gln_arguments_t *arguments)
{
    static bench_t state;
    bench_t *b = &state;
    *b = (bench_t){0};
    gln_session_start(&b->session);
    gln_status_t status = gln_session_join(&b->session);
    if (status == GLN_OK) status = bench(arguments, b);
    gln_arena_close(&b->arena);
    gln_optimizer_close(b->optimizer);
    gln_model_close(b->model);
    gln_parallel_close(&b->parallel);
    gln_kernels_close(b->kernels);
    gln_pool_close(b->pool);
    return gln_session_leave(&b->session, status);
}
