#include "base/device.h"
#include "base/log.h"
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

Test(device, memory_is_aligned_and_zero)
{
    const gln_device_t *cpu = gln_device_cpu();
    cr_assert_str_eq(cpu->name, "cpu");
    const size_t sizes[] = {1, 63, 64, 1000, (size_t)9 << 20};
    for (int i = 0; i < 5; i++) {
        void *memory = NULL;
        cr_assert_eq(cpu->alloc(sizes[i], &memory), GLN_OK);
        cr_assert_eq((uintptr_t)memory % 64, 0);
        for (size_t b = 0; b < sizes[i]; b++)
            cr_assert_eq(((char *)memory)[b], 0);
        memset(memory, 1, sizes[i]); /* so that the next block may come back dirty */
        cpu->release(memory);
    }
    cpu->release(NULL);
}

Test(device, too_much_memory_is_an_error_that_leaves_the_output_alone)
{
    const gln_device_t *cpu = gln_device_cpu();
    int mark;
    void *memory = &mark;
    cr_assert_eq(cpu->alloc(SIZE_MAX, &memory), GLN_ERR_MEMORY);
    cr_assert_eq(memory, (void *)&mark);
    cr_assert(strstr(gln_last_error(), "18446744073709551615"));
#ifndef GLN_SANITIZED /* the sanitizers' allocator stops the process instead */
    cr_assert_eq(cpu->alloc(SIZE_MAX / 4, &memory), GLN_ERR_MEMORY);
    cr_assert_eq(memory, (void *)&mark);
#endif
}

Test(device, copies_and_zeroes_are_done_on_return)
{
    const gln_device_t *cpu = gln_device_cpu();
    char from[5] = "abcd", to[5] = "....";
    cr_assert_eq(cpu->copy(to, from, sizeof from, NULL), GLN_OK);
    cr_assert_str_eq(to, "abcd");
    cr_assert_eq(cpu->zero(to + 1, 2, NULL), GLN_OK);
    cr_assert_eq(memcmp(to, "a\0\0d", 5), 0);
    cr_assert_eq(cpu->copy(NULL, NULL, 0, NULL), GLN_OK);
    cr_assert_eq(cpu->zero(NULL, 0, NULL), GLN_OK);
    cr_assert_eq(cpu->synchronize(NULL), GLN_OK);
}
