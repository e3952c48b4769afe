/* Ranks of the same host are the children of one parent, the daemon of mpirun or srun; which of
 * them are stopped is read from /proc: one look at every process of the host, when the time is
 * over. The first rank of a host that gets there speaks, the others keep quiet. The ranks of a host
 * where none is stopped wait a moment: those of the host where one is can name it. */
#include "launcher/start_watch.h"

#include "launcher/command.h"
#include "launcher/keeper.h"
#include "launcher/session.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    NAMES_BYTES = 700,
    ENVIRONMENT_BYTES = 1 << 16,
    QUIET_MS = 1000,
    NONE_MS = 400,
    STOPPED_MS = 300,
    PIDS_MAX = 64
};

static ssize_t read_all(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    size_t used = 0;
    ssize_t part;
    while (used + 1 < size && (part = read(file, text + used, size - 1 - used)) > 0)
        used += (size_t)part;
    close(file);
    text[used] = 0;
    return (ssize_t)used;
}

/* Rank of a process of this job that has the same parent, -1 if it is none. */
static int sibling_rank(const char *pid, char *state)
{
    static char text[ENVIRONMENT_BYTES];
    static const char *const names[] = {
        "OMPI_COMM_WORLD_RANK=", "PMIX_RANK=", "PMI_RANK=", "SLURM_PROCID="};
    char path[300];
    int parent = -1;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    if (read_all(path, text, sizeof text) <= 0) return -1;
    const char *at = strrchr(text, ')');
    if (!at || sscanf(at + 1, " %c %d", state, &parent) != 2 || parent != (int)getppid()) return -1;
    snprintf(path, sizeof path, "/proc/%s/environ", pid);
    ssize_t length = read_all(path, text, sizeof text);
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++)
        for (at = text; at < text + length; at += strlen(at) + 1)
            if (!strncmp(at, names[n], strlen(names[n]))) return atoi(at + strlen(names[n]));
    return -1;
}

typedef struct stopped {
    char names[NAMES_BYTES]; /* "rank 1 (host a, pid 7, stopped), ..." */
    pid_t pids[PIDS_MAX];
    int count;
} stopped_t;

static void find_stopped(stopped_t *found)
{
    char host[64] = "?";
    size_t used = 0;
    DIR *folder = opendir("/proc");
    gethostname(host, sizeof host - 1);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char state = 0;
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
        int rank = sibling_rank(entry->d_name, &state);
        if (rank < 0 || (state != 'T' && state != 't')) continue;
        if (found->count < PIDS_MAX) found->pids[found->count++] = (pid_t)atoi(entry->d_name);
        if (used + 128 < sizeof found->names)
            used += (size_t)snprintf(found->names + used, sizeof found->names - used,
                                     "%srank %d (host %.64s, pid %.16s, stopped)", used ? ", " : "",
                                     rank, host, entry->d_name);
    }
    if (folder) closedir(folder);
}

static void rest_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* This process itself was stopped when the time was over, and woke because a daemon ends the job.
 * Alone on its host, nobody but itself can name it. It dies in the daemon's sleep after the signal
 * that woke it, which cuts that sleep short. */
static void __attribute__((noreturn)) end_stopped(const gln_start_watch_t *watch, int mine)
{
    char host[64] = "?";
    gethostname(host, sizeof host - 1);
    fprintf(stderr,
            "gleaner: error: rank %d (host %s, pid %lld, stopped) did not arrive within %lld ms; "
            "operation %s\n",
            mine, host, (long long)getpid(), (long long)watch->timeout_ms, watch->operation);
    fflush(stderr);
    gln_keeper_ending();
    rest_ms(100);
    _Exit(GLN_EXIT_FAILED);
}

/* A stopped process is killed: the daemon then sees a rank that died, which it handles at any
 * moment; ranks that leave while others are stopped in MPI_Init crash mpirun 4.1. */
static void __attribute__((noreturn)) end_process(const gln_start_watch_t *watch, int64_t late_ms)
{
    static stopped_t found;
    int mine = gln_session_environment_rank();
    if (late_ms > STOPPED_MS) end_stopped(watch, mine);
    if (!gln_keeper_is_first()) {
        rest_ms(QUIET_MS + 100 * (mine < 10 ? mine : 10));
        gln_keeper_ending();
        _Exit(GLN_EXIT_FAILED);
    }
    find_stopped(&found);
    if (found.count == 0) rest_ms(NONE_MS);
    fprintf(stderr, "gleaner: error: rank %d: %s did not arrive within %lld ms; operation %s\n",
            mine, found.names[0] ? found.names : "another rank (none of this host is stopped)",
            (long long)watch->timeout_ms, watch->operation);
    fflush(stderr);
    for (int i = 0; i < found.count; i++)
        kill(found.pids[i], SIGKILL);
    gln_keeper_ending();
    /* where there is no keeper: the first that leaves makes every daemon end its ranks; one that
     * dies just then costs its daemon two whole sleeps, one that dies later cuts one of them */
    rest_ms(found.count > 0 ? 1000 : 100);
    _Exit(GLN_EXIT_FAILED);
}

static void *run(void *argument)
{
    gln_start_watch_t *watch = argument;
    struct timespec end, now;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (time_t)(watch->timeout_ms / 1000);
    end.tv_nsec += (long)(watch->timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec += 1;
        end.tv_nsec -= 1000000000;
    }
    int late = 0;
    pthread_mutex_lock(&watch->lock);
    while (!watch->over && !late)
        late = pthread_cond_timedwait(&watch->ended, &watch->lock, &end);
    bool over = watch->over;
    pthread_mutex_unlock(&watch->lock);
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t late_ms =
        (int64_t)(now.tv_sec - end.tv_sec) * 1000 + (now.tv_nsec - end.tv_nsec) / 1000000;
    if (!over) end_process(watch, late_ms);
    return NULL;
}

void gln_start_watch_begin(const char *operation, int64_t timeout_ms, gln_start_watch_t *watch)
{
    pthread_condattr_t clock;
    sigset_t all, before;
    watch->operation = operation;
    watch->timeout_ms = timeout_ms;
    watch->over = watch->runs = false;
    if (timeout_ms == 0) return;
    pthread_mutex_init(&watch->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->ended, &clock);
    pthread_condattr_destroy(&clock);
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watch->runs = pthread_create(&watch->thread, NULL, run, watch) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void gln_start_watch_end(gln_start_watch_t *watch)
{
    if (!watch->runs) return;
    pthread_mutex_lock(&watch->lock);
    watch->over = true;
    pthread_cond_signal(&watch->ended);
    pthread_mutex_unlock(&watch->lock);
    pthread_join(watch->thread, NULL);
    pthread_cond_destroy(&watch->ended);
    pthread_mutex_destroy(&watch->lock);
    watch->runs = false;
}
