/* Sum over leaves in a fixed binary tree, whatever ranks hold them. n elements, D = P * local
 * leaves.
 *
 * P and local powers of two: the local leaves are a subtree, summed in blocks that stay in cache.
 * Then, for each chunk of elements, recursive halving with the distance doubling: in step s rank r
 * and r ^ 2^s, the two children of one node, swap halves of their piece and each adds lower + upper
 * on the half it keeps. After log2 P steps every rank owns 1/P of the chunk; the mirrored steps
 * gather. 2 log2 P messages and 2 (P-1)/P n elements sent per rank, the longest to the nearest
 * rank. Small sums swap whole pieces instead (recursive doubling): log2 P messages. (Rabenseifner,
 * "Optimization of collective reduction operations", ICCS 2004.)
 *
 * Any other P or local: each node lives with the owner of its lowest leaf, and the owner of the
 * right child sends to it, level by level; the root is broadcast. At most one send and one receive
 * per rank and level, because of the nodes of one level only the first and the last of a rank reach
 * beyond it.
 *
 * Scratch: one chunk. */
#include "comm/comm_internal.h"

#include "base/log.h"
#include <string.h>

enum { cache_elements = 4096, steps_max = 31 };

static int is_power_of_two(int64_t value)
{
    return value > 0 && (value & (value - 1)) == 0;
}

/* parts[0] = tree over parts[0 .. local), elements [from, from + n); local is a power of two. */
static void local_tree(void *const *parts, int local, int64_t from, int64_t n, gln_dtype_t dtype)
{
    for (int64_t at = from; at < from + n; at += cache_elements) {
        int64_t block = from + n - at < cache_elements ? from + n - at : cache_elements;
        for (int half = 1; half < local; half *= 2)
            for (int i = 0; i < local; i += 2 * half) {
                void *lower = gln_at(parts[i], at, dtype);
                gln_comm_add(lower, gln_at(parts[i + half], at, dtype), block, dtype, lower);
            }
    }
}

/* Send `send_n` elements at `send` and receive `receive_n` at `receive`; same partner. */
static gln_status_t swap(gln_comm_t *comm, int partner, const void *send, int64_t send_n,
                         void *receive, int64_t receive_n, gln_dtype_t dtype)
{
    size_t unit = gln_dtype_bytes(dtype);
    gln_status_t status = GLN_OK;
    if (receive_n > 0)
        status = comm->ops->receive(comm, partner, receive, (size_t)receive_n * unit);
    if (status == GLN_OK && send_n > 0)
        status = comm->ops->send(comm, partner, send, (size_t)send_n * unit);
    return status == GLN_OK ? comm->ops->wait(comm) : status;
}

/* data += theirs, as lower + upper seen from the tree */
static void add_partner(int rank, int partner, const void *theirs, int64_t n, gln_dtype_t dtype,
                        void *data)
{
    if (rank < partner)
        gln_comm_add(data, theirs, n, dtype, data);
    else
        gln_comm_add(theirs, data, n, dtype, data);
}

static gln_status_t recursive_doubling(gln_comm_t *comm, void *data, int64_t n, gln_dtype_t dtype)
{
    for (int distance = 1; distance < comm->size; distance *= 2) {
        int partner = comm->rank ^ distance;
        gln_status_t status = swap(comm, partner, data, n, comm->scratch, n, dtype);
        if (status != GLN_OK) return status;
        add_partner(comm->rank, partner, comm->scratch, n, dtype, data);
    }
    return GLN_OK;
}

static gln_status_t recursive_halving(gln_comm_t *comm, void *data, int64_t n, gln_dtype_t dtype)
{
    int64_t from[steps_max + 1] = {0}, to[steps_max + 1] = {n}; /* own piece before step s */
    int steps = 0;
    for (int distance = 1; distance < comm->size; distance *= 2, steps++) {
        int partner = comm->rank ^ distance;
        int64_t low = from[steps], high = to[steps], middle = low + (high - low) / 2;
        int is_lower = comm->rank < partner;
        int64_t keep = is_lower ? low : middle, keep_end = is_lower ? middle : high;
        int64_t give = is_lower ? middle : low, give_end = is_lower ? high : middle;
        gln_status_t status = swap(comm, partner, gln_at(data, give, dtype), give_end - give,
                                   comm->scratch, keep_end - keep, dtype);
        if (status != GLN_OK) return status;
        add_partner(comm->rank, partner, comm->scratch, keep_end - keep, dtype,
                    gln_at(data, keep, dtype));
        from[steps + 1] = keep;
        to[steps + 1] = keep_end;
    }
    while (steps-- > 0) {
        int partner = comm->rank ^ (1 << steps);
        int64_t own = from[steps + 1], own_end = to[steps + 1];
        int64_t other = comm->rank < partner ? own_end : from[steps];
        int64_t other_end = comm->rank < partner ? to[steps] : own;
        gln_status_t status = swap(comm, partner, gln_at(data, own, dtype), own_end - own,
                                   gln_at(data, other, dtype), other_end - other, dtype);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

/* One level of the tree over all D leaves, elements [from, from + n): each node is at the slot of
 * its lowest leaf. Pairs of children both held here add at once; the pair that reaches beyond this
 * rank, if any, sends or receives. */
static gln_status_t general_level(gln_comm_t *comm, void *const *parts, int local, int64_t half,
                                  int64_t from, int64_t n, gln_dtype_t dtype)
{
    size_t bytes = (size_t)n * gln_dtype_bytes(dtype);
    int64_t first = (int64_t)comm->rank * local, end = first + local;
    int64_t leaves = (int64_t)comm->size * local;
    void *waiting = NULL; /* left child whose right one is on its way */
    gln_status_t status = GLN_OK;
    int64_t lower = first / (2 * half) * (2 * half);
    for (; lower < end && status == GLN_OK; lower += 2 * half) {
        int64_t upper = lower + half;
        if (upper >= leaves || (lower < first && (upper < first || upper >= end))) continue;
        if (lower < first) {
            status = comm->ops->send(comm, (int)(lower / local),
                                     gln_at(parts[upper - first], from, dtype), bytes);
        } else if (upper >= end) {
            waiting = gln_at(parts[lower - first], from, dtype);
            status = comm->ops->receive(comm, (int)(upper / local), comm->scratch, bytes);
        } else {
            void *sum = gln_at(parts[lower - first], from, dtype);
            gln_comm_add(sum, gln_at(parts[upper - first], from, dtype), n, dtype, sum);
        }
    }
    if (status == GLN_OK) status = comm->ops->wait(comm);
    if (status == GLN_OK && waiting) gln_comm_add(waiting, comm->scratch, n, dtype, waiting);
    return status;
}

static gln_status_t general_tree(gln_comm_t *comm, void *const *parts, int local, int64_t n,
                                 gln_dtype_t dtype)
{
    int64_t leaves = (int64_t)comm->size * local;
    int64_t chunk = (int64_t)(comm->tree_chunk_bytes / gln_dtype_bytes(dtype));
    for (int64_t from = 0; from < n; from += chunk) {
        int64_t part = n - from < chunk ? n - from : chunk;
        for (int64_t half = 1; half < leaves; half *= 2) {
            gln_status_t status = general_level(comm, parts, local, half, from, part, dtype);
            if (status != GLN_OK) return status;
        }
    }
    return gln_comm_broadcast(comm, parts[0], (size_t)n * gln_dtype_bytes(dtype), 0);
}

static gln_status_t power_tree(gln_comm_t *comm, void *const *parts, int local, int64_t n,
                               gln_dtype_t dtype)
{
    size_t unit = gln_dtype_bytes(dtype);
    int64_t chunk = (int64_t)(comm->tree_chunk_bytes / unit);
    for (int64_t from = 0; from < n; from += chunk) {
        int64_t part = n - from < chunk ? n - from : chunk;
        local_tree(parts, local, from, part, dtype);
        if (comm->size == 1) continue;
        void *data = gln_at(parts[0], from, dtype);
        gln_status_t status = (size_t)n * unit <= comm->tree_small_bytes
                                  ? recursive_doubling(comm, data, part, dtype)
                                  : recursive_halving(comm, data, part, dtype);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

static size_t chunk_scratch(size_t chunk_bytes, int64_t n, gln_dtype_t dtype)
{
    size_t bytes = (size_t)n * gln_dtype_bytes(dtype);
    return bytes < chunk_bytes ? bytes : chunk_bytes;
}

size_t gln_comm_tree_scratch(int64_t n, gln_dtype_t dtype)
{
    return chunk_scratch(GLN_COMM_TREE_CHUNK_BYTES, n, dtype);
}

gln_status_t gln_comm_tree_sum(gln_comm_t *comm, void *const *parts, int local, int64_t n,
                               gln_dtype_t dtype)
{
    if (!comm || !parts)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_comm_tree_sum: expected a communicator and parts, found "
                        "NULL");
    if (local < 1 || n < 0)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "gln_comm_tree_sum: expected at least one part and n >= 0, found %d parts and "
            "n = %lld",
            local, (long long)n);
    if (dtype != GLN_F32 && dtype != GLN_F64)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "gln_comm_tree_sum: expected f32 or f64, found dtype %s: sums over ranks are made "
            "in full precision",
            gln_dtype_name(dtype));
    if (n == 0) return GLN_OK;
    for (int i = 0; i < local; i++)
        if (!parts[i]) return gln_fail(GLN_ERR_ARGUMENT, "gln_comm_tree_sum: part %d is NULL", i);
    size_t chunk = chunk_scratch(comm->tree_chunk_bytes, n, dtype);
    if (comm->size > 1) {
        gln_status_t status = gln_comm_scratch(comm, chunk);
        if (status != GLN_OK) return status;
    }
    if (is_power_of_two(comm->size) && is_power_of_two(local))
        return power_tree(comm, parts, local, n, dtype);
    return general_tree(comm, parts, local, n, dtype);
}
