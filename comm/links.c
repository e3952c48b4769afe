/* Measuring links. A rank sends to its right neighbour and receives from its left one, in the ring
 * of its node's ranks or in the ring of the nodes; a round begins with a barrier and lasts as long
 * as its slowest rank needs. Of up to five rounds the shortest counts, after one that opens
 * connections and empties what a shaped link lets pass at once.
 *
 * Messages in flight together share the latency and follow each other at a gap (Culler et al. 1993,
 * LogP; Alexandrov et al. 1995, LogGP; with one message the line of Hockney 1994). Latency is the
 * time of one small message, gap what each further one adds beyond its bytes. Bytes, counted over
 * all messages, cost what one message of so many costs more than a small one: straight lines
 * between the sizes measured, since a link has several regimes (buffers, the tokens of a shaped
 * link), and the last line goes on.
 *
 * O(1) messages per rank and point: at most 6 x (1 + 8 + 16 + 256 + 1024) KiB for each link. */
#include "comm/links.h"

#include "base/log.h"
#include "comm/comm_internal.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

const int gln_links_messages[GLN_LINKS_POINTS] = {1, 8, 1, 1, 1};
const int64_t gln_links_bytes[GLN_LINKS_POINTS] = {1 << 10, 1 << 10, 16 << 10, 256 << 10, 1 << 20};

enum { rounds_max = 5, copies = 4, copy_bytes = 256 << 10 };
/* A point that takes longer ends its link; one that is shorter may be followed by a larger one. */
static const int64_t slow_ns = 100000000, quick_ns = 2000000;
/* Rounds of one point together; the first one that exceeds it is the last. */
static const int64_t point_ns = 100000000;

typedef struct ring {
    int to, from; /* -1: this rank only looks on */
} ring_t;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The rank in place `place` of node `node`, -1 if it has none. */
static int rank_at(const gln_comm_t *comm, int node, int place)
{
    for (int r = 0; r < comm->size; r++)
        if (comm->nodes[r] == node && place-- == 0) return r;
    return -1;
}

static int place_of(const gln_comm_t *comm, int rank)
{
    int place = 0;
    for (int r = 0; r < rank; r++)
        place += comm->nodes[r] == comm->nodes[rank];
    return place;
}

static int ranks_on(const gln_comm_t *comm, int node)
{
    int ranks = 0;
    for (int r = 0; r < comm->size; r++)
        ranks += comm->nodes[r] == node;
    return ranks;
}

static ring_t ring_inside(const gln_comm_t *comm)
{
    int node = comm->nodes[comm->rank], ranks = ranks_on(comm, node);
    int place = place_of(comm, comm->rank);
    if (ranks == 1) return (ring_t){-1, -1};
    return (ring_t){rank_at(comm, node, (place + 1) % ranks),
                    rank_at(comm, node, (place + ranks - 1) % ranks)};
}

/* Neighbours that have a rank in this one's place; where nodes differ in size some look on. */
static ring_t ring_between(const gln_comm_t *comm)
{
    int node = comm->nodes[comm->rank], nodes = comm->nodes_count;
    int place = place_of(comm, comm->rank);
    if (nodes == 1) return (ring_t){-1, -1};
    return (ring_t){rank_at(comm, (node + 1) % nodes, place),
                    rank_at(comm, (node + nodes - 1) % nodes, place)};
}

static int any_inside(const gln_comm_t *comm)
{
    return comm->size > comm->nodes_count;
}

/* One round: the slowest rank's nanoseconds, on every rank. */
static gln_status_t round_time(gln_comm_t *comm, const ring_t *ring, int messages, int64_t bytes,
                               char *out, char *in, int64_t *ns)
{
    const gln_comm_ops_t *ops = comm->ops;
    gln_status_t status = ops->barrier(comm);
    int64_t begin = now();
    for (int i = 0; i < messages && status == GLN_OK; i++) {
        if (ring->from >= 0) status = ops->receive(comm, ring->from, in + i * bytes, (size_t)bytes);
        if (ring->to >= 0 && status == GLN_OK)
            status = ops->send(comm, ring->to, out + i * bytes, (size_t)bytes);
    }
    if (status == GLN_OK) status = ops->wait(comm);
    *ns = now() - begin;
    status = gln_comm_agree(comm, status, NULL);
    return status == GLN_OK ? ops->max_i64(comm, ns, 1) : status;
}

static double least_seconds(const int64_t *ns, int count)
{
    int64_t least = ns[0];
    for (int i = 1; i < count; i++)
        if (ns[i] < least) least = ns[i];
    return 1e-9 * (double)(least > 0 ? least : 1);
}

/* Seconds per byte from the smallest message to that of point p. */
static double slope(const gln_link_t *link, int p)
{
    double seconds = link->seconds[p] - link->seconds[0];
    return seconds > 0 ? seconds / (double)(gln_links_bytes[p] - gln_links_bytes[0]) : 0;
}

void gln_link_fit(gln_link_t *link)
{
    GLN_ASSERT(link->points >= 1 && link->points <= GLN_LINKS_POINTS);
    int last = link->points - 1;
    double small = (double)gln_links_bytes[0], least = 1e-12;
    link->latency = link->seconds[0];
    link->byte = last >= 2 ? slope(link, last) : link->seconds[0] / small;
    if (link->byte < least) link->byte = least;
    link->gap = 0;
    if (last >= 1) link->gap = (link->seconds[1] - link->seconds[0]) / (gln_links_messages[1] - 1);
    if (last >= 2) link->gap -= small * slope(link, 2);
    if (link->gap < 0) link->gap = 0;
}

/* Between the sizes that were sent alone the time grows in straight lines, beyond the last one as
 * it did before it. */
static double bytes_seconds(const gln_link_t *link, double bytes)
{
    double seconds = 0, pace = link->byte, from = (double)gln_links_bytes[0];
    int before = 0;
    for (int p = 2; p < link->points && bytes > from; p++) {
        double to = (double)gln_links_bytes[p];
        double step = link->seconds[p] - link->seconds[before];
        pace = step > 0 ? step / (to - from) : 0;
        seconds += pace * ((bytes < to ? bytes : to) - from);
        from = to;
        before = p;
    }
    return bytes > from ? seconds + (pace > 0 ? pace : link->byte) * (bytes - from) : seconds;
}

double gln_link_seconds(const gln_link_t *link, double messages, double bytes)
{
    if (messages <= 0) return 0;
    return link->latency + (messages - 1) * link->gap + bytes_seconds(link, bytes);
}

static gln_status_t link_measure(gln_comm_t *comm, const ring_t *ring, char *out, char *in,
                                 gln_link_t *link)
{
    gln_status_t status = GLN_OK;
    for (int p = 0; p < GLN_LINKS_POINTS && status == GLN_OK; p++) {
        int64_t ns[1 + rounds_max], spent = 0;
        int rounds = 0;
        if (p == GLN_LINKS_POINTS - 1 && 1e9 * link->seconds[p - 1] > (double)quick_ns) break;
        while (rounds <= rounds_max && spent <= point_ns && status == GLN_OK) {
            status = round_time(comm, ring, gln_links_messages[p], gln_links_bytes[p], out, in,
                                &ns[rounds]);
            spent += ns[rounds++];
        }
        if (status != GLN_OK) break;
        /* the first round counts only where it is the only one */
        link->seconds[p] = rounds > 1 ? least_seconds(ns + 1, rounds - 1) : 1e-9 * (double)ns[0];
        link->points = p + 1;
        if (1e9 * link->seconds[p] > (double)slow_ns) break;
    }
    if (status == GLN_OK) gln_link_fit(link);
    return status;
}

static gln_status_t copy_measure(gln_comm_t *comm, const char *out, char *in, double *byte)
{
    int64_t ns[rounds_max];
    gln_status_t status = GLN_OK;
    for (int i = 0; i < rounds_max && status == GLN_OK; i++) {
        status = comm->ops->barrier(comm);
        int64_t begin = now();
        for (int c = 0; c < copies; c++)
            memcpy(in + c * copy_bytes, out + c * copy_bytes, copy_bytes);
        ns[i] = now() - begin;
        if (status == GLN_OK) status = comm->ops->max_i64(comm, &ns[i], 1);
    }
    if (status == GLN_OK) *byte = least_seconds(ns, rounds_max) / (copies * copy_bytes);
    return status;
}

static gln_status_t measure(gln_comm_t *comm, char *out, char *in, gln_links_t *links)
{
    ring_t inside = ring_inside(comm), between = ring_between(comm);
    gln_status_t status = copy_measure(comm, out, in, &links->copy_byte);
    if (status == GLN_OK && any_inside(comm))
        status = link_measure(comm, &inside, out, in, &links->inside);
    if (status == GLN_OK && comm->nodes_count > 1)
        status = link_measure(comm, &between, out, in, &links->between);
    return status;
}

gln_status_t gln_comm_links(gln_comm_t *comm, const gln_links_t **out)
{
    if (!comm || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_links: expected two addresses, found NULL");
    if (!comm->links) {
        size_t bytes = (size_t)gln_links_bytes[GLN_LINKS_POINTS - 1];
        gln_links_t *links = calloc(1, sizeof *links);
        char *buffers = calloc(2, bytes);
        gln_status_t status = GLN_OK;
        if (!links || !buffers)
            status = gln_fail(GLN_ERR_MEMORY, "cannot allocate %zu bytes to measure links",
                              2 * bytes + sizeof *links);
        status = gln_comm_agree(comm, status, NULL);
        int64_t begin = now();
        const char *operation = comm->place->operation;
        comm->place->operation = "measuring links";
        if (status == GLN_OK) status = measure(comm, buffers, buffers + bytes, links);
        comm->place->operation = operation;
        int64_t ns = now() - begin;
        if (status == GLN_OK) status = comm->ops->max_i64(comm, &ns, 1);
        if (!comm->given_up) free(buffers); /* else MPI may still hold it */
        if (status != GLN_OK) {
            free(links);
            return status;
        }
        links->seconds = 1e-9 * (double)ns;
        comm->links = links;
    }
    *out = comm->links;
    return GLN_OK;
}
