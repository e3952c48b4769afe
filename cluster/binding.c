/* Applying a plan: all threads of the process, by hwloc, then the memory policy of the calling
 * thread, which later threads inherit. Both are read back; what was asked for and is not there is a
 * refusal, and the cores are set back to what they were. */
#include "cluster/binding.h"

#include "base/log.h"
#include "cluster/topology_internal.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

gln_status_t gln_binding_check(const gln_topology_t *topology, const gln_binding_plan_t *plan,
                               int rank, gln_binding_result_t *out)
{
    gln_binding_result_t result = {.state = GLN_BINDING_DONE};
    char words[96];
    int count;
    if (!topology || !plan || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "binding: expected a topology and a plan, found NULL");
    const int *cores = gln_binding_plan_cores(plan, rank, &count);
    gln_binding_cores_text(cores, count, words, sizeof words);
    snprintf(result.text, sizeof result.text, "to be bound to %s", words);
    if (gln_topology_is_bound(topology)) {
        result.state = GLN_BINDING_FOUND;
        snprintf(result.text, sizeof result.text, "left as it was started: bound already");
    } else if (count == 0) {
        result.state = GLN_BINDING_LEFT;
        snprintf(result.text, sizeof result.text, "not bound: %s", gln_binding_plan_reason(plan));
    } else if (count == gln_topology_cores(topology)) {
        result.state = GLN_BINDING_WHOLE;
        snprintf(result.text, sizeof result.text, "not bound: the whole machine is its own");
    }
    *out = result;
    return GLN_OK;
}

/* Hardware threads and NUMA nodes of some cores. */
static void collect(const gln_topology_t *topology, const int *cores, int count, hwloc_bitmap_t pus,
                    hwloc_bitmap_t nodes)
{
    hwloc_bitmap_zero(pus);
    hwloc_bitmap_zero(nodes);
    for (int i = 0; i < count; i++) {
        hwloc_obj_t core = gln_topology_core_object(topology, cores[i]);
        hwloc_bitmap_or(pus, pus, core->cpuset);
        hwloc_bitmap_or(nodes, nodes, core->nodeset);
    }
}

static void refuse(gln_binding_result_t *result, const char *reason)
{
    result->state = GLN_BINDING_REFUSED;
    result->memory = false;
    snprintf(result->text, sizeof result->text, "not bound: the system does not allow it (%s)",
             reason);
}

/* Memory has a policy already (numactl): then it stays. */
static bool bind_memory(const gln_topology_t *topology, hwloc_const_bitmap_t nodes,
                        hwloc_bitmap_t seen)
{
    const int flags = HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET;
    hwloc_membind_policy_t policy;
    if (hwloc_get_membind(topology->hwloc, seen, &policy, flags) < 0 ||
        (policy != HWLOC_MEMBIND_DEFAULT && policy != HWLOC_MEMBIND_FIRSTTOUCH))
        return false;
    if (hwloc_set_membind(topology->hwloc, nodes, HWLOC_MEMBIND_BIND, flags) < 0) return false;
    return hwloc_get_membind(topology->hwloc, seen, &policy, flags) == 0 &&
           hwloc_bitmap_isequal(seen, nodes);
}

/* @param seen  scratch */
static void bind_process(const gln_topology_t *topology, hwloc_const_bitmap_t pus,
                         hwloc_const_bitmap_t nodes, hwloc_bitmap_t seen,
                         gln_binding_result_t *result)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topology->hwloc);
    if (hwloc_set_cpubind(topology->hwloc, pus, HWLOC_CPUBIND_PROCESS) < 0) {
        refuse(result, strerror(errno));
        return;
    }
    if (hwloc_get_cpubind(topology->hwloc, seen, HWLOC_CPUBIND_PROCESS) < 0 ||
        !hwloc_bitmap_isequal(seen, pus)) {
        hwloc_set_cpubind(topology->hwloc, all, HWLOC_CPUBIND_PROCESS);
        refuse(result, "asked for, but not found afterwards");
        return;
    }
    result->memory = bind_memory(topology, nodes, seen);
    size_t used = strlen(result->text);
    memmove(result->text, result->text + strlen("to be "), used - strlen("to be ") + 1);
    used = strlen(result->text);
    snprintf(result->text + used, sizeof result->text - used, "%s",
             result->memory ? " and its memory" : "; memory as it was");
}

gln_status_t gln_binding_apply(const gln_topology_t *topology, const gln_binding_plan_t *plan,
                               int rank, gln_binding_result_t *out)
{
    gln_binding_result_t result;
    gln_status_t status = gln_binding_check(topology, plan, rank, &result);
    if (status != GLN_OK) return status;
    if (!topology->is_live)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "binding: expected this machine's topology, found one of a description");
    if (result.state != GLN_BINDING_DONE) {
        *out = result;
        return GLN_OK;
    }
    int count;
    const int *cores = gln_binding_plan_cores(plan, rank, &count);
    hwloc_bitmap_t pus = hwloc_bitmap_alloc(), nodes = hwloc_bitmap_alloc();
    hwloc_bitmap_t seen = hwloc_bitmap_alloc();
    if (pus && nodes && seen) {
        collect(topology, cores, count, pus, nodes);
        bind_process(topology, pus, nodes, seen, &result);
        *out = result;
    } else {
        status = gln_fail(GLN_ERR_MEMORY, "binding: out of memory");
    }
    hwloc_bitmap_free(seen);
    hwloc_bitmap_free(nodes);
    hwloc_bitmap_free(pus);
    return status;
}
