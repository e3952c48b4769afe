/* Cores of the machines of tests/data/topology; expectations by hand. */
#include "base/log.h"
#include "cluster/topology.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static void path_of(const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/topology/%s", GLN_TEST_DATA, name);
}

static gln_topology_t *open_file(const char *name)
{
    char path[512];
    gln_topology_t *topology = NULL;
    path_of(name, path, sizeof path);
    cr_assert_eq(gln_topology_open_xml(path, &topology), GLN_OK, "%s", gln_last_error());
    return topology;
}

Test(locality, counts_and_names)
{
    const struct {
        const char *file, *host, *cpu;
        int packages, numa_nodes, l3s, cores, pus;
    } machines[] = {
        {"xeon-2s.xml", "xeon01", "Intel(R) Xeon(R) Gold 6334 CPU @ 3.60GHz", 2, 2, 2, 16, 32},
        {"epyc-nps4.xml", "rome01", "AMD EPYC 7742 64-Core Processor", 1, 4, 8, 64, 64},
        {"gpu8-nvswitch.xml", "dgx01", "AMD EPYC 7742 64-Core Processor", 2, 8, 16, 32, 64},
        {"gpu4-nvlink.xml", "gpu4", "AMD EPYC 7763 64-Core Processor", 1, 4, 8, 32, 64},
        {"gpu2-nodriver.xml", "plain", "Intel(R) Xeon(R) Silver 4208 CPU @ 2.10GHz", 2, 2, 2, 8, 8},
    };
    for (int i = 0; i < 5; i++) {
        gln_topology_t *topology = open_file(machines[i].file);
        cr_assert_eq(gln_topology_packages(topology), machines[i].packages);
        cr_assert_eq(gln_topology_numa_nodes(topology), machines[i].numa_nodes);
        cr_assert_eq(gln_topology_l3s(topology), machines[i].l3s);
        cr_assert_eq(gln_topology_cores(topology), machines[i].cores);
        cr_assert_eq(gln_topology_pus(topology), machines[i].pus);
        cr_assert_str_eq(gln_topology_host(topology), machines[i].host);
        cr_assert_str_eq(gln_topology_cpu(topology, 0), machines[i].cpu);
        cr_assert(!gln_topology_is_bound(topology));
        gln_topology_close(topology);
    }
}

Test(locality, where_cores_are)
{
    const struct {
        const char *file;
        int core, package, numa_node, l3;
    } cores[] = {
        {"xeon-2s.xml", 7, 0, 0, 0},        {"xeon-2s.xml", 8, 1, 1, 1},
        {"epyc-nps4.xml", 7, 0, 0, 0},      {"epyc-nps4.xml", 8, 0, 0, 1},
        {"epyc-nps4.xml", 16, 0, 1, 2},     {"epyc-nps4.xml", 63, 0, 3, 7},
        {"gpu8-nvswitch.xml", 13, 0, 3, 6}, {"gpu8-nvswitch.xml", 16, 1, 4, 8},
    };
    for (size_t i = 0; i < sizeof cores / sizeof cores[0]; i++) {
        gln_topology_t *topology = open_file(cores[i].file);
        cr_assert_eq(gln_topology_core_package(topology, cores[i].core), cores[i].package);
        cr_assert_eq(gln_topology_core_numa(topology, cores[i].core), cores[i].numa_node);
        cr_assert_eq(gln_topology_core_l3(topology, cores[i].core), cores[i].l3);
        cr_assert(gln_topology_core_allowed(topology, cores[i].core));
        cr_assert_eq(gln_topology_numa_package(topology, cores[i].numa_node), cores[i].package);
        gln_topology_close(topology);
    }
}

Test(locality, distances_between_cores)
{
    const struct {
        const char *file;
        int a, b;
        gln_distance_t distance;
    } pairs[] = {
        {"xeon-2s.xml", 3, 3, GLN_DISTANCE_SAME},
        {"xeon-2s.xml", 0, 7, GLN_DISTANCE_CLOSE},
        {"xeon-2s.xml", 7, 8, GLN_DISTANCE_MACHINE},
        {"epyc-nps4.xml", 0, 7, GLN_DISTANCE_CLOSE},
        {"epyc-nps4.xml", 0, 8, GLN_DISTANCE_NUMA},
        {"epyc-nps4.xml", 0, 16, GLN_DISTANCE_PACKAGE},
        {"gpu8-nvswitch.xml", 12, 14, GLN_DISTANCE_NUMA},
        {"gpu8-nvswitch.xml", 12, 11, GLN_DISTANCE_PACKAGE},
        {"gpu8-nvswitch.xml", 15, 16, GLN_DISTANCE_MACHINE},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        gln_topology_t *topology = open_file(pairs[i].file);
        cr_assert_eq(gln_topology_core_distance(topology, pairs[i].a, pairs[i].b),
                     pairs[i].distance);
        cr_assert_eq(gln_topology_core_distance(topology, pairs[i].b, pairs[i].a),
                     pairs[i].distance);
        gln_topology_close(topology);
    }
}

Test(locality, a_machine_that_tells_little)
{
    gln_topology_t *topology = NULL;
    cr_assert_eq(gln_topology_open_synthetic("pu:4", &topology), GLN_OK);
    cr_assert_eq(gln_topology_l3s(topology), 0);
    cr_assert_eq(gln_topology_core_l3(topology, 3), -1);
    cr_assert_eq(gln_topology_core_package(topology, 3), 0);
    cr_assert_eq(gln_topology_core_numa(topology, 3), 0);
    cr_assert_eq(gln_topology_core_distance(topology, 0, 3), GLN_DISTANCE_NUMA);
    cr_assert_eq(gln_topology_numa_latency(topology, 0, 0), 0);
    cr_assert_str_eq(gln_topology_host(topology), "");
    cr_assert_str_eq(gln_topology_cpu(topology, 0), "");
    gln_topology_close(topology);
}

Test(locality, numa_latency)
{
    gln_topology_t *topology = open_file("gpu8-nvswitch.xml");
    cr_assert_eq(gln_topology_numa_latency(topology, 2, 2), 10);
    cr_assert_eq(gln_topology_numa_latency(topology, 2, 3), 12);
    cr_assert_eq(gln_topology_numa_latency(topology, 3, 4), 32);
    gln_topology_close(topology);
    topology = open_file("gpu4-nvlink.xml"); /* states none */
    cr_assert_eq(gln_topology_numa_latency(topology, 0, 1), 0);
    gln_topology_close(topology);
}

Test(locality, bad_files_are_refused_with_their_name)
{
    char path[512];
    gln_topology_t *topology = NULL;
    path_of("nowhere.xml", path, sizeof path);
    cr_assert_eq(gln_topology_open_xml(path, &topology), GLN_ERR_DATA);
    cr_assert(strstr(gln_last_error(), "nowhere.xml: No such file"), "%s", gln_last_error());
    path_of("README.md", path, sizeof path);
    cr_assert_eq(gln_topology_open_xml(path, &topology), GLN_ERR_DATA);
    cr_assert(strstr(gln_last_error(), "README.md"), "%s", gln_last_error());
    cr_assert_eq(gln_topology_open_xml_text("<topology version=\"2.0\"></topology>", &topology),
                 GLN_ERR_DATA);
    cr_assert_eq(gln_topology_open_xml_text("", &topology), GLN_ERR_DATA);
    cr_assert_eq(gln_topology_open_xml(NULL, &topology), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_topology_open_xml_text(NULL, &topology), GLN_ERR_ARGUMENT);
    cr_assert_null(topology);
}
