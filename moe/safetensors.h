/* Reading and writing safetensors files: an 8-byte little-endian header length, a JSON header
 * {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ..., "__metadata__":
 * {..}}, then the data. Format: https://github.com/huggingface/safetensors. Little-endian hosts
 * only. */
#ifndef GLN_MOE_SAFETENSORS_H
#define GLN_MOE_SAFETENSORS_H

#include "base/status.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_tensor_entry {
    const char *name;
    gln_tensor_t tensor; /* data borrowed */
    const char *raw; /* NULL, or the file's dtype ("I32", "I64", "U8") where tensor.dtype cannot say
                        it; such tensors are read only: to write, raw must be NULL */
} gln_tensor_entry_t;

/** The file format's name of a dtype: "F32", "BF16", "F64". Static storage. */
const char *gln_safetensors_dtype(gln_dtype_t dtype);
/** The file's dtype name of an entry, raw ones included. */
const char *gln_safetensors_entry_dtype(const gln_tensor_entry_t *entry);
/** Bytes of an entry's data. */
size_t gln_safetensors_entry_bytes(const gln_tensor_entry_t *entry);

/** Write `count` tensors to `path` in the given order, fsynced. Names must be unique. The same
 * tensors give the same bytes. @param bytes, checksum out: size and XXH3-64 of the whole file; NULL
 * if not wanted
 *  @return GLN_OK; GLN_ERR_IO with the path and the reason (no file is left); GLN_ERR_ARGUMENT: a
 * name twice, a name that is no UTF-8, or a raw entry; GLN_ERR_MEMORY. */
gln_status_t gln_safetensors_write(const char *path, const gln_tensor_entry_t *entries, int count,
                                   uint64_t *bytes, uint64_t *checksum);

typedef struct gln_safetensors gln_safetensors_t;
/** Map and check a file: header length, JSON, dtypes (F32, F64, BF16, I32, I64, U8 listed as raw
 * where this project has no such dtype), at most 4 dims, shapes against offsets, offsets inside the
 * file and gapless. The file must not shrink while it is open (the operating system would stop the
 * process).
 *  @return GLN_OK; GLN_ERR_CHECKPOINT for a malformed file; GLN_ERR_IO. */
gln_status_t gln_safetensors_open(const char *path, gln_safetensors_t **out);
int gln_safetensors_count(const gln_safetensors_t *file);
/** Entry i in file order; data points into the mapping and may be unaligned to the dtype. */
gln_tensor_entry_t gln_safetensors_entry(const gln_safetensors_t *file, int i);
/** Find by name; 1 if found. */
int gln_safetensors_find(const gln_safetensors_t *file, const char *name, gln_tensor_entry_t *out);
/** Size and XXH3-64 of the whole file (computed at each call). */
uint64_t gln_safetensors_bytes(const gln_safetensors_t *file);
uint64_t gln_safetensors_checksum(const gln_safetensors_t *file);
void gln_safetensors_close(gln_safetensors_t *file); /* takes NULL */

#ifdef __cplusplus
}
#endif
#endif
