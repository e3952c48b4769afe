/* Planned and measured memory. */
#include "launcher/memory.h"

#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>

static int ranks_of_node(const gln_comm_t *comm)
{
    int node = gln_comm_node_of(comm, gln_comm_rank(comm)), ranks = 0;
    for (int r = 0; r < gln_comm_size(comm); r++)
        ranks += gln_comm_node_of(comm, r) == node;
    return ranks;
}

gln_status_t gln_memory_look_ahead(const gln_session_t *session, const gln_run_options_t *run,
                                   gln_memory_plan_t *out)
{
    gln_memory_plan_t plan;
    int per_node = ranks_of_node(session->comm);
    gln_status_t status = gln_memory_plan(run, session->rank, session->ranks, per_node, &plan);
    if (status == GLN_OK) status = gln_memory_plan_process(run, session->ranks, &plan);
    if (status == GLN_OK) *out = plan;
    return status;
}

gln_status_t gln_memory_measure(gln_session_t *session, gln_memory_measured_t *out)
{
    gln_resident_t mine = {0};
    int64_t *all = calloc((size_t)session->ranks * 2, sizeof *all);
    gln_status_t status =
        all ? gln_resident_read(&mine)
            : gln_fail(GLN_ERR_MEMORY, "no memory for the figures of %d ranks", session->ranks);
    status = gln_session_agree(session, status);
    if (status == GLN_OK)
        status = gln_comm_allgather(session->comm, &mine.peak_bytes, sizeof *all, all);
    int64_t *node = all + session->ranks;
    gln_memory_measured_t m = {.least_bytes = INT64_MAX};
    for (int r = 0; status == GLN_OK && r < session->ranks; r++) {
        int64_t *sum = &node[gln_comm_node_of(session->comm, r)];
        *sum += all[r];
        if (*sum > m.node_bytes) m.node_bytes = *sum;
        if (all[r] < m.least_bytes) m.least_bytes = all[r];
        if (all[r] <= m.peak_bytes) continue;
        m.peak_bytes = all[r];
        m.rank = r;
    }
    for (int i = 0; i < GLN_MEMORY_KINDS; i++)
        m.held_bytes[i] = gln_memory_held((gln_memory_kind_t)i);
    free(all);
    if (status == GLN_OK) *out = m;
    return status;
}

static void add_kinds(const int64_t bytes[GLN_MEMORY_KINDS], json_t *object)
{
    for (int i = 0; object && i < GLN_MEMORY_KINDS; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s_bytes", gln_memory_name((gln_memory_kind_t)i));
        json_object_set_new(object, name, json_integer((json_int_t)bytes[i]));
    }
}

json_t *gln_memory_plan_json(const gln_memory_plan_t *plan)
{
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:I}", "total_bytes", (json_int_t)plan->total_bytes,
                  "dense_parameters", (json_int_t)plan->dense_parameters, "expert_parameters",
                  (json_int_t)plan->expert_parameters, "parameters", (json_int_t)plan->parameters);
    add_kinds(plan->bytes, object);
    json_object_set_new(object, "process_bytes", json_integer((json_int_t)plan->process_bytes));
    json_object_set_new(object, "allowance_bytes", json_integer((json_int_t)plan->allowance_bytes));
    return object;
}

json_t *gln_memory_measured_json(const gln_memory_measured_t *m)
{
    json_t *object = json_pack("{s:I, s:I, s:I, s:i}", "peak_bytes", (json_int_t)m->peak_bytes,
                               "least_bytes", (json_int_t)m->least_bytes, "node_bytes",
                               (json_int_t)m->node_bytes, "rank", m->rank);
    add_kinds(m->held_bytes, object);
    return object;
}
