/* Configuration: YAML against a schema. The schema is a table; loading, checking, overriding,
 * documenting and writing back all come from it.
 *
 * Keys are "section.key" (two levels). YAML may be written in block or flow style. Types are
 * strict: a number where a string is wanted is an error, and so on. Errors name file, line, key,
 * what was found and what is allowed; a misspelt key names the nearest known one. Overrides
 * ("key=value") are checked the same way and named "--set" in errors. */
#ifndef GLN_BASE_CONFIG_H
#define GLN_BASE_CONFIG_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_CONFIG_TEXT_MAX 512 /* bytes of a string value, terminator included */

typedef enum gln_config_type {
    GLN_CONFIG_INT,   /* int64_t, in [min, max] */
    GLN_CONFIG_REAL,  /* double, in [min, max]; "inf" or ".inf" allowed when max is infinity */
    GLN_CONFIG_BOOL,  /* int, true or false */
    GLN_CONFIG_TEXT,  /* char[GLN_CONFIG_TEXT_MAX] */
    GLN_CONFIG_CHOICE /* int, index into `choices` */
} gln_config_type_t;

typedef struct gln_config_field {
    const char *key; /* "router.capacity_factor" */
    gln_config_type_t type;
    size_t offset;              /* of the value in the caller's struct */
    double min, max;            /* INT and REAL: inclusive bounds */
    const char *const *choices; /* CHOICE: NULL-terminated names */
    const char *value; /* default as it would stand in the file; NULL: the key is required */
    const char *help;  /* one line, for --help and the reference */
} gln_config_field_t;

typedef struct gln_config gln_config_t;

/** Fill `values` with defaults, then the file, then the overrides. Nothing is written on error.
 *  @param fields     schema, borrowed until close; fields_count entries
 *  @param path       YAML file; NULL for defaults and overrides alone
 *  @param overrides  overrides_count strings "key=value", borrowed until close
 *  @param values     the caller's struct, values_bytes long
 *  @param out        where each value came from; NULL if not wanted. Close it.
 *  @return GLN_OK; GLN_ERR_CONFIG (message names file, line, key); GLN_ERR_IO. */
gln_status_t gln_config_load(const gln_config_field_t *fields, int fields_count, const char *path,
                             const char *const *overrides, int overrides_count, void *values,
                             size_t values_bytes, gln_config_t **out);

/** Where the value of `key` came from: "run.yaml:12", "--set router.k=3" or "default".
 *  Valid until close. For errors that involve several keys. */
const char *gln_config_where(const gln_config_t *config, const char *key);

/** Report that `key` has a bad value: "<where>: <key>: <message>". Returns GLN_ERR_CONFIG. */
gln_status_t gln_config_fail(const gln_config_t *config, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** Write all values as YAML that loads to the same struct, bit for bit (reals with 17 digits). */
gln_status_t gln_config_write(const gln_config_field_t *fields, int fields_count,
                              const void *values, FILE *file);

/** Print the reference: one line per key with type, allowed values, default and help. */
void gln_config_describe(const gln_config_field_t *fields, int fields_count, FILE *file);

void gln_config_close(gln_config_t *config); /* takes NULL */

#ifdef __cplusplus
}
#endif
#endif
