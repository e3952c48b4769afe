/* Figures in messages and reasons. */
#include "comm/units.h"

#include <stdio.h>

/* Two or three digits and a unit. */
static void with_unit(double value, double step, const char *const *units, int last, char *out)
{
    int unit = 0;
    while (unit < last && value >= step) {
        value /= step;
        unit++;
    }
    snprintf(out, GLN_UNITS_TEXT, value < 9.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

void gln_seconds_text(double seconds, char *out)
{
    static const char *const units[] = {"us", "ms", "s"};
    with_unit(1e6 * seconds, 1000, units, 2, out);
}

void gln_bytes_text(double bytes, char *out)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    with_unit(bytes, 1024, units, 4, out);
}

void gln_rate_text(double seconds_per_byte, char *out)
{
    static const char *const units[] = {"kB/s", "MB/s", "GB/s", "TB/s"};
    with_unit(1e-3 / seconds_per_byte, 1000, units, 3, out);
}
