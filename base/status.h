/* Status codes: what every fallible gleaner function returns.
 * The function that detects an error reports it once through base/log.h; callers pass the code on.
 */
#ifndef GLN_BASE_STATUS_H
#define GLN_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* What became of a call. The numbers are stored and returned by programs: append only. */
typedef enum gln_status {
    GLN_OK = 0, /* done */
    GLN_ERR_ARGUMENT =
        1,              /* the caller broke the contract: NULL, wrong shape, wrong order of calls */
    GLN_ERR_CONFIG = 2, /* a configuration key, type or range is wrong */
    GLN_ERR_DATA = 3,   /* an input file is missing, empty, too short or out of vocabulary */
    GLN_ERR_IO = 4,     /* the operating system refused to read or write */
    GLN_ERR_CHECKPOINT = 5, /* a checkpoint is damaged or belongs to another model */
    GLN_ERR_MEMORY = 6,     /* memory could not be had */
    GLN_ERR_CAPACITY = 7,   /* rows would not fit the buffers sized at open; nothing was sent */
    GLN_ERR_LEDGER = 8,     /* the waste ledger does not add up */
    GLN_ERR_NUMERIC = 9,    /* NaN or infinity where a finite number is required */
    GLN_ERR_PEER = 10,      /* a rank is gone or did not answer in time */
    GLN_ERR_BACKEND = 11,   /* oneDNN, MPI, hwloc or a device runtime refused */
    GLN_STATUS_COUNT        /* number of the above */
} gln_status_t;

/** Name of a status, for messages: "ok", "bad argument", ... Static storage; never NULL. */
const char *gln_status_name(gln_status_t status);

#ifdef __cplusplus
}
#endif
#endif
