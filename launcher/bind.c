/* One allgather of two hashes a rank tells who shares a machine and whether they see the same
 * cores; the plan is then the same on all of them. A second one counts who was bound. */
#include "launcher/bind.h"

#include "base/log.h"
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct identity {
    uint64_t machine, cores;
} identity_t;

static uint64_t hash(const void *data, size_t bytes)
{
    uint64_t value = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        value = (value ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return value;
}

/* The kernel's boot id, which containers and namespaces share; the host name where there is none.
 */
static identity_t identify(void)
{
    char name[128] = "";
    cpu_set_t mask;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!file || !fgets(name, sizeof name, file)) gethostname(name, sizeof name - 1);
    if (file) fclose(file);
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) memset(&mask, 0xff, sizeof mask);
    return (identity_t){hash(name, strlen(name)), hash(&mask, sizeof mask)};
}

gln_status_t gln_bind_machine(gln_comm_t *comm, int *local, int *count, bool *alike)
{
    int ranks = gln_comm_size(comm), rank = gln_comm_rank(comm);
    identity_t mine = identify(), *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return gln_fail(GLN_ERR_MEMORY, "binding: out of memory for %d ranks", ranks);
    gln_status_t status = gln_comm_allgather(comm, &mine, sizeof mine, all);
    if (status == GLN_OK) {
        *local = *count = 0;
        *alike = true;
        for (int r = 0; r < ranks; r++) {
            if (all[r].machine != mine.machine) continue;
            *local += r < rank;
            *count += 1;
            *alike = *alike && all[r].cores == mine.cores;
        }
    }
    free(all);
    return status;
}

static int smallest_share(const gln_binding_plan_t *plan, int ranks)
{
    int smallest = 0;
    for (int rank = 0; rank < ranks; rank++) {
        int count;
        gln_binding_plan_cores(plan, rank, &count);
        if (rank == 0 || count < smallest) smallest = count;
    }
    return smallest;
}

typedef struct share {
    int local, count, threads;
    bool alike, apply;
} share_t;

static gln_status_t bind_rank(const gln_topology_t *topology, const share_t *share,
                              gln_binding_result_t *out)
{
    gln_binding_plan_t *plan = NULL;
    gln_binding_options_t options = {.ranks = share->count};
    gln_status_t status = gln_binding_plan_open(topology, &options, &plan);
    if (status != GLN_OK) return status;
    int cores = smallest_share(plan, share->count);
    gln_binding_result_t result;
    status = gln_binding_check(topology, plan, share->local, &result);
    if (status == GLN_OK && result.state == GLN_BINDING_DONE) {
        if (!share->alike) {
            result.state = GLN_BINDING_LEFT;
            snprintf(result.text, sizeof result.text,
                     "not bound: other ranks of this machine were started on other cores");
        } else if (share->threads > cores) {
            result.state = GLN_BINDING_LEFT;
            snprintf(result.text, sizeof result.text,
                     "not bound: %d threads asked for, but %d core%s a rank", share->threads, cores,
                     cores == 1 ? "" : "s");
        } else if (share->apply) {
            status = gln_binding_apply(topology, plan, share->local, &result);
        }
    }
    gln_binding_plan_close(plan);
    if (status == GLN_OK) *out = result;
    return status;
}

/* Count the bound; one rank speaks of a refusal. */
static gln_status_t tell(gln_comm_t *comm, gln_bind_t *bind)
{
    int ranks = gln_comm_size(comm), state = bind->mine.state, speaker = -1;
    int *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return gln_fail(GLN_ERR_MEMORY, "binding: out of memory for %d ranks", ranks);
    gln_status_t status = gln_comm_allgather(comm, &state, sizeof state, all);
    bind->ranks = ranks;
    for (int r = 0; status == GLN_OK && r < ranks; r++) {
        bind->bound += all[r] == GLN_BINDING_DONE;
        if (all[r] == GLN_BINDING_REFUSED && speaker < 0) speaker = r;
    }
    if (status == GLN_OK && speaker == gln_comm_rank(comm))
        gln_log(GLN_LOG_WARN, "%s; going on without, parallel.bind: none keeps quiet",
                bind->mine.text);
    free(all);
    return status;
}

gln_status_t gln_bind_ranks(gln_comm_t *comm, int threads, bool apply, gln_bind_t *out)
{
    gln_topology_t *topology = NULL;
    gln_bind_t bind = {.mine.state = GLN_BINDING_LEFT};
    share_t share = {.threads = threads, .apply = apply};
    gln_status_t looked = gln_topology_open(&topology);
    gln_status_t status = gln_bind_machine(comm, &share.local, &share.count, &share.alike);
    if (looked == GLN_OK && status == GLN_OK) looked = bind_rank(topology, &share, &bind.mine);
    gln_topology_close(topology);
    if (status == GLN_OK) status = tell(comm, &bind); /* also where this rank could not look */
    if (looked != GLN_OK) return looked;
    if (status == GLN_OK) *out = bind;
    return status;
}

gln_status_t gln_bind_run(gln_session_t *session, const gln_run_options_t *run, gln_bind_t *out)
{
    gln_bind_t bind = {0};
    gln_status_t status = GLN_OK;
    if (run->parallel.bind == 0) /* auto */
        status = gln_bind_ranks(session->comm, (int)run->parallel.threads, true, &bind);
    status = gln_session_agree(session, status);
    if (status == GLN_OK && out) *out = bind;
    return status;
}
