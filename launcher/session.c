/* Agreement is one allgather of two integers a rank; it is on no hot path. */
#include "launcher/session.h"

#include "base/log.h"
#include "launcher/command.h"
#include "launcher/keeper.h"
#include "launcher/start_watch.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;

static void sink(void *ctx, gln_log_level_t level, const char *message)
{
    gln_session_t *session = ctx;
    pthread_mutex_lock(&sink_lock);
    if (level == GLN_LOG_ERROR && !session->message[0])
        snprintf(session->message, sizeof session->message, "%s", message);
    if (level == GLN_LOG_WARN) {
        if (session->rank > 0)
            fprintf(stderr, "gleaner: warning: rank %d: %s\n", session->rank, message);
        else
            fprintf(stderr, "gleaner: warning: %s\n", message);
    }
    pthread_mutex_unlock(&sink_lock);
}

void gln_session_start(gln_session_t *session)
{
    memset(session, 0, sizeof *session);
    session->ranks = 1;
    session->timeout_ms = GLN_SESSION_TIMEOUT_MS;
    gln_log_set_sink(sink, session);
}

static void speak(const gln_session_t *session, gln_status_t status)
{
    const char *message = session->message[0] ? session->message : gln_status_name(status);
    if (session->rank > 0)
        fprintf(stderr, "gleaner: error: rank %d: %s\n", session->rank, message);
    else
        fprintf(stderr, "gleaner: error: %s\n", message);
    fflush(stderr);
}

static int64_t start_ms(const gln_session_t *session)
{
    int64_t timeout_ms = session->timeout_ms;
    return timeout_ms > 0 && timeout_ms < GLN_SESSION_START_MS ? GLN_SESSION_START_MS : timeout_ms;
}

static gln_start_watch_t inside_mpi;
static volatile sig_atomic_t signals_heard, many_ranks;

static int guard_signals(void *watch)
{
    (void)watch;
    return signals_heard;
}

static void guard_begin(void *watch, const char *operation, int64_t timeout_ms)
{
    gln_keeper_place()->collective = operation;
    gln_start_watch_begin(operation, timeout_ms, watch);
}

static void guard_end(void *watch)
{
    gln_start_watch_end(watch);
    gln_keeper_place()->collective = NULL;
}

static void catch_continue(void);

gln_status_t gln_session_join(gln_session_t *session)
{
    static const char operation[] = "start of MPI";
    gln_start_watch_t watch;
    gln_keeper_open(gln_session_environment_rank(), start_ms(session));
    gln_keeper_place()->operation = operation;
    gln_comm_set_guard(&(gln_comm_guard_t){guard_begin, guard_end, guard_signals,
                                           gln_keeper_place(), &inside_mpi});
    gln_start_watch_begin(operation, start_ms(session), &watch);
    gln_status_t status = gln_comm_open_world(&session->comm);
    gln_start_watch_end(&watch);
    gln_keeper_place()->operation = NULL;
    gln_keeper_set_timeout(session->timeout_ms);
    if (status != GLN_OK) {
        session->comm = NULL;
        gln_keeper_close();
        gln_comm_set_guard(NULL);
        speak(session, status);
        session->spoken = true;
        return status;
    }
    gln_comm_set_timeout(session->comm, session->timeout_ms);
    session->rank = gln_comm_rank(session->comm);
    session->ranks = gln_comm_size(session->comm);
    many_ranks = session->ranks > 1;
    catch_continue();
    return GLN_OK;
}

void gln_session_forget(gln_session_t *session)
{
    session->message[0] = 0;
}

enum { SPEAKER_NS = 600000000 }; /* several times what a keeper takes */

static void end_job(gln_session_t *session, gln_status_t status)
{
    /* Without a message another rank has reported who is missing, and ends the job; so has the
     * keeper of a rank that died on this host. MPI_Abort would wait for a daemon that sleeps until
     * its processes are gone. Its sleep after the signal that woke this rank is cut short by a
     * child that dies in it, not by one that died before (and by keepers). Whoever speaks on this
     * host is given the time to: at the end the daemon kills keepers too. */
    bool first = status != GLN_ERR_PEER || gln_keeper_is_first();
    if (status == GLN_ERR_PEER && (!session->message[0] || !first)) {
        if (!first) nanosleep(&(struct timespec){.tv_nsec = SPEAKER_NS}, NULL);
        gln_keeper_ending();
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        _Exit(GLN_EXIT_FAILED);
    }
    speak(session, status);
    gln_keeper_ending();
    gln_comm_abort(session->comm, GLN_EXIT_FAILED);
}

gln_status_t gln_session_agree(gln_session_t *session, gln_status_t mine)
{
    if (!session->comm) {
        if (mine != GLN_OK && !session->spoken) speak(session, mine);
        session->spoken = session->spoken || mine != GLN_OK;
        return mine;
    }
    if (mine == GLN_ERR_PEER) end_job(session, mine);
    int brought[2] = {mine, session->message[0] != 0};
    int(*all)[2] = calloc((size_t)session->ranks, sizeof *all);
    if (!all) end_job(session, GLN_ERR_MEMORY);
    gln_status_t status = gln_comm_allgather(session->comm, brought, sizeof brought, all);
    if (status != GLN_OK) end_job(session, status);
    int speaker = -1;
    for (int r = 0; r < session->ranks; r++) {
        if (all[r][0] == GLN_OK) continue;
        if (speaker < 0 || (all[r][1] && !all[speaker][1])) speaker = r;
    }
    status = speaker < 0 ? GLN_OK : (gln_status_t)all[speaker][0];
    free(all);
    if (speaker == session->rank && !session->spoken) speak(session, status);
    session->spoken = session->spoken || speaker >= 0;
    return status;
}

int gln_session_exit_status(gln_status_t status, bool working)
{
    switch (status) {
    case GLN_OK:
        return GLN_EXIT_OK;
    case GLN_ERR_ARGUMENT:
    case GLN_ERR_CONFIG:
    case GLN_ERR_DATA:
    case GLN_ERR_CHECKPOINT:
        return GLN_EXIT_BAD_INPUT;
    case GLN_ERR_IO:
        return working ? GLN_EXIT_FAILED : GLN_EXIT_BAD_INPUT;
    default:
        return GLN_EXIT_FAILED;
    }
}

int gln_session_leave(gln_session_t *session, gln_status_t status)
{
    gln_status_t here =
        session->comm && status != GLN_ERR_PEER ? gln_comm_barrier(session->comm) : status;
    if (here == GLN_ERR_PEER && session->comm) end_job(session, here);
    fflush(stdout);
    gln_start_watch_t watch;
    gln_start_watch_begin("end of MPI", start_ms(session), &watch);
    gln_comm_close(session->comm);
    gln_start_watch_end(&watch);
    gln_keeper_close();
    session->comm = NULL;
    gln_comm_set_guard(NULL);
    gln_log_set_sink(NULL, NULL);
    return gln_session_exit_status(status, session->working);
}

int gln_session_environment_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID", NULL};
    for (const char *const *name = names; *name; name++) {
        const char *text = getenv(*name);
        if (text && *text) return atoi(text);
    }
    return 0;
}

static volatile sig_atomic_t stop_asked;

/* A daemon ends its ranks with SIGCONT, SIGTERM and SIGKILL, a second between each. A rank that was
 * stopped wakes by the first one; when it has met no other rank for a while at the second, they are
 * gone and there is no step to finish: it leaves, so that the daemon has none to wait for. (It may
 * hang inside MPI, which saw the others leave.) */
static int64_t continued_ns; /* written by the handler alone */

static int64_t handler_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void leave_if_alone(void)
{
    int64_t now = handler_clock_ns(), since = now - continued_ns;
    if (many_ranks && since > 500000000 && since < 2000000000 &&
        now - gln_comm_met_ns() > 500000000) {
        gln_keeper_ending();
        _exit(GLN_EXIT_FAILED);
    }
}

static void ask_stop(int number)
{
    if (number == SIGTERM) leave_if_alone();
    stop_asked = 1;
    signals_heard = signals_heard + 1;
}

static void hear(int number)
{
    (void)number;
    continued_ns = handler_clock_ns();
    signals_heard = signals_heard + 1;
}

/* mpirun ends a job with SIGCONT and then SIGTERM: ranks that hold back leave at once. Also before
 * a run is opened, when SIGTERM still ends a rank. */
static void catch_continue(void)
{
    struct sigaction action = {.sa_handler = hear, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGCONT, &action, NULL);
}

void gln_session_catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    catch_continue();
    sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
}

int gln_session_stop_asked(void)
{
    return stop_asked;
}
