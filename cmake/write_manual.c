/* Run by the build: write_manual FOLDER writes FOLDER/man1/gleaner*.1 and FOLDER/gleaner, the
 * completion for bash. */
#include "launcher/manual.h"

#include <stdlib.h>

static FILE *create(const char *folder, const char *name, const char *suffix)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    return file;
}

static void finish(FILE *file)
{
    if (ferror(file) | fclose(file)) {
        perror("write_manual");
        exit(EXIT_FAILURE);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) return EXIT_FAILURE;
    FILE *file = create(argv[1], "man1/gleaner", ".1");
    gln_manual_overview(file);
    finish(file);
    for (const gln_command_t *c = gln_commands(); c->name; c++) {
        char name[64];
        gln_manual_name(c, name, sizeof name);
        char page[80];
        snprintf(page, sizeof page, "man1/%s", name);
        file = create(argv[1], page, ".1");
        gln_manual_command(c, file);
        finish(file);
    }
    file = create(argv[1], "gleaner", "");
    gln_completion_bash(file);
    finish(file);
    return EXIT_SUCCESS;
}
