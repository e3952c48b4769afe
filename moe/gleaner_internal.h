/* What the files of the public layer share. */
#ifndef GLN_MOE_GLEANER_INTERNAL_H
#define GLN_MOE_GLEANER_INTERNAL_H

#include "moe/gleaner.h"

/** GLN_OK for an open layer. @param function named in the message */
gln_status_t gln_moe_check(const gln_moe_t *moe, const char *function);
/** gln_comm_agree with a message on ranks that found nothing wrong themselves. COLLECTIVE. */
gln_status_t gln_moe_agree(gln_comm_t *comm, gln_status_t mine, const char *function);
/** Are the options the same on every rank? COLLECTIVE.
 *  @return GLN_OK; GLN_ERR_ARGUMENT on all ranks: which option differs, and where. */
gln_status_t gln_moe_compare_options(gln_comm_t *comm, const gln_moe_options_t *options);

/** Forward calls so far. */
int64_t gln_moe_calls(const gln_moe_t *moe);
void gln_moe_set_calls(gln_moe_t *moe, int64_t calls);

#endif
