/* Writing a checkpoint. The files follow from the config alone: one for the dense parameters, one
 * per domain of a group for the experts that live there (which those are follows the placement;
 * readers go by name). The owner of a file is the lowest rank that
 * holds its tensors; it streams them from its buffers, so nothing is gathered and nothing is
 * copied. Sizes and checksums are summed over ranks (all but the owner bring zeros) and rank 0
 * writes the manifest last. Crash safety: files and folder are forced to the disk before the
 * rename, the parent after it. */
#include "moe/checkpoint_internal.h"

#include "base/log.h"
#include "moe/file.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef char tensor_name_t[GLN_TENSOR_NAME_MAX];

typedef struct writing {
    const gln_params_t *params;
    char folder[PATH_MAX], partial[PATH_MAX], parent[PATH_MAX];
    int tensors_per_param;   /* 3 with moments, 1 without */
    int made;                /* rank 0: the partial folder is ours */
    gln_manifest_t manifest; /* root, model and state unused */
    tensor_name_t *names;    /* [tensors_count] of the manifest's tensors, in writing order */
    tensor_name_t *file_names;
    gln_tensor_entry_t *entries; /* of one file */
    int64_t *sums;               /* [files_count, 2] size and checksum */
} writing_t;

static int file_of(const gln_params_t *params, const gln_param_t *param)
{
    return param->expert < 0 ? 0 : 1 + param->place / params->parallel->per_domain;
}

static int owner_of(const gln_params_t *params, int file)
{
    return file == 0 ? 0 : (file - 1) / params->parallel->local_domains;
}

/* Fix the three paths; trailing slashes are dropped. */
static gln_status_t set_paths(const char *folder, writing_t *w)
{
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    if (length == 0 || length + sizeof ".partial" > PATH_MAX)
        return gln_fail(GLN_ERR_IO,
                        "checkpoint '%.80s': expected a path of 1 to %d bytes, found %zu", folder,
                        PATH_MAX - (int)sizeof ".partial", length);
    memcpy(w->folder, folder, length);
    memcpy(w->partial, folder, length);
    memcpy(w->partial + length, ".partial", sizeof ".partial");
    return gln_folder_parent(w->folder, w->parent);
}

/* List files and tensors, all but sizes and checksums. */
static void list_tensors(writing_t *w)
{
    static const char *const suffixes[] = {"", ".m", ".v"};
    const gln_params_t *params = w->params;
    gln_manifest_t *manifest = &w->manifest;
    for (int f = 0; f < manifest->files_count; f++) {
        if (f == 0)
            strcpy(w->file_names[f], "dense.safetensors");
        else
            snprintf(w->file_names[f], sizeof w->file_names[f], "experts-%05d.safetensors", f - 1);
        manifest->files[f].name = w->file_names[f];
    }
    for (int i = 0; i < params->count; i++) {
        const gln_param_t *param = &params->items[i];
        for (int s = 0; s < w->tensors_per_param; s++) {
            int t = manifest->tensors_count++;
            gln_manifest_tensor_t *tensor = &manifest->tensors[t];
            snprintf(w->names[t], sizeof w->names[t], "%s%s", param->name, suffixes[s]);
            *tensor = (gln_manifest_tensor_t){.name = w->names[t],
                                              .dtype = gln_safetensors_dtype(params->acc),
                                              .dims_count = param->dims_count,
                                              .dims = {param->dims[0], param->dims[1]},
                                              .file = file_of(params, param)};
        }
    }
}

/* Everything that this rank knows by itself. */
static gln_status_t prepare(const char *folder, writing_t *w)
{
    const gln_params_t *params = w->params;
    const gln_parallel_t *p = params->parallel;
    int experts = 0;
    gln_status_t status = set_paths(folder, w);
    if (status != GLN_OK) return status;
    for (int i = 0; i < params->count; i++)
        experts |= params->items[i].expert >= 0;
    w->tensors_per_param = params->dense_grad ? 3 : 1;
    int files = 1 + (experts ? p->experts / p->per_domain : 0);
    size_t tensors = (size_t)params->count * (size_t)w->tensors_per_param;
    w->manifest.files_count = files;
    w->manifest.files = calloc((size_t)files, sizeof *w->manifest.files);
    w->manifest.tensors = calloc(tensors + 1, sizeof *w->manifest.tensors);
    w->names = calloc(tensors + 1, sizeof *w->names);
    w->file_names = calloc((size_t)files, sizeof *w->file_names);
    w->entries = calloc(tensors + 1, sizeof *w->entries);
    w->sums = calloc((size_t)files * 2, sizeof *w->sums);
    if (!w->manifest.files || !w->manifest.tensors || !w->names || !w->file_names || !w->entries ||
        !w->sums)
        return gln_fail(GLN_ERR_MEMORY, "%s: no memory to list %zu tensors", folder, tensors);
    list_tensors(w);
    return GLN_OK;
}

static void release(writing_t *w)
{
    free(w->sums);
    free(w->entries);
    free(w->file_names);
    free(w->names);
    gln_manifest_close(&w->manifest);
    free(w);
}

/* Rank 0: an empty partial folder. */
static gln_status_t begin(writing_t *w)
{
    struct stat about;
    if (lstat(w->folder, &about) == 0)
        return gln_fail(GLN_ERR_IO,
                        "%s: expected to make this folder, found that it exists; move it away",
                        w->folder);
    if (errno != ENOENT && errno != ENOTDIR)
        return gln_fail(GLN_ERR_IO, "%s: cannot examine: %s", w->folder, strerror(errno));
    gln_status_t status = gln_folder_remove(w->partial);
    if (status == GLN_OK) status = gln_folder_make(w->parent);
    if (status != GLN_OK) return status;
    if (mkdir(w->partial, 0777) != 0)
        return gln_fail(GLN_ERR_IO, "%s: cannot make the folder: %s; check its permissions",
                        w->partial, strerror(errno));
    w->made = 1;
    return GLN_OK;
}

/* One file out of this rank's buffers. */
static gln_status_t write_file(writing_t *w, int file)
{
    const gln_params_t *params = w->params;
    char path[PATH_MAX];
    int count = 0;
    for (int i = 0, t = 0; i < params->count; i++) {
        const gln_param_t *param = &params->items[i];
        void *const data[] = {gln_param_w(params, param), gln_param_m(params, param),
                              gln_param_v(params, param)};
        for (int s = 0; s < w->tensors_per_param; s++, t++) {
            const gln_manifest_tensor_t *tensor = &w->manifest.tensors[t];
            if (tensor->file != file) continue;
            GLN_ASSERT(data[s]); /* the owner of a file holds its tensors */
            w->entries[count++] =
                (gln_tensor_entry_t){.name = tensor->name,
                                     .tensor = {.data = data[s],
                                                .dtype = params->acc,
                                                .dims_count = tensor->dims_count,
                                                .dims = {tensor->dims[0], tensor->dims[1]}}};
        }
    }
    uint64_t bytes = 0, checksum = 0;
    gln_status_t status = gln_path_join(w->partial, w->manifest.files[file].name, path);
    if (status == GLN_OK)
        status = gln_safetensors_write(path, w->entries, count, &bytes, &checksum);
    if (status != GLN_OK) return status;
    w->sums[2 * file] = (int64_t)bytes;
    w->sums[2 * file + 1] = (int64_t)checksum;
    return GLN_OK;
}

static gln_status_t write_own_files(writing_t *w)
{
    gln_status_t status = GLN_OK;
    for (int f = 0; f < w->manifest.files_count && status == GLN_OK; f++)
        if (owner_of(w->params, f) == w->params->parallel->rank) status = write_file(w, f);
    return status;
}

/* Rank 0: every file must be visible here, or ranks do not see the same file system. */
static gln_status_t check_sizes(writing_t *w)
{
    for (int f = 0; f < w->manifest.files_count; f++) {
        gln_manifest_file_t *file = &w->manifest.files[f];
        char path[PATH_MAX];
        struct stat about;
        gln_status_t status = gln_path_join(w->partial, file->name, path);
        if (status != GLN_OK) return status;
        file->bytes = (uint64_t)w->sums[2 * f];
        file->checksum = (uint64_t)w->sums[2 * f + 1];
        int64_t found = stat(path, &about) == 0 ? (int64_t)about.st_size : -1;
        if (found != (int64_t)file->bytes)
            return gln_fail(GLN_ERR_IO,
                            "%s: rank %d wrote %" PRIu64 " bytes, rank 0 finds %" PRId64
                            " (-1: no file); write to a folder that all ranks share",
                            path, owner_of(w->params, f), file->bytes, found);
    }
    return GLN_OK;
}

/* Rank 0: manifest, disk, rename, disk. */
static gln_status_t finish(writing_t *w, const gln_checkpoint_field_t *fields, int fields_count)
{
    gln_status_t status = check_sizes(w);
    if (status == GLN_OK)
        status = gln_manifest_write(w->partial, &w->manifest, fields, fields_count);
    if (status == GLN_OK) status = gln_folder_sync(w->partial);
    if (status != GLN_OK) return status;
    if (rename(w->partial, w->folder) != 0)
        return gln_fail(GLN_ERR_IO, "%s: cannot rename to %s: %s", w->partial, w->folder,
                        strerror(errno));
    status = gln_folder_sync(w->parent);
    if (status != GLN_OK && rename(w->folder, w->partial) != 0)
        gln_log(GLN_LOG_WARN, "%s: complete, but cannot be taken back after an error: %s",
                w->folder, strerror(errno));
    return status;
}

gln_status_t gln_checkpoint_write(const char *folder, const gln_params_t *params,
                                  const gln_checkpoint_field_t *fields, int fields_count)
{
    const gln_parallel_t *p = params->parallel;
    int root = p->rank == 0, speaker;
    gln_status_t status = GLN_OK;
    writing_t *w = calloc(1, sizeof *w);
    if (w) {
        w->params = params;
        status = prepare(folder, w);
    } else {
        status = gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate %zu bytes", folder, sizeof *w);
    }
    if (status == GLN_OK && root) status = begin(w);
    status = gln_comm_agree(p->comm, status, &speaker);
    if (status != GLN_OK) goto fail;
    status = gln_comm_agree(p->comm, write_own_files(w), &speaker);
    if (status != GLN_OK) goto fail;
    status = gln_comm_sum_i64(p->comm, w->sums, 2 * w->manifest.files_count);
    if (status == GLN_OK && root) status = finish(w, fields, fields_count);
    status = gln_comm_agree(p->comm, status, &speaker);
    if (status != GLN_OK) goto fail;
    release(w);
    return GLN_OK;
fail: /* nobody writes any more: all ranks have agreed to stop, or are gone */
    if (w && w->made) gln_folder_remove(w->partial);
    if (w) release(w);
    return status;
}
