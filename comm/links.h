/* What a message costs on this machine: a short table, measured between the ranks of a
 * communicator, inside nodes and between them.
 *
 * All ranks of a node send at once, since they share its link: figures are of one rank while the
 * others do the same. Every rank holds the same table, so that what is decided by it is decided
 * alike everywhere. */
#ifndef GLN_COMM_LINKS_H
#define GLN_COMM_LINKS_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_LINKS_POINTS = 5 };

/* Messages of each rank to its neighbour at a point of the table, and the bytes of one: 1 x 1 KiB,
 * 8 x 1 KiB, 1 x 16 KiB, 1 x 256 KiB, 1 x 1 MiB. */
extern const int gln_links_messages[GLN_LINKS_POINTS];
extern const int64_t gln_links_bytes[GLN_LINKS_POINTS];

typedef struct gln_link {
    int points; /* measured, from the first on; 0: no two ranks are linked like this */
    double seconds[GLN_LINKS_POINTS];
    double latency, gap; /* seconds of a small message, and of each further one in flight with it */
    double byte;         /* seconds, of large messages */
} gln_link_t;

typedef struct gln_links {
    gln_link_t inside;  /* to the next rank of the node */
    gln_link_t between; /* to the rank in the same place on the next node */
    double copy_byte;   /* seconds to copy a byte within a rank */
    double seconds;     /* that measuring took */
} gln_links_t;

/** The table of this communicator. Measured on the first call, in some 10 ms where links are fast.
 * A size takes 0.1 s and one round of messages at most, and where a round takes that long larger
 * sizes are left out. Kept until the communicator is closed.
 *  @param out  owned by `comm`
 *  @return GLN_OK; GLN_ERR_MEMORY; GLN_ERR_PEER. COLLECTIVE. */
gln_status_t gln_comm_links(gln_comm_t *comm, const gln_links_t **out);

/** latency, gap and byte from `seconds` and `points`. */
void gln_link_fit(gln_link_t *link);
/** Seconds of `messages` at once, `bytes` in all: latency, gaps, and the bytes in straight lines
 * between the sizes of the table. Nothing for no message. */
double gln_link_seconds(const gln_link_t *link, double messages, double bytes);

#ifdef __cplusplus
}
#endif
#endif
