/* `gleaner waste`: every cell of the grid is a training run from the seed on, evaluated twice on
 * the validation text: routed as in training, and without capacity (the weights are copied into a
 * second trainer). A stopped cell is begun anew. Every rank walks the same list of cells; rank 0
 * alone reads and writes the folder. Left time: seconds per cell and k so far. */
#include "launcher/waste.h"

#include "base/log.h"
#include "launcher/bind.h"
#include "launcher/command.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/run_folder.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "launcher/text.h"
#include "moe/gleaner.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct waste {
    const gln_arguments_t *arguments;
    gln_session_t session;
    gln_run_options_t run; /* of the first cell: folder and data files */
    gln_machine_t machine;
    gln_waste_grid_t grid;
    FILE *talk;   /* progress: standard output, or standard error where --json wants that */
    bool speaks;  /* rank 0 */
    bool stopped; /* by a signal */
    int failed;   /* cells whose numbers were not finite */
    double said;  /* clock of the last line of progress */
    double begin;
    int64_t work_done, work_all; /* in routes per token (k), of this process */
} waste_t;

static gln_status_t check_input(waste_t *w)
{
    gln_source_t source = {w->arguments->operands[0], w->arguments->sets, w->arguments->sets_count};
    char problem[512];
    gln_status_t status = gln_waste_grid_open(w->arguments, w->session.ranks, &w->grid);
    if (status == GLN_OK)
        status = gln_waste_cell_run(w->arguments, &w->grid.cells[0], w->session.ranks, &w->run);
    if (status != GLN_OK) return status;
    if (!w->run.data.valid[0])
        return gln_source_fail(&source, "data.valid", "must name a file: cells are compared on it");
    status = gln_source_check_file(&source, "data.train", w->run.data.train);
    if (status == GLN_OK) status = gln_source_check_file(&source, "data.valid", w->run.data.valid);
    if (status != GLN_OK) return status;
    gln_run_folder_problem(w->run.run.dir, problem, sizeof problem);
    if (problem[0])
        return gln_source_fail(&source, "run.dir", "cannot write to %s: %s", w->run.run.dir,
                               problem);
    return GLN_OK;
}

static gln_status_t open_folder(waste_t *w)
{
    char problem[512];
    if (!w->speaks) return GLN_OK;
    if (gln_run_folder_create(w->run.run.dir, problem, sizeof problem) != GLN_OK)
        return gln_fail(GLN_ERR_IO, "run.dir: cannot write to %s: %s", w->run.run.dir, problem);
    return gln_waste_read(w->run.run.dir, &w->grid);
}

/* Which cells are done, as rank 0 read it. */
static gln_status_t share_done(waste_t *w)
{
    int count = w->grid.cells_count;
    int64_t *done = calloc((size_t)count, sizeof *done);
    gln_status_t status = done ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "waste: out of memory");
    status = gln_session_agree(&w->session, status);
    for (int i = 0; done && i < count; i++)
        done[i] = w->speaks && w->grid.cells[i].done;
    if (status == GLN_OK) status = gln_comm_sum_i64(w->session.comm, done, count);
    for (int i = 0; status == GLN_OK && i < count; i++) {
        w->grid.cells[i].done = done[i] != 0;
        w->work_all += done[i] ? 0 : w->grid.cells[i].policy->k + 1;
    }
    free(done);
    return status;
}

static void print_start(const waste_t *w)
{
    int done = 0;
    for (int i = 0; i < w->grid.cells_count; i++)
        done += w->grid.cells[i].done;
    fprintf(w->talk, "gleaner %s, %s; %d rank%s of %d thread%s\n", gln_version(),
            w->machine.summary, w->session.ranks, w->session.ranks == 1 ? "" : "s",
            w->machine.threads, w->machine.threads == 1 ? "" : "s");
    for (int i = 0; i < w->grid.policies_count; i++)
        if (!w->grid.policies[i].known)
            fprintf(w->talk,
                    "skipped: %s: router.policy %s is unknown to run files of this build\n",
                    w->grid.policies[i].name,
                    gln_policy_name((gln_policy_t)w->grid.policies[i].policy));
    fprintf(w->talk, "%d cells of %lld steps, %d of them finished before (%s/cells.jsonl)\n",
            w->grid.cells_count, (long long)w->run.train.steps, done, w->run.run.dir);
}

static void print_progress(waste_t *w, const gln_waste_cell_t *cell, const gln_step_report_t *last)
{
    if (!w->speaks || gln_clock() - w->said < 20) return;
    char text[160];
    w->said = gln_clock();
    gln_waste_cell_text(cell, text, sizeof text);
    fprintf(w->talk, "      %s: step %lld/%lld, loss %.4f\n", text, (long long)last->step,
            (long long)w->run.train.steps, last->loss);
    fflush(w->talk);
}

static void print_cell(waste_t *w, int number)
{
    const gln_waste_cell_t *cell = &w->grid.cells[number];
    char text[160], left[32], pace[32];
    w->work_done += cell->policy->k + 1;
    w->said = gln_clock();
    gln_waste_cell_text(cell, text, sizeof text);
    double each = (w->said - w->begin) / (double)w->work_done;
    gln_text_duration(each * (double)(w->work_all - w->work_done), left, sizeof left);
    gln_text_duration(cell->result.seconds, pace, sizeof pace);
    fprintf(w->talk, "%3d/%d %s: %.4f bits/byte, dropless %.4f; took %s, left %s\n", number + 1,
            w->grid.cells_count, text, cell->result.bits_trained, cell->result.bits_dropless, pace,
            left);
    fflush(w->talk);
}

/* Whether any rank was asked to stop. */
static gln_status_t agree_stop(waste_t *w)
{
    int64_t asked = gln_session_stop_asked();
    gln_status_t status = gln_comm_sum_i64(w->session.comm, &asked, 1);
    w->stopped = asked > 0;
    return status;
}

static gln_status_t train(waste_t *w, gln_trainer_t *trainer, int64_t steps, gln_waste_cell_t *cell)
{
    gln_waste_result_t *r = &cell->result;
    int64_t tail = steps / 10 > 0 ? steps / 10 : 1;
    gln_status_t status = agree_stop(w);
    while (status == GLN_OK && !w->stopped && gln_trainer_at(trainer) < steps) {
        gln_step_report_t last;
        status = gln_trainer_step(trainer, &last);
        if (status != GLN_OK) break;
        gln_ledger_add(&r->ledger, &last.ledger);
        if (last.step > steps - tail) r->train_loss += last.loss / (double)tail;
        print_progress(w, cell, &last);
        status = agree_stop(w);
    }
    return status;
}

/* Bits per byte without capacity: the weights in a second trainer. */
static gln_status_t evaluate_dropless(waste_t *w, gln_trainer_t *trained,
                                      const gln_run_options_t *run, double *bits)
{
    gln_run_options_t dropless = *run;
    gln_trainer_t *trainer = NULL;
    gln_eval_report_t report;
    dropless.eval.routing = 0;
    gln_status_t status = gln_trainer_open(w->session.comm, &dropless, GLN_TRAINER_EVAL, &trainer);
    if (status != GLN_OK) return status;
    const gln_params_t *from = gln_model_params(gln_trainer_model(trained));
    gln_params_t *to = gln_model_params(gln_trainer_model(trainer));
    size_t element = gln_dtype_bytes(from->acc);
    memcpy(to->dense_w, from->dense_w, (size_t)from->dense_count * element);
    memcpy(to->expert_w, from->expert_w, (size_t)from->expert_count * element);
    gln_params_round(to);
    status = gln_trainer_evaluate(trainer, &report);
    if (status == GLN_OK) *bits = report.bits_per_byte;
    gln_trainer_close(trainer);
    return status;
}

static gln_status_t run_cell(waste_t *w, gln_waste_cell_t *cell)
{
    gln_run_options_t run;
    gln_trainer_t *trainer = NULL;
    gln_eval_report_t report;
    double begin = gln_clock();
    gln_status_t status = gln_waste_cell_run(w->arguments, cell, w->session.ranks, &run);
    status = gln_session_agree(&w->session, status);
    if (status != GLN_OK) return status;
    run.parallel.threads = w->machine.threads;
    memset(&cell->result, 0, sizeof cell->result);
    status = gln_trainer_open(w->session.comm, &run, GLN_TRAINER_TRAIN, &trainer);
    if (status == GLN_OK) status = train(w, trainer, run.train.steps, cell);
    if (status == GLN_OK && !w->stopped) {
        status = gln_trainer_evaluate(trainer, &report);
        if (status == GLN_OK)
            status = evaluate_dropless(w, trainer, &run, &cell->result.bits_dropless);
        if (status == GLN_OK) {
            cell->result.bits_trained = report.bits_per_byte;
            cell->result.seconds = gln_clock() - begin;
            cell->done = true;
        }
    }
    gln_trainer_close(trainer);
    return status;
}

static void print_words(const waste_t *w, FILE *file)
{
    const gln_run_options_t *r = &w->run;
    fprintf(file, "# Waste\n\n`gleaner waste %s", w->arguments->operands[0]);
    for (int i = 0; i < w->arguments->sets_count; i++)
        fprintf(file, " --set %s", w->arguments->sets[i]);
    static const gln_option_t lists[] = {GLN_OPTION_POLICIES, GLN_OPTION_CAPACITY,
                                         GLN_OPTION_UNBALANCED, GLN_OPTION_SEEDS};
    for (int i = 0; i < 4; i++)
        if (w->arguments->value[lists[i]])
            fprintf(file, " %s %s", gln_option_text(lists[i])->name, w->arguments->value[lists[i]]);
    fprintf(file, "`; seeds");
    for (int i = 0; i < w->grid.seeds_count; i++)
        fprintf(file, " %lld", (long long)w->grid.seeds[i]);
    fprintf(
        file,
        ".\nMachine: %s; %d rank%s. Model: hidden %lld, %lld layers, %lld experts of %lld, %lld "
        "domains; %lld steps of %lld tokens.\n\n",
        w->machine.summary, w->session.ranks, w->session.ranks == 1 ? "" : "s",
        (long long)r->model.hidden, (long long)r->model.layers, (long long)r->model.experts,
        (long long)r->model.expert_hidden, (long long)r->parallel.domains,
        (long long)r->train.steps, (long long)(r->train.batch * r->model.sequence));
}

/* Write a file aside and rename it. */
static gln_status_t write_file(const waste_t *w, const char *name, const gln_waste_row_t *rows,
                               int count)
{
    char path[GLN_RUN_PATH_MAX], partial[GLN_RUN_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/%s", w->run.run.dir, name);
    snprintf(partial, sizeof partial, "%s.partial", path);
    FILE *file = fopen(partial, "w");
    if (!file) return gln_fail(GLN_ERR_IO, "%s: cannot write: %s", partial, strerror(errno));
    if (!strcmp(name, "waste.svg")) {
        gln_waste_plot(rows, count, file);
    } else {
        print_words(w, file);
        gln_waste_print_markdown(rows, count, file);
    }
    bool bad = ferror(file) != 0;
    bad = fclose(file) != 0 || bad;
    if (!bad && rename(partial, path) == 0) return GLN_OK;
    gln_status_t status = gln_fail(GLN_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    unlink(partial);
    return status;
}

/* Table and plot of what is finished. @param last  print the table too */
static gln_status_t write_table(waste_t *w, bool last)
{
    int count;
    if (!w->speaks) return GLN_OK;
    gln_waste_row_t *rows = gln_waste_rows(&w->grid, &count);
    if (!rows) return gln_fail(GLN_ERR_MEMORY, "waste: out of memory for the table");
    gln_status_t status = write_file(w, "waste.md", rows, count);
    if (status == GLN_OK) status = write_file(w, "waste.svg", rows, count);
    if (status == GLN_OK && last && w->arguments->given[GLN_OPTION_JSON]) {
        status = gln_waste_print_json(rows, count, stdout);
    } else if (status == GLN_OK && last) {
        printf("\n");
        gln_waste_print(rows, count, stdout);
        printf("\ntable: %s/waste.md; plot: %s/waste.svg; cells: %s/cells.jsonl\n", w->run.run.dir,
               w->run.run.dir, w->run.run.dir);
    }
    free(rows);
    return status;
}

static gln_status_t finish_cell(waste_t *w, int number)
{
    if (!w->speaks) return GLN_OK;
    gln_status_t status = gln_waste_append(w->run.run.dir, &w->grid.cells[number]);
    if (status == GLN_OK) status = write_table(w, false);
    if (status == GLN_OK) print_cell(w, number);
    return status;
}

/* A cell that diverged has no result; the others are run all the same. */
static void pass_over(waste_t *w, int number)
{
    const gln_waste_cell_t *cell = &w->grid.cells[number];
    char text[160];
    gln_waste_cell_text(cell, text, sizeof text);
    if (w->speaks)
        fprintf(w->talk, "%3d/%d %s: failed: %s\n", number + 1, w->grid.cells_count, text,
                w->session.message[0] ? w->session.message : "numbers are not finite");
    gln_session_forget(&w->session);
    w->work_done += cell->policy->k + 1;
    w->failed++;
}

static gln_status_t loop(waste_t *w)
{
    gln_status_t status = GLN_OK;
    w->begin = w->said = gln_clock();
    for (int i = 0; status == GLN_OK && i < w->grid.cells_count; i++) {
        if (w->grid.cells[i].done) continue;
        status = run_cell(w, &w->grid.cells[i]);
        if (status == GLN_ERR_NUMERIC) { /* the same on every rank */
            pass_over(w, i);
            status = GLN_OK;
            continue;
        }
        status = gln_session_agree(&w->session, status);
        if (status != GLN_OK || w->stopped) break;
        status = gln_session_agree(&w->session, finish_cell(w, i));
        if (status == GLN_OK) status = agree_stop(w);
        if (w->stopped) break;
    }
    return gln_session_agree(&w->session, status);
}

static gln_status_t work(waste_t *w)
{
    gln_session_t *session = &w->session;
    gln_status_t status = gln_session_agree(session, check_input(w));
    if (status != GLN_OK) return status;
    gln_comm_set_timeout(session->comm, w->run.parallel.timeout_ms);
    status = gln_bind_run(session, &w->run, NULL);
    if (status != GLN_OK) return status;
    status = gln_machine_look(session->comm, (int)w->run.parallel.threads, &w->machine);
    status = gln_session_agree(session, status);
    if (status == GLN_OK) status = gln_session_agree(session, open_folder(w));
    if (status == GLN_OK) status = share_done(w);
    status = gln_session_agree(session, status);
    if (status != GLN_OK) return status;
    session->working = true;
    gln_session_catch_signals();
    if (w->speaks) print_start(w);
    status = loop(w);
    if (status != GLN_OK) return status;
    status = write_table(w, true);
    if (status == GLN_OK && w->speaks && w->stopped)
        fprintf(w->talk, "stopped by a signal; the same command goes on\n");
    if (status == GLN_OK && w->failed > 0)
        status = gln_fail(GLN_ERR_NUMERIC, "%d of %d cells failed, see above; the table lacks them",
                          w->failed, w->grid.cells_count);
    return gln_session_agree(session, status);
}

int gln_command_waste(const gln_arguments_t *arguments)
{
    static waste_t state;
    waste_t *w = &state;
    *w = (waste_t){.arguments = arguments};
    w->talk = arguments->given[GLN_OPTION_JSON] ? stderr : stdout;
    gln_session_start(&w->session);
    gln_status_t status = gln_session_join(&w->session);
    if (status != GLN_OK) return gln_session_leave(&w->session, status);
    w->speaks = w->session.rank == 0;
    status = work(w);
    gln_waste_grid_close(&w->grid);
    const int left = gln_session_leave(&w->session, status);
    return left == GLN_EXIT_OK && w->stopped ? GLN_EXIT_STOPPED : left;
}
