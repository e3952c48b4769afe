/* `gleaner waste`: the same small model once per cell of a grid of router policies, capacity
 * factors and seeds. Cells are independent runs; finished ones are lines of <run.dir>/cells.jsonl.
 */
#ifndef GLN_LAUNCHER_WASTE_H
#define GLN_LAUNCHER_WASTE_H

#include "launcher/arguments.h"
#include "moe/trainer.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    GLN_WASTE_LIST_MAX = 64, /* words of a list on the command line */
    GLN_WASTE_NAME_MAX = 48,
    GLN_WASTE_KEY_MAX = 512,
    GLN_WASTE_SETS_MAX = 8
};

/* A word of --policies, taken apart: "top2+fr+ir", "top1+dropless", "expanded_drop1". */
typedef struct gln_waste_policy {
    char name[GLN_WASTE_NAME_MAX];    /* as it was written */
    char variant[GLN_WASTE_NAME_MAX]; /* the name without k: "top+fr+ir" */
    int policy;                       /* gln_policy_t */
    int64_t k;
    bool fill, rectify, dropless;
    bool known; /* run files of this build can name the policy */
} gln_waste_policy_t;

/* What a finished cell found. */
typedef struct gln_waste_result {
    double bits_trained;  /* validation bits per byte, routed as in training */
    double bits_dropless; /* the same weights without capacity */
    double train_loss;    /* nats per token, mean over the last tenth of the steps */
    double seconds;
    gln_ledger_t ledger; /* sum over the steps of training */
} gln_waste_result_t;

typedef struct gln_waste_cell {
    const gln_waste_policy_t *policy;
    double capacity_factor; /* infinity: dropless */
    bool unbalanced;        /* without the balance loss */
    int64_t seed;
    char key[GLN_WASTE_KEY_MAX]; /* overrides and a hash of the rest of the run file */
    bool done;
    gln_waste_result_t result; /* if done */
} gln_waste_cell_t;

typedef struct gln_waste_grid {
    gln_waste_policy_t policies[GLN_WASTE_LIST_MAX];
    double capacities[GLN_WASTE_LIST_MAX], unbalanced[GLN_WASTE_LIST_MAX];
    int64_t seeds[GLN_WASTE_LIST_MAX];
    int policies_count, capacities_count, unbalanced_count, seeds_count;
    gln_waste_cell_t *cells; /* a seed after the other, so that whole tables come early */
    int cells_count;
    uint64_t rest; /* hash of the run file without what cells set */
} gln_waste_grid_t;

/** Take the grid from the command line and the run file: cells with their keys, none done. Policies
 *  that run files of this build cannot name get no cells (`known` is false).
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_CONFIG (every cell's run is checked); GLN_ERR_MEMORY.
 */
gln_status_t gln_waste_grid_open(const gln_arguments_t *arguments, int ranks,
                                 gln_waste_grid_t *out);
void gln_waste_grid_close(gln_waste_grid_t *grid);

/** The run of one cell. @return as gln_run_options_load. */
gln_status_t gln_waste_cell_run(const gln_arguments_t *arguments, const gln_waste_cell_t *cell,
                                int ranks, gln_run_options_t *out);

/** "top1+fr, capacity 0.5, no balance loss, seed 2" */
void gln_waste_cell_text(const gln_waste_cell_t *cell, char *out, size_t size);

/** Mark the cells that dir/cells.jsonl holds. Lines that are damaged or of other grids are passed
 *  over; no file is no error. @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_waste_read(const char *dir, gln_waste_grid_t *grid);
/** Append a finished cell to dir/cells.jsonl and force it to the disk. @return GLN_OK; GLN_ERR_IO;
 *  GLN_ERR_MEMORY. */
gln_status_t gln_waste_append(const char *dir, const gln_waste_cell_t *cell);

/* ---- the table: one row per policy, capacity factor and balance loss ----------------------------
 */
typedef struct gln_waste_spread {
    double mean, deviation /* of the sample; 0 for one */, min, max;
} gln_waste_spread_t;

typedef struct gln_waste_row {
    const gln_waste_policy_t *policy;
    double capacity_factor;
    bool unbalanced;
    int seeds; /* finished */
    gln_waste_spread_t trained, dropless;
    int paired;              /* seeds that plain top-k has too */
    gln_waste_spread_t gain; /* bits_trained of plain top-k of the same k, capacity, balance and
                                seed minus this one's */
    double rows, slots;      /* per token and MoE layer: expert rows computed; slots held ready */
    gln_ledger_t ledger;     /* sum over seeds */
} gln_waste_row_t;

/** Rows of finished cells, in the order of the grid. The caller frees. NULL when out of memory. */
gln_waste_row_t *gln_waste_rows(const gln_waste_grid_t *grid, int *count);

void gln_waste_print(const gln_waste_row_t *rows, int count, FILE *file);
gln_status_t gln_waste_print_json(const gln_waste_row_t *rows, int count, FILE *file);
/** The rows as a Markdown table. */
void gln_waste_print_markdown(const gln_waste_row_t *rows, int count, FILE *file);
/** Bits per byte over expert rows per token: a column of panels per k, a row per way of evaluation.
 */
void gln_waste_plot(const gln_waste_row_t *rows, int count, FILE *file);

#ifdef __cplusplus
}
#endif
#endif
