/* gln_handoff: partners see each other's memory, and a counter goes to and fro without anybody
 * getting ahead. RANKS: 1 2 3 4 */
#include "comm/handoff.h"

#include "comm/comm_internal.h"
#include "tests/ranks/comm/check.h"

enum { bytes = 1000, turns = 50 };

/* Written before a bounce, seen after it. */
static void partners(gln_comm_t *comm, int expected)
{
    gln_handoff_t *h = NULL;
    CHECK_OK(gln_handoff_open(comm, bytes, &h));
    int rank = gln_comm_rank(comm);
    CHECK(gln_handoff_has_partner(h) == expected, "rank %d", rank);
    CHECK(!gln_handoff_own(h) == !expected && !gln_handoff_partner(h) == !expected);
    for (int i = 1; i <= turns && expected; i++) {
        memset(gln_handoff_own(h), 100 * (rank & 1) + i, bytes);
        CHECK_OK(gln_handoff_bounce(h, 1));
        /* the even one has the odd one's answer; the odd one answered what was written before */
        const char *theirs = gln_handoff_partner(h);
        for (int k = 0; k < bytes; k++)
            CHECK(theirs[k] == (char)(100 * (~rank & 1) + i), "turn %d, byte %d", i, k);
        CHECK_OK(gln_handoff_bounce(h, 1)); /* both have looked */
    }
    CHECK_OK(gln_handoff_bounce(h, turns));
    gln_handoff_close(h);
}

int main(void)
{
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_world(&comm));
    int rank = gln_comm_rank(comm), ranks = gln_comm_size(comm);
    partners(comm, (rank ^ 1) < ranks);
    gln_handoff_close(NULL);
    if (ranks > 1) { /* every rank a node of its own */
        int nodes[8];
        for (int r = 0; r < ranks; r++)
            nodes[r] = r;
        gln_comm_set_nodes(comm, nodes, ranks);
        partners(comm, 0);
    }
    gln_comm_close(comm);
    if (rank == 0) printf("ok\n");
    return 0;
}
