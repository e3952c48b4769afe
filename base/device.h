/* Where memory lives and in which order work runs. The CPU device is synchronous: its stream is the
 * calling thread. Other devices are added as further constant tables. */
#ifndef GLN_BASE_DEVICE_H
#define GLN_BASE_DEVICE_H

#include "base/status.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Order of work on a device. NULL means the device's default stream (the CPU has only that one).
 */
typedef void *gln_stream_t;

/* A kind of memory, as a table of functions. */
typedef struct gln_device {
    const char *name; /* "cpu" */
    /* `bytes` of zeroed memory aligned to at least 64 bytes; *out is set on success only */
    gln_status_t (*alloc)(size_t bytes, void **out);
    void (*release)(void *memory); /* takes NULL */
    gln_status_t (*copy)(void *to, const void *from, size_t bytes,
                         gln_stream_t stream); /* within the device, in the order of the stream */
    gln_status_t (*zero)(void *memory, size_t bytes, gln_stream_t stream); /* likewise */
    gln_status_t (*synchronize)(gln_stream_t stream); /* return when all before it is done */
} gln_device_t;

/** The CPU: memory from the C library, everything done when the call returns. Thread-safe. */
const gln_device_t *gln_device_cpu(void);

#ifdef __cplusplus
}
#endif
#endif
