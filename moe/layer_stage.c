/* Far rows in stages: the rows of one stage are computed while those of later ones still come, and
 * its results leave meanwhile.
 *
 * Stage s of N holds the far ranks [s n / N, (s + 1) n / N) of the n there are, in the order of
 * their domains. Expert rows and received rows stand in source order, so that a stage is one run of
 * every expert's rows, or two where the near ones lie in between. All messages start at once
 * whatever the stages are, so each rank could cut as it likes; nothing but when a rank waits, and
 * what it computes in one product, depends on them. More products over fewer rows are the price:
 * each reads the weights again. In the hierarchical form of the exchange far rows come together and
 * are not cut. */
#include "moe/layer_internal.h"

#include <string.h>

void gln_layer_stages_set(gln_layer_workspace_t *w)
{
    int64_t local = w->bounds.local_domains, group = w->bounds.group_domains;
    int64_t ranks = (group - w->near_count) / local, before = w->near_first / local;
    int64_t stages = w->bounds.stages < ranks ? w->bounds.stages : ranks;
    int together = strcmp(gln_exchange_form(w->exchange), "hierarchical") == 0;

    w->stages = stages > 1 && !together ? (int)stages : 1;
    w->stage_source[0] = 0;
    w->stage_source[w->stages] = (int)group;
    for (int s = 1; s < w->stages; ++s) {
        int64_t rank = s * ranks / w->stages;
        w->stage_source[s] = (int)(rank * local) + (rank < before ? 0 : w->near_count);
    }
}

gln_layer_part_t gln_layer_stage(const gln_layer_t *layer, int turn)
{
    const gln_layer_workspace_t *w = layer->workspace;
    gln_layer_part_t part = gln_layer_part_of(layer, GLN_PART_FAR);
    int start = w->stages - 1; /* with no far rank below, the last one is next */

    while (w->near_first > 0 && w->stage_source[start] >= w->near_first)
        --start;
    part.stage = (start - turn + w->stages) % w->stages;
    part.stage_end = part.stage + 1;
    return part;
}

static int sources_of(const gln_layer_workspace_t *w, gln_layer_part_t stage)
{
    return w->stage_source[stage.stage_end] - w->stage_source[stage.stage];
}

gln_status_t gln_layer_stage_await(gln_layer_t *layer, gln_layer_part_t stage)
{
    gln_layer_workspace_t *w = layer->workspace;

    if (w->stages == 1) return gln_exchange_dispatch_finish(w->exchange);
    return gln_exchange_dispatch_await(w->exchange, w->stage_source[stage.stage],
                                       sources_of(w, stage));
}

gln_status_t gln_layer_stage_send(gln_layer_t *layer, int turn, gln_layer_part_t stage, void *sums)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_status_t status = GLN_OK;

    if (w->stages == 1) return gln_exchange_combine_start(w->exchange, w->wire_rows, sums);
    if (turn == 0) status = gln_exchange_combine_begin(w->exchange, w->wire_rows, sums);
    if (status != GLN_OK) return status;
    status =
        gln_exchange_combine_send(w->exchange, w->stage_source[stage.stage], sources_of(w, stage));
    return status == GLN_OK ? GLN_OK : gln_exchange_combine_finish(w->exchange);
}

void gln_layer_stage_give_up(gln_layer_t *layer, int turn)
{
    gln_layer_workspace_t *w = layer->workspace;

    if (w->stages == 1) return;
    if (turn == 0) {
        gln_exchange_dispatch_finish(w->exchange);
        return;
    }
    gln_exchange_dispatch_await(w->exchange, 0, (int)w->bounds.group_domains);
    gln_exchange_combine_finish(w->exchange);
}
