/* One MoE layer with random weights and input, ready to run, and what it costs by formula: what
 * `gleaner bench layer` and `bench growth` time. */
#include "kernels/kernels.h"
#include "launcher/bench_layer.h"

#include "base/log.h"
#include "base/rng.h"
#include "launcher/setup.h"
#include "launcher/text.h"
#include "moe/gleaner.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tokens of a domain, from the command line or as many as were recorded. */
static gln_status_t read_tokens(const gln_arguments_t *arguments, int64_t usual,
                                gln_bench_layer_t *b)
{
    const gln_logits_t *l = &b->recorded;
    int64_t most = 1 << 24;
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

enum { SETS_MAX = GLN_ARGUMENTS_SETS_MAX + 32 };

static void append(const char **sets, int *count, const char *const *more, int more_count)
{
    GLN_ASSERT(*count + more_count <= SETS_MAX);
    if (more_count > 0) memcpy(sets + *count, more, (size_t)more_count * sizeof *more);
    *count += more_count;
}

/* The batch is not used here; it must not stand in the way of a number of domains. */
static gln_status_t load_run(gln_bench_layer_t *b, const char *path, const char **sets, int count)
{
    int fields_count;
    const gln_config_field_t *fields = gln_run_fields(&fields_count);
    gln_run_options_t first;
    memset(&first, 0, sizeof first);
    gln_status_t status =
        gln_config_load(fields, fields_count, path, sets, count, &first, sizeof first, NULL);
    if (status != GLN_OK) return status;
    int64_t domains = first.parallel.domains ? first.parallel.domains : b->session->ranks;
    char batch[64];
    snprintf(batch, sizeof batch, "train.batch=%lld", (long long)domains);
    const char *last[] = {batch, "train.accumulation=1"};
    append(sets, &count, last, 2);
    return gln_run_options_load(path, sets, count, b->session->ranks, &b->run);
}

gln_status_t gln_bench_layer_load(gln_bench_layer_t *b, const gln_arguments_t *arguments,
                                  const char *const *before, int before_count,
                                  const char *const *after, int after_count, int64_t tokens_usual)
{
    static const char *const base[] = {"data.train=none", "run.dir=none", "model.hidden=512",
                                       "model.expert_hidden=1024", "router.k=2"};
    enum { BASE = sizeof base / sizeof base[0] };
    const char *sets[SETS_MAX];
    const char *path = arguments->operands_count ? arguments->operands[0] : NULL;
    const char *logits = arguments->value[GLN_OPTION_LOGITS];
    char experts[64];
    int count = 0;
    append(sets, &count, base, path ? 2 : BASE); /* a run file shapes the layer itself */
    if (!path) append(sets, &count, before, before_count);
    gln_status_t status = GLN_OK;
    if (logits)
        status = gln_logits_open(logits, arguments->value[GLN_OPTION_TENSOR], 0, &b->recorded);
    if (status != GLN_OK) return status;
    if (logits && !path) {
        snprintf(experts, sizeof experts, "model.experts=%lld", (long long)b->recorded.experts);
        sets[count++] = experts;
    }
    append(sets, &count, arguments->sets, arguments->sets_count);
    append(sets, &count, after, after_count);
    status = load_run(b, path, sets, count);
    if (status == GLN_OK) status = read_tokens(arguments, tokens_usual, b);
    if (status == GLN_OK) gln_comm_set_timeout(b->session->comm, b->run.parallel.timeout_ms);
    b->step = (gln_layer_step_t){.seed = 1, .keep = 1};
    return status;
}

gln_dtype_t gln_bench_layer_dtype(const gln_bench_layer_t *b)
{
    return gln_run_dtype(&b->run);
}

/* Called twice: to count, and to place. */
static void lay_out(gln_bench_layer_t *b)
{
    const gln_parallel_t *p = &b->parallel;
    size_t element = gln_dtype_bytes(gln_bench_layer_dtype(b)),
           acc = gln_dtype_bytes(gln_dtype_acc(gln_bench_layer_dtype(b)));
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

static void fill(const gln_bench_layer_t *b, void *data, int64_t count, uint64_t stream,
                 int64_t first, double scale)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, stream, 0);
    for (int64_t i = 0; i < count; i++)
        gln_store(data, i, gln_bench_layer_dtype(b),
                  scale * gln_rng_normal(1, id, (uint64_t)(first + i)));
}

static void fill_all(const gln_bench_layer_t *b)
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
                          h, gln_bench_layer_dtype(b), b->gate, b->x);
    fill(b, b->a, square, 5, 0, 1);
    fill(b, b->b, square, 6, 0, 1);
}

static gln_status_t open_memory(gln_bench_layer_t *b)
{
    const gln_parallel_t *p = &b->parallel;
    b->gradient_gate = calloc((size_t)p->local_domains, sizeof(void *));
    b->gradient_gate_up = calloc((size_t)p->local_groups, sizeof(void *));
    b->gradient_down = calloc((size_t)p->local_groups, sizeof(void *));
    b->rank_seconds = calloc((size_t)b->session->ranks, sizeof(double));
    if (!b->gradient_gate || !b->gradient_gate_up || !b->gradient_down || !b->rank_seconds)
        return gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    lay_out(b);
    gln_status_t status = gln_arena_commit(&b->arena, gln_device_cpu());
    if (status != GLN_OK) return status;
    lay_out(b);
    fill_all(b);
    return GLN_OK;
}

static gln_status_t open_parallel(gln_bench_layer_t *b)
{
    gln_backend_t backend = b->run.parallel.backend == 0 ? GLN_BACKEND_CPU : GLN_BACKEND_REF;
    gln_status_t status = gln_pool_open(b->machine.threads, &b->pool);
    if (status == GLN_OK)
        status = gln_kernels_open(backend, gln_bench_layer_dtype(b), b->pool, &b->kernels);
    status = gln_session_agree(b->session, status);
    if (status != GLN_OK) return status;
    status = gln_parallel_open(b->session->comm, (int)b->run.parallel.domains,
                               (int)b->run.parallel.expert_replicas, (int)b->run.model.experts,
                               &b->parallel);
    return gln_session_agree(b->session, status);
}

gln_status_t gln_bench_layer_open(gln_bench_layer_t *b)
{
    gln_status_t status =
        gln_machine_look(b->session->comm, (int)b->run.parallel.threads, &b->machine);
    status = gln_session_agree(b->session, status);
    if (status == GLN_OK) status = open_parallel(b);
    if (status != GLN_OK) return status;
    gln_model_options_t model = gln_run_model_options(&b->run);
    b->options = (gln_layer_options_t){.tokens = b->tokens,
                                       .hidden = model.hidden,
                                       .expert_hidden = model.expert_hidden,
                                       .router = model.router,
                                       .wire = model.wire,
                                       .across = model.across,
                                       .overlap = model.overlap,
                                       .stages = model.stages};
    status = gln_layer_workspace_open(&b->parallel, b->kernels, &b->options, &b->workspace);
    status = gln_session_agree(b->session, status);
    if (status != GLN_OK) return status;
    status = gln_layer_open(&b->parallel, b->kernels, b->workspace, &b->options, 0, &b->layer);
    if (status == GLN_OK) status = open_memory(b);
    return gln_session_agree(b->session, status);
}

gln_status_t gln_bench_layer_run(gln_bench_layer_t *b)
{
    gln_layer_weights_t weights = {b->gate, b->gate_up, b->down};
    gln_layer_gradients_t gradients = {b->gradient_gate, b->gradient_gate_up, b->gradient_down};
    gln_status_t status = gln_layer_forward(b->layer, &weights, &b->step, b->x, b->y);
    if (status != GLN_OK) return status;
    return gln_layer_backward(b->layer, &weights, b->dy, 1.0, b->dx, &gradients);
}

gln_status_t gln_bench_layer_plain(gln_bench_layer_t *b)
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

gln_status_t gln_bench_layer_measure(gln_bench_layer_t *b,
                                     gln_status_t (*work)(gln_bench_layer_t *), double *seconds)
{
    gln_status_t status = gln_comm_barrier(b->session->comm);
    if (status != GLN_OK) return status;
    double begin = gln_clock();
    status = work(b);
    double mine = gln_clock() - begin;
    status = gln_session_agree(b->session, status);
    if (status == GLN_OK)
        status = gln_comm_allgather(b->session->comm, &mine, sizeof mine, b->rank_seconds);
    *seconds = 0;
    for (int r = 0; r < b->session->ranks; r++)
        *seconds = fmax(*seconds, b->rank_seconds[r]);
    return status;
}

void gln_bench_times_add(gln_layer_times_t *sum, const gln_layer_times_t *times)
{
    sum->router += times->router;
    sum->exchange += times->exchange;
    sum->gemm += times->gemm;
    sum->move += times->move;
    sum->activation += times->activation;
    sum->total += times->total;
    sum->flight += times->flight;
    sum->hidden += times->hidden;
}

gln_status_t gln_bench_layer_gather(gln_bench_layer_t *b, gln_layer_times_t *times,
                                    gln_ledger_t *ledger)
{
    typedef struct part {
        gln_layer_times_t times;
        gln_ledger_t ledger;
    } part_t;
    part_t mine = {*times, *ledger};
    part_t *all = calloc((size_t)b->session->ranks, sizeof *all);
    gln_status_t status = all ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(b->session, status);
    if (status == GLN_OK) status = gln_comm_allgather(b->session->comm, &mine, sizeof mine, all);
    if (status == GLN_OK) {
        *times = (gln_layer_times_t){0};
        *ledger = (gln_ledger_t){0};
        for (int r = 0; r < b->session->ranks; r++) {
            gln_bench_times_add(times, &all[r].times);
            gln_ledger_add(ledger, &all[r].ledger);
        }
    }
    free(all);
    return status;
}

double gln_bench_layer_rows(const gln_ledger_t *ledger)
{
    return (double)(ledger->routed + ledger->filled + ledger->rect_rows);
}

double gln_bench_layer_flops(const gln_bench_layer_t *b, const gln_ledger_t *ledger)
{
    double h = (double)b->options.hidden, f = (double)b->options.expert_hidden;
    double gate = 2 * (double)ledger->tokens * h * (double)b->run.model.experts;
    return 3 * (6 * gln_bench_layer_rows(ledger) * h * f + gate);
}

void gln_bench_layer_close(gln_bench_layer_t *b)
{
    gln_layer_close(b->layer);
    gln_layer_workspace_close(b->workspace);
    gln_parallel_close(&b->parallel);
    gln_arena_close(&b->arena);
    free(b->gradient_gate);
    free(b->gradient_gate_up);
    free(b->gradient_down);
    free(b->rank_seconds);
    gln_kernels_close(b->kernels);
    gln_pool_close(b->pool);
    gln_logits_close(&b->recorded);
}
