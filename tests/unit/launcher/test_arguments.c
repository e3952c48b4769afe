/* Words of a command line. */
#include "base/log.h"
#include "launcher/arguments.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define BIT(option) (1u << GLN_OPTION_##option)
static const unsigned allowed = BIT(SET) | BIT(JSON) | BIT(HELP) | BIT(SEED) | BIT(TEMPERATURE);

static gln_arguments_t arguments;

static gln_status_t parse(const char *const *words)
{
    int count = 0;
    while (words[count])
        count++;
    return gln_arguments_parse(words, count, allowed, 2, &arguments);
}
#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void must_say(const char *part)
{
    cr_assert(strstr(gln_last_error(), part), "\"%s\" lacks \"%s\"", gln_last_error(), part);
}

Test(arguments, options_and_operands_in_any_order)
{
    cr_assert_eq(PARSE("a", "--set", "x.y=1", "--json", "--set=z.w=2", "b"), GLN_OK);
    cr_assert_eq(arguments.operands_count, 2);
    cr_assert_str_eq(arguments.operands[0], "a");
    cr_assert_str_eq(arguments.operands[1], "b");
    cr_assert_eq(arguments.sets_count, 2);
    cr_assert_str_eq(arguments.sets[0], "x.y=1");
    cr_assert_str_eq(arguments.sets[1], "z.w=2");
    cr_assert(arguments.given[GLN_OPTION_JSON]);
    cr_assert_not(arguments.given[GLN_OPTION_HELP]);
}

Test(arguments, a_lone_dash_and_what_follows_two_are_operands)
{
    cr_assert_eq(PARSE("-", "--", "--json"), GLN_OK);
    cr_assert_eq(arguments.operands_count, 2);
    cr_assert_str_eq(arguments.operands[1], "--json");
    cr_assert_not(arguments.given[GLN_OPTION_JSON]);
    cr_assert_eq(PARSE("-h"), GLN_OK);
    cr_assert(arguments.given[GLN_OPTION_HELP]);
}

Test(arguments, mistakes_are_named)
{
    cr_assert_eq(PARSE("--jsno"), GLN_ERR_ARGUMENT);
    must_say("did you mean --json");
    cr_assert_eq(PARSE("--completely-else"), GLN_ERR_ARGUMENT);
    must_say("--completely-else");
    cr_assert_eq(PARSE("--prompt", "x"), GLN_ERR_ARGUMENT); /* known, but not to this command */
    cr_assert_eq(PARSE("--set"), GLN_ERR_ARGUMENT);
    must_say("--set KEY=VALUE");
    cr_assert_eq(PARSE("--json=1"), GLN_ERR_ARGUMENT);
    must_say("takes no value");
    cr_assert_eq(PARSE("a", "b", "c"), GLN_ERR_ARGUMENT);
    must_say("\"c\"");
}

Test(arguments, numbers)
{
    int64_t n = 7;
    double x = 7;
    cr_assert_eq(PARSE("--seed", "12", "--temperature=0.5"), GLN_OK);
    cr_assert_eq(gln_arguments_int(&arguments, GLN_OPTION_SEED, 1, 0, 20, &n), GLN_OK);
    cr_assert_eq(n, 12);
    cr_assert_eq(gln_arguments_real(&arguments, GLN_OPTION_TEMPERATURE, 1, 0, 1, &x), GLN_OK);
    cr_assert_eq(x, 0.5);
    cr_assert_eq(gln_arguments_int(&arguments, GLN_OPTION_THREADS, 3, 0, 20, &n), GLN_OK);
    cr_assert_eq(n, 3);
    cr_assert_eq(gln_arguments_int(&arguments, GLN_OPTION_SEED, 1, 0, 11, &n), GLN_ERR_ARGUMENT);
    must_say("from 0 to 11");
    cr_assert_eq(n, 3); /* outputs on success only */
    const char *bad[] = {"", "1x", "x", "1.5", "99999999999999999999"};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(PARSE("--seed", bad[i]), GLN_OK);
        cr_assert_eq(gln_arguments_int(&arguments, GLN_OPTION_SEED, 1, 0, INT64_MAX, &n),
                     GLN_ERR_ARGUMENT, "%s", bad[i]);
    }
    const char *bad_reals[] = {"", "nan", "inf", "1e400", "0.5x"};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(PARSE("--temperature", bad_reals[i]), GLN_OK);
        cr_assert_eq(gln_arguments_real(&arguments, GLN_OPTION_TEMPERATURE, 1, 0, 1e9, &x),
                     GLN_ERR_ARGUMENT, "%s", bad_reals[i]);
    }
}

Test(arguments, too_many_overrides)
{
    static const char *words[2 * GLN_ARGUMENTS_SETS_MAX + 3];
    for (int i = 0; i <= GLN_ARGUMENTS_SETS_MAX; i++) {
        words[2 * i] = "--set";
        words[2 * i + 1] = "a.b=1";
    }
    cr_assert_eq(parse(words), GLN_ERR_ARGUMENT);
    words[2 * GLN_ARGUMENTS_SETS_MAX] = NULL;
    cr_assert_eq(parse(words), GLN_OK);
}

Test(arguments, suggestions_are_near_or_none)
{
    const char *const words[] = {"train", "eval", "generate", NULL};
    cr_assert_str_eq(gln_suggest("trian", words), "train");
    cr_assert_str_eq(gln_suggest("evla", words), "eval");
    cr_assert_str_eq(gln_suggest("generat", words), "generate");
    cr_assert_null(gln_suggest("benchmark", words));
    cr_assert_null(gln_suggest("", words));
}

Test(arguments, one_letter_for_ranks)
{
    const char *words[] = {"-n", "12", "run.yaml"};
    const uint64_t job = UINT64_C(1) << GLN_OPTION_JOB_RANKS;
    int64_t n = 0;
    cr_assert_eq(gln_arguments_parse(words, 3, job, 1, &arguments), GLN_OK);
    cr_assert_eq(gln_arguments_int(&arguments, GLN_OPTION_JOB_RANKS, 1, 1, 20, &n), GLN_OK);
    cr_assert_eq(n, 12);
    cr_assert_eq(PARSE("-n", "12"), GLN_ERR_ARGUMENT); /* not for every command */
    must_say("-n");
}
