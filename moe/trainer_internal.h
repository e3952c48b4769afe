/* Inside of a trainer: what steps, evaluation, checkpoints and generation share. */
#ifndef GLN_MOE_TRAINER_INTERNAL_H
#define GLN_MOE_TRAINER_INTERNAL_H

#include "moe/checkpoint.h"
#include "moe/data.h"
#include "moe/optimizer.h"
#include "moe/recorder.h"
#include "moe/trainer.h"

struct gln_trainer {
    gln_comm_t *comm; /* borrowed */
    gln_run_options_t run;
    gln_trainer_mode_t mode;
    gln_parallel_t parallel;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_data_t *train, *valid;
    gln_model_t *model; /* owns the weights */
    gln_model_t
        *eval_model;   /* forward only, another router on the same weights; NULL: use `model` */
    int64_t sequences; /* per domain and micro-batch */
    int64_t eval_sequences; /* per domain and call of the evaluation */
    gln_optimizer_t *optimizer;
    int32_t *expert_at;        /* [layers, E] of the placement; NULL: none */
    int32_t *ids, *target;     /* [local_domains * sequences, S] */
    int64_t noted, noted_sums; /* bytes, base/memory.h */
    gln_recorder_t *recorder;  /* NULL: nothing is recorded */
    int64_t at;                /* optimizer steps done */
    int upcycle_due;           /* train.upcycle is set and nothing was loaded yet */
    int64_t upcycled;          /* mark of the dense checkpoint the run began with; 0: none */
};

/** Threads and kernels of a run, on this rank. LOCAL. */
gln_status_t gln_trainer_open_kernels(const gln_run_options_t *run, gln_pool_t **pool,
                                      gln_kernels_t **kernels);
/** Whether run.dir holds a checkpoint, the same on every rank. COLLECTIVE. */
gln_status_t gln_trainer_find(gln_trainer_t *trainer, int *found);
/** Load the dense model of train.upcycle. COLLECTIVE. */
gln_status_t gln_trainer_upcycle(gln_trainer_t *trainer);

#endif
