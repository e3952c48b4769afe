/* The measured table: plausible, the same on every rank, measured once; and the form that the
 * exchange takes by it, with pretended nodes. RANKS: 1 2 3 4 */
#include "comm/comm_internal.h"
#include "comm/exchange.h"
#include "comm/exchange_choice.h"
#include "comm/links.h"
#include "tests/ranks/comm/check.h"

enum { ranks_max = 8 };

static gln_comm_t *comm;

static void same_everywhere(const void *mine, size_t bytes, const char *what)
{
    char *all = allocate(bytes * (size_t)gln_comm_size(comm));
    CHECK_OK(gln_comm_allgather(comm, mine, bytes, all));
    for (int r = 0; r < gln_comm_size(comm); r++)
        CHECK(memcmp(all + (size_t)r * bytes, mine, bytes) == 0, "rank %d has another %s", r, what);
    free(all);
}

static void link_check(const gln_link_t *link, int there)
{
    CHECK(!there == (link->points == 0), "%d points", link->points);
    for (int p = 0; p < link->points; p++)
        CHECK(link->seconds[p] > 0 && link->seconds[p] < 600, "%g s", link->seconds[p]);
    if (there) CHECK(link->latency > 0 && link->gap >= 0 && link->byte > 0);
}

static void table(int nodes_count)
{
    const gln_links_t *links = NULL, *again = NULL;
    CHECK_OK(gln_comm_links(comm, &links));
    CHECK_OK(gln_comm_links(comm, &again));
    CHECK(links == again && comm->links == links, "measured once");
    same_everywhere(links, sizeof *links, "table");
    link_check(&links->inside, gln_comm_size(comm) > nodes_count);
    link_check(&links->between, nodes_count > 1);
    CHECK(links->copy_byte > 0 && links->seconds > 0);
}

static void form(gln_exchange_across_t across, int measured)
{
    int ranks = gln_comm_size(comm);
    gln_exchange_options_t o = {.domains = 2 * ranks,
                                .tokens = 64,
                                .hidden = 32,
                                .dtype = GLN_F32,
                                .rows_max = 64,
                                .rows_expected = 40.5,
                                .across = across};
    gln_exchange_t *x = NULL;
    CHECK_OK(gln_exchange_open(comm, &o, &x));
    const char *reason = gln_exchange_form_reason(x);
    char text[400] = "";
    snprintf(text, sizeof text, "%s: %s", gln_exchange_form(x), reason);
    same_everywhere(text, sizeof text, "form or reason");
    CHECK((comm->links != NULL) == measured, "measured or not: %s", text);
    if (measured) {
        gln_exchange_shape_t shape = {.nodes = 2,
                                      .ranks = ranks / 2,
                                      .local = 2,
                                      .tokens = 64,
                                      .rows = 40.5,
                                      .row_bytes = 32 * 4};
        gln_exchange_forecast_t f = gln_exchange_forecast(comm->links, &shape);
        int hierarchical = gln_exchange_prefers_hierarchical(&f);
        CHECK(strcmp(gln_exchange_form(x), hierarchical ? "hierarchical" : "flat") == 0, "%s",
              text);
        CHECK(strstr(reason, "predicted for 2 nodes") && strstr(reason, "40.5 rows a pair"), "%s",
              text);
        if (gln_comm_rank(comm) == 0) printf("%s\n", text);
    }
    gln_exchange_close(x);
}

/* The same decision from a table made so that the answer is known. */
static void planted(double between_byte, const char *expected)
{
    gln_links_t *links = calloc(1, sizeof *links);
    CHECK(links);
    *links = (gln_links_t){.inside = {.points = 1, .latency = 1e-6, .byte = 1e-10},
                           .between = {.points = 1, .latency = 1e-6, .byte = between_byte},
                           .copy_byte = 1e-10};
    free(comm->links);
    comm->links = links;
    gln_exchange_options_t o = {.domains = 2 * gln_comm_size(comm),
                                .tokens = 64,
                                .hidden = 32,
                                .dtype = GLN_F32,
                                .rows_max = 64,
                                .rows_expected = 40.5};
    gln_exchange_t *x = NULL;
    CHECK_OK(gln_exchange_open(comm, &o, &x));
    CHECK(strcmp(gln_exchange_form(x), expected) == 0, "%s", gln_exchange_form_reason(x));
    gln_exchange_close(x);
}

static void bad_expectation(double rows)
{
    gln_exchange_options_t o = {.domains = gln_comm_size(comm),
                                .tokens = 4,
                                .hidden = 1,
                                .dtype = GLN_F32,
                                .rows_max = 4,
                                .rows_expected = rows};
    gln_exchange_t *x = NULL;
    CHECK(gln_exchange_open(comm, &o, &x) == GLN_ERR_ARGUMENT);
    CHECK(strstr(gln_last_error(), "rows_expected"));
}

int main(void)
{
    int nodes[ranks_max] = {0};
    CHECK_OK(gln_comm_open_world(&comm));
    int ranks = gln_comm_size(comm);
    bad_expectation(-1);
    bad_expectation(4.5);
    form(GLN_ACROSS_AUTO, 0); /* one node: nothing to choose */
    table(1);
    if (ranks > 1) {
        for (int r = 0; r < ranks; r++) /* of 3 ranks: nodes of different sizes */
            nodes[r] = r < ranks / 2;
        gln_comm_set_nodes(comm, nodes, 2);
        CHECK(comm->links == NULL, "another topology is measured anew");
        form(GLN_ACROSS_FLAT, 0);
        if (ranks != 3) {
            form(GLN_ACROSS_HIERARCHICAL, 0);
            form(GLN_ACROSS_AUTO, 1);
            planted(1e-6, "hierarchical");
            planted(1e-10, "flat");
            gln_comm_set_nodes(comm, nodes, 2);
        }
        table(2);
    }
    if (gln_comm_rank(comm) == 0) printf("ok\n");
    gln_comm_close(comm);
    return 0;
}
