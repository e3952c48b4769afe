/* The placement file: what is written comes back, layers left out have the default, damage is
 * named. */
#include "base/log.h"
#include "moe/placement_file.h"
#include "tests/support/folder.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static char folder[GLN_TEST_PATH_MAX];

static void setup(void)
{
    gln_test_folder_open(folder);
}

static void teardown(void)
{
    gln_test_folder_close(folder);
}

TestSuite(placement_file, .init = setup, .fini = teardown);

static const int32_t rows[2][6] = {{2, 0, 1, 2, 1, 0}, {0, 1, 2, 0, 1, 2}};

Test(placement_file, comes_back_and_fills_up)
{
    const int layer[] = {1, 3};
    const int32_t plain[] = {0, 0, 1, 1, 2, 2};
    const char *path = gln_test_path(folder, "placed.json");
    int32_t found[4][6];
    cr_assert_eq(gln_placement_file_write(path, 6, 3, layer, 2, rows[0]), GLN_OK);
    cr_assert_eq(gln_placement_file_read(path, 6, 3, 4, found[0]), GLN_OK, "%s", gln_last_error());
    cr_expect_arr_eq(found[0], plain, sizeof plain);
    cr_expect_arr_eq(found[1], rows[0], sizeof plain);
    cr_expect_arr_eq(found[2], plain, sizeof plain);
    cr_expect_arr_eq(found[3], rows[1], sizeof plain);
    cr_expect_not(gln_test_exists(gln_test_path(folder, "placed.json.partial")));
    gln_log_hold(1);
    cr_expect_eq(gln_placement_file_read(path, 6, 3, 3, found[0]), GLN_ERR_CONFIG);
    cr_expect(strstr(gln_last_error(), "layers from 0 to 2"), "%s", gln_last_error());
    gln_log_hold(0);
}

static void refuses(const char *text, const char *pattern)
{
    const char *path = gln_test_path(folder, "bad.json");
    int32_t found[4] = {7, 7, 7, 7}, before[4] = {7, 7, 7, 7};
    gln_test_file_write(path, text, strlen(text));
    gln_log_hold(1);
    cr_expect_eq(gln_placement_file_read(path, 4, 2, 1, found), GLN_ERR_CONFIG, "%s", text);
    gln_log_hold(0);
    cr_expect(strstr(gln_last_error(), pattern), "no \"%s\" in %s", pattern, gln_last_error());
    cr_expect(strstr(gln_last_error(), "bad.json"), "%s", gln_last_error());
    cr_expect_arr_eq(found, before, sizeof found, "something was written");
}

#define HEAD "{\"format\": \"gleaner placement\", \"version\": 1, \"experts\": 4, \"domains\": 2"

Test(placement_file, refuses_damage)
{
    int32_t found[4];
    gln_log_hold(1);
    cr_expect_eq(gln_placement_file_read(gln_test_path(folder, "none"), 4, 2, 1, found),
                 GLN_ERR_CONFIG);
    cr_expect_eq(
        gln_placement_file_write(gln_test_path(folder, "no/where"), 6, 3, (int[]){0}, 1, rows[0]),
        GLN_ERR_IO);
    gln_log_hold(0);
    refuses("", "cannot read");
    refuses("[1]", "\"format\"");
    refuses("{\"format\": \"other\"}", "\"format\"");
    refuses("{\"format\": \"gleaner placement\"}", "\"version\"");
    refuses("{\"format\": \"gleaner placement\", \"version\": 2}", "\"version\": 1, found 2");
    refuses("{\"format\": \"gleaner placement\", \"version\": 1, \"experts\": 8}",
            "\"experts\": 4, found 8");
    refuses(HEAD "}", "\"layers\"");
    refuses(HEAD ", \"layers\": {\"0\": [0, 1, 1]}}", "list of 4");
    refuses(HEAD ", \"layers\": {\"0\": [0, 1, 1, 1]}}", "domain 1 hosts more than 2");
    refuses(HEAD ", \"layers\": {\"0\": [0, 1, 2, 0]}}", "expert 2");
    refuses(HEAD ", \"layers\": {\"0\": [0, 1, \"0\", 1]}}", "expert 2");
    refuses(HEAD ", \"layers\": {\"x\": [0, 1, 0, 1]}}", "found \"x\"");
    refuses(HEAD ", \"layers\": {\"0\": [0, 1, 0, 1], \"0\": [0, 1, 0, 1]}}", "duplicate");
}
