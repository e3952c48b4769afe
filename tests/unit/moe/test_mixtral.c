/* Models that travel: a Mixtral made by transformers (tests/data/mixtral, made by make.py there)
 * gives the same logits, loss and gradients here, on both backends; a model written and read again
 * is the same bits, in one file and in several; what cannot be said, or is damaged, is refused with
 * one message and changes nothing. */
#include "base/log.h"
#include "moe/mixtral.h"
#include "moe/mixtral_internal.h"
#include "moe/safetensors.h"
#include "moe/trainer_internal.h"
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN GLN_TEST_DATA "/mixtral"

enum { BATCH = 2, SEQUENCE = 24 };

typedef struct fixture {
    gln_comm_t *comm;
    gln_trainer_t *trainer;
    gln_mixtral_config_t config;
    gln_run_options_t run;
} fixture_t;

static void load_run(const gln_mixtral_config_t *c, const char *more, gln_run_options_t *run)
{
    char sets[16][64];
    const char *list[20];
    int n = 0;
    const struct {
        const char *key;
        int64_t value;
    } integers[] = {{"model.vocabulary", c->vocabulary}, {"model.hidden", c->hidden},
                    {"model.layers", c->layers},         {"model.heads", c->heads},
                    {"model.kv_heads", c->kv_heads},     {"model.head_dim", c->head_dim},
                    {"model.experts", c->experts},       {"model.expert_hidden", c->expert_hidden},
                    {"model.sequence", SEQUENCE},        {"router.k", c->k}};
    for (; n < 10; n++)
        snprintf(sets[n], sizeof sets[n], "%s=%lld", integers[n].key, (long long)integers[n].value);
    snprintf(sets[n++], sizeof sets[0], "model.rope_theta=%.17g", c->rope_theta);
    snprintf(sets[n++], sizeof sets[0], "model.norm_eps=%.17g", c->norm_eps);
    for (int i = 0; i < n; i++)
        list[i] = sets[i];
    list[n++] = "router.policy=mixtral";
    list[n++] = "data.train=none";
    list[n++] = "run.dir=none";
    list[n++] = more;
    cr_assert_eq(gln_run_options_load(NULL, list, n, 1, run), GLN_OK, "%s", gln_last_error());
}

/* The golden model in a forward-only trainer. */
static void open_golden(fixture_t *f, const char *more)
{
    *f = (fixture_t){.comm = NULL};
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_mixtral_config_read(GOLDEN, &f->config), GLN_OK, "%s", gln_last_error());
    load_run(&f->config, more, &f->run);
    f->run.train.batch = f->run.parallel.domains;
    cr_assert_eq(gln_trainer_open(f->comm, &f->run, GLN_TRAINER_EVAL, &f->trainer), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_eq(gln_mixtral_read(GOLDEN, &f->config, gln_model_params(f->trainer->model)), GLN_OK,
                 "%s", gln_last_error());
}

static void close_golden(fixture_t *f)
{
    gln_trainer_close(f->trainer);
    gln_comm_close(f->comm);
}

static double golden_loss(void)
{
    json_t *root = json_load_file(GOLDEN "/golden.json", 0, NULL);
    const double loss = json_number_value(json_object_get(root, "loss"));
    json_decref(root);
    cr_assert_gt(loss, 1);
    return loss;
}

static const void *golden(const gln_safetensors_t *file, const char *name)
{
    gln_tensor_entry_t entry;
    cr_assert(gln_safetensors_find(file, name, &entry), "%s", name);
    return entry.tensor.data;
}

static float golden_at(const void *data, int64_t index)
{
    float value;
    memcpy(&value, (const char *)data + 4 * index, sizeof value);
    return value;
}

/* Gradients of all parts of one parameter against those of transformers, where recorded: relative
 * to the largest. */
static int check_gradient(const gln_mixtral_config_t *c, const gln_safetensors_t *file,
                          const gln_params_t *params, const gln_param_t *p)
{
    gln_mixtral_part_t parts[GLN_MIXTRAL_PARTS_MAX];
    const int count = gln_mixtral_parts(c, p, parts);
    const float *base = (p->expert >= 0 ? params->expert_grad : params->dense_grad)[0];
    int checked = 0;
    cr_assert_gt(count, 0, "%s", p->name);
    for (int i = 0; i < count; i++) {
        char name[GLN_MIXTRAL_NAME_MAX * 4];
        gln_tensor_entry_t entry;
        const gln_mixtral_part_t *part = &parts[i];
        const int64_t rows = part->rows, cols = part->cols ? part->cols : 1;
        double most = 0, worst = 0;
        snprintf(name, sizeof name, "grad.%s", part->name);
        if (!gln_safetensors_find(file, name, &entry)) continue;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < cols; k++) {
                const double want =
                    golden_at(entry.tensor.data, part->transposed ? k * rows + r : r * cols + k);
                const double got =
                    base[p->offset + r * (p->dims_count == 2 ? p->dims[1] : 1) + part->first + k];
                most = fmax(most, fabs(want));
                worst = fmax(worst, fabs(want - got));
            }
        cr_assert_gt(most, 0, "%s: golden gradient is zero", name);
        cr_assert_leq(worst, 1e-3 * most, "%s: off by %g of %g", name, worst, most);
        checked++;
    }
    return checked;
}

static void reproduce(gln_backend_t backend)
{
    gln_comm_t *comm = NULL;
    gln_pool_t *pool = NULL;
    gln_kernels_t *kernels = NULL;
    gln_parallel_t parallel;
    gln_mixtral_config_t c;
    gln_run_options_t run;
    gln_model_t *model = NULL;
    gln_safetensors_t *file = NULL;
    gln_model_result_t result;
    int32_t ids[BATCH * SEQUENCE], target[BATCH * SEQUENCE];
    cr_assert_eq(gln_comm_open_self(&comm), GLN_OK);
    cr_assert_eq(gln_pool_open(2, &pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(backend, GLN_F32, pool, &kernels), GLN_OK);
    cr_assert_eq(gln_mixtral_config_read(GOLDEN, &c), GLN_OK, "%s", gln_last_error());
    load_run(&c, "router.balance_coef=0", &run);
    run.router.z_coef = 0;
    cr_assert_eq(gln_parallel_open(comm, 1, 1, (int)c.experts, &parallel), GLN_OK);
    const gln_model_options_t options = gln_run_model_options(&run);
    cr_assert_eq(gln_model_open(&parallel, kernels, &options, BATCH, 1, NULL, &model), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_eq(gln_mixtral_read(GOLDEN, &c, gln_model_params(model)), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_eq(gln_safetensors_open(GOLDEN "/golden.safetensors", &file), GLN_OK);
    memcpy(ids, golden(file, "input_ids"), sizeof ids);
    memcpy(target, golden(file, "target"), sizeof target);
    const gln_model_call_t call = {.ids = ids,
                                   .target = target,
                                   .backward = 1,
                                   .loss_scale = 1.0 / (BATCH * SEQUENCE),
                                   .aux_scale = 1};
    cr_assert_eq(gln_model_run(model, &call, &result), GLN_OK, "%s", gln_last_error());

    cr_assert_float_eq(result.loss_sum / (double)result.tokens, golden_loss(), 1e-5);
    float *logits = malloc((size_t)c.vocabulary * sizeof *logits);
    const void *want = golden(file, "logits");
    double worst = 0;
    for (int64_t row = 0; row < BATCH * SEQUENCE; row++) {
        cr_assert_eq(gln_model_logits(model, row, logits), GLN_OK);
        for (int64_t v = 0; v < c.vocabulary; v++)
            worst = fmax(worst, fabs(logits[v] - golden_at(want, row * c.vocabulary + v)));
    }
    cr_assert_leq(worst, 1e-4, "logits are off by %g", worst);
    const gln_params_t *params = gln_model_params(model);
    int checked = 0;
    for (int i = 0; i < params->count; i++)
        checked += check_gradient(&c, file, params, &params->items[i]);
    cr_assert_eq(checked, 35, "found %d gradients", checked);
    free(logits);
    gln_safetensors_close(file);
    gln_model_close(model);
    gln_parallel_close(&parallel);
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    gln_comm_close(comm);
}

Test(mixtral, golden_on_the_reference)
{
    reproduce(GLN_BACKEND_REF);
}

Test(mixtral, golden_on_the_cpu)
{
    reproduce(GLN_BACKEND_CPU);
}

static int same_weights(const gln_params_t *a, const gln_params_t *b)
{
    return a->dense_count == b->dense_count && a->expert_count == b->expert_count &&
           !memcmp(a->dense_w, b->dense_w, (size_t)a->dense_count * 4) &&
           !memcmp(a->expert_w, b->expert_w, (size_t)a->expert_count * 4);
}

/* Written and read again, in one file and in many; in bf16 within its rounding. */
Test(mixtral, round_trip)
{
    const struct {
        const char *name;
        gln_dtype_t dtype;
        uint64_t file_bytes;
        int indexed;
    } cases[] = {{"whole", GLN_F32, 0, 0}, {"parts", GLN_F32, 30000, 1}, {"bf16", GLN_BF16, 0, 0}};
    char folder[GLN_TEST_PATH_MAX], path[GLN_TEST_PATH_MAX + 64];
    fixture_t f, other;
    open_golden(&f, "parallel.domains=1");
    open_golden(&other, "parallel.domains=2"); /* experts at other places */
    gln_test_folder_open(folder);
    const gln_params_t *params = gln_model_params(f.trainer->model);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gln_mixtral_config_t c;
        snprintf(path, sizeof path, "%s/new/%s", folder, cases[i].name);
        cr_assert_eq(gln_mixtral_write(path, &f.run, params, cases[i].dtype, cases[i].file_bytes),
                     GLN_OK, "%s", gln_last_error());
        cr_assert_eq(gln_mixtral_config_read(path, &c), GLN_OK, "%s", gln_last_error());
        cr_assert_eq(c.experts, f.config.experts);
        cr_assert_eq(c.k, f.config.k);
        cr_assert_eq(c.head_dim, f.config.head_dim);
        cr_assert_eq(c.positions, SEQUENCE);
        cr_assert_float_eq(c.rope_theta, f.config.rope_theta, 0);
        cr_assert_float_eq(c.norm_eps, f.config.norm_eps, 0);
        gln_params_t *read = gln_model_params(other.trainer->model);
        gln_params_init(read, 99);
        cr_assert_eq(gln_mixtral_read(path, &c, read), GLN_OK, "%s", gln_last_error());
        if (cases[i].dtype == GLN_F32)
            cr_assert(same_weights(params, read), "%s: other weights", cases[i].name);
        else {
            cr_assert_not(same_weights(params, read));
            for (int64_t j = 0; j < params->dense_count; j++) {
                const double w = ((const float *)params->dense_w)[j];
                cr_assert_leq(fabs(((const float *)read->dense_w)[j] - w), fabs(w) / 256);
            }
        }
        snprintf(path, sizeof path, "%s/new/%s/model.safetensors.index.json", folder,
                 cases[i].name);
        FILE *index = fopen(path, "r");
        cr_assert_eq(index != NULL, cases[i].indexed);
        if (index) fclose(index);
        snprintf(path, sizeof path, "%s/new/%s", folder, cases[i].name);
        cr_assert_eq(gln_mixtral_write(path, &f.run, params, GLN_F32, 0),
                     GLN_ERR_IO); /* is there */
    }
    close_golden(&other);
    close_golden(&f);
    gln_test_folder_close(folder);
}

/* A config.json that says one thing that this project has not. */
Test(mixtral, config_refused)
{
    const struct {
        const char *key, *value, *word;
    } cases[] = {
        {"model_type", "\"llama\"", "model_type"},
        {"hidden_act", "\"gelu\"", "hidden_act"},
        {"sliding_window", "16", "sliding_window"},
        {"num_local_experts", "0", "num_local_experts"},
        {"hidden_size", "\"many\"", "hidden_size"},
        {"rms_norm_eps", "null", "rms_norm_eps"},
        {"rope_parameters", "{\"rope_type\": \"yarn\", \"rope_theta\": 5000}", "rope_parameters"},
        {"rope_parameters", "{\"rope_type\": \"default\"}", "rope_theta"}};
    char folder[GLN_TEST_PATH_MAX], path[GLN_TEST_PATH_MAX + 64];
    gln_mixtral_config_t c = {.hidden = 7};
    gln_test_folder_open(folder);
    snprintf(path, sizeof path, "%s/config.json", folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root = json_load_file(GOLDEN "/config.json", 0, NULL);
        json_object_set_new(root, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        cr_assert_eq(json_dump_file(root, path, 0), 0);
        json_decref(root);
        cr_assert_eq(gln_mixtral_config_read(folder, &c), GLN_ERR_CHECKPOINT, "%s", cases[i].key);
        cr_assert_not_null(strstr(gln_last_error(), cases[i].word), "%s", gln_last_error());
        cr_assert_eq(c.hidden, 7, "changed on an error");
    }
    /* older files say theta outside, and no more */
    json_t *root = json_load_file(GOLDEN "/config.json", 0, NULL);
    json_object_del(root, "rope_parameters");
    json_object_set_new(root, "rope_theta", json_real(1234));
    cr_assert_eq(json_dump_file(root, path, 0), 0);
    json_decref(root);
    cr_assert_eq(gln_mixtral_config_read(folder, &c), GLN_OK, "%s", gln_last_error());
    cr_assert_float_eq(c.rope_theta, 1234, 0);
    FILE *file = fopen(path, "w");
    fputs("[1, 2", file);
    fclose(file);
    cr_assert_eq(gln_mixtral_config_read(folder, &c), GLN_ERR_CHECKPOINT);
    cr_assert_eq(gln_mixtral_config_read("/nonexistent", &c), GLN_ERR_IO);
    gln_test_folder_close(folder);
}

/* Weights of another shape, one too few, one too many: nothing changes. */
Test(mixtral, weights_refused)
{
    char folder[GLN_TEST_PATH_MAX], path[GLN_TEST_PATH_MAX + 64];
    gln_tensor_entry_t entries[128];
    gln_safetensors_t *file = NULL;
    fixture_t f;
    open_golden(&f, "parallel.domains=1");
    gln_params_t *params = gln_model_params(f.trainer->model);
    gln_test_folder_open(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    cr_assert_eq(gln_mixtral_read(folder, &f.config, params), GLN_ERR_IO); /* no file */
    cr_assert_eq(gln_safetensors_open(GOLDEN "/model.safetensors", &file), GLN_OK);
    const int count = gln_safetensors_count(file);
    cr_assert_lt(count, 127);
    const float first = ((const float *)params->dense_w)[0];
    for (int wrong = 0; wrong < 3; wrong++) {
        for (int i = 0; i < count; i++)
            entries[i] = gln_safetensors_entry(file, i);
        int n = count;
        if (wrong == 0) n--;
        if (wrong == 1)
            entries[n++] = (gln_tensor_entry_t){.name = "extra", .tensor = entries[0].tensor};
        if (wrong == 2) /* transposed: as many elements, another shape */
            for (int i = 0; i < count; i++)
                if (strstr(entries[i].name, "layers.1.block_sparse_moe.gate.")) {
                    const int64_t rows = entries[i].tensor.dims[0];
                    entries[i].tensor.dims[0] = entries[i].tensor.dims[1];
                    entries[i].tensor.dims[1] = rows;
                }
        cr_assert_eq(gln_safetensors_write(path, entries, n, NULL, NULL), GLN_OK);
        memset(params->dense_w, 0, sizeof(float));
        cr_assert_eq(gln_mixtral_read(folder, &f.config, params), GLN_ERR_CHECKPOINT, "case %d",
                     wrong);
        cr_assert_eq(((const float *)params->dense_w)[0], 0, "case %d changed weights", wrong);
    }
    cr_assert_not_null(strstr(gln_last_error(), "expected F32 [6, 32]"), "%s", gln_last_error());
    cr_assert_eq(gln_safetensors_write(path, entries, 0, NULL, NULL), GLN_OK);
    cr_assert_eq(gln_mixtral_read(folder, &f.config, params), GLN_ERR_CHECKPOINT);
    gln_safetensors_close(file);
    cr_assert_neq(first, 0);
    close_golden(&f);
    gln_test_folder_close(folder);
}

/* A tied output projection becomes a copy of the embedding. */
Test(mixtral, tied)
{
    char folder[GLN_TEST_PATH_MAX], path[GLN_TEST_PATH_MAX + 64];
    gln_tensor_entry_t entries[128];
    gln_safetensors_t *file = NULL;
    fixture_t f;
    int n = 0;
    open_golden(&f, "parallel.domains=1");
    gln_test_folder_open(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    cr_assert_eq(gln_safetensors_open(GOLDEN "/model.safetensors", &file), GLN_OK);
    for (int i = 0; i < gln_safetensors_count(file); i++) {
        entries[n] = gln_safetensors_entry(file, i);
        n += strcmp(entries[n].name, "lm_head.weight") != 0;
    }
    cr_assert_eq(gln_safetensors_write(path, entries, n, NULL, NULL), GLN_OK);
    gln_params_t *params = gln_model_params(f.trainer->model);
    cr_assert_eq(gln_mixtral_read(folder, &f.config, params), GLN_ERR_CHECKPOINT);
    f.config.tied = 1;
    cr_assert_eq(gln_mixtral_read(folder, &f.config, params), GLN_OK, "%s", gln_last_error());
    const float *embed = NULL, *head = NULL;
    for (int i = 0; i < params->count; i++) {
        if (!strcmp(params->items[i].name, "embed")) embed = gln_param_w(params, &params->items[i]);
        if (!strcmp(params->items[i].name, "head")) head = gln_param_w(params, &params->items[i]);
    }
    for (int64_t v = 0; v < f.config.vocabulary; v++)
        for (int64_t h = 0; h < f.config.hidden; h++)
            cr_assert_eq(embed[v * f.config.hidden + h], head[h * f.config.vocabulary + v]);
    gln_safetensors_close(file);
    close_golden(&f);
    gln_test_folder_close(folder);
}

/* Models that the layout cannot say. */
Test(mixtral, model_refused)
{
    fixture_t f;
    open_golden(&f, "parallel.domains=1");
    gln_run_options_t run = f.run;
    cr_assert_eq(gln_mixtral_check(&run), GLN_OK);
    run.model.shared_hidden = 8;
    cr_assert_eq(gln_mixtral_check(&run), GLN_ERR_CONFIG);
    run = f.run, run.model.moe_every = 2;
    cr_assert_eq(gln_mixtral_check(&run), GLN_ERR_CONFIG);
    run = f.run, run.router.policy = GLN_POLICY_DEEPSEEK_V3;
    cr_assert_eq(gln_mixtral_check(&run), GLN_ERR_CONFIG);
    run = f.run, run.router.weight = GLN_WEIGHT_P;
    cr_assert_eq(gln_mixtral_check(&run), GLN_ERR_CONFIG);
    cr_assert_eq(
        gln_mixtral_write("/tmp/never", &run, gln_model_params(f.trainer->model), GLN_F32, 0),
        GLN_ERR_CONFIG);
    cr_assert_eq(
        gln_mixtral_write("/tmp/never", &f.run, gln_model_params(f.trainer->model), GLN_F64, 0),
        GLN_ERR_ARGUMENT);
    close_golden(&f);
}
