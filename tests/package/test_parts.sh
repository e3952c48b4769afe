#!/bin/bash
# Every part by itself, from its own installed header: the router without MPI, in C++; the exchange over a communicator
# of the caller's and over its half; topology and placement.
. "$(dirname "$0")/common.sh" "$@"
export PKG_CONFIG_PATH=$libdir/pkgconfig
flags=($(pkg-config --cflags gleaner))
link=($(pkg-config --libs gleaner) "-Wl,-rpath,$libdir")
cd "$work" || exit 1

cat >router.cpp <<'END'
#include <gleaner/router/router.h>
#include <cstdio>
int main()
{
    gln_pool_t *pool = nullptr;
    gln_router_t *router = nullptr;
    gln_plan_t *plan = nullptr;
    gln_router_options_t o = {};
    gln_router_shape_t shape = {};
    gln_route_input_t in = {};
    float logits[6 * 4];
    o.k = 1, o.capacity_factor = 1, o.rectify = 1;
    shape.tokens = 6, shape.experts = 4, shape.per_domain = 4;
    for (int i = 0; i < 24; i++)
        logits[i] = i % 4 == 2 ? 1.0f : 0.01f * (float)i;
    in.logits = logits;
    if (gln_pool_open(1, &pool) || gln_router_open(&o, &shape, pool, &router) || gln_plan_open(router, &plan) ||
        gln_router_route(router, &in, plan) || gln_ledger_check(&plan->ledger, "here"))
        return std::puts(gln_last_error()), 1;
    std::printf("%d routed, %d dropped\n", (int)plan->ledger.routed, (int)plan->ledger.dropped);
    gln_plan_close(plan);
    gln_router_close(router);
    gln_pool_close(pool);
    /* bad input: a status and a message */
    o.k = 5;
    return gln_router_open(&o, &shape, pool, &router) == GLN_ERR_ARGUMENT && gln_last_error()[0] ? 0 : 1;
}
END
sed -i '2i #include <gleaner/base/log.h>' router.cpp
cat >exchange.c <<'END'
#include <gleaner/comm/exchange.h>
#include <gleaner/base/log.h>
#include <mpi.h>
#include <stdio.h>
/* every rank sends its only token to the next one, which doubles it */
int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm mine;
    int rank, ranks;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank / 2, 0, &mine);
    MPI_Comm_rank(mine, &rank);
    MPI_Comm_size(mine, &ranks);
    gln_comm_t *comm = NULL;
    gln_exchange_t *x = NULL;
    gln_exchange_options_t o = {.domains = ranks, .tokens = 1, .hidden = 2, .rows_max = 1};
    int32_t rows[2] = {0, 0}, none[2] = {0, 0}, token = 0;
    float in[2] = {(float)rank, 1}, out[4], back[2];
    gln_exchange_received_t got;
    rows[(rank + 1) % ranks] = 1;
    const gln_exchange_send_t send = {rows, &token, none, none, NULL};
    if (gln_comm_open_mpi(&mine, &comm) || gln_exchange_open(comm, &o, &x) || gln_exchange_plan(x, &send, &got) ||
        gln_exchange_dispatch(x, in, out))
        return puts(gln_last_error()), 1;
    out[0] *= 2, out[1] *= 2;
    if (gln_exchange_combine(x, out, back) || back[0] != 2 * in[0] || back[1] != 2) return puts("wrong"), 1;
    /* a second user while one is at work */
    if (gln_exchange_dispatch_start(x, in, out) || gln_exchange_dispatch(x, in, out) != GLN_ERR_ARGUMENT ||
        gln_exchange_plan(x, &send, &got) != GLN_ERR_ARGUMENT || gln_exchange_dispatch_finish(x))
        return puts("two users"), 1;
    gln_exchange_close(x);
    x = NULL;
    o.domains = ranks + 1; /* a communicator of the wrong size */
    if (ranks > 1 && (gln_exchange_open(comm, &o, &x) != GLN_ERR_ARGUMENT || x)) return puts("wrong size"), 1;
    gln_comm_close(comm);
    MPI_Comm_free(&mine);
    MPI_Finalize();
    return 0;
}
END
cat >machine.c <<'END'
#include <gleaner/base/log.h>
#include <gleaner/cluster/placement.h>
#include <gleaner/cluster/topology.h>
#include <stdio.h>
int main(void)
{
    gln_topology_t *t = NULL, *none = NULL;
    const gln_placement_shape_t shape = {.domains = 2, .experts = 4, .nodes = 2};
    const int32_t source[2] = {0, 1}, expert[4] = {0, 2, 1, 3};
    const int64_t offset[3] = {0, 2, 4};
    const gln_placement_tokens_t tokens = {2, source, offset, expert};
    int32_t place[4];
    gln_placement_count_t count;
    if (gln_topology_open_synthetic("package:2 core:4 pu:1", &t) || gln_topology_cores(t) != 8) return puts("machine"), 1;
    gln_topology_close(t);
    if (gln_topology_open_synthetic("nonsense", &none) != GLN_ERR_CONFIG || !gln_last_error()[0]) return 1;
    if (gln_placement_choose(&shape, &tokens, NULL, place) || gln_placement_count(&shape, &tokens, place, &count))
        return puts(gln_last_error()), 1;
    return count.far_node_rows == 0 ? 0 : 1;
}
END
built() { # COMMAND...
    "$@" >log 2>&1 || {
        head -n 20 log
        fail "$* does not build"
    }
}
built g++ -std=c++17 -Wall -Wextra "${flags[@]}" -o router router.cpp "${link[@]}"
built gcc -std=c11 -Wall -Wextra "${flags[@]}" -o machine machine.c "${link[@]}"
built mpicc -std=c11 -Wall -Wextra "${flags[@]}" -o exchange exchange.c "${link[@]}"
[ "$(./router)" = "2 routed, 0 dropped" ] || fail "router: $(./router)"
./machine || fail "machine: exit status $?"
for ranks in 1 2 4; do
    timeout 60 mpirun -n $ranks ./exchange || fail "exchange on $ranks ranks"
done
finish
