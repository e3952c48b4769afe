/* One MoE layer with random weights and input, ready to be timed: shared by the benches of layers.
 * Work by formula, over all ranks: rows = routed + filled + rectified rows of the ledger; a row
 * costs three products of H x F at 2 flops, 6 H F, forward, and twice that backward; the gate costs
 * 2 T H E, and twice that backward. */
#ifndef GLN_LAUNCHER_BENCH_LAYER_H
#define GLN_LAUNCHER_BENCH_LAYER_H

#include "launcher/arguments.h"
#include "launcher/logits.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "moe/run_options.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_BENCH_REPEAT_MAX = 1000 };

typedef struct gln_bench_layer {
    gln_session_t *session;
    gln_run_options_t run;
    gln_machine_t machine;
    int64_t tokens, gemm_n; /* T of one domain; 0: no plain product */
    gln_logits_t recorded;  /* data NULL: none */
    gln_layer_options_t options;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_parallel_t parallel;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    gln_layer_step_t step;
    gln_arena_t arena;
    void *x, *y, *dy, *dx; /* [local_domains * T, H] */
    void *gate, *gate_up, *down;
    void **gradient_gate, **gradient_gate_up, **gradient_down;
    void *a, *b, *c;      /* [gemm_n, gemm_n] */
    double *rank_seconds; /* [ranks] */
} gln_bench_layer_t;

/** Read what shapes the layer. @param b  zeroed, session and gemm_n set
 *  @param before, after  overrides "KEY=VALUE" ahead of and behind those of the command line;
 *                        before is left out where a run file is given
 *  @param tokens_usual   where the command line does not say
 *  @return GLN_OK; GLN_ERR_CONFIG; GLN_ERR_ARGUMENT; others. Close b in any case. */
gln_status_t gln_bench_layer_load(gln_bench_layer_t *b, const gln_arguments_t *arguments,
                                  const char *const *before, int before_count,
                                  const char *const *after, int after_count, int64_t tokens_usual);

/** Threads, kernels, layer and memory, filled. COLLECTIVE; the ranks agree on the outcome. */
gln_status_t gln_bench_layer_open(gln_bench_layer_t *b);
void gln_bench_layer_close(gln_bench_layer_t *b); /* also one that was never opened */

gln_dtype_t gln_bench_layer_dtype(const gln_bench_layer_t *b);

/** Forward and backward, and the plain product of gemm_n. COLLECTIVE. */
gln_status_t gln_bench_layer_run(gln_bench_layer_t *b);
gln_status_t gln_bench_layer_plain(gln_bench_layer_t *b);

/** Time `work` on all ranks from a common start; *seconds is the largest over the ranks.
 *  COLLECTIVE. */
gln_status_t gln_bench_layer_measure(gln_bench_layer_t *b,
                                     gln_status_t (*work)(gln_bench_layer_t *), double *seconds);

/** Ledger and phase times of all ranks, summed. @param times, ledger  in: this rank's. COLLECTIVE.
 */
gln_status_t gln_bench_layer_gather(gln_bench_layer_t *b, gln_layer_times_t *times,
                                    gln_ledger_t *ledger);
void gln_bench_times_add(gln_layer_times_t *sum, const gln_layer_times_t *times);

/** By formula, of one forward and backward of all ranks. @param ledger  of all ranks */
double gln_bench_layer_rows(const gln_ledger_t *ledger);
double gln_bench_layer_flops(const gln_bench_layer_t *b, const gln_ledger_t *ledger);

#ifdef __cplusplus
}
#endif
#endif
