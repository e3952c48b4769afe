/* Choosing between the flat and the hierarchical form from tables written by hand. */
#include "comm/exchange_choice.h"
#include "comm/units.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* A link of this latency and bandwidth, as measuring would find it. */
static gln_link_t link_of(double latency, double gap, double bytes_per_second)
{
    gln_link_t link = {.points = GLN_LINKS_POINTS};
    for (int p = 0; p < GLN_LINKS_POINTS; p++) {
        double bytes = (double)(gln_links_messages[p] * gln_links_bytes[p]) - 1024;
        link.seconds[p] = latency + (gln_links_messages[p] - 1) * gap + bytes / bytes_per_second;
    }
    gln_link_fit(&link);
    return link;
}

static gln_links_t slow_between(void) /* a shaped link, shared memory inside */
{
    return (gln_links_t){.inside = link_of(1e-6, 3e-7, 8e9),
                         .between = link_of(2e-4, 1e-5, 6e6),
                         .copy_byte = 1e-10};
}

static gln_links_t even(void) /* between nodes as inside */
{
    return (gln_links_t){.inside = link_of(2e-6, 3e-7, 5e9),
                         .between = link_of(2e-6, 3e-7, 5e9),
                         .copy_byte = 1e-10};
}

/* k = 8 of 64 experts at random on 2 nodes x 4 ranks: 0.68 of the tokens want each domain. */
static gln_exchange_shape_t wide(void)
{
    return (gln_exchange_shape_t){.nodes = 2,
                                  .ranks = 4,
                                  .local = 1,
                                  .tokens = 4096,
                                  .rows = 0.676 * 4096,
                                  .row_bytes = 4096};
}

static int choice(gln_links_t links, gln_exchange_shape_t shape)
{
    gln_exchange_forecast_t f = gln_exchange_forecast(&links, &shape);
    return gln_exchange_prefers_hierarchical(&f);
}

Test(exchange_choice, fit_gives_back_what_a_link_does)
{
    gln_link_t link = link_of(5e-5, 2e-6, 1e8);
    cr_expect_float_eq(link.latency, 5e-5, 1e-12);
    cr_expect_float_eq(link.gap, 2e-6, 1e-10);
    cr_expect_float_eq(1 / link.byte, 1e8, 1e3);
    cr_expect_float_eq(gln_link_seconds(&link, 1, 0), 5e-5, 1e-12);
    cr_expect_float_eq(gln_link_seconds(&link, 11, 1e6), 5e-5 + 2e-5 + (1e6 - 1024) / 1e8, 1e-9);
    cr_expect_eq(gln_link_seconds(&link, 0, 0), 0, "no message costs nothing");
}

Test(exchange_choice, fit_takes_tables_that_ended_early_or_make_no_sense)
{
    for (int points = 1; points <= GLN_LINKS_POINTS; points++) {
        gln_link_t link = {.points = points, .seconds = {3, 2, 1, 0.5, 0.1}};
        gln_link_fit(&link);
        cr_expect(link.latency > 0 && link.gap >= 0 && link.byte > 0, "%d points", points);
    }
    gln_link_t one = {.points = 1, .seconds = {0.2}};
    gln_link_fit(&one);
    cr_expect_float_eq(one.byte, 0.2 / 1024, 1e-12);
}

Test(exchange_choice, a_link_may_have_regimes)
{
    /* 16 KiB pass at once, the rest does not */
    gln_link_t link = {.points = 4, .seconds = {1e-4, 2e-4, 1.5e-4, 1e-2}};
    gln_link_fit(&link);
    double before = 0, bytes[] = {0, 1024, 4096, 16384, 65536, 262144, 1048576};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        double seconds = gln_link_seconds(&link, 1, bytes[i]);
        cr_expect(seconds >= before, "%g bytes", bytes[i]);
        before = seconds;
    }
    cr_expect_float_eq(gln_link_seconds(&link, 1, 16384), 1.5e-4, 1e-12);
    cr_expect_float_eq(gln_link_seconds(&link, 1, 262144), 1e-2, 1e-12);
    double pace = (1e-2 - 1.5e-4) / (262144 - 16384);
    cr_expect_float_eq(gln_link_seconds(&link, 1, 524288), 1e-2 + 262144 * pace, 1e-9);
    cr_expect_lt(link.gap, 2e-5);
}

Test(exchange_choice, counts_rows_of_both_forms)
{
    gln_links_t links = even();
    gln_exchange_shape_t shape = wide();
    gln_exchange_forecast_t f = gln_exchange_forecast(&links, &shape);
    cr_expect_float_eq(f.flat_bytes, 4 * 0.676 * 4096 * 4096, 1);
    /* a token misses a node of 4 of 8 domains hardly ever at 5.4 domains a token */
    cr_expect_float_eq(f.hierarchical_bytes, 4096 * 4096, 1);
    cr_expect_float_eq(f.relay_bytes, 0.75 * f.flat_bytes, 1);
    cr_expect_lt(f.hierarchical_bytes, 0.45 * f.flat_bytes);
    /* one domain a token: nothing is shared, as many rows either way */
    shape.rows = 4096.0 / 8;
    f = gln_exchange_forecast(&links, &shape);
    cr_expect_float_eq(f.hierarchical_bytes, f.flat_bytes, 1e-6 * f.flat_bytes);
    /* two domains a token: it misses a node by 4/8 * 3/7 */
    shape.rows = 2 * 4096.0 / 8;
    f = gln_exchange_forecast(&links, &shape);
    cr_expect_float_eq(f.hierarchical_bytes, 4096.0 * 4096 * (1 - 4.0 / 8 * 3 / 7), 10);
}

Test(exchange_choice, slow_link_and_wide_routing_take_the_hierarchical_form)
{
    cr_expect_eq(choice(slow_between(), wide()), 1);
    gln_exchange_shape_t more = wide();
    more.nodes = 4;
    cr_expect_eq(choice(slow_between(), more), 1);
}

Test(exchange_choice, without_sharing_or_gain_it_is_flat)
{
    gln_exchange_shape_t shape = wide();
    cr_expect_eq(choice(even(), shape), 0, "rows that cost the same anywhere are moved once");
    shape.rows = 4096.0 / 8;
    cr_expect_eq(choice(slow_between(), shape), 0, "one domain a token shares nothing");
}

Test(exchange_choice, few_tokens_are_flat_and_many_are_not)
{
    gln_links_t links = slow_between();
    gln_exchange_shape_t shape = wide();
    int last = 0, changes = 0;
    links.between = link_of(2e-4, 1e-6, 1e8); /* latency counts */
    for (int64_t tokens = 1; tokens <= 1 << 16; tokens *= 2) {
        shape.tokens = tokens;
        shape.rows = 0.676 * (double)tokens;
        int now = choice(links, shape);
        cr_expect(tokens > 1 || now == 0, "one token");
        changes += now != last;
        last = now;
    }
    cr_expect(last == 1 && changes == 1, "%d changes", changes);
}

Test(exchange_choice, no_rows_at_all)
{
    gln_exchange_shape_t shape = wide();
    shape.rows = 0;
    gln_links_t links = slow_between();
    gln_exchange_forecast_t f = gln_exchange_forecast(&links, &shape);
    cr_expect(f.flat_bytes == 0 && f.hierarchical_bytes == 0 && f.relay_bytes == 0);
    cr_expect(isfinite(f.flat_seconds) && isfinite(f.hierarchical_seconds));
    shape.rows = (double)shape.tokens; /* every token to every domain */
    f = gln_exchange_forecast(&links, &shape);
    cr_expect_float_eq(f.hierarchical_bytes * 4, f.flat_bytes, 1);
}

Test(exchange_choice, one_rank_a_node_needs_no_table_of_the_inside)
{
    gln_links_t links = slow_between();
    links.inside = (gln_link_t){.points = 0};
    gln_exchange_shape_t shape = wide();
    shape.ranks = 1;
    shape.local = 4;
    cr_expect_eq(choice(links, shape), 1);
    char text[320];
    gln_exchange_forecast_t f = gln_exchange_forecast(&links, &shape);
    gln_exchange_forecast_text(&links, &shape, &f, text, sizeof text);
    cr_expect(strstr(text, "2 nodes of 1 rank ") && !strstr(text, "inside"), "%s", text);
}

Test(exchange_choice, text_fits_and_names_both_times)
{
    gln_links_t links = slow_between();
    gln_exchange_shape_t shape = {.nodes = 65536,
                                  .ranks = 128,
                                  .local = 16,
                                  .tokens = INT32_MAX,
                                  .rows = 1e9,
                                  .row_bytes = 1 << 20};
    char text[320];
    gln_exchange_forecast_t f = gln_exchange_forecast(&links, &shape);
    gln_exchange_forecast_text(&links, &shape, &f, text, sizeof text);
    cr_expect(strstr(text, "hierarchical ") && strstr(text, "flat ") && strchr(text, ')'), "%s",
              text);
    cr_expect_lt(strlen(text), sizeof text - 1);
}

Test(exchange_choice, units)
{
    char text[16];
    gln_seconds_text(4e-7, text);
    cr_expect_str_eq(text, "0.4 us");
    gln_seconds_text(3.14e-3, text);
    cr_expect_str_eq(text, "3.1 ms");
    gln_seconds_text(125, text);
    cr_expect_str_eq(text, "125 s");
    gln_bytes_text(41.2 * 1024, text);
    cr_expect_str_eq(text, "41 KiB");
    gln_rate_text(1 / 24e6, text);
    cr_expect_str_eq(text, "24 MB/s");
}
