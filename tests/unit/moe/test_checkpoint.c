/* moe/checkpoint.h on one rank: writing, reading, finding, describing. Damage:
 * test_checkpoint_damage.c; several ranks: tests/ranks/moe/test_checkpoint_ranks.c. */
#include "base/log.h"
#include "tests/support/folder.h"
#include "tests/unit/moe/checkpoint_world.h"
#include <criterion/criterion.h>
#include <limits.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[GLN_TEST_PATH_MAX];
static char path[GLN_TEST_PATH_MAX];
static gln_comm_t *comm;

static void setup(void)
{
    gln_test_folder_open(folder);
    snprintf(path, sizeof path, "%.400s/checkpoint", folder);
    cr_assert_eq(gln_comm_open_self(&comm), GLN_OK);
}

static void teardown(void)
{
    gln_comm_close(comm);
    gln_test_folder_close(folder);
}

TestSuite(checkpoint, .init = setup, .fini = teardown);

static void open_world(int domains, int groups, int training, uint64_t seed, world_t *world)
{
    cr_assert_eq(world_open(comm, domains, groups, training, world), GLN_OK, "%s",
                 gln_last_error());
    world_fill(world, seed);
}

/* A checkpoint of world_fill(seed) at `where`. */
static void write_world(const char *where, int domains, int groups, int training, uint64_t seed)
{
    world_t world;
    open_world(domains, groups, training, seed, &world);
    cr_assert_eq(world_write(&world, where), GLN_OK, "%s", gln_last_error());
    world_close(&world);
}

Test(checkpoint, round_trip_keeps_every_bit_of_weights_moments_and_state)
{
    world_t world;
    write_world(path, 4, 1, 1, 1);
    open_world(4, 1, 1, 2, &world);
    world.fields[2].integer = world.fields[3].real = 0;
    cr_assert_eq(world_read(&world, path), GLN_OK, "%s", gln_last_error());
    cr_assert(world_is_filled(&world, 1));
    cr_assert_eq(world.fields[2].integer, 12);
    cr_assert_eq(world.fields[3].real, 0.1);
    world_close(&world);
}

Test(checkpoint, holds_the_documented_files)
{
    static const char *const names[] = {"manifest.json", "dense.safetensors",
                                        "experts-00000.safetensors", "experts-00001.safetensors"};
    write_world(path, 4, 2, 1, 1); /* 2 domains a group */
    for (int i = 0; i < 4; i++)
        cr_assert(gln_test_exists(gln_test_path(path, names[i])), "%s", names[i]);
    cr_assert_not(gln_test_exists(gln_test_path(path, "experts-00002.safetensors")));
    cr_assert_not(gln_test_exists(gln_test_path(folder, "checkpoint.partial")));
}

Test(checkpoint, same_state_gives_the_same_bytes)
{
    static const char *const names[] = {"manifest.json", "dense.safetensors",
                                        "experts-00003.safetensors"};
    const char *other = gln_test_path(folder, "other");
    write_world(path, 4, 1, 1, 1);
    write_world(other, 4, 1, 1, 1);
    for (int i = 0; i < 3; i++)
        cr_assert(
            gln_test_files_equal(gln_test_path(path, names[i]), gln_test_path(other, names[i])));
}

Test(checkpoint, numbers_are_kept_exactly)
{
    static const double reals[] = {0.1,      -0.0,      1e-308, 4.9e-324,  1.7976931348623157e308,
                                   INFINITY, -INFINITY, NAN,    1.0 / 3.0, 3.0};
    static const int64_t integers[] = {0, -1, INT64_MAX, INT64_MIN, INT64_C(9007199254740993)};
    enum {
        REALS = sizeof reals / sizeof reals[0],
        INTEGERS = sizeof integers / sizeof integers[0]
    };
    gln_checkpoint_field_t fields[REALS + INTEGERS], found[REALS + INTEGERS];
    char keys[REALS + INTEGERS][16];
    world_t world;
    open_world(1, 1, 0, 1, &world);
    for (int i = 0; i < REALS + INTEGERS; i++) {
        int is_real = i < REALS;
        snprintf(keys[i], sizeof keys[i], "key %d", i);
        fields[i] = (gln_checkpoint_field_t){.key = keys[i],
                                             .is_model = i % 2,
                                             .is_real = is_real,
                                             .real = is_real ? reals[i] : 0.0,
                                             .integer = is_real ? 0 : integers[i - REALS]};
        found[i] = fields[i];
        found[i].real = 7, found[i].integer = 7;
    }
    cr_assert_eq(gln_checkpoint_write(path, world.params, fields, REALS + INTEGERS), GLN_OK);
    cr_assert_eq(gln_checkpoint_fields(path, found, REALS + INTEGERS), GLN_OK, "%s",
                 gln_last_error());
    for (int i = 0; i < REALS; i++)
        cr_assert(isnan(reals[i]) ? isnan(found[i].real) : !memcmp(&found[i].real, &reals[i], 8),
                  "%d", i);
    for (int i = 0; i < INTEGERS; i++)
        cr_assert_eq(found[REALS + i].integer, integers[i]);
    /* equal NaN and infinity in the model are no mismatch */
    cr_assert_eq(gln_checkpoint_read(path, world.params, fields, REALS + INTEGERS), GLN_OK, "%s",
                 gln_last_error());
    world_close(&world);
}

Test(checkpoint, loads_with_other_domains_and_groups)
{
    static const int layouts[][2] = {{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {8, 1}, {8, 4}};
    world_t world;
    write_world(path, 4, 1, 1, 1);
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        open_world(layouts[i][0], layouts[i][1], 1, 2, &world);
        cr_assert_eq(world_read(&world, path), GLN_OK, "%s", gln_last_error());
        cr_assert(world_is_filled(&world, 1));
        world_close(&world);
    }
}

Test(checkpoint, digest_depends_on_tensors_alone)
{
    char digests[4][33];
    static const int layouts[][2] = {{1, 1}, {4, 1}, {4, 2}};
    for (int i = 0; i < 3; i++) {
        char where[GLN_TEST_PATH_MAX + 16];
        snprintf(where, sizeof where, "%s-%d", path, i);
        write_world(where, layouts[i][0], layouts[i][1], 1, 1);
        cr_assert_eq(gln_checkpoint_digest(where, digests[i]), GLN_OK, "%s", gln_last_error());
        cr_assert_str_eq(digests[i], digests[0]);
    }
    cr_assert_eq(strspn(digests[0], "0123456789abcdef"), 32);
    world_t world;
    open_world(4, 1, 1, 1, &world);
    ((float *)world.params->expert_v)[77] += 1.0f;
    cr_assert_eq(world_write(&world, path), GLN_OK);
    cr_assert_eq(gln_checkpoint_digest(path, digests[3]), GLN_OK);
    cr_assert_str_neq(digests[3], digests[0]);
    world_close(&world);
}

Test(checkpoint, weights_alone_can_be_read_from_a_training_checkpoint_but_not_the_reverse)
{
    world_t world;
    const char *slim = gln_test_path(folder, "slim");
    write_world(path, 4, 1, 1, 1);
    open_world(4, 1, 0, 2, &world);
    cr_assert_eq(world_read(&world, path), GLN_OK, "%s", gln_last_error());
    cr_assert(world_is_filled(&world, 1));
    cr_assert_eq(world_write(&world, slim), GLN_OK);
    world_close(&world);
    open_world(4, 1, 1, 2, &world);
    cr_assert_eq(world_read(&world, slim), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "expected tensor 'embed.m', found none"), "%s",
              gln_last_error());
    cr_assert(world_is_filled(&world, 2));
    world_close(&world);
}

Test(checkpoint, state_that_is_absent_stays_and_other_state_is_passed_over)
{
    world_t world;
    write_world(path, 2, 1, 1, 1);
    open_world(2, 1, 1, 2, &world);
    world.fields[2].key = "another";
    world.fields[2].integer = 99;
    world.fields[3].real = 0;
    cr_assert_eq(world_read(&world, path), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(world.fields[2].integer, 99);
    cr_assert_eq(world.fields[3].real, 0.1);
    world_close(&world);
}

/* Reading must be refused with `word` in the message, and change nothing. */
static void refused(world_t *world, const char *word)
{
    cr_assert_eq(world_read(world, path), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), word), "%s", gln_last_error());
    cr_assert(strstr(gln_last_error(), path), "%s", gln_last_error());
    cr_assert(world_is_filled(world, 2));
}

Test(checkpoint, another_model_is_refused)
{
    world_t world;
    write_world(path, 2, 1, 1, 1);
    open_world(2, 1, 1, 2, &world);
    world.fields[0].integer = 7;
    refused(&world, "expected model.hidden 7, found 6");
    world.fields[0].integer = 6;
    world.fields[1].real = 2e-5;
    refused(&world, "expected model.eps 2");
    world.fields[1].real = 1e-5;
    world.fields[1].is_real = 0;
    refused(&world, "expected model.eps to be an integer");
    world.fields[1].is_real = 1;
    world.fields[1].key = "depth";
    refused(&world, "expected model.depth, found no such field");
    world.fields[1].key = "eps", world.fields[1].is_model = 0;
    refused(&world, "expected no model.eps, found one");
    world.fields[1].is_model = 1;
    world.fields[2].is_real = 1;
    refused(&world, "expected state.step to be real");
    world.fields[2].is_real = 0;
    world.params->items[0].dims[0] = 6, world.params->items[0].dims[1] = 10;
    refused(&world, "tensor 'embed': expected F32 [6, 10], found F32 [10, 6]");
    world.params->items[0].dims[0] = 10, world.params->items[0].dims[1] = 6;
    world.params->items[0].name[0] = 'E';
    refused(&world, "expected tensor 'Embed', found none");
    world.params->items[0].name[0] = 'e';
    cr_assert_eq(world_read(&world, path), GLN_OK, "%s", gln_last_error());
    world_close(&world);
}

Test(checkpoint, a_tensor_too_many_or_of_another_type_is_refused)
{
    world_t world, f64;
    write_world(path, 2, 1, 1, 1);
    open_world(2, 1, 1, 2, &world);
    int count = world.params->count--;
    refused(&world, "expected no tensor 'layers.1.moe.experts.7.down', found one");
    world.params->count = count;
    world_close(&world);
    open_world(2, 1, 1, 2, &f64);
    f64.params->acc = GLN_F64; /* only asked for, never accessed: reading refuses first */
    cr_assert_eq(world_read(&f64, path), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "expected F64 [10, 6], found F32 [10, 6]"), "%s",
              gln_last_error());
    world_close(&f64);
}

Test(checkpoint, an_existing_folder_is_not_touched)
{
    world_t world;
    open_world(2, 1, 1, 1, &world);
    mkdir(path, 0777);
    gln_test_file_write(gln_test_path(path, "mine"), "x", 1);
    cr_assert_eq(world_write(&world, path), GLN_ERR_IO);
    cr_assert(strstr(gln_last_error(), path) && strstr(gln_last_error(), "exists"), "%s",
              gln_last_error());
    cr_assert(gln_test_exists(gln_test_path(path, "mine")));
    cr_assert_not(gln_test_exists(gln_test_path(path, "manifest.json")));
    world_close(&world);
}

Test(checkpoint, what_an_interrupted_write_left_is_replaced)
{
    world_t world;
    char partial[GLN_TEST_PATH_MAX + 16];
    snprintf(partial, sizeof partial, "%s.partial", path);
    mkdir(partial, 0777);
    gln_test_file_write(gln_test_path(partial, "experts-00077.safetensors"), "old", 3);
    open_world(2, 1, 1, 1, &world);
    cr_assert_eq(world_write(&world, path), GLN_OK, "%s", gln_last_error());
    cr_assert_not(gln_test_exists(partial));
    cr_assert_not(gln_test_exists(gln_test_path(path, "experts-00077.safetensors")));
    world_close(&world);
}

Test(checkpoint, parents_are_made_and_trailing_slashes_do_not_matter)
{
    char deep[GLN_TEST_PATH_MAX + 64], digest[33];
    snprintf(deep, sizeof deep, "%s/a/b/step-00000001//", folder);
    write_world(deep, 1, 1, 0, 1);
    cr_assert_eq(gln_checkpoint_digest(deep, digest), GLN_OK, "%s", gln_last_error());
}

Test(checkpoint, writing_where_one_cannot_leaves_nothing)
{
    world_t world;
    char below[GLN_TEST_PATH_MAX + 16];
    open_world(2, 1, 1, 1, &world);
    gln_test_file_write(path, "a file", 6);
    snprintf(below, sizeof below, "%s/inner", path);
    cr_assert_eq(world_write(&world, below), GLN_ERR_IO);
    cr_assert(strstr(gln_last_error(), "Not a directory") ||
                  strstr(gln_last_error(), "File exists"),
              "%s", gln_last_error());
    cr_assert_eq(world_write(&world, ""), GLN_ERR_IO);
    world_close(&world);
}

Test(checkpoint, a_key_twice_is_refused_and_nothing_is_left)
{
    world_t world;
    open_world(2, 1, 1, 1, &world);
    world.fields[3].key = "step";
    cr_assert_eq(world_write(&world, path), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "step"), "%s", gln_last_error());
    cr_assert_not(gln_test_exists(path));
    cr_assert_not(gln_test_exists(gln_test_path(folder, "checkpoint.partial")));
    world_close(&world);
}

static void write_step(const char *name)
{
    char where[GLN_TEST_PATH_MAX + 64];
    snprintf(where, sizeof where, "%s/checkpoints/%s", folder, name);
    write_world(where, 1, 1, 0, 1);
}

Test(checkpoint, latest_is_the_highest_complete_step)
{
    char found[GLN_TEST_PATH_MAX], small[8], resolved[PATH_MAX];
    cr_assert_eq(gln_checkpoint_latest(folder, found, sizeof found), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), folder), "%s", gln_last_error());
    write_step("step-00000002");
    write_step("step-00000010");
    write_step("step-00000009");
    write_step("step-00000077.partial");
    write_step("step-78");
    write_step("step-000000079");
    write_step("best-00000080");
    mkdir(gln_test_path(folder, "checkpoints/step-00000081"), 0777); /* no manifest */
    cr_assert_eq(gln_checkpoint_latest(folder, found, sizeof found), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_str_eq(found, gln_test_path(folder, "checkpoints/step-00000010"));
    cr_assert_eq(gln_checkpoint_latest(folder, small, sizeof small), GLN_ERR_ARGUMENT);
    write_step("step-100000000");
    cr_assert_eq(gln_checkpoint_latest(folder, found, sizeof found), GLN_OK);
    cr_assert_str_eq(found, gln_test_path(folder, "checkpoints/step-100000000"));
    cr_assert_eq(gln_checkpoint_resolve(folder, resolved), GLN_OK);
    cr_assert_str_eq(resolved, found);
    cr_assert_eq(gln_checkpoint_resolve(found, resolved), GLN_OK);
    cr_assert_str_eq(resolved, found);
}

Test(checkpoint, a_path_that_is_neither_is_named)
{
    char digest[33];
    cr_assert_eq(gln_checkpoint_digest(folder, digest), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), folder) && strstr(gln_last_error(), "neither"), "%s",
              gln_last_error());
}

Test(checkpoint, fields_come_without_tensors_and_all_or_nothing)
{
    gln_checkpoint_field_t fields[] = {
        {.key = "hidden", .is_model = 1}, {.key = "loss", .is_real = 1}, {.key = "absent"}};
    write_step("step-00000001");
    unlink(gln_test_path(folder, "checkpoints/step-00000001/dense.safetensors"));
    cr_assert_eq(gln_checkpoint_fields(folder, fields, 3), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "state field 'absent'"), "%s", gln_last_error());
    cr_assert_eq(fields[0].integer, 0);
    cr_assert_eq(gln_checkpoint_fields(folder, fields, 2), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(fields[0].integer, 6);
    cr_assert_eq(fields[1].real, 0.1);
    fields[1].is_real = 0;
    cr_assert_eq(gln_checkpoint_fields(folder, fields, 2), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "the other type"), "%s", gln_last_error());
}

typedef struct seen {
    char text[16384];
    int lines;
} seen_t;

static void see(void *ctx, const char *group, const char *key, const char *value)
{
    seen_t *seen = ctx;
    size_t at = strlen(seen->text);
    snprintf(seen->text + at, sizeof seen->text - at, "%s|%s|%s\n", group, key, value);
    seen->lines++;
}

Test(checkpoint, info_reports_everything_in_a_stable_order_or_nothing)
{
    static seen_t first, second, none;
    char digest[33], line[64];
    static const char *const in_order[] = {
        "checkpoint|path|",
        "checkpoint|version|1\n",
        "checkpoint|tensors|105\n",
        "checkpoint|digest|",
        "model|hidden|6\n",
        "model|eps|1",
        "state|step|12\n",
        "state|loss|0.1",
        "file|dense.safetensors|",
        "verified\n",
        "file|experts-00001.safetensors|",
        "tensor|embed|F32 [10, 6] in dense.safetensors\n",
        "tensor|layers.1.moe.experts.7.gate_up.v|F32 [6, 8] in experts-00001"};
    write_world(path, 2, 1, 1, 1);
    cr_assert_eq(gln_checkpoint_info(path, see, &first), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_checkpoint_info(path, see, &second), GLN_OK);
    cr_assert_str_eq(first.text, second.text);
    const char *at = first.text;
    for (size_t i = 0; i < sizeof in_order / sizeof in_order[0]; i++) {
        at = strstr(at, in_order[i]);
        cr_assert(at, "%s in\n%s", in_order[i], first.text);
    }
    cr_assert_eq(first.lines, 5 + 4 + 3 + 105);
    cr_assert_eq(gln_checkpoint_digest(path, digest), GLN_OK);
    snprintf(line, sizeof line, "checkpoint|digest|%s\n", digest);
    cr_assert(strstr(first.text, line));
    unlink(gln_test_path(path, "experts-00001.safetensors"));
    cr_assert_eq(gln_checkpoint_info(path, see, &none), GLN_ERR_CHECKPOINT);
    cr_assert_eq(none.lines, 0);
}
