/* What the files of the MoE layer share. Included by moe/layer*.c alone. */
#ifndef GLN_MOE_LAYER_INTERNAL_H
#define GLN_MOE_LAYER_INTERNAL_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "moe/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sizes of everything, from the options alone. Two layers with equal bounds may share a workspace.
 */
typedef struct gln_layer_bounds {
    int64_t tokens, hidden, expert_hidden;           /* T, H, F */
    int64_t experts, per_domain;                     /* E, L */
    int64_t local_domains, group_domains;            /* D/P, G */
    int64_t pair_rows, pair_routes, pair_meta_bytes; /* of one (source, destination) pair */
    int64_t sent_rows, sent_routes, sent_meta_bytes; /* of this rank as a source */
    int64_t received_rows, received_routes;          /* of this rank as a destination */
    int64_t plan_routes, plan_rects;                 /* of one domain */
    int64_t forward_only;
    int64_t element_bytes; /* of dtype: rows, activations and their gradients */
    int64_t acc_bytes;     /* of acc: weights of routes, logits, scalars */
    int64_t wire_dtype;    /* of rows between ranks: gln_dtype_t */
    int64_t stages;        /* asked for, >= 1 */
} gln_layer_bounds_t;

/* The received routes, laid out expert by expert; what backward needs of a forward pass.
 * Expert rows: instance (local domain i, its expert le) holds the rows [instance_offset[i*L+le],
 * instance_offset[i*L+le+1]), over source domains in order, then in the order of the source's plan.
 */
typedef struct gln_layer_rows {
    int64_t rows_count;             /* expert rows */
    int64_t received_count;         /* rows the exchange delivers */
    int64_t *instance_offset;       /* [D/P * L + 1] */
    int64_t *near_begin, *near_end; /* [D/P * L] the rows of near sources among an instance's */
    int64_t *stage_row;             /* [stages + 1][D/P * L] an instance's first row of sources from
                                       stage_source[s] on */
    int32_t *gather_index;          /* [rows_count] received row of an expert row */
    int32_t *route_row;             /* [rows_count] expert row of the route in received order */
    int32_t *combine_offset;        /* [received_count + 1] into combine_index */
    int32_t *combine_index; /* [rows_count] expert rows of a received row, in expert order */
    void *row_weight;       /* [rows_count] acc */
    void *x;                /* [rows_count, H] dtype: gathered tokens */
    void *hgu;              /* [rows_count, 2F] dtype: gate and up projections */
} gln_layer_rows_t;

typedef struct gln_layer_range { /* rows [begin, end) */
    int64_t begin, end;
} gln_layer_range_t;

/* Rows of some instances: all, the near ones or the far ones of stages [stage, stage_end). */
typedef struct gln_layer_part {
    enum { GLN_PART_ALL = 0, GLN_PART_NEAR, GLN_PART_FAR } which;
    int first, last; /* instances [first, last) */
    int stage, stage_end;
} gln_layer_part_t;

struct gln_layer_workspace {
    gln_layer_bounds_t bounds;
    gln_exchange_t *exchange;
    gln_exchange_received_t received; /* of the plan that the exchange holds */
    const gln_layer_t *planned;       /* the layer whose last forward that plan is of; NULL: none */
    gln_arena_t arena;
    gln_gemm_t *items;                    /* [max(2 * D/P * L, D/P, 1)] */
    gln_layer_range_t *ranges;            /* [2 * D/P * L + 1] */
    int near_first, near_count;           /* gln_exchange_near */
    int stages;                           /* of the far rows; 1: none */
    int stage_source[GLN_STAGES_MAX + 1]; /* stage s: far sources in [stage_source[s], [s + 1]) */
    int far_nodes;                        /* are there sources on other nodes? */
    double progress_at;                   /* when the exchange is to be moved on next */
    /* send description */
    int32_t *pair_rows, *pair_routes, *pair_meta; /* [D/P * G] */
    int32_t *row_token;                           /* [sent_rows] */
    char *meta;                                   /* [sent_meta_bytes] */
    uint64_t *token_bits;                         /* [T / 64 rounded up] */
    int32_t *token_row;                           /* [T] row of a token in the pair at work */
    int64_t *load;                                /* [E] choices per expert over all domains */
    double *fraction;                             /* [E] their shares */
    /* layout of received rows */
    int64_t *instance_next; /* [D/P * L] */
    int32_t *received_next; /* [received_rows] */
    void *combine_weight;   /* [received_routes] acc */
    /* activations and gradients */
    void *logits;      /* [D/P * T, E] acc: logits, then their gradients */
    void *dlogits;     /* the gradients as products read them; logits where dtype equals acc */
    void *received_x;  /* [received_rows, H]: rows in received order, in, then back */
    void *wire_rows;   /* the same as they travel; received_x itself where the types are equal */
    void *wire_tokens; /* [D/P * T, H] wire dtype: tokens out, then their sums; NULL where equal */
    void *rows_h;     /* [received_routes, H]: an expert's results, or gradients of them, or of x */
    void *rows_f;     /* [received_routes, F]: activations, or their gradients */
    void *dhgu;       /* [received_routes, 2F] */
    void *act_w;      /* [received_routes, F] */
    void *tokens_h;   /* [D/P * T, H]: gradient of x that came back from the experts */
    void *row_a;      /* [received_routes] acc: <dL/dy, E(x)> of an expert row */
    void *scalars_in; /* [received_routes] acc: the same in received order */
    void *scalars_out; /* [sent_routes] acc: the same at its source */
    void *route_a,
        *rect_a;           /* [plan_routes], [plan_rects] acc: the same in plan order, one domain */
    gln_layer_rows_t rows; /* shared by the layers if forward_only, unused else */
};

struct gln_layer {
    const gln_parallel_t *parallel;
    gln_kernels_t *kernels;
    gln_layer_workspace_t *workspace;
    gln_layer_options_t options;
    double capacity_factor_max;
    int index;
    gln_router_t *router;
    gln_plan_t **plans; /* [D/P] */
    gln_arena_t arena;
    gln_layer_rows_t rows;
    const void *x; /* of the last forward that was asked to keep; NULL: backward may not run */
    gln_traffic_t traffic;
    int overwrite; /* see gln_layer_set_overwrite */
    gln_layer_times_t times;
};

/* The expert at a place (gln_layer_options_t). */
static inline int gln_layer_expert_at(const gln_layer_t *layer, int place)
{
    return layer->options.expert_at ? layer->options.expert_at[place] : place;
}

/* Shapes and pointers of the rows' buffers; for the two passes over an arena. */
void gln_layer_rows_layout(const gln_layer_bounds_t *bounds, gln_arena_t *arena,
                           gln_layer_rows_t *rows);

/** Sizes for these options. @param router opened with them. */
gln_status_t gln_layer_bounds_set(const gln_parallel_t *parallel, const gln_kernels_t *kernels,
                                  const gln_layer_options_t *options, const gln_router_t *router,
                                  gln_layer_bounds_t *out);
gln_status_t gln_layer_check_options(const gln_parallel_t *parallel,
                                     const gln_layer_options_t *options);
gln_status_t gln_layer_open_router(const gln_parallel_t *parallel, const gln_kernels_t *kernels,
                                   const gln_layer_options_t *options, gln_router_t **out);

/** Make the exchange hold the plan of this layer's last forward. Costs nothing if it does already,
 *  else the lists are rebuilt from the plans and one metadata exchange. COLLECTIVE. */
gln_status_t gln_layer_set_plan(gln_layer_t *layer);
/** Lay the received routes out expert by expert: fills layer->rows and the workspace's combine
 * weights. */
void gln_layer_place_rows(gln_layer_t *layer);
/** The wire dtype of a layer on these kernels. @return GLN_OK; GLN_ERR_ARGUMENT: no such pair. */
gln_status_t gln_layer_wire_dtype(const gln_kernels_t *kernels, gln_wire_t wire, gln_dtype_t *out);
/** Conversions at the exchange, in the order of their use; nothing where the types are equal.
 *  send: tokens [D/P * T, H] as dispatch takes them. received: of the rows that arrived
 * (wire_rows), [first, first + count) into received_x; return: the other way. sums: where combine
 * puts what `returned` then turns into tokens [D/P * T, H]. */
const void *gln_layer_wire_send(gln_layer_t *layer, const void *tokens);
void gln_layer_wire_received(gln_layer_t *layer, int64_t first, int64_t count);
void gln_layer_wire_return(gln_layer_t *layer, int64_t first, int64_t count);
void *gln_layer_wire_sums(gln_layer_t *layer, void *tokens);
void gln_layer_wire_returned(gln_layer_t *layer, void *tokens);

/* Parts of the work (layer_part.c). Near rows of an instance are one run, as its sources stand in
 * domain order. */
/** Is anything to be computed while rows are under way? A plan must be set. */
int gln_layer_overlaps(const gln_layer_t *layer);
gln_layer_part_t gln_layer_part_of(const gln_layer_t *layer, int which);
/** Cut the far ranks into as equal stages as can be; at open, when near is known. */
void gln_layer_stages_set(gln_layer_workspace_t *workspace);
/** Stage number `turn` to be worked on: from the left-hand neighbour downwards, as a rank's rows
 * leave for its right-hand neighbour first. */
gln_layer_part_t gln_layer_stage(const gln_layer_t *layer, int turn);
/** Until the rows of a stage have arrived; with one stage it finishes dispatch. */
gln_status_t gln_layer_stage_await(gln_layer_t *layer, gln_layer_part_t stage);
/** Results of stage number `turn` leave; the first begins the combine to `sums`, with one stage it
 * starts it. Nothing is under way after an error. */
gln_status_t gln_layer_stage_send(gln_layer_t *layer, int turn, gln_layer_part_t stage, void *sums);
/** End what is under way after work on stage number `turn` failed. */
void gln_layer_stage_give_up(gln_layer_t *layer, int turn);
/** The near rows cut in two of about equal work, at an instance. Depends on the plan alone. */
void gln_layer_near_halves(const gln_layer_t *layer, gln_layer_part_t halves[2]);
/** rows_out[row] = received_x[gather_index[row]] for the expert rows of the part. */
gln_status_t gln_layer_gather(gln_layer_t *layer, gln_layer_part_t part, void *rows_out);
gln_status_t gln_layer_swiglu(gln_layer_t *layer, gln_layer_part_t part);
gln_status_t gln_layer_swiglu_backward(gln_layer_t *layer, gln_layer_part_t part);
/** received_x[r] = sum over its expert rows of weight * rows_h, for the received rows of the
 * part's sources, and the same as it travels. @param weight NULL: 1 */
gln_status_t gln_layer_combine(gln_layer_t *layer, gln_layer_part_t part, const void *weight);
/** The received rows of the part's sources, as they travel, into received_x. combine does the way
 * back. */
void gln_layer_receive(gln_layer_t *layer, gln_layer_part_t part);
/** While on, the exchange is moved on between tasks of this thread. */
void gln_layer_drive(gln_layer_t *layer, int on);

/** One product per expert instance that has rows in the part. a is [rows_count, k].
 *  TN: the part must be all, so that an expert's gradient is one sum.
 *  NN: c[rows_count, n] = a b, b [local_experts, k, n];  NT: the same with b [local_experts, n,
 * k]^T; TN: c_group[group][expert] [k, n] += a^T b, b [rows_count, n]. */
typedef struct gln_layer_products {
    gln_gemm_form_t form;
    int64_t n, k;
    const void *a, *b;
    void *c;              /* NN, NT */
    void *const *c_group; /* TN: [local_groups] pointers to [local_experts, k, n] acc */
} gln_layer_products_t;
gln_status_t gln_layer_multiply(gln_layer_t *layer, gln_layer_part_t part,
                                const gln_layer_products_t *products);

/** Add the traffic of the exchange's last call, and what its flights took since `before`. */
void gln_layer_count_traffic(gln_layer_t *layer);
void gln_layer_count_flight(gln_layer_t *layer, const gln_exchange_times_t *before);

/** Monotonic seconds (vDSO: no system call). */
double gln_layer_now(void);
/** Add the seconds since *mark to *sum and move the mark. */
void gln_layer_lap(double *mark, double *sum);

#ifdef __cplusplus
}
#endif
#endif
