/* Moving rows along a plan. What is done when is in exchange_flight.c. Between ranks of one node
 * rows go through shared memory if the path says so: exchange_window.c. For all else: every pair of
 * ranks exchanges one message per destination domain, straight into its place: the received order
 * is by destination domain and source domain, and a rank hosts consecutive domains, so that the
 * rows of one source rank for one domain lie together. G - Dl messages leave each rank per call;
 * ranks begin with their right-hand neighbour. Rows that leave the rank are gathered once into the
 * staging buffer (one read, one write each) and received without a copy; rows that stay are
 * gathered once into their place while the others travel. On the way back results leave from where
 * they lie, arrive in the staging buffer, and every token sums its rows from there: one read per
 * row, one write per token.
 *
 * The sum is the binary tree over the domain's index in its group. With the rows in ascending
 * order, the level at which two neighbours meet is the highest bit in which their indices differ;
 * between three neighbours no two such levels are equal, so a stack of falling levels merges them
 * in one pass (as in building a Cartesian tree), at most log2 G + 1 partial sums deep. */
#include "comm/exchange_internal.h"

#include "base/log.h"
#include <string.h>

int gln_exchange_rank_of(const gln_exchange_t *x, int s, int j)
{
    int domain = x->comm->rank * x->local + s;
    return (domain / x->group * x->group + j) / x->local;
}

int gln_exchange_index_of(const gln_exchange_t *x, int s, int j)
{
    int domain = x->comm->rank * x->local + s;
    return (domain / x->group * x->group + j) % x->local;
}

/* index of local domain s in its group: its j as seen from a destination */
static int source_index(const gln_exchange_t *x, int s)
{
    return (x->comm->rank * x->local + s) % x->group;
}

/* rank number `step` after this one in its group, and the first of its domains' indices in the
 * group */
static int peer_of(const gln_exchange_t *x, int step, int *domain)
{
    int own = x->comm->rank - x->rank_first;
    int index = own + step;
    index += index < 0 ? x->group_ranks : index >= x->group_ranks ? -x->group_ranks : 0;
    *domain = index * x->local;
    return x->rank_first + index;
}

int gln_exchange_direct(const gln_exchange_t *x, const gln_exchange_flow_t *flow, int s, int j)
{
    int rank = gln_exchange_rank_of(x, s, j);
    return rank == x->comm->rank || (flow == &x->rows && gln_exchange_window_has(x, rank));
}

/* Do the pairs of `flow` between this rank and another one travel by messages of their own? */
static int by_message(const gln_exchange_t *x, const gln_exchange_flow_t *flow, int peer)
{
    if (flow != &x->rows) return 1;
    return !gln_exchange_window_has(x, peer) && !gln_exchange_apart(x, peer);
}

void gln_exchange_pair_copy(const gln_exchange_t *x, const gln_exchange_flow_t *flow, size_t unit,
                            const char *in, int s, int j, char *to)
{
    int pair = s * x->group + j;
    int64_t first = flow->sent_offset[pair], count = flow->sent[pair];
    if (count == 0) return;
    if (flow != &x->rows) {
        memcpy(to, in + (size_t)first * unit, (size_t)count * unit);
        return;
    }
    for (int64_t r = first; r < first + count; r++, to += unit)
        memcpy(to, in + (size_t)x->row_source[r] * unit, unit);
}

/* Units that source rank number `j0 / Dl` sends to local domain i. */
static int64_t block_received(const gln_exchange_t *x, const gln_exchange_flow_t *flow, int i,
                              int j0, int64_t *first)
{
    *first = flow->received_offset[i * x->group + j0];
    return flow->received_offset[i * x->group + j0 + x->local] - *first;
}

/* Units that this rank sends to destination j, all sources together. */
static int64_t block_staged(const gln_exchange_t *x, const gln_exchange_flow_t *flow, int j,
                            int64_t *first)
{
    *first = flow->stage_offset[j * x->local];
    return flow->stage_offset[(j + 1) * x->local] - *first;
}

gln_status_t gln_exchange_forward_post(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                       size_t unit, const void *in, void *out)
{
    const gln_comm_ops_t *ops = x->comm->ops;
    gln_status_t status = GLN_OK;
    int64_t first;
    int j0;
    if (flow == &x->rows && x->node.nodes > 0) status = gln_exchange_node_dispatch_start(x, in);
    if (status != GLN_OK) return status;
    for (int step = 1; step < x->group_ranks; step++) {
        int peer = peer_of(x, -step, &j0);
        for (int i = 0; i < x->local && by_message(x, flow, peer); i++) {
            int64_t count = block_received(x, flow, i, j0, &first);
            if (count > 0)
                status = ops->receive(x->comm, peer, (char *)out + (size_t)first * unit,
                                      (size_t)count * unit);
            if (status != GLN_OK) return status;
        }
    }
    for (int step = 1; step < x->group_ranks; step++) {
        int peer = peer_of(x, step, &j0);
        for (int j = j0; j < j0 + x->local && by_message(x, flow, peer); j++) {
            int64_t count = block_staged(x, flow, j, &first);
            for (int s = 0; s < x->local; s++)
                gln_exchange_pair_copy(x, flow, unit, in, s, j,
                                       x->stage +
                                           (size_t)flow->stage_offset[j * x->local + s] * unit);
            if (count > 0)
                status =
                    ops->send(x->comm, peer, x->stage + (size_t)first * unit, (size_t)count * unit);
            if (status != GLN_OK) return status;
        }
    }
    int own = (x->comm->rank - x->rank_first) * x->local;
    int own_end = own + (x->group_ranks > 1 ? x->local : x->group);
    for (int s = 0; s < x->local; s++)
        for (int j = own; j < own_end; j++) {
            int pair = gln_exchange_index_of(x, s, j) * x->group + source_index(x, s);
            char *to = (char *)out + (size_t)flow->received_offset[pair] * unit;
            if (flow == &x->rows && x->window.shared)
                gln_exchange_window_own(x, in, s, j, to);
            else
                gln_exchange_pair_copy(x, flow, unit, in, s, j, to);
        }
    return GLN_OK;
}

gln_status_t gln_exchange_forward(gln_exchange_t *x, const gln_exchange_flow_t *flow, size_t unit,
                                  const void *in, void *out)
{
    gln_status_t status = gln_exchange_forward_post(x, flow, unit, in, out);
    return status == GLN_OK ? x->comm->ops->wait(x->comm) : status;
}

gln_status_t gln_exchange_backward_receive(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                           size_t unit, int index)
{
    int peer = x->rank_first + index, j0 = index * x->local;
    gln_status_t status = GLN_OK;
    int64_t first;
    for (int j = j0; j < j0 + x->local && by_message(x, flow, peer) && status == GLN_OK; j++) {
        int64_t count = block_staged(x, flow, j, &first);
        if (count > 0)
            status = x->comm->ops->receive(x->comm, peer, x->stage + (size_t)first * unit,
                                           (size_t)count * unit);
    }
    return status;
}

gln_status_t gln_exchange_backward_send(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                        size_t unit, const void *in, int index)
{
    int peer = x->rank_first + index, j0 = index * x->local;
    gln_status_t status = GLN_OK;
    int64_t first;
    for (int i = 0; i < x->local && by_message(x, flow, peer) && status == GLN_OK; i++) {
        int64_t count = block_received(x, flow, i, j0, &first);
        if (count > 0)
            status = x->comm->ops->send(x->comm, peer, (const char *)in + (size_t)first * unit,
                                        (size_t)count * unit);
    }
    return status;
}

gln_status_t gln_exchange_backward_post(gln_exchange_t *x, const gln_exchange_flow_t *flow,
                                        size_t unit, const void *in)
{
    gln_status_t status = GLN_OK;
    int j0;
    if (flow == &x->rows && x->node.nodes > 0) status = gln_exchange_node_combine_start(x, in);
    for (int step = 1; step < x->group_ranks && status == GLN_OK; step++)
        status =
            gln_exchange_backward_receive(x, flow, unit, peer_of(x, -step, &j0) - x->rank_first);
    for (int step = 1; step < x->group_ranks && status == GLN_OK; step++)
        status =
            gln_exchange_backward_send(x, flow, unit, in, peer_of(x, step, &j0) - x->rank_first);
    return status;
}

/* Where the rows of every sent pair lie now, those of node peers excepted. */
void gln_exchange_pair_rows_set(gln_exchange_t *x, const char *in)
{
    for (int s = 0; s < x->local; s++)
        for (int j = 0; j < x->group; j++) {
            int mirrored = gln_exchange_index_of(x, s, j) * x->group + source_index(x, s);
            x->pair_rows[s * x->group + j] =
                gln_exchange_rank_of(x, s, j) == x->comm->rank
                    ? in + (size_t)x->rows.received_offset[mirrored] * x->row_bytes
                    : x->stage + (size_t)x->rows.stage_offset[j * x->local + s] * x->row_bytes;
        }
}

static const char *entry_row(const gln_exchange_t *x, const char *const *rows,
                             gln_exchange_entry_t entry)
{
    return rows[entry.domain] + (size_t)entry.row * x->row_bytes;
}

/* Partial sum number p of the stack lies in x->sums[p] once it is a sum, and where it came from
 * before that. */
void gln_exchange_token_sum(gln_exchange_t *x, const gln_exchange_entry_t *entries, int64_t count,
                            const char *const *rows, char *out)
{
    if (count == 1) {
        memcpy(out, entry_row(x, rows, entries[0]), x->row_bytes);
        return;
    }
    const char *stack[33];
    int meets[33]; /* level at which stack[p] meets stack[p + 1] */
    int depth = 0;
    for (int64_t e = 0; e < count; e++) {
        if (depth > 0) {
            int level = 31 - __builtin_clz((unsigned)(entries[e - 1].domain ^ entries[e].domain));
            for (; depth > 1 && meets[depth - 2] < level; depth--) {
                char *sum = x->sums + (size_t)(depth - 2) * x->row_bytes;
                gln_comm_add(stack[depth - 2], stack[depth - 1], x->options.hidden,
                             x->options.dtype, sum);
                stack[depth - 2] = sum;
            }
            meets[depth - 1] = level;
        }
        stack[depth++] = entry_row(x, rows, entries[e]);
    }
    for (; depth > 1; depth--) {
        char *sum = depth == 2 ? out : x->sums + (size_t)(depth - 2) * x->row_bytes;
        gln_comm_add(stack[depth - 2], stack[depth - 1], x->options.hidden, x->options.dtype, sum);
        stack[depth - 2] = sum;
    }
}

gln_status_t gln_exchange_check(const gln_exchange_t *x, const char *function)
{
    if (!x) return gln_fail(GLN_ERR_ARGUMENT, "%s: expected an exchange, found NULL", function);
    if (!x->planned)
        return gln_fail(GLN_ERR_ARGUMENT, "%s: no plan is set; call gln_exchange_plan first",
                        function);
    if (x->flight.kind != GLN_FLIGHT_NONE)
        return gln_fail(GLN_ERR_ARGUMENT, "%s: a %s is under way; finish it first", function,
                        x->flight.kind == GLN_FLIGHT_DISPATCH ? "dispatch" : "combine");
    return GLN_OK;
}

gln_status_t gln_exchange_scalars(gln_exchange_t *x, const void *in, void *out)
{
    gln_status_t status = gln_exchange_check(x, "gln_exchange_scalars");
    if (status != GLN_OK) return status;
    const gln_exchange_flow_t *flow = &x->scalars;
    int pairs = x->local * x->group;
    GLN_ASSERT(in || flow->received_offset[pairs] == 0);
    GLN_ASSERT(out || flow->sent_offset[pairs] == 0);
    size_t unit = x->scalar_bytes;
    x->comm->place->operation = "scalars";
    status = gln_exchange_backward_post(x, flow, unit, in);
    if (status == GLN_OK) status = x->comm->ops->wait(x->comm);
    x->comm->place->operation = NULL;
    if (status != GLN_OK) return status;
    for (int s = 0; s < x->local; s++)
        for (int j = 0; j < x->group; j++) {
            int pair = s * x->group + j;
            if (flow->sent[pair] == 0) continue;
            const char *from = x->stage + (size_t)flow->stage_offset[j * x->local + s] * unit;
            if (gln_exchange_rank_of(x, s, j) == x->comm->rank) {
                int mirrored = gln_exchange_index_of(x, s, j) * x->group + source_index(x, s);
                from = (const char *)in + (size_t)flow->received_offset[mirrored] * unit;
            }
            memcpy((char *)out + (size_t)flow->sent_offset[pair] * unit, from,
                   (size_t)flow->sent[pair] * unit);
        }
    return GLN_OK;
}

void gln_traffic_add(gln_traffic_t *sum, const gln_traffic_t *item)
{
    sum->rank_rows += item->rank_rows;
    sum->node_rows += item->node_rows;
    sum->remote_rows += item->remote_rows;
    sum->rank_bytes += item->rank_bytes;
    sum->node_bytes += item->node_bytes;
    sum->remote_bytes += item->remote_bytes;
}

const char *gln_exchange_form(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->node.nodes > 0 ? "hierarchical" : "flat";
}

const char *gln_exchange_form_reason(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->form_reason;
}

gln_traffic_t gln_exchange_traffic(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->traffic;
}
