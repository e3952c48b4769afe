/* `gleaner doctor`. Started alone, it builds the starter's command as `gleaner launch` does, starts
 * itself as the job's ranks with --json, reads their findings and adds its own; started as a rank
 * it looks around and meets the others. A job that does not come up, or hangs, is a finding. */
#include "launcher/doctor.h"

#include "base/log.h"
#include "comm/library.h"
#include "launcher/command.h"
#include "launcher/setup.h"
#include "launcher/starter.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { JOB_MS = 90000, WAIT_MS = 30000, PROBE_MS = 10000 };

static void host_name(char *out, size_t size)
{
    out[0] = 0;
    gethostname(out, size - 1);
    out[size - 1] = 0;
}

/* As one of the job's ranks. */
static int inside(bool json)
{
    gln_session_t session;
    gln_findings_t findings = {0};
    char host[64];
    host_name(host, sizeof host);
    gln_session_start(&session);
    session.timeout_ms = WAIT_MS;
    gln_status_t status = gln_session_join(&session);
    if (status != GLN_OK) return gln_session_leave(&session, status);
    session.working = true;
    int node = gln_comm_node_of(session.comm, session.rank), leader = session.rank;
    for (int r = session.rank - 1; r >= 0; r--)
        if (gln_comm_node_of(session.comm, r) == node) leader = r;
    if (leader == session.rank) {
        gln_doctor_machine(host, &findings);
        gln_doctor_devices(host, &findings);
    }
    gln_session_forget(&session);
    status = gln_doctor_gather(&session, &findings);
    if (status == GLN_OK) status = gln_doctor_job(&session, host, &findings);
    int errors = gln_findings_count(&findings, GLN_FINDING_ERROR);
    if (status == GLN_OK && session.rank == 0) status = gln_findings_print(&findings, json);
    status = gln_session_agree(&session, status);
    if (status == GLN_OK) gln_comm_broadcast(session.comm, &errors, sizeof errors, 0);
    gln_findings_close(&findings);
    int left = gln_session_leave(&session, status);
    return left == GLN_EXIT_OK && errors > 0 ? GLN_EXIT_FAILED : left;
}

/* All that is in a file, as text; caller frees; NULL: no memory. */
static char *read_all(int file)
{
    off_t size = lseek(file, 0, SEEK_END);
    char *text = calloc(1, (size_t)(size > 0 ? size : 0) + 1);
    if (text && size > 0 && pread(file, text, (size_t)size, 0) < 0) text[0] = 0;
    return text;
}

/* Run a command without input, what it prints into files. @return its status; 124: it ran past
 * JOB_MS and was ended. */
static int run_captured(char *const *argv, int out, int err)
{
    int status = 0;
    double end = gln_clock() + 1e-3 * JOB_MS;
    pid_t child = fork();
    if (child == 0) {
        setsid();
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(out, 1);
        dup2(err, 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    if (child < 0) return 127;
    while (waitpid(child, &status, WNOHANG) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        if (gln_clock() < end) continue;
        kill(child, SIGTERM);
        nanosleep(&(struct timespec){.tv_sec = 3}, NULL);
        kill(-child, SIGKILL);
        waitpid(child, &status, 0);
        return 124;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The line of a failed job's stderr that says most: gleaner's own, else the first with words. */
static void choose_line(const char *text, char *out, size_t size)
{
    const char *at = strstr(text, "gleaner: error: ");
    while (!at && *text) {
        size_t blank = strspn(text, " \t\n-");
        text += blank;
        if (*text) at = text;
    }
    snprintf(out, size, "%.*s", at ? (int)strcspn(at, "\n") : 0, at ? at : "");
}

/* Start the ranks and take in what they found. @return false: they did not come to an end. */
static bool run_job(const gln_starter_t *starter, const gln_hosts_t *hosts, int ranks,
                    gln_findings_t *findings)
{
    char program[4096], line[200], *text = NULL, *errors = NULL;
    gln_words_t words = {0};
    bool ended = false;
    FILE *out = tmpfile(), *err = tmpfile();
    if (out && err && gln_starter_program(program, sizeof program) == GLN_OK) {
        gln_starter_words(starter, hosts, ranks, &words);
        gln_words_add(&words, program);
        gln_words_add(&words, "doctor");
        gln_words_add(&words, "--json");
        int status = words.failed ? 127 : run_captured(words.items, fileno(out), fileno(err));
        text = read_all(fileno(out));
        errors = read_all(fileno(err));
        ended = text && gln_findings_parse(text, findings);
        choose_line(errors ? errors : "", line, sizeof line);
        if (!ended)
            gln_findings_add(findings, "mpi job", "", GLN_FINDING_ERROR,
                             "see what `gleaner launch --dry-run` prints, and run it with hostname "
                             "in place of gleaner; check agent, PATH, firewall, free memory",
                             "%d ranks did not come through (%s %d): %s", ranks,
                             status == 124 ? "ended after 90 s, status" : "status", status, line);
    }
    free(text);
    free(errors);
    gln_words_close(&words);
    if (out) fclose(out);
    if (err) fclose(err);
    return ended;
}

static void look_starter(const gln_starter_t *starter, gln_findings_t *out)
{
    char library[128], version[80];
    const char *host = "";
    if (starter->kind == GLN_STARTER_SRUN) {
        gln_findings_add(out, "starter", host, GLN_FINDING_OK, "", "srun --mpi=pmix, %d tasks",
                         starter->slots);
        return;
    }
    gln_mpi_library(library, sizeof library);
    snprintf(version, sizeof version, "Open MPI v%s", starter->version);
    if (!strncmp(library, "Open MPI", 8) && strcmp(library, version))
        gln_findings_add(out, "starter", host, GLN_FINDING_ERROR,
                         "put the folder of the mpirun that belongs to the library first in PATH",
                         "mpirun is Open MPI %s, but gleaner is linked to %s", starter->version,
                         library);
    else
        gln_findings_add(out, "starter", host, GLN_FINDING_OK, "", "mpirun of Open MPI %s",
                         starter->version);
}

static void look_hosts(gln_hosts_t *hosts, gln_findings_t *out)
{
    int missing = gln_hosts_probe(hosts, PROBE_MS);
    for (int i = 0; i < hosts->count; i++)
        if (!hosts->items[i].answers)
            gln_findings_add(out, "host", hosts->items[i].name, GLN_FINDING_ERROR,
                             "see that `ssh HOST true` works without a question (keys, name "
                             "service, firewall), or take it out of the hosts file",
                             "cannot be reached");
    if (missing == 0)
        gln_findings_add(out, "hosts", "", GLN_FINDING_OK, "", "all %d can be reached",
                         hosts->count);
}

/* Ranks to say hello: what was asked for, or all slots; two at least, so that there are others. */
static int choose_ranks(const gln_starter_t *starter, const gln_hosts_t *hosts, int64_t asked)
{
    int slots = hosts ? gln_hosts_slots(hosts) : starter->slots;
    if (asked > 0) return (int)asked;
    return slots > 2 ? slots : 2;
}

static gln_status_t outside(const gln_arguments_t *a, gln_findings_t *findings)
{
    gln_starter_t starter;
    gln_hosts_t hosts = {0};
    int64_t asked, per_host;
    char host[64];
    gln_status_t status = gln_arguments_int(a, GLN_OPTION_JOB_RANKS, 0, 1, 1 << 20, &asked);
    if (status == GLN_OK)
        status = gln_arguments_int(a, GLN_OPTION_RANKS_PER_HOST, 0, 1, 1 << 16, &per_host);
    if (status != GLN_OK) return status;
    host_name(host, sizeof host);
    gln_status_t found = gln_starter_look(NULL, a->value[GLN_OPTION_HOSTS], &starter);
    if (found == GLN_OK && starter.hosts_path)
        status = gln_hosts_read(starter.hosts_path, (int)per_host, &hosts);
    if (status != GLN_OK) return status;
    bool ended = false;
    if (found != GLN_OK) {
        gln_findings_add(findings, "starter", host, GLN_FINDING_ERROR,
                         "install Open MPI 4 or 5 with its mpirun (Debian: openmpi-bin)", "%s",
                         gln_last_error());
    } else {
        look_starter(&starter, findings);
        if (hosts.count > 0) look_hosts(&hosts, findings);
        const gln_hosts_t *given = hosts.count > 0 ? &hosts : NULL;
        if (!given || gln_hosts_slots(given) > 0)
            ended = run_job(&starter, given, choose_ranks(&starter, given, asked), findings);
    }
    if (!ended) { /* what can be seen without a job */
        gln_doctor_machine(host, findings);
        gln_doctor_devices(host, findings);
    }
    gln_hosts_close(&hosts);
    return GLN_OK;
}

int gln_command_doctor(const gln_arguments_t *arguments)
{
    gln_findings_t findings = {0};
    bool json = arguments->given[GLN_OPTION_JSON];
    if (getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK")) return inside(json);
    gln_status_t status = outside(arguments, &findings);
    if (status != GLN_OK) {
        fprintf(stderr, "gleaner: error: %s\n", gln_last_error());
        return gln_session_exit_status(status, false);
    }
    int errors = gln_findings_count(&findings, GLN_FINDING_ERROR);
    status = gln_findings_print(&findings, json);
    gln_findings_close(&findings);
    return status != GLN_OK || errors > 0 ? GLN_EXIT_FAILED : GLN_EXIT_OK;
}
