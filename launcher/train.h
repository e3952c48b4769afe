/* State of `gleaner train`, shared by its phases (train.c) and what it prints (train_print.c). */
#ifndef GLN_LAUNCHER_TRAIN_H
#define GLN_LAUNCHER_TRAIN_H

#include "launcher/arguments.h"
#include "launcher/bind.h"
#include "launcher/machine.h"
#include "launcher/memory.h"
#include "launcher/run_folder.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "moe/trainer.h"
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_TRAIN_RECORD_MAX = 64 };

typedef struct gln_train {
    const gln_arguments_t *arguments;
    gln_source_t source;
    gln_session_t session;
    gln_run_options_t run;
    gln_machine_t machine;
    gln_bind_t bind; /* ranks 0: parallel.bind is none */
    gln_trainer_t *trainer;
    bool speaks, json;  /* rank 0 prints; as JSON objects */
    FILE *metrics;      /* rank 0's */
    bool validates;     /* data.valid is set */
    bool byte_level;    /* V = 256 over raw bytes: text can be compared with gzip and generated */
    int64_t first_step; /* steps done when this process began */
    int64_t parameters, parameters_active;
    double begin;            /* clock when training began */
    gln_step_report_t last;  /* last step */
    gln_eval_report_t valid; /* last validation */
    int64_t valid_step;      /* of which step; -1: none yet */
    gln_ledger_t ledger;     /* sum over the steps of this process */
    int64_t tokens;          /* likewise */
    double step_seconds, gemm_seconds, exchange_seconds, router_seconds;
    double flight_seconds, hidden_seconds;
    int64_t line_tokens, line_steps; /* since the last line */
    double line_seconds;
    int64_t gzip_bytes, valid_bytes; /* 0: not measured */
    char checkpoint[GLN_RUN_PATH_MAX];
    gln_memory_plan_t planned;            /* this rank */
    gln_memory_measured_t measured;       /* peak_bytes 0: not measured yet */
    bool stopped;                         /* by a signal */
    int64_t record[GLN_TRAIN_RECORD_MAX]; /* steps whose routing is recorded, ascending */
    int record_count;
} gln_train_t;

/** What was found, before the first step. */
gln_status_t gln_train_print_start(gln_train_t *t, const char *changes);
/** One progress line and one line of metrics. @param validated  the step was validated */
gln_status_t gln_train_print_step(gln_train_t *t, bool validated);
/** The end: result, sample, where things are, what to try next; report.txt.
 *  @param sample  generated text, NULL: none */
gln_status_t gln_train_print_end(gln_train_t *t, const char *sample);

#ifdef __cplusplus
}
#endif
#endif
