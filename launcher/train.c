/* `gleaner train`: check everything, then create the run directory, then train. Nothing is written
 * before configuration, data, checkpoint and run directory were all found good. Every rank goes
 * through the same phases; after each that can fail on one rank alone, the ranks agree. */
#include "launcher/train.h"

#include "base/log.h"
#include "launcher/command.h"
#include "launcher/text.h"
#include "moe/checkpoint.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static gln_status_t fail_folder(gln_train_t *t, const char *problem)
{
    return gln_source_fail(
        &t->source, "run.dir",
        "cannot write to %s: %s; expected a folder that exists or can be created", t->run.run.dir,
        problem);
}

/* Before anything is opened: the folder as far as it can be judged without changing it. */
static gln_status_t check_folder(gln_train_t *t)
{
    char problem[512], latest[GLN_RUN_PATH_MAX];
    gln_run_folder_problem(t->run.run.dir, problem, sizeof problem);
    if (problem[0]) return fail_folder(t, problem);
    if (t->run.run.resume == 0) return GLN_OK; /* auto */
    gln_status_t status = gln_checkpoint_latest(t->run.run.dir, latest, sizeof latest);
    gln_session_forget(&t->session);
    if (status != GLN_OK) return GLN_OK;
    return gln_source_fail(
        &t->source, "run.resume",
        "never, but %s holds a run already (%s); set another run.dir, or auto to go on "
        "with it",
        t->run.run.dir, latest);
}

/* The steps of --record-routing. */
static gln_status_t read_record(gln_train_t *t)
{
    const char *text = t->arguments->value[GLN_OPTION_RECORD_ROUTING];
    int64_t last = 0;
    for (const char *at = text; text;) {
        char *end = NULL;
        errno = 0;
        int64_t step = *at >= '0' && *at <= '9' ? strtoll(at, &end, 10) : 0;
        if (step <= last || errno || (*end != ',' && *end != 0))
            return gln_fail(GLN_ERR_ARGUMENT,
                            "--record-routing: expected steps from 1 that grow, with commas "
                            "between them, such as 1,100,300; found \"%.200s\"",
                            text);
        if (step > t->run.train.steps)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "--record-routing: step %lld is past train.steps = %lld",
                            (long long)step, (long long)t->run.train.steps);
        if (t->record_count == GLN_TRAIN_RECORD_MAX)
            return gln_fail(GLN_ERR_ARGUMENT, "--record-routing: at most %d steps",
                            GLN_TRAIN_RECORD_MAX);
        t->record[t->record_count++] = last = step;
        if (*end == 0) return GLN_OK;
        at = end + 1;
    }
    return GLN_OK;
}

static gln_status_t check_input(gln_train_t *t)
{
    gln_status_t status = gln_run_options_load(t->source.path, t->source.sets, t->source.sets_count,
                                               t->session.ranks, &t->run);
    if (status != GLN_OK) return status;
    gln_comm_set_timeout(t->session.comm, t->run.parallel.timeout_ms);
    t->validates = t->run.data.valid[0] != 0;
    status = read_record(t);
    if (status == GLN_OK) status = check_folder(t);
    if (status == GLN_OK)
        status = gln_source_check_file(&t->source, "data.train", t->run.data.train);
    if (status == GLN_OK && t->validates)
        status = gln_source_check_file(&t->source, "data.valid", t->run.data.valid);
    return status;
}

/* Rank 0: the folder and its files, when all else is known to be good. */
static gln_status_t create_folder(gln_train_t *t)
{
    char problem[512];
    if (!t->speaks) return GLN_OK;
    if (gln_run_folder_create(t->run.run.dir, problem, sizeof problem) != GLN_OK)
        return fail_folder(t, problem);
    gln_status_t status = gln_run_folder_open_metrics(t->run.run.dir, t->first_step, &t->metrics);
    if (status != GLN_OK) return status;
    return gln_run_folder_write_config(&t->run);
}

/* All others: is it the same folder? */
static gln_status_t see_folder(gln_train_t *t)
{
    if (access(t->run.run.dir, W_OK | X_OK) == 0) return GLN_OK;
    return fail_folder(
        t, "rank 0 created it, here it is not seen or not writable; it must be on a file "
           "system that all nodes share");
}

static void find_changes(gln_train_t *t, char *changes, size_t size)
{
    gln_run_options_t before;
    changes[0] = 0;
    if (t->first_step == 0 || !t->speaks) return;
    gln_status_t status = gln_run_folder_read_config(t->run.run.dir, &before);
    gln_session_forget(&t->session);
    if (status != GLN_OK) return;
    /* the file holds resolved values but for these, which the loaded options have resolved */
    if (before.parallel.domains == 0) before.parallel.domains = t->run.parallel.domains;
    before.parallel.bind = t->run.parallel.bind;
    gln_run_options_changes(&before, &t->run, changes, size);
}

static void count_parameters(gln_train_t *t)
{
    const gln_params_t *params = gln_model_params(gln_trainer_model(t->trainer));
    int64_t expert = 0, dense = 0;
    for (int i = 0; i < params->count; i++)
        *(params->items[i].expert >= 0 ? &expert : &dense) += params->items[i].count;
    t->parameters = dense + expert;
    t->parameters_active = dense + expert / t->run.model.experts * t->run.router.k;
}

static gln_status_t prepare(gln_train_t *t)
{
    gln_data_glance_t glance = {0};
    char changes[1024];
    gln_status_t status = gln_session_agree(&t->session, check_input(t));
    if (status != GLN_OK) return status;
    status = gln_bind_run(&t->session, &t->run, &t->bind);
    if (status != GLN_OK) return status;
    status = gln_machine_look(t->session.comm, (int)t->run.parallel.threads, &t->machine);
    status = gln_session_agree(&t->session, status);
    if (status != GLN_OK) return status;
    gln_run_options_t opened = t->run; /* config.yaml keeps threads as they were asked for */
    opened.parallel.threads = t->machine.threads;
    gln_log_hold(1); /* what is wrong with the run is told when it is opened */
    if (gln_memory_look_ahead(&t->session, &opened, &t->planned) != GLN_OK)
        t->planned = (gln_memory_plan_t){0};
    gln_log_hold(0);
    status = gln_trainer_open(t->session.comm, &opened, GLN_TRAINER_TRAIN, &t->trainer);
    status = gln_session_agree(&t->session, status);
    if (status != GLN_OK) return status;
    status = gln_session_agree(&t->session, gln_trainer_resume(t->trainer, NULL));
    if (status != GLN_OK) return status;
    t->first_step = t->last.step = gln_trainer_at(t->trainer);
    if (t->first_step > 0) gln_resident_reset_peak(); /* pages of the checkpoint are the system's */
    find_changes(t, changes, sizeof changes);
    status = gln_session_agree(&t->session, create_folder(t));
    if (status != GLN_OK) return status;
    status = gln_session_agree(&t->session, see_folder(t));
    if (status != GLN_OK) return status;
    if (t->record_count > 0)
        status = gln_session_agree(&t->session,
                                   gln_trainer_record(t->trainer, t->record, t->record_count));
    if (status != GLN_OK) return status;
    t->session.working = true;
    if (t->validates && gln_data_look(t->run.data.valid, &glance) == GLN_OK)
        t->byte_level = glance.is_bytes && t->run.model.vocabulary == 256;
    count_parameters(t);
    return gln_session_agree(&t->session, t->speaks ? gln_train_print_start(t, changes) : GLN_OK);
}

static void add_step(gln_train_t *t)
{
    gln_ledger_add(&t->ledger, &t->last.ledger);
    t->tokens += t->last.tokens;
    t->step_seconds += t->last.seconds;
    t->gemm_seconds += t->last.gemm_seconds;
    t->exchange_seconds += t->last.exchange_seconds;
    t->router_seconds += t->last.router_seconds;
    t->flight_seconds += t->last.flight_seconds;
    t->hidden_seconds += t->last.hidden_seconds;
    t->line_tokens += t->last.tokens;
    t->line_seconds += t->last.seconds;
    t->line_steps++;
}

static gln_status_t evaluate(gln_train_t *t)
{
    gln_status_t status = gln_trainer_evaluate(t->trainer, &t->valid);
    if (status == GLN_OK) t->valid_step = gln_trainer_at(t->trainer);
    return status;
}

static gln_status_t save(gln_train_t *t)
{
    return gln_trainer_save(t->trainer, t->checkpoint, sizeof t->checkpoint);
}

/* One step and what is due after it. Trainer calls return the same status on every rank. */
static gln_status_t advance(gln_train_t *t)
{
    gln_status_t status = gln_trainer_step(t->trainer, &t->last);
    if (status != GLN_OK) return status;
    add_step(t);
    int64_t at = gln_trainer_at(t->trainer);
    bool last = at == t->run.train.steps;
    bool validate = t->validates && (last || (t->run.eval.every && at % t->run.eval.every == 0));
    if (validate) status = evaluate(t);
    if (status != GLN_OK) return status;
    bool log = last || validate || at == t->first_step + 1 || at % t->run.train.log_every == 0;
    if (log && t->speaks) status = gln_train_print_step(t, validate);
    if (log) status = gln_session_agree(&t->session, status);
    if (status != GLN_OK) return status;
    if (last || (t->run.train.checkpoint_every && at % t->run.train.checkpoint_every == 0))
        status = save(t);
    return status;
}

/* Whether any rank was asked to stop. */
static gln_status_t agree_stop(gln_train_t *t)
{
    int64_t asked = gln_session_stop_asked();
    gln_status_t status = gln_comm_sum_i64(t->session.comm, &asked, 1);
    t->stopped = asked > 0;
    return status;
}

static gln_status_t loop(gln_train_t *t)
{
    gln_status_t status = GLN_OK;
    t->begin = gln_clock();
    while (status == GLN_OK && !t->stopped && gln_trainer_at(t->trainer) < t->run.train.steps) {
        status = advance(t);
        if (status == GLN_OK) status = agree_stop(t);
    }
    if (status != GLN_OK) return status;
    if (t->stopped) return save(t);
    if (t->valid_step < 0 && t->validates) status = evaluate(t); /* the run was done already */
    return status == GLN_OK ? save(t) : status;
}

enum { SAMPLE_COUNT = 400 };

/* A few lines out of the finished model, on this rank alone. */
static gln_status_t draw_sample(gln_train_t *t, char *text, size_t size)
{
    static int32_t tokens[1 + SAMPLE_COUNT];
    gln_comm_t *self = NULL;
    gln_trainer_t *generator = NULL;
    gln_status_t status = gln_comm_open_self(&self);
    if (status != GLN_OK) return status;
    status = gln_trainer_open_generate(self, t->checkpoint, t->machine.threads, &generator);
    tokens[0] = '\n';
    if (status == GLN_OK) status = gln_trainer_generate(generator, tokens, 1, SAMPLE_COUNT, 0.7, 1);
    if (status == GLN_OK) gln_text_printable(tokens + 1, SAMPLE_COUNT, text, size);
    gln_trainer_close(generator);
    gln_comm_close(self);
    return status;
}

static gln_status_t finish(gln_train_t *t)
{
    static char sample[12 * SAMPLE_COUNT + 1];
    gln_status_t status = GLN_OK;
    status = gln_memory_measure(&t->session, &t->measured);
    if (status != GLN_OK) return status;
    gln_trainer_close(t->trainer); /* its memory is wanted for the sample */
    t->trainer = NULL;
    if (!t->speaks) return gln_session_agree(&t->session, GLN_OK);
    if (t->byte_level && !t->stopped) {
        status = gln_text_gzip_bytes(t->run.data.valid, t->valid.tokens + 1, &t->valid_bytes,
                                     &t->gzip_bytes);
        /* the validation predicts every byte but the first; generation computes in f32 */
        if (status == GLN_OK && gln_run_dtype(&t->run) != GLN_F64)
            status = draw_sample(t, sample, sizeof sample);
    }
    if (status == GLN_OK) status = gln_train_print_end(t, sample[0] ? sample : NULL);
    return gln_session_agree(&t->session, status);
}

int gln_command_train(const gln_arguments_t *arguments)
{
    static gln_train_t train;
    gln_train_t *t = &train;
    *t = (gln_train_t){.arguments = arguments, .valid_step = -1};
    t->source = (gln_source_t){arguments->operands[0], arguments->sets, arguments->sets_count};
    t->json = arguments->given[GLN_OPTION_JSON];
    gln_session_start(&t->session);
    t->session.timeout_ms = gln_run_options_timeout(t->source.path, t->source.sets,
                                                    t->source.sets_count, t->session.timeout_ms);
    gln_status_t status = gln_session_join(&t->session);
    if (status != GLN_OK) return gln_session_leave(&t->session, status);
    t->speaks = t->session.rank == 0;
    status = prepare(t);
    if (status == GLN_OK) {
        gln_session_catch_signals();
        status = gln_session_agree(&t->session, loop(t));
    }
    if (status == GLN_OK) status = finish(t);
    if (t->metrics) fclose(t->metrics);
    gln_trainer_close(t->trainer);
    const int left = gln_session_leave(&t->session, status);
    return left == GLN_EXIT_OK && t->stopped ? GLN_EXIT_STOPPED : left;
}
