/* Two ranks and a counter each, in a window: the even one posts and waits for the answer, the odd
 * one waits and answers. A turn is two handoffs of a cache line from core to core. */
#include "comm/handoff.h"

#include "base/log.h"
#include "comm/window.h"
#include <stdlib.h>

struct gln_handoff {
    gln_comm_t *comm;
    gln_window_t window; /* a counter, a gap that no prefetcher crosses, then the memory */
    int partner;         /* -1: none */
    uint64_t turn;
};

enum { head = 4096 };

gln_status_t gln_handoff_open(gln_comm_t *comm, size_t bytes, gln_handoff_t **out)
{
    gln_handoff_t *h = calloc(1, sizeof *h);
    gln_status_t status = h ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "cannot allocate a handoff");
    status = gln_comm_agree(comm, status, NULL);
    if (status != GLN_OK) goto release;
    int shared = comm->size > comm->nodes_count;
    status = gln_window_open(comm, head + bytes, head, shared ? GLN_WINDOW_TRY : GLN_WINDOW_PLAIN,
                             &h->window, NULL, NULL);
    if (status != GLN_OK && shared) /* no partner then */
        status =
            gln_window_open(comm, head + bytes, head, GLN_WINDOW_PLAIN, &h->window, NULL, NULL);
    if (status != GLN_OK) goto release;
    h->comm = comm;
    h->partner = comm->rank ^ 1;
    if (h->partner >= comm->size || !h->window.bases[h->partner]) h->partner = -1;
    *out = h;
    return GLN_OK;
release:
    free(h);
    return status;
}

void gln_handoff_close(gln_handoff_t *h)
{
    if (!h) return;
    gln_window_close(&h->window);
    free(h);
}

int gln_handoff_has_partner(const gln_handoff_t *h)
{
    return h->partner >= 0;
}

char *gln_handoff_own(gln_handoff_t *h)
{
    return h->partner < 0 ? NULL : (char *)h->window.bases[h->comm->rank] + head;
}

char *gln_handoff_partner(gln_handoff_t *h)
{
    return h->partner < 0 ? NULL : (char *)h->window.bases[h->partner] + head;
}

gln_status_t gln_handoff_bounce(gln_handoff_t *h, int64_t turns)
{
    gln_status_t status = GLN_OK;
    if (h->partner < 0) return status;
    gln_counter_t *own = h->window.bases[h->comm->rank];
    const gln_counter_t *theirs = h->window.bases[h->partner];
    int answers = h->comm->rank & 1;
    for (int64_t i = 0; i < turns && status == GLN_OK; i++) {
        h->turn++;
        if (!answers) gln_counter_post(own, h->turn);
        status = gln_counter_await(h->comm, theirs, h->turn, h->partner, "its turn");
        if (answers && status == GLN_OK) gln_counter_post(own, h->turn);
    }
    return status;
}
