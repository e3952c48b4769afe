/* One process-wide sink, and the last error of each thread in thread-local storage. Messages are
 * formatted on the stack, so nothing is allocated. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_SIZE = 1024 };

static gln_log_sink_t current_sink;
static void *current_ctx;
static _Thread_local char last_error[MESSAGE_SIZE];
static _Thread_local int held;

static void send_message(gln_log_level_t level, const char *message)
{
    if (current_sink) current_sink(current_ctx, level, message);
}

void gln_log_set_sink(gln_log_sink_t sink, void *ctx)
{
    current_sink = sink;
    current_ctx = ctx;
}

void gln_log(gln_log_level_t level, const char *format, ...)
{
    if (!current_sink) return;
    char message[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    send_message(level, message);
}

gln_status_t gln_fail(gln_status_t status, const char *format, ...)
{
    /* formatted aside first: an argument may be gln_last_error() itself */
    char message[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    memcpy(last_error, message, strlen(message) + 1);
    if (!held) send_message(GLN_LOG_ERROR, message);
    return status;
}

void gln_log_hold(int hold)
{
    held = hold;
}

const char *gln_last_error(void)
{
    return last_error;
}

void gln_assert_failed(const char *condition, const char *file, int line)
{
    char message[MESSAGE_SIZE];
    snprintf(message, sizeof message, "%s:%d: assertion failed: %s", file, line, condition);
    if (current_sink)
        send_message(GLN_LOG_ERROR, message);
    else
        fprintf(stderr, "%s\n", message); /* the process ends here: its reason must be seen */
    abort();
}
