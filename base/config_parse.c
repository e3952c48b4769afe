/* YAML into entries, from libyaml's events: a document is a mapping of sections, a section is a
 * mapping of scalars. Everything else of YAML (anchors, tags, deeper nesting, several documents)
 * is refused by name. O(file). */
#include "base/config_internal.h"

#include "base/log.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct parse {
    const gln_config_reader_t *reader;
    yaml_parser_t parser;
} parse_t;

static gln_status_t read_file(const char *path, unsigned char **out, size_t *out_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return gln_fail(GLN_ERR_CONFIG, "%s: cannot open the configuration: %s", path,
                        strerror(errno));
    gln_status_t status = GLN_OK;
    unsigned char *bytes = malloc(GLN_CONFIG_FILE_MAX + 1);
    if (!bytes) {
        status =
            gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate %d bytes", path, GLN_CONFIG_FILE_MAX + 1);
        goto close_file;
    }
    size_t count = fread(bytes, 1, GLN_CONFIG_FILE_MAX + 1, file);
    if (ferror(file)) {
        status =
            gln_fail(GLN_ERR_IO, "%s: cannot read the configuration: %s", path, strerror(errno));
        goto free_bytes;
    }
    if (count > GLN_CONFIG_FILE_MAX) {
        status = gln_fail(GLN_ERR_CONFIG, "%s: expected a configuration of at most %d bytes", path,
                          GLN_CONFIG_FILE_MAX);
        goto free_bytes;
    }
    fclose(file);
    *out = bytes;
    *out_bytes = count;
    return GLN_OK;
free_bytes:
    free(bytes);
close_file:
    fclose(file);
    return status;
}

static int line_of(const yaml_event_t *event)
{
    return (int)event->start_mark.line + 1;
}

static gln_status_t refuse(const parse_t *parse, const yaml_event_t *event, const char *message)
{
    return gln_fail(GLN_ERR_CONFIG, "%s:%d: %s", parse->reader->path, line_of(event), message);
}

/* The next event, without what this configuration does not use. */
static gln_status_t next_event(parse_t *parse, yaml_event_t *event)
{
    if (!yaml_parser_parse(&parse->parser, event)) {
        const yaml_parser_t *p = &parse->parser;
        if (p->error == YAML_MEMORY_ERROR)
            return gln_fail(GLN_ERR_MEMORY, "%s: out of memory", parse->reader->path);
        if (p->error == YAML_READER_ERROR) /* has an offset, no line */
            return gln_fail(GLN_ERR_CONFIG, "%s: byte %zu: not valid text: %s", parse->reader->path,
                            p->problem_offset, p->problem);
        return gln_fail(GLN_ERR_CONFIG, "%s:%d: not valid YAML: %s%s%s", parse->reader->path,
                        (int)p->problem_mark.line + 1, p->problem ? p->problem : "unknown problem",
                        p->context ? " " : "", p->context ? p->context : "");
    }
    const char *problem = NULL;
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        problem = "aliases (*name) are not supported; repeat the value";
        break;
    case YAML_SCALAR_EVENT:
        if (event->data.scalar.anchor) problem = "anchors (&name) are not supported";
        if (event->data.scalar.tag) problem = "tags (!name) are not supported";
        if (strlen((char *)event->data.scalar.value) != event->data.scalar.length)
            problem = "a value holds a zero byte";
        break;
    case YAML_MAPPING_START_EVENT:
        if (event->data.mapping_start.anchor) problem = "anchors (&name) are not supported";
        if (event->data.mapping_start.tag) problem = "tags (!name) are not supported";
        break;
    default:
        break;
    }
    if (!problem) return GLN_OK;
    gln_status_t status = refuse(parse, event, problem);
    yaml_event_delete(event);
    return status;
}

static bool is_quoted(const yaml_event_t *event)
{
    return event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

/* One "name: value" inside of a section; the event of the name is given. */
static gln_status_t parse_entry(parse_t *parse, const char *section, const yaml_event_t *name)
{
    if (name->type != YAML_SCALAR_EVENT) return refuse(parse, name, "expected the name of a key");
    size_t size = strlen(section) + name->data.scalar.length + 2;
    char *key = malloc(size);
    if (!key) return gln_fail(GLN_ERR_MEMORY, "%s: out of memory", parse->reader->path);
    snprintf(key, size, "%s.%s", section, (const char *)name->data.scalar.value);
    yaml_event_t value;
    gln_status_t status = next_event(parse, &value);
    if (status != GLN_OK) goto free_key;
    gln_config_entry_t entry = {.key = key, .line = line_of(name)};
    if (value.type == YAML_SCALAR_EVENT) {
        entry.text = (char *)value.data.scalar.value;
        entry.quoted = is_quoted(&value);
    } else {
        entry.is_list = value.type == YAML_SEQUENCE_START_EVENT;
    }
    status = parse->reader->take(parse->reader->ctx, &entry);
    yaml_event_delete(&value);
free_key:
    free(key);
    return status;
}

/* The keys of one section, up to the end of its mapping. */
static gln_status_t parse_section(parse_t *parse, const char *section)
{
    for (;;) {
        yaml_event_t event;
        gln_status_t status = next_event(parse, &event);
        if (status != GLN_OK) return status;
        bool ends = event.type == YAML_MAPPING_END_EVENT;
        if (!ends) status = parse_entry(parse, section, &event);
        yaml_event_delete(&event);
        if (ends || status != GLN_OK) return status;
    }
}

/* One "section: {...}"; the event of the name is given. A section without keys may be left empty.
 */
static gln_status_t parse_section_entry(parse_t *parse, const yaml_event_t *name)
{
    if (name->type != YAML_SCALAR_EVENT)
        return refuse(parse, name, "expected the name of a section");
    const char *section = (const char *)name->data.scalar.value;
    gln_status_t status = parse->reader->check_section(parse->reader->ctx, section, line_of(name));
    if (status != GLN_OK) return status;
    yaml_event_t value;
    status = next_event(parse, &value);
    if (status != GLN_OK) return status;
    if (value.type == YAML_MAPPING_START_EVENT)
        status = parse_section(parse, section);
    else if (value.type == YAML_SEQUENCE_START_EVENT ||
             gln_config_classify((char *)value.data.scalar.value, is_quoted(&value)) !=
                 GLN_KIND_NULL)
        status = gln_fail(GLN_ERR_CONFIG, "%s:%d: %s: expected keys below this section, found %s",
                          parse->reader->path, line_of(&value), section,
                          value.type == YAML_SCALAR_EVENT ? "a value" : "a list");
    yaml_event_delete(&value);
    return status;
}

/* The body of the document; its start event was read. */
static gln_status_t parse_root(parse_t *parse)
{
    yaml_event_t event;
    gln_status_t status = next_event(parse, &event);
    if (status != GLN_OK) return status;
    bool is_null =
        event.type == YAML_SCALAR_EVENT &&
        gln_config_classify((char *)event.data.scalar.value, is_quoted(&event)) == GLN_KIND_NULL;
    bool is_mapping = event.type == YAML_MAPPING_START_EVENT;
    if (!is_mapping && !is_null)
        status =
            refuse(parse, &event, "expected sections, each with keys, as in \"router: {k: 2}\"");
    yaml_event_delete(&event);
    while (status == GLN_OK && is_mapping) {
        status = next_event(parse, &event);
        if (status != GLN_OK) return status;
        is_mapping = event.type != YAML_MAPPING_END_EVENT;
        if (is_mapping) status = parse_section_entry(parse, &event);
        yaml_event_delete(&event);
    }
    return status;
}

static gln_status_t parse_stream(parse_t *parse)
{
    int documents_count = 0;
    for (;;) {
        yaml_event_t event;
        gln_status_t status = next_event(parse, &event);
        if (status != GLN_OK) return status;
        bool ends = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            if (++documents_count > 1)
                status = refuse(parse, &event, "expected one document, found a second one");
            else
                status = parse_root(parse);
        }
        yaml_event_delete(&event);
        if (ends || status != GLN_OK) return status;
    }
}

gln_status_t gln_config_read(const gln_config_reader_t *reader)
{
    unsigned char *bytes = NULL;
    size_t bytes_count = 0;
    gln_status_t status = read_file(reader->path, &bytes, &bytes_count);
    if (status != GLN_OK) return status;
    parse_t parse = {.reader = reader};
    if (!yaml_parser_initialize(&parse.parser)) {
        status = gln_fail(GLN_ERR_MEMORY, "%s: out of memory", reader->path);
        goto free_bytes;
    }
    yaml_parser_set_encoding(&parse.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parse.parser, bytes, bytes_count);
    status = parse_stream(&parse);
    yaml_parser_delete(&parse.parser);
free_bytes:
    free(bytes);
    return status;
}
