/* The CPU as a device: aligned memory of the C library, every operation done on return. Blocks of
 * several megabytes are aligned to huge pages and ask for them, which saves most of the TLB misses
 * of gathers over large buffers. Zeroing touches every page here, so memory lands on the NUMA node
 * of the thread that allocates. */
#include "base/device.h"

#include "base/log.h"
#include "base/memory.h"
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LINE_BYTES ((size_t)64)
#define HUGE_BYTES ((size_t)2 << 20)

static gln_status_t cpu_alloc(size_t bytes, void **out)
{
    size_t align = bytes >= 2 * HUGE_BYTES ? HUGE_BYTES : LINE_BYTES;
    if (bytes > SIZE_MAX - align)
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate %zu bytes: larger than the address space",
                        bytes);
    size_t size = (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
    if (size == 0) size = LINE_BYTES;
    void *memory = NULL;
    int error = posix_memalign(&memory, align, size);
    if (error)
        return gln_fail(GLN_ERR_MEMORY, "cannot allocate %zu bytes: %s", bytes, strerror(error));
    if (align ==
        HUGE_BYTES) /* a hint; may be refused. Whole pages, so that size is what it takes */
        (void)madvise(memory, size / HUGE_BYTES * HUGE_BYTES, MADV_HUGEPAGE);
    memset(memory, 0, size);
    *out = memory;
    return GLN_OK;
}

static void cpu_release(void *memory)
{
    free(memory);
}

static gln_status_t cpu_copy(void *to, const void *from, size_t bytes, gln_stream_t stream)
{
    (void)stream;
    if (bytes) memcpy(to, from, bytes);
    return GLN_OK;
}

static gln_status_t cpu_zero(void *memory, size_t bytes, gln_stream_t stream)
{
    (void)stream;
    if (bytes) memset(memory, 0, bytes);
    return GLN_OK;
}

static gln_status_t cpu_synchronize(gln_stream_t stream)
{
    (void)stream;
    return GLN_OK;
}

/* Address space; its length stands in the page before it. */
static gln_status_t reserve_alloc(size_t bytes, void **out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > SIZE_MAX - page)
        return gln_fail(GLN_ERR_MEMORY, "cannot reserve %zu bytes: larger than the address space",
                        bytes);
    char *memory = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return gln_fail(GLN_ERR_MEMORY, "cannot reserve %zu bytes of address space: %s", bytes,
                        strerror(errno));
    *(size_t *)(void *)memory = bytes + page;
    *out = memory + page;
    return GLN_OK;
}

static void reserve_release(void *memory)
{
    if (!memory) return;
    char *start = (char *)memory - sysconf(_SC_PAGESIZE);
    munmap(start, *(size_t *)(void *)start);
}

static const gln_device_t cpu = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .synchronize = cpu_synchronize,
};

static const gln_device_t cpu_reserve = {
    .name = "cpu",
    .alloc = reserve_alloc,
    .release = reserve_release,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .synchronize = cpu_synchronize,
};

const gln_device_t *gln_device_cpu(void)
{
    return gln_memory_reserves() ? &cpu_reserve : &cpu;
}
