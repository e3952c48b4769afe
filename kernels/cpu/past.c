/* Stores past the caches: 16 bytes at a time, four in a row fill a line's write buffer, so every
 * CPU level of x86 has them. */
#include "kernels/cpu/past.h"

#if defined(__SSE2__)
#include <emmintrin.h>

int gln_cpu_goes_past(const void *out, int64_t rows, size_t row_bytes)
{
    return (uintptr_t)out % 64 == 0 && row_bytes % 64 == 0 &&
           (uint64_t)rows * row_bytes >= GLN_CPU_PAST_BYTES;
}

void gln_cpu_store_past(const void *from, size_t bytes, void *to)
{
    const __m128i *restrict x = from;
    __m128i *restrict y = to;

    for (size_t i = 0; i < bytes / sizeof *x; i += 4) {
        __m128i a = _mm_loadu_si128(x + i), b = _mm_loadu_si128(x + i + 1);
        __m128i c = _mm_loadu_si128(x + i + 2), d = _mm_loadu_si128(x + i + 3);

        _mm_stream_si128(y + i, a);
        _mm_stream_si128(y + i + 1, b);
        _mm_stream_si128(y + i + 2, c);
        _mm_stream_si128(y + i + 3, d);
    }
}

void gln_cpu_past_done(void)
{
    _mm_sfence();
}
#else
#include <string.h>

int gln_cpu_goes_past(const void *out, int64_t rows, size_t row_bytes)
{
    (void)out, (void)rows, (void)row_bytes;
    return 0;
}

void gln_cpu_store_past(const void *from, size_t bytes, void *to)
{
    memcpy(to, from, bytes);
}

void gln_cpu_past_done(void)
{
}
#endif
