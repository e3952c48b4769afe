/* Files as checkpoints and data need them: written with a running hash and forced to the disk, read
 * by mapping. Internal to moe/. */
#ifndef GLN_MOE_FILE_H
#define GLN_MOE_FILE_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_file_writer {
    const char *path; /* borrowed until close */
    int descriptor;
    uint64_t bytes;
    void *hash; /* XXH3 state */
} gln_file_writer_t;

/** Create or overwrite `path`. @return GLN_OK; GLN_ERR_IO (path, reason); GLN_ERR_MEMORY. */
gln_status_t gln_file_writer_open(const char *path, gln_file_writer_t *writer);
/** Append. @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_file_writer_add(gln_file_writer_t *writer, const void *data, size_t bytes);
/** Force to the disk and close; if `status` (of the adds) or closing failed, remove the file.
 *  @param bytes, checksum out: size and XXH3-64 of the file; NULL if not wanted
 *  @return `status` if it is an error; GLN_OK; GLN_ERR_IO. */
gln_status_t gln_file_writer_close(gln_file_writer_t *writer, gln_status_t status, uint64_t *bytes,
                                   uint64_t *checksum);

/** Map a regular file for reading. An empty one gives a NULL map of 0 bytes.
 *  @return GLN_OK; GLN_ERR_IO (path, reason). */
gln_status_t gln_file_map(const char *path, const void **map, size_t *bytes);
void gln_file_unmap(const void *map, size_t bytes); /* takes NULL */

/** Force a folder's entries to the disk. @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_folder_sync(const char *path);
/** The folder that a path stands in: "." for a bare name. @param parent [PATH_MAX] out; GLN_ERR_IO
 * if too long. */
gln_status_t gln_folder_parent(const char *path, char *parent);
/** Make a folder and its missing parents, forced to the disk. @return GLN_OK (also if it is there);
 * GLN_ERR_IO. */
gln_status_t gln_folder_make(const char *path);
/** Remove a folder with the plain files in it (not folders in it). Nothing there is fine.
 *  @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_folder_remove(const char *path);

#ifdef __cplusplus
}
#endif
#endif
