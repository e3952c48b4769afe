/* Placement files: JSON, checked key by key. Linear in the size of the file. */
#include "moe/placement_file.h"

#include "base/log.h"
#include "moe/file.h"
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_NAME "gleaner placement"
enum { VERSION = 1 };

static gln_status_t check_number(const char *path, const json_t *root, const char *key, int want)
{
    const json_t *value = json_object_get(root, key);
    if (json_is_integer(value) && json_integer_value(value) == want) return GLN_OK;
    if (!json_is_integer(value))
        return gln_fail(GLN_ERR_CONFIG,
                        "%s: expected a number \"%s\"; gleaner place makes such a "
                        "file",
                        path, key);
    return gln_fail(GLN_ERR_CONFIG, "%s: expected \"%s\": %d, found %lld", path, key, want,
                    (long long)json_integer_value(value));
}

/* One layer's list into row [E]. @param room [group_domains] scratch */
static gln_status_t read_layer(const char *path, const char *layer, const json_t *list, int experts,
                               int group_domains, int *room, int32_t *row)
{
    if (!json_is_array(list) || json_array_size(list) != (size_t)experts)
        return gln_fail(GLN_ERR_CONFIG, "%s: layer %.20s: expected a list of %d domains", path,
                        layer, experts);
    for (int d = 0; d < group_domains; d++)
        room[d] = experts / group_domains;
    for (int e = 0; e < experts; e++) {
        const json_t *item = json_array_get(list, (size_t)e);
        json_int_t domain = json_is_integer(item) ? json_integer_value(item) : -1;
        if (domain < 0 || domain >= group_domains)
            return gln_fail(GLN_ERR_CONFIG,
                            "%s: layer %.20s, expert %d: expected a domain from 0 to %d", path,
                            layer, e, group_domains - 1);
        if (room[domain]-- == 0)
            return gln_fail(GLN_ERR_CONFIG, "%s: layer %.20s: domain %d hosts more than %d experts",
                            path, layer, (int)domain, experts / group_domains);
        row[e] = (int32_t)domain;
    }
    return GLN_OK;
}

static gln_status_t read_layers(const char *path, const json_t *layers, int experts,
                                int group_domains, int layers_count, int *room, int32_t *out)
{
    const char *key;
    json_t *list;
    if (!json_is_object(layers))
        return gln_fail(GLN_ERR_CONFIG, "%s: expected an object \"layers\"", path);
    for (int64_t i = 0; i < (int64_t)layers_count * experts; i++)
        out[i] = (int32_t)(i % experts / (experts / group_domains));
    json_object_foreach((json_t *)(uintptr_t)layers, key, list)
    {
        char *end;
        long layer = key[0] >= '0' && key[0] <= '9' ? strtol(key, &end, 10) : -1;
        if (layer < 0 || *end || layer >= layers_count)
            return gln_fail(GLN_ERR_CONFIG,
                            "%s: expected layers from 0 to %d, found \"%.20s\"; it was made for "
                            "another model",
                            path, layers_count - 1, key);
        gln_status_t status =
            read_layer(path, key, list, experts, group_domains, room, out + layer * experts);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

gln_status_t gln_placement_file_read(const char *path, int experts, int group_domains,
                                     int layers_count, int32_t *domain_of)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return gln_fail(GLN_ERR_CONFIG, "%s: cannot read a placement: line %d: %s", path,
                        error.line, error.text);
    size_t bytes = (size_t)layers_count * (size_t)experts * sizeof *domain_of;
    int32_t *all = malloc(bytes + 1);
    int *room = malloc((size_t)group_domains * sizeof *room);
    const char *format = json_string_value(json_object_get(root, "format"));
    gln_status_t status = GLN_OK;
    if (!all || !room)
        status = gln_fail(GLN_ERR_MEMORY, "%s: no memory for %d layers", path, layers_count);
    else if (!format || strcmp(format, FORMAT_NAME) != 0)
        status = gln_fail(GLN_ERR_CONFIG,
                          "%s: expected \"format\": \"" FORMAT_NAME "\"; gleaner place makes such "
                          "a file",
                          path);
    if (status == GLN_OK) status = check_number(path, root, "version", VERSION);
    if (status == GLN_OK) status = check_number(path, root, "experts", experts);
    if (status == GLN_OK) status = check_number(path, root, "domains", group_domains);
    if (status == GLN_OK)
        status = read_layers(path, json_object_get(root, "layers"), experts, group_domains,
                             layers_count, room, all);
    if (status == GLN_OK) memcpy(domain_of, all, bytes);
    free(room);
    free(all);
    json_decref(root);
    return status;
}

static void put(FILE *out, int experts, int group_domains, const int *layer, int layers_count,
                const int32_t *domain_of)
{
    fprintf(out,
            "{\n \"format\": \"" FORMAT_NAME "\",\n \"version\": %d,\n \"experts\": %d,\n"
            " \"domains\": %d,\n \"layers\": {",
            VERSION, experts, group_domains);
    for (int i = 0; i < layers_count; i++) {
        fprintf(out, "%s\n  \"%d\": [", i ? "," : "", layer[i]);
        for (int e = 0; e < experts; e++)
            fprintf(out, "%s%d", e ? ", " : "", domain_of[(int64_t)i * experts + e]);
        fprintf(out, "]");
    }
    fprintf(out, "\n }\n}\n");
}

/* Written aside and renamed: a run that reads the path finds a whole file or none. */
static gln_status_t write_text(const char *path, const char *text, size_t bytes)
{
    char partial[PATH_MAX];
    gln_file_writer_t writer;
    int length = snprintf(partial, sizeof partial, "%s.partial", path);
    if (length >= (int)sizeof partial)
        return gln_fail(GLN_ERR_IO, "%.80s...: the path is too long", path);
    gln_status_t status = gln_file_writer_open(partial, &writer);
    if (status != GLN_OK) return status;
    status = gln_file_writer_add(&writer, text, bytes);
    status = gln_file_writer_close(&writer, status, NULL, NULL);
    if (status != GLN_OK) return status;
    if (rename(partial, path) == 0) return GLN_OK;
    remove(partial);
    return gln_fail(GLN_ERR_IO, "%s: cannot be put in place; check the folder", path);
}

gln_status_t gln_placement_file_write(const char *path, int experts, int group_domains,
                                      const int *layer, int layers_count, const int32_t *domain_of)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out) put(out, experts, group_domains, layer, layers_count, domain_of);
    int failed = !out || ferror(out);
    if (out && fclose(out) != 0) failed = 1;
    gln_status_t status = failed ? gln_fail(GLN_ERR_MEMORY, "%s: no memory for its text", path)
                                 : write_text(path, text, bytes);
    free(text);
    return status;
}
