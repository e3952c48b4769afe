/* Dispatch and combine as flights: started, moved on while the caller computes, finished.
 *
 * Starting posts all messages of the first hop and copies the rows that stay on the rank. The rest
 * happens whenever a call comes by: writing to node peers whose buffer is ready, in turn, and, in
 * the hierarchical form, the second hop as soon as all messages of the first have arrived (fanning
 * out inside the node; summing and returning the sums between nodes). Messages between two ranks
 * match in the order in which they were started, and every rank starts the first hop of all its
 * messages before the second of any: when a rank comes to its second hop does not matter. Finishing
 * does what is left and waits. Dispatch and combine in one call are start and finish.
 *
 * In combine node peers read results where they lie, so these are shown at the finish only: until
 * then the caller may work on them. The sum over a token's rows runs in the finish too, in the
 * order of the tree, so that bits do not depend on what arrived when.
 *
 * Stages. In the flat form a rank may wait for the rows of some peers, and send their results while
 * rows of others still come: combine begins inside dispatch, as one flight. Every message of
 * dispatch was started before, so that what matches what stays as it was. A peer's results come to
 * where the rows for it leave from, so they are received only once these have left; until then the
 * peer's message waits. To tell messages of dispatch and combine apart they are started under two
 * batches. The hierarchical form waits for all rows, and sends when all results are there.
 *
 * Time is measured at the doors. `hidden` is how long messages were under way while the rank was in
 * none of the calls; all time in the calls up to the arrival of the last row is exposed, copying
 * included; sums after it count in neither. */
#include "comm/exchange_internal.h"
#include "comm/roster_internal.h"

#include "base/log.h"
#include <sched.h>
#include <string.h>

/* Of a rank of the group, in stages: its rows are here; its results may have left; we receive ours.
 */
enum { ARRIVED = 1, SENT = 2, POSTED = 4 };

static void enter(gln_exchange_t *x)
{
    x->flight.entered_ns = gln_clock_ns();
    x->comm->place->operation = x->flight.kind == GLN_FLIGHT_DISPATCH ? "dispatch" : "combine";
}

static gln_status_t leave(gln_exchange_t *x, gln_status_t status)
{
    x->flight.inside_ns += gln_clock_ns() - x->flight.entered_ns;
    x->comm->place->operation = NULL;
    return status;
}

/* Nothing is under way any more, on success and after errors. */
static gln_status_t end(gln_exchange_t *x, gln_status_t status)
{
    gln_exchange_flight_t *f = &x->flight;
    x->comm->batch = 0;
    f->kind = GLN_FLIGHT_NONE;
    f->times.flight_s += 1e-9 * (double)(f->inside_ns + f->hidden_ns);
    f->times.hidden_s += 1e-9 * (double)f->hidden_ns;
    return status;
}

static void begin(gln_exchange_t *x, int kind, const void *in, void *out)
{
    gln_exchange_times_t times = x->flight.times;
    x->flight = (gln_exchange_flight_t){.kind = kind, .in = in, .out = out, .times = times};
    enter(x);
    x->flight.began_ns = x->flight.entered_ns;
}

/* Does this rank of the group, by index, exchange messages with this one? */
static int far(const gln_exchange_t *x, int index)
{
    int rank = x->rank_first + index;
    return rank != x->comm->rank && !gln_exchange_window_has(x, rank);
}

/* Start receiving results from peers that have taken all rows. */
static gln_status_t returns_post(gln_exchange_t *x)
{
    gln_status_t status = GLN_OK;
    for (int index = 0; index < x->group_ranks && x->flight.unposted > 0; index++) {
        int done = 0;
        if (!far(x, index) || x->stage_state[index] & POSTED) continue;
        status = x->comm->ops->settled(x->comm, x->rank_first + index, 0, 0, &done);
        if (status == GLN_OK && done) {
            status = gln_exchange_backward_receive(x, &x->rows, x->row_bytes, index);
            x->stage_state[index] |= POSTED;
            x->flight.unposted--;
        }
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

/* All messages of the hop have arrived: start the next one, or note that it was the last. */
static gln_status_t hop_end(gln_exchange_t *x)
{
    gln_exchange_flight_t *f = &x->flight;
    if (f->hop == 0 && x->node.nodes > 0) {
        f->hop = 1;
        return f->kind == GLN_FLIGHT_DISPATCH ? gln_exchange_node_fan_out(x, f->out)
                                              : gln_exchange_node_sums_return(x, f->in);
    }
    f->hop = 2;
    f->hidden_ns = f->entered_ns - f->began_ns - f->inside_ns;
    return GLN_OK;
}

/* What messages can do without waiting. */
static gln_status_t messages_move(gln_exchange_t *x)
{
    const gln_exchange_flight_t *f = &x->flight;
    gln_status_t status = GLN_OK;
    while (f->hop < 2 && status == GLN_OK) {
        int done = 0;
        status = returns_post(x);
        if (status == GLN_OK) status = x->comm->ops->test(x->comm, &done);
        if (status == GLN_OK && !done) break;
        if (status != GLN_OK || f->unposted > 0) continue; /* all have left: post the rest */
        if (f->unsent > 0) break;
        status = hop_end(x);
    }
    return status;
}

static gln_status_t messages_await(gln_exchange_t *x)
{
    gln_status_t status = GLN_OK;
    while (x->flight.hop < 2 && status == GLN_OK) {
        status = x->comm->ops->wait(x->comm);
        if (status == GLN_OK) status = hop_end(x);
    }
    return status;
}

/* What can be done without waiting. */
static gln_status_t move(gln_exchange_t *x)
{
    gln_exchange_flight_t *f = &x->flight;
    gln_status_t status = GLN_OK;
    int dispatch = f->kind == GLN_FLIGHT_DISPATCH;
    if (dispatch) status = gln_exchange_window_write(x, f->in, 0);
    if (status == GLN_OK) status = messages_move(x);
    if (status == GLN_OK && f->hop == 2)
        f->landed = !dispatch || f->near || gln_exchange_window_missing(x) < 0;
    return status;
}

/* Dispatch: until the rows of node peers are in their place, and theirs in theirs. */
static gln_status_t near_await(gln_exchange_t *x)
{
    gln_exchange_flight_t *f = &x->flight;
    gln_status_t status = GLN_OK;
    int peer;
    if (f->near) return GLN_OK;
    if (f->hop < 2 && gln_exchange_window_missing(x) >= 0) { /* messages move on meanwhile */
        gln_wait_t wait;
        gln_wait_begin(x->comm, "rows of the node", &wait);
        for (;;) {
            status = move(x);
            if (status != GLN_OK || (peer = gln_exchange_window_missing(x)) < 0) break;
            if (gln_wait_over(&wait)) return gln_comm_late(x->comm, &peer, 1);
            sched_yield();
        }
        gln_wait_end(x->comm);
    }
    if (status == GLN_OK) status = gln_exchange_window_write(x, f->in, 1);
    if (status == GLN_OK) status = gln_exchange_window_written(x, f->out);
    f->near = status == GLN_OK;
    return status;
}

/* Until the rows of one peer have arrived, or its results can come. */
static gln_status_t peer_await(gln_exchange_t *x, int index, int bit)
{
    gln_status_t status = GLN_OK;
    int peer = x->rank_first + index, done = 0;
    gln_wait_t wait;
    gln_wait_begin(x->comm, "messages", &wait);
    for (;;) {
        status = move(x);
        if (status == GLN_OK && bit == ARRIVED)
            status = x->comm->ops->settled(x->comm, peer, 0, 1, &done);
        else if (status == GLN_OK)
            done = x->stage_state[index] & bit;
        if (status != GLN_OK || done) break;
        if (gln_wait_over(&wait)) return gln_comm_late(x->comm, &peer, 1);
    }
    gln_wait_end(x->comm);
    return status;
}

/* Stages: until the rows of ranks [first, last) of the group are in their place. */
static gln_status_t ranks_await(gln_exchange_t *x, int first, int last)
{
    gln_status_t status = GLN_OK;
    int dispatch = x->flight.kind == GLN_FLIGHT_DISPATCH; /* else all have come but flat far ones */
    for (int index = first; index < last && status == GLN_OK; index++) {
        if (x->stage_state[index] & ARRIVED) continue;
        if (!far(x, index))
            status = dispatch ? near_await(x) : GLN_OK;
        else if (x->node.nodes > 0)
            status = dispatch ? messages_await(x) : GLN_OK;
        else
            status = peer_await(x, index, ARRIVED);
        if (status == GLN_OK) x->stage_state[index] |= ARRIVED;
    }
    return status;
}

/* Stages: results for ranks [first, last) of the group are there. */
static gln_status_t ranks_send(gln_exchange_t *x, int first, int last)
{
    gln_exchange_flight_t *f = &x->flight;
    gln_status_t status = GLN_OK;
    for (int index = first; index < last && status == GLN_OK; index++) {
        if (!far(x, index) || x->stage_state[index] & SENT) continue;
        x->stage_state[index] |= SENT;
        f->unsent--;
        if (x->node.nodes == 0)
            status = gln_exchange_backward_send(x, &x->rows, x->row_bytes, f->in, index);
        else if (f->unsent == 0)
            status = gln_exchange_backward_post(x, &x->rows, x->row_bytes, f->in);
    }
    return status;
}

static gln_status_t dispatch_post(gln_exchange_t *x, const void *in, void *out)
{
    int pairs = x->local * x->group;
    GLN_ASSERT(in || x->rows.sent_offset[pairs] == 0);
    GLN_ASSERT(out || x->rows.received_offset[pairs] == 0);
    x->traffic = x->traffic_dispatch;
    begin(x, GLN_FLIGHT_DISPATCH, in, out);
    memset(x->stage_state, 0, (size_t)x->group_ranks);
    gln_exchange_window_begin(x);
    gln_status_t status = gln_exchange_forward_post(x, &x->rows, x->row_bytes, in, out);
    return status == GLN_OK ? move(x) : status;
}

static gln_status_t dispatch_land(gln_exchange_t *x)
{
    gln_status_t status = near_await(x);
    return status == GLN_OK ? messages_await(x) : status;
}

static gln_status_t combine_post(gln_exchange_t *x, const void *in, void *out)
{
    GLN_ASSERT(in || x->rows.received_offset[x->local * x->group] == 0);
    GLN_ASSERT(out);
    x->traffic = x->traffic_combine;
    begin(x, GLN_FLIGHT_COMBINE, in, out);
    gln_status_t status = gln_exchange_backward_post(x, &x->rows, x->row_bytes, in);
    return status == GLN_OK ? move(x) : status;
}

static gln_status_t combine_land(gln_exchange_t *x)
{
    gln_status_t status = x->flight.staged ? ranks_send(x, 0, x->group_ranks) : GLN_OK;
    if (status != GLN_OK) return status;
    gln_exchange_window_show(x, x->flight.in);
    for (int index = 0; index < x->group_ranks && x->flight.unposted > 0; index++)
        if (far(x, index) && status == GLN_OK) status = peer_await(x, index, POSTED);
    if (status == GLN_OK) status = messages_await(x);
    if (status != GLN_OK) return status;
    gln_exchange_pair_rows_set(x, x->flight.in);
    return gln_exchange_window_find(x);
}

/* Every token's rows to one; then until peers have read theirs here. */
static gln_status_t combine_sum(gln_exchange_t *x)
{
    int64_t tokens = x->local * x->options.tokens;
    for (int64_t t = 0; t < tokens; t++) {
        const gln_exchange_entry_t *entries = x->entries + x->token_entry[t];
        int64_t count = x->token_entry[t + 1] - x->token_entry[t];
        const char *const *rows = x->pair_rows + t / x->options.tokens * x->group;
        char *sum = x->flight.out + (size_t)t * x->row_bytes;
        if (count == 0)
            memset(sum, 0, x->row_bytes);
        else
            gln_exchange_token_sum(x, entries, count, rows, sum);
    }
    enter(x);
    return leave(x, gln_exchange_window_read(x));
}

gln_status_t gln_exchange_dispatch(gln_exchange_t *x, const void *in, void *out)
{
    gln_status_t status = gln_exchange_check(x, "gln_exchange_dispatch");
    if (status != GLN_OK) return status;
    status = dispatch_post(x, in, out);
    if (status == GLN_OK) status = dispatch_land(x);
    return end(x, leave(x, status));
}

gln_status_t gln_exchange_combine(gln_exchange_t *x, const void *in, void *out)
{
    gln_status_t status = gln_exchange_check(x, "gln_exchange_combine");
    if (status != GLN_OK) return status;
    status = combine_post(x, in, out);
    if (status == GLN_OK) status = combine_land(x);
    leave(x, status);
    if (status == GLN_OK) status = combine_sum(x);
    return end(x, status);
}

gln_status_t gln_exchange_dispatch_start(gln_exchange_t *x, const void *in, void *out)
{
    gln_status_t status = gln_exchange_check(x, "gln_exchange_dispatch_start");
    if (status != GLN_OK) return status;
    status = leave(x, dispatch_post(x, in, out));
    return status == GLN_OK ? GLN_OK : end(x, status);
}

gln_status_t gln_exchange_combine_start(gln_exchange_t *x, const void *in, void *out)
{
    gln_status_t status = gln_exchange_check(x, "gln_exchange_combine_start");
    if (status != GLN_OK) return status;
    status = leave(x, combine_post(x, in, out));
    return status == GLN_OK ? GLN_OK : end(x, status);
}

gln_status_t gln_exchange_progress(gln_exchange_t *x)
{
    GLN_ASSERT(x);
    gln_exchange_flight_t *f = &x->flight;
    if (f->kind == GLN_FLIGHT_NONE || f->landed || f->status != GLN_OK) return f->status;
    enter(x);
    f->status = move(x);
    return leave(x, f->status);
}

/* GLN_OK where a flight of this kind is under way; what went wrong in it, else. */
static gln_status_t under_way(const gln_exchange_t *x, int kind, const char *function)
{
    if (!x) return gln_fail(GLN_ERR_ARGUMENT, "%s: expected an exchange, found NULL", function);
    if ((int)x->flight.kind == kind) return x->flight.status;
    return gln_fail(GLN_ERR_ARGUMENT, "%s: no %s is under way; start it first", function,
                    kind == GLN_FLIGHT_DISPATCH ? "dispatch" : "combine");
}

gln_status_t gln_exchange_dispatch_near(gln_exchange_t *x)
{
    gln_status_t status = under_way(x, GLN_FLIGHT_DISPATCH, "gln_exchange_dispatch_near");
    if (status != GLN_OK || x->flight.near) return status;
    enter(x);
    x->flight.status = near_await(x);
    return leave(x, x->flight.status);
}

gln_status_t gln_exchange_dispatch_finish(gln_exchange_t *x)
{
    gln_status_t status = under_way(x, GLN_FLIGHT_DISPATCH, "gln_exchange_dispatch_finish");
    if (!x || x->flight.kind != GLN_FLIGHT_DISPATCH) return status;
    if (status == GLN_OK) {
        enter(x);
        status = leave(x, dispatch_land(x));
    }
    return end(x, status);
}

/* Sources [first, first + count) as ranks [*from, *to) of the group. */
static gln_status_t stage_ranks(const gln_exchange_t *x, int first, int count, const char *function,
                                int *from, int *to)
{
    if (first < 0 || count < 0 || count > x->group - first)
        return gln_fail(GLN_ERR_ARGUMENT, "%s: expected sources in [0, %d), found [%d, %d)",
                        function, x->group, first, first + count);
    *from = 0;
    *to = 1;
    if (x->group_ranks == 1) return GLN_OK;
    if (first % x->local != 0 || count % x->local != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "%s: expected all %d sources of each rank, found sources [%d, %d)",
                        function, x->local, first, first + count);
    *from = first / x->local;
    *to = *from + count / x->local;
    return GLN_OK;
}

gln_status_t gln_exchange_dispatch_await(gln_exchange_t *x, int first, int count)
{
    static const char name[] = "gln_exchange_dispatch_await";
    int from, to, staged = x && x->flight.kind == GLN_FLIGHT_COMBINE && x->flight.staged;
    gln_status_t status = under_way(x, staged ? GLN_FLIGHT_COMBINE : GLN_FLIGHT_DISPATCH, name);
    if (status == GLN_OK) status = stage_ranks(x, first, count, name, &from, &to);
    if (status != GLN_OK) return status;
    enter(x);
    x->comm->place->operation = "dispatch";
    x->flight.status = ranks_await(x, from, to);
    return leave(x, x->flight.status);
}

/* Combine goes on where dispatch is: as one flight where rows are still under way. */
static gln_status_t combine_open(gln_exchange_t *x, const void *in, void *out)
{
    gln_exchange_flight_t *f = &x->flight;
    if (f->kind == GLN_FLIGHT_NONE)
        memset(x->stage_state, ARRIVED, (size_t)x->group_ranks);
    else if (f->hop == 2)
        end(x, leave(x, GLN_OK));
    if (f->kind == GLN_FLIGHT_NONE) begin(x, GLN_FLIGHT_COMBINE, in, out);
    f->kind = GLN_FLIGHT_COMBINE;
    f->in = in;
    f->out = out;
    f->landed = 0;
    x->traffic = x->traffic_combine;
    x->comm->batch = 1;
    f->staged = 1;
    for (int index = 0; index < x->group_ranks; index++)
        f->unsent += far(x, index);
    f->unposted = x->node.nodes > 0 ? 0 : f->unsent;
    return move(x);
}

gln_status_t gln_exchange_combine_begin(gln_exchange_t *x, const void *in, void *out)
{
    static const char name[] = "gln_exchange_combine_begin";
    gln_status_t status;
    if (!x || x->flight.kind != GLN_FLIGHT_DISPATCH) {
        status = gln_exchange_check(x, name);
        if (status != GLN_OK) return status;
        enter(x);
    } else {
        status = under_way(x, GLN_FLIGHT_DISPATCH, name);
        if (status != GLN_OK) return end(x, status);
        enter(x);
        status = near_await(x);
        if (status == GLN_OK && x->node.nodes > 0) status = messages_await(x);
        if (status == GLN_OK) status = messages_move(x);
    }
    GLN_ASSERT(in || x->rows.received_offset[x->local * x->group] == 0);
    GLN_ASSERT(out);
    if (status == GLN_OK) status = combine_open(x, in, out);
    leave(x, status);
    return status == GLN_OK ? GLN_OK : end(x, status);
}

/* The first rank in [from, to) of the group whose results may not be sent; -1: none. */
static int not_arrived(const gln_exchange_t *x, int from, int to)
{
    for (int index = from; index < to; index++)
        if (far(x, index) && !(x->stage_state[index] & ARRIVED)) return index;
    return -1;
}

static gln_status_t refuse_early(const gln_exchange_t *x, int index, const char *function)
{
    return gln_fail(GLN_ERR_ARGUMENT,
                    "%s: the rows of sources [%d, %d) were not awaited; call "
                    "gln_exchange_dispatch_await first",
                    function, index * x->local, (index + 1) * x->local);
}

gln_status_t gln_exchange_combine_send(gln_exchange_t *x, int first, int count)
{
    static const char name[] = "gln_exchange_combine_send";
    int from, to, early;
    gln_status_t status = under_way(x, GLN_FLIGHT_COMBINE, name);
    if (status == GLN_OK && !x->flight.staged)
        status = gln_fail(GLN_ERR_ARGUMENT,
                          "%s: all results left at the start; begin the combine with "
                          "gln_exchange_combine_begin",
                          name);
    if (status == GLN_OK) status = stage_ranks(x, first, count, name, &from, &to);
    if (status != GLN_OK) return status;
    if ((early = not_arrived(x, from, to)) >= 0) return refuse_early(x, early, name);
    for (int index = from; index < to; index++)
        if (x->stage_state[index] & SENT)
            return gln_fail(GLN_ERR_ARGUMENT, "%s: results for sources [%d, %d) were sent already",
                            name, index * x->local, (index + 1) * x->local);
    enter(x);
    x->flight.status = ranks_send(x, from, to);
    if (x->flight.status == GLN_OK) x->flight.status = move(x);
    return leave(x, x->flight.status);
}

gln_status_t gln_exchange_combine_finish(gln_exchange_t *x)
{
    static const char name[] = "gln_exchange_combine_finish";
    gln_status_t status = under_way(x, GLN_FLIGHT_COMBINE, name);
    if (!x || x->flight.kind != GLN_FLIGHT_COMBINE) return status;
    int early = status == GLN_OK && x->flight.staged ? not_arrived(x, 0, x->group_ranks) : -1;
    if (early >= 0) return refuse_early(x, early, name);
    if (status == GLN_OK) {
        enter(x);
        status = leave(x, combine_land(x));
    }
    if (status == GLN_OK) status = combine_sum(x);
    return end(x, status);
}

void gln_exchange_near(const gln_exchange_t *x, int *first, int *count)
{
    GLN_ASSERT(x && first && count);
    int own = x->comm->rank - x->rank_first, lower = own, upper = own + 1;
    if (x->group_ranks == 1) {
        *first = 0;
        *count = x->group;
        return;
    }
    while (lower > 0 && gln_exchange_window_has(x, x->rank_first + lower - 1))
        lower--;
    while (upper < x->group_ranks && gln_exchange_window_has(x, x->rank_first + upper))
        upper++;
    *first = lower * x->local;
    *count = (upper - lower) * x->local;
}

gln_exchange_times_t gln_exchange_times(const gln_exchange_t *x)
{
    GLN_ASSERT(x);
    return x->flight.times;
}
