/* One counter per kind. */
#include "base/memory.h"

#include "base/log.h"
#include <stdatomic.h>

static _Atomic int64_t held[GLN_MEMORY_KINDS];
static atomic_int reserve;

const char *gln_memory_name(gln_memory_kind_t kind)
{
    static const char *const names[GLN_MEMORY_KINDS] = {
        "other",       "weights", "copies",   "gradients", "moments",
        "activations", "router",  "exchange", "window",    "scratch"};
    return names[kind];
}

void gln_memory_note(gln_memory_kind_t kind, int64_t bytes)
{
    GLN_ASSERT(kind >= 0 && kind < GLN_MEMORY_KINDS);
    atomic_fetch_add(&held[kind], bytes);
}

int64_t gln_memory_held(gln_memory_kind_t kind)
{
    return atomic_load(&held[kind]);
}

void gln_memory_reserve(int on)
{
    atomic_store(&reserve, on);
}

int gln_memory_reserves(void)
{
    return atomic_load(&reserve);
}
