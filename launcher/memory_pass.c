/* Passes over memory, O(bytes). A task is 32768 elements, as in the kernels; inside it the
 * arrays take turns every 64 elements, so that all are under way at once, as in an operation that
 * reads some and writes others. Reading folds what it reads into a register, updating adds zero. */
#include "launcher/memory_pass.h"

#include "base/clones.h"
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { TASK_ELEMENTS = 32768, TURN = 64, WORDS = 8 /* of a cache line */ };

typedef uint64_t line_t __attribute__((vector_size(64), aligned(64), may_alias));

typedef struct pass {
    const gln_pass_t *arrays;
    int64_t elements;
    gln_pass_store_t store;
} pass_t;

typedef struct triad {
    const float *b, *c;
    float *a;
    int64_t count;
} triad_t;

static volatile uint64_t sink, zero;

static inline __attribute__((always_inline)) void store_past(line_t *to, line_t value)
{
#if defined(__SSE2__)
    __m128i parts[4];
    memcpy(parts, &value, sizeof parts);
    for (int i = 0; i < 4; i++)
        _mm_stream_si128((__m128i *)to + i, parts[i]);
#else
    *to = value;
#endif
}

GLN_CLONES static uint64_t pass_range(const pass_t *p, int64_t first, int64_t last, uint64_t add)
{
    line_t seen = {0}, none = seen + add;
    uint64_t sum = 0;
    for (int64_t at = first; at < last; at += TURN)
        for (int s = 0; s < p->arrays->count; s++) {
            const gln_pass_array_t *array = &p->arrays->items[s];
            line_t *line = (line_t *)((char *)array->data + at * array->width);
            const int lines = array->width * TURN / (int)sizeof(line_t);
            if (array->kind == GLN_PASS_READ)
                for (int i = 0; i < lines; i++)
                    seen |= line[i];
            else if (array->kind == GLN_PASS_UPDATE)
                for (int i = 0; i < lines; i++)
                    line[i] += none;
            else if (p->store == GLN_PASS_PAST)
                for (int i = 0; i < lines; i++)
                    store_past(line + i, none);
            else
                for (int i = 0; i < lines; i++)
                    line[i] = none;
        }
    for (int i = 0; i < WORDS; i++)
        sum |= seen[i];
    return sum;
}

static int64_t task_end(int64_t first, int64_t step, int64_t count)
{
    return first + step < count ? first + step : count;
}

static int tasks(int64_t count, int64_t step)
{
    return (int)((count + step - 1) / step);
}

static void pass_task(void *ctx, int task, int worker)
{
    const pass_t *p = ctx;
    const int64_t first = (int64_t)task * TASK_ELEMENTS;
    (void)worker;
    sink = pass_range(p, first, task_end(first, TASK_ELEMENTS, p->elements), zero);
#if defined(__SSE2__)
    _mm_sfence(); /* stores past the caches are done when the task is */
#endif
}

double gln_pass_bytes(const gln_pass_t *arrays, int64_t elements)
{
    double bytes = 0;
    for (int i = 0; i < arrays->count; i++)
        bytes += arrays->items[i].width * (arrays->items[i].kind == GLN_PASS_UPDATE ? 2.0 : 1.0);
    return bytes * (double)elements;
}

void gln_pass_run(gln_pool_t *pool, const gln_pass_t *arrays, int64_t elements,
                  gln_pass_store_t store)
{
    pass_t p = {arrays, elements / TURN * TURN, store};
    gln_pool_run(pool, tasks(p.elements, TASK_ELEMENTS), pass_task, &p);
}

typedef struct copy {
    const char *from;
    char *to;
    int64_t bytes;
} copy_t;

enum { COPY_BYTES = TASK_ELEMENTS * (int)sizeof(float) };

static void copy_task(void *ctx, int task, int worker)
{
    const copy_t *c = ctx;
    const int64_t first = (int64_t)task * COPY_BYTES;
    (void)worker;
    memcpy(c->to + first, c->from + first, (size_t)(task_end(first, COPY_BYTES, c->bytes) - first));
}

void gln_pass_copy(gln_pool_t *pool, const void *from, int64_t bytes, void *to)
{
    copy_t c = {from, to, bytes};
    gln_pool_run(pool, tasks(bytes, COPY_BYTES), copy_task, &c);
}

GLN_CLONES static void triad_range(const float *restrict b, const float *restrict c, int64_t count,
                                   float *restrict a)
{
    for (int64_t i = 0; i < count; i++)
        a[i] = b[i] + 3.0f * c[i];
}

static void triad_task(void *ctx, int task, int worker)
{
    const triad_t *t = ctx;
    const int64_t first = (int64_t)task * TASK_ELEMENTS;
    (void)worker;
    triad_range(t->b + first, t->c + first, task_end(first, TASK_ELEMENTS, t->count) - first,
                t->a + first);
}

void gln_pass_triad(gln_pool_t *pool, const float *b, const float *c, int64_t count, float *a)
{
    triad_t t = {b, c, a, count};
    gln_pool_run(pool, tasks(count, TASK_ELEMENTS), triad_task, &t);
}
