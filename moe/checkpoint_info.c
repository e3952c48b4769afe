/* What can be asked of a checkpoint without parameters: the newest of a run, its fields, its
 * digest, its description; and the verification of one file, which reading uses too. One rank,
 * linear in the bytes. */
#include "moe/checkpoint_internal.h"

#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- finding --------------------------------------------------------------------------------- */

/* The number in "step-XXXXXXXX"; -1 if the name is another. */
static int64_t step_of(const char *name)
{
    enum { PREFIX = 5, DIGITS_MIN = 8, DIGITS_MAX = 18 };
    if (strncmp(name, "step-", PREFIX)) return -1;
    size_t digits = strspn(name + PREFIX, "0123456789");
    if (digits < DIGITS_MIN || digits > DIGITS_MAX || name[PREFIX + digits]) return -1;
    if (digits > DIGITS_MIN && name[PREFIX] == '0') return -1; /* one number, one name */
    return strtoll(name + PREFIX, NULL, 10);
}

static int has_manifest(const char *folder)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/" GLN_MANIFEST_NAME, folder);
    return length < (int)sizeof path && access(path, F_OK) == 0;
}

gln_status_t gln_checkpoint_latest(const char *run_folder, char *path, size_t size)
{
    char folder[PATH_MAX], candidate[PATH_MAX], best[PATH_MAX];
    int64_t best_step = -1;
    gln_status_t status = gln_path_join(run_folder, "checkpoints", folder);
    if (status != GLN_OK) return status;
    DIR *listing = opendir(folder);
    if (!listing && errno != ENOENT && errno != ENOTDIR)
        return gln_fail(GLN_ERR_IO, "%s: cannot list the folder: %s; check its permissions", folder,
                        strerror(errno));
    struct dirent *entry;
    while (listing && (entry = readdir(listing))) {
        int64_t step = step_of(entry->d_name);
        int length = snprintf(candidate, sizeof candidate, "%s/%s", folder, entry->d_name);
        if (step <= best_step || length >= (int)sizeof candidate || !has_manifest(candidate))
            continue;
        best_step = step;
        strcpy(best, candidate);
    }
    if (listing) closedir(listing);
    if (best_step < 0)
        return gln_fail(
            GLN_ERR_CHECKPOINT,
            "%s: expected a complete checkpoint step-XXXXXXXX, found none; check the run folder",
            folder);
    if (strlen(best) >= size)
        return gln_fail(GLN_ERR_ARGUMENT, "%s: the path needs %zu bytes, the caller has %zu", best,
                        strlen(best) + 1, size);
    strcpy(path, best);
    return GLN_OK;
}

gln_status_t gln_checkpoint_resolve(const char *path, char *folder)
{
    char inner[PATH_MAX];
    gln_status_t status = gln_path_join(path, "checkpoints", inner);
    if (status != GLN_OK) return status;
    if (has_manifest(path)) {
        strcpy(folder, path);
        return GLN_OK;
    }
    if (access(inner, F_OK) == 0) return gln_checkpoint_latest(path, folder, PATH_MAX);
    return gln_fail(GLN_ERR_CHECKPOINT,
                    "%s: expected a checkpoint (" GLN_MANIFEST_NAME
                    ") or a run folder (checkpoints/), found neither; check the path",
                    path);
}

/* ---- verifying ------------------------------------------------------------------------------- */

/* Do the tensors in the file agree with what the manifest says of them? */
static gln_status_t check_entries(const char *path, const gln_manifest_t *manifest, int file,
                                  const gln_safetensors_t *opened)
{
    char expected[GLN_SHAPE_TEXT_MAX], found[GLN_SHAPE_TEXT_MAX];
    int count = gln_safetensors_count(opened);
    if (count != manifest->files[file].tensors_count)
        return gln_fail(GLN_ERR_CHECKPOINT,
                        "%s: the manifest lists %d tensors in it, found %d; use another checkpoint",
                        path, manifest->files[file].tensors_count, count);
    for (int i = 0; i < count; i++) {
        gln_tensor_entry_t entry = gln_safetensors_entry(opened, i);
        const char *dtype = gln_safetensors_entry_dtype(&entry);
        int t = gln_manifest_find(manifest, entry.name);
        if (t < 0 || manifest->tensors[t].file != file)
            return gln_fail(GLN_ERR_CHECKPOINT,
                            "%s: tensor '%.80s' is not listed for this file in the manifest; use "
                            "another checkpoint",
                            path, entry.name);
        const gln_manifest_tensor_t *tensor = &manifest->tensors[t];
        if (strcmp(tensor->dtype, dtype) || tensor->dims_count != entry.tensor.dims_count ||
            memcmp(tensor->dims, entry.tensor.dims,
                   (size_t)tensor->dims_count * sizeof *tensor->dims))
            return gln_fail(
                GLN_ERR_CHECKPOINT,
                "%s: tensor '%.80s': the manifest says %s, found %s; use another checkpoint", path,
                entry.name,
                gln_shape_text(tensor->dtype, tensor->dims_count, tensor->dims, expected),
                gln_shape_text(dtype, entry.tensor.dims_count, entry.tensor.dims, found));
    }
    return GLN_OK;
}

gln_status_t gln_checkpoint_file_open(const char *folder, const gln_manifest_t *manifest, int file,
                                      gln_safetensors_t **out)
{
    const gln_manifest_file_t *listed = &manifest->files[file];
    char path[PATH_MAX];
    struct stat about;
    gln_safetensors_t *opened = NULL;
    gln_status_t status = gln_path_join(folder, listed->name, path);
    if (status != GLN_OK) return status;
    if (stat(path, &about) != 0)
        return gln_fail(errno == ENOENT ? GLN_ERR_CHECKPOINT : GLN_ERR_IO,
                        "%s: the manifest lists it, but it cannot be found: %s; use another "
                        "checkpoint or a copy",
                        path, strerror(errno));
    if ((uint64_t)about.st_size != listed->bytes)
        return gln_fail(GLN_ERR_CHECKPOINT,
                        "%s: expected %" PRIu64 " bytes, found %" PRId64
                        ": cut or replaced; use another checkpoint or a copy",
                        path, listed->bytes, (int64_t)about.st_size);
    status = gln_safetensors_open(path, &opened);
    if (status != GLN_OK) return status;
    uint64_t checksum = gln_safetensors_checksum(opened);
    if (checksum != listed->checksum)
        status = gln_fail(GLN_ERR_CHECKPOINT,
                          "%s: expected XXH3-64 %016" PRIx64 ", found %016" PRIx64
                          ": its content is damaged; use another checkpoint or a copy",
                          path, listed->checksum, checksum);
    if (status == GLN_OK) status = check_entries(path, manifest, file, opened);
    if (status != GLN_OK) {
        gln_safetensors_close(opened);
        return status;
    }
    *out = opened;
    return GLN_OK;
}

/* A whole checkpoint, verified. */
typedef struct opened {
    char folder[PATH_MAX];
    gln_manifest_t manifest;
    gln_safetensors_t **files;
} opened_t;

static void close_all(opened_t *all)
{
    for (int f = 0; all->files && f < all->manifest.files_count; f++)
        gln_safetensors_close(all->files[f]);
    free(all->files);
    gln_manifest_close(&all->manifest);
}

static gln_status_t open_all(const char *path, opened_t *all)
{
    *all = (opened_t){0};
    gln_status_t status = gln_checkpoint_resolve(path, all->folder);
    if (status == GLN_OK) status = gln_manifest_open(all->folder, &all->manifest);
    if (status != GLN_OK) return status;
    all->files = calloc((size_t)all->manifest.files_count + 1, sizeof *all->files);
    if (!all->files)
        status =
            gln_fail(GLN_ERR_MEMORY, "%s: no memory for %d files", path, all->manifest.files_count);
    for (int f = 0; f < all->manifest.files_count && status == GLN_OK; f++)
        status = gln_checkpoint_file_open(all->folder, &all->manifest, f, &all->files[f]);
    if (status != GLN_OK) close_all(all);
    return status;
}

/* ---- digest ---------------------------------------------------------------------------------- */

/* Per tensor: name and dtype with their terminators, the number of dims and the dims as 64-bit
 * little-endian integers, and the hash of the data in canonical (big-endian) form. */
static void hash_tensor(XXH3_state_t *state, const opened_t *all,
                        const gln_manifest_tensor_t *tensor)
{
    gln_tensor_entry_t entry;
    XXH128_canonical_t data;
    int64_t dims_count = tensor->dims_count;
    GLN_ASSERT(gln_safetensors_find(all->files[tensor->file], tensor->name, &entry));
    XXH128_canonicalFromHash(&data,
                             XXH3_128bits(entry.tensor.data, gln_safetensors_entry_bytes(&entry)));
    XXH3_128bits_update(state, tensor->name, strlen(tensor->name) + 1);
    XXH3_128bits_update(state, tensor->dtype, strlen(tensor->dtype) + 1);
    XXH3_128bits_update(state, &dims_count, sizeof dims_count);
    XXH3_128bits_update(state, tensor->dims, (size_t)dims_count * sizeof *tensor->dims);
    XXH3_128bits_update(state, &data, sizeof data);
}

static gln_status_t digest_all(const opened_t *all, char digest[33])
{
    XXH3_state_t *state = XXH3_createState();
    XXH128_canonical_t whole;
    if (!state) return gln_fail(GLN_ERR_MEMORY, "%s: no memory for its digest", all->folder);
    XXH3_128bits_reset(state);
    for (int t = 0; t < all->manifest.tensors_count; t++) /* in name order */
        hash_tensor(state, all, &all->manifest.tensors[t]);
    XXH128_canonicalFromHash(&whole, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    for (int i = 0; i < 16; i++)
        snprintf(digest + 2 * i, 3, "%02x", whole.digest[i]);
    return GLN_OK;
}

gln_status_t gln_checkpoint_digest(const char *path, char digest[33])
{
    opened_t *all = malloc(sizeof *all);
    if (!all) return gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate %zu bytes", path, sizeof *all);
    gln_status_t status = open_all(path, all);
    if (status == GLN_OK) {
        status = digest_all(all, digest);
        close_all(all);
    }
    free(all);
    return status;
}

/* ---- description ----------------------------------------------------------------------------- */

static void report_number(gln_checkpoint_report_t report, void *ctx, const char *group,
                          const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    report(ctx, group, key, text);
}

static void report_fields(gln_checkpoint_report_t report, void *ctx, const char *group,
                          const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        char text[40];
        if (json_is_integer(value))
            snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
        else if (json_is_real(value))
            snprintf(text, sizeof text, "%.17g", json_real_value(value));
        else
            snprintf(text, sizeof text, "%.30s", json_string_value(value));
        report(ctx, group, key, text);
    }
}

static void report_all(const opened_t *all, const char *digest, gln_checkpoint_report_t report,
                       void *ctx)
{
    const gln_manifest_t *m = &all->manifest;
    char text[PATH_MAX], shape[GLN_SHAPE_TEXT_MAX];
    uint64_t bytes = 0;
    for (int f = 0; f < m->files_count; f++)
        bytes += m->files[f].bytes;
    report(ctx, "checkpoint", "path", all->folder);
    report_number(report, ctx, "checkpoint", "version", GLN_CHECKPOINT_VERSION);
    report_number(report, ctx, "checkpoint", "tensors", (uint64_t)m->tensors_count);
    report_number(report, ctx, "checkpoint", "bytes", bytes);
    report(ctx, "checkpoint", "digest", digest);
    report_fields(report, ctx, "model", m->model);
    report_fields(report, ctx, "state", m->state);
    for (int f = 0; f < m->files_count; f++) {
        snprintf(text, sizeof text, "%" PRIu64 " bytes, xxh3 %016" PRIx64 ", verified",
                 m->files[f].bytes, m->files[f].checksum);
        report(ctx, "file", m->files[f].name, text);
    }
    for (int t = 0; t < m->tensors_count; t++) {
        const gln_manifest_tensor_t *tensor = &m->tensors[t];
        snprintf(text, sizeof text, "%s in %s",
                 gln_shape_text(tensor->dtype, tensor->dims_count, tensor->dims, shape),
                 m->files[tensor->file].name);
        report(ctx, "tensor", tensor->name, text);
    }
}

gln_status_t gln_checkpoint_info(const char *path, gln_checkpoint_report_t report, void *ctx)
{
    char digest[33];
    opened_t *all = malloc(sizeof *all);
    if (!all) return gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate %zu bytes", path, sizeof *all);
    gln_status_t status = open_all(path, all);
    if (status == GLN_OK) {
        status = digest_all(all, digest);
        if (status == GLN_OK) report_all(all, digest, report, ctx);
        close_all(all);
    }
    free(all);
    return status;
}

gln_status_t gln_checkpoint_fields(const char *path, gln_checkpoint_field_t *fields,
                                   int fields_count)
{
    char folder[PATH_MAX];
    gln_manifest_t manifest;
    gln_status_t status = gln_checkpoint_resolve(path, folder);
    if (status == GLN_OK) status = gln_manifest_open(folder, &manifest);
    if (status != GLN_OK) return status;
    for (int i = 0; i < fields_count && status == GLN_OK; i++) {
        gln_checkpoint_field_t found = fields[i];
        int state = gln_manifest_field(&manifest, &found);
        if (state <= 0)
            status = gln_fail(GLN_ERR_CHECKPOINT,
                              "%s/" GLN_MANIFEST_NAME
                              ": expected %s field '%s' as %s, found %s; written by another "
                              "version or by another program",
                              folder, found.is_model ? "model" : "state", found.key,
                              found.is_real ? "a real" : "an integer",
                              state ? "the other type" : "none");
    }
    for (int i = 0; i < fields_count && status == GLN_OK; i++)
        gln_manifest_field(&manifest, &fields[i]);
    gln_manifest_close(&manifest);
    return status;
}

gln_status_t gln_checkpoint_has_moments(const char *folder, int *has)
{
    gln_manifest_t manifest;
    gln_status_t status = gln_manifest_open(folder, &manifest);
    if (status != GLN_OK) return status;
    *has = 0;
    for (int i = 0; i < manifest.tensors_count; i++) {
        const char *dot = strrchr(manifest.tensors[i].name, '.');
        if (dot && !strcmp(dot, ".m")) *has = 1;
    }
    gln_manifest_close(&manifest);
    return GLN_OK;
}
