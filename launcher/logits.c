/* One tensor is copied out of the mapped file, where it may lie unaligned. */
#include "launcher/logits.h"

#include "base/log.h"
#include "launcher/arguments.h"
#include "moe/safetensors.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gln_status_t fail_missing(const gln_safetensors_t *file, const char *path, const char *name)
{
    char known[512] = "none";
    size_t used = 0;
    for (int i = 0; i < gln_safetensors_count(file) && used < sizeof known - 1; i++) {
        const char *other = gln_safetensors_entry(file, i).name;
        used +=
            (size_t)snprintf(known + used, sizeof known - used, "%s%.100s", i ? ", " : "", other);
    }
    return gln_fail(GLN_ERR_DATA,
                    "%s: no tensor \"%.200s\"; its tensors: %s (--tensor NAME picks one)", path,
                    name, known);
}

static gln_status_t copy(const gln_tensor_entry_t *entry, const char *path, float **out)
{
    size_t bytes = gln_safetensors_entry_bytes(entry);
    *out = malloc(bytes + 1);
    if (!*out) return gln_fail(GLN_ERR_MEMORY, "%s: out of memory for %zu bytes", path, bytes);
    if (bytes > 0) memcpy(*out, entry->tensor.data, bytes);
    return GLN_OK;
}

static gln_status_t read_bias(const gln_safetensors_t *file, const char *path, gln_logits_t *l)
{
    gln_tensor_entry_t entry;
    if (!gln_safetensors_find(file, "bias", &entry)) return GLN_OK;
    const gln_tensor_t *t = &entry.tensor;
    if (strcmp(gln_safetensors_entry_dtype(&entry), "F32") || t->dims_count != 1 ||
        t->dims[0] != l->experts)
        return gln_fail(GLN_ERR_DATA, "%s: tensor bias: expected F32 [%lld], one of every expert",
                        path, (long long)l->experts);
    return copy(&entry, path, &l->bias);
}

static gln_status_t read_tensor(const gln_safetensors_t *file, const char *path, gln_logits_t *l)
{
    gln_tensor_entry_t entry;
    if (!gln_safetensors_find(file, l->name, &entry)) return fail_missing(file, path, l->name);
    const gln_tensor_t *t = &entry.tensor;
    const char *dtype = gln_safetensors_entry_dtype(&entry);
    if (strcmp(dtype, "F32"))
        return gln_fail(GLN_ERR_DATA, "%s: tensor %s: expected F32, found %s", path, l->name,
                        dtype);
    if (t->dims_count != 2 && t->dims_count != 3)
        return gln_fail(GLN_ERR_DATA,
                        "%s: tensor %s: expected [D, T, E] or [T, E], found %d "
                        "dimension%s",
                        path, l->name, t->dims_count, t->dims_count == 1 ? "" : "s");
    const int64_t *shape = t->dims + t->dims_count - 2;
    l->domains = t->dims_count == 3 ? t->dims[0] : 1;
    l->tokens = shape[0];
    l->experts = shape[1];
    if (l->domains < 1 || l->experts < 1 || l->experts > 1 << 20 || l->domains > 1 << 20 ||
        l->tokens > INT32_MAX)
        return gln_fail(GLN_ERR_DATA,
                        "%s: tensor %s: expected 1 or more domains and experts (at most 2^20), "
                        "and fewer than 2^31 tokens, found [%lld, %lld, %lld]",
                        path, l->name, (long long)l->domains, (long long)l->tokens,
                        (long long)l->experts);
    gln_status_t status = copy(&entry, path, &l->data);
    return status == GLN_OK ? read_bias(file, path, l) : status;
}

gln_status_t gln_logits_open(const char *path, const char *tensor, int scores, gln_logits_t *out)
{
    gln_safetensors_t *file = NULL;
    gln_tensor_entry_t entry;
    gln_logits_t l = {.path = path};
    gln_status_t status = gln_safetensors_open(path, &file);
    if (status != GLN_OK) return status;
    if (!tensor)
        tensor = scores && gln_safetensors_find(file, "scores", &entry) ? "scores" : "logits";
    snprintf(l.name, sizeof l.name, "%s", tensor);
    status = read_tensor(file, path, &l);
    gln_safetensors_close(file);
    if (status != GLN_OK) {
        gln_logits_close(&l);
        return status;
    }
    *out = l;
    return GLN_OK;
}

void gln_logits_close(gln_logits_t *logits)
{
    free(logits->data);
    free(logits->bias);
    logits->data = logits->bias = NULL;
}

gln_status_t gln_logits_check(const gln_logits_t *l, int64_t experts, int64_t hidden)
{
    if (l->experts != experts)
        return gln_fail(GLN_ERR_CONFIG,
                        "model.experts is %lld, but tensor %s of %s has %lld experts",
                        (long long)experts, l->name, l->path, (long long)l->experts);
    if (hidden < l->experts)
        return gln_fail(GLN_ERR_CONFIG,
                        "model.hidden is %lld; to replay logits it must be at least the number of "
                        "experts, %lld",
                        (long long)hidden, (long long)l->experts);
    return GLN_OK;
}

void gln_logits_replay(const gln_logits_t *l, int64_t first, int64_t rows, int64_t hidden,
                       gln_dtype_t dtype, void *gate, void *x)
{
    for (int64_t h = 0; h < hidden; h++)
        for (int64_t e = 0; e < l->experts; e++)
            gln_store(gate, h * l->experts + e, dtype, h == e);
    for (int64_t t = 0; t < rows; t++)
        for (int64_t e = 0; e < l->experts; e++)
            gln_store(x, t * hidden + e, dtype, l->data[(first + t) * l->experts + e]);
}

/* Keys that a run must have and a router does not care about come first, so that files and
 * overrides stay free to set them; what must fit the tensor comes last. */
enum { OWN_MAX = 8 };

static gln_status_t fit(const gln_logits_t *l, const char *key, const gln_config_t *config,
                        int64_t found, int64_t want, const char *what, char *set, int *set_used)
{
    *set_used = found == 0 || !strcmp(gln_config_where(config, key), "default");
    snprintf(set, 64, "%s=%lld", key, (long long)want);
    if (*set_used || found == want) return GLN_OK;
    return gln_config_fail(config, key, "%lld, but tensor %s of %s has %lld %s", (long long)found,
                           l->name, l->path, (long long)want, what);
}

gln_status_t gln_logits_run_options(const gln_logits_t *l, const char *path,
                                    const char *const *sets, int sets_count, gln_run_options_t *out)
{
    const char *all[GLN_ARGUMENTS_SETS_MAX + OWN_MAX] = {"data.train=none", "run.dir=none"};
    char experts[64], domains[64], batch[64];
    int count = 2, fields_count, use_experts = 0, use_domains = 0;
    memcpy(all + count, sets, (size_t)sets_count * sizeof *all);
    count += sets_count;
    const gln_config_field_t *fields = gln_run_fields(&fields_count);
    gln_run_options_t first;
    gln_config_t *config = NULL;
    memset(&first, 0, sizeof first);
    gln_status_t status =
        gln_config_load(fields, fields_count, path, all, count, &first, sizeof first, &config);
    if (status != GLN_OK) return status;
    status = fit(l, "model.experts", config, first.model.experts, l->experts, "experts", experts,
                 &use_experts);
    if (status == GLN_OK)
        status = fit(l, "parallel.domains", config, first.parallel.domains, l->domains, "domains",
                     domains, &use_domains);
    gln_config_close(config);
    if (status != GLN_OK) return status;
    snprintf(batch, sizeof batch, "train.batch=%lld", (long long)l->domains);
    if (use_experts) all[count++] = experts;
    if (use_domains) all[count++] = domains;
    all[count++] = batch;
    all[count++] = "train.accumulation=1";
    return gln_run_options_load(path, all, count, 1, out);
}
