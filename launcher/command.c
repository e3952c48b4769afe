/* The table of commands and the way into it. Nothing here touches MPI. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/session.h"
#include "moe/gleaner.h"
#include "moe/run_options.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define BIT(option) (UINT64_C(1) << GLN_OPTION_##option)
#define COMMON (BIT(HELP))
_Static_assert(GLN_OPTIONS <= 64, "options are bits of a uint64_t");

static const gln_command_t commands[] = {
    {"train", "RUN.yaml", "train a model, or go on with a run",
     "Trains the model that RUN.yaml describes; under mpirun on all its ranks. The run directory\n"
     "(run.dir) receives config.yaml, metrics.jsonl, checkpoints/ and, at the end, report.txt. If "
     "it\n"
     "holds a checkpoint, training goes on from the newest one. SIGINT, SIGTERM and SIGUSR1 finish "
     "the\n"
     "step, save a checkpoint and leave with status 75. mpirun passes SIGUSR1 on (kill -USR1 PID "
     "of "
     "mpirun);\n"
     "after Ctrl-C it leaves its ranks about a second.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(RECORD_ROUTING), 1, 1, 1, gln_command_train},
    {"launch", "RUN.yaml", "start a training under mpirun or srun and see it through",
     "Builds the mpirun command (in a Slurm job the srun command) that fits this machine, the "
     "hosts "
     "of\n"
     "--hosts or the allocation, and supervises it: a job that ends with a dead rank or by the "
     "watchdog is\n"
     "started again from its last checkpoint, at most --retries times without a newer one, after "
     "1, "
     "2, 4, ...\n"
     "seconds, on fewer ranks where hosts of the file cannot be reached any more. SIGINT, SIGTERM, "
     "SIGHUP\n"
     "and SIGUSR1 save and leave with status 75; a second one ends the job at once. What happened "
     "is said on\n"
     "stderr and in launch.log of the run directory. Bad input (status 2) is not tried again.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(RECORD_ROUTING) | BIT(JOB_RANKS) | BIT(HOSTS) |
         BIT(RANKS_PER_HOST) | BIT(RETRIES) | BIT(STARTER) | BIT(DRY_RUN),
     1, 1, 0, gln_command_launch},
    {"eval", "RUN_DIR|CHECKPOINT", "loss of a checkpoint on a text",
     "Evaluates the newest checkpoint of a run directory, or the one named, on the validation text "
     "of\n"
     "the run or on --data FILE.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(CONFIG) | BIT(DATA), 1, 1, 0, gln_command_eval},
    {"generate", "RUN_DIR|CHECKPOINT", "continue a text",
     "Continues --prompt byte by byte with a checkpoint of a byte-level model, on one process. "
     "Control\n"
     "characters and bytes that are not UTF-8 are printed as \\xNN.\n",
     COMMON | BIT(JSON) | BIT(PROMPT) | BIT(LENGTH) | BIT(TEMPERATURE) | BIT(SEED) | BIT(THREADS),
     1, 1, 0, gln_command_generate},
    {"waste", "RUN.yaml", "compare router policies at equal capacity and equal compute",
     "Trains the model of RUN.yaml once per cell of a grid, policies x capacity factors x seeds, "
     "and\n"
     "compares validation bits per byte, what became of tokens and slots, and expert rows "
     "computed.\n"
     "Policies without a capacity factor (+dropless) have one cell a seed. The default grid is "
     "top-1 and\n"
     "top-2, each plain, +fr, +ir, +fr+ir, +dropless, and expanded_drop. The run directory "
     "receives\n"
     "cells.jsonl, waste.md and waste.svg; the same command again goes on after the last finished "
     "cell.\n"
     "SIGINT, SIGTERM and SIGUSR1 leave with status 75; the cell under way is begun anew.\n"
     "Under mpirun send SIGUSR1, which it passes on (kill -USR1 PID of mpirun).\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(POLICIES) | BIT(CAPACITY) | BIT(UNBALANCED) | BIT(SEEDS),
     1, 1, 0, gln_command_waste},
    {"bench layer", "[RUN.yaml]", "time one MoE layer, forward and backward",
     "Times one MoE layer with random weights and random input, against a plain matrix product "
     "measured\n"
     "in turn in the same run. model.*, router.* and parallel.* keys shape it; without a run file\n"
     "hidden 512, expert_hidden 1024, 8 experts, top-2. docs/performance.md explains the "
     "figures. --logits replays recorded logits instead of random ones (hidden must be at least "
     "the\n"
     "number of experts). --against torch runs the same layer in PyTorch too, dropless, with\n"
     "expert_hidden 2048 unless told otherwise; one process.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(TOKENS) | BIT(REPEAT) | BIT(GEMM) | BIT(LOGITS) |
         BIT(TENSOR) | BIT(AGAINST) | BIT(PYTHON),
     0, 1, 0, gln_command_bench_layer},
    {"bench step", "[RUN.yaml]", "time a whole training step, part by part",
     "Times a training step (forward, backward, gradients summed, AdamW) of the run's model on "
     "random\n"
     "tokens, against a plain matrix product measured in turn in the same run, and prints where "
     "the time\n"
     "went. Without a run file 4 blocks, hidden 512, sequence 1024, expert_hidden 1024, 8 experts, "
     "top-2,\n"
     "four sequences a rank. docs/performance.md explains the figures.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(REPEAT) | BIT(GEMM), 0, 1, 0, gln_command_bench_step},
    {"bench growth", "[experts|tokens|rectify]...", "how a layer's time grows",
     "Times one MoE layer, forward and backward: with 8 to 256 experts and the same rows; with 256 "
     "to\n"
     "32768 tokens; with fill-in and rectification against plain top-k at capacity factors 1.0 and "
     "1.25.\n"
     "All sizes take turns in every round. --set shapes the layers but for what grows, --tokens "
     "those whose\n"
     "tokens do not grow. docs/performance.md explains the figures.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(TOKENS) | BIT(REPEAT), 0, 3, 0, gln_command_bench_growth},
    {"bench gemm", "", "time the experts' matrix products in f32 and bf16",
     "Times the six matrix products of a layer's experts, forward and backward, as grouped calls "
     "over\n"
     "uneven experts, in f32 and in bf16, against one large product of the same type measured in "
     "turn in\n"
     "the same run. --shapes names the layers; default: 2048:512:2048:8:2, 4096:1024:1024:64:8,\n"
     "4096:768:2048:16:1 and 64:512:512:256:8 (few rows an expert). One process.\n",
     COMMON | BIT(JSON) | BIT(REPEAT) | BIT(GEMM) | BIT(THREADS) | BIT(SHAPES), 0, 0, 0,
     gln_command_bench_gemm},
    {"bench optimizer", "", "time AdamW and all else that memory bounds, in f32 and bf16",
     "Times AdamW, the gradient norm and the row-wise operations of a step (normalization, SwiGLU, "
     "moving\n"
     "and adding rows, cross-entropy) on T rows of H, far beyond the caches, against passes over "
     "the same\n"
     "arrays with the same reads and writes, with ordinary stores and with stores past the caches, "
     "in turn\n"
     "in the same run. docs/performance.md explains how bytes are counted. Without options T is "
     "32768, H\n"
     "1024, and 7 repetitions are timed. One process.\n",
     COMMON | BIT(JSON) | BIT(REPEAT) | BIT(TOKENS) | BIT(HIDDEN) | BIT(THREADS), 0, 0, 0,
     gln_command_bench_optimizer},
    {"bench attention", "", "time causal attention, forward and backward, in f32 and bf16",
     "Times attention in f32 and in bf16 against one large product of the same type measured in "
     "turn in the\n"
     "same run. --shapes names the sizes B:S:HEADS:KV:DH (sequences, their length, query heads, "
     "key and\n"
     "value heads, elements of a head). Operations count half of all pairs: the causal ones. "
     "Default:\n"
     "16:256:8:2:64, 4:1024:8:2:64, 1:4096:8:2:64, 4:1024:16:4:128, 4:1024:8:8:32. 5 repetitions. "
     "One process.\n",
     COMMON | BIT(JSON) | BIT(REPEAT) | BIT(GEMM) | BIT(THREADS) | BIT(SHAPES), 0, 0, 0,
     gln_command_bench_attention},
    {"bench router", "[RUN.yaml]", "time the router against its layer's forward pass",
     "Times, in turn and on one process, the gate's matrix product, the whole router without and "
     "with\n"
     "rectification (fill-in and intra-device), and the layer's forward pass, for every k of --k. "
     "Without\n"
     "a run file 8192 tokens, hidden 1024, expert_hidden 2048, 64 experts, one domain. --logits "
     "replays\n"
     "recorded logits instead of random ones, through the layer too (hidden must be at least the "
     "number\n"
     "of experts).\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(TOKENS) | BIT(REPEAT) | BIT(K) | BIT(LOGITS) | BIT(TENSOR),
     0, 1, 0, gln_command_bench_router},
    {"bench exchange", "", "time dispatch and combine against MPI_Alltoallv and memcpy",
     "For 1 KiB to 32 MiB per peer, one domain a rank: bandwidth of dispatch and combine, of "
     "MPI_Alltoallv\n"
     "with packing and unpacking of the same rows, of one core that gathers them into memory of "
     "its own,\n"
     "and of memcpy, in turn in one run. Routing is uniform, or that of --logits with one k of --k "
     "(2).\n"
     "With them what two cores allow: a cache line from one to the other, the gather into memory "
     "that\n"
     "another core has just read or out of memory that it has just written, and the floor of a "
     "dispatch.\n",
     COMMON | BIT(JSON) | BIT(HIDDEN) | BIT(DTYPE) | BIT(BYTES) | BIT(REPEAT) | BIT(PATH) |
         BIT(LOGITS) | BIT(TENSOR) | BIT(K),
     0, 0, 0, gln_command_bench_exchange},
    {"bench links", "", "time messages inside a node and between nodes",
     "The table by which parallel.exchange: auto chooses between the flat and the hierarchical "
     "form:\n"
     "messages of 1 KiB to 1 MiB to the next rank of the node and to the next node, all ranks of a "
     "node\n"
     "at once, and what a message and a byte cost by it.\n",
     COMMON | BIT(JSON), 0, 0, 0, gln_command_bench_links},
    {"route", "", "run a routing policy alone on gate logits",
     "Routes the logits [D, T, E] (or [T, E]) of --logits with the policy of --config, on one "
     "process.\n"
     "Of the run file only router.*, model.experts, parallel.domains and parallel.expert_replicas "
     "are\n"
     "looked at; where it is silent about experts and domains, they are the tensor's. With --json "
     "every\n"
     "score (in a file with --out), every route and the ledgers. With --scores the router uses "
     "the\n"
     "probabilities in the file (tensor scores, or logits) as they are. A tensor bias [E] is the "
     "bias of\n"
     "policies that have one.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(CONFIG) | BIT(LOGITS) | BIT(SCORES) | BIT(TENSOR) |
         BIT(OUT) | BIT(SEED),
     0, 0, 0, gln_command_route},
    {"place", "RECORDING.safetensors", "choose which domain hosts which expert",
     "Routes the recorded logits (gleaner train --record-routing) and chooses a placement of "
     "experts "
     "on\n"
     "domains, layer by layer, that sends few rows between nodes and keeps the load level. It is "
     "chosen on\n"
     "the first half of the recorded steps and counted on both halves. Without --config the routes "
     "are the\n"
     "run's top-k without capacity; with it those of its router.* keys. Intra-device rectification "
     "is left\n"
     "out: its rows are local under any placement. docs/placement.md explains.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(CONFIG) | BIT(NODES) | BIT(COPIES) | BIT(SOURCES) |
         BIT(IMBALANCE) | BIT(PLACEMENT),
     1, 1, 0, gln_command_place},
    {"ckpt info", "RUN_DIR|CHECKPOINT", "what a checkpoint holds, checksums verified", "",
     COMMON | BIT(JSON), 1, 1, 0, gln_command_ckpt_info},
    {"ckpt digest", "RUN_DIR|CHECKPOINT", "one hash over all tensors of a checkpoint",
     "The same tensors give the same hash, however they are spread over files. Checksums are "
     "verified.\n",
     COMMON | BIT(JSON), 1, 1, 0, gln_command_ckpt_digest},
    {"ckpt export-hf", "RUN_DIR|CHECKPOINT FOLDER", "write a model as transformers reads a Mixtral",
     "Writes FOLDER, which must not exist: config.json and model.safetensors (several with an "
     "index "
     "above\n"
     "4 GB), the weights in f32 or --dtype bf16. Models with a shared expert, layers without "
     "experts or\n"
     "another router than top-k with normalised weights are refused: that layout cannot say "
     "them.\n",
     COMMON | BIT(JSON) | BIT(DTYPE), 2, 2, 0, gln_command_ckpt_export_hf},
    {"ckpt import-hf", "FOLDER RUN_DIR",
     "begin a run with the weights of a Mixtral of transformers",
     "Reads config.json and the safetensors files of FOLDER and writes RUN_DIR with config.yaml "
     "and "
     "a\n"
     "checkpoint of step 0, which eval, generate and train take like their own. --set sets what "
     "the "
     "folder\n"
     "does not say (data, train, parallel, and model.sequence: 2048 at most otherwise).\n",
     COMMON | BIT(JSON) | BIT(SET), 2, 2, 0, gln_command_ckpt_import_hf},
    {"topo", "[RUN.yaml]", "draw machines with the ranks, devices and links on them",
     "Draws the machines of this job (under mpirun, all of them) with packages, NUMA nodes, L3 "
     "caches,\n"
     "cores and the ranks that may run there, GPUs, network cards and links between GPUs; with a "
     "run\n"
     "file also the domains and experts of each rank. With --ranks, --xml or --synthetic it needs "
     "no job:\n"
     "it draws one machine, also one that is not here, with ranks planned on it as "
     "parallel.bind: auto\n"
     "would bind them; without a run file each rank has a GPU where there are any.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(XML) | BIT(SYNTHETIC) | BIT(RANKS) | BIT(SVG), 0, 1, 0,
     gln_command_topo},
    {"plan", "RUN.yaml", "memory a run will take, without running it",
     "Computes, on one process and without the job's ranks, what each rank of a training takes at "
     "its peak:\n"
     "weights, gradients, moments, activations, exchange, and the process itself (measured here). "
     "gleaner\n"
     "train prints the same figure beside its real peak. docs/memory.md explains the figures.\n",
     COMMON | BIT(SET) | BIT(JSON) | BIT(MEMORY) | BIT(JOB_RANKS) | BIT(RANKS_PER_NODE), 1, 1, 0,
     gln_command_plan},
    {"doctor", "", "is everything here that a training needs, and what to do if not",
     "Looks at build, MPI, cores, binding, shared memory, limits, clocks, CUDA, NCCL, GPUs, "
     "network "
     "cards\n"
     "and the links between ranks, on this machine or on all hosts of --hosts (it starts itself "
     "there\n"
     "under mpirun). Every finding is ok, a warning or an error, and says what to do about it. "
     "Status 1 if\n"
     "there is an error.\n",
     COMMON | BIT(JSON) | BIT(JOB_RANKS) | BIT(HOSTS) | BIT(RANKS_PER_HOST), 0, 0, 0,
     gln_command_doctor},
    {"info", "", "version, machine and job as gleaner sees them", "", COMMON | BIT(JSON), 0, 0, 0,
     gln_command_info},
    {NULL, NULL, NULL, NULL, 0, 0, 0, 0, NULL},
};

const gln_command_t *gln_commands(void)
{
    return commands;
}

void gln_command_overview(FILE *file)
{
    fprintf(file,
            "gleaner %s: train Mixture-of-Experts language models over MPI ranks\n\n"
            "usage: gleaner COMMAND [OPTIONS] ...\n"
            "       mpirun -n P gleaner train RUN.yaml\n\ncommands:\n",
            gln_version());
    for (const gln_command_t *c = commands; c->name; c++) {
        char form[64];
        snprintf(form, sizeof form, "%s %s", c->name, c->operands);
        fprintf(file, "  %-32s %s\n", form, c->summary);
    }
    fprintf(file, "  %-32s %s\n\n", "help [COMMAND]", "this overview, or the help of a command");
    fprintf(file,
            "exit status: 0 done; 2 bad input; 75 stopped by a signal, saved; 1 anything else\n");
}

void gln_command_help(const gln_command_t *command, FILE *file)
{
    fprintf(file, "usage: gleaner %s%s%s [OPTIONS]\n%s\n\n%s%soptions:\n", command->name,
            command->operands[0] ? " " : "", command->operands, command->summary, command->detail,
            command->detail[0] ? "\n" : "");
    for (int i = 0; i < GLN_OPTIONS; i++) {
        if (!(command->options & UINT64_C(1) << i)) continue;
        const gln_option_text_t *text = gln_option_text((gln_option_t)i);
        char form[64];
        snprintf(form, sizeof form, "%s%s%s", text->name, text->value ? " " : "",
                 text->value ? text->value : "");
        fprintf(file, "  %-18s %s\n", form, text->help);
    }
    if (!command->config_reference) return;
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    fprintf(file, "\nkeys of the run file (YAML; section.key):\n");
    gln_config_describe(fields, count, file);
}

/* Words of `words` that the command's name takes: 0 if it is another command. */
static int match(const gln_command_t *command, int count, const char *const *words)
{
    const char *space = strchr(command->name, ' ');
    size_t first = space ? (size_t)(space - command->name) : strlen(command->name);
    if (count < 1 || strlen(words[0]) != first || strncmp(words[0], command->name, first)) return 0;
    if (!space) return 1;
    return count > 1 && !strcmp(words[1], space + 1) ? 2 : 0;
}

static const gln_command_t *find(int count, const char *const *words, int *used)
{
    for (const gln_command_t *c = commands; c->name; c++) {
        *used = match(c, count, words);
        if (*used) return c;
    }
    return NULL;
}

/* Under mpirun every rank finds the same mistake; one of them says so. The others wait to be ended,
 * so that the launcher of the job does not end the speaker first. */
static int fail_usage(void)
{
    if (gln_session_environment_rank() != 0) {
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
        return GLN_EXIT_BAD_INPUT;
    }
    fprintf(stderr, "gleaner: error: %s\n", gln_last_error());
    return GLN_EXIT_BAD_INPUT;
}

/* Names that could stand at this place: first words, or second words of a group; no name twice. */
static int list_names(const char *group, char names[][32], const char **list)
{
    int count = 0;
    for (const gln_command_t *c = commands; c->name; c++) {
        const char *space = strchr(c->name, ' ');
        int first = space ? (int)(space - c->name) : (int)strlen(c->name);
        if (!group)
            snprintf(names[count], 32, "%.*s", first, c->name);
        else if (space && (int)strlen(group) == first && !strncmp(group, c->name, (size_t)first))
            snprintf(names[count], 32, "%s", space + 1);
        else
            continue;
        bool seen = false;
        for (int i = 0; i < count; i++)
            seen = seen || !strcmp(names[i], names[count]);
        if (seen) continue;
        list[count] = names[count];
        count++;
    }
    if (!group) list[count++] = "help";
    list[count] = NULL;
    return count;
}

static int fail_command(int count, const char *const *words)
{
    char names[sizeof commands / sizeof commands[0] + 1][32], known[256] = "";
    const char *list[sizeof commands / sizeof commands[0] + 2];
    const char *group = words[0];
    const char *word = count > 1 && words[1][0] != '-' ? words[1] : NULL;
    int found = list_names(group, names, list);
    if (found == 0) {
        word = group;
        group = NULL;
        list_names(NULL, names, list);
    }
    for (int i = 0; list[i]; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s %s", i ? "," : "",
                 list[i]);
    const char *nearest = word ? gln_suggest(word, list) : NULL;
    const char *in = group ? group : "", *gap = group ? " " : "";
    if (nearest)
        gln_fail(GLN_ERR_ARGUMENT, "unknown command %s%s%.60s; did you mean %s%s%s?", in, gap, word,
                 in, gap, nearest);
    else if (word)
        gln_fail(GLN_ERR_ARGUMENT, "unknown command %s%s%.60s; known:%s", in, gap, word, known);
    else
        gln_fail(GLN_ERR_ARGUMENT, "%s needs one of:%s", in, known);
    return fail_usage();
}

/* "help", "help train", "ckpt --help". Prints from one rank. */
static int print_help(int count, const char *const *words)
{
    int used;
    const gln_command_t *command = count ? find(count, words, &used) : NULL;
    if (count && !command) {
        char names[sizeof commands / sizeof commands[0] + 1][32];
        const char *list[sizeof commands / sizeof commands[0] + 2];
        if (count > 1 || list_names(words[0], names, list) == 0) return fail_command(count, words);
        if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
        for (const gln_command_t *c = commands; c->name; c++) {
            size_t length = strlen(words[0]);
            if (strncmp(c->name, words[0], length) || c->name[length] != ' ') continue;
            gln_command_help(c, stdout);
            printf("\n");
        }
        return GLN_EXIT_OK;
    }
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    if (command)
        gln_command_help(command, stdout);
    else
        gln_command_overview(stdout);
    return GLN_EXIT_OK;
}

static bool is_help(const char *word)
{
    return !strcmp(word, "--help") || !strcmp(word, "-h");
}

int gln_command_main(int argc, char **argv)
{
    const char *const *words = (const char *const *)argv + 1;
    int count = argc - 1, used;
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    if (count < 1) {
        if (gln_session_environment_rank() == 0) gln_command_overview(stderr);
        return GLN_EXIT_BAD_INPUT;
    }
    if (!strcmp(words[0], "--version")) {
        if (gln_session_environment_rank() == 0) printf("gleaner %s\n", gln_version());
        return GLN_EXIT_OK;
    }
    if (!strcmp(words[0], "help")) return print_help(count - 1, words + 1);
    if (is_help(words[0])) return print_help(0, NULL);
    if (count == 2 && is_help(words[1])) return print_help(1, words);
    const gln_command_t *command = find(count, words, &used);
    if (!command) return fail_command(count, words);
    gln_arguments_t arguments;
    if (gln_arguments_parse(words + used, count - used, command->options, command->operands_max,
                            &arguments) != GLN_OK)
        return fail_usage();
    arguments.program = argv[0];
    if (arguments.given[GLN_OPTION_HELP]) return print_help(used, words);
    if (arguments.operands_count < command->operands_min) {
        gln_fail(GLN_ERR_ARGUMENT, "%s needs %s; gleaner %s --help explains", command->name,
                 command->operands, command->name);
        return fail_usage();
    }
    return command->run(&arguments);
}
