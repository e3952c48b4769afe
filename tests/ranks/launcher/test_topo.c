/* What rank 0 learns of the machines of a job. Odd ranks are made to see another machine, by
 * hwloc's own variable, so that there are two kinds. RANKS: 1 2 4 */
#include "launcher/topo.h"

#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "rank %d, line %d: %s: \"%s\"\n", session.rank, __LINE__, #condition, \
                    gln_last_error());                                                            \
            gln_comm_abort(session.comm, 1);                                                      \
        }                                                                                         \
    } while (0)

static gln_session_t session;

static void check_odd(const gln_topo_t *topo, int rank)
{
    const gln_topo_rank_t *odd = &topo->ranks[rank];
    char text[64];
    gln_topo_cores_text(odd, text, sizeof text);
    CHECK(strcmp(text, "cores 0-7") == 0);
    CHECK(odd->place.numa_node == -1 && odd->place.package == -1 && !odd->bound);
    CHECK(odd->shape != topo->ranks[0].shape);
    CHECK(odd->shape == topo->ranks[1].shape);
}

/* On rank 0. One topology of each kind came, and is whole. */
static void check_picture(const gln_topo_t *topo)
{
    char *text = NULL;
    size_t size = 0;
    CHECK(topo->ranks_count == session.ranks && topo->nodes_count == 1);
    CHECK(topo->opened_count == (session.ranks > 1 ? 2 : 1));
    CHECK(topo->nodes[0] == topo->opened[0]);
    if (session.ranks > 1) {
        CHECK(gln_topology_packages(topo->opened[1]) == 2);
        CHECK(gln_topology_cores(topo->opened[1]) == 8);
    }
    for (int rank = 1; rank < session.ranks; rank += 2)
        check_odd(topo, rank);
    for (int rank = 0; rank < session.ranks; rank++) {
        CHECK(topo->ranks[rank].machine_ranks == session.ranks);
        CHECK(topo->ranks[rank].device == -1);
        CHECK(topo->ranks[rank].host[0] != 0);
    }
    FILE *out = open_memstream(&text, &size);
    CHECK(out && gln_topo_print_text(topo, out) == GLN_OK && fclose(out) == 0);
    CHECK(strstr(text, "node 0  ") && strstr(text, "ranks\n"));
    free(text);
}

int main(void)
{
    gln_topo_t topo = {0};
    gln_session_start(&session);
    if (gln_session_join(&session) != GLN_OK) return 1;
    if (session.rank % 2 == 1) setenv("HWLOC_SYNTHETIC", "package:2 numa:1 core:4 pu:1", 1);
    CHECK(gln_topo_look(&session, false, &topo) == GLN_OK);
    if (session.rank == 0) check_picture(&topo);
    if (session.rank == 0) printf("ok\n");
    gln_topo_close(&topo);
    return gln_session_leave(&session, GLN_OK);
}
