/* moe/recording.h and gln_trainer_record: what is written, that it is what was routed, going on
 * with it, and files that are refused. */
#include "base/log.h"
#include "moe/recording.h"
#include "moe/safetensors.h"
#include "moe/trainer.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { DOMAINS = 2, TOKENS = 4 * 16, EXPERTS = 4, K = 2 };

typedef struct fixture {
    char folder[GLN_TEST_PATH_MAX], text[GLN_TEST_PATH_MAX + 8];
    const char *file; /* the recording */
    gln_comm_t *comm;
    gln_run_options_t run;
    gln_trainer_t *trainer;
} fixture_t;

static void open_trainer(fixture_t *f, const char *extra)
{
    char train[600], dir[600];
    const char *sets[] = {"model.hidden=16",
                          "model.layers=4",
                          "model.moe_every=2",
                          "model.heads=2",
                          "model.kv_heads=1",
                          "model.experts=4",
                          "model.sequence=16",
                          "model.expert_hidden=8",
                          "parallel.domains=2",
                          "train.batch=8",
                          "router.k=2",
                          "router.capacity_factor=0.75",
                          train,
                          dir,
                          extra};
    snprintf(train, sizeof train, "data.train=%s", f->text);
    snprintf(dir, sizeof dir, "run.dir=%s", f->folder);
    cr_assert_eq(gln_run_options_load(NULL, sets, 15, 1, &f->run), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_trainer_open(f->comm, &f->run, GLN_TRAINER_TRAIN, &f->trainer), GLN_OK, "%s",
                 gln_last_error());
}

static void close_trainer(fixture_t *f)
{
    gln_trainer_close(f->trainer);
    gln_comm_close(f->comm);
}

static void make_folder(fixture_t *f)
{
    gln_test_folder_open(f->folder);
    snprintf(f->text, sizeof f->text, "%s/text", f->folder);
    FILE *file = fopen(f->text, "w");
    cr_assert_not_null(file);
    for (int i = 0; i < 40; i++)
        fprintf(file, "the %d gleaners follow the harvest and waste no ear of corn; ", i * i);
    fclose(file);
    f->file = gln_test_path(f->folder, GLN_RECORDING_NAME);
}

static void step(fixture_t *f, gln_step_report_t *report)
{
    cr_assert_eq(gln_trainer_step(f->trainer, report), GLN_OK, "%s", gln_last_error());
}

/* Routing the recorded logits anew gives the step's ledger, domain by domain and layer by layer. */
static void replay(const fixture_t *f, const gln_recorded_t *one, gln_ledger_t *sum)
{
    gln_router_options_t options = gln_run_router_options(&f->run);
    const gln_router_shape_t shape = {
        .tokens = one->tokens, .experts = one->experts, .per_domain = 2, .acc = GLN_F32};
    gln_pool_t *pool = NULL;
    gln_router_t *router = NULL;
    gln_plan_t *plan = NULL;
    cr_assert_eq(gln_pool_open(1, &pool), GLN_OK);
    cr_assert_eq(gln_router_open(&options, &shape, pool, &router), GLN_OK);
    cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
    for (int d = 0; d < one->domains; d++) {
        const gln_route_input_t input = {.logits = one->logits + d * one->tokens * one->experts,
                                         .domain = d,
                                         .first_local = d * 2,
                                         .seed = 1,
                                         .step = one->step - 1,
                                         .layer = one->layer};
        cr_assert_eq(gln_router_route(router, &input, plan), GLN_OK);
        gln_ledger_add(sum, &plan->ledger);
    }
    gln_plan_close(plan);
    gln_router_close(router);
    gln_pool_close(pool);
}

Test(recording, holds_what_was_routed)
{
    fixture_t f;
    gln_recording_t *r = NULL;
    gln_step_report_t reports[4];
    const int64_t steps[] = {1, 3};
    make_folder(&f);
    open_trainer(&f, "train.steps=4");
    cr_assert_eq(gln_trainer_record(f.trainer, steps, 2), GLN_OK, "%s", gln_last_error());
    for (int i = 0; i < 4; i++)
        step(&f, &reports[i]);
    cr_assert_eq(gln_recording_open(f.file, &r), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_recording_count(r), 4, "two steps of two MoE layers");
    const gln_recording_info_t info = gln_recording_info(r);
    cr_assert(info.k == K && info.per_domain == 2 && info.replicas == 1);
    for (int s = 0; s < 2; s++) {
        gln_ledger_t sum = {0};
        for (int l = 0; l < 2; l++) {
            const gln_recorded_t one = gln_recording_get(r, 2 * s + l);
            cr_assert_eq(one.step, steps[s]);
            cr_assert_eq(one.layer, 1 + 2 * l, "every second layer has experts");
            cr_assert(one.domains == DOMAINS && one.tokens == TOKENS && one.experts == EXPERTS);
            replay(&f, &one, &sum);
        }
        gln_ledger_t want = reports[steps[s] - 1].ledger;
        want.sent_rows = 0; /* the router does not know */
        cr_assert_eq(memcmp(&sum, &want, sizeof sum), 0, "step %ld", (long)steps[s]);
        cr_assert_gt(sum.overflow, 0, "an even load would prove little");
    }
    gln_recording_close(r);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

Test(recording, changes_nothing_in_the_run)
{
    fixture_t f;
    gln_step_report_t plain, recorded;
    const int64_t first = 1;
    make_folder(&f);
    open_trainer(&f, "train.seed=4");
    step(&f, &plain);
    step(&f, &plain);
    close_trainer(&f);
    open_trainer(&f, "train.seed=4");
    cr_assert_eq(gln_trainer_record(f.trainer, &first, 1), GLN_OK);
    step(&f, &recorded);
    step(&f, &recorded);
    cr_assert_eq(memcmp(&plain.loss, &recorded.loss, sizeof(double)), 0);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

/* Stopped between two recorded steps and gone on with: the same file as at once. */
Test(recording, goes_on_with_a_resumed_run)
{
    fixture_t f;
    gln_step_report_t report;
    const int64_t steps[] = {1, 3};
    make_folder(&f);
    open_trainer(&f, "train.steps=3");
    cr_assert_eq(gln_trainer_record(f.trainer, steps, 2), GLN_OK);
    for (int i = 0; i < 3; i++)
        step(&f, &report);
    close_trainer(&f);
    const char *once = gln_test_path(f.folder, "once");
    cr_assert_eq(rename(f.file, once), 0);
    open_trainer(&f, "train.steps=3");
    cr_assert_eq(gln_trainer_record(f.trainer, steps, 2), GLN_OK);
    step(&f, &report);
    step(&f, &report);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    close_trainer(&f);
    open_trainer(&f, "train.steps=3");
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK);
    cr_assert_eq(gln_trainer_record(f.trainer, steps, 2), GLN_OK, "%s", gln_last_error());
    step(&f, &report);
    cr_assert(gln_test_files_equal(f.file, once));
    close_trainer(&f);

    open_trainer(&f, "train.accumulation=2"); /* other T */
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK);
    cr_assert_eq(gln_trainer_record(f.trainer, steps, 2), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "other domains") != NULL, "%s", gln_last_error());
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

static void count_warnings(void *ctx, gln_log_level_t level, const char *message)
{
    *(int *)ctx += level == GLN_LOG_WARN && strstr(message, "step 1 is done") != NULL;
}

Test(recording, says_what_a_resumed_run_can_no_longer_record)
{
    fixture_t f;
    gln_step_report_t report;
    int warnings = 0;
    const int64_t steps[] = {1, 2};
    make_folder(&f);
    open_trainer(&f, "train.steps=2");
    step(&f, &report);
    gln_log_set_sink(count_warnings, &warnings);
    cr_assert_eq(gln_trainer_record(f.trainer, steps, 2), GLN_OK);
    gln_log_set_sink(NULL, NULL);
    cr_assert_eq(warnings, 1);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

Test(recording, refuses_bad_steps_and_a_second_call)
{
    fixture_t f;
    const int64_t falling[] = {3, 2}, zero = 0, good = 1;
    make_folder(&f);
    open_trainer(&f, "train.steps=3");
    cr_assert_eq(gln_trainer_record(f.trainer, falling, 2), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_trainer_record(f.trainer, &zero, 1), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_trainer_record(f.trainer, &good, 1), GLN_OK);
    cr_assert_eq(gln_trainer_record(f.trainer, &good, 1), GLN_ERR_ARGUMENT);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

Test(recording, refuses_other_files_by_tensor)
{
    char folder[GLN_TEST_PATH_MAX];
    double info[4] = {1, 1, 2, 1}, other_version[4] = {9, 1, 2, 1};
    float logits[8] = {0}, bad[8] = {0};
    bad[5] = NAN;
    gln_test_folder_open(folder);
    const char *path = gln_test_path(folder, "r");
#define INFO(data_)                         \
    {                                       \
        .name = "routing.info", .tensor = { \
            .data = data_,                  \
            .dtype = GLN_F64,               \
            .dims_count = 1,                \
            .dims = {4}                     \
        }                                   \
    }
#define LOGITS(name_, data_, dims_) \
    {                               \
        .name = name_, .tensor = {  \
            .data = data_,          \
            .dtype = GLN_F32,       \
            .dims_count = dims_,    \
            .dims = {2, 2, 2}       \
        }                           \
    }
    const struct {
        gln_tensor_entry_t entries[2];
        int count;
        const char *message; /* NULL: a good one */
    } rows[] = {
        {{INFO(info), LOGITS("step-7.layer-3.logits", logits, 3)}, 2, NULL},
        {{LOGITS("step-7.layer-3.logits", logits, 3)}, 1, "routing.info': is missing"},
        {{INFO(other_version)}, 1, "another version"},
        {{INFO(info), LOGITS("step-7.layer-3.logits", bad, 3)}, 2, "a NaN"},
        {{INFO(info), LOGITS("step-7.layer-3.logit", logits, 3)}, 2, "has no name"},
        {{INFO(info), LOGITS("step-7.layer-3.logits2", logits, 3)}, 2, "has no name"},
        {{INFO(info), LOGITS("step-0.layer-3.logits", logits, 3)}, 2, "has no name"},
        {{INFO(info), LOGITS("step-7.layer-3.logits", logits, 2)}, 2, "is not F32"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gln_recording_t *r = NULL;
        cr_assert_eq(gln_safetensors_write(path, rows[i].entries, rows[i].count, NULL, NULL),
                     GLN_OK);
        gln_status_t status = gln_recording_open(path, &r);
        if (!rows[i].message) {
            cr_assert_eq(status, GLN_OK, "%s", gln_last_error());
            const gln_recorded_t one = gln_recording_get(r, 0);
            cr_assert(one.step == 7 && one.layer == 3 && one.domains == 2 && one.tokens == 2 &&
                      one.experts == 2);
            gln_recording_close(r);
            continue;
        }
        cr_assert_eq(status, GLN_ERR_CHECKPOINT, "row %zu", i);
        cr_assert(strstr(gln_last_error(), rows[i].message) != NULL, "%s", gln_last_error());
    }
    gln_recording_t *r = NULL;
    cr_assert_eq(gln_recording_open(gln_test_path(folder, "none"), &r), GLN_ERR_IO);
    gln_test_folder_close(folder);
}

/* The recording that tests replay: real imbalance, which random logits do not have. */
Test(recording, the_shipped_one_replays_through_the_router)
{
    gln_recording_t *r = NULL;
    cr_assert_eq(gln_recording_open(GLN_TEST_DATA "/" GLN_RECORDING_NAME, &r), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_eq(gln_recording_count(r), 6);
    for (int i = 0; i < 6; i++) {
        const gln_recorded_t one = gln_recording_get(r, i);
        gln_ledger_t sum = {0};
        fixture_t f = {.run = {.router = {.k = 1,
                                          .capacity_factor = 1.0,
                                          .fill = 1,
                                          .rectify = 1,
                                          .ir_scope = 1,
                                          .detach = 1,
                                          .ir_capacity = INFINITY}}};
        cr_assert_eq(one.step, i < 3 ? 1 : 100);
        cr_assert_eq(one.layer, i % 3);
        cr_assert(one.domains == 4 && one.tokens == 1024 && one.experts == 8);
        replay(&f, &one, &sum);
        cr_assert_eq(gln_ledger_check(&sum, "a recorded layer"), GLN_OK);
        cr_assert_eq(sum.tokens, 4 * 1024);
        /* even random choices of 1024 tokens over 8 experts overflow by about 3 per cent */
        cr_assert_gt(sum.overflow * 100, 6 * sum.choices, "step %ld, layer %d: overflow %ld",
                     (long)one.step, one.layer, (long)sum.overflow);
    }
    gln_recording_close(r);
}
