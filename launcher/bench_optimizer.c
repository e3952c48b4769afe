/* `gleaner bench optimizer`: AdamW, the gradient norm and the row-wise operations of a step, which
 * memory bounds, against loops that only read and write as much.
 *
 * One process. Arrays of T H elements, T rows of H, well beyond the caches; cross-entropy has T / 8
 * rows of 8 H. A repetition is one call of the operation and two passes over the same arrays, with
 * the same reads, writes and updates on the same threads, once with ordinary stores and once with
 * stores past the caches. Bytes are what has to move, whatever the operation does: an array read or
 * written counts once, one updated in place twice; vectors of T or H numbers do not count, nor does
 * what the caches read only to write over it. The strict bound is the better of the two passes.
 * memcpy and a triad stand at the head of the table, held against the same passes; the better of
 * these two is the other bound, one for the whole run. */
#include "kernels/kernels.h"
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/memory_pass.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "moe/gleaner.h"
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 1, REPEAT_MAX = 200, ARRAYS_MAX = 5, HEAD = 64, FAN = 8, GAP = 1088 };

typedef struct bench {
    gln_session_t session;
    gln_comm_t *self;
    gln_machine_t machine;
    int64_t repeat, tokens, hidden;
    gln_pool_t *pool;
    gln_kernels_t *kernels; /* of the type at hand */
    gln_arena_t arena;
    char *memory;                  /* arrays of the operation at hand */
    float *columns, *rows;         /* [H] ones, [T] ones: weights and statistics */
    float *sums, *row_sums;        /* [H], [T], out */
    int32_t *routes, *offset;      /* [2 T] a permutation, [T + 1] two routes a token */
    int32_t *index, *target;       /* [T] a permutation, [T] below V */
    void *data[ARRAYS_MAX];        /* of the operation at hand */
    double seconds[3][REPEAT_MAX]; /* the operation, cached and past */
    double plain_rate;             /* GB/s of the better of memcpy and triad */
} bench_t;

/* ---- the operations ---------------------------------------------------------------------- */
static gln_status_t run_memcpy(bench_t *b)
{
    gln_pass_copy(b->pool, b->data[0], b->tokens * b->hidden * (int64_t)sizeof(float), b->data[1]);
    return GLN_OK;
}

static gln_status_t run_triad(bench_t *b)
{
    gln_pass_triad(b->pool, b->data[0], b->data[1], b->tokens * b->hidden, b->data[2]);
    return GLN_OK;
}

static gln_status_t run_norm(bench_t *b)
{
    double sum;
    return b->kernels->ops->sum_squares(b->kernels, b->tokens * b->hidden, b->data[0], &sum);
}

static gln_status_t run_adamw(bench_t *b)
{
    const gln_adamw_t args = {.n = b->tokens * b->hidden,
                              .w = b->data[0],
                              .m = b->data[1],
                              .v = b->data[2],
                              .g = b->data[3],
                              .w_compute = b->data[4],
                              .lr = 1e-4,
                              .beta1 = 0.9,
                              .beta2 = 0.95,
                              .eps = 1e-8,
                              .weight_decay = 0.1,
                              .grad_scale = 0.5,
                              .t = 10};
    return b->kernels->ops->adamw(b->kernels, &args);
}

static gln_status_t run_round(bench_t *b)
{
    return b->kernels->ops->round(b->kernels, b->tokens * b->hidden, b->data[0], b->data[1]);
}

static gln_status_t run_add(bench_t *b)
{
    return b->kernels->ops->add(b->kernels, b->tokens * b->hidden, b->data[1], b->data[0]);
}

static gln_status_t run_rmsnorm(bench_t *b)
{
    const gln_rmsnorm_t args = {.n = b->tokens,
                                .h = b->hidden,
                                .x = b->data[0],
                                .w = b->columns,
                                .eps = 1e-5,
                                .y = b->data[1],
                                .rstd = b->row_sums};
    return b->kernels->ops->rmsnorm(b->kernels, &args);
}

static gln_status_t run_rmsnorm_backward(bench_t *b)
{
    const gln_rmsnorm_backward_t args = {.n = b->tokens,
                                         .h = b->hidden,
                                         .dy = b->data[0],
                                         .x = b->data[1],
                                         .w = b->columns,
                                         .rstd = b->rows,
                                         .dx = b->data[2],
                                         .dw = b->sums};
    return b->kernels->ops->rmsnorm_backward(b->kernels, &args);
}

static gln_status_t run_rope(bench_t *b)
{
    const gln_rope_t args = {.n = b->tokens,
                             .s = b->tokens < 1024 ? b->tokens : 1024,
                             .heads = (int)(b->hidden / HEAD),
                             .dh = HEAD,
                             .x = b->data[0],
                             .ldx = b->hidden,
                             .theta = 1e4};
    return b->kernels->ops->rope(b->kernels, &args);
}

static gln_status_t run_swiglu(bench_t *b)
{
    const gln_swiglu_t args = {
        .n = b->tokens, .f = b->hidden, .hgu = b->data[0], .act = b->data[1]};
    return b->kernels->ops->swiglu(b->kernels, &args);
}

static gln_status_t run_swiglu_backward(bench_t *b)
{
    const gln_swiglu_backward_t args = {.n = b->tokens,
                                        .f = b->hidden,
                                        .dact = b->data[0],
                                        .hgu = b->data[1],
                                        .w = b->rows,
                                        .dhgu = b->data[2],
                                        .act_w = b->data[3],
                                        .a = b->row_sums};
    return b->kernels->ops->swiglu_backward(b->kernels, &args);
}

static gln_status_t run_gather(bench_t *b)
{
    const gln_gather_t args = {
        .n = b->tokens, .h = b->hidden, .x = b->data[0], .index = b->index, .out = b->data[1]};
    return b->kernels->ops->gather(b->kernels, &args);
}

static gln_status_t run_combine(bench_t *b)
{
    const gln_combine_t args = {.n = b->tokens,
                                .h = b->hidden,
                                .rows = b->data[0],
                                .offset = b->offset,
                                .index = b->routes,
                                .weight = b->rows,
                                .out = b->data[1]};
    return b->kernels->ops->combine(b->kernels, &args);
}

static gln_status_t run_cross_entropy(bench_t *b)
{
    const gln_cross_entropy_t args = {.n = b->tokens / FAN,
                                      .v = b->hidden * FAN,
                                      .logits = b->data[0],
                                      .target = b->target,
                                      .scale = 1.0 / 1024,
                                      .loss = b->row_sums,
                                      .dlogits = b->data[1] ? b->data[1] : b->data[0]};
    return b->kernels->ops->cross_entropy(b->kernels, &args);
}

/* An array of an operation: so many elements for each of its T H, of the type at hand or f32. */
typedef struct array {
    gln_pass_kind_t kind;
    int elements;
    bool acc;
} array_t;

typedef struct operation {
    const char *name;
    gln_status_t (*run)(bench_t *b);
    bool f32, bf16; /* in which types it is looked at */
    array_t arrays[ARRAYS_MAX];
} operation_t;

#define READ GLN_PASS_READ
#define WRITE GLN_PASS_WRITE
#define UPDATE GLN_PASS_UPDATE

static const operation_t operations[] = {
    {"memcpy", run_memcpy, true, false, {{READ, 1, true}, {WRITE, 1, true}}},
    {"triad", run_triad, true, false, {{READ, 1, true}, {READ, 1, true}, {WRITE, 1, true}}},
    {"gradient norm", run_norm, true, false, {{READ, 1, true}}},
    {"adamw",
     run_adamw,
     true,
     false,
     {{UPDATE, 1, true}, {UPDATE, 1, true}, {UPDATE, 1, true}, {READ, 1, true}}},
    {"adamw",
     run_adamw,
     false,
     true,
     {{UPDATE, 1, true}, {UPDATE, 1, true}, {UPDATE, 1, true}, {READ, 1, true}, {WRITE, 1, false}}},
    {"round", run_round, false, true, {{READ, 1, true}, {WRITE, 1, false}}},
    {"add", run_add, true, true, {{UPDATE, 1, false}, {READ, 1, false}}},
    {"rmsnorm", run_rmsnorm, true, true, {{READ, 1, false}, {WRITE, 1, false}}},
    {"rmsnorm backward",
     run_rmsnorm_backward,
     true,
     true,
     {{READ, 1, false}, {READ, 1, false}, {UPDATE, 1, false}}},
    {"rope", run_rope, true, true, {{UPDATE, 1, false}}},
    {"swiglu", run_swiglu, true, true, {{READ, 2, false}, {WRITE, 1, false}}},
    {"swiglu backward",
     run_swiglu_backward,
     true,
     true,
     {{READ, 1, false}, {READ, 2, false}, {WRITE, 2, false}, {WRITE, 1, false}}},
    {"gather", run_gather, true, true, {{READ, 1, false}, {WRITE, 1, false}}},
    {"combine", run_combine, true, true, {{READ, 2, false}, {WRITE, 1, false}}},
    {"cross-entropy", run_cross_entropy, true, false, {{UPDATE, 1, true}}},
    {"cross-entropy", run_cross_entropy, false, true, {{READ, 1, true}, {WRITE, 1, false}}},
};
enum { OPERATIONS = (int)(sizeof operations / sizeof operations[0]) };

/* ---- memory ------------------------------------------------------------------------------ */
static size_t array_bytes(const bench_t *b, const array_t *array, gln_dtype_t dtype)
{
    return (size_t)(b->tokens * b->hidden * array->elements) *
           gln_dtype_bytes(array->acc ? GLN_F32 : dtype);
}

static gln_status_t load(const gln_arguments_t *arguments, bench_t *b)
{
    int64_t threads;
    gln_status_t status =
        gln_arguments_int(arguments, GLN_OPTION_REPEAT, 7, 1, REPEAT_MAX, &b->repeat);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_TOKENS, 32768, FAN, 1 << 22, &b->tokens);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_HIDDEN, 1024, HEAD, 1 << 16, &b->hidden);
    if (status == GLN_OK && (b->tokens % FAN != 0 || b->hidden % HEAD != 0))
        status = gln_fail(GLN_ERR_ARGUMENT,
                          "expected --tokens a multiple of %d and --hidden a multiple of %d; found "
                          "%lld and %lld",
                          FAN, HEAD, (long long)b->tokens, (long long)b->hidden);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_THREADS, 0, 1, 1024, &threads);
    if (status == GLN_OK) status = gln_machine_look(b->self, (int)threads, &b->machine);
    return status;
}

/* Called twice: to count, and to place. */
static void lay_out(bench_t *b)
{
    size_t most = 0;
    for (int o = 0; o < OPERATIONS; o++) {
        size_t bytes = 0;
        for (int i = 0; i < ARRAYS_MAX; i++)
            bytes += array_bytes(b, &operations[o].arrays[i], GLN_F32) + GAP;
        most = bytes > most ? bytes : most;
    }
    b->memory = gln_arena_take(&b->arena, most);
    b->columns = gln_arena_take(&b->arena, (size_t)b->hidden * sizeof(float));
    b->sums = gln_arena_take(&b->arena, (size_t)b->hidden * sizeof(float));
    b->rows = gln_arena_take(&b->arena, (size_t)(2 * b->tokens) * sizeof(float));
    b->row_sums = gln_arena_take(&b->arena, (size_t)b->tokens * sizeof(float));
    b->routes = gln_arena_take(&b->arena, (size_t)(2 * b->tokens) * sizeof(int32_t));
    b->index = gln_arena_take(&b->arena, (size_t)b->tokens * sizeof(int32_t));
    b->target = gln_arena_take(&b->arena, (size_t)b->tokens * sizeof(int32_t));
    b->offset = gln_arena_take(&b->arena, (size_t)(b->tokens + 1) * sizeof(int32_t));
}

static void fill_vectors(bench_t *b)
{
    for (int64_t i = 0; i < b->hidden; i++)
        b->columns[i] = 1;
    for (int64_t i = 0; i < 2 * b->tokens; i++) {
        b->rows[i] = 0.5f;
        b->routes[i] = (int32_t)(i * 7919 % (2 * b->tokens));
    }
    for (int64_t i = 0; i < b->tokens; i++) {
        b->index[i] = (int32_t)(i * 7919 % b->tokens);
        b->target[i] = (int32_t)(i * 7919 % (b->hidden * FAN));
    }
    for (int64_t i = 0; i <= b->tokens; i++)
        b->offset[i] = (int32_t)(2 * i);
}

/* Any numbers in [0, 1]: a second moment has no negative ones. */
static void fill(void *data, size_t bytes, gln_dtype_t dtype)
{
    size_t done = 4096 < bytes ? 4096 : bytes;
    for (size_t i = 0; i < done / gln_dtype_bytes(dtype); i++)
        gln_store(data, (int64_t)i, dtype, (double)(i * 7919 % 1001) * 1e-3);
    while (done < bytes) {
        size_t more = done < bytes - done ? done : bytes - done;
        memcpy((char *)data + done, data, more);
        done += more;
    }
}

/* Lay the operation's arrays side by side, a little apart, so that they do not meet in one set of
 * a cache. */
static void place(bench_t *b, const operation_t *o, gln_pass_t *pass)
{
    const gln_dtype_t dtype = b->kernels->dtype;
    size_t at = 0;
    *pass = (gln_pass_t){0};
    memset(b->data, 0, sizeof b->data);
    for (int i = 0; i < ARRAYS_MAX && o->arrays[i].elements > 0; i++) {
        const array_t *array = &o->arrays[i];
        const gln_dtype_t type = array->acc ? GLN_F32 : dtype;
        b->data[i] = b->memory + at;
        fill(b->data[i], array_bytes(b, array, dtype), type);
        pass->items[pass->count++] = (gln_pass_array_t){
            array->kind, array->elements * (int)gln_dtype_bytes(type), b->data[i]};
        at += (array_bytes(b, array, dtype) + 63) / 64 * 64 + GAP;
    }
}

/* ---- figures ----------------------------------------------------------------------------- */
typedef struct figures {
    const operation_t *operation;
    double read_bytes, write_bytes;
    double median, min, cached_median, cached_min, past_median, past_min; /* seconds */
    double rate, bound_rate, ratio;                                       /* of medians, GB/s */
    double min_ratio;   /* of minima: for a machine shared with others */
    double plain_ratio; /* to the better of memcpy and triad */
} figures_t;

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static bool is_plain(const operation_t *o)
{
    return o->run == run_memcpy || o->run == run_triad;
}

static gln_status_t measure(bench_t *b, const operation_t *o, figures_t *r)
{
    const int64_t elements = b->tokens * b->hidden;
    gln_pass_t pass;
    place(b, o, &pass);
    for (int64_t i = -WARM_UPS; i < b->repeat; i++) {
        const int64_t at = i < 0 ? 0 : i;
        const double begin = gln_clock();
        const gln_status_t status = o->run(b);
        const double end = gln_clock();
        if (status != GLN_OK) return status;
        gln_pass_run(b->pool, &pass, elements, GLN_PASS_CACHED);
        const double cached = gln_clock();
        gln_pass_run(b->pool, &pass, elements, GLN_PASS_PAST);
        b->seconds[0][at] = end - begin;
        b->seconds[1][at] = cached - end;
        b->seconds[2][at] = gln_clock() - cached;
    }
    for (int i = 0; i < 3; i++)
        qsort(b->seconds[i], (size_t)b->repeat, sizeof(double), compare);
    *r = (figures_t){.operation = o,
                     .median = b->seconds[0][b->repeat / 2],
                     .min = b->seconds[0][0],
                     .cached_median = b->seconds[1][b->repeat / 2],
                     .cached_min = b->seconds[1][0],
                     .past_median = b->seconds[2][b->repeat / 2],
                     .past_min = b->seconds[2][0]};
    for (int i = 0; i < pass.count; i++) {
        const double bytes = (double)elements * pass.items[i].width;
        if (pass.items[i].kind != GLN_PASS_WRITE) r->read_bytes += bytes;
        if (pass.items[i].kind != GLN_PASS_READ) r->write_bytes += bytes;
    }
    const double bytes = r->read_bytes + r->write_bytes;
    r->rate = 1e-9 * bytes / r->median;
    r->bound_rate =
        1e-9 * bytes / (r->cached_median < r->past_median ? r->cached_median : r->past_median);
    r->ratio = r->rate / r->bound_rate;
    r->min_ratio = (r->cached_min < r->past_min ? r->cached_min : r->past_min) / r->min;
    if (is_plain(o) && r->rate > b->plain_rate) b->plain_rate = r->rate;
    r->plain_ratio = r->rate / b->plain_rate;
    return GLN_OK;
}

static gln_status_t print_json(const bench_t *b, const figures_t *r)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I}", "bench", "optimizer", "dtype",
                               gln_dtype_name(b->kernels->dtype), "operation", r->operation->name,
                               "threads", b->machine.threads, "tokens", (json_int_t)b->tokens,
                               "hidden", (json_int_t)b->hidden, "repeat", (json_int_t)b->repeat);
    const struct {
        const char *key;
        double value;
    } reals[] = {{"read_bytes", r->read_bytes},
                 {"write_bytes", r->write_bytes},
                 {"median_seconds", r->median},
                 {"min_seconds", r->min},
                 {"bytes_per_second", 1e9 * r->rate},
                 {"cached_median_seconds", r->cached_median},
                 {"cached_min_seconds", r->cached_min},
                 {"past_median_seconds", r->past_median},
                 {"past_min_seconds", r->past_min},
                 {"bound_bytes_per_second", 1e9 * r->bound_rate},
                 {"ratio", r->ratio},
                 {"min_ratio", r->min_ratio},
                 {"plain_bytes_per_second", 1e9 * b->plain_rate},
                 {"plain_ratio", r->plain_ratio}};
    /* the last two are known once memcpy and triad are both done */
    const size_t count = sizeof reals / sizeof reals[0] - (is_plain(r->operation) ? 2 : 0);
    for (size_t i = 0; i < count; i++)
        json_object_set_new(object, reals[i].key, gln_figures_real(reals[i].value));
    return gln_figures_print(object, stdout, "standard output");
}

static void print_head(const bench_t *b)
{
    printf("what memory bounds, %lld x %lld elements, against passes with the same reads and "
           "writes\n%s; %d thread%s; %lld repetitions\n\n",
           (long long)b->tokens, (long long)b->hidden, b->machine.summary, b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)b->repeat);
    printf("%-17s %-5s %6s %6s %10s %10s %7s %8s %8s %6s %6s %6s\n", "", "", "read", "write",
           "median ms", "minimum ms", "GB/s", "ordinary", "past", "ratio", "best", "plain");
}

static void print(const bench_t *b, const figures_t *r)
{
    const double bytes = 1e-9 * (r->read_bytes + r->write_bytes);
    const double elements = (double)b->tokens * (double)b->hidden;
    printf("%-17s %-5s %6.0f %6.0f %10.2f %10.2f %7.1f %8.1f %8.1f %6.2f %6.2f", r->operation->name,
           gln_dtype_name(b->kernels->dtype), r->read_bytes / elements, r->write_bytes / elements,
           1e3 * r->median, 1e3 * r->min, r->rate, bytes / r->cached_median, bytes / r->past_median,
           r->ratio, r->min_ratio);
    if (is_plain(r->operation))
        puts("");
    else
        printf(" %6.2f\n", r->plain_ratio);
    fflush(stdout);
}

/* All operations in one type. */
static gln_status_t bench_dtype(const gln_arguments_t *arguments, bench_t *b, gln_dtype_t dtype)
{
    gln_status_t status = gln_kernels_open(GLN_BACKEND_CPU, dtype, b->pool, &b->kernels);
    if (status != GLN_OK) return status;
    for (int o = 0; status == GLN_OK && o < OPERATIONS; o++) {
        figures_t figures;
        if (dtype == GLN_F32 ? !operations[o].f32 : !operations[o].bf16) continue;
        status = measure(b, &operations[o], &figures);
        if (status != GLN_OK) break;
        if (arguments->given[GLN_OPTION_JSON])
            status = print_json(b, &figures);
        else
            print(b, &figures);
    }
    gln_kernels_close(b->kernels);
    b->kernels = NULL;
    return status;
}

static gln_status_t bench(const gln_arguments_t *arguments, bench_t *b)
{
    gln_status_t status = load(arguments, b);
    if (status == GLN_OK) status = gln_pool_open(b->machine.threads, &b->pool);
    if (status != GLN_OK) return status;
    lay_out(b);
    status = gln_arena_commit(&b->arena, gln_device_cpu());
    if (status != GLN_OK) return status;
    lay_out(b);
    fill_vectors(b);
    b->session.working = true;
    if (!arguments->given[GLN_OPTION_JSON]) print_head(b);
    status = bench_dtype(arguments, b, GLN_F32);
    if (status == GLN_OK) status = bench_dtype(arguments, b, GLN_BF16);
    return status;
}

int gln_command_bench_optimizer(const gln_arguments_t *arguments)
{
    static bench_t state;
    bench_t *b = &state;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    *b = (bench_t){0};
    gln_session_start(&b->session);
    gln_status_t status = gln_comm_open_self(&b->self);
    if (status == GLN_OK) status = bench(arguments, b);
    status = gln_session_agree(&b->session, status);
    gln_arena_close(&b->arena);
    gln_pool_close(b->pool);
    gln_comm_close(b->self);
    return gln_session_leave(&b->session, status);
}
