/* Training gives the same bits whatever form the exchange takes between nodes: losses, gradient
 * norms, ledgers and final weights of a run on pretended nodes, flat and hierarchical, against a
 * world of one rank, with and without overlap and stages of far rows; the hierarchical run sends
 * fewer rows between nodes, and its steps allocate nothing after the first. RANKS: 2 4 */
#include "comm/comm_internal.h"
#include "moe/trainer.h"
#include <math.h>
#include <unistd.h>

#ifndef GLN_SANITIZED
#include "tests/ranks/moe/allocations.h"
#else /* sanitizers replace the allocator themselves: nothing is counted */
#include "base/log.h"
#include <stdio.h>
#include <string.h>
#define CHECK(condition, ...)                               \
    do {                                                    \
        if (!(condition)) {                                 \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
            fprintf(stderr, __VA_ARGS__);                   \
            fprintf(stderr, " (%s)\n", gln_last_error());   \
            gln_comm_abort(world, 1);                       \
        }                                                   \
    } while (0)
static gln_comm_t *world, *self;
static void check_counter(void)
{
}
static void count_start(void)
{
}
#define check_counts(name, steps, counts) ((void)(name))
#endif

enum { STEPS = 4, RANKS_MAX = 8, HIDDEN = 32 };

typedef struct outcome {
    double loss[STEPS], norm[STEPS], valid;
    gln_ledger_t ledger[STEPS];
    gln_traffic_t traffic; /* of the last step */
    char form[16];
} outcome_t;

/* Rank 0 writes a text for all. */
static void write_text(char *path, size_t size)
{
    int pid = (int)getpid();
    CHECK(gln_comm_broadcast(world, &pid, sizeof pid, 0) == GLN_OK, "broadcast");
    snprintf(path, size, "/tmp/gleaner-exchange-form-%d", pid);
    if (gln_comm_rank(world) == 0) {
        FILE *file = fopen(path, "w");
        CHECK(file != NULL, "cannot write %s", path);
        for (int i = 0; i < 300; i++)
            fprintf(file, "line %d of a text, and %d more\n", i * i, 7919 * i % 300);
        fclose(file);
    }
    CHECK(gln_comm_barrier(world) == GLN_OK, "barrier");
}

/* `overlap` is a whole override; no result depends on it either. */
static outcome_t train(gln_comm_t *comm, const char *path, const char *form, const char *overlap,
                       const char *replicas, const char *k, const char *wire)
{
    char train[128], valid[128], exchange[64];
    const char *sets[] = {"model.hidden=32" /* HIDDEN */,
                          "model.heads=2",
                          "model.kv_heads=1",
                          "model.layers=2",
                          "model.experts=8",
                          "model.expert_hidden=24",
                          "model.sequence=16",
                          "parallel.domains=8",
                          "parallel.threads=1",
                          "parallel.stages=3",
                          "train.batch=8",
                          "run.dir=none",
                          "eval.windows=16",
                          overlap,
                          replicas,
                          k,
                          wire,
                          exchange,
                          train,
                          valid};
    gln_run_options_t run;
    gln_trainer_t *trainer = NULL;
    outcome_t o = {0};
    gln_step_report_t step;
    gln_eval_report_t valuation;
    const char *reason;
    snprintf(train, sizeof train, "data.train=%s", path);
    snprintf(valid, sizeof valid, "data.valid=%s", path);
    snprintf(exchange, sizeof exchange, "parallel.exchange=%s", form);
    CHECK(gln_run_options_load(NULL, sets, sizeof sets / sizeof sets[0], gln_comm_size(comm),
                               &run) == GLN_OK,
          "options");
    CHECK(gln_trainer_open(comm, &run, GLN_TRAINER_TRAIN, &trainer) == GLN_OK, "open");
    snprintf(o.form, sizeof o.form, "%s",
             gln_model_exchange_form(gln_trainer_model(trainer), &reason));
    CHECK(reason[0] != 0, "a form has a reason");
    for (int i = 0; i < STEPS; i++) {
        if (i == 1) count_start();
        CHECK(gln_trainer_step(trainer, &step) == GLN_OK, "step");
        o.loss[i] = step.loss;
        o.norm[i] = step.grad_norm;
        o.ledger[i] = step.ledger;
    }
    if (comm == world) check_counts(form, STEPS - 1, count_stop());
    o.traffic = step.traffic;
    CHECK(gln_trainer_evaluate(trainer, &valuation) == GLN_OK, "evaluate");
    o.valid = valuation.loss;
    gln_trainer_close(trainer);
    return o;
}

static void compare(const char *name, const outcome_t *found, const outcome_t *wanted)
{
    for (int i = 0; i < STEPS; i++) {
        CHECK(found->loss[i] == wanted->loss[i], "%s: loss of step %d is %.17g, not %.17g", name,
              i + 1, found->loss[i], wanted->loss[i]);
        CHECK(found->norm[i] == wanted->norm[i], "%s: gradient norm of step %d is %.17g, not %.17g",
              name, i + 1, found->norm[i], wanted->norm[i]);
        CHECK(memcmp(&found->ledger[i], &wanted->ledger[i], sizeof found->ledger[i]) == 0,
              "%s: ledger of step %d", name, i + 1);
    }
    CHECK(found->valid == wanted->valid, "%s: validation gives %.17g, not %.17g", name,
          found->valid, wanted->valid);
}

/* @return the last loss */
static double check_case(const char *path, const char *replicas, const char *k, const char *wire)
{
    outcome_t alone = train(self, path, "auto", "parallel.overlap=auto", replicas, k, wire);
    outcome_t flat = train(world, path, "flat", "parallel.overlap=on", replicas, k, wire);
    outcome_t hierarchical =
        train(world, path, "hierarchical", "parallel.overlap=on", replicas, k, wire);
    outcome_t automatic = train(world, path, "auto", "parallel.overlap=off", replicas, k, wire);
    CHECK(alone.loss[0] != alone.loss[STEPS - 1], "the run must learn something");
    /* auto takes what it measures to be faster */
    int like_flat = strcmp(automatic.form, "flat") == 0;
    CHECK(strcmp(flat.form, "flat") == 0 && strcmp(hierarchical.form, "hierarchical") == 0 &&
              (like_flat || strcmp(automatic.form, "hierarchical") == 0),
          "forms %s, %s, %s", flat.form, hierarchical.form, automatic.form);
    compare("flat", &flat, &alone);
    compare("hierarchical", &hierarchical, &alone);
    compare("auto", &automatic, &alone);
    int64_t before = flat.traffic.remote_rows, after = hierarchical.traffic.remote_rows;
    CHECK(after > 0 && after < before, "%lld rows between nodes, flat %lld", (long long)after,
          (long long)before);
    const gln_traffic_t *alike = like_flat ? &flat.traffic : &hierarchical.traffic;
    CHECK(memcmp(&automatic.traffic, alike, sizeof *alike) == 0, "traffic of auto");
    if (gln_comm_rank(world) == 0)
        printf("%s %s %s: rows between nodes %lld, flat %lld\n", replicas, k, wire,
               (long long)after, (long long)before);
    int64_t bytes = hierarchical.traffic.remote_bytes, element = strstr(wire, "bf16") ? 2 : 4;
    CHECK(bytes == after * HIDDEN * element, "%s: %lld bytes in %lld rows", wire, (long long)bytes,
          (long long)after);
    return alone.loss[STEPS - 1];
}

int main(void)
{
    char path[64];
    int nodes[RANKS_MAX] = {0};
    if (gln_comm_open_world(&world) != GLN_OK || gln_comm_open_self(&self) != GLN_OK) return 1;
    int ranks = gln_comm_size(world);
    check_counter();
    CHECK(ranks >= 2 && ranks <= RANKS_MAX, "%d ranks", ranks);
    write_text(path, sizeof path);
    for (int r = 0; r < ranks; r++) /* two nodes */
        nodes[r] = 2 * r / ranks;
    gln_comm_set_nodes(world, nodes, 2);
    const char *automatic = "parallel.wire=auto", *bf16 = "parallel.wire=bf16";
    double wide = check_case(path, "parallel.expert_replicas=1", "router.k=2", automatic);
    check_case(path, "parallel.expert_replicas=1", "router.k=4", automatic);
    double narrow = check_case(path, "parallel.expert_replicas=1", "router.k=2", bf16);
    CHECK(narrow != wide && fabs(narrow - wide) < 0.01, "bf16 wire: loss %.17g, f32 %.17g", narrow,
          wide);
    for (int r = 0; r < ranks; r++) /* every rank a node, groups of half of them */
        nodes[r] = r;
    gln_comm_set_nodes(world, nodes, ranks);
    check_case(path, ranks > 2 ? "parallel.expert_replicas=2" : "parallel.expert_replicas=1",
               "router.k=2", automatic);
    check_case(path, ranks > 2 ? "parallel.expert_replicas=2" : "parallel.expert_replicas=1",
               "router.k=2", bf16);
    if (gln_comm_rank(world) == 0) {
        unlink(path);
        printf("ok\n");
    }
    gln_comm_close(self);
    gln_comm_close(world);
    return 0;
}
