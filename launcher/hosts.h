/* A hosts file, as mpirun reads it, and which of its hosts answer. */
#ifndef GLN_LAUNCHER_HOSTS_H
#define GLN_LAUNCHER_HOSTS_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_host {
    char name[256];
    int slots;    /* ranks that fit */
    bool here;    /* this machine, by its name or an address of its own */
    bool answers; /* true until gln_hosts_probe finds otherwise */
} gln_host_t;

typedef struct gln_hosts {
    gln_host_t *items;
    int count;
    bool as_written; /* the file says the same: every host once, with its slots */
} gln_hosts_t;

/** Read lines "NAME [slots=N] [max_slots=N]"; # begins a comment. A host without slots takes one
 * rank for each time that it is named.
 *  @param slots_each  ranks on each host, whatever the file says; 0: as the file says
 *  @param out  owned by the caller until close; set on success only
 *  @return GLN_OK; GLN_ERR_CONFIG (file, line, what was expected); GLN_ERR_MEMORY. */
gln_status_t gln_hosts_read(const char *path, int slots_each, gln_hosts_t *out);
void gln_hosts_close(gln_hosts_t *hosts); /* takes one that is zeroed */

/** Slots of the hosts that answer. */
int gln_hosts_slots(const gln_hosts_t *hosts);

/** Ask every host but this one to run `true`, all at the same time, by the agent that mpirun would
 * use (OMPI_MCA_plm_rsh_agent, PRTE_MCA_plm_ssh_agent; else ssh without questions). A host that
 * does not do it within `timeout_ms` does not answer; one that came back does.
 *  @return how many do not answer. */
int gln_hosts_probe(gln_hosts_t *hosts, int timeout_ms);

/** Names of those that do not answer: "a, b". Cut to size. */
void gln_hosts_missing(const gln_hosts_t *hosts, char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
