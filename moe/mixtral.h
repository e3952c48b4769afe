/* Models that travel: the folder layout in which Hugging Face's transformers keeps a Mixtral model
 * (config.json, and model.safetensors or several files with model.safetensors.index.json), read and
 * written. The model is the same function on both sides, so logits are the same within rounding.
 * Weights are stored there [out, in], here [in, out]; there an expert is w1 (gate), w3 (up) and w2
 * (down), here gate_up and down; there q, k and v are three, here one. */
#ifndef GLN_MOE_MIXTRAL_H
#define GLN_MOE_MIXTRAL_H

#include "moe/params.h"
#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What config.json says, as far as it matters here. */
typedef struct gln_mixtral_config {
    int64_t vocabulary, hidden, layers, heads, kv_heads, head_dim, experts, expert_hidden, k;
    int64_t positions; /* max_position_embeddings */
    double rope_theta, norm_eps;
    int tied; /* the output projection is the embedding */
} gln_mixtral_config_t;

/** Read folder/config.json. Not collective.
 *  @return GLN_OK; GLN_ERR_CHECKPOINT: it is no Mixtral, or one with what this project has not
 * (another activation, a sliding window shorter than its positions, scaled rotary positions): the
 * message names the key, what was expected and found; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_mixtral_config_read(const char *folder, gln_mixtral_config_t *config);

/** Whether a run's model and router can be said in that layout: experts in every layer, none
 * shared, routed by top-k with normalised weights.
 *  @return GLN_OK; GLN_ERR_CONFIG names the key. */
gln_status_t gln_mixtral_check(const gln_run_options_t *run);

/** Read the weights of the folder into the parameters of a model of that shape, and round the
 * copies. COLLECTIVE; every rank maps the files and takes what it holds. Nothing is changed on an
 * error: every tensor's presence, dtype (F32, BF16, F64) and shape are checked before, and tensors
 * that no parameter wants are refused. Where the output projection is tied to the embedding, it
 * becomes a copy.
 *  @return the same status on every rank: GLN_OK; GLN_ERR_CHECKPOINT; GLN_ERR_IO; GLN_ERR_MEMORY.
 */
gln_status_t gln_mixtral_read(const char *folder, const gln_mixtral_config_t *config,
                              gln_params_t *params);

/** Write `folder`, which must not exist; missing parents are made. Only where one rank holds all
 * parameters. Into folder.partial first, every file forced to the disk, then renamed.
 *  @param dtype       of the tensors: F32 or BF16 (rounded to nearest even)
 *  @param file_bytes  about the size at which another file is begun; 0: 4 GB
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_CONFIG (as gln_mixtral_check); GLN_ERR_IO;
 * GLN_ERR_MEMORY. On error nothing is left. */
gln_status_t gln_mixtral_write(const char *folder, const gln_run_options_t *run,
                               const gln_params_t *params, gln_dtype_t dtype, uint64_t file_bytes);

#ifdef __cplusplus
}
#endif
#endif
