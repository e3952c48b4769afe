/* Why a process. A rank that was killed or stopped can neither speak nor leave, and where it is
 * alone on its host nobody else sees it. Its keeper does: the kernel wakes it (a pidfd) when the
 * rank dies, and it holds the rank's stderr and, in shared memory, the rank's place.
 *
 * Why mpirun must be hurried. To end a job the daemons of Open MPI 4 send SIGCONT, sleep a second,
 * send SIGTERM, sleep a second, send SIGKILL. A sleep is cut short by any SIGCHLD and by nothing
 * else: a daemon whose ranks have all died before sleeps both seconds, and reads no message
 * meanwhile. So a keeper sends its daemon SIGCHLD every 25 ms, which tells it only to look for dead
 * children, when
 *   - its rank ends the job or knows of the end (gln_keeper_ending), or
 *   - its rank was stopped for longer than the others wait, and runs again, or
 *   - its rank died, and there is no other on the host which may still have something to say.
 * Otherwise (Ctrl-C, a job that was suspended for a moment) ranks keep their two seconds.
 *
 * A rank that mpirun ends is not reported: the daemon signals whole process groups, so that its
 * signals are pending here, where all are blocked. One that leaves by exit() is not either. */
#include "launcher/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* Linux 5.9; the same on all machines */
#endif

enum {
    LOOK_MS = 250,
    CLOSE_LOOK_MS = 25,
    ENDED_MS = 150,  /* in which the launcher's signals would come, if it ended the rank */
    WAKE_MS = 100,   /* for a rank that runs again to speak */
    HURRY_MS = 2500, /* longer than both sleeps */
    LEAVE_MS = 5000, /* for a rank that ends the job to end itself */
    HANG_MS = 10000, /* for mpirun to end after a rank's death, and again after SIGTERM */
};

typedef struct shared {
    gln_comm_place_t place;
    int64_t timeout_ms;
    int ending, left;
} shared_t;

typedef struct keeper {
    shared_t *shared;
    int rank;
    int bell;           /* eventfd: look at `shared` */
    int64_t pid;        /* of the rank */
    int self, daemon;   /* pidfds of the rank and of its parent; daemon -1: not one of Open MPI's */
    bool is_mpirun;     /* the daemon is the job's own: when it ends, the job has */
    bool alone;         /* no other rank on this host */
    int64_t stopped_ms; /* when the rank was first seen stopped; 0: it is not */
} keeper_t;

static shared_t none; /* where there is no keeper */
static shared_t *shared = &none;
static int bell = -1;
static pid_t launcher; /* parent of the rank: also a keeper's */

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void rest_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static ssize_t read_file(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t length = read(file, text, size - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    return length;
}

static bool is_stopped(int64_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    if (read_file(path, text, sizeof text) <= 0) return false;
    const char *at = strrchr(text, ')');
    return at && (at[2] == 'T' || at[2] == 't');
}

/* Only those whose sleep is known are hurried. */
static bool is_daemon(pid_t pid, bool *is_mpirun)
{
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    if (read_file(path, name, sizeof name) <= 0) return false;
    *is_mpirun = !strcmp(name, "mpirun\n") || !strcmp(name, "orterun\n");
    return *is_mpirun || !strcmp(name, "orted\n");
}

static bool ends_within(int process, int64_t ms)
{
    struct pollfd look = {.fd = process, .events = POLLIN};
    return poll(&look, 1, (int)ms) > 0;
}

/* Until the daemon has left, or `until`, another process. */
static void hurry(const keeper_t *keeper, int until)
{
    int64_t end = clock_ms() + HURRY_MS;
    while (keeper->daemon >= 0 && clock_ms() < end) {
        struct pollfd look[2] = {{.fd = keeper->daemon, .events = POLLIN},
                                 {.fd = until, .events = POLLIN}};
        if (syscall(SYS_pidfd_send_signal, keeper->daemon, SIGCHLD, NULL, 0) != 0) return;
        if (poll(look, 2, CLOSE_LOOK_MS) > 0) return;
    }
}

static bool is_ended_by_launcher(void)
{
    sigset_t pending;
    return sigpending(&pending) == 0 &&
           sigismember(&pending, SIGTERM); /* SIGCONT may have met a dead one not yet reaped */
}

static void report(const keeper_t *keeper)
{
    const gln_comm_place_t *place = &keeper->shared->place;
    char host[64] = "?", text[512];
    const char *operation = place->operation ? place->operation : place->collective;
    gethostname(host, sizeof host - 1);
    int used =
        snprintf(text, sizeof text,
                 "gleaner: error: rank %d (host %s, pid %lld, gone) left the job; "
                 "operation %s",
                 keeper->rank, host, (long long)keeper->pid, operation ? operation : "computing");
    if (place->layer >= 0)
        used += snprintf(text + used, sizeof text - (size_t)used, ", layer %d", place->layer);
    if (place->step > 0)
        used += snprintf(text + used, sizeof text - (size_t)used, ", step %lld",
                         (long long)place->step);
    text[used] = '\n';
    if (write(STDERR_FILENO, text, (size_t)used + 1) < 0) return; /* nobody reads any more */
}

/* Any job ends. A daemon that has missed a dead child finds it by SIGCHLD; an mpirun that hangs
 * all the same (seen once, with 4.1.4 and AddressSanitizer) is ended. */
static void see_to_the_end(const keeper_t *keeper)
{
    if (keeper->daemon < 0 || ends_within(keeper->daemon, HURRY_MS)) return;
    syscall(SYS_pidfd_send_signal, keeper->daemon, SIGCHLD, NULL, 0);
    if (!keeper->is_mpirun || ends_within(keeper->daemon, HANG_MS)) return;
    syscall(SYS_pidfd_send_signal, keeper->daemon, SIGTERM, NULL, 0);
    if (ends_within(keeper->daemon, HANG_MS)) return;
    syscall(SYS_pidfd_send_signal, keeper->daemon, SIGKILL, NULL, 0);
}

/* The rank is dead. The launcher waits for stderr to close: that comes before all that takes time.
 */
static void after_death(const keeper_t *keeper)
{
    int ending = __atomic_load_n(&keeper->shared->ending, __ATOMIC_ACQUIRE);
    if (__atomic_load_n(&keeper->shared->left, __ATOMIC_ACQUIRE)) return;
    if (!ending && !is_ended_by_launcher() && gln_keeper_is_first()) {
        int64_t end = clock_ms() + ENDED_MS;
        while (!is_ended_by_launcher() && clock_ms() < end)
            rest_ms(10);
        if (!is_ended_by_launcher()) report(keeper);
    }
    close(STDERR_FILENO);
    if (ending || keeper->alone) hurry(keeper, -1);
    see_to_the_end(keeper); /* the name of the first is kept meanwhile */
}

static void look_at_rank(keeper_t *keeper)
{
    int64_t now = clock_ms(), limit = keeper->shared->timeout_ms;
    if (is_stopped(keeper->pid)) {
        if (keeper->stopped_ms == 0) keeper->stopped_ms = now;
        return;
    }
    int64_t since = keeper->stopped_ms;
    keeper->stopped_ms = 0;
    if (since == 0 || limit == 0 || now - since < limit - 2 * LOOK_MS) return;
    if (ends_within(keeper->self, WAKE_MS)) return; /* it has a moment to speak */
    hurry(keeper, keeper->self);
}

static void keep(keeper_t *keeper)
{
    for (bool hurried = false;;) {
        struct pollfd look[2] = {{.fd = keeper->self, .events = POLLIN},
                                 {.fd = hurried ? -1 : keeper->bell, .events = POLLIN}};
        poll(look, 2, keeper->stopped_ms ? CLOSE_LOOK_MS : LOOK_MS);
        if (look[0].revents) break;
        if (__atomic_load_n(&keeper->shared->left, __ATOMIC_ACQUIRE)) return;
        if (!hurried && __atomic_load_n(&keeper->shared->ending, __ATOMIC_ACQUIRE)) {
            hurried = true;
            close(STDERR_FILENO);
            hurry(keeper, keeper->self);
            if (!ends_within(keeper->self, LEAVE_MS))
                syscall(SYS_pidfd_send_signal, keeper->self, SIGKILL, NULL, 0);
        }
        look_at_rank(keeper);
    }
    after_death(keeper);
}

static void close_between(unsigned first, unsigned last)
{
    if (first <= last) syscall(SYS_close_range, first, last, 0U);
}

/* In the child: keep nothing of the rank but its stderr. */
static void __attribute__((noreturn)) child(keeper_t *keeper)
{
    const char *local = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    int nothing = open("/dev/null", O_RDWR);
    prctl(PR_SET_NAME, "gleaner-keeper");
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    unsigned bell_fd = (unsigned)keeper->bell, self_fd = (unsigned)keeper->self;
    unsigned low = bell_fd < self_fd ? bell_fd : self_fd, high = bell_fd ^ self_fd ^ low;
    close_between(3, low - 1);
    close_between(low + 1, high - 1);
    close_between(high + 1, ~0U);
    keeper->alone = local && atoi(local) == 1;
    keeper->daemon =
        is_daemon(launcher, &keeper->is_mpirun) ? (int)syscall(SYS_pidfd_open, launcher, 0) : -1;
    keep(keeper);
    _exit(0);
}

void gln_keeper_open(int rank, int64_t timeout_ms)
{
    sigset_t all, before;
    if (bell >= 0) return;
    none = (shared_t){.place.layer = -1};
    launcher = getppid();
    if (!getenv("OMPI_COMM_WORLD_RANK") && !getenv("PMIX_RANK")) return;
    void *page =
        mmap(NULL, sizeof(shared_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return;
    keeper_t keeper = {.shared = page, .rank = rank, .pid = getpid(), .daemon = -1};
    *keeper.shared = (shared_t){.place.layer = -1, .timeout_ms = timeout_ms};
    keeper.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    keeper.self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    pid_t made = keeper.bell < 3 || keeper.self < 3 ? -1 : fork();
    if (made == 0) child(&keeper);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (keeper.self >= 0) close(keeper.self);
    if (made < 0) {
        if (keeper.bell >= 0) close(keeper.bell);
        munmap(page, sizeof(shared_t));
        return;
    }
    shared = keeper.shared;
    bell = keeper.bell;
    atexit(gln_keeper_ending); /* whoever leaves in good order has closed before */
}

gln_comm_place_t *gln_keeper_place(void)
{
    return &shared->place;
}

void gln_keeper_set_timeout(int64_t timeout_ms)
{
    shared->timeout_ms = timeout_ms;
}

static void ring(int *flag)
{
    static const uint64_t one = 1;
    int error = errno;
    __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
    if (bell >= 0 && write(bell, &one, sizeof one) < 0) errno = error; /* it looks now and then */
    errno = error;
}

void gln_keeper_ending(void)
{
    ring(&shared->ending);
}

void gln_keeper_close(void)
{
    ring(&shared->left);
}

/* The first one owns the name of a socket, an abstract one, which ends with the process. */
bool gln_keeper_is_first(void)
{
    static int handle = -1;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (handle >= 0) return true;
    handle = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (handle < 0) return true;
    snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "gleaner late %d %d", (int)getuid(),
             (int)(launcher ? launcher : getppid()));
    if (bind(handle, (struct sockaddr *)&name, sizeof name) == 0 || errno != EADDRINUSE)
        return true;
    close(handle);
    handle = -1;
    return false;
}
