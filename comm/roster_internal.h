/* Who is in the job, and what each of them does at this moment: for finding the ranks that do not
 * arrive. One roster per job, shared by the communicators split from each other. */
#ifndef GLN_COMM_ROSTER_INTERNAL_H
#define GLN_COMM_ROSTER_INTERNAL_H

#include "comm/comm_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_ROSTER_HOST_MAX = 48, GLN_ROSTER_VERDICT_MAX = 900 };

/* What a rank is found to be doing. Later ones are better reasons not to arrive. */
typedef enum gln_presence {
    GLN_WAITS,   /* in a collective */
    GLN_RUNS,    /* elsewhere in the program */
    GLN_SILENT,  /* on another node, and no word came */
    GLN_STOPPED, /* its process is: by a signal or a debugger */
    GLN_GONE,    /* its process is no more */
    GLN_PRESENCES
} gln_presence_t;

typedef struct gln_roster_card {
    char host[GLN_ROSTER_HOST_MAX];
    int64_t pid;
    uint64_t start; /* clock tick at which the process began: numbers of processes are used again */
    int32_t fd;     /* of the node's page, at the lowest rank of the node */
} gln_roster_card_t;

struct gln_roster {
    int users; /* communicators */
    int rank, size;
    int nodes_count;
    int *node;                /* [P]; every rank has its own where memory cannot be shared */
    int *place_on_node;       /* [P] among the ranks of its node */
    int ranks_on_node;        /* here */
    gln_roster_card_t *cards; /* [P] */
    signed char *presence;    /* [P] gln_presence_t, as found last */
    signed char *report;      /* [ranks_on_node] as sent to a rank that asks */
    char *page;               /* of this node: 64 bytes a rank, the first is 1 while it waits;
                                 behind them the verdict */
    size_t page_bytes;
    struct gln_questions *questions; /* to other nodes; NULL with one node */
    int64_t look_ns;                 /* when processes are looked at again */
    int64_t asked_ns;                /* when other nodes were asked in this wait; 0: not yet */
    int answers;                     /* that came since */
    int told;                        /* another node has told its verdict */
    char told_text[GLN_ROSTER_VERDICT_MAX];
    gln_comm_place_t place, *shown; /* `shown` is the guard's, else `place` */
};

/** COLLECTIVE. @param mpi_comm address of an MPI_Comm; @param nodes [P] node of every rank */
gln_status_t gln_roster_open(const void *mpi_comm, int rank, int size, const int *nodes,
                             gln_roster_t **out);
/** One user less; the last one closes it. Takes NULL. */
void gln_roster_release(gln_roster_t *roster);

void gln_roster_set_waiting(gln_roster_t *roster, int waiting);
/** To be called now and then while waiting: answers who asks. @return 1 when a process of this node
 * is gone, or there is a verdict. */
int gln_roster_look(gln_roster_t *roster, int64_t now_ns);
/** Ask other nodes ahead of the end of a wait, so that answers are there when it comes: then a look
 * collects them. LOCAL. */
void gln_roster_ask_ahead(gln_roster_t *roster, int64_t now_ns);
/** Fill roster->presence: this node's from its page and the kernel, others' by asking them. Waits
 * until `limit_ns` after the first question; those that answered an earlier question are asked
 * again and given `again_ns`. LOCAL: whoever waits, answers.
 *  @return 1 when a signal came meanwhile: as a rule, the job is being ended */
int gln_roster_ask(gln_roster_t *roster, int64_t limit_ns, int64_t again_ns);
/** Tell other nodes the verdict: whoever waits there takes it over. Returns when it is on its way,
 * or after `limit_ns`. LOCAL */
void gln_roster_tell(gln_roster_t *roster, const char *text, int64_t limit_ns);
/** Do nothing but answer, until the time is over (0) or a signal comes or another node tells its
 * verdict (1). */
int gln_roster_rest(gln_roster_t *roster, int64_t limit_ns);

/** The verdict on this node: the first rank that finds out who is missing writes it, and all others
 * take it over, so that those that end the job are never found missing themselves.
 *  @param text  [GLN_ROSTER_VERDICT_MAX] offered; receives the verdict where there is one already;
 *               NULL: only look
 *  @return 1: there is one, by another rank */
int gln_roster_verdict(gln_roster_t *roster, char *text);

int64_t gln_clock_ns(void);

#ifdef __cplusplus
}
#endif
#endif
