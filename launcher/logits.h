/* Gate logits (or probabilities) from a safetensors file, and a run file that fits them. */
#ifndef GLN_LAUNCHER_LOGITS_H
#define GLN_LAUNCHER_LOGITS_H

#include "base/tensor.h"
#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_logits {
    const char *path; /* borrowed */
    char name[256];   /* of the tensor */
    int64_t domains, tokens, experts;
    float *data; /* [D, T, E], owned */
    float *bias; /* [E] from a tensor "bias", owned; NULL: there is none */
} gln_logits_t;

/** Read a tensor [D, T, E] or [T, E] (then D = 1) of F32.
 *  @param tensor  its name; NULL: "logits", with `scores` "scores" where the file has that
 *  @return GLN_OK; GLN_ERR_DATA: no such tensor (those of the file are named), type or shape;
 *          GLN_ERR_CHECKPOINT: no safetensors file; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_logits_open(const char *path, const char *tensor, int scores, gln_logits_t *out);
void gln_logits_close(gln_logits_t *logits); /* takes a zeroed one */

/** Whether logits can be replayed through a layer: of `experts` experts, with `hidden` columns.
 *  @return GLN_OK; GLN_ERR_CONFIG: other experts than the file's, or fewer columns than experts. */
gln_status_t gln_logits_check(const gln_logits_t *logits, int64_t experts, int64_t hidden);
/** Gate and input that give these logits: the gate is the unit matrix on top of zeros, and the
 * first E columns of a token are its logits.
 *  @param first  the first token, counted over all domains of the file
 *  @param rows   tokens to fill
 *  @param gate   [H, E]; @param x [rows, H], columns from E on are left as they are */
void gln_logits_replay(const gln_logits_t *logits, int64_t first, int64_t rows, int64_t hidden,
                       gln_dtype_t dtype, void *gate, void *x);

/** Load a run file of which only router.*, model.experts and parallel.* matter. Where it is silent
 * about the number of experts or domains, it is the file's; else they must agree.
 *  @param path  NULL: defaults and overrides alone
 *  @return GLN_OK; GLN_ERR_CONFIG. */
gln_status_t gln_logits_run_options(const gln_logits_t *logits, const char *path,
                                    const char *const *sets, int sets_count,
                                    gln_run_options_t *out);

#ifdef __cplusplus
}
#endif
#endif
