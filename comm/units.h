/* Times, sizes and rates as people read them, two or three digits and a unit. */
#ifndef GLN_COMM_UNITS_H
#define GLN_COMM_UNITS_H

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_UNITS_TEXT = 16 }; /* bytes that `out` holds */

/** "0.4 us", "3.1 ms", "1.2 s"; "41 KiB"; "24 MB/s" of seconds per byte. */
void gln_seconds_text(double seconds, char *out);
void gln_bytes_text(double bytes, char *out);
void gln_rate_text(double seconds_per_byte, char *out);

#ifdef __cplusplus
}
#endif
#endif
