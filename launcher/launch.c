/* `gleaner launch`: build the command, run it, and see the training through. A round is one start
 * of the job; after a failure the next one begins at the newest checkpoint, by gleaner train
 * itself.
 *
 * The number of ranks is found by asking the run file's own rules: the largest number that fits the
 * slots and that gln_run_options_load takes. The number of domains is part of a run's meaning, so a
 * round on fewer ranks keeps that of the first one (--set parallel.domains). */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/run_folder.h"
#include "launcher/starter.h"
#include "launcher/supervise.h"
#include "moe/checkpoint.h"
#include "moe/run_options.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_MS = 10000, BACK_OFF_MAX_S = 60, RANKS_MAX = 1 << 20 };

typedef struct launch {
    const gln_arguments_t *arguments;
    gln_starter_t starter;
    gln_hosts_t hosts; /* count 0: none given */
    gln_run_options_t run;
    gln_launch_log_t log;
    gln_supervisor_t supervisor;
    char program[4096];
    const char *sets[GLN_ARGUMENTS_SETS_MAX + 1]; /* the user's, and one that keeps the domains */
    int sets_count;
    char domains[64];
    int64_t asked, retries; /* asked 0: as many ranks as fit */
    int ranks, first_ranks;
    bool never_resume;
} launch_t;

static const gln_hosts_t *hosts_of(const launch_t *l)
{
    return l->hosts.count > 0 ? &l->hosts : NULL;
}

static int slots_of(const launch_t *l)
{
    return hosts_of(l) ? gln_hosts_slots(&l->hosts) : l->starter.slots;
}

static gln_status_t load(const launch_t *l, int ranks, gln_run_options_t *out)
{
    return gln_run_options_load(l->arguments->operands[0], l->sets, l->sets_count, ranks, out);
}

/* The largest number of ranks up to `most` that the run file allows. On error the message is that
 * of `most`. */
static gln_status_t fit_ranks(launch_t *l, int most)
{
    for (int ranks = most; ranks >= 1; ranks--) {
        if (load(l, ranks, &l->run) != GLN_OK) continue;
        l->ranks = ranks;
        return GLN_OK;
    }
    return load(l, most, &l->run);
}

static gln_status_t read_arguments(launch_t *l)
{
    const gln_arguments_t *a = l->arguments;
    int64_t per_host;
    gln_status_t status = gln_arguments_int(a, GLN_OPTION_JOB_RANKS, 0, 1, RANKS_MAX, &l->asked);
    if (status == GLN_OK)
        status = gln_arguments_int(a, GLN_OPTION_RANKS_PER_HOST, 0, 1, 1 << 16, &per_host);
    if (status == GLN_OK)
        status = gln_arguments_int(a, GLN_OPTION_RETRIES, 3, 0, 1 << 20, &l->retries);
    if (status != GLN_OK) return status;
    if (getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK"))
        return gln_fail(GLN_ERR_ARGUMENT, "gleaner launch starts the ranks itself, but was started "
                                          "as a rank; leave out mpirun or srun before it");
    l->sets_count = a->sets_count;
    memcpy(l->sets, a->sets, sizeof a->sets);
    status =
        gln_starter_look(a->value[GLN_OPTION_STARTER], a->value[GLN_OPTION_HOSTS], &l->starter);
    if (status != GLN_OK) return status;
    if (l->starter.hosts_path)
        status = gln_hosts_read(l->starter.hosts_path, (int)per_host, &l->hosts);
    else if (per_host > 0)
        status = gln_fail(GLN_ERR_ARGUMENT, "--ranks-per-host needs --hosts FILE; for one host, or "
                                            "in a Slurm job, use -n");
    if (status != GLN_OK) return status;
    status = fit_ranks(l, l->asked > 0 ? (int)l->asked : slots_of(l));
    if (status == GLN_OK && l->asked > 0 && l->ranks != l->asked)
        status = load(l, (int)l->asked, &l->run); /* says which numbers would do */
    l->first_ranks = l->ranks;
    l->never_resume = l->run.run.resume != 0;
    return status;
}

static void build(const launch_t *l, bool again, gln_words_t *words)
{
    const gln_arguments_t *a = l->arguments;
    gln_starter_words(&l->starter, hosts_of(l), l->ranks, words);
    gln_words_add(words, l->program);
    gln_words_add(words, "train");
    gln_words_add(words, a->operands[0]);
    if (a->given[GLN_OPTION_JSON]) gln_words_add(words, "--json");
    if (a->given[GLN_OPTION_RECORD_ROUTING]) {
        gln_words_add(words, "--record-routing");
        gln_words_add(words, a->value[GLN_OPTION_RECORD_ROUTING]);
    }
    for (int i = 0; i < l->sets_count; i++) {
        gln_words_add(words, "--set");
        gln_words_add(words, l->sets[i]);
    }
    if (again && l->never_resume) {
        gln_words_add(words, "--set");
        gln_words_add(words, "run.resume=auto");
    }
}

/* What is worth knowing of the number of ranks and of this machine. */
static void say_choice(launch_t *l)
{
    int slots = slots_of(l);
    const char *of = hosts_of(l) ? "slots of the hosts" : l->starter.in_slurm ? "tasks" : "cores";
    if (l->ranks > slots)
        gln_launch_log_say(&l->log, "%d ranks on %d %s: they share cores and yield while they wait",
                           l->ranks, slots, of);
    else if (l->asked == 0 && l->ranks < slots)
        gln_launch_log_say(&l->log,
                           "%d ranks, though there are %d %s: the largest number that the run file "
                           "allows",
                           l->ranks, slots, of);
    if (!l->starter.single_copy && l->starter.kind == GLN_STARTER_MPIRUN)
        gln_launch_log_say(&l->log,
                           "the kernel lets no rank read another's memory (a container without "
                           "SYS_PTRACE): Open MPI is told not to try");
}

static void say_command(launch_t *l, const gln_words_t *words)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    if (!file) return;
    gln_words_print(words, false, file);
    fclose(file);
    text[strcspn(text, "\n")] = 0;
    gln_launch_log_say(&l->log, "starts %s", text);
    free(text);
}

/* Hosts that went away since: fewer ranks. @return GLN_OK; GLN_ERR_PEER: none is left. */
static gln_status_t shrink(launch_t *l)
{
    char missing[512];
    if (!hosts_of(l)) return GLN_OK;
    int before = l->ranks, most = l->first_ranks;
    if (gln_hosts_probe(&l->hosts, PROBE_MS) > 0) {
        gln_hosts_missing(&l->hosts, missing, sizeof missing);
        gln_launch_log_say(&l->log, "cannot be reached: %s", missing);
        int slots = gln_hosts_slots(&l->hosts);
        if (slots == 0)
            return gln_fail(GLN_ERR_PEER, "no host of %s can be reached", l->starter.hosts_path);
        if (slots < most) most = slots;
    }
    if (l->domains[0] == 0) { /* once: the domains of the first round */
        snprintf(l->domains, sizeof l->domains, "parallel.domains=%lld",
                 (long long)l->run.parallel.domains);
        l->sets[l->sets_count++] = l->domains;
    }
    gln_status_t status = fit_ranks(l, most);
    if (status == GLN_OK && l->ranks != before)
        gln_launch_log_say(&l->log, "%d ranks instead of %d", l->ranks, before);
    return status;
}

/* Before the first round a host that does not answer is a mistake in the file. */
static gln_status_t check_hosts(launch_t *l)
{
    char missing[512];
    if (!hosts_of(l) || gln_hosts_probe(&l->hosts, PROBE_MS) == 0) return GLN_OK;
    gln_hosts_missing(&l->hosts, missing, sizeof missing);
    return gln_fail(GLN_ERR_CONFIG,
                    "%s: cannot be reached: %s; see that `ssh HOST true` works without a question, "
                    "or take the line out",
                    l->starter.hosts_path, missing);
}

static void newest(const launch_t *l, char *out, size_t size)
{
    if (gln_checkpoint_latest(l->run.run.dir, out, size) != GLN_OK) out[0] = 0;
}

static void describe(int status, char *out, size_t size)
{
    if (status > 128 && status < 128 + NSIG)
        snprintf(out, size, "status %d: a rank or its starter was ended by signal %d (%s)", status,
                 status - 128, strsignal(status - 128));
    else
        snprintf(out, size, "status %d", status);
}

/* One start of the job. @return GLN_OK: *status is its exit status. */
static gln_status_t run_round(launch_t *l, int round, int *status)
{
    gln_words_t words = {0};
    build(l, round > 0, &words);
    gln_status_t built = words.failed ? gln_fail(GLN_ERR_MEMORY, "out of memory") : GLN_OK;
    if (built == GLN_OK) {
        say_choice(l);
        say_command(l, &words);
        built = gln_supervisor_run(&l->supervisor, words.items, &l->log, status);
    }
    gln_words_close(&words);
    return built;
}

/* After a signal of ours. */
static int leave_stopped(launch_t *l, int status)
{
    char text[128];
    describe(status, text, sizeof text);
    if (l->supervisor.signals > 1) {
        gln_launch_log_say(&l->log, "ended at once");
        return 128 + l->supervisor.first_signal;
    }
    if (status == GLN_EXIT_STOPPED)
        gln_launch_log_say(&l->log, "stopped, saved; the same command goes on");
    else
        gln_launch_log_say(&l->log,
                           "stopped before ranks could save (%s); the same command goes on "
                           "from the checkpoint before",
                           text);
    return GLN_EXIT_STOPPED;
}

/* @return the exit status */
static int supervise(launch_t *l)
{
    char before[GLN_RUN_PATH_MAX], after[GLN_RUN_PATH_MAX], text[128];
    int status = 0, failures = 0, back_off = 1;
    newest(l, before, sizeof before);
    for (int round = 0;; round++) {
        if (run_round(l, round, &status) != GLN_OK) return GLN_EXIT_FAILED;
        if (status == GLN_EXIT_OK) {
            gln_launch_log_say(&l->log, "done");
            return GLN_EXIT_OK;
        }
        if (status == GLN_EXIT_BAD_INPUT) return GLN_EXIT_BAD_INPUT;
        if (status == GLN_EXIT_STOPPED || l->supervisor.signals > 0)
            return leave_stopped(l, status);
        describe(status, text, sizeof text);
        newest(l, after, sizeof after);
        if (strcmp(before, after)) failures = 0, back_off = 1;
        memcpy(before, after, sizeof before);
        if (failures == l->retries) {
            gln_launch_log_say(&l->log,
                               "failed with %s; given up after %d tries without a newer "
                               "checkpoint",
                               text, failures + 1);
            return GLN_EXIT_FAILED;
        }
        failures++;
        gln_launch_log_say(&l->log, "failed with %s; try %d of %lld begins in %d s from %s", text,
                           failures, (long long)l->retries, back_off,
                           after[0] ? after : "the beginning, as there is no checkpoint");
        gln_supervisor_sleep(&l->supervisor, 1000 * back_off);
        back_off = 2 * back_off < BACK_OFF_MAX_S ? 2 * back_off : BACK_OFF_MAX_S;
        if (l->supervisor.signals > 0) return leave_stopped(l, status);
        if (shrink(l) != GLN_OK) {
            gln_launch_log_say(&l->log, "given up: %s", gln_last_error());
            return GLN_EXIT_FAILED;
        }
    }
}

static int fail(gln_status_t status)
{
    fprintf(stderr, "gleaner: error: %s\n", gln_last_error());
    return status == GLN_ERR_BACKEND || status == GLN_ERR_MEMORY ? GLN_EXIT_FAILED
                                                                 : GLN_EXIT_BAD_INPUT;
}

/* --dry-run: the command on stdout, remarks on stderr. */
static int print_command(launch_t *l)
{
    gln_words_t words = {0};
    gln_launch_log_open(&l->log, NULL);
    say_choice(l);
    build(l, false, &words);
    gln_words_print(&words, true, stdout);
    gln_words_close(&words);
    gln_launch_log_close(&l->log);
    gln_hosts_close(&l->hosts);
    return GLN_EXIT_OK;
}

int gln_command_launch(const gln_arguments_t *arguments)
{
    static launch_t launch;
    launch_t *l = &launch;
    *l = (launch_t){.arguments = arguments};
    gln_status_t status = read_arguments(l);
    if (status == GLN_OK) status = gln_starter_program(l->program, sizeof l->program);
    if (status == GLN_OK && arguments->given[GLN_OPTION_DRY_RUN]) return print_command(l);
    if (status == GLN_OK) status = check_hosts(l);
    if (status != GLN_OK) {
        gln_hosts_close(&l->hosts);
        return fail(status);
    }
    gln_launch_log_open(&l->log, l->run.run.dir);
    gln_supervisor_open(&l->supervisor);
    int left = supervise(l);
    gln_launch_log_close(&l->log);
    gln_hosts_close(&l->hosts);
    return left;
}
