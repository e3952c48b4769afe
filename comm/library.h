/* Which MPI library this process runs on. Not part of the installed headers. */
#ifndef GLN_COMM_LIBRARY_H
#define GLN_COMM_LIBRARY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Name and version as the library itself gives them: "Open MPI v4.1.4". Also before MPI was
 * initialised. Cut to size. */
void gln_mpi_library(char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
