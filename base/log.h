/* Messages. Nothing below launcher/ prints: messages go to one process-wide sink, none by default,
 * and the last error of each thread can be asked for. */
#ifndef GLN_BASE_LOG_H
#define GLN_BASE_LOG_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How much a message matters. */
typedef enum gln_log_level {
    GLN_LOG_ERROR, /* of a call that failed */
    GLN_LOG_WARN,  /* it goes on, otherwise than was asked */
    GLN_LOG_INFO,  /* what was chosen */
    GLN_LOG_DEBUG  /* for whoever looks for a fault */
} gln_log_level_t;

/** Receives one message without a newline. Called on the thread that logs; must not log itself. */
typedef void (*gln_log_sink_t)(void *ctx, gln_log_level_t level, const char *message);

/** Set the sink; NULL drops messages (the default). Not thread-safe against concurrent logging. */
void gln_log_set_sink(gln_log_sink_t sink, void *ctx);

/** Format and send one message (at most 1023 bytes). Lower case, cause not guess, no newline. */
void gln_log(gln_log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Report an error once, remember it as this thread's last error, and return `status`.
 *  The message says what was expected, what was found and what to do. */
gln_status_t gln_fail(gln_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** 1: from now on errors of this thread are remembered but not sent to the sink; 0: sent again. For
 * a caller that will report the error itself, with what only it knows (file and line, say). */
void gln_log_hold(int hold);

/** This thread's last error message, "" if there was none. Valid until the next gln_fail here. */
const char *gln_last_error(void);

/** For the programmer's mistakes only: stops the process with file and line. Kept in all builds. */
#define GLN_ASSERT(condition) \
    ((condition) ? (void)0 : gln_assert_failed(#condition, __FILE__, __LINE__))
/** What GLN_ASSERT calls. */
void gln_assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif
#endif
