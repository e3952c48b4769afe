/* Which form of the exchange between nodes is faster: what each would take by a table of what
 * messages cost. Inside comm/ and for its tests. */
#ifndef GLN_COMM_EXCHANGE_CHOICE_H
#define GLN_COMM_EXCHANGE_CHOICE_H

#include "comm/links.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_exchange_shape {
    int nodes;      /* M, that share a group */
    int ranks;      /* N, of a group on each */
    int local;      /* Dl; W = N * Dl */
    int64_t tokens; /* T of a domain */
    double rows;    /* of one (source, destination) pair, expected */
    size_t row_bytes;
} gln_exchange_shape_t;

/* Of one rank. Bytes are one way: in dispatch, and as many in combine. */
typedef struct gln_exchange_forecast {
    double flat_seconds, hierarchical_seconds; /* a plan, a dispatch and a combine */
    double flat_bytes, hierarchical_bytes;     /* between nodes */
    double relay_bytes;                        /* passed on inside the node */
} gln_exchange_forecast_t;

/** Rows inside a node, metadata and scalars are left out: they are the same in both forms. */
gln_exchange_forecast_t gln_exchange_forecast(const gln_links_t *links,
                                              const gln_exchange_shape_t *shape);
/** 1: hierarchical, 0: flat. Flat where both would take the same time. */
int gln_exchange_prefers_hierarchical(const gln_exchange_forecast_t *forecast);
/** In a line: what was expected, measured and reckoned. */
void gln_exchange_forecast_text(const gln_links_t *links, const gln_exchange_shape_t *shape,
                                const gln_exchange_forecast_t *forecast, char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
