/* What `gleaner bench layer` measures, and printing it. */
#ifndef GLN_LAUNCHER_BENCH_LAYER_FIGURES_H
#define GLN_LAUNCHER_BENCH_LAYER_FIGURES_H

#include "launcher/bench_layer.h"
#include "launcher/bench_torch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_bench_layer_run {
    gln_bench_layer_t layer;
    gln_bench_torch_t *torch; /* NULL: not asked for */
    int64_t repeat;
    double layer_seconds[GLN_BENCH_REPEAT_MAX], gemm_seconds[GLN_BENCH_REPEAT_MAX];
    double whole;            /* seconds of all repetitions of the layer */
    gln_layer_times_t times; /* summed over repetitions and ranks */
    gln_ledger_t ledger;     /* all ranks, one repetition */
} gln_bench_layer_run_t;

/** Sorts the seconds. */
gln_status_t gln_bench_layer_print(gln_bench_layer_run_t *run, int json);

#ifdef __cplusplus
}
#endif
#endif
