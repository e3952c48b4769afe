#include "tests/support/folder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void need(int condition, const char *what, const char *path)
{
    if (condition) return;
    fprintf(stderr, "%s: cannot %s\n", path, what);
    abort();
}

void gln_test_folder_open(char path[GLN_TEST_PATH_MAX])
{
    const char *parent = getenv("TMPDIR");
    snprintf(path, GLN_TEST_PATH_MAX, "%s/gleaner-test-XXXXXX", parent ? parent : "/tmp");
    need(mkdtemp(path) != NULL, "make a temporary folder", path);
}

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *at)
{
    (void)about, (void)type, (void)at;
    return remove(path);
}

void gln_test_folder_close(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *gln_test_path(const char *folder, const char *name)
{
    enum { BUFFERS_COUNT = 8 };
    static char buffers[BUFFERS_COUNT][GLN_TEST_PATH_MAX];
    static int next;
    char *path = buffers[next++ % BUFFERS_COUNT];
    snprintf(path, GLN_TEST_PATH_MAX, "%s/%s", folder, name);
    return path;
}

int gln_test_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *gln_test_file_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    need(file != NULL, "open", path);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*bytes + 1);
    need(data && fread(data, 1, *bytes, file) == *bytes, "read", path);
    data[*bytes] = '\0';
    fclose(file);
    return data;
}

void gln_test_file_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    need(file != NULL, "create", path);
    need(fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0, "write", path);
}

int gln_test_files_equal(const char *a, const char *b)
{
    size_t a_bytes, b_bytes;
    char *a_data = gln_test_file_read(a, &a_bytes), *b_data = gln_test_file_read(b, &b_bytes);
    int equal = a_bytes == b_bytes && memcmp(a_data, b_data, a_bytes) == 0;
    free(a_data);
    free(b_data);
    return equal;
}
