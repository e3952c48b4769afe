/* `gleaner bench layer`: one MoE layer, forward and backward, against a plain matrix product.
 *
 * Repetitions of the two take turns, so that a slow moment of the machine meets both. A repetition
 * begins with a barrier; its time is the largest over the ranks. The plain product runs on every
 * rank at once, as the layer does. Work by formula, over all ranks: rows = routed + filled +
 * rectified rows of the ledger; a row costs three products of H x F at 2 flops, 6 H F, forward, and
 * twice that backward; the gate costs 2 T H E, and twice that backward. Replayed logits become the
 * first E columns of the input, rounded if that is bf16, and the gate passes them on. */
#include "launcher/command.h"

#include "base/log.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "launcher/bind.h"
#include "launcher/figures.h"
#include "launcher/logits.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "launcher/text.h"
#include "moe/gleaner.h"
#include "moe/run_options.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 2, REPEAT_MAX = 1000 };

typedef struct bench {
    gln_session_t session;
    gln_run_options_t run;
    gln_machine_t machine;
    int64_t tokens, repeat, gemm_n; /* T of one domain */
    gln_logits_t recorded;          /* data NULL: none */
    gln_layer_options_t options;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_parallel_t parallel;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    gln_arena_t arena;
    void *x, *y, *dy, *dx; /* [local_domains * T, H] */
    void *gate, *gate_up, *down;
    void **gradient_gate, **gradient_gate_up, **gradient_down;
    void *a, *b, *c; /* [gemm_n, gemm_n] */
    double layer_seconds[REPEAT_MAX], gemm_seconds[REPEAT_MAX];
    gln_layer_times_t times; /* summed over repetitions and ranks */
    gln_ledger_t ledger;     /* all ranks, one repetition */
} bench_t;

/* Tokens of a domain, from the command line or as many as were recorded. */
static gln_status_t read_tokens(const gln_arguments_t *arguments, bench_t *b)
{
    const gln_logits_t *l = &b->recorded;
    int64_t most = 1 << 24, usual = 2048;
    if (l->data) {
        gln_status_t status = gln_logits_check(l, b->run.model.experts, b->run.model.hidden);
        if (status != GLN_OK) return status;
        most = l->domains * l->tokens / b->run.parallel.domains;
        usual = most < usual ? most : usual;
        if (most < 1)
            return gln_fail(GLN_ERR_CONFIG, "%s: tensor %s has fewer tokens than there are domains",
                            l->path, l->name);
    }
    return gln_arguments_int(arguments, GLN_OPTION_TOKENS, usual, 1, most, &b->tokens);
}

static gln_status_t load(const gln_arguments_t *arguments, bench_t *b)
{
    static const char *const base[] = {"data.train=none", "run.dir=none", "model.hidden=512",
                                       "model.expert_hidden=1024", "router.k=2"};
    enum { BASE = sizeof base / sizeof base[0] };
    const char *sets[BASE + 1 + GLN_ARGUMENTS_SETS_MAX];
    const char *path = arguments->operands_count ? arguments->operands[0] : NULL;
    const char *logits = arguments->value[GLN_OPTION_LOGITS];
    int count = path ? 2 : BASE; /* a run file shapes the layer itself */
    char experts[64];
    memcpy(sets, base, (size_t)count * sizeof *sets);
    gln_status_t status = GLN_OK;
    if (logits)
        status = gln_logits_open(logits, arguments->value[GLN_OPTION_TENSOR], 0, &b->recorded);
    if (status != GLN_OK) return status;
    if (logits && !path) {
        snprintf(experts, sizeof experts, "model.experts=%lld", (long long)b->recorded.experts);
        sets[count++] = experts;
    }
    memcpy(sets + count, arguments->sets, (size_t)arguments->sets_count * sizeof *sets);
    /* the batch is not used here; it must not stand in the way of a number of domains */
    char batch[64] = "train.batch=1", accumulation[] = "train.accumulation=1";
    status = gln_arguments_int(arguments, GLN_OPTION_REPEAT, 9, 1, REPEAT_MAX, &b->repeat);
    if (status != GLN_OK) return status;
    count += arguments->sets_count;
    int fields_count;
    const gln_config_field_t *fields = gln_run_fields(&fields_count);
    gln_run_options_t first;
    memset(&first, 0, sizeof first);
    status = gln_config_load(fields, fields_count, path, sets, count, &first, sizeof first, NULL);
    if (status != GLN_OK) return status;
    int64_t domains = first.parallel.domains ? first.parallel.domains : b->session.ranks;
    snprintf(batch, sizeof batch, "train.batch=%lld", (long long)domains);
    const char *all[BASE + 1 + GLN_ARGUMENTS_SETS_MAX + 2];
    memcpy(all, sets, (size_t)count * sizeof *all);
    all[count++] = batch;
    all[count++] = accumulation;
    status = gln_run_options_load(path, all, count, b->session.ranks, &b->run);
    if (status == GLN_OK) status = read_tokens(arguments, b);
    if (status != GLN_OK) return status;
    gln_comm_set_timeout(b->session.comm, b->run.parallel.timeout_ms);
    int64_t size = b->run.parallel.backend == 0 ? 2048 : 192; /* the reference is slow */
    return gln_arguments_int(arguments, GLN_OPTION_GEMM, size, 1, 1 << 15, &b->gemm_n);
}

static gln_dtype_t dtype_of(const bench_t *b)
{
    return gln_run_dtype(&b->run);
}

/* Called twice: to count, and to place. */
static void lay_out(bench_t *b)
{
    const gln_parallel_t *p = &b->parallel;
    size_t element = gln_dtype_bytes(dtype_of(b)),
           acc = gln_dtype_bytes(gln_dtype_acc(dtype_of(b)));
    size_t h = (size_t)b->options.hidden, f = (size_t)b->options.expert_hidden;
    size_t rows = (size_t)p->local_domains * (size_t)b->tokens, local = (size_t)p->local_experts;
    size_t gate = h * (size_t)p->experts, n = (size_t)b->gemm_n;
    void **tensors[] = {&b->x, &b->y, &b->dy, &b->dx};
    for (int i = 0; i < 4; i++)
        *tensors[i] = gln_arena_take(&b->arena, rows * h * element);
    b->gate = gln_arena_take(&b->arena, gate * element);
    b->gate_up = gln_arena_take(&b->arena, local * h * 2 * f * element);
    b->down = gln_arena_take(&b->arena, local * f * h * element);
    for (int i = 0; i < p->local_domains; i++)
        b->gradient_gate[i] = gln_arena_take(&b->arena, gate * acc);
    for (int i = 0; i < p->local_groups; i++) {
        b->gradient_gate_up[i] = gln_arena_take(&b->arena, local * h * 2 * f * acc);
        b->gradient_down[i] = gln_arena_take(&b->arena, local * f * h * acc);
    }
    b->a = gln_arena_take(&b->arena, n * n * element);
    b->b = gln_arena_take(&b->arena, n * n * element);
    b->c = gln_arena_take(&b->arena, n * n * element);
}

static void fill(const bench_t *b, void *data, int64_t count, uint64_t stream, int64_t first,
                 double scale)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, stream, 0);
    for (int64_t i = 0; i < count; i++)
        gln_store(data, i, dtype_of(b), scale * gln_rng_normal(1, id, (uint64_t)(first + i)));
}

static void fill_all(const bench_t *b)
{
    const gln_parallel_t *p = &b->parallel;
    int64_t h = b->options.hidden, f = b->options.expert_hidden, domain = b->tokens * h;
    int64_t square = b->gemm_n * b->gemm_n;
    fill(b, b->x, p->local_domains * domain, 0, p->first_domain * domain, 1);
    fill(b, b->dy, p->local_domains * domain, 1, p->first_domain * domain, 1e-3);
    fill(b, b->gate, h * p->experts, 2, 0, 0.02);
    fill(b, b->gate_up, p->local_experts * h * 2 * f, 3, p->first_expert * h * 2 * f, 0.02);
    fill(b, b->down, p->local_experts * f * h, 4, p->first_expert * f * h, 0.02);
    if (b->recorded.data)
        gln_logits_replay(&b->recorded, p->first_domain * b->tokens, p->local_domains * b->tokens,
                          h, dtype_of(b), b->gate, b->x);
    fill(b, b->a, square, 5, 0, 1);
    fill(b, b->b, square, 6, 0, 1);
}

static gln_status_t open_memory(bench_t *b)
{
    const gln_parallel_t *p = &b->parallel;
    b->gradient_gate = calloc((size_t)p->local_domains, sizeof(void *));
    b->gradient_gate_up = calloc((size_t)p->local_groups, sizeof(void *));
    b->gradient_down = calloc((size_t)p->local_groups, sizeof(void *));
    if (!b->gradient_gate || !b->gradient_gate_up || !b->gradient_down)
        return gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    lay_out(b);
    gln_status_t status = gln_arena_commit(&b->arena, gln_device_cpu());
    if (status != GLN_OK) return status;
    lay_out(b);
    fill_all(b);
    return GLN_OK;
}

static gln_status_t open_layer(bench_t *b)
{
    gln_model_options_t model = gln_run_model_options(&b->run);
    b->options = (gln_layer_options_t){.tokens = b->tokens,
                                       .hidden = model.hidden,
                                       .expert_hidden = model.expert_hidden,
                                       .router = model.router,
                                       .wire = model.wire,
                                       .across = model.across,
                                       .overlap = model.overlap,
                                       .stages = model.stages};
    gln_backend_t backend = b->run.parallel.backend == 0 ? GLN_BACKEND_CPU : GLN_BACKEND_REF;
    gln_status_t status = gln_pool_open(b->machine.threads, &b->pool);
    if (status == GLN_OK) status = gln_kernels_open(backend, dtype_of(b), b->pool, &b->kernels);
    status = gln_session_agree(&b->session, status);
    if (status != GLN_OK) return status;
    status = gln_parallel_open(b->session.comm, (int)b->run.parallel.domains,
                               (int)b->run.parallel.expert_replicas, (int)b->run.model.experts,
                               &b->parallel);
    status = gln_session_agree(&b->session, status);
    if (status != GLN_OK) return status;
    status = gln_layer_workspace_open(&b->parallel, b->kernels, &b->options, &b->workspace);
    status = gln_session_agree(&b->session, status);
    if (status != GLN_OK) return status;
    status = gln_layer_open(&b->parallel, b->kernels, b->workspace, &b->options, 0, &b->layer);
    if (status == GLN_OK) status = open_memory(b);
    return gln_session_agree(&b->session, status);
}

static gln_status_t run_layer(bench_t *b)
{
    gln_layer_weights_t weights = {b->gate, b->gate_up, b->down};
    gln_layer_gradients_t gradients = {b->gradient_gate, b->gradient_gate_up, b->gradient_down};
    gln_layer_step_t step = {.seed = 1, .keep = 1};
    gln_status_t status = gln_layer_forward(b->layer, &weights, &step, b->x, b->y);
    if (status != GLN_OK) return status;
    return gln_layer_backward(b->layer, &weights, b->dy, 1.0, b->dx, &gradients);
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
    return b->kernels->ops->gemm(b->kernels, (gln_gemm_mode_t){.form = GLN_GEMM_NN}, &item, 1);
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
    for (int r = 0; r < b->session.ranks; r++)
        *seconds = fmax(*seconds, all[r]);
    return status;
}

static gln_status_t repeat(bench_t *b)
{
    double *all = calloc((size_t)b->session.ranks, sizeof *all);
    gln_status_t status = all ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(&b->session, status);
    for (int64_t i = -WARM_UPS; status == GLN_OK && i < b->repeat; i++) {
        int64_t place = i < 0 ? 0 : i;
        status = measure(b, run_layer, all, &b->layer_seconds[place]);
        gln_layer_times_t times = gln_layer_times(b->layer);
        if (status == GLN_OK) status = measure(b, run_gemm, all, &b->gemm_seconds[place]);
        if (i < 0) continue;
        b->times.router += times.router;
        b->times.exchange += times.exchange;
        b->times.gemm += times.gemm;
        b->times.move += times.move;
        b->times.total += times.total;
        b->times.flight += times.flight;
        b->times.hidden += times.hidden;
    }
    free(all);
    return status;
}

/* Sum times and ledgers over the ranks. */
static gln_status_t gather(bench_t *b)
{
    typedef struct part {
        gln_layer_times_t times;
        gln_ledger_t ledger;
    } part_t;
    part_t mine = {b->times, gln_layer_ledger(b->layer)};
    part_t *all = calloc((size_t)b->session.ranks, sizeof *all);
    gln_status_t status = all ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(&b->session, status);
    if (status == GLN_OK) status = gln_comm_allgather(b->session.comm, &mine, sizeof mine, all);
    b->times = (gln_layer_times_t){0};
    for (int r = 0; status == GLN_OK && r < b->session.ranks; r++) {
        b->times.router += all[r].times.router;
        b->times.exchange += all[r].times.exchange;
        b->times.gemm += all[r].times.gemm;
        b->times.move += all[r].times.move;
        b->times.total += all[r].times.total;
        b->times.flight += all[r].times.flight;
        b->times.hidden += all[r].times.hidden;
        gln_ledger_add(&b->ledger, &all[r].ledger);
    }
    free(all);
    return status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Figures of the finished measurement. */
typedef struct figures {
    double layer_median, layer_min, gemm_median, gemm_min; /* seconds */
    double layer_flops, gemm_flops;                        /* of one repetition, all ranks */
    double tokens, rows;                                   /* all ranks */
    double calls; /* of the layer: repetitions of all ranks */
    double ratio; /* of median rates: layer / plain product */
} figures_t;

static figures_t reckon(bench_t *b)
{
    const gln_layer_options_t *o = &b->options;
    double h = (double)o->hidden, f = (double)o->expert_hidden;
    figures_t r = {0};
    qsort(b->layer_seconds, (size_t)b->repeat, sizeof(double), compare);
    qsort(b->gemm_seconds, (size_t)b->repeat, sizeof(double), compare);
    r.layer_median = b->layer_seconds[b->repeat / 2];
    r.layer_min = b->layer_seconds[0];
    r.gemm_median = b->gemm_seconds[b->repeat / 2];
    r.gemm_min = b->gemm_seconds[0];
    r.tokens = (double)b->ledger.tokens;
    r.calls = (double)b->repeat * b->session.ranks;
    r.rows = (double)(b->ledger.routed + b->ledger.filled + b->ledger.rect_rows);
    r.layer_flops = 3 * (6 * r.rows * h * f + 2 * r.tokens * h * (double)b->run.model.experts);
    r.gemm_flops = 2 * pow((double)b->gemm_n, 3) * b->session.ranks;
    r.ratio = r.layer_flops / r.layer_median / (r.gemm_flops / r.gemm_median);
    return r;
}

static gln_status_t print_json(const bench_t *b, const figures_t *r)
{
    json_t *object = json_pack(
        "{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "bench", "layer", "ranks",
        b->session.ranks, "threads", b->machine.threads, "domains",
        (json_int_t)b->run.parallel.domains, "hidden", (json_int_t)b->options.hidden,
        "expert_hidden", (json_int_t)b->options.expert_hidden, "experts",
        (json_int_t)b->run.model.experts, "k", (json_int_t)b->run.router.k, "tokens",
        (json_int_t)r->tokens, "rows", (json_int_t)r->rows, "repeat", (json_int_t)b->repeat);
    const struct {
        const char *key;
        double value;
    } reals[] = {{"median_seconds", r->layer_median},
                 {"min_seconds", r->layer_min},
                 {"tokens_per_second", r->tokens / r->layer_median},
                 {"flops", r->layer_flops},
                 {"gflops_per_second", 1e-9 * r->layer_flops / r->layer_median},
                 {"gemm_share", b->times.gemm / b->times.total},
                 {"router_share", b->times.router / b->times.total},
                 {"exchange_share", b->times.exchange / b->times.total},
                 {"move_share", b->times.move / b->times.total},
                 {"flight_seconds", b->times.flight / r->calls},
                 {"hidden_seconds", b->times.hidden / r->calls},
                 {"hidden_share", b->times.hidden / b->times.flight},
                 {"plain_median_seconds", r->gemm_median},
                 {"plain_min_seconds", r->gemm_min},
                 {"plain_gflops_per_second", 1e-9 * r->gemm_flops / r->gemm_median},
                 {"ratio", r->ratio}};
    json_object_set_new(object, "dtype", json_string(gln_dtype_name(dtype_of(b))));
    json_object_set_new(object, "logits",
                        b->recorded.data
                            ? json_sprintf("%s: %s", b->recorded.path, b->recorded.name)
                            : json_null());
    json_object_set_new(object, "plain_n", json_integer(b->gemm_n));
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        json_object_set_new(object, reals[i].key, gln_figures_real(reals[i].value));
    json_object_set_new(object, "ledger", gln_figures_ledger(&b->ledger));
    return gln_figures_print(object, stdout, "standard output");
}

static void print(const bench_t *b, const figures_t *r)
{
    char pace[16], ledger[160];
    gln_text_count(r->tokens / r->layer_median, pace, sizeof pace);
    gln_figures_ledger_text(&b->ledger, ledger, sizeof ledger);
    printf(
        "one MoE layer in %s, forward and backward: H %lld, F %lld, E %lld, K %lld, D %lld; %.0f "
        "tokens, %.0f rows\n",
        gln_dtype_name(dtype_of(b)), (long long)b->options.hidden,
        (long long)b->options.expert_hidden, (long long)b->run.model.experts,
        (long long)b->run.router.k, (long long)b->run.parallel.domains, r->tokens, r->rows);
    if (b->recorded.data) printf("routing replayed: %s: %s\n", b->recorded.path, b->recorded.name);
    printf("%s; %d rank%s of %d thread%s; %lld repetitions\n\n", b->machine.summary,
           b->session.ranks, b->session.ranks == 1 ? "" : "s", b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)b->repeat);
    printf("%-22s %12s %12s %12s\n", "", "median ms", "minimum ms", "GFLOP/s");
    printf("%-22s %12.2f %12.2f %12.1f\n", "layer", 1e3 * r->layer_median, 1e3 * r->layer_min,
           1e-9 * r->layer_flops / r->layer_median);
    char name[32];
    snprintf(name, sizeof name, "plain %lld^3 product", (long long)b->gemm_n);
    printf("%-22s %12.2f %12.2f %12.1f\n\n", name, 1e3 * r->gemm_median, 1e3 * r->gemm_min,
           1e-9 * r->gemm_flops / r->gemm_median);
    printf("tokens/s %s; ratio to the plain product %.2f\n", pace, r->ratio);
    printf("share of the layer's time: GEMM %.1f %%, router %.1f %%, exchange %.1f %%, moving rows "
           "%.1f %%\n",
           100 * b->times.gemm / b->times.total, 100 * b->times.router / b->times.total,
           100 * b->times.exchange / b->times.total, 100 * b->times.move / b->times.total);
    if (b->session.ranks > 1)
        printf(
            "rows under way: %.2f ms of a repetition; %.2f ms of it (%.0f %%) hidden behind work\n",
            1e3 * b->times.flight / r->calls, 1e3 * b->times.hidden / r->calls,
            100 * b->times.hidden / b->times.flight);
    printf("ledger, per cent: %s\n", ledger);
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
    if (status == GLN_OK) status = open_layer(b);
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

int gln_command_bench_layer(const gln_arguments_t *arguments)
{
    static bench_t state;
    bench_t *b = &state;
    *b = (bench_t){0};
    gln_session_start(&b->session);
    gln_status_t status = gln_session_join(&b->session);
    if (status == GLN_OK) status = bench(arguments, b);
    gln_layer_close(b->layer);
    gln_layer_workspace_close(b->workspace);
    gln_parallel_close(&b->parallel);
    gln_arena_close(&b->arena);
    free(b->gradient_gate);
    free(b->gradient_gate_up);
    free(b->gradient_down);
    gln_kernels_close(b->kernels);
    gln_pool_close(b->pool);
    gln_logits_close(&b->recorded);
    return gln_session_leave(&b->session, status);
}
