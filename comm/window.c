/* Windows: one block per rank, by the backend's shared memory or plain. Waiting costs no system
 * call while the other side is at work on another core; after some hundred turns the core is
 * offered to whoever else wants it, since ranks may outnumber cores. */
#include "comm/window.h"

#include "base/log.h"
#include "base/memory.h"
#include "comm/units.h"
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { spins_before_yield = 200, window_align = 64 };
/* What is left free beyond the windows: Open MPI keeps a segment of 4 MiB per rank in the same
 * place, whose pages it takes only when it touches them. */
enum { rank_extra = (4 << 20) + (64 << 10), node_extra = 256 << 10 };

_Static_assert(sizeof(gln_counter_t) == 64, "one counter per cache line");
_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t), "counters are free of locks");

static gln_status_t plain_open(size_t bytes, gln_window_t *w)
{
    if (posix_memalign(&w->handle, window_align, bytes) != 0) {
        w->handle = NULL;
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate %zu bytes for received rows", bytes);
    }
    if (!gln_memory_reserves()) memset(w->handle, 0, bytes); /* none is taken in a step */
    w->bases[w->comm->rank] = w->handle;
    gln_memory_note(GLN_MEMORY_EXCHANGE, (int64_t)bytes);
    return GLN_OK;
}

/* Is there room for the windows of this node? */
static gln_status_t room_check(gln_comm_t *comm, size_t bytes)
{
    char where[128] = "", room_text[16], need_text[16];
    int ranks = 0;
    for (int r = 0; r < comm->size; r++)
        ranks += comm->nodes[r] == comm->nodes[comm->rank];
    double need = (double)ranks * (double)(bytes + rank_extra) + node_extra;
    int64_t room = comm->ops->window_room(comm, where, sizeof where);
    if (room < 0 || (double)room >= need) return GLN_OK;
    gln_bytes_text((double)room, room_text);
    gln_bytes_text(need, need_text);
    return gln_fail(GLN_ERR_MEMORY,
                    "%s of rank %d has %s free, the windows of the %d ranks of its node and MPI's "
                    "own memory need %s: enlarge it, or choose messages",
                    where, comm->rank, room_text, ranks, need_text);
}

/* Take the pages of the own part now: a step takes none, and want of them shows here. Kernels
 * before 5.14 cannot say that there are none, and take them when they are touched. */
static gln_status_t pages_take(gln_comm_t *comm, char *part, size_t bytes)
{
#ifndef MADV_POPULATE_WRITE
    enum { MADV_POPULATE_WRITE = 23 };
#endif
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)part / page * page;
    if (madvise((void *)first, (uintptr_t)part + bytes - first, MADV_POPULATE_WRITE) == 0 ||
        errno == EINVAL || errno == ENOSYS)
        return GLN_OK;
    return gln_fail(GLN_ERR_MEMORY, "rank %d: cannot take %zu bytes of shared memory: %s",
                    comm->rank, bytes, strerror(errno == EFAULT ? ENOSPC : errno));
}

static gln_status_t memory_open(gln_window_t *w)
{
    gln_comm_t *comm = w->comm;
    if (!w->shared) return plain_open(w->bytes, w);
    gln_status_t status = comm->ops->window_open(comm, w->bytes, w->bases, &w->handle);
    if (w->handle) gln_memory_note(GLN_MEMORY_WINDOW, (int64_t)w->bytes);
    if (status != GLN_OK || gln_memory_reserves()) return status;
    return pages_take(comm, w->bases[comm->rank], w->bytes);
}

/* Agree, and pass on what the lowest rank that failed had to say. */
static gln_status_t leave_together(gln_comm_t *comm, gln_status_t mine, char *reason, int *speaks)
{
    int rank = -1;
    gln_status_t agreed = gln_comm_agree(comm, mine, &rank);
    if (agreed == GLN_OK || rank < 0 || comm->given_up) return agreed;
    if (speaks) *speaks = rank == comm->rank;
    if (!reason) return agreed;
    if (rank == comm->rank) snprintf(reason, GLN_WINDOW_REASON, "%s", gln_last_error());
    gln_status_t told = gln_comm_broadcast(comm, reason, GLN_WINDOW_REASON, rank);
    return told == GLN_OK ? agreed : told;
}

/* Base and place of every rank, and the memory. Nobody may wait in the backend for a rank that has
 * none or finds no room, so the ranks agree before and after. */
static gln_status_t parts_open(gln_window_t *w, gln_window_kind_t kind, char *reason, int *speaks)
{
    gln_comm_t *comm = w->comm;
    size_t size = (size_t)comm->size;
    w->bases = calloc(size, sizeof *w->bases);
    w->places = calloc(size, sizeof *w->places);
    int *seen = calloc((size_t)comm->nodes_count + size, sizeof *seen);
    gln_status_t status = GLN_OK;
    gln_log_hold(kind == GLN_WINDOW_TRY);
    if (!w->bases || !w->places || !seen)
        status = gln_fail(GLN_ERR_MEMORY, "cannot allocate a window over %d ranks", comm->size);
    else if (w->shared)
        status = room_check(comm, w->bytes);
    gln_log_hold(0);
    status = leave_together(comm, status, reason, speaks);
    for (int r = 0; r < comm->size && status == GLN_OK; r++)
        w->places[r] = seen[comm->nodes[r]]++;
    free(seen);
    if (status != GLN_OK) return status;
    gln_log_hold(kind == GLN_WINDOW_TRY);
    status = memory_open(w);
    gln_log_hold(0);
    if (comm->given_up && kind == GLN_WINDOW_TRY) gln_log(GLN_LOG_ERROR, "%s", gln_last_error());
    return leave_together(comm, status, reason, speaks);
}

gln_status_t gln_window_open(gln_comm_t *comm, size_t bytes, size_t head, gln_window_kind_t kind,
                             gln_window_t *out, char reason[GLN_WINDOW_REASON], int *speaks)
{
    gln_window_t w = {
        .comm = comm, .bytes = bytes + window_align, .shared = kind != GLN_WINDOW_PLAIN};
    gln_status_t status = parts_open(&w, kind, reason, speaks);
    if (status == GLN_OK) {
        /* a page keeps its offset in every mapping, so that all round the same base alike */
        for (int r = 0; r < comm->size; r++)
            if (w.bases[r])
                w.bases[r] = (void *)(((uintptr_t)w.bases[r] + window_align - 1) / window_align *
                                      window_align);
        memset(w.bases[comm->rank], 0, head);
        status = comm->ops->barrier(comm);
    }
    if (status != GLN_OK) {
        /* freeing would wait without an end for the rank that is missing: it stays with MPI */
        if (w.shared && comm->given_up) w.handle = NULL;
        gln_window_close(&w);
        return status;
    }
    *out = w;
    return GLN_OK;
}

void gln_window_close(gln_window_t *window)
{
    if (window->handle)
        gln_memory_note(window->shared ? GLN_MEMORY_WINDOW : GLN_MEMORY_EXCHANGE,
                        -(int64_t)window->bytes);
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
