/* moe/safetensors.h: one test per promise, and a thousand random corruptions. */
#include "base/log.h"
#include "base/rng.h"
#include "moe/safetensors.h"
#include "tests/support/folder.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static char folder[GLN_TEST_PATH_MAX];

static void setup(void)
{
    gln_test_folder_open(folder);
}

static void teardown(void)
{
    gln_test_folder_close(folder);
}

TestSuite(safetensors, .init = setup, .fini = teardown);

static float weights[] = {1, 2, 3, 4, 5, 6};
static double moments[] = {0.5, -0.25};
static uint16_t halves[] = {0x3f80, 0x4000, 0x4040};

static const gln_tensor_entry_t entries[] = {
    {"layers.0.w", {weights, GLN_F32, 2, {2, 3}}, NULL},
    {"a \"quoted\" name", {moments, GLN_F64, 1, {2}}, NULL},
    {"halves", {halves, GLN_BF16, 1, {3}}, NULL},
    {"empty", {NULL, GLN_F32, 2, {0, 4}}, NULL},
    {"scalar", {weights + 5, GLN_F32, 0, {0}}, NULL},
};

enum { COUNT = sizeof entries / sizeof entries[0] };

/* A file with this header text (its length goes before it) and data_bytes of zeros behind. */
static const char *write_raw(const char *header, size_t data_bytes)
{
    const char *path = gln_test_path(folder, "raw.safetensors");
    uint64_t length = strlen(header);
    size_t bytes = 8 + length + data_bytes;
    char *text = calloc(1, bytes);
    memcpy(text, &length, 8);
    memcpy(text + 8, header, length);
    gln_test_file_write(path, text, bytes);
    free(text);
    return path;
}

/* Opening must be refused as malformed, and the message must say `word`. */
static void refused(const char *header, size_t data_bytes, const char *word)
{
    gln_safetensors_t *file = NULL;
    const char *path = write_raw(header, data_bytes);
    cr_assert_eq(gln_safetensors_open(path, &file), GLN_ERR_CHECKPOINT, "%s", header);
    cr_assert_null(file);
    cr_assert(strstr(gln_last_error(), word), "%s: %s", header, gln_last_error());
    cr_assert(strstr(gln_last_error(), path), "%s", gln_last_error());
}

Test(safetensors, round_trip_keeps_names_types_shapes_bits_and_order)
{
    const char *path = gln_test_path(folder, "x.safetensors");
    gln_safetensors_t *file = NULL;
    uint64_t bytes = 0, checksum = 0;
    cr_assert_eq(gln_safetensors_write(path, entries, COUNT, &bytes, &checksum), GLN_OK);
    cr_assert_eq(gln_safetensors_open(path, &file), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_safetensors_count(file), COUNT);
    for (int i = 0; i < COUNT; i++) {
        gln_tensor_entry_t found, by_name;
        cr_assert(gln_safetensors_find(file, entries[i].name, &by_name));
        for (int j = 0; j < COUNT; j++) {
            found = gln_safetensors_entry(file, j);
            if (!strcmp(found.name, entries[i].name)) break;
        }
        cr_assert_str_eq(found.name, entries[i].name);
        cr_assert_eq(found.tensor.data, by_name.tensor.data);
        cr_assert_eq(found.tensor.dtype, entries[i].tensor.dtype);
        cr_assert_null(found.raw);
        cr_assert_eq(found.tensor.dims_count, entries[i].tensor.dims_count);
        for (int d = 0; d < found.tensor.dims_count; d++)
            cr_assert_eq(found.tensor.dims[d], entries[i].tensor.dims[d]);
        size_t size = gln_safetensors_entry_bytes(&found);
        cr_assert_eq(size, gln_safetensors_entry_bytes(&entries[i]));
        if (size) cr_assert_arr_eq(found.tensor.data, entries[i].tensor.data, size);
    }
    cr_assert_str_eq(gln_safetensors_entry(file, 0).name, "layers.0.w");
    cr_assert_str_eq(gln_safetensors_entry(file, COUNT - 1).name, "scalar");
    cr_assert_not(gln_safetensors_find(file, "layers.0", &(gln_tensor_entry_t){0}));
    cr_assert_eq(gln_safetensors_bytes(file), bytes);
    cr_assert_eq(gln_safetensors_checksum(file), checksum);
    gln_safetensors_close(file);
    gln_safetensors_close(NULL);
    size_t size;
    char *data = gln_test_file_read(path, &size);
    cr_assert_eq(size, bytes);
    cr_assert_eq(XXH3_64bits(data, size), checksum);
    free(data);
}

Test(safetensors, same_tensors_give_the_same_bytes_and_the_published_form)
{
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],"
        "\"data_offsets\":[0,24]}}";
    const gln_tensor_entry_t one = {"w", {weights, GLN_F32, 2, {2, 3}}, NULL};
    size_t bytes;
    const char *a = gln_test_path(folder, "a"), *b = gln_test_path(folder, "b");
    cr_assert_eq(gln_safetensors_write(a, &one, 1, NULL, NULL), GLN_OK);
    cr_assert_eq(gln_safetensors_write(b, &one, 1, NULL, NULL), GLN_OK);
    cr_assert(gln_test_files_equal(a, b));
    char *data = gln_test_file_read(a, &bytes);
    uint64_t length;
    memcpy(&length, data, 8);
    cr_assert_eq(length % 8, 0);
    cr_assert_arr_eq(data + 8, header, sizeof header - 1);
    cr_assert_eq(bytes, 8 + length + 24);
    cr_assert_arr_eq(data + 8 + length, weights, 24);
    free(data);
}

Test(safetensors, a_file_without_tensors)
{
    const char *path = gln_test_path(folder, "none");
    gln_safetensors_t *file = NULL;
    cr_assert_eq(gln_safetensors_write(path, NULL, 0, NULL, NULL), GLN_OK);
    cr_assert_eq(gln_safetensors_open(path, &file), GLN_OK);
    cr_assert_eq(gln_safetensors_count(file), 0);
    gln_safetensors_close(file);
}

Test(safetensors, writing_refuses_bad_names_and_leaves_no_file)
{
    const char *path = gln_test_path(folder, "x");
    gln_tensor_entry_t twice[] = {entries[0], entries[0]}, bad = entries[0], raw = entries[0];
    bad.name = "\xff\xfe";
    raw.raw = "I64";
    cr_assert_eq(gln_safetensors_write(path, twice, 2, NULL, NULL), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "layers.0.w"));
    cr_assert_eq(gln_safetensors_write(path, &bad, 1, NULL, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_safetensors_write(path, &raw, 1, NULL, NULL), GLN_ERR_ARGUMENT);
    bad.name = "__metadata__";
    cr_assert_eq(gln_safetensors_write(path, &bad, 1, NULL, NULL), GLN_ERR_ARGUMENT);
    cr_assert_not(gln_test_exists(path));
}

Test(safetensors, writing_reports_path_and_reason)
{
    const char *path = gln_test_path(folder, "no/such/folder");
    cr_assert_eq(gln_safetensors_write(path, entries, COUNT, NULL, NULL), GLN_ERR_IO);
    cr_assert(strstr(gln_last_error(), path) && strstr(gln_last_error(), "No such file"), "%s",
              gln_last_error());
}

Test(safetensors, missing_file_and_folder_are_io_errors)
{
    gln_safetensors_t *file = NULL;
    cr_assert_eq(gln_safetensors_open(gln_test_path(folder, "none"), &file), GLN_ERR_IO);
    cr_assert(strstr(gln_last_error(), "No such file"), "%s", gln_last_error());
    cr_assert_eq(gln_safetensors_open(folder, &file), GLN_ERR_IO);
}

Test(safetensors, raw_types_are_listed)
{
    gln_safetensors_t *file = NULL;
    const char *path =
        write_raw("{\"i\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
                  "\"j\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[8,16]},"
                  "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]}}  ",
                  19);
    cr_assert_eq(gln_safetensors_open(path, &file), GLN_OK, "%s", gln_last_error());
    static const char *const names[] = {"I64", "I32", "U8"};
    static const size_t sizes[] = {8, 8, 3};
    for (int i = 0; i < 3; i++) {
        gln_tensor_entry_t entry = gln_safetensors_entry(file, i);
        cr_assert_str_eq(entry.raw, names[i]);
        cr_assert_eq(gln_safetensors_entry_bytes(&entry), sizes[i]);
    }
    gln_safetensors_close(file);
}

Test(safetensors, entries_come_in_file_order)
{
    gln_safetensors_t *file = NULL;
    const char *path = write_raw("{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]},"
                                 "\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}",
                                 11);
    cr_assert_eq(gln_safetensors_open(path, &file), GLN_OK);
    cr_assert_str_eq(gln_safetensors_entry(file, 0).name, "a");
    cr_assert_str_eq(gln_safetensors_entry(file, 1).name, "b");
    gln_safetensors_close(file);
}

#define TENSOR(dtype, shape, offsets) \
    "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

Test(safetensors, malformed_headers_are_refused)
{
    refused("[]", 0, "begin with {");
    refused("{  ", 0, "header byte");
    refused("{} x", 0, "header byte");
    refused("{\"w\":1}", 0, "exactly dtype");
    refused("{\"__metadata__\":1}", 0, "object");
    refused("{\"w\":{},\"w\":{}}", 0, "header byte");
    refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "exactly dtype");
    refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":0}}", 4,
            "exactly dtype");
    refused(TENSOR("1", "[1]", "[0,4]"), 4, "string 'dtype'");
    refused(TENSOR("\"F99\"", "[1]", "[0,4]"), 4, "expected dtype");
    refused(TENSOR("\"F32\"", "1", "[0,4]"), 4, "array 'shape'");
    refused(TENSOR("\"F32\"", "[1,1,1,1,1]", "[0,4]"), 4, "4 dims");
    refused(TENSOR("\"F32\"", "[-1]", "[0,4]"), 4, ">= 0");
    refused(TENSOR("\"F32\"", "[1.0]", "[0,4]"), 4, ">= 0");
    refused(TENSOR("\"F32\"", "[4611686018427387904,4611686018427387904]", "[0,4]"), 4,
            "more elements");
    refused(TENSOR("\"F32\"", "[1]", "[0]"), 4, "[begin, end]");
    refused(TENSOR("\"F32\"", "[1]", "[0,\"4\"]"), 4, "[begin, end]");
    refused(TENSOR("\"F32\"", "[1]", "[4,0]"), 4, "outside");
    refused(TENSOR("\"F32\"", "[1]", "[0,4]"), 3, "outside");
    refused(TENSOR("\"F32\"", "[1]", "[4,9223372036854775807]"), 4, "outside");
    refused(TENSOR("\"F32\"", "[2]", "[0,4]"), 4, "do not fit");
    refused(TENSOR("\"F32\"", "[1]", "[4,8]"), 8, "gap");
    refused(TENSOR("\"F32\"", "[1]", "[0,4]"), 5, "behind the last");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
            6, "overlap");
}

Test(safetensors, header_length_is_checked_against_the_file)
{
    static const uint64_t lengths[] = {0, 3, 1000, UINT64_MAX, UINT64_MAX - 7, 100000001};
    const char *path = gln_test_path(folder, "x");
    gln_safetensors_t *file = NULL;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char text[10] = "01234567{}";
        memcpy(text, &lengths[i], 8);
        gln_test_file_write(path, text, sizeof text);
        cr_assert_eq(gln_safetensors_open(path, &file), GLN_ERR_CHECKPOINT);
    }
    for (size_t bytes = 0; bytes < 10; bytes++) {
        gln_test_file_write(path, "\2\0\0\0\0\0\0\0{}", bytes);
        cr_assert_eq(gln_safetensors_open(path, &file), GLN_ERR_CHECKPOINT);
    }
}

/* One to four random edits of the bytes: set, flip a bit, cut, append, or copy another piece over.
 */
static size_t corrupt(char *data, size_t bytes, size_t header, uint64_t *draw)
{
    uint64_t edits = 1 + gln_rng_u64(5, 0, (*draw)++) % 4;
    for (uint64_t e = 0; e < edits && bytes > 0; e++) {
        uint64_t kind = gln_rng_u64(5, 0, (*draw)++) % 8, value = gln_rng_u64(5, 0, (*draw)++);
        size_t range = value % 4 && header < bytes ? header : bytes; /* mostly the header */
        size_t at = gln_rng_u64(5, 0, (*draw)++) % range,
               from = gln_rng_u64(5, 0, (*draw)++) % range;
        static const char structure[] = "{}[]\",:0123456789-. FU";
        if (kind <= 1)
            data[at] = structure[value % (sizeof structure - 1)];
        else if (kind <= 3)
            data[at] = (char)(data[at] ^ (1 << value % 8));
        else if (kind == 4)
            memmove(data + at, data + from, (at > from ? range - at : range - from) % 24);
        else if (kind == 5)
            data[at] = (char)value;
        else if (kind == 6)
            bytes = at;
        else
            data[bytes++] = (char)value;
    }
    return bytes;
}

Test(safetensors, a_thousand_corruptions_never_crash_and_never_pass_the_checksum)
{
    const char *path = gln_test_path(folder, "good"), *bad = gln_test_path(folder, "bad");
    uint64_t checksum, header, draw = 0;
    size_t bytes;
    int opened = 0, refused_count = 0;
    volatile unsigned char sum = 0;
    cr_assert_eq(gln_safetensors_write(path, entries, COUNT, NULL, &checksum), GLN_OK);
    char *good = gln_test_file_read(path, &bytes);
    memcpy(&header, good, 8);
    char *data = malloc(bytes + 16);
    for (int i = 0; i < 1000; i++) {
        gln_safetensors_t *file = NULL;
        memcpy(data, good, bytes);
        size_t size = corrupt(data, bytes, 8 + header, &draw);
        if (size == bytes && !memcmp(data, good, bytes)) continue; /* an edit may change nothing */
        gln_test_file_write(bad, data, size);
        gln_status_t status = gln_safetensors_open(bad, &file);
        refused_count += status == GLN_ERR_CHECKPOINT;
        if (status == GLN_ERR_CHECKPOINT) continue;
        cr_assert_eq(status, GLN_OK);
        cr_assert_neq(gln_safetensors_checksum(file), checksum);
        for (int t = 0; t < gln_safetensors_count(file); t++) { /* what passes must be readable */
            gln_tensor_entry_t entry = gln_safetensors_entry(file, t);
            for (size_t b = 0; b < gln_safetensors_entry_bytes(&entry); b++)
                sum = (unsigned char)(sum + ((const unsigned char *)entry.tensor.data)[b]);
        }
        gln_safetensors_close(file);
        opened++;
    }
    cr_assert_gt(refused_count, 500);
    cr_assert_gt(opened, 20); /* names and data may change and still be well-formed */
    free(data);
    free(good);
}
