#include "base/log.h"
#include "cluster/topology.h"
#include <criterion/criterion.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

Test(topology, counts_of_synthetic_machines)
{
    const struct {
        const char *description;
        int packages, numa_nodes, cores, pus;
    } machines[] = {
        {"package:1 numa:1 core:2 pu:1", 1, 1, 2, 2},
        {"package:2 numa:1 core:4 pu:2", 2, 2, 8, 16},
        {"package:2 numa:4 core:16 pu:1", 2, 8, 128, 128},
        {"package:3 pu:5", 3, 1, 15, 15}, /* tells of no cores and no NUMA nodes */
    };
    for (int i = 0; i < 4; i++) {
        gln_topology_t *topology = NULL;
        cr_assert_eq(gln_topology_open_synthetic(machines[i].description, &topology), GLN_OK);
        cr_assert_eq(gln_topology_packages(topology), machines[i].packages);
        cr_assert_eq(gln_topology_numa_nodes(topology), machines[i].numa_nodes);
        cr_assert_eq(gln_topology_cores(topology), machines[i].cores);
        cr_assert_eq(gln_topology_pus(topology), machines[i].pus);
        cr_assert_eq(gln_topology_allowed_cores(topology), machines[i].cores);
        gln_topology_close(topology);
    }
}

Test(topology, synthetic_machines_in_words)
{
    const struct {
        const char *description, *summary, *binding;
    } machines[] = {
        {"package:1 numa:1 core:1 pu:1", "1 package, 1 NUMA node, 1 core, 1 PU",
         "core 0 (not bound)"},
        {"package:2 numa:1 core:4 pu:2", "2 packages, 2 NUMA nodes, 8 cores, 16 PUs",
         "cores 0-7 (not bound)"},
    };
    for (int i = 0; i < 2; i++) {
        gln_topology_t *topology = NULL;
        char text[256];
        cr_assert_eq(gln_topology_open_synthetic(machines[i].description, &topology), GLN_OK);
        gln_topology_summary(topology, text, sizeof text);
        cr_assert_str_eq(text, machines[i].summary);
        gln_topology_binding(topology, text, sizeof text);
        cr_assert_str_eq(text, machines[i].binding);
        gln_topology_close(topology);
    }
}

Test(topology, words_are_cut_to_the_place_they_get)
{
    gln_topology_t *topology = NULL;
    char text[16];
    cr_assert_eq(gln_topology_open_synthetic("package:2 numa:1 core:4 pu:2", &topology), GLN_OK);
    for (size_t size = 1; size <= 10; size++) {
        memset(text, '#', sizeof text);
        gln_topology_summary(topology, text, size);
        cr_assert_eq(strlen(text), size - 1);
        cr_assert_eq(text[size], '#');
        memset(text, '#', sizeof text);
        gln_topology_binding(topology, text, size);
        cr_assert_eq(strlen(text), size - 1);
        cr_assert_eq(text[size], '#');
        memset(text, '#', sizeof text);
        gln_cpu_features(text, size);
        cr_assert_lt(strlen(text), size);
        cr_assert_eq(text[size], '#');
    }
    gln_topology_close(topology);
}

Test(topology, bad_descriptions_are_refused_with_their_text)
{
    gln_topology_t *topology = NULL;
    cr_assert_eq(gln_topology_open_synthetic("package:two", &topology), GLN_ERR_CONFIG);
    cr_assert(strstr(gln_last_error(), "found \"package:two\""));
    cr_assert_eq(gln_topology_open_synthetic("", &topology), GLN_ERR_CONFIG);
    cr_assert_eq(gln_topology_open_synthetic(NULL, &topology), GLN_ERR_ARGUMENT);
    cr_assert_null(topology);
    cr_assert_eq(gln_topology_open_synthetic("pu:1", NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_topology_open(NULL), GLN_ERR_ARGUMENT);
    gln_topology_close(NULL);
}

Test(topology, this_machine_is_consistent)
{
    gln_topology_t *topology = NULL;
    char text[256], features[128];
    cr_assert_eq(gln_topology_open(&topology), GLN_OK);
    cr_assert_geq(gln_topology_packages(topology), 1);
    cr_assert_geq(gln_topology_numa_nodes(topology), 1);
    cr_assert_geq(gln_topology_pus(topology), gln_topology_cores(topology));
    cr_assert_geq(gln_topology_allowed_cores(topology), 1);
    cr_assert_leq(gln_topology_allowed_cores(topology), gln_topology_cores(topology));
    gln_cpu_features(features, sizeof features);
    cr_assert_gt(strlen(features), 0);
    gln_topology_summary(topology, text, sizeof text);
    cr_assert(strstr(text, features), "%s", text);
    cr_log_info("%s", text);
    gln_topology_close(topology);
}

/* Bind this thread to one CPU after another and see it. */
Test(topology, a_bound_thread_is_seen_as_such)
{
    gln_topology_t *topology = NULL;
    char text[256], wanted[64];
    cr_assert_eq(gln_topology_open(&topology), GLN_OK);
    if (gln_topology_cores(topology) < 2 ||
        gln_topology_pus(topology) != gln_topology_cores(topology))
        cr_skip_test("needs several cores of one hardware thread each");
    cpu_set_t before;
    cr_assert_eq(sched_getaffinity(0, sizeof before, &before), 0);
    int core = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &before)) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        cr_assert_eq(sched_setaffinity(0, sizeof one, &one), 0);
        cr_assert_eq(gln_topology_allowed_cores(topology), 1);
        gln_topology_binding(topology, text, sizeof text);
        snprintf(wanted, sizeof wanted, "core %d", core);
        if (CPU_COUNT(&before) == gln_topology_cores(topology)) cr_assert_str_eq(text, wanted);
        core++;
    }
    cr_assert_eq(sched_setaffinity(0, sizeof before, &before), 0);
    cr_assert_eq(gln_topology_allowed_cores(topology), CPU_COUNT(&before));
    gln_topology_close(topology);
}
