/* Writing a recording: after each recorded step the ranks' logits are sent to rank 0, put in the
 * order of domains, and the whole file is written anew beside the old one and renamed. Rank 0 keeps
 * all recorded steps: steps * layers * D T E floats. */
#include "moe/recorder.h"

#include "base/log.h"
#include "moe/safetensors.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INFO_COUNT = 4, VERSION = 1, NAME_MAX_BYTES = 64 };

struct gln_recorder {
    const gln_parallel_t *parallel; /* borrowed */
    char path[PATH_MAX], partial[PATH_MAX];
    int64_t *steps; /* [steps_count] */
    int steps_count, layers;
    int *layer_index;   /* [layers] in the model */
    int64_t rows, item; /* local_domains * T * E, D * T * E: floats of a layer here, and in all */
    int64_t dims[3];    /* D, T, E */
    double info[INFO_COUNT];
    float *local;                /* [layers, rows] */
    size_t *sends, *receives;    /* [P] bytes */
    float *gathered;             /* rank 0: [P, layers, rows] */
    float *all;                  /* rank 0: [steps_count, layers, item] */
    char *have;                  /* rank 0: [steps_count] */
    gln_tensor_entry_t *entries; /* rank 0: [steps_count * layers + 1] */
    char (*names)[NAME_MAX_BYTES];
};

static int find(const gln_recorder_t *r, int64_t step)
{
    for (int i = 0; i < r->steps_count; i++)
        if (r->steps[i] == step) return i;
    return -1;
}

static float *place(const gln_recorder_t *r, int step, int layer)
{
    return r->all + ((int64_t)step * r->layers + layer) * r->item;
}

/* Rank 0: what an earlier process recorded of the steps that are done. */
static gln_status_t take_old(gln_recorder_t *r, int64_t done)
{
    gln_recording_t *old = NULL;
    if (done == 0 || access(r->path, F_OK) != 0) return GLN_OK;
    gln_status_t status = gln_recording_open(r->path, &old);
    for (int i = 0; status == GLN_OK && i < gln_recording_count(old); i++) {
        const gln_recorded_t one = gln_recording_get(old, i);
        const int s = find(r, one.step);
        int layer = 0;
        while (layer < r->layers && r->layer_index[layer] != one.layer)
            layer++;
        if (s < 0 || one.step > done) continue;
        if (layer == r->layers || one.domains != r->dims[0] || one.tokens != r->dims[1] ||
            one.experts != r->dims[2])
            status = gln_fail(GLN_ERR_CHECKPOINT,
                              "%s: records another model or other domains: [%lld, %lld, %d] in "
                              "layer %d; move it away to record anew",
                              r->path, (long long)one.domains, (long long)one.tokens, one.experts,
                              one.layer);
        else
            memcpy(place(r, s, layer), one.logits, (size_t)r->item * sizeof(float));
        if (status == GLN_OK) r->have[s] = 1;
    }
    gln_recording_close(old);
    return status;
}

/* A resumed run cannot record what is past: better said than missed in the file. */
static void warn_missed(const gln_recorder_t *r, int64_t done)
{
    for (int s = 0; s < r->steps_count; s++)
        if (r->steps[s] <= done && !r->have[s])
            gln_log(GLN_LOG_WARN,
                    "step %lld is done already and was not recorded; it will be "
                    "missing in %s",
                    (long long)r->steps[s], r->path);
}

static gln_status_t take_memory(gln_recorder_t *r, const gln_recorder_options_t *o)
{
    const size_t ranks = (size_t)r->parallel->ranks, steps = (size_t)o->steps_count;
    const size_t layers = (size_t)r->layers, count = steps * layers + 1;
    r->steps = calloc(steps + 1, sizeof *r->steps);
    r->layer_index = calloc(layers + 1, sizeof *r->layer_index);
    r->local = calloc(layers * (size_t)r->rows + 1, sizeof *r->local);
    r->sends = calloc(ranks, sizeof *r->sends);
    r->receives = calloc(ranks, sizeof *r->receives);
    int missing = !r->steps || !r->layer_index || !r->local || !r->sends || !r->receives;
    if (r->parallel->rank == 0) {
        r->gathered = calloc(layers * (size_t)r->item + 1, sizeof *r->gathered);
        r->all = calloc(steps * layers * (size_t)r->item + 1, sizeof *r->all);
        r->have = calloc(steps + 1, 1);
        r->entries = calloc(count, sizeof *r->entries);
        r->names = calloc(count, sizeof *r->names);
        missing |= !r->gathered || !r->all || !r->have || !r->entries || !r->names;
    }
    if (!missing) return GLN_OK;
    return gln_fail(GLN_ERR_MEMORY,
                    "recording: no memory for %d steps of %d layers with %lld logits each; record "
                    "fewer steps",
                    o->steps_count, r->layers, (long long)r->item);
}

static gln_status_t fill_in(gln_recorder_t *r, const gln_recorder_options_t *o)
{
    const size_t bytes = (size_t)r->layers * (size_t)r->rows * sizeof(float);
    if (snprintf(r->path, sizeof r->path, "%s", o->path) >= PATH_MAX ||
        snprintf(r->partial, sizeof r->partial, "%s.partial", o->path) >= PATH_MAX)
        return gln_fail(GLN_ERR_IO, "%.200s...: the path is too long", o->path);
    gln_status_t status = take_memory(r, o);
    if (status != GLN_OK) return status;
    for (int i = 0; i < o->steps_count; i++)
        r->steps[i] = o->steps[i];
    for (int i = 0; i < r->layers; i++)
        r->layer_index[i] = gln_model_moe_layer_index(o->model, i);
    r->sends[0] = bytes;
    for (int i = 0; i < r->parallel->ranks && r->parallel->rank == 0; i++)
        r->receives[i] = bytes;
    if (r->parallel->rank != 0) return GLN_OK;
    status = take_old(r, o->done);
    if (status == GLN_OK) warn_missed(r, o->done);
    return status;
}

gln_status_t gln_recorder_open(const gln_parallel_t *p, const gln_recorder_options_t *o,
                               gln_recorder_t **out)
{
    int rank;
    for (int i = 0; i < o->steps_count; i++)
        if (o->steps[i] < 1 || (i > 0 && o->steps[i] <= o->steps[i - 1]))
            return gln_fail(GLN_ERR_ARGUMENT,
                            "recording: steps must be at least 1 and ascend, found %lld",
                            (long long)o->steps[i]);
    gln_recorder_t *r = calloc(1, sizeof *r);
    gln_status_t status =
        r ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "recording: no memory for a handle");
    if (r) {
        r->parallel = p;
        r->steps_count = o->steps_count;
        r->layers = gln_model_moe_layers(o->model);
        r->dims[0] = p->domains, r->dims[1] = o->tokens, r->dims[2] = p->experts;
        r->rows = p->local_domains * o->tokens * p->experts;
        r->item = p->domains * o->tokens * p->experts;
        r->info[0] = VERSION, r->info[1] = o->k, r->info[2] = p->per_domain;
        r->info[3] = p->groups;
        status = fill_in(r, o);
    }
    status = gln_comm_agree(p->comm, status, &rank);
    if (status != GLN_OK) {
        gln_recorder_close(r);
        return status;
    }
    *out = r;
    return GLN_OK;
}

void gln_recorder_close(gln_recorder_t *r)
{
    if (!r) return;
    free(r->names);
    free(r->entries);
    free(r->have);
    free(r->all);
    free(r->gathered);
    free(r->receives);
    free(r->sends);
    free(r->local);
    free(r->layer_index);
    free(r->steps);
    free(r);
}

float *gln_recorder_buffer(const gln_recorder_t *r, int64_t step)
{
    return r && find(r, step) >= 0 ? r->local : NULL;
}

/* Rank 0: all recorded steps, in order. */
static gln_status_t write_file(gln_recorder_t *r)
{
    int n = 0;
    r->entries[n++] = (gln_tensor_entry_t){
        .name = "routing.info",
        .tensor = {.data = r->info, .dtype = GLN_F64, .dims_count = 1, .dims = {INFO_COUNT}}};
    for (int s = 0; s < r->steps_count; s++)
        for (int l = 0; l < r->layers && r->have[s]; l++, n++) {
            snprintf(r->names[n], sizeof r->names[n], "step-%lld.layer-%d.logits",
                     (long long)r->steps[s], r->layer_index[l]);
            r->entries[n] =
                (gln_tensor_entry_t){.name = r->names[n],
                                     .tensor = {.data = place(r, s, l),
                                                .dtype = GLN_F32,
                                                .dims_count = 3,
                                                .dims = {r->dims[0], r->dims[1], r->dims[2]}}};
        }
    gln_status_t status = gln_safetensors_write(r->partial, r->entries, n, NULL, NULL);
    if (status == GLN_OK && rename(r->partial, r->path) != 0)
        status = gln_fail(GLN_ERR_IO, "%s: cannot rename to %s: %s", r->partial, r->path,
                          strerror(errno));
    return status;
}

gln_status_t gln_recorder_add(gln_recorder_t *r, int64_t step)
{
    const int s = find(r, step);
    int rank;
    GLN_ASSERT(s >= 0);
    gln_status_t status =
        gln_comm_alltoallv(r->parallel->comm, r->local, r->sends, r->gathered, r->receives);
    if (status == GLN_OK && r->parallel->rank == 0) {
        for (int p = 0; p < r->parallel->ranks; p++)
            for (int l = 0; l < r->layers; l++)
                memcpy(place(r, s, l) + p * r->rows,
                       r->gathered + ((int64_t)p * r->layers + l) * r->rows,
                       (size_t)r->rows * sizeof(float));
        r->have[s] = 1;
        status = write_file(r);
    }
    return gln_comm_agree(r->parallel->comm, status, &rank);
}
