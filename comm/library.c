/* One call of MPI's. Open MPI's text goes on with package and date behind a comma, others' over
 * lines. */
#include "comm/library.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>

void gln_mpi_library(char *out, size_t size)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] = 0;
    snprintf(out, size, "%s", text[0] ? text : "unknown");
}
