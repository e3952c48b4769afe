/* `gleaner bench layer`: one MoE layer, forward and backward, against a plain matrix product, and
 * against PyTorch.
 *
 * Repetitions of all that is compared take turns, so that a slow moment of the machine meets each.
 * A repetition begins with a barrier; its time is the largest over the ranks. The plain product
 * runs on every rank at once, as the layer does. Replayed logits become the first E columns of the
 * input, rounded if that is bf16, and the gate passes them on. Against PyTorch the router is one
 * that both have: top-k without capacity, weights normalised over the k chosen, no auxiliary loss,
 * the whole gradient. */
#include "launcher/bench_layer_figures.h"

#include "base/log.h"
#include "kernels/kernels.h"
#include "launcher/bind.h"
#include "launcher/command.h"
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 2 };

static const char *const torch_sets[] = {"model.expert_hidden=2048", "router.capacity_factor=inf",
                                         "router.fill=false",        "router.rectify=false",
                                         "router.weight=normalized", "router.detach=false",
                                         "router.balance_coef=0",    "router.z_coef=0"};
enum { TORCH_SETS = sizeof torch_sets / sizeof torch_sets[0] };

static gln_status_t load(const gln_arguments_t *arguments, gln_bench_layer_run_t *r)
{
    gln_bench_layer_t *b = &r->layer;
    gln_status_t status =
        gln_arguments_int(arguments, GLN_OPTION_REPEAT, 9, 1, GLN_BENCH_REPEAT_MAX, &r->repeat);
    if (status == GLN_OK)
        status = gln_bench_layer_load(b, arguments, torch_sets, r->torch ? TORCH_SETS : 0, NULL, 0,
                                      2048);
    if (status != GLN_OK) return status;
    int64_t size = b->run.parallel.backend == 0 ? 2048 : 192; /* the reference is slow */
    return gln_arguments_int(arguments, GLN_OPTION_GEMM, size, 1, 1 << 15, &b->gemm_n);
}

static gln_status_t repeat(gln_bench_layer_run_t *r)
{
    gln_bench_layer_t *b = &r->layer;
    gln_status_t status = GLN_OK;
    for (int64_t i = -WARM_UPS; status == GLN_OK && i < r->repeat; i++) {
        int64_t place = i < 0 ? 0 : i;
        status = gln_bench_layer_measure(b, gln_bench_layer_run, &r->layer_seconds[place]);
        gln_layer_times_t times = gln_layer_times(b->layer);
        if (status == GLN_OK)
            status = gln_bench_layer_measure(b, gln_bench_layer_plain, &r->gemm_seconds[place]);
        if (status == GLN_OK && r->torch && i >= -1)
            status = gln_session_agree(b->session, gln_bench_torch_run(r->torch, (int)place));
        if (i < 0) continue;
        gln_bench_times_add(&r->times, &times);
        r->whole += r->layer_seconds[place];
    }
    return status;
}

static gln_status_t gather(gln_bench_layer_run_t *r)
{
    r->ledger = gln_layer_ledger(r->layer.layer);
    return gln_bench_layer_gather(&r->layer, &r->times, &r->ledger);
}

static gln_status_t bench(const gln_arguments_t *arguments, gln_bench_layer_run_t *r)
{
    gln_session_t *session = r->layer.session;
    gln_status_t status = gln_session_agree(session, load(arguments, r));
    if (status != GLN_OK) return status;
    status = gln_bind_run(session, &r->layer.run, NULL);
    if (status == GLN_OK) status = gln_bench_layer_open(&r->layer);
    if (status == GLN_OK && r->torch)
        status = gln_session_agree(session, gln_bench_torch_set(r->torch, &r->layer));
    if (status != GLN_OK) return status;
    session->working = true;
    status = repeat(r);
    if (status == GLN_OK) status = gather(r);
    if (status == GLN_OK && r->torch)
        status = gln_bench_torch_compare(r->torch, &r->layer, &r->ledger);
    status = gln_session_agree(session, status);
    if (status == GLN_OK && session->rank == 0)
        status = gln_bench_layer_print(r, arguments->given[GLN_OPTION_JSON]);
    return gln_session_agree(session, status);
}

int gln_command_bench_layer(const gln_arguments_t *arguments)
{
    static gln_bench_layer_run_t run;
    gln_session_t session;
    const char *against = arguments->value[GLN_OPTION_AGAINST];
    memset(&run, 0, sizeof run);
    run.layer.session = &session;
    gln_session_start(&session);
    gln_status_t status = GLN_OK;
    if (against && strcmp(against, "torch") != 0)
        status = gln_fail(GLN_ERR_ARGUMENT, "--against: expected torch, found \"%.200s\"", against);
    else if (against && gln_session_environment_rank() == 0)
        status = gln_bench_torch_open(arguments, &run.torch);
    gln_status_t joined = gln_session_join(&session);
    if (joined == GLN_OK && against && session.ranks > 1)
        status = gln_fail(GLN_ERR_ARGUMENT,
                          "--against torch: expected one process, found %d ranks; start gleaner "
                          "without mpirun",
                          session.ranks);
    status = joined == GLN_OK ? gln_session_agree(&session, status) : joined;
    if (status == GLN_OK) status = bench(arguments, &run);
    gln_bench_torch_close(run.torch);
    gln_bench_layer_close(&run.layer);
    return gln_session_leave(&session, status);
}
