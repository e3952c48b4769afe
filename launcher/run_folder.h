/* The run directory: config.yaml, metrics.jsonl, checkpoints/, report.txt. One rank (rank 0) writes
 * all but the checkpoints. */
#ifndef GLN_LAUNCHER_RUN_FOLDER_H
#define GLN_LAUNCHER_RUN_FOLDER_H

#include "moe/run_options.h"
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_RUN_PATH_MAX = GLN_CONFIG_TEXT_MAX + 64 };

/** What stands in the way of writing into `dir`, found without changing anything: "" if nothing was
 *  found (creating it may still fail). @param problem [size] out: reason, without the path */
void gln_run_folder_problem(const char *dir, char *problem, size_t size);

/** Create `dir` and its missing parents, and try a file in it. On error what was created is removed
 *  again. @param problem [size] out, on error: reason, without the path
 *  @return GLN_OK; GLN_ERR_IO (not reported: the caller knows which key named the folder). */
gln_status_t gln_run_folder_create(const char *dir, char *problem, size_t size);

/** Write dir/config.yaml aside and rename it. @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_run_folder_write_config(const gln_run_options_t *run);

/** Write dir/report.txt likewise. */
gln_status_t gln_run_folder_write_report(const char *dir, const char *text);

/** Load dir/config.yaml as it stands, without cross-checks.
 *  @return GLN_OK; GLN_ERR_IO or GLN_ERR_CONFIG (reported). */
gln_status_t gln_run_folder_read_config(const char *dir, gln_run_options_t *run);

/** List the keys whose values differ, "train.lr 0.001 -> 0.002", joined by ", ", cut to size. */
void gln_run_options_changes(const gln_run_options_t *before, const gln_run_options_t *after,
                             char *out, size_t size);

/** Open dir/metrics.jsonl for appending; lines of steps after `step`, and anything after a damaged
 * line, are cut off first. @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_run_folder_open_metrics(const char *dir, int64_t step, FILE **out);

#ifdef __cplusplus
}
#endif
#endif
