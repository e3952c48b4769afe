/* The hierarchical form of the exchange between nodes: the two-level all-to-all of MPI libraries
 * (Traeff and Rougier 2014), with rows that several domains of a node share sent once.
 *
 * The ranks with the same index on all nodes are each other's gateways: rank (a, l) sends what node
 * b needs to rank (b, l), whose duty it is to place the rows, so that every rank is a gateway and
 * carries its own share of the traffic. For a remote node the source lists its distinct rows, in
 * ascending order of (local domain, token); the plan tells the gateway for every planned row which
 * of these it is (4 bytes a row), by destination and source domain and then as listed, that is in
 * received order. Dispatch: one message of distinct rows per remote node; the gateway gathers from
 * it the block of every (source node, destination domain) and sends it on, to be received in place.
 * Combine: the same blocks return to the gateway; the domains of a node are an aligned subtree of
 * the group's tree, so the sum of the rows of one token there is a node of that tree, and adding it
 * to the others at the source gives the same bits as adding all rows there.
 *
 * Cost per rank: M - 1 messages between nodes and (M - 1)(N - 1) Dl inside, each way; between nodes
 * one row per distinct (token, remote node); one further copy of every row inside the gateway's
 * node. Plan: two messages per remote node. O(Dl G) counts, no table over all pairs of ranks. */
#include "comm/exchange_internal.h"

#include "base/log.h"
#include "comm/exchange_choice.h"
#include <stdio.h>
#include <string.h>

static int power_of_two(int n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

/* Ranks per node of the group whose lowest rank is `first`; 0 when its nodes host different numbers
 * of ranks or ranks that are not consecutive. */
static int ranks_per_node(const gln_exchange_t *x, int first)
{
    const int *nodes = x->comm->nodes + first;
    int ranks = 1;
    while (ranks < x->group_ranks && nodes[ranks] == nodes[0])
        ranks++;
    if (x->group_ranks % ranks != 0) return 0;
    for (int r = 0; r < x->group_ranks; r++) {
        if (nodes[r] != nodes[r / ranks * ranks]) return 0;
        for (int other = 0; r % ranks == 0 && other < r; other += ranks)
            if (nodes[other] == nodes[r]) return 0;
    }
    return ranks;
}

/* Fill the geometry, or say why the form is impossible. */
static const char *geometry(gln_exchange_t *x)
{
    if (x->comm->nodes_count < 2) return "all ranks share one node";
    if (x->group_ranks == 1) return "every rank hosts whole groups";
    int ranks = ranks_per_node(x, 0);
    for (int first = 0; first < x->comm->size; first += x->group_ranks) {
        int theirs = ranks_per_node(x, first);
        if (theirs == 0)
            return "the ranks of a group must lie on its nodes in order, as many on each";
        if (theirs != ranks) return "the groups lie on their nodes in different ways";
    }
    if (ranks == x->group_ranks) return "every group lies inside one node";
    if (!power_of_two(x->group) || !power_of_two(ranks) || !power_of_two(x->local))
        return "the domains of a group, of a rank and the ranks per node must be powers of two";
    x->node.nodes = x->group_ranks / ranks;
    x->node.ranks = ranks;
    x->node.width = ranks * x->local;
    x->node.own = (x->comm->rank - x->rank_first) / ranks;
    x->node.index = (x->comm->rank - x->rank_first) % ranks;
    return NULL;
}

/* Where both forms are possible and asked for: by what they would take. */
static gln_status_t choose_faster(gln_exchange_t *x)
{
    const gln_exchange_options_t *o = &x->options;
    gln_exchange_node_t *n = &x->node;
    const gln_links_t *links;
    gln_status_t status = gln_comm_links(x->comm, &links);
    if (status != GLN_OK) return status;
    gln_exchange_shape_t shape = {
        .nodes = n->nodes,
        .ranks = n->ranks,
        .local = x->local,
        .tokens = o->tokens,
        .rows = o->rows_expected > 0 ? o->rows_expected : (double)o->rows_max,
        .row_bytes = x->row_bytes,
    };
    gln_exchange_forecast_t forecast = gln_exchange_forecast(links, &shape);
    if (!gln_exchange_prefers_hierarchical(&forecast)) n->nodes = 0;
    gln_exchange_forecast_text(links, &shape, &forecast, x->form_reason, sizeof x->form_reason);
    return GLN_OK;
}

gln_status_t gln_exchange_node_choose(gln_exchange_t *x)
{
    gln_exchange_across_t across = x->options.across;
    gln_exchange_node_t *n = &x->node;
    const char *impossible = NULL;
    if (across < GLN_ACROSS_AUTO || across > GLN_ACROSS_HIERARCHICAL)
        return gln_fail(GLN_ERR_ARGUMENT, "exchange: expected a form between nodes, found %d",
                        (int)across);
    if (across == GLN_ACROSS_FLAT)
        impossible = "asked for";
    else
        impossible = geometry(x);
    if (across == GLN_ACROSS_HIERARCHICAL && impossible)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "exchange: the hierarchical form is impossible: %s; choose auto or flat",
                        impossible);
    if (across == GLN_ACROSS_AUTO && !impossible && n->width == 1) {
        n->nodes = 0;
        impossible = "every node hosts one domain of a group, so no rows are shared";
    }
    if (across == GLN_ACROSS_AUTO && !impossible) return choose_faster(x);
    if (impossible)
        snprintf(x->form_reason, sizeof x->form_reason, "%s", impossible);
    else
        snprintf(x->form_reason, sizeof x->form_reason,
                 "asked for; a group has %d nodes of %d ranks and %d domains each", n->nodes,
                 n->ranks, n->width);
    return GLN_OK;
}

/* Rows that all sources of this gateway can plan for this node at most. */
static size_t planned_max(const gln_exchange_t *x)
{
    return (size_t)(x->node.nodes - 1) * (size_t)x->node.width * (size_t)x->local *
           (size_t)x->options.rows_max;
}

void gln_exchange_node_layout(gln_exchange_t *x, gln_arena_t *arena)
{
    gln_exchange_node_t *n = &x->node;
    size_t nodes = (size_t)n->nodes, width = (size_t)n->width, local = (size_t)x->local;
    size_t staged = local * (size_t)(x->group - x->local) * (size_t)x->options.rows_max;
    size_t planned = planned_max(x), hub = (nodes - 1) * local * (size_t)x->options.tokens;
    if (hub > planned) hub = planned;
    n->sent = gln_arena_take(arena, nodes * sizeof *n->sent);
    n->row_source = gln_arena_take(arena, staged * sizeof *n->row_source);
    n->row_index = gln_arena_take(arena, staged * sizeof *n->row_index);
    n->header_out = gln_arena_take(arena, nodes * (1 + width) * sizeof *n->header_out);
    n->header_in = gln_arena_take(arena, nodes * (1 + width) * sizeof *n->header_in);
    n->hub_first = gln_arena_take(arena, (nodes + 1) * sizeof *n->hub_first);
    n->index_first = gln_arena_take(arena, (nodes * width + 1) * sizeof *n->index_first);
    n->relay_first = gln_arena_take(arena, nodes * width * sizeof *n->relay_first);
    n->hub_index = gln_arena_take(arena, planned * sizeof *n->hub_index);
    n->hub_entry = gln_arena_take(arena, (hub + 1) * sizeof *n->hub_entry);
    n->hub_entries = gln_arena_take(arena, planned * sizeof *n->hub_entries);
    n->rows = gln_arena_take(arena, width * sizeof *n->rows);
    n->hub = gln_arena_take(arena, hub * x->row_bytes);
    n->relay = gln_arena_take(arena, planned / width * (width - local) * x->row_bytes);
}

/* Rank number `index` of node b of the group. */
static int rank_at(const gln_exchange_t *x, int b, int index)
{
    return x->rank_first + b * x->node.ranks + index;
}

/* Node `step` after (before, when negative) this one. */
static int node_at(const gln_exchange_t *x, int step)
{
    return (x->node.own + step + x->node.nodes) % x->node.nodes;
}

/* Rank index `step` after this one's within its node. */
static int index_at(const gln_exchange_t *x, int step)
{
    return (x->node.index + step + x->node.ranks) % x->node.ranks;
}

/* First stage row of node b; also one behind the last of node b - 1. */
static int64_t stage_of(const gln_exchange_t *x, int b)
{
    return x->rows.stage_offset[b * x->node.width * x->local];
}

/* Rows for local domain i from the source rank (b, index). @return their number */
static int64_t block_of(const gln_exchange_t *x, int i, int b, int index, int64_t *first)
{
    int pair = i * x->group + (b * x->node.ranks + index) * x->local;
    *first = x->rows.received_offset[pair];
    return x->rows.received_offset[pair + x->local] - *first;
}

/* Rows that the source of node b planned for domain w of this node. */
static int64_t planned_of(const gln_exchange_t *x, int b, int w, int64_t *first)
{
    const int64_t *offset = x->node.index_first + b * x->node.width + w;
    *first = offset[0];
    return offset[1] - offset[0];
}

/* Number the distinct rows for each remote node and let each stand for all entries of its token in
 * that node. Entries of one token are in ascending domain, so those of a node lie together. */
static void entries_merge(gln_exchange_t *x)
{
    gln_exchange_node_t *n = &x->node;
    int64_t tokens = x->local * x->options.tokens, kept = 0;
    memset(n->sent, 0, (size_t)n->nodes * sizeof *n->sent);
    for (int64_t t = 0; t < tokens; t++) {
        int64_t first = kept, last = x->token_entry[t + 1];
        for (int64_t e = x->token_entry[t]; e < last; e++) {
            gln_exchange_entry_t entry = x->entries[e];
            int b = entry.domain / n->width, domain = b * n->width;
            if (b == n->own) {
                x->entries[kept++] = entry;
                continue;
            }
            const int64_t *stage = x->rows.stage_offset + t / x->options.tokens;
            if (kept == first || x->entries[kept - 1].domain != domain) {
                int64_t row = stage_of(x, b) + n->sent[b]++;
                n->row_source[row] = (int32_t)t;
                row -= stage[domain * x->local]; /* entries count from where the pair's begin */
                x->entries[kept++] = (gln_exchange_entry_t){domain, (int32_t)row};
            }
            n->row_index[stage[entry.domain * x->local] + entry.row] = n->sent[b] - 1;
        }
        x->token_entry[t] = first;
    }
    x->token_entry[tokens] = kept;
}

/* Tell each gateway how many rows, and then which. */
static gln_status_t headers_exchange(gln_exchange_t *x)
{
    gln_exchange_node_t *n = &x->node;
    const gln_comm_ops_t *ops = x->comm->ops;
    int record = 1 + n->width;
    size_t bytes = (size_t)record * sizeof(int32_t);
    gln_status_t status = GLN_OK;
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, -step);
        status = ops->receive(x->comm, rank_at(x, b, n->index), n->header_in + b * record, bytes);
    }
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, step);
        int32_t *header = n->header_out + b * record;
        const int64_t *stage = x->rows.stage_offset + b * n->width * x->local;
        header[0] = n->sent[b];
        for (int w = 0; w < n->width; w++)
            header[1 + w] = (int32_t)(stage[(w + 1) * x->local] - stage[w * x->local]);
        status = ops->send(x->comm, rank_at(x, b, n->index), header, bytes);
    }
    return status == GLN_OK ? ops->wait(x->comm) : status;
}

static void offsets_take(gln_exchange_t *x)
{
    gln_exchange_node_t *n = &x->node;
    int64_t relayed = 0, most = x->local * x->options.tokens;
    for (int b = 0; b < n->nodes; b++) {
        const int32_t *header = n->header_in + b * (1 + n->width);
        GLN_ASSERT(b == n->own || (header[0] >= 0 && header[0] <= most));
        n->hub_first[b + 1] = n->hub_first[b] + (b == n->own ? 0 : header[0]);
        for (int w = 0; w < n->width; w++) {
            int64_t count = b == n->own ? 0 : header[1 + w];
            n->index_first[b * n->width + w + 1] = n->index_first[b * n->width + w] + count;
            n->relay_first[b * n->width + w] = relayed;
            if (w / x->local != n->index) relayed += count;
        }
    }
}

static gln_status_t indices_exchange(gln_exchange_t *x)
{
    gln_exchange_node_t *n = &x->node;
    const gln_comm_ops_t *ops = x->comm->ops;
    gln_status_t status = GLN_OK;
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, -step);
        int64_t first = n->index_first[b * n->width];
        int64_t count = n->index_first[(b + 1) * n->width] - first;
        if (count > 0)
            status = ops->receive(x->comm, rank_at(x, b, n->index), n->hub_index + first,
                                  (size_t)count * sizeof *n->hub_index);
    }
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, step);
        int64_t first = stage_of(x, b), count = stage_of(x, b + 1) - first;
        if (count > 0)
            status = ops->send(x->comm, rank_at(x, b, n->index), n->row_index + first,
                               (size_t)count * sizeof *n->row_index);
    }
    return status == GLN_OK ? ops->wait(x->comm) : status;
}

/* The rows of this node that make up each distinct row's sum, in ascending domain: a counting sort,
 * filled from the back as in entries_sort. */
static void hub_sort(gln_exchange_t *x)
{
    gln_exchange_node_t *n = &x->node;
    int64_t hub = n->hub_first[n->nodes], first;
    memset(n->hub_entry, 0, (size_t)(hub + 1) * sizeof *n->hub_entry);
    for (int b = 0; b < n->nodes; b++)
        for (int64_t r = n->index_first[b * n->width]; r < n->index_first[(b + 1) * n->width]; r++)
            n->hub_entry[n->hub_first[b] + n->hub_index[r] + 1]++;
    for (int64_t row = 0; row < hub; row++)
        n->hub_entry[row + 1] += n->hub_entry[row];
    for (int b = 0; b < n->nodes; b++)
        for (int w = n->width - 1; w >= 0; w--) {
            int64_t count = planned_of(x, b, w, &first);
            for (int64_t r = count - 1; r >= 0; r--) {
                int64_t *end = &n->hub_entry[n->hub_first[b] + n->hub_index[first + r] + 1];
                n->hub_entries[--*end] = (gln_exchange_entry_t){w, (int32_t)r};
            }
        }
    memmove(n->hub_entry, n->hub_entry + 1, (size_t)hub * sizeof *n->hub_entry);
    n->hub_entry[hub] = n->index_first[n->nodes * n->width];
}

static void traffic_count(gln_exchange_t *x)
{
    const gln_exchange_node_t *n = &x->node;
    int64_t sent = 0, relayed = 0, returned = 0, first;
    for (int b = 0; b < n->nodes; b++) {
        if (b == n->own) continue;
        sent += n->sent[b];
        for (int w = 0; w < n->width; w++)
            if (w / x->local != n->index) relayed += planned_of(x, b, w, &first);
        for (int index = 0; index < n->ranks; index++)
            for (int i = 0; i < x->local && index != n->index; i++)
                returned += block_of(x, i, b, index, &first);
    }
    int64_t row = (int64_t)x->row_bytes, summed = n->hub_first[n->nodes];
    gln_traffic_t dispatch = {.node_rows = relayed,
                              .node_bytes = relayed * row,
                              .remote_rows = sent,
                              .remote_bytes = sent * row};
    gln_traffic_t combine = {.node_rows = returned,
                             .node_bytes = returned * row,
                             .remote_rows = summed,
                             .remote_bytes = summed * row};
    gln_traffic_add(&x->traffic_dispatch, &dispatch);
    gln_traffic_add(&x->traffic_combine, &combine);
}

gln_status_t gln_exchange_node_plan(gln_exchange_t *x)
{
    entries_merge(x);
    gln_status_t status = headers_exchange(x);
    if (status != GLN_OK) return status;
    offsets_take(x);
    status = indices_exchange(x);
    if (status != GLN_OK) return status;
    hub_sort(x);
    traffic_count(x);
    return GLN_OK;
}

gln_status_t gln_exchange_node_dispatch_start(gln_exchange_t *x, const char *in)
{
    gln_exchange_node_t *n = &x->node;
    const gln_comm_ops_t *ops = x->comm->ops;
    gln_status_t status = GLN_OK;
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, -step);
        int64_t first = n->hub_first[b], count = n->hub_first[b + 1] - first;
        if (count > 0)
            status =
                ops->receive(x->comm, rank_at(x, b, n->index),
                             n->hub + (size_t)first * x->row_bytes, (size_t)count * x->row_bytes);
    }
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, step);
        int64_t first = stage_of(x, b);
        char *rows = x->stage + (size_t)first * x->row_bytes;
        for (int32_t r = 0; r < n->sent[b]; r++)
            memcpy(rows + (size_t)r * x->row_bytes,
                   in + (size_t)n->row_source[first + r] * x->row_bytes, x->row_bytes);
        if (n->sent[b] > 0)
            status = ops->send(x->comm, rank_at(x, b, n->index), rows,
                               (size_t)n->sent[b] * x->row_bytes);
    }
    return status;
}

/* Gather the block for domain w from the source of node b to `to`. @return its rows */
static int64_t block_gather(const gln_exchange_t *x, int b, int w, char *to)
{
    const gln_exchange_node_t *n = &x->node;
    int64_t first, count = planned_of(x, b, w, &first);
    const char *hub = n->hub + (size_t)n->hub_first[b] * x->row_bytes;
    for (int64_t r = first; r < first + count; r++, to += x->row_bytes)
        memcpy(to, hub + (size_t)n->hub_index[r] * x->row_bytes, x->row_bytes);
    return count;
}

gln_status_t gln_exchange_node_fan_out(gln_exchange_t *x, char *out)
{
    gln_exchange_node_t *n = &x->node;
    const gln_comm_ops_t *ops = x->comm->ops;
    int64_t first;
    /* to and from each rank of the node: by destination domain, then by source node */
    for (int step = 1; step < n->ranks; step++)
        for (int k = 0, index = index_at(x, -step); k < x->local * n->nodes; k++) {
            int i = k / n->nodes, b = k % n->nodes;
            int64_t count = b == n->own ? 0 : block_of(x, i, b, index, &first);
            if (count == 0) continue;
            gln_status_t status =
                ops->receive(x->comm, rank_at(x, n->own, index), out + (size_t)first * x->row_bytes,
                             (size_t)count * x->row_bytes);
            if (status != GLN_OK) return status;
        }
    for (int step = 1; step < n->ranks; step++)
        for (int k = 0, index = index_at(x, step); k < x->local * n->nodes; k++) {
            int w = index * x->local + k / n->nodes, b = k % n->nodes;
            char *block = n->relay + (size_t)n->relay_first[b * n->width + w] * x->row_bytes;
            int64_t count = block_gather(x, b, w, block);
            if (count == 0) continue;
            gln_status_t status =
                ops->send(x->comm, rank_at(x, n->own, index), block, (size_t)count * x->row_bytes);
            if (status != GLN_OK) return status;
        }
    for (int i = 0; i < x->local; i++)
        for (int b = 0; b < n->nodes; b++)
            if (b != n->own && block_of(x, i, b, n->index, &first) > 0)
                block_gather(x, b, n->index * x->local + i, out + (size_t)first * x->row_bytes);
    return GLN_OK;
}

gln_status_t gln_exchange_node_combine_start(gln_exchange_t *x, const char *in)
{
    gln_exchange_node_t *n = &x->node;
    const gln_comm_ops_t *ops = x->comm->ops;
    int64_t first;
    for (int step = 1; step < n->ranks; step++)
        for (int k = 0, index = index_at(x, -step); k < x->local * n->nodes; k++) {
            int w = index * x->local + k / n->nodes, b = k % n->nodes;
            int64_t count = planned_of(x, b, w, &first);
            if (count == 0) continue;
            first = n->relay_first[b * n->width + w];
            gln_status_t status =
                ops->receive(x->comm, rank_at(x, n->own, index),
                             n->relay + (size_t)first * x->row_bytes, (size_t)count * x->row_bytes);
            if (status != GLN_OK) return status;
        }
    for (int step = 1; step < n->ranks; step++)
        for (int k = 0, index = index_at(x, step); k < x->local * n->nodes; k++) {
            int i = k / n->nodes, b = k % n->nodes;
            int64_t count = b == n->own ? 0 : block_of(x, i, b, index, &first);
            if (count == 0) continue;
            gln_status_t status =
                ops->send(x->comm, rank_at(x, n->own, index), in + (size_t)first * x->row_bytes,
                          (size_t)count * x->row_bytes);
            if (status != GLN_OK) return status;
        }
    return GLN_OK;
}

/* Where the results for the source of node b lie: on this rank, or passed on from others. */
static void hub_rows_set(gln_exchange_t *x, int b, const char *in)
{
    gln_exchange_node_t *n = &x->node;
    int64_t first;
    for (int w = 0; w < n->width; w++) {
        n->rows[w] = n->relay + (size_t)n->relay_first[b * n->width + w] * x->row_bytes;
        if (w / x->local != n->index) continue;
        block_of(x, w % x->local, b, n->index, &first);
        n->rows[w] = in + (size_t)first * x->row_bytes;
    }
}

gln_status_t gln_exchange_node_sums_return(gln_exchange_t *x, const char *in)
{
    gln_exchange_node_t *n = &x->node;
    const gln_comm_ops_t *ops = x->comm->ops;
    gln_status_t status = GLN_OK;
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, -step);
        if (n->sent[b] > 0)
            status = ops->receive(x->comm, rank_at(x, b, n->index),
                                  x->stage + (size_t)stage_of(x, b) * x->row_bytes,
                                  (size_t)n->sent[b] * x->row_bytes);
    }
    for (int step = 1; step < n->nodes && status == GLN_OK; step++) {
        int b = node_at(x, step);
        int64_t first = n->hub_first[b], last = n->hub_first[b + 1];
        hub_rows_set(x, b, in);
        for (int64_t row = first; row < last; row++)
            gln_exchange_token_sum(x, n->hub_entries + n->hub_entry[row],
                                   n->hub_entry[row + 1] - n->hub_entry[row], n->rows,
                                   n->hub + (size_t)row * x->row_bytes);
        if (last > first)
            status =
                ops->send(x->comm, rank_at(x, b, n->index), n->hub + (size_t)first * x->row_bytes,
                          (size_t)(last - first) * x->row_bytes);
    }
    return status;
}
