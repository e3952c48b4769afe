/* Windows: one block per rank, by the backend's shared memory or plain. Waiting costs no system
 * call while the other side is at work on another core; after some hundred turns the core is
 * offered to whoever else wants it, since ranks may outnumber cores. */
#include "comm/window.h"

#include "base/log.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { spins_before_yield = 200, window_align = 64 };

_Static_assert(sizeof(gln_counter_t) == 64, "one counter per cache line");
_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t), "counters are free of locks");

static gln_status_t plain_open(size_t bytes, gln_window_t *w)
{
    if (posix_memalign(&w->handle, window_align, bytes) != 0) {
        w->handle = NULL;
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate %zu bytes for received rows", bytes);
    }
    w->bases[w->comm->rank] = w->handle;
    return GLN_OK;
}

gln_status_t gln_window_open(gln_comm_t *comm, size_t bytes, size_t head, int shared,
                             gln_window_t *out)
{
    size_t size = (size_t)comm->size;
    gln_window_t w = {.comm = comm, .bytes = bytes + window_align, .shared = shared};
    w.bases = calloc(size, sizeof *w.bases);
    w.places = calloc(size, sizeof *w.places);
    int *seen = calloc((size_t)comm->nodes_count + 1, sizeof *seen);
    gln_status_t status = GLN_OK;
    if (!w.bases || !w.places || !seen)
        status = gln_fail(GLN_ERR_MEMORY, "cannot allocate a window over %d ranks", comm->size);
    /* nobody may wait in the backend for a rank without memory */
    gln_status_t agreed = gln_comm_agree(comm, status, NULL);
    if (agreed == GLN_OK) {
        for (int r = 0; r < comm->size; r++)
            w.places[r] = seen[comm->nodes[r]]++;
        status = shared ? comm->ops->window_open(comm, w.bytes, w.bases, &w.handle)
                        : plain_open(w.bytes, &w);
        agreed = gln_comm_agree(comm, status, NULL);
    }
    free(seen);
    if (agreed != GLN_OK) {
        gln_window_close(&w);
        return agreed;
    }
    /* a page keeps its offset in every mapping, so that all round the same base alike */
    for (int r = 0; r < comm->size; r++)
        if (w.bases[r])
            w.bases[r] =
                (void *)(((uintptr_t)w.bases[r] + window_align - 1) / window_align * window_align);
    memset(w.bases[comm->rank], 0, head);
    agreed = comm->ops->barrier(comm);
    if (agreed != GLN_OK) {
        gln_window_close(&w);
        return agreed;
    }
    *out = w;
    return GLN_OK;
}

void gln_window_close(gln_window_t *window)
{
    if (window->handle && window->shared)
        window->comm->ops->window_close(window->comm, window->handle);
    else
        free(window->handle);
    free(window->bases);
    free(window->places);
    memset(window, 0, sizeof *window);
}

void gln_counter_post(gln_counter_t *counter, uint64_t value)
{
    atomic_store_explicit((_Atomic uint64_t *)&counter->value, value, memory_order_release);
}

int gln_counter_reached(const gln_counter_t *counter, uint64_t value)
{
    return atomic_load_explicit((const _Atomic uint64_t *)&counter->value, memory_order_acquire) >=
           value;
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

gln_status_t gln_counter_await(gln_comm_t *comm, const gln_counter_t *counter, uint64_t value,
                               int peer, const char *what)
{
    for (int turn = 0; turn < spins_before_yield; turn++) {
        if (gln_counter_reached(counter, value)) return GLN_OK;
        pause_briefly();
    }
    gln_wait_t wait;
    gln_wait_begin(comm, what, &wait);
    while (!gln_counter_reached(counter, value)) {
        sched_yield();
        if (gln_wait_over(&wait)) return gln_comm_late(comm, &peer, 1);
    }
    gln_wait_end(comm);
    return GLN_OK;
}
