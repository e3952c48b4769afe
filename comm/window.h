/* Memory of one rank that the ranks of its node map as well, and counters in it by which they wait
 * for each other. Inside comm/ only.
 *
 * A counter has one writer and only grows. Posting publishes everything that was written before;
 * who waited for the value sees it. */
#ifndef GLN_COMM_WINDOW_H
#define GLN_COMM_WINDOW_H

#include "comm/comm_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_window {
    gln_comm_t *comm;
    size_t bytes; /* of this rank */
    int shared;   /* the node's ranks map it */
    void **bases; /* [P] start of that rank's window here; NULL: a rank that shares no memory */
    int *places;  /* [P] index of a rank among the ranks of its node, ascending */
    void *handle; /* the backend's, or the plain memory */
} gln_window_t;

typedef struct gln_counter { /* a cache line of its own */
    uint64_t value;
    char padding[56];
} gln_counter_t;

typedef enum gln_window_kind {
    GLN_WINDOW_PLAIN,  /* plain memory; `bases` knows this rank alone */
    GLN_WINDOW_SHARED, /* as many bytes on every rank of a node */
    GLN_WINDOW_TRY     /* shared, and failing is ordinary: it is reported by `reason` alone */
} gln_window_kind_t;

enum { GLN_WINDOW_REASON = 256 };

/** Memory of `bytes` per rank, aligned to 64; its first `head` bytes are zero. Shared memory is
 * asked for only where the node has room for all its ranks, and its pages are taken at once: a file
 * system that is full would end the job at the first touch.
 *  @param kind    the same on every rank
 *  @param reason  NULL, or receives on failure what the lowest rank that failed says, on every rank
 *  @param speaks  NULL, or receives 1 on that rank, 0 elsewhere
 *  @return GLN_OK; GLN_ERR_MEMORY or GLN_ERR_PEER, agreed: `out` holds nothing then. COLLECTIVE. */
gln_status_t gln_window_open(gln_comm_t *comm, size_t bytes, size_t head, gln_window_kind_t kind,
                             gln_window_t *out, char reason[GLN_WINDOW_REASON], int *speaks);
/** COLLECTIVE where shared. Takes windows that were never opened, and twice. */
void gln_window_close(gln_window_t *window);

void gln_counter_post(gln_counter_t *counter, uint64_t value);
/** Has `counter` reached `value`? Never waits. */
int gln_counter_reached(const gln_counter_t *counter, uint64_t value);
/** Wait until `counter` has reached `value`: spins, then yields the core, and looks at the clock
 * now and then. @param peer who has to post it; @param what it is waited for, static storage, for
 * the message
 *  @return GLN_OK; GLN_ERR_PEER naming the rank after comm->timeout_ms (0: never). */
gln_status_t gln_counter_await(gln_comm_t *comm, const gln_counter_t *counter, uint64_t value,
                               int peer, const char *what);

#ifdef __cplusplus
}
#endif
#endif
