/* What a trainer saves and restores, and which checkpoints it keeps. */
#include "base/log.h"
#include "moe/file.h"
#include "moe/trainer_internal.h"
#include "moe/upcycle.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIELDS_MAX = 32, STATE_STEP = 0, STATE_SEED, STATE_DATA, STATE_DOMAINS, STATE_COUNT };

static void put(gln_checkpoint_field_t *f, int *n, const char *key, int is_model, int64_t value)
{
    f[(*n)++] = (gln_checkpoint_field_t){.key = key, .is_model = is_model, .integer = value};
}

static void put_real(gln_checkpoint_field_t *f, int *n, const char *key, double value)
{
    f[(*n)++] = (gln_checkpoint_field_t){.key = key, .is_model = 1, .is_real = 1, .real = value};
}

/* State first, then everything that describes the model. */
static int make_fields(const gln_run_options_t *run, gln_checkpoint_field_t *f)
{
    int n = 0;
    put(f, &n, "step", 0, 0);
    put(f, &n, "seed", 0, run->train.seed);
    put(f, &n, "data_hash", 0, 0);
    put(f, &n, "domains", 0, run->parallel.domains);
    put(f, &n, "vocabulary", 1, run->model.vocabulary);
    put(f, &n, "hidden", 1, run->model.hidden);
    put(f, &n, "layers", 1, run->model.layers);
    put(f, &n, "heads", 1, run->model.heads);
    put(f, &n, "kv_heads", 1, run->model.kv_heads);
    put(f, &n, "head_dim", 1, run->model.head_dim);
    put(f, &n, "experts", 1, run->model.experts);
    put(f, &n, "expert_hidden", 1, run->model.expert_hidden);
    put(f, &n, "dense_hidden", 1, run->model.dense_hidden);
    put(f, &n, "shared_hidden", 1, run->model.shared_hidden);
    put(f, &n, "moe_every", 1, run->model.moe_every);
    put(f, &n, "sequence", 0, run->model.sequence);
    put(f, &n, "k", 0, run->router.k);
    put(f, &n, "weight", 0, run->router.weight);
    put(f, &n, "policy", 0, run->router.policy);
    put(f, &n, "group_count", 0, run->router.group_count);
    put(f, &n, "group_topk", 0, run->router.group_topk);
    put_real(f, &n, "route_scale", run->router.route_scale);
    f[n - 1].is_model = 0;
    put_real(f, &n, "rope_theta", run->model.rope_theta);
    put_real(f, &n, "norm_eps", run->model.norm_eps);
    GLN_ASSERT(n <= FIELDS_MAX);
    return n;
}

static int64_t field(const gln_checkpoint_field_t *f, int n, const char *key)
{
    for (int i = 0; i < n; i++)
        if (strcmp(f[i].key, key) == 0) return f[i].integer;
    GLN_ASSERT(!"a known field");
    return 0;
}

/* ---- save ---------------------------------------------------------------------------------------
 */

static int is_checkpoint(const struct dirent *entry)
{
    return strncmp(entry->d_name, "step-", 5) == 0 && strchr(entry->d_name, '.') == NULL;
}

static void remove_old_checkpoints(const char *folder, int64_t keep)
{
    struct dirent **entries = NULL;
    int n = scandir(folder, &entries, is_checkpoint, alphasort);
    for (int i = 0; i < n; i++) {
        char path[2 * GLN_CONFIG_TEXT_MAX];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (i < n - keep)
            gln_folder_remove(path); /* failing leaves an old checkpoint, and says so */
        free(entries[i]);
    }
    free(entries);
}

gln_status_t gln_trainer_save(gln_trainer_t *x, char *path, size_t size)
{
    char folder[GLN_CONFIG_TEXT_MAX + 16], target[GLN_CONFIG_TEXT_MAX + 48];
    gln_checkpoint_field_t f[FIELDS_MAX];
    int n = make_fields(&x->run, f);
    gln_status_t status = GLN_OK;
    int rank = 0, exists = 0;
    if (x->upcycled) put(f, &n, GLN_UPCYCLE_FIELD, 0, x->upcycled);
    f[STATE_STEP].integer = x->at;
    f[STATE_DATA].integer = x->train ? (int64_t)gln_data_hash(x->train) : 0;
    snprintf(folder, sizeof folder, "%s/checkpoints", x->run.run.dir);
    snprintf(target, sizeof target, "%s/step-%08lld", folder, (long long)x->at);
    gln_comm_set_place(x->comm, "checkpoint", -1);
    if (x->parallel.rank == 0) {
        status = gln_folder_make(folder);
        exists = access(target, F_OK) == 0;
    }
    status = gln_comm_agree(x->comm, status, &rank);
    if (status == GLN_OK) status = gln_comm_broadcast(x->comm, &exists, sizeof exists, 0);
    if (status == GLN_OK && !exists)
        status = gln_checkpoint_write(target, gln_model_params(x->model), f, n);
    if (status != GLN_OK) return status;
    if (x->parallel.rank == 0 && x->run.run.keep_checkpoints > 0)
        remove_old_checkpoints(folder, x->run.run.keep_checkpoints);
    if (path) snprintf(path, size, "%s", target);
    status = gln_comm_barrier(x->comm);
    gln_comm_set_place(x->comm, NULL, -1);
    return status;
}

/* ---- start --------------------------------------------------------------------------------------
 */

gln_status_t gln_trainer_find(gln_trainer_t *x, int *found)
{
    char folder[GLN_CONFIG_TEXT_MAX + 16];
    struct dirent **entries = NULL;
    snprintf(folder, sizeof folder, "%s/checkpoints", x->run.run.dir);
    int n = x->parallel.rank == 0 ? scandir(folder, &entries, is_checkpoint, alphasort) : 0;
    for (int i = 0; i < n; i++)
        free(entries[i]);
    free(entries);
    *found = n > 0;
    return gln_comm_broadcast(x->comm, found, sizeof *found, 0);
}

gln_status_t gln_trainer_upcycle(gln_trainer_t *x)
{
    gln_checkpoint_field_t f[FIELDS_MAX];
    const int n = make_fields(&x->run, f);
    gln_status_t status =
        gln_upcycle_read(x->run.train.upcycle, gln_model_params(x->model), f, n, &x->upcycled);
    if (status == GLN_OK) x->upcycle_due = 0;
    return status;
}

/* ---- resume -------------------------------------------------------------------------------------
 */

/* A checkpoint without moments starts with those that the parameters have. */
static int same_name(const gln_param_t *param, char *name)
{
    strcpy(name, param->name);
    return 1;
}

static gln_status_t read_parameters(gln_trainer_t *x, const char *path, gln_checkpoint_field_t *f,
                                    int n)
{
    gln_params_t *params = gln_model_params(x->model);
    int rank = 0, moments = 1;
    gln_status_t status =
        x->parallel.rank == 0 ? gln_checkpoint_has_moments(path, &moments) : GLN_OK;
    status = gln_comm_agree(x->comm, status, &rank);
    if (status == GLN_OK) status = gln_comm_broadcast(x->comm, &moments, sizeof moments, 0);
    if (status != GLN_OK) return status;
    return moments ? gln_checkpoint_read(path, params, f, n)
                   : gln_checkpoint_read_as(path, params, f, n, same_name);
}

static gln_status_t check_state(gln_trainer_t *x, const char *path, const gln_checkpoint_field_t *f)
{
    if (x->mode != GLN_TRAINER_TRAIN || f[STATE_DATA].integer == 0) return GLN_OK;
    if ((uint64_t)f[STATE_DATA].integer != gln_data_hash(x->train))
        return gln_fail(
            GLN_ERR_CHECKPOINT,
            "%s: was trained on other data than %s; set data.train to the same text, or "
            "start in a fresh run.dir",
            path, x->run.data.train);
    if (f[STATE_SEED].integer != x->run.train.seed)
        return gln_fail(
            GLN_ERR_CHECKPOINT,
            "%s: was trained with train.seed %lld, found %lld; set it back, or start in a "
            "fresh run.dir",
            path, (long long)f[STATE_SEED].integer, (long long)x->run.train.seed);
    if (f[STATE_DOMAINS].integer != x->run.parallel.domains && x->parallel.rank == 0)
        gln_log(GLN_LOG_WARN,
                "%s: was trained with %lld domains, goes on with %lld: routing differs", path,
                (long long)f[STATE_DOMAINS].integer, (long long)x->run.parallel.domains);
    return GLN_OK;
}

gln_status_t gln_trainer_resume(gln_trainer_t *x, const char *path)
{
    char newest[PATH_MAX] = "";
    gln_checkpoint_field_t f[FIELDS_MAX];
    const int n = make_fields(&x->run, f);
    int rank = 0, found = 0;
    int64_t upcycled = 0;
    gln_status_t status = GLN_OK;
    if (!path) {
        status = gln_trainer_find(x, &found);
        if (status != GLN_OK) return status;
        if (found && x->parallel.rank == 0) path = x->run.run.dir;
    }
    if (path) status = gln_checkpoint_resolve(path, newest);
    status = gln_comm_agree(x->comm, status, &rank);
    if (status == GLN_OK) status = gln_comm_broadcast(x->comm, newest, sizeof newest, 0);
    if (status != GLN_OK || newest[0] == 0) return status;
    path = newest;
    f[STATE_DATA].integer = 0;
    status = gln_checkpoint_fields(path, f, STATE_COUNT);
    if (status == GLN_OK) status = check_state(x, path, f);
    if (status == GLN_OK && x->mode == GLN_TRAINER_TRAIN)
        status = gln_upcycle_check(path, x->run.train.upcycle, &upcycled);
    status = gln_comm_agree(x->comm, status, &rank);
    if (status == GLN_OK) status = read_parameters(x, path, f, n);
    if (status != GLN_OK) return status;
    x->at = f[STATE_STEP].integer;
    x->upcycled = upcycled;
    x->upcycle_due = 0;
    return GLN_OK;
}

/* ---- a model out of a checkpoint ----------------------------------------------------------------
 */

static void run_of_fields(const gln_checkpoint_field_t *f, int n, gln_run_options_t *run)
{
    run->model.vocabulary = field(f, n, "vocabulary");
    run->model.hidden = field(f, n, "hidden");
    run->model.layers = field(f, n, "layers");
    run->model.heads = field(f, n, "heads");
    run->model.kv_heads = field(f, n, "kv_heads");
    run->model.head_dim = field(f, n, "head_dim");
    run->model.experts = field(f, n, "experts");
    run->model.expert_hidden = field(f, n, "expert_hidden");
    run->model.dense_hidden = field(f, n, "dense_hidden");
    run->model.shared_hidden = field(f, n, "shared_hidden");
    run->model.moe_every = field(f, n, "moe_every");
    run->model.sequence = field(f, n, "sequence");
    run->router.k = field(f, n, "k");
    run->router.weight = (int)field(f, n, "weight");
    run->router.policy = (int)field(f, n, "policy");
    run->router.group_count = field(f, n, "group_count");
    run->router.group_topk = field(f, n, "group_topk");
    for (int i = 0; i < n; i++) {
        if (strcmp(f[i].key, "rope_theta") == 0) run->model.rope_theta = f[i].real;
        if (strcmp(f[i].key, "route_scale") == 0) run->router.route_scale = f[i].real;
        if (strcmp(f[i].key, "norm_eps") == 0) run->model.norm_eps = f[i].real;
    }
}

gln_status_t gln_trainer_open_generate(gln_comm_t *comm, const char *checkpoint, int threads,
                                       gln_trainer_t **out)
{
    char path[PATH_MAX];
    gln_run_options_t run;
    gln_checkpoint_field_t f[FIELDS_MAX];
    gln_trainer_t *x = NULL;
    if (gln_comm_size(comm) != 1)
        return gln_fail(GLN_ERR_ARGUMENT, "generation needs a world of one rank, found %d ranks",
                        gln_comm_size(comm));
    memset(&run, 0, sizeof run);
    const int n = make_fields(&run, f);
    gln_status_t status = gln_checkpoint_resolve(checkpoint, path);
    if (status == GLN_OK) status = gln_checkpoint_fields(path, f, n);
    if (status != GLN_OK) return status;
    run_of_fields(f, n, &run);
    if (run.router.policy == GLN_POLICY_EXPERT_CHOICE) /* has no causal form */
        run.router.policy = GLN_POLICY_TOPK;
    run.eval.capacity_factor = -1;
    run.router.capacity_factor = 1.0 / 0.0;
    run.router.ir_scope = 1;
    run.router.detach = 1;
    run.parallel.domains = run.parallel.expert_replicas = 1;
    run.parallel.threads = threads;
    run.train.batch = run.train.accumulation = 1;
    status = gln_trainer_open(comm, &run, GLN_TRAINER_EVAL, &x);
    if (status == GLN_OK) status = gln_trainer_resume(x, path);
    if (status != GLN_OK) {
        gln_trainer_close(x);
        return status;
    }
    *out = x;
    return GLN_OK;
}
