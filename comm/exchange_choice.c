/* Choosing the form between nodes by reckoning both. Messages cost what links.c measured: n of them
 * take latency + (n - 1) gap, and their bytes a time that grows in straight lines.
 *
 * Expected rows. A pair of domains has r rows of T tokens, so a token goes to d = r G / T of the G
 * domains of its group. As if these were d of G drawn without replacement, the W domains of a node
 * all miss it with probability q = prod_{i < W} (G - d - i) / (G - i), factors below 0 taken as 0:
 * exact for one expert per domain and uniform routing. A source sends a remote node u = T (1 - q)
 * distinct rows per domain, not W r. Skewed or clustered routing shares more rows, not fewer: the
 * estimate leans to flat there.
 *
 * Flat, one way and rank: W (M - 1) messages with (M - 1) W Dl r rows between nodes, each gathered
 * by a copy (dispatch) or read for its sum (combine).
 * Hierarchical: M - 1 messages with (M - 1) Dl u rows between nodes, gathered likewise; then the
 * gateway copies or sums (M - 1) W Dl r rows, of which (N - 1) / N go on in (N - 1)(M - 1) Dl
 * messages inside the node. Its plan adds 2 (M - 1) messages and 4 bytes a planned row between
 * nodes. The steps follow each other, so their times add up. O(W). */
#include "comm/exchange_choice.h"

#include "comm/units.h"
#include <stdio.h>

/* Probability that none of the W domains of a node is among those a token goes to. */
static double missed(const gln_exchange_shape_t *s)
{
    double width = (double)s->ranks * s->local, group = width * s->nodes;
    double wanted = s->rows * group / (double)s->tokens, miss = 1;
    for (int i = 0; i < s->ranks * s->local && miss > 0; i++)
        miss *= group - wanted - i > 0 ? (group - wanted - i) / (group - i) : 0;
    return miss;
}

gln_exchange_forecast_t gln_exchange_forecast(const gln_links_t *links,
                                              const gln_exchange_shape_t *s)
{
    gln_exchange_forecast_t f;
    double others = s->nodes - 1, width = (double)s->ranks * s->local;
    double rows = others * width * s->local * s->rows; /* planned, of one rank */
    double row = (double)s->row_bytes;
    double distinct = others * s->local * (double)s->tokens * (1 - missed(s));
    f.flat_bytes = rows * row;
    f.hierarchical_bytes = distinct * row;
    f.relay_bytes = rows * row * (s->ranks - 1) / s->ranks;
    double flat = gln_link_seconds(&links->between, width * others, f.flat_bytes) +
                  f.flat_bytes * links->copy_byte;
    double hierarchical =
        gln_link_seconds(&links->between, others, f.hierarchical_bytes) +
        gln_link_seconds(&links->inside, (s->ranks - 1) * others * s->local, f.relay_bytes) +
        (f.hierarchical_bytes + f.flat_bytes) * links->copy_byte;
    f.flat_seconds = 2 * flat;
    f.hierarchical_seconds =
        2 * hierarchical + gln_link_seconds(&links->between, 2 * others, 4 * rows);
    return f;
}

int gln_exchange_prefers_hierarchical(const gln_exchange_forecast_t *forecast)
{
    return forecast->hierarchical_seconds < forecast->flat_seconds;
}

void gln_exchange_forecast_text(const gln_links_t *links, const gln_exchange_shape_t *shape,
                                const gln_exchange_forecast_t *f, char *out, size_t size)
{
    char flat[16], hierarchical[16], flat_bytes[16], bytes[16], inside[48] = "";
    char rows[32], between_latency[16], between_rate[16], latency[16], rate[16];
    snprintf(rows, sizeof rows, shape->rows < 100 ? "%.1f" : "%.0f", shape->rows);
    gln_seconds_text(f->flat_seconds, flat);
    gln_seconds_text(f->hierarchical_seconds, hierarchical);
    gln_bytes_text(f->flat_bytes, flat_bytes);
    gln_bytes_text(f->hierarchical_bytes, bytes);
    gln_seconds_text(links->between.latency, between_latency);
    gln_rate_text(links->between.byte, between_rate);
    if (links->inside.points > 0) {
        gln_seconds_text(links->inside.latency, latency);
        gln_rate_text(links->inside.byte, rate);
        snprintf(inside, sizeof inside, ", inside %s + %s", latency, rate);
    }
    snprintf(out, size,
             "predicted for %d nodes of %d rank%s and %s rows a pair: hierarchical %s, flat %s; "
             "%s instead of %s a rank between nodes (measured: between nodes %s + %s a rank%s)",
             shape->nodes, shape->ranks, shape->ranks == 1 ? "" : "s", rows, hierarchical, flat,
             bytes, flat_bytes, between_latency, between_rate, inside);
}
