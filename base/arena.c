/* Bump allocation in two passes. Every take is rounded up to 64 bytes, so counting and handing out
 * see the same offsets; O(1) per take. */
#include "base/arena.h"

#include "base/log.h"
#include <stdint.h>

enum { ALIGN_BYTES = 64 };

void *gln_arena_take(gln_arena_t *arena, size_t bytes)
{
    if (bytes == 0) return NULL;
    GLN_ASSERT(bytes <= SIZE_MAX - ALIGN_BYTES);
    size_t size = (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    GLN_ASSERT(size <= SIZE_MAX - arena->used_bytes);
    size_t offset = arena->used_bytes;
    GLN_ASSERT(!arena->base || offset + size <= arena->size_bytes);
    arena->used_bytes = offset + size;
    if (!arena->base) arena->kinds_bytes[arena->kind] += size;
    return arena->base ? arena->base + offset : NULL;
}

gln_status_t gln_arena_commit(gln_arena_t *arena, const gln_device_t *device)
{
    GLN_ASSERT(!arena->base); /* committing twice would lose the block */
    void *memory = NULL;
    gln_status_t status = device->alloc(arena->used_bytes, &memory);
    if (status != GLN_OK) return status;
    arena->device = device;
    arena->base = memory;
    arena->size_bytes = arena->used_bytes;
    arena->used_bytes = 0;
    for (int i = 0; i < GLN_MEMORY_KINDS; i++)
        gln_memory_note((gln_memory_kind_t)i, (int64_t)arena->kinds_bytes[i]);
    return GLN_OK;
}

void gln_arena_close(gln_arena_t *arena)
{
    if (!arena) return;
    for (int i = 0; arena->base && i < GLN_MEMORY_KINDS; i++)
        gln_memory_note((gln_memory_kind_t)i, -(int64_t)arena->kinds_bytes[i]);
    if (arena->base) arena->device->release(arena->base);
    *arena = (gln_arena_t){0};
}
