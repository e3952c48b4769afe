/* Opening an exchange, and fixing who sends what in a step. One all-to-all of fixed records over
 * all ranks carries a status, and between ranks of one group the three counts of every pair: 4 * P
 * * (1 + 3 Dl^2) bytes per rank and plan. So every rank learns in the same message whether any rank
 * has to refuse. Then metadata follow, like rows. Everything else is counting: each token gets the
 * list of rows that will come back for it by a counting sort with the destinations in ascending
 * order. O(Dl (T + G) + rows) time. */
#include "comm/exchange_internal.h"

#include "base/log.h"
#include <stdlib.h>
#include <string.h>

static gln_status_t options_check(const gln_comm_t *comm, const gln_exchange_options_t *o)
{
    int ranks = gln_comm_size(comm);
    if (o->domains < 1 || o->groups < 1 || o->tokens < 1 || o->hidden < 1)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "exchange: expected at least one domain, group, token and hidden column, found "
            "%d, %d, %lld, %lld",
            o->domains, o->groups, (long long)o->tokens, (long long)o->hidden);
    if (o->domains % ranks != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "exchange: the number of ranks (P = %d) must divide the number of domains "
                        "(D = %d)",
                        ranks, o->domains);
    if (o->domains % o->groups != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "exchange: the number of replica groups (R = %d) must divide the number of "
                        "domains (D = %d)",
                        o->groups, o->domains);
    if (ranks % o->groups != 0 && o->groups % ranks != 0)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "exchange: of the number of ranks (P = %d) and of replica groups (R = %d) one "
            "must divide the other",
            ranks, o->groups);
    if (o->dtype != GLN_F32 && o->dtype != GLN_BF16 && o->dtype != GLN_F64)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "exchange: expected rows of f32, bf16 or f64, found dtype %d",
                        (int)o->dtype);
    if (o->rows_max < 0 || o->rows_max > o->tokens || o->scalars_max < 0 ||
        o->scalars_max > INT32_MAX || o->meta_bytes_max > INT32_MAX || o->received_rows_max < 0 ||
        o->path < GLN_PATH_AUTO || o->path > GLN_PATH_SHARED)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "exchange: expected rows_max in [0, %lld], scalars_max and meta_bytes_max "
                        "below 2^31, received_rows_max >= 0 and a path of the list, found %lld, "
                        "%lld, %zu, %lld, %d",
                        (long long)o->tokens, (long long)o->rows_max, (long long)o->scalars_max,
                        o->meta_bytes_max, (long long)o->received_rows_max, (int)o->path);
    if (!(o->rows_expected >= 0 && o->rows_expected <= (double)o->tokens))
        return gln_fail(GLN_ERR_ARGUMENT, "exchange: expected rows_expected in [0, %lld], found %g",
                        (long long)o->tokens, o->rows_expected);
    int64_t local = o->domains / ranks, group = o->domains / o->groups;
    double rows = (double)local * (double)group * (double)o->rows_max;
    if (rows > INT32_MAX || local > 16384 || group > 1 << 20 ||
        (double)local * (double)o->tokens > INT32_MAX)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "exchange: one rank can hold at most 2^31 rows and 16384 domains, found %.0f "
            "rows to receive and %lld domains of %lld tokens; use more ranks",
            rows, (long long)local, (long long)o->tokens);
    if ((rows + 64) * (double)o->hidden * 8 > 0x1p60)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "exchange: %.0f rows of %lld columns do not fit any memory", rows,
                        (long long)o->hidden);
    return GLN_OK;
}

static void flow_layout(gln_exchange_flow_t *flow, size_t pairs, gln_arena_t *arena)
{
    flow->sent = gln_arena_take(arena, pairs * sizeof *flow->sent);
    flow->sent_offset = gln_arena_take(arena, (pairs + 1) * sizeof *flow->sent_offset);
    flow->stage_offset = gln_arena_take(arena, (pairs + 1) * sizeof *flow->stage_offset);
    flow->received = gln_arena_take(arena, pairs * sizeof *flow->received);
    flow->received_offset = gln_arena_take(arena, (pairs + 1) * sizeof *flow->received_offset);
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void layout(gln_exchange_t *x, gln_arena_t *arena)
{
    const gln_exchange_options_t *o = &x->options;
    size_t pairs = (size_t)x->local * (size_t)x->group;
    size_t remote = x->group_ranks > 1 ? (size_t)x->local * (size_t)(x->group - x->local) : 0;
    size_t rows = pairs * (size_t)o->rows_max, staged = 0,
           tokens = (size_t)x->local * (size_t)o->tokens;
    size_t records = (size_t)x->comm->size * (size_t)x->record, levels = 1;
    for (int half = 1; half < x->group; half *= 2)
        levels++;
    flow_layout(&x->rows, pairs, arena);
    flow_layout(&x->scalars, pairs, arena);
    flow_layout(&x->meta, pairs, arena);
    x->row_source = gln_arena_take(arena, rows * sizeof *x->row_source);
    x->token_entry = gln_arena_take(arena, (tokens + 1) * sizeof *x->token_entry);
    x->token_stamp = gln_arena_take(arena, (size_t)o->tokens * sizeof *x->token_stamp);
    x->entries = gln_arena_take(arena, rows * sizeof *x->entries);
    x->records_out = gln_arena_take(arena, records * sizeof *x->records_out);
    x->records_in = gln_arena_take(arena, records * sizeof *x->records_in);
    x->meta_offset = gln_arena_take(arena, (pairs + 1) * sizeof *x->meta_offset);
    x->meta_received = gln_arena_take(arena, pairs * o->meta_bytes_max);
    x->sums = gln_arena_take(arena, levels * x->row_bytes);
    x->pair_rows = gln_arena_take(arena, pairs * sizeof *x->pair_rows);
    x->stage_state = gln_arena_take(arena, (size_t)x->group_ranks);
    for (int s = 0; s < x->local; s++)
        for (int j = 0; j < x->group; j++)
            staged += !gln_exchange_direct(x, &x->rows, s, j);
    size_t stage = remote * largest((size_t)o->scalars_max * x->scalar_bytes, o->meta_bytes_max);
    x->stage = gln_arena_take(arena, largest(stage, staged * (size_t)o->rows_max * x->row_bytes));
    if (x->node.nodes > 0) gln_exchange_node_layout(x, arena);
}

gln_status_t gln_exchange_open(gln_comm_t *comm, const gln_exchange_options_t *options,
                               gln_exchange_t **out)
{
    if (!comm || !options || !out)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_exchange_open: expected three addresses, found NULL");
    gln_exchange_options_t o = *options;
    if (o.groups == 0) o.groups = 1;
    gln_exchange_t *x = NULL;
    gln_status_t status = options_check(comm, &o);
    if (status == GLN_OK) {
        x = calloc(1, sizeof *x);
        if (!x) status = gln_fail(GLN_ERR_MEMORY, "cannot allocate an exchange");
    }
    status = gln_comm_agree(comm, status, NULL);
    if (status == GLN_OK) {
        x->comm = comm;
        x->options = o;
        x->local = o.domains / comm->size;
        x->group = o.domains / o.groups;
        x->group_ranks = x->group > x->local ? x->group / x->local : 1;
        x->rank_first = comm->rank / x->group_ranks * x->group_ranks;
        x->scalar_bytes = gln_dtype_bytes(gln_dtype_acc(o.dtype));
        x->row_bytes = (size_t)o.hidden * gln_dtype_bytes(o.dtype);
        x->record = 1 + (x->group_ranks > 1 ? 3 * x->local * x->local : 0);
        x->receive_max = (int64_t)x->local * x->group * o.rows_max;
        if (o.received_rows_max > 0 && o.received_rows_max < x->receive_max)
            x->receive_max = o.received_rows_max;
        status = gln_comm_agree(comm, gln_exchange_node_choose(x), NULL);
    }
    if (status == GLN_OK) status = gln_exchange_window_open(x);
    if (status == GLN_OK) {
        x->arena.kind = GLN_MEMORY_EXCHANGE;
        layout(x, &x->arena);
        status = gln_comm_agree(comm, gln_arena_commit(&x->arena, gln_device_cpu()), NULL);
    }
    if (status != GLN_OK) {
        gln_exchange_close(x);
        return status;
    }
    layout(x, &x->arena);
    *out = x;
    return GLN_OK;
}

void gln_exchange_close(gln_exchange_t *x)
{
    if (!x) return;
    gln_window_close(&x->window);
    gln_arena_close(&x->arena);
    free(x);
}

size_t gln_exchange_bytes(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return sizeof *x + x->arena.size_bytes + x->window.bytes;
}

int64_t gln_exchange_receive_max(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->receive_max;
}

/* Take over one kind of counts. */
static gln_status_t counts_take(const gln_exchange_t *x, const int32_t *counts, int64_t max,
                                const char *what, gln_exchange_flow_t *flow)
{
    if (!counts)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_exchange_plan: the counts of %s are NULL", what);
    int first = x->comm->rank * x->local;
    int pairs = x->local * x->group;
    for (int p = 0; p < pairs; p++) {
        int source = first + p / x->group;
        int destination = source / x->group * x->group + p % x->group;
        if (counts[p] < 0)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "gln_exchange_plan: domain %d sends %d %s to domain %d: expected >= 0",
                            source, counts[p], what, destination);
        if (counts[p] > max)
            return gln_fail(GLN_ERR_CAPACITY,
                            "domain %d sends %d %s to domain %d, but buffers were opened for %lld: "
                            "raise the bound or lower the capacity factor",
                            source, counts[p], what, destination, (long long)max);
        flow->sent[p] = counts[p];
        flow->sent_offset[p + 1] = flow->sent_offset[p] + counts[p];
    }
    return GLN_OK;
}

/* Check the tokens, note where each row comes from, and count the rows of each token (into
 * token_entry[token + 1], not yet summed up). */
static gln_status_t tokens_take(gln_exchange_t *x, const int32_t *row_token)
{
    int64_t tokens = x->options.tokens, rows = x->rows.sent_offset[x->local * x->group];
    if (rows > 0 && !row_token)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_exchange_plan: %lld rows are planned, but row_token is "
                        "NULL",
                        (long long)rows);
    memset(x->token_entry, 0, ((size_t)(x->local * tokens) + 1) * sizeof *x->token_entry);
    for (int s = 0; s < x->local; s++) {
        memset(x->token_stamp, 0, (size_t)tokens * sizeof *x->token_stamp);
        for (int j = 0; j < x->group; j++) {
            int64_t first = x->rows.sent_offset[s * x->group + j];
            for (int64_t r = first; r < first + x->rows.sent[s * x->group + j]; r++) {
                int32_t token = row_token[r];
                if (token < 0 || token >= tokens || x->token_stamp[token] == j + 1)
                    return gln_fail(
                        GLN_ERR_ARGUMENT,
                        "gln_exchange_plan: row %lld is token %d: expected a token below "
                        "%lld, at most once per destination",
                        (long long)r, token, (long long)tokens);
                x->token_stamp[token] = j + 1;
                x->row_source[r] = (int32_t)(s * tokens + token);
                x->token_entry[s * tokens + token + 1]++;
            }
        }
    }
    return GLN_OK;
}

static gln_status_t send_take(gln_exchange_t *x, const gln_exchange_send_t *send)
{
    if (!send)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_exchange_plan: expected what to send, found NULL");
    const gln_exchange_options_t *o = &x->options;
    gln_status_t status = counts_take(x, send->rows_count, o->rows_max, "rows", &x->rows);
    if (status == GLN_OK)
        status = counts_take(x, send->scalars_count, o->scalars_max, "scalars", &x->scalars);
    if (status == GLN_OK)
        status = counts_take(x, send->meta_bytes, (int64_t)o->meta_bytes_max, "metadata bytes",
                             &x->meta);
    if (status == GLN_OK) status = tokens_take(x, send->row_token);
    if (status == GLN_OK && !send->meta && x->meta.sent_offset[x->local * x->group] > 0)
        status =
            gln_fail(GLN_ERR_ARGUMENT, "gln_exchange_plan: metadata are planned, but meta is NULL");
    return status;
}

/* Tell every rank this one's status, and the ranks of the group the counts of the pairs between us.
 * @return the largest status of all ranks */
static gln_status_t records_exchange(gln_exchange_t *x, gln_status_t mine)
{
    int ranks = x->comm->size, local = x->local;
    for (int r = 0; r < ranks; r++) {
        int32_t *record = x->records_out + (size_t)r * (size_t)x->record;
        record[0] = (int32_t)mine;
        int index = r - x->rank_first;
        if (mine != GLN_OK || r == x->comm->rank || index < 0 || index >= x->group_ranks) continue;
        for (int i = 0; i < local; i++)
            for (int s = 0; s < local; s++) {
                int pair = s * x->group + index * local + i;
                int32_t *counts = record + 1 + 3 * (i * local + s);
                counts[0] = x->rows.sent[pair];
                counts[1] = x->scalars.sent[pair];
                counts[2] = x->meta.sent[pair];
            }
    }
    gln_status_t status = gln_comm_alltoall_i32(x->comm, x->records_out, x->record, x->records_in);
    for (int r = 0; r < ranks && status != GLN_ERR_PEER; r++) {
        int32_t theirs = x->records_in[(size_t)r * (size_t)x->record];
        if (theirs > (int32_t)status) status = (gln_status_t)theirs;
    }
    return status;
}

/* Received counts: from records, and for pairs inside this rank from what it sends itself. */
static void received_take(gln_exchange_t *x)
{
    int local = x->local, group = x->group;
    for (int index = 0; index < x->group_ranks && x->group_ranks > 1; index++) {
        int r = x->rank_first + index;
        for (int i = 0; i < local && r != x->comm->rank; i++)
            for (int s = 0; s < local; s++) {
                const int32_t *counts =
                    x->records_in + (size_t)r * (size_t)x->record + 1 + 3 * (i * local + s);
                int pair = i * group + index * local + s;
                x->rows.received[pair] = counts[0];
                x->scalars.received[pair] = counts[1];
                x->meta.received[pair] = counts[2];
            }
    }
    for (int s = 0; s < local; s++)
        for (int j = 0; j < group; j++)
            if (gln_exchange_rank_of(x, s, j) == x->comm->rank) {
                int source = (x->comm->rank * local + s) % group;
                int pair = gln_exchange_index_of(x, s, j) * group + source;
                x->rows.received[pair] = x->rows.sent[s * group + j];
                x->scalars.received[pair] = x->scalars.sent[s * group + j];
                x->meta.received[pair] = x->meta.sent[s * group + j];
            }
}

static void flow_offsets(const gln_exchange_t *x, gln_exchange_flow_t *flow)
{
    int local = x->local, group = x->group;
    for (int p = 0; p < local * group; p++)
        flow->received_offset[p + 1] = flow->received_offset[p] + flow->received[p];
    for (int j = 0; j < group; j++)
        for (int s = 0; s < local; s++) {
            int direct = gln_exchange_direct(x, flow, s, j);
            int64_t *offset = flow->stage_offset + j * local + s;
            offset[1] = offset[0] + (direct ? 0 : flow->sent[s * group + j]);
        }
}

/* Where the receive buffer is smaller than what pairs allow together. */
static gln_status_t received_check(const gln_exchange_t *x)
{
    int pairs = x->local * x->group;
    int64_t rows = x->rows.received_offset[pairs];
    gln_status_t status = GLN_OK;
    if (x->receive_max == pairs * x->options.rows_max) return GLN_OK;
    if (rows > x->receive_max)
        status = gln_fail(GLN_ERR_CAPACITY,
                          "rank %d would receive %lld rows, but its buffer was opened for %lld: "
                          "raise received_rows_max",
                          x->comm->rank, (long long)rows, (long long)x->receive_max);
    return gln_comm_agree(x->comm, status, NULL);
}

/* The rows that come back for each token, in ascending order of the destination. */
static void entries_sort(gln_exchange_t *x)
{
    int local = x->local, group = x->group;
    int64_t tokens = local * x->options.tokens;
    for (int64_t t = 0; t < tokens; t++)
        x->token_entry[t + 1] += x->token_entry[t];
    /* fill from the back: token_entry[t + 1] walks down to the first entry of t */
    for (int j = group - 1; j >= 0; j--)
        for (int s = local - 1; s >= 0; s--) {
            int pair = s * group + j;
            for (int32_t r = x->rows.sent[pair] - 1; r >= 0; r--) {
                int32_t source = x->row_source[x->rows.sent_offset[pair] + r];
                x->entries[--x->token_entry[source + 1]] = (gln_exchange_entry_t){j, r};
            }
        }
    memmove(x->token_entry, x->token_entry + 1, (size_t)tokens * sizeof *x->token_entry);
    x->token_entry[tokens] = x->rows.sent_offset[local * group];
}

static void traffic_add(const gln_exchange_t *x, int peer, int64_t rows, gln_traffic_t *traffic)
{
    int64_t bytes = rows * (int64_t)x->row_bytes;
    const int *nodes = x->comm->nodes;
    if (peer == x->comm->rank) {
        traffic->rank_rows += rows;
        traffic->rank_bytes += bytes;
    } else if (nodes[peer] == nodes[x->comm->rank]) {
        traffic->node_rows += rows;
        traffic->node_bytes += bytes;
    } else {
        traffic->remote_rows += rows;
        traffic->remote_bytes += bytes;
    }
}

/* Pair (s, j) sends in dispatch to the rank that sends pair (i = s, j) back in combine. */
static void traffic_count(gln_exchange_t *x)
{
    memset(&x->traffic_dispatch, 0, sizeof x->traffic_dispatch);
    memset(&x->traffic_combine, 0, sizeof x->traffic_combine);
    for (int s = 0; s < x->local; s++)
        for (int j = 0; j < x->group; j++) {
            int peer = gln_exchange_rank_of(x, s, j), pair = s * x->group + j;
            if (gln_exchange_apart(x, peer)) continue; /* gln_exchange_node_plan counts these */
            traffic_add(x, peer, x->rows.sent[pair], &x->traffic_dispatch);
            traffic_add(x, peer, x->rows.received[pair], &x->traffic_combine);
        }
}

gln_status_t gln_exchange_plan(gln_exchange_t *x, const gln_exchange_send_t *send,
                               gln_exchange_received_t *received)
{
    if (!x || !received)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_exchange_plan: expected an exchange and a place for the "
                        "result, found NULL");
    if (x->flight.kind != GLN_FLIGHT_NONE)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_exchange_plan: a dispatch or combine is under way; finish it first");
    x->planned = 0;
    gln_status_t status = send_take(x, send);
    x->comm->place->operation = "plan";
    status = records_exchange(x, status);
    x->comm->place->operation = NULL;
    if (status != GLN_OK) return status;
    received_take(x);
    flow_offsets(x, &x->rows);
    flow_offsets(x, &x->scalars);
    flow_offsets(x, &x->meta);
    status = received_check(x);
    if (status != GLN_OK) return status;
    gln_exchange_window_plan(x);
    entries_sort(x);
    traffic_count(x);
    x->comm->place->operation = "plan";
    if (x->node.nodes > 0) status = gln_exchange_node_plan(x);
    if (status == GLN_OK)
        status = gln_exchange_forward(x, &x->meta, 1, send->meta, x->meta_received);
    x->comm->place->operation = NULL;
    if (status != GLN_OK) return status;
    int pairs = x->local * x->group;
    for (int p = 0; p <= pairs; p++)
        x->meta_offset[p] = (size_t)x->meta.received_offset[p];
    x->planned = 1;
    *received = (gln_exchange_received_t){
        .rows_count = x->rows.received_offset[pairs],
        .rows = x->rows.received,
        .row_offset = x->rows.received_offset,
        .scalars = x->scalars.received,
        .scalar_offset = x->scalars.received_offset,
        .meta = x->meta_received,
        .meta_offset = x->meta_offset,
    };
    return GLN_OK;
}
