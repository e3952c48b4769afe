/* Sparse upcycling (Komatsuzaki et al., arXiv 2212.05055). The dense model is a run of this program
 * with model.experts 1; rank 0 finds its checkpoint, so that all read the same one, and the reader
 * of checkpoints does the rest: it takes names, and every expert asks for the weights of expert 0.
 * Linear in the bytes read, as resuming is. */
#include "moe/upcycle.h"

#include "base/log.h"
#include "moe/checkpoint_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { FIELDS_MAX = 64 };

/* "layers.2.moe.experts.5.down" comes from "layers.2.moe.experts.0.down". */
static int dense_source(const gln_param_t *param, char *name)
{
    static const char gate[] = ".moe.gate", experts[] = ".experts.";
    const size_t length = strlen(param->name), gate_length = sizeof gate - 1;
    if (param->state) return 0;
    if (length > gate_length && !strcmp(param->name + length - gate_length, gate)) return 0;
    strcpy(name, param->name);
    if (param->expert < 0) return 1;
    char *number = strstr(name, experts);
    GLN_ASSERT(number != NULL);
    number += sizeof experts - 1;
    const char *rest = strchr(number, '.');
    GLN_ASSERT(rest != NULL);
    memmove(number + 1, rest, strlen(rest) + 1);
    *number = '0';
    return 1;
}

/* A checkpoint is known by its manifest, which holds the checksums of all else. */
static gln_status_t mark_of(const char *folder, int64_t *mark)
{
    char *text = NULL;
    size_t bytes = 0;
    gln_status_t status = gln_manifest_load(folder, &text, &bytes);
    if (status != GLN_OK) return status;
    *mark = (int64_t)XXH3_64bits(text, bytes);
    if (*mark == 0) *mark = 1;
    free(text);
    return GLN_OK;
}

/* What rank 0 finds out for all. */
typedef struct dense {
    char folder[PATH_MAX];
    int64_t dense_hidden, mark;
} dense_t;

static gln_status_t find(const char *from, dense_t *out)
{
    gln_checkpoint_field_t f[] = {{.key = "experts", .is_model = 1},
                                  {.key = "dense_hidden", .is_model = 1}};
    gln_status_t status = gln_checkpoint_resolve(from, out->folder);
    if (status == GLN_OK) status = gln_checkpoint_fields(out->folder, f, 2);
    if (status == GLN_OK) status = mark_of(out->folder, &out->mark);
    if (status != GLN_OK) return status;
    if (f[0].integer != 1)
        return gln_fail(GLN_ERR_CHECKPOINT,
                        "%s: train.upcycle expected a dense model, model.experts 1, found %lld; "
                        "name a run trained with model.experts: 1",
                        out->folder, (long long)f[0].integer);
    out->dense_hidden = f[1].integer;
    return GLN_OK;
}

static int has_dense_layers(const gln_params_t *params)
{
    for (int i = 0; i < params->count; i++)
        if (strstr(params->items[i].name, ".ffn.")) return 1;
    return 0;
}

gln_status_t gln_upcycle_read(const char *from, gln_params_t *params,
                              const gln_checkpoint_field_t *fields, int fields_count, int64_t *mark)
{
    gln_comm_t *comm = params->parallel->comm;
    gln_checkpoint_field_t expected[FIELDS_MAX];
    dense_t dense = {.mark = 0};
    int rank = 0;
    GLN_ASSERT(fields_count <= FIELDS_MAX);
    gln_status_t status = params->parallel->rank == 0 ? find(from, &dense) : GLN_OK;
    status = gln_comm_agree(comm, status, &rank);
    if (status == GLN_OK) status = gln_comm_broadcast(comm, &dense, sizeof dense, 0);
    if (status != GLN_OK) return status;
    memcpy(expected, fields, (size_t)fields_count * sizeof *fields);
    for (int i = 0; i < fields_count; i++) {
        if (!expected[i].is_model) continue;
        if (!strcmp(expected[i].key, "experts")) expected[i].integer = 1;
        if (!strcmp(expected[i].key, "dense_hidden") && !has_dense_layers(params))
            expected[i].integer = dense.dense_hidden;
    }
    status = gln_checkpoint_read_as(dense.folder, params, expected, fields_count, dense_source);
    if (status == GLN_OK) *mark = dense.mark;
    return status;
}

gln_status_t gln_upcycle_check(const char *folder, const char *from, int64_t *mark)
{
    gln_checkpoint_field_t field = {.key = GLN_UPCYCLE_FIELD};
    gln_manifest_t manifest = {0};
    char dense[PATH_MAX];
    int64_t found = 0;
    gln_status_t status = gln_manifest_open(folder, &manifest);
    if (status != GLN_OK) return status;
    gln_manifest_field(&manifest, &field);
    gln_manifest_close(&manifest);
    if (field.integer == 0 && from[0])
        return gln_fail(GLN_ERR_CHECKPOINT,
                        "%s: did not begin with a dense model, but train.upcycle is %s; leave it "
                        "out, or start in a fresh run.dir",
                        folder, from);
    if (field.integer != 0 && !from[0])
        return gln_fail(GLN_ERR_CHECKPOINT,
                        "%s: began with a dense model, but train.upcycle is empty; set it back, or "
                        "start in a fresh run.dir",
                        folder);
    if (field.integer != 0 && access(from, F_OK) == 0) {
        status = gln_checkpoint_resolve(from, dense);
        if (status == GLN_OK) status = mark_of(dense, &found);
        if (status != GLN_OK) return status;
        if (found != field.integer)
            return gln_fail(GLN_ERR_CHECKPOINT,
                            "%s: began with another dense model than %s; name the checkpoint it "
                            "began with, or start in a fresh run.dir",
                            folder, dense);
    }
    *mark = field.integer;
    return GLN_OK;
}
