/* moe/params.h: one test per promise. */
#include "base/log.h"
#include "base/rng.h"
#include "moe/params.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { D = 4, R = 2, E = 8 };

static gln_parallel_t layout_of(int ranks, int rank)
{
    gln_parallel_t p;
    cr_assert_eq(gln_parallel_layout(ranks, rank, D, R, E, &p), GLN_OK);
    return p;
}

/* Two dense parameters and two kinds of expert parameters: [4, 3] then [3, 2]. */
static gln_params_t *make(const gln_parallel_t *p, gln_dtype_t acc, int training)
{
    gln_params_t *params = NULL;
    char name[GLN_PARAM_NAME_MAX];
    cr_assert_eq(gln_params_open(p, acc, &params), GLN_OK);
    cr_assert_eq(gln_params_add(params, "embed", 5, 4, -1, 0.02), 0);
    for (int e = 0; e < E; e++) {
        snprintf(name, sizeof name, "up.%d", e);
        cr_assert_eq(gln_params_add(params, name, 4, 3, e, 0.5), 1 + e);
    }
    for (int e = 0; e < E; e++) {
        snprintf(name, sizeof name, "down.%d", e);
        cr_assert_eq(gln_params_add(params, name, 3, 2, e, 0.25), 1 + E + e);
    }
    cr_assert_eq(gln_params_add(params, "norm", 7, 0, -1, 0.0), 1 + 2 * E);
    cr_assert_eq(gln_params_commit(params, training), GLN_OK);
    return params;
}

Test(params, describes_what_was_added)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = make(&p, GLN_F32, 1);
    const gln_param_t *embed = &params->items[0], *norm = &params->items[1 + 2 * E];
    cr_assert_str_eq(embed->name, "embed");
    cr_assert_eq(embed->dims_count, 2);
    cr_assert_eq(embed->dims[0], 5);
    cr_assert_eq(embed->dims[1], 4);
    cr_assert_eq(embed->count, 20);
    cr_assert_eq(embed->expert, -1);
    cr_assert_eq(embed->decay, 1);
    cr_assert_eq(norm->dims_count, 1);
    cr_assert_eq(norm->count, 7);
    cr_assert_eq(norm->decay, 0);
    cr_assert_eq(params->count, 2 + 2 * E);
    cr_assert_eq(params->dense_count, 27);
    gln_params_close(params);
}

/* The list is in expert order, memory in the order of places: those of this rank, without gaps. */
Test(params, experts_of_a_layer_lie_by_place)
{
    const int32_t expert_at[E] = {1, 6, 0, 3, 2, 7, 4, 5};
    for (int rank = 0; rank < 4; rank++) {
        gln_parallel_t p = layout_of(4, rank);
        gln_params_t *params = NULL;
        int held = p.local_experts;
        cr_assert_eq(gln_params_open(&p, GLN_F32, &params), GLN_OK);
        cr_assert_eq(gln_params_add_experts(params, "x", "up", 4, 3, expert_at, 0.5),
                     expert_at[p.first_expert]);
        cr_assert_eq(gln_params_add_experts(params, "x", "down", 3, 2, NULL, 0.5),
                     E + p.first_expert);
        for (int place = 0; place < E; place++) {
            const gln_param_t *up = &params->items[expert_at[place]];
            const gln_param_t *down = &params->items[E + place];
            int here = place - p.first_expert;
            cr_assert_eq(up->place, place);
            cr_assert_eq(down->place, place);
            cr_assert_eq(up->expert, expert_at[place]);
            cr_assert_eq(up->local, here >= 0 && here < held);
            cr_assert_eq(up->offset, up->local ? 12 * here : -1);
            cr_assert_eq(down->offset, down->local ? 12 * held + 6 * here : -1);
        }
        cr_assert_str_eq(params->items[3].name, "x.3.up");
        cr_assert_eq(params->expert_count, 18 * held);
        gln_params_close(params);
    }
}

Test(params, same_list_on_every_rank_and_local_marks_what_is_held)
{
    gln_parallel_t whole = layout_of(1, 0);
    gln_params_t *all = make(&whole, GLN_F32, 0);
    int held[2 + 2 * E] = {0};
    for (int rank = 0; rank < 4; rank++) {
        gln_parallel_t p = layout_of(4, rank);
        gln_params_t *params = make(&p, GLN_F32, 0);
        cr_assert_eq(params->count, all->count);
        for (int i = 0; i < params->count; i++) {
            const gln_param_t *param = &params->items[i];
            cr_assert_str_eq(param->name, all->items[i].name);
            cr_assert_eq(param->count, all->items[i].count);
            cr_assert_eq(param->offset == -1, !param->local);
            cr_assert_eq(gln_param_w(params, param) == NULL, !param->local);
            held[i] += param->local;
        }
        gln_params_close(params);
    }
    for (int i = 0; i < all->count; i++)
        cr_assert_eq(held[i],
                     all->items[i].expert < 0 ? 4 : R); /* dense everywhere, experts once a group */
    gln_params_close(all);
}

Test(params, local_experts_of_one_kind_are_contiguous)
{
    for (int rank = 0; rank < 4; rank++) {
        gln_parallel_t p = layout_of(4, rank);
        gln_params_t *params = make(&p, GLN_F64, 0);
        const gln_param_t *up = &params->items[1 + p.first_expert], *down = up + E;
        cr_assert_eq(up->offset, 0);
        cr_assert_eq(down->offset, p.local_experts * 12);
        for (int i = 0; i < p.local_experts; i++) {
            cr_assert_eq(up[i].offset, up->offset + i * 12);
            cr_assert_eq(down[i].offset, down->offset + i * 6);
            cr_assert_eq(gln_param_w(params, &down[i]),
                         (double *)params->expert_w + down[i].offset);
        }
        cr_assert_eq(params->expert_count, p.local_experts * 18);
        gln_params_close(params);
    }
}

Test(params, init_is_a_function_of_seed_parameter_and_element_alone)
{
    gln_parallel_t whole = layout_of(1, 0);
    gln_params_t *all = make(&whole, GLN_F32, 1);
    gln_params_init(all, 7);
    for (int rank = 0; rank < 4; rank++) {
        gln_parallel_t p = layout_of(4, rank);
        gln_params_t *params = make(&p, GLN_F32, 0);
        gln_params_init(params, 7);
        for (int i = 0; i < params->count; i++)
            if (params->items[i].local)
                cr_assert_arr_eq(gln_param_w(params, &params->items[i]),
                                 gln_param_w(all, &all->items[i]),
                                 (size_t)params->items[i].count * 4);
        gln_params_close(params);
    }
    const float *embed = gln_param_w(all, &all->items[0]),
                *norm = gln_param_w(all, &all->items[1 + 2 * E]);
    float first = embed[0];
    cr_assert_eq(first, (float)(0.02 * gln_rng_normal(7, gln_rng_stream(GLN_RNG_INIT, 0, 0), 0)));
    cr_assert_eq(norm[6], 1.0f);
    gln_params_init(all, 8);
    cr_assert_neq(embed[0], first);
    gln_params_close(all);
}

Test(params, init_has_the_asked_deviation)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = NULL;
    double sum = 0, squares = 0;
    gln_params_open(&p, GLN_F64, &params);
    gln_params_add(params, "w", 200, 100, -1, 0.3);
    gln_params_commit(params, 0);
    gln_params_init(params, 1);
    for (int i = 0; i < 20000; i++) {
        double w = ((double *)params->dense_w)[i];
        sum += w, squares += w * w;
    }
    cr_assert_float_eq(sum / 20000, 0.0, 5 * 0.3 / 141.0); /* five standard errors */
    cr_assert_float_eq(squares / 20000, 0.09, 5 * 0.09 / 100.0);
    gln_params_close(params);
}

Test(params, training_has_moments_and_a_gradient_per_domain_and_group)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = make(&p, GLN_F32, 1);
    for (int i = 0; i < params->count; i++) {
        const float *m = gln_param_m(params, &params->items[i]),
                    *v = gln_param_v(params, &params->items[i]);
        cr_assert(m && v);
        for (int64_t j = 0; j < params->items[i].count; j++)
            cr_assert(m[j] == 0.0f && v[j] == 0.0f);
    }
    for (int d = 0; d < p.local_domains; d++)
        memset(params->dense_grad[d], 1, (size_t)params->dense_count * 4);
    for (int g = 0; g < p.local_groups; g++)
        memset(params->expert_grad[g], 1, (size_t)params->expert_count * 4);
    cr_assert_eq(((float *)gln_param_m(params, &params->items[0]))[0],
                 0.0f); /* no buffer overlaps another */
    gln_params_zero_grad(params);
    for (int d = 0; d < p.local_domains; d++)
        for (int64_t j = 0; j < params->dense_count; j++)
            cr_assert_eq(((float *)params->dense_grad[d])[j], 0.0f);
    for (int g = 0; g < p.local_groups; g++)
        for (int64_t j = 0; j < params->expert_count; j++)
            cr_assert_eq(((float *)params->expert_grad[g])[j], 0.0f);
    gln_params_close(params);
}

Test(params, without_training_there_are_weights_alone)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = make(&p, GLN_F32, 0), *training = make(&p, GLN_F32, 1);
    cr_assert_null(gln_param_m(params, &params->items[0]));
    cr_assert_null(gln_param_v(params, &params->items[1]));
    cr_assert_null(params->dense_grad);
    gln_params_zero_grad(params); /* nothing to do */
    size_t elements = (size_t)(params->dense_count + params->expert_count);
    cr_assert_geq(gln_params_bytes(params), elements * 4);
    cr_assert_geq(gln_params_bytes(training), gln_params_bytes(params) + elements * 8);
    gln_params_close(params);
    gln_params_close(training);
    gln_params_close(NULL);
}

Test(params, refuses_other_types)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = NULL;
    cr_assert_eq(gln_params_open(&p, GLN_BF16, &params), GLN_ERR_ARGUMENT);
    cr_assert(strstr(gln_last_error(), "bf16"), "%s", gln_last_error());
    cr_assert_null(params);
}

Test(params, long_name_is_an_assertion, .signal = SIGABRT)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = NULL;
    char name[GLN_PARAM_NAME_MAX + 1];
    memset(name, 'x', sizeof name);
    name[GLN_PARAM_NAME_MAX] = '\0';
    gln_params_open(&p, GLN_F32, &params);
    gln_params_add(params, name, 1, 1, -1, 0.0);
}

Test(params, adding_after_commit_is_an_assertion, .signal = SIGABRT)
{
    gln_parallel_t p = layout_of(1, 0);
    gln_params_t *params = make(&p, GLN_F32, 0);
    gln_params_add(params, "late", 1, 1, -1, 0.0);
}
