/* `gleaner ckpt info` and `gleaner ckpt digest`: on one process and without MPI. */
#include "launcher/command.h"

#include "launcher/figures.h"
#include "launcher/session.h"
#include "moe/checkpoint.h"
#include <string.h>

static void print_item(void *ctx, const char *group, const char *key, const char *value)
{
    const char **last = ctx;
    if (!*last || strcmp(*last, group)) printf("%s\n", group);
    *last = group;
    printf("  %-44s %s\n", key, value);
}

static void print_item_json(void *ctx, const char *group, const char *key, const char *value)
{
    gln_status_t *status = ctx;
    if (*status != GLN_OK) return;
    *status =
        gln_figures_print(json_pack("{s:s, s:s, s:s}", "group", group, "key", key, "value", value),
                          stdout, "standard output");
}

int gln_command_ckpt_info(const gln_arguments_t *arguments)
{
    gln_session_t session;
    gln_status_t printed = GLN_OK;
    const char *last = NULL;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    gln_session_start(&session);
    gln_status_t status =
        arguments->given[GLN_OPTION_JSON]
            ? gln_checkpoint_info(arguments->operands[0], print_item_json, &printed)
            : gln_checkpoint_info(arguments->operands[0], print_item, &last);
    if (status == GLN_OK) status = printed;
    return gln_session_leave(&session, gln_session_agree(&session, status));
}

int gln_command_ckpt_digest(const gln_arguments_t *arguments)
{
    gln_session_t session;
    char digest[33];
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    gln_session_start(&session);
    gln_status_t status = gln_checkpoint_digest(arguments->operands[0], digest);
    if (status == GLN_OK && arguments->given[GLN_OPTION_JSON])
        status = gln_figures_print(
            json_pack("{s:s, s:s}", "path", arguments->operands[0], "digest", digest), stdout,
            "standard output");
    else if (status == GLN_OK)
        printf("%s\n", digest);
    return gln_session_leave(&session, gln_session_agree(&session, status));
}
