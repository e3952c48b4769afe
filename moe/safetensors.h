/* Reading and writing safetensors files: an 8-byte little-endian header length, a JSON header
 * {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ..., "__metadata__": {..}}, then the
 * data. Format: https://github.com/huggingface/safetensors. Little-endian hosts only. */
#ifndef GLN_MOE_SAFETENSORS_H
#define GLN_MOE_SAFETENSORS_H

#include "base/tensor.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_tensor_entry {
    const char *name;
    gln_tensor_t tensor; /* data borrowed */
} gln_tensor_entry_t;

/** Write `count` tensors to `path` in the given order, fsynced. Names must be unique. The same tensors give the
 *  same bytes. @param checksum out: XXH3-64 of the whole file; NULL if not wanted
 *  @return GLN_OK; GLN_ERR_IO with the path and the reason. */
gln_status_t gln_safetensors_write(const char *path, const gln_tensor_entry_t *entries, int count,
                                   uint64_t *checksum);

typedef struct gln_safetensors gln_safetensors_t;
/** Map and check a file: header length, JSON, dtypes (F32, F64, BF16, I32, I64, U8 listed as raw where this
 *  project has no such dtype), shapes against offsets, offsets inside the file and gapless.
 *  @return GLN_OK; GLN_ERR_CHECKPOINT for a malformed file; GLN_ERR_IO. */
gln_status_t gln_safetensors_open(const char *path, gln_safetensors_t **out);
int gln_safetensors_count(const gln_safetensors_t *file);
/** Entry i in file order; data points into the mapping and may be unaligned to the dtype. */
gln_tensor_entry_t gln_safetensors_entry(const gln_safetensors_t *file, int i);
/** Find by name; 1 if found. */
int gln_safetensors_find(const gln_safetensors_t *file, const char *name, gln_tensor_entry_t *out);
/** XXH3-64 of the whole file. */
uint64_t gln_safetensors_checksum(const gln_safetensors_t *file);
void gln_safetensors_close(gln_safetensors_t *file); /* takes NULL */

#ifdef __cplusplus
}
#endif
#endif
