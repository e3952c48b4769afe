/* Everything a run is made of, with the schema that loads it from YAML. `gleaner train --help`
 * prints the reference. */
#ifndef GLN_MOE_RUN_OPTIONS_H
#define GLN_MOE_RUN_OPTIONS_H

#include "base/config.h"
#include "moe/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Plain values as the schema fills them (int64_t, double, int for bool and choice, text). */
typedef struct gln_run_options {
    struct {
        int64_t vocabulary, hidden, layers, heads, kv_heads, head_dim, experts, expert_hidden,
            dense_hidden, shared_hidden, moe_every, sequence;
        double rope_theta, norm_eps, init_std;
    } model;
    struct {
        int policy;
        int64_t k;
        double capacity_factor;
        int64_t min_capacity;
        int priority, fill, fill_key;
        int64_t fill_rank;
        int rectify, ir_tokens, ir_exclude;
        double ir_capacity;
        int64_t ir_scope;
        int ir_scale, weight, detach; /* fill, rectify, detach: 0 false, 1 true, 2 auto */
        int balance;                  /* 0: domain, 1: global */
        int64_t group_count, group_topk, sinkhorn_iterations, fill_from, rectify_from;
        double balance_coef, z_coef, route_scale, bias_rate, sinkhorn_tolerance;
        char capacity_schedule[GLN_CONFIG_TEXT_MAX];
    } router;
    struct {
        int64_t domains, expert_replicas, threads, timeout_ms;
        int64_t stages;                              /* of far rows, gln_layer_options_t */
        int backend, dtype, exchange, path, overlap; /* dtype: see gln_run_dtype */
        int wire;                                    /* gln_wire_t */
        char placement[GLN_CONFIG_TEXT_MAX];
        int bind; /* 0: auto, 1: none; changes nothing but speed */
    } parallel;
    struct {
        int64_t steps, batch, accumulation, seed, warmup_steps, decay_steps;
        double lr, lr_min, beta1, beta2, eps, weight_decay, clip;
        int64_t log_every, checkpoint_every;
        char upcycle[GLN_CONFIG_TEXT_MAX]; /* a checkpoint or run folder; empty: none */
    } train;
    struct {
        char train[GLN_CONFIG_TEXT_MAX], valid[GLN_CONFIG_TEXT_MAX];
    } data;
    struct {
        int64_t every, windows;
        int routing; /* 0: dropless; 1: as in training, but for what follows */
        int policy;  /* 0: the training's; otherwise gln_policy_t + 1 */
        int fill, rectify;
        double capacity_factor; /* below 0: the training's */
    } eval;
    struct {
        char dir[GLN_CONFIG_TEXT_MAX];
        int resume; /* 0: auto, 1: never */
        int64_t keep_checkpoints;
    } run;
} gln_run_options_t;

/** The schema; *count receives its length. Static storage. */
const gln_config_field_t *gln_run_fields(int *count);

/** Load and cross-check a run file (P ranks): every rule that involves several keys, in
 * gln_config_fail form. parallel.domains 0 becomes P; dense_hidden and head_dim get their derived
 * values; the router's keys those of the policy where they were left to it.
 *  @return GLN_OK; GLN_ERR_CONFIG; nothing is written on error. */
gln_status_t gln_run_options_load(const char *path, const char *const *overrides,
                                  int overrides_count, int ranks, gln_run_options_t *out);

/** parallel.dtype: F32, F64 or BF16. */
gln_dtype_t gln_run_dtype(const gln_run_options_t *run);

/** parallel.timeout_ms of a run file that is not checked yet; `otherwise` where it cannot be told.
 */
int64_t gln_run_options_timeout(const char *path, const char *const *overrides, int overrides_count,
                                int64_t otherwise);

/** The model part in the form gln_model_open takes. */
gln_model_options_t gln_run_model_options(const gln_run_options_t *run);

/** The router of training, at its own capacity factor. */
gln_router_options_t gln_run_router_options(const gln_run_options_t *run);
/** The router of evaluation. eval.routing dropless: no capacity, fill-in or rectification (policy
 * expert_choice, which would give every token to every expert, becomes top-k with weight p);
 * train: the training's, but for eval.policy, eval.capacity_factor, eval.fill, eval.rectify. */
gln_router_options_t gln_run_eval_router_options(const gln_run_options_t *run);
/** 1: evaluation routes as training does, step for step. */
int gln_run_eval_is_train(const gln_run_options_t *run);

/** Capacity factor when `done` optimizer steps are done, as a router takes it (never 0). */
double gln_run_capacity_factor(const gln_run_options_t *run, int64_t done);
/** The largest of the run. */
double gln_run_capacity_max(const gln_run_options_t *run);

#ifdef __cplusplus
}
#endif
#endif
