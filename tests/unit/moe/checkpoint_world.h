/* A small set of parameters whose values are a function of their names' places alone, for tests of
 * checkpoints on any number of ranks. Include after the test framework. */
#ifndef GLN_TESTS_UNIT_MOE_CHECKPOINT_WORLD_H
#define GLN_TESTS_UNIT_MOE_CHECKPOINT_WORLD_H

#include "base/rng.h"
#include "moe/checkpoint.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORLD_EXPERTS = 8, WORLD_LAYERS = 2, WORLD_FIELDS = 4 };

typedef struct world {
    gln_parallel_t parallel;
    gln_params_t *params;
    gln_checkpoint_field_t fields[WORLD_FIELDS];
} world_t;

static inline gln_status_t world_add_layer(gln_params_t *params, int layer)
{
    char name[GLN_PARAM_NAME_MAX];
    snprintf(name, sizeof name, "layers.%d.norm", layer);
    gln_params_add(params, name, 6, 0, -1, 0.0);
    for (int e = 0; e < WORLD_EXPERTS; e++) {
        snprintf(name, sizeof name, "layers.%d.moe.experts.%d.gate_up", layer, e);
        gln_params_add(params, name, 6, 8, e, 0.02);
    }
    for (int e = 0; e < WORLD_EXPERTS; e++) {
        snprintf(name, sizeof name, "layers.%d.moe.experts.%d.down", layer, e);
        gln_params_add(params, name, 4, 6, e, 0.02);
    }
    return params->status;
}

/* Close with world_close. */
static inline gln_status_t world_open(gln_comm_t *comm, int domains, int groups, int training,
                                      world_t *world)
{
    memset(world, 0, sizeof *world);
    world->fields[0] = (gln_checkpoint_field_t){.key = "hidden", .is_model = 1, .integer = 6};
    world->fields[1] =
        (gln_checkpoint_field_t){.key = "eps", .is_model = 1, .is_real = 1, .real = 1e-5};
    world->fields[2] = (gln_checkpoint_field_t){.key = "step", .integer = 12};
    world->fields[3] = (gln_checkpoint_field_t){.key = "loss", .is_real = 1, .real = 0.1};
    gln_status_t status = gln_parallel_open(comm, domains, groups, WORLD_EXPERTS, &world->parallel);
    if (status == GLN_OK) status = gln_params_open(&world->parallel, GLN_F32, &world->params);
    if (status != GLN_OK) return status;
    gln_params_add(world->params, "embed", 10, 6, -1, 0.02);
    for (int i = 0; i < WORLD_LAYERS; i++)
        world_add_layer(world->params, i);
    return gln_params_commit(world->params, training);
}

static inline void world_close(world_t *world)
{
    gln_params_close(world->params);
    gln_parallel_close(&world->parallel);
}

static inline void *world_data(const world_t *world, const gln_param_t *param, int kind)
{
    if (kind == 0) return gln_param_w(world->params, param);
    return kind == 1 ? gln_param_m(world->params, param) : gln_param_v(world->params, param);
}

/* Held tensors (weights, moments) get exact fractions drawn by (seed, kind, parameter, element). */
static inline void world_fill(world_t *world, uint64_t seed)
{
    for (int i = 0; i < world->params->count; i++)
        for (int kind = 0; kind < 3; kind++) {
            float *data = world_data(world, &world->params->items[i], kind);
            uint64_t stream = gln_rng_stream(GLN_RNG_TEST, (uint64_t)i, (uint64_t)kind);
            for (int64_t j = 0; data && j < world->params->items[i].count; j++)
                data[j] = (float)(gln_rng_u64(seed, stream, (uint64_t)j) % 65536) / 1024.0f - 32.0f;
        }
}

/* 1 if all held tensors have the bits that world_fill(seed) gives. */
static inline int world_is_filled(const world_t *world, uint64_t seed)
{
    for (int i = 0; i < world->params->count; i++)
        for (int kind = 0; kind < 3; kind++) {
            const float *data = world_data(world, &world->params->items[i], kind);
            uint64_t stream = gln_rng_stream(GLN_RNG_TEST, (uint64_t)i, (uint64_t)kind);
            for (int64_t j = 0; data && j < world->params->items[i].count; j++)
                if (data[j] !=
                    (float)(gln_rng_u64(seed, stream, (uint64_t)j) % 65536) / 1024.0f - 32.0f)
                    return 0;
        }
    return 1;
}

static inline gln_status_t world_write(const world_t *world, const char *folder)
{
    return gln_checkpoint_write(folder, world->params, world->fields, WORLD_FIELDS);
}

static inline gln_status_t world_read(world_t *world, const char *folder)
{
    return gln_checkpoint_read(folder, world->params, world->fields, WORLD_FIELDS);
}

#endif
