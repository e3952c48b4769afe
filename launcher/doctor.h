/* What `gleaner doctor` finds: one line each, with what to do about it. */
#ifndef GLN_LAUNCHER_DOCTOR_H
#define GLN_LAUNCHER_DOCTOR_H

#include "launcher/session.h"
#include <jansson.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gln_finding_level {
    GLN_FINDING_OK,
    GLN_FINDING_WARNING, /* it works, not as well as it could */
    GLN_FINDING_ERROR    /* a training will fail */
} gln_finding_level_t;

typedef struct gln_finding {
    char check[16]; /* "cores" */
    char host[64];  /* "": of all */
    int level;      /* gln_finding_level_t */
    char found[320];
    char advice[320]; /* "" where all is well */
} gln_finding_t;

typedef struct gln_findings {
    gln_finding_t *items;
    int count;
} gln_findings_t;

/** Append. `advice` "" or NULL: none. Without memory it is dropped. */
void gln_findings_add(gln_findings_t *findings, const char *check, const char *host,
                      gln_finding_level_t level, const char *advice, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
void gln_findings_append(gln_findings_t *findings, const gln_finding_t *finding);
void gln_findings_close(gln_findings_t *findings); /* takes one that is zeroed */
int gln_findings_count(const gln_findings_t *findings, gln_finding_level_t level);

/** This machine and this process on it: build, cores, memory, limits. LOCAL. */
void gln_doctor_machine(const char *host, gln_findings_t *out);
/** Its GPUs, network cards, CUDA, NCCL. LOCAL. */
void gln_doctor_devices(const char *host, gln_findings_t *out);
/** The job: hello, versions, clocks, binding, links between hosts. COLLECTIVE.
 *  @param out  of rank 0: all findings; the others': nothing is added */
gln_status_t gln_doctor_job(gln_session_t *session, const char *host, gln_findings_t *out);
/** Bring the findings of all ranks to rank 0, in order of rank. COLLECTIVE. */
gln_status_t gln_doctor_gather(gln_session_t *session, gln_findings_t *findings);

enum { GLN_DOCTOR_HOSTS_MAX = 4096 };
/** Whether host `at` of `count` (at least 3, at most GLN_DOCTOR_HOSTS_MAX) takes more than 2.5
 * times as long as the median, and 2 ms longer. @param seconds [count] of its fastest exchange */
bool gln_doctor_is_slow(const double *seconds, int count, int at);
/** Whom host `at` of `count` meets in a round of a round-robin tournament; -1: nobody. Rounds are 0
 * to count - 2, count - 1 where count is odd; every two meet once. */
int gln_doctor_partner(int count, int round, int at);

/** As text, hosts with the same finding on one line, or as JSON, an object a finding and one at the
 * end (docs/json.md). */
gln_status_t gln_findings_print(const gln_findings_t *findings, bool json);
/** The reverse of the JSON form. @return false: these lines are not all of it (no end). */
bool gln_findings_parse(const char *lines, gln_findings_t *out);

#ifdef __cplusplus
}
#endif
#endif
