/* Loading a configuration: defaults, then the file, then the overrides, into a copy of the caller's
 * struct that replaces it only when all went well. Keys are found by a linear search of the schema,
 * which has tens of entries. */
#include "base/config_internal.h"

#include "base/log.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct gln_config {
    const gln_config_field_t *fields;
    int fields_count;
    char **where; /* per field; NULL: the default */
};

typedef struct load {
    gln_config_t *config;
    const char *path;
    void *values;
    const char **sections; /* names of the schema that the file has opened, fields_count places */
    int *sections_line;
    int sections_count;
    int *key_line; /* per field; 0: not in the file */
} load_t;

static int find_field(const gln_config_t *config, const char *key)
{
    for (int i = 0; i < config->fields_count; i++)
        if (!strcmp(config->fields[i].key, key)) return i;
    return -1;
}

static bool same_section(const char *a, const char *b)
{
    int length = gln_config_section_length(a);
    return length == gln_config_section_length(b) && !strncmp(a, b, (size_t)length);
}

/* The first field of the section, NULL if the schema does not know it. */
static const gln_config_field_t *find_section(const gln_config_t *config, const char *section)
{
    for (int i = 0; i < config->fields_count; i++)
        if (same_section(config->fields[i].key, section)) return &config->fields[i];
    return NULL;
}

/* A name this far off is a slip of the keyboard; farther off it is another word. */
static int slip_max(const char *name)
{
    int length = (int)strlen(name);
    return length < 3 ? 1 : length < 6 ? 2 : length / 3 + 1;
}

static void append_sections(const gln_config_t *config, char *note, size_t size)
{
    gln_config_append(note, size, "known sections:");
    for (int i = 0; i < config->fields_count; i++) {
        const char *key = config->fields[i].key;
        if (find_section(config, key) != &config->fields[i]) continue;
        gln_config_append(note, size, "%s %.*s", i ? "," : "", gln_config_section_length(key), key);
    }
}

static gln_status_t fail_section(const gln_config_t *config, const char *where, const char *section)
{
    char note[GLN_CONFIG_NOTE_MAX] = "";
    const char *nearest = NULL;
    int best = slip_max(section) + 1;
    for (int i = 0; i < config->fields_count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", gln_config_section_length(config->fields[i].key),
                 config->fields[i].key);
        int distance = gln_config_distance(section, name);
        if (distance >= best) continue;
        best = distance;
        nearest = config->fields[i].key;
    }
    if (nearest)
        gln_config_append(note, sizeof note, "did you mean %.*s? ",
                          gln_config_section_length(nearest), nearest);
    append_sections(config, note, sizeof note);
    return gln_fail(GLN_ERR_CONFIG, "%s: %.80s: unknown section; %s", where, section, note);
}

/* The nearest key of the same section, else the same key of another section, else NULL. */
static const char *nearest_key(const gln_config_t *config, const char *key)
{
    const char *name = key + gln_config_section_length(key) + 1, *near = NULL, *elsewhere = NULL;
    int best = slip_max(name) + 1;
    for (int i = 0; i < config->fields_count; i++) {
        const char *other = config->fields[i].key;
        int distance = gln_config_distance(name, other + gln_config_section_length(other) + 1);
        if (same_section(other, key) && distance < best) {
            best = distance;
            near = other;
        } else if (distance == 0 && !elsewhere) {
            elsewhere = other;
        }
    }
    return near ? near : elsewhere;
}

/* An unknown key, of a known section or not. */
static gln_status_t fail_key(const gln_config_t *config, const char *where, const char *key)
{
    if (!strchr(key, '.') || !find_section(config, key)) {
        char section[64];
        snprintf(section, sizeof section, "%.*s", gln_config_section_length(key), key);
        return fail_section(config, where, section);
    }
    char note[GLN_CONFIG_NOTE_MAX] = "";
    int length = gln_config_section_length(key);
    const char *nearest = nearest_key(config, key);
    if (nearest) gln_config_append(note, sizeof note, "did you mean %s? ", nearest);
    gln_config_append(note, sizeof note, "known keys of %.*s:", length, key);
    bool first = true;
    for (int i = 0; i < config->fields_count; i++) {
        const char *other = config->fields[i].key;
        if (!same_section(other, key)) continue;
        gln_config_append(note, sizeof note, "%s %s", first ? "" : ",", other + length + 1);
        first = false;
    }
    return gln_fail(GLN_ERR_CONFIG, "%s: %.120s: unknown key; %s", where, key, note);
}

static gln_status_t set_where(load_t *load, int field, const char *where)
{
    char *copy = strdup(where);
    if (!copy) return gln_fail(GLN_ERR_MEMORY, "configuration: out of memory");
    free(load->config->where[field]);
    load->config->where[field] = copy;
    return GLN_OK;
}

/* Convert one value into the copy and remember where it came from; `where` NULL: the default. */
static gln_status_t set_value(load_t *load, int field, const char *text, bool quoted,
                              const char *where)
{
    const gln_config_field_t *at = &load->config->fields[field];
    char problem[GLN_CONFIG_NOTE_MAX];
    if (!gln_config_convert(at, text, quoted, load->values, problem))
        return gln_fail(GLN_ERR_CONFIG, "%s: %s: %s", where ? where : "default", at->key, problem);
    return where ? set_where(load, field, where) : GLN_OK;
}

static gln_status_t set_unquoted(load_t *load, int field, const char *text, const char *where)
{
    bool quoted;
    char *value = gln_config_unquote(text, &quoted);
    if (!value) return gln_fail(GLN_ERR_MEMORY, "configuration: out of memory");
    gln_status_t status = set_value(load, field, value, quoted, where);
    free(value);
    return status;
}

static void format_where(const load_t *load, int line, char *out, size_t size)
{
    snprintf(out, size, "%s:%d", load->path, line);
}

static gln_status_t check_section(void *ctx, const char *section, int line)
{
    load_t *load = ctx;
    char where[GLN_CONFIG_TEXT_MAX];
    format_where(load, line, where, sizeof where);
    if (strchr(section, '.'))
        return gln_fail(GLN_ERR_CONFIG,
                        "%s: %.80s: keys stand below their section, as in \"router: {k: 2}\"",
                        where, section);
    const gln_config_field_t *first = find_section(load->config, section);
    if (!first) return fail_section(load->config, where, section);
    for (int i = 0; i < load->sections_count; i++)
        if (load->sections[i] == first->key)
            return gln_fail(GLN_ERR_CONFIG,
                            "%s: %s: section stands twice, first at line %d; join the two", where,
                            section, load->sections_line[i]);
    load->sections[load->sections_count] = first->key;
    load->sections_line[load->sections_count++] = line;
    return GLN_OK;
}

static gln_status_t take_entry(void *ctx, const gln_config_entry_t *entry)
{
    load_t *load = ctx;
    char where[GLN_CONFIG_TEXT_MAX];
    format_where(load, entry->line, where, sizeof where);
    int field = find_field(load->config, entry->key);
    if (field < 0) return fail_key(load->config, where, entry->key);
    if (load->key_line[field])
        return gln_fail(GLN_ERR_CONFIG, "%s: %s: key stands twice, first at line %d; remove one",
                        where, entry->key, load->key_line[field]);
    load->key_line[field] = entry->line;
    if (!entry->text) {
        char expected[GLN_CONFIG_NOTE_MAX];
        gln_config_expected(&load->config->fields[field], expected, sizeof expected);
        return gln_fail(GLN_ERR_CONFIG, "%s: %s: expected %s, found %s", where, entry->key,
                        expected, entry->is_list ? "a list" : "further keys");
    }
    return set_value(load, field, entry->text, entry->quoted, where);
}

static gln_status_t apply_override(load_t *load, const char *override)
{
    char where[GLN_CONFIG_TEXT_MAX], key[128];
    snprintf(where, sizeof where, "--set %s", override);
    const char *equals = strchr(override, '=');
    if (!equals)
        return gln_fail(GLN_ERR_CONFIG, "%s: expected section.key=value, found no \"=\"", where);
    snprintf(key, sizeof key, "%.*s", (int)(equals - override), override);
    int field = find_field(load->config, key);
    if (field < 0 && !strchr(key, '.') && find_section(load->config, key))
        return gln_fail(GLN_ERR_CONFIG, "%s: %s: expected section.key=value, found only a section",
                        where, key);
    if (field < 0) return fail_key(load->config, where, key);
    return set_unquoted(load, field, equals + 1, where);
}

static gln_status_t apply_defaults(load_t *load)
{
    for (int i = 0; i < load->config->fields_count; i++) {
        const gln_config_field_t *field = &load->config->fields[i];
        if (!field->value) continue;
        gln_status_t status = set_unquoted(load, i, field->value, NULL);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

static gln_status_t check_required(const load_t *load)
{
    for (int i = 0; i < load->config->fields_count; i++) {
        const gln_config_field_t *field = &load->config->fields[i];
        if (field->value || load->config->where[i]) continue;
        char expected[GLN_CONFIG_NOTE_MAX];
        gln_config_expected(field, expected, sizeof expected);
        return gln_fail(GLN_ERR_CONFIG, "%s: %s: required key is missing; set it to %s (%s)",
                        load->path ? load->path : "configuration", field->key, expected,
                        field->help);
    }
    return GLN_OK;
}

static gln_status_t fill(load_t *load, const char *const *overrides, int overrides_count)
{
    gln_status_t status = apply_defaults(load);
    if (status != GLN_OK) return status;
    if (load->path) {
        gln_config_reader_t reader = {load->path, check_section, take_entry, load};
        status = gln_config_read(&reader);
        if (status != GLN_OK) return status;
    }
    for (int i = 0; i < overrides_count; i++) {
        status = apply_override(load, overrides[i]);
        if (status != GLN_OK) return status;
    }
    return check_required(load);
}

static gln_status_t open_config(const gln_config_field_t *fields, int fields_count,
                                gln_config_t **out)
{
    gln_config_t *config = calloc(1, sizeof *config);
    if (!config) return gln_fail(GLN_ERR_MEMORY, "configuration: out of memory");
    config->where = calloc((size_t)fields_count + 1, sizeof *config->where);
    if (!config->where) {
        free(config);
        return gln_fail(GLN_ERR_MEMORY, "configuration: out of memory");
    }
    config->fields = fields;
    config->fields_count = fields_count;
    *out = config;
    return GLN_OK;
}

static size_t field_bytes(gln_config_type_t type)
{
    switch (type) {
    case GLN_CONFIG_INT:
        return sizeof(int64_t);
    case GLN_CONFIG_REAL:
        return sizeof(double);
    case GLN_CONFIG_TEXT:
        return GLN_CONFIG_TEXT_MAX;
    case GLN_CONFIG_BOOL:
    case GLN_CONFIG_CHOICE:
        break;
    }
    return sizeof(int);
}

gln_status_t gln_config_load(const gln_config_field_t *fields, int fields_count, const char *path,
                             const char *const *overrides, int overrides_count, void *values,
                             size_t values_bytes, gln_config_t **out)
{
    for (int i = 0; i < fields_count; i++) { /* the schema is the programmer's */
        GLN_ASSERT(strchr(fields[i].key, '.'));
        GLN_ASSERT(fields[i].offset + field_bytes(fields[i].type) <= values_bytes);
    }
    gln_config_t *config = NULL;
    gln_status_t status = open_config(fields, fields_count, &config);
    if (status != GLN_OK) return status;
    size_t places = (size_t)fields_count + 1;
    load_t load = {.config = config, .path = path};
    load.values = malloc(values_bytes + 1);
    load.sections = calloc(places, sizeof *load.sections);
    load.sections_line = calloc(places, sizeof *load.sections_line);
    load.key_line = calloc(places, sizeof *load.key_line);
    if (load.values && load.sections && load.sections_line && load.key_line) {
        memcpy(load.values, values, values_bytes);
        gln_config_locale_t locale = gln_config_locale_enter();
        status = fill(&load, overrides, overrides_count);
        gln_config_locale_leave(locale);
    } else {
        status = gln_fail(GLN_ERR_MEMORY, "configuration: out of memory");
    }
    if (status == GLN_OK) {
        memcpy(values, load.values, values_bytes);
        if (out) *out = config;
    }
    if (status != GLN_OK || !out) gln_config_close(config);
    free(load.key_line);
    free(load.sections_line);
    free(load.sections);
    free(load.values);
    return status;
}

const char *gln_config_where(const gln_config_t *config, const char *key)
{
    int field = find_field(config, key);
    GLN_ASSERT(field >= 0); /* a key of the schema */
    return config->where[field] ? config->where[field] : "default";
}

gln_status_t gln_config_fail(const gln_config_t *config, const char *key, const char *format, ...)
{
    char message[GLN_CONFIG_NOTE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return gln_fail(GLN_ERR_CONFIG, "%s: %s: %s", gln_config_where(config, key), key, message);
}

void gln_config_close(gln_config_t *config)
{
    if (!config) return;
    for (int i = 0; i < config->fields_count; i++)
        free(config->where[i]);
    free(config->where);
    free(config);
}
