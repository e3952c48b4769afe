/* `gleaner info`: version, build, machine and job. */
#include "launcher/command.h"

#include "launcher/bind.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "moe/gleaner.h"
#include <stdlib.h>
#include <unistd.h>

#ifdef GLN_SANITIZED
static const char build[] = "sanitizers";
#elif defined(__OPTIMIZE__)
static const char build[] = "optimized";
#else
static const char build[] = "not optimized";
#endif

typedef struct rank_line {
    char host[64], binding[128], bind[160];
    int node, threads;
} rank_line_t;

static gln_status_t print_json(const gln_machine_t *m, const rank_line_t *all, int ranks)
{
    json_t *lines = json_array();
    for (int r = 0; r < ranks; r++)
        json_array_append_new(lines,
                              json_pack("{s:i, s:i, s:s, s:s, s:i, s:s}", "rank", r, "node",
                                        all[r].node, "host", all[r].host, "binding", all[r].binding,
                                        "threads", all[r].threads, "bind", all[r].bind));
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:o}", "version", gln_version(), "build", build,
        "compiler", __VERSION__, "machine", m->summary, "cpu_features", m->features,
        "cores_allowed", m->cores_allowed, "ranks", m->ranks, "nodes", m->nodes, "rank", lines);
    return gln_figures_print(object, stdout, "standard output");
}

static void print(const gln_machine_t *m, const rank_line_t *all, int ranks)
{
    printf("gleaner  %s, %s build, gcc %s\n", gln_version(), build, __VERSION__);
    printf("machine  %s\nCPU      %s\n", m->summary, m->features);
    printf("job      %d rank%s on %d node%s\n", m->ranks, m->ranks == 1 ? "" : "s", m->nodes,
           m->nodes == 1 ? "" : "s");
    for (int r = 0; r < ranks; r++)
        printf("rank %-3d node %d (%s), %s, %d thread%s; parallel.bind auto: %s\n", r, all[r].node,
               all[r].host, all[r].binding, all[r].threads, all[r].threads == 1 ? "" : "s",
               all[r].bind);
}

static gln_status_t tell(gln_session_t *session, bool json)
{
    gln_machine_t machine;
    gln_bind_t bind;
    rank_line_t mine = {0};
    gln_status_t status = gln_session_agree(session, gln_machine_look(session->comm, 0, &machine));
    if (status != GLN_OK) return status;
    status = gln_session_agree(session, gln_bind_ranks(session->comm, 0, false, &bind));
    if (status != GLN_OK) return status;
    gethostname(mine.host, sizeof mine.host - 1);
    snprintf(mine.binding, sizeof mine.binding, "%s", machine.binding);
    snprintf(mine.bind, sizeof mine.bind, "%s", bind.mine.text);
    mine.node = gln_comm_node_of(session->comm, session->rank);
    mine.threads = machine.threads;
    rank_line_t *all = calloc((size_t)session->ranks, sizeof *all);
    status = gln_session_agree(session, all ? GLN_OK : GLN_ERR_MEMORY);
    if (status == GLN_OK) status = gln_comm_allgather(session->comm, &mine, sizeof mine, all);
    if (status == GLN_OK && session->rank == 0) {
        if (json)
            status = print_json(&machine, all, session->ranks);
        else
            print(&machine, all, session->ranks);
    }
    free(all);
    return gln_session_agree(session, status);
}

int gln_command_info(const gln_arguments_t *arguments)
{
    gln_session_t session;
    gln_session_start(&session);
    gln_status_t status = gln_session_join(&session);
    if (status == GLN_OK) status = tell(&session, arguments->given[GLN_OPTION_JSON]);
    return gln_session_leave(&session, status);
}
