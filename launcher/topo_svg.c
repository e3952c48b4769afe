/* The picture as SVG, written by hand: machine, packages, NUMA nodes and L3 caches as boxes in
 * boxes, a cell per core in the colour of its rank, devices at the bottom of their NUMA node,
 * curves between GPUs as wide as their links are fast, and a line per rank at the end. Sizes are
 * worked out before a box is drawn, from the inside out. Up to four nodes are drawn, as in the
 * terminal. */
#include "launcher/topo.h"

#include "base/log.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    NODES_DRAWN = 4,
    ROW_CELLS = 8,
    PACKAGE_WIDTH_MIN = 480, /* its title */
    COLUMNS = 4,             /* NUMA nodes side by side */
    CELL_WIDTH = 26,
    CELL_HEIGHT = 18,
    LINE = 16,
    GAP = 8,
    NUMA_WIDTH = ROW_CELLS * CELL_WIDTH + 4 * GAP,
    DEVICES_MAX = 64,
    RANKS_LISTED = 256
};

static const char *const colours[] = {"#a9c8ec", "#f4c79a", "#a8dcb5", "#eea9a9", "#cbb8ea",
                                      "#e0d38a", "#a2dadf", "#eab8dc", "#d2c2ae", "#c6d6a0"};
enum { COLOURS = sizeof colours / sizeof colours[0] };

typedef struct point {
    int x, y;
} point_t;

typedef struct drawing {
    const gln_topo_t *topo;
    const gln_topology_t *topology;
    int node;
    FILE *file;
    point_t at[DEVICES_MAX]; /* middle of each device */
} drawing_t;

static void text(FILE *file, int x, int y, const char *attributes, const char *words)
{
    fprintf(file, "<text x=\"%d\" y=\"%d\"%s%s>", x, y, attributes[0] ? " " : "", attributes);
    for (; *words; words++) {
        if (*words == '&')
            fputs("&amp;", file);
        else if (*words == '<')
            fputs("&lt;", file);
        else if (*words == '>')
            fputs("&gt;", file);
        else
            fputc(*words, file);
    }
    fputs("</text>\n", file);
}

static void box(FILE *file, int x, int y, int width, int height, const char *fill)
{
    fprintf(file,
            "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"3\" fill=\"%s\" "
            "stroke=\"#777\"/>\n",
            x, y, width, height, fill);
}

/* Cores after `first` that share its NUMA node and its L3 cache: the last of them. */
static int last_of_row(const gln_topology_t *topology, int first)
{
    int last = first, cores = gln_topology_cores(topology);
    while (last + 1 < cores &&
           gln_topology_core_numa(topology, last + 1) == gln_topology_core_numa(topology, first) &&
           gln_topology_core_l3(topology, last + 1) == gln_topology_core_l3(topology, first))
        last++;
    return last;
}

static int row_height(int cores)
{
    return LINE + (cores + ROW_CELLS - 1) / ROW_CELLS * CELL_HEIGHT + GAP;
}

static bool is_at(const gln_io_device_t *device, int numa, int package)
{
    return device->numa_node == numa && (numa >= 0 || device->package == package);
}

static int devices_height(const drawing_t *d, int numa, int package)
{
    int count = 0;
    for (int i = 0; i < gln_topology_devices(d->topology); i++)
        count += is_at(gln_topology_device(d->topology, i), numa, package);
    return count * (CELL_HEIGHT + 4);
}

static int numa_height(const drawing_t *d, int numa)
{
    int height = LINE + GAP + devices_height(d, numa, -1) + GAP;
    for (int first = 0; first < gln_topology_cores(d->topology); first++) {
        if (gln_topology_core_numa(d->topology, first) != numa) continue;
        int last = last_of_row(d->topology, first);
        height += row_height(last - first + 1) + 4;
        first = last;
    }
    return height;
}

static void draw_row(const drawing_t *d, int first, int last, int x, int y)
{
    char words[64];
    int l3 = gln_topology_core_l3(d->topology, first);
    box(d->file, x, y, NUMA_WIDTH - 2 * GAP, row_height(last - first + 1), "#fafafa");
    if (l3 >= 0)
        snprintf(words, sizeof words, "L3 %d: cores %d-%d", l3, first, last);
    else
        snprintf(words, sizeof words, "cores %d-%d", first, last);
    text(d->file, x + GAP, y + 12, "class=\"small\"", words);
    for (int core = first; core <= last; core++) {
        int rank = gln_topo_rank_on(d->topo, d->node, core), at = core - first;
        int left = x + GAP + at % ROW_CELLS * CELL_WIDTH;
        int top = y + LINE + at / ROW_CELLS * CELL_HEIGHT;
        box(d->file, left, top, CELL_WIDTH - 2, CELL_HEIGHT - 2,
            rank >= 0    ? colours[rank % COLOURS]
            : rank == -1 ? "#fff"
                         : "#ddd");
        snprintf(words, sizeof words, "%d", rank);
        if (rank != -1)
            text(d->file, left + CELL_WIDTH / 2 - 1, top + 12, "class=\"cell\"",
                 rank >= 0 ? words : "*");
    }
}

/* The first rank that uses a device; -1: none. */
static int user_of(const drawing_t *d, int device)
{
    const gln_hierarchy_t *h = d->topo->hierarchy;
    for (int i = 0; i < gln_hierarchy_ranks_on_node(h, d->node); i++) {
        int rank = gln_hierarchy_rank_on_node(h, d->node, i);
        if (d->topo->ranks[rank].device == device) return rank;
    }
    return -1;
}

static void draw_devices(drawing_t *d, int numa, int package, int x, int y)
{
    for (int i = 0; i < gln_topology_devices(d->topology); i++) {
        const gln_io_device_t *device = gln_topology_device(d->topology, i);
        if (!is_at(device, numa, package)) continue;
        char words[160];
        int rank = user_of(d, i), width = NUMA_WIDTH - 2 * GAP;
        box(d->file, x, y, width, CELL_HEIGHT,
            rank >= 0                    ? colours[rank % COLOURS]
            : device->kind == GLN_IO_GPU ? "#eee"
                                         : "#fff8e0");
        snprintf(words, sizeof words, "%s %s  %s", device->kind == GLN_IO_GPU ? "GPU" : "NIC",
                 device->name, strcmp(device->name, device->bus_id) ? device->bus_id : "");
        text(d->file, x + GAP, y + 13, "class=\"small\"", words);
        if (i < DEVICES_MAX) d->at[i] = (point_t){x + width - GAP, y + CELL_HEIGHT / 2};
        y += CELL_HEIGHT + 4;
    }
}

static void draw_numa(drawing_t *d, int numa, int x, int y, int height)
{
    char words[64];
    box(d->file, x, y, NUMA_WIDTH, height, "#eef3ee");
    snprintf(words, sizeof words, "NUMA node %d", numa);
    text(d->file, x + GAP, y + 14, "", words);
    y += LINE + GAP;
    for (int first = 0; first < gln_topology_cores(d->topology); first++) {
        if (gln_topology_core_numa(d->topology, first) != numa) continue;
        int last = last_of_row(d->topology, first);
        draw_row(d, first, last, x + GAP, y);
        y += row_height(last - first + 1) + 4;
        first = last;
    }
    draw_devices(d, numa, -1, x + GAP, y);
}

/* NUMA nodes of a package in rows, each as high as its highest; package -1: those of none. With
 * `draw` false only sizes. @return the size */
static point_t lay_package(drawing_t *d, int package, int x, int y, bool draw)
{
    int column = 0, widest = 0, row = 0, top = y;
    int row_of[COLUMNS];
    for (int numa = 0; numa < gln_topology_numa_nodes(d->topology); numa++) {
        if (gln_topology_numa_package(d->topology, numa) != package) continue;
        int height = numa_height(d, numa);
        if (height > row) row = height;
        row_of[column++] = numa;
        if (column > widest) widest = column;
        bool is_full = column == COLUMNS;
        for (int next = numa + 1; !is_full && next <= gln_topology_numa_nodes(d->topology); next++)
            if (next == gln_topology_numa_nodes(d->topology))
                is_full = true;
            else if (gln_topology_numa_package(d->topology, next) == package)
                break;
        if (!is_full) continue;
        for (int i = 0; draw && i < column; i++)
            draw_numa(d, row_of[i], x + i * (NUMA_WIDTH + GAP), top, row);
        top += row + GAP;
        column = row = 0;
    }
    int extra = devices_height(d, -1, package);
    if (extra > 0 && widest == 0) widest = 1;
    if (draw) draw_devices(d, -1, package, x, top);
    return (point_t){widest * (NUMA_WIDTH + GAP), top + extra - y};
}

static void draw_links(const drawing_t *d, int x, int *y)
{
    int gpus = gln_topology_gpus(d->topology);
    unsigned long most = 0, least = 0;
    if (gpus > DEVICES_MAX) gpus = DEVICES_MAX;
    for (int a = 0; a < gpus; a++)
        for (int b = 0; b < gpus; b++) {
            unsigned long mbps = gln_topology_link_mbps(d->topology, a, b);
            if (mbps > most) most = mbps;
            if (mbps > 0 && (least == 0 || mbps < least)) least = mbps;
        }
    if (most == 0) return;
    for (int a = 0; a < gpus; a++)
        for (int b = a + 1; b < gpus; b++) {
            unsigned long mbps = gln_topology_link_mbps(d->topology, a, b);
            point_t p = d->at[a], q = d->at[b];
            if (mbps == 0) continue;
            fprintf(d->file,
                    "<path d=\"M %d %d Q %d %d %d %d\" fill=\"none\" stroke=\"#2f8f4e\" "
                    "stroke-opacity=\"0.35\" stroke-width=\"%.1f\"/>\n",
                    p.x, p.y, (p.x + q.x) / 2 + 30, (p.y + q.y) / 2 + 30, q.x, q.y,
                    0.8 + 2.2 * (double)mbps / (double)most);
        }
    char words[128];
    if (least == most)
        snprintf(words, sizeof words, "curves: links between GPUs, %.0f GB/s", (double)most / 1000);
    else
        snprintf(words, sizeof words, "curves: links between GPUs, %.0f to %.0f GB/s",
                 (double)least / 1000, (double)most / 1000);
    text(d->file, x, *y + 12, "class=\"small\"", words);
    *y += LINE;
}

/* @return the size of the node's picture; drawn at (x, y) */
static point_t draw_node(const gln_topo_t *topo, int node, int x, int y, FILE *file)
{
    drawing_t d = {.topo = topo, .topology = topo->nodes[node], .node = node, .file = file};
    char summary[256], words[512];
    int first = gln_hierarchy_rank_on_node(topo->hierarchy, node, 0), top = y + LINE + GAP;
    int widest = 0;
    gln_topology_summary(d.topology, summary, sizeof summary);
    snprintf(words, sizeof words, "node %d  %s: %s", node, topo->ranks[first].host, summary);
    text(file, x, y + 14, "class=\"title\"", words);
    for (int package = -1; package < gln_topology_packages(d.topology); package++) {
        point_t size = lay_package(&d, package, 0, 0, false);
        if (size.y == 0) continue;
        int frame = package >= 0 ? LINE + 2 * GAP : 0;
        if (package >= 0 && size.x < PACKAGE_WIDTH_MIN) size.x = PACKAGE_WIDTH_MIN;
        if (package >= 0) {
            box(file, x, top, size.x + GAP, size.y + frame, "#f4f4f8");
            snprintf(words, sizeof words, "package %d  %s", package,
                     gln_topology_cpu(d.topology, package));
            text(file, x + GAP, top + 15, "", words);
        }
        lay_package(&d, package, x + GAP, top + (frame ? LINE + GAP : 0), true);
        top += size.y + frame + GAP;
        if (size.x + 2 * GAP > widest) widest = size.x + 2 * GAP;
    }
    draw_links(&d, x, &top);
    return (point_t){widest, top - y};
}

static int draw_ranks(const gln_topo_t *topo, int x, int y, FILE *file)
{
    int listed = topo->ranks_count < RANKS_LISTED ? topo->ranks_count : RANKS_LISTED;
    for (int r = 0; r < listed; r++) {
        const gln_topo_rank_t *rank = &topo->ranks[r];
        int node = gln_hierarchy_node(topo->hierarchy, r);
        char cores[128], share[128], words[512];
        gln_topo_cores_text(rank, cores, sizeof cores);
        gln_topo_share_text(topo, r, share, sizeof share);
        snprintf(words, sizeof words, "rank %d: node %d, %s%s%s%s%s%s", r, node, cores,
                 rank->bound ? "" : " (not bound)", rank->device >= 0 ? ", GPU " : "",
                 rank->device >= 0 ? gln_topology_device(topo->nodes[node], rank->device)->name
                                   : "",
                 share[0] ? ", " : "", share);
        box(file, x, y + 3, 12, 12, colours[r % COLOURS]);
        text(file, x + 20, y + 13, "class=\"small\"", words);
        y += LINE;
    }
    return y;
}

static bool is_drawn(const gln_topo_t *topo, int node)
{
    if (topo->nodes_count <= NODES_DRAWN) return true;
    for (int before = 0; before < node; before++)
        if (topo->nodes[before] == topo->nodes[node]) return false;
    return true;
}

/* Everything but the frame, whose size is known only then. */
static point_t draw(const gln_topo_t *topo, FILE *file)
{
    char words[512];
    int y = GAP, width = 640;
    snprintf(words, sizeof words, "%s%s%s", topo->source, topo->plan[0] ? ": " : "", topo->plan);
    text(file, GAP, y + 14, "class=\"title\"", words);
    y += LINE + GAP;
    for (int node = 0; node < topo->nodes_count; node++) {
        if (!is_drawn(topo, node)) continue;
        point_t size = draw_node(topo, node, GAP, y, file);
        if (size.x + 2 * GAP > width) width = size.x + 2 * GAP;
        y += size.y + GAP;
    }
    return (point_t){width, draw_ranks(topo, GAP, y, file) + GAP};
}

static gln_status_t write_file(const char *path, point_t size, const char *body)
{
    FILE *file = fopen(path, "w");
    if (!file) return gln_fail(GLN_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
            "<style>.title{font-weight:bold}.small{font-size:11px}"
            ".cell{font-size:11px;text-anchor:middle}</style>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n%s</svg>\n",
            size.x, size.y, size.x, size.y, body);
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        return gln_fail(GLN_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    return GLN_OK;
}

gln_status_t gln_topo_write_svg(const gln_topo_t *topo, const char *path)
{
    char *body = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&body, &bytes);
    if (!memory) return gln_fail(GLN_ERR_MEMORY, "%s: out of memory", path);
    point_t size = draw(topo, memory);
    gln_status_t status = fclose(memory) == 0 ? write_file(path, size, body)
                                              : gln_fail(GLN_ERR_MEMORY, "%s: out of memory", path);
    free(body);
    return status;
}
