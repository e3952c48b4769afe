/* The roster. Inside a node every rank has a line in a page of shared memory where it says whether
 * it waits; whether its process lives, is stopped or is gone is asked of the kernel
 * (/proc/PID/stat), which works however a process was ended. The page has no name in any file
 * system: the lowest rank of the node makes it (memfd_create), the others open it through
 * /proc/PID/fd, so that nothing can be left over. Where that is not permitted, ranks of a node are
 * treated as on nodes of their own.
 *
 * Other nodes are asked by message, on a communicator of its own: whoever waits in a collective
 * looks for questions every 20 ms and answers for all ranks of its node. A rank is silent when
 * nobody on its node waits. Set-up: one allgather of 72 bytes a rank; a question: O(P) messages,
 * sent only when the job is about to end. */
#include "comm/roster_internal.h"

#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct gln_questions {
    MPI_Comm comm;
    MPI_Request answering; /* the last answer */
};

enum { LINE_BYTES = 64, QUESTION_TAG = 1, ANSWER_TAG = 2, VERDICT_TAG = 3 };
static const int64_t PROCESSES_NS = 100000000; /* between two looks at /proc */

int64_t gln_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* State letter of a process as in proc(5), 0 if there is none, '?' if it cannot be known. */
static char process_state(int64_t pid, uint64_t *start)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno == ENOENT ? 0 : '?';
    ssize_t length = read(file, text, sizeof text - 1);
    int error = errno;
    close(file);
    if (length <= 0) return length < 0 && error == ESRCH ? 0 : '?';
    text[length] = 0;
    char *at = strrchr(text, ')'); /* the name before it may hold anything */
    char state = '?';
    /* state is field 3, the start field 22 */
    if (!at || sscanf(at + 1,
                      " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                      "%*s %" SCNu64,
                      &state, start) != 2)
        return '?';
    return state;
}

static gln_presence_t presence_here(const gln_roster_t *r, int rank)
{
    const gln_roster_card_t *card = &r->cards[rank];
    uint64_t start = card->start;
    char state = rank == r->rank ? 'R' : process_state(card->pid, &start);
    if (state == 0 || state == 'Z' || state == 'X' || start != card->start) return GLN_GONE;
    if (state == 'T' || state == 't') return GLN_STOPPED;
    const char *line = r->page ? r->page + r->place_on_node[rank] * LINE_BYTES : NULL;
    int waits = !line || __atomic_load_n((const int *)(const void *)line, __ATOMIC_RELAXED);
    return waits ? GLN_WAITS : GLN_RUNS;
}

void gln_roster_set_waiting(gln_roster_t *r, int waiting)
{
    if (!r->page) return;
    char *line = r->page + r->place_on_node[r->rank] * LINE_BYTES;
    __atomic_store_n((int *)(void *)line, waiting, __ATOMIC_RELAXED);
}

typedef struct verdict {
    int state; /* 0: none, 1: being written, 2: there */
    char text[GLN_ROSTER_VERDICT_MAX];
} verdict_t;

static verdict_t *verdict_of(const gln_roster_t *r)
{
    return r->page ? (verdict_t *)(void *)(r->page + r->ranks_on_node * LINE_BYTES) : NULL;
}

int gln_roster_verdict(gln_roster_t *r, char *text)
{
    verdict_t *verdict = verdict_of(r);
    int none = 0;
    if (!verdict) return 0;
    if (!text) return __atomic_load_n(&verdict->state, __ATOMIC_ACQUIRE) == 2;
    if (__atomic_compare_exchange_n(&verdict->state, &none, 1, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        memcpy(verdict->text, text, sizeof verdict->text);
        __atomic_store_n(&verdict->state, 2, __ATOMIC_RELEASE);
        return 0;
    }
    for (int i = 0; i < 100 && !gln_roster_verdict(r, NULL); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (!gln_roster_verdict(r, NULL)) return 0; /* its writer was ended while writing */
    memcpy(text, verdict->text, sizeof verdict->text);
    return 1;
}

static int is_here(const gln_roster_t *r, int rank)
{
    return r->node[rank] == r->node[r->rank];
}

/* The verdict of another node, if one has come. */
static void hear_verdict(gln_roster_t *r)
{
    MPI_Status from;
    int come = 0;
    char text[GLN_ROSTER_VERDICT_MAX] = "";
    if (r->told ||
        MPI_Iprobe(MPI_ANY_SOURCE, VERDICT_TAG, r->questions->comm, &come, &from) != MPI_SUCCESS ||
        !come)
        return;
    if (MPI_Recv(text, (int)sizeof text, MPI_BYTE, from.MPI_SOURCE, VERDICT_TAG, r->questions->comm,
                 MPI_STATUS_IGNORE) != MPI_SUCCESS)
        return;
    text[sizeof text - 1] = 0;
    r->told = 1;
    memcpy(r->told_text, text, sizeof text);
    gln_roster_verdict(r, text);
}

/* Answer all questions that have come. Errors are left to the wait itself. */
static void answer(gln_roster_t *r)
{
    MPI_Status from;
    int come = 0, sent = 0;
    if (!r->questions) return;
    hear_verdict(r);
    while (MPI_Test(&r->questions->answering, &sent, MPI_STATUS_IGNORE) == MPI_SUCCESS && sent &&
           MPI_Iprobe(MPI_ANY_SOURCE, QUESTION_TAG, r->questions->comm, &come, &from) ==
               MPI_SUCCESS &&
           come) {
        char question;
        if (MPI_Recv(&question, 1, MPI_BYTE, from.MPI_SOURCE, QUESTION_TAG, r->questions->comm,
                     MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return;
        for (int rank = 0; rank < r->size; rank++)
            if (is_here(r, rank))
                r->report[r->place_on_node[rank]] = (signed char)presence_here(r, rank);
        MPI_Isend(r->report, r->ranks_on_node, MPI_BYTE, from.MPI_SOURCE, ANSWER_TAG,
                  r->questions->comm, &r->questions->answering);
    }
}

/* Take the answers that have come. @return how many */
static int collect(gln_roster_t *r)
{
    MPI_Status from;
    int come = 0, taken = 0;
    while (MPI_Iprobe(MPI_ANY_SOURCE, ANSWER_TAG, r->questions->comm, &come, &from) ==
               MPI_SUCCESS &&
           come) {
        int count = 0, source = from.MPI_SOURCE;
        MPI_Get_count(&from, MPI_BYTE, &count);
        signed char *states = calloc((size_t)count + 1, 1);
        if (!states || MPI_Recv(states, count, MPI_BYTE, source, ANSWER_TAG, r->questions->comm,
                                MPI_STATUS_IGNORE) != MPI_SUCCESS) {
            free(states);
            return taken;
        }
        for (int rank = 0; rank < r->size; rank++)
            if (r->node[rank] == r->node[source] && r->place_on_node[rank] < count)
                r->presence[rank] = states[r->place_on_node[rank]];
        free(states);
        taken++;
    }
    return taken;
}

int gln_roster_look(gln_roster_t *r, int64_t now_ns)
{
    answer(r);
    if (r->asked_ns) r->answers += collect(r);
    if (r->told || gln_roster_verdict(r, NULL)) return 1;
    if (now_ns < r->look_ns) return 0;
    r->look_ns = now_ns + PROCESSES_NS;
    for (int rank = 0; rank < r->size; rank++)
        if (is_here(r, rank) && presence_here(r, rank) == GLN_GONE) return 1;
    return 0;
}

/* @return 1 when a signal has come since there were `before` */
static int pause_briefly(int before)
{
    return nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL) != 0 ||
           gln_comm_guard_signals() != before;
}

int gln_roster_rest(gln_roster_t *r, int64_t limit_ns)
{
    int64_t end = gln_clock_ns() + limit_ns;
    int signals = gln_comm_guard_signals(), told = r->told;
    while (gln_clock_ns() < end) {
        if (pause_briefly(signals)) return 1;
        answer(r);
        if (r->told != told) return 1;
    }
    return 0;
}

static void send_questions(gln_roster_t *r)
{
    static const char question = '?';
    for (int rank = 0; rank < r->size; rank++) {
        MPI_Request request;
        if (!is_here(r, rank) && MPI_Isend(&question, 1, MPI_BYTE, rank, QUESTION_TAG,
                                           r->questions->comm, &request) == MPI_SUCCESS)
            MPI_Request_free(&request); /* whoever does not listen never takes it */
    }
}

void gln_roster_tell(gln_roster_t *r, const char *text, int64_t limit_ns)
{
    int64_t end = gln_clock_ns() + limit_ns;
    if (!r->questions) return;
    snprintf(r->told_text, sizeof r->told_text, "%s", text);
    MPI_Request *sent = calloc((size_t)r->size, sizeof *sent);
    if (!sent) return; /* they find out themselves */
    for (int rank = 0; rank < r->size; rank++) {
        sent[rank] = MPI_REQUEST_NULL;
        if (!is_here(r, rank))
            MPI_Isend(r->told_text, (int)sizeof r->told_text, MPI_BYTE, rank, VERDICT_TAG,
                      r->questions->comm, &sent[rank]);
    }
    for (int done = 0; !done && gln_clock_ns() < end;)
        if (MPI_Testall(r->size, sent, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) break;
    for (int rank = 0; rank < r->size; rank++)
        if (sent[rank] != MPI_REQUEST_NULL) MPI_Request_free(&sent[rank]);
    free(sent);
}

static void forget_others(gln_roster_t *r)
{
    r->answers = 0;
    for (int rank = 0; rank < r->size; rank++)
        if (!is_here(r, rank)) r->presence[rank] = GLN_SILENT;
}

void gln_roster_ask_ahead(gln_roster_t *r, int64_t now_ns)
{
    if (!r->questions) return;
    collect(r); /* what an earlier wait asked for */
    forget_others(r);
    r->asked_ns = now_ns;
    send_questions(r);
}

static int silent(const gln_roster_t *r)
{
    int count = 0;
    for (int rank = 0; rank < r->size; rank++)
        count += r->presence[rank] == GLN_SILENT;
    return count;
}

int gln_roster_ask(gln_roster_t *r, int64_t limit_ns, int64_t again_ns)
{
    int64_t now = gln_clock_ns();
    int ending = 0, signals = gln_comm_guard_signals();
    for (int rank = 0; rank < r->size; rank++)
        if (is_here(r, rank)) r->presence[rank] = (signed char)presence_here(r, rank);
    if (!r->questions) return 0;
    if (!r->asked_ns) gln_roster_ask_ahead(r, now);
    int64_t end = r->asked_ns + limit_ns, again_end = now + again_ns;
    int expected = r->answers; /* by whoever has answered before */
    if (expected > 0) send_questions(r);
    for (r->answers = 0;; ending |= pause_briefly(signals)) {
        answer(r);
        r->answers += collect(r);
        now = gln_clock_ns();
        if ((now >= end || !silent(r)) && (now >= again_end || r->answers >= expected)) break;
    }
    return ending;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* The page of this node as this rank sees it, NULL if it cannot. */
static char *page_map(const gln_roster_t *r, int lowest, int fd)
{
    char path[64];
    int file = fd;
    if (lowest != r->rank) {
        snprintf(path, sizeof path, "/proc/%" PRId64 "/fd/%d", r->cards[lowest].pid,
                 (int)r->cards[lowest].fd);
        file = open(path, O_RDWR | O_CLOEXEC);
        if (file < 0) return NULL;
    }
    void *page = mmap(NULL, r->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (lowest != r->rank) close(file);
    return page == MAP_FAILED ? NULL : page;
}

/* Number the ranks of every node. @return lowest rank of this one */
static int number_nodes(gln_roster_t *r, const int *nodes)
{
    int lowest = r->rank;
    r->nodes_count = 0;
    r->ranks_on_node = 0;
    for (int rank = 0; rank < r->size; rank++) {
        r->node[rank] = nodes ? nodes[rank] : rank;
        r->place_on_node[rank] = 0;
        if (r->node[rank] >= r->nodes_count) r->nodes_count = r->node[rank] + 1;
    }
    int *count = calloc((size_t)r->nodes_count, sizeof *count);
    if (!count) return -1;
    for (int rank = 0; rank < r->size; rank++)
        r->place_on_node[rank] = count[r->node[rank]]++;
    r->ranks_on_node = count[r->node[r->rank]];
    free(count);
    for (int rank = r->size - 1; rank >= 0; rank--)
        if (is_here(r, rank)) lowest = rank;
    return lowest;
}

static gln_roster_t *allocate(int rank, int size)
{
    gln_roster_t *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->users = 1;
    r->rank = rank;
    r->size = size;
    r->place.layer = -1;
    r->shown = gln_comm_guard_place() ? gln_comm_guard_place() : &r->place;
    r->node = calloc((size_t)size, sizeof *r->node);
    r->place_on_node = calloc((size_t)size, sizeof *r->place_on_node);
    r->cards = calloc((size_t)size, sizeof *r->cards);
    r->presence = calloc((size_t)size, 1);
    r->report = calloc((size_t)size, 1);
    if (r->node && r->place_on_node && r->cards && r->presence && r->report) return r;
    gln_roster_release(r);
    return NULL;
}

static void write_card(gln_roster_card_t *card, int fd)
{
    memset(card, 0, sizeof *card);
    gethostname(card->host, sizeof card->host - 1);
    card->pid = getpid();
    process_state(card->pid, &card->start);
    card->fd = fd;
}

/* Everything after memory: on any failure of MPI the caller releases. */
static int exchange_cards(gln_roster_t *r, MPI_Comm comm, int lowest)
{
    gln_roster_card_t mine;
    int fd = -1;
    if (lowest == r->rank) {
        fd = memfd_create("gleaner-ranks", MFD_CLOEXEC);
        if (fd >= 0 && ftruncate(fd, (off_t)r->page_bytes) != 0) {
            close(fd);
            fd = -1;
        }
    }
    write_card(&mine, fd);
    int code = MPI_Allgather(&mine, (int)sizeof mine, MPI_BYTE, r->cards, (int)sizeof mine,
                             MPI_BYTE, comm);
    if (code == MPI_SUCCESS) r->page = page_map(r, lowest, fd);
    int shared = r->page != NULL;
    if (code == MPI_SUCCESS) code = MPI_Allreduce(MPI_IN_PLACE, &shared, 1, MPI_INT, MPI_MIN, comm);
    if (fd >= 0) close(fd); /* all have it open or never will */
    if (code == MPI_SUCCESS && !shared) {
        if (r->page) munmap(r->page, r->page_bytes);
        r->page = NULL;
        number_nodes(r, NULL);
    }
    if (code != MPI_SUCCESS || r->nodes_count == 1) return code;
    struct gln_questions *questions = malloc(sizeof *questions);
    if (!questions) return MPI_ERR_NO_MEM;
    questions->answering = MPI_REQUEST_NULL;
    code = MPI_Comm_dup(comm, &questions->comm);
    if (code == MPI_SUCCESS) {
        MPI_Comm_set_errhandler(questions->comm, MPI_ERRORS_RETURN);
        r->questions = questions;
    } else {
        free(questions);
    }
    return code;
}

gln_status_t gln_roster_open(const void *mpi_comm, int rank, int size, const int *nodes,
                             gln_roster_t **out)
{
    gln_roster_t *r = allocate(rank, size);
    int lowest = r ? number_nodes(r, nodes) : -1;
    if (lowest < 0) {
        gln_roster_release(r);
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate a list of %d ranks", size);
    }
    r->page_bytes = (size_t)r->ranks_on_node * LINE_BYTES + sizeof(verdict_t);
    int code = exchange_cards(r, *(const MPI_Comm *)mpi_comm, lowest);
    if (code != MPI_SUCCESS) {
        gln_roster_release(r);
        return gln_fail(GLN_ERR_PEER, "the ranks cannot tell each other who they are: MPI error %d",
                        code);
    }
    *out = r;
    return GLN_OK;
}

void gln_roster_release(gln_roster_t *r)
{
    int finalized = 0;
    if (!r || --r->users > 0) return;
    MPI_Finalized(&finalized);
    if (!finalized && r->questions) MPI_Comm_free(&r->questions->comm);
    free(r->questions);
    if (r->page) munmap(r->page, r->page_bytes);
    free(r->report);
    free(r->presence);
    free(r->cards);
    free(r->place_on_node);
    free(r->node);
    free(r);
}
