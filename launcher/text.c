/* gzip's size: zlib's deflate at level 9 with gzip framing. Memory level 9 makes its blocks as long
 * as those of the gzip program (32768 symbols), so that the two agree to the byte on text. */
#include "launcher/text.h"

#include "base/log.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

/* Length of the UTF-8 character at tokens[0], 0 if it is none that may be shown (controls
 * included). */
static int utf8_length(const int32_t *tokens, int64_t count)
{
    int32_t first = tokens[0];
    int length = first >= 0xc2 && first <= 0xdf   ? 2
                 : first >= 0xe0 && first <= 0xef ? 3
                 : first >= 0xf0 && first <= 0xf4 ? 4
                                                  : 0;
    if (length == 0 || length > count) return 0;
    int32_t code = first & (0x7f >> length);
    for (int i = 1; i < length; i++) {
        if (tokens[i] < 0x80 || tokens[i] > 0xbf) return 0;
        code = code << 6 | (tokens[i] & 0x3f);
    }
    static const int32_t least[] = {0, 0, 0xa0, 0x800, 0x10000};
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return 0;
    return length;
}

size_t gln_text_printable(const int32_t *tokens, int64_t count, char *out, size_t size)
{
    size_t used = 0;
    if (size == 0) return 0;
    for (int64_t i = 0; i < count;) {
        char piece[16];
        int taken = 1;
        if ((tokens[i] >= 0x20 && tokens[i] < 0x7f) || tokens[i] == '\n' || tokens[i] == '\t') {
            snprintf(piece, sizeof piece, "%c", (char)tokens[i]);
        } else if (tokens[i] > 255 || tokens[i] < 0) {
            snprintf(piece, sizeof piece, "<%d>", (int)tokens[i]);
        } else {
            int length = utf8_length(tokens + i, count - i);
            for (int j = 0; j < length; j++)
                piece[j] = (char)tokens[i + j];
            piece[length] = 0;
            if (length > 0)
                taken = length;
            else
                snprintf(piece, sizeof piece, "\\x%02x", (unsigned)tokens[i]);
        }
        size_t length = strlen(piece);
        if (used + length + 1 > size) break;
        memcpy(out + used, piece, length);
        used += length;
        i += taken;
    }
    out[used] = 0;
    return used;
}

static void scaled(double value, const char *const *units, const char *gap, char *out, size_t size)
{
    int unit = 0;
    while (value >= 999.5 && units[unit + 1]) {
        value /= 1000;
        unit++;
    }
    int digits = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(out, size, "%.*f%s%s", digits, value, units[unit][0] ? gap : "", units[unit]);
}

void gln_text_count(double value, char *out, size_t size)
{
    static const char *const units[] = {"", "k", "M", "G", "T", NULL};
    scaled(value, units, "", out, size);
}

void gln_text_bytes(double bytes, char *out, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", NULL};
    scaled(bytes, units, " ", out, size);
}

void gln_text_duration(double seconds, char *out, size_t size)
{
    int64_t whole = seconds > 0 ? (int64_t)(seconds + 0.5) : 0;
    int hours = (int)(whole / 3600), minutes = (int)(whole / 60 % 60), rest = (int)(whole % 60);
    if (hours > 0)
        snprintf(out, size, "%d:%02d:%02d", hours, minutes, rest);
    else
        snprintf(out, size, "%d:%02d", minutes, rest);
}

static gln_status_t fail_zlib(const char *path, const z_stream *z)
{
    return gln_fail(GLN_ERR_IO, "%s: zlib refused to compress it: %s", path,
                    z->msg ? z->msg : "no reason given");
}

/* The next bytes of the file, at most what `left` still allows. */
static gln_status_t read_some(const char *path, FILE *file, int64_t *left, z_stream *z,
                              unsigned char *in, size_t size)
{
    if ((int64_t)size > *left) size = (size_t)*left;
    z->next_in = in;
    z->avail_in = (uInt)fread(in, 1, size, file);
    *left = z->avail_in < size ? 0 : *left - (int64_t)size;
    if (ferror(file)) return gln_fail(GLN_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    return GLN_OK;
}

gln_status_t gln_text_gzip_bytes(const char *path, int64_t limit_bytes, int64_t *text_bytes,
                                 int64_t *gzip_bytes)
{
    static unsigned char in[1 << 16], out[1 << 16];
    z_stream z = {0};
    FILE *file = fopen(path, "rb");
    if (!file) return gln_fail(GLN_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    if (deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY) != Z_OK) {
        fclose(file);
        return fail_zlib(path, &z);
    }
    gln_status_t status = GLN_OK;
    int64_t made = 0, left = limit_bytes > 0 ? limit_bytes : INT64_MAX;
    do {
        status = read_some(path, file, &left, &z, in, sizeof in);
        if (status != GLN_OK) break;
        do {
            z.next_out = out;
            z.avail_out = sizeof out;
            if (deflate(&z, left == 0 ? Z_FINISH : Z_NO_FLUSH) == Z_STREAM_ERROR)
                status = fail_zlib(path, &z);
            made += (int64_t)(sizeof out - z.avail_out);
        } while (status == GLN_OK && z.avail_out == 0);
    } while (status == GLN_OK && left > 0);
    if (status == GLN_OK) {
        *text_bytes = (int64_t)z.total_in;
        *gzip_bytes = made;
    }
    deflateEnd(&z);
    fclose(file);
    return status;
}
