/* `gleaner eval`: loss of a checkpoint on a text, with the run file that lies beside it. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/bind.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/run_folder.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "launcher/text.h"
#include "moe/checkpoint.h"
#include <string.h>
#include <unistd.h>

typedef struct eval {
    gln_session_t session;
    gln_run_options_t run;
    gln_trainer_t *trainer;
    char config[GLN_RUN_PATH_MAX], checkpoint[GLN_RUN_PATH_MAX];
    const char *sets[GLN_ARGUMENTS_SETS_MAX + 1];
    char data_set[GLN_RUN_PATH_MAX];
} eval_t;

static bool readable(const char *path)
{
    return access(path, R_OK) == 0;
}

/* The checkpoint that an operand means, and the run file beside it. */
static gln_status_t locate(const gln_arguments_t *arguments, eval_t *e)
{
    const char *path = arguments->operands[0], *config = arguments->value[GLN_OPTION_CONFIG];
    char manifest[GLN_RUN_PATH_MAX], beside[GLN_RUN_PATH_MAX], above[GLN_RUN_PATH_MAX];
    snprintf(manifest, sizeof manifest, "%s/manifest.json", path);
    snprintf(beside, sizeof beside, "%s/config.yaml", path);
    snprintf(above, sizeof above, "%s/../../config.yaml", path);
    bool is_checkpoint = readable(manifest);
    if (is_checkpoint) {
        snprintf(e->checkpoint, sizeof e->checkpoint, "%s", path);
    } else {
        gln_status_t status = gln_checkpoint_latest(path, e->checkpoint, sizeof e->checkpoint);
        if (status != GLN_OK) return status;
    }
    const char *found = is_checkpoint ? above : beside;
    if (!config && !readable(found))
        return gln_fail(GLN_ERR_CONFIG, "%s: no run file there; name one with --config FILE",
                        found);
    snprintf(e->config, sizeof e->config, "%s", config ? config : found);
    return GLN_OK;
}

static gln_status_t load(const gln_arguments_t *arguments, eval_t *e)
{
    gln_source_t source = {e->config, e->sets, arguments->sets_count};
    memcpy(e->sets, arguments->sets, sizeof arguments->sets);
    if (arguments->value[GLN_OPTION_DATA]) {
        snprintf(e->data_set, sizeof e->data_set, "data.valid=%s",
                 arguments->value[GLN_OPTION_DATA]);
        e->sets[source.sets_count++] = e->data_set;
    }
    gln_status_t status = gln_run_options_load(source.path, source.sets, source.sets_count,
                                               e->session.ranks, &e->run);
    if (status != GLN_OK) return status;
    gln_comm_set_timeout(e->session.comm, e->run.parallel.timeout_ms);
    if (!e->run.data.valid[0])
        return gln_source_fail(&source, "data.valid",
                               "names no text to evaluate on; use --data FILE");
    return gln_source_check_file(&source, "data.valid", e->run.data.valid);
}

static gln_status_t print(const eval_t *e, const gln_eval_report_t *report, bool json)
{
    gln_data_glance_t glance = {0};
    int64_t bytes = 0, gzip = 0;
    gln_status_t status = gln_data_look(e->run.data.valid, &glance);
    bool byte_level = glance.is_bytes && e->run.model.vocabulary == 256;
    if (status == GLN_OK && byte_level)
        status = gln_text_gzip_bytes(e->run.data.valid, report->tokens + 1, &bytes, &gzip);
    if (status != GLN_OK) return status;
    double bits = bytes ? 8.0 * (double)gzip / (double)bytes : 0;
    if (json) {
        json_t *object = gln_figures_eval(report);
        json_object_set_new(object, "checkpoint", json_string(e->checkpoint));
        json_object_set_new(object, "data", json_string(e->run.data.valid));
        if (bytes) json_object_set_new(object, "gzip_bits_per_byte", gln_figures_real(bits));
        return gln_figures_print(object, stdout, "standard output");
    }
    char ledger[160];
    gln_figures_ledger_text(&report->ledger, ledger, sizeof ledger);
    printf("%s on %s\nloss %.4f nats per token over %lld tokens in %.1f s\n", e->checkpoint,
           e->run.data.valid, report->loss, (long long)report->tokens, report->seconds);
    if (byte_level) printf("%.4f bits per byte; gzip -9 needs %.4f\n", report->bits_per_byte, bits);
    printf("ledger, per cent: %s\n", ledger);
    return GLN_OK;
}

static gln_status_t evaluate(const gln_arguments_t *arguments, eval_t *e)
{
    gln_machine_t machine;
    gln_eval_report_t report;
    gln_session_t *session = &e->session;
    gln_status_t status = gln_session_agree(session, locate(arguments, e));
    if (status != GLN_OK) return status;
    status = gln_session_agree(session, load(arguments, e));
    if (status != GLN_OK) return status;
    status = gln_bind_run(session, &e->run, NULL);
    if (status != GLN_OK) return status;
    status = gln_machine_look(session->comm, (int)e->run.parallel.threads, &machine);
    status = gln_session_agree(session, status);
    if (status != GLN_OK) return status;
    e->run.parallel.threads = machine.threads;
    status = gln_trainer_open(session->comm, &e->run, GLN_TRAINER_EVAL, &e->trainer);
    status = gln_session_agree(session, status);
    if (status != GLN_OK) return status;
    status = gln_session_agree(session, gln_trainer_resume(e->trainer, e->checkpoint));
    if (status != GLN_OK) return status;
    session->working = true;
    status = gln_session_agree(session, gln_trainer_evaluate(e->trainer, &report));
    if (status != GLN_OK) return status;
    if (session->rank == 0) status = print(e, &report, arguments->given[GLN_OPTION_JSON]);
    return gln_session_agree(session, status);
}

int gln_command_eval(const gln_arguments_t *arguments)
{
    static eval_t eval;
    eval_t *e = &eval;
    *e = (eval_t){0};
    gln_session_start(&e->session);
    gln_status_t status = gln_session_join(&e->session);
    if (status == GLN_OK) status = evaluate(arguments, e);
    gln_trainer_close(e->trainer);
    return gln_session_leave(&e->session, status);
}
