/* The plot as SVG, written by hand: panels side by side per k, one row of panels per way of
 * evaluation. A colour per policy, a shape per capacity factor, hollow marks without balance loss,
 * bars from the smallest to the largest seed. Marks of one policy are joined in the order of
 * capacity. Axes of a row of panels are shared in y, those of a column in x. */
#include "launcher/waste.h"

#include <math.h>
#include <string.h>

enum {
    COLUMNS_MAX = 4,
    PANEL_WIDTH = 380,
    PANEL_HEIGHT = 300,
    GAP_X = 84,
    GAP_Y = 76,
    TOP = 70,
    LEGEND = 190,
    NAMES_MAX = 16
};

static const char *const colours[] = {"#1f5fa8", "#d1731f", "#2f8f4e", "#b3282d", "#6b4fa3",
                                      "#4d4d4d", "#b0579a", "#8a7a12", "#178a94", "#7a4a2b"};
enum { COLOURS = sizeof colours / sizeof colours[0] };

typedef struct range {
    double low, high, step;
} range_t;

typedef struct plot {
    const gln_waste_row_t *rows;
    int count;
    FILE *file;
    int64_t ks[COLUMNS_MAX];
    int columns;
    const char *variants[NAMES_MAX];
    int variants_count;
    double factors[NAMES_MAX]; /* ascending; infinity last */
    int factors_count;
    range_t x[COLUMNS_MAX], y[2];
} plot_t;

static const gln_waste_spread_t *value_of(const gln_waste_row_t *row, int evaluation)
{
    return evaluation == 0 ? &row->trained : &row->dropless;
}

static int variant_of(const plot_t *p, const gln_waste_row_t *row)
{
    for (int i = 0; i < p->variants_count; i++)
        if (!strcmp(p->variants[i], row->policy->variant)) return i;
    return -1;
}

static int factor_of(const plot_t *p, const gln_waste_row_t *row)
{
    for (int i = 0; i < p->factors_count; i++)
        if (p->factors[i] == row->capacity_factor) return i;
    return -1;
}

static int column_of(const plot_t *p, const gln_waste_row_t *row)
{
    for (int i = 0; i < p->columns; i++)
        if (p->ks[i] == row->policy->k) return i;
    return -1;
}

/* What the rows hold: columns, colours, shapes. What is past the limits is left off. */
static void collect(plot_t *p)
{
    for (int i = 0; i < p->count; i++) {
        const gln_waste_row_t *row = &p->rows[i];
        if (column_of(p, row) < 0 && p->columns < COLUMNS_MAX) p->ks[p->columns++] = row->policy->k;
        if (variant_of(p, row) < 0 && p->variants_count < NAMES_MAX)
            p->variants[p->variants_count++] = row->policy->variant;
        if (factor_of(p, row) >= 0 || p->factors_count == NAMES_MAX) continue;
        int at = p->factors_count++;
        for (; at > 0 && p->factors[at - 1] > row->capacity_factor; at--)
            p->factors[at] = p->factors[at - 1];
        p->factors[at] = row->capacity_factor;
    }
}

/* Round limits around [low, high] with 4 to 8 steps of 1, 2 or 5 times a power of ten. */
static range_t round_range(double low, double high)
{
    double width = high > low ? high - low : fabs(high) * 0.1 + 1e-3;
    double power = pow(10, floor(log10(width / 5))), step = power;
    if (width / step > 8) step = 2 * power;
    if (width / step > 8) step = 5 * power;
    if (width / step > 8) step = 10 * power;
    double margin = 0.04 * width;
    return (range_t){floor((low - margin) / step) * step, ceil((high + margin) / step) * step,
                     step};
}

static void find_ranges(plot_t *p)
{
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
    for (int c = 0; c < p->columns; c++) {
        double left = INFINITY, right = -INFINITY;
        for (int i = 0; i < p->count; i++) {
            const gln_waste_row_t *row = &p->rows[i];
            if (column_of(p, row) != c) continue;
            left = fmin(left, row->rows);
            right = fmax(right, row->rows);
            for (int e = 0; e < 2; e++) {
                low[e] = fmin(low[e], value_of(row, e)->min);
                high[e] = fmax(high[e], value_of(row, e)->max);
            }
        }
        p->x[c] = round_range(left, right);
    }
    for (int e = 0; e < 2; e++)
        p->y[e] = round_range(low[e], high[e]);
}

static double place_x(const plot_t *p, int column, double value)
{
    const range_t *r = &p->x[column];
    return GAP_X + column * (PANEL_WIDTH + GAP_X) +
           (value - r->low) / (r->high - r->low) * PANEL_WIDTH;
}

static double place_y(const plot_t *p, int evaluation, double value)
{
    const range_t *r = &p->y[evaluation];
    return TOP + evaluation * (PANEL_HEIGHT + GAP_Y) +
           (r->high - value) / (r->high - r->low) * PANEL_HEIGHT;
}

static void draw_text(FILE *file, double x, double y, const char *style, const char *text)
{
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, style, text);
}

static int decimals(double step)
{
    int places = (int)ceil(-log10(step) - 1e-9);
    return places > 0 ? places : 0;
}

static void draw_axes(const plot_t *p, int column, int evaluation)
{
    const range_t *x = &p->x[column], *y = &p->y[evaluation];
    double left = place_x(p, column, x->low), top = place_y(p, evaluation, y->high);
    double bottom = top + PANEL_HEIGHT;
    char text[96];
    for (int i = 0; x->low + i * x->step < x->high + 0.5 * x->step; i++) {
        double at = place_x(p, column, x->low + i * x->step);
        fprintf(p->file, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#e2e2e2\"/>\n", at, top, bottom);
        snprintf(text, sizeof text, "%.*f", decimals(x->step), x->low + i * x->step);
        draw_text(p->file, at, bottom + 17, "text-anchor=\"middle\"", text);
    }
    for (int i = 0; y->low + i * y->step < y->high + 0.5 * y->step; i++) {
        double at = place_y(p, evaluation, y->low + i * y->step);
        fprintf(p->file, "<path d=\"M%.1f %.1fH%.1f\" stroke=\"#e2e2e2\"/>\n", left, at,
                left + PANEL_WIDTH);
        snprintf(text, sizeof text, "%.*f", decimals(y->step), y->low + i * y->step);
        draw_text(p->file, left - 7, at + 4, "text-anchor=\"end\"", text);
    }
    fprintf(
        p->file,
        "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#888\"/>\n",
        left, top, PANEL_WIDTH, PANEL_HEIGHT);
    snprintf(text, sizeof text, "k = %lld, evaluated %s", (long long)p->ks[column],
             evaluation == 0 ? "as trained" : "without capacity");
    draw_text(p->file, left, top - 8, "font-weight=\"bold\"", text);
    draw_text(p->file, left + PANEL_WIDTH / 2.0, bottom + 35, "text-anchor=\"middle\"",
              "expert rows per token");
    if (column > 0) return;
    snprintf(text, sizeof text, "text-anchor=\"middle\" transform=\"rotate(-90 %.1f %.1f)\"",
             left - 60, top + PANEL_HEIGHT / 2.0);
    draw_text(p->file, left - 60, top + PANEL_HEIGHT / 2.0, text, "validation bits per byte");
}

/* Shape number `shape` around (x, y): the last one, for no capacity, is a star. */
static void draw_mark(const plot_t *p, double x, double y, int factor, const char *colour,
                      bool hollow)
{
    static const char *const shapes[] = {
        "M-5 -4.5H5L0 5.5Z", /* triangle, down */
        "M-4.8 0a4.8 4.8 0 1 0 9.6 0a4.8 4.8 0 1 0 -9.6 0Z",
        "M-4.3 -4.3H4.3V4.3H-4.3Z",
        "M0 -6L6 0L0 6L-6 0Z",
        "M-5 4.5H5L0 -5.5Z",
    };
    static const char star[] =
        "M0 -7.5L1.8 -2.4L7.1 -2.3L2.9 0.9L4.4 6.1L0 3L-4.4 6.1L-2.9 0.9L-7.1 -2.3L-1.8 -2.4Z";
    const char *path = isinf(p->factors[factor]) ? star : shapes[factor % 5];
    fprintf(p->file,
            "<path transform=\"translate(%.1f %.1f)\" d=\"%s\" fill=\"%s\" stroke=\"%s\" "
            "stroke-width=\"1.5\" fill-opacity=\"0.85\"/>\n",
            x, y, path, hollow ? "white" : colour, colour);
}

/* The line through a policy's marks, in the order of capacity. */
static void draw_line(const plot_t *p, int column, int evaluation, int variant)
{
    bool begun = false;
    for (int f = 0; f < p->factors_count; f++)
        for (int i = 0; i < p->count; i++) {
            const gln_waste_row_t *row = &p->rows[i];
            if (row->unbalanced || column_of(p, row) != column || variant_of(p, row) != variant ||
                factor_of(p, row) != f)
                continue;
            fprintf(p->file, "%s%.1f %.1f", begun ? "L" : "<path d=\"M",
                    place_x(p, column, row->rows),
                    place_y(p, evaluation, value_of(row, evaluation)->mean));
            begun = true;
        }
    if (begun)
        fprintf(p->file, "\" fill=\"none\" stroke=\"%s\" stroke-opacity=\"0.55\"/>\n",
                colours[variant % COLOURS]);
}

static void draw_panel(const plot_t *p, int column, int evaluation)
{
    draw_axes(p, column, evaluation);
    for (int v = 0; v < p->variants_count; v++)
        draw_line(p, column, evaluation, v);
    for (int i = 0; i < p->count; i++) {
        const gln_waste_row_t *row = &p->rows[i];
        const gln_waste_spread_t *s = value_of(row, evaluation);
        int variant = variant_of(p, row), factor = factor_of(p, row);
        if (column_of(p, row) != column || variant < 0 || factor < 0) continue;
        double x = place_x(p, column, row->rows);
        const char *colour = colours[variant % COLOURS];
        fprintf(p->file, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"%s\" stroke-opacity=\"0.6\"/>\n", x,
                place_y(p, evaluation, s->min), place_y(p, evaluation, s->max), colour);
        draw_mark(p, x, place_y(p, evaluation, s->mean), factor, colour, row->unbalanced);
    }
}

static void draw_legend(const plot_t *p)
{
    double x = GAP_X + p->columns * (PANEL_WIDTH + GAP_X) - 52, y = TOP + 4;
    char text[64];
    draw_text(p->file, x, y, "font-weight=\"bold\"", "policy");
    for (int v = 0; v < p->variants_count; v++) {
        y += 22;
        fprintf(p->file, "<path d=\"M%.1f %.1fh22\" stroke=\"%s\" stroke-width=\"5\"/>\n", x, y - 4,
                colours[v % COLOURS]);
        draw_text(p->file, x + 32, y, "", p->variants[v]);
    }
    y += 40;
    draw_text(p->file, x, y, "font-weight=\"bold\"", "capacity factor");
    for (int f = 0; f < p->factors_count; f++) {
        y += 22;
        draw_mark(p, x + 11, y - 4, f, "#444", false);
        if (isinf(p->factors[f]))
            snprintf(text, sizeof text, "none (dropless)");
        else
            snprintf(text, sizeof text, "%g", p->factors[f]);
        draw_text(p->file, x + 32, y, "", text);
    }
    y += 40;
    draw_text(p->file, x, y, "font-weight=\"bold\"", "balance loss");
    draw_mark(p, x + 11, y + 18, 0, "#444", false);
    draw_text(p->file, x + 32, y + 22, "", "with (filled)");
    draw_mark(p, x + 11, y + 40, 0, "#444", true);
    draw_text(p->file, x + 32, y + 44, "", "without (hollow)");
    draw_text(p->file, x, y + 84, "", "mark: mean over seeds");
    draw_text(p->file, x, y + 102, "", "bar: smallest to largest");
}

void gln_waste_plot(const gln_waste_row_t *rows, int count, FILE *file)
{
    plot_t plot = {.rows = rows, .count = count, .file = file};
    collect(&plot);
    find_ranges(&plot);
    int width = GAP_X + plot.columns * (PANEL_WIDTH + GAP_X) + LEGEND - 40;
    int height = TOP + 2 * (PANEL_HEIGHT + GAP_Y);
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d "
            "%d\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n",
            width, height, width, height, width, height);
    draw_text(file, GAP_X, 30, "font-size=\"17\" font-weight=\"bold\"",
              "Validation bits per byte over expert rows computed per token");
    for (int e = 0; e < 2; e++)
        for (int c = 0; c < plot.columns; c++)
            draw_panel(&plot, c, e);
    if (plot.factors_count > 0) draw_legend(&plot);
    fprintf(file, "</svg>\n");
}
