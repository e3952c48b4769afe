/* A step of the layer allocates nothing after the first.
 * RANKS: 1 2
 *
 * The allocator is replaced by one that notes the caller. Calls out of this program, into which
 * gleaner is linked, count as gleaner's own and must be none; those of the foreign libraries that
 * gleaner uses (oneDNN and its runtime, MPI and its plugins) are counted apart and printed; calls
 * out of any other library, the C library included, must be none too. On the reference kernels
 * without MPI nobody allocates. */
#include "base/log.h"
#include "base/rng.h"
#include "moe/layer.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
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

enum { NOTES_MAX = 1 << 16 };
static atomic_int counting, notes_count;
static const void *notes[NOTES_MAX];

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void *memalign(size_t alignment, size_t bytes);

static void note(const void *caller)
{
    if (!atomic_load_explicit(&counting, memory_order_relaxed)) return;
    int i = atomic_fetch_add(&notes_count, 1);
    if (i < NOTES_MAX) notes[i] = caller;
}

void *malloc(size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_realloc(memory, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    note(__builtin_return_address(0));
    *out = __libc_memalign(alignment, bytes);
    return *out != NULL ? 0 : ENOMEM;
}

#define CHECK(condition, ...)                               \
    do {                                                    \
        if (!(condition)) {                                 \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
            fprintf(stderr, __VA_ARGS__);                   \
            fprintf(stderr, " (%s)\n", gln_last_error());   \
            gln_comm_abort(world, 1);                       \
        }                                                   \
    } while (0)

static gln_comm_t *world, *self;

enum { DOMAINS = 4, EXPERTS = 8, TOKENS = 64, HIDDEN = 64, EXPERT_HIDDEN = 48, STEPS = 6 };

typedef struct counts {
    int own, foreign, other;
    char other_name[256];
} counts_t;

static int is_foreign(const char *path)
{
    static const char *const known[] = {"dnnl",     "gomp",     "stdc++", "libmpi", "open-rte",
                                        "open-pal", "openmpi3", "mca_",   "pmix",   "event",
                                        "hwloc",    "ucp",      "ucs",    "uct",    "ucm",
                                        "fabric",   "psm",      "ibverbs"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i)
        if (strstr(path, known[i]) != NULL) return 1;
    return 0;
}

/* Whose calls were noted. */
static counts_t attribute(void)
{
    extern char __executable_start, etext;
    counts_t counts = {0};
    int noted = atomic_load(&notes_count);

    CHECK(noted <= NOTES_MAX, "%d allocations are more than were noted", noted);
    for (int i = 0; i < noted; ++i) {
        const char *caller = notes[i];
        Dl_info info = {0};
        if (caller >= &__executable_start && caller < &etext) {
            counts.own += 1;
        } else if (dladdr(caller, &info) != 0 && info.dli_fname && is_foreign(info.dli_fname)) {
            counts.foreign += 1;
        } else {
            counts.other += 1;
            snprintf(counts.other_name, sizeof counts.other_name, "%s",
                     info.dli_fname ? info.dli_fname : "unknown code");
        }
    }
    return counts;
}

/* The counter counts: this program's own call, and one that the C library makes for it. */
static void check_counter(void)
{
    void *volatile memory;
    char *volatile copy;

    atomic_store(&counting, 1);
    memory = malloc(100);
    copy = strdup("counted as another library's");
    atomic_store(&counting, 0);
    counts_t counts = attribute();
    CHECK(counts.own == 1 && counts.other == 1, "the counter saw %d and %d, not 1 and 1",
          counts.own, counts.other);
    free(memory);
    free(copy);
    atomic_store(&notes_count, 0);
}

static float *draw(uint64_t stream, int64_t count, double scale)
{
    float *values = calloc((size_t)count, sizeof *values);
    CHECK(values != NULL, "no memory");
    for (int64_t i = 0; i < count; ++i)
        values[i] = (float)(scale * gln_rng_normal(3, gln_rng_stream(GLN_RNG_TEST, stream, 0),
                                                   (uint64_t)i));
    return values;
}

typedef struct job {
    gln_parallel_t parallel;
    gln_layer_t *layers[2];
    gln_layer_weights_t weights;
    gln_layer_gradients_t gradients;
    float *x, *y, *z, *dy, *dx;
} job_t;

/* Two layers forward and back; the tokens differ from step to step, so every count of rows does. */
static void run_step(job_t *job, int number)
{
    gln_layer_step_t step = {
        .seed = 1, .step = number, .keep = 1, .capacity_factor = number % 2 ? 0.0 : 1.5};
    const float *x = job->x + number * 7 * HIDDEN;
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

static void check_steps(const char *name, gln_comm_t *comm, gln_backend_t backend)
{
    gln_layer_options_t o = {.tokens = TOKENS,
                             .hidden = HIDDEN,
                             .expert_hidden = EXPERT_HIDDEN,
                             .capacity_factor_max = 1.5};
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_layer_workspace_t *workspace;
    job_t job;
    int64_t rows = DOMAINS * TOKENS;
    void *gate[DOMAINS + 1], *gate_up[DOMAINS + 1], *down[DOMAINS + 1]; /* the last: weights */

    o.router = (gln_router_options_t){.k = 2, .capacity_factor = 0.8, .fill = 1, .rectify = 1};
    CHECK(gln_parallel_open(comm, DOMAINS, 2, EXPERTS, &job.parallel) == GLN_OK, "parallel");
    CHECK(gln_pool_open(2, &pool) == GLN_OK, "pool");
    CHECK(gln_kernels_open(backend, GLN_F32, pool, &kernels) == GLN_OK, "kernels");
    CHECK(gln_layer_workspace_open(&job.parallel, kernels, &o, &workspace) == GLN_OK, "workspace");
    for (int i = 0; i < 2; ++i)
        CHECK(gln_layer_open(&job.parallel, kernels, workspace, &o, i, &job.layers[i]) == GLN_OK,
              "layer");
    job.x = draw(1, (rows + 7 * STEPS) * HIDDEN, 1.0);
    job.y = draw(2, rows * HIDDEN, 1.0);
    job.z = draw(2, rows * HIDDEN, 1.0);
    job.dy = draw(3, rows * HIDDEN, 1.0);
    job.dx = draw(4, rows * HIDDEN, 1.0);
    for (int i = 0; i <= DOMAINS; ++i) {
        gate[i] = draw(5, HIDDEN * EXPERTS, 0.3);
        gate_up[i] = draw(6, EXPERTS * HIDDEN * 2 * EXPERT_HIDDEN, 0.2);
        down[i] = draw(7, EXPERTS * EXPERT_HIDDEN * HIDDEN, 0.2);
    }
    job.gradients = (gln_layer_gradients_t){gate, gate_up, down};
    job.weights = (gln_layer_weights_t){gate[DOMAINS], gate_up[DOMAINS], down[DOMAINS]};

    run_step(&job, 0);
    atomic_store(&counting, 1);
    for (int number = 1; number < STEPS; ++number)
        run_step(&job, number);
    atomic_store(&counting, 0);

    counts_t counts = attribute();
    atomic_store(&notes_count, 0);
    printf("%s: %d steps, allocations: gleaner %d, foreign libraries %d, others %d\n", name,
           STEPS - 1, counts.own, counts.foreign, counts.other);
    CHECK(counts.own == 0, "%s: gleaner allocated %d times in a step", name, counts.own);
    CHECK(counts.other == 0, "%s: %d allocations out of %s", name, counts.other, counts.other_name);
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
    check_steps("reference kernels, one rank", self, GLN_BACKEND_REF);
    check_steps("cpu kernels, one rank", self, GLN_BACKEND_CPU);
    check_steps("cpu kernels, all ranks", world, GLN_BACKEND_CPU);
    if (gln_comm_rank(world) == 0) printf("ok\n");
    gln_comm_close(self);
    gln_comm_close(world);
    return 0;
}
#endif
