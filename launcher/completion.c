/* Completion for bash: a case per command with its options, generated from the table of commands,
 * around a function that knows nothing of them. */
#include "launcher/manual.h"

#include "moe/run_options.h"
#include <string.h>

static void commands_of(FILE *file, const char *group)
{
    const char *last = "";
    size_t length = group ? strlen(group) : 0, last_length = 0;
    for (const gln_command_t *c = gln_commands(); c->name; c++) {
        const char *space = strchr(c->name, ' ');
        if (group) {
            if (space && (size_t)(space - c->name) == length && !strncmp(c->name, group, length))
                fprintf(file, "%s ", space + 1);
            continue;
        }
        size_t first = space ? (size_t)(space - c->name) : strlen(c->name);
        if (first == last_length && !strncmp(last, c->name, first)) continue;
        last = c->name, last_length = first;
        fprintf(file, "%.*s ", (int)first, c->name);
    }
}

/* "bench) words='layer gemm ...';;" once per first word of commands with two */
static void groups(FILE *file)
{
    const char *last = NULL;
    for (const gln_command_t *c = gln_commands(); c->name; c++) {
        char group[32];
        const char *space = strchr(c->name, ' ');
        if (!space) continue;
        snprintf(group, sizeof group, "%.*s", (int)(space - c->name), c->name);
        if (last && !strncmp(last, c->name, strlen(group) + 1)) continue;
        last = c->name;
        fprintf(file, "    %s) echo \"", group);
        commands_of(file, group);
        fprintf(file, "\" ;;\n");
    }
}

/* @param valued 1: those that take a value */
static void options_of(const gln_command_t *command, int valued, FILE *file)
{
    for (int i = 0; i < GLN_OPTIONS; i++) {
        const gln_option_text_t *text = gln_option_text((gln_option_t)i);
        if (!(command->options & UINT64_C(1) << i)) continue;
        if (!valued || text->value) fprintf(file, "%s ", text->name);
    }
}

void gln_completion_bash(FILE *file)
{
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    fprintf(file, "# bash completion of gleaner; generated from its table of commands\n\n"
                  "_gleaner_groups()\n{\n    case $1 in\n");
    groups(file);
    fprintf(file, "    esac\n}\n\n_gleaner_options()\n{\n    case $1 in\n");
    for (const gln_command_t *c = gln_commands(); c->name; c++) {
        fprintf(file, "    '%s') echo \"", c->name);
        options_of(c, 0, file);
        fprintf(file, "\" ;;\n");
    }
    fprintf(file, "    esac\n}\n\n_gleaner_values()\n{\n    case $1 in\n");
    for (const gln_command_t *c = gln_commands(); c->name; c++) {
        fprintf(file, "    '%s') echo \" ", c->name);
        options_of(c, 1, file);
        fprintf(file, "\" ;;\n");
    }
    fprintf(file, "    esac\n}\n\n_gleaner_keys=\"");
    for (int i = 0; i < count; i++)
        fprintf(file, "%s=%s", fields[i].key, i + 1 < count ? " " : "");
    fprintf(file, "\"\n_gleaner_commands=\"");
    commands_of(file, NULL);
    fputs("help --help --version\"\n\n"
          "_gleaner()\n"
          "{\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "    local command=${COMP_WORDS[1]} words\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        COMPREPLY=($(compgen -W \"$_gleaner_commands\" -- \"$word\"))\n"
          "        return\n"
          "    fi\n"
          "    words=$(_gleaner_groups \"$command\")\n"
          "    if [[ -n $words ]]; then\n"
          "        if ((COMP_CWORD == 2)); then\n"
          "            COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
          "            return\n"
          "        fi\n"
          "        command=\"$command ${COMP_WORDS[2]}\"\n"
          "    fi\n"
          "    if [[ $before == --set ]]; then\n"
          "        compopt -o nospace 2>/dev/null\n"
          "        COMPREPLY=($(compgen -W \"$_gleaner_keys\" -- \"$word\"))\n"
          "    elif [[ $(_gleaner_values \"$command\") == *\" $before \"* ]]; then\n"
          "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
          "    elif [[ $word == -* ]]; then\n"
          "        COMPREPLY=($(compgen -W \"$(_gleaner_options \"$command\")\" -- \"$word\"))\n"
          "    elif [[ $command == help ]]; then\n"
          "        COMPREPLY=($(compgen -W \"$_gleaner_commands\" -- \"$word\"))\n"
          "    else\n"
          "        compopt -o filenames 2>/dev/null\n"
          "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
          "    fi\n"
          "}\n"
          "complete -F _gleaner gleaner\n",
          file);
}
