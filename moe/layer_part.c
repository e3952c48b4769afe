/* Work on parts of the rows, so that near rows are computed while far ones are under way.
 *
 * The rows of an expert stand in source order, and near sources are consecutive: per instance the
 * rows are [far | near | far]. Stages cut the far ones by source (layer_stage.c). A part is a list
 * of ranges of rows, neighbours joined; row-wise operations run range by range, products as one
 * batch with one item per range and instance. No result depends on the cut: a row's result hangs on
 * that row alone (kernels.h), and weight gradients are never cut. The price is that a product over
 * few rows runs at less than full speed and reads its weights again, so nothing is cut where
 * nothing is under way meanwhile. */
#include "moe/layer_internal.h"

#include "base/log.h"

/* Auto: near rows per expert, below which a cut costs more than it may hide. One core, f32, H 512,
 * 2F 2048: two products of half the rows take 1.08 times as long at 256 rows, 1.27 at 64, 2.1
 * at 16. */
enum { NEAR_ROWS_MIN = 64 };

/* Between two looks at the exchange; and after a look that took long (MPI may hand the core to
 * others when it finds nothing, if told to) as many times as long, so that looking stays a small
 * share. */
static const double PROGRESS_S = 50e-6, PROGRESS_TIMES = 4;

int gln_layer_overlaps(const gln_layer_t *layer)
{
    const gln_layer_workspace_t *w = layer->workspace;
    gln_overlap_t overlap = layer->options.overlap;
    int64_t group = w->bounds.group_domains, instances = w->bounds.local_domains, rows = 0;

    if (overlap == GLN_OVERLAP_OFF || w->near_count == group) return 0;
    if (overlap == GLN_OVERLAP_ON) return 1;
    instances *= w->bounds.per_domain;
    for (int64_t i = 0; i < w->bounds.local_domains; ++i)
        for (int64_t j = w->near_first; j < w->near_first + w->near_count; ++j)
            rows += w->received.scalars[i * group + j]; /* one per expert row */
    return w->far_nodes && rows >= NEAR_ROWS_MIN * instances;
}

gln_layer_part_t gln_layer_part_of(const gln_layer_t *layer, int which)
{
    const gln_layer_bounds_t *b = &layer->workspace->bounds;

    return (gln_layer_part_t){.which = which,
                              .last = (int)(b->local_domains * b->per_domain),
                              .stage_end = layer->workspace->stages};
}

void gln_layer_near_halves(const gln_layer_t *layer, gln_layer_part_t halves[2])
{
    const gln_layer_rows_t *rows = &layer->rows;
    gln_layer_part_t all = gln_layer_part_of(layer, GLN_PART_NEAR);
    int64_t total = 0, sum = 0;
    int cut = 0;

    for (int i = 0; i < all.last; ++i)
        total += rows->near_end[i] - rows->near_begin[i];
    while (cut < all.last && 2 * sum < total) {
        sum += rows->near_end[cut] - rows->near_begin[cut];
        ++cut;
    }
    halves[0] = halves[1] = all;
    halves[0].last = halves[1].first = cut;
}

/* Append [begin, end), joined to the last range where it follows. */
static int range_add(gln_layer_range_t *ranges, int count, int64_t begin, int64_t end)
{
    if (begin >= end) return count;
    if (count > 0 && ranges[count - 1].end == begin) {
        ranges[count - 1].end = end;
        return count;
    }
    ranges[count] = (gln_layer_range_t){begin, end};
    return count + 1;
}

/* The rows of instance i in the part: up to two ranges. */
static int instance_ranges(const gln_layer_t *layer, gln_layer_part_t part, int i,
                           gln_layer_range_t *out)
{
    const gln_layer_rows_t *rows = &layer->rows;
    const gln_layer_bounds_t *b = &layer->workspace->bounds;
    int64_t instances = b->local_domains * b->per_domain;
    int64_t begin = rows->near_begin[i], end = rows->near_end[i];

    if (part.which == GLN_PART_ALL)
        return range_add(out, 0, rows->instance_offset[i], rows->instance_offset[i + 1]);
    if (part.which == GLN_PART_NEAR) return range_add(out, 0, begin, end);
    int64_t from = rows->stage_row[part.stage * instances + i];
    int64_t to = rows->stage_row[part.stage_end * instances + i];
    int count = range_add(out, 0, from, to < begin ? to : begin);
    return range_add(out, count, from > end ? from : end, to);
}

/* The expert rows of a part, into the workspace. @return ranges */
static int rows_list(const gln_layer_t *layer, gln_layer_part_t part)
{
    const gln_layer_rows_t *rows = &layer->rows;
    gln_layer_range_t *ranges = layer->workspace->ranges;
    int count = 0;

    if (part.which == GLN_PART_ALL)
        return range_add(ranges, 0, rows->instance_offset[part.first],
                         rows->instance_offset[part.last]);
    for (int i = part.first; i < part.last; ++i) {
        gln_layer_range_t own[2];
        int parts = instance_ranges(layer, part, i, own);
        for (int r = 0; r < parts; ++r)
            count = range_add(ranges, count, own[r].begin, own[r].end);
    }
    return count;
}

/* The received rows of the part's sources, into the workspace. @return ranges */
static int received_list(const gln_layer_t *layer, gln_layer_part_t part)
{
    gln_layer_workspace_t *w = layer->workspace;
    int64_t group = w->bounds.group_domains;
    int count = 0;

    if (part.which == GLN_PART_ALL) return range_add(w->ranges, 0, 0, layer->rows.received_count);
    for (int64_t i = 0; i < w->bounds.local_domains; ++i) {
        const int64_t *offset = w->received.row_offset + i * group;
        int64_t begin = offset[w->near_first], end = offset[w->near_first + w->near_count];
        if (part.which == GLN_PART_NEAR) {
            count = range_add(w->ranges, count, begin, end);
            continue;
        }
        int64_t from = offset[w->stage_source[part.stage]];
        int64_t to = offset[w->stage_source[part.stage_end]];
        count = range_add(w->ranges, count, from, to < begin ? to : begin);
        count = range_add(w->ranges, count, from > end ? from : end, to);
    }
    return count;
}

void gln_layer_receive(gln_layer_t *layer, gln_layer_part_t part)
{
    const gln_layer_range_t *ranges = layer->workspace->ranges;
    int count = received_list(layer, part);

    for (int r = 0; r < count; ++r)
        gln_layer_wire_received(layer, ranges[r].begin, ranges[r].end - ranges[r].begin);
}

gln_status_t gln_layer_gather(gln_layer_t *layer, gln_layer_part_t part, void *rows_out)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_kernels_t *k = layer->kernels;
    int64_t hidden = layer->options.hidden;
    int count = rows_list(layer, part);
    gln_status_t status = GLN_OK;

    for (int r = 0; r < count && status == GLN_OK; ++r) {
        int64_t begin = w->ranges[r].begin;
        gln_gather_t gather = {.n = w->ranges[r].end - begin,
                               .h = hidden,
                               .x = w->received_x,
                               .index = layer->rows.gather_index + begin,
                               .out = gln_at(rows_out, begin * hidden, k->dtype)};
        status = k->ops->gather(k, &gather);
    }
    return status;
}

gln_status_t gln_layer_swiglu(gln_layer_t *layer, gln_layer_part_t part)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_kernels_t *k = layer->kernels;
    int64_t f = layer->options.expert_hidden;
    int count = rows_list(layer, part);
    gln_status_t status = GLN_OK;

    for (int r = 0; r < count && status == GLN_OK; ++r) {
        int64_t begin = w->ranges[r].begin;
        gln_swiglu_t swiglu = {.n = w->ranges[r].end - begin,
                               .f = f,
                               .hgu = gln_at(layer->rows.hgu, begin * 2 * f, k->dtype),
                               .act = gln_at(w->rows_f, begin * f, k->dtype)};
        status = k->ops->swiglu(k, &swiglu);
    }
    return status;
}

gln_status_t gln_layer_swiglu_backward(gln_layer_t *layer, gln_layer_part_t part)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_kernels_t *k = layer->kernels;
    int64_t f = layer->options.expert_hidden;
    int count = rows_list(layer, part);
    gln_status_t status = GLN_OK;

    for (int r = 0; r < count && status == GLN_OK; ++r) {
        int64_t begin = w->ranges[r].begin;
        gln_swiglu_backward_t swiglu = {.n = w->ranges[r].end - begin,
                                        .f = f,
                                        .dact = gln_at(w->rows_f, begin * f, k->dtype),
                                        .hgu = gln_at(layer->rows.hgu, begin * 2 * f, k->dtype),
                                        .w = gln_at(layer->rows.row_weight, begin, k->acc),
                                        .dhgu = gln_at(w->dhgu, begin * 2 * f, k->dtype),
                                        .act_w = gln_at(w->act_w, begin * f, k->dtype),
                                        .a = gln_at(w->row_a, begin, k->acc)};
        status = k->ops->swiglu_backward(k, &swiglu);
    }
    return status;
}

gln_status_t gln_layer_combine(gln_layer_t *layer, gln_layer_part_t part, const void *weight)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_kernels_t *k = layer->kernels;
    int64_t hidden = layer->options.hidden;
    int count = received_list(layer, part);
    gln_status_t status = GLN_OK;

    for (int r = 0; r < count && status == GLN_OK; ++r) {
        int64_t begin = w->ranges[r].begin;
        gln_combine_t combine = {.n = w->ranges[r].end - begin,
                                 .h = hidden,
                                 .rows = w->rows_h,
                                 .offset = layer->rows.combine_offset + begin,
                                 .index = layer->rows.combine_index,
                                 .weight = weight,
                                 .out = gln_at(w->received_x, begin * hidden, k->dtype)};
        status = k->ops->combine(k, &combine);
        if (status == GLN_OK) gln_layer_wire_return(layer, begin, combine.n);
    }
    return status;
}

/* One item: rows of an instance whose expert is number `expert` of the local ones. */
static void item_set(const gln_layer_t *layer, const gln_layer_products_t *p, int domain,
                     int64_t expert, gln_layer_range_t range, gln_gemm_t *item)
{
    const gln_parallel_t *parallel = layer->parallel;
    gln_dtype_t dtype = layer->kernels->dtype;

    item->a = gln_at(p->a, range.begin * p->k, dtype);
    item->lda = p->k;
    item->n = p->n;
    item->ldc = p->n;
    if (p->form == GLN_GEMM_TN) {
        void *c = p->c_group[domain / parallel->group_domains - parallel->first_group];
        item->m = p->k;
        item->k = range.end - range.begin;
        item->b = gln_at(p->b, range.begin * p->n, dtype);
        item->ldb = p->n;
        item->c = gln_at(c, expert * p->k * p->n, layer->kernels->acc);
    } else {
        item->m = range.end - range.begin;
        item->k = p->k;
        item->b = gln_at(p->b, expert * p->n * p->k, dtype);
        item->ldb = p->form == GLN_GEMM_NN ? p->n : p->k;
        item->c = gln_at(p->c, range.begin * p->n, dtype);
    }
}

gln_status_t gln_layer_multiply(gln_layer_t *layer, gln_layer_part_t part,
                                const gln_layer_products_t *p)
{
    const gln_parallel_t *parallel = layer->parallel;
    gln_gemm_t *items = layer->workspace->items;
    int count = 0, weight_gradient = p->form == GLN_GEMM_TN;
    gln_gemm_mode_t mode = {.form = p->form,
                            .accumulate = weight_gradient && !layer->overwrite,
                            .c_acc = weight_gradient};

    GLN_ASSERT(!weight_gradient || part.which == GLN_PART_ALL);
    for (int i = part.first; i < part.last; ++i) {
        gln_layer_range_t ranges[2];
        int parts = instance_ranges(layer, part, i, ranges);
        if (weight_gradient && parts == 0 && layer->overwrite) /* an empty sum */
            ranges[parts++] = (gln_layer_range_t){0, 0};
        int domain = parallel->first_domain + i / parallel->per_domain;
        int64_t expert = domain % parallel->group_domains * parallel->per_domain +
                         i % parallel->per_domain - parallel->first_expert;
        for (int r = 0; r < parts; ++r)
            item_set(layer, p, domain, expert, ranges[r], &items[count++]);
    }
    return layer->kernels->ops->gemm(layer->kernels, mode, items, count);
}

/* What fails here the exchange remembers, and its finish returns it. */
static void progress(void *ctx)
{
    gln_layer_workspace_t *w = ctx;
    double now = gln_layer_now();

    if (now < w->progress_at) return;
    gln_exchange_progress(w->exchange);
    double end = gln_layer_now(), pause = PROGRESS_TIMES * (end - now);
    w->progress_at = end + (pause > PROGRESS_S ? pause : PROGRESS_S);
}

void gln_layer_drive(gln_layer_t *layer, int on)
{
    layer->workspace->progress_at = 0;
    gln_pool_set_hook(layer->kernels->pool, on ? progress : NULL, layer->workspace);
}
