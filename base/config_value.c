/* Scalars: what a plain one is (the core schema of YAML 1.2, with true and false as the only
 * booleans), and its conversion into a field. Nothing is converted across types except an integer
 * into a real. */
#include "base/config_internal.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

gln_config_locale_t gln_config_locale_enter(void)
{
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    return (gln_config_locale_t){.c = c, .old = c ? uselocale(c) : NULL};
}

void gln_config_locale_leave(gln_config_locale_t locale)
{
    if (!locale.c) return;
    uselocale(locale.old);
    freelocale(locale.c);
}

void gln_config_append(char *out, size_t size, const char *format, ...)
{
    size_t used = strlen(out);
    va_list args;
    va_start(args, format);
    int needed = vsnprintf(out + used, size - used, format, args);
    va_end(args);
    if (needed > 0 && used + (size_t)needed >= size) memcpy(out + size - 4, "...", 4);
}

static bool is_in(const char *text, const char *const *list)
{
    for (; *list; list++)
        if (!strcmp(text, *list)) return true;
    return false;
}

/* [-+]digits, 0o17, 0x1f */
static bool looks_int(const char *text)
{
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o')) {
        const char *digits = text[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567";
        return text[2] && strspn(text + 2, digits) == strlen(text + 2);
    }
    if (*text == '-' || *text == '+') text++;
    return *text && strspn(text, "0123456789") == strlen(text);
}

static bool is_infinity(const char *text)
{
    if (*text == '-' || *text == '+') text++;
    static const char *const names[] = {".inf", ".Inf", ".INF", "inf", NULL};
    return is_in(text, names);
}

static bool is_nan(const char *text)
{
    static const char *const names[] = {".nan", ".NaN", ".NAN", "nan", NULL};
    return is_in(text, names);
}

/* [-+] ( digits [. digits*] | . digits ) [ e [-+] digits ] */
static bool looks_real(const char *text)
{
    if (is_infinity(text) || is_nan(text)) return true;
    if (*text == '-' || *text == '+') text++;
    size_t whole = strspn(text, "0123456789"), part = 0;
    text += whole;
    if (*text == '.') {
        text++;
        part = strspn(text, "0123456789");
        text += part;
    }
    if (whole + part == 0) return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        if (*text == '-' || *text == '+') text++;
        size_t exponent = strspn(text, "0123456789");
        if (exponent == 0) return false;
        text += exponent;
    }
    return *text == '\0';
}

gln_config_kind_t gln_config_classify(const char *text, bool quoted)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const bools[] = {"true", "false", NULL};
    if (quoted) return GLN_KIND_STRING;
    if (is_in(text, nulls)) return GLN_KIND_NULL;
    if (is_in(text, bools)) return GLN_KIND_BOOL;
    if (looks_int(text)) return GLN_KIND_INT;
    if (looks_real(text)) return GLN_KIND_REAL;
    return GLN_KIND_STRING;
}

char *gln_config_unquote(const char *text, bool *quoted)
{
    size_t length = strlen(text);
    *quoted = length == 0; /* nothing at all is the empty string: --set run.name= */
    if (length >= 2 && (*text == '"' || *text == '\'') && text[length - 1] == *text) {
        *quoted = true;
        return strndup(text + 1, length - 2);
    }
    return strdup(text);
}

void gln_config_format_real(double value, char *out, size_t size)
{
    if (isinf(value)) {
        snprintf(out, size, "%s", value < 0 ? "-.inf" : ".inf");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, value);
        if (strtod(out, NULL) == value) return;
    }
}

static void append_range(const gln_config_field_t *field, char *out, size_t size)
{
    char low[40], high[40];
    gln_config_format_real(field->min, low, sizeof low);
    gln_config_format_real(field->max, high, sizeof high);
    /* bounds of int64_t are no bounds worth naming */
    double far = field->type == GLN_CONFIG_INT ? 0x1p63 - 0x1p10 : INFINITY;
    bool has_low = field->min > -far, has_high = field->max < far;
    if (has_low && has_high)
        gln_config_append(out, size, " from %s to %s", low, high);
    else if (has_low)
        gln_config_append(out, size, " of at least %s", low);
    else if (has_high)
        gln_config_append(out, size, " of at most %s", high);
}

void gln_config_expected(const gln_config_field_t *field, char *out, size_t size)
{
    out[0] = '\0';
    switch (field->type) {
    case GLN_CONFIG_INT:
        gln_config_append(out, size, "an integer");
        append_range(field, out, size);
        break;
    case GLN_CONFIG_REAL:
        gln_config_append(out, size, "a number");
        append_range(field, out, size);
        break;
    case GLN_CONFIG_BOOL:
        gln_config_append(out, size, "true or false");
        break;
    case GLN_CONFIG_TEXT:
        gln_config_append(out, size, "a string");
        break;
    case GLN_CONFIG_CHOICE:
        gln_config_append(out, size, "one of ");
        for (int i = 0; field->choices[i]; i++)
            gln_config_append(out, size, "%s%s", i ? ", " : "", field->choices[i]);
        break;
    }
}

static void describe_found(const char *text, gln_config_kind_t kind, char *out, size_t size)
{
    out[0] = '\0';
    switch (kind) {
    case GLN_KIND_NULL:
        gln_config_append(out, size, "nothing");
        break;
    case GLN_KIND_BOOL:
        gln_config_append(out, size, "the boolean %.80s", text);
        break;
    case GLN_KIND_INT:
        gln_config_append(out, size, "the integer %.80s", text);
        break;
    case GLN_KIND_REAL:
        gln_config_append(out, size, "the number %.80s", text);
        break;
    case GLN_KIND_STRING:
        gln_config_append(out, size, "the string \"%.80s\"", text);
        break;
    }
}

static bool convert_int(const gln_config_field_t *field, const char *text, int64_t *out)
{
    const char *digits = text;
    int base = 10;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o')) {
        base = text[1] == 'x' ? 16 : 8;
        digits += 2;
    }
    errno = 0;
    long long value = strtoll(digits, NULL, base);
    if (errno) return false;
    *out = value;
    return (long double)value >= (long double)field->min &&
           (long double)value <= (long double)field->max;
}

static bool convert_real(const gln_config_field_t *field, const char *text, double *out)
{
    double value;
    if (is_nan(text)) return false;
    if (is_infinity(text)) {
        value = *text == '-' ? -INFINITY : INFINITY;
    } else if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o')) {
        value = (double)strtoull(text + 2, NULL, text[1] == 'x' ? 16 : 8);
    } else {
        value = strtod(text, NULL);
        if (isinf(value)) return false; /* finite in the file, too large for a double */
    }
    *out = value;
    return value >= field->min && value <= field->max;
}

static bool convert_choice(const gln_config_field_t *field, const char *text, int *out)
{
    for (int i = 0; field->choices[i]; i++) {
        if (strcmp(text, field->choices[i])) continue;
        *out = i;
        return true;
    }
    return false;
}

/* Well-formed UTF-8 without surrogates, so that the value can be written as YAML. */
static bool is_utf8(const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        int more = *at < 0x80       ? 0
                   : *at >> 5 == 6  ? 1
                   : *at >> 4 == 14 ? 2
                   : *at >> 3 == 30 ? 3
                                    : -1;
        if (more < 0) return false;
        static const uint32_t least[4] = {0, 0x80, 0x800, 0x10000};
        uint32_t code = more ? *at & (0x3fu >> more) : *at;
        at++;
        for (int i = 0; i < more; i++, at++) {
            if (*at >> 6 != 2) return false;
            code = code << 6 | (*at & 0x3fu);
        }
        if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
    }
    return true;
}

/* NULL when converted; otherwise what more there is to say beside expected and found. */
static const char *convert_text(const char *text, gln_config_kind_t kind, char *out)
{
    if (kind != GLN_KIND_STRING) return kind == GLN_KIND_NULL ? "" : "; put it in quotes";
    if (strlen(text) >= GLN_CONFIG_TEXT_MAX) return " of 512 bytes or more; the limit is 511";
    if (!is_utf8(text)) return ", which is not valid UTF-8";
    memset(out, 0, GLN_CONFIG_TEXT_MAX);
    memcpy(out, text, strlen(text));
    return NULL;
}

bool gln_config_convert(const gln_config_field_t *field, const char *text, bool quoted,
                        void *values, char problem[GLN_CONFIG_NOTE_MAX])
{
    void *at = (char *)values + field->offset;
    gln_config_kind_t kind = gln_config_classify(text, quoted);
    bool good = false;
    const char *hint = "";
    switch (field->type) {
    case GLN_CONFIG_INT:
        good = kind == GLN_KIND_INT && convert_int(field, text, at);
        if (kind == GLN_KIND_STRING && looks_int(text)) hint = "; take off the quotes";
        break;
    case GLN_CONFIG_REAL:
        good = (kind == GLN_KIND_INT || kind == GLN_KIND_REAL) && convert_real(field, text, at);
        if (kind == GLN_KIND_STRING && looks_real(text)) hint = "; take off the quotes";
        break;
    case GLN_CONFIG_BOOL:
        good = kind == GLN_KIND_BOOL;
        if (good) *(int *)at = text[0] == 't';
        break;
    case GLN_CONFIG_TEXT:
        hint = convert_text(text, kind, at);
        good = !hint;
        break;
    case GLN_CONFIG_CHOICE:
        good = convert_choice(field, text, at);
        break;
    }
    if (good) return true;
    char expected[GLN_CONFIG_NOTE_MAX - 200], found[120];
    gln_config_expected(field, expected, sizeof expected);
    describe_found(text, kind, found, sizeof found);
    snprintf(problem, GLN_CONFIG_NOTE_MAX, "expected %s, found %s%s", expected, found, hint);
    return false;
}

int gln_config_section_length(const char *key)
{
    const char *dot = strchr(key, '.');
    return dot ? (int)(dot - key) : (int)strlen(key);
}

int gln_config_distance(const char *a, const char *b)
{
    enum { LENGTH_MAX = 63, FAR = 1 << 20 };
    int rows = (int)strlen(a), columns = (int)strlen(b);
    if (rows > LENGTH_MAX || columns > LENGTH_MAX) return FAR;
    unsigned char cost[LENGTH_MAX + 1][LENGTH_MAX + 1];
    for (int i = 0; i <= rows; i++) {
        for (int j = 0; j <= columns; j++) {
            if (i == 0 || j == 0) {
                cost[i][j] = (unsigned char)(i + j);
                continue;
            }
            int best = cost[i - 1][j - 1] + (tolower(a[i - 1]) != tolower(b[j - 1]));
            if (cost[i - 1][j] + 1 < best) best = cost[i - 1][j] + 1;
            if (cost[i][j - 1] + 1 < best) best = cost[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                cost[i - 2][j - 2] + 1 < best)
                best = cost[i - 2][j - 2] + 1;
            cost[i][j] = (unsigned char)best;
        }
    }
    return cost[rows][columns];
}
