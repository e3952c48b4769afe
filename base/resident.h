/* Memory of this process that is resident, from Linux' /proc. */
#ifndef GLN_BASE_RESIDENT_H
#define GLN_BASE_RESIDENT_H

#include "base/status.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_resident {
    int64_t peak_bytes;   /* largest own memory so far, see below */
    int64_t own_bytes;    /* now: private pages, libraries, this process's part of shared ones */
    int64_t shared_bytes; /* of own_bytes: its part of shared memory (pages over their users) */
    int64_t mapped_bytes; /* not in own_bytes: files mapped to be read (training text), which the
                             system takes back at will */
    int64_t high_bytes;   /* VmHWM: the above and pages of shared memory counted in full */
} gln_resident_t;

/** Read all. peak_bytes is VmHWM less what is counted there beyond own memory now: exact where
 * shared memory and mapped files are as large as they were at the peak, and never too small where
 * they only grew.
 *  @return GLN_OK; GLN_ERR_IO: no /proc/self/smaps or /proc/self/status. */
gln_status_t gln_resident_read(gln_resident_t *out);
/** Let VmHWM begin anew from what is resident now. Where that is not allowed it stays. */
void gln_resident_reset_peak(void);

#ifdef __cplusplus
}
#endif
#endif
