/* What memory allows a pass over arrays: loops that do nothing but read, write and update them, as
 * a bound for operations with as many bytes of each kind. */
#ifndef GLN_LAUNCHER_MEMORY_PASS_H
#define GLN_LAUNCHER_MEMORY_PASS_H

#include "base/pool.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gln_pass_kind {
    GLN_PASS_READ,   /* read */
    GLN_PASS_WRITE,  /* written, never read */
    GLN_PASS_UPDATE, /* read and written in place */
} gln_pass_kind_t;

typedef struct gln_pass_array {
    gln_pass_kind_t kind;
    int width;  /* bytes of it for one element of the operation: 2 to 16 */
    void *data; /* aligned to 64 */
} gln_pass_array_t;

enum { GLN_PASS_ARRAYS_MAX = 8 };

typedef struct gln_pass {
    gln_pass_array_t items[GLN_PASS_ARRAYS_MAX];
    int count;
} gln_pass_t;

/* How arrays that are only written are stored. */
typedef enum gln_pass_store {
    GLN_PASS_CACHED, /* ordinary stores: a line is read before it is written over */
    GLN_PASS_PAST,   /* past the caches, where the CPU has such stores; else ordinary ones */
} gln_pass_store_t;

/** Bytes for `elements`: reads once, writes once, updates twice. What the caches read only to write
 * over it is not counted. */
double gln_pass_bytes(const gln_pass_t *arrays, int64_t elements);

/** One pass over the first `elements` (rounded down to a multiple of 64) on the pool, all arrays
 * side by side. Updated arrays keep their content, written ones lose it. */
void gln_pass_run(gln_pool_t *pool, const gln_pass_t *arrays, int64_t elements,
                  gln_pass_store_t store);

/** memcpy of so many bytes, in pieces, on the pool. */
void gln_pass_copy(gln_pool_t *pool, const void *from, int64_t bytes, void *to);

/** a[i] = b[i] + 3 c[i], ordinary stores. */
void gln_pass_triad(gln_pool_t *pool, const float *b, const float *c, int64_t count, float *a);

#ifdef __cplusplus
}
#endif
#endif
