#include "base/arena.h"
#include "base/memory.h"
#include "base/resident.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MB ((int64_t)1 << 20)

static void layout(gln_arena_t *arena)
{
    arena->kind = GLN_MEMORY_WEIGHTS;
    gln_arena_take(arena, 100);
    arena->kind = GLN_MEMORY_MOMENTS;
    gln_arena_take(arena, 64);
    gln_arena_take(arena, 64);
}

Test(memory, every_kind_has_a_name_of_its_own)
{
    for (int i = 0; i < GLN_MEMORY_KINDS; i++)
        for (int j = 0; j < i; j++)
            cr_expect_str_neq(gln_memory_name((gln_memory_kind_t)i),
                              gln_memory_name((gln_memory_kind_t)j));
}

Test(memory, an_arena_is_noted_by_kind_while_it_is_committed)
{
    gln_arena_t arena = {0};
    layout(&arena);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_WEIGHTS), 0);
    cr_assert_eq(gln_arena_commit(&arena, gln_device_cpu()), GLN_OK);
    layout(&arena);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_WEIGHTS), 128);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_MOMENTS), 128);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_OTHER), 0);
    gln_arena_close(&arena);
    gln_arena_close(&arena);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_WEIGHTS), 0);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_MOMENTS), 0);
}

static gln_resident_t look(void)
{
    gln_resident_t now;
    cr_assert_eq(gln_resident_read(&now), GLN_OK);
    return now;
}

Test(memory, reserved_memory_is_zero_and_takes_nothing)
{
    gln_arena_t arena = {0}, real = {0};
    const size_t large = (size_t)1 << 38;
    gln_resident_t before = look();
    gln_memory_reserve(1);
    gln_arena_take(&arena, large);
    cr_assert_eq(gln_arena_commit(&arena, gln_device_cpu()), GLN_OK);
    gln_memory_reserve(0);
    char *at = gln_arena_take(&arena, large);
    cr_assert_not_null(at);
    cr_expect_eq(at[0], 0);
    at[large - 1] = 1;
    cr_expect_eq(at[large - 1], 1);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_OTHER), (int64_t)large);
    cr_expect_lt(look().own_bytes, before.own_bytes + 4 * MB);
    gln_arena_take(&real,
                   64); /* afterwards memory is real again, and each is released as its own */
    cr_assert_eq(gln_arena_commit(&real, gln_device_cpu()), GLN_OK);
    gln_arena_close(&arena);
    gln_arena_close(&real);
    cr_expect_eq(gln_memory_held(GLN_MEMORY_OTHER), 0);
}

Test(resident, own_memory_and_its_peak)
{
    gln_resident_t before = look();
    char *block =
        mmap(NULL, (size_t)(64 * MB), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq((void *)block, MAP_FAILED);
    gln_resident_t untouched = look();
    memset(block, 1, (size_t)(64 * MB));
    gln_resident_t full = look();
    munmap(block, (size_t)(64 * MB));
    gln_resident_t after = look();
    cr_expect_lt(untouched.own_bytes, before.own_bytes + 8 * MB);
    cr_expect_geq(full.own_bytes, before.own_bytes + 60 * MB);
    cr_expect_lt(after.own_bytes, full.own_bytes - 60 * MB);
    cr_expect_geq(after.peak_bytes, full.own_bytes - MB);
    gln_resident_reset_peak();
    gln_resident_t reset = look();
    if (reset.high_bytes < after.high_bytes) /* allowed here */
        cr_expect_lt(reset.peak_bytes, full.own_bytes - 50 * MB);
}

Test(resident, a_file_mapped_to_be_read_is_not_own_memory)
{
    FILE *file = tmpfile();
    static char page[1 << 20];
    memset(page, 'x', sizeof page);
    for (int i = 0; i < 32; i++)
        cr_assert_eq(fwrite(page, 1, sizeof page, file), sizeof page);
    fflush(file);
    gln_resident_t before = look();
    const volatile char *map =
        mmap(NULL, (size_t)(32 * MB), PROT_READ, MAP_SHARED, fileno(file), 0);
    int sum = 0;
    for (int64_t i = 0; i < 32 * MB; i += 4096)
        sum += map[i];
    gln_resident_t mapped = look();
    cr_expect_eq(sum, 32 * 256 * 'x');
    cr_expect_geq(mapped.mapped_bytes, before.mapped_bytes + 32 * MB);
    cr_expect_lt(mapped.own_bytes, before.own_bytes + 4 * MB);
    cr_expect_lt(mapped.peak_bytes, before.peak_bytes + 4 * MB);
    munmap((void *)(uintptr_t)map, (size_t)(32 * MB));
    fclose(file);
}

/* Shared by two processes, each has half. */
Test(resident, shared_memory_counts_once)
{
    gln_resident_t before = look();
    char *map =
        mmap(NULL, (size_t)(32 * MB), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int go[2], done[2];
    char byte = 0;
    cr_assert(pipe(go) == 0 && pipe(done) == 0);
    memset(map, 1, (size_t)(32 * MB));
    gln_resident_t alone = look();
    pid_t child = fork();
    if (child == 0) {
        int sum = 0;
        for (int64_t i = 0; i < 32 * MB; i += 4096)
            sum += map[i];
        byte = (char)(sum != 0);
        if (write(done[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) _exit(1);
        _exit(0);
    }
    cr_assert_eq(read(done[0], &byte, 1), 1);
    gln_resident_t both = look();
    cr_assert_eq(write(go[1], &byte, 1), 1);
    cr_expect_geq(alone.shared_bytes, before.shared_bytes + 31 * MB);
    cr_expect_lt(both.shared_bytes, before.shared_bytes + 17 * MB);
    cr_expect_geq(both.shared_bytes, before.shared_bytes + 15 * MB);
    munmap(map, (size_t)(32 * MB));
}
