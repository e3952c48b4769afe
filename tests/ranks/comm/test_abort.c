/* gln_comm_abort ends the whole job at once with the given status, also when the other ranks wait.
 * The test starts a job of its own and looks at how it ended. RANKS: 1 */
#include "tests/ranks/comm/check.h"
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { exit_wanted = 42, seconds_allowed = 60 };

static int child(void)
{
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_world(&comm));
    CHECK(gln_comm_size(comm) == 3);
    if (gln_comm_rank(comm) == 1) gln_comm_abort(comm, exit_wanted);
    gln_comm_barrier(comm); /* never completed: rank 1 does not come */
    for (;;)
        pause();
}

/* Without the variables of the mpirun that started this program. */
static void start_job(const char *program)
{
    static char *environment[512];
    int count = 0;
    for (char **entry = environ; *entry && count < 510; entry++) {
        if (strncmp(*entry, "OMPI_MCA_", 9) == 0 || strncmp(*entry, "OMPI_ALLOW", 10) == 0 ||
            (strncmp(*entry, "OMPI", 4) != 0 && strncmp(*entry, "PMI", 3) != 0 &&
             strncmp(*entry, "ORTE", 4) != 0))
            if (!strstr(*entry, "orte") && !strstr(*entry, "ess") && !strstr(*entry, "pmix"))
                environment[count++] = *entry;
    }
    environ = environment;
    execlp("mpirun", "mpirun", "-n", "3", program, "child", NULL);
    perror("mpirun");
    _exit(127);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0) return child();
    char program[4096] = "";
    CHECK(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    fflush(NULL);
    pid_t job = fork();
    if (job == 0) start_job(program);
    int status = 0;
    time_t start = time(NULL);
    while (waitpid(job, &status, WNOHANG) == 0) {
        CHECK(time(NULL) - start < seconds_allowed, "the job still runs after %d s",
              seconds_allowed);
        usleep(20000);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == exit_wanted, "status %x", status);
    printf("ok\n");
    return 0;
}
