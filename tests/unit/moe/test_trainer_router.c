/* What a router's keys do to a training run, in a world of one: schedules, the selection bias as
 * state, balance over all domains, every policy, another router in evaluation, recorded routing.
 * Over several ranks: tests/cli/test_policies.sh. */
#include "base/log.h"
#include "moe/recording.h"
#include "moe/trainer.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { EXPERTS = 4, LAYERS = 2, DOMAINS = 2, BATCH_TOKENS = 8 * 16 };

typedef struct fixture {
    char folder[GLN_TEST_PATH_MAX], text[GLN_TEST_PATH_MAX + 8];
    gln_comm_t *comm;
    gln_run_options_t run;
    gln_trainer_t *trainer;
} fixture_t;

static void make_folder(fixture_t *f)
{
    gln_test_folder_open(f->folder);
    snprintf(f->text, sizeof f->text, "%s/text", f->folder);
    FILE *file = fopen(f->text, "w");
    cr_assert_not_null(file);
    for (int i = 0; i < 40; i++)
        fprintf(file, "the %d gleaners follow the harvest and waste no ear of corn; ", i * i);
    fclose(file);
}

static void open_trainer(fixture_t *f, int count, const char *const *sets)
{
    char train[600], valid[600], dir[600];
    const char *all[24] = {"model.hidden=16",   "model.layers=2",     "model.heads=2",
                           "model.kv_heads=1",  "model.experts=4",    "model.expert_hidden=24",
                           "model.sequence=16", "parallel.domains=2", "train.batch=8",
                           "train.lr=0.01"};
    snprintf(train, sizeof train, "data.train=%s", f->text);
    snprintf(valid, sizeof valid, "data.valid=%s", f->text);
    snprintf(dir, sizeof dir, "run.dir=%s/run", f->folder);
    int n = 10;
    all[n++] = train, all[n++] = valid, all[n++] = dir;
    for (int i = 0; i < count; i++)
        all[n++] = sets[i];
    cr_assert_eq(gln_run_options_load(NULL, all, n, 1, &f->run), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_trainer_open(f->comm, &f->run, GLN_TRAINER_TRAIN, &f->trainer), GLN_OK, "%s",
                 gln_last_error());
}

#define OPEN(f, ...)                                                 \
    do {                                                             \
        const char *sets_[] = {__VA_ARGS__};                         \
        open_trainer(f, (int)(sizeof sets_ / sizeof *sets_), sets_); \
    } while (0)

static void close_trainer(fixture_t *f)
{
    gln_trainer_close(f->trainer);
    gln_comm_close(f->comm);
}

static gln_step_report_t steps(fixture_t *f, int count)
{
    gln_step_report_t report;
    for (int i = 0; i < count; i++)
        cr_assert_eq(gln_trainer_step(f->trainer, &report), GLN_OK, "%s", gln_last_error());
    return report;
}

static const float *parameter(fixture_t *f, const char *name)
{
    const gln_params_t *p = gln_model_params(gln_trainer_model(f->trainer));
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return gln_param_w(p, &p->items[i]);
    return NULL;
}

Test(trainer_router, every_policy_trains_and_evaluates)
{
    fixture_t f;
    make_folder(&f);
    for (int i = 0; gln_policy_names()[i]; i++) {
        char policy[64];
        gln_eval_report_t before, after;
        snprintf(policy, sizeof policy, "router.policy=%s", gln_policy_names()[i]);
        OPEN(&f, policy);
        cr_assert_eq(gln_trainer_evaluate(f.trainer, &before), GLN_OK, "%s", gln_last_error());
        steps(&f, 60);
        cr_assert_eq(gln_trainer_evaluate(f.trainer, &after), GLN_OK, "%s", gln_last_error());
        cr_assert_lt(after.bits_per_byte, before.bits_per_byte - 3, "%s: %g, %g", policy,
                     before.bits_per_byte, after.bits_per_byte);
        close_trainer(&f);
    }
    gln_test_folder_close(f.folder);
}

Test(trainer_router, capacity_fill_and_rectification_follow_their_schedules)
{
    fixture_t f;
    make_folder(&f);
    OPEN(&f, "router.capacity_schedule=0:0.5,2:1.5,3:1.0", "router.fill_from=2",
         "router.rectify_from=1");
    const int64_t choices = BATCH_TOKENS * LAYERS; /* k = 1 */
    gln_step_report_t r = steps(&f, 1);
    cr_assert_eq(r.ledger.slots, choices / 2);
    cr_assert(r.ledger.filled == 0 && r.ledger.rectified == 0 && r.ledger.dropped > 0);
    r = steps(&f, 1);
    cr_assert_eq(r.ledger.slots, choices / 2);
    cr_assert(r.ledger.filled == 0 && r.ledger.rectified > 0 && r.ledger.dropped == 0);
    r = steps(&f, 1);
    cr_assert_eq(r.ledger.slots, choices * 3 / 2);
    cr_assert_gt(r.ledger.filled, 0);
    r = steps(&f, 1);
    cr_assert_eq(r.ledger.slots, choices);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

/* Resumed in the middle of its schedules, a run goes on with the same bits. */
Test(trainer_router, schedules_and_bias_resume_bit_for_bit)
{
    static const char *const kinds[2][3] = {
        {"router.policy=topk", "router.capacity_schedule=0:0.5,3:1.5,6:1.0", "router.fill_from=5"},
        {"router.policy=deepseek_v3", "router.k=2", "router.bias_rate=0.03"}};
    for (int kind = 0; kind < 2; kind++) {
        fixture_t straight, first, second;
        int moved = 0;
        make_folder(&straight);
        first = second = straight;
        open_trainer(&straight, 3, kinds[kind]);
        const gln_step_report_t want = steps(&straight, 7);
        open_trainer(&first, 3, kinds[kind]);
        steps(&first, 3);
        const float *bias = parameter(&first, "layers.1.moe.bias");
        for (int e = 0; e < EXPERTS && bias; e++) /* else a lost bias would not be seen */
            moved |= bias[e] != 0;
        cr_assert_eq(moved, kind == 1);
        cr_assert_eq(gln_trainer_save(first.trainer, NULL, 0), GLN_OK);
        close_trainer(&first);
        open_trainer(&second, 3, kinds[kind]);
        cr_assert_eq(gln_trainer_resume(second.trainer, NULL), GLN_OK, "%s", gln_last_error());
        const gln_step_report_t got = steps(&second, 4);
        cr_assert_eq(memcmp(&got.loss, &want.loss, sizeof got.loss), 0, "%.17g, %.17g", got.loss,
                     want.loss);
        cr_assert_eq(memcmp(&got.grad_norm, &want.grad_norm, sizeof got.loss), 0);
        if (kind == 1)
            cr_assert_eq(memcmp(parameter(&second, "layers.1.moe.bias"),
                                parameter(&straight, "layers.1.moe.bias"), EXPERTS * sizeof(float)),
                         0);
        close_trainer(&second);
        close_trainer(&straight);
        gln_test_folder_close(straight.folder);
    }
}

/* One step: every expert's bias moves by gamma against its load over the whole batch, here counted
 * from the recorded logits (both micro-batches cannot be recorded, so there is one). */
Test(trainer_router, bias_moves_against_the_load_of_the_global_batch)
{
    fixture_t f;
    gln_recording_t *recording = NULL;
    const int64_t step = 1;
    make_folder(&f);
    OPEN(&f, "router.policy=deepseek_v3", "router.k=1", "router.bias_rate=0.25",
         "train.weight_decay=0.5");
    cr_assert_eq(mkdir(f.run.run.dir, 0777), 0);
    cr_assert_eq(gln_trainer_record(f.trainer, &step, 1), GLN_OK, "%s", gln_last_error());
    steps(&f, 1);
    cr_assert_eq(gln_recording_open(gln_test_path(f.run.run.dir, GLN_RECORDING_NAME), &recording),
                 GLN_OK, "%s", gln_last_error());
    for (int layer = 0; layer < LAYERS; layer++) {
        const gln_recorded_t one = gln_recording_get(recording, layer);
        char name[40];
        int64_t load[EXPERTS] = {0};
        snprintf(name, sizeof name, "layers.%d.moe.bias", layer);
        const float *bias = parameter(&f, name);
        for (int64_t t = 0; t < one.domains * one.tokens; t++) {
            int best = 0;
            for (int e = 1; e < EXPERTS; e++)
                if (one.logits[t * EXPERTS + e] > one.logits[t * EXPERTS + best]) best = e;
            load[best]++;
        }
        int moved = 0;
        for (int e = 0; e < EXPERTS; e++) {
            const int64_t over = load[e] * EXPERTS - BATCH_TOKENS;
            cr_assert_eq(bias[e], over > 0 ? -0.25f : over < 0 ? 0.25f : 0.0f, "expert %d", e);
            moved += over != 0;
        }
        cr_assert_gt(moved, 0);
    }
    gln_recording_close(recording);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

Test(trainer_router, a_bias_of_rate_0_changes_nothing)
{
    fixture_t f;
    make_folder(&f);
    OPEN(&f, "router.policy=deepseek_v3", "router.k=2", "router.bias_rate=0");
    steps(&f, 2);
    for (int e = 0; e < EXPERTS; e++)
        cr_assert_eq(parameter(&f, "layers.0.moe.bias")[e], 0);
    close_trainer(&f);
    OPEN(&f, "router.k=2");
    cr_assert_null(parameter(&f, "layers.0.moe.bias"), "other policies have no such parameter");
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

Test(trainer_router, evaluation_by_another_policy_uses_the_same_weights)
{
    fixture_t f;
    gln_eval_report_t dropless, causal, tight;
    make_folder(&f);
    OPEN(&f, "router.policy=deepseek_v3", "router.k=2", "router.bias_rate=0.05");
    steps(&f, 20);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &dropless), GLN_OK);
    cr_assert_eq(dropless.ledger.dropped, 0);
    close_trainer(&f);
    OPEN(&f, "router.policy=deepseek_v3", "router.k=2", "router.bias_rate=0.05",
         "eval.policy=topk");
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &causal), GLN_OK);
    cr_assert_neq(causal.loss, dropless.loss);
    close_trainer(&f);
    OPEN(&f, "router.policy=deepseek_v3", "router.k=2", "router.bias_rate=0.05",
         "eval.routing=train", "eval.capacity_factor=0.5");
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &tight), GLN_OK);
    cr_assert_gt(tight.ledger.dropped, 0);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

Test(trainer_router, evaluation_as_trained_follows_the_schedule)
{
    fixture_t f;
    gln_eval_report_t tight, wide;
    make_folder(&f);
    OPEN(&f, "eval.routing=train", "router.capacity_schedule=0:0.5,1:2.0", "router.rectify_from=1");
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &tight), GLN_OK);
    cr_assert_gt(tight.ledger.dropped, 0, "no rectification yet");
    steps(&f, 1);
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &wide), GLN_OK);
    cr_assert_eq(wide.ledger.dropped, 0);
    cr_assert_eq(wide.ledger.slots, 4 * tight.ledger.slots);
    close_trainer(&f);
    gln_test_folder_close(f.folder);
}

/* With one domain both balances are the same bits; with two they differ once domains are unlike. */
Test(trainer_router, balance_over_all_domains)
{
    fixture_t f;
    gln_step_report_t r[2];
    make_folder(&f);
    OPEN(&f, "parallel.domains=1");
    r[0] = steps(&f, 3);
    close_trainer(&f);
    OPEN(&f, "parallel.domains=1", "router.balance=global");
    r[1] = steps(&f, 3);
    close_trainer(&f);
    cr_assert_eq(memcmp(&r[0].balance_loss, &r[1].balance_loss, sizeof(double)), 0);
    cr_assert_eq(memcmp(&r[0].loss, &r[1].loss, sizeof(double)), 0);
    OPEN(&f, "router.balance=domain");
    r[0] = steps(&f, 1);
    close_trainer(&f);
    OPEN(&f, "router.balance=global");
    r[1] = steps(&f, 1);
    close_trainer(&f);
    cr_assert_eq(r[0].loss, r[1].loss, "before the first update");
    cr_assert_neq(r[0].grad_norm, r[1].grad_norm);
    cr_assert_lt(r[1].balance_loss, r[0].balance_loss, "domains are less even than their sum");
    gln_test_folder_close(f.folder);
}
