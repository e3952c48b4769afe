/* Text for people: safe bytes, human numbers, the size of a text under gzip -9. */
#ifndef GLN_LAUNCHER_TEXT_H
#define GLN_LAUNCHER_TEXT_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Tokens of a byte-level model as text that a terminal and a JSON string can take: printable
 * characters and line breaks, tabs and UTF-8 as they are, everything else as \xNN, tokens above 255
 * as <N>.
 *  @param out [size] terminated; what does not fit is left off. 12 bytes a token always fit.
 *  @return bytes written without the terminator */
size_t gln_text_printable(const int32_t *tokens, int64_t count, char *out, size_t size);

/** "950", "12.3k", "4.19M": three digits and a letter. */
void gln_text_count(double value, char *out, size_t size);
/** "812 B", "3.4 MB", "1.2 GB" (powers of 1000). */
void gln_text_bytes(double bytes, char *out, size_t size);
/** "0:07", "12:40", "3:02:11". */
void gln_text_duration(double seconds, char *out, size_t size);

/** Bytes that `gzip -9` makes of a file, its header included, without a stored name.
 *  @param limit_bytes  take the first so many bytes of the file only; 0: all of it
 *  @param text_bytes   out: bytes taken
 *  @return GLN_OK; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_text_gzip_bytes(const char *path, int64_t limit_bytes, int64_t *text_bytes,
                                 int64_t *gzip_bytes);

#ifdef __cplusplus
}
#endif
#endif
