/* Words of a command line: options with and without values, and operands. */
#ifndef GLN_LAUNCHER_ARGUMENTS_H
#define GLN_LAUNCHER_ARGUMENTS_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gln_option {
    GLN_OPTION_SET,
    GLN_OPTION_JSON,
    GLN_OPTION_HELP,
    GLN_OPTION_CONFIG,
    GLN_OPTION_DATA,
    GLN_OPTION_PROMPT,
    GLN_OPTION_LENGTH,
    GLN_OPTION_TEMPERATURE,
    GLN_OPTION_SEED,
    GLN_OPTION_THREADS,
    GLN_OPTION_POLICIES,
    GLN_OPTION_CAPACITY,
    GLN_OPTION_UNBALANCED,
    GLN_OPTION_SEEDS,
    GLN_OPTION_TOKENS,
    GLN_OPTION_REPEAT,
    GLN_OPTION_GEMM,
    GLN_OPTION_RECORD_ROUTING,
    GLN_OPTION_LOGITS,
    GLN_OPTION_SCORES,
    GLN_OPTION_TENSOR,
    GLN_OPTION_OUT,
    GLN_OPTION_K,
    GLN_OPTION_NODES,
    GLN_OPTION_COPIES,
    GLN_OPTION_IMBALANCE,
    GLN_OPTION_SOURCES,
    GLN_OPTION_PLACEMENT,
    GLN_OPTION_XML,
    GLN_OPTION_SYNTHETIC,
    GLN_OPTION_RANKS,
    GLN_OPTION_SVG,
    GLN_OPTION_HIDDEN,
    GLN_OPTION_BYTES,
    GLN_OPTION_DTYPE,
    GLN_OPTION_PATH,
    GLN_OPTION_SHAPES,
    GLN_OPTION_AGAINST,
    GLN_OPTION_PYTHON,
    GLN_OPTION_MEMORY,
    GLN_OPTION_JOB_RANKS,
    GLN_OPTION_RANKS_PER_NODE,
    GLN_OPTION_HOSTS,
    GLN_OPTION_RANKS_PER_HOST,
    GLN_OPTION_RETRIES,
    GLN_OPTION_DRY_RUN,
    GLN_OPTION_STARTER,
    GLN_OPTIONS
} gln_option_t;

typedef struct gln_option_text {
    const char *name;  /* "--set" */
    const char *value; /* how help shows its value: "KEY=VALUE"; NULL: it takes none */
    const char *help;
} gln_option_text_t;

/** Name, value and help of an option. Static storage. */
const gln_option_text_t *gln_option_text(gln_option_t option);

enum { GLN_ARGUMENTS_OPERANDS_MAX = 4, GLN_ARGUMENTS_SETS_MAX = 256 };

typedef struct gln_arguments {
    const char *program;                              /* argv[0] */
    const char *operands[GLN_ARGUMENTS_OPERANDS_MAX]; /* borrowed from argv, like all texts here */
    int operands_count;
    const char *sets[GLN_ARGUMENTS_SETS_MAX]; /* of --set, in order */
    int sets_count;
    bool given[GLN_OPTIONS];
    const char *value[GLN_OPTIONS]; /* NULL where none was given */
} gln_arguments_t;

/** Sort words into options and operands. `--name value` and `--name=value` are the same; after `--`
 * all is operands; `-h` is `--help`, `-n` is `--ranks` of a job.
 *  @param allowed  bits 1 << gln_option_t
 *  @param out      overwritten, also on error (then unfinished)
 *  @return GLN_OK; GLN_ERR_ARGUMENT: unknown option (with the nearest allowed one), value missing
 * or not wanted, too many operands. */
gln_status_t gln_arguments_parse(const char *const *words, int words_count, uint64_t allowed,
                                 int operands_max, gln_arguments_t *out);

/** The number behind an option, or `fallback` if it was not given.
 *  @return GLN_OK; GLN_ERR_ARGUMENT: not a number, or outside [min, max]. */
gln_status_t gln_arguments_int(const gln_arguments_t *arguments, gln_option_t option,
                               int64_t fallback, int64_t min, int64_t max, int64_t *out);
gln_status_t gln_arguments_real(const gln_arguments_t *arguments, gln_option_t option,
                                double fallback, double min, double max, double *out);

/** The word of `words` (NULL-terminated) nearest to `word`, NULL if none is near enough for a slip
 * of the keyboard. */
const char *gln_suggest(const char *word, const char *const *words);

#ifdef __cplusplus
}
#endif
#endif
