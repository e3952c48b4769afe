/* An allocator that notes its callers, for programs that prove that a step allocates nothing.
 * Included once by such a program, which it gives its malloc; not in sanitizer builds, which
 * replace the allocator themselves.
 *
 * Calls out of the program, into which gleaner is linked, count as gleaner's own; those of the
 * foreign libraries that gleaner uses (oneDNN and its runtime, MPI and its plugins) are counted
 * apart; calls out of any other library, the C library included, are the rest. */
#ifndef GLN_TESTS_RANKS_MOE_ALLOCATIONS_H
#define GLN_TESTS_RANKS_MOE_ALLOCATIONS_H

#include "base/log.h"
#include "comm/comm.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Inlined, the return address would be the caller's caller's. */
#define OUT_OF_LINE __attribute__((noinline))

OUT_OF_LINE void *malloc(size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

OUT_OF_LINE void *calloc(size_t count, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_calloc(count, bytes);
}

OUT_OF_LINE void *realloc(void *memory, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_realloc(memory, bytes);
}

OUT_OF_LINE void *memalign(size_t alignment, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

OUT_OF_LINE void *aligned_alloc(size_t alignment, size_t bytes)
{
    note(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

OUT_OF_LINE int posix_memalign(void **out, size_t alignment, size_t bytes)
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

static void count_start(void)
{
    atomic_store(&notes_count, 0);
    atomic_store(&counting, 1);
}

static counts_t count_stop(void)
{
    atomic_store(&counting, 0);
    counts_t counts = attribute();
    atomic_store(&notes_count, 0);
    return counts;
}

/* Prints what was counted; gleaner's own and unexplained allocations end the program. */
static void check_counts(const char *name, int steps, counts_t counts)
{
    if (gln_comm_rank(world) == 0)
        printf("%s: %d steps, allocations: gleaner %d, foreign libraries %d, others %d\n", name,
               steps, counts.own, counts.foreign, counts.other);
    CHECK(counts.own == 0, "%s: gleaner allocated %d times in a step", name, counts.own);
    CHECK(counts.other == 0, "%s: %d allocations out of %s", name, counts.other, counts.other_name);
}

#endif
