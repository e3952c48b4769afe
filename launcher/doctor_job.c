/* Checks of a job: all of its ranks take part.
 *
 * Which host is slow: hosts meet in pairs, every one with every other (a round-robin tournament by
 * the circle method, at most ROUNDS_MAX rounds), while the rest keep quiet, and each keeps its
 * fastest meeting. A slow host has none that is fast; one that only met a slow host has. With two
 * hosts nobody can tell which of them it is. Clocks are read right after a barrier, and the nearest
 * of CLOCK_TRIES readings is taken: good to the time of a barrier. */
#include "launcher/doctor.h"

#include "base/log.h"
#include "comm/library.h"
#include "comm/units.h"
#include "launcher/bind.h"
#include "launcher/setup.h"
#include "moe/gleaner.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLOCK_TRIES = 8, ROUNDS_MAX = 16, REPEAT = 3, REPEAT_PAIR = 8 };
enum { PAIR_BYTES = 2 << 20, ALL_BYTES = 1 << 20, ALL_TOTAL = 64 << 20 };

typedef struct card { /* what a rank says of itself */
    char host[64], library[64], version[32];
} card_t;

gln_status_t gln_doctor_gather(gln_session_t *session, gln_findings_t *findings)
{
    const size_t each = sizeof *findings->items, ranks = (size_t)session->ranks;
    int *counts = calloc(ranks, sizeof *counts), all = 0;
    size_t *send = calloc(2 * ranks, sizeof *send), *receive = send + ranks;
    gln_finding_t *items = NULL;
    gln_status_t status = counts && send ? GLN_OK : GLN_ERR_MEMORY;
    status = gln_session_agree(session, status);
    if (status == GLN_OK)
        status = gln_comm_allgather(session->comm, &findings->count, sizeof *counts, counts);
    for (int r = 0; status == GLN_OK && r < session->ranks; r++) {
        all += counts[r];
        receive[r] = session->rank == 0 ? (size_t)counts[r] * each : 0;
    }
    if (status == GLN_OK) {
        send[0] = (size_t)findings->count * each;
        items = calloc((size_t)all + 1, each);
        status = gln_session_agree(session, items ? GLN_OK : GLN_ERR_MEMORY);
    }
    if (status == GLN_OK)
        status = gln_comm_alltoallv(session->comm, findings->items, send, items, receive);
    if (status == GLN_OK) {
        gln_findings_close(findings);
        findings->count = session->rank == 0 ? all : 0;
        findings->items = items;
        items = NULL;
    }
    free(items);
    free(send);
    free(counts);
    return status;
}

static gln_status_t hello(gln_session_t *session, const char *host, gln_findings_t *out)
{
    card_t mine = {0};
    char hosts[200] = "";
    card_t *all = calloc((size_t)session->ranks, sizeof *all);
    snprintf(mine.host, sizeof mine.host, "%.63s", host);
    snprintf(mine.version, sizeof mine.version, "%.31s", gln_version());
    gln_mpi_library(mine.library, sizeof mine.library);
    gln_status_t status = gln_session_agree(session, all ? GLN_OK : GLN_ERR_MEMORY);
    if (status == GLN_OK) status = gln_comm_allgather(session->comm, &mine, sizeof mine, all);
    int nodes = gln_comm_nodes_count(session->comm), other = -1;
    for (int r = 0; status == GLN_OK && r < session->ranks; r++) {
        size_t at = strlen(hosts);
        if (strcmp(all[r].library, all[0].library) || strcmp(all[r].version, all[0].version))
            other = r;
        if (r == 0 || strcmp(all[r].host, all[r - 1].host))
            snprintf(hosts + at, sizeof hosts - at, "%s%s", at ? ", " : "", all[r].host);
    }
    if (status == GLN_OK && session->rank == 0) {
        gln_findings_add(out, "mpi job", "", GLN_FINDING_OK, "",
                         "%d rank%s on %d host%s said hello: %s", session->ranks,
                         session->ranks == 1 ? "" : "s", nodes, nodes == 1 ? "" : "s", hosts);
        if (other >= 0)
            gln_findings_add(out, "versions", all[other].host, GLN_FINDING_ERROR,
                             "install the same gleaner and the same MPI on all hosts",
                             "gleaner %s on %s; %s has gleaner %s on %s", all[other].version,
                             all[other].library, all[0].host, all[0].version, all[0].library);
        else
            gln_findings_add(out, "versions", "", GLN_FINDING_OK, "", "the same on all ranks");
    }
    free(all);
    return status;
}

static double wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Values of all ranks, on all. */
static gln_status_t gather_real(gln_session_t *session, double mine, double *all)
{
    return gln_comm_allgather(session->comm, &mine, sizeof mine, all);
}

static gln_status_t compare_clocks(gln_session_t *session, const char *host, gln_findings_t *out)
{
    double *all = calloc((size_t)session->ranks, sizeof *all), mine = HUGE_VAL, worst = 0;
    gln_status_t status = gln_session_agree(session, all ? GLN_OK : GLN_ERR_MEMORY);
    for (int i = 0; status == GLN_OK && i < CLOCK_TRIES; i++) {
        status = gln_comm_barrier(session->comm);
        double now = wall_clock();
        if (status == GLN_OK) status = gather_real(session, now, all);
        if (fabs(now - all[0]) < fabs(mine)) mine = now - all[0];
    }
    if (status == GLN_OK) status = gather_real(session, mine, all);
    for (int r = 0; status == GLN_OK && r < session->ranks; r++)
        worst = fmax(worst, fabs(all[r]));
    bool bad = worst > 1;
    if (status == GLN_OK && session->rank == 0)
        gln_findings_add(out, "clocks", "", bad ? GLN_FINDING_WARNING : GLN_FINDING_OK,
                         bad ? "run an NTP service (chrony) on all hosts: logs cannot be compared, "
                               "and file times mislead"
                             : "",
                         "at most %.1f ms from those of %s", 1e3 * worst, host);
    free(all);
    return status;
}

static gln_status_t look_binding(gln_session_t *session, gln_findings_t *out)
{
    gln_bind_t bind;
    gln_status_t status =
        gln_session_agree(session, gln_bind_ranks(session->comm, 0, false, &bind));
    if (status != GLN_OK || session->rank != 0) return status;
    bool few = bind.bound < bind.ranks;
    gln_findings_add(out, "rank cores", "", few ? GLN_FINDING_WARNING : GLN_FINDING_OK,
                     few ? "start no more ranks on a host than it has cores (-n, "
                           "--ranks-per-host), and let gleaner bind (mpirun --bind-to none)"
                         : "",
                     "parallel.bind auto gives cores of their own to %d of %d ranks; rank 0: %s",
                     bind.bound, bind.ranks, bind.mine.text);
    return GLN_OK;
}

static int compare_reals(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bool gln_doctor_is_slow(const double *seconds, int count, int at)
{
    double sorted[GLN_DOCTOR_HOSTS_MAX];
    if (count < 3 || count > GLN_DOCTOR_HOSTS_MAX) return false;
    memcpy(sorted, seconds, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_reals);
    double median = sorted[(count - 1) / 2];
    return seconds[at] > 2.5 * median && seconds[at] > median + 2e-3;
}

int gln_doctor_partner(int count, int round, int at)
{
    int fixed = count % 2 ? count : count - 1; /* an odd one out sits where nobody is */
    int partner = fixed;
    if (at == fixed) {
        for (int i = 0; i < fixed; i++)
            if (2 * i % fixed == round % fixed) partner = i;
    } else {
        int other = (round - at % fixed + 2 * fixed) % fixed;
        if (other != at) partner = other;
    }
    return partner < count ? partner : -1;
}

/* Seconds of an exchange of `bytes` with rank `peer` (-1: none), or with all (peer = ranks). */
static gln_status_t exchange(gln_session_t *session, int peer, size_t bytes, char *buffer,
                             size_t *counts, double *seconds)
{
    size_t all = 0;
    for (int r = 0; r < session->ranks; r++) {
        counts[r] = peer == r || peer == session->ranks ? bytes : 0;
        all += counts[r];
    }
    gln_status_t status = gln_comm_barrier(session->comm);
    double begin = gln_clock();
    if (status == GLN_OK)
        status = gln_comm_alltoallv(session->comm, buffer, counts, buffer + all, counts);
    *seconds = gln_clock() - begin;
    return status;
}

typedef struct meeting { /* the tournament of hosts */
    int *leaders;        /* [nodes] lowest rank of each host */
    char (*hosts)[64];   /* [ranks] */
    size_t *counts;      /* [ranks] */
    double *seconds;     /* [ranks] */
    char *buffer;
    int nodes;
    size_t bytes; /* of an all-to-all, to each rank */
} meeting_t;

static gln_status_t meet_all(gln_session_t *session, meeting_t *m, gln_findings_t *out)
{
    double best = HUGE_VAL, took = 0;
    char time[16], size[16], rate[16];
    gln_status_t status = GLN_OK;
    for (int i = 0; status == GLN_OK && i < REPEAT; i++) {
        status = exchange(session, session->ranks, m->bytes, m->buffer, m->counts, &took);
        if (status == GLN_OK) status = gather_real(session, took, m->seconds);
        double longest = 0;
        for (int r = 0; status == GLN_OK && r < session->ranks; r++)
            longest = fmax(longest, m->seconds[r]);
        best = fmin(best, longest);
    }
    if (status != GLN_OK || session->rank != 0) return status;
    gln_seconds_text(best, time);
    gln_bytes_text((double)m->bytes, size);
    gln_rate_text(best / ((double)m->bytes * session->ranks), rate);
    gln_findings_add(out, "all-to-all", "", GLN_FINDING_OK, "",
                     "%d ranks, %s to each, in %s: %s a rank", session->ranks, size, time, rate);
    return GLN_OK;
}

static void judge_hosts(const meeting_t *m, const double *fastest, gln_findings_t *out)
{
    char mine[16], usual[16], size[16];
    double sorted[GLN_DOCTOR_HOSTS_MAX];
    int slow = 0, count = m->nodes < GLN_DOCTOR_HOSTS_MAX ? m->nodes : GLN_DOCTOR_HOSTS_MAX;
    memcpy(sorted, fastest, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_reals);
    gln_seconds_text(sorted[(count - 1) / 2], usual);
    gln_bytes_text(PAIR_BYTES, size);
    for (int n = 0; n < count; n++) {
        if (!gln_doctor_is_slow(fastest, count, n)) continue;
        slow++;
        gln_seconds_text(fastest[n], mine);
        gln_findings_add(out, "slow host", m->hosts[m->leaders[n]], GLN_FINDING_WARNING,
                         "look at its cable, port, driver (ethtool), and at what else runs there; "
                         "or leave it out of the hosts file",
                         "needs %s to exchange %s with its fastest partner; others need %s", mine,
                         size, usual);
    }
    if (slow == 0)
        gln_findings_add(out, "slow host", "", GLN_FINDING_OK, "",
                         "none: pairs of hosts exchange %s in %s%s", size, usual,
                         count == 2 ? " (of two hosts nobody can tell which is slow)" : "");
}

static gln_status_t meet_pairs(gln_session_t *session, meeting_t *m, gln_findings_t *out)
{
    double best = HUGE_VAL, took = 0, fastest[GLN_DOCTOR_HOSTS_MAX];
    int me = gln_comm_node_of(session->comm, session->rank);
    int rounds = m->nodes - 1 + m->nodes % 2;
    gln_status_t status = GLN_OK;
    if (m->nodes < 2) return GLN_OK;
    for (int k = 0; status == GLN_OK && k < rounds && k < ROUNDS_MAX; k++) {
        int node = session->rank == m->leaders[me] ? gln_doctor_partner(m->nodes, k, me) : -1;
        int peer = node >= 0 ? m->leaders[node] : -1;
        for (int i = 0; status == GLN_OK && i < REPEAT_PAIR; i++) {
            status = exchange(session, peer, PAIR_BYTES, m->buffer, m->counts, &took);
            if (peer >= 0) best = fmin(best, took);
        }
    }
    if (status == GLN_OK) status = gather_real(session, best, m->seconds);
    if (status != GLN_OK || session->rank != 0) return status;
    for (int n = 0; n < m->nodes && n < GLN_DOCTOR_HOSTS_MAX; n++)
        fastest[n] = m->seconds[m->leaders[n]];
    judge_hosts(m, fastest, out);
    return GLN_OK;
}

static gln_status_t meet(gln_session_t *session, const char *host, gln_findings_t *out)
{
    const size_t ranks = (size_t)session->ranks;
    meeting_t m = {.nodes = gln_comm_nodes_count(session->comm)};
    m.bytes = ALL_TOTAL / ranks < ALL_BYTES ? ALL_TOTAL / ranks : ALL_BYTES;
    size_t most = m.bytes * ranks > PAIR_BYTES ? m.bytes * ranks : PAIR_BYTES;
    m.leaders = calloc((size_t)m.nodes, sizeof *m.leaders);
    m.hosts = calloc(ranks, sizeof *m.hosts);
    m.counts = calloc(ranks, sizeof *m.counts);
    m.seconds = calloc(ranks, sizeof *m.seconds);
    m.buffer = calloc(2, most);
    bool all = m.leaders && m.hosts && m.counts && m.seconds && m.buffer;
    gln_status_t status = gln_session_agree(session, all ? GLN_OK : GLN_ERR_MEMORY);
    for (int r = session->ranks - 1; status == GLN_OK && r >= 0; r--)
        m.leaders[gln_comm_node_of(session->comm, r)] = r;
    char mine[64] = "";
    snprintf(mine, sizeof mine, "%.63s", host);
    if (status == GLN_OK) status = gln_comm_allgather(session->comm, mine, sizeof mine, m.hosts);
    if (status == GLN_OK) status = meet_all(session, &m, out);
    if (status == GLN_OK) status = meet_pairs(session, &m, out);
    free(m.buffer);
    free(m.seconds);
    free(m.counts);
    free(m.hosts);
    free(m.leaders);
    return status;
}

gln_status_t gln_doctor_job(gln_session_t *session, const char *host, gln_findings_t *out)
{
    gln_status_t status = hello(session, host, out);
    if (status == GLN_OK) status = look_binding(session, out);
    if (status == GLN_OK) status = compare_clocks(session, host, out);
    if (status == GLN_OK) status = meet(session, host, out);
    return status;
}
