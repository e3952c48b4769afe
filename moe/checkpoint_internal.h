/* Shared by the files of the checkpoint: the manifest, and opening a file that it lists. */
#ifndef GLN_MOE_CHECKPOINT_INTERNAL_H
#define GLN_MOE_CHECKPOINT_INTERNAL_H

#include "moe/checkpoint.h"
#include "moe/safetensors.h"
#include <jansson.h>
#include <limits.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_MANIFEST_NAME "manifest.json"
#define GLN_CHECKPOINT_VERSION 1
#define GLN_TENSOR_NAME_MAX (GLN_PARAM_NAME_MAX + 2) /* with ".m" or ".v" */
#define GLN_SHAPE_TEXT_MAX 96

typedef struct gln_manifest_file {
    const char *name; /* inside the folder; never a path */
    uint64_t bytes, checksum;
    int tensors_count;
} gln_manifest_file_t;

typedef struct gln_manifest_tensor {
    const char *name, *dtype; /* dtype as safetensors writes it */
    int dims_count;
    int64_t dims[GLN_TENSOR_DIMS_MAX];
    int file; /* index into files */
} gln_manifest_tensor_t;

/* What manifest.json says, checked. Strings are borrowed from root. */
typedef struct gln_manifest {
    json_t *root;
    const json_t *model, *state; /* objects of numbers */
    int files_count, tensors_count;
    gln_manifest_file_t *files;
    gln_manifest_tensor_t *tensors; /* in name order */
} gln_manifest_t;

/** The bytes of folder/manifest.json; the caller frees *text.
 *  @return GLN_OK; GLN_ERR_CHECKPOINT if there is none; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_manifest_load(const char *folder, char **text, size_t *bytes);
/** Check everything that the manifest alone can tell, its own checksum first.
 *  @return GLN_OK; GLN_ERR_CHECKPOINT; GLN_ERR_MEMORY. */
gln_status_t gln_manifest_parse(const char *folder, const char *text, size_t bytes,
                                gln_manifest_t *manifest);
/** Load and parse. */
gln_status_t gln_manifest_open(const char *folder, gln_manifest_t *manifest);
void gln_manifest_close(gln_manifest_t *manifest); /* takes zeroed ones */
/** Index of a tensor, -1 if it is not listed. */
int gln_manifest_find(const gln_manifest_t *manifest, const char *name);
/** Value of a field. @return 1; 0 if absent; -1 if its type is the other one. Filled in at 1 only.
 */
int gln_manifest_field(const gln_manifest_t *manifest, gln_checkpoint_field_t *field);

/** Write folder/manifest.json. @return GLN_OK; GLN_ERR_IO; GLN_ERR_ARGUMENT (a key twice or no
 * UTF-8); GLN_ERR_MEMORY. */
gln_status_t gln_manifest_write(const char *folder, const gln_manifest_t *manifest,
                                const gln_checkpoint_field_t *fields, int fields_count);

/** Open file number `file` of a checkpoint and check it against the manifest: size, checksum, and
 * its tensors.
 *  @return GLN_OK; GLN_ERR_CHECKPOINT (also when it is missing); GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_checkpoint_file_open(const char *folder, const gln_manifest_t *manifest, int file,
                                      gln_safetensors_t **out);

/** "F32 [4, 8]", at most GLN_SHAPE_TEXT_MAX bytes. Returns text. */
const char *gln_shape_text(const char *dtype, int dims_count, const int64_t *dims, char *text);

/** folder/name into path [PATH_MAX]. @return GLN_OK; GLN_ERR_IO if it is too long. */
gln_status_t gln_path_join(const char *folder, const char *name, char *path);

#ifdef __cplusplus
}
#endif
#endif
