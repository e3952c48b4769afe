/* Places of keys are found by loading the run file again: it happens at most once, before an error.
 */
#include "launcher/setup.h"

#include "base/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

gln_status_t gln_source_fail(const gln_source_t *source, const char *key, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    gln_run_options_t run;
    gln_config_t *config = NULL;
    memset(&run, 0, sizeof run);
    gln_status_t status = gln_config_load(fields, count, source->path, source->sets,
                                          source->sets_count, &run, sizeof run, &config);
    if (status != GLN_OK) return status;
    status = gln_config_fail(config, key, "%s", message);
    gln_config_close(config);
    return status;
}

gln_status_t gln_source_check_file(const gln_source_t *source, const char *key, const char *file)
{
    struct stat info;
    FILE *opened = fopen(file, "rb");
    int reason = opened ? 0 : errno;
    if (opened && fstat(fileno(opened), &info) == 0 && S_ISDIR(info.st_mode)) reason = EISDIR;
    if (opened) fclose(opened);
    if (!reason) return GLN_OK;
    return gln_source_fail(
        source, key,
        "cannot read %s: %s; expected a text or a token file, paths are taken from "
        "the folder in which gleaner was started",
        file, strerror(reason));
}

gln_status_t gln_data_look(const char *path, gln_data_glance_t *out)
{
    static const unsigned char magic[8] = {'G', 'L', 'N', 'T', 'O', 'K', 0, 1};
    unsigned char header[24] = {0};
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info) != 0) {
        int reason = errno;
        if (file) fclose(file);
        return gln_fail(GLN_ERR_DATA, "%s: cannot read: %s", path, strerror(reason));
    }
    size_t read = fread(header, 1, sizeof header, file);
    fclose(file);
    out->is_bytes = read < sizeof header || memcmp(header, magic, sizeof magic) != 0;
    out->tokens = info.st_size;
    for (int i = 7; !out->is_bytes && i >= 0; i--)
        out->tokens = (i == 7 ? 0 : out->tokens << 8) | header[16 + i];
    return GLN_OK;
}

double gln_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
