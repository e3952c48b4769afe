/* Where the time of a training step goes: a stopwatch that its owner hands to a model and an
 * optimizer. Every lap gives the time since the last one to a part, so parts never overlap; a lap
 * costs one look at the clock (vDSO, no system call), a missing stopwatch nothing. */
#ifndef GLN_MOE_STEP_TIMES_H
#define GLN_MOE_STEP_TIMES_H

#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gln_step_part {
    GLN_STEP_EMBEDDING,   /* rows of the table, and its gradient */
    GLN_STEP_NORMS,       /* RMSNorm with the sums of the residual stream that ride along */
    GLN_STEP_PROJECTIONS, /* products of attention: qkv and out */
    GLN_STEP_ATTENTION,   /* its core */
    GLN_STEP_ROPE,
    GLN_STEP_ROUTER,     /* gate products, routing, plan */
    GLN_STEP_EXCHANGE,   /* dispatch and combine, waiting for other ranks included */
    GLN_STEP_MOVE,       /* gather and combine of rows on this rank */
    GLN_STEP_EXPERTS,    /* products of the routed experts */
    GLN_STEP_DENSE,      /* products of dense layers and shared experts */
    GLN_STEP_ACTIVATION, /* SwiGLU of both */
    GLN_STEP_RESIDUAL,   /* copies and sums of the residual stream that stand alone */
    GLN_STEP_HEAD,       /* products of the output projection */
    GLN_STEP_LOSS,       /* cross-entropy, sums of losses and ledgers */
    GLN_STEP_ZERO,       /* gradients set to zero */
    GLN_STEP_SUM,        /* gradients over domains and replicas */
    GLN_STEP_NORM,       /* global gradient norm */
    GLN_STEP_ADAMW,
    GLN_STEP_PARTS
} gln_step_part_t;

typedef struct gln_step_times {
    double mark; /* seconds of a monotonic clock */
    double seconds[GLN_STEP_PARTS];
} gln_step_times_t;

static inline double gln_step_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/** The time since the last lap belongs to `part`. @param times NULL: nothing is measured */
static inline void gln_step_lap(gln_step_times_t *times, gln_step_part_t part)
{
    if (!times) return;
    const double now = gln_step_now();
    times->seconds[part] += now - times->mark;
    times->mark = now;
}

/** What came since the last lap belongs to no part. */
static inline void gln_step_skip(gln_step_times_t *times)
{
    if (times) times->mark = gln_step_now();
}

#ifdef __cplusplus
}
#endif
#endif
