/* Checks of one machine that need no other: system calls and a few files of /proc and /sys. */
#include "launcher/doctor.h"

#include "base/log.h"
#include "cluster/topology.h"
#include "comm/library.h"
#include "launcher/starter.h"
#include "launcher/text.h"
#include "moe/gleaner.h"
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

static void look_build(const char *host, gln_findings_t *out)
{
    struct utsname system;
    char mpi[128], features[128];
    uname(&system);
    gln_mpi_library(mpi, sizeof mpi);
    gln_cpu_features(features, sizeof features);
#if defined(GLN_SANITIZED)
    const char *build = "with sanitizers", *advice = "build with -DCMAKE_BUILD_TYPE=Release and "
                                                     "without GLN_SANITIZE for anything but tests";
#elif defined(__OPTIMIZE__)
    const char *build = "optimized", *advice = "";
#else
    const char *build = "not optimized", *advice = "build with -DCMAKE_BUILD_TYPE=Release";
#endif
    gln_findings_add(out, "build", host, advice[0] ? GLN_FINDING_WARNING : GLN_FINDING_OK, advice,
                     "gleaner %s, %s, compiler %s, kernel %s, %s, CPU has %s", gln_version(), build,
                     __VERSION__, system.release, system.machine, features);
    gln_findings_add(out, "mpi library", host, GLN_FINDING_OK, "", "%s", mpi);
}

/* CPUs that a container may use at once, 0: no such limit. */
static double cpu_quota(void)
{
    double quota = -1, period = 100000;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file) {
        if (fscanf(file, "%lf %lf", &quota, &period) < 1) quota = -1; /* "max" */
        fclose(file);
        return quota > 0 ? quota / period : 0;
    }
    file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
    if (file && fscanf(file, "%lf", &quota) != 1) quota = -1;
    if (file) fclose(file);
    file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
    if (file && fscanf(file, "%lf", &period) != 1) period = 100000;
    if (file) fclose(file);
    return quota > 0 ? quota / period : 0;
}

static void look_cores(const char *host, gln_findings_t *out)
{
    gln_topology_t *topology = NULL;
    char summary[256], binding[128];
    if (gln_topology_open(&topology) != GLN_OK) {
        gln_findings_add(out, "cores", host, GLN_FINDING_ERROR,
                         "see that /sys is mounted and readable; hwloc-info tells the same",
                         "hwloc cannot look at this machine: %s", gln_last_error());
        return;
    }
    gln_topology_summary(topology, summary, sizeof summary);
    gln_topology_binding(topology, binding, sizeof binding);
    int allowed = gln_topology_allowed_cores(topology), cores = gln_topology_cores(topology);
    double quota = cpu_quota();
    if (quota > 0 && quota < allowed - 0.5)
        gln_findings_add(
            out, "cores", host, GLN_FINDING_WARNING,
            "start at most so many ranks times threads here (-n, parallel.threads), or "
            "raise the container's CPU limit",
            "%s; may use %s, but its cgroup allows %.1f CPUs at once", summary, binding, quota);
    else
        gln_findings_add(out, "cores", host, GLN_FINDING_OK, "", "%s; may use %d of %d: %s",
                         summary, allowed, cores, binding);
    gln_topology_close(topology);
}

static void look_binding(const char *host, gln_findings_t *out)
{
    cpu_set_t before, one;
    CPU_ZERO(&before);
    CPU_ZERO(&one);
    int failed = sched_getaffinity(0, sizeof before, &before) != 0 ? errno : 0;
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &before)) CPU_SET(i, &one);
    if (!failed && sched_setaffinity(0, sizeof one, &one) != 0) failed = errno;
    if (!failed && sched_setaffinity(0, sizeof before, &before) != 0) failed = errno;
    if (failed)
        gln_findings_add(out, "binding", host, GLN_FINDING_WARNING,
                         "permit sched_setaffinity in the container (seccomp profile), or set "
                         "parallel.bind: none and let the system place ranks",
                         "the system refuses to bind this process: %s", strerror(failed));
    else
        gln_findings_add(out, "binding", host, GLN_FINDING_OK, "", "permitted");
}

static void look_shared_memory(const char *host, gln_findings_t *out)
{
    struct statvfs info;
    char size[16], available[16];
    if (statvfs("/dev/shm", &info) != 0) {
        gln_findings_add(out, "/dev/shm", host, GLN_FINDING_ERROR,
                         "mount a tmpfs there; ranks of a machine share rows through it",
                         "cannot be looked at: %s", strerror(errno));
        return;
    }
    double total = (double)info.f_blocks * (double)info.f_frsize,
           rest = (double)info.f_bavail * (double)info.f_frsize;
    gln_text_bytes(total, size, sizeof size);
    gln_text_bytes(rest, available, sizeof available);
    bool small = rest < 256e6;
    gln_findings_add(out, "/dev/shm", host, small ? GLN_FINDING_WARNING : GLN_FINDING_OK,
                     small ? "remove what is left over there, or give it more (docker run "
                             "--shm-size 8g; mount -o remount,size=8G /dev/shm); gleaner plan "
                             "--memory says what a run's window takes"
                           : "",
                     "%s, %s free", size, available);
}

static void look_limits(const char *host, gln_findings_t *out)
{
    struct rlimit files, locked;
    char text[16] = "unlimited";
    getrlimit(RLIMIT_NOFILE, &files);
    bool few = files.rlim_cur != RLIM_INFINITY && files.rlim_cur < 1024;
    gln_findings_add(out, "open files", host, few ? GLN_FINDING_WARNING : GLN_FINDING_OK,
                     few ? "ulimit -n 4096 before the start, or nofile in "
                           "/etc/security/limits.conf: mpirun takes several a rank and a host"
                         : "",
                     "%llu at once (ulimit -n; at most %llu)", (unsigned long long)files.rlim_cur,
                     (unsigned long long)files.rlim_max);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    if (locked.rlim_cur != RLIM_INFINITY)
        gln_text_bytes((double)locked.rlim_cur, text, sizeof text);
    gln_findings_add(out, "locked memory", host, GLN_FINDING_OK, "",
                     "%s (ulimit -l; InfiniBand wants unlimited)", text);
}

/* A number in a file, or behind `key` in it; -1: there is none. */
static double read_number(const char *path, const char *key)
{
    char line[256];
    double number = -1;
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    while (number < 0 && fgets(line, sizeof line, file)) {
        const char *at = key ? strstr(line, key) : line;
        if (at && sscanf(at + (key ? strlen(key) : 0), "%lf", &number) != 1) number = -1;
    }
    fclose(file);
    return number;
}

static void look_memory(const char *host, gln_findings_t *out)
{
    double total = 1024 * read_number("/proc/meminfo", "MemTotal:"),
           rest = 1024 * read_number("/proc/meminfo", "MemAvailable:"),
           limit = read_number("/sys/fs/cgroup/memory.max", NULL);
    char all[16], free_text[16], limits[48] = "", part[16];
    struct rlimit space;
    if (limit < 0) limit = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", NULL);
    getrlimit(RLIMIT_AS, &space);
    if (space.rlim_cur != RLIM_INFINITY && (limit < 0 || (double)space.rlim_cur < limit))
        limit = (double)space.rlim_cur;
    if (limit > 0 && limit < total) {
        gln_text_bytes(limit, part, sizeof part);
        snprintf(limits, sizeof limits, "; this process's limit is %s", part);
    }
    gln_text_bytes(total, all, sizeof all);
    gln_text_bytes(rest, free_text, sizeof free_text);
    double least = limit > 0 && limit < rest ? limit : rest;
    gln_findings_add(out, "memory", host, least < 1e9 ? GLN_FINDING_WARNING : GLN_FINDING_OK,
                     least < 1e9
                         ? "end what else runs, or raise the limit (ulimit -v, the "
                           "container's memory); gleaner plan --memory says what a run takes"
                         : "",
                     "%s, %s available%s", all, free_text, limits);
}

static void look_single_copy(const char *host, gln_findings_t *out)
{
    if (gln_starter_single_copy())
        gln_findings_add(out, "single copy", host, GLN_FINDING_OK, "",
                         "ranks may read each other's memory");
    else
        gln_findings_add(out, "single copy", host, GLN_FINDING_WARNING,
                         "give the container CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE) for "
                         "faster large messages; gleaner launch tells Open MPI not to try",
                         "the kernel refuses process_vm_readv between ranks");
}

void gln_doctor_machine(const char *host, gln_findings_t *out)
{
    look_build(host, out);
    look_cores(host, out);
    look_binding(host, out);
    look_memory(host, out);
    look_shared_memory(host, out);
    look_limits(host, out);
    look_single_copy(host, out);
}
