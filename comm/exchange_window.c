/* Rows between ranks of one node. Every rank has a window that its node maps: a counter `ready`, a
 * counter `done` for each rank of the node, the offsets of what it receives, and its receive
 * buffer. In dispatch the sender gathers each row once, from the caller's array into its final
 * place at the receiver: one read and one write per row. In combine results stay where they are,
 * and the source of a token reads them there while it sums.
 *
 * Dispatches and combines are counted alike on all ranks; the count is the epoch. A rank posts
 * `ready` = epoch when its buffer may be written (dispatch) or holds its results (combine), and the
 * one that wrote or read it posts `done` for that owner. Both calls end when everybody who had to
 * touch the own buffer has said so, so that between calls it is its owner's alone, offsets
 * included. Pairs of ranks without rows do not wait for each other. 64 bytes per rank of the node
 * and O(1) posts per peer and call, no system call but yielding a core.
 *
 * Two things make small exchanges faster than that alone. Word from another core takes 50 to 200
 * ns, as long as copying some KiB: rows that stay on the rank are copied meanwhile, and between any
 * two of them a peer that has become ready gets its rows first. And blocks of different writers
 * lie side by side, while prefetchers run ahead of whoever writes upwards and take the next lines
 * away from the neighbour that writes there: blocks are written from both ends inwards. */
#include "comm/exchange_internal.h"

#include "base/clones.h"
#include "base/log.h"
#include <stdio.h>
#include <string.h>

static char *window_of(const gln_exchange_t *x, int rank)
{
    return x->window.bases[rank];
}

static gln_counter_t *ready_of(const gln_exchange_t *x, int rank)
{
    return (gln_counter_t *)window_of(x, rank);
}

/* Posted by `rank` for the buffer of `owner`. */
static gln_counter_t *done_of(const gln_exchange_t *x, int rank, int owner)
{
    return (gln_counter_t *)window_of(x, rank) + 1 + x->window.places[owner];
}

/* [Dl*G + 1] received_offset of `rank` */
static int64_t *offsets_of(const gln_exchange_t *x, int rank)
{
    return (int64_t *)(window_of(x, rank) + x->window_offsets);
}

static char *rows_of(const gln_exchange_t *x, int rank)
{
    return window_of(x, rank) + x->window_rows;
}

int gln_exchange_window_has(const gln_exchange_t *x, int rank)
{
    return x->window.shared && rank != x->comm->rank && x->window.bases[rank] &&
           rank >= x->rank_first && rank < x->rank_first + x->group_ranks;
}

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

gln_status_t gln_exchange_window_open(gln_exchange_t *x)
{
    size_t pairs = (size_t)x->local * (size_t)x->group;
    int node_ranks = 0; /* the same for all that share this window */
    for (int r = 0; r < x->comm->size; r++)
        node_ranks += x->comm->nodes[r] == x->comm->nodes[x->comm->rank];
    x->window_offsets = (size_t)(1 + node_ranks) * sizeof(gln_counter_t);
    x->window_rows = round_up(x->window_offsets + (pairs + 1) * sizeof(int64_t), 4096);
    size_t bytes = x->window_rows + (size_t)x->receive_max * x->row_bytes;
    gln_exchange_path_t path = x->options.path;
    const char *why = path == GLN_PATH_MESSAGES               ? "asked for"
                      : x->group_ranks == 1                   ? "every rank hosts whole groups"
                      : x->comm->size <= x->comm->nodes_count ? "every rank has a node of its own"
                                                              : NULL;
    gln_status_t status = GLN_OK;
    int speaks = 0;
    if (!why) {
        status = gln_window_open(x->comm, bytes, x->window_rows,
                                 path == GLN_PATH_AUTO ? GLN_WINDOW_TRY : GLN_WINDOW_SHARED,
                                 &x->window, x->path_reason, &speaks);
        if (status == GLN_OK) why = path == GLN_PATH_SHARED ? "asked for" : "ranks share a node";
        if (status == GLN_OK || path == GLN_PATH_SHARED || x->comm->given_up) goto done;
        if (speaks && !x->comm->window_noticed)
            gln_log(GLN_LOG_WARN, "rows inside a node travel as messages: %s", x->path_reason);
        x->comm->window_noticed = 1;
    }
    status =
        gln_window_open(x->comm, bytes, x->window_rows, GLN_WINDOW_PLAIN, &x->window, NULL, NULL);
done:
    if (why) snprintf(x->path_reason, sizeof x->path_reason, "%s", why);
    return status;
}

const char *gln_exchange_path_reason(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->path_reason;
}

gln_exchange_path_t gln_exchange_path(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->window.shared ? GLN_PATH_SHARED : GLN_PATH_MESSAGES;
}

void *gln_exchange_receive_buffer(gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return rows_of(x, x->comm->rank);
}

void gln_exchange_window_plan(gln_exchange_t *x)
{
    memcpy(offsets_of(x, x->comm->rank), x->rows.received_offset,
           ((size_t)(x->local * x->group) + 1) * sizeof(int64_t));
}

/* Rank number `step` after this one in its group if the window reaches it, else -1; *j0 is the
 * first of its domains in the group. */
static int peer_at(const gln_exchange_t *x, int step, int *j0)
{
    int index = x->comm->rank - x->rank_first + step;
    index += index < 0 ? x->group_ranks : index >= x->group_ranks ? -x->group_ranks : 0;
    *j0 = index * x->local;
    return gln_exchange_window_has(x, x->rank_first + index) ? x->rank_first + index : -1;
}

static int64_t rows_sent(const gln_exchange_t *x, int j0)
{
    int64_t rows = 0;
    for (int s = 0; s < x->local; s++)
        for (int j = j0; j < j0 + x->local; j++)
            rows += x->rows.sent[s * x->group + j];
    return rows;
}

/* Rows of local domain i from the rank whose domains begin at j0. */
static int64_t block_received(const gln_exchange_t *x, int i, int j0, int64_t *first)
{
    *first = x->rows.received_offset[i * x->group + j0];
    return x->rows.received_offset[i * x->group + j0 + x->local] - *first;
}

static int64_t rows_received(const gln_exchange_t *x, int j0)
{
    int64_t rows = 0, first;
    for (int i = 0; i < x->local; i++)
        rows += block_received(x, i, j0, &first);
    return rows;
}

/* Copy what node peers sent or get back between the receive buffer and the caller's array. */
static void blocks_copy(const gln_exchange_t *x, const char *from, char *to)
{
    int j0;
    int64_t first;
    for (int step = 1; step < x->group_ranks; step++) {
        if (peer_at(x, step, &j0) < 0) continue;
        for (int i = 0; i < x->local; i++) {
            int64_t count = block_received(x, i, j0, &first);
            size_t at = (size_t)first * x->row_bytes;
            if (count > 0) memcpy(to + at, from + at, (size_t)count * x->row_bytes);
        }
    }
}

static gln_status_t peer_await_ready(const gln_exchange_t *x, int peer, const char *what)
{
    return gln_counter_await(x->comm, ready_of(x, peer), x->epoch, peer, what);
}

/* Wait for everybody who writes to or reads from the own buffer. */
static gln_status_t peers_await_done(const gln_exchange_t *x, const char *what)
{
    gln_status_t status = GLN_OK;
    int j0, me = x->comm->rank;
    for (int step = 1; step < x->group_ranks && status == GLN_OK; step++) {
        int peer = peer_at(x, -step, &j0);
        if (peer < 0 || rows_received(x, j0) == 0) continue;
        status = gln_counter_await(x->comm, done_of(x, peer, me), x->epoch, peer, what);
    }
    return status;
}

/* Where the rows of local domain s lie in the window of the rank that receives them, for its domain
 * number i. */
static char *pair_place(const gln_exchange_t *x, int peer, int s, int i)
{
    int own = x->comm->rank - x->rank_first;
    int pair = i * x->group + own * x->local + s;
    return rows_of(x, peer) + (size_t)offsets_of(x, peer)[pair] * x->row_bytes;
}

/* Dispatch goes to peers in turn: find the next that gets rows, from neighbour `step` on. */
static void next_peer(gln_exchange_t *x, int step)
{
    int j0;
    x->window_next = NULL;
    for (; step < x->group_ranks && !x->window_next; step++) {
        int peer = peer_at(x, step, &j0);
        if (peer < 0 || rows_sent(x, j0) == 0) continue;
        x->window_next = ready_of(x, peer);
        x->window_step = step;
    }
}

static void ready_post(gln_exchange_t *x)
{
    x->epoch++;
    if (x->window.shared) gln_counter_post(ready_of(x, x->comm->rank), x->epoch);
}

void gln_exchange_window_begin(gln_exchange_t *x)
{
    ready_post(x);
    next_peer(x, 1);
}

/* As memcpy, from the last bytes to the first. */
GLN_CLONES static void copy_down(char *restrict to, const char *restrict from, size_t bytes)
{
    enum { chunk = 64 };
    size_t rest = bytes % chunk;
    memcpy(to + bytes - rest, from + bytes - rest, rest);
    for (size_t at = bytes - rest; at > 0; at -= chunk) {
        memcpy(to + at - chunk, from + at - chunk, chunk);
        __asm__ volatile("" ::: "memory"); /* not to become one call that goes upwards */
    }
}

/* The rows of a pair to `to`, from both ends inwards. @param turn called before each row */
static void pair_gather(gln_exchange_t *x, const char *in, int pair,
                        void (*turn)(gln_exchange_t *x, const char *in), char *to)
{
    const int32_t *source = x->row_source + x->rows.sent_offset[pair];
    int64_t count = x->rows.sent[pair], up = count - count / 2;
    size_t bytes = x->row_bytes;
    for (int64_t r = 0; r < up; r++) {
        if (x->window_next && turn) turn(x, in);
        memcpy(to + (size_t)r * bytes, in + (size_t)source[r] * bytes, bytes);
    }
    for (int64_t r = count - 1; r >= up; r--) {
        if (x->window_next && turn) turn(x, in);
        copy_down(to + (size_t)r * bytes, in + (size_t)source[r] * bytes, bytes);
    }
}

/* To the next peer, whose buffer is ready. */
static void peer_write(gln_exchange_t *x, const char *in)
{
    int j0, peer = peer_at(x, x->window_step, &j0);
    for (int j = j0; j < j0 + x->local; j++)
        for (int s = 0; s < x->local; s++)
            pair_gather(x, in, s * x->group + j, NULL, pair_place(x, peer, s, j - j0));
    gln_counter_post(done_of(x, x->comm->rank, peer), x->epoch);
    next_peer(x, x->window_step + 1);
}

static void ready_peers_write(gln_exchange_t *x, const char *in)
{
    while (x->window_next && gln_counter_reached(x->window_next, x->epoch))
        peer_write(x, in);
}

void gln_exchange_window_own(gln_exchange_t *x, const char *in, int s, int j, char *to)
{
    pair_gather(x, in, s * x->group + j, ready_peers_write, to);
}

gln_status_t gln_exchange_window_write(gln_exchange_t *x, const char *in, int waits)
{
    while (x->window_next) {
        if (!waits && !gln_counter_reached(x->window_next, x->epoch)) return GLN_OK;
        int j0, peer = peer_at(x, x->window_step, &j0);
        gln_status_t status = peer_await_ready(x, peer, "its receive buffer in dispatch");
        if (status != GLN_OK) return status;
        peer_write(x, in);
    }
    return GLN_OK;
}

int gln_exchange_window_missing(const gln_exchange_t *x)
{
    int j0;
    if (x->window_next) return peer_at(x, x->window_step, &j0);
    for (int step = 1; step < x->group_ranks; step++) {
        int peer = peer_at(x, -step, &j0);
        if (peer < 0 || rows_received(x, j0) == 0) continue;
        if (!gln_counter_reached(done_of(x, peer, x->comm->rank), x->epoch)) return peer;
    }
    return -1;
}

gln_status_t gln_exchange_window_written(gln_exchange_t *x, char *out)
{
    char *rows = rows_of(x, x->comm->rank);
    gln_status_t status = peers_await_done(x, "its rows in dispatch");
    if (status == GLN_OK && out != rows) blocks_copy(x, rows, out);
    return status;
}

void gln_exchange_window_show(gln_exchange_t *x, const char *in)
{
    char *rows = rows_of(x, x->comm->rank);
    if (in != rows) blocks_copy(x, in, rows);
    ready_post(x);
}

gln_status_t gln_exchange_window_find(gln_exchange_t *x)
{
    int j0;
    for (int step = 1; step < x->group_ranks; step++) {
        int peer = peer_at(x, step, &j0);
        if (peer < 0 || rows_sent(x, j0) == 0) continue;
        gln_status_t status = peer_await_ready(x, peer, "its results in combine");
        if (status != GLN_OK) return status;
        for (int s = 0; s < x->local; s++)
            for (int j = j0; j < j0 + x->local; j++)
                x->pair_rows[s * x->group + j] = pair_place(x, peer, s, j - j0);
    }
    return GLN_OK;
}

gln_status_t gln_exchange_window_read(gln_exchange_t *x)
{
    int j0;
    for (int step = 1; step < x->group_ranks; step++) {
        int peer = peer_at(x, step, &j0);
        if (peer >= 0 && rows_sent(x, j0) > 0)
            gln_counter_post(done_of(x, x->comm->rank, peer), x->epoch);
    }
    return peers_await_done(x, "its reading of results in combine");
}
