/* Writing a recording while training. Internal to the trainer. */
#ifndef GLN_MOE_RECORDER_H
#define GLN_MOE_RECORDER_H

#include "moe/model.h"
#include "moe/recording.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_recorder_options {
    const char *path;
    const int64_t *steps; /* [steps_count] ascending, from 1; copied */
    int steps_count;
    int64_t done;   /* optimizer steps done: earlier ones are taken from the file, if it is there */
    int64_t tokens; /* T */
    int k;
    const gln_model_t *model; /* read during open alone */
} gln_recorder_options_t;

typedef struct gln_recorder gln_recorder_t;

/** COLLECTIVE. Takes memory for this rank's logits of a step and, on rank 0, for all steps.
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_CHECKPOINT; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_recorder_open(const gln_parallel_t *parallel,
                               const gln_recorder_options_t *options, gln_recorder_t **out);
void gln_recorder_close(gln_recorder_t *recorder); /* takes NULL */

/** Where a step's logits are wanted, [MoE layers, local_domains * T, E]; NULL: it is not recorded.
 * Takes NULL. */
float *gln_recorder_buffer(const gln_recorder_t *recorder, int64_t step);
/** Gather the buffer on rank 0 and write the file, all recorded steps so far. COLLECTIVE.
 *  @return the same status on every rank: GLN_OK; GLN_ERR_IO. */
gln_status_t gln_recorder_add(gln_recorder_t *recorder, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
