#include "base/log.h"
#include "config_fixture.h"
#include <criterion/criterion.h>
#include <float.h>
#include <locale.h>

TestSuite(config, .init = enter_directory, .fini = leave_directory);

Test(config, without_a_file_every_key_has_its_default)
{
    values_t v = {0};
    v.before = 77; /* not in the schema */
    cr_assert_eq(load_text(NULL, NULL, &v, NULL), GLN_OK);
    cr_assert_eq(v.k, 2);
    cr_assert_eq(v.factor, 1.25);
    cr_assert_eq(v.policy, 2);
    cr_assert_eq(v.bias, 0);
    cr_assert_eq(v.rate, 3e-4);
    cr_assert_eq(v.seed, 1234);
    cr_assert_str_eq(v.name, "");
    cr_assert_str_eq(v.data, "a b");
    cr_assert_eq(v.before, 77);
}

Test(config, block_and_flow_style_mean_the_same)
{
    const char *texts[] = {
        "# a comment\nrouter:\n  k: 4   # four\n  capacity_factor: 2\n  policy: fr\n  bias: true\n"
        "run:\n  name: 'it''s'\n  data: plain words/x-1.txt\n",
        "{router: {k: 4, capacity_factor: 2, policy: fr, bias: true},\n"
        " run: {name: \"it's\", data: plain words/x-1.txt}}",
        "---\nrouter: {k: 4, capacity_factor: 2.0, policy: 'fr', bias: true}\n"
        "run: {name: it's, data: \"plain words/\\x78-1.txt\"}\n...\n"};
    for (int i = 0; i < 3; i++) {
        values_t v = {0};
        cr_assert_eq(load_text(texts[i], NULL, &v, NULL), GLN_OK, "%s", gln_last_error());
        cr_assert_eq(v.k, 4);
        cr_assert_eq(v.factor, 2.0);
        cr_assert_eq(v.policy, 1);
        cr_assert_eq(v.bias, 1);
        cr_assert_str_eq(v.name, "it's");
        cr_assert_str_eq(v.data, "plain words/x-1.txt");
        cr_assert_eq(v.seed, 1234);
    }
}

Test(config, files_and_sections_may_be_empty)
{
    const char *texts[] = {"", "# nothing\n", "---\n", "router:\nrun: {}\ntrain: ~\n"};
    for (int i = 0; i < 4; i++) {
        values_t v = {0};
        cr_assert_eq(load_text(texts[i], NULL, &v, NULL), GLN_OK, "%s", gln_last_error());
        cr_assert_eq(v.k, 2);
    }
}

Test(config, numbers_in_every_notation)
{
    values_t v = {0};
    cr_assert_eq(load_text("train: {seed: 0x1F, big: -9223372036854775808, rate: 1.e-3}\n"
                           "router: {k: +7, capacity_factor: .inf}\n",
                           NULL, &v, NULL),
                 GLN_OK, "%s", gln_last_error());
    cr_assert_eq(v.seed, 31);
    cr_assert_eq(v.big, INT64_MIN);
    cr_assert_eq(v.rate, 1e-3);
    cr_assert_eq(v.k, 7);
    cr_assert_eq(v.factor, INFINITY);
    cr_assert_eq(load_text("router: {capacity_factor: inf}\ntrain: {seed: 0o17}", NULL, &v, NULL),
                 GLN_OK);
    cr_assert_eq(v.factor, INFINITY);
    cr_assert_eq(v.seed, 15);
}

Test(config, bounds_are_inclusive)
{
    values_t v = {0};
    cr_assert_eq(load_text("router: {k: 64, capacity_factor: 0}", "train.rate=1", &v, NULL),
                 GLN_OK);
    cr_assert_eq(load_text("router: {k: 1}", "train.rate=1e-9", &v, NULL), GLN_OK);
}

Test(config, overrides_win_over_the_file_and_the_last_over_the_first)
{
    values_t v = {0};
    gln_config_t *config = NULL;
    write_text("router: {k: 4}\nrun: {name: x}", 29);
    const char *overrides[] = {"router.k=5", "run.name=", "router.k=6", "run.data=\"12\"",
                               "router.capacity_factor=.5"};
    cr_assert_eq(
        gln_config_load(fields, FIELDS_COUNT, "run.yaml", overrides, 5, &v, sizeof v, &config),
        GLN_OK, "%s", gln_last_error());
    cr_assert_eq(v.k, 6);
    cr_assert_str_eq(v.name, "");
    cr_assert_str_eq(v.data, "12");
    cr_assert_eq(v.factor, 0.5);
    cr_assert_str_eq(gln_config_where(config, "router.k"), "--set router.k=6");
    gln_config_close(config);
}

Test(config, where_names_the_source_of_every_value)
{
    values_t v = {0};
    gln_config_t *config = NULL;
    cr_assert_eq(load_text("router:\n  k: 4\n\n  bias:\n    true\n", "train.seed=1", &v, &config),
                 GLN_OK);
    cr_assert_str_eq(gln_config_where(config, "router.k"), "run.yaml:2");
    cr_assert_str_eq(gln_config_where(config, "router.bias"), "run.yaml:4");
    cr_assert_str_eq(gln_config_where(config, "train.seed"), "--set train.seed=1");
    cr_assert_str_eq(gln_config_where(config, "run.name"), "default");
    cr_assert_eq(gln_config_fail(config, "router.k", "expected at most %d experts", 3),
                 GLN_ERR_CONFIG);
    cr_assert_str_eq(gln_last_error(), "run.yaml:2: router.k: expected at most 3 experts");
    gln_config_close(config);
    gln_config_close(NULL);
}

static void check_round_trip(const values_t *values)
{
    FILE *file = fopen("run.yaml", "w");
    cr_assert_eq(gln_config_write(fields, FIELDS_COUNT, values, file), GLN_OK);
    fclose(file);
    values_t back = {0};
    cr_assert_eq(
        gln_config_load(fields, FIELDS_COUNT, "run.yaml", NULL, 0, &back, sizeof back, NULL),
        GLN_OK, "%s", gln_last_error());
    cr_assert_eq(memcmp(&back, values, sizeof back), 0);
}

Test(config, what_is_written_loads_to_the_same_bits)
{
    values_t v;
    memset(&v, 0, sizeof v);
    v.k = 64, v.seed = INT64_MAX, v.big = INT64_MIN;
    const double reals[] = {0.1, 1.0 / 3, 1, 5e-324, DBL_MAX, INFINITY, 123456789.125, 1e22, 0};
    for (int i = 0; i < 9; i++) {
        v.factor = reals[i];
        v.rate = 1.0 / (3 + i);
        v.policy = i % 5;
        v.bias = i % 2;
        check_round_trip(&v);
    }
}

Test(config, strings_survive_the_round_trip)
{
    const char *texts[] = {"",
                           "plain",
                           "12",
                           "true",
                           "null",
                           "~",
                           "a: b # c",
                           "\"q\"",
                           "it's",
                           "back\\slash\\",
                           "  x  ",
                           "- [x]",
                           "tab\tnl\n",
                           "\r\x01\x7f",
                           "gr\xc3\xb6\xc3\x9f e",
                           "\xc2\x85 \xe2\x80\xa8 \xef\xbb\xbf\xef\xbf\xbf",
                           "\xf0\x9f\x8c\xbe"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        values_t v;
        memset(&v, 0, sizeof v);
        v.k = 1, v.rate = 1;
        strcpy(v.name, texts[i]);
        memset(v.data, 'x', GLN_CONFIG_TEXT_MAX - 1);
        check_round_trip(&v);
    }
}

Test(config, sections_are_written_once_though_the_schema_mixes_them)
{
    const gln_config_field_t mixed[] = {
        {"a.x", GLN_CONFIG_INT, 0, 0, 9, NULL, "1", "x"},
        {"b.x", GLN_CONFIG_INT, 8, 0, 9, NULL, "2", "x"},
        {"a.y", GLN_CONFIG_INT, 16, 0, 9, NULL, "3", "y"},
    };
    int64_t values[3] = {4, 5, 6};
    char text[256] = "";
    FILE *file = fmemopen(text, sizeof text, "w");
    cr_assert_eq(gln_config_write(mixed, 3, values, file), GLN_OK);
    fclose(file);
    cr_assert_str_eq(text, "a:\n  x: 4\n  y: 6\nb:\n  x: 5\n");
}

Test(config, a_nan_and_a_full_disk_are_not_written)
{
    values_t v = {.k = 1, .factor = NAN};
    FILE *file = fopen("run.yaml", "w");
    cr_assert_eq(gln_config_write(fields, FIELDS_COUNT, &v, file), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "router.capacity_factor"));
    fclose(file);
    v.factor = 1;
    file = fopen("/dev/full", "w");
    if (!file) cr_skip_test("no /dev/full here");
    cr_assert_eq(gln_config_write(fields, FIELDS_COUNT, &v, file), GLN_ERR_IO);
    fclose(file);
}

Test(config, describe_prints_a_line_per_key)
{
    static char text[4096];
    FILE *file = fmemopen(text, sizeof text, "w");
    gln_config_describe(fields, FIELDS_COUNT, file);
    fclose(file);
    cr_assert_str_eq(
        text, "router.k: an integer from 1 to 64; default 2; routes per token\n"
              "router.capacity_factor: a number of at least 0; default 1.25; slots per expected "
              "route\n"
              "router.policy: one of topk, fr, fr-ir, null, a: b; default fr-ir; who gets a slot\n"
              "router.bias: true or false; default false; balance bias\n"
              "train.rate: a number from 1e-09 to 1; default 3e-4; step size\n"
              "train.seed: an integer of at least 0; default 1234; seed\n"
              "train.big: an integer; default -1; any\n"
              "run.name: a string; default \"\"; name of the run\n"
              "run.data: a string; default 'a b'; input\n");
}

Test(config, the_locale_of_the_program_does_not_matter)
{
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", NULL};
    int found = -1;
    for (int i = 0; commas[i] && found < 0; i++)
        if (setlocale(LC_ALL, commas[i])) found = i;
    if (found < 0) cr_skip_test("no locale with a decimal comma is installed");
    values_t v = {0};
    cr_assert_eq(load_text("router: {capacity_factor: 1.5}", NULL, &v, NULL), GLN_OK);
    cr_assert_eq(v.factor, 1.5);
    cr_assert_eq(localeconv()->decimal_point[0], ',');
}
