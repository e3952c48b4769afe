/* moe/data.h: one test per promise. */
#include "base/log.h"
#include "moe/data.h"
#include "tests/support/folder.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static char folder[GLN_TEST_PATH_MAX];
static const char *path;

static void setup(void)
{
    gln_test_folder_open(folder);
    path = gln_test_path(folder, "tokens");
}

static void teardown(void)
{
    gln_test_folder_close(folder);
}

TestSuite(data, .init = setup, .fini = teardown);

/* A token file 0, 1, 2, ...: a token tells its own position. */
static gln_data_t *open_counting(int64_t count, int64_t sequence, int width)
{
    gln_data_t *data = NULL;
    int32_t *tokens = malloc((size_t)count * sizeof *tokens);
    for (int64_t i = 0; i < count; i++)
        tokens[i] = (int32_t)i;
    cr_assert_eq(gln_data_write(path, width, (int)count, tokens, count), GLN_OK);
    cr_assert_eq(gln_data_open(path, (int)count, sequence, &data), GLN_OK, "%s", gln_last_error());
    free(tokens);
    return data;
}

static void refused(int vocabulary, int64_t sequence, const char *word)
{
    gln_data_t *data = NULL;
    cr_assert_eq(gln_data_open(path, vocabulary, sequence, &data), GLN_ERR_DATA);
    cr_assert_null(data);
    cr_assert(strstr(gln_last_error(), word), "%s", gln_last_error());
    cr_assert(strstr(gln_last_error(), path), "%s", gln_last_error());
}

/* A token file with this header and data_bytes of zeros. */
static void write_header(uint32_t width, uint32_t vocabulary, uint64_t count, uint64_t reserved,
                         size_t data_bytes)
{
    char *bytes = calloc(1, 32 + data_bytes);
    memcpy(bytes, "GLNTOK\0\1", 8);
    memcpy(bytes + 8, &width, 4);
    memcpy(bytes + 12, &vocabulary, 4);
    memcpy(bytes + 16, &count, 8);
    memcpy(bytes + 24, &reserved, 8);
    gln_test_file_write(path, bytes, 32 + data_bytes);
    free(bytes);
}

Test(data, raw_bytes_are_tokens)
{
    gln_data_t *data = NULL;
    int32_t input[4], target[4];
    gln_test_file_write(path,
                        "\x00\xff"
                        "abc",
                        5);
    cr_assert_eq(gln_data_open(path, 256, 4, &data), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_data_tokens(data), 5);
    gln_data_window(data, 0, input, target);
    const int32_t expected_input[] = {0, 255, 'a', 'b'}, expected_target[] = {255, 'a', 'b', 'c'};
    cr_assert_arr_eq(input, expected_input, sizeof input);
    cr_assert_arr_eq(target, expected_target, sizeof target);
    gln_data_close(data);
    gln_data_close(NULL);
}

Test(data, token_files_of_both_widths)
{
    static const int32_t narrow[] = {0, 65535, 7}, wide[] = {0, 2147483646, 65536};
    int32_t input[2], target[2];
    gln_data_t *data = NULL;
    cr_assert_eq(gln_data_write(path, 2, 65536, narrow, 3), GLN_OK);
    cr_assert_eq(gln_data_open(path, 65536, 2, &data), GLN_OK);
    gln_data_window(data, 0, input, target);
    cr_assert(input[0] == 0 && input[1] == 65535 && target[1] == 7);
    gln_data_close(data);
    cr_assert_eq(gln_data_write(path, 4, 2147483647, wide, 3), GLN_OK);
    cr_assert_eq(gln_data_open(path, 2147483647, 2, &data), GLN_OK, "%s", gln_last_error());
    gln_data_window(data, 0, input, target);
    cr_assert(input[1] == 2147483646 && target[1] == 65536);
    gln_data_close(data);
}

Test(data, the_header_on_disk_is_the_documented_one)
{
    static const int32_t tokens[] = {258, 3};
    static const char expected[] = "GLNTOK\0\1"
                                   "\2\0\0\0"
                                   "\x2c\1\0\0"
                                   "\2\0\0\0\0\0\0\0"
                                   "\0\0\0\0\0\0\0\0"
                                   "\2\1\3\0";
    size_t bytes;
    cr_assert_eq(gln_data_write(path, 2, 300, tokens, 2), GLN_OK);
    char *found = gln_test_file_read(path, &bytes);
    cr_assert_eq(bytes, 36);
    cr_assert_arr_eq(found, expected, 36);
    free(found);
}

Test(data, hash_follows_the_content)
{
    gln_data_t *a = NULL, *b = NULL;
    gln_test_file_write(path, "hello world", 11);
    cr_assert_eq(gln_data_open(path, 256, 2, &a), GLN_OK);
    uint64_t hash = gln_data_hash(a);
    gln_data_close(a);
    cr_assert_eq(gln_data_open(path, 256, 3, &b), GLN_OK);
    cr_assert_eq(gln_data_hash(b), hash);
    gln_data_close(b);
    gln_test_file_write(path, "hello worle", 11);
    cr_assert_eq(gln_data_open(path, 256, 2, &a), GLN_OK);
    cr_assert_neq(gln_data_hash(a), hash);
    gln_data_close(a);
}

Test(data, an_epoch_visits_every_whole_window_once)
{
    enum { S = 7, EPOCHS = 6 };
    static const int64_t counts[] = {S + 1, 2 * S, 2 * S + 1, 103, 7 * 50 + 1, 1000};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        gln_data_t *data = open_counting(counts[c], S, 2);
        int64_t windows = gln_data_epoch(data);
        cr_assert_eq(windows, (counts[c] - 1) / S);
        for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
            char *seen = calloc((size_t)windows, 1);
            int64_t offset = -1;
            for (int64_t i = 0; i < windows; i++) {
                int32_t input[S], target[S];
                gln_data_sample(data, 11, epoch * windows + i, input, target);
                for (int j = 0; j < S; j++) {
                    cr_assert_eq(input[j], input[0] + j);
                    cr_assert_eq(target[j], input[j] + 1);
                }
                if (offset < 0) offset = input[0] % S;
                cr_assert_eq(input[0] % S, offset); /* one grid per epoch */
                int64_t window = input[0] / S;
                cr_assert(window < windows && !seen[window]);
                seen[window] = 1;
            }
            free(seen);
        }
        gln_data_close(data);
    }
}

Test(data, order_and_offset_change_with_epoch_and_seed)
{
    enum { S = 8, N = 8 * 40 + 8 }; /* 7 spare tokens: 8 offsets */
    gln_data_t *data = open_counting(N, S, 2);
    int64_t windows = gln_data_epoch(data);
    int offsets = 0, moved_by_epoch = 0, moved_by_seed = 0;
    int32_t input[S], other[S], target[S];
    for (int64_t epoch = 0; epoch < 64; epoch++) {
        gln_data_sample(data, 3, epoch * windows, input, target);
        offsets |= 1 << input[0] % S;
    }
    cr_assert_eq(offsets, 255); /* 64 draws out of 8 */
    for (int64_t i = 0; i < windows; i++) {
        gln_data_sample(data, 3, i, input, target);
        gln_data_sample(data, 3, windows + i, other, target);
        moved_by_epoch += input[0] / S != other[0] / S;
        gln_data_sample(data, 4, i, other, target);
        moved_by_seed += input[0] / S != other[0] / S;
    }
    cr_assert_gt(moved_by_epoch, windows / 2);
    cr_assert_gt(moved_by_seed, windows / 2);
    gln_data_close(data);
}

Test(data, a_sample_is_a_pure_function_of_seed_and_number)
{
    enum { S = 16, N = 5000 };
    gln_data_t *a = open_counting(N, S, 2), *b = NULL;
    cr_assert_eq(gln_data_open(path, N, S, &b), GLN_OK);
    for (int64_t i = 0; i < 1000; i++) {
        int32_t input[2][S], target[2][S];
        gln_data_sample(a, 9, i, input[0], target[0]);
        gln_data_sample(b, 9, 999 - i, input[1], target[1]); /* another order of asking */
        gln_data_sample(b, 9, i, input[1], target[1]);
        cr_assert_arr_eq(input[0], input[1], sizeof input[0]);
        cr_assert_arr_eq(target[0], target[1], sizeof target[0]);
    }
    gln_data_close(a);
    gln_data_close(b);
}

Test(data, validation_predicts_every_token_but_the_first_once)
{
    enum { S = 6 };
    for (int64_t count = S + 1; count < 5 * S; count++) {
        gln_data_t *data = open_counting(count, S, 4);
        int64_t windows = gln_data_windows(data), next = 1;
        int32_t input[S], target[S];
        cr_assert_eq(windows, (count - 1 + S - 1) / S);
        for (int64_t w = 0; w < windows; w++) {
            gln_data_window(data, w, input, target);
            cr_assert_neq(target[0], -1);
            for (int j = 0; j < S; j++) {
                cr_assert_eq(input[j], target[j] < 0 ? 0 : target[j] - 1);
                if (target[j] >= 0)
                    cr_assert_eq(target[j], next++);
                else
                    cr_assert_eq(next, count); /* only behind the end */
            }
        }
        cr_assert_eq(next, count);
        gln_data_window(data, windows, input, target);
        gln_data_window(data, windows + 1000, input, target);
        for (int j = 0; j < S; j++)
            cr_assert(input[j] == 0 && target[j] == -1);
        gln_data_close(data);
    }
}

Test(data, missing_empty_and_short_files)
{
    path = gln_test_path(folder, "none");
    refused(256, 4, "No such file");
    gln_test_file_write(path, "", 0);
    refused(256, 4, "empty");
    gln_test_file_write(path, "1234", 4);
    refused(256, 4, "at least 5 tokens for sequences of 4, found 4");
    write_header(2, 10, 4, 0, 8);
    refused(10, 4, "found 4");
    path = folder;
    refused(256, 4, "regular file");
}

Test(data, bad_headers)
{
    write_header(3, 10, 4, 0, 12);
    refused(10, 2, "bad header");
    write_header(2, 0, 4, 0, 8);
    refused(10, 2, "bad header");
    write_header(2, 10, 4, 1, 8);
    refused(10, 2, "bad header");
    write_header(2, 10, 5, 0, 8);
    refused(10, 2, "the header says 5 tokens of 2 bytes, found 8 bytes");
    write_header(2, 10, 4, 0, 9);
    refused(10, 2, "found 9 bytes");
    write_header(4, 10, UINT64_C(1) << 62, 0, 0); /* times 4 is 0 */
    refused(10, 2, "the header says");
    gln_test_file_write(path, "GLNTOK\0\1\2\0", 10);
    refused(10, 2, "header of 32 bytes, found 10");
}

Test(data, a_token_outside_the_vocabulary_is_named)
{
    static const char bytes[] = "aaaaaaaaaz";
    int64_t count = 10001;
    gln_test_file_write(path, bytes, 10);
    refused('z', 4, "token 9 is 122, expected below 122");
    char *raw = calloc(1, 32 + 2 * (size_t)count);
    write_header(2, 10, (uint64_t)count, 0, 2 * (size_t)count);
    size_t size;
    free(raw);
    raw = gln_test_file_read(path, &size);
    raw[32 + 2 * 9999] = 10; /* the header's own vocabulary counts too */
    raw[32 + 2 * 10000] = 11;
    gln_test_file_write(path, raw, size);
    free(raw);
    refused(1000, 4, "token 9999 is 10, expected below 10");
    write_header(2, 500, 20, 0, 40);
    refused(499, 4, "vocabulary of 500, the model has 499");
}

Test(data, writing_checks_its_arguments)
{
    static const int32_t tokens[] = {0, 9}, negative[] = {-1};
    path = gln_test_path(folder, "never");
    cr_assert_eq(gln_data_write(path, 3, 10, tokens, 2), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_data_write(path, 2, 65537, tokens, 2), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_data_write(path, 2, 0, tokens, 2), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_data_write(path, 2, 9, tokens, 2), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "token 1 is 9"), "%s", gln_last_error());
    cr_assert_eq(gln_data_write(path, 2, 9, negative, 1), GLN_ERR_ARGUMENT);
    cr_assert_not(gln_test_exists(path));
    cr_assert_eq(gln_data_write(gln_test_path(folder, "no/folder"), 2, 10, tokens, 2), GLN_ERR_IO);
}
