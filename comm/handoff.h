/* What two cores of a node allow: memory that two ranks share, and a counter that goes to and fro
 * between them. Not part of an exchange; `gleaner bench exchange` measures its floor with it. */
#ifndef GLN_COMM_HANDOFF_H
#define GLN_COMM_HANDOFF_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_handoff gln_handoff_t;

/** Memory of `bytes` per rank, which its partner maps. Partners are ranks 2i and 2i + 1 if they
 * share a node. COLLECTIVE. @return GLN_OK; GLN_ERR_MEMORY or GLN_ERR_PEER, agreed */
gln_status_t gln_handoff_open(gln_comm_t *comm, size_t bytes, gln_handoff_t **out);
/** COLLECTIVE; takes NULL. */
void gln_handoff_close(gln_handoff_t *h);

/** Has this rank a partner? Without one the calls below do nothing, and memory is NULL. */
int gln_handoff_has_partner(const gln_handoff_t *h);
char *gln_handoff_own(gln_handoff_t *h);     /* [bytes] */
char *gln_handoff_partner(gln_handoff_t *h); /* [bytes] the partner's */

/** Pass a cache line to the partner and get it back, `turns` times: 2 * turns handoffs, one after
 * the other. Both partners call it. @return GLN_OK; GLN_ERR_PEER */
gln_status_t gln_handoff_bounce(gln_handoff_t *h, int64_t turns);

#ifdef __cplusplus
}
#endif
#endif
