/* Shared by the files of the configuration: entries as read, scalars as understood. Not for others.
 */
#ifndef GLN_BASE_CONFIG_INTERNAL_H
#define GLN_BASE_CONFIG_INTERNAL_H

#include "base/config.h"
#include <stdbool.h>

enum {
    GLN_CONFIG_FILE_MAX = 1 << 20, /* bytes of a configuration file */
    GLN_CONFIG_NOTE_MAX = 640      /* bytes of a list or a suggestion inside a message */
};

/* One "key: value" as it was found. */
typedef struct gln_config_entry {
    char *key;   /* "section.key" */
    char *text;  /* the scalar; NULL for a list or a section of keys */
    bool quoted; /* a string whatever it looks like */
    bool is_list;
    int line;
} gln_config_entry_t;

/* Called for each entry of a file in order; an error ends the reading. */
typedef gln_status_t (*gln_config_entry_fn)(void *ctx, const gln_config_entry_t *entry);

/* Read a whole YAML file and call `take` for every key. `check_section` is called for every section
 * name before its keys. Errors are reported here. */
typedef struct gln_config_reader {
    const char *path;
    gln_status_t (*check_section)(void *ctx, const char *section, int line);
    gln_config_entry_fn take;
    void *ctx;
} gln_config_reader_t;
gln_status_t gln_config_read(const gln_config_reader_t *reader);

/* What a plain scalar is. */
typedef enum gln_config_kind {
    GLN_KIND_NULL,
    GLN_KIND_BOOL,
    GLN_KIND_INT,
    GLN_KIND_REAL,
    GLN_KIND_STRING
} gln_config_kind_t;
gln_config_kind_t gln_config_classify(const char *text, bool quoted);

/* Convert a scalar into the field's place in `values`. On failure `problem` says what was expected
 * and found, and false is returned. */
bool gln_config_convert(const gln_config_field_t *field, const char *text, bool quoted,
                        void *values, char problem[GLN_CONFIG_NOTE_MAX]);

/* "expected an integer from 1 to 8", "expected one of topk, fr" */
void gln_config_expected(const gln_config_field_t *field, char *out, size_t size);

/* A real as short as it can be and still read back to the same bits. */
void gln_config_format_real(double value, char *out, size_t size);

/* A value outside of a file ("--set", a default): quotes around it are taken off. Caller frees. */
char *gln_config_unquote(const char *text, bool *quoted);

/* Append to a string of `size` bytes; what does not fit ends in "...". */
void gln_config_append(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Optimal string alignment distance, for suggestions. */
int gln_config_distance(const char *a, const char *b);

/* Length of the section part of "section.key". */
int gln_config_section_length(const char *key);

/* Numbers are read and written with a point whatever the locale of the program is. */
typedef struct gln_config_locale {
    void *c, *old;
} gln_config_locale_t;
gln_config_locale_t gln_config_locale_enter(void);
void gln_config_locale_leave(gln_config_locale_t locale);

#endif
