/* Writing a configuration back as YAML, and the reference of its keys. Strings are always written
 * in double quotes, with everything escaped that YAML would fold, refuse or not show. */
#include "base/config_internal.h"

#include "base/log.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <string.h>

/* Decode one code point of valid UTF-8. */
static uint32_t decode(const unsigned char **at)
{
    uint32_t code = *(*at)++;
    if (code < 0x80) return code;
    int more = code >> 5 == 6 ? 1 : code >> 4 == 14 ? 2 : 3;
    code &= 0x3fu >> more;
    for (int i = 0; i < more && **at; i++)
        code = code << 6 | (*(*at)++ & 0x3fu);
    return code;
}

/* Characters that YAML takes literally inside of double quotes. */
static bool is_plain(uint32_t code)
{
    if (code < 0x80) return code >= 0x20 && code < 0x7f && code != '"' && code != '\\';
    return code >= 0xa0 && code != 0x2028 && code != 0x2029 && code != 0xfeff && code != 0xfffe &&
           code != 0xffff;
}

static void write_quoted(const char *text, FILE *file)
{
    fputc('"', file);
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        const unsigned char *start = at;
        uint32_t code = decode(&at);
        if (is_plain(code))
            fwrite(start, 1, (size_t)(at - start), file);
        else if (code == '"' || code == '\\')
            fprintf(file, "\\%c", (int)code);
        else if (code == '\n')
            fputs("\\n", file);
        else if (code == '\t')
            fputs("\\t", file);
        else
            fprintf(file, code < 0x10000 ? "\\u%04X" : "\\U%08X", (unsigned)code);
    }
    fputc('"', file);
}

static bool is_word(const char *text)
{
    if (!isalpha((unsigned char)*text)) return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && *text != '_' && *text != '-') return false;
    return true;
}

static gln_status_t write_real(const gln_config_field_t *field, double value, FILE *file)
{
    if (isnan(value))
        return gln_fail(GLN_ERR_ARGUMENT, "%s: expected a number to write, found NaN", field->key);
    if (isinf(value))
        fputs(value < 0 ? "-.inf" : ".inf", file);
    else
        fprintf(file, "%.17g", value);
    return GLN_OK;
}

static gln_status_t write_value(const gln_config_field_t *field, const void *values, FILE *file)
{
    const void *at = (const char *)values + field->offset;
    switch (field->type) {
    case GLN_CONFIG_INT:
        fprintf(file, "%lld", (long long)*(const int64_t *)at);
        break;
    case GLN_CONFIG_REAL:
        return write_real(field, *(const double *)at, file);
    case GLN_CONFIG_BOOL:
        fputs(*(const int *)at ? "true" : "false", file);
        break;
    case GLN_CONFIG_TEXT:
        write_quoted(at, file);
        break;
    case GLN_CONFIG_CHOICE: {
        const char *name = field->choices[*(const int *)at];
        if (is_word(name))
            fputs(name, file);
        else
            write_quoted(name, file);
        break;
    }
    }
    return GLN_OK;
}

static bool same_section(const gln_config_field_t *a, const gln_config_field_t *b)
{
    int length = gln_config_section_length(a->key);
    return length == gln_config_section_length(b->key) && !strncmp(a->key, b->key, (size_t)length);
}

static bool opens_section(const gln_config_field_t *fields, int index)
{
    for (int i = 0; i < index; i++)
        if (same_section(&fields[i], &fields[index])) return false;
    return true;
}

static gln_status_t write_section(const gln_config_field_t *fields, int fields_count, int first,
                                  const void *values, FILE *file)
{
    int length = gln_config_section_length(fields[first].key);
    fprintf(file, "%.*s:\n", length, fields[first].key);
    for (int i = first; i < fields_count; i++) {
        if (!same_section(&fields[i], &fields[first])) continue;
        fprintf(file, "  %s: ", fields[i].key + length + 1);
        gln_status_t status = write_value(&fields[i], values, file);
        if (status != GLN_OK) return status;
        fputc('\n', file);
    }
    return GLN_OK;
}

gln_status_t gln_config_write(const gln_config_field_t *fields, int fields_count,
                              const void *values, FILE *file)
{
    gln_status_t status = GLN_OK;
    gln_config_locale_t locale = gln_config_locale_enter();
    for (int i = 0; i < fields_count && status == GLN_OK; i++)
        if (opens_section(fields, i)) status = write_section(fields, fields_count, i, values, file);
    gln_config_locale_leave(locale);
    if (status == GLN_OK && (fflush(file) || ferror(file)))
        status = gln_fail(GLN_ERR_IO, "cannot write the configuration: %s", strerror(errno));
    return status;
}

void gln_config_describe(const gln_config_field_t *fields, int fields_count, FILE *file)
{
    gln_config_locale_t locale = gln_config_locale_enter();
    for (int i = 0; i < fields_count; i++) {
        char expected[GLN_CONFIG_NOTE_MAX];
        gln_config_expected(&fields[i], expected, sizeof expected);
        fprintf(file, "%s: %s; ", fields[i].key, expected);
        if (fields[i].value)
            fprintf(file, "default %s", *fields[i].value ? fields[i].value : "\"\"");
        else
            fputs("required", file);
        fprintf(file, "; %s\n", fields[i].help);
    }
    gln_config_locale_leave(locale);
}
