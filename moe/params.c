/* Parameters in flat buffers. `add` only counts: a held parameter takes the next free elements of
 * its buffer (dense or expert), so what is added one after the other lies one after the other
 * (experts added together: in the order of their places).
 * `commit` lays everything out in one arena: weights, their rounded copies where asked for, and for
 * training the two moments and one gradient buffer per local domain (dense) and per local group
 * (expert). Everything is linear in the elements held. */
#include "moe/params.h"

#include "base/bf16.h"
#include "base/log.h"
#include "base/rng.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *held(const gln_params_t *params, const gln_param_t *param, void *dense, void *expert)
{
    void *buffer = param->expert < 0 ? dense : expert;
    if (!param->local || !buffer) return NULL;
    return gln_at(buffer, param->offset, params->acc);
}

void *gln_param_w(const gln_params_t *params, const gln_param_t *param)
{
    return held(params, param, params->dense_w, params->expert_w);
}

void *gln_param_m(const gln_params_t *params, const gln_param_t *param)
{
    return held(params, param, params->dense_m, params->expert_m);
}

void *gln_param_v(const gln_params_t *params, const gln_param_t *param)
{
    return held(params, param, params->dense_v, params->expert_v);
}

void *gln_param_operand(const gln_params_t *params, const gln_param_t *param)
{
    if (params->dtype == params->acc) return gln_param_w(params, param);
    void *buffer = param->expert < 0 ? params->dense_copy : params->expert_copy;
    if (!param->local || !buffer) return NULL;
    return gln_at(buffer, param->offset, params->dtype);
}

gln_status_t gln_params_open(const gln_parallel_t *parallel, gln_dtype_t acc, gln_params_t **out)
{
    if (!parallel || !out || (acc != GLN_F32 && acc != GLN_F64))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "parameters: expected a layout and f32 or f64, found %s %s",
                        parallel ? "a layout and" : "no layout and", gln_dtype_name(acc));
    gln_params_t *params = calloc(1, sizeof *params);
    if (!params)
        return gln_fail(GLN_ERR_MEMORY, "parameters: cannot allocate %zu bytes", sizeof *params);
    params->acc = params->dtype = acc;
    params->parallel = parallel;
    *out = params;
    return GLN_OK;
}

/* Room for one more item; 0 if memory is out. */
static int grow(gln_params_t *params)
{
    if (params->count < params->capacity) return 1;
    int capacity = params->capacity ? 2 * params->capacity : 64;
    gln_param_t *items = realloc(params->items, (size_t)capacity * sizeof *items);
    if (!items) return 0;
    params->items = items;
    params->capacity = capacity;
    return 1;
}

/* One more item of which only its place is open: it is held nowhere yet. */
static gln_param_t *add_item(gln_params_t *params, const char *name, int64_t dim0, int64_t dim1,
                             int expert, double init_std)
{
    GLN_ASSERT(!params->arena.base); /* adding ends with commit */
    GLN_ASSERT(strlen(name) < GLN_PARAM_NAME_MAX);
    GLN_ASSERT(dim0 > 0 && dim1 >= 0 && (dim1 == 0 || dim0 <= INT64_MAX / 8 / dim1));
    GLN_ASSERT(expert >= -1 && expert < params->parallel->experts);
    if (params->status != GLN_OK || !grow(params)) {
        params->status = GLN_ERR_MEMORY; /* commit reports it */
        return NULL;
    }
    gln_param_t *param = &params->items[params->count++];
    memset(param, 0, sizeof *param);
    strcpy(param->name, name);
    param->dims_count = dim1 ? 2 : 1;
    param->dims[0] = dim0;
    param->dims[1] = dim1 ? dim1 : 1;
    param->count = dim0 * param->dims[1];
    param->expert = expert;
    param->decay = dim1 != 0;
    param->init_std = init_std;
    return param;
}

/* Behind what its buffer holds so far, if it is held here. */
static void settle(gln_params_t *params, int place, gln_param_t *param)
{
    const gln_parallel_t *p = params->parallel;
    int64_t *total = param->expert < 0 ? &params->dense_count : &params->expert_count;
    param->place = place;
    param->local =
        place < 0 || (place >= p->first_expert && place < p->first_expert + p->local_experts);
    param->offset = param->local ? *total : -1;
    if (param->local) *total += param->count;
}

int gln_params_add(gln_params_t *params, const char *name, int64_t dim0, int64_t dim1, int expert,
                   double init_std)
{
    gln_param_t *param = add_item(params, name, dim0, dim1, expert, init_std);
    if (!param) return -1;
    settle(params, expert, param);
    return params->count - 1;
}

int gln_params_add_experts(gln_params_t *params, const char *prefix, const char *suffix,
                           int64_t dim0, int64_t dim1, const int32_t *expert_at, double init_std)
{
    const gln_parallel_t *p = params->parallel;
    char name[GLN_PARAM_NAME_MAX];
    int first = params->count;
    for (int e = 0; e < p->experts; e++) {
        snprintf(name, sizeof name, "%s.%d.%s", prefix, e, suffix);
        if (!add_item(params, name, dim0, dim1, e, init_std)) return -1;
    }
    for (int place = 0; place < p->experts; place++)
        settle(params, place, &params->items[first + (expert_at ? expert_at[place] : place)]);
    return first + (expert_at ? expert_at[p->first_expert] : p->first_expert);
}

int gln_params_add_state(gln_params_t *params, const char *name, int64_t dim0)
{
    int index = gln_params_add(params, name, dim0, 0, -1, 0.0);
    if (index >= 0) params->items[index].state = 1;
    return index;
}

void gln_params_keep_copies(gln_params_t *params, gln_dtype_t dtype)
{
    GLN_ASSERT(!params->arena.base); /* before commit */
    GLN_ASSERT(gln_dtype_acc(dtype) == params->acc);
    params->dtype = dtype;
}

static void round_all(const void *w, int64_t count, gln_bf16_t *copy)
{
    const float *from = w;
    for (int64_t i = 0; i < count; i++)
        copy[i] = gln_bf16_round(from[i]);
}

void gln_params_round(gln_params_t *params)
{
    if (params->dtype == params->acc) return;
    GLN_ASSERT(params->dtype == GLN_BF16 && params->acc == GLN_F32); /* gln_dtype_acc */
    round_all(params->dense_w, params->dense_count, params->dense_copy);
    round_all(params->expert_w, params->expert_count, params->expert_copy);
}

/* One pass over the arena: counts the first time, hands out addresses the second. */
static void layout(gln_params_t *params, int training)
{
    gln_arena_t *arena = &params->arena;
    const gln_parallel_t *p = params->parallel;
    size_t dense = (size_t)params->dense_count * gln_dtype_bytes(params->acc);
    size_t expert = (size_t)params->expert_count * gln_dtype_bytes(params->acc);
    arena->kind = GLN_MEMORY_WEIGHTS;
    params->dense_w = gln_arena_take(arena, dense);
    params->expert_w = gln_arena_take(arena, expert);
    if (params->dtype != params->acc) {
        size_t bytes = gln_dtype_bytes(params->dtype);
        arena->kind = GLN_MEMORY_COPIES;
        params->dense_copy = gln_arena_take(arena, (size_t)params->dense_count * bytes);
        params->expert_copy = gln_arena_take(arena, (size_t)params->expert_count * bytes);
    }
    if (!training) return;
    arena->kind = GLN_MEMORY_MOMENTS;
    params->dense_m = gln_arena_take(arena, dense);
    params->dense_v = gln_arena_take(arena, dense);
    params->expert_m = gln_arena_take(arena, expert);
    params->expert_v = gln_arena_take(arena, expert);
    arena->kind = GLN_MEMORY_GRADIENTS;
    params->dense_grad = gln_arena_take(arena, (size_t)p->local_domains * sizeof(void *));
    params->expert_grad = gln_arena_take(arena, (size_t)p->local_groups * sizeof(void *));
    for (int i = 0; i < p->local_domains; i++) {
        void *buffer = gln_arena_take(arena, dense);
        if (params->dense_grad) params->dense_grad[i] = buffer;
    }
    for (int i = 0; i < p->local_groups; i++) {
        void *buffer = gln_arena_take(arena, expert);
        if (params->expert_grad) params->expert_grad[i] = buffer;
    }
}

gln_status_t gln_params_commit(gln_params_t *params, int training)
{
    GLN_ASSERT(!params->arena.base);
    if (params->status != GLN_OK)
        return gln_fail(params->status,
                        "parameters: no memory for a list of more than %d parameters",
                        params->count);
    layout(params, training);
    gln_status_t status = gln_arena_commit(&params->arena, gln_device_cpu());
    if (status != GLN_OK) return status;
    layout(params, training);
    return GLN_OK;
}

void gln_params_init(gln_params_t *params, uint64_t seed)
{
    for (int i = 0; i < params->count; i++) {
        const gln_param_t *param = &params->items[i];
        void *w = gln_param_w(params, param);
        if (!w) continue;
        uint64_t stream = gln_rng_stream(GLN_RNG_INIT, (uint64_t)i, 0);
        for (int64_t j = 0; j < param->count; j++) {
            double value = param->state ? 0.0
                           : param->init_std == 0.0
                               ? 1.0
                               : param->init_std * gln_rng_normal(seed, stream, (uint64_t)j);
            gln_store(w, j, params->acc, value);
        }
    }
    gln_params_round(params);
}

void gln_params_zero_dense_grad(gln_params_t *params)
{
    if (!params->dense_grad || !params->dense_count) return;
    for (int i = 0; i < params->parallel->local_domains; i++)
        memset(params->dense_grad[i], 0,
               (size_t)params->dense_count * gln_dtype_bytes(params->acc));
}

void gln_params_zero_grad(gln_params_t *params)
{
    const gln_parallel_t *p = params->parallel;
    size_t bytes = gln_dtype_bytes(params->acc);
    if (!params->dense_grad) return; /* not for training */
    gln_params_zero_dense_grad(params);
    if (params->expert_count)
        for (int i = 0; i < p->local_groups; i++)
            memset(params->expert_grad[i], 0, (size_t)params->expert_count * bytes);
}

size_t gln_params_bytes(const gln_params_t *params)
{
    return sizeof *params + (size_t)params->capacity * sizeof *params->items +
           params->arena.size_bytes;
}

void gln_params_close(gln_params_t *params)
{
    if (!params) return;
    gln_arena_close(&params->arena);
    free(params->items);
    free(params);
}
