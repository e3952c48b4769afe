/* `gleaner topo`: the command, and what text, JSON and SVG ask of a topology with ranks on it. */
#include "launcher/topo.h"

#include "base/log.h"
#include "cluster/binding.h"
#include "launcher/command.h"
#include "launcher/setup.h"
#include <stdlib.h>
#include <string.h>

void gln_topo_close(gln_topo_t *topo)
{
    gln_hierarchy_close(topo->hierarchy);
    for (int i = 0; i < topo->opened_count; i++)
        gln_topology_close(topo->opened[i]);
    free(topo->opened);
    free(topo->nodes);
    free(topo->ranks);
    memset(topo, 0, sizeof *topo);
}

bool gln_topo_has_core(const gln_topo_rank_t *rank, int core)
{
    return core < GLN_TOPO_CORES_MAX && (rank->cores[core / 64] >> (core % 64) & 1) != 0;
}

int gln_topo_rank_on(const gln_topo_t *topo, int node, int core)
{
    int found = -1;
    for (int i = 0; i < gln_hierarchy_ranks_on_node(topo->hierarchy, node); i++) {
        int rank = gln_hierarchy_rank_on_node(topo->hierarchy, node, i);
        if (gln_topo_has_core(&topo->ranks[rank], core)) found = found == -1 ? rank : -2;
    }
    return found;
}

void gln_topo_cores_text(const gln_topo_rank_t *rank, char *out, size_t size)
{
    int cores[GLN_TOPO_CORES_MAX], count = 0;
    for (int core = 0; core < GLN_TOPO_CORES_MAX; core++)
        if (gln_topo_has_core(rank, core)) cores[count++] = core;
    gln_binding_cores_text(cores, count, out, size);
}

gln_topo_share_t gln_topo_share(const gln_topo_t *topo, int rank)
{
    gln_topo_share_t share = {0};
    if (topo->domains == 0) return share;
    int64_t group = topo->domains / topo->replicas, each = topo->experts / group;
    share.domains_count = topo->domains / topo->ranks_count;
    share.domain = rank * share.domains_count;
    share.expert = share.domain % group * each;
    share.experts_count = share.domains_count < group ? share.domains_count * each : topo->experts;
    return share;
}

static void range_text(const char *one, int64_t first, int64_t count, char *out, size_t size)
{
    if (count == 1)
        snprintf(out, size, "%s %lld", one, (long long)first);
    else
        snprintf(out, size, "%ss %lld-%lld", one, (long long)first, (long long)(first + count - 1));
}

void gln_topo_share_text(const gln_topo_t *topo, int rank, char *out, size_t size)
{
    char domains[64], experts[64];
    out[0] = 0;
    if (topo->domains == 0) return;
    gln_topo_share_t share = gln_topo_share(topo, rank);
    range_text("domain", share.domain, share.domains_count, domains, sizeof domains);
    range_text("expert", share.expert, share.experts_count, experts, sizeof experts);
    snprintf(out, size, "%s, %s", domains, experts);
}

typedef struct request {
    const gln_arguments_t *arguments;
    int64_t ranks; /* 0: not said */
    bool planned, devices;
} request_t;

static gln_status_t read_request(const gln_arguments_t *arguments, request_t *out)
{
    *out = (request_t){.arguments = arguments, .devices = true};
    const bool *given = arguments->given;
    if (given[GLN_OPTION_XML] && given[GLN_OPTION_SYNTHETIC])
        return gln_fail(GLN_ERR_ARGUMENT, "--xml and --synthetic: expected one of them");
    if (given[GLN_OPTION_SET] && arguments->operands_count == 0)
        return gln_fail(GLN_ERR_ARGUMENT, "--set: expected a run file beside it");
    out->planned = given[GLN_OPTION_XML] || given[GLN_OPTION_SYNTHETIC] || given[GLN_OPTION_RANKS];
    return gln_arguments_int(arguments, GLN_OPTION_RANKS, 0, 1, 1 << 16, &out->ranks);
}

/* What the run file says of domains, and whether its ranks have GPUs. */
static gln_status_t read_run(const request_t *request, int ranks, gln_topo_t *topo, bool *devices)
{
    gln_run_options_t run;
    const gln_arguments_t *arguments = request->arguments;
    if (arguments->operands_count == 0) return GLN_OK;
    gln_status_t status = gln_run_options_load(arguments->operands[0], arguments->sets,
                                               arguments->sets_count, ranks, &run);
    if (status != GLN_OK) return status;
    *devices = false; /* the backends that a run file can name compute on the CPU */
    topo->domains = run.parallel.domains;
    topo->replicas = run.parallel.expert_replicas;
    topo->experts = run.model.experts;
    return GLN_OK;
}

static gln_status_t open_machine(const gln_arguments_t *arguments, char *source, size_t size,
                                 gln_topology_t **out)
{
    const char *xml = arguments->value[GLN_OPTION_XML];
    const char *synthetic = arguments->value[GLN_OPTION_SYNTHETIC];
    snprintf(source, size, "%s", xml ? xml : synthetic ? synthetic : "this machine");
    if (xml) return gln_topology_open_xml(xml, out);
    if (synthetic) return gln_topology_open_synthetic(synthetic, out);
    return gln_topology_open(out);
}

/* One process's work, without a job. */
static gln_status_t plan(const request_t *request, gln_topo_t *topo)
{
    gln_topology_t *topology = NULL;
    gln_topo_t run = {0};
    char source[sizeof topo->source];
    bool devices = request->devices;
    gln_status_t status = open_machine(request->arguments, source, sizeof source, &topology);
    if (status != GLN_OK) return status;
    int ranks = (int)request->ranks;
    if (ranks == 0 && request->arguments->operands_count == 0) ranks = gln_topology_gpus(topology);
    if (ranks == 0) ranks = gln_topology_numa_nodes(topology);
    status = read_run(request, ranks, &run, &devices);
    if (status != GLN_OK) {
        gln_topology_close(topology);
        return status;
    }
    status = gln_topo_plan(topology, ranks, devices, topo);
    memcpy(topo->source, source, sizeof source);
    topo->domains = run.domains;
    topo->replicas = run.replicas;
    topo->experts = run.experts;
    return status;
}

static gln_status_t print(const gln_arguments_t *arguments, const gln_topo_t *topo)
{
    const char *svg = arguments->value[GLN_OPTION_SVG];
    gln_status_t status = arguments->given[GLN_OPTION_JSON] ? gln_topo_print_json(topo, stdout)
                                                            : gln_topo_print_text(topo, stdout);
    return status == GLN_OK && svg ? gln_topo_write_svg(topo, svg) : status;
}

int gln_command_topo(const gln_arguments_t *arguments)
{
    gln_session_t session;
    request_t request;
    gln_topo_t topo = {0};
    gln_session_start(&session);
    gln_status_t status = read_request(arguments, &request);
    bool planned = status != GLN_OK || request.planned;
    if (!planned) {
        status = gln_session_join(&session);
        if (status != GLN_OK) return gln_session_leave(&session, status);
        bool devices = request.devices;
        status = gln_session_agree(&session, read_run(&request, session.ranks, &topo, &devices));
        if (status == GLN_OK)
            status = gln_session_agree(&session, gln_topo_look(&session, devices, &topo));
    } else if (gln_session_environment_rank() != 0) {
        return gln_session_leave(&session, status); /* one process of the job draws */
    } else if (status == GLN_OK) {
        status = plan(&request, &topo);
    }
    if (status == GLN_OK && session.rank == 0) status = print(arguments, &topo);
    status = gln_session_agree(&session, status);
    gln_topo_close(&topo);
    return gln_session_leave(&session, status);
}
