/* `gleaner ckpt export-hf` and `import-hf`: on one process and without MPI. Under mpirun the first
 * rank does it and the others leave. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/run_folder.h"
#include "launcher/session.h"
#include "moe/mixtral.h"
#include "moe/trainer.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- export ------------------------------------------------------------------------------------
 */

static gln_status_t read_dtype(const gln_arguments_t *arguments, gln_dtype_t *dtype)
{
    const char *text = arguments->value[GLN_OPTION_DTYPE];
    *dtype = text && !strcmp(text, "bf16") ? GLN_BF16 : GLN_F32;
    if (!text || !strcmp(text, "bf16") || !strcmp(text, "f32")) return GLN_OK;
    return gln_fail(GLN_ERR_ARGUMENT, "--dtype: expected f32 or bf16, found %.40s", text);
}

static gln_status_t export_model(const gln_arguments_t *arguments, gln_comm_t *comm)
{
    const char *folder = arguments->operands[1];
    gln_trainer_t *trainer = NULL;
    gln_dtype_t dtype;
    gln_status_t status = read_dtype(arguments, &dtype);
    if (status == GLN_OK)
        status = gln_trainer_open_generate(comm, arguments->operands[0], 1, &trainer);
    if (status != GLN_OK) return status;
    const gln_run_options_t *run = gln_trainer_run(trainer);
    status = gln_mixtral_write(folder, run, gln_model_params(gln_trainer_model(trainer)), dtype, 0);
    if (status == GLN_OK && arguments->given[GLN_OPTION_JSON])
        status = gln_figures_print(json_pack("{s:s, s:s, s:I, s:s}", "checkpoint",
                                             arguments->operands[0], "folder", folder, "step",
                                             (json_int_t)gln_trainer_at(trainer), "dtype",
                                             gln_dtype_name(dtype)),
                                   stdout, "standard output");
    else if (status == GLN_OK)
        printf("%s at step %lld -> %s (Mixtral, %s)\n", arguments->operands[0],
               (long long)gln_trainer_at(trainer), folder, gln_dtype_name(dtype));
    gln_trainer_close(trainer);
    return status;
}

/* ---- import ------------------------------------------------------------------------------------
 */

enum { OWN_SETS = 16, SET_MAX = GLN_CONFIG_TEXT_MAX + 32, SEQUENCE_MAX = 2048 };

typedef struct sets {
    char own[OWN_SETS][SET_MAX];
    const char *list[GLN_ARGUMENTS_SETS_MAX + OWN_SETS];
    int count;
} sets_t;

static void set_integer(sets_t *s, const char *key, int64_t value)
{
    snprintf(s->own[s->count], SET_MAX, "%s=%lld", key, (long long)value);
    s->list[s->count] = s->own[s->count];
    s->count++;
}

static void set_real(sets_t *s, const char *key, double value)
{
    snprintf(s->own[s->count], SET_MAX, "%s=%.17g", key, value);
    s->list[s->count] = s->own[s->count];
    s->count++;
}

/* The model's keys from the folder, all others as the caller sets them or by default. */
static gln_status_t make_run(const gln_arguments_t *arguments, const gln_mixtral_config_t *c,
                             gln_run_options_t *run)
{
    static sets_t sets;
    sets_t *s = &sets;
    char dir[SET_MAX];
    if (strlen(arguments->operands[1]) >= GLN_CONFIG_TEXT_MAX)
        return gln_fail(GLN_ERR_ARGUMENT, "RUN_DIR: expected a path below %d bytes",
                        GLN_CONFIG_TEXT_MAX);
    snprintf(dir, sizeof dir, "run.dir=%s", arguments->operands[1]);
    s->count = 0;
    set_integer(s, "model.vocabulary", c->vocabulary);
    set_integer(s, "model.hidden", c->hidden);
    set_integer(s, "model.layers", c->layers);
    set_integer(s, "model.heads", c->heads);
    set_integer(s, "model.kv_heads", c->kv_heads);
    set_integer(s, "model.head_dim", c->head_dim);
    set_integer(s, "model.experts", c->experts);
    set_integer(s, "model.expert_hidden", c->expert_hidden);
    set_integer(s, "model.sequence", c->positions < SEQUENCE_MAX ? c->positions : SEQUENCE_MAX);
    set_integer(s, "router.k", c->k);
    set_real(s, "model.rope_theta", c->rope_theta);
    set_real(s, "model.norm_eps", c->norm_eps);
    s->list[s->count++] = "router.policy=mixtral";
    s->list[s->count++] = "data.train=none";
    for (int i = 0; i < arguments->sets_count; i++)
        s->list[s->count++] = arguments->sets[i];
    s->list[s->count++] = dir;
    gln_status_t status = gln_run_options_load(NULL, s->list, s->count, 1, run);
    return status == GLN_OK ? gln_mixtral_check(run) : status;
}

/* The run folder must be new: weights of another origin beside a run's own would be mistaken for
 * them. */
static gln_status_t make_folder(const char *dir)
{
    char problem[256], path[GLN_RUN_PATH_MAX];
    snprintf(path, sizeof path, "%s/checkpoints", dir);
    if (access(path, F_OK) == 0)
        return gln_fail(GLN_ERR_IO, "%s: is there already; name a new run directory", path);
    if (gln_run_folder_create(dir, problem, sizeof problem) != GLN_OK)
        return gln_fail(GLN_ERR_IO, "%s: %s", dir, problem);
    return GLN_OK;
}

static gln_status_t import_model(const gln_arguments_t *arguments, gln_comm_t *comm)
{
    static gln_run_options_t run;
    const char *from = arguments->operands[0], *dir = arguments->operands[1];
    char path[GLN_RUN_PATH_MAX] = "";
    gln_mixtral_config_t config;
    gln_trainer_t *trainer = NULL;
    gln_status_t status = gln_mixtral_config_read(from, &config);
    if (status == GLN_OK) status = make_run(arguments, &config, &run);
    if (status != GLN_OK) return status;
    gln_run_options_t bare = run; /* weights alone: no text is opened */
    bare.data.valid[0] = 0;
    bare.train.batch = bare.parallel.domains * bare.train.accumulation;
    status = gln_trainer_open(comm, &bare, GLN_TRAINER_EVAL, &trainer);
    if (status != GLN_OK) return status;
    status = gln_mixtral_read(from, &config, gln_model_params(gln_trainer_model(trainer)));
    if (status == GLN_OK) status = make_folder(dir);
    if (status == GLN_OK) status = gln_run_folder_write_config(&run);
    if (status == GLN_OK) status = gln_trainer_save(trainer, path, sizeof path);
    if (status == GLN_OK && arguments->given[GLN_OPTION_JSON])
        status = gln_figures_print(
            json_pack("{s:s, s:s, s:s}", "folder", from, "run", dir, "checkpoint", path), stdout,
            "standard output");
    else if (status == GLN_OK)
        printf("%s -> %s\ngo on with it: gleaner train %s/config.yaml --set data.train=FILE\n",
               from, path, dir);
    gln_trainer_close(trainer);
    return status;
}

/* ------------------------------------------------------------------------------------------------
 */

static int run_alone(const gln_arguments_t *arguments,
                     gln_status_t (*work)(const gln_arguments_t *, gln_comm_t *))
{
    gln_session_t session;
    gln_comm_t *self = NULL;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    gln_session_start(&session);
    gln_status_t status = gln_comm_open_self(&self);
    if (status == GLN_OK) status = work(arguments, self);
    gln_comm_close(self);
    return gln_session_leave(&session, gln_session_agree(&session, status));
}

int gln_command_ckpt_export_hf(const gln_arguments_t *arguments)
{
    return run_alone(arguments, export_model);
}

int gln_command_ckpt_import_hf(const gln_arguments_t *arguments)
{
    return run_alone(arguments, import_model);
}
