/* Who goes where: from the plans of the local domains to the lists of the exchange, and from what
 * was received to rows sorted by expert.
 *
 * Sending. The pair (source domain s, destination j) lists the distinct tokens of s that have a
 * route to an expert of j, ascending; a bitmap over the tokens finds them. Its metadata, for the L
 * experts of j by place: int32  routes[L]; int32 row[n] (index in the pair's list); padding to 8;
 * acc weight[n]; padding to 8 with the n routes expert by expert, slot routes in slot order before
 * rectified rows in token order. This is also the order in which scalars come back. Receiving. A
 * counting sort by instance, stable over sources and metadata: an expert's rows stand in domain
 * order, whatever the rank count. Within a pair the experts ascend (places do, and ids with them),
 * so each received row's list of expert rows ascends by expert too. Cost: O(routes + pairs (L + T /
 * 64)), on one thread. */
#include "moe/layer_internal.h"

#include "base/log.h"
#include <string.h>

typedef struct route_span { /* routes of one expert in a plan */
    const int32_t *slot_token, *rect_token;
    const char *slot_weight, *rect_weight;
    int64_t slots, rects;
} route_span_t;

static route_span_t span_of(const gln_plan_t *plan, int expert, int64_t element_bytes)
{
    int32_t slot = plan->expert_offset[expert], rect = plan->rect_offset[expert];
    route_span_t span = {
        .slot_token = plan->route_token + slot,
        .rect_token = plan->rect_token + rect,
        .slot_weight = (const char *)plan->route_weight + slot * element_bytes,
        .rect_weight = (const char *)plan->rect_weight + rect * element_bytes,
        .slots = plan->expert_offset[expert + 1] - slot,
        .rects = plan->rect_offset[expert + 1] - rect,
    };
    return span;
}

static size_t weights_offset(int64_t per_domain, int64_t routes)
{
    return ((size_t)(per_domain + routes) * 4 + 7) / 8 * 8;
}

static size_t meta_size(int64_t per_domain, int64_t routes, int64_t element_bytes)
{
    return weights_offset(per_domain, routes) + ((size_t)(routes * element_bytes) + 7) / 8 * 8;
}

static void set_bits(uint64_t *bits, const int32_t *tokens, int64_t count)
{
    for (int64_t i = 0; i < count; ++i)
        bits[tokens[i] / 64] |= (uint64_t)1 << tokens[i] % 64;
}

/* Distinct tokens of the plan with a route to the experts at places [first, first + L), ascending;
 * their number. */
static int64_t list_tokens(const gln_layer_t *layer, const gln_plan_t *plan, int first,
                           int32_t *list)
{
    gln_layer_workspace_t *w = layer->workspace;
    int64_t words = (w->bounds.tokens + 63) / 64, count = 0;

    memset(w->token_bits, 0, (size_t)words * 8);
    for (int place = first; place < first + (int)w->bounds.per_domain; ++place) {
        route_span_t span = span_of(plan, gln_layer_expert_at(layer, place), w->bounds.acc_bytes);
        set_bits(w->token_bits, span.slot_token, span.slots);
        set_bits(w->token_bits, span.rect_token, span.rects);
    }
    for (int64_t word = 0; word < words; ++word)
        for (uint64_t left = w->token_bits[word]; left != 0; left &= left - 1) {
            int32_t token = (int32_t)(word * 64 + __builtin_ctzll(left));
            w->token_row[token] = (int32_t)count;
            list[count++] = token;
        }
    return count;
}

/* Metadata of one pair at `meta` (8 bytes aligned); the number of its routes. */
static int64_t write_meta(const gln_layer_t *layer, const gln_plan_t *plan, int first, char *meta)
{
    const gln_layer_workspace_t *w = layer->workspace;
    int64_t per_domain = w->bounds.per_domain, e_bytes = w->bounds.acc_bytes, n = 0;
    int32_t *routes = (int32_t *)(void *)meta, *row = routes + per_domain;

    for (int64_t le = 0; le < per_domain; ++le) {
        route_span_t span = span_of(plan, gln_layer_expert_at(layer, first + (int)le), e_bytes);
        routes[le] = (int32_t)(span.slots + span.rects);
        for (int64_t i = 0; i < span.slots; ++i)
            row[n++] = w->token_row[span.slot_token[i]];
        for (int64_t i = 0; i < span.rects; ++i)
            row[n++] = w->token_row[span.rect_token[i]];
    }
    char *weight = meta + weights_offset(per_domain, n);
    memset(row + n, 0, (size_t)(weight - (char *)(row + n)));
    for (int64_t le = 0; le < per_domain; ++le) {
        route_span_t span = span_of(plan, gln_layer_expert_at(layer, first + (int)le), e_bytes);
        size_t slot_bytes = (size_t)(span.slots * e_bytes);
        size_t rect_bytes = (size_t)(span.rects * e_bytes);
        if (slot_bytes > 0) memcpy(weight, span.slot_weight, slot_bytes);
        if (rect_bytes > 0) memcpy(weight + slot_bytes, span.rect_weight, rect_bytes);
        weight += slot_bytes + rect_bytes;
    }
    memset(weight, 0, (size_t)(meta + meta_size(per_domain, n, e_bytes) - weight));
    return n;
}

static void build_send(gln_layer_t *layer, gln_exchange_send_t *send)
{
    gln_layer_workspace_t *w = layer->workspace;
    int domains = layer->parallel->local_domains, group_domains = layer->parallel->group_domains;
    int64_t rows = 0;
    char *meta = w->meta;

    for (int s = 0; s < domains; ++s) {
        gln_plan_t *plan = layer->plans[s];
        int64_t first_row = rows;
        for (int j = 0; j < group_domains; ++j) {
            int pair = s * group_domains + j, first = j * layer->parallel->per_domain;
            int64_t count = list_tokens(layer, plan, first, w->row_token + rows);
            int64_t routes = write_meta(layer, plan, first, meta);
            size_t bytes = meta_size(w->bounds.per_domain, routes, w->bounds.acc_bytes);
            w->pair_rows[pair] = (int32_t)count;
            w->pair_routes[pair] = (int32_t)routes;
            w->pair_meta[pair] = (int32_t)bytes;
            rows += count;
            meta += bytes;
        }
        plan->ledger.sent_rows = rows - first_row;
    }
    GLN_ASSERT(rows <= w->bounds.sent_rows && meta <= w->meta + w->bounds.sent_meta_bytes);
    *send = (gln_exchange_send_t){.rows_count = w->pair_rows,
                                  .row_token = w->row_token,
                                  .scalars_count = w->pair_routes,
                                  .meta_bytes = w->pair_meta,
                                  .meta = w->meta};
}

gln_status_t gln_layer_set_plan(gln_layer_t *layer)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_exchange_send_t send;
    gln_status_t status;

    if (w->planned == layer) return GLN_OK;
    w->planned = NULL;
    build_send(layer, &send);
    status = gln_exchange_plan(w->exchange, &send, &w->received);
    if (status != GLN_OK) return status;
    w->planned = layer;
    return GLN_OK;
}

/* Where the instances' rows begin, and the near ones among them. */
static void count_instances(gln_layer_t *layer)
{
    const gln_layer_workspace_t *w = layer->workspace;
    int64_t domains = w->bounds.local_domains, sources = w->bounds.group_domains;
    int64_t per_domain = w->bounds.per_domain, *offset = layer->rows.instance_offset;
    int64_t *begin = layer->rows.near_begin, *end = layer->rows.near_end;
    int64_t instances = domains * per_domain;

    memset(offset, 0, (size_t)(domains * per_domain + 1) * sizeof *offset);
    memset(begin, 0, (size_t)(domains * per_domain) * sizeof *begin);
    memset(end, 0, (size_t)(domains * per_domain) * sizeof *end);
    for (int64_t i = 0; i < domains; ++i)
        for (int64_t j = 0, stage = 0; j < sources; ++j) {
            const char *meta = (const char *)w->received.meta;
            for (; stage <= w->stages && w->stage_source[stage] <= j; ++stage)
                memcpy(layer->rows.stage_row + stage * instances + i * per_domain,
                       offset + i * per_domain + 1, (size_t)per_domain * sizeof *offset);
            const char *routes = meta + w->received.meta_offset[i * sources + j];
            for (int64_t le = 0; le < per_domain; ++le) {
                int32_t count;
                memcpy(&count, routes + 4 * le, 4);
                offset[i * per_domain + le + 1] += count;
                if (j < w->near_first) begin[i * per_domain + le] += count;
                if (j < w->near_first + w->near_count) end[i * per_domain + le] += count;
            }
        }
    for (int64_t i = 0; i < instances; ++i) {
        for (int64_t s = 0; s < w->stages; ++s) /* stages are not longer than the sources */
            layer->rows.stage_row[s * instances + i] += offset[i];
        offset[i + 1] += offset[i];
        layer->rows.stage_row[w->stages * instances + i] = offset[i + 1];
        begin[i] += offset[i];
        end[i] += offset[i];
    }
}

/* Give every route of a pair its expert row, its weight and its place in the combine lists'
 * lengths. */
static void place_pair(gln_layer_t *layer, int64_t domain, int64_t pair)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_rows_t *rows = &layer->rows;
    int64_t per_domain = w->bounds.per_domain, e_bytes = w->bounds.acc_bytes;
    int64_t routes = w->received.scalars[pair], q = w->received.scalar_offset[pair], done = 0;
    int64_t first_row = w->received.row_offset[pair];
    const char *meta = (const char *)w->received.meta + w->received.meta_offset[pair];
    const char *row = meta + 4 * per_domain, *weight = meta + weights_offset(per_domain, routes);

    for (int64_t le = 0; le < per_domain; ++le) {
        int32_t count;
        memcpy(&count, meta + 4 * le, 4);
        int64_t expert_row = w->instance_next[domain * per_domain + le];
        for (int32_t i = 0; i < count; ++i, ++done) {
            int32_t in_pair;
            memcpy(&in_pair, row + 4 * done, 4);
            rows->gather_index[expert_row + i] = (int32_t)(first_row + in_pair);
            rows->route_row[q + done] = (int32_t)(expert_row + i);
            rows->combine_offset[first_row + in_pair + 1] += 1;
        }
        if (count > 0)
            memcpy((char *)rows->row_weight + expert_row * e_bytes,
                   weight + (done - count) * e_bytes, (size_t)(count * e_bytes));
        w->instance_next[domain * per_domain + le] = expert_row + count;
    }
    GLN_ASSERT(done == routes);
}

/* The expert rows of every received row, in expert order, with their weights. */
static void list_combine(gln_layer_t *layer)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_rows_t *rows = &layer->rows;
    int wide = w->bounds.acc_bytes == 8;

    for (int64_t r = 0; r < rows->received_count; ++r) {
        w->received_next[r] = rows->combine_offset[r];
        rows->combine_offset[r + 1] += rows->combine_offset[r];
    }
    for (int64_t q = 0; q < rows->rows_count; ++q) {
        int32_t row = rows->route_row[q];
        int32_t place = w->received_next[rows->gather_index[row]]++;
        rows->combine_index[place] = row;
        if (wide)
            ((double *)w->combine_weight)[place] = ((const double *)rows->row_weight)[row];
        else
            ((float *)w->combine_weight)[place] = ((const float *)rows->row_weight)[row];
    }
}

void gln_layer_place_rows(gln_layer_t *layer)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_rows_t *rows = &layer->rows;
    int64_t domains = w->bounds.local_domains, sources = w->bounds.group_domains;
    int64_t instances = domains * w->bounds.per_domain;

    count_instances(layer);
    rows->rows_count = rows->instance_offset[instances];
    rows->received_count = w->received.rows_count;
    GLN_ASSERT(rows->rows_count <= w->bounds.received_routes);
    GLN_ASSERT(rows->received_count <= w->bounds.received_rows);
    memcpy(w->instance_next, rows->instance_offset, (size_t)instances * sizeof w->instance_next[0]);
    memset(rows->combine_offset, 0, (size_t)(rows->received_count + 1) * 4);
    for (int64_t i = 0; i < domains; ++i)
        for (int64_t j = 0; j < sources; ++j)
            place_pair(layer, i, i * sources + j);
    list_combine(layer);
}
