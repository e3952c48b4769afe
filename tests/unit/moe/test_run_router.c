/* moe/run_options.h, the router's keys: every policy by one line, names against enums, schedules,
 * evaluation, and what is refused. */
#include "base/log.h"
#include "moe/run_options.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static gln_status_t load(gln_run_options_t *run, int count, const char *const *sets)
{
    const char *all[16] = {"data.train=t", "run.dir=d"};
    for (int i = 0; i < count; i++)
        all[2 + i] = sets[i];
    return gln_run_options_load(NULL, all, 2 + count, 1, run);
}

#define LOAD(run, ...)                                                                    \
    do {                                                                                  \
        const char *sets_[] = {__VA_ARGS__};                                              \
        cr_assert_eq(load(run, (int)(sizeof sets_ / sizeof *sets_), sets_), GLN_OK, "%s", \
                     gln_last_error());                                                   \
    } while (0)

#define REFUSED(part1, part2, ...)                                                             \
    do {                                                                                       \
        const char *sets_[] = {__VA_ARGS__};                                                   \
        gln_run_options_t run_;                                                                \
        cr_assert_eq(load(&run_, (int)(sizeof sets_ / sizeof *sets_), sets_), GLN_ERR_CONFIG); \
        cr_assert(strstr(gln_last_error(), part1) && strstr(gln_last_error(), part2), "%s",    \
                  gln_last_error());                                                           \
    } while (0)

/* One line is enough; what it leaves open is what the router itself says, and config.yaml, which
 * holds the resolved values, loads to the same run. */
Test(run_router, a_line_chooses_any_policy_and_its_defaults)
{
    char folder[GLN_TEST_PATH_MAX];
    int fields_count;
    const gln_config_field_t *fields = gln_run_fields(&fields_count);
    gln_test_folder_open(folder);
    for (int i = 0; gln_policy_names()[i]; i++) {
        char line[64];
        gln_run_options_t run, again;
        snprintf(line, sizeof line, "router.policy=%s", gln_policy_names()[i]);
        LOAD(&run, line);
        cr_assert_eq(run.router.policy, i);
        const gln_router_options_t ask = {.policy = (gln_policy_t)i},
                                   got = gln_run_router_options(&run);
        const gln_router_shape_t shape = {
            .tokens = 1024, .experts = 8, .per_domain = 8, .acc = GLN_F32};
        gln_router_options_t want;
        cr_assert_eq(gln_router_resolve(&ask, &shape, &want), GLN_OK);
        cr_assert_eq(got.k, want.k, "%s", line);
        cr_assert_eq(got.capacity_factor, want.capacity_factor, "%s", line);
        cr_assert_eq(got.priority, want.priority, "%s", line);
        cr_assert_eq(got.weight, want.weight, "%s", line);
        cr_assert_eq(got.attached, want.attached, "%s", line);
        cr_assert_eq(got.fill, i == GLN_POLICY_TOPK, "%s", line);
        cr_assert_eq(got.rectify, i == GLN_POLICY_TOPK, "%s", line);

        const char *path = gln_test_path(folder, "config.yaml");
        FILE *file = fopen(path, "w");
        cr_assert_eq(gln_config_write(fields, fields_count, &run, file), GLN_OK);
        fclose(file);
        cr_assert_eq(gln_run_options_load(path, NULL, 0, 1, &again), GLN_OK, "%s",
                     gln_last_error());
        cr_assert_eq(memcmp(&run, &again, sizeof run), 0, "%s", line);
    }
    gln_test_folder_close(folder);
}

Test(run_router, names_are_those_of_the_enums)
{
    gln_run_options_t run;
    static const char *const priorities[] = {"router.priority=max", "router.priority=position",
                                             "router.priority=random", "router.priority=score"};
    static const char *const weights[] = {"router.weight=p", "router.weight=topk_softmax",
                                          "router.weight=normalized"};
    for (int i = 0; i < 4; i++) {
        LOAD(&run, priorities[i]);
        cr_assert_eq(gln_run_router_options(&run).priority, (gln_priority_t)(GLN_PRIORITY_MAX + i));
    }
    for (int i = 0; i < 3; i++) {
        LOAD(&run, weights[i]);
        cr_assert_eq(gln_run_router_options(&run).weight, (gln_route_weight_t)(GLN_WEIGHT_P + i));
    }
    LOAD(&run, "router.detach=false");
    cr_assert_eq(gln_run_router_options(&run).attached, 1);
    LOAD(&run, "router.detach=true");
    cr_assert_eq(gln_run_router_options(&run).attached, -1);
    LOAD(&run, "router.policy=deepseek_v3", "router.k=2", "router.group_count=4",
         "router.group_topk=2", "router.route_scale=2.5");
    gln_router_options_t o = gln_run_router_options(&run);
    cr_assert(o.group_count == 4 && o.group_topk == 2 && o.route_scale == 2.5);
    LOAD(&run, "router.policy=sinkhorn", "router.sinkhorn_iterations=7",
         "router.sinkhorn_tolerance=0.5");
    o = gln_run_router_options(&run);
    cr_assert(o.sinkhorn_iterations == 7 && o.sinkhorn_tolerance == 0.5);
}

Test(run_router, the_balance_loss_is_off_where_the_policy_balances_by_itself)
{
    gln_run_options_t run;
    LOAD(&run, "router.policy=switch");
    cr_assert_eq(run.router.balance_coef, 0.01);
    LOAD(&run, "router.policy=deepseek_v3");
    cr_assert_eq(run.router.balance_coef, 0);
    LOAD(&run, "router.policy=deepseek_v3", "router.balance_coef=0.0001");
    cr_assert_eq(run.router.balance_coef, 0.0001);
}

Test(run_router, what_a_policy_cannot_have_is_refused_by_key)
{
    REFUSED("--set router.fill=true: router.fill", "expert_choice", "router.policy=expert_choice",
            "router.fill=true");
    REFUSED("--set router.rectify=true: router.rectify", "expert_choice",
            "router.policy=expert_choice", "router.rectify=true");
    REFUSED("router.group_count", "topk", "router.group_count=2");
    REFUSED("router.k", "gshard", "router.policy=gshard", "router.k=3");
    REFUSED("router.priority", "random", "router.policy=random", "router.priority=score");
    REFUSED("router.weight", "sinkhorn", "router.policy=sinkhorn", "router.weight=topk_softmax");
    REFUSED("router.capacity_factor", "at least 0", "router.capacity_factor=-0.5");
    gln_run_options_t run;
    LOAD(&run, "router.policy=switch", "router.fill=true", "router.rectify=true");
    cr_assert(run.router.fill == 1 && run.router.rectify == 1, "who can have it may ask for it");
    LOAD(&run, "router.policy=expert_choice", "router.fill=false");
}

static void count_errors(void *ctx, gln_log_level_t level, const char *message)
{
    (void)message;
    *(int *)ctx += level == GLN_LOG_ERROR;
}

/* The router's own message is not sent beside the one that names file and line. */
Test(run_router, a_refusal_is_said_once)
{
    gln_run_options_t run;
    int errors = 0;
    const char *sets[] = {"router.policy=expert_choice", "router.fill=true"};
    gln_log_set_sink(count_errors, &errors);
    cr_assert_eq(load(&run, 2, sets), GLN_ERR_CONFIG);
    cr_assert_eq(errors, 1);
    gln_fail(GLN_ERR_DATA, "later errors are sent");
    cr_assert_eq(errors, 2);
    gln_log_set_sink(NULL, NULL);
}

Test(run_router, capacity_follows_its_schedule)
{
    gln_run_options_t run;
    LOAD(&run, "router.capacity_schedule=0:2.0,100:1.25,500:inf");
    const struct {
        int64_t done;
        double factor;
    } rows[] = {{0, 2}, {99, 2}, {100, 1.25}, {499, 1.25}, {500, INFINITY}, {1 << 30, INFINITY}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        cr_assert_eq(gln_run_capacity_factor(&run, rows[i].done), rows[i].factor);
    cr_assert_eq(gln_run_capacity_max(&run), INFINITY);
    LOAD(&run, "router.capacity_schedule=0:0.5,7:1.5,9:0");
    cr_assert_eq(gln_run_capacity_max(&run), 1.5);
    cr_assert_gt(gln_run_capacity_factor(&run, 9), 0, "0 would mean the default to a router");
    cr_assert_lt(gln_run_capacity_factor(&run, 9), 1e-100);
    LOAD(&run, "router.capacity_factor=0.75");
    cr_assert_eq(gln_run_capacity_factor(&run, 3), 0.75);
    cr_assert_eq(gln_run_capacity_max(&run), 0.75);
}

Test(run_router, bad_schedules_are_refused)
{
    static const char *const bad[] = {"5:1.0",     "0:1.0,0:2.0", "0:1.0,9:2.0,4:1.0",
                                      "0:1.0,",    "0:-1",        "0",
                                      "0:1.0;5:2", "0:x",         "0:1.0,5:2 "};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char line[80];
        snprintf(line, sizeof line, "router.capacity_schedule=\"%s\"", bad[i]);
        REFUSED("router.capacity_schedule", "0:", line);
    }
    REFUSED("router.capacity_schedule", "one of them", "router.capacity_schedule=0:1.0",
            "router.capacity_factor=2");
}

Test(run_router, evaluation_may_use_another_router)
{
    gln_run_options_t run;
    LOAD(&run, "router.k=2");
    gln_router_options_t o = gln_run_eval_router_options(&run);
    cr_assert(isinf(o.capacity_factor) && !o.fill && !o.rectify, "dropless by default");
    cr_assert(o.policy == GLN_POLICY_TOPK && o.k == 2);
    cr_assert_not(gln_run_eval_is_train(&run));

    LOAD(&run, "eval.routing=train", "router.capacity_factor=0.5");
    o = gln_run_eval_router_options(&run);
    cr_assert(gln_run_eval_is_train(&run) && o.capacity_factor == 0.5 && o.fill && o.rectify);

    LOAD(&run, "eval.routing=train", "eval.capacity_factor=1.5", "eval.fill=false");
    o = gln_run_eval_router_options(&run);
    cr_assert_not(gln_run_eval_is_train(&run));
    cr_assert(o.capacity_factor == 1.5 && !o.fill && o.rectify);

    LOAD(&run, "router.policy=switch", "eval.routing=train", "eval.policy=topk",
         "eval.rectify=true");
    o = gln_run_eval_router_options(&run);
    cr_assert(o.policy == GLN_POLICY_TOPK && o.rectify && !o.fill);
    cr_assert_eq(o.weight, GLN_WEIGHT_P, "how routes are weighed stays that of the training");

    LOAD(&run, "router.policy=expert_choice");
    o = gln_run_eval_router_options(&run);
    cr_assert_eq(o.policy, GLN_POLICY_TOPK, "without capacity every expert would take all");

    REFUSED("eval.fill", "eval.routing: train", "eval.fill=true");
    REFUSED("eval.capacity_factor", "eval.routing: train", "eval.capacity_factor=1");
    REFUSED("eval.policy", "gshard", "router.k=3", "eval.policy=gshard");
    REFUSED("eval.rectify", "expert_choice", "router.policy=expert_choice", "eval.routing=train",
            "eval.rectify=true");
}
