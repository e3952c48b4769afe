/* The same layer in PyTorch, in a child process, for `gleaner bench layer --against torch`. */
#ifndef GLN_LAUNCHER_BENCH_TORCH_H
#define GLN_LAUNCHER_BENCH_TORCH_H

#include "launcher/bench_layer.h"
#include <jansson.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_bench_torch gln_bench_torch_t;

/** Start the interpreter of --python, or python3. Before MPI is. */
gln_status_t gln_bench_torch_open(const gln_arguments_t *arguments, gln_bench_torch_t **out);
void gln_bench_torch_close(gln_bench_torch_t *torch); /* takes NULL */

/** Give it the layer's input and weights.
 *  @return GLN_OK; GLN_ERR_BACKEND: no interpreter, no torch, or torch refused; GLN_ERR_IO. */
gln_status_t gln_bench_torch_set(gln_bench_torch_t *torch, const gln_bench_layer_t *layer);

/** One repetition of every form and number of threads. @param place of the repetition, from 0 */
gln_status_t gln_bench_torch_run(gln_bench_torch_t *torch, int place);

/** Results and gradients of one more call of the layer against torch's.
 *  @return GLN_OK; GLN_ERR_NUMERIC: they are not the same computation; GLN_ERR_BACKEND; GLN_ERR_IO.
 */
gln_status_t gln_bench_torch_compare(gln_bench_torch_t *torch, gln_bench_layer_t *layer,
                                     const gln_ledger_t *ledger);

/** @param flops of a repetition; layer_median, layer_min: gleaner's seconds. These sort. */
json_t *gln_bench_torch_json(gln_bench_torch_t *torch, double flops, double layer_median,
                             double layer_min);
void gln_bench_torch_text(gln_bench_torch_t *torch, double flops, double layer_median,
                          double layer_min);

#ifdef __cplusplus
}
#endif
#endif
