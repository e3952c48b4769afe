/* From a command line to a checked run: what train, eval and bench have in common before they work.
 */
#ifndef GLN_LAUNCHER_SETUP_H
#define GLN_LAUNCHER_SETUP_H

#include "launcher/arguments.h"
#include "moe/run_options.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the values of a run come from: kept to name file, line and key in later errors. */
typedef struct gln_source {
    const char *path;        /* run file; NULL: none */
    const char *const *sets; /* overrides */
    int sets_count;
} gln_source_t;

/** Report that `key` has a bad value, with file and line. Returns GLN_ERR_CONFIG. */
gln_status_t gln_source_fail(const gln_source_t *source, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** Check that the file a key names can be opened for reading.
 *  @return GLN_OK; GLN_ERR_CONFIG: key, file and reason. Its content is for gln_data_open to judge.
 */
gln_status_t gln_source_check_file(const gln_source_t *source, const char *key, const char *file);

/* A data file at a glance. */
typedef struct gln_data_glance {
    int64_t tokens;
    bool is_bytes; /* raw bytes, not a token file */
} gln_data_glance_t;
/** @return GLN_OK; GLN_ERR_DATA. */
gln_status_t gln_data_look(const char *path, gln_data_glance_t *out);

/** Seconds of a clock that only goes forward. */
double gln_clock(void);

#ifdef __cplusplus
}
#endif
#endif
