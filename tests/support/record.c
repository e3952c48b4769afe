/* Recorded buffers. Each starts at a 64-byte boundary plus an offset of 0 to 3 elements, since
 * callers promise alignment to the element only, and ends in a guard. */
#include "tests/support/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/log.h"
#include "tests/support/close.h"
#include "tests/support/fill.h"

#define GUARD_ELEMENTS 16

static _Thread_local char message[512];

void gln_record_open(uint64_t seed, gln_record_t *record)
{
    *record = (gln_record_t){.seed = seed};
}

void gln_record_close(gln_record_t *record)
{
    for (int i = 0; i < record->buffers_count; ++i)
        free(record->buffers[i].block);
    record->buffers_count = 0;
}

static gln_record_buffer_t *add_buffer(gln_record_t *record, const char *name, size_t element_bytes,
                                       int64_t count)
{
    gln_record_buffer_t *buffer = &record->buffers[record->buffers_count];
    size_t offset = (size_t)(record->buffers_count % 4) * element_bytes;
    size_t bytes = offset + (size_t)(count + GUARD_ELEMENTS) * element_bytes;

    GLN_ASSERT(record->buffers_count < GLN_RECORD_BUFFERS_MAX);
    *buffer = (gln_record_buffer_t){.name = name, .count = count};
    buffer->block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    GLN_ASSERT(buffer->block != NULL);
    buffer->data = buffer->block + offset;
    ++record->buffers_count;
    return buffer;
}

static void fill_rounded(gln_dtype_t dtype, uint64_t seed, uint64_t stream, double deviation,
                         int64_t count, void *out)
{
    gln_bf16_t *numbers = malloc((size_t)count * sizeof *numbers);

    GLN_ASSERT(numbers != NULL);
    gln_fill_normal(GLN_BF16, seed, stream, 0, deviation, count, numbers);
    for (int64_t i = 0; i < count; ++i)
        gln_store(out, i, dtype, gln_load(numbers, i, GLN_BF16));
    free(numbers);
}

static void *add_reals(gln_record_t *record, const char *name, gln_dtype_t dtype, int64_t count,
                       double deviation, double scale)
{
    gln_record_buffer_t *buffer = add_buffer(record, name, gln_dtype_bytes(dtype), count);

    buffer->dtype = dtype;
    buffer->scale = scale;
    if (record->round_bf16)
        fill_rounded(dtype, record->seed, (uint64_t)record->buffers_count, deviation,
                     count + GUARD_ELEMENTS, buffer->data);
    else
        gln_fill_normal(dtype, record->seed, (uint64_t)record->buffers_count, 0, deviation,
                        count + GUARD_ELEMENTS, buffer->data);
    return buffer->data;
}

void *gln_record_in(gln_record_t *record, const char *name, gln_dtype_t dtype, int64_t count,
                    double deviation)
{
    return add_reals(record, name, dtype, count, deviation, 0);
}

void *gln_record_out(gln_record_t *record, const char *name, gln_dtype_t dtype, int64_t count,
                     double scale)
{
    return add_reals(record, name, dtype, count, 1, scale);
}

int32_t *gln_record_ints(gln_record_t *record, const char *name, int64_t count, int32_t low,
                         int32_t high)
{
    gln_record_buffer_t *buffer = add_buffer(record, name, sizeof(int32_t), count);

    buffer->is_int32 = 1;
    gln_fill_int32(record->seed, (uint64_t)record->buffers_count, low, high, count + GUARD_ELEMENTS,
                   buffer->data);
    return buffer->data;
}

/* With signed_zeros 0, -0 and 0 are the same. */
static const char *differs_in_bits(const gln_record_buffer_t *got, const gln_record_buffer_t *want,
                                   int64_t first, int64_t count, int signed_zeros)
{
    size_t bytes = got->is_int32 ? sizeof(int32_t) : gln_dtype_bytes(got->dtype);
    const char *a = (const char *)got->data + (size_t)first * bytes;
    const char *b = (const char *)want->data + (size_t)first * bytes;

    for (int64_t i = 0; i < count; ++i) {
        if (memcmp(a + (size_t)i * bytes, b + (size_t)i * bytes, bytes) == 0) continue;
        if (!signed_zeros && !got->is_int32 && gln_load(got->data, first + i, got->dtype) == 0 &&
            gln_load(want->data, first + i, want->dtype) == 0)
            continue;
        if (got->is_int32)
            snprintf(message, sizeof message, "%s[%lld of %lld]: integer differs", got->name,
                     (long long)(first + i), (long long)got->count);
        else
            snprintf(message, sizeof message, "%s[%lld of %lld]: %.17g is not bit for bit %.17g%s",
                     got->name, (long long)(first + i), (long long)got->count,
                     gln_load(got->data, first + i, got->dtype),
                     gln_load(want->data, first + i, got->dtype),
                     first + i >= got->count ? " (guard overwritten)" : "");
        return message;
    }
    return NULL;
}

const char *gln_record_differs_in_bits(const gln_record_t *got, const gln_record_t *want)
{
    const char *difference = NULL;

    GLN_ASSERT(got->buffers_count == want->buffers_count);
    for (int i = 0; i < got->buffers_count && difference == NULL; ++i)
        difference = differs_in_bits(&got->buffers[i], &want->buffers[i], 0,
                                     got->buffers[i].count + GUARD_ELEMENTS, 1);
    return difference;
}

const char *gln_record_differs(const gln_record_t *got, const gln_record_t *want)
{
    GLN_ASSERT(got->buffers_count == want->buffers_count);
    for (int i = 0; i < got->buffers_count; ++i) {
        const gln_record_buffer_t *g = &got->buffers[i], *w = &want->buffers[i];
        int exact = g->is_int32 || g->scale == 0;
        const char *difference;

        GLN_ASSERT(g->count == w->count && g->dtype == w->dtype);
        difference = differs_in_bits(g, w, exact ? 0 : g->count,
                                     exact ? g->count + GUARD_ELEMENTS : GUARD_ELEMENTS, 0);
        if (difference != NULL) return difference;
        if (exact || gln_close_to(g->dtype, g->data, w->data, g->count, g->scale)) continue;
        snprintf(message, sizeof message, "%s, %lld elements: %s", g->name, (long long)g->count,
                 gln_close_message());
        return message;
    }
    return NULL;
}
