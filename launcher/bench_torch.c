/* PyTorch beside gleaner. launcher/torch_layer.py, which is part of this program, runs in a Python
 * interpreter and answers requests one by one; it times itself, so that the way there and back
 * costs nothing. Both read the same weights and input, in a file that lives no longer than the
 * reading. Threads are tried in powers of two up to the cores, and the cores; the best median of
 * all forms and threads is what gleaner is compared with.
 *
 * That it is the same computation is checked by results and gradients: |difference| / |torch's|
 * in Euclidean norms, each at most 1e-3 in f32 and 5e-2 in bf16 (torch keeps bf16 gradients,
 * rounds the weights of routes, and adds experts in bf16; gleaner adds in f32). */
#include "launcher/bench_torch.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/peer.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORMS_MAX = 4, THREADS_MAX = 16, TENSORS = 5 };
enum { START_S = 300, STEP_S = 600 }; /* importing torch from a cold disk takes long */

extern const char gln_torch_layer_program[]; /* made from torch_layer.py by the build */

static const char *const tensor_names[TENSORS] = {"y", "dx", "gate", "gate_up", "down"};

typedef struct timing {
    char form[32];
    int threads;
    double seconds[GLN_BENCH_REPEAT_MAX];
    double median;
} timing_t;

struct gln_bench_torch {
    gln_peer_t *peer;
    const char *python;
    char version[64];
    timing_t timings[FORMS_MAX * THREADS_MAX];
    int timings_count, repeat, best; /* best: index, of the medians */
    char first_form[32];
    double distance[TENSORS];
};

gln_status_t gln_bench_torch_open(const gln_arguments_t *arguments, gln_bench_torch_t **out)
{
    gln_bench_torch_t *t = calloc(1, sizeof *t);
    if (!t) return gln_fail(GLN_ERR_MEMORY, "--against torch: out of memory");
    const char *given = arguments->value[GLN_OPTION_PYTHON];
    t->python = given ? given : "python3";
    gln_status_t status =
        gln_peer_open(t->python, "--against torch", gln_torch_layer_program, &t->peer);
    if (status == GLN_OK)
        *out = t;
    else
        free(t);
    return status;
}

void gln_bench_torch_close(gln_bench_torch_t *t)
{
    if (!t) return;
    gln_peer_close(t->peer);
    free(t);
}

/* A new file of our own in the folder for such; *path receives its name. */
static FILE *open_file(char *path, size_t size)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, size, "%s/gleaner-layer-XXXXXX", folder && *folder ? folder : "/tmp");
    int handle = mkstemp(path);
    FILE *file = handle < 0 ? NULL : fdopen(handle, "wb");
    if (!file && handle >= 0) {
        close(handle);
        unlink(path);
    }
    return file;
}

/* Elements of the five tensors, in the order of the script. */
static void tensor_counts(const gln_bench_layer_t *b, int64_t *counts)
{
    int64_t h = b->options.hidden, f = b->options.expert_hidden, e = b->run.model.experts;
    int64_t tokens = b->parallel.local_domains * b->tokens;
    int64_t all[TENSORS] = {tokens * h, tokens * h, h * e, e * h * 2 * f, e * f * h};
    memcpy(counts, all, sizeof all);
}

static int write_as_f32(FILE *file, const void *data, int64_t count, gln_dtype_t dtype)
{
    float part[4096];
    for (int64_t i = 0; i < count;) {
        int64_t n = 0;
        for (; n < 4096 && i < count; n++, i++)
            part[n] = (float)gln_load(data, i, dtype);
        if (fwrite(part, sizeof *part, (size_t)n, file) != (size_t)n) return 0;
    }
    return 1;
}

/* @param dtypes  NULL: as they are, in the layer's dtype; else their types, written as f32 */
static gln_status_t write_tensors(const gln_bench_layer_t *b, const void *const *data,
                                  const gln_dtype_t *dtypes, char *path, size_t size)
{
    int64_t counts[TENSORS];
    size_t element = gln_dtype_bytes(gln_bench_layer_dtype(b));
    FILE *file = open_file(path, size);
    if (!file)
        return gln_fail(GLN_ERR_IO, "%s: cannot create: %s (TMPDIR names the folder)", path,
                        strerror(errno));
    tensor_counts(b, counts);
    int good = 1;
    for (int i = 0; good && i < TENSORS; i++)
        good = dtypes ? write_as_f32(file, data[i], counts[i], dtypes[i])
                      : fwrite(data[i], element, (size_t)counts[i], file) == (size_t)counts[i];
    int error = errno;
    if (fclose(file) != 0 && good) {
        good = 0;
        error = errno;
    }
    if (good) return GLN_OK;
    unlink(path);
    return gln_fail(GLN_ERR_IO, "%s: cannot write: %s (TMPDIR names the folder)", path,
                    strerror(error));
}

static gln_status_t plan_timings(gln_bench_torch_t *t, char *answer, int cores)
{
    char *rest, *word = strtok_r(answer, " ", &rest);
    snprintf(t->version, sizeof t->version, "%s", word ? word : "");
    while ((word = strtok_r(NULL, " ", &rest))) {
        if (!t->first_form[0]) snprintf(t->first_form, sizeof t->first_form, "%s", word);
        for (int threads = 1; t->timings_count < FORMS_MAX * THREADS_MAX;) {
            timing_t *timing = &t->timings[t->timings_count++];
            snprintf(timing->form, sizeof timing->form, "%s", word);
            timing->threads = threads;
            if (threads == cores) break;
            threads = 2 * threads < cores ? 2 * threads : cores;
        }
    }
    return t->timings_count ? GLN_OK
                            : gln_fail(GLN_ERR_BACKEND, "--against torch: it runs no form of the "
                                                        "layer");
}

gln_status_t gln_bench_torch_set(gln_bench_torch_t *t, const gln_bench_layer_t *b)
{
    const void *const tensors[TENSORS] = {b->x, b->dy, b->gate, b->gate_up, b->down};
    const gln_layer_options_t *o = &b->options;
    char path[256], request[GLN_PEER_LINE_MAX], answer[GLN_PEER_LINE_MAX];
    gln_status_t status = write_tensors(b, tensors, NULL, path, sizeof path);
    if (status != GLN_OK) return status;
    snprintf(request, sizeof request, "layer\t%s\t%s\t%lld\t%lld\t%lld\t%lld\t%lld", path,
             gln_dtype_name(gln_bench_layer_dtype(b)),
             (long long)(b->parallel.local_domains * b->tokens), (long long)o->hidden,
             (long long)o->expert_hidden, (long long)b->run.model.experts,
             (long long)b->run.router.k);
    status = gln_peer_ask(t->peer, request, START_S, answer);
    unlink(path);
    if (status != GLN_OK) return status;
    return plan_timings(t, answer, b->machine.cores_allowed);
}

gln_status_t gln_bench_torch_run(gln_bench_torch_t *t, int place)
{
    char request[GLN_PEER_LINE_MAX], answer[GLN_PEER_LINE_MAX];
    for (int i = 0; i < t->timings_count; i++) {
        timing_t *timing = &t->timings[i];
        snprintf(request, sizeof request, "run\t%s\t%d", timing->form, timing->threads);
        gln_status_t status = gln_peer_ask(t->peer, request, STEP_S, answer);
        if (status != GLN_OK) return status;
        timing->seconds[place] = strtod(answer, NULL);
    }
    t->repeat = place + 1;
    return GLN_OK;
}

static void clear_results(gln_bench_layer_t *b)
{
    int64_t counts[TENSORS];
    gln_dtype_t dtype = gln_bench_layer_dtype(b), acc = gln_dtype_acc(dtype);
    tensor_counts(b, counts);
    memset(b->dx, 0, (size_t)counts[1] * gln_dtype_bytes(dtype));
    memset(b->gradient_gate[0], 0, (size_t)counts[2] * gln_dtype_bytes(acc));
    memset(b->gradient_gate_up[0], 0, (size_t)counts[3] * gln_dtype_bytes(acc));
    memset(b->gradient_down[0], 0, (size_t)counts[4] * gln_dtype_bytes(acc));
}

gln_status_t gln_bench_torch_compare(gln_bench_torch_t *t, gln_bench_layer_t *b,
                                     const gln_ledger_t *ledger)
{
    gln_dtype_t dtype = gln_bench_layer_dtype(b), acc = gln_dtype_acc(dtype);
    const gln_dtype_t dtypes[TENSORS] = {dtype, dtype, acc, acc, acc};
    char path[256], request[GLN_PEER_LINE_MAX], answer[GLN_PEER_LINE_MAX];
    double bound = dtype == GLN_BF16 ? 5e-2 : 1e-3;
    if (gln_bench_layer_rows(ledger) != (double)(ledger->tokens * b->run.router.k))
        return gln_fail(GLN_ERR_CONFIG,
                        "--against torch: expected %lld rows, as many as torch computes, found "
                        "%.0f; leave router.* as it is",
                        (long long)(ledger->tokens * b->run.router.k),
                        gln_bench_layer_rows(ledger));
    clear_results(b);
    gln_status_t status = gln_bench_layer_run(b);
    if (status != GLN_OK) return status;
    const void *const tensors[TENSORS] = {b->y, b->dx, b->gradient_gate[0], b->gradient_gate_up[0],
                                          b->gradient_down[0]};
    status = write_tensors(b, tensors, dtypes, path, sizeof path);
    if (status != GLN_OK) return status;
    snprintf(request, sizeof request, "compare\t%s\t%s", t->first_form, path);
    status = gln_peer_ask(t->peer, request, STEP_S, answer);
    unlink(path);
    if (status != GLN_OK) return status;
    char *next = answer;
    for (int i = 0; i < TENSORS; i++) {
        t->distance[i] = strtod(next, &next);
        if (!(t->distance[i] <= bound))
            return gln_fail(GLN_ERR_NUMERIC,
                            "--against torch: expected %s to differ by at most %g of its norm, "
                            "found %g: not the same computation",
                            tensor_names[i], bound, t->distance[i]);
    }
    return GLN_OK;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void rank_timings(gln_bench_torch_t *t)
{
    for (int i = 0; i < t->timings_count; i++) {
        timing_t *timing = &t->timings[i];
        qsort(timing->seconds, (size_t)t->repeat, sizeof(double), compare);
        timing->median = timing->seconds[t->repeat / 2];
        if (timing->median < t->timings[t->best].median) t->best = i;
    }
}

json_t *gln_bench_torch_json(gln_bench_torch_t *t, double flops, double layer_median,
                             double layer_min)
{
    rank_timings(t);
    const timing_t *best = &t->timings[t->best];
    json_t *forms = json_array(), *difference = json_object();
    for (int i = 0; i < t->timings_count; i++) {
        const timing_t *timing = &t->timings[i];
        json_array_append_new(
            forms, json_pack("{s:s, s:i, s:f, s:f, s:f, s:f}", "form", timing->form, "threads",
                             timing->threads, "median_seconds", timing->median, "min_seconds",
                             timing->seconds[0], "gflops_per_second", 1e-9 * flops / timing->median,
                             "ratio", timing->median / layer_median));
    }
    for (int i = 0; i < TENSORS; i++)
        json_object_set_new(difference, tensor_names[i], gln_figures_real(t->distance[i]));
    return json_pack("{s:s, s:s, s:o, s:s, s:i, s:f, s:f, s:o}", "version", t->version, "python",
                     t->python, "forms", forms, "best_form", best->form, "best_threads",
                     best->threads, "ratio", best->median / layer_median, "ratio_min",
                     best->seconds[0] / layer_min, "difference", difference);
}

void gln_bench_torch_text(gln_bench_torch_t *t, double flops, double layer_median, double layer_min)
{
    rank_timings(t);
    const timing_t *best = &t->timings[t->best];
    printf("PyTorch %s (%s), the same layer in turn\n", t->version, t->python);
    printf("%-22s %12s %12s %12s %12s\n", "", "median ms", "minimum ms", "GFLOP/s", "gleaner's");
    for (int i = 0; i < t->timings_count; i++) {
        const timing_t *timing = &t->timings[i];
        char name[64];
        snprintf(name, sizeof name, "%s, %d thread%s", timing->form, timing->threads,
                 timing->threads == 1 ? "" : "s");
        printf("%-22s %12.2f %12.2f %12.1f %11.2fx\n", name, 1e3 * timing->median,
               1e3 * timing->seconds[0], 1e-9 * flops / timing->median,
               timing->median / layer_median);
    }
    printf("gleaner is %.2f times as fast as its best (%s, %d threads); of minima %.2f\n",
           best->median / layer_median, best->form, best->threads, best->seconds[0] / layer_min);
    printf("difference of results, of the norm:");
    for (int i = 0; i < TENSORS; i++)
        printf("%s %s%s %.1e", i ? "," : "", i < 2 ? "" : "d ", tensor_names[i], t->distance[i]);
    printf("\n");
}
