/* Manual pages in the man macros of roff(7). Text from the tables is filled anew; a run file's
 * reference keeps its lines, one key each. */
#include "launcher/manual.h"

#include "moe/gleaner.h"
#include "moe/run_options.h"
#include <stdlib.h>
#include <string.h>

/* Backslash and hyphen are escaped everywhere, a dot or quote where a line begins. */
static void put(FILE *file, const char *text)
{
    int begins = 1;
    for (const char *c = text; *c; c++) {
        if (begins && (*c == '.' || *c == '\'')) fputs("\\&", file);
        if (*c == '\\')
            fputs("\\e", file);
        else if (*c == '-')
            fputs("\\-", file);
        else
            fputc(*c, file);
        begins = *c == '\n';
    }
}

/* In the middle of a line. */
static void put_word(FILE *file, const char *before, const char *text, const char *after)
{
    fputs(before, file);
    put(file, text);
    fputs(after, file);
}

void gln_manual_name(const gln_command_t *command, char *out, size_t size)
{
    snprintf(out, size, "gleaner-%s", command->name);
    for (char *c = out; *c; c++)
        if (*c == ' ') *c = '-';
}

static void title(FILE *file, const char *name, const char *summary)
{
    fputs(".TH \"", file);
    for (const char *c = name; *c; c++)
        fputc(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c, file);
    fprintf(file, "\" 1 \"\" \"gleaner %s\" \"gleaner\"\n.SH NAME\n", gln_version());
    put(file, name);
    put_word(file, " \\- ", summary, "\n");
}

void gln_manual_overview(FILE *file)
{
    title(file, "gleaner", "train Mixture-of-Experts language models over MPI ranks");
    fputs(".SH SYNOPSIS\n.B gleaner\n.I COMMAND\n[\\fIOPTIONS\\fR] ...\n.br\n"
          ".B mpirun \\-n\n.I P\n.B gleaner train\n.I RUN.yaml\n.SH COMMANDS\n",
          file);
    for (const gln_command_t *c = gln_commands(); c->name; c++) {
        char page[64];
        gln_manual_name(c, page, sizeof page);
        put_word(file, ".TP\n\\fB", c->name, "\\fR");
        put_word(file, " ", c->operands, "\n");
        put_word(file, "", c->summary, ".\n");
        put_word(file, "See \\fB", page, "\\fR(1).\n");
    }
    fputs(".TP\n\\fBhelp\\fR [\\fICOMMAND\\fR]\nThis overview, or the help of a command.\n"
          ".SH OPTIONS\n.TP\n.B \\-\\-version\nPrint the version.\n"
          ".TP\n.B \\-\\-help\nPrint the overview.\n"
          ".SH EXIT STATUS\n0 done; 2 bad input; 1 anything else.\n",
          file);
}

static void options(const gln_command_t *command, FILE *file)
{
    fputs(".SH OPTIONS\n", file);
    for (int i = 0; i < GLN_OPTIONS; i++) {
        if (!(command->options & UINT64_C(1) << i)) continue;
        const gln_option_text_t *text = gln_option_text((gln_option_t)i);
        put_word(file, ".TP\n\\fB", text->name, "\\fR");
        if (text->value) put_word(file, " \\fI", text->value, "\\fR");
        put_word(file, "\n", text->help, ".\n");
    }
}

/* The reference as help prints it, line by line. */
static void keys(FILE *file)
{
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    char *text = NULL;
    size_t bytes = 0;
    FILE *lines = open_memstream(&text, &bytes);
    if (!lines) return;
    gln_config_describe(fields, count, lines);
    fclose(lines);
    fputs(".SH RUN FILE\nYAML; keys are section.key.\n", file);
    for (char *rest = text, *line; (line = strtok_r(rest, "\n", &rest));) {
        char *end = strstr(line, ": ");
        if (!end) continue;
        *end = '\0';
        put_word(file, ".TP\n\\fB", line, "\\fR\n");
        put_word(file, "", end + 2, ".\n");
    }
    free(text);
}

void gln_manual_command(const gln_command_t *command, FILE *file)
{
    char name[64];
    gln_manual_name(command, name, sizeof name);
    title(file, name, command->summary);
    put_word(file, ".SH SYNOPSIS\n\\fBgleaner ", command->name, "\\fR");
    if (command->operands[0]) put_word(file, " \\fI", command->operands, "\\fR");
    fputs(" [\\fIOPTIONS\\fR]\n", file);
    if (command->detail[0]) {
        fputs(".SH DESCRIPTION\n", file);
        put(file, command->detail);
    }
    options(command, file);
    if (command->config_reference) keys(file);
    fputs(".SH EXIT STATUS\n0 done; 2 bad input; 1 anything else.\n.SH SEE ALSO\n"
          ".BR gleaner (1)\n",
          file);
}
