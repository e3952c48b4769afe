/* The run directory. */
#include "base/log.h"
#include "launcher/run_folder.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char top[64], path[256], problem[256];

static void open_top(void)
{
    strcpy(top, "/tmp/gln-run-XXXXXX");
    cr_assert_not_null(mkdtemp(top));
}

static void close_top(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", top);
    cr_assert_eq(system(command), 0);
}

TestSuite(run_folder, .init = open_top, .fini = close_top);

static const char *below(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", top, name);
    return path;
}

static bool is_there(const char *name)
{
    struct stat info;
    return stat(below(name), &info) == 0;
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen(below(name), "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *get(const char *name)
{
    static char text[4096];
    FILE *file = fopen(below(name), "r");
    cr_assert_not_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

Test(run_folder, a_problem_is_found_without_a_change)
{
    put("file", "x");
    gln_run_folder_problem(below("a/b/c"), problem, sizeof problem);
    cr_assert_str_empty(problem);
    cr_assert_not(is_there("a"));
    gln_run_folder_problem(below("file"), problem, sizeof problem);
    cr_assert(strstr(problem, "not a folder"));
    gln_run_folder_problem(below("file/run"), problem, sizeof problem);
    cr_assert(strstr(problem, "Not a directory"));
    gln_run_folder_problem("relative-name", problem, sizeof problem);
    cr_assert_str_empty(problem);
}

Test(run_folder, parents_are_created_and_nothing_is_left_in_it)
{
    cr_assert_eq(gln_run_folder_create(below("a/b/c/"), problem, sizeof problem), GLN_OK);
    cr_assert(is_there("a/b/c"));
    cr_assert_eq(rmdir(below("a/b/c")), 0); /* it was empty */
    cr_assert_eq(gln_run_folder_create(below("a/b"), problem, sizeof problem), GLN_OK);
}

Test(run_folder, what_was_created_goes_when_it_fails)
{
    put("file", "x");
    cr_assert_eq(gln_run_folder_create(below("file/run"), problem, sizeof problem), GLN_ERR_IO);
    cr_assert_eq(gln_run_folder_create("/proc/gleaner-test/run", problem, sizeof problem),
                 GLN_ERR_IO);
    cr_assert_gt(strlen(problem), 0);
    /* a name too long for the file system, below a parent that is not there yet */
    char name[320] = "new/";
    memset(name + 4, 'n', 300);
    char full[400];
    snprintf(full, sizeof full, "%s/%s", top, name);
    cr_assert_eq(gln_run_folder_create(full, problem, sizeof problem), GLN_ERR_IO);
    cr_assert_not(is_there("new"));
}

static gln_run_options_t options(void)
{
    const char *sets[] = {"data.train=t", "run.dir=r", "train.lr=0.1"};
    gln_run_options_t run;
    cr_assert_eq(gln_run_options_load(NULL, sets, 3, 2, &run), GLN_OK);
    snprintf(run.run.dir, sizeof run.run.dir, "%s", top);
    return run;
}

Test(run_folder, config_comes_back_bit_for_bit)
{
    gln_run_options_t run = options(), again;
    cr_assert_eq(gln_run_folder_write_config(&run), GLN_OK);
    cr_assert_not(is_there("config.yaml.partial"));
    cr_assert_eq(gln_run_folder_read_config(top, &again), GLN_OK);
    char changes[256];
    gln_run_options_changes(&run, &again, changes, sizeof changes);
    cr_assert_str_empty(changes);
    cr_assert_eq(memcmp(&run.train.lr, &again.train.lr, sizeof(double)), 0);
}

Test(run_folder, changes_are_listed)
{
    gln_run_options_t before = options(), after = before;
    char changes[256], little[12];
    after.train.lr = 0.25;
    after.router.fill = 0;
    after.model.layers = 7;
    strcpy(after.data.valid, "v");
    after.parallel.backend = 1;
    gln_run_options_changes(&before, &after, changes, sizeof changes);
    cr_assert_str_eq(changes,
                     "model.layers 4 -> 7, router.fill true -> false, parallel.backend cpu -> ref, "
                     "train.lr 0.1 -> 0.25, data.valid  -> v");
    gln_run_options_changes(&before, &after, little, sizeof little);
    cr_assert_str_eq(little, "model.layer");
}

static void open_metrics(int64_t step)
{
    FILE *file = NULL;
    cr_assert_eq(gln_run_folder_open_metrics(top, step, &file), GLN_OK);
    fputs("{\"step\":99}\n", file);
    fclose(file);
}

Test(run_folder, metrics_begin_empty)
{
    open_metrics(0);
    cr_assert_str_eq(get("metrics.jsonl"), "{\"step\":99}\n");
    cr_assert_not(is_there("metrics.jsonl.partial"));
}

Test(run_folder, metrics_past_the_step_are_cut_off)
{
    put("metrics.jsonl", "{\"step\":1}\n{\"step\":2,\"loss\":3}\n{\"step\":3}\n{\"step\":2}\n");
    open_metrics(2);
    cr_assert_str_eq(get("metrics.jsonl"),
                     "{\"step\":1}\n{\"step\":2,\"loss\":3}\n{\"step\":99}\n");
}

Test(run_folder, damaged_metrics_are_cut_off)
{
    put("metrics.jsonl", "{\"step\":1}\n{\"step\":2,\"lo\n{\"step\":3}\n");
    open_metrics(10);
    cr_assert_str_eq(get("metrics.jsonl"), "{\"step\":1}\n{\"step\":99}\n");
    put("metrics.jsonl", "{\"step\":1}\n{\"step\":2}"); /* the line was not finished */
    open_metrics(10);
    cr_assert_str_eq(get("metrics.jsonl"), "{\"step\":1}\n{\"step\":99}\n");
}

Test(run_folder, files_that_cannot_be_written)
{
    FILE *file = NULL;
    gln_run_options_t run = options();
    cr_assert_eq(gln_run_folder_open_metrics("/nonexistent", 0, &file), GLN_ERR_IO);
    cr_assert(strstr(gln_last_error(), "/nonexistent/metrics.jsonl"));
    cr_assert_null(file);
    cr_assert_eq(gln_run_folder_write_report("/nonexistent", "x"), GLN_ERR_IO);
    strcpy(run.run.dir, "/nonexistent");
    cr_assert_eq(gln_run_folder_write_config(&run), GLN_ERR_IO);
    cr_assert_eq(gln_run_folder_write_report(top, "report\n"), GLN_OK);
    cr_assert_str_eq(get("report.txt"), "report\n");
}
