/* What each word is for:
 *   --allow-run-as-root           only for root, whom mpirun refuses otherwise (containers)
 *   --bind-to none                gleaner binds
 *   --map-by slot[:OVERSUBSCRIBE] neighbours by rank share a host; more ranks than slots only when
 *                                 there are (versions 4 and 5; --oversubscribe is gone from 5)
 *   --mca mpi_yield_when_idle 1   ranks that share cores give way
 *   --mca btl_vader_single_copy_mechanism none, 5: --mca smsc ^cma
 *                                 where the kernel refuses process_vm_readv (containers without
 *                                 CAP_SYS_PTRACE), which Open MPI 4 would complain about
 *   srun --kill-on-bad-exit=0 --wait=60  the ranks name the dead one before they are ended */
#include "launcher/starter.h"

#include "base/log.h"
#include "cluster/topology.h"
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

void gln_words_add(gln_words_t *words, const char *word)
{
    if (!word) return;
    char **items = realloc(words->items, (size_t)(words->count + 2) * sizeof *items);
    char *copy = strdup(word);
    if (items) words->items = items;
    if (!items || !copy) {
        words->failed = true;
        free(copy);
        return;
    }
    items[words->count++] = copy;
    items[words->count] = NULL;
}

void gln_words_close(gln_words_t *words)
{
    for (int i = 0; i < words->count; i++)
        free(words->items[i]);
    free(words->items);
    *words = (gln_words_t){0};
}

static void print_quoted(const char *word, FILE *file)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-./=:,@%+^";
    if (*word && strspn(word, plain) == strlen(word)) {
        fputs(word, file);
        return;
    }
    fputc('\'', file);
    for (; *word; word++) {
        if (*word == '\'')
            fputs("'\\''", file);
        else
            fputc(*word, file);
    }
    fputc('\'', file);
}

static bool steers_mpi(const char *variable)
{
    static const char *const begins[] = {"OMPI_MCA_", "OMPI_ALLOW_", "PRTE_MCA_",
                                         "PMIX_MCA_", "UCX_",        NULL};
    for (const char *const *begin = begins; *begin; begin++)
        if (!strncmp(variable, *begin, strlen(*begin))) return true;
    return false;
}

void gln_words_print(const gln_words_t *words, bool environment, FILE *file)
{
    bool any = false;
    for (char **variable = environ; environment && *variable; variable++) {
        if (!steers_mpi(*variable)) continue;
        fputs(any ? " " : "env ", file);
        print_quoted(*variable, file);
        any = true;
    }
    for (int i = 0; i < words->count; i++) {
        if (i > 0 || any) fputc(' ', file);
        print_quoted(words->items[i], file);
    }
    fputc('\n', file);
}

static int number_of(const char *variable)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : 0;
}

/* The version that mpirun says of itself. */
static gln_status_t ask_mpirun(gln_starter_t *starter)
{
    char line[256] = "", *at;
    FILE *said = popen("mpirun --version 2>/dev/null", "r");
    if (said && !fgets(line, sizeof line, said)) line[0] = 0;
    if (said) pclose(said);
    line[strcspn(line, "\n")] = 0;
    if (!line[0])
        return gln_fail(GLN_ERR_BACKEND, "mpirun was not found, or does not answer to --version; "
                                         "install Open MPI (Debian: openmpi-bin) or set PATH");
    at = strstr(line, "Open MPI) ");
    if (!at)
        return gln_fail(GLN_ERR_BACKEND,
                        "mpirun says \"%.80s\"; expected Open MPI 4 or 5, with which gleaner is "
                        "built; put its folder first in PATH",
                        line);
    snprintf(starter->version, sizeof starter->version, "%.60s", at + strlen("Open MPI) "));
    starter->mpi_major = atoi(starter->version);
    return GLN_OK;
}

bool gln_starter_single_copy(void)
{
    static volatile char word = 7;
    int status = 0;
    pid_t target = fork();
    if (target == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    if (target < 0) return true;
    pid_t reader = fork();
    if (reader == 0) {
        char copy = 0;
        struct iovec to = {&copy, 1}, from = {(void *)(uintptr_t)&word, 1};
        _exit(process_vm_readv(target, &to, 1, &from, 1, 0) == 1 ? 0 : 1);
    }
    bool works = reader < 0 || (waitpid(reader, &status, 0) == reader && WIFEXITED(status) &&
                                WEXITSTATUS(status) == 0);
    kill(target, SIGKILL);
    waitpid(target, NULL, 0);
    return works;
}

static int count_cores(void)
{
    gln_topology_t *topology = NULL;
    if (gln_topology_open(&topology) != GLN_OK) return 1;
    int cores = gln_topology_allowed_cores(topology);
    gln_topology_close(topology);
    return cores;
}

static const char *default_hosts(void)
{
    static const char *const names[] = {"OMPI_MCA_orte_default_hostfile",
                                        "PRTE_MCA_prte_default_hostfile",
                                        "PRTE_MCA_default_hostfile", NULL};
    for (const char *const *name = names; *name; name++) {
        const char *path = getenv(*name);
        if (path && *path && strcmp(path, "none")) return path;
    }
    return NULL;
}

gln_status_t gln_starter_look(const char *name, const char *hosts_path, gln_starter_t *out)
{
    gln_starter_t starter = {.cores = count_cores(), .single_copy = gln_starter_single_copy()};
    bool job = getenv("SLURM_JOB_ID") != NULL;
    if (name && strcmp(name, "mpirun") && strcmp(name, "srun"))
        return gln_fail(GLN_ERR_ARGUMENT, "--starter: expected mpirun or srun, found \"%.100s\"",
                        name);
    bool srun = name ? !strcmp(name, "srun") : job && !hosts_path;
    if (srun && !job)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "--starter srun: found no Slurm job (SLURM_JOB_ID); start "
                        "gleaner launch inside sbatch or salloc");
    if (srun && hosts_path)
        return gln_fail(GLN_ERR_ARGUMENT, "--hosts: srun places ranks by its allocation; leave it "
                                          "out, or use --starter mpirun");
    starter.kind = srun ? GLN_STARTER_SRUN : GLN_STARTER_MPIRUN;
    starter.hosts_path = hosts_path ? hosts_path : job ? NULL : default_hosts();
    starter.in_slurm = job && !starter.hosts_path;
    starter.cpus_per_task = number_of("SLURM_CPUS_PER_TASK");
    if (starter.cpus_per_task < 1) starter.cpus_per_task = 1;
    starter.slurm_tasks = number_of("SLURM_NTASKS");
    starter.slots = starter.cores;
    if (starter.in_slurm) {
        starter.slots = starter.slurm_tasks;
        if (starter.slots < 1) starter.slots = number_of("SLURM_JOB_NUM_NODES");
        if (starter.slots < 1) starter.slots = 1;
    }
    if (!srun) {
        gln_status_t status = ask_mpirun(&starter);
        if (status != GLN_OK) return status;
    }
    *out = starter;
    return GLN_OK;
}

static void add_number(gln_words_t *words, const char *option, int number)
{
    char text[16];
    snprintf(text, sizeof text, "%d", number);
    gln_words_add(words, option);
    gln_words_add(words, text);
}

static void add_mca(gln_words_t *words, const char *key, const char *value)
{
    gln_words_add(words, "--mca");
    gln_words_add(words, key);
    gln_words_add(words, value);
}

static void add_hosts(const gln_starter_t *starter, const gln_hosts_t *hosts, gln_words_t *words)
{
    bool all = hosts->as_written;
    for (int i = 0; i < hosts->count; i++)
        all = all && hosts->items[i].answers;
    if (all) {
        gln_words_add(words, "--hostfile");
        gln_words_add(words, starter->hosts_path);
        return;
    }
    const size_t each = sizeof hosts->items->name + 8;
    char *list = calloc((size_t)hosts->count, each), *at = list;
    if (!list) {
        words->failed = true;
        return;
    }
    for (int i = 0; i < hosts->count; i++)
        if (hosts->items[i].answers)
            at += snprintf(at, each, "%s%s:%d", at > list ? "," : "", hosts->items[i].name,
                           hosts->items[i].slots);
    gln_words_add(words, "--host");
    gln_words_add(words, list);
    free(list);
}

static bool shares_cores(const gln_starter_t *starter, const gln_hosts_t *hosts, int ranks)
{
    if (!hosts) return ranks > starter->slots;
    if (ranks > gln_hosts_slots(hosts)) return true;
    for (int i = 0; i < hosts->count; i++) /* of others' cores nothing is known here */
        if (hosts->items[i].here && hosts->items[i].slots > starter->cores &&
            ranks > starter->cores)
            return true;
    return false;
}

bool gln_starter_words(const gln_starter_t *starter, const gln_hosts_t *hosts, int ranks,
                       gln_words_t *out)
{
    char map[48];
    bool shared = shares_cores(starter, hosts, ranks);
    bool more = ranks > (hosts ? gln_hosts_slots(hosts) : starter->slots);
    if (starter->kind == GLN_STARTER_SRUN) {
        gln_words_add(out, "srun");
        gln_words_add(out, "--mpi=pmix");
        gln_words_add(out, "--kill-on-bad-exit=0");
        gln_words_add(out, "--wait=60");
        if (ranks != starter->slurm_tasks) add_number(out, "-n", ranks);
        if (more) gln_words_add(out, "--overcommit");
        return shared;
    }
    gln_words_add(out, "mpirun");
    if (geteuid() == 0) gln_words_add(out, "--allow-run-as-root");
    add_number(out, "-n", ranks);
    if (starter->in_slurm && starter->cpus_per_task > 1 && !more) {
        snprintf(map, sizeof map, "slot:PE=%d", starter->cpus_per_task); /* binds to these */
        gln_words_add(out, "--map-by");
        gln_words_add(out, map);
    } else {
        gln_words_add(out, "--bind-to");
        gln_words_add(out, "none");
        gln_words_add(out, "--map-by");
        gln_words_add(out, more ? "slot:OVERSUBSCRIBE" : "slot");
    }
    if (hosts) add_hosts(starter, hosts, out);
    if (shared) add_mca(out, "mpi_yield_when_idle", "1");
    if (!starter->single_copy && starter->mpi_major <= 4)
        add_mca(out, "btl_vader_single_copy_mechanism", "none");
    else if (!starter->single_copy)
        add_mca(out, "smsc", "^cma");
    return shared;
}

gln_status_t gln_starter_program(char *path, size_t size)
{
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    if (length <= 0 || (size_t)length >= size - 1)
        return gln_fail(GLN_ERR_IO, "cannot tell where this program is: /proc/self/exe: %s",
                        length < 0 ? strerror(errno) : "path too long");
    path[length] = 0;
    return GLN_OK;
}
