/* Writing streams through XXH3 (https://xxhash.com) in pieces of 16 MiB and ends with fsync, so
 * that a file that was reported as written survives a crash of the machine. Mapping for reading
 * copies nothing. */
#include "moe/file.h"

#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PIECE_BYTES = 16 << 20 };

static gln_status_t refused(const char *action, const char *path, int error)
{
    return gln_fail(GLN_ERR_IO,
                    "%s: cannot %s: %s; check the path, its permissions and the free space", path,
                    action, strerror(error));
}

gln_status_t gln_file_writer_open(const char *path, gln_file_writer_t *writer)
{
    *writer = (gln_file_writer_t){.path = path, .descriptor = -1};
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) return gln_fail(GLN_ERR_MEMORY, "%s: no memory for its checksum", path);
    XXH3_64bits_reset(hash);
    writer->descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->descriptor < 0) {
        int error = errno;
        XXH3_freeState(hash);
        return refused("create the file", path, error);
    }
    writer->hash = hash;
    return GLN_OK;
}

gln_status_t gln_file_writer_add(gln_file_writer_t *writer, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        size_t piece = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
        ssize_t written = write(writer->descriptor, at, piece);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return refused("write", writer->path, written < 0 ? errno : ENOSPC);
        XXH3_64bits_update(writer->hash, at, (size_t)written);
        at += written;
        bytes -= (size_t)written;
        writer->bytes += (uint64_t)written;
    }
    return GLN_OK;
}

gln_status_t gln_file_writer_close(gln_file_writer_t *writer, gln_status_t status, uint64_t *bytes,
                                   uint64_t *checksum)
{
    uint64_t sum = XXH3_64bits_digest(writer->hash);
    XXH3_freeState(writer->hash);
    if (status == GLN_OK && fsync(writer->descriptor) != 0)
        status = refused("force to the disk", writer->path, errno);
    if (close(writer->descriptor) != 0 && status == GLN_OK)
        status = refused("close", writer->path, errno);
    if (status != GLN_OK) {
        unlink(writer->path);
        return status;
    }
    if (bytes) *bytes = writer->bytes;
    if (checksum) *checksum = sum;
    return GLN_OK;
}

gln_status_t gln_file_map(const char *path, const void **map, size_t *bytes)
{
    gln_status_t status = GLN_OK;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return refused("open", path, errno);
    struct stat about;
    void *address = NULL;
    if (fstat(descriptor, &about) != 0) {
        status = refused("examine", path, errno);
    } else if (!S_ISREG(about.st_mode)) {
        status = gln_fail(
            GLN_ERR_IO, "%s: expected a regular file, found something else; check the path", path);
    } else if (about.st_size > 0) {
        address = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
        if (address == MAP_FAILED) status = refused("map", path, errno);
    }
    close(descriptor);
    if (status != GLN_OK) return status;
    *map = address;
    *bytes = (size_t)about.st_size;
    return GLN_OK;
}

void gln_file_unmap(const void *map, size_t bytes)
{
    if (map) munmap((void *)(uintptr_t)map, bytes);
}

gln_status_t gln_folder_sync(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return refused("open the folder", path, errno);
    gln_status_t status = GLN_OK;
    /* EINVAL: this file system keeps no buffers for folders */
    if (fsync(descriptor) != 0 && errno != EINVAL)
        status = refused("force to the disk", path, errno);
    close(descriptor);
    return status;
}

gln_status_t gln_folder_parent(const char *path, char *parent)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length >= PATH_MAX) return refused("find the parent folder", path, ENAMETOOLONG);
    memcpy(parent, path, length);
    strcpy(parent + length, length ? "" : ".");
    return GLN_OK;
}

/* One level; what was made is forced to the disk. */
static gln_status_t make_one(const char *path)
{
    char parent[PATH_MAX];
    struct stat about;
    gln_status_t status = gln_folder_parent(path, parent);
    if (status != GLN_OK) return status;
    if (mkdir(path, 0777) == 0) return gln_folder_sync(parent);
    int error = errno;
    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode)) return GLN_OK;
    return refused("make the folder", path, error);
}

gln_status_t gln_folder_make(const char *path)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) return refused("make the folder", path, ENAMETOOLONG);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i < length; i++) {
        if (part[i] != '/') continue;
        part[i] = '\0';
        gln_status_t status = make_one(part);
        part[i] = '/';
        if (status != GLN_OK) return status;
    }
    return make_one(part);
}

gln_status_t gln_folder_remove(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) return errno == ENOENT ? GLN_OK : refused("open the folder", path, errno);
    gln_status_t status = GLN_OK;
    struct dirent *entry;
    while (status == GLN_OK && (entry = readdir(folder))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (unlinkat(dirfd(folder), entry->d_name, 0) != 0)
            status = refused("remove what is left of an earlier attempt in", path, errno);
    }
    closedir(folder);
    if (status == GLN_OK && rmdir(path) != 0) status = refused("remove", path, errno);
    return status;
}
