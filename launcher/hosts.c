/* One pass over the file, a linear search for names seen before; one process a host for the probe,
 * WINDOW of them at a time. */
#include "launcher/hosts.h"

#include "base/log.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS_MAX = 1 << 16, HOSTS_MAX = 1 << 14, WINDOW = 64, AGENT_WORDS = 16 };

static gln_host_t *find(gln_hosts_t *hosts, const char *name)
{
    for (int i = 0; i < hosts->count; i++)
        if (!strcmp(hosts->items[i].name, name)) return &hosts->items[i];
    return NULL;
}

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (!a || !b || a->sa_family != b->sa_family) return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return a->sa_family == AF_INET6 && !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                                               &((const struct sockaddr_in6 *)b)->sin6_addr, 16);
}

static bool is_here(const char *name)
{
    char own[256] = "";
    struct addrinfo *found = NULL;
    struct ifaddrs *cards = NULL;
    bool here = false;
    const char *host = strrchr(name, '@');
    host = host ? host + 1 : name;
    gethostname(own, sizeof own - 1);
    if (!strcmp(host, own) || !strcmp(host, "localhost")) return true;
    if (getaddrinfo(host, NULL, NULL, &found) != 0) return false;
    if (getifaddrs(&cards) != 0) cards = NULL;
    for (struct addrinfo *a = found; a; a = a->ai_next)
        for (struct ifaddrs *c = cards; c; c = c->ifa_next)
            here = here || same_address(a->ai_addr, c->ifa_addr);
    if (cards) freeifaddrs(cards);
    freeaddrinfo(found);
    return here;
}

static gln_status_t fail_line(const char *path, int line, const char *word)
{
    return gln_fail(GLN_ERR_CONFIG,
                    "%s:%d: expected NAME [slots=N] with N from 1 to %d, found \"%.100s\"", path,
                    line, SLOTS_MAX, word);
}

/* One line that is not empty. */
static gln_status_t read_line(const char *path, int line, char *text, int slots_each,
                              gln_hosts_t *hosts)
{
    char *rest = NULL, *name = strtok_r(text, " \t\r\n", &rest);
    long slots = 0;
    if (!name) return GLN_OK;
    if (strlen(name) >= sizeof hosts->items->name || name[0] == '-' || strpbrk(name, "=,:'\"$;&|"))
        return fail_line(path, line, name);
    for (char *word; (word = strtok_r(NULL, " \t\r\n", &rest));) {
        char *equals = strchr(word, '='), *end = NULL;
        long value = equals ? strtol(equals + 1, &end, 10) : 0;
        if (!equals || end == equals + 1 || *end || value < 1 || value > SLOTS_MAX)
            return fail_line(path, line, word);
        *equals = 0;
        if (!strcmp(word, "slots"))
            slots = value;
        else if (strcmp(word, "max_slots") && strcmp(word, "max-slots"))
            return fail_line(path, line, word);
    }
    gln_host_t *host = find(hosts, name);
    if (host || slots == 0) hosts->as_written = false;
    if (!host) {
        if (hosts->count == HOSTS_MAX)
            return gln_fail(GLN_ERR_CONFIG, "%s:%d: more than %d hosts", path, line, HOSTS_MAX);
        gln_host_t *items =
            realloc(hosts->items, (size_t)(hosts->count + 1) * sizeof *hosts->items);
        if (!items) return gln_fail(GLN_ERR_MEMORY, "%s: out of memory for its hosts", path);
        hosts->items = items;
        host = &items[hosts->count++];
        *host = (gln_host_t){.answers = true};
        snprintf(host->name, sizeof host->name, "%s", name);
        host->here = is_here(name);
    }
    if (slots_each > 0)
        host->slots = slots_each;
    else
        host->slots += slots > 0 ? (int)slots : 1;
    return GLN_OK;
}

gln_status_t gln_hosts_read(const char *path, int slots_each, gln_hosts_t *out)
{
    gln_hosts_t hosts = {.as_written = slots_each == 0};
    char *text = NULL;
    size_t size = 0;
    gln_status_t status = GLN_OK;
    FILE *file = fopen(path, "r");
    if (!file)
        return gln_fail(GLN_ERR_CONFIG, "--hosts: cannot read %s: %s", path, strerror(errno));
    for (int line = 1; status == GLN_OK && getline(&text, &size, file) >= 0; line++) {
        text[strcspn(text, "#")] = 0;
        status = read_line(path, line, text, slots_each, &hosts);
    }
    free(text);
    fclose(file);
    if (status == GLN_OK && hosts.count == 0)
        status = gln_fail(GLN_ERR_CONFIG, "--hosts: %s names no host; expected lines NAME slots=N",
                          path);
    if (status != GLN_OK) {
        gln_hosts_close(&hosts);
        return status;
    }
    *out = hosts;
    return GLN_OK;
}

void gln_hosts_close(gln_hosts_t *hosts)
{
    free(hosts->items);
    *hosts = (gln_hosts_t){0};
}

int gln_hosts_slots(const gln_hosts_t *hosts)
{
    int slots = 0;
    for (int i = 0; i < hosts->count; i++)
        slots += hosts->items[i].answers ? hosts->items[i].slots : 0;
    return slots;
}

/* Words of the agent, as mpirun cuts them: alternatives behind ':' are left off. */
static int read_agent(char *text, size_t size, const char **words)
{
    static const char *const names[] = {"OMPI_MCA_plm_rsh_agent", "OMPI_MCA_plm_ssh_agent",
                                        "PRTE_MCA_plm_ssh_agent", "PRTE_MCA_plm_rsh_agent", NULL};
    const char *value = NULL;
    char *rest = NULL;
    int count = 0;
    for (const char *const *name = names; *name && !value; name++) {
        value = getenv(*name);
        if (value && !*value) value = NULL;
    }
    snprintf(text, size, "%s", value ? value : "ssh -o BatchMode=yes -o ConnectTimeout=5");
    text[strcspn(text, ":")] = 0;
    for (char *word = strtok_r(text, " \t", &rest); word && count < AGENT_WORDS;
         word = strtok_r(NULL, " \t", &rest))
        words[count++] = word;
    return count;
}

static pid_t ask(const char *const *agent, int words, const char *host)
{
    const char *argv[AGENT_WORDS + 3];
    memcpy(argv, agent, (size_t)words * sizeof *argv);
    argv[words] = host;
    argv[words + 1] = "true";
    argv[words + 2] = NULL;
    pid_t pid = fork();
    if (pid != 0) return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid(); /* no terminal: no question can be asked */
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    execvp(argv[0], (char *const *)argv);
    _exit(127);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Hosts first to first + count - 1. */
static void probe_some(gln_host_t *hosts, int count, const char *const *agent, int words,
                       int timeout_ms)
{
    pid_t pids[WINDOW];
    int open = 0;
    int64_t end = now_ms() + timeout_ms;
    for (int i = 0; i < count; i++) {
        pids[i] = hosts[i].here ? 0 : ask(agent, words, hosts[i].name);
        hosts[i].answers = hosts[i].here;
        open += pids[i] > 0;
    }
    while (open > 0) {
        bool late = now_ms() >= end;
        for (int i = 0; i < count; i++) {
            int status = 0;
            if (pids[i] <= 0) continue;
            if (late) kill(-pids[i], SIGKILL);
            if (waitpid(pids[i], &status, late ? 0 : WNOHANG) != pids[i]) continue;
            hosts[i].answers = WIFEXITED(status) && WEXITSTATUS(status) == 0;
            pids[i] = 0;
            open--;
        }
        if (open > 0) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
}

int gln_hosts_probe(gln_hosts_t *hosts, int timeout_ms)
{
    char text[1024];
    const char *agent[AGENT_WORDS];
    int words = read_agent(text, sizeof text, agent), missing = 0;
    for (int i = 0; i < hosts->count; i += WINDOW) {
        int some = hosts->count - i < WINDOW ? hosts->count - i : WINDOW;
        probe_some(hosts->items + i, some, agent, words, timeout_ms);
    }
    for (int i = 0; i < hosts->count; i++)
        missing += !hosts->items[i].answers;
    return missing;
}

void gln_hosts_missing(const gln_hosts_t *hosts, char *out, size_t size)
{
    out[0] = 0;
    for (int i = 0; i < hosts->count; i++) {
        size_t at = strlen(out);
        if (hosts->items[i].answers) continue;
        snprintf(out + at, size - at, "%s%s", at ? ", " : "", hosts->items[i].name);
    }
}
