/* One block of memory per object, laid out by running the same layout function twice: first over an
 * empty arena, which only counts, then over the committed one, which hands out addresses. What the
 * first pass counted is the exact memory plan of the object.
 *
 *     gln_arena_t arena = {0};
 *     layout(object, &arena);             // counts; every take returns NULL
 *     status = gln_arena_commit(&arena, gln_device_cpu());
 *     layout(object, &arena);             // same takes, now real addresses
 *     ...
 *     gln_arena_close(&arena);
 * What is committed is noted by kind (base/memory.h) until close. Not thread-safe. */
#ifndef GLN_BASE_ARENA_H
#define GLN_BASE_ARENA_H

#include "base/device.h"
#include "base/memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A block, and how much of it is taken. Zero begins. */
typedef struct gln_arena {
    const gln_device_t *device;           /* where it lives */
    char *base;                           /* NULL while counting */
    size_t size_bytes;                    /* committed size; 0 while counting */
    size_t used_bytes;                    /* taken so far in this pass */
    gln_memory_kind_t kind;               /* of what is taken next; may change between takes */
    size_t kinds_bytes[GLN_MEMORY_KINDS]; /* counted */
} gln_arena_t;

/** Take `bytes`, aligned to 64. NULL while counting, also for 0 bytes. Running past the committed
 *  size is a programmer's mistake (assertion). */
void *gln_arena_take(gln_arena_t *arena, size_t bytes);

/** Allocate what was counted (zeroed) and start the second pass.
 *  @return GLN_OK; GLN_ERR_MEMORY with the size in the message. */
gln_status_t gln_arena_commit(gln_arena_t *arena, const gln_device_t *device);

/** Give the block back. Takes NULL and never-committed arenas; safe to call twice. */
void gln_arena_close(gln_arena_t *arena);

#ifdef __cplusplus
}
#endif
#endif
