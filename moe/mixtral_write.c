/* Writing the Mixtral layout. Parameters are taken in their order, part by part, into one buffer
 * per file, and a file is closed when the next part would make it larger than asked: memory beside
 * the weights is one file's worth. */
#include "moe/mixtral_internal.h"

#include "base/log.h"
#include "moe/checkpoint_internal.h"
#include "moe/file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TILE = 32 };

gln_status_t gln_mixtral_check(const gln_run_options_t *run)
{
    if (run->model.moe_every > 1)
        return gln_fail(
            GLN_ERR_CONFIG,
            "model.moe_every: a Mixtral has experts in every layer, expected 1, found %lld",
            (long long)run->model.moe_every);
    if (run->model.shared_hidden > 0)
        return gln_fail(
            GLN_ERR_CONFIG,
            "model.shared_hidden: a Mixtral has no shared expert, expected 0, found %lld",
            (long long)run->model.shared_hidden);
    if (run->router.policy != GLN_POLICY_TOPK && run->router.policy != GLN_POLICY_MIXTRAL &&
        run->router.policy != GLN_POLICY_EXPANDED_DROP)
        return gln_fail(
            GLN_ERR_CONFIG,
            "router.policy: a Mixtral routes by top-k; expected topk, mixtral or expanded_drop, "
            "found %s",
            gln_policy_name((gln_policy_t)run->router.policy));
    if (run->router.weight == GLN_WEIGHT_P)
        return gln_fail(
            GLN_ERR_CONFIG,
            "router.weight: a Mixtral normalises the weights of a token's routes; expected "
            "normalized or topk_softmax, found p");
    return GLN_OK;
}

/* ---- one file after the other ------------------------------------------------------------------
 */

typedef struct item {
    gln_mixtral_part_t part;
    const gln_param_t *param;
    int file;
    uint64_t offset, bytes; /* in that file's buffer */
} item_t;

typedef struct writing {
    const gln_params_t *params;
    gln_dtype_t dtype;
    int count, files; /* of items; of files */
    item_t *items;
    gln_tensor_entry_t *entries; /* of one file */
    uint64_t largest, total;     /* bytes of the largest file; of all */
    char *buffer;
    char partial[PATH_MAX];
} writing_t;

static gln_status_t list_items(const gln_mixtral_config_t *config, uint64_t file_bytes,
                               writing_t *w)
{
    gln_mixtral_part_t parts[GLN_MIXTRAL_PARTS_MAX];
    uint64_t at = 0;
    for (int i = 0; i < w->params->count; i++) {
        const gln_param_t *p = &w->params->items[i];
        const int count = gln_mixtral_parts(config, p, parts);
        if (p->state) continue;
        if (count == 0 || !p->local)
            return gln_fail(GLN_ERR_ARGUMENT, "%s: %s", p->name,
                            count ? "lives on another rank; write from one rank"
                                  : "a Mixtral has no such parameter");
        for (int j = 0; j < count; j++) {
            item_t *item = &w->items[w->count++];
            const int64_t elements = parts[j].rows * (parts[j].cols ? parts[j].cols : 1);
            item->bytes = (uint64_t)elements * gln_dtype_bytes(w->dtype);
            if (at > 0 && at + item->bytes > file_bytes) w->files++, at = 0;
            item->part = parts[j], item->param = p, item->file = w->files, item->offset = at;
            at += item->bytes;
            w->total += item->bytes;
            if (at > w->largest) w->largest = at;
        }
    }
    w->files++;
    return GLN_OK;
}

static void copy_part(const writing_t *w, const item_t *item)
{
    const gln_mixtral_part_t *part = &item->part;
    const void *from = gln_param_w(w->params, item->param);
    const int64_t rows = part->rows, cols = part->cols ? part->cols : 1;
    const int64_t ld = item->param->dims_count == 2 ? item->param->dims[1] : 1;
    void *to = w->buffer + item->offset;
    for (int64_t i0 = 0; i0 < rows; i0 += TILE)
        for (int64_t j0 = 0; j0 < cols; j0 += TILE)
            for (int64_t i = i0; i < rows && i < i0 + TILE; i++)
                for (int64_t j = j0; j < cols && j < j0 + TILE; j++)
                    gln_store(to, part->transposed ? j * rows + i : i * cols + j, w->dtype,
                              gln_load(from, i * ld + part->first + j, w->params->acc));
}

static void name_file(const writing_t *w, int file, char *name, size_t size)
{
    if (w->files == 1)
        snprintf(name, size, "model.safetensors");
    else
        snprintf(name, size, "model-%05d-of-%05d.safetensors", file + 1, w->files);
}

static gln_status_t write_file(const writing_t *w, int file)
{
    char name[64], path[PATH_MAX];
    int n = 0;
    for (int i = 0; i < w->count; i++) {
        const item_t *item = &w->items[i];
        const gln_mixtral_part_t *part = &item->part;
        if (item->file != file) continue;
        copy_part(w, item);
        gln_tensor_t t = {.data = w->buffer + item->offset,
                          .dtype = w->dtype,
                          .dims_count = part->cols ? 2 : 1,
                          .dims = {part->transposed ? part->cols : part->rows,
                                   part->transposed ? part->rows : part->cols}};
        w->entries[n++] = (gln_tensor_entry_t){.name = part->name, .tensor = t};
    }
    name_file(w, file, name, sizeof name);
    gln_status_t status = gln_path_join(w->partial, name, path);
    return status == GLN_OK ? gln_safetensors_write(path, w->entries, n, NULL, NULL) : status;
}

/* ---- the texts ---------------------------------------------------------------------------------
 */

static gln_status_t write_json(const char *folder, const char *name, json_t *root)
{
    char path[PATH_MAX];
    gln_file_writer_t writer;
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    if (!text) return gln_fail(GLN_ERR_MEMORY, "no memory for %s", name);
    gln_status_t status = gln_path_join(folder, name, path);
    if (status == GLN_OK) status = gln_file_writer_open(path, &writer);
    if (status == GLN_OK) {
        status = gln_file_writer_add(&writer, text, strlen(text));
        if (status == GLN_OK) status = gln_file_writer_add(&writer, "\n", 1);
        status = gln_file_writer_close(&writer, status, NULL, NULL);
    }
    free(text);
    return status;
}

/* Both forms of what newer and older readers look for: rope_parameters and rope_theta, dtype and
 * torch_dtype. */
static json_t *config_json(const gln_run_options_t *run, gln_dtype_t dtype)
{
    const char *type = dtype == GLN_BF16 ? "bfloat16" : "float32";
    json_t *root =
        json_pack("{s:[s], s:s, s:s, s:b, s:b, s:n, s:f}", "architectures", "MixtralForCausalLM",
                  "model_type", "mixtral", "hidden_act", "silu", "tie_word_embeddings", 0,
                  "output_router_logits", 0, "sliding_window", "attention_dropout", 0.0);
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {{"vocab_size", run->model.vocabulary},
                 {"hidden_size", run->model.hidden},
                 {"intermediate_size", run->model.expert_hidden},
                 {"num_hidden_layers", run->model.layers},
                 {"num_attention_heads", run->model.heads},
                 {"num_key_value_heads", run->model.kv_heads},
                 {"head_dim", run->model.head_dim},
                 {"num_local_experts", run->model.experts},
                 {"num_experts_per_tok", run->router.k},
                 {"max_position_embeddings", run->model.sequence}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        json_object_set_new(root, sizes[i].key, json_integer(sizes[i].value));
    json_object_set_new(root, "rms_norm_eps", json_real(run->model.norm_eps));
    json_object_set_new(root, "rope_theta", json_real(run->model.rope_theta));
    json_object_set_new(
        root, "rope_parameters",
        json_pack("{s:f, s:s}", "rope_theta", run->model.rope_theta, "rope_type", "default"));
    json_object_set_new(root, "torch_dtype", json_string(type));
    json_object_set_new(root, "dtype", json_string(type));
    json_object_set_new(root, "bos_token_id", json_null());
    json_object_set_new(root, "eos_token_id", json_null());
    return root;
}

static gln_status_t write_index(const writing_t *w)
{
    char name[64];
    json_t *map = json_object();
    if (w->files == 1) {
        json_decref(map);
        return GLN_OK;
    }
    for (int i = 0; i < w->count; i++) {
        name_file(w, w->items[i].file, name, sizeof name);
        json_object_set_new(map, w->items[i].part.name, json_string(name));
    }
    return write_json(w->partial, "model.safetensors.index.json",
                      json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)w->total,
                                "weight_map", map));
}

/* ---- the folder --------------------------------------------------------------------------------
 */

static gln_status_t write_all(writing_t *w, const gln_run_options_t *run)
{
    gln_status_t status = write_json(w->partial, "config.json", config_json(run, w->dtype));
    if (status == GLN_OK) status = write_index(w);
    for (int i = 0; i < w->files && status == GLN_OK; i++)
        status = write_file(w, i);
    return status == GLN_OK ? gln_folder_sync(w->partial) : status;
}

static gln_status_t make_partial(const char *folder, const char *parent, writing_t *w)
{
    if (snprintf(w->partial, sizeof w->partial, "%s.partial", folder) >= (int)sizeof w->partial)
        return gln_fail(GLN_ERR_IO, "%.80s: the path is too long", folder);
    if (access(folder, F_OK) == 0)
        return gln_fail(GLN_ERR_IO, "%s: exists already; name another folder, or remove it",
                        folder);
    gln_status_t status = gln_folder_make(parent);
    if (status == GLN_OK) status = gln_folder_remove(w->partial);
    if (status == GLN_OK && mkdir(w->partial, 0777) != 0)
        status =
            gln_fail(GLN_ERR_IO, "%s: cannot make the folder: %s", w->partial, strerror(errno));
    return status;
}

static gln_status_t write_folder(const char *folder, const gln_run_options_t *run, writing_t *w)
{
    char parent[PATH_MAX];
    gln_status_t status = gln_folder_parent(folder, parent);
    if (status == GLN_OK) status = make_partial(folder, parent, w);
    if (status != GLN_OK) return status;
    status = write_all(w, run);
    if (status == GLN_OK && rename(w->partial, folder) != 0)
        status = gln_fail(GLN_ERR_IO, "%s: cannot rename %s to it: %s", folder, w->partial,
                          strerror(errno));
    if (status == GLN_OK) return gln_folder_sync(parent);
    gln_folder_remove(w->partial);
    return status;
}

gln_status_t gln_mixtral_write(const char *folder, const gln_run_options_t *run,
                               const gln_params_t *params, gln_dtype_t dtype, uint64_t file_bytes)
{
    const gln_mixtral_config_t config = {.heads = run->model.heads,
                                         .kv_heads = run->model.kv_heads,
                                         .head_dim = run->model.head_dim};
    const size_t most = (size_t)params->count * GLN_MIXTRAL_PARTS_MAX;
    writing_t w = {.params = params, .dtype = dtype};
    if (dtype != GLN_F32 && dtype != GLN_BF16)
        return gln_fail(GLN_ERR_ARGUMENT, "expected tensors in f32 or bf16, found %s",
                        gln_dtype_name(dtype));
    gln_status_t status = gln_mixtral_check(run);
    if (status != GLN_OK) return status;
    w.items = calloc(most, sizeof *w.items);
    w.entries = calloc(most, sizeof *w.entries);
    if (!w.items || !w.entries)
        status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for a list of %zu tensors", folder, most);
    if (status == GLN_OK) status = list_items(&config, file_bytes ? file_bytes : 4000000000u, &w);
    if (status == GLN_OK) {
        w.buffer = malloc(w.largest);
        if (!w.buffer)
            status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for a file of %llu bytes", folder,
                              (unsigned long long)w.largest);
    }
    if (status == GLN_OK) status = write_folder(folder, run, &w);
    free(w.buffer);
    free(w.entries);
    free(w.items);
    return status;
}
