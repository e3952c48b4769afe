/* Causal attention with grouped queries and its gradient, O(sequences heads S^2 dh) operations.
 * Scores are recomputed where they are needed, so that no scratch memory is: the running maximum
 * and sum of "FlashAttention" (arXiv 2205.14135, algorithm 1, tiles of one key) give lse, a second
 * pass the output.
 *
 * Backward (the same paper, section B.4): with P = exp(s - lse), dP = dO V^T, D = rowsum(dO O),
 *   dS = P (dP - D);  dQ = dS K / sqrt(dh),  dK = dS^T Q / sqrt(dh),  dV = P^T dO. */
#ifndef FN
#include <math.h>

#include "kernels/ref/ops.h"
#define GLN_REF_FILE "kernels/ref/attention.c"
#include "kernels/ref/every_type.inc"
#else

static double FN(attention_dot)(const elem *a, const elem *b, int count)
{
    double lanes[4] = {0};

    for (int i = 0; i < count; ++i)
        lanes[i & 3] += GET(a[i]) * GET(b[i]);
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

/* The scaled score of two rows. */
static double FN(attention_score)(const elem *q, const elem *key, int dh)
{
    return FN(attention_dot)(q, key, dh) / sqrt((double)dh);
}

/* Row `row` of head `head` in q, k, v and their gradients; in out and dout. */
static const elem *FN(attention_row)(const gln_attention_t *args, const void *x, int64_t row,
                                     int head)
{
    return (const elem *)x + row * args->ldqkv + (int64_t)head * args->dh;
}

static int64_t FN(attention_out_row)(const gln_attention_t *args, int64_t row, int head)
{
    return (row * args->heads + head) * args->dh;
}

/* One query: the keys are rows first .. row. */
static void FN(attention_query)(const gln_attention_t *args, int64_t first, int64_t row, int head)
{
    int kv_head = head / (args->heads / args->kv_heads);
    const elem *q = FN(attention_row)(args, args->q, row, head);
    elem *out = (elem *)args->out + FN(attention_out_row)(args, row, head);
    double max = -INFINITY, sum = 0, lse;

    for (int64_t j = first; j <= row; ++j) {
        double s = FN(attention_score)(q, FN(attention_row)(args, args->k, j, kv_head), args->dh);
        double higher = s > max ? s : max;

        sum = sum * exp(max - higher) + exp(s - higher);
        max = higher;
    }
    lse = max + log(sum);
    for (int start = 0; start < args->dh; start += GLN_REF_COLUMNS) {
        int columns = args->dh - start < GLN_REF_COLUMNS ? args->dh - start : GLN_REF_COLUMNS;
        double mix[GLN_REF_COLUMNS] = {0};

        for (int64_t j = first; j <= row; ++j) {
            const elem *key = FN(attention_row)(args, args->k, j, kv_head);
            const elem *value = FN(attention_row)(args, args->v, j, kv_head) + start;
            double p = exp(FN(attention_score)(q, key, args->dh) - lse);

            for (int i = 0; i < columns; ++i)
                mix[i] += p * GET(value[i]);
        }
        for (int i = 0; i < columns; ++i)
            out[start + i] = PUT(mix[i]);
    }
    ((real *)args->lse)[row * args->heads + head] = (real)lse;
}

gln_status_t FN(attention)(gln_kernels_t *k, const gln_attention_t *args)
{
    (void)k;
    for (int64_t sequence = 0; sequence < args->sequences; ++sequence)
        for (int64_t i = 0; i < args->s; ++i)
            for (int head = 0; head < args->heads; ++head)
                FN(attention_query)(args, sequence * args->s, sequence * args->s + i, head);
    return GLN_OK;
}

/* P and dS of query row i and key row j under one query head. */
static void FN(attention_pair)(const gln_attention_backward_t *args, int64_t i, int64_t j, int head,
                               double *p, double *ds)
{
    const gln_attention_t *forward = &args->forward;
    int kv_head = head / (forward->heads / forward->kv_heads);
    const elem *q = FN(attention_row)(forward, forward->q, i, head);
    const elem *key = FN(attention_row)(forward, forward->k, j, kv_head);
    const elem *value = FN(attention_row)(forward, forward->v, j, kv_head);
    const elem *out = (const elem *)forward->out + FN(attention_out_row)(forward, i, head);
    const elem *dout = (const elem *)args->dout + FN(attention_out_row)(forward, i, head);
    double lse = (double)((const real *)forward->lse)[i * forward->heads + head];

    *p = exp(FN(attention_score)(q, key, forward->dh) - lse);
    *ds = *p *
          (FN(attention_dot)(dout, value, forward->dh) - FN(attention_dot)(dout, out, forward->dh));
}

static void FN(attention_dq)(const gln_attention_backward_t *args, int64_t first, int64_t row,
                             int head)
{
    const gln_attention_t *forward = &args->forward;
    int kv_head = head / (forward->heads / forward->kv_heads), dh = forward->dh;
    elem *dq = (elem *)args->dq + row * forward->ldqkv + (int64_t)head * dh;

    for (int start = 0; start < dh; start += GLN_REF_COLUMNS) {
        int columns = dh - start < GLN_REF_COLUMNS ? dh - start : GLN_REF_COLUMNS;
        double sum[GLN_REF_COLUMNS] = {0};

        for (int64_t j = first; j <= row; ++j) {
            const elem *key = FN(attention_row)(forward, forward->k, j, kv_head) + start;
            double p, ds;

            FN(attention_pair)(args, row, j, head, &p, &ds);
            for (int i = 0; i < columns; ++i)
                sum[i] += ds * GET(key[i]);
        }
        for (int i = 0; i < columns; ++i)
            dq[start + i] = PUT(sum[i] / sqrt((double)dh));
    }
}

/* One key: the queries are rows row .. last-1, under all query heads of its group. */
static void FN(attention_dkv)(const gln_attention_backward_t *args, int64_t row, int64_t last,
                              int kv_head)
{
    const gln_attention_t *forward = &args->forward;
    int group = forward->heads / forward->kv_heads, dh = forward->dh;
    int64_t at = row * forward->ldqkv + (int64_t)kv_head * dh;
    elem *dk = (elem *)args->dk + at, *dv = (elem *)args->dv + at;

    for (int start = 0; start < dh; start += GLN_REF_COLUMNS) {
        int columns = dh - start < GLN_REF_COLUMNS ? dh - start : GLN_REF_COLUMNS;
        double sum_k[GLN_REF_COLUMNS] = {0}, sum_v[GLN_REF_COLUMNS] = {0};

        for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
            for (int64_t n = row; n < last; ++n) {
                const elem *q = FN(attention_row)(forward, forward->q, n, head) + start;
                const elem *dout =
                    (const elem *)args->dout + FN(attention_out_row)(forward, n, head) + start;
                double p, ds;

                FN(attention_pair)(args, n, row, head, &p, &ds);
                for (int i = 0; i < columns; ++i) {
                    sum_k[i] += ds * GET(q[i]);
                    sum_v[i] += p * GET(dout[i]);
                }
            }
        for (int i = 0; i < columns; ++i) {
            dk[start + i] = PUT(sum_k[i] / sqrt((double)dh));
            dv[start + i] = PUT(sum_v[i]);
        }
    }
}

gln_status_t FN(attention_backward)(gln_kernels_t *k, const gln_attention_backward_t *args)
{
    const gln_attention_t *forward = &args->forward;

    (void)k;
    for (int64_t sequence = 0; sequence < forward->sequences; ++sequence) {
        int64_t first = sequence * forward->s, last = first + forward->s;

        for (int64_t row = first; row < last; ++row) {
            for (int head = 0; head < forward->heads; ++head)
                FN(attention_dq)(args, first, row, head);
            for (int kv_head = 0; kv_head < forward->kv_heads; ++kv_head)
                FN(attention_dkv)(args, row, last, kv_head);
        }
    }
    return GLN_OK;
}
#endif
