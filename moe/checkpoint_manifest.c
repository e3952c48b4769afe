/* The manifest: JSON with one file or tensor a line. Its last member is the XXH3-64 of all bytes
 * before it, written in one fixed form, so that a flipped bit anywhere in the file is seen before
 * the JSON is read. Reading is n log n in the tensors (sorted by name for look-up). */
#include "moe/checkpoint_internal.h"

#include "base/log.h"
#include "moe/file.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define FORMAT_NAME "gleaner checkpoint"
#define TAIL_FORMAT ",\n \"checksum\": \"%016" PRIx64 "\"\n}\n"

enum { TAIL_BYTES = 2 + 13 + 18 + 3, MANIFEST_MAX = 1 << 30 };

const char *gln_shape_text(const char *dtype, int dims_count, const int64_t *dims, char *text)
{
    int at = snprintf(text, GLN_SHAPE_TEXT_MAX, "%.6s [", dtype);
    for (int d = 0; d < dims_count && d < GLN_TENSOR_DIMS_MAX; d++)
        at += snprintf(text + at, (size_t)(GLN_SHAPE_TEXT_MAX - at), "%s%" PRId64, d ? ", " : "",
                       dims[d]);
    snprintf(text + at, (size_t)(GLN_SHAPE_TEXT_MAX - at), "]");
    return text;
}

gln_status_t gln_path_join(const char *folder, const char *name, char *path)
{
    int length = snprintf(path, PATH_MAX, "%s/%s", folder, name);
    if (length < PATH_MAX) return GLN_OK;
    return gln_fail(GLN_ERR_IO, "%s: the path is too long; use a shorter one", folder);
}

static gln_status_t damaged(const char *folder, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static gln_status_t damaged(const char *folder, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return gln_fail(GLN_ERR_CHECKPOINT,
                    "%s/" GLN_MANIFEST_NAME ": %s; use another checkpoint or a copy", folder, what);
}

/* ---- reading -------------------------------------------------------------------------------- */

gln_status_t gln_manifest_load(const char *folder, char **text, size_t *bytes)
{
    char path[PATH_MAX];
    const void *map = NULL;
    size_t size = 0;
    gln_status_t status = gln_path_join(folder, GLN_MANIFEST_NAME, path);
    if (status != GLN_OK) return status;
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return damaged(folder, "expected a checkpoint, found no such file");
    status = gln_file_map(path, &map, &size);
    if (status != GLN_OK) return status;
    if (size == 0 || size > MANIFEST_MAX) {
        status = damaged(folder, "expected 1 byte to 1 GiB, found %zu bytes", size);
        goto unmap;
    }
    char *copy = malloc(size);
    if (!copy) {
        status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
        goto unmap;
    }
    memcpy(copy, map, size);
    *text = copy;
    *bytes = size;
unmap:
    gln_file_unmap(map, size);
    return status;
}

static gln_status_t check_checksum(const char *folder, const char *text, size_t bytes)
{
    char tail[TAIL_BYTES + 1];
    if (bytes <= TAIL_BYTES) return damaged(folder, "the file is cut: found %zu bytes", bytes);
    size_t body = bytes - TAIL_BYTES;
    uint64_t sum = XXH3_64bits(text, body);
    snprintf(tail, sizeof tail, TAIL_FORMAT, sum);
    if (memcmp(text + body, tail, TAIL_BYTES) != 0)
        return damaged(folder,
                       "damaged, cut or edited: expected it to end with the checksum of its "
                       "content, %016" PRIx64,
                       sum);
    return GLN_OK;
}

static const char *get_text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static int get_count(const json_t *value, int64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return 0;
    *out = json_integer_value(value);
    return 1;
}

static gln_status_t parse_files(const char *folder, const json_t *array, gln_manifest_t *manifest)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *value = json_array_get(array, i);
        const char *name = get_text(value, "name"), *sum = get_text(value, "xxh3_64");
        gln_manifest_file_t *file = &manifest->files[i];
        int64_t bytes;
        char *end = NULL;
        if (!name || !sum || !get_count(json_object_get(value, "bytes"), &bytes) ||
            json_object_size(value) != 3)
            return damaged(folder, "file %zu: expected exactly name, bytes and xxh3_64", i);
        if (!name[0] || name[0] == '.' || strchr(name, '/'))
            return damaged(folder, "file %zu: expected a plain file name, found '%.80s'", i, name);
        if (strlen(sum) != 16 || strspn(sum, "0123456789abcdef") != 16)
            return damaged(folder, "file '%.80s': expected 16 hex digits, found '%.80s'", name,
                           sum);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(manifest->files[j].name, name))
                return damaged(folder, "file '%.80s' is listed twice", name);
        *file = (gln_manifest_file_t){name, (uint64_t)bytes, strtoull(sum, &end, 16), 0};
    }
    return GLN_OK;
}

static int compare_tensors(const void *a, const void *b)
{
    const gln_manifest_tensor_t *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static gln_status_t parse_tensor(const char *folder, const json_t *value, gln_manifest_t *manifest,
                                 gln_manifest_tensor_t *tensor)
{
    const char *file = get_text(value, "file");
    const json_t *shape = json_object_get(value, "shape");
    tensor->name = get_text(value, "name");
    tensor->dtype = get_text(value, "dtype");
    if (!tensor->name || !tensor->dtype || !file || !json_is_array(shape) ||
        json_object_size(value) != 4)
        return damaged(folder, "tensor '%.80s': expected exactly name, dtype, shape and file",
                       tensor->name ? tensor->name : "without a name");
    if (json_array_size(shape) > GLN_TENSOR_DIMS_MAX)
        return damaged(folder, "tensor '%.80s': expected at most 4 dims, found %zu", tensor->name,
                       json_array_size(shape));
    tensor->dims_count = (int)json_array_size(shape);
    for (int d = 0; d < tensor->dims_count; d++)
        if (!get_count(json_array_get(shape, (size_t)d), &tensor->dims[d]))
            return damaged(folder, "tensor '%.80s': expected dims that are integers >= 0",
                           tensor->name);
    int i = 0;
    while (i < manifest->files_count && strcmp(manifest->files[i].name, file))
        i++;
    if (i == manifest->files_count)
        return damaged(folder,
                       "tensor '%.80s' is said to be in '%.80s', which is not among the files",
                       tensor->name, file);
    tensor->file = i;
    manifest->files[i].tensors_count++;
    return GLN_OK;
}

static gln_status_t parse_tensors(const char *folder, const json_t *array, gln_manifest_t *manifest)
{
    for (int i = 0; i < manifest->tensors_count; i++) {
        gln_status_t status =
            parse_tensor(folder, json_array_get(array, (size_t)i), manifest, &manifest->tensors[i]);
        if (status != GLN_OK) return status;
    }
    qsort(manifest->tensors, (size_t)manifest->tensors_count, sizeof *manifest->tensors,
          compare_tensors);
    for (int i = 1; i < manifest->tensors_count; i++)
        if (!strcmp(manifest->tensors[i - 1].name, manifest->tensors[i].name))
            return damaged(folder, "tensor '%.80s' is listed twice", manifest->tensors[i].name);
    return GLN_OK;
}

/* Non-finite reals are texts, because JSON has no numbers for them. */
static int get_real(const json_t *value, double *out)
{
    const char *text = json_string_value(value);
    if (json_is_real(value))
        *out = json_real_value(value);
    else if (text && !strcmp(text, "inf"))
        *out = INFINITY;
    else if (text && !strcmp(text, "-inf"))
        *out = -INFINITY;
    else if (text && !strcmp(text, "nan"))
        *out = NAN;
    else
        return 0;
    return 1;
}

static gln_status_t check_fields(const char *folder, const char *group, const json_t *object)
{
    const char *key;
    json_t *value;
    double real;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (!json_is_integer(value) && !get_real(value, &real))
            return damaged(folder, "%s '%.80s': expected a number", group, key);
    }
    return GLN_OK;
}

static gln_status_t check_root(const char *folder, const json_t *root)
{
    static const char *const keys[] = {"format", "version", "model",   "state",
                                       "files",  "tensors", "checksum"};
    enum { KEYS_COUNT = sizeof keys / sizeof keys[0] };
    const char *format = get_text(root, "format"), *key;
    const json_t *version = json_object_get(root, "version");
    json_t *value;
    if (!format || strcmp(format, FORMAT_NAME))
        return damaged(folder, "expected format '" FORMAT_NAME "', found '%.80s'",
                       format ? format : "none");
    if (!json_is_integer(version) || json_integer_value(version) != GLN_CHECKPOINT_VERSION)
        return damaged(folder,
                       "expected version %d, found %lld: written by another version of gleaner",
                       GLN_CHECKPOINT_VERSION, (long long)json_integer_value(version));
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        int i = 0;
        while (i < KEYS_COUNT && strcmp(keys[i], key))
            i++;
        if (i == KEYS_COUNT) return damaged(folder, "unknown field '%.80s'", key);
    }
    if (json_object_size(root) != KEYS_COUNT || !json_is_object(json_object_get(root, "model")) ||
        !json_is_object(json_object_get(root, "state")) ||
        !json_is_array(json_object_get(root, "files")) ||
        !json_is_array(json_object_get(root, "tensors")))
        return damaged(folder,
                       "expected objects 'model' and 'state' and lists 'files' and 'tensors'");
    return GLN_OK;
}

/* Tables out of a root that passed check_root. */
static gln_status_t parse_tables(const char *folder, gln_manifest_t *manifest)
{
    const json_t *files = json_object_get(manifest->root, "files");
    const json_t *tensors = json_object_get(manifest->root, "tensors");
    manifest->model = json_object_get(manifest->root, "model");
    manifest->state = json_object_get(manifest->root, "state");
    manifest->files_count = (int)json_array_size(files);
    manifest->tensors_count = (int)json_array_size(tensors);
    manifest->files = calloc((size_t)manifest->files_count + 1, sizeof *manifest->files);
    manifest->tensors = calloc((size_t)manifest->tensors_count + 1, sizeof *manifest->tensors);
    if (!manifest->files || !manifest->tensors)
        return gln_fail(GLN_ERR_MEMORY, "%s: no memory for its list of %d tensors", folder,
                        manifest->tensors_count);
    gln_status_t status = check_fields(folder, "model", manifest->model);
    if (status == GLN_OK) status = check_fields(folder, "state", manifest->state);
    if (status == GLN_OK) status = parse_files(folder, files, manifest);
    if (status == GLN_OK) status = parse_tensors(folder, tensors, manifest);
    return status;
}

gln_status_t gln_manifest_parse(const char *folder, const char *text, size_t bytes,
                                gln_manifest_t *manifest)
{
    gln_manifest_t parsed = {0};
    json_error_t error;
    gln_status_t status = check_checksum(folder, text, bytes);
    if (status != GLN_OK) return status;
    parsed.root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!parsed.root) return damaged(folder, "line %d: %s", error.line, error.text);
    status = json_is_object(parsed.root) ? check_root(folder, parsed.root)
                                         : damaged(folder, "expected an object");
    if (status == GLN_OK) status = parse_tables(folder, &parsed);
    if (status != GLN_OK) {
        gln_manifest_close(&parsed);
        return status;
    }
    *manifest = parsed;
    return GLN_OK;
}

gln_status_t gln_manifest_open(const char *folder, gln_manifest_t *manifest)
{
    char *text = NULL;
    size_t bytes = 0;
    gln_status_t status = gln_manifest_load(folder, &text, &bytes);
    if (status != GLN_OK) return status;
    status = gln_manifest_parse(folder, text, bytes, manifest);
    free(text);
    return status;
}

void gln_manifest_close(gln_manifest_t *manifest)
{
    free(manifest->tensors);
    free(manifest->files);
    json_decref(manifest->root);
    *manifest = (gln_manifest_t){0};
}

int gln_manifest_find(const gln_manifest_t *manifest, const char *name)
{
    gln_manifest_tensor_t key = {.name = name};
    const gln_manifest_tensor_t *found =
        bsearch(&key, manifest->tensors, (size_t)manifest->tensors_count, sizeof *manifest->tensors,
                compare_tensors);
    return found ? (int)(found - manifest->tensors) : -1;
}

int gln_manifest_field(const gln_manifest_t *manifest, gln_checkpoint_field_t *field)
{
    const json_t *value =
        json_object_get(field->is_model ? manifest->model : manifest->state, field->key);
    if (!value) return 0;
    if (field->is_real) return get_real(value, &field->real) ? 1 : -1;
    if (!json_is_integer(value)) return -1;
    field->integer = json_integer_value(value);
    return 1;
}

/* ---- writing -------------------------------------------------------------------------------- */

static json_t *make_real(double real)
{
    if (isnan(real)) return json_string("nan");
    if (isinf(real)) return json_string(real > 0 ? "inf" : "-inf");
    return json_real(real);
}

/* "model" or "state" as an object; NULL if a key is bad. */
static json_t *make_fields(const gln_checkpoint_field_t *fields, int fields_count, int is_model)
{
    json_t *object = json_object();
    for (int i = 0; i < fields_count; i++) {
        const gln_checkpoint_field_t *field = &fields[i];
        if (!field->is_model != !is_model) continue;
        json_t *value = field->is_real ? make_real(field->real) : json_integer(field->integer);
        int refused =
            json_object_get(object, field->key) || json_object_set(object, field->key, value) != 0;
        json_decref(value);
        if (!refused) continue;
        json_decref(object);
        gln_fail(GLN_ERR_ARGUMENT, "checkpoint: field '%s': keys must be unique and UTF-8",
                 field->key);
        return NULL;
    }
    return object;
}

static json_t *make_tensor(const gln_manifest_t *manifest, const gln_manifest_tensor_t *tensor)
{
    json_t *shape = json_array();
    for (int d = 0; d < tensor->dims_count; d++)
        json_array_append_new(shape, json_integer(tensor->dims[d]));
    return json_pack("{s:s, s:s, s:o, s:s}", "name", tensor->name, "dtype", tensor->dtype, "shape",
                     shape, "file", manifest->files[tensor->file].name);
}

/* One JSON value on the current line; takes the reference. Returns 0 on success. */
static int put(FILE *out, const char *before, json_t *value)
{
    fputs(before, out);
    int failed = !value || json_dumpf(value, out, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0;
    json_decref(value);
    return failed;
}

/* The manifest up to its checksum. Returns 0 on success. */
static int put_body(FILE *out, const gln_manifest_t *manifest, json_t *model, json_t *state)
{
    int failed = 0;
    fprintf(out, "{\n \"format\": \"" FORMAT_NAME "\",\n \"version\": %d", GLN_CHECKPOINT_VERSION);
    failed |= put(out, ",\n \"model\": ", json_incref(model));
    failed |= put(out, ",\n \"state\": ", json_incref(state));
    fputs(",\n \"files\": [", out);
    for (int i = 0; i < manifest->files_count; i++) {
        const gln_manifest_file_t *file = &manifest->files[i];
        char sum[17];
        snprintf(sum, sizeof sum, "%016" PRIx64, file->checksum);
        failed |= put(out, i ? ",\n  " : "\n  ",
                      json_pack("{s:s, s:I, s:s}", "name", file->name, "bytes",
                                (json_int_t)file->bytes, "xxh3_64", sum));
    }
    fputs("\n ],\n \"tensors\": [", out);
    for (int i = 0; i < manifest->tensors_count; i++)
        failed |= put(out, i ? ",\n  " : "\n  ", make_tensor(manifest, &manifest->tensors[i]));
    fputs("\n ]", out);
    return failed;
}

/* The whole text; the caller frees it. */
static gln_status_t make_text(const char *path, const gln_manifest_t *manifest,
                              const gln_checkpoint_field_t *fields, int fields_count, char **text,
                              size_t *bytes)
{
    gln_status_t status = GLN_ERR_ARGUMENT;
    json_t *model = make_fields(fields, fields_count, 1);
    json_t *state = model ? make_fields(fields, fields_count, 0) : NULL;
    if (!state) goto free_fields;
    status = GLN_OK;
    FILE *out = open_memstream(text, bytes);
    int failed = !out || put_body(out, manifest, model, state) || fflush(out) != 0;
    if (!failed) fprintf(out, TAIL_FORMAT, XXH3_64bits(*text, *bytes));
    if (out && fclose(out) != 0) failed = 1;
    if (failed) {
        if (out) free(*text);
        status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for its text", path);
    }
free_fields:
    json_decref(state);
    json_decref(model);
    return status;
}

gln_status_t gln_manifest_write(const char *folder, const gln_manifest_t *manifest,
                                const gln_checkpoint_field_t *fields, int fields_count)
{
    char path[PATH_MAX];
    char *text = NULL;
    size_t bytes = 0;
    gln_file_writer_t writer;
    gln_status_t status = gln_path_join(folder, GLN_MANIFEST_NAME, path);
    if (status == GLN_OK) status = make_text(path, manifest, fields, fields_count, &text, &bytes);
    if (status != GLN_OK) return status;
    status = gln_file_writer_open(path, &writer);
    if (status == GLN_OK) {
        status = gln_file_writer_add(&writer, text, bytes);
        status = gln_file_writer_close(&writer, status, NULL, NULL);
    }
    free(text);
    return status;
}
