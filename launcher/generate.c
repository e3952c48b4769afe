/* `gleaner generate`: continue a text with a byte-level model, on one process and without MPI.
 * Under mpirun the first rank does it and the others leave. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "launcher/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct generate {
    const char *prompt;
    int64_t prompt_count, count, seed, threads;
    double temperature;
    int32_t *tokens; /* [prompt_count + count] */
} generate_t;

static gln_status_t read_arguments(const gln_arguments_t *arguments, generate_t *g)
{
    const char *prompt = arguments->value[GLN_OPTION_PROMPT];
    g->prompt = prompt && *prompt ? prompt : "\n";
    g->prompt_count = (int64_t)strlen(g->prompt);
    gln_status_t status =
        gln_arguments_int(arguments, GLN_OPTION_LENGTH, 400, 0, 1 << 24, &g->count);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_SEED, 1, 0, INT64_MAX, &g->seed);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_THREADS, 0, 0, 1024, &g->threads);
    if (status == GLN_OK)
        status =
            gln_arguments_real(arguments, GLN_OPTION_TEMPERATURE, 0.8, 0, 100, &g->temperature);
    if (status != GLN_OK) return status;
    g->tokens = calloc((size_t)(g->prompt_count + g->count), sizeof *g->tokens);
    if (!g->tokens)
        return gln_fail(GLN_ERR_MEMORY, "out of memory for %lld bytes of text",
                        (long long)g->count);
    for (int64_t i = 0; i < g->prompt_count; i++)
        g->tokens[i] = (unsigned char)g->prompt[i];
    return GLN_OK;
}

static gln_status_t print_json(const generate_t *g, const char *text, double seconds)
{
    json_t *tokens = json_array();
    for (int64_t i = 0; i < g->count; i++)
        json_array_append_new(tokens, json_integer(g->tokens[g->prompt_count + i]));
    json_t *object = json_object();
    json_object_set_new(object, "text", json_string(text));
    json_object_set_new(object, "prompt_tokens", json_integer(g->prompt_count));
    json_object_set_new(object, "tokens", tokens);
    json_object_set_new(object, "temperature", json_real(g->temperature));
    json_object_set_new(object, "seed", json_integer(g->seed));
    json_object_set_new(object, "seconds", gln_figures_real(seconds));
    json_object_set_new(object, "tokens_per_second", gln_figures_real((double)g->count / seconds));
    return gln_figures_print(object, stdout, "standard output");
}

static gln_status_t print(const generate_t *g, bool json, double seconds)
{
    /* JSON has the new text alone, the screen the prompt in front of it */
    int64_t first = json ? g->prompt_count : 0, count = g->prompt_count + g->count - first;
    size_t size = 12 * (size_t)count + 1;
    char *text = malloc(size);
    if (!text) return gln_fail(GLN_ERR_MEMORY, "out of memory for %zu bytes of text", size);
    gln_text_printable(g->tokens + first, count, text, size);
    gln_status_t status = GLN_OK;
    if (json)
        status = print_json(g, text, seconds);
    else
        printf("%s\n", text);
    free(text);
    return status;
}

static gln_status_t generate(gln_comm_t *self, const gln_arguments_t *arguments, generate_t *g)
{
    gln_machine_t machine;
    gln_trainer_t *trainer = NULL;
    gln_status_t status = read_arguments(arguments, g);
    if (status == GLN_OK) status = gln_machine_look(self, (int)g->threads, &machine);
    if (status == GLN_OK)
        status = gln_trainer_open_generate(self, arguments->operands[0], machine.threads, &trainer);
    if (status != GLN_OK) return status;
    double begin = gln_clock();
    status = gln_trainer_generate(trainer, g->tokens, g->prompt_count, g->count, g->temperature,
                                  (uint64_t)g->seed);
    double seconds = fmax(gln_clock() - begin, 1e-9);
    gln_trainer_close(trainer);
    return status == GLN_OK ? print(g, arguments->given[GLN_OPTION_JSON], seconds) : status;
}

int gln_command_generate(const gln_arguments_t *arguments)
{
    gln_session_t session;
    gln_comm_t *self = NULL;
    generate_t g = {0};
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    gln_session_start(&session);
    gln_status_t status = gln_comm_open_self(&self);
    if (status == GLN_OK) status = generate(self, arguments, &g);
    status = gln_session_agree(&session, status);
    free(g.tokens);
    gln_comm_close(self);
    return gln_session_leave(&session, status);
}
