/* gln_comm_tree_sum against a plain recursion over all leaves, bit for bit, for every number of
 * leaves that these ranks can hold, for sums that fit one message, many chunks, and pieces that
 * cannot be halved evenly. RANKS: 1 2 3 4 */
#include "base/rng.h"
#include "comm/comm_internal.h"
#include "tests/ranks/comm/check.h"
#include <math.h>

enum { leaves_max = 16 };

/* Magnitudes 2^-20 .. 2^20, so that the order of adding shows in the bits. */
static void leaf_fill(int leaf, int64_t n, gln_dtype_t dtype, void *out)
{
    uint64_t stream = gln_rng_stream(GLN_RNG_TEST, 1, (uint64_t)leaf);
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = gln_rng_u64(7, stream, (uint64_t)i);
        double value = ((double)(bits >> 32) / 0x1p32 - 0.5) * ldexp(1.0, (int)(bits % 41) - 20);
        gln_store(out, i, dtype, value);
    }
}

/* Sum of the leaves [first, first + width) that exist, for one element. */
static double tree(const double *leaf, int leaves, int first, int width, gln_dtype_t dtype)
{
    if (width == 1) return leaf[first];
    double lower = tree(leaf, leaves, first, width / 2, dtype);
    if (first + width / 2 >= leaves) return lower;
    double upper = tree(leaf, leaves, first + width / 2, width / 2, dtype);
    return dtype == GLN_F32 ? (double)((float)lower + (float)upper) : lower + upper;
}

static double in_a_row(const double *leaf, int leaves, gln_dtype_t dtype)
{
    double sum = leaf[0];
    for (int i = 1; i < leaves; i++)
        sum = dtype == GLN_F32 ? (double)((float)sum + (float)leaf[i]) : sum + leaf[i];
    return sum;
}

/* One sum; returns how many elements would differ if the leaves were added one after the other. */
static int64_t sum_check(gln_comm_t *comm, int local, int64_t n, gln_dtype_t dtype)
{
    size_t bytes = (size_t)n * gln_dtype_bytes(dtype);
    int ranks = gln_comm_size(comm), leaves = ranks * local, width = 1;
    void *all[leaves_max], *parts[leaves_max];
    int64_t differs = 0;
    while (width < leaves)
        width *= 2;
    for (int i = 0; i < leaves; i++) {
        all[i] = allocate(bytes);
        leaf_fill(i, n, dtype, all[i]);
    }
    for (int i = 0; i < local; i++) {
        parts[i] = allocate(bytes);
        memcpy(parts[i], all[gln_comm_rank(comm) * local + i], bytes);
    }
    CHECK_OK(gln_comm_tree_sum(comm, parts, local, n, dtype));
    for (int64_t i = 0; i < n; i++) {
        double leaf[leaves_max], found = gln_load(parts[0], i, dtype);
        for (int k = 0; k < leaves; k++)
            leaf[k] = gln_load(all[k], i, dtype);
        double expected = tree(leaf, leaves, 0, width, dtype);
        CHECK(memcmp(&found, &expected, sizeof found) == 0,
              "rank %d of %d, local %d, n %lld, element %lld: expected %a, found %a",
              gln_comm_rank(comm), ranks, local, (long long)n, (long long)i, expected, found);
        differs += in_a_row(leaf, leaves, dtype) != expected;
    }
    for (int i = 0; i < leaves; i++)
        free(all[i]);
    for (int i = 0; i < local; i++)
        free(parts[i]);
    return differs;
}

static void all_sizes(gln_comm_t *comm, gln_dtype_t dtype)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 5, 7, 8, 63, 64, 1000, 4097, 10007};
    int ranks = gln_comm_size(comm);
    for (int local = 1; local * ranks <= leaves_max; local++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            int64_t differs = sum_check(comm, local, sizes[k], dtype);
            CHECK(local * ranks < 4 || sizes[k] < 1000 || differs > 0,
                  "%d leaves: the order of adding must show, or this test tests nothing",
                  local * ranks);
        }
}

static void arguments(gln_comm_t *comm)
{
    float value = 1;
    void *parts[] = {&value, NULL};
    CHECK(gln_comm_tree_sum(NULL, parts, 1, 1, GLN_F32) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_tree_sum(comm, NULL, 1, 1, GLN_F32) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_tree_sum(comm, parts, 0, 1, GLN_F32) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_tree_sum(comm, parts, 1, -1, GLN_F32) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_tree_sum(comm, parts, 1, 1, GLN_BF16) == GLN_ERR_ARGUMENT);
    CHECK(gln_comm_tree_sum(comm, parts, 2, 1, GLN_F32) == GLN_ERR_ARGUMENT);
}

int main(void)
{
    gln_comm_t *comm = NULL;
    CHECK_OK(gln_comm_open_world(&comm));
    arguments(comm);
    /* bytes of a chunk, and below which pieces are not halved */
    static const size_t shapes[][2] = {
        {GLN_COMM_TREE_CHUNK_BYTES, GLN_COMM_TREE_SMALL_BYTES}, /* as shipped */
        {GLN_COMM_TREE_CHUNK_BYTES, 0},                         /* always halve */
        {1000, 100},                                            /* many chunks */
        {24, 0},                                                /* pieces smaller than P */
    };
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        comm->tree_chunk_bytes = shapes[k][0];
        comm->tree_small_bytes = shapes[k][1];
        if (shapes[k][0] >= 1000) {
            all_sizes(comm, GLN_F32);
            all_sizes(comm, GLN_F64);
        } else {
            sum_check(comm, 1, 101, GLN_F32);
            sum_check(comm, 2, 101, GLN_F64);
            sum_check(comm, 3, 101, GLN_F32);
        }
    }
    comm->tree_chunk_bytes = GLN_COMM_TREE_CHUNK_BYTES;
    comm->tree_small_bytes = GLN_COMM_TREE_SMALL_BYTES;
    sum_check(comm, 1, 1049600, GLN_F32); /* beyond one chunk as shipped */

    void *scratch = comm->scratch;
    sum_check(comm, 2, 1049600, GLN_F32);
    CHECK(comm->scratch == scratch, "a second sum of this size must not allocate");
    int rank = gln_comm_rank(comm);
    gln_comm_close(comm);
    if (rank == 0) printf("ok\n");
    return 0;
}
