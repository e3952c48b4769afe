/* A training step allocates nothing after the first: data, model, reductions, clipping and AdamW
 * included; nor does a validation. RANKS: 1 2 */
#include "moe/trainer.h"
#include <stdio.h>

#ifdef GLN_SANITIZED
int main(void)
{
    printf("skipped: sanitizers replace the allocator themselves\n");
    return 77;
}
#else
#include "tests/ranks/moe/allocations.h"

#include <unistd.h>

enum { STEPS = 5 };

/* Rank 0 writes a text for all. */
static void write_text(char *path, size_t size)
{
    int pid = (int)getpid();
    CHECK(gln_comm_broadcast(world, &pid, sizeof pid, 0) == GLN_OK, "broadcast");
    snprintf(path, size, "/tmp/gleaner-allocations-%d", pid);
    if (gln_comm_rank(world) == 0) {
        FILE *file = fopen(path, "w");
        CHECK(file != NULL, "cannot write %s", path);
        for (int i = 0; i < 200; i++)
            fprintf(file, "line %d of a text that nobody needs to learn\n", i * i);
        fclose(file);
    }
    CHECK(gln_comm_barrier(world) == GLN_OK, "barrier");
}

static void check_trainer(const char *path, const char *policy, const char *balance,
                          const char *dtype)
{
    char train[128], valid[128];
    const char *sets[] = {"model.hidden=32",
                          "model.heads=2",
                          "model.kv_heads=1",
                          "model.layers=2",
                          "model.expert_hidden=48",
                          "model.shared_hidden=32",
                          "model.moe_every=2",
                          "model.sequence=32",
                          "parallel.domains=4",
                          "parallel.expert_replicas=2",
                          "parallel.threads=2",
                          "train.batch=8",
                          "train.accumulation=2",
                          "router.k=2",
                          "run.dir=none",
                          "eval.windows=40",
                          policy,
                          balance,
                          dtype,
                          train,
                          valid};
    gln_run_options_t run;
    gln_trainer_t *trainer = NULL;
    gln_step_report_t step;
    gln_eval_report_t valuation;
    snprintf(train, sizeof train, "data.train=%s", path);
    snprintf(valid, sizeof valid, "data.valid=%s", path);
    CHECK(gln_run_options_load(NULL, sets, sizeof sets / sizeof sets[0], gln_comm_size(world),
                               &run) == GLN_OK,
          "options");
    CHECK(gln_trainer_open(world, &run, GLN_TRAINER_TRAIN, &trainer) == GLN_OK, "open");
    CHECK(gln_trainer_step(trainer, &step) == GLN_OK, "step");
    CHECK(gln_trainer_evaluate(trainer, &valuation) == GLN_OK, "evaluate");

    count_start();
    for (int i = 0; i < STEPS; i++)
        CHECK(gln_trainer_step(trainer, &step) == GLN_OK, "step");
    check_counts("training", STEPS, count_stop());
    count_start();
    CHECK(gln_trainer_evaluate(trainer, &valuation) == GLN_OK, "evaluate");
    check_counts("validation", 1, count_stop());
    gln_trainer_close(trainer);
}

int main(void)
{
    char path[64];
    if (gln_comm_open_world(&world) != GLN_OK || gln_comm_open_self(&self) != GLN_OK) return 1;
    check_counter();
    write_text(path, sizeof path);
    check_trainer(path, "router.policy=topk", "router.balance=domain", "parallel.dtype=f32");
    check_trainer(path, "router.policy=deepseek_v3", "router.balance=global", "parallel.dtype=f32");
    check_trainer(path, "router.policy=topk", "router.balance=domain", "parallel.dtype=bf16");
    if (gln_comm_rank(world) == 0) {
        unlink(path);
        printf("ok\n");
    }
    gln_comm_close(self);
    gln_comm_close(world);
    return 0;
}
#endif
