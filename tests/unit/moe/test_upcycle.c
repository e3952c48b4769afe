/* A run that begins with a dense model, in a world of one: what is copied and what is not, the loss
 * it begins with, what is refused, going on. Over several ranks: tests/cli/test_upcycle.sh. */
#include "base/log.h"
#include "moe/trainer_internal.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS_MAX = 32, EXPERTS = 4 };

typedef struct fixture {
    char folder[GLN_TEST_PATH_MAX], text[GLN_TEST_PATH_MAX + 8], upcycle[600];
    gln_comm_t *comm;
    gln_trainer_t *dense, *trainer;
} fixture_t;

static gln_status_t open_run(fixture_t *f, const char *dir_name, const char *const *sets, int count,
                             gln_trainer_t **out)
{
    char train[600], valid[600], dir[600];
    const char *all[SETS_MAX] = {
        "model.hidden=16", "model.layers=2",         "model.heads=2",     "model.kv_heads=1",
        "model.experts=4", "model.expert_hidden=24", "model.sequence=16", "parallel.domains=2",
        "train.batch=8",   "train.lr=0.01",          "router.k=1"};
    gln_run_options_t run;
    int n = 11;
    snprintf(train, sizeof train, "data.train=%s", f->text);
    snprintf(valid, sizeof valid, "data.valid=%s", f->text);
    snprintf(dir, sizeof dir, "run.dir=%s/%s", f->folder, dir_name);
    all[n++] = train, all[n++] = valid, all[n++] = dir;
    for (int i = 0; i < count; i++)
        all[n++] = sets[i];
    cr_assert_leq(n, SETS_MAX);
    cr_assert_eq(gln_run_options_load(NULL, all, n, 1, &run), GLN_OK, "%s", gln_last_error());
    return gln_trainer_open(f->comm, &run, GLN_TRAINER_TRAIN, out);
}

#define OPEN(f, dir, out, ...)                      \
    open_run(f, dir, (const char *[]){__VA_ARGS__}, \
             (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(const char *)), out)

static gln_step_report_t steps(gln_trainer_t *trainer, int count)
{
    gln_step_report_t report;
    for (int i = 0; i < count; i++)
        cr_assert_eq(gln_trainer_step(trainer, &report), GLN_OK, "%s", gln_last_error());
    return report;
}

static double valid_loss(gln_trainer_t *trainer)
{
    gln_eval_report_t report;
    cr_assert_eq(gln_trainer_evaluate(trainer, &report), GLN_OK, "%s", gln_last_error());
    return report.loss;
}

/* A dense run of some steps in folder/dense; f->upcycle names it. */
static void begin(fixture_t *f, int count, const char *more)
{
    *f = (fixture_t){.comm = NULL};
    gln_test_folder_open(f->folder);
    snprintf(f->text, sizeof f->text, "%s/text", f->folder);
    snprintf(f->upcycle, sizeof f->upcycle, "train.upcycle=%s/dense", f->folder);
    FILE *file = fopen(f->text, "w");
    cr_assert_not_null(file);
    for (int i = 0; i < 40; i++)
        fprintf(file, "the %d gleaners follow the harvest and waste no ear of corn; ", i * i);
    fclose(file);
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(OPEN(f, "dense", &f->dense, "model.experts=1", "parallel.expert_replicas=2", more),
                 GLN_OK, "%s", gln_last_error());
    steps(f->dense, count);
    cr_assert_eq(gln_trainer_save(f->dense, NULL, 0), GLN_OK);
}

static void end(fixture_t *f)
{
    gln_trainer_close(f->trainer);
    gln_trainer_close(f->dense);
    gln_comm_close(f->comm);
    gln_test_folder_close(f->folder);
}

static const gln_param_t *find(gln_trainer_t *trainer, const char *name)
{
    const gln_params_t *p = gln_model_params(gln_trainer_model(trainer));
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return &p->items[i];
    return NULL;
}

/* Whether `param` has the weights that `other` has under `name`. */
static int same(gln_trainer_t *trainer, const gln_param_t *param, gln_trainer_t *other,
                const char *name)
{
    const gln_param_t *from = find(other, name);
    cr_assert_not_null(from, "%s", name);
    cr_assert_eq(from->count, param->count, "%s", name);
    return !memcmp(gln_param_w(gln_model_params(gln_trainer_model(trainer)), param),
                   gln_param_w(gln_model_params(gln_trainer_model(other)), from),
                   (size_t)param->count * sizeof(float));
}

static int all_zero(const void *data, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (((const float *)data)[i] != 0) return 0;
    return 1;
}

static void check_copies(fixture_t *f, gln_trainer_t *scratch)
{
    const gln_params_t *p = gln_model_params(gln_trainer_model(f->trainer));
    int experts = 0, gates = 0, others = 0;
    for (int i = 0; i < p->count; i++) {
        const gln_param_t *param = &p->items[i];
        char name[GLN_PARAM_NAME_MAX];
        strcpy(name, param->name);
        cr_assert(all_zero(gln_param_m(p, param), param->count), "%s", name);
        cr_assert(all_zero(gln_param_v(p, param), param->count), "%s", name);
        if (param->state || strstr(name, "moe.gate")) {
            cr_assert(same(f->trainer, param, scratch, name), "%s is as the seed says", name);
            gates++;
            continue;
        }
        if (param->expert >= 0) { /* one digit: few experts */
            strstr(name, "experts.")[8] = '0';
            experts++;
        } else {
            others++;
        }
        cr_assert(same(f->trainer, param, f->dense, name), "%s from %s", param->name, name);
    }
    cr_assert_eq(experts, 2 * 2 * EXPERTS);
    cr_assert_eq(gates, 2 * 2, "gate and bias");
    cr_assert_eq(others, 3 + 2 * 4);
}

Test(upcycle, copies_are_exact)
{
    fixture_t f;
    gln_trainer_t *scratch = NULL;
    begin(&f, 3, "router.policy=topk");
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle, "router.policy=deepseek_v3"), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_eq(OPEN(&f, "scratch", &scratch, "router.policy=deepseek_v3"), GLN_OK);
    cr_assert_eq(gln_trainer_at(f.trainer), 0);
    check_copies(&f, scratch);
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK, "there is nothing to resume");
    check_copies(&f, scratch);
    gln_trainer_close(scratch);
    end(&f);
}

/* A token's weights sum to one and its experts are equal: it gets what the dense model gives. */
Test(upcycle, begins_with_the_dense_loss)
{
    static const char *const cases[][2] = {{"router.policy=topk", "router.k=4"},
                                           {"router.policy=topk", "router.k=1"},
                                           {"router.policy=mixtral", "router.k=2"},
                                           {"router.policy=topk", "parallel.expert_replicas=2"}};
    fixture_t f;
    begin(&f, 40, "router.policy=topk");
    const double wanted = valid_loss(f.dense);
    cr_assert_lt(wanted, 4.5, "the dense run learned something: %g", wanted);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle, cases[i][0], cases[i][1]), GLN_OK, "%s",
                     gln_last_error());
        cr_assert_float_eq(valid_loss(f.trainer), wanted, 1e-5, "%s %s", cases[i][0], cases[i][1]);
        gln_trainer_close(f.trainer);
    }
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle, "router.weight=p"), GLN_OK);
    cr_assert(fabs(valid_loss(f.trainer) - wanted) > 1e-3, "weight p scales the experts' output");
    end(&f);
}

/* Layers without experts are copied too; their size must be the dense run's. */
Test(upcycle, layers_without_experts)
{
    fixture_t f;
    begin(&f, 20, "model.moe_every=2");
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle, "model.moe_every=2", "router.k=2",
                      "model.dense_hidden=24"),
                 GLN_OK, "%s", gln_last_error());
    cr_assert_float_eq(valid_loss(f.trainer), valid_loss(f.dense), 1e-5);
    gln_trainer_close(f.trainer);
    f.trainer = NULL;
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle, "model.moe_every=2", "router.k=2"),
                 GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "expected model.dense_hidden 48, found 24") != NULL, "%s",
              gln_last_error());
    end(&f);
}

Test(upcycle, refuses_other_shapes)
{
    static const struct {
        const char *set, *more, *message;
    } cases[] = {
        {"model.hidden=32", "model.head_dim=8", "expected model.hidden 32, found 16"},
        {"model.layers=3", "train.steps=5", "expected model.layers 3, found 2"},
        {"model.heads=4", "model.head_dim=8", "expected model.heads 4, found 2"},
        {"model.kv_heads=2", "train.steps=5", "expected model.kv_heads 2, found 1"},
        {"model.expert_hidden=32", "train.steps=5", "expected model.expert_hidden 32, found 24"},
        {"model.vocabulary=300", "train.steps=5", "expected model.vocabulary 300, found 256"},
        {"model.shared_hidden=8", "train.steps=5", "expected model.shared_hidden 8, found 0"},
        {"parallel.dtype=f64", "parallel.backend=ref", "expected F64 [256, 16], found F32 [256"}};
    fixture_t f;
    char missing[700];
    begin(&f, 1, "router.policy=topk");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle, cases[i].set, cases[i].more),
                     GLN_ERR_CHECKPOINT, "%s", cases[i].set);
        cr_assert(strstr(gln_last_error(), cases[i].message) != NULL, "%s", gln_last_error());
    }
    snprintf(missing, sizeof missing, "train.upcycle=%s/nowhere", f.folder);
    cr_assert_eq(OPEN(&f, "run", &f.trainer, missing), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "found neither") != NULL, "%s", gln_last_error());
    end(&f);
}

Test(upcycle, refuses_a_model_with_experts)
{
    fixture_t f;
    gln_trainer_t *sparse = NULL;
    char from[700];
    begin(&f, 1, "router.policy=topk");
    cr_assert_eq(OPEN(&f, "sparse", &sparse, "router.policy=topk"), GLN_OK);
    cr_assert_eq(gln_trainer_save(sparse, NULL, 0), GLN_OK);
    gln_trainer_close(sparse);
    snprintf(from, sizeof from, "train.upcycle=%s/sparse", f.folder);
    cr_assert_eq(OPEN(&f, "run", &f.trainer, from), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "model.experts 1, found 4") != NULL, "%s", gln_last_error());
    end(&f);
}

/* Every byte is verified before a parameter changes. */
Test(upcycle, a_damaged_file_changes_nothing)
{
    fixture_t f;
    char path[800];
    begin(&f, 1, "router.policy=topk");
    cr_assert_eq(OPEN(&f, "run", &f.trainer, "router.policy=topk"), GLN_OK);
    const gln_params_t *p = gln_model_params(gln_trainer_model(f.trainer));
    const size_t dense = (size_t)p->dense_count * sizeof(float);
    const size_t expert = (size_t)p->expert_count * sizeof(float);
    char *before = malloc(dense + expert);
    cr_assert_not_null(before);
    memcpy(before, p->dense_w, dense);
    memcpy(before + dense, p->expert_w, expert);
    snprintf(path, sizeof path, "%s/dense/checkpoints/step-00000001/experts-00000.safetensors",
             f.folder);
    FILE *file = fopen(path, "r+");
    cr_assert_not_null(file, "%s", path);
    fseek(file, -1, SEEK_END); /* in a moment, which is not even wanted */
    fputc(0x55, file);
    fclose(file);
    strcpy(f.trainer->run.train.upcycle, strchr(f.upcycle, '=') + 1);
    cr_assert_eq(gln_trainer_upcycle(f.trainer), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "damaged") != NULL, "%s", gln_last_error());
    cr_assert_eq(memcmp(before, p->dense_w, dense), 0);
    cr_assert_eq(memcmp(before + dense, p->expert_w, expert), 0);
    free(before);
    end(&f);
}

/* Going on, the run needs its own checkpoint alone. */
Test(upcycle, goes_on_from_its_own_checkpoint)
{
    fixture_t f;
    gln_trainer_t *straight = NULL;
    char from[800], to[800];
    begin(&f, 5, "router.policy=topk");
    cr_assert_eq(OPEN(&f, "straight", &straight, f.upcycle), GLN_OK);
    const gln_step_report_t first = steps(straight, 1), wanted = steps(straight, 3);
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle), GLN_OK);
    steps(f.trainer, 2);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    gln_trainer_close(f.trainer);

    /* not resumed: from the dense model again */
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle), GLN_OK);
    const gln_step_report_t again = steps(f.trainer, 1);
    cr_assert_eq(memcmp(&again.loss, &first.loss, sizeof first.loss), 0);
    gln_trainer_close(f.trainer);

    snprintf(from, sizeof from, "%s/dense", f.folder);
    snprintf(to, sizeof to, "%s/moved", f.folder);
    cr_assert_eq(rename(from, to), 0);
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_at(f.trainer), 2);
    const gln_step_report_t found = steps(f.trainer, 2);
    cr_assert_eq(memcmp(&found.loss, &wanted.loss, sizeof wanted.loss), 0);
    cr_assert_eq(memcmp(&found.grad_norm, &wanted.grad_norm, sizeof wanted.loss), 0);
    gln_trainer_close(straight);
    end(&f);
}

static void refuse_resume(fixture_t *f, const char *dir, const char *set, const char *message)
{
    cr_assert_eq(OPEN(f, dir, &f->trainer, set), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_resume(f->trainer, NULL), GLN_ERR_CHECKPOINT, "%s", message);
    cr_assert(strstr(gln_last_error(), message) != NULL, "%s", gln_last_error());
    gln_trainer_close(f->trainer);
    f->trainer = NULL;
}

Test(upcycle, refuses_to_go_on_under_another_beginning)
{
    fixture_t f;
    begin(&f, 1, "router.policy=topk");
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle), GLN_OK);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK);
    steps(f.trainer, 1);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK, "the mark is kept");
    gln_trainer_close(f.trainer);
    cr_assert_eq(OPEN(&f, "scratch", &f.trainer, "router.policy=topk"), GLN_OK);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    gln_trainer_close(f.trainer);
    refuse_resume(&f, "run", "router.policy=topk", "train.upcycle is empty");
    refuse_resume(&f, "scratch", f.upcycle, "did not begin with a dense model");
    steps(f.dense, 1); /* the run folder's newest checkpoint is another now */
    cr_assert_eq(gln_trainer_save(f.dense, NULL, 0), GLN_OK);
    refuse_resume(&f, "run", f.upcycle, "began with another dense model");
    strcat(f.upcycle, "/checkpoints/step-00000001");
    cr_assert_eq(OPEN(&f, "run", &f.trainer, f.upcycle), GLN_OK);
    cr_assert_eq(gln_trainer_resume(f.trainer, NULL), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_at(f.trainer), 1);
    end(&f);
}
