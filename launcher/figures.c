/* Objects are built with jansson, whose objects keep the order in which keys were set. */
#include "launcher/figures.h"

#include "base/log.h"
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

json_t *gln_figures_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static void set_real(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, gln_figures_real(value));
}

static void set_integer(json_t *object, const char *key, int64_t value)
{
    json_object_set_new(object, key, json_integer(value));
}

json_t *gln_figures_ledger(const gln_ledger_t *ledger)
{
    json_t *object = json_object();
    int64_t values[GLN_LEDGER_FIELDS];
    memcpy(values, ledger, sizeof values); /* all fields are int64_t, in the order of their names */
    _Static_assert(sizeof *ledger == sizeof values, "a field was added to gln_ledger_t");
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++)
        set_integer(object, gln_ledger_names()[i], values[i]);
    return object;
}

json_t *gln_figures_traffic(const gln_traffic_t *traffic)
{
    json_t *object = json_object();
    set_integer(object, "rank_rows", traffic->rank_rows);
    set_integer(object, "node_rows", traffic->node_rows);
    set_integer(object, "remote_rows", traffic->remote_rows);
    set_integer(object, "rank_bytes", traffic->rank_bytes);
    set_integer(object, "node_bytes", traffic->node_bytes);
    set_integer(object, "remote_bytes", traffic->remote_bytes);
    return object;
}

json_t *gln_figures_step(const gln_step_report_t *report)
{
    json_t *object = json_object();
    set_integer(object, "step", report->step);
    set_real(object, "loss", report->loss);
    set_real(object, "balance_loss", report->balance_loss);
    set_real(object, "z_loss", report->z_loss);
    set_real(object, "grad_norm", report->grad_norm);
    set_real(object, "lr", report->lr);
    set_integer(object, "tokens", report->tokens);
    set_real(object, "seconds", report->seconds);
    set_real(object, "tokens_per_second", (double)report->tokens / report->seconds);
    set_real(object, "gemm_seconds", report->gemm_seconds);
    set_real(object, "exchange_seconds", report->exchange_seconds);
    set_real(object, "router_seconds", report->router_seconds);
    set_real(object, "flight_seconds", report->flight_seconds);
    set_real(object, "hidden_seconds", report->hidden_seconds);
    json_object_set_new(object, "ledger", gln_figures_ledger(&report->ledger));
    json_object_set_new(object, "traffic", gln_figures_traffic(&report->traffic));
    return object;
}

json_t *gln_figures_eval(const gln_eval_report_t *report)
{
    json_t *object = json_object();
    set_real(object, "loss", report->loss);
    set_real(object, "bits_per_byte", report->bits_per_byte);
    set_integer(object, "tokens", report->tokens);
    set_real(object, "seconds", report->seconds);
    json_object_set_new(object, "ledger", gln_figures_ledger(&report->ledger));
    return object;
}

gln_status_t gln_figures_print(json_t *object, FILE *file, const char *name)
{
    if (!object) return gln_fail(GLN_ERR_MEMORY, "%s: out of memory for a line of figures", name);
    bool written = json_dumpf(object, file, JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0 &&
                   fputc('\n', file) != EOF && fflush(file) == 0;
    json_decref(object);
    return written ? GLN_OK : gln_fail(GLN_ERR_IO, "%s: cannot write: %s", name, strerror(errno));
}

static double per_cent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0.0;
}

void gln_figures_ledger_text(const gln_ledger_t *l, char *out, size_t size)
{
    snprintf(out, size,
             "routed %.1f rescued %.1f rectified %.1f dropped %.1f | filled %.1f padded %.1f",
             per_cent(l->routed, l->choices), per_cent(l->rescued, l->choices),
             per_cent(l->rectified, l->choices), per_cent(l->dropped, l->choices),
             per_cent(l->filled, l->slots), per_cent(l->padded, l->slots));
}
