/* Sparse upcycling: a model with experts that begins as a dense one. Every expert starts as a copy
 * of the dense model's feed-forward (its one expert), the gate as the seed says; all else is
 * copied. */
#ifndef GLN_MOE_UPCYCLE_H
#define GLN_MOE_UPCYCLE_H

#include "moe/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* State field of the checkpoints of such a run: the mark of the dense checkpoint. */
#define GLN_UPCYCLE_FIELD "upcycled"

/** Read the weights of a dense model into `params`; gates and the routers' biases stay as they are,
 * and so do moments. COLLECTIVE. Everything is checked, as gln_checkpoint_read does, before a
 * parameter changes; results depend on no rank or domain count of either run.
 *  @param from    a checkpoint folder or a run folder (its newest one)
 *  @param fields  what describes the model of `params`: model.experts of the dense one is 1, its
 *                 model.dense_hidden counts only with layers without experts, all else is equal
 *  @param mark    out: hash of the dense checkpoint's manifest, never 0
 *  @return the same status on every rank: GLN_OK; GLN_ERR_CHECKPOINT (expected, found); GLN_ERR_IO;
 * GLN_ERR_MEMORY. */
gln_status_t gln_upcycle_read(const char *from, gln_params_t *params,
                              const gln_checkpoint_field_t *fields, int fields_count,
                              int64_t *mark);

/** Whether a checkpoint may go on under this train.upcycle: it began with a dense model if and only
 * if `from` is not empty; and with that one, unless `from` cannot be found any more. Not
 * collective.
 *  @param mark  out: of the dense checkpoint it began with; 0: none
 *  @return GLN_OK; GLN_ERR_CHECKPOINT; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_upcycle_check(const char *folder, const char *from, int64_t *mark);

#ifdef __cplusplus
}
#endif
#endif
