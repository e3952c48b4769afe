/* Against the machines of tests/data/topology; expectations by hand, from the files. */
#include "base/log.h"
#include "cluster/devices.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gln_topology_t *open_file(const char *name)
{
    char path[512];
    gln_topology_t *topology = NULL;
    snprintf(path, sizeof path, "%s/topology/%s.xml", GLN_TEST_DATA, name);
    cr_assert_eq(gln_topology_open_xml(path, &topology), GLN_OK, "%s", gln_last_error());
    return topology;
}

typedef struct expected {
    gln_io_kind_t kind;
    const char *name, *bus_id;
    int numa_node, package;
} expected_t;

static void expect(const char *name, int gpus, int count, const expected_t *expected)
{
    gln_topology_t *topology = open_file(name);
    cr_assert_eq(gln_topology_gpus(topology), gpus);
    cr_assert_eq(gln_topology_devices(topology), count);
    for (int i = 0; i < count; i++) {
        const gln_io_device_t *device = gln_topology_device(topology, i);
        cr_assert_eq(device->kind, expected[i].kind, "%s %d", name, i);
        cr_assert_str_eq(device->name, expected[i].name);
        cr_assert_str_eq(device->bus_id, expected[i].bus_id);
        cr_assert_eq(device->numa_node, expected[i].numa_node, "%s %s", name, device->name);
        cr_assert_eq(device->package, expected[i].package, "%s %s", name, device->name);
    }
    gln_topology_close(topology);
}

Test(devices, two_sockets)
{
    /* neither the disk nor the screen of the service processor */
    const expected_t nics[] = {{GLN_IO_NIC, "eno1", "0000:04:00.0", 0, 0},
                               {GLN_IO_NIC, "mlx5_0", "0000:81:00.0", 1, 1}};
    expect("xeon-2s", 0, 2, nics);
}

Test(devices, four_numa_nodes)
{
    const expected_t nics[] = {{GLN_IO_NIC, "eno1", "0000:c1:00.0", 0, 0},
                               {GLN_IO_NIC, "mlx5_0", "0000:41:00.0", 2, 0}};
    expect("epyc-nps4", 0, 2, nics);
}

Test(devices, eight_gpus)
{
    const expected_t devices[] = {
        {GLN_IO_GPU, "cuda0", "0000:07:00.0", 3, 0},
        {GLN_IO_GPU, "cuda1", "0000:0f:00.0", 3, 0},
        {GLN_IO_GPU, "cuda2", "0000:47:00.0", 1, 0},
        {GLN_IO_GPU, "cuda3", "0000:4e:00.0", 1, 0},
        {GLN_IO_GPU, "cuda4", "0000:87:00.0", 7, 1},
        {GLN_IO_GPU, "cuda5", "0000:90:00.0", 7, 1},
        {GLN_IO_GPU, "cuda6", "0000:b7:00.0", 5, 1},
        {GLN_IO_GPU, "cuda7", "0000:bd:00.0", 5, 1},
        /* in the order of the machine's tree: NUMA nodes 1, 3, 5, 7 */
        {GLN_IO_NIC, "mlx5_1", "0000:4b:00.0", 1, 0},
        {GLN_IO_NIC, "mlx5_0", "0000:0c:00.0", 3, 0},
        {GLN_IO_NIC, "mlx5_3", "0000:ba:00.0", 5, 1},
        {GLN_IO_NIC, "mlx5_2", "0000:8d:00.0", 7, 1},
        {GLN_IO_NIC, "enp161s0", "0000:a1:00.0", 7, 1},
    };
    expect("gpu8-nvswitch", 8, 13, devices);
}

Test(devices, four_gpus_in_reverse)
{
    const expected_t devices[] = {
        {GLN_IO_GPU, "cuda0", "0000:03:00.0", 3, 0},  {GLN_IO_GPU, "cuda1", "0000:43:00.0", 2, 0},
        {GLN_IO_GPU, "cuda2", "0000:83:00.0", 1, 0},  {GLN_IO_GPU, "cuda3", "0000:c3:00.0", 0, 0},
        {GLN_IO_NIC, "mlx5_3", "0000:c4:00.0", 0, 0}, {GLN_IO_NIC, "mlx5_2", "0000:84:00.0", 1, 0},
        {GLN_IO_NIC, "mlx5_1", "0000:44:00.0", 2, 0}, {GLN_IO_NIC, "mlx5_0", "0000:04:00.0", 3, 0},
    };
    expect("gpu4-nvlink", 4, 8, devices);
}

Test(devices, without_drivers_and_places)
{
    const expected_t devices[] = {
        {GLN_IO_GPU, "0000:02:00.0", "0000:02:00.0", -1, -1},
        {GLN_IO_GPU, "0000:82:00.0", "0000:82:00.0", -1, -1},
        {GLN_IO_NIC, "eth0", "", -1, -1},
    };
    expect("gpu2-nodriver", 2, 3, devices);
    gln_topology_t *topology = open_file("gpu2-nodriver");
    cr_assert_str_eq(gln_topology_device(topology, 0)->model, "GV100GL [Tesla V100 PCIe 32GB]");
    cr_assert_eq(gln_topology_device_distance(topology, 0, 1), GLN_DISTANCE_MACHINE);
    cr_assert_eq(gln_topology_core_to_device(topology, 0, 0), GLN_DISTANCE_MACHINE);
    cr_assert_eq(gln_topology_link_mbps(topology, 0, 1), 0);
    cr_assert_eq(gln_topology_nearest_nic(topology, 1), 2);
    gln_topology_close(topology);
}

Test(devices, distances)
{
    gln_topology_t *topology = open_file("gpu8-nvswitch");
    const struct {
        int a, b;
        gln_distance_t distance;
    } pairs[] = {
        {0, 0, GLN_DISTANCE_SAME},     {0, 1, GLN_DISTANCE_CLOSE},   {0, 2, GLN_DISTANCE_PACKAGE},
        {0, 4, GLN_DISTANCE_MACHINE},  {4, 7, GLN_DISTANCE_PACKAGE}, {0, 9, GLN_DISTANCE_CLOSE},
        {0, 8, GLN_DISTANCE_PACKAGE},  {5, 11, GLN_DISTANCE_CLOSE},  {5, 12, GLN_DISTANCE_NUMA},
        {1, 12, GLN_DISTANCE_MACHINE},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        cr_assert_eq(gln_topology_device_distance(topology, pairs[i].a, pairs[i].b),
                     pairs[i].distance, "%d to %d", pairs[i].a, pairs[i].b);
        cr_assert_eq(gln_topology_device_distance(topology, pairs[i].b, pairs[i].a),
                     pairs[i].distance);
    }
    cr_assert_eq(gln_topology_core_to_device(topology, 12, 0), GLN_DISTANCE_NUMA);
    cr_assert_eq(gln_topology_core_to_device(topology, 0, 0), GLN_DISTANCE_PACKAGE);
    cr_assert_eq(gln_topology_core_to_device(topology, 16, 0), GLN_DISTANCE_MACHINE);
    gln_topology_close(topology);
}

Test(devices, nearest_nics)
{
    gln_topology_t *topology = open_file("gpu8-nvswitch");
    const int nic[8] = {9, 9, 8, 8, 11, 11, 10, 10};
    for (int gpu = 0; gpu < 8; gpu++)
        cr_assert_eq(gln_topology_nearest_nic(topology, gpu), nic[gpu], "GPU %d", gpu);
    gln_topology_close(topology);
    topology = open_file("gpu4-nvlink");
    for (int gpu = 0; gpu < 4; gpu++)
        cr_assert_eq(gln_topology_nearest_nic(topology, gpu), 7 - gpu, "GPU %d", gpu);
    gln_topology_close(topology);
}

Test(devices, links_between_gpus)
{
    gln_topology_t *topology = open_file("gpu4-nvlink");
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++)
            cr_assert_eq(gln_topology_link_mbps(topology, a, b), a == b ? 0 : 100000);
    cr_assert_eq(gln_topology_link_mbps(topology, 0, 4), 0); /* a NIC */
    gln_topology_close(topology);
    /* no two GPUs are joined directly: six switches of 50 GB/s each stand between them */
    topology = open_file("gpu8-nvswitch");
    for (int a = 0; a < 8; a++)
        for (int b = 0; b < 8; b++)
            cr_assert_eq(gln_topology_link_mbps(topology, a, b), a == b ? 0 : 300000,
                         "%d to %d: %lu", a, b, gln_topology_link_mbps(topology, a, b));
    gln_topology_close(topology);
}

Test(devices, a_machine_without_any)
{
    gln_topology_t *topology = NULL;
    cr_assert_eq(gln_topology_open_synthetic("package:1 core:2 pu:1", &topology), GLN_OK);
    cr_assert_eq(gln_topology_devices(topology), 0);
    cr_assert_eq(gln_topology_gpus(topology), 0);
    gln_topology_close(topology);
}

Test(devices, a_device_outside_is_an_assertion, .signal = SIGABRT)
{
    gln_topology_device(open_file("xeon-2s"), 2);
}

Test(devices, survive_being_written_and_read)
{
    gln_topology_t *topology = open_file("gpu8-nvswitch"), *again = NULL;
    char *text = NULL;
    cr_assert_eq(gln_topology_write_xml(topology, &text), GLN_OK);
    cr_assert_eq(gln_topology_open_xml_text(text, &again), GLN_OK);
    cr_assert_eq(gln_topology_devices(again), 13);
    cr_assert_eq(gln_topology_link_mbps(again, 0, 7), 300000);
    cr_assert_str_eq(gln_topology_device(again, 9)->name, "mlx5_0");
    free(text);
    gln_topology_close(again);
    gln_topology_close(topology);
}
