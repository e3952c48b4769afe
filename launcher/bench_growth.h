/* What `gleaner bench growth` measures, and printing it. */
#ifndef GLN_LAUNCHER_BENCH_GROWTH_H
#define GLN_LAUNCHER_BENCH_GROWTH_H

#include "launcher/bench_layer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_GROWTH_POINTS_MAX = 8 };

typedef struct gln_growth_point {
    gln_bench_layer_t *layer;
    const char *label;                    /* what grows, as a number: "8", "256", "1.25" */
    int skip;                             /* 1: without fill-in and rectification */
    int calls;                            /* of a round */
    double seconds[GLN_BENCH_REPEAT_MAX]; /* of a call, mean of a round's */
    double ratio[GLN_BENCH_REPEAT_MAX];   /* of a round: this time / the reference's */
    double median, min, ratio_median;
    double flops, rows;      /* of a call, all ranks */
    gln_layer_times_t times; /* summed over calls and ranks */
    gln_ledger_t ledger;
} gln_growth_point_t;

typedef enum gln_growth_kind {
    GLN_GROWTH_EXPERTS,
    GLN_GROWTH_TOKENS,
    GLN_GROWTH_RECTIFY,
    GLN_GROWTH_KINDS
} gln_growth_kind_t;

typedef struct gln_growth {
    gln_growth_kind_t kind;
    int64_t repeat;
    int points_count, reference; /* index of the point that others are compared with */
    gln_growth_point_t points[GLN_GROWTH_POINTS_MAX];
} gln_growth_t;

const char *gln_growth_name(gln_growth_kind_t kind);
/** Index of the point that point i is compared with. */
int gln_growth_reference(const gln_growth_t *growth, int i);
/** What the ratio of point i should be: 1, or that of the operations where rows are added. */
double gln_growth_expected(const gln_growth_t *growth, int i);

gln_status_t gln_growth_print(const gln_growth_t *growth, int json);

#ifdef __cplusplus
}
#endif
#endif
