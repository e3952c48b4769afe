/* The picture for the terminal: a tree of parts by indentation, a row of cells per L3 cache (or
 * NUMA node) in which a cell is a core, then tables of links and ranks. Up to four nodes are drawn;
 * more than that are drawn once per kind of machine and listed. */
#include "launcher/topo.h"

#include <stdlib.h>
#include <string.h>

enum { NODES_DRAWN = 4, ROW_CELLS = 16, MATRIX_MAX = 16, GPUS_MAX = 16 };

typedef struct picture {
    const gln_topo_t *topo;
    const gln_topology_t *topology;
    int node, width; /* digits of a cell */
    FILE *out;
} picture_t;

static const char *plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

static int digits(int number)
{
    int count = 1;
    for (; number >= 10; number /= 10)
        count++;
    return count;
}

/* Which rank uses a device, as text; "" for none. */
static void users_text(const picture_t *p, int device, char *out, size_t size)
{
    const gln_hierarchy_t *h = p->topo->hierarchy;
    out[0] = 0;
    for (int i = 0; i < gln_hierarchy_ranks_on_node(h, p->node); i++) {
        int rank = gln_hierarchy_rank_on_node(h, p->node, i);
        const gln_topo_rank_t *r = &p->topo->ranks[rank];
        if (r->device != device && r->nic != device) continue;
        size_t used = strlen(out);
        snprintf(out + used, size - used, "%s%d", used ? "," : "  rank ", rank);
    }
}

static void print_devices(const picture_t *p, int numa, int package, const char *indent)
{
    for (int i = 0; i < gln_topology_devices(p->topology); i++) {
        const gln_io_device_t *device = gln_topology_device(p->topology, i);
        char users[128];
        if (device->numa_node != numa || (numa < 0 && device->package != package)) continue;
        users_text(p, i, users, sizeof users);
        bool has_name = strcmp(device->name, device->bus_id) != 0;
        fprintf(p->out, "%s%s  %-12s  %-12s  %s%s\n", indent,
                device->kind == GLN_IO_GPU ? "GPU" : "NIC", has_name ? device->name : "",
                device->bus_id, device->model, users);
    }
}

static void print_cell(const picture_t *p, int core)
{
    int rank = gln_topo_rank_on(p->topo, p->node, core);
    if (rank >= 0)
        fprintf(p->out, "[%*d]", p->width, rank);
    else
        fprintf(p->out, "[%*s]", p->width, rank == -1 ? "." : "*");
}

/* Cores [first, last] of one L3 cache, or of what has none. */
static void print_row(const picture_t *p, int first, int last)
{
    int l3 = gln_topology_core_l3(p->topology, first);
    char name[32] = "cores", range[32];
    if (l3 >= 0) snprintf(name, sizeof name, "L3 %d", l3);
    snprintf(range, sizeof range, first == last ? "%d" : "%d-%d", first, last);
    fprintf(p->out, "    %-6s %-9s ", name, range);
    for (int core = first; core <= last; core++) {
        if (core > first && (core - first) % ROW_CELLS == 0) fprintf(p->out, "\n%21s", "");
        print_cell(p, core);
    }
    fprintf(p->out, "\n");
}

static void print_numa(const picture_t *p, int numa)
{
    int cores = gln_topology_cores(p->topology);
    fprintf(p->out, "  NUMA node %d\n", numa);
    for (int first = 0; first < cores; first++) {
        if (gln_topology_core_numa(p->topology, first) != numa) continue;
        int last = first, l3 = gln_topology_core_l3(p->topology, first);
        while (last + 1 < cores && gln_topology_core_numa(p->topology, last + 1) == numa &&
               gln_topology_core_l3(p->topology, last + 1) == l3)
            last++;
        print_row(p, first, last);
        first = last;
    }
    print_devices(p, numa, -1, "    ");
}

static void print_gpu_links(const picture_t *p)
{
    int gpus = gln_topology_gpus(p->topology);
    bool has_links = false;
    if (gpus > GPUS_MAX) gpus = GPUS_MAX;
    for (int a = 0; a < gpus; a++)
        for (int b = 0; b < gpus; b++)
            has_links = has_links || gln_topology_link_mbps(p->topology, a, b) > 0;
    if (gpus < 2) return;
    fprintf(p->out, has_links ? "  links between GPUs, GB/s (. PCI alone)\n"
                              : "  links between GPUs: none known but PCI\n");
    for (int a = 0; has_links && a < gpus; a++) {
        fprintf(p->out, "    %-12s", gln_topology_device(p->topology, a)->name);
        for (int b = 0; b < gpus; b++) {
            unsigned long mbps = gln_topology_link_mbps(p->topology, a, b);
            if (mbps > 0)
                fprintf(p->out, " %5.0f", (double)mbps / 1000);
            else
                fprintf(p->out, " %5s", a == b ? "-" : ".");
        }
        fprintf(p->out, "\n");
    }
}

static void print_latency(const picture_t *p)
{
    int nodes = gln_topology_numa_nodes(p->topology);
    if (nodes < 2 || nodes > MATRIX_MAX || gln_topology_numa_latency(p->topology, 0, 0) == 0)
        return;
    fprintf(p->out, "  latency between NUMA nodes, relative\n");
    for (int a = 0; a < nodes; a++) {
        fprintf(p->out, "    NUMA node %-2d", a);
        for (int b = 0; b < nodes; b++)
            fprintf(p->out, " %5d", gln_topology_numa_latency(p->topology, a, b));
        fprintf(p->out, "\n");
    }
}

static void print_node(const gln_topo_t *topo, int node, FILE *out)
{
    int first = gln_hierarchy_rank_on_node(topo->hierarchy, node, 0);
    picture_t p = {topo, topo->nodes[node], node, digits(topo->ranks_count - 1), out};
    char summary[256];
    gln_topology_summary(p.topology, summary, sizeof summary);
    fprintf(out, "\nnode %d%s%s: %s\n", node, topo->ranks[first].host[0] ? "  " : "",
            topo->ranks[first].host, summary);
    for (int package = 0; package < gln_topology_packages(p.topology); package++) {
        const char *cpu = gln_topology_cpu(p.topology, package);
        fprintf(out, " package %d%s%s\n", package, cpu[0] ? "  " : "", cpu);
        for (int numa = 0; numa < gln_topology_numa_nodes(p.topology); numa++)
            if (gln_topology_numa_package(p.topology, numa) == package) print_numa(&p, numa);
        print_devices(&p, -1, package, "  ");
    }
    for (int numa = 0; numa < gln_topology_numa_nodes(p.topology); numa++)
        if (gln_topology_numa_package(p.topology, numa) < 0) print_numa(&p, numa);
    print_devices(&p, -1, -1, " ");
    print_gpu_links(&p);
    print_latency(&p);
}

static void print_nodes(const gln_topo_t *topo, FILE *out)
{
    for (int node = 0; node < topo->nodes_count; node++) {
        bool is_new = true;
        for (int before = 0; before < node && is_new; before++)
            is_new = topo->nodes[before] != topo->nodes[node];
        if (topo->nodes_count <= NODES_DRAWN || is_new) print_node(topo, node, out);
    }
    if (topo->nodes_count <= NODES_DRAWN) return;
    fprintf(out, "\nnodes not drawn are made like one that is: ranks and cores are listed below\n");
}

static void print_ranks(const gln_topo_t *topo, FILE *out)
{
    fprintf(out, "\nranks\n");
    for (int r = 0; r < topo->ranks_count; r++) {
        const gln_topo_rank_t *rank = &topo->ranks[r];
        const gln_topology_t *node = topo->nodes[gln_hierarchy_node(topo->hierarchy, r)];
        char cores[160], share[128];
        gln_topo_cores_text(rank, cores, sizeof cores);
        gln_topo_share_text(topo, r, share, sizeof share);
        fprintf(out, "  rank %-*d  node %d", digits(topo->ranks_count - 1), r,
                gln_hierarchy_node(topo->hierarchy, r));
        if (rank->place.numa_node >= 0) fprintf(out, "  NUMA node %d", rank->place.numa_node);
        fprintf(out, "  %s%s", cores, rank->bound ? "" : " (not bound)");
        if (rank->device >= 0)
            fprintf(out, "  GPU %s", gln_topology_device(node, rank->device)->name);
        if (rank->nic >= 0) fprintf(out, "  NIC %s", gln_topology_device(node, rank->nic)->name);
        fprintf(out, "%s%s\n", share[0] ? "  " : "", share);
    }
}

static void print_matrix(const gln_topo_t *topo, FILE *out)
{
    static const char letters[GLN_LINKS] = {'-', 'n', 'm', 'g', 'b'};
    fprintf(out, "\nlinks between ranks (n one NUMA node, m one node's memory, g one switch group, "
                 "b beyond)\n");
    int width = digits(topo->ranks_count - 1);
    for (int a = 0; a < topo->ranks_count; a++) {
        fprintf(out, "  rank %-*d ", width, a);
        for (int b = 0; b < topo->ranks_count; b++)
            fprintf(out, " %c", letters[gln_hierarchy_link(topo->hierarchy, a, b)]);
        fprintf(out, "\n");
    }
}

/* Too many ranks for a table: how many there are of each part. */
static void print_sizes(const gln_topo_t *topo, FILE *out)
{
    const gln_hierarchy_t *h = topo->hierarchy;
    int least = topo->ranks_count, most = 0;
    for (int node = 0; node < topo->nodes_count; node++) {
        int ranks = gln_hierarchy_ranks_on_node(h, node);
        if (ranks < least) least = ranks;
        if (ranks > most) most = ranks;
    }
    fprintf(out, "\n%d ranks on %d node%s, ", topo->ranks_count, topo->nodes_count,
            plural(topo->nodes_count));
    if (least == most)
        fprintf(out, "%d each", most);
    else
        fprintf(out, "%d to %d each", least, most);
    fprintf(out, "; %d NUMA node%s with ranks, %d switch group%s\n", gln_hierarchy_numa_nodes(h),
            plural(gln_hierarchy_numa_nodes(h)), gln_hierarchy_groups(h),
            plural(gln_hierarchy_groups(h)));
}

/* Nodes of the job that are one machine. */
static bool has_shared_machine(const gln_topo_t *topo)
{
    for (int r = 0; r < topo->ranks_count; r++) {
        int node = gln_hierarchy_node(topo->hierarchy, r);
        if (topo->ranks[r].machine_ranks > gln_hierarchy_ranks_on_node(topo->hierarchy, node))
            return true;
    }
    return false;
}

gln_status_t gln_topo_print_text(const gln_topo_t *topo, FILE *out)
{
    fprintf(out, "%s: %d node%s, %d rank%s%s%s\n", topo->source, topo->nodes_count,
            plural(topo->nodes_count), topo->ranks_count, plural(topo->ranks_count),
            topo->plan[0] ? " planned, " : "", topo->plan);
    fprintf(out, "[n] is a core of rank n, [.] of none, [*] of several\n");
    if (has_shared_machine(topo))
        fprintf(out, "several of these nodes are one machine: the same cores are drawn more than "
                     "once\n");
    print_nodes(topo, out);
    print_ranks(topo, out);
    if (topo->ranks_count > MATRIX_MAX)
        print_sizes(topo, out);
    else if (topo->ranks_count > 1)
        print_matrix(topo, out);
    return GLN_OK;
}
