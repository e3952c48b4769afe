/* Every mapping of /proc/self/smaps is one of three: a file mapped shared and only to be read,
 * shared memory (of it the Pss: each page divided by the processes that map it, so that the sum
 * over the ranks of a node counts a page once), all else. O(mappings), some milliseconds. */
#include "base/resident.h"

#include "base/log.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = 4096 };

static int kilobytes(const char *line, const char *name, int64_t *bytes)
{
    size_t length = strlen(name);
    long long value;
    if (strncmp(line, name, length) != 0 || line[length] != ':') return 0;
    if (sscanf(line + length + 1, "%lld kB", &value) != 1) return 0;
    *bytes = value * 1024;
    return 1;
}

static gln_status_t read_high(int64_t *high)
{
    char line[LINE_BYTES];
    FILE *file = fopen("/proc/self/status", "r");
    int found = 0;
    if (!file) return gln_fail(GLN_ERR_IO, "/proc/self/status: %s", strerror(errno));
    while (!found && fgets(line, sizeof line, file))
        found = kilobytes(line, "VmHWM", high);
    fclose(file);
    return found ? GLN_OK : gln_fail(GLN_ERR_IO, "/proc/self/status: no VmHWM");
}

/* "7f0000000000-7f0000021000 r--s 00000000 00:2b 1234 PATH" begins a mapping. */
static int begins_mapping(const char *line, char access[8], unsigned long *inode)
{
    return sscanf(line, "%*x-%*x %7s %*x %*x:%*x %lu", access, inode) == 2;
}

gln_status_t gln_resident_read(gln_resident_t *out)
{
    char line[LINE_BYTES], access[8] = "----";
    unsigned long inode = 0;
    int64_t rss = 0, pss = 0, shared_full = 0;
    gln_resident_t r = {0};
    gln_status_t status = read_high(&r.high_bytes);
    if (status != GLN_OK) return status;
    FILE *file = fopen("/proc/self/smaps", "r");
    if (!file) return gln_fail(GLN_ERR_IO, "/proc/self/smaps: %s", strerror(errno));
    while (fgets(line, sizeof line, file)) {
        if (begins_mapping(line, access, &inode)) continue;
        if (kilobytes(line, "Rss", &rss)) continue;
        if (!kilobytes(line, "Pss", &pss)) continue;
        if (access[3] != 's') {
            r.own_bytes += rss;
        } else if (access[1] != 'w' && inode != 0) {
            r.mapped_bytes += rss;
        } else {
            r.shared_bytes += pss;
            shared_full += rss;
        }
    }
    fclose(file);
    r.own_bytes += r.shared_bytes;
    r.peak_bytes = r.high_bytes - (shared_full - r.shared_bytes) - r.mapped_bytes;
    if (r.peak_bytes < r.own_bytes) r.peak_bytes = r.own_bytes;
    *out = r;
    return GLN_OK;
}

void gln_resident_reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file);
    fclose(file);
}
