/* Files are replaced by writing a neighbour with the suffix ".partial", forcing it to the disk and
 * renaming it. */
#include "launcher/run_folder.h"

#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Cut the last component off; "." or "/" at the end of the way up. False when there is no way up.
 */
static bool parent_of(char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
    if (!strcmp(path, ".") || !strcmp(path, "/")) return false;
    char *slash = strrchr(path, '/');
    if (!slash)
        strcpy(path, ".");
    else if (slash == path)
        path[1] = 0;
    else
        *slash = 0;
    return true;
}

void gln_run_folder_problem(const char *dir, char *problem, size_t size)
{
    char path[PATH_MAX];
    struct stat info;
    problem[0] = 0;
    snprintf(path, sizeof path, "%s", dir);
    while (stat(path, &info) != 0) {
        if (errno != ENOENT) {
            snprintf(problem, size, "%s: %s", path, strerror(errno));
            return;
        }
        if (!parent_of(path)) {
            snprintf(problem, size, "%s: %s", path, strerror(ENOENT));
            return;
        }
    }
    if (!S_ISDIR(info.st_mode))
        snprintf(problem, size, "%s is not a folder", path);
    else if (access(path, W_OK | X_OK) != 0)
        snprintf(problem, size, "%s: %s", path, strerror(errno));
}

/* Create `path` and what is missing above it. *made counts the folders created, from `path`
 * upwards. */
static bool make_folders(char *path, int *made)
{
    if (mkdir(path, 0777) == 0) {
        ++*made;
        return true;
    }
    if (errno == EEXIST) {
        struct stat info;
        if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return true;
        errno = ENOTDIR;
        return false;
    }
    if (errno != ENOENT) return false;
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    if (!parent_of(parent) || !strcmp(parent, path)) return false;
    struct stat info;
    if (stat(parent, &info) == 0) { /* the parent is there and still refuses (proc does) */
        errno = EACCES;
        return false;
    }
    if (!make_folders(parent, made)) return false;
    if (mkdir(path, 0777) != 0) return false;
    ++*made;
    return true;
}

static void remove_folders(const char *dir, int made)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", dir);
    while (made > 0) { /* the lowest may never have come to be */
        made -= rmdir(path) == 0;
        if (!parent_of(path)) break;
    }
}

gln_status_t gln_run_folder_create(const char *dir, char *problem, size_t size)
{
    char path[PATH_MAX], probe[PATH_MAX + 32];
    int made = 0;
    snprintf(path, sizeof path, "%s", dir);
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/';)
        path[--n] = 0;
    bool good = make_folders(path, &made);
    if (good) {
        snprintf(probe, sizeof probe, "%s/.probe-XXXXXX", path);
        int descriptor = mkstemp(probe);
        good = descriptor >= 0 && write(descriptor, "", 1) == 1;
        int reason = errno;
        if (descriptor >= 0) {
            close(descriptor);
            unlink(probe);
        }
        errno = reason;
    }
    if (good) return GLN_OK;
    snprintf(problem, size, "%s", strerror(errno));
    remove_folders(path, made);
    return GLN_ERR_IO;
}

static gln_status_t fail_file(const char *path, const char *what)
{
    return gln_fail(GLN_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* A file that will replace dir/name when finish_aside succeeds. */
typedef struct aside {
    char path[GLN_RUN_PATH_MAX], partial[GLN_RUN_PATH_MAX + 16];
    FILE *file;
} aside_t;

static gln_status_t open_aside(const char *dir, const char *name, aside_t *aside)
{
    snprintf(aside->path, sizeof aside->path, "%s/%s", dir, name);
    snprintf(aside->partial, sizeof aside->partial, "%s.partial", aside->path);
    aside->file = fopen(aside->partial, "w");
    return aside->file ? GLN_OK : fail_file(aside->partial, "write");
}

static gln_status_t finish_aside(aside_t *aside, gln_status_t status)
{
    if (status == GLN_OK && (fflush(aside->file) != 0 || fsync(fileno(aside->file)) != 0))
        status = fail_file(aside->partial, "write");
    if (fclose(aside->file) != 0 && status == GLN_OK) status = fail_file(aside->partial, "write");
    if (status == GLN_OK && rename(aside->partial, aside->path) != 0)
        status = fail_file(aside->path, "replace");
    if (status != GLN_OK) unlink(aside->partial);
    return status;
}

gln_status_t gln_run_folder_write_config(const gln_run_options_t *run)
{
    aside_t aside;
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    gln_status_t status = open_aside(run->run.dir, "config.yaml", &aside);
    if (status != GLN_OK) return status;
    return finish_aside(&aside, gln_config_write(fields, count, run, aside.file));
}

gln_status_t gln_run_folder_write_report(const char *dir, const char *text)
{
    aside_t aside;
    gln_status_t status = open_aside(dir, "report.txt", &aside);
    if (status != GLN_OK) return status;
    if (fputs(text, aside.file) < 0) status = fail_file(aside.partial, "write");
    return finish_aside(&aside, status);
}

gln_status_t gln_run_folder_read_config(const char *dir, gln_run_options_t *run)
{
    char path[GLN_RUN_PATH_MAX];
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    snprintf(path, sizeof path, "%s/config.yaml", dir);
    memset(run, 0, sizeof *run);
    return gln_config_load(fields, count, path, NULL, 0, run, sizeof *run, NULL);
}

static void format_value(const gln_config_field_t *field, const void *values, char *out,
                         size_t size)
{
    const char *at = (const char *)values + field->offset;
    switch (field->type) {
    case GLN_CONFIG_INT: {
        int64_t value;
        memcpy(&value, at, sizeof value);
        snprintf(out, size, "%lld", (long long)value);
        return;
    }
    case GLN_CONFIG_REAL: {
        double value;
        memcpy(&value, at, sizeof value);
        snprintf(out, size, "%.17g", value);
        char shorter[64];
        snprintf(shorter, sizeof shorter, "%g", value);
        if (strtod(shorter, NULL) == value) snprintf(out, size, "%s", shorter);
        return;
    }
    case GLN_CONFIG_TEXT:
        snprintf(out, size, "%s", at);
        return;
    case GLN_CONFIG_BOOL:
    case GLN_CONFIG_CHOICE:
        break;
    }
    int value;
    memcpy(&value, at, sizeof value);
    if (field->type == GLN_CONFIG_BOOL)
        snprintf(out, size, "%s", value ? "true" : "false");
    else
        snprintf(out, size, "%s", field->choices[value]);
}

void gln_run_options_changes(const gln_run_options_t *before, const gln_run_options_t *after,
                             char *out, size_t size)
{
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    out[0] = 0;
    for (int i = 0; i < count; i++) {
        char old[GLN_CONFIG_TEXT_MAX], new[GLN_CONFIG_TEXT_MAX];
        format_value(&fields[i], before, old, sizeof old);
        format_value(&fields[i], after, new, sizeof new);
        size_t used = strlen(out);
        if (strcmp(old, new) && used + 1 < size)
            snprintf(out + used, size - used, "%s%s %s -> %s", used ? ", " : "", fields[i].key, old,
                     new);
    }
}

/* Copy the lines of steps up to `step`; stop at the first that is later or is no line of ours. */
static gln_status_t copy_lines(FILE *from, int64_t step, aside_t *aside)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    gln_status_t status = GLN_OK;
    while (status == GLN_OK && (length = getline(&line, &room, from)) > 0) {
        json_t *object = json_loads(line, 0, NULL);
        json_t *at = json_object_get(object, "step");
        bool keep =
            line[length - 1] == '\n' && json_is_integer(at) && json_integer_value(at) <= step;
        json_decref(object);
        if (!keep) break;
        if (fwrite(line, 1, (size_t)length, aside->file) != (size_t)length)
            status = fail_file(aside->partial, "write");
    }
    free(line);
    return status;
}

gln_status_t gln_run_folder_open_metrics(const char *dir, int64_t step, FILE **out)
{
    aside_t aside;
    gln_status_t status = open_aside(dir, "metrics.jsonl", &aside);
    if (status != GLN_OK) return status;
    FILE *old = fopen(aside.path, "r");
    if (old) {
        status = copy_lines(old, step, &aside);
        fclose(old);
    } else if (errno != ENOENT) {
        status = fail_file(aside.path, "read");
    }
    status = finish_aside(&aside, status);
    if (status != GLN_OK) return status;
    FILE *file = fopen(aside.path, "a");
    if (!file) return fail_file(aside.path, "append");
    *out = file;
    return GLN_OK;
}
