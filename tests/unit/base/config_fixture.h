/* The schema that the tests of the configuration share, and a way to load a text as a file. */
#ifndef GLN_TESTS_CONFIG_FIXTURE_H
#define GLN_TESTS_CONFIG_FIXTURE_H

#include "base/config.h"
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct values {
    int64_t k, seed, big;
    double factor, rate;
    int policy, bias, before;
    char name[GLN_CONFIG_TEXT_MAX];
    char data[GLN_CONFIG_TEXT_MAX];
} values_t;

static const char *const policies[] = {"topk", "fr", "fr-ir", "null", "a: b", NULL};

static const gln_config_field_t fields[] = {
    {"router.k", GLN_CONFIG_INT, offsetof(values_t, k), 1, 64, NULL, "2", "routes per token"},
    {"router.capacity_factor", GLN_CONFIG_REAL, offsetof(values_t, factor), 0, INFINITY, NULL,
     "1.25", "slots per expected route"},
    {"router.policy", GLN_CONFIG_CHOICE, offsetof(values_t, policy), 0, 0, policies, "fr-ir",
     "who gets a slot"},
    {"router.bias", GLN_CONFIG_BOOL, offsetof(values_t, bias), 0, 0, NULL, "false", "balance bias"},
    {"train.rate", GLN_CONFIG_REAL, offsetof(values_t, rate), 1e-9, 1, NULL, "3e-4", "step size"},
    {"train.seed", GLN_CONFIG_INT, offsetof(values_t, seed), 0, 9.3e18, NULL, "1234", "seed"},
    {"train.big", GLN_CONFIG_INT, offsetof(values_t, big), -9.3e18, 9.3e18, NULL, "-1", "any"},
    {"run.name", GLN_CONFIG_TEXT, offsetof(values_t, name), 0, 0, NULL, "", "name of the run"},
    {"run.data", GLN_CONFIG_TEXT, offsetof(values_t, data), 0, 0, NULL, "'a b'", "input"},
};
enum { FIELDS_COUNT = sizeof fields / sizeof fields[0] };

/* Work in a fresh directory, so that messages name the plain file. */
static inline void enter_directory(void)
{
    char path[] = "/tmp/gleaner-config-XXXXXX";
    if (!mkdtemp(path) || chdir(path)) abort();
}

static inline void leave_directory(void)
{
    char path[256];
    remove("run.yaml");
    if (!getcwd(path, sizeof path) || chdir("/") || rmdir(path)) abort();
}

static inline void write_text(const char *text, size_t bytes)
{
    FILE *file = fopen("run.yaml", "wb");
    if (!file || fwrite(text, 1, bytes, file) != bytes || fclose(file)) abort();
}

static inline gln_status_t load_text(const char *text, const char *override, values_t *values,
                                     gln_config_t **out)
{
    if (text) write_text(text, strlen(text));
    return gln_config_load(fields, FIELDS_COUNT, text ? "run.yaml" : NULL, &override,
                           override ? 1 : 0, values, sizeof *values, out);
}

#endif
