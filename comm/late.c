/* Waits with an end, and the message about who did not arrive. A rank is named by the best reason
 * that any rank offers: processes that are gone, else stopped, else silent (nobody on their node
 * answers), else running elsewhere. So a live rank that itself waits, or is late only because it
 * waited for the missing one before, is not named.
 *
 * All ranks that wait find out at about the same moment. On each node the first one reports, and
 * the others take over its verdict without sending it to the log again; of nodes, the one with the
 * lowest waiting rank is ahead of the others. Other nodes are asked before the time is over and
 * once more at the end, so that silent ones cost no time then. A rank that was stopped itself and
 * runs again begins its wait anew: the others may have been there in the meantime. */
#include "comm/roster_internal.h"

#include "base/log.h"
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { YIELD_AFTER_POLLS = 1 << 12, NAMES_MAX = 6, WAITING_MAX = 16 };
static const int64_t LOOK_NS = 20000000;    /* between two looks at questions and processes */
static const int64_t ASK_NS = 600000000;    /* for answers of other nodes; begins before the end */
static const int64_t AGAIN_NS = 150000000;  /* for their answers to the second question */
static const int64_t TELL_NS = 50000000;    /* for the verdict's way to other nodes */
static const int64_t HOLD_NS = 900000000;   /* that the lowest rank is ahead of other nodes */
static const int64_t QUIET_NS = 999999999;  /* for the one that reports to end the job */
static const int64_t PAUSE_NS = 1000000000; /* between two polls: this process was stopped */

static int64_t met_ns;

void gln_wait_begin(gln_comm_t *comm, const char *collective, gln_wait_t *wait)
{
    wait->comm = comm;
    wait->now_ns = wait->end_ns = wait->look_ns = wait->ask_ns = 0;
    wait->polls = 0;
    comm->collective = comm->place->collective = collective;
    if (comm->roster) gln_roster_set_waiting(comm->roster, 1);
}

int64_t gln_comm_met_ns(void)
{
    return __atomic_load_n(&met_ns, __ATOMIC_RELAXED);
}

void gln_wait_end(gln_comm_t *comm)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now); /* some nanoseconds */
    __atomic_store_n(&met_ns, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, __ATOMIC_RELAXED);
    comm->place->collective = NULL;
    if (!comm->roster) return;
    gln_roster_set_waiting(comm->roster, 0);
    comm->roster->asked_ns = 0;
}

static gln_comm_guard_t guard;

void gln_comm_set_guard(const gln_comm_guard_t *given)
{
    guard = given ? *given : (gln_comm_guard_t){0};
}

void gln_comm_guard_begin(const gln_comm_t *comm, const char *operation)
{
    if (guard.begin && comm->timeout_ms > 0) guard.begin(guard.ctx, operation, comm->timeout_ms);
}

void gln_comm_guard_end(const gln_comm_t *comm)
{
    if (guard.end && comm->timeout_ms > 0) guard.end(guard.ctx);
}

gln_comm_place_t *gln_comm_guard_place(void)
{
    return guard.place;
}

int gln_comm_guard_signals(void)
{
    return guard.signals ? guard.signals(guard.ctx) : 0;
}

int gln_wait_look(gln_wait_t *wait)
{
    gln_comm_t *comm = wait->comm;
    if (wait->polls > YIELD_AFTER_POLLS) sched_yield();
    if (comm->timeout_ms == 0) return 0;
    int64_t now = gln_clock_ns();
    int paused = now - wait->now_ns > PAUSE_NS;
    wait->now_ns = now;
    if (paused) { /* so also at first */
        int64_t limit = comm->timeout_ms * 1000000;
        wait->end_ns = now + limit;
        wait->ask_ns = wait->end_ns - (limit / 2 < ASK_NS ? limit / 2 : ASK_NS);
        wait->look_ns = now + LOOK_NS;
    }
    if (now >= wait->end_ns) return 1;
    if (now < wait->look_ns || !comm->roster) return 0;
    wait->look_ns = now + LOOK_NS;
    if (now >= wait->ask_ns) {
        gln_roster_ask_ahead(comm->roster, now);
        wait->ask_ns = INT64_MAX;
    }
    return gln_roster_look(comm->roster, now);
}

/* ---- the message --------------------------------------------------------------------------------
 */

typedef struct text {
    char data[GLN_ROSTER_VERDICT_MAX];
    size_t used;
} text_t;

static void __attribute__((format(printf, 2, 3))) add(text_t *text, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text->data + text->used, sizeof text->data - text->used, format, list);
    va_end(list);
    if (length > 0) text->used += (size_t)length;
    if (text->used >= sizeof text->data) text->used = sizeof text->data - 1;
}

static void add_place(text_t *text, const gln_comm_t *comm)
{
    const gln_comm_place_t *place = comm->place;
    add(text, "; operation %s", place->operation ? place->operation : comm->collective);
    if (place->layer >= 0) add(text, ", layer %d", place->layer);
    if (place->step > 0) add(text, ", step %lld", (long long)place->step);
}

static int roster_rank(const gln_comm_t *comm, int rank)
{
    return comm->roster_rank ? comm->roster_rank[rank] : rank;
}

static void mark(signed char *presence, int *chosen)
{
    *presence = (signed char)(-1 - *presence);
    *chosen += 1;
}

/* Turn the presence of those to be named into -1 - presence. @return how many */
static int choose(gln_comm_t *comm, const int *ranks, int count)
{
    gln_roster_t *r = comm->roster;
    int worst = GLN_WAITS, chosen = 0;
    for (int i = 0; i < r->size; i++)
        if (i != r->rank && r->presence[i] > worst) worst = r->presence[i];
    /* of those that only run elsewhere, the ones this rank waits for; if there is none, all */
    for (int i = 0; i < count && worst <= GLN_RUNS; i++) {
        signed char *presence = &r->presence[roster_rank(comm, ranks[i])];
        if (*presence == worst) mark(presence, &chosen);
    }
    if (chosen > 0) return chosen;
    for (int i = 0; i < r->size; i++)
        if (i != r->rank && r->presence[i] == worst) mark(&r->presence[i], &chosen);
    return chosen;
}

static void add_missing(text_t *text, const gln_roster_t *r, int chosen)
{
    static const char *const words[GLN_PRESENCES] = {"waits elsewhere", "runs", "no answer",
                                                     "stopped", "gone"};
    int named = 0;
    for (int i = 0; i < r->size && named < NAMES_MAX; i++) {
        if (r->presence[i] >= 0) continue;
        const gln_roster_card_t *card = &r->cards[i];
        add(text, "%srank %d (host %s, pid %lld, %s)", named ? ", " : "", i, card->host,
            (long long)card->pid, words[-1 - r->presence[i]]);
        named++;
    }
    if (chosen > named) add(text, " and %d more", chosen - named);
}

static void add_waiting(text_t *text, const gln_roster_t *r)
{
    int named = 0, waiting = 0;
    for (int i = 0; i < r->size; i++)
        waiting += r->presence[i] == GLN_WAITS;
    add(text, "; waiting: rank%s", waiting == 1 ? "" : "s");
    for (int i = 0; i < r->size && named < WAITING_MAX; i++)
        if (r->presence[i] == GLN_WAITS) {
            add(text, " %d", i);
            named++;
        }
    if (waiting > named) add(text, " and %d more", waiting - named);
}

static int is_ahead(const gln_roster_t *r)
{
    for (int i = 0; i < r->rank; i++)
        if (r->presence[i] == GLN_WAITS && r->node[i] != r->node[r->rank]) return 0;
    return 1;
}

/* Fail with what another rank has reported. After a signal, beyond the `signals` before, the job is
 * being ended: there is nothing to wait for. */
static gln_status_t take_over(gln_roster_t *r, const text_t *text, int signals)
{
    char me[32];
    snprintf(me, sizeof me, "rank %d (host ", r->rank);
    /* one that is named was stopped and runs again only because the job is being ended */
    if (!strstr(text->data, me) && gln_comm_guard_signals() == signals)
        gln_roster_rest(r, QUIET_NS);
    gln_log_hold(1);
    gln_fail(GLN_ERR_PEER, "%s", text->data);
    gln_log_hold(0);
    return GLN_ERR_PEER;
}

gln_status_t gln_comm_late(gln_comm_t *comm, const int *ranks, int count)
{
    gln_roster_t *r = comm->roster;
    text_t text = {.used = 0};
    int signals = gln_comm_guard_signals();
    comm->given_up = 1;
    if (!r)
        return gln_fail(GLN_ERR_PEER, "no rank arrived within %lld ms",
                        (long long)comm->timeout_ms);
    if (r->told) {
        memcpy(text.data, r->told_text, sizeof text.data);
        return take_over(r, &text, signals);
    }
    if (gln_roster_verdict(r, NULL) && gln_roster_verdict(r, text.data))
        return take_over(r, &text, signals);
    int ending = gln_roster_ask(r, ASK_NS, AGAIN_NS);
    int chosen = choose(comm, ranks, count), gone = 0;
    for (int i = 0; i < r->size; i++)
        gone += r->presence[i] == -1 - GLN_GONE;
    add_missing(&text, r, chosen);
    if (gone)
        add(&text, " left the job");
    else
        add(&text, " did not arrive within %lld ms", (long long)comm->timeout_ms);
    add_place(&text, comm);
    add_waiting(&text, r);
    if (gln_roster_verdict(r, text.data)) return take_over(r, &text, signals);
    if (!is_ahead(r) && (ending || gln_roster_rest(r, HOLD_NS)))
        return take_over(r, &text, signals);
    gln_roster_tell(r, text.data, TELL_NS);
    return gln_fail(GLN_ERR_PEER, "%s", text.data);
}
