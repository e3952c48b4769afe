/* Training in a world of one: it learns, accumulates, resumes and generates; errors of the calls.
 * The same over several ranks is tests/cli/test_bits.sh and test_resume.sh. */
#include "base/log.h"
#include "moe/trainer.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* A text that a small model learns within a few steps. */
static void write_text(const char *path, int repeats)
{
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    for (int i = 0; i < repeats; i++)
        fputs("the gleaners follow the harvest and waste no ear of corn; ", file);
    fclose(file);
}

typedef struct fixture {
    char folder[GLN_TEST_PATH_MAX], text[GLN_TEST_PATH_MAX + 8];
    gln_comm_t *comm;
    gln_run_options_t run;
    gln_trainer_t *trainer;
} fixture_t;

static void open_fixture(fixture_t *f, const char *const *overrides, int count)
{
    char train[600], valid[600], dir[600];
    const char *all[16] = {"model.hidden=16",   "model.layers=2",     "model.heads=2",
                           "model.kv_heads=1",  "model.experts=4",    "model.expert_hidden=24",
                           "model.sequence=16", "parallel.domains=2", "train.batch=8",
                           "train.lr=0.01"};
    snprintf(train, sizeof train, "data.train=%s", f->text);
    snprintf(valid, sizeof valid, "data.valid=%s", f->text);
    snprintf(dir, sizeof dir, "run.dir=%s/run", f->folder);
    int n = 10;
    all[n++] = train, all[n++] = valid, all[n++] = dir;
    for (int i = 0; i < count; i++)
        all[n++] = overrides[i];
    cr_assert_eq(gln_run_options_load(NULL, all, n, 1, &f->run), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_trainer_open(f->comm, &f->run, GLN_TRAINER_TRAIN, &f->trainer), GLN_OK, "%s",
                 gln_last_error());
}

static void close_fixture(fixture_t *f)
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

static void make_folder(fixture_t *f)
{
    gln_test_folder_open(f->folder);
    snprintf(f->text, sizeof f->text, "%s/text", f->folder);
    write_text(f->text, 40);
}

Test(trainer, learns)
{
    fixture_t f;
    gln_eval_report_t before, after;
    make_folder(&f);
    open_fixture(&f, NULL, 0);
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &before), GLN_OK);
    cr_assert_float_eq(before.bits_per_byte, 8.0, 0.3, "an untrained model knows nothing");
    const gln_step_report_t report = steps(&f, 150);
    cr_assert_eq(gln_trainer_evaluate(f.trainer, &after), GLN_OK);
    cr_assert_eq(after.tokens, 40 * 58 - 1, "all but the first byte are predicted");
    cr_assert_lt(after.bits_per_byte, 1.0);
    cr_assert_eq(report.step, 150);
    cr_assert_eq(report.tokens, 8 * 16);
    cr_assert_eq(report.ledger.tokens, 8 * 16 * 2);
    close_fixture(&f);
    gln_test_folder_close(f.folder);
}

/* Rows between domains in bf16: another run, half the bytes, and it learns as well. */
Test(trainer, learns_with_a_bf16_wire)
{
    fixture_t wide, narrow;
    gln_eval_report_t a, b;
    const char *bf16[] = {"parallel.wire=bf16"};
    make_folder(&wide);
    narrow = wide;
    open_fixture(&wide, NULL, 0);
    open_fixture(&narrow, bf16, 1);
    gln_step_report_t first = steps(&wide, 1), rounded = steps(&narrow, 1);
    cr_assert_neq(first.loss, rounded.loss);
    cr_assert_float_eq(first.loss, rounded.loss, 1e-3);
    cr_assert_eq(first.traffic.rank_bytes, first.traffic.rank_rows * 16 * 4);
    cr_assert_eq(rounded.traffic.rank_bytes, rounded.traffic.rank_rows * 16 * 2);
    steps(&wide, 149);
    steps(&narrow, 149);
    cr_assert_eq(gln_trainer_evaluate(wide.trainer, &a), GLN_OK);
    cr_assert_eq(gln_trainer_evaluate(narrow.trainer, &b), GLN_OK);
    cr_assert_lt(b.bits_per_byte, 1.0);
    cr_assert_float_eq(a.bits_per_byte, b.bits_per_byte, 0.1);
    close_fixture(&narrow);
    close_fixture(&wide);
    gln_test_folder_close(wide.folder);
}

/* All of it in bf16: another run, half the bytes, and it learns as well; what it learned can be
 * evaluated and generates text. */
Test(trainer, learns_in_bf16)
{
    fixture_t wide, narrow;
    gln_eval_report_t a, b;
    gln_trainer_t *writer = NULL;
    int32_t tokens[12 + 19];
    const char *prompt = "the gleaners", *bf16[] = {"parallel.dtype=bf16"};
    char text[20] = "";
    make_folder(&wide);
    narrow = wide;
    open_fixture(&wide, NULL, 0);
    open_fixture(&narrow, bf16, 1);
    gln_step_report_t first = steps(&wide, 1), rounded = steps(&narrow, 1);
    cr_assert_neq(first.loss, rounded.loss);
    cr_assert_float_eq(first.loss, rounded.loss, 1e-2);
    cr_assert_eq(rounded.traffic.rank_bytes, rounded.traffic.rank_rows * 16 * 2);
    steps(&wide, 199);
    steps(&narrow, 199);
    cr_assert_eq(gln_trainer_evaluate(wide.trainer, &a), GLN_OK);
    cr_assert_eq(gln_trainer_evaluate(narrow.trainer, &b), GLN_OK);
    cr_assert_lt(b.bits_per_byte, 1.0);
    cr_assert_float_eq(a.bits_per_byte, b.bits_per_byte, 0.1, "f32 %g, bf16 %g", a.bits_per_byte,
                       b.bits_per_byte);
    cr_assert_eq(gln_trainer_save(narrow.trainer, NULL, 0), GLN_OK);
    cr_assert_eq(gln_trainer_open_generate(narrow.comm, narrow.run.run.dir, 1, &writer), GLN_OK,
                 "%s", gln_last_error());
    for (int i = 0; i < 12; i++)
        tokens[i] = prompt[i];
    cr_assert_eq(gln_trainer_generate(writer, tokens, 12, 19, 0, 1), GLN_OK);
    for (int i = 0; i < 19; i++)
        text[i] = (char)tokens[12 + i];
    cr_expect_str_eq(text, " follow the harvest");
    gln_trainer_close(writer);
    close_fixture(&narrow);
    close_fixture(&wide);
    gln_test_folder_close(wide.folder);
}

/* A checkpoint of bf16 holds the f32 masters: f32 goes on from it, and bf16 from that. */
Test(trainer, bf16_and_f32_go_on_from_each_other)
{
    fixture_t narrow, wide, again;
    int64_t fine = 0; /* masters that no bf16 holds */
    const char *bf16[] = {"parallel.dtype=bf16"};
    make_folder(&narrow);
    wide = again = narrow;
    open_fixture(&narrow, bf16, 1);
    steps(&narrow, 3);
    cr_assert_eq(gln_trainer_save(narrow.trainer, NULL, 0), GLN_OK);
    open_fixture(&wide, NULL, 0);
    cr_assert_eq(gln_trainer_resume(wide.trainer, NULL), GLN_OK, "%s", gln_last_error());
    const gln_params_t *a = gln_model_params(gln_trainer_model(narrow.trainer));
    const gln_params_t *b = gln_model_params(gln_trainer_model(wide.trainer));
    cr_assert_arr_eq(a->dense_w, b->dense_w, (size_t)a->dense_count * 4);
    cr_assert_arr_eq(a->expert_w, b->expert_w, (size_t)a->expert_count * 4);
    cr_assert_arr_eq(a->expert_v, b->expert_v, (size_t)a->expert_count * 4);
    for (int64_t i = 0; i < a->expert_count; i++)
        fine += gln_load(a->expert_w, i, GLN_F32) != gln_load(a->expert_copy, i, GLN_BF16);
    cr_assert_gt(fine, a->expert_count / 2);
    close_fixture(&narrow);
    steps(&wide, 2);
    cr_assert_eq(gln_trainer_save(wide.trainer, NULL, 0), GLN_OK);
    open_fixture(&again, bf16, 1);
    cr_assert_eq(gln_trainer_resume(again.trainer, NULL), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_trainer_at(again.trainer), 5);
    const gln_step_report_t one = steps(&wide, 1), other = steps(&again, 1);
    cr_assert_neq(one.loss, other.loss);
    cr_assert_float_eq(one.loss, other.loss, 1e-2);
    close_fixture(&again);
    close_fixture(&wide);
    gln_test_folder_close(narrow.folder);
}

/* Micro-batches share the step's tokens: with no expert overflowing, they sum to the same gradient
 * up to rounding. */
Test(trainer, accumulation_is_the_same_step)
{
    fixture_t whole, parts;
    const char *dropless[] = {"router.capacity_factor=inf", "router.fill=false"};
    const char *two[] = {"router.capacity_factor=inf", "router.fill=false", "train.accumulation=2"};
    make_folder(&whole);
    parts = whole;
    open_fixture(&whole, dropless, 2);
    open_fixture(&parts, two, 3);
    const gln_step_report_t a = steps(&whole, 1), b = steps(&parts, 1);
    cr_assert_eq(a.tokens, b.tokens);
    cr_assert_float_eq(a.loss, b.loss, 1e-5);
    close_fixture(&parts);
    close_fixture(&whole);
    gln_test_folder_close(whole.folder);
}

static void resume_check(const char *const *sets, int count)
{
    fixture_t straight, first, second;
    make_folder(&straight);
    first = second = straight;
    open_fixture(&straight, sets, count);
    const gln_step_report_t want = steps(&straight, 7);
    open_fixture(&first, sets, count);
    steps(&first, 4);
    cr_assert_eq(gln_trainer_save(first.trainer, NULL, 0), GLN_OK);
    close_fixture(&first);
    open_fixture(&second, sets, count);
    cr_assert_eq(gln_trainer_resume(second.trainer, NULL), GLN_OK);
    cr_assert_eq(gln_trainer_at(second.trainer), 4);
    const gln_step_report_t got = steps(&second, 3);
    cr_assert_eq(memcmp(&got.loss, &want.loss, sizeof got.loss), 0, "%.17g, %.17g", got.loss,
                 want.loss);
    cr_assert_eq(memcmp(&got.grad_norm, &want.grad_norm, sizeof got.loss), 0);
    close_fixture(&second);
    close_fixture(&straight);
    gln_test_folder_close(straight.folder);
}

Test(trainer, resumes_where_it_stopped)
{
    const char *bf16[] = {"parallel.dtype=bf16"};
    resume_check(NULL, 0);
    resume_check(bf16, 1);
}

Test(trainer, refuses_other_data_and_other_seed)
{
    fixture_t f, other;
    const char *seed[] = {"train.seed=2"};
    make_folder(&f);
    open_fixture(&f, NULL, 0);
    steps(&f, 1);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    close_fixture(&f);
    other = f;
    open_fixture(&other, seed, 1);
    cr_assert_eq(gln_trainer_resume(other.trainer, NULL), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "seed") != NULL, "%s", gln_last_error());
    close_fixture(&other);
    write_text(f.text, 41);
    open_fixture(&other, NULL, 0);
    cr_assert_eq(gln_trainer_resume(other.trainer, NULL), GLN_ERR_CHECKPOINT);
    cr_assert(strstr(gln_last_error(), "other data") != NULL, "%s", gln_last_error());
    close_fixture(&other);
    gln_test_folder_close(f.folder);
}

Test(trainer, keeps_the_newest_checkpoints)
{
    fixture_t f;
    char path[1024];
    make_folder(&f);
    open_fixture(&f, NULL, 0); /* run.keep_checkpoints is 2 */
    for (int i = 0; i < 4; i++) {
        steps(&f, 1);
        cr_assert_eq(gln_trainer_save(f.trainer, path, sizeof path), GLN_OK);
    }
    cr_assert(strstr(path, "checkpoints/step-00000004") != NULL, "%s", path);
    for (int i = 1; i <= 4; i++) {
        snprintf(path, sizeof path, "%s/run/checkpoints/step-%08d/manifest.json", f.folder, i);
        FILE *file = fopen(path, "r");
        cr_assert_eq(file != NULL, i > 2, "%s", path);
        if (file) fclose(file);
    }
    close_fixture(&f);
    gln_test_folder_close(f.folder);
}

Test(trainer, generates_what_it_learned)
{
    fixture_t f;
    gln_trainer_t *writer = NULL;
    int32_t tokens[12 + 30];
    const char *prompt = "the gleaners";
    char text[31] = "";
    make_folder(&f);
    open_fixture(&f, NULL, 0);
    steps(&f, 200);
    cr_assert_eq(gln_trainer_save(f.trainer, NULL, 0), GLN_OK);
    cr_assert_eq(gln_trainer_open_generate(f.comm, f.run.run.dir, 1, &writer), GLN_OK, "%s",
                 gln_last_error());
    for (int i = 0; i < 12; i++)
        tokens[i] = prompt[i];
    cr_assert_eq(gln_trainer_generate(writer, tokens, 12, 30, 0, 1), GLN_OK);
    for (int i = 0; i < 30; i++)
        text[i] = (char)tokens[12 + i];
    cr_assert_str_eq(text, " follow the harvest and waste ");
    tokens[3] = 256;
    cr_assert_eq(gln_trainer_generate(writer, tokens, 12, 1, 0, 1), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_trainer_generate(writer, tokens, 0, 1, 0, 1), GLN_ERR_ARGUMENT);
    gln_trainer_close(writer);
    close_fixture(&f);
    gln_test_folder_close(f.folder);
}

Test(trainer, stops_when_the_loss_is_not_finite)
{
    fixture_t f;
    gln_step_report_t report;
    make_folder(&f);
    open_fixture(&f, NULL, 0);
    gln_params_t *p = gln_model_params(gln_trainer_model(f.trainer));
    const gln_param_t *head = &p->items[p->count - 1];
    cr_assert_str_eq(head->name, "head");
    ((float *)gln_param_w(p, head))[0] = NAN;
    cr_assert_eq(gln_trainer_step(f.trainer, &report), GLN_ERR_NUMERIC);
    cr_assert_eq(gln_trainer_at(f.trainer), 0);
    close_fixture(&f);
    gln_test_folder_close(f.folder);
}
