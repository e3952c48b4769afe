/* Rows out of cells, and their printed forms. Quadratic in the number of cells, which is hundreds.
 */
#include "launcher/waste.h"

#include "base/log.h"
#include "launcher/figures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool belongs(const gln_waste_cell_t *cell, const gln_waste_row_t *row)
{
    return cell->policy == row->policy && cell->capacity_factor == row->capacity_factor &&
           cell->unbalanced == row->unbalanced;
}

static gln_waste_spread_t spread(const double *values, int count)
{
    gln_waste_spread_t s = {0};
    for (int i = 0; i < count; i++) {
        s.mean += values[i] / count;
        s.min = i == 0 || values[i] < s.min ? values[i] : s.min;
        s.max = i == 0 || values[i] > s.max ? values[i] : s.max;
    }
    for (int i = 0; i < count && count > 1; i++)
        s.deviation += (values[i] - s.mean) * (values[i] - s.mean) / (count - 1);
    s.deviation = sqrt(s.deviation);
    return s;
}

/* The finished cell of plain top-k that differs in nothing but policy. */
static const gln_waste_cell_t *find_plain(const gln_waste_grid_t *grid,
                                          const gln_waste_cell_t *cell)
{
    for (int i = 0; i < grid->cells_count; i++) {
        const gln_waste_cell_t *c = &grid->cells[i];
        const gln_waste_policy_t *p = c->policy;
        if (c->done && p->policy == GLN_POLICY_TOPK && !p->fill && !p->rectify && !p->dropless &&
            p->k == cell->policy->k && c->capacity_factor == cell->capacity_factor &&
            c->unbalanced == cell->unbalanced && c->seed == cell->seed)
            return c;
    }
    return NULL;
}

static void add_up(const gln_waste_grid_t *grid, gln_waste_row_t *row)
{
    double trained[GLN_WASTE_LIST_MAX], dropless[GLN_WASTE_LIST_MAX], gain[GLN_WASTE_LIST_MAX];
    for (int i = 0; i < grid->cells_count; i++) {
        const gln_waste_cell_t *cell = &grid->cells[i];
        if (!cell->done || !belongs(cell, row)) continue;
        const gln_waste_cell_t *plain = find_plain(grid, cell);
        trained[row->seeds] = cell->result.bits_trained;
        dropless[row->seeds++] = cell->result.bits_dropless;
        if (plain) gain[row->paired++] = plain->result.bits_trained - cell->result.bits_trained;
        gln_ledger_add(&row->ledger, &cell->result.ledger);
    }
    const gln_ledger_t *l = &row->ledger;
    double tokens = (double)(l->tokens > 0 ? l->tokens : 1);
    row->trained = spread(trained, row->seeds);
    row->dropless = spread(dropless, row->seeds);
    row->gain = spread(gain, row->paired);
    row->rows = (double)(l->routed + l->filled + l->rect_rows) / tokens;
    row->slots = (double)l->slots / tokens;
}

gln_waste_row_t *gln_waste_rows(const gln_waste_grid_t *grid, int *count)
{
    gln_waste_row_t *rows = calloc((size_t)grid->cells_count + 1, sizeof *rows);
    int n = 0;
    for (int i = 0; rows && i < grid->cells_count; i++) {
        const gln_waste_cell_t *cell = &grid->cells[i];
        bool seen = !cell->done;
        for (int r = 0; r < n && !seen; r++)
            seen = belongs(cell, &rows[r]);
        if (seen) continue;
        rows[n] = (gln_waste_row_t){.policy = cell->policy,
                                    .capacity_factor = cell->capacity_factor,
                                    .unbalanced = cell->unbalanced};
        add_up(grid, &rows[n++]);
    }
    *count = n;
    return rows;
}

/* ---- printed -----------------------------------------------------------------------------------
 */

typedef struct shares { /* per cent: of choices, then of slots */
    double routed, rescued, rectified, dropped, filled, padded;
} shares_t;

static double per_cent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0.0;
}

static shares_t shares_of(const gln_ledger_t *l)
{
    return (shares_t){.routed = per_cent(l->routed, l->choices),
                      .rescued = per_cent(l->rescued, l->choices),
                      .rectified = per_cent(l->rectified, l->choices),
                      .dropped = per_cent(l->dropped, l->choices),
                      .filled = per_cent(l->filled, l->slots),
                      .padded = per_cent(l->padded, l->slots)};
}

typedef struct texts {
    char capacity[24], trained[48], dropless[48], gain[48];
} texts_t;

/* @param pm  how a deviation is set off, "+-" or its sign */
static texts_t texts_of(const gln_waste_row_t *row, const char *pm)
{
    texts_t t = {.capacity = "none", .gain = "-"};
    if (isfinite(row->capacity_factor))
        snprintf(t.capacity, sizeof t.capacity, "%g", row->capacity_factor);
    snprintf(t.trained, sizeof t.trained, "%.4f %s %.4f", row->trained.mean, pm,
             row->trained.deviation);
    snprintf(t.dropless, sizeof t.dropless, "%.4f %s %.4f", row->dropless.mean, pm,
             row->dropless.deviation);
    if (row->paired > 0)
        snprintf(t.gain, sizeof t.gain, "%+.4f %s %.4f", row->gain.mean, pm, row->gain.deviation);
    return t;
}

void gln_waste_print(const gln_waste_row_t *rows, int count, FILE *file)
{
    fprintf(
        file,
        "validation bits per byte: mean +- standard deviation over seeds; gain: over plain top-k "
        "of "
        "the same capacity, seed by seed;\nrows, slots: per token; shares in per cent, of choices "
        "| "
        "of slots\n\n%-16s %5s %7s %5s  %-17s  %-17s  %-18s %5s %5s  %6s %6s %6s %6s | %5s %5s\n",
        "policy", "cap.", "balance", "seeds", "as trained", "dropless", "gain", "rows", "slots",
        "routed", "resc.", "rect.", "drop.", "fill", "pad");
    for (int i = 0; i < count; i++) {
        const gln_waste_row_t *r = &rows[i];
        texts_t t = texts_of(r, "+-");
        shares_t s = shares_of(&r->ledger);
        fprintf(
            file,
            "%-16s %5s %7s %5d  %-17s  %-17s  %-18s %5.3f %5.2f  %6.1f %6.1f %6.1f %6.1f | %5.1f "
            "%5.1f\n",
            r->policy->name, t.capacity, r->unbalanced ? "no" : "yes", r->seeds, t.trained,
            t.dropless, t.gain, r->rows, r->slots, s.routed, s.rescued, s.rectified, s.dropped,
            s.filled, s.padded);
    }
}

void gln_waste_print_markdown(const gln_waste_row_t *rows, int count, FILE *file)
{
    fprintf(
        file,
        "Validation bits per byte, mean ± standard deviation over seeds [smallest, largest]: "
        "routed "
        "as in training, and the same weights\nwithout capacity. Gain: bits per byte saved over "
        "plain top-k of the same k, capacity and balance loss, seed by seed. Rows:\nexpert rows "
        "computed per token and MoE layer in training; slots: held ready. Shares of training in "
        "per "
        "cent: routed, rescued,\nrectified and dropped of all choices; filled and padded of all "
        "slots.\n\n"
        "| policy | capacity | balance loss | seeds | bits/byte, as trained | bits/byte, dropless "
        "| "
        "gain | rows | slots | routed | rescued | rectified | dropped | filled | padded |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < count; i++) {
        const gln_waste_row_t *r = &rows[i];
        texts_t t = texts_of(r, "±");
        shares_t s = shares_of(&r->ledger);
        fprintf(
            file,
            "| %s | %s | %s | %d | %s [%.4f, %.4f] | %s [%.4f, %.4f] | %s | %.3f | %.2f | %.1f | "
            "%.1f | %.1f | %.1f | %.1f | %.1f |\n",
            r->policy->name, t.capacity, r->unbalanced ? "no" : "yes", r->seeds, t.trained,
            r->trained.min, r->trained.max, t.dropless, r->dropless.min, r->dropless.max, t.gain,
            r->rows, r->slots, s.routed, s.rescued, s.rectified, s.dropped, s.filled, s.padded);
    }
    fprintf(file, "\n![bits per byte over expert rows per token](waste.svg)\n");
}

static json_t *spread_json(const gln_waste_spread_t *s)
{
    json_t *object = json_object();
    json_object_set_new(object, "mean", gln_figures_real(s->mean));
    json_object_set_new(object, "deviation", gln_figures_real(s->deviation));
    json_object_set_new(object, "min", gln_figures_real(s->min));
    json_object_set_new(object, "max", gln_figures_real(s->max));
    return object;
}

static json_t *shares_json(const gln_ledger_t *ledger)
{
    shares_t s = shares_of(ledger);
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "routed", s.routed, "rescued", s.rescued,
                     "rectified", s.rectified, "dropped", s.dropped, "filled", s.filled, "padded",
                     s.padded);
}

gln_status_t gln_waste_print_json(const gln_waste_row_t *rows, int count, FILE *file)
{
    gln_status_t status = GLN_OK;
    for (int i = 0; status == GLN_OK && i < count; i++) {
        const gln_waste_row_t *r = &rows[i];
        json_t *object =
            json_pack("{s:s, s:I}", "policy", r->policy->name, "k", (json_int_t)r->policy->k);
        json_object_set_new(object, "capacity_factor", gln_figures_real(r->capacity_factor));
        json_object_set_new(object, "balanced", json_boolean(!r->unbalanced));
        json_object_set_new(object, "seeds", json_integer(r->seeds));
        json_object_set_new(object, "bits_per_byte", spread_json(&r->trained));
        json_object_set_new(object, "bits_per_byte_dropless", spread_json(&r->dropless));
        json_object_set_new(object, "gain", r->paired ? spread_json(&r->gain) : json_null());
        json_object_set_new(object, "rows_per_token", gln_figures_real(r->rows));
        json_object_set_new(object, "slots_per_token", gln_figures_real(r->slots));
        json_object_set_new(object, "per_cent", shares_json(&r->ledger));
        json_object_set_new(object, "ledger", gln_figures_ledger(&r->ledger));
        status = gln_figures_print(object, file, "standard output");
    }
    return status;
}
