/* The commands of `gleaner`: their table, their help, and the way from argv to one of them.
 *
 * A command is found and its arguments are checked before MPI is initialised, so that help and
 * misspelt options answer at once. Exit status: 0 done; 2 the input is bad (command line,
 * configuration, data, checkpoint, run directory); 75 stopped by a signal after saving, the same
 * command goes on; 1 anything else. */
#ifndef GLN_LAUNCHER_COMMAND_H
#define GLN_LAUNCHER_COMMAND_H

#include "launcher/arguments.h"
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    GLN_EXIT_OK = 0,
    GLN_EXIT_FAILED = 1,
    GLN_EXIT_BAD_INPUT = 2,
    GLN_EXIT_STOPPED = 75 /* EX_TEMPFAIL: by a signal, saved; the same command goes on */
};

typedef struct gln_command {
    const char *name;     /* "train"; or two words: "ckpt info" */
    const char *operands; /* as help shows them: "RUN.yaml" */
    const char *summary;  /* one line */
    const char *detail;   /* some lines for the command's own help, each with its newline */
    uint64_t options;     /* bits 1 << gln_option_t */
    int operands_min, operands_max;
    int config_reference; /* 1: its help ends with the reference of the run file */
    int (*run)(const gln_arguments_t *arguments); /* returns the exit status */
} gln_command_t;

/** All commands, ended by one whose name is NULL. Static storage. */
const gln_command_t *gln_commands(void);

/** The whole program. @return the exit status. */
int gln_command_main(int argc, char **argv);

/** The overview, or the help of one command. */
void gln_command_overview(FILE *file);
void gln_command_help(const gln_command_t *command, FILE *file);

/* The commands. Each joins the job if it needs one, does its work, and returns the exit status. */
int gln_command_train(const gln_arguments_t *arguments);
int gln_command_eval(const gln_arguments_t *arguments);
int gln_command_generate(const gln_arguments_t *arguments);
int gln_command_waste(const gln_arguments_t *arguments);
int gln_command_bench_growth(const gln_arguments_t *arguments);
int gln_command_bench_gemm(const gln_arguments_t *arguments);
int gln_command_bench_optimizer(const gln_arguments_t *arguments);
int gln_command_bench_attention(const gln_arguments_t *arguments);
int gln_command_bench_layer(const gln_arguments_t *arguments);
int gln_command_bench_step(const gln_arguments_t *arguments);
int gln_command_bench_exchange(const gln_arguments_t *arguments);
int gln_command_bench_links(const gln_arguments_t *arguments);
int gln_command_bench_router(const gln_arguments_t *arguments);
int gln_command_route(const gln_arguments_t *arguments);
int gln_command_place(const gln_arguments_t *arguments);
int gln_command_ckpt_info(const gln_arguments_t *arguments);
int gln_command_ckpt_digest(const gln_arguments_t *arguments);
int gln_command_ckpt_export_hf(const gln_arguments_t *arguments);
int gln_command_ckpt_import_hf(const gln_arguments_t *arguments);
int gln_command_topo(const gln_arguments_t *arguments);
int gln_command_plan(const gln_arguments_t *arguments);
int gln_command_launch(const gln_arguments_t *arguments);
int gln_command_doctor(const gln_arguments_t *arguments);
int gln_command_info(const gln_arguments_t *arguments);

#ifdef __cplusplus
}
#endif
#endif
