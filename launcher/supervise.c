/* One child at a time. Signals are blocked and fetched with sigtimedwait, so that there is no
 * handler and no race between a signal and a wait; SIGCHLD wakes it, and it looks twice a second
 * anyway. */
#include "launcher/supervise.h"

#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAITING_MAX = 1 << 16, KILL_AFTER_MS = 5000 };

void gln_launch_log_open(gln_launch_log_t *log, const char *folder)
{
    *log = (gln_launch_log_t){0};
    if (folder) snprintf(log->path, sizeof log->path, "%.1000s/launch.log", folder);
}

static void flush(gln_launch_log_t *log)
{
    if (log->size == 0 || !log->path[0]) return;
    int file = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) return; /* no folder yet */
    if (write(file, log->waiting, log->size) == (ssize_t)log->size) log->size = 0;
    close(file);
}

void gln_launch_log_say(gln_launch_log_t *log, const char *format, ...)
{
    char text[4096], line[4160], when[32];
    time_t now = time(NULL);
    struct tm parts;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    localtime_r(&now, &parts);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &parts);
    int length = snprintf(line, sizeof line, "%s launch: %s\n", when, text);
    fputs(line, stderr);
    char *waiting = realloc(log->waiting, log->size + (size_t)length);
    if (!waiting || log->size > WAITING_MAX) return;
    log->waiting = waiting;
    memcpy(waiting + log->size, line, (size_t)length);
    log->size += (size_t)length;
    flush(log);
}

void gln_launch_log_close(gln_launch_log_t *log)
{
    flush(log);
    free(log->waiting);
    log->waiting = NULL;
    log->size = 0;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1);
    sigaddset(set, SIGCHLD);
}

void gln_supervisor_open(gln_supervisor_t *supervisor)
{
    sigset_t set;
    *supervisor = (gln_supervisor_t){0};
    signal_set(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would take the status of children with it */
}

/* Wait for a signal. @return it; SIGCHLD; 0: none came. */
static int wait_signal(gln_supervisor_t *supervisor, int64_t ms)
{
    sigset_t set;
    signal_set(&set);
    struct timespec limit = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    int number = sigtimedwait(&set, NULL, &limit);
    if (number <= 0) return 0;
    if (number == SIGCHLD) return number;
    if (supervisor->signals++ == 0) supervisor->first_signal = number;
    return number;
}

static void be_child(char *const *argv, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    setsid(); /* Ctrl-C reaches the supervisor alone; no password can be asked for */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(argv[0], argv);
    fprintf(stderr, "gleaner: error: cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

gln_status_t gln_supervisor_run(gln_supervisor_t *supervisor, char *const *argv,
                                gln_launch_log_t *log, int *out)
{
    int status = 0, number;
    int64_t kill_at = 0;
    pid_t parent = getpid(), child = fork();
    if (child == 0) be_child(argv, parent);
    if (child < 0)
        return gln_fail(GLN_ERR_MEMORY, "cannot make a process for %s: %s", argv[0],
                        strerror(errno));
    while (waitpid(child, &status, WNOHANG) != child) {
        number = wait_signal(supervisor, 500);
        if (kill_at && now_ms() >= kill_at) kill(-child, SIGKILL);
        if (number == 0 || number == SIGCHLD) continue;
        if (supervisor->signals == 1) {
            gln_launch_log_say(log, "%s: ranks are asked to save and leave; another one ends them",
                               strsignal(number));
            kill(child, SIGUSR1);
        } else if (!kill_at) {
            gln_launch_log_say(log, "%s again: the job is ended", strsignal(number));
            kill(child, SIGTERM);
            kill_at = now_ms() + KILL_AFTER_MS;
        }
    }
    *out = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return GLN_OK;
}

void gln_supervisor_sleep(gln_supervisor_t *supervisor, int64_t ms)
{
    int64_t end = now_ms() + ms;
    int before = supervisor->signals;
    for (int64_t left; (left = end - now_ms()) > 0 && supervisor->signals == before;)
        wait_signal(supervisor, left);
}
