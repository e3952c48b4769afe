#include "base/log.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct seen {
    int count;
    gln_log_level_t level;
    char message[2048];
} seen_t;

static void keep(void *ctx, gln_log_level_t level, const char *message)
{
    seen_t *seen = ctx;
    seen->count++;
    seen->level = level;
    snprintf(seen->message, sizeof seen->message, "%s", message);
}

Test(log, without_a_sink_messages_are_dropped)
{
    gln_log(GLN_LOG_INFO, "nobody %s", "listens");
    cr_assert_str_eq(gln_last_error(), "");
}

Test(log, the_sink_receives_level_and_text_and_null_takes_it_off)
{
    seen_t seen = {0};
    gln_log_set_sink(keep, &seen);
    gln_log(GLN_LOG_WARN, "rank %d", 3);
    cr_assert_eq(seen.count, 1);
    cr_assert_eq(seen.level, GLN_LOG_WARN);
    cr_assert_str_eq(seen.message, "rank 3");
    gln_log_set_sink(NULL, NULL);
    gln_log(GLN_LOG_WARN, "again");
    cr_assert_eq(seen.count, 1);
}

Test(log, messages_end_after_1023_bytes)
{
    seen_t seen = {0};
    gln_log_set_sink(keep, &seen);
    gln_log(GLN_LOG_INFO, "%2000s", "x");
    cr_assert_eq(strlen(seen.message), 1023);
    gln_fail(GLN_ERR_IO, "%2000s", "x");
    cr_assert_eq(strlen(gln_last_error()), 1023);
}

Test(log, fail_reports_once_remembers_and_returns_its_status)
{
    seen_t seen = {0};
    gln_log_set_sink(keep, &seen);
    cr_assert_eq(gln_fail(GLN_ERR_DATA, "expected %d, found %d", 1, 2), GLN_ERR_DATA);
    cr_assert_eq(seen.count, 1);
    cr_assert_eq(seen.level, GLN_LOG_ERROR);
    cr_assert_str_eq(seen.message, "expected 1, found 2");
    cr_assert_str_eq(gln_last_error(), "expected 1, found 2");
}

Test(log, held_errors_are_remembered_but_not_sent)
{
    seen_t seen = {0};
    gln_log_set_sink(keep, &seen);
    gln_log_hold(1);
    cr_assert_eq(gln_fail(GLN_ERR_DATA, "held"), GLN_ERR_DATA);
    gln_log_hold(0);
    cr_assert_eq(seen.count, 0);
    cr_assert_str_eq(gln_last_error(), "held");
    gln_fail(GLN_ERR_DATA, "sent");
    cr_assert_eq(seen.count, 1);
}

Test(log, the_last_error_may_be_an_argument_of_the_next)
{
    gln_fail(GLN_ERR_IO, "inner");
    gln_fail(GLN_ERR_IO, "outer: %s", gln_last_error());
    cr_assert_str_eq(gln_last_error(), "outer: inner");
}

static void *fail_elsewhere(void *out)
{
    strcpy(out, gln_last_error());
    gln_fail(GLN_ERR_IO, "theirs");
    return NULL;
}

Test(log, the_last_error_belongs_to_its_thread)
{
    char before[1024] = "unset";
    gln_fail(GLN_ERR_IO, "mine");
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, fail_elsewhere, before), 0);
    pthread_join(thread, NULL);
    cr_assert_str_eq(before, "");
    cr_assert_str_eq(gln_last_error(), "mine");
}

Test(log, a_failed_assertion_stops_the_process, .signal = SIGABRT)
{
    GLN_ASSERT(1 + 1 == 2);
    GLN_ASSERT(1 + 1 == 3);
}
