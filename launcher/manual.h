/* Manual pages and shell completion out of the tables that help is printed from, so that they say
 * what help says. Used when the project is built (cmake/write_manual.c). */
#ifndef GLN_LAUNCHER_MANUAL_H
#define GLN_LAUNCHER_MANUAL_H

#include "launcher/command.h"

#ifdef __cplusplus
extern "C" {
#endif

/** gleaner(1): overview, commands, exit status. */
void gln_manual_overview(FILE *file);
/** gleaner-<command>(1), the reference of the run file included where the command's help has it. */
void gln_manual_command(const gln_command_t *command, FILE *file);
/** "bench layer" becomes "gleaner-bench-layer". @param out cut to `size` bytes */
void gln_manual_name(const gln_command_t *command, char *out, size_t size);

/** Completion for bash: commands, their options, keys behind --set, files for all else. */
void gln_completion_bash(FILE *file);

#ifdef __cplusplus
}
#endif
#endif
