/* Math on one device. A backend is a table of operations: the reference (kernels/ref) fills all
 * slots and defines what is correct, faster backends overlay the slots they have.
 *
 * Common to all operations
 * - `k->dtype` is the element type of activations and of weights as the GEMM reads them, `k->acc`
 * the type of statistics, weights of routes, gradients of parameters and master weights ("acc"
 * below).
 * - Arrays are dense and row-major unless a stride ("ld", in elements) is given. All memory is the
 *   caller's, borrowed until the call returns, and does not overlap unless "in place" is said.
 * - Counts may be 0: such a call does nothing. Rows are counted by N here.
 * - Results never depend on the number of threads. A row's result does not depend on the other rows
 *   of the call, nor on how many there are, except where an operation sums over rows.
 * - "+=" outputs accumulate; all others are overwritten.
 * - Nothing is allocated here after gln_kernels_open, foreign libraries' own bookkeeping aside.
 * - One caller at a time per handle; the call runs on the handle's pool and returns when done.
 * - @return GLN_OK, or GLN_ERR_BACKEND when a foreign library refuses (reported), or
 *   GLN_ERR_ARGUMENT where said. */
#ifndef GLN_KERNELS_KERNELS_H
#define GLN_KERNELS_KERNELS_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- matrix products -------------------------------------------------------------------- */
typedef enum gln_gemm_form {
    GLN_GEMM_NN, /* C[M,N] = A[M,K] B[K,N]     rows times weights (weights are stored [in, out]) */
    GLN_GEMM_NT, /* C[M,N] = A[M,K] B[N,K]^T   gradient of the input */
    GLN_GEMM_TN  /* C[M,N] = A[K,M]^T B[K,N]   gradient of the weights: sums over the K rows in a
                    fixed  order that depends on K alone */
} gln_gemm_form_t;

/* NN and NT: M counts rows and may vary from call to call; a row of C depends on that row of A and
 * on B only, bit for bit. TN: K counts rows and may vary; M and N are a weight's shape. K = 0 is an
 * empty sum: C becomes 0, or stays as it is when accumulating. */
typedef struct gln_gemm {
    int64_t m, n, k;
    const void *a; /* dtype */
    int64_t lda;
    const void *b; /* dtype */
    int64_t ldb;
    void *c; /* dtype, or acc if c_acc */
    int64_t ldc;
} gln_gemm_t;

typedef struct gln_gemm_mode {
    gln_gemm_form_t form;
    int accumulate; /* C += instead of C = */
    int c_acc;      /* C is of type acc (gradients, logits) */
} gln_gemm_mode_t;

/* ---- row-wise operations ----------------------------------------------------------------- */
/* y = x * rsqrt(mean(x^2) + eps) * w. "Root Mean Square Layer Normalization", arXiv 1910.07467. */
typedef struct gln_rmsnorm {
    int64_t n, h;
    const void *x; /* [N, H] dtype */
    const void *w; /* [H] acc */
    double eps;
    void *y;    /* [N, H] dtype */
    void *rstd; /* [N] acc, out: kept for backward */
} gln_rmsnorm_t;

typedef struct gln_rmsnorm_backward {
    int64_t n, h;
    const void *dy, *x; /* [N, H] dtype */
    const void *w;      /* [H] acc */
    const void *rstd;   /* [N] acc */
    void *dx;           /* [N, H] dtype, += (the residual branch's gradient is already there) */
    void *dw;           /* [H] acc, +=; summed over rows in blocks of fixed size */
} gln_rmsnorm_backward_t;

/* Rotary position embedding, in place, "RoFormer" arXiv 2104.09864, pairing element i with i + dh/2
 * as the published Mixtral weights do. Row n stands at position n mod S. */
typedef struct gln_rope {
    int64_t n, s;  /* rows; sequence length */
    int heads, dh; /* heads of dh elements each start at x; dh even */
    void *x;       /* [N, >= heads*dh] dtype, in place */
    int64_t ldx;
    double theta; /* base, e.g. 10000 */
    int inverse;  /* rotate back: the backward pass */
} gln_rope_t;

/* Causal attention with grouped queries; softmax(q k^T / sqrt(dh)) v within each sequence of S
 * rows. Tiled with a running maximum ("FlashAttention" arXiv 2205.14135): no S x S matrix is kept.
 * q head i uses kv head i / (heads / kv_heads). */
typedef struct gln_attention {
    int64_t sequences, s; /* N = sequences * s rows */
    int heads, kv_heads, dh;
    const void *q, *k,
        *v; /* [N, heads*dh], [N, kv_heads*dh] x 2, dtype, all with row stride ldqkv */
    int64_t ldqkv;
    void *out; /* [N, heads*dh] dtype, dense */
    void *lse; /* [N, heads] acc, out: log of the softmax sum, kept for backward */
} gln_attention_t;

typedef struct gln_attention_backward {
    gln_attention_t forward; /* the forward call's arguments, out and lse filled */
    const void *dout;        /* [N, heads*dh] dtype */
    void *dq, *dk, *dv;      /* as q, k, v, row stride ldqkv; overwritten */
} gln_attention_backward_t;

/* act = silu(gate) * up, with hgu = [gate | up]. "GLU variants improve transformer" arXiv
 * 2002.05202. */
typedef struct gln_swiglu {
    int64_t n, f;
    const void *hgu; /* [N, 2F] dtype: columns 0..F-1 gate, F..2F-1 up */
    void *act;       /* [N, F] dtype */
} gln_swiglu_t;

/* With weights (a row's route weight w): dact is the gradient for an unweighted row; then
 *   a[n] = sum_f dact[n,f] act[n,f]  (the gate gradient of the route, <dL/dy, E(x)>),
 *   dhgu = w * d(act)/d(hgu) dact,   act_w = w * act  (left factor of the down weight's gradient).
 * Without weights (w = NULL): w is 1 and a is not wanted (NULL). */
typedef struct gln_swiglu_backward {
    int64_t n, f;
    const void *dact; /* [N, F] dtype */
    const void *hgu;  /* [N, 2F] dtype */
    const void *w;    /* [N] acc, or NULL */
    void *dhgu;       /* [N, 2F] dtype */
    void *act_w;      /* [N, F] dtype */
    void *a;          /* [N] acc, or NULL */
} gln_swiglu_backward_t;

/* ---- moving rows ------------------------------------------------------------------------- */
/* out[i] = x[index[i]]; index[i] < 0 gives a row of zeros. Permutes tokens to experts. */
typedef struct gln_gather {
    int64_t n, h; /* rows of out */
    const void *x;
    const int32_t *index; /* [N] */
    void *out;            /* [N, H] dtype */
} gln_gather_t;

/* out[i] = sum over j in [offset[i], offset[i+1]) of weight[j] * rows[index[j]], in ascending j, in
 * acc, rounded once to dtype. An empty range gives zeros. weight NULL means 1. */
typedef struct gln_combine {
    int64_t n, h;          /* rows of out */
    const void *rows;      /* [*, H] dtype */
    const int32_t *offset; /* [N+1] */
    const int32_t *index;  /* [offset[N]] */
    const void *weight;    /* [offset[N]] acc, or NULL */
    void *out;             /* [N, H] dtype */
} gln_combine_t;

/* out[n] = table[ids[n]]. ids must be in [0, V): the data loader guarantees it. */
typedef struct gln_embed {
    int64_t n, h, v;
    const void *table;  /* [V, H] dtype */
    const int32_t *ids; /* [N] */
    void *out;          /* [N, H] dtype */
} gln_embed_t;

/* dtable[ids[n]] += dout[n], for every table row in ascending n. */
typedef struct gln_embed_backward {
    int64_t n, h, v;
    const void *dout;   /* [N, H] dtype */
    const int32_t *ids; /* [N] */
    void *dtable;       /* [V, H] acc, += */
} gln_embed_backward_t;

/* ---- loss, optimizer, elementwise -------------------------------------------------------- */
/* loss[n] = logsumexp(logits[n]) - logits[n, target[n]], in nats; 0 where target[n] < 0 (ignored).
 * dlogits = scale * (softmax - onehot), 0 for ignored rows. */
typedef struct gln_cross_entropy {
    int64_t n, v;
    const void *logits;    /* [N, V] acc */
    const int32_t *target; /* [N], in [-1, V) */
    double scale;
    void *loss;    /* [N] acc */
    void *dlogits; /* [N, V] dtype, or NULL. May be `logits` itself where dtype equals acc. */
} gln_cross_entropy_t;

/* One AdamW step ("Decoupled weight decay regularization" arXiv 1711.05101):
 *   g' = grad_scale * g;  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2;
 *   w -= lr * ( (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps) + weight_decay * w ). Elementwise in
 * acc. */
typedef struct gln_adamw {
    int64_t n;
    void *w, *m, *v; /* [n] acc, in place */
    const void *g;   /* [n] acc */
    void *w_compute; /* [n] dtype: the rounded copy for GEMMs; NULL where dtype equals acc */
    double lr, beta1, beta2, eps, weight_decay, grad_scale;
    int64_t t; /* step, from 1 */
} gln_adamw_t;

typedef struct gln_kernel_ops {
    const char *name; /* "ref", "cpu" */
    /* C_i = (or +=) op(A_i) op(B_i) for i < count: products of one form, n and k (NN, NT) or m and
     * n (TN) may differ too. Work is shared between threads by size, not by item. */
    gln_status_t (*gemm)(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items,
                         int count);
    /* The same by the library beneath, where gemm is code of this project: what benches hold gemm
     * against. Not for training: its rows may have other bits. */
    gln_status_t (*gemm_library)(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items,
                                 int count);
    gln_status_t (*rmsnorm)(gln_kernels_t *k, const gln_rmsnorm_t *args);
    gln_status_t (*rmsnorm_backward)(gln_kernels_t *k, const gln_rmsnorm_backward_t *args);
    gln_status_t (*rope)(gln_kernels_t *k, const gln_rope_t *args);
    gln_status_t (*attention)(gln_kernels_t *k, const gln_attention_t *args);
    gln_status_t (*attention_backward)(gln_kernels_t *k, const gln_attention_backward_t *args);
    gln_status_t (*swiglu)(gln_kernels_t *k, const gln_swiglu_t *args);
    gln_status_t (*swiglu_backward)(gln_kernels_t *k, const gln_swiglu_backward_t *args);
    gln_status_t (*gather)(gln_kernels_t *k, const gln_gather_t *args);
    gln_status_t (*combine)(gln_kernels_t *k, const gln_combine_t *args);
    gln_status_t (*embed)(gln_kernels_t *k, const gln_embed_t *args);
    gln_status_t (*embed_backward)(gln_kernels_t *k, const gln_embed_backward_t *args);
    gln_status_t (*cross_entropy)(gln_kernels_t *k, const gln_cross_entropy_t *args);
    gln_status_t (*adamw)(gln_kernels_t *k, const gln_adamw_t *args);
    /* y[i] += x[i], dtype */
    gln_status_t (*add)(gln_kernels_t *k, int64_t n, const void *x, void *y);
    /* y[i] = x[i], from acc to dtype: what a product is to read */
    gln_status_t (*round)(gln_kernels_t *k, int64_t n, const void *x, void *y);
    /* *out = sum of x[i]^2 over n elements of acc, in double, in blocks of fixed size and order; 0
     * for n = 0 */
    gln_status_t (*sum_squares)(gln_kernels_t *k, int64_t n, const void *x, double *out);
} gln_kernel_ops_t;

struct gln_kernels {
    const gln_kernel_ops_t *ops; /* no slot is NULL */
    gln_dtype_t dtype, acc;
    gln_backend_t backend;
    gln_pool_t *pool; /* borrowed */
    void *state;      /* the backend's own: primitives, scratch per worker */
};

#ifdef __cplusplus
}
#endif
#endif
