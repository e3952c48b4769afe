/* What programs under mpirun share. A failed check prints itself and ends the job. */
#ifndef GLN_TESTS_RANKS_COMM_CHECK_H
#define GLN_TESTS_RANKS_COMM_CHECK_H

#include "base/log.h"
#include "comm/comm.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition, ...)                                              \
    do {                                                                   \
        if (!(condition)) {                                                \
            fprintf(stderr, "%s:%d: %s:", __FILE__, __LINE__, #condition); \
            fprintf(stderr, " " __VA_ARGS__);                              \
            fprintf(stderr, " (last error: %s)\n", gln_last_error());      \
            exit(1);                                                       \
        }                                                                  \
    } while (0)

#define CHECK_OK(call) CHECK((call) == GLN_OK)

/* FNV-1a, to print one number for many bytes. */
static inline uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ byte[i]) * 0x100000001b3u;
    return hash;
}

static inline void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    CHECK(memory, "%zu bytes", bytes);
    return memory;
}

#endif
