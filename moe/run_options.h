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
        int ir_scale, weight, detach;
        double balance_coef, z_coef;
    } router;
    struct {
        int64_t domains, expert_replicas, threads;
        int backend, dtype;
    } parallel;
    struct {
        int64_t steps, batch, accumulation, seed, warmup_steps, decay_steps;
        double lr, lr_min, beta1, beta2, eps, weight_decay, clip;
        int64_t log_every, checkpoint_every;
    } train;
    struct {
        char train[GLN_CONFIG_TEXT_MAX], valid[GLN_CONFIG_TEXT_MAX];
    } data;
    struct {
        int64_t every, windows;
        int routing; /* 0: dropless, causal top-k; 1: as in training */
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
 * values.
 *  @return GLN_OK; GLN_ERR_CONFIG; nothing is written on error. */
gln_status_t gln_run_options_load(const char *path, const char *const *overrides,
                                  int overrides_count, int ranks, gln_run_options_t *out);

/** The model part in the form gln_model_open takes. */
gln_model_options_t gln_run_model_options(const gln_run_options_t *run);

#ifdef __cplusplus
}
#endif
#endif
