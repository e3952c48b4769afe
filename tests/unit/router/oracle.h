/* The rectify-router once more, as slowly and as plainly as it can be said: loops over tokens and
 * experts that follow the definition sentence by sentence. It shares no code with router/; it takes
 * the scores of a plan (checked apart against a long double softmax) and says what the rest must
 * be. */
#ifndef GLN_TESTS_ROUTER_ORACLE_H
#define GLN_TESTS_ROUTER_ORACLE_H

#include "base/rng.h"
#include "router/router.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_SERVED = -1 };

typedef struct oracle {
    int64_t tokens, capacity;
    int experts, k;
    double *p;        /* [T, E] */
    int *choice;      /* [T, K] expert */
    int *candidate;   /* [T] expert of the fill-in candidate; -1 */
    int *choice_slot; /* [T, K] slot within its expert; NOT_SERVED */
    int *fill_slot;   /* [T] slot; NOT_SERVED */
    int *used;        /* [E] slots given */
    int64_t *asked;   /* [E] choices before capacity */
    int *h, *m;       /* [T] rectification: expert or -1, multiplicity */
    int *row;         /* [T] 1: a row of its own is computed */
    double *choice_weight, *fill_weight, *row_weight, *scale;
    gln_ledger_t ledger;
} oracle_t;

static inline int oracle_serves(const oracle_t *o, int64_t t, int expert)
{
    for (int c = 0; c < o->k; c++)
        if (o->choice[t * o->k + c] == expert && o->choice_slot[t * o->k + c] != NOT_SERVED)
            return 1;
    return o->candidate[t] == expert && o->fill_slot[t] != NOT_SERVED;
}

static inline int oracle_served(const oracle_t *o, int64_t t)
{
    int count = 0;
    for (int e = 0; e < o->experts; e++)
        count += oracle_serves(o, t, e);
    return count;
}

static inline void oracle_choose(oracle_t *o, const gln_router_options_t *opt)
{
    int rank = opt->fill_rank ? opt->fill_rank : o->k + 1;
    char *taken = malloc((size_t)o->experts);
    for (int64_t t = 0; t < o->tokens; t++) {
        memset(taken, 0, (size_t)o->experts);
        o->candidate[t] = -1;
        for (int r = 0; r < o->experts; r++) {
            int best = -1;
            for (int e = 0; e < o->experts; e++)
                if (!taken[e] &&
                    (best < 0 || o->p[t * o->experts + e] > o->p[t * o->experts + best]))
                    best = e;
            taken[best] = 1;
            if (r < o->k) {
                o->choice[t * o->k + r] = best;
                o->asked[best]++;
            }
            if (opt->fill && r == rank - 1) o->candidate[t] = best;
        }
    }
    free(taken);
}

/* Does token a go before token b for choice c? */
static inline int oracle_before(const oracle_t *o, const gln_router_options_t *opt,
                                const gln_route_input_t *in, int c, int64_t a, int64_t b)
{
    uint64_t stream = gln_rng_stream(GLN_RNG_ROUTER, (uint64_t)in->step, (uint64_t)in->layer);
    uint64_t domain = (uint64_t)in->domain << 32, draw_a, draw_b;
    double key_a = 0, key_b = 0;
    switch (opt->priority) {
    case GLN_PRIORITY_SCORE:
        key_a = o->p[a * o->experts + o->choice[a * o->k + c]];
        key_b = o->p[b * o->experts + o->choice[b * o->k + c]];
        break;
    case GLN_PRIORITY_MAX:
        key_a = o->p[a * o->experts + o->choice[a * o->k]];
        key_b = o->p[b * o->experts + o->choice[b * o->k]];
        break;
    case GLN_PRIORITY_RANDOM:
        draw_a = gln_rng_u64(in->seed, stream, domain | (uint64_t)a);
        draw_b = gln_rng_u64(in->seed, stream, domain | (uint64_t)b);
        return draw_a != draw_b ? draw_a > draw_b : a < b;
    default:
        break;
    }
    return key_a != key_b ? key_a > key_b : a < b;
}

static inline void oracle_serve(oracle_t *o, const gln_router_options_t *opt,
                                const gln_route_input_t *in)
{
    for (int c = 0; c < o->k; c++)
        for (int e = 0; e < o->experts; e++)
            while (o->used[e] < o->capacity) {
                int64_t next = -1;
                for (int64_t t = 0; t < o->tokens; t++)
                    if (o->choice[t * o->k + c] == e &&
                        o->choice_slot[t * o->k + c] == NOT_SERVED &&
                        (next < 0 || oracle_before(o, opt, in, c, t, next)))
                        next = t;
                if (next < 0) break;
                o->choice_slot[next * o->k + c] = o->used[e]++;
                o->ledger.routed++;
            }
}

static inline void oracle_fill(oracle_t *o, const gln_router_options_t *opt)
{
    for (int e = 0; e < o->experts; e++)
        while (o->used[e] < o->capacity) {
            int64_t next = -1;
            double next_key = 0;
            for (int64_t t = 0; t < o->tokens; t++) {
                if (o->candidate[t] != e || o->fill_slot[t] != NOT_SERVED) continue;
                int by = opt->fill_key == GLN_FILL_KEY_MAX ? o->choice[t * o->k] : e;
                double key = o->p[t * o->experts + by];
                if (next < 0 || key > next_key) {
                    next = t;
                    next_key = key;
                }
            }
            if (next < 0) break;
            o->fill_slot[next] = o->used[e]++;
            o->ledger.filled++;
        }
}

static inline int oracle_short(const oracle_t *o, const gln_router_options_t *opt, int64_t t)
{
    int served = oracle_served(o, t);
    int none_left = opt->ir_tokens == GLN_IR_TOKENS_NONE_LEFT ||
                    (opt->ir_tokens == GLN_IR_TOKENS_AUTO && o->k == 1);
    return none_left ? served == 0 : served < o->k;
}

/* h of a token that is short of routes, among the experts of the neighbourhood of `first_local`. */
static inline int oracle_h(const oracle_t *o, const gln_router_options_t *opt, int per_domain,
                           int first_local, int64_t t)
{
    int scope = opt->ir_scope ? opt->ir_scope : 1;
    int h = -1;
    for (int e = 0; e < o->experts; e++) {
        int its_group = e / per_domain / scope, own_group = first_local / per_domain / scope;
        if (its_group != own_group || (opt->ir_exclude && oracle_serves(o, t, e))) continue;
        if (h < 0 || o->p[t * o->experts + e] > o->p[t * o->experts + h]) h = e;
    }
    return h;
}

static inline void oracle_rectify(oracle_t *o, const gln_router_options_t *opt, int per_domain,
                                  int first_local)
{
    int wanted = opt->ir_scale == GLN_IR_SCALE_K_GATE && opt->fill ? o->k + 1 : o->k;
    for (int64_t t = 0; t < o->tokens; t++) {
        if (!oracle_short(o, opt, t)) continue;
        o->h[t] = oracle_h(o, opt, per_domain, first_local, t);
        if (o->h[t] < 0) continue;
        o->m[t] = wanted - oracle_served(o, t);
        o->row[t] = !oracle_serves(o, t, o->h[t]);
    }
    for (int e = 0; e < o->experts && opt->ir_capacity > 0; e++)
        for (;;) { /* turn away the token of smallest p_h, the later one of equals, one by one */
            int64_t rows = 0, worst = -1;
            for (int64_t t = 0; t < o->tokens; t++) {
                if (o->h[t] != e || !o->row[t]) continue;
                rows++;
                if (worst < 0 || o->p[t * o->experts + e] <= o->p[worst * o->experts + e])
                    worst = t;
            }
            if (rows <= opt->ir_capacity) break;
            o->h[worst] = -1;
            o->m[worst] = o->row[worst] = 0;
        }
}

static inline void oracle_weigh(oracle_t *o, const gln_router_options_t *opt)
{
    for (int64_t t = 0; t < o->tokens; t++) {
        double *w = calloc((size_t)o->experts, sizeof *w);
        const double *p = o->p + t * o->experts;
        double served_sum = 0, top_sum = 0, shares = 0;
        for (int e = 0; e < o->experts; e++) {
            int count = oracle_serves(o, t, e) + (o->h[t] == e ? o->m[t] : 0);
            w[e] = count * p[e];
            served_sum += w[e];
            shares += count;
        }
        for (int c = 0; c < o->k; c++)
            top_sum += p[o->choice[t * o->k + c]];
        o->scale[t] = opt->weight == GLN_WEIGHT_NORMALIZED ? served_sum
                      : opt->weight == GLN_WEIGHT_P        ? 1
                                                           : top_sum;
        for (int e = 0; e < o->experts; e++) {
            int count = oracle_serves(o, t, e) + (o->h[t] == e ? o->m[t] : 0);
            if (o->scale[t] == 0)
                w[e] = shares > 0 ? count / shares : 0;
            else
                w[e] /= o->scale[t];
        }
        for (int c = 0; c < o->k; c++)
            o->choice_weight[t * o->k + c] = w[o->choice[t * o->k + c]];
        o->fill_weight[t] = o->candidate[t] >= 0 ? w[o->candidate[t]] : 0;
        o->row_weight[t] = o->h[t] >= 0 ? w[o->h[t]] : 0;
        free(w);
    }
}

static inline void oracle_count(oracle_t *o)
{
    gln_ledger_t *l = &o->ledger;
    l->tokens = o->tokens;
    l->choices = o->tokens * o->k;
    l->slots = o->experts * o->capacity;
    for (int e = 0; e < o->experts; e++)
        l->padded += o->capacity - o->used[e];
    for (int64_t t = 0; t < o->tokens; t++) {
        int lost = 0, filled = o->fill_slot[t] != NOT_SERVED;
        for (int c = 0; c < o->k; c++)
            lost += o->choice_slot[t * o->k + c] == NOT_SERVED;
        l->overflow += lost;
        if (lost > 0 && filled) {
            l->rescued++;
            lost--;
        }
        if (o->h[t] >= 0)
            l->rectified += lost;
        else
            l->dropped += lost;
        l->rect_tokens += o->h[t] >= 0;
        l->rect_rows += o->row[t];
        l->unserved += oracle_served(o, t) == 0 && o->h[t] < 0;
    }
}

static inline int64_t oracle_capacity(const gln_router_options_t *opt, int64_t tokens, int experts,
                                      double factor)
{
    int k = opt->k ? opt->k : 1;
    if (factor == 0) factor = opt->capacity_factor ? opt->capacity_factor : 1.0;
    if (tokens == 0) return 0;
    double slots = fmax(opt->min_capacity, ceil(factor * k * (double)tokens / experts - 1e-6));
    return (int64_t)fmin((double)tokens, slots);
}

/* p: [T, E] of type acc. */
static inline oracle_t *oracle_open(const gln_router_options_t *opt,
                                    const gln_router_shape_t *shape, const gln_route_input_t *in,
                                    const void *p)
{
    oracle_t *o = calloc(1, sizeof *o);
    size_t t = (size_t)shape->tokens + 1, e = (size_t)shape->experts;
    o->tokens = shape->tokens;
    o->experts = shape->experts;
    o->k = opt->k ? opt->k : 1;
    o->capacity = oracle_capacity(opt, shape->tokens, shape->experts, in->capacity_factor);
    size_t k = (size_t)o->k;
    o->p = calloc(t * e, sizeof *o->p);
    for (int64_t i = 0; i < o->tokens * o->experts; i++)
        o->p[i] = gln_load(p, i, shape->acc);
    o->choice = calloc(t * k, sizeof(int));
    o->candidate = calloc(t, sizeof(int));
    o->choice_slot = malloc(t * k * sizeof(int));
    o->fill_slot = malloc(t * sizeof(int));
    o->used = calloc(e, sizeof(int));
    o->asked = calloc(e, sizeof *o->asked);
    o->h = malloc(t * sizeof(int));
    o->m = calloc(t, sizeof(int));
    o->row = calloc(t, sizeof(int));
    o->choice_weight = calloc(t * k, sizeof(double));
    o->fill_weight = calloc(t, sizeof(double));
    o->row_weight = calloc(t, sizeof(double));
    o->scale = calloc(t, sizeof(double));
    memset(o->choice_slot, 0xff, t * k * sizeof(int)); /* NOT_SERVED */
    memset(o->fill_slot, 0xff, t * sizeof(int));
    memset(o->h, 0xff, t * sizeof(int));
    oracle_choose(o, opt);
    oracle_serve(o, opt, in);
    if (opt->fill) oracle_fill(o, opt);
    if (opt->rectify) oracle_rectify(o, opt, shape->per_domain, in->first_local);
    oracle_weigh(o, opt);
    oracle_count(o);
    return o;
}

static inline void oracle_close(oracle_t *o)
{
    free(o->p), free(o->choice), free(o->candidate), free(o->choice_slot), free(o->fill_slot);
    free(o->used), free(o->asked), free(o->h), free(o->m), free(o->row), free(o->choice_weight);
    free(o->fill_weight), free(o->row_weight), free(o->scale), free(o);
}

#endif
