/* Recorded routing: the gate logits of chosen steps and MoE layers, to be replayed in place of
 * random ones (random tokens misstate imbalance). The file is safetensors; docs/recording.md
 * describes it. */
#ifndef GLN_MOE_RECORDING_H
#define GLN_MOE_RECORDING_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_RECORDING_NAME "routing.safetensors"

typedef struct gln_recording gln_recording_t;

/* One step and layer. */
typedef struct gln_recorded {
    int64_t step;        /* number of the step, from 1 */
    int layer;           /* index of the layer in the model, from 0 */
    int64_t domains;     /* D */
    int64_t tokens;      /* T of a domain */
    int experts;         /* E */
    const float *logits; /* [D, T, E], aligned, borrowed until close */
} gln_recorded_t;

/* What the run was like, of "routing.info". */
typedef struct gln_recording_info {
    int k;            /* routes per token in that run */
    int per_domain;   /* L: experts of one domain */
    int64_t replicas; /* replica groups */
} gln_recording_info_t;

/** Read a whole recording into memory.
 *  @return GLN_OK; GLN_ERR_CHECKPOINT: malformed, of another version, or a logit is not finite
 * (tensor named); GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_recording_open(const char *path, gln_recording_t **out);
void gln_recording_close(gln_recording_t *recording); /* takes NULL */

int gln_recording_count(const gln_recording_t *recording);
/** Entry i in [0, count), in file order: by step, then layer. */
gln_recorded_t gln_recording_get(const gln_recording_t *recording, int i);
gln_recording_info_t gln_recording_info(const gln_recording_t *recording);

#ifdef __cplusplus
}
#endif
#endif
