/* `gleaner bench router`: the whole router against the forward pass of the layer it belongs to.
 *
 * One process. A repetition is one forward pass of the layer, then rounds of: gate product, router
 * without rectification, gate product, router with it (or with it first), each right after the
 * product that wrote its logits, as in a layer. What is compared takes turns, so that a slow moment
 * of the machine meets all. Replayed logits go through the layer as well: they become the first E
 * columns of x, and the gate takes these out (products with 1 and sums with 0, hence exact). */
#include "launcher/command.h"

#include "base/log.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "launcher/bench_router.h"
#include "launcher/logits.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "moe/gleaner.h"
#include "moe/run_options.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 1, REPEAT_MAX = 200, ROUNDS = 15, SAMPLES_MAX = REPEAT_MAX * ROUNDS, K_MAX = 16 };

typedef struct bench {
    gln_session_t session;
    gln_comm_t *self;
    gln_logits_t recorded; /* data NULL: none */
    gln_run_options_t run;
    gln_machine_t machine;
    int64_t tokens, repeat;
    int k[K_MAX], k_count;
    gln_layer_options_t options; /* with the k at hand, both rectifications on */
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_parallel_t parallel;
    gln_arena_t arena;
    float *x, *y; /* [D T, H] */
    float *gate, *gate_up, *down;
    float *logits; /* [D T, E] */
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    gln_router_t *plain, *full;
    gln_plan_t *plain_plan, *full_plan;
    double layer_seconds[REPEAT_MAX];
    double gate_seconds[2 * SAMPLES_MAX], plain_seconds[SAMPLES_MAX], full_seconds[SAMPLES_MAX];
} bench_t;

static gln_status_t read_k(const char *text, bench_t *b)
{
    const char *at = text;
    do {
        char *end;
        errno = 0;
        long value = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || errno || value < 1 || value > 255 ||
            b->k_count == K_MAX)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "--k: expected at most %d numbers from 1 to 255, with commas between "
                            "them, found \"%.200s\"",
                            K_MAX, text);
        b->k[b->k_count++] = (int)value;
        at = *end ? end + 1 : NULL;
    } while (at);
    return GLN_OK;
}

static gln_status_t read_run(const gln_arguments_t *arguments, bench_t *b)
{
    const char *sets[GLN_ARGUMENTS_SETS_MAX + 8] = {"data.train=none", "run.dir=none"};
    char experts[64], batch[64], heads[] = "model.heads=1", kv_heads[] = "model.kv_heads=1";
    const char *path = arguments->operands_count ? arguments->operands[0] : NULL;
    int count = 2, fields_count;
    if (!path) { /* a run file shapes the layer itself */
        sets[count++] = "model.hidden=1024";
        sets[count++] = "model.expert_hidden=2048";
        sets[count++] = experts;
        snprintf(experts, sizeof experts, "model.experts=%lld",
                 b->recorded.data ? (long long)b->recorded.experts : 64LL);
    }
    memcpy(sets + count, arguments->sets, (size_t)arguments->sets_count * sizeof *sets);
    count += arguments->sets_count;
    const gln_config_field_t *fields = gln_run_fields(&fields_count);
    gln_run_options_t first;
    memset(&first, 0, sizeof first);
    gln_status_t status =
        gln_config_load(fields, fields_count, path, sets, count, &first, sizeof first, NULL);
    if (status != GLN_OK) return status;
    /* attention and the batch are not used here; they must not stand in the way of a size */
    int64_t domains = first.parallel.domains ? first.parallel.domains : 1;
    snprintf(batch, sizeof batch, "train.batch=%lld", (long long)domains);
    sets[count++] = batch;
    sets[count++] = "train.accumulation=1";
    if (!path) {
        sets[count++] = heads;
        sets[count++] = kv_heads;
    }
    status = gln_run_options_load(path, sets, count, 1, &b->run);
    if (status == GLN_OK && b->run.parallel.dtype != 0)
        status = gln_fail(GLN_ERR_CONFIG, "bench router measures f32; set parallel.dtype: f32");
    return status;
}

static gln_status_t load(const gln_arguments_t *arguments, bench_t *b)
{
    const char *path = arguments->value[GLN_OPTION_LOGITS], *k = arguments->value[GLN_OPTION_K];
    gln_status_t status = read_k(k ? k : "1,2,8", b);
    if (status == GLN_OK && path)
        status = gln_logits_open(path, arguments->value[GLN_OPTION_TENSOR], 0, &b->recorded);
    if (status == GLN_OK) status = read_run(arguments, b);
    if (status == GLN_OK && b->recorded.data)
        status = gln_logits_check(&b->recorded, b->run.model.experts, b->run.model.hidden);
    if (status != GLN_OK) return status;
    int64_t most = 1 << 24, usual = 8192;
    if (b->recorded.data) {
        most = b->recorded.domains * b->recorded.tokens / b->run.parallel.domains;
        if (most < 1)
            return gln_fail(GLN_ERR_CONFIG, "%s: tensor %s has fewer tokens than there are domains",
                            path, b->recorded.name);
        usual = most < usual ? most : usual;
    }
    status = gln_arguments_int(arguments, GLN_OPTION_TOKENS, usual, 1, most, &b->tokens);
    if (status != GLN_OK) return status;
    return gln_arguments_int(arguments, GLN_OPTION_REPEAT, 5, 1, REPEAT_MAX, &b->repeat);
}

/* Called twice: to count, and to place. */
static void lay_out(bench_t *b)
{
    size_t h = (size_t)b->options.hidden, f = (size_t)b->options.expert_hidden;
    size_t experts = (size_t)b->run.model.experts, real = sizeof(float);
    size_t rows = (size_t)(b->run.parallel.domains * b->tokens);
    b->x = gln_arena_take(&b->arena, rows * h * real);
    b->y = gln_arena_take(&b->arena, rows * h * real);
    b->logits = gln_arena_take(&b->arena, rows * experts * real);
    b->gate = gln_arena_take(&b->arena, h * experts * real);
    b->gate_up = gln_arena_take(&b->arena, experts * h * 2 * f * real);
    b->down = gln_arena_take(&b->arena, experts * f * h * real);
}

static void fill(float *data, int64_t count, uint64_t number, double scale)
{
    uint64_t stream = gln_rng_stream(GLN_RNG_TEST, number, 0);
    for (int64_t i = 0; i < count; i++)
        data[i] = (float)(scale * gln_rng_normal(1, stream, (uint64_t)i));
}

static void fill_all(bench_t *b)
{
    int64_t h = b->options.hidden, f = b->options.expert_hidden, experts = b->run.model.experts;
    int64_t rows = b->run.parallel.domains * b->tokens, up = h * 2 * f, down = f * h;
    fill(b->x, rows * h, 0, 1);
    fill(b->gate, h * experts, 2, 0.02);
    fill(b->gate_up, up, 3, 0.02);
    fill(b->down, down, 4, 0.02);
    for (int64_t e = 1; e < experts; e++) { /* equal experts take as long as others */
        memcpy(b->gate_up + e * up, b->gate_up, (size_t)up * sizeof(float));
        memcpy(b->down + e * down, b->down, (size_t)down * sizeof(float));
    }
    if (!b->recorded.data) return;
    gln_logits_replay(&b->recorded, 0, rows, h, GLN_F32, b->gate, b->x);
}

static gln_status_t open_shared(bench_t *b)
{
    gln_model_options_t model = gln_run_model_options(&b->run);
    b->options = (gln_layer_options_t){.tokens = b->tokens,
                                       .hidden = model.hidden,
                                       .expert_hidden = model.expert_hidden,
                                       .router = model.router,
                                       .wire = model.wire,
                                       .forward_only = 1};
    gln_backend_t backend = b->run.parallel.backend == 0 ? GLN_BACKEND_CPU : GLN_BACKEND_REF;
    gln_status_t status = gln_machine_look(b->self, (int)b->run.parallel.threads, &b->machine);
    if (status == GLN_OK) status = gln_pool_open(b->machine.threads, &b->pool);
    if (status == GLN_OK) status = gln_kernels_open(backend, GLN_F32, b->pool, &b->kernels);
    if (status == GLN_OK)
        status = gln_parallel_open(b->self, (int)b->run.parallel.domains,
                                   (int)b->run.parallel.expert_replicas, (int)b->run.model.experts,
                                   &b->parallel);
    if (status != GLN_OK) return status;
    lay_out(b);
    status = gln_arena_commit(&b->arena, gln_device_cpu());
    if (status != GLN_OK) return status;
    lay_out(b);
    fill_all(b);
    return GLN_OK;
}

static gln_status_t open_k(bench_t *b, int k)
{
    gln_router_options_t *full = &b->options.router, plain;
    full->k = k;
    full->fill = full->rectify = 1;
    full->fill_rank = 0;
    plain = *full;
    plain.fill = plain.rectify = 0;
    gln_router_shape_t shape = {.tokens = b->tokens,
                                .experts = b->parallel.experts,
                                .per_domain = b->parallel.per_domain,
                                .acc = GLN_F32};
    gln_status_t status = gln_router_open(&plain, &shape, b->pool, &b->plain);
    if (status == GLN_OK) status = gln_plan_open(b->plain, &b->plain_plan);
    if (status == GLN_OK) status = gln_router_open(full, &shape, b->pool, &b->full);
    if (status == GLN_OK) status = gln_plan_open(b->full, &b->full_plan);
    if (status == GLN_OK)
        status = gln_layer_workspace_open(&b->parallel, b->kernels, &b->options, &b->workspace);
    if (status == GLN_OK)
        status = gln_layer_open(&b->parallel, b->kernels, b->workspace, &b->options, 0, &b->layer);
    return status;
}

static void close_k(bench_t *b)
{
    gln_layer_close(b->layer);
    gln_layer_workspace_close(b->workspace);
    gln_plan_close(b->full_plan);
    gln_router_close(b->full);
    gln_plan_close(b->plain_plan);
    gln_router_close(b->plain);
    b->layer = NULL;
    b->workspace = NULL;
    b->full_plan = b->plain_plan = NULL;
    b->full = b->plain = NULL;
}

static gln_status_t run_layer(bench_t *b, double *seconds)
{
    gln_layer_weights_t weights = {b->gate, b->gate_up, b->down};
    gln_layer_step_t step = {.seed = 1};
    double begin = gln_clock();
    gln_status_t status = gln_layer_forward(b->layer, &weights, &step, b->x, b->y);
    *seconds = gln_clock() - begin;
    return status;
}

static gln_status_t run_gate(bench_t *b, double *seconds)
{
    gln_gemm_t item = {.m = b->run.parallel.domains * b->tokens,
                       .n = b->parallel.experts,
                       .k = b->options.hidden,
                       .a = b->x,
                       .lda = b->options.hidden,
                       .b = b->gate,
                       .ldb = b->parallel.experts,
                       .c = b->logits,
                       .ldc = b->parallel.experts};
    gln_gemm_mode_t mode = {.form = GLN_GEMM_NN, .c_acc = 1};
    double begin = gln_clock();
    gln_status_t status = b->kernels->ops->gemm(b->kernels, mode, &item, 1);
    *seconds = gln_clock() - begin;
    return status;
}

/* All domains. @param ledger their sum, or NULL */
static gln_status_t run_router(bench_t *b, gln_router_t *router, gln_plan_t *plan, double *seconds,
                               gln_ledger_t *ledger)
{
    const gln_parallel_t *p = &b->parallel;
    gln_status_t status = GLN_OK;
    double begin = gln_clock();
    for (int d = 0; status == GLN_OK && d < p->domains; d++) {
        gln_route_input_t input = {.logits = b->logits + (int64_t)d * b->tokens * p->experts,
                                   .domain = d,
                                   .first_local = d % p->group_domains * p->per_domain,
                                   .seed = 1};
        status = gln_router_route(router, &input, plan);
        if (status == GLN_OK && ledger) gln_ledger_add(ledger, &plan->ledger);
    }
    *seconds = gln_clock() - begin;
    return status;
}

/* Gate, then a router; twice, for each of the two, whose order changes from round to round. */
static gln_status_t run_round(bench_t *b, int64_t place)
{
    gln_status_t status = GLN_OK;
    for (int i = 0; status == GLN_OK && i < 2; i++) {
        bool full = (place + i) % 2;
        status = run_gate(b, &b->gate_seconds[2 * place + i]);
        if (status != GLN_OK) return status;
        if (full)
            status = run_router(b, b->full, b->full_plan, &b->full_seconds[place], NULL);
        else
            status = run_router(b, b->plain, b->plain_plan, &b->plain_seconds[place], NULL);
    }
    return status;
}

static gln_status_t repeat(bench_t *b, gln_ledger_t *ledger)
{
    gln_status_t status = GLN_OK;
    for (int64_t i = -WARM_UPS; status == GLN_OK && i < b->repeat; i++) {
        int64_t place = i < 0 ? 0 : i;
        status = run_layer(b, &b->layer_seconds[place]);
        for (int64_t r = 0; status == GLN_OK && r < ROUNDS; r++)
            status = run_round(b, place * ROUNDS + r);
    }
    double seconds;
    if (status == GLN_OK) status = run_router(b, b->full, b->full_plan, &seconds, ledger);
    return status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static gln_timing_t reckon(double *seconds, int64_t count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, compare);
    return (gln_timing_t){seconds[count / 2], seconds[0]};
}

static gln_status_t measure(bench_t *b, int k, gln_router_figures_t *r)
{
    gln_status_t status = open_k(b, k);
    if (status != GLN_OK) return status;
    b->session.working = true;
    status = repeat(b, &r->ledger);
    if (status == GLN_ERR_NUMERIC && b->recorded.data) return GLN_ERR_DATA; /* it was the file's */
    if (status != GLN_OK) return status;
    const gln_router_options_t *o = gln_router_options(b->full);
    size_t scores = (size_t)b->tokens * (size_t)b->parallel.experts * sizeof(float);
    if (b->full_plan->softmax != b->full_plan->scores) scores *= 2;
    r->policy = gln_policy_name(o->policy);
    r->k = o->k;
    r->rounds = ROUNDS;
    r->gate = reckon(b->gate_seconds, 2 * ROUNDS * b->repeat);
    r->plain = reckon(b->plain_seconds, ROUNDS * b->repeat);
    r->full = reckon(b->full_seconds, ROUNDS * b->repeat);
    r->layer = reckon(b->layer_seconds, b->repeat);
    r->scratch_bytes = gln_router_bytes(b->full);
    r->plan_bytes = gln_plan_bytes(b->full_plan) - scores;
    r->scores_bytes = scores;
    return GLN_OK;
}

static gln_status_t bench(const gln_arguments_t *arguments, bench_t *b)
{
    gln_status_t status = load(arguments, b);
    if (status == GLN_OK) status = open_shared(b);
    for (int i = 0; status == GLN_OK && i < b->k_count; i++) {
        char source[600];
        snprintf(source, sizeof source, "%s: %s", b->recorded.data ? b->recorded.path : "",
                 b->recorded.name);
        gln_router_figures_t figures = {.source = b->recorded.data ? source : NULL,
                                        .machine = b->machine.summary,
                                        .threads = b->machine.threads,
                                        .domains = b->parallel.domains,
                                        .experts = b->parallel.experts,
                                        .tokens = b->parallel.domains * b->tokens,
                                        .hidden = b->options.hidden,
                                        .expert_hidden = b->options.expert_hidden,
                                        .repeat = b->repeat};
        status = measure(b, b->k[i], &figures);
        close_k(b);
        if (status != GLN_OK) break;
        if (arguments->given[GLN_OPTION_JSON])
            status = gln_bench_router_json(&figures);
        else
            gln_bench_router_text(&figures, i == 0);
    }
    return status;
}

int gln_command_bench_router(const gln_arguments_t *arguments)
{
    static bench_t state;
    bench_t *b = &state;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    *b = (bench_t){0};
    gln_session_start(&b->session);
    gln_status_t status = gln_comm_open_self(&b->self);
    if (status == GLN_OK) status = bench(arguments, b);
    status = gln_session_agree(&b->session, status);
    gln_parallel_close(&b->parallel);
    gln_arena_close(&b->arena);
    gln_kernels_close(b->kernels);
    gln_pool_close(b->pool);
    gln_logits_close(&b->recorded);
    gln_comm_close(b->self);
    return gln_session_leave(&b->session, status);
}
