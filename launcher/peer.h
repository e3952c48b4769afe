/* Another program as a child process that answers requests, one line each: what benches measure
 * beside gleaner, in turn in one run. */
#ifndef GLN_LAUNCHER_PEER_H
#define GLN_LAUNCHER_PEER_H

#include "base/status.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_PEER_LINE_MAX = 4096 };

typedef struct gln_peer gln_peer_t;

/** Start a Python program with its standard input and output joined to this process. Before MPI
 * is, so that the child has the cores that this process was given.
 *  @param interpreter  a path, or a name looked up in PATH; borrowed until close
 *  @param name         of what it runs, for messages; borrowed until close
 *  @return GLN_OK, also when the interpreter turns out not to exist: the first request says so;
 *          GLN_ERR_MEMORY; GLN_ERR_IO. */
gln_status_t gln_peer_open(const char *interpreter, const char *name, const char *program,
                           gln_peer_t **out);

/** Send a request and wait for the answer, `timeout_s` at most.
 *  @param request  one line, without its end
 *  @param answer   [GLN_PEER_LINE_MAX] what follows "ok" in the answer, "" if nothing does
 *  @return GLN_OK; GLN_ERR_BACKEND: it answered "error ...", ended, or did not answer in time. */
gln_status_t gln_peer_ask(gln_peer_t *peer, const char *request, int timeout_s, char *answer);

void gln_peer_close(gln_peer_t *peer); /* ends it; takes NULL */

#ifdef __cplusplus
}
#endif
#endif
