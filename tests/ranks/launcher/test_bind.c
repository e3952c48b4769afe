/* Binding the ranks of a job on one machine.
 * RANKS: 1 2 4 */
#include "launcher/bind.h"

#include "base/log.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "rank %d, line %d: %s: \"%s\"\n", rank, __LINE__, #condition, \
                    gln_last_error());                                                    \
            gln_comm_abort(comm, 1);                                                      \
        }                                                                                 \
    } while (0)

static cpu_set_t mask(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    return set;
}

static void set_mask(const cpu_set_t *set)
{
    sched_setaffinity(0, sizeof *set, set);
}

/* Ranks of one machine, however they were started. */
static void check_machine(gln_comm_t *comm, int rank, int ranks)
{
    int local, count;
    bool alike;
    CHECK(gln_bind_machine(comm, &local, &count, &alike) == GLN_OK);
    CHECK(local == rank && count == ranks && alike);
}

/* What is only said is not done. */
static void check_said(gln_comm_t *comm, int rank, const cpu_set_t *before, gln_bind_t *said)
{
    CHECK(gln_bind_ranks(comm, 0, false, said) == GLN_OK);
    cpu_set_t now = mask();
    CHECK(CPU_EQUAL(&now, before));
    CHECK(said->ranks == gln_comm_size(comm));
}

/* Bound ranks share no core, and all cores are used. */
static void check_done(gln_comm_t *comm, int rank, const cpu_set_t *before)
{
    int ranks = gln_comm_size(comm), shared = 0;
    gln_bind_t done;
    CHECK(gln_bind_ranks(comm, 0, true, &done) == GLN_OK);
    if (done.mine.state == GLN_BINDING_REFUSED) return;
    CHECK(done.mine.state == GLN_BINDING_DONE && done.bound == ranks);
    cpu_set_t now = mask(), sum, both, *all = calloc((size_t)ranks, sizeof *all);
    CHECK(all && gln_comm_allgather(comm, &now, sizeof now, all) == GLN_OK);
    CPU_ZERO(&sum);
    for (int r = 0; r < ranks; r++) {
        CPU_AND(&both, &sum, &all[r]);
        shared += CPU_COUNT(&both);
        CPU_OR(&sum, &sum, &all[r]);
    }
    CHECK(shared == 0 && CPU_EQUAL(&sum, before));
    free(all);
    /* once bound, they stay */
    CHECK(gln_bind_ranks(comm, 0, true, &done) == GLN_OK);
    CHECK(done.mine.state == GLN_BINDING_FOUND && done.bound == 0);
    cpu_set_t again = mask();
    CHECK(CPU_EQUAL(&again, &now));
    set_mask(before);
}

/* One rank was started on one core alone: the others keep off binding too. */
static void check_unlike(gln_comm_t *comm, int rank, const cpu_set_t *before)
{
    gln_bind_t bind;
    cpu_set_t one = *before;
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && CPU_COUNT(&one) > 1; cpu--)
        CPU_CLR(cpu, &one);
    if (rank == 0) set_mask(&one);
    CHECK(gln_bind_ranks(comm, 0, true, &bind) == GLN_OK);
    CHECK(bind.bound == 0);
    CHECK(bind.mine.state == (rank == 0 ? GLN_BINDING_FOUND : GLN_BINDING_LEFT));
    if (rank > 0) CHECK(strstr(bind.mine.text, "started on other cores"));
    if (rank == 0) set_mask(before);
}

int main(void)
{
    gln_comm_t *comm = NULL;
    if (gln_comm_open_world(&comm) != GLN_OK) return 1;
    int rank = gln_comm_rank(comm), ranks = gln_comm_size(comm);
    cpu_set_t before = mask();
    gln_bind_t said;
    gln_topology_t *topology = NULL;
    CHECK(gln_topology_open(&topology) == GLN_OK);
    int cores = gln_topology_cores(topology);
    bool is_bound = gln_topology_is_bound(topology);
    gln_topology_close(topology);
    if (is_bound || cores < 2) {
        if (rank == 0) printf("skipped: needs two cores that ranks are free to use\n");
        gln_comm_close(comm);
        return 77;
    }
    check_machine(comm, rank, ranks);
    check_said(comm, rank, &before, &said);
    if (ranks == 1) {
        CHECK(said.mine.state == GLN_BINDING_WHOLE && said.bound == 0);
    } else if (ranks > cores) {
        CHECK(said.mine.state == GLN_BINDING_LEFT && strstr(said.mine.text, "share"));
    } else {
        CHECK(said.mine.state == GLN_BINDING_DONE && said.bound == ranks);
        CHECK(gln_bind_ranks(comm, cores + 1, true, &said) == GLN_OK); /* too many threads */
        CHECK(said.mine.state == GLN_BINDING_LEFT && strstr(said.mine.text, "threads asked for"));
        check_done(comm, rank, &before);
        check_unlike(comm, rank, &before);
    }
    gln_comm_barrier(comm);
    gln_comm_close(comm);
    if (rank == 0) printf("ok\n");
    return 0;
}
