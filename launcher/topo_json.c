/* A topology with ranks on it as JSON, one object a line: nodes, each followed by its devices and
 * links, then ranks. */
#include "launcher/topo.h"

#include "launcher/figures.h"

static const char *const kinds[] = {"GPU", "NIC"};

/* null where a part is not known. */
static json_t *index_or_null(int index)
{
    return index >= 0 ? json_integer(index) : json_null();
}

static gln_status_t print_node(const gln_topo_t *topo, int node, FILE *out)
{
    const gln_topology_t *t = topo->nodes[node];
    int first = gln_hierarchy_rank_on_node(topo->hierarchy, node, 0);
    return gln_figures_print(
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "topo", "node",
                  "node", node, "host", topo->ranks[first].host, "source", topo->source, "cpu",
                  gln_topology_cpu(t, 0), "packages", gln_topology_packages(t), "numa_nodes",
                  gln_topology_numa_nodes(t), "l3_caches", gln_topology_l3s(t), "cores",
                  gln_topology_cores(t), "hardware_threads", gln_topology_pus(t), "ranks",
                  gln_hierarchy_ranks_on_node(topo->hierarchy, node), "group",
                  gln_hierarchy_node_group(topo->hierarchy, node)),
        out, "standard output");
}

static gln_status_t print_devices(const gln_topology_t *t, int node, FILE *out)
{
    gln_status_t status = GLN_OK;
    for (int i = 0; status == GLN_OK && i < gln_topology_devices(t); i++) {
        const gln_io_device_t *d = gln_topology_device(t, i);
        status = gln_figures_print(
            json_pack("{s:s, s:i, s:i, s:s, s:s, s:s, s:s, s:o, s:o}", "topo", "device", "node",
                      node, "device", i, "kind", kinds[d->kind], "name", d->name, "bus_id",
                      d->bus_id, "model", d->model, "numa_node", index_or_null(d->numa_node),
                      "package", index_or_null(d->package)),
            out, "standard output");
    }
    return status;
}

static gln_status_t print_links(const gln_topology_t *t, int node, FILE *out)
{
    gln_status_t status = GLN_OK;
    for (int a = 0; a < gln_topology_gpus(t); a++)
        for (int b = 0; b < gln_topology_gpus(t); b++) {
            unsigned long mbps = gln_topology_link_mbps(t, a, b);
            if (mbps == 0 || status != GLN_OK) continue;
            status = gln_figures_print(json_pack("{s:s, s:i, s:i, s:i, s:I}", "topo", "link",
                                                 "node", node, "from", a, "to", b,
                                                 "bytes_per_second", (json_int_t)mbps * 1000000),
                                       out, "standard output");
        }
    for (int a = 0; a < gln_topology_numa_nodes(t); a++)
        for (int b = 0; b < gln_topology_numa_nodes(t); b++) {
            int latency = gln_topology_numa_latency(t, a, b);
            if (latency == 0 || status != GLN_OK) continue;
            status =
                gln_figures_print(json_pack("{s:s, s:i, s:i, s:i, s:i}", "topo", "latency", "node",
                                            node, "from", a, "to", b, "relative", latency),
                                  out, "standard output");
        }
    return status;
}

static gln_status_t print_rank(const gln_topo_t *topo, int rank, FILE *out)
{
    const gln_topo_rank_t *r = &topo->ranks[rank];
    json_t *cores = json_array();
    for (int core = 0; core < GLN_TOPO_CORES_MAX; core++)
        if (gln_topo_has_core(r, core)) json_array_append_new(cores, json_integer(core));
    json_t *object =
        json_pack("{s:s, s:i, s:i, s:s, s:o, s:o, s:o, s:b, s:o, s:o, s:s}", "topo", "rank", "rank",
                  rank, "node", gln_hierarchy_node(topo->hierarchy, rank), "host", r->host,
                  "numa_node", index_or_null(r->place.numa_node), "package",
                  index_or_null(r->place.package), "cores", cores, "bound", r->bound, "gpu",
                  index_or_null(r->device), "nic", index_or_null(r->nic), "plan", topo->plan);
    if (object && topo->domains > 0) {
        gln_topo_share_t share = gln_topo_share(topo, rank);
        json_object_set_new(object, "domains",
                            json_pack("[I, I]", (json_int_t)share.domain,
                                      (json_int_t)(share.domain + share.domains_count - 1)));
        json_object_set_new(object, "experts",
                            json_pack("[I, I]", (json_int_t)share.expert,
                                      (json_int_t)(share.expert + share.experts_count - 1)));
    }
    return gln_figures_print(object, out, "standard output");
}

gln_status_t gln_topo_print_json(const gln_topo_t *topo, FILE *out)
{
    gln_status_t status = GLN_OK;
    for (int node = 0; status == GLN_OK && node < topo->nodes_count; node++) {
        status = print_node(topo, node, out);
        if (status == GLN_OK) status = print_devices(topo->nodes[node], node, out);
        if (status == GLN_OK) status = print_links(topo->nodes[node], node, out);
    }
    for (int rank = 0; status == GLN_OK && rank < topo->ranks_count; rank++)
        status = print_rank(topo, rank, out);
    return status;
}
