/* moe/checkpoint.h: damage of every kind is refused with a message, and changes nothing. */
#include "base/log.h"
#include "tests/support/folder.h"
#include "tests/unit/moe/checkpoint_world.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <unistd.h>
#include <xxhash.h>

static const char *const files[] = {"manifest.json", "dense.safetensors",
                                    "experts-00000.safetensors", "experts-00001.safetensors"};

enum { FILES_COUNT = 4, TAIL_BYTES = 36 };

static char folder[GLN_TEST_PATH_MAX];
static char path[GLN_TEST_PATH_MAX];
static gln_comm_t *comm;
static world_t world;

/* A good checkpoint of fill 1 at `path`, and a world of fill 2 that tries to read it. */
static void setup(void)
{
    gln_test_folder_open(folder);
    snprintf(path, sizeof path, "%.400s/checkpoint", folder);
    cr_assert_eq(gln_comm_open_self(&comm), GLN_OK);
    cr_assert_eq(world_open(comm, 2, 1, 1, &world), GLN_OK, "%s", gln_last_error());
    world_fill(&world, 1);
    cr_assert_eq(world_write(&world, path), GLN_OK, "%s", gln_last_error());
    world_fill(&world, 2);
}

static void teardown(void)
{
    world_close(&world);
    gln_comm_close(comm);
    gln_test_folder_close(folder);
}

TestSuite(checkpoint_damage, .init = setup, .fini = teardown);

static void refused(const char *word)
{
    char digest[33] = "untouched";
    world.fields[2].integer = 5;
    cr_assert_eq(world_read(&world, path), GLN_ERR_CHECKPOINT, "%s", word);
    cr_assert(strstr(gln_last_error(), word), "expected '%s' in: %s", word, gln_last_error());
    cr_assert(strstr(gln_last_error(), path), "%s", gln_last_error());
    cr_assert(world_is_filled(&world, 2));
    cr_assert_eq(world.fields[2].integer, 5);
    world.fields[2].integer = 12;
    cr_assert_eq(gln_checkpoint_digest(path, digest), GLN_ERR_CHECKPOINT, "%s", word);
    cr_assert_str_eq(digest, "untouched");
}

static void accepted(void)
{
    cr_assert_eq(world_read(&world, path), GLN_OK, "%s", gln_last_error());
    cr_assert(world_is_filled(&world, 1));
    world_fill(&world, 2);
}

Test(checkpoint_damage, a_flipped_bit_anywhere)
{
    for (int f = 0; f < FILES_COUNT; f++) {
        const char *name = gln_test_path(path, files[f]);
        size_t bytes, stride = 1;
        char *data = gln_test_file_read(name, &bytes);
        if (bytes > 300) stride = bytes / 300;
        for (size_t at = 0; at < bytes; at += stride) {
            char flipped = (char)(1 << at % 8);
            data[at] ^= flipped;
            gln_test_file_write(name, data, bytes);
            refused(files[f]);
            data[at] ^= flipped;
        }
        gln_test_file_write(name, data, bytes);
        free(data);
    }
    accepted();
}

Test(checkpoint_damage, a_cut_longer_or_missing_file)
{
    for (int f = 0; f < FILES_COUNT; f++) {
        const char *name = gln_test_path(path, files[f]);
        size_t bytes;
        char *data = gln_test_file_read(name, &bytes);
        for (size_t cut = 0; cut < bytes; cut += bytes / 7) {
            gln_test_file_write(name, data, cut);
            refused(files[f]);
        }
        gln_test_file_write(name, data, bytes - 1);
        refused(files[f]);
        gln_test_file_write(name, data, bytes + 1); /* the terminator */
        refused(files[f]);
        unlink(name);
        refused(files[f]);
        gln_test_file_write(name, data, bytes);
        free(data);
    }
    accepted();
}

Test(checkpoint_damage, files_that_changed_places)
{
    size_t bytes[2];
    const char *names[2] = {gln_test_path(path, files[2]), gln_test_path(path, files[3])};
    char *data[2] = {gln_test_file_read(names[0], &bytes[0]),
                     gln_test_file_read(names[1], &bytes[1])};
    gln_test_file_write(names[0], data[1], bytes[1]);
    gln_test_file_write(names[1], data[0], bytes[0]);
    refused(files[2]);
    free(data[0]);
    free(data[1]);
}

Test(checkpoint_damage, a_missing_checkpoint)
{
    snprintf(path, sizeof path, "%.400s/none", folder);
    cr_assert_eq(world_read(&world, path), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "none/manifest.json"), "%s", gln_last_error());
}

/* Replace `from` by `to` in the manifest (once) and give it a fitting checksum, try, and put it
 * back. */
static void resealed(const char *from, const char *to, const char *word)
{
    const char *name = gln_test_path(path, files[0]);
    size_t bytes, from_bytes = strlen(from), to_bytes = strlen(to);
    char *good = gln_test_file_read(name, &bytes);
    char *at = strstr(good, from), *text = malloc(bytes + to_bytes + 1);
    cr_assert(at, "the manifest has no %s", from);
    size_t before = (size_t)(at - good), body = bytes - TAIL_BYTES - from_bytes + to_bytes;
    memcpy(text, good, before);
    memcpy(text + before, to, to_bytes);
    memcpy(text + before + to_bytes, at + from_bytes, bytes - before - from_bytes);
    snprintf(text + body, TAIL_BYTES + 1, ",\n \"checksum\": \"%016" PRIx64 "\"\n}\n",
             XXH3_64bits(text, body));
    gln_test_file_write(name, text, body + TAIL_BYTES);
    if (word)
        refused(word);
    else
        accepted();
    gln_test_file_write(name, good, bytes);
    free(text);
    free(good);
}

Test(checkpoint_damage, a_manifest_that_fits_its_checksum_is_still_judged)
{
    resealed("\"version\": 1", "\"version\":  1", NULL); /* the tool of this test works */
    resealed("\"format\": \"gleaner", "\"format\": \"other",
             "expected format 'gleaner checkpoint'");
    resealed("\"version\": 1", "\"version\": 2", "expected version 1, found 2");
    resealed("\"version\": 1", "\"version\": 1,\n \"more\": 1", "unknown field 'more'");
    resealed("\"version\": 1", "\"version\": 1,\n \"version\": 1", "duplicate");
    resealed("\"files\": [", "\"files\": [{},", "file 0: expected exactly");
    resealed("\"tensors\": [", "\"tensors\": [3,", "tensor 'without a name'");
    resealed("\"state\": {", "\"state\": [", "line");
    resealed("\"model\": {\"hidden\":6", "\"model\": {\"hidden\":\"six\"",
             "model 'hidden': expected a number");
    resealed("{\n \"format\"", "[\n \"format\"", "line");
}

Test(checkpoint_damage, file_entries_of_the_manifest)
{
    resealed("\"name\":\"dense.safetensors\",\"bytes\"",
             "\"name\":\"../dense.safetensors\",\"bytes\"", "plain file name");
    resealed("\"files\": [",
             "\"files\": [{\"name\":\"spare\",\"bytes\":9,\"xxh3_64\":\"0123456789abcdef\"},",
             "spare"); /* also a file that no tensor is in */
    resealed("\"name\":\"dense.safetensors\",\"bytes\"", "\"name\":\"a/b\",\"bytes\"",
             "plain file name");
    resealed("\"name\":\"experts-00001.safetensors\"", "\"name\":\"experts-00000.safetensors\"",
             "listed twice");
    resealed("\"xxh3_64\":\"", "\"xxh3_64\":\"0", "16 hex digits");
    resealed("\"bytes\":", "\"bytes\":1", "bytes, found");
    resealed("\"bytes\":", "\"bytes\":-", "expected exactly name, bytes");
    resealed("\"xxh3_64\":", "\"x\":1,\"xxh3_64\":", "expected exactly name, bytes");
}

Test(checkpoint_damage, tensor_entries_of_the_manifest)
{
    static const char entry[] =
        "{\"name\":\"embed\",\"dtype\":\"F32\",\"shape\":[10,6],\"file\":\"dense.safetensors\"}";
#define EMBED(name, dtype, shape, file) \
    "{\"name\":\"" name "\",\"dtype\":\"" dtype "\",\"shape\":" shape ",\"file\":\"" file "\"}"
    resealed(entry, EMBED("embed", "F64", "[10,6]", "dense.safetensors"), "F64 [10, 6]");
    resealed(entry, EMBED("embed", "F32", "[6,10]", "dense.safetensors"), "F32 [6, 10]");
    resealed(entry, EMBED("embed", "F32", "[60]", "dense.safetensors"), "F32 [60]");
    resealed(entry, EMBED("embed", "F32", "[10,6,1,1,1]", "dense.safetensors"), "at most 4 dims");
    resealed(entry, EMBED("embed", "F32", "[10,-6]", "dense.safetensors"), "integers >= 0");
    resealed(entry, EMBED("embed", "F32", "10", "dense.safetensors"),
             "expected exactly name, dtype");
    resealed(entry, EMBED("embed", "F32", "[10,6]", "other"), "not among the files");
    resealed(entry, EMBED("embed", "F32", "[10,6]", "experts-00000.safetensors"),
             "tensors in it, found");
    resealed(entry, EMBED("embedding", "F32", "[10,6]", "dense.safetensors"), "");
    resealed(entry, EMBED("embed.m", "F32", "[10,6]", "dense.safetensors"), "listed twice");
    resealed(
        "{\"name\":\"embed\",\"dtype\":\"F32\",\"shape\":[10,6],\"file\":\"dense.safetensors\"},",
        "", ""); /* a missing tensor */
    resealed(entry,
             EMBED("extra", "F32", "[1]", "dense.safetensors") "," EMBED("embed", "F32", "[10,6]",
                                                                         "dense.safetensors"),
             ""); /* one too many */
}

Test(checkpoint_damage, no_random_edit_of_the_manifest_is_read)
{
    const char *name = gln_test_path(path, files[0]);
    size_t bytes;
    char *good = gln_test_file_read(name, &bytes), *data = malloc(bytes);
    uint64_t draw = 0;
    for (int i = 0; i < 500; i++) {
        memcpy(data, good, bytes);
        for (uint64_t edits = 1 + gln_rng_u64(1, 1, draw++) % 3; edits > 0; edits--) {
            size_t at = gln_rng_u64(1, 1, draw++) % bytes;
            data[at] = (char)gln_rng_u64(1, 1, draw++);
        }
        if (!memcmp(data, good, bytes)) continue;
        gln_test_file_write(name, data, bytes);
        refused("manifest.json");
    }
    free(data);
    free(good);
}
