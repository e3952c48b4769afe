/* The Mixtral layout: names, config.json, and reading. Every tensor is checked first, then copied
 * element by element: linear in the bytes read; transposed in tiles, so that both sides stay in
 * cache. */
#include "moe/mixtral_internal.h"

#include "base/log.h"
#include "moe/checkpoint_internal.h"
#include "moe/file.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TILE = 32, FILES_MAX = 4096 };

/* ---- names ----------------------------------------------------------------------------------- */

static int one(gln_mixtral_part_t *part, const gln_param_t *p, int transposed, const char *name)
{
    *part = (gln_mixtral_part_t){
        .rows = p->dims[0], .cols = p->dims_count == 2 ? p->dims[1] : 0, .transposed = transposed};
    snprintf(part->name, sizeof part->name, "%s.weight", name);
    return 1;
}

/* A part of a block: "model.layers.N.NAME.weight". */
static void block_part(gln_mixtral_part_t *part, const gln_param_t *p, int layer, const char *name,
                       int64_t first, int64_t cols)
{
    *part = (gln_mixtral_part_t){
        .rows = p->dims[0], .first = first, .cols = cols, .transposed = cols > 0};
    snprintf(part->name, sizeof part->name, "model.layers.%d.%s.weight", layer, name);
}

static int expert_parts(const gln_param_t *p, int layer, const char *suffix,
                        gln_mixtral_part_t *parts)
{
    char name[64];
    const int is_down = !strcmp(suffix, "down");
    const int64_t f = p->dims[1] / 2;
    snprintf(name, sizeof name, "block_sparse_moe.experts.%d.%s", p->expert, is_down ? "w2" : "w1");
    block_part(&parts[0], p, layer, name, 0, is_down ? p->dims[1] : f);
    if (is_down) return 1;
    snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w3", p->expert);
    block_part(&parts[1], p, layer, name, f, f);
    return 2;
}

int gln_mixtral_parts(const gln_mixtral_config_t *config, const gln_param_t *p,
                      gln_mixtral_part_t *parts)
{
    int layer = 0, at = 0;
    if (!strcmp(p->name, "embed")) return one(parts, p, 0, "model.embed_tokens");
    if (!strcmp(p->name, "norm")) return one(parts, p, 0, "model.norm");
    if (!strcmp(p->name, "head")) return one(parts, p, 1, "lm_head");
    if (p->state || sscanf(p->name, "layers.%d.%n", &layer, &at) != 1 || at == 0) return 0;
    const char *rest = p->name + at;
    if (p->expert >= 0) return expert_parts(p, layer, strrchr(p->name, '.') + 1, parts);
    if (!strcmp(rest, "attn.qkv")) {
        const int64_t q = config->heads * config->head_dim,
                      kv = config->kv_heads * config->head_dim;
        block_part(&parts[0], p, layer, "self_attn.q_proj", 0, q);
        block_part(&parts[1], p, layer, "self_attn.k_proj", q, kv);
        block_part(&parts[2], p, layer, "self_attn.v_proj", q + kv, kv);
        return 3;
    }
    static const char *const names[][2] = {{"attn_norm", "input_layernorm"},
                                           {"attn.out", "self_attn.o_proj"},
                                           {"ffn_norm", "post_attention_layernorm"},
                                           {"moe.gate", "block_sparse_moe.gate"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(rest, names[i][0])) continue;
        block_part(parts, p, layer, names[i][1], 0, p->dims_count == 2 ? p->dims[1] : 0);
        return 1;
    }
    return 0;
}

/* ---- config.json ----------------------------------------------------------------------------- */

static gln_status_t bad_key(const char *path, const char *key, const char *expected)
{
    return gln_fail(GLN_ERR_CHECKPOINT, "%s: %s: expected %s", path, key, expected);
}

static gln_status_t get_integer(const char *path, const json_t *root, const char *key,
                                int64_t least, int64_t *out)
{
    const json_t *value = json_object_get(root, key);
    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > INT32_MAX)
        return bad_key(path, key, "a positive integer");
    *out = json_integer_value(value);
    return GLN_OK;
}

static int is_default_rope(const json_t *rope)
{
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    if (!type) type = json_string_value(json_object_get(rope, "type"));
    return !type || !strcmp(type, "default");
}

/* Newer files have rope_parameters {rope_theta, rope_type}, older ones rope_theta and rope_scaling.
 */
static gln_status_t read_rope(const char *path, const json_t *root, gln_mixtral_config_t *c)
{
    const json_t *rope = json_object_get(root, "rope_parameters");
    const json_t *scaling = json_object_get(root, "rope_scaling");
    const json_t *theta = json_object_get(json_is_object(rope) ? rope : root, "rope_theta");
    if (!is_default_rope(rope) || (json_is_object(scaling) && !is_default_rope(scaling)))
        return bad_key(path, "rope_parameters", "rotary positions without scaling (type default)");
    if (!json_is_number(theta) || !(json_number_value(theta) >= 1))
        return bad_key(path, "rope_theta", "a number of 1 or more");
    c->rope_theta = json_number_value(theta);
    return GLN_OK;
}

static gln_status_t read_choices(const char *path, const json_t *root, gln_mixtral_config_t *c)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    const char *act = json_string_value(json_object_get(root, "hidden_act"));
    const json_t *window = json_object_get(root, "sliding_window");
    const json_t *eps = json_object_get(root, "rms_norm_eps");
    if (!type || strcmp(type, "mixtral"))
        return gln_fail(GLN_ERR_CHECKPOINT, "%s: model_type: expected \"mixtral\", found \"%.40s\"",
                        path, type ? type : "none");
    if (act && strcmp(act, "silu"))
        return gln_fail(GLN_ERR_CHECKPOINT, "%s: hidden_act: expected \"silu\", found \"%.40s\"",
                        path, act);
    if (json_is_integer(window) && json_integer_value(window) < c->positions)
        return gln_fail(
            GLN_ERR_CHECKPOINT,
            "%s: sliding_window: expected null or at least max_position_embeddings = %lld, "
            "found %lld",
            path, (long long)c->positions, (long long)json_integer_value(window));
    if (!json_is_number(eps) || !(json_number_value(eps) > 0))
        return bad_key(path, "rms_norm_eps", "a positive number");
    c->norm_eps = json_number_value(eps);
    c->tied = json_is_true(json_object_get(root, "tie_word_embeddings"));
    return GLN_OK;
}

static gln_status_t read_sizes(const char *path, const json_t *root, gln_mixtral_config_t *c)
{
    const struct {
        const char *key;
        int64_t *out;
    } sizes[] = {{"vocab_size", &c->vocabulary},
                 {"hidden_size", &c->hidden},
                 {"num_hidden_layers", &c->layers},
                 {"num_attention_heads", &c->heads},
                 {"num_key_value_heads", &c->kv_heads},
                 {"num_local_experts", &c->experts},
                 {"intermediate_size", &c->expert_hidden},
                 {"num_experts_per_tok", &c->k},
                 {"max_position_embeddings", &c->positions}};
    gln_status_t status = GLN_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && status == GLN_OK; i++)
        status = get_integer(path, root, sizes[i].key, 1, sizes[i].out);
    if (status != GLN_OK) return status;
    c->head_dim = c->hidden / c->heads;
    if (json_is_integer(json_object_get(root, "head_dim")))
        status = get_integer(path, root, "head_dim", 1, &c->head_dim);
    return status;
}

gln_status_t gln_mixtral_config_read(const char *folder, gln_mixtral_config_t *out)
{
    char path[PATH_MAX];
    const void *text = NULL;
    size_t bytes = 0;
    json_error_t error;
    gln_mixtral_config_t c = {0};
    gln_status_t status = gln_path_join(folder, "config.json", path);
    if (status == GLN_OK) status = gln_file_map(path, &text, &bytes);
    if (status != GLN_OK) return status;
    json_t *root = text ? json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (!json_is_object(root)) {
        status = gln_fail(GLN_ERR_CHECKPOINT, "%s: expected a JSON object: %s", path,
                          text ? error.text : "the file is empty");
        goto close_file;
    }
    status = read_sizes(path, root, &c);
    if (status == GLN_OK) status = read_choices(path, root, &c);
    if (status == GLN_OK) status = read_rope(path, root, &c);
    if (status == GLN_OK) *out = c;
close_file:
    json_decref(root);
    gln_file_unmap(text, bytes);
    return status;
}

/* ---- files ------------------------------------------------------------------------------------
 */

typedef struct files {
    int count;
    gln_safetensors_t *files[FILES_MAX];
} files_t;

static void close_files(files_t *f)
{
    for (int i = 0; i < f->count; i++)
        gln_safetensors_close(f->files[i]);
    free(f);
}

static gln_status_t open_file(const char *folder, const char *name, files_t *f)
{
    char path[PATH_MAX];
    if (f->count == FILES_MAX)
        return gln_fail(GLN_ERR_CHECKPOINT, "%s: expected at most %d files", folder, FILES_MAX);
    if (strchr(name, '/') || !strcmp(name, ".."))
        return gln_fail(GLN_ERR_CHECKPOINT,
                        "%s: the index names '%.80s', which is no file of the folder", folder,
                        name);
    gln_status_t status = gln_path_join(folder, name, path);
    if (status == GLN_OK) status = gln_safetensors_open(path, &f->files[f->count]);
    if (status == GLN_OK) f->count++;
    return status;
}

/* The files that the index names, each once. */
static gln_status_t open_indexed(const char *folder, const char *path, files_t *f)
{
    const void *text = NULL;
    size_t bytes = 0;
    json_error_t error = {.text = "the file is empty"};
    json_t *root = NULL, *seen = NULL;
    const char *tensor;
    json_t *value;
    gln_status_t status = gln_file_map(path, &text, &bytes);
    if (status != GLN_OK) return status;
    if (text) root = json_loadb(text, bytes, 0, &error);
    seen = json_object();
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        status = gln_fail(GLN_ERR_CHECKPOINT, "%s: expected an object with a weight_map: %s", path,
                          root ? "it has none" : error.text);
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (status != GLN_OK) break;
        if (!name)
            status = gln_fail(GLN_ERR_CHECKPOINT, "%s: %.80s: expected the name of a file", path,
                              tensor);
        else if (!json_object_get(seen, name)) {
            json_object_set_new(seen, name, json_true());
            status = open_file(folder, name, f);
        }
    }
    json_decref(seen);
    json_decref(root);
    gln_file_unmap(text, bytes);
    return status;
}

static gln_status_t open_files(const char *folder, files_t **out)
{
    char path[PATH_MAX];
    files_t *f = calloc(1, sizeof *f);
    if (!f) return gln_fail(GLN_ERR_MEMORY, "no memory to read %s", folder);
    gln_status_t status = gln_path_join(folder, "model.safetensors.index.json", path);
    if (status == GLN_OK)
        status = access(path, F_OK) == 0 ? open_indexed(folder, path, f)
                                         : open_file(folder, "model.safetensors", f);
    if (status != GLN_OK)
        close_files(f);
    else
        *out = f;
    return status;
}

/* The one tensor of that name. */
static gln_status_t find(const char *folder, const files_t *f, const gln_mixtral_config_t *c,
                         gln_mixtral_part_t *part, gln_tensor_entry_t *entry)
{
    int found = 0;
    for (int i = 0; i < f->count && !found; i++)
        found = gln_safetensors_find(f->files[i], part->name, entry);
    if (!found && c->tied && !strcmp(part->name, "lm_head.weight")) {
        snprintf(part->name, sizeof part->name, "model.embed_tokens.weight");
        for (int i = 0; i < f->count && !found; i++)
            found = gln_safetensors_find(f->files[i], part->name, entry);
    }
    if (!found) return gln_fail(GLN_ERR_CHECKPOINT, "%s: has no tensor %s", folder, part->name);
    const int64_t dims[2] = {part->transposed ? part->cols : part->rows,
                             part->transposed ? part->rows : part->cols};
    const int count = part->cols ? 2 : 1;
    char expected[GLN_SHAPE_TEXT_MAX], shape[GLN_SHAPE_TEXT_MAX];
    if (!entry->raw && entry->tensor.dims_count == count && entry->tensor.dims[0] == dims[0] &&
        (count == 1 || entry->tensor.dims[1] == dims[1]))
        return GLN_OK;
    return gln_fail(GLN_ERR_CHECKPOINT,
                    "%s: %s: expected %s, or that shape in BF16 or F64, found %s", folder,
                    part->name, gln_shape_text("F32", count, dims, expected),
                    gln_shape_text(gln_safetensors_entry_dtype(entry), entry->tensor.dims_count,
                                   entry->tensor.dims, shape));
}

/* ---- reading -----------------------------------------------------------------------------------
 */

/* One element of a mapping that need not be aligned. */
static double load(const void *data, int64_t index, gln_dtype_t dtype)
{
    double aligned;
    memcpy(&aligned, gln_at(data, index, dtype), gln_dtype_bytes(dtype));
    return gln_load(&aligned, 0, dtype);
}

static void copy_part(const gln_params_t *params, const gln_param_t *p,
                      const gln_mixtral_part_t *part, const gln_tensor_t *t)
{
    void *w = gln_param_w(params, p);
    const int64_t rows = part->rows, cols = part->cols ? part->cols : 1;
    const int64_t ld = p->dims_count == 2 ? p->dims[1] : 1;
    for (int64_t i0 = 0; i0 < rows; i0 += TILE)
        for (int64_t j0 = 0; j0 < cols; j0 += TILE)
            for (int64_t i = i0; i < rows && i < i0 + TILE; i++)
                for (int64_t j = j0; j < cols && j < j0 + TILE; j++)
                    gln_store(
                        w, i * ld + part->first + j, params->acc,
                        load(t->data, part->transposed ? j * rows + i : i * cols + j, t->dtype));
}

/* Visit every part of every parameter: check it, or copy what is held here. */
static gln_status_t visit(const char *folder, const gln_mixtral_config_t *c, const files_t *f,
                          const gln_params_t *params, int copy, int64_t *parts_count)
{
    gln_mixtral_part_t parts[GLN_MIXTRAL_PARTS_MAX];
    gln_tensor_entry_t entry;
    *parts_count = 0;
    for (int i = 0; i < params->count; i++) {
        const gln_param_t *p = &params->items[i];
        const int count = gln_mixtral_parts(c, p, parts);
        if (count == 0)
            return gln_fail(GLN_ERR_CHECKPOINT, "%s: a Mixtral has no parameter %s", folder,
                            p->name);
        for (int j = 0; j < count; j++) {
            gln_status_t status = find(folder, f, c, &parts[j], &entry);
            if (status != GLN_OK) return status;
            if (strcmp(parts[j].name, "model.embed_tokens.weight") || !strcmp(p->name, "embed"))
                ++*parts_count;
            if (copy && p->local) copy_part(params, p, &parts[j], &entry.tensor);
        }
    }
    return GLN_OK;
}

gln_status_t gln_mixtral_read(const char *folder, const gln_mixtral_config_t *config,
                              gln_params_t *params)
{
    files_t *f = NULL;
    int64_t wanted = 0, held = 0;
    int rank = 0;
    gln_status_t status = open_files(folder, &f);
    if (status == GLN_OK) status = visit(folder, config, f, params, 0, &wanted);
    for (int i = 0; f && i < f->count; i++)
        held += gln_safetensors_count(f->files[i]);
    if (status == GLN_OK && held != wanted)
        status = gln_fail(
            GLN_ERR_CHECKPOINT,
            "%s: expected %lld tensors of a Mixtral of %lld layers and %lld experts, found %lld",
            folder, (long long)wanted, (long long)config->layers, (long long)config->experts,
            (long long)held);
    status = gln_comm_agree(params->parallel->comm, status, &rank);
    if (status == GLN_OK) status = visit(folder, config, f, params, 1, &wanted);
    if (status == GLN_OK) gln_params_round(params);
    if (f) close_files(f);
    return status;
}
