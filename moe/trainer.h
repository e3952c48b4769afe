/* Training: data, model, optimizer, checkpoints put together; one optimizer step at a time. Prints
 * nothing: the launcher (or your program) owns the loop, the log and the clock.
 *
 *     gln_trainer_open(comm, &run, GLN_TRAINER_TRAIN, &trainer);
 *     gln_trainer_resume(trainer, NULL);           // newest checkpoint of run.dir, if any
 *     while (gln_trainer_at(trainer) < run.train.steps) gln_trainer_step(trainer, &report);
 *     gln_trainer_save(trainer, path, sizeof path);
 * All calls are COLLECTIVE over comm and return the same status on every rank. */
#ifndef GLN_MOE_TRAINER_H
#define GLN_MOE_TRAINER_H

#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_trainer gln_trainer_t;

typedef struct gln_step_report {
    int64_t step; /* number of this step, from 1 */
    double loss;  /* mean cross-entropy, nats per token */
    double balance_loss, z_loss, grad_norm /* before clipping */, lr;
    int64_t tokens;                                        /* of the global batch */
    double seconds;                                        /* of this step on this rank */
    double gemm_seconds, exchange_seconds, router_seconds; /* inside the MoE layers, this rank */
    double flight_seconds, hidden_seconds; /* rows under way; of it, while this rank computed */
    gln_ledger_t ledger;   /* all domains, MoE layers and micro-batches; equal at any rank count */
    gln_traffic_t traffic; /* all ranks; depends on where ranks live */
} gln_step_report_t;

typedef struct gln_eval_report {
    double loss;          /* nats per token */
    double bits_per_byte; /* loss / ln 2 (for byte-level data) */
    int64_t tokens;
    double seconds;
    gln_ledger_t ledger;
} gln_eval_report_t;

typedef enum gln_trainer_mode {
    GLN_TRAINER_TRAIN, /* training and validation data, moments, gradients */
    GLN_TRAINER_EVAL,  /* weights and validation data only */
    GLN_TRAINER_PLAN   /* as TRAIN, without data and weights: to learn sizes (moe/memory_plan.h) */
} gln_trainer_mode_t;

/** Open data, kernels (with run->parallel.threads threads, 0: 1), model; initialise weights from
 * the seed. With train.upcycle, to train: from that dense model (moe/upcycle.h), but where run.dir
 * holds a checkpoint only in the first step, and not at all after resume.
 *  @param comm borrowed until close
 *  @return GLN_OK; GLN_ERR_CONFIG, GLN_ERR_DATA, GLN_ERR_ARGUMENT, GLN_ERR_MEMORY,
 * GLN_ERR_BACKEND; of the dense model GLN_ERR_CHECKPOINT, GLN_ERR_IO. */
gln_status_t gln_trainer_open(gln_comm_t *comm, const gln_run_options_t *run,
                              gln_trainer_mode_t mode, gln_trainer_t **out);
void gln_trainer_close(gln_trainer_t *trainer); /* takes NULL */

/** Optimizer steps done. */
int64_t gln_trainer_at(const gln_trainer_t *trainer);
/** One optimizer step. GLN_ERR_NUMERIC when the loss or a gradient is not finite (weights
 * unchanged). */
gln_status_t gln_trainer_step(gln_trainer_t *trainer, gln_step_report_t *report);
/** Loss over the validation file (eval.windows windows, 0: all). With eval.routing dropless (the
 * default) tokens go to their experts without capacity, so with a causal policy a token's loss
 * depends on its past alone; see gln_run_eval_router_options. */
gln_status_t gln_trainer_evaluate(gln_trainer_t *trainer, gln_eval_report_t *report);

/** Write the gates' logits of these steps (ascending, from 1; the first micro-batch, all MoE
 * layers) to run.dir/routing.safetensors, see moe/recording.h. Call it once, after resume: steps
 * done before are kept if the file has them. Its memory is taken here.
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_CHECKPOINT: the file there is of another shape;
 * GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_trainer_record(gln_trainer_t *trainer, const int64_t *steps, int count);

/** Write run.dir/checkpoints/step-XXXXXXXX; then remove all but run.keep_checkpoints newest (0:
 * keep all). Does nothing if that checkpoint exists already. @param path [size] out, may be NULL */
gln_status_t gln_trainer_save(gln_trainer_t *trainer, char *path, size_t size);
/** Load a checkpoint folder, or a run folder's newest one; NULL: the newest in run.dir, and GLN_OK
 * with nothing loaded if there is none. To train from a checkpoint without moments and data (one
 * that was imported) starts with zero moments, on any data. */
gln_status_t gln_trainer_resume(gln_trainer_t *trainer, const char *path);

/** Continue `prompt` by `count` tokens, sampled at `temperature` (0: the likeliest) from the
 * weights in this trainer, dropless and causal. Only for a world of one rank and one domain, see
 * gln_trainer_open_generate.
 *  @param tokens [prompt_count + count]: prompt in, everything out */
gln_status_t gln_trainer_generate(gln_trainer_t *trainer, int32_t *tokens, int64_t prompt_count,
                                  int64_t count, double temperature, uint64_t seed);
/** A one-rank, one-domain, dropless trainer for generation out of a checkpoint (folder, or run
 * folder: the newest); no data is opened; the model is described by the checkpoint. `comm` must
 * have one rank. */
gln_status_t gln_trainer_open_generate(gln_comm_t *comm, const char *checkpoint, int threads,
                                       gln_trainer_t **out);

gln_model_t *gln_trainer_model(gln_trainer_t *trainer);
/** The options it runs with: as opened, or out of the checkpoint. Valid until close. */
const gln_run_options_t *gln_trainer_run(const gln_trainer_t *trainer);

#ifdef __cplusplus
}
#endif
#endif
