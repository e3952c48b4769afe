/* Checkpoints that do not know about ranks. A checkpoint is a folder:
 *   manifest.json          format version, model description, training state, files with XXH3-64
 * checksums, tensors with the file each is in, and the manifest's own checksum dense.safetensors
 * dense weights and their AdamW moments experts-00000.safetensors ...  per domain of a group: its
 * experts' weights and moments Files depend on the config (E, D, R, placement) but not on P: the
 * same state gives the same bytes at any rank count, and reading goes by tensor name, so a
 * checkpoint written with one D, P or placement loads with another. Tensor names are the
 * parameter's name, with the suffix ".m" or ".v" for the moments. Writing: into a folder with the
 * suffix ".partial", every file and the folder fsynced, then renamed. */
#ifndef GLN_MOE_CHECKPOINT_H
#define GLN_MOE_CHECKPOINT_H

#include "moe/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a checkpoint says beside tensors: a flat list of key=value in the manifest. Integers and
 * doubles are kept exactly (doubles with 17 digits; infinities and NaN too). "model" keys must be
 * the same set with equal values to load; "state" keys (the step is one) are handed back. Keys are
 * unique UTF-8 within "model" and within "state". */
typedef struct gln_checkpoint_field {
    const char *key;
    int is_model; /* 1: describes the model: a mismatch refuses the checkpoint; 0: state */
    int is_real;
    int64_t integer; /* in and out */
    double real;
} gln_checkpoint_field_t;

/** Write `folder` (which must not exist; missing parents are made) from all ranks. COLLECTIVE over
 * params->parallel->comm; each file is written by the rank that holds its tensors (the lowest such
 * rank; group 0's copy of an expert). A file larger than one rank's share is never gathered on one
 * rank. Values of fields are taken from rank 0.
 *  @return the same status on every rank: GLN_OK; GLN_ERR_IO (path, reason); GLN_ERR_ARGUMENT (a
 * key twice); GLN_ERR_MEMORY; GLN_ERR_PEER. On error nothing is left at `folder`. */
gln_status_t gln_checkpoint_write(const char *folder, const gln_params_t *params,
                                  const gln_checkpoint_field_t *fields, int fields_count);

/** Read `folder` into params (weights, and moments if params has them; moments in the checkpoint
 * that params has no room for are passed over). COLLECTIVE. Everything is checked before anything
 * is changed: manifest, presence and checksum of every file, every tensor's name, dtype and shape
 * (none missing, none unknown), and the model fields. State fields present in the manifest are
 * filled in; absent ones are left as they were, ones that the caller did not ask for are passed
 * over.
 *  @return the same status on every rank: GLN_OK; GLN_ERR_CHECKPOINT (what differs: expected,
 * found; or which file is damaged); GLN_ERR_IO. */
gln_status_t gln_checkpoint_read(const char *folder, gln_params_t *params,
                                 gln_checkpoint_field_t *fields, int fields_count);

/** Where a parameter's weights come from in the checkpoint of another model. Not called for
 * moments.
 *  @param name [GLN_PARAM_NAME_MAX] out; @return 1; 0: the parameter is left as it is */
typedef int (*gln_checkpoint_source_t)(const gln_param_t *param, char *name);

/** As gln_checkpoint_read, but weights alone, from the tensors that `source` names; tensors that it
 * names none for are verified and passed over. */
gln_status_t gln_checkpoint_read_as(const char *folder, gln_params_t *params,
                                    gln_checkpoint_field_t *fields, int fields_count,
                                    gln_checkpoint_source_t source);

/** Whether the checkpoint holds moments beside weights. Not collective. @param folder a checkpoint
 * folder
 *  @return GLN_OK; GLN_ERR_CHECKPOINT; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_checkpoint_has_moments(const char *folder, int *has);

/** The newest complete checkpoint in a run folder: `run/checkpoints/step-XXXXXXXX` (8 or more
 * decimal digits) with the highest number. Incomplete (".partial") ones and ones without a manifest
 * are passed over.
 *  @param path [size] out; @return GLN_OK; GLN_ERR_CHECKPOINT if there is none; GLN_ERR_ARGUMENT if
 * size is too small; GLN_ERR_IO if the folder cannot be listed. Not collective. */
gln_status_t gln_checkpoint_latest(const char *run_folder, char *path, size_t size);

/** A checkpoint folder out of a checkpoint folder or a run folder (its newest one). Not collective.
 *  @param folder [PATH_MAX] out
 *  @return GLN_OK; GLN_ERR_CHECKPOINT if it is neither; GLN_ERR_IO. */
gln_status_t gln_checkpoint_resolve(const char *path, char *folder);

/** One hash over all tensors: XXH3-128 over (name, dtype, shape, XXH3-128 of the data) in name
 * order, as 32 hex digits. Independent of how tensors are spread over files. Verifies the
 * checksums. Not collective.
 *  @param path a checkpoint folder, or a run folder (its newest one) */
gln_status_t gln_checkpoint_digest(const char *path, char digest[33]);

/** What `gleaner ckpt info` shows. `report` is called once per line item in a stable order; key and
 * value are text, group is "checkpoint", "model", "state", "file" or "tensor". Verifies checksums.
 * Not collective. Nothing is reported on error. @param path as for digest */
typedef void (*gln_checkpoint_report_t)(void *ctx, const char *group, const char *key,
                                        const char *value);
gln_status_t gln_checkpoint_info(const char *path, gln_checkpoint_report_t report, void *ctx);

/** Read only the fields of the manifest (no tensors), for eval and generate, which build the model
 * from it. Fields absent from the manifest, or integer where real is wanted (or the reverse), are
 * an error; nothing is filled in then. Not collective. @param path a checkpoint folder, or a run
 * folder (its newest one) */
gln_status_t gln_checkpoint_fields(const char *path, gln_checkpoint_field_t *fields,
                                   int fields_count);

#ifdef __cplusplus
}
#endif
#endif
