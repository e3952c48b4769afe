/* Random worlds for test_exchange.c: plans that every rank can compute for the whole world, what
 * they bring to each rank, and a serial oracle of what comes back. */
#ifndef GLN_TESTS_EXCHANGE_WORLD_H
#define GLN_TESTS_EXCHANGE_WORLD_H

#include "base/rng.h"
#include "comm/exchange.h"
#include "tests/ranks/comm/check.h"
#include "tests/support/bf16.h"
#include <math.h>

enum { group_max = 12, tokens_max = 48, meta_max = 40, scalars_max = 9 };

typedef struct world { /* what all ranks know */
    int domains, groups, group, local, ranks, rank, step;
    int64_t tokens, hidden;
    gln_dtype_t dtype;
    gln_exchange_path_t path;
    uint64_t seed;
} world_t;

enum { use_pick, use_order, use_meta, use_count, use_row, use_result, use_scalar };

static uint64_t random_bits(const world_t *w, int use, int source, int j, int64_t index)
{
    uint64_t stream =
        gln_rng_stream(GLN_RNG_TEST, (uint64_t)(w->step * 16 + use), (uint64_t)(source * 64 + j));
    return gln_rng_u64(w->seed, stream, (uint64_t)index);
}

/* `value` as an element of `dtype` */
static double rounded(double value, gln_dtype_t dtype)
{
    if (dtype == GLN_BF16) return nearest_bf16(value);
    return dtype == GLN_F32 ? (double)(float)value : value;
}

static double random_value(const world_t *w, int use, int source, int j, int64_t index)
{
    uint64_t bits = random_bits(w, use, source, j, index);
    double value = ((double)(bits >> 32) / 0x1p32 - 0.5) * ldexp(1.0, (int)(bits % 31) - 15);
    return rounded(value, use == use_scalar ? gln_dtype_acc(w->dtype) : w->dtype);
}

/* Does source domain send token t to destination j? Every fourth domain sends nothing in some step,
 * every fifth receives nothing, and a token goes to anything from none to all destinations. */
static int sends(const world_t *w, int source, int j, int64_t t)
{
    if ((source + w->step) % 4 == 3 || (w->step % 2 == 1 && j % 5 == 1)) return 0;
    int share = (int)(random_bits(w, use_pick, source, 63, t) % 5); /* 0: to none, 4: to all */
    return (int)(random_bits(w, use_pick, source, j, t) % 4) < share;
}

/* The tokens of one pair in an order that is not ascending. @return how many */
static int pair_tokens(const world_t *w, int source, int j, int32_t *tokens)
{
    int count = 0;
    uint64_t stream = gln_rng_stream(GLN_RNG_TEST, (uint64_t)(w->step * 16 + use_order),
                                     (uint64_t)(source * 64 + j));
    for (int64_t k = 0; k < w->tokens; k++) {
        int64_t t = (int64_t)gln_rng_permute(w->seed, stream, (uint64_t)w->tokens, (uint64_t)k);
        if (sends(w, source, j, t)) tokens[count++] = (int32_t)t;
    }
    return count;
}

static int pair_meta(const world_t *w, int source, int j)
{
    return (int)(random_bits(w, use_count, source, j, 0) % (meta_max + 1));
}

static int pair_scalars(const world_t *w, int source, int j)
{
    return (int)(random_bits(w, use_count, source, j, 1) % (scalars_max + 1));
}

typedef struct outgoing { /* gln_exchange_send_t with its memory */
    int32_t rows[group_max * group_max], scalars[group_max * group_max],
        meta_bytes[group_max * group_max];
    int32_t tokens[group_max * group_max * tokens_max];
    unsigned char meta[group_max * group_max * meta_max];
    gln_exchange_send_t send;
} outgoing_t;

static void outgoing_fill(const world_t *w, outgoing_t *o)
{
    int64_t rows = 0, bytes = 0;
    for (int s = 0; s < w->local; s++)
        for (int j = 0; j < w->group; j++) {
            int source = w->rank * w->local + s, pair = s * w->group + j;
            o->rows[pair] = pair_tokens(w, source, j, o->tokens + rows);
            o->scalars[pair] = pair_scalars(w, source, j);
            o->meta_bytes[pair] = pair_meta(w, source, j);
            for (int b = 0; b < o->meta_bytes[pair]; b++)
                o->meta[bytes + b] = (unsigned char)random_bits(w, use_meta, source, j, b);
            rows += o->rows[pair];
            bytes += o->meta_bytes[pair];
        }
    o->send = (gln_exchange_send_t){o->rows, o->tokens, o->scalars, o->meta_bytes, o->meta};
}

/* Domain of local domain i, and of member j of its group. */
static int domain_of(const world_t *w, int i)
{
    return w->rank * w->local + i;
}

static int member_of(const world_t *w, int domain, int j)
{
    return domain / w->group * w->group + j;
}

static void received_check(const world_t *w, const gln_exchange_received_t *got)
{
    int32_t tokens[tokens_max];
    int64_t rows = 0, scalars = 0;
    size_t bytes = 0;
    for (int i = 0; i < w->local; i++)
        for (int j = 0; j < w->group; j++) {
            int pair = i * w->group + j, source = member_of(w, domain_of(w, i), j);
            int own = domain_of(w, i) % w->group; /* this domain as its sources number it */
            CHECK(got->row_offset[pair] == rows && got->scalar_offset[pair] == scalars &&
                      got->meta_offset[pair] == bytes,
                  "offsets of pair %d", pair);
            CHECK(got->rows[pair] == pair_tokens(w, source, own, tokens), "rows of pair %d: %d",
                  pair, got->rows[pair]);
            CHECK(got->scalars[pair] == pair_scalars(w, source, own), "scalars of pair %d", pair);
            rows += got->rows[pair];
            scalars += got->scalars[pair];
            for (int b = 0; b < pair_meta(w, source, own); b++)
                CHECK(((const unsigned char *)got->meta)[bytes + (size_t)b] ==
                          (unsigned char)random_bits(w, use_meta, source, own, b),
                      "metadata byte %d of pair %d", b, pair);
            bytes += (size_t)pair_meta(w, source, own);
        }
    int pairs = w->local * w->group;
    CHECK(got->rows_count == rows && got->row_offset[pairs] == rows &&
          got->scalar_offset[pairs] == scalars && got->meta_offset[pairs] == bytes);
}

/* Sources of every local domain: [first, first + count), or all others. */
typedef struct part {
    int first, count, others;
} part_t;

static const part_t everything = {0, group_max, 0};

static int in_part(part_t part, int j)
{
    return (j >= part.first && j < part.first + part.count) != part.others;
}

static void rows_check(const world_t *w, const gln_exchange_received_t *got, const void *out,
                       int64_t rows_room, part_t part)
{
    int32_t tokens[tokens_max];
    for (int i = 0; i < w->local; i++)
        for (int j = 0; j < w->group; j++) {
            if (!in_part(part, j)) continue;
            int pair = i * w->group + j, source = member_of(w, domain_of(w, i), j);
            int count = pair_tokens(w, source, domain_of(w, i) % w->group, tokens);
            for (int r = 0; r < count; r++)
                for (int64_t h = 0; h < w->hidden; h++) {
                    double found =
                        gln_load(out, (got->row_offset[pair] + r) * w->hidden + h, w->dtype);
                    double expected =
                        random_value(w, use_row, source, 0, tokens[r] * w->hidden + h);
                    CHECK(found == expected, "rank %d: pair %d row %d column %lld: %a, not %a",
                          w->rank, pair, r, (long long)h, found, expected);
                }
        }
    if (got->rows_count == rows_room) return;
    double behind = gln_load(out, got->rows_count * w->hidden, w->dtype);
    CHECK(behind == 77.0, "wrote behind the last row: %a", behind);
}

/* What destination j of `source`'s group returns for its token t. */
static double result(const world_t *w, int source, int j, int64_t t, int64_t h)
{
    return random_value(w, use_result, source, j, t * w->hidden + h);
}

/* Sparse tree over members [first, first + width). @return whether there was any leaf */
static int sparse_tree(const world_t *w, int source, int64_t t, int64_t h, int first, int width,
                       double *sum)
{
    if (first >= w->group) return 0;
    if (width == 1) {
        if (!sends(w, source, first, t)) return 0;
        *sum = result(w, source, first, t, h);
        return 1;
    }
    double lower = 0, upper = 0;
    int has_lower = sparse_tree(w, source, t, h, first, width / 2, &lower);
    int has_upper = sparse_tree(w, source, t, h, first + width / 2, width / 2, &upper);
    if (has_lower && has_upper)
        *sum = rounded(lower + upper, w->dtype);
    else
        *sum = has_lower ? lower : upper;
    return has_lower || has_upper;
}

/* What combine must give for all D domains [D * T, H]. */
static void combine_oracle(const world_t *w, void *out)
{
    int width = 1;
    while (width < w->group)
        width *= 2;
    for (int d = 0; d < w->domains; d++)
        for (int64_t t = 0; t < w->tokens; t++)
            for (int64_t h = 0; h < w->hidden; h++) {
                double sum = 0;
                if (!sparse_tree(w, d, t, h, 0, width, &sum)) sum = 0;
                gln_store(out, (d * w->tokens + t) * w->hidden + h, w->dtype, sum);
            }
}

static void results_fill(const world_t *w, const gln_exchange_received_t *got, void *rows,
                         void *scalars, part_t part)
{
    int32_t tokens[tokens_max];
    for (int i = 0; i < w->local; i++)
        for (int j = 0; j < w->group; j++) {
            if (!in_part(part, j)) continue;
            int pair = i * w->group + j, source = member_of(w, domain_of(w, i), j);
            int own = domain_of(w, i) % w->group;
            int count = pair_tokens(w, source, own, tokens);
            for (int r = 0; r < count; r++)
                for (int64_t h = 0; h < w->hidden; h++)
                    gln_store(rows, (got->row_offset[pair] + r) * w->hidden + h, w->dtype,
                              result(w, source, own, tokens[r], h));
            for (int k = 0; k < pair_scalars(w, source, own); k++)
                gln_store(scalars, got->scalar_offset[pair] + k, gln_dtype_acc(w->dtype),
                          random_value(w, use_scalar, source, own, k));
        }
}

static void scalars_check(const world_t *w, const void *out)
{
    int64_t at = 0;
    for (int s = 0; s < w->local; s++)
        for (int j = 0; j < w->group; j++)
            for (int k = 0; k < pair_scalars(w, domain_of(w, s), j); k++, at++) {
                double found = gln_load(out, at, gln_dtype_acc(w->dtype));
                double expected = random_value(w, use_scalar, domain_of(w, s), j, k);
                CHECK(found == expected, "scalar %d of pair (%d, %d): %a", k, s, j, found);
            }
}

/* This rank's traffic against a count over the plan; `from` and `to` say who sends. */
static void traffic_check(const world_t *w, const gln_comm_t *comm, gln_traffic_t traffic, int back)
{
    int32_t tokens[tokens_max];
    gln_traffic_t expected = {0};
    for (int d = 0; d < w->domains; d++)
        for (int j = 0; j < w->group; j++) {
            int from = d / w->local, to = member_of(w, d, j) / w->local;
            int64_t rows = pair_tokens(w, d, j, tokens);
            if ((back ? to : from) != w->rank) continue;
            if (from == to)
                expected.rank_rows += rows;
            else if (gln_comm_node_of(comm, from) == gln_comm_node_of(comm, to))
                expected.node_rows += rows;
            else
                expected.remote_rows += rows;
        }
    int64_t row = w->hidden * (int64_t)gln_dtype_bytes(w->dtype);
    expected.rank_bytes = expected.rank_rows * row;
    expected.node_bytes = expected.node_rows * row;
    expected.remote_bytes = expected.remote_rows * row;
    CHECK(memcmp(&traffic, &expected, sizeof traffic) == 0,
          "rank %d: rows %lld %lld %lld, not %lld %lld %lld", w->rank, (long long)traffic.rank_rows,
          (long long)traffic.node_rows, (long long)traffic.remote_rows,
          (long long)expected.rank_rows, (long long)expected.node_rows,
          (long long)expected.remote_rows);
}

#endif
