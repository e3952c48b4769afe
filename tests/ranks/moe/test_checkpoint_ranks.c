/* RANKS: 1 2 4
 * A checkpoint does not know how many ranks wrote it: same bytes and same digest from any number,
 * loads on any other. Errors that one rank meets are everybody's, at once. */
#include "base/log.h"
#include "tests/support/folder.h"
#include "tests/unit/moe/checkpoint_world.h"
#include <signal.h>
#include <sys/resource.h>

#define DIGEST "aba669933bd047c6ed27ba925be9a0a6" /* of world_fill(1), on any layout */

static gln_comm_t *job;
static char folder[GLN_TEST_PATH_MAX];

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "rank %d: %s:%d: %s: %s\n", gln_comm_rank(job), __FILE__, __LINE__, \
                    #condition, gln_last_error());                                              \
            gln_comm_abort(job, 1);                                                             \
        }                                                                                       \
    } while (0)

/* Ranks [0, ranks) of the job as a world of their own; NULL on the others. */
static gln_comm_t *open_ranks(int ranks)
{
    gln_comm_t *comm = NULL;
    int inside = gln_comm_rank(job) < ranks;
    CHECK(gln_comm_split(job, inside, &comm) == GLN_OK);
    if (inside) return comm;
    gln_comm_close(comm);
    return NULL;
}

static const char *checkpoint(int ranks, int groups)
{
    char name[64];
    snprintf(name, sizeof name, "run/p%d-r%d", ranks, groups);
    return gln_test_path(folder, name);
}

static void write_with(int ranks, int groups)
{
    char digest[33];
    world_t world;
    gln_comm_t *comm = open_ranks(ranks);
    if (!comm) return;
    CHECK(world_open(comm, 4, groups, 1, &world) == GLN_OK);
    world_fill(&world, 1);
    CHECK(world_write(&world, checkpoint(ranks, groups)) == GLN_OK);
    CHECK(gln_checkpoint_digest(checkpoint(ranks, groups), digest) == GLN_OK);
    CHECK(strcmp(digest, DIGEST) == 0 || (fprintf(stderr, "digest %s\n", digest), 0));
    world_close(&world);
    gln_comm_close(comm);
}

static void same_bytes(int ranks, int groups)
{
    static const char *const names[] = {"manifest.json",
                                        "dense.safetensors",
                                        "experts-00000.safetensors",
                                        "experts-00001.safetensors",
                                        "experts-00002.safetensors",
                                        "experts-00003.safetensors"};
    for (int f = 0; gln_comm_rank(job) == 0 && f < 2 + 4 / groups; f++)
        CHECK(gln_test_files_equal(gln_test_path(checkpoint(1, groups), names[f]),
                                   gln_test_path(checkpoint(ranks, groups), names[f])));
}

/* The checkpoint of one layout on another one. */
static void read_with(int ranks, int domains, int groups, const char *path)
{
    world_t world;
    gln_comm_t *comm = open_ranks(ranks);
    if (!comm) return;
    CHECK(world_open(comm, domains, groups, 1, &world) == GLN_OK);
    world_fill(&world, 2);
    world.fields[2].integer = 0;
    CHECK(world_read(&world, path) == GLN_OK);
    CHECK(world_is_filled(&world, 1));
    CHECK(world.fields[2].integer == 12);
    world_close(&world);
    gln_comm_close(comm);
}

/* One bit of one file is wrong: all ranks refuse, nothing changes. */
static void damaged(const char *name)
{
    const char *path = gln_test_path(checkpoint(1, 1), name);
    size_t bytes = 0;
    char *data = NULL;
    world_t world;
    CHECK(world_open(job, 4, 1, 1, &world) == GLN_OK);
    world_fill(&world, 2);
    if (gln_comm_rank(job) == 0) {
        data = gln_test_file_read(path, &bytes);
        data[bytes - 40] ^= 4;
        gln_test_file_write(path, data, bytes);
    }
    CHECK(gln_comm_barrier(job) == GLN_OK);
    CHECK(world_read(&world, checkpoint(1, 1)) == GLN_ERR_CHECKPOINT);
    CHECK(world_is_filled(&world, 2));
    CHECK(gln_comm_barrier(job) == GLN_OK);
    if (data) {
        data[bytes - 40] ^= 4;
        gln_test_file_write(path, data, bytes);
        free(data);
    }
    CHECK(gln_comm_barrier(job) == GLN_OK);
    CHECK(world_read(&world, checkpoint(1, 1)) == GLN_OK);
    world_close(&world);
}

/* The last rank may write no file longer than 100 bytes: all ranks return the error, nothing is
 * left. */
static void one_rank_cannot_write(void)
{
    const char *path = gln_test_path(folder, "never"),
               *partial = gln_test_path(folder, "never.partial");
    int last = gln_comm_rank(job) == gln_comm_size(job) - 1;
    struct rlimit before, small;
    world_t world;
    CHECK(world_open(job, 4, 1, 1, &world) == GLN_OK);
    world_fill(&world, 1);
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = (struct rlimit){.rlim_cur = 100, .rlim_max = before.rlim_max};
    if (last) CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    gln_status_t status = world_write(&world, path);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(status == GLN_ERR_IO);
    if (last) CHECK(strstr(gln_last_error(), "File too large") && strstr(gln_last_error(), path));
    CHECK(gln_comm_barrier(job) == GLN_OK);
    CHECK(!gln_test_exists(path) && !gln_test_exists(partial));
    CHECK(gln_comm_barrier(job) == GLN_OK);
    CHECK(world_write(&world, path) == GLN_OK); /* and the next attempt works */
    CHECK(world_write(&world, path) == GLN_ERR_IO);
    CHECK(world_read(&world, path) == GLN_OK && world_is_filled(&world, 1));
    world_close(&world);
}

int main(void)
{
    if (gln_comm_open_world(&job) != GLN_OK) return 1;
    int size = gln_comm_size(job), root = gln_comm_rank(job) == 0;
    if (root) gln_test_folder_open(folder);
    CHECK(gln_comm_broadcast(job, folder, sizeof folder, 0) == GLN_OK);
    for (int groups = 1; groups <= 2; groups++)
        for (int ranks = 1; ranks <= size; ranks *= 2) {
            write_with(ranks, groups);
            CHECK(gln_comm_barrier(job) == GLN_OK);
            same_bytes(ranks, groups);
        }
    for (int groups = 1; groups <= 2; groups++)
        for (int ranks = 1; ranks <= size; ranks *= 2) {
            read_with(ranks, 4, groups, checkpoint(size, 3 - groups));
            read_with(ranks, 8, groups, checkpoint(size, groups));
        }
    damaged("manifest.json");
    damaged("dense.safetensors");
    damaged("experts-00000.safetensors");
    damaged("experts-00003.safetensors");
    one_rank_cannot_write();
    CHECK(gln_comm_barrier(job) == GLN_OK);
    if (root) gln_test_folder_close(folder);
    if (root) printf("ok\n");
    gln_comm_close(job);
    return 0;
}
