/* What one call read and wrote, so that the same call can be made on several backends and compared.
 * Every buffer is filled with random numbers that depend on (seed, order of asking) alone, outputs
 * and the guard behind each buffer included: what must not be written is compared like the rest. */
#ifndef GLN_TESTS_SUPPORT_RECORD_H
#define GLN_TESTS_SUPPORT_RECORD_H

#include <stdint.h>

#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_RECORD_BUFFERS_MAX 64

typedef struct gln_record_buffer {
    const char *name; /* borrowed */
    gln_dtype_t dtype;
    int is_int32;
    int64_t count;
    double scale; /* of gln_close_to; 0: must agree exactly */
    char *block;  /* what is freed */
    void *data;
} gln_record_buffer_t;

typedef struct gln_record {
    uint64_t seed;
    int round_bf16; /* every real is rounded to bf16 first: the same call in every dtype */
    int buffers_count;
    gln_record_buffer_t buffers[GLN_RECORD_BUFFERS_MAX];
} gln_record_t;

/** An empty record: {.seed = seed} does the same. */
void gln_record_open(uint64_t seed, gln_record_t *record);
void gln_record_close(gln_record_t *record);

/** An input: normal numbers of this deviation, must come out unchanged. */
void *gln_record_in(gln_record_t *record, const char *name, gln_dtype_t dtype, int64_t count,
                    double deviation);
/** An output, or an array worked on in place: filled likewise with deviation 1.
 *  @param scale see gln_close_to; 0 where the contract fixes the bits */
void *gln_record_out(gln_record_t *record, const char *name, gln_dtype_t dtype, int64_t count,
                     double scale);
/** Integers, uniform in [low, high). */
int32_t *gln_record_ints(gln_record_t *record, const char *name, int64_t count, int32_t low,
                         int32_t high);

/** Do two records of the same calls agree, within the tolerance of the dtype or in every bit?
 *  @return NULL, or what differs (valid until the next call on this thread) */
const char *gln_record_differs(const gln_record_t *got, const gln_record_t *want);
const char *gln_record_differs_in_bits(const gln_record_t *got, const gln_record_t *want);

#ifdef __cplusplus
}
#endif
#endif
