/* Reading a recording: every tensor but "routing.info" is checked and copied, as a mapping may be
 * unaligned. Linear in the file. */
#include "moe/recording.h"

#include "base/log.h"
#include "moe/safetensors.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INFO_COUNT = 4, VERSION = 1 };

struct gln_recording {
    gln_recording_info_t info;
    int count;
    gln_recorded_t *items; /* [count] */
    float *logits;         /* of all of them */
};

static gln_status_t fail(const char *path, const char *name, const char *what)
{
    return gln_fail(GLN_ERR_CHECKPOINT,
                    "%s: tensor '%.80s': %s; expected a file of gleaner train --record-routing",
                    path, name, what);
}

static gln_status_t read_info(const char *path, const gln_safetensors_t *file,
                              gln_recording_info_t *info)
{
    gln_tensor_entry_t entry;
    double values[INFO_COUNT];
    if (!gln_safetensors_find(file, "routing.info", &entry))
        return fail(path, "routing.info", "is missing");
    if (entry.raw || entry.tensor.dtype != GLN_F64 || entry.tensor.dims_count != 1 ||
        entry.tensor.dims[0] != INFO_COUNT)
        return fail(path, "routing.info", "is not F64 [4]");
    memcpy(values, entry.tensor.data, sizeof values);
    if (values[0] != VERSION) return fail(path, "routing.info", "is of another version");
    for (int i = 1; i < INFO_COUNT; i++)
        if (!(values[i] >= 1 && values[i] <= 1 << 30))
            return fail(path, "routing.info", "holds a number out of range");
    *info = (gln_recording_info_t){
        .k = (int)values[1], .per_domain = (int)values[2], .replicas = (int64_t)values[3]};
    return GLN_OK;
}

/* Name and shape of a tensor; *logits is where its data goes, and moves on. */
static gln_status_t read_item(const char *path, const gln_tensor_entry_t *entry, float **logits,
                              gln_recorded_t *item)
{
    long long step = 0;
    int layer = 0, end = 0;
    const gln_tensor_t *t = &entry->tensor;
    if (sscanf(entry->name, "step-%lld.layer-%d.logits%n", &step, &layer, &end) != 2 || end == 0 ||
        entry->name[end] || step < 1 || layer < 0)
        return fail(path, entry->name, "has no name of the form step-N.layer-M.logits");
    if (entry->raw || t->dtype != GLN_F32 || t->dims_count != 3 || t->dims[2] < 1 ||
        t->dims[2] > 1 << 20)
        return fail(path, entry->name, "is not F32 [D, T, E]");
    const int64_t count = t->dims[0] * t->dims[1] * t->dims[2];
    memcpy(*logits, t->data, (size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        if (!isfinite((*logits)[i])) return fail(path, entry->name, "holds a NaN or an infinity");
    *item = (gln_recorded_t){.step = step,
                             .layer = layer,
                             .domains = t->dims[0],
                             .tokens = t->dims[1],
                             .experts = (int)t->dims[2],
                             .logits = *logits};
    *logits += count;
    return GLN_OK;
}

static gln_status_t read_all(const char *path, const gln_safetensors_t *file, gln_recording_t *r)
{
    const int count = gln_safetensors_count(file);
    size_t bytes = 0;
    gln_status_t status = read_info(path, file, &r->info);
    if (status != GLN_OK) return status;
    for (int i = 0; i < count; i++) {
        const gln_tensor_entry_t entry = gln_safetensors_entry(file, i);
        bytes += gln_safetensors_entry_bytes(&entry);
    }
    r->items = calloc((size_t)count, sizeof *r->items);
    r->logits = malloc(bytes + 1);
    if (!r->items || !r->logits)
        return gln_fail(GLN_ERR_MEMORY, "%s: no memory for %zu bytes", path, bytes);
    float *logits = r->logits;
    for (int i = 0; i < count && status == GLN_OK; i++) {
        const gln_tensor_entry_t entry = gln_safetensors_entry(file, i);
        if (!strcmp(entry.name, "routing.info")) continue;
        status = read_item(path, &entry, &logits, &r->items[r->count]);
        if (status == GLN_OK) r->count++;
    }
    return status;
}

gln_status_t gln_recording_open(const char *path, gln_recording_t **out)
{
    gln_safetensors_t *file = NULL;
    gln_recording_t *r = calloc(1, sizeof *r);
    if (!r) return gln_fail(GLN_ERR_MEMORY, "%s: no memory for a recording", path);
    gln_status_t status = gln_safetensors_open(path, &file);
    if (status == GLN_OK) status = read_all(path, file, r);
    gln_safetensors_close(file);
    if (status != GLN_OK) {
        gln_recording_close(r);
        return status;
    }
    *out = r;
    return GLN_OK;
}

void gln_recording_close(gln_recording_t *r)
{
    if (!r) return;
    free(r->logits);
    free(r->items);
    free(r);
}

int gln_recording_count(const gln_recording_t *r)
{
    return r->count;
}

gln_recorded_t gln_recording_get(const gln_recording_t *r, int i)
{
    GLN_ASSERT(i >= 0 && i < r->count);
    return r->items[i];
}

gln_recording_info_t gln_recording_info(const gln_recording_t *r)
{
    return r->info;
}
