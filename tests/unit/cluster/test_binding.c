#include "base/log.h"
#include "cluster/binding.h"
#include "cluster/devices.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static gln_topology_t *open_file(const char *name)
{
    char path[512];
    gln_topology_t *topology = NULL;
    snprintf(path, sizeof path, "%s/topology/%s.xml", GLN_TEST_DATA, name);
    cr_assert_eq(gln_topology_open_xml(path, &topology), GLN_OK, "%s", gln_last_error());
    return topology;
}

static gln_binding_plan_t *open_plan(const gln_topology_t *topology, int ranks, bool devices)
{
    gln_binding_plan_t *plan = NULL;
    gln_binding_options_t options = {.ranks = ranks, .devices = devices};
    cr_assert_eq(gln_binding_plan_open(topology, &options, &plan), GLN_OK);
    return plan;
}

/* Cores of every rank, as words with semicolons between them. */
static void expect(const char *name, int ranks, bool devices, const char *expected)
{
    gln_topology_t *topology = open_file(name);
    gln_binding_plan_t *plan = open_plan(topology, ranks, devices);
    char found[1024] = "", words[96];
    for (int rank = 0; rank < ranks; rank++) {
        int count;
        const int *cores = gln_binding_plan_cores(plan, rank, &count);
        gln_binding_cores_text(cores, count, words, sizeof words);
        const char *space = strchr(words, ' ');
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%s", rank ? ";" : "",
                 space + 1);
    }
    cr_assert_str_eq(found, expected, "%s, %d ranks: %s", name, ranks, found);
    cr_assert_str_eq(gln_binding_plan_reason(plan), "");
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
}

Test(binding, two_sockets)
{
    expect("xeon-2s", 1, false, "0-15");
    expect("xeon-2s", 2, false, "0-7;8-15");
    expect("xeon-2s", 3, false, "0-3;4-7;8-15"); /* none across the sockets */
    expect("xeon-2s", 4, false, "0-3;4-7;8-11;12-15");
    expect("xeon-2s", 6, false, "0-1;2-4;5-7;8-9;10-12;13-15"); /* 8 j / 3 */
    expect("xeon-2s", 8, false, "0-1;2-3;4-5;6-7;8-9;10-11;12-13;14-15");
    expect("xeon-2s", 16, false, "0;1;2;3;4;5;6;7;8;9;10;11;12;13;14;15");
    expect("xeon-2s", 2, true, "0-7;8-15"); /* no GPU to be near to */
}

Test(binding, four_numa_nodes_in_one_package)
{
    expect("epyc-nps4", 1, false, "0-63");
    expect("epyc-nps4", 2, false, "0-31;32-63");
    expect("epyc-nps4", 3, false, "0-15;16-31;32-63"); /* whole nodes, uneven */
    expect("epyc-nps4", 4, false, "0-15;16-31;32-47;48-63");
    expect("epyc-nps4", 6, false, "0-7;8-15;16-31;32-39;40-47;48-63");
    expect("epyc-nps4", 8, false, "0-7;8-15;16-23;24-31;32-39;40-47;48-55;56-63"); /* one L3 each */
}

Test(binding, eight_gpus)
{
    /* GPUs 0, 1 at NUMA 3; 2, 3 at 1; 4, 5 at 7; 6, 7 at 5; four cores a node */
    expect("gpu8-nvswitch", 1, true, "12-15");
    expect("gpu8-nvswitch", 2, true, "12-13;14-15");
    expect("gpu8-nvswitch", 4, true, "12-13;14-15;4-5;6-7");
    expect("gpu8-nvswitch", 8, true, "12-13;14-15;4-5;6-7;28-29;30-31;20-21;22-23");
    expect("gpu8-nvswitch", 16, true,
           "12;13;14;15;4;5;6;7;28;29;30;31;20;21;22;23"); /* two ranks a GPU */
    expect("gpu8-nvswitch", 8, false, "0-3;4-7;8-11;12-15;16-19;20-23;24-27;28-31");
}

Test(binding, four_gpus_against_the_order_of_numa_nodes)
{
    expect("gpu4-nvlink", 1, true, "24-31");
    expect("gpu4-nvlink", 2, true, "24-31;16-23");
    expect("gpu4-nvlink", 4, true, "24-31;16-23;8-15;0-7");
    expect("gpu4-nvlink", 8, true, "24-27;28-31;16-19;20-23;8-11;12-15;0-3;4-7");
}

Test(binding, gpus_of_unknown_place_do_not_decide)
{
    expect("gpu2-nodriver", 2, true, "0-3;4-7");
    gln_topology_t *topology = open_file("gpu2-nodriver");
    gln_binding_plan_t *plan = open_plan(topology, 2, true);
    cr_assert(!gln_binding_plan_near_devices(plan));
    cr_assert_eq(gln_binding_plan_device(plan, 0), 0);
    cr_assert_eq(gln_binding_plan_device(plan, 1), 1);
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
}

Test(binding, who_has_a_core_and_which_node)
{
    gln_topology_t *topology = open_file("gpu8-nvswitch");
    gln_binding_plan_t *plan = open_plan(topology, 4, true);
    const int numa[4] = {3, 3, 1, 1};
    cr_assert(gln_binding_plan_near_devices(plan));
    for (int rank = 0; rank < 4; rank++) {
        cr_assert_eq(gln_binding_plan_numa(plan, rank), numa[rank]);
        cr_assert_eq(gln_binding_plan_device(plan, rank), rank);
    }
    cr_assert_eq(gln_binding_plan_rank_of(plan, 0), -1);
    cr_assert_eq(gln_binding_plan_rank_of(plan, 13), 0);
    cr_assert_eq(gln_binding_plan_rank_of(plan, 7), 3);
    gln_binding_plan_close(plan);
    plan = open_plan(topology, 2, false);
    cr_assert_eq(gln_binding_plan_numa(plan, 0), -1); /* four nodes */
    cr_assert_eq(gln_binding_plan_device(plan, 0), -1);
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
}

/* Every core once, no rank across NUMA nodes, shares within a node that differ by one at most. */
Test(binding, any_number_of_ranks)
{
    const char *const machines[] = {"package:2 numa:1 core:5 pu:1", "package:1 numa:4 core:3 pu:2",
                                    "package:3 core:7 pu:1", "package:2 numa:3 l3:2 core:3 pu:1"};
    for (int m = 0; m < 4; m++) {
        gln_topology_t *topology = NULL;
        cr_assert_eq(gln_topology_open_synthetic(machines[m], &topology), GLN_OK);
        int cores = gln_topology_cores(topology), nodes = gln_topology_numa_nodes(topology);
        for (int ranks = 1; ranks <= cores; ranks++) {
            gln_binding_plan_t *plan = open_plan(topology, ranks, false);
            int sum = 0, most[8] = {0}, least[8] = {0};
            for (int rank = 0; rank < ranks; rank++) {
                int count;
                const int *mine = gln_binding_plan_cores(plan, rank, &count);
                cr_assert_geq(count, 1);
                for (int i = 0; i < count; i++) {
                    cr_assert_eq(gln_binding_plan_rank_of(plan, mine[i]), rank);
                    cr_assert(i == 0 || mine[i] > mine[i - 1]);
                }
                sum += count;
                int numa = gln_binding_plan_numa(plan, rank);
                if (ranks < nodes) continue;
                cr_assert_geq(numa, 0, "%s: rank %d of %d", machines[m], rank, ranks);
                if (count > most[numa]) most[numa] = count;
                if (least[numa] == 0 || count < least[numa]) least[numa] = count;
                cr_assert_leq(most[numa] - least[numa], 1);
            }
            cr_assert_eq(sum, cores, "%s: %d ranks have %d cores", machines[m], ranks, sum);
            gln_binding_plan_close(plan);
        }
        gln_topology_close(topology);
    }
}

Test(binding, too_many_ranks_are_not_bound)
{
    gln_topology_t *topology = open_file("gpu4-nvlink");
    gln_binding_plan_t *plan = open_plan(topology, 33, false);
    gln_binding_result_t result;
    int count;
    gln_binding_plan_cores(plan, 32, &count);
    cr_assert_eq(count, 0);
    cr_assert_str_eq(gln_binding_plan_reason(plan), "33 ranks share 32 cores");
    cr_assert_eq(gln_binding_check(topology, plan, 0, &result), GLN_OK);
    cr_assert_eq(result.state, GLN_BINDING_LEFT);
    cr_assert_str_eq(result.text, "not bound: 33 ranks share 32 cores");
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
    topology = open_file("gpu8-nvswitch");
    plan = open_plan(topology, 24, true); /* six ranks at each GPU node of four cores */
    cr_assert_str_eq(gln_binding_plan_reason(plan), "6 ranks share 4 cores of NUMA node 1");
    cr_assert_eq(gln_binding_plan_rank_of(plan, 4), -1);
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
}

Test(binding, cores_in_words)
{
    const int cores[] = {0, 1, 2, 5, 7, 8};
    char text[64];
    gln_binding_cores_text(cores, 6, text, sizeof text);
    cr_assert_str_eq(text, "cores 0-2,5,7-8");
    gln_binding_cores_text(cores + 3, 1, text, sizeof text);
    cr_assert_str_eq(text, "core 5");
    gln_binding_cores_text(cores, 0, text, sizeof text);
    cr_assert_str_eq(text, "no core");
    gln_binding_cores_text(cores, 6, text, 10);
    cr_assert_str_eq(text, "cores 0-2");
}

Test(binding, wrong_arguments_are_refused)
{
    gln_topology_t *topology = open_file("xeon-2s");
    gln_binding_plan_t *plan = NULL;
    gln_binding_result_t result;
    gln_binding_options_t none = {.ranks = 0}, two = {.ranks = 2};
    cr_assert_eq(gln_binding_plan_open(NULL, &two, &plan), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_binding_plan_open(topology, NULL, &plan), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_binding_plan_open(topology, &none, &plan), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_binding_plan_open(topology, &two, NULL), GLN_ERR_ARGUMENT);
    cr_assert_null(plan);
    plan = open_plan(topology, 2, false);
    cr_assert_eq(gln_binding_apply(topology, plan, 0, &result), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "found one of a description"));
    gln_binding_plan_close(plan);
    gln_binding_plan_close(NULL);
    gln_topology_close(topology);
}

/* On this machine: bound to what the plan says, by the system's own word, and only once. */
Test(binding, applied_and_verified)
{
    gln_topology_t *topology = NULL;
    gln_binding_result_t result;
    char text[128], words[96], wanted[160];
    cr_assert_eq(gln_topology_open(&topology), GLN_OK);
    if (gln_topology_cores(topology) < 2 || gln_topology_is_bound(topology)) {
        gln_topology_close(topology);
        cr_skip_test("needs two cores, and to be free to use both");
    }
    gln_binding_plan_t *plan = open_plan(topology, 1, false);
    cr_assert_eq(gln_binding_apply(topology, plan, 0, &result), GLN_OK);
    cr_assert_eq(result.state, GLN_BINDING_WHOLE);
    cr_assert(!gln_topology_is_bound(topology));
    gln_binding_plan_close(plan);
    plan = open_plan(topology, 2, false);
    int count;
    const int *cores = gln_binding_plan_cores(plan, 1, &count);
    gln_binding_cores_text(cores, count, words, sizeof words);
    cr_assert_eq(gln_binding_apply(topology, plan, 1, &result), GLN_OK);
    if (result.state == GLN_BINDING_REFUSED) {
        cr_assert(!gln_topology_is_bound(topology));
        cr_skip_test("binding is not permitted here");
    }
    snprintf(wanted, sizeof wanted, "bound to %s", words);
    cr_assert_eq(strncmp(result.text, wanted, strlen(wanted)), 0, "%s", result.text);
    gln_topology_binding(topology, text, sizeof text);
    cr_assert_str_eq(text, words);
    cpu_set_t mask;
    cr_assert_eq(sched_getaffinity(0, sizeof mask, &mask), 0);
    cr_assert_eq(CPU_COUNT(&mask) * gln_topology_cores(topology),
                 count * gln_topology_pus(topology));
    cr_assert_eq(gln_binding_apply(topology, plan, 0, &result), GLN_OK);
    cr_assert_eq(result.state, GLN_BINDING_FOUND);
    gln_topology_binding(topology, text, sizeof text);
    cr_assert_str_eq(text, words);
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
}

/* From here on the system refuses a call to this process, as some containers do.
 * @return false where that cannot be had */
static bool forbid(unsigned call)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof rules / sizeof rules[0], .filter = rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void apply_without(unsigned call, gln_binding_result_t *result, bool *is_bound)
{
    gln_topology_t *topology = NULL;
    cr_assert_eq(gln_topology_open(&topology), GLN_OK);
    if (gln_topology_cores(topology) < 2 || gln_topology_is_bound(topology) || !forbid(call)) {
        gln_topology_close(topology);
        cr_skip_test("needs two free cores and a system that can be made to refuse");
    }
    gln_binding_plan_t *plan = open_plan(topology, 2, false);
    cr_assert_eq(gln_binding_apply(topology, plan, 0, result), GLN_OK);
    *is_bound = gln_topology_is_bound(topology);
    gln_binding_plan_close(plan);
    gln_topology_close(topology);
}

Test(binding, a_refusal_is_no_error)
{
    gln_binding_result_t result;
    bool is_bound;
    apply_without(__NR_sched_setaffinity, &result, &is_bound);
    cr_assert_eq(result.state, GLN_BINDING_REFUSED);
    cr_assert(!result.memory);
    cr_assert_str_eq(result.text,
                     "not bound: the system does not allow it (Operation not permitted)");
    cr_assert(!is_bound);
}

Test(binding, memory_may_be_refused_alone)
{
    gln_binding_result_t result;
    bool is_bound;
    apply_without(__NR_set_mempolicy, &result, &is_bound);
    cr_assert_eq(result.state, GLN_BINDING_DONE);
    cr_assert(!result.memory);
    cr_assert(strstr(result.text, "; memory as it was"), "%s", result.text);
    cr_assert(is_bound);
}
