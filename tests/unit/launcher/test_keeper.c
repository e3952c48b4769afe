/* What a keeper says of a rank that died, when it is silent, and when it hurries the daemon. A
 * process of this test plays mpirun's daemon, its child the rank. */
#include "launcher/keeper.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void rest_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static volatile sig_atomic_t children_heard;

static void hear(int number)
{
    (void)number;
    children_heard = children_heard + 1;
}

/* Are there `count` SIGCHLD within `ms`? */
static bool hears(int count, int ms)
{
    children_heard = 0;
    for (int i = 0; i < ms / 10 && children_heard < count; i++)
        rest_ms(10);
    return children_heard >= count;
}

typedef void (*act_t)(void);

static pid_t start_rank(act_t act, const char *ranks_here, int64_t timeout_ms)
{
    pid_t rank = fork();
    if (rank != 0) return rank;
    setenv("OMPI_COMM_WORLD_RANK", "3", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", ranks_here, 1);
    setpgid(0, 0);
    signal(SIGCHLD, SIG_DFL);
    gln_keeper_open(3, timeout_ms);
    *gln_keeper_place() = (gln_comm_place_t){"dispatch", "messages", 2, 17};
    act();
    _exit(1);
}

/* Play the daemon in a child: `daemon` gets the rank's pid. @return its exit status; `said` is what
 * came on stderr until all had closed it */
static int play(act_t act, const char *ranks_here, int64_t timeout_ms, int (*daemon)(pid_t),
                char *said, size_t size)
{
    int ends[2], status = 0;
    size_t used = 0;
    ssize_t part;
    cr_assert_eq(pipe(ends), 0);
    pid_t made = fork();
    cr_assert_geq(made, 0);
    if (made == 0) {
        struct sigaction action = {.sa_handler = hear, .sa_flags = SA_NOCLDSTOP};
        prctl(PR_SET_NAME, "mpirun");
        sigaction(SIGCHLD, &action, NULL);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        pid_t rank = start_rank(act, ranks_here, timeout_ms);
        close(STDERR_FILENO);
        _exit(rank < 0 ? 99 : daemon(rank));
    }
    close(ends[1]);
    while (used + 1 < size && (part = read(ends[0], said + used, size - 1 - used)) > 0)
        used += (size_t)part;
    said[used] = 0;
    close(ends[0]);
    cr_assert_eq(waitpid(made, &status, 0), made);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void be_killed(void)
{
    raise(SIGKILL);
}
static void leave_in_order(void)
{
    gln_keeper_close();
}
static void end_job(void)
{
    gln_keeper_ending();
}
static void call_exit(void)
{
    exit(1);
}
static void live_on(void)
{
    for (;;)
        pause();
}
static void end_job_and_live_on(void)
{
    gln_keeper_ending();
    live_on();
}

static int wait_for_it(pid_t rank)
{
    while (waitpid(rank, NULL, 0) != rank)
        ;
    return 0;
}

static int is_hurried(pid_t rank)
{
    wait_for_it(rank);
    return hears(5, 5000) ? 0 : 1;
}

static int is_hurried_while_it_lives(pid_t rank)
{
    bool hurried = hears(5, 5000);
    kill(-rank, SIGKILL);
    wait_for_it(rank);
    return hurried ? 0 : 1;
}

static int is_left_alone(pid_t rank)
{
    wait_for_it(rank);
    return hears(1, 700) ? 1 : 0;
}

static int end_group(pid_t rank)
{
    rest_ms(300); /* the keeper is there */
    kill(-rank, SIGCONT);
    rest_ms(50);
    kill(-rank, SIGTERM);
    return wait_for_it(rank);
}

static int stop_then(pid_t rank, int ms, bool expected)
{
    rest_ms(300);
    kill(rank, SIGSTOP);
    rest_ms(ms);
    kill(-rank, SIGCONT);
    bool hurried = hears(3, expected ? 5000 : 700);
    kill(-rank, SIGKILL);
    wait_for_it(rank);
    return hurried == expected ? 0 : 1;
}
static int stop_for_long(pid_t rank)
{
    return stop_then(rank, 1500, true);
}
static int stop_briefly(pid_t rank)
{
    return stop_then(rank, 300, false);
}

static char said[4096];

Test(keeper, a_killed_rank_is_named_with_what_it_did, .timeout = 60)
{
    cr_assert_eq(play(be_killed, "2", 2000, wait_for_it, said, sizeof said), 0);
    cr_assert(strstr(said, "gleaner: error: rank 3 (host "), "%s", said);
    cr_assert(strstr(said, ", gone) left the job; operation dispatch, layer 2, step 17\n"), "%s",
              said);
}

Test(keeper, one_that_leaves_or_ends_the_job_is_not_reported, .timeout = 60)
{
    const act_t acts[] = {leave_in_order, end_job, call_exit};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(play(acts[i], "2", 2000, wait_for_it, said, sizeof said), 0);
        cr_assert(!strstr(said, "gleaner"), "act %d: %s", i, said); /* sanitizers may speak */
    }
}

Test(keeper, one_that_the_launcher_ends_is_not_reported, .timeout = 60)
{
    cr_assert_eq(play(live_on, "2", 2000, end_group, said, sizeof said), 0);
    cr_assert(!strstr(said, "gleaner"), "%s", said);
}

Test(keeper, the_daemon_is_hurried_at_the_end, .timeout = 60)
{
    cr_assert_eq(play(end_job, "2", 2000, is_hurried, said, sizeof said), 0);
    cr_assert_eq(play(end_job_and_live_on, "2", 2000, is_hurried_while_it_lives, said, sizeof said),
                 0);
    cr_assert_eq(play(be_killed, "1", 2000, is_hurried, said, sizeof said), 0);
}

Test(keeper, the_daemon_is_not_hurried_where_others_may_speak, .timeout = 60)
{
    cr_assert_eq(play(be_killed, "2", 2000, is_left_alone, said, sizeof said), 0);
    cr_assert_eq(play(leave_in_order, "1", 2000, is_left_alone, said, sizeof said), 0);
}

Test(keeper, a_stop_longer_than_others_wait_ends_in_a_hurry, .timeout = 60)
{
    cr_assert_eq(play(live_on, "1", 500, stop_for_long, said, sizeof said), 0);
    cr_assert_eq(play(live_on, "1", 60000, stop_briefly, said, sizeof said), 0);
    cr_assert_eq(play(live_on, "1", 0, stop_briefly, said, sizeof said), 0);
}

Test(keeper, none_without_a_launcher)
{
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("PMIX_RANK");
    gln_keeper_open(0, 2000);
    cr_assert_not_null(gln_keeper_place());
    cr_assert_eq(gln_keeper_place()->layer, -1);
    gln_keeper_ending();
    gln_keeper_close();
    cr_assert(gln_keeper_is_first());
    cr_assert(gln_keeper_is_first(), "asked again");
}
