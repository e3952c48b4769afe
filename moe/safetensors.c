/* Safetensors files. Writing: the header is made by jansson in the order of the tensors and padded
 * with blanks to 8 bytes, so that the data starts aligned; header and data stream through the hash
 * into the file. Reading: the file is mapped and nothing is copied; the header is checked against
 * the size of the file before any address is formed. Linear in the file for writing and hashing, n
 * log n in the tensors for opening. Format: https://github.com/huggingface/safetensors, whose own
 * limits are kept: a header of at most 100 MB, data without gaps or overlaps. */
#include "moe/safetensors.h"

#include "base/log.h"
#include "moe/file.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define HEADER_MAX 100000000u

typedef struct item {
    gln_tensor_entry_t entry;
    uint64_t begin, end; /* of the data, from the end of the header */
    int order;           /* position in the header */
} item_t;

struct gln_safetensors {
    char *path;
    const char *map;
    uint64_t bytes;
    json_t *header; /* owns the names */
    int count;
    item_t *items;         /* [count] in file order */
    const item_t **sorted; /* [count] by name */
};

static const struct {
    const char *name;
    size_t bytes;
    int raw;
    gln_dtype_t dtype;
} formats[] = {{"F32", 4, 0, GLN_F32}, {"BF16", 2, 0, GLN_BF16}, {"F64", 8, 0, GLN_F64},
               {"I32", 4, 1, GLN_F32}, {"I64", 8, 1, GLN_F32},   {"U8", 1, 1, GLN_F32}};

enum { FORMATS_COUNT = (int)(sizeof formats / sizeof formats[0]) };

const char *gln_safetensors_dtype(gln_dtype_t dtype)
{
    for (int i = 0; i < FORMATS_COUNT; i++)
        if (!formats[i].raw && formats[i].dtype == dtype) return formats[i].name;
    GLN_ASSERT(!"a known dtype");
    return NULL;
}

const char *gln_safetensors_entry_dtype(const gln_tensor_entry_t *entry)
{
    return entry->raw ? entry->raw : gln_safetensors_dtype(entry->tensor.dtype);
}

size_t gln_safetensors_entry_bytes(const gln_tensor_entry_t *entry)
{
    const char *name = gln_safetensors_entry_dtype(entry);
    size_t bytes = 0;
    for (int i = 0; i < FORMATS_COUNT; i++)
        if (!strcmp(formats[i].name, name)) bytes = formats[i].bytes;
    for (int d = 0; d < entry->tensor.dims_count; d++)
        bytes *= (size_t)entry->tensor.dims[d];
    return bytes;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* The header as text, padded; the caller frees it. */
static gln_status_t make_header(const char *path, const gln_tensor_entry_t *entries, int count,
                                char **text, size_t *length)
{
    /* "pt" is what the readers of other projects expect to find before they load a file */
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t offset = 0;
    for (int i = 0; i < count; i++) {
        const gln_tensor_entry_t *entry = &entries[i];
        uint64_t end = offset + gln_safetensors_entry_bytes(entry);
        json_t *shape = json_array();
        for (int d = 0; d < entry->tensor.dims_count; d++)
            json_array_append_new(shape, json_integer(entry->tensor.dims[d]));
        json_t *value =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", gln_safetensors_entry_dtype(entry), "shape",
                      shape, "data_offsets", (json_int_t)offset, (json_int_t)end);
        offset = end;
        int refused = entry->raw || json_object_get(header, entry->name) ||
                      json_object_set(header, entry->name, value) != 0; /* not UTF-8 */
        json_decref(value);
        if (!refused) continue;
        json_decref(header);
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "%s: cannot write tensor '%s': names must be unique UTF-8 and the dtype one of "
            "f32, bf16, f64",
            path, entry->name);
    }
    size_t size = json_dumpb(header, NULL, 0, JSON_COMPACT);
    size_t padded = (size + 7) / 8 * 8;
    char *bytes = malloc(padded);
    if (bytes) {
        json_dumpb(header, bytes, size, JSON_COMPACT);
        memset(bytes + size, ' ', padded - size);
    }
    json_decref(header);
    if (!bytes || size == 0) {
        free(bytes);
        return gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate the header of %zu bytes", path,
                        padded);
    }
    *text = bytes;
    *length = padded;
    return GLN_OK;
}

gln_status_t gln_safetensors_write(const char *path, const gln_tensor_entry_t *entries, int count,
                                   uint64_t *bytes, uint64_t *checksum)
{
    char *header = NULL;
    size_t header_bytes = 0;
    gln_file_writer_t writer;
    gln_status_t status = make_header(path, entries, count, &header, &header_bytes);
    if (status != GLN_OK) return status;
    status = gln_file_writer_open(path, &writer);
    if (status != GLN_OK) goto free_header;
    uint64_t length = header_bytes;
    status = gln_file_writer_add(&writer, &length, sizeof length);
    if (status == GLN_OK) status = gln_file_writer_add(&writer, header, header_bytes);
    for (int i = 0; i < count && status == GLN_OK; i++)
        status = gln_file_writer_add(&writer, entries[i].tensor.data,
                                     gln_safetensors_entry_bytes(&entries[i]));
    status = gln_file_writer_close(&writer, status, bytes, checksum);
free_header:
    free(header);
    return status;
}

/* ---- reading -------------------------------------------------------------------------------- */

static gln_status_t malformed(const gln_safetensors_t *file, const char *tensor, const char *what)
{
    return gln_fail(GLN_ERR_CHECKPOINT,
                    "%s: %s%s%s%s: not a well-formed safetensors file; restore it from a copy",
                    file->path, tensor ? "tensor '" : "", tensor ? tensor : "", tensor ? "': " : "",
                    what);
}

/* A non-negative integer of the header. */
static int get_count(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return 0;
    *out = (uint64_t)json_integer_value(value);
    return 1;
}

/* dtype and shape of one entry, and the bytes they need. */
static const char *parse_shape(const json_t *value, gln_tensor_entry_t *entry, uint64_t *bytes)
{
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    const json_t *shape = json_object_get(value, "shape");
    int format = 0;
    if (!dtype) return "expected a string 'dtype'";
    while (format < FORMATS_COUNT && strcmp(dtype, formats[format].name))
        format++;
    if (format == FORMATS_COUNT) return "expected dtype F32, F64, BF16, I32, I64 or U8";
    entry->tensor.dtype = formats[format].dtype;
    entry->raw = formats[format].raw ? formats[format].name : NULL;
    if (!json_is_array(shape) || json_array_size(shape) > GLN_TENSOR_DIMS_MAX)
        return "expected an array 'shape' of at most 4 dims";
    entry->tensor.dims_count = (int)json_array_size(shape);
    *bytes = formats[format].bytes;
    for (int d = 0; d < entry->tensor.dims_count; d++) {
        uint64_t dim;
        if (!get_count(json_array_get(shape, (size_t)d), &dim))
            return "expected dims that are integers >= 0";
        if (dim && *bytes > INT64_MAX / dim)
            return "the shape has more elements than any file can hold";
        *bytes *= dim;
        entry->tensor.dims[d] = (int64_t)dim;
    }
    return NULL;
}

/* One member of the header; data_bytes is what the file has behind its header. NULL, or what is
 * wrong. */
static const char *parse_item(const json_t *value, uint64_t data_bytes, item_t *item)
{
    const json_t *offsets = json_object_get(value, "data_offsets");
    uint64_t bytes;
    if (!json_is_object(value) || json_object_size(value) != 3)
        return "expected exactly dtype, shape and data_offsets";
    const char *wrong = parse_shape(value, &item->entry, &bytes);
    if (wrong) return wrong;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !get_count(json_array_get(offsets, 0), &item->begin) ||
        !get_count(json_array_get(offsets, 1), &item->end))
        return "expected data_offsets [begin, end]";
    if (item->begin > item->end || item->end > data_bytes) return "data_offsets outside the file";
    if (item->end - item->begin != bytes) return "data_offsets do not fit dtype and shape";
    return NULL;
}

static int compare_offsets(const void *a, const void *b)
{
    const item_t *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static int compare_names(const void *a, const void *b)
{
    const item_t *const *x = a, *const *y = b;
    return strcmp((*x)->entry.name, (*y)->entry.name);
}

/* Header text to items in file order, every one checked. */
static gln_status_t parse_items(gln_safetensors_t *file, uint64_t header_bytes)
{
    const char *data = file->map + 8 + header_bytes;
    uint64_t data_bytes = file->bytes - 8 - header_bytes;
    size_t members = json_object_size(file->header);
    file->items = calloc(members + 1, sizeof *file->items);
    file->sorted = calloc(members + 1, sizeof *file->sorted);
    if (!file->items || !file->sorted)
        return gln_fail(GLN_ERR_MEMORY, "%s: no memory for a list of %zu tensors", file->path,
                        members);
    const char *name;
    json_t *value;
    json_object_foreach(file->header, name, value)
    {
        if (!strcmp(name, "__metadata__")) {
            if (!json_is_object(value)) return malformed(file, name, "expected an object");
            continue;
        }
        item_t *item = &file->items[file->count];
        const char *wrong = parse_item(value, data_bytes, item);
        if (wrong) return malformed(file, name, wrong);
        item->entry.name = name;
        item->order = file->count++;
    }
    qsort(file->items, (size_t)file->count, sizeof *file->items, compare_offsets);
    uint64_t end = 0;
    for (int i = 0; i < file->count; i++) {
        item_t *item = &file->items[i];
        if (item->begin != end)
            return malformed(file, item->entry.name, "a gap or an overlap before its data");
        end = item->end;
        item->entry.tensor.data = (char *)(uintptr_t)data + item->begin;
        file->sorted[i] = item;
    }
    if (end != data_bytes) return malformed(file, NULL, "bytes behind the last tensor");
    qsort(file->sorted, (size_t)file->count, sizeof *file->sorted, compare_names);
    return GLN_OK;
}

static gln_status_t parse(gln_safetensors_t *file)
{
    uint64_t header_bytes;
    json_error_t error;
    char message[JSON_ERROR_TEXT_LENGTH + 40];
    memcpy(&header_bytes, file->map, sizeof header_bytes);
    if (header_bytes > HEADER_MAX || header_bytes > file->bytes - 8)
        return malformed(file, NULL, "header length larger than the file or than 100 MB");
    if (header_bytes == 0 || file->map[8] != '{')
        return malformed(file, NULL, "the header does not begin with {");
    file->header = json_loadb(file->map + 8, header_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!file->header) {
        snprintf(message, sizeof message, "header byte %d: %s", error.position, error.text);
        return malformed(file, NULL, message);
    }
    return parse_items(file, header_bytes);
}

gln_status_t gln_safetensors_open(const char *path, gln_safetensors_t **out)
{
    gln_safetensors_t *file = calloc(1, sizeof *file);
    if (!file) return gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate %zu bytes", path, sizeof *file);
    gln_status_t status = GLN_ERR_MEMORY;
    file->path = strdup(path);
    if (!file->path) {
        gln_fail(status, "%s: cannot allocate its name", path);
        goto fail;
    }
    const void *map = NULL;
    size_t bytes = 0;
    status = gln_file_map(path, &map, &bytes);
    if (status != GLN_OK) goto fail;
    file->map = map;
    file->bytes = bytes;
    status = file->bytes < 10 ? malformed(file, NULL, "shorter than a header") : parse(file);
    if (status != GLN_OK) goto fail;
    *out = file;
    return GLN_OK;
fail:
    gln_safetensors_close(file);
    return status;
}

int gln_safetensors_count(const gln_safetensors_t *file)
{
    return file->count;
}

gln_tensor_entry_t gln_safetensors_entry(const gln_safetensors_t *file, int i)
{
    GLN_ASSERT(i >= 0 && i < file->count);
    return file->items[i].entry;
}

int gln_safetensors_find(const gln_safetensors_t *file, const char *name, gln_tensor_entry_t *out)
{
    item_t key = {.entry = {.name = name}};
    const item_t *key_address = &key;
    const item_t *const *found = bsearch(&key_address, file->sorted, (size_t)file->count,
                                         sizeof *file->sorted, compare_names);
    if (!found) return 0;
    *out = (*found)->entry;
    return 1;
}

uint64_t gln_safetensors_bytes(const gln_safetensors_t *file)
{
    return file->bytes;
}

uint64_t gln_safetensors_checksum(const gln_safetensors_t *file)
{
    return XXH3_64bits(file->map, (size_t)file->bytes);
}

void gln_safetensors_close(gln_safetensors_t *file)
{
    if (!file) return;
    if (file->map) gln_file_unmap(file->map, (size_t)file->bytes);
    json_decref(file->header);
    free(file->sorted);
    free(file->items);
    free(file->path);
    free(file);
}
