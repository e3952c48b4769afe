/* State of the public layer in pieces, one per rank: a header, then bias (f32), gate, gate_up and
 * down as they lie in memory. A piece says which experts it holds, so that any number of ranks can
 * pick theirs out of the pieces of any other number. All is looked at before any of it is taken:
 * checksum (XXH3 of what follows the header), shape, and that every expert is there. */
#include "moe/gleaner_internal.h"

#include "base/log.h"
#include <string.h>
#include <xxhash.h>

typedef struct piece {
    char magic[8];
    uint64_t checksum; /* of everything behind the header */
    int64_t hidden, expert_hidden, experts;
    int64_t dtype;
    int64_t calls;
    int64_t first_expert, local_experts;
    int64_t bias_count;                             /* E, or 0 */
    uint64_t gate_bytes, gate_up_bytes, down_bytes; /* the latter two of one expert */
} piece_t;

static const char magic[8] = {'g', 'l', 'n', 'm', 'o', 'e', '0', '1'};

static piece_t piece_of(const gln_moe_t *m)
{
    const gln_moe_options_t *o = gln_moe_options(m);
    const gln_parallel_t *p = gln_moe_parallel(m);
    const uint64_t item = gln_dtype_bytes(o->dtype), h = (uint64_t)o->hidden,
                   f = (uint64_t)o->expert_hidden;
    piece_t piece = {.hidden = o->hidden,
                     .expert_hidden = o->expert_hidden,
                     .experts = o->experts,
                     .dtype = o->dtype,
                     .calls = gln_moe_calls(m),
                     .first_expert = p->first_expert,
                     .local_experts = p->local_experts,
                     .bias_count = gln_policy_has_bias(o->router.policy) ? o->experts : 0,
                     .gate_bytes = h * (uint64_t)o->experts * item,
                     .gate_up_bytes = h * 2 * f * item,
                     .down_bytes = f * h * item};
    memcpy(piece.magic, magic, sizeof magic);
    return piece;
}

static size_t bias_bytes(const piece_t *p)
{
    return (size_t)p->bias_count * sizeof(float);
}

static size_t total_bytes(const piece_t *p)
{
    return sizeof *p + p->gate_bytes + bias_bytes(p) +
           (size_t)p->local_experts * (p->gate_up_bytes + p->down_bytes);
}

size_t gln_moe_state_bytes(const gln_moe_t *m)
{
    if (gln_moe_check(m, "gln_moe_state_bytes") != GLN_OK) return 0;
    const piece_t piece = piece_of(m);
    return total_bytes(&piece);
}

/* Where the parameters lie. They are only looked at where the layer is const. */
static void parameters(const gln_moe_t *m, char *at[3])
{
    static const char *const names[3] = {"gate", "gate_up", "down"};
    for (int i = 0; i < 3; i++) {
        gln_tensor_t tensor;
        gln_moe_parameter((gln_moe_t *)(uintptr_t)m, names[i], &tensor, NULL);
        at[i] = tensor.data;
    }
}

gln_status_t gln_moe_state_out(const gln_moe_t *m, void *state, size_t bytes)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_state_out");
    if (status != GLN_OK) return status;
    piece_t piece = piece_of(m);
    if (!state || (uintptr_t)state % 8 || bytes != total_bytes(&piece))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_moe_state_out: expected %zu bytes aligned to 8 (gln_moe_state_bytes), "
                        "found %zu at %p",
                        total_bytes(&piece), bytes, state);
    char *to = (char *)state + sizeof piece, *from[3];
    parameters(m, from);
    if (piece.bias_count) status = gln_moe_bias(m, (float *)(void *)to);
    if (status != GLN_OK) return status;
    to += bias_bytes(&piece);
    memcpy(to, from[0], piece.gate_bytes);
    to += piece.gate_bytes;
    memcpy(to, from[1], (size_t)piece.local_experts * piece.gate_up_bytes);
    to += (size_t)piece.local_experts * piece.gate_up_bytes;
    memcpy(to, from[2], (size_t)piece.local_experts * piece.down_bytes);
    piece.checksum = XXH3_64bits((char *)state + sizeof piece, bytes - sizeof piece);
    memcpy(state, &piece, sizeof piece);
    return GLN_OK;
}

/* One piece by itself: its length, its checksum, and that it is of a layer like this one. */
static gln_status_t check_piece(const piece_t *mine, const void *state, size_t bytes, int index,
                                piece_t *out)
{
    piece_t p;
    if (!state || (uintptr_t)state % 8)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_moe_state_in: piece %d %s", index,
                        state ? "is not aligned to 8 bytes" : "is NULL");
    if (bytes < sizeof p || memcmp(state, magic, sizeof magic) != 0)
        return gln_fail(GLN_ERR_CHECKPOINT, "gln_moe_state_in: piece %d is no state of a layer",
                        index);
    memcpy(&p, state, sizeof p);
    if (p.hidden != mine->hidden || p.expert_hidden != mine->expert_hidden ||
        p.experts != mine->experts || p.dtype != mine->dtype || p.bias_count != mine->bias_count)
        return gln_fail(
            GLN_ERR_CHECKPOINT,
            "gln_moe_state_in: piece %d is of hidden %lld, expert_hidden %lld, experts "
            "%lld, dtype %lld, bias of %lld; the layer has %lld, %lld, %lld, %lld, %lld",
            index, (long long)p.hidden, (long long)p.expert_hidden, (long long)p.experts,
            (long long)p.dtype, (long long)p.bias_count, (long long)mine->hidden,
            (long long)mine->expert_hidden, (long long)mine->experts, (long long)mine->dtype,
            (long long)mine->bias_count);
    if (p.first_expert < 0 || p.local_experts < 1 || p.local_experts > p.experts ||
        p.first_expert > p.experts - p.local_experts || p.gate_bytes != mine->gate_bytes ||
        p.gate_up_bytes != mine->gate_up_bytes || p.down_bytes != mine->down_bytes ||
        bytes != total_bytes(&p) || p.calls < 0 ||
        p.checksum != XXH3_64bits((const char *)state + sizeof p, bytes - sizeof p))
        return gln_fail(GLN_ERR_CHECKPOINT, "gln_moe_state_in: piece %d (%zu bytes) is damaged",
                        index, bytes);
    *out = p;
    return GLN_OK;
}

/* The first piece that holds expert e; -1: none. */
static int piece_with(const void *const *pieces, int count, int64_t e)
{
    for (int i = 0; i < count; i++) {
        piece_t p;
        memcpy(&p, pieces[i], sizeof p);
        if (e >= p.first_expert && e < p.first_expert + p.local_experts) return i;
    }
    return -1;
}

static gln_status_t check_pieces(const piece_t *mine, const void *const *pieces,
                                 const size_t *bytes, int count, int64_t *calls)
{
    if (!pieces || !bytes || count < 1)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_moe_state_in: expected pieces, found %s",
                        count < 1 ? "none" : "NULL");
    for (int i = 0; i < count; i++) {
        piece_t p = {.calls = 0};
        gln_status_t status = check_piece(mine, pieces[i], bytes[i], i, &p);
        if (status != GLN_OK) return status;
        if (i == 0) *calls = p.calls;
        if (p.calls != *calls)
            return gln_fail(GLN_ERR_CHECKPOINT,
                            "gln_moe_state_in: piece 0 was written after %lld forward calls, piece "
                            "%d after %lld; take pieces that were written together",
                            (long long)*calls, i, (long long)p.calls);
    }
    for (int64_t e = mine->first_expert; e < mine->first_expert + mine->local_experts; e++)
        if (piece_with(pieces, count, e) < 0)
            return gln_fail(GLN_ERR_CHECKPOINT,
                            "gln_moe_state_in: expert %lld is in none of the %d pieces",
                            (long long)e, count);
    return GLN_OK;
}

gln_status_t gln_moe_state_in(gln_moe_t *m, const void *const *pieces, const size_t *bytes,
                              int count)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_state_in");
    if (status != GLN_OK) return status;
    const piece_t mine = piece_of(m);
    int64_t calls = 0;
    gln_comm_t *comm = gln_moe_parallel(m)->comm;
    status = check_pieces(&mine, pieces, bytes, count, &calls);
    status = gln_moe_agree(comm, status, "gln_moe_state_in");
    if (status != GLN_OK) return status;
    char *to[3];
    parameters(m, to);
    const char *from = (const char *)pieces[0] + sizeof mine;
    if (mine.bias_count)
        status = gln_moe_set_bias(m, (const float *)(const void *)from); /* finite, or refused */
    status = gln_moe_agree(comm, status, "gln_moe_state_in");
    if (status != GLN_OK) return status;
    memcpy(to[0], from + bias_bytes(&mine), mine.gate_bytes);
    for (int64_t i = 0; i < mine.local_experts; i++) {
        piece_t p;
        from = pieces[piece_with(pieces, count, mine.first_expert + i)];
        memcpy(&p, from, sizeof p);
        const size_t at = (size_t)(mine.first_expert + i - p.first_expert);
        from += sizeof p + bias_bytes(&p) + p.gate_bytes;
        memcpy(to[1] + (size_t)i * p.gate_up_bytes, from + at * p.gate_up_bytes, p.gate_up_bytes);
        from += (size_t)p.local_experts * p.gate_up_bytes;
        memcpy(to[2] + (size_t)i * p.down_bytes, from + at * p.down_bytes, p.down_bytes);
    }
    gln_moe_set_calls(m, calls);
    return GLN_OK;
}
