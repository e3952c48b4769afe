/* What this process holds, by kind. Whoever allocates something large notes it here, arenas by
 * themselves, so that the plan of a run and the run itself count with the same lines of code: a
 * plan opens the same objects while memory is only reserved, not taken. Thread-safe. */
#ifndef GLN_BASE_MEMORY_H
#define GLN_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What memory is for. */
typedef enum gln_memory_kind {
    GLN_MEMORY_OTHER,       /* token ids and the like */
    GLN_MEMORY_WEIGHTS,     /* master weights */
    GLN_MEMORY_COPIES,      /* of weights, in the dtype that products read */
    GLN_MEMORY_GRADIENTS,   /* of weights */
    GLN_MEMORY_MOMENTS,     /* of the optimizer */
    GLN_MEMORY_ACTIVATIONS, /* and their gradients, expert rows included */
    GLN_MEMORY_ROUTER,      /* plans and the routers' scratch */
    GLN_MEMORY_EXCHANGE,    /* lists, staging; received rows where no window is shared */
    GLN_MEMORY_WINDOW,      /* this rank's part of memory that its node shares */
    GLN_MEMORY_SCRATCH,     /* of kernels, all threads, and of sums over ranks */
    GLN_MEMORY_KINDS
} gln_memory_kind_t;

/** "weights", "copies", ... Static storage. */
const char *gln_memory_name(gln_memory_kind_t kind);

/** `bytes` more of a kind are held, or fewer where negative. */
void gln_memory_note(gln_memory_kind_t kind, int64_t bytes);
/** Bytes of a kind that are held now. */
int64_t gln_memory_held(gln_memory_kind_t kind);

/** While on, the CPU device hands out address space whose pages are taken when they are touched;
 * it reads as zeros. For plans. Blocks are released as before. */
void gln_memory_reserve(int on);
/** 1 while gln_memory_reserve is on. */
int gln_memory_reserves(void);

#ifdef __cplusplus
}
#endif
#endif
