/* Large results past the caches, and operands ahead of their use. An ordinary store to a line that
 * is in no cache reads it first; a store past the caches does not, which saves a third to a half of
 * the traffic of an operation whose result is larger than the caches, and nobody finds it there
 * later anyway. Neither changes a bit of a result. Included by kernels/cpu alone. */
#ifndef GLN_KERNELS_CPU_PAST_H
#define GLN_KERNELS_CPU_PAST_H

#include "kernels/cpu/cpu_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_CPU_PAST_BYTES (32 << 20) /* results from this size on go past the caches */
#define GLN_CPU_PIECE 128             /* elements between two looks ahead */
#define GLN_CPU_AHEAD 512             /* elements: how far */

/** Whether a result of `rows` dense rows is large enough, made of whole cache lines, and the CPU
 * has such stores. */
int gln_cpu_goes_past(const void *out, int64_t rows, size_t row_bytes);

/** memcpy past the caches; `to` aligned to 64, `bytes` a multiple of 64. The task calls
 * gln_cpu_past_done before it ends. */
void gln_cpu_store_past(const void *from, size_t bytes, void *to);
void gln_cpu_past_done(void);

/* Ask for `bytes` from x on, which need not be there, into the second-level cache: into the first,
 * they would take its few buffers for lines under way from the loads at hand. */
GLN_INLINE void gln_cpu_look_ahead(const void *x, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)x + at, 0, 2);
}

#ifdef __cplusplus
}
#endif
#endif
