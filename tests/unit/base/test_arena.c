#include "base/arena.h"
#include "base/log.h"
#include <criterion/criterion.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const size_t sizes[] = {1, 64, 0, 65, 4096, 3};
enum { SIZES_COUNT = 6 };

static void layout(gln_arena_t *arena, void *out[SIZES_COUNT])
{
    for (int i = 0; i < SIZES_COUNT; i++)
        out[i] = gln_arena_take(arena, sizes[i]);
}

Test(arena, what_is_counted_is_what_is_taken)
{
    gln_arena_t arena = {0};
    void *at[SIZES_COUNT];
    layout(&arena, at);
    for (int i = 0; i < SIZES_COUNT; i++)
        cr_assert_null(at[i]);
    size_t counted = arena.used_bytes;
    cr_assert_eq(counted, 64 + 64 + 128 + 4096 + 64);
    cr_assert_eq(gln_arena_commit(&arena, gln_device_cpu()), GLN_OK);
    cr_assert_eq(arena.size_bytes, counted);
    cr_assert_eq(arena.used_bytes, 0);
    layout(&arena, at);
    cr_assert_eq(arena.used_bytes, counted);
    char *end = arena.base;
    for (int i = 0; i < SIZES_COUNT; i++) {
        if (sizes[i] == 0) {
            cr_assert_null(at[i]);
            continue;
        }
        cr_assert_eq((uintptr_t)at[i] % 64, 0);
        cr_assert((char *)at[i] >= end, "blocks overlap");
        for (size_t b = 0; b < sizes[i]; b++)
            cr_assert_eq(((char *)at[i])[b], 0);
        memset(at[i], 0xff, sizes[i]);
        end = (char *)at[i] + sizes[i];
    }
    cr_assert(end <= arena.base + arena.size_bytes);
    gln_arena_close(&arena);
}

Test(arena, taking_more_than_was_counted_is_an_assertion, .signal = SIGABRT)
{
    gln_arena_t arena = {0};
    gln_arena_take(&arena, 64);
    if (gln_arena_commit(&arena, gln_device_cpu()) != GLN_OK) return;
    gln_arena_take(&arena, 64);
    gln_arena_take(&arena, 1);
}

Test(arena, an_empty_arena_can_be_committed)
{
    gln_arena_t arena = {0};
    cr_assert_eq(gln_arena_commit(&arena, gln_device_cpu()), GLN_OK);
    cr_assert_null(gln_arena_take(&arena, 0));
    gln_arena_close(&arena);
}

Test(arena, a_commit_without_memory_names_the_size)
{
    gln_arena_t arena = {0};
    gln_arena_take(&arena, SIZE_MAX - (1 << 20)); /* beyond what malloc is asked for */
    char size[32];
    snprintf(size, sizeof size, "%zu", arena.used_bytes);
    cr_assert_eq(gln_arena_commit(&arena, gln_device_cpu()), GLN_ERR_MEMORY);
    cr_assert(strstr(gln_last_error(), size), "%s", gln_last_error());
    cr_assert_null(arena.base);
    gln_arena_close(&arena);
}

Test(arena, close_takes_everything_twice)
{
    gln_arena_close(NULL);
    gln_arena_t never = {0};
    gln_arena_close(&never);
    gln_arena_t arena = {0};
    gln_arena_take(&arena, 10);
    cr_assert_eq(gln_arena_commit(&arena, gln_device_cpu()), GLN_OK);
    gln_arena_close(&arena);
    gln_arena_close(&arena);
    cr_assert_null(arena.base);
}
