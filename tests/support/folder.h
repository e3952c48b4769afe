/* Temporary folders and whole files, for tests of what is on the disk. Failures of the machine end
 * the test program. */
#ifndef GLN_TESTS_SUPPORT_FOLDER_H
#define GLN_TESTS_SUPPORT_FOLDER_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_TEST_PATH_MAX 512

/** A new, empty folder under $TMPDIR or /tmp. */
void gln_test_folder_open(char path[GLN_TEST_PATH_MAX]);
/** Remove it with all that is in it. */
void gln_test_folder_close(const char *path);

/** folder/name in one of a few static buffers. */
const char *gln_test_path(const char *folder, const char *name);
int gln_test_exists(const char *path);
/** The whole file and a terminator; the caller frees. */
char *gln_test_file_read(const char *path, size_t *bytes);
void gln_test_file_write(const char *path, const void *data, size_t bytes);
/** 1 if both files have the same bytes. */
int gln_test_files_equal(const char *a, const char *b);

#ifdef __cplusplus
}
#endif
#endif
