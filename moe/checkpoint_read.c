/* Reading a checkpoint. Rank 0 reads and judges the manifest (model fields, every tensor's name,
 * dtype and shape: all of that is the same on every rank), then hands its bytes to the others, so
 * that all act on the same text. Then every rank opens and verifies the files it needs, and file f
 * is verified by rank f mod P at least. After they agree, tensors are copied out of the mappings by
 * name: nothing can fail from there on. Linear in the bytes of the files that a rank needs, plus
 * 1/P of all. */
#include "moe/checkpoint_internal.h"

#include "base/log.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const suffixes[] = {"", ".m", ".v"};

enum { SUFFIXES_COUNT = 3 };

typedef struct reading {
    const char *folder;
    gln_params_t *params;
    gln_checkpoint_field_t *fields;
    int fields_count;
    gln_checkpoint_source_t source; /* NULL: every parameter from its own tensors */
    gln_manifest_t manifest;
    gln_safetensors_t **files; /* [files_count] those that this rank opened */
} reading_t;

static gln_status_t differs(const reading_t *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static gln_status_t differs(const reading_t *r, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return gln_fail(GLN_ERR_CHECKPOINT,
                    "%s: %s; it belongs to another model: check the config or the path", r->folder,
                    what);
}

/* Name of the tensor for weights (s = 0) or a moment; 0 if none is wanted. */
static int stored_name(const reading_t *r, const gln_param_t *param, int s, char *name)
{
    if (r->source) return s == 0 && r->source(param, name);
    snprintf(name, GLN_TENSOR_NAME_MAX, "%s%s", param->name, suffixes[s]);
    return 1;
}

/* ---- rank 0: does the manifest describe these parameters? ------------------------------------ */

static gln_status_t check_model_field(const reading_t *r, const gln_checkpoint_field_t *field)
{
    gln_checkpoint_field_t found = *field;
    int state = gln_manifest_field(&r->manifest, &found);
    if (state == 0) return differs(r, "expected model.%s, found no such field", field->key);
    if (state < 0)
        return differs(r, "expected model.%s to be %s", field->key,
                       field->is_real ? "real" : "an integer");
    if (field->is_real && found.real != field->real &&
        !(found.real != found.real && field->real != field->real))
        return differs(r, "expected model.%s %.17g, found %.17g", field->key, field->real,
                       found.real);
    if (!field->is_real && found.integer != field->integer)
        return differs(r, "expected model.%s %" PRId64 ", found %" PRId64, field->key,
                       field->integer, found.integer);
    return GLN_OK;
}

static gln_status_t check_fields(const reading_t *r)
{
    const char *key;
    json_t *value;
    gln_status_t status = GLN_OK;
    for (int i = 0; i < r->fields_count && status == GLN_OK; i++) {
        gln_checkpoint_field_t found = r->fields[i];
        if (found.is_model)
            status = check_model_field(r, &r->fields[i]);
        else if (gln_manifest_field(&r->manifest, &found) < 0)
            status = differs(r, "expected state.%s to be %s", found.key,
                             found.is_real ? "real" : "an integer");
    }
    if (status != GLN_OK) return status;
    json_object_foreach((json_t *)(uintptr_t)r->manifest.model, key, value)
    {
        int i = 0;
        while (i < r->fields_count && !(r->fields[i].is_model && !strcmp(r->fields[i].key, key)))
            i++;
        if (i == r->fields_count) return differs(r, "expected no model.%.80s, found one", key);
    }
    return GLN_OK;
}

/* One parameter: its weights must be there, its moments if `needed`; marks what it knows. */
static gln_status_t check_param(const reading_t *r, const gln_param_t *param, int training,
                                char *known)
{
    char name[GLN_TENSOR_NAME_MAX], expected[GLN_SHAPE_TEXT_MAX], found[GLN_SHAPE_TEXT_MAX];
    const char *dtype = gln_safetensors_dtype(r->params->acc);
    for (int s = 0; s < SUFFIXES_COUNT; s++) {
        if (!stored_name(r, param, s, name)) continue;
        int t = gln_manifest_find(&r->manifest, name);
        if (t >= 0) known[t] = 1;
        if (s > 0 && !training) continue;
        if (t < 0) return differs(r, "expected tensor '%s', found none", name);
        const gln_manifest_tensor_t *tensor = &r->manifest.tensors[t];
        if (strcmp(tensor->dtype, dtype) || tensor->dims_count != param->dims_count ||
            memcmp(tensor->dims, param->dims, (size_t)param->dims_count * sizeof *param->dims))
            return differs(r, "tensor '%s': expected %s, found %s", name,
                           gln_shape_text(dtype, param->dims_count, param->dims, expected),
                           gln_shape_text(tensor->dtype, tensor->dims_count, tensor->dims, found));
    }
    return GLN_OK;
}

static gln_status_t check_tensors(const reading_t *r)
{
    int training = r->params->dense_grad != NULL;
    gln_status_t status = GLN_OK;
    char *known = calloc((size_t)r->manifest.tensors_count + 1, 1);
    if (!known)
        return gln_fail(GLN_ERR_MEMORY, "%s: no memory for %d tensors", r->folder,
                        r->manifest.tensors_count);
    for (int i = 0; i < r->params->count && status == GLN_OK; i++)
        status = check_param(r, &r->params->items[i], training, known);
    for (int t = 0; t < r->manifest.tensors_count && status == GLN_OK; t++)
        if (!known[t] && !r->source)
            status =
                differs(r, "expected no tensor '%.80s', found one", r->manifest.tensors[t].name);
    free(known);
    return status;
}

/* ---- all ranks --------------------------------------------------------------------------- */

/* Rank 0's text to every rank. */
static gln_status_t share_text(gln_comm_t *comm, int root, const char *folder, char **text,
                               size_t *bytes)
{
    uint64_t size = *bytes;
    int speaker;
    gln_status_t status = gln_comm_broadcast(comm, &size, sizeof size, 0);
    if (status != GLN_OK) return status;
    if (!root) *text = malloc((size_t)size);
    if (!*text)
        status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for %" PRIu64 " bytes", folder, size);
    status = gln_comm_agree(comm, status, &speaker);
    if (status != GLN_OK) return status;
    *bytes = (size_t)size;
    return gln_comm_broadcast(comm, *text, (size_t)size, 0);
}

/* The same, judged manifest on every rank. */
static gln_status_t share_manifest(reading_t *r)
{
    const gln_parallel_t *p = r->params->parallel;
    char *text = NULL;
    size_t bytes = 0;
    int root = p->rank == 0, speaker;
    gln_status_t status = GLN_OK;
    if (root) {
        status = gln_manifest_load(r->folder, &text, &bytes);
        if (status == GLN_OK) status = gln_manifest_parse(r->folder, text, bytes, &r->manifest);
        if (status == GLN_OK) status = check_fields(r);
        if (status == GLN_OK) status = check_tensors(r);
    }
    status = gln_comm_agree(p->comm, status, &speaker);
    if (status == GLN_OK) status = share_text(p->comm, root, r->folder, &text, &bytes);
    if (status == GLN_OK && !root)
        status = gln_manifest_parse(r->folder, text, bytes, &r->manifest);
    if (status == GLN_OK) r->files = calloc((size_t)r->manifest.files_count + 1, sizeof *r->files);
    if (status == GLN_OK && !r->files)
        status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for %d files", r->folder,
                          r->manifest.files_count);
    free(text);
    return status;
}

/* Which files hold a tensor that this rank holds? */
static void mark_needed(const reading_t *r, char *needed)
{
    char name[GLN_TENSOR_NAME_MAX];
    int suffixes_count = r->params->dense_grad ? SUFFIXES_COUNT : 1;
    for (int i = 0; i < r->params->count; i++)
        for (int s = 0; r->params->items[i].local && s < suffixes_count; s++) {
            if (!stored_name(r, &r->params->items[i], s, name)) continue;
            int t = gln_manifest_find(&r->manifest, name);
            GLN_ASSERT(t >= 0); /* rank 0 has checked */
            needed[r->manifest.tensors[t].file] = 1;
        }
}

/* Verify this rank's share of the files; keep open those it needs. */
static gln_status_t open_files(reading_t *r)
{
    const gln_parallel_t *p = r->params->parallel;
    gln_status_t status = GLN_OK;
    char *needed = calloc((size_t)r->manifest.files_count + 1, 1);
    if (!needed)
        return gln_fail(GLN_ERR_MEMORY, "%s: no memory for %d files", r->folder,
                        r->manifest.files_count);
    mark_needed(r, needed);
    for (int f = 0; f < r->manifest.files_count && status == GLN_OK; f++) {
        if (!needed[f] && f % p->ranks != p->rank) continue;
        status = gln_checkpoint_file_open(r->folder, &r->manifest, f, &r->files[f]);
        if (status != GLN_OK || needed[f]) continue;
        gln_safetensors_close(r->files[f]);
        r->files[f] = NULL;
    }
    free(needed);
    return status;
}

static void copy_tensor(const reading_t *r, const gln_param_t *param, int s, void *to)
{
    char name[GLN_TENSOR_NAME_MAX];
    gln_tensor_entry_t entry;
    if (!to || !stored_name(r, param, s, name)) return;
    int t = gln_manifest_find(&r->manifest, name);
    GLN_ASSERT(t >= 0 && gln_safetensors_find(r->files[r->manifest.tensors[t].file], name, &entry));
    memcpy(to, entry.tensor.data, (size_t)param->count * gln_dtype_bytes(r->params->acc));
}

static void copy_all(reading_t *r)
{
    for (int i = 0; i < r->params->count; i++) {
        const gln_param_t *param = &r->params->items[i];
        copy_tensor(r, param, 0, gln_param_w(r->params, param));
        copy_tensor(r, param, 1, gln_param_m(r->params, param));
        copy_tensor(r, param, 2, gln_param_v(r->params, param));
    }
    gln_params_round(r->params);
    for (int i = 0; i < r->fields_count; i++)
        if (!r->fields[i].is_model) gln_manifest_field(&r->manifest, &r->fields[i]);
}

gln_status_t gln_checkpoint_read_as(const char *folder, gln_params_t *params,
                                    gln_checkpoint_field_t *fields, int fields_count,
                                    gln_checkpoint_source_t source)
{
    reading_t r = {.folder = folder,
                   .params = params,
                   .fields = fields,
                   .fields_count = fields_count,
                   .source = source};
    int speaker;
    gln_status_t status = gln_comm_agree(params->parallel->comm, share_manifest(&r), &speaker);
    if (status != GLN_OK) goto close_files;
    status = gln_comm_agree(params->parallel->comm, open_files(&r), &speaker);
    if (status == GLN_OK) copy_all(&r);
close_files:
    for (int f = 0; r.files && f < r.manifest.files_count; f++)
        gln_safetensors_close(r.files[f]);
    free(r.files);
    gln_manifest_close(&r.manifest);
    return status;
}

gln_status_t gln_checkpoint_read(const char *folder, gln_params_t *params,
                                 gln_checkpoint_field_t *fields, int fields_count)
{
    return gln_checkpoint_read_as(folder, params, fields, fields_count, NULL);
}
