#include "base/log.h"
#include "config_fixture.h"
#include <criterion/criterion.h>

TestSuite(config_errors, .init = enter_directory, .fini = leave_directory);

typedef struct wrong {
    const char *text, *override, *message;
} wrong_t;

/* Load and see the message; the caller's struct must not change. */
static void check(const wrong_t *wrong, int count)
{
    for (int i = 0; i < count; i++) {
        values_t v, before;
        memset(&v, 0x5a, sizeof v);
        before = v;
        gln_config_t *config = (gln_config_t *)&v;
        cr_assert_eq(load_text(wrong[i].text, wrong[i].override, &v, &config), GLN_ERR_CONFIG,
                     "case %d loaded", i);
        cr_assert_str_eq(gln_last_error(), wrong[i].message);
        cr_assert_eq(memcmp(&v, &before, sizeof v), 0);
        cr_assert_eq(config, (gln_config_t *)&v);
    }
}
#define CHECK(table) check(table, (int)(sizeof(table) / sizeof((table)[0])))

Test(config_errors, unknown_keys_and_sections_name_the_nearest)
{
    const wrong_t wrong[] = {
        {"# c\nrouter:\n  k: 3\n  capacty_factor: 2\n", NULL,
         "run.yaml:4: router.capacty_factor: unknown key; did you mean router.capacity_factor? "
         "known keys of router: k, capacity_factor, policy, bias"},
        {"router: {zebra: 3}", NULL,
         "run.yaml:1: router.zebra: unknown key; known keys of router: k, capacity_factor, policy, "
         "bias"},
        {"router: {seed: 3}", NULL,
         "run.yaml:1: router.seed: unknown key; did you mean train.seed? known keys of router: k, "
         "capacity_factor, policy, bias"},
        {"train: {reat: 3}", NULL,
         "run.yaml:1: train.reat: unknown key; did you mean train.rate? known keys of train: rate, "
         "seed, big"},
        {"run: {}\nruoter: {k: 3}", NULL,
         "run.yaml:2: ruoter: unknown section; did you mean router? known sections: router, train, "
         "run"},
        {"elsewhere:\n", NULL,
         "run.yaml:1: elsewhere: unknown section; known sections: router, train, run"},
        {"router.k: 3", NULL,
         "run.yaml:1: router.k: keys stand below their section, as in \"router: {k: 2}\""},
        {NULL, "router.kk=3",
         "--set router.kk=3: router.kk: unknown key; did you mean router.k? known keys of router: "
         "k, capacity_factor, policy, bias"},
        {NULL, "rooter.k=3",
         "--set rooter.k=3: rooter: unknown section; did you mean router? known sections: router, "
         "train, run"},
        {NULL, "router=3",
         "--set router=3: router: expected section.key=value, found only a section"},
        {NULL, "router.k", "--set router.k: expected section.key=value, found no \"=\""},
    };
    CHECK(wrong);
}

Test(config_errors, wrong_types_name_expected_and_found)
{
    const wrong_t wrong[] = {
        {"router:\n  k: many", NULL,
         "run.yaml:2: router.k: expected an integer from 1 to 64, found the string \"many\""},
        {"router: {k: '3'}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found the string \"3\"; take off "
         "the quotes"},
        {"router: {k: 3.0}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found the number 3.0"},
        {"router: {k: }", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found nothing"},
        {"router: {k: true}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found the boolean true"},
        {"router: {k: [1, 2]}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found a list"},
        {"router: {k: {a: 2}}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found further keys"},
        {"router: {capacity_factor: \"2\"}", NULL,
         "run.yaml:1: router.capacity_factor: expected a number of at least 0, found the string "
         "\"2\"; take off the quotes"},
        {"router: {capacity_factor: 1,5}", NULL,
         "run.yaml:1: router.5: unknown key; did you mean router.k? known keys of router: k, "
         "capacity_factor, policy, bias"},
        {"router: {bias: yes}", NULL,
         "run.yaml:1: router.bias: expected true or false, found the string \"yes\""},
        {"router: {bias: 1}", NULL,
         "run.yaml:1: router.bias: expected true or false, found the integer 1"},
        {"run: {name: 12}", NULL,
         "run.yaml:1: run.name: expected a string, found the integer 12; put it in quotes"},
        {"run: {name: 1e5}", NULL,
         "run.yaml:1: run.name: expected a string, found the number 1e5; put it in quotes"},
        {"run: {name: false}", NULL,
         "run.yaml:1: run.name: expected a string, found the boolean false; put it in quotes"},
        {"run: {name: }", NULL, "run.yaml:1: run.name: expected a string, found nothing"},
        {NULL, "run.name=12",
         "--set run.name=12: run.name: expected a string, found the integer 12; put it in quotes"},
        {NULL, "router.k='3'",
         "--set router.k='3': router.k: expected an integer from 1 to 64, found the string \"3\"; "
         "take off the quotes"},
        {NULL, "router.k=",
         "--set router.k=: router.k: expected an integer from 1 to 64, found the string \"\""},
        {NULL, "run.name=\xff",
         "--set run.name=\xff: run.name: expected a string, found the string \"\xff\", which is "
         "not "
         "valid UTF-8"},
    };
    CHECK(wrong);
}

Test(config_errors, bad_ranges_name_the_allowed_one)
{
    const wrong_t wrong[] = {
        {"router: {k: 0}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found the integer 0"},
        {"router: {k: 65}", NULL,
         "run.yaml:1: router.k: expected an integer from 1 to 64, found the integer 65"},
        {"train: {big: 9223372036854775808}", NULL,
         "run.yaml:1: train.big: expected an integer, found the integer 9223372036854775808"},
        {"router: {capacity_factor: -0.5}", NULL,
         "run.yaml:1: router.capacity_factor: expected a number of at least 0, found the number "
         "-0.5"},
        {"router: {capacity_factor: .nan}", NULL,
         "run.yaml:1: router.capacity_factor: expected a number of at least 0, found the number "
         ".nan"},
        {"router: {capacity_factor: 1e999}", NULL,
         "run.yaml:1: router.capacity_factor: expected a number of at least 0, found the number "
         "1e999"},
        {"train: {rate: inf}", NULL,
         "run.yaml:1: train.rate: expected a number from 1e-09 to 1, found the number inf"},
    };
    CHECK(wrong);
}

Test(config_errors, bad_choices_name_the_allowed_ones)
{
    const wrong_t wrong[] = {
        {"router: {policy: best}", NULL,
         "run.yaml:1: router.policy: expected one of topk, fr, fr-ir, null, a: b, found the string "
         "\"best\""},
        {"router: {policy: FR}", NULL,
         "run.yaml:1: router.policy: expected one of topk, fr, fr-ir, null, a: b, found the string "
         "\"FR\""},
        {NULL, "router.policy=1",
         "--set router.policy=1: router.policy: expected one of topk, fr, fr-ir, null, a: b, found "
         "the integer 1"},
    };
    CHECK(wrong);
}

Test(config_errors, duplicates_are_refused)
{
    const wrong_t wrong[] = {
        {"router:\n  k: 2\n  bias: true\n  k: 2\n", NULL,
         "run.yaml:4: router.k: key stands twice, first at line 2; remove one"},
        {"router: {k: 2}\nrun: {}\nrouter: {bias: true}\n", NULL,
         "run.yaml:3: router: section stands twice, first at line 1; join the two"},
    };
    CHECK(wrong);
}

Test(config_errors, other_yaml_is_refused_by_name)
{
    const wrong_t wrong[] = {
        {"router: 3", NULL, "run.yaml:1: router: expected keys below this section, found a value"},
        {"router: 'null'", NULL,
         "run.yaml:1: router: expected keys below this section, found a value"},
        {"router:\n  - k", NULL,
         "run.yaml:2: router: expected keys below this section, found a list"},
        {"- router", NULL,
         "run.yaml:1: expected sections, each with keys, as in \"router: {k: 2}\""},
        {"router", NULL, "run.yaml:1: expected sections, each with keys, as in \"router: {k: 2}\""},
        {"[a, b]: {k: 2}", NULL, "run.yaml:1: expected the name of a section"},
        {"router: {{a: b}: 2}", NULL, "run.yaml:1: expected the name of a key"},
        {"router: {k: &two 2}", NULL, "run.yaml:1: anchors (&name) are not supported"},
        {"router: &r {k: 2}", NULL, "run.yaml:1: anchors (&name) are not supported"},
        {"router: *r", NULL, "run.yaml:1: aliases (*name) are not supported; repeat the value"},
        {"run: {name: !!str 2}", NULL, "run.yaml:1: tags (!name) are not supported"},
        {"router: !x {k: 2}", NULL, "run.yaml:1: tags (!name) are not supported"},
        {"run: {name: \"a\\0b\"}", NULL, "run.yaml:1: a value holds a zero byte"},
        {"router: {k: 2}\n---\nrun: {}\n", NULL,
         "run.yaml:2: expected one document, found a second one"},
        {"router:\n\tk: 2\n", NULL,
         "run.yaml:2: not valid YAML: found character that cannot start any token while scanning "
         "for the next token"},
    };
    CHECK(wrong);
}

Test(config_errors, bytes_that_are_not_text_are_refused)
{
    values_t v = {0};
    write_text("run: {name: \xff}", 15);
    cr_assert_eq(gln_config_load(fields, FIELDS_COUNT, "run.yaml", NULL, 0, &v, sizeof v, NULL),
                 GLN_ERR_CONFIG);
    cr_assert(strstr(gln_last_error(), "run.yaml: byte 12: not valid text"), "%s",
              gln_last_error());
}

Test(config_errors, strings_must_fit)
{
    values_t v = {0};
    char text[GLN_CONFIG_TEXT_MAX + 40] = "run.name=";
    memset(text + 9, 'x', GLN_CONFIG_TEXT_MAX - 1);
    cr_assert_eq(load_text(NULL, text, &v, NULL), GLN_OK);
    cr_assert_eq(strlen(v.name), GLN_CONFIG_TEXT_MAX - 1);
    text[9 + GLN_CONFIG_TEXT_MAX - 1] = 'x';
    cr_assert_eq(load_text(NULL, text, &v, NULL), GLN_ERR_CONFIG);
    cr_assert(strstr(gln_last_error(), "512 bytes or more; the limit is 511"));
}

Test(config_errors, a_required_key_must_be_given)
{
    const gln_config_field_t required[] = {
        {"data.path", GLN_CONFIG_TEXT, 0, 0, 0, NULL, NULL, "text to train on"}};
    char value[GLN_CONFIG_TEXT_MAX] = "before";
    cr_assert_eq(gln_config_load(required, 1, NULL, NULL, 0, value, sizeof value, NULL),
                 GLN_ERR_CONFIG);
    cr_assert_str_eq(gln_last_error(), "configuration: data.path: required key is missing; set it "
                                       "to a string (text to train on)");
    write_text("data:\n", 6);
    cr_assert_eq(gln_config_load(required, 1, "run.yaml", NULL, 0, value, sizeof value, NULL),
                 GLN_ERR_CONFIG);
    cr_assert_str_eq(gln_last_error(), "run.yaml: data.path: required key is missing; set it to a "
                                       "string (text to train on)");
    cr_assert_str_eq(value, "before");
    const char *override = "data.path=x";
    cr_assert_eq(gln_config_load(required, 1, "run.yaml", &override, 1, value, sizeof value, NULL),
                 GLN_OK);
    cr_assert_str_eq(value, "x");
}

Test(config_errors, files_that_cannot_be_had)
{
    values_t v = {0};
    cr_assert_eq(gln_config_load(fields, FIELDS_COUNT, "none.yaml", NULL, 0, &v, sizeof v, NULL),
                 GLN_ERR_CONFIG);
    cr_assert_str_eq(gln_last_error(),
                     "none.yaml: cannot open the configuration: No such file or directory");
    cr_assert_eq(gln_config_load(fields, FIELDS_COUNT, "/tmp", NULL, 0, &v, sizeof v, NULL),
                 GLN_ERR_IO);
    cr_assert_str_eq(gln_last_error(), "/tmp: cannot read the configuration: Is a directory");
    cr_assert_eq(gln_config_load(fields, FIELDS_COUNT, "/dev/zero", NULL, 0, &v, sizeof v, NULL),
                 GLN_ERR_CONFIG);
    cr_assert_str_eq(gln_last_error(),
                     "/dev/zero: expected a configuration of at most 1048576 bytes");
}

/* Long names and long lists end in "..."; nothing is written past the message. */
Test(config_errors, long_names_are_cut)
{
    char text[1000] = "router: {";
    memset(text + 9, 'q', 900);
    strcpy(text + 909, ": 2}");
    values_t v = {0};
    cr_assert_eq(load_text(text, NULL, &v, NULL), GLN_ERR_CONFIG);
    cr_assert(strstr(gln_last_error(), "qqq: unknown key; known keys of router: k"));
}
