/* Text for people. */
#include "base/log.h"
#include "launcher/text.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *printable(const char *bytes, int count)
{
    static char out[256];
    int32_t tokens[32];
    for (int i = 0; i < count; i++)
        tokens[i] = (unsigned char)bytes[i];
    size_t used = gln_text_printable(tokens, count, out, sizeof out);
    cr_assert_eq(used, strlen(out));
    return out;
}
#define PRINTABLE(literal) printable(literal, (int)sizeof(literal) - 1)

Test(text, what_can_be_shown_is_shown)
{
    cr_assert_str_eq(PRINTABLE("Word, 7\n\t~"), "Word, 7\n\t~");
    cr_assert_str_eq(PRINTABLE("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"),
                     "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

Test(text, nothing_else_reaches_a_terminal)
{
    cr_assert_str_eq(PRINTABLE("a\x1b[0m"), "a\\x1b[0m");
    cr_assert_str_eq(PRINTABLE("\0\r\x7f"), "\\x00\\x0d\\x7f");
    cr_assert_str_eq(PRINTABLE("\xff\x80"), "\\xff\\x80");
    cr_assert_str_eq(PRINTABLE("\xc3"), "\\xc3");                            /* cut off */
    cr_assert_str_eq(PRINTABLE("\xc3z"), "\\xc3z");                          /* not continued */
    cr_assert_str_eq(PRINTABLE("\xc0\xaf"), "\\xc0\\xaf");                   /* overlong */
    cr_assert_str_eq(PRINTABLE("\xe0\x80\xaf"), "\\xe0\\x80\\xaf");          /* overlong */
    cr_assert_str_eq(PRINTABLE("\xed\xa0\x80"), "\\xed\\xa0\\x80");          /* surrogate */
    cr_assert_str_eq(PRINTABLE("\xc2\x9b"), "\\xc2\\x9b");                   /* a control of C1 */
    cr_assert_str_eq(PRINTABLE("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80"); /* past the last */
}

Test(text, tokens_that_are_no_bytes)
{
    char out[64];
    int32_t tokens[] = {'a', 256, 70000, -1};
    gln_text_printable(tokens, 4, out, sizeof out);
    cr_assert_str_eq(out, "a<256><70000><-1>");
}

Test(text, what_does_not_fit_is_left_off)
{
    char out[6] = "*****";
    int32_t tokens[] = {'a', 'b', 1, 'c'};
    cr_assert_eq(gln_text_printable(tokens, 4, out, 6), 2);
    cr_assert_str_eq(out, "ab");
    cr_assert_eq(gln_text_printable(tokens, 4, out, 0), 0);
}

Test(text, human_numbers)
{
    const struct {
        double value;
        const char *count, *bytes;
    } cases[] = {{0, "0", "0 B"},
                 {950, "950", "950 B"},
                 {999.6, "1.00k", "1.00 kB"},
                 {12345, "12.3k", "12.3 kB"},
                 {4194774, "4.19M", "4.19 MB"},
                 {319e6, "319M", "319 MB"},
                 {1.2e9, "1.20G", "1.20 GB"}};
    char out[16];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gln_text_count(cases[i].value, out, sizeof out);
        cr_assert_str_eq(out, cases[i].count);
        gln_text_bytes(cases[i].value, out, sizeof out);
        cr_assert_str_eq(out, cases[i].bytes);
    }
    gln_text_duration(7.4, out, sizeof out);
    cr_assert_str_eq(out, "0:07");
    gln_text_duration(760, out, sizeof out);
    cr_assert_str_eq(out, "12:40");
    gln_text_duration(10931, out, sizeof out);
    cr_assert_str_eq(out, "3:02:11");
    gln_text_duration(-3, out, sizeof out);
    cr_assert_str_eq(out, "0:00");
}

/* The size that the gzip program itself makes of the first `limit` bytes. */
static int64_t gzip_itself(const char *path, int64_t limit)
{
    char command[256];
    long long size = -1;
    snprintf(command, sizeof command, "head -c %lld '%s' | gzip -9 -c | wc -c", (long long)limit,
             path);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    cr_assert_eq(fscanf(pipe, "%lld", &size), 1);
    pclose(pipe);
    return size;
}

Test(text, the_size_is_that_of_gzip)
{
    char path[] = "/tmp/gln-text-XXXXXX";
    int descriptor = mkstemp(path);
    FILE *file = fdopen(descriptor, "w");
    uint32_t state = 1;
    for (int i = 0; i < 60000; i++) { /* words drawn from a small vocabulary: 300 kB of text */
        state = state * 1664525u + 1013904223u;
        fprintf(file, "%s%u%c", (const char *[]){"house", "of", "the", "lord "}[state >> 30],
                (state >> 20) % 37, i % 11 ? ' ' : '\n');
    }
    fclose(file);
    const int64_t limits[] = {0, 1, 65536, 65537, 200000};
    for (int i = 0; i < 5; i++) {
        int64_t bytes = -1, packed = -1;
        cr_assert_eq(gln_text_gzip_bytes(path, limits[i], &bytes, &packed), GLN_OK);
        cr_assert(limits[i] == 0 || bytes == limits[i]);
        cr_assert_eq(packed, gzip_itself(path, bytes), "%lld bytes: %lld", (long long)bytes,
                     (long long)packed);
    }
    unlink(path);
}

Test(text, no_file_no_size)
{
    int64_t bytes = 5, packed = 5;
    cr_assert_eq(gln_text_gzip_bytes("/nonexistent/text", 0, &bytes, &packed), GLN_ERR_IO);
    cr_assert(strstr(gln_last_error(), "/nonexistent/text"));
    cr_assert_eq(packed, 5);
}
