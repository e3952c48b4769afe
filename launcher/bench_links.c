/* `gleaner bench links`: the table by which the exchange chooses its form between nodes. */
#include "launcher/command.h"

#include "base/log.h"
#include "comm/links.h"
#include "comm/units.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/session.h"

static json_t *link_json(const gln_link_t *link)
{
    if (link->points == 0) return json_null();
    json_t *points = json_array();
    for (int p = 0; p < link->points; p++) {
        json_t *point = json_pack("{s:i, s:I}", "messages", gln_links_messages[p], "bytes",
                                  (json_int_t)gln_links_bytes[p]);
        json_object_set_new(point, "seconds", gln_figures_real(link->seconds[p]));
        json_array_append_new(points, point);
    }
    json_t *object = json_object();
    json_object_set_new(object, "latency_seconds", gln_figures_real(link->latency));
    json_object_set_new(object, "gap_seconds", gln_figures_real(link->gap));
    json_object_set_new(object, "bytes_per_second", gln_figures_real(1 / link->byte));
    json_object_set_new(object, "points", points);
    return object;
}

static gln_status_t print_json(const gln_session_t *session, const gln_links_t *links)
{
    json_t *object = json_pack("{s:s, s:i, s:i}", "bench", "links", "ranks", session->ranks,
                               "nodes", gln_comm_nodes_count(session->comm));
    json_object_set_new(object, "seconds", gln_figures_real(links->seconds));
    json_object_set_new(object, "copy_bytes_per_second", gln_figures_real(1 / links->copy_byte));
    json_object_set_new(object, "inside", link_json(&links->inside));
    json_object_set_new(object, "between", link_json(&links->between));
    return gln_figures_print(object, stdout, "standard output");
}

static void print_row(const char *name, const gln_links_t *links, double inside, double between,
                      void (*text)(double, char *))
{
    char columns[2][16] = {"-", "-"};
    if (links->inside.points > 0 && inside >= 0) text(inside, columns[0]);
    if (links->between.points > 0 && between >= 0) text(between, columns[1]);
    printf("%-22s %14s %14s\n", name, columns[0], columns[1]);
}

static void print(const gln_session_t *session, const gln_machine_t *machine,
                  const gln_links_t *links)
{
    const gln_link_t *inside = &links->inside, *between = &links->between;
    char text[16], name[48];
    gln_seconds_text(links->seconds, text);
    printf("messages of %d rank%s on %d node%s; all ranks of a node send at once; measured in %s\n",
           session->ranks, session->ranks == 1 ? "" : "s", machine->nodes,
           machine->nodes == 1 ? "" : "s", text);
    printf("%s\n\n%-22s %14s %14s\n", machine->summary, "each rank sends", "inside a node",
           "between nodes");
    for (int p = 0; p < GLN_LINKS_POINTS; p++) {
        gln_bytes_text((double)gln_links_bytes[p], text);
        snprintf(name, sizeof name, "%d x %s", gln_links_messages[p], text);
        print_row(name, links, p < inside->points ? inside->seconds[p] : -1,
                  p < between->points ? between->seconds[p] : -1, gln_seconds_text);
    }
    printf("\n");
    print_row("latency", links, inside->latency, between->latency, gln_seconds_text);
    print_row("each further message", links, inside->gap, between->gap, gln_seconds_text);
    print_row("bandwidth of a rank", links, inside->byte, between->byte, gln_rate_text);
    gln_rate_text(links->copy_byte, text);
    printf("%-22s %14s\n", "copy within a rank", text);
}

static gln_status_t bench(const gln_arguments_t *arguments, gln_session_t *session)
{
    gln_machine_t machine;
    const gln_links_t *links = NULL;
    gln_status_t status = gln_session_agree(session, gln_machine_look(session->comm, 1, &machine));
    session->working = true;
    if (status == GLN_OK)
        status = gln_session_agree(session, gln_comm_links(session->comm, &links));
    if (status != GLN_OK || session->rank != 0) return status;
    if (arguments->given[GLN_OPTION_JSON]) return print_json(session, links);
    print(session, &machine, links);
    return GLN_OK;
}

int gln_command_bench_links(const gln_arguments_t *arguments)
{
    gln_session_t session;
    gln_session_start(&session);
    gln_status_t status = gln_session_join(&session);
    if (status == GLN_OK) status = bench(arguments, &session);
    return gln_session_leave(&session, status);
}
