/* Sorting words: one pass over argv, a linear search of a table of a dozen options. Suggestions use
 * the optimal string alignment distance (a swap of neighbours counts once), O(length^2) a word. */
#include "launcher/arguments.h"

#include "base/log.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const gln_option_text_t texts[GLN_OPTIONS] = {
    [GLN_OPTION_SET] = {"--set", "KEY=VALUE", "override a key of the run file; may be repeated"},
    [GLN_OPTION_JSON] = {"--json", NULL, "print figures as one JSON object a line (docs/json.md)"},
    [GLN_OPTION_HELP] = {"--help", NULL, "print this help"},
    [GLN_OPTION_CONFIG] = {"--config", "FILE",
                           "run file to use; default of eval: the run directory's"},
    [GLN_OPTION_DATA] = {"--data", "FILE",
                         "text or token file to use; default: data.valid of the run"},
    [GLN_OPTION_PROMPT] = {"--prompt", "TEXT", "text to continue; default: a line break"},
    [GLN_OPTION_LENGTH] = {"--count", "N", "bytes to generate; default: 400"},
    [GLN_OPTION_TEMPERATURE] = {"--temperature", "X", "0 takes the likeliest byte; default: 0.8"},
    [GLN_OPTION_SEED] = {"--seed", "N", "seed of the draws; default: 1"},
    [GLN_OPTION_THREADS] = {"--threads", "N", "threads; default: the cores this process may use"},
    [GLN_OPTION_TOKENS] = {"--tokens", "T", "tokens of one domain; default: 2048 (router: 8192)"},
    [GLN_OPTION_REPEAT] = {"--repeat", "N", "repetitions that are timed; default: 9 (router: 5)"},
    [GLN_OPTION_RECORD_ROUTING] = {"--record-routing", "STEPS",
                                   "store gate logits of these steps, such as 1,100,300, in "
                                   "run.dir/routing.safetensors (docs/recording.md)"},
    [GLN_OPTION_POLICIES] = {"--policies", "LIST",
                             "name, k, then +fr, +ir or +dropless: top2+fr+ir,expanded_drop1"},
    [GLN_OPTION_CAPACITY] = {"--capacity", "LIST", "capacity factors; default: 0.5,1.0,1.25"},
    [GLN_OPTION_UNBALANCED] = {"--unbalanced", "LIST",
                               "capacity factors without balance loss, or none; default: 1.0"},
    [GLN_OPTION_SEEDS] = {"--seeds", "LIST", "seeds; default: 1,2,3"},
    [GLN_OPTION_GEMM] = {"--gemm", "N", "size of the plain N x N x N product; default: 2048"},
    [GLN_OPTION_LOGITS] = {"--logits", "FILE", "safetensors file with gate logits [D, T, E], F32"},
    [GLN_OPTION_SCORES] = {"--scores", NULL, "the tensor holds probabilities, not logits"},
    [GLN_OPTION_TENSOR] = {"--tensor", "NAME", "tensor of the file; default: logits"},
    [GLN_OPTION_OUT] = {"--out", "FILE", "write the scores used to this safetensors file"},
    [GLN_OPTION_K] = {"--k", "LIST", "numbers of routes per token to measure; default: 1,2,8"},
    [GLN_OPTION_NODES] = {"--nodes", "N",
                          "nodes that the domains are spread over, equally many each"},
    [GLN_OPTION_COPIES] = {"--copies", "WHAT",
                           "between nodes a token travels once per domain (default) or node"},
    [GLN_OPTION_SOURCES] = {"--sources", "WHAT",
                            "tokens come from any domain alike (default), or as recorded"},
    [GLN_OPTION_IMBALANCE] = {"--imbalance", "X",
                              "load of a domain over the mean to stay below; default: 1.1"},
    [GLN_OPTION_PLACEMENT] = {"--out", "FILE", "write the placement (docs/placement.md)"},
    [GLN_OPTION_XML] = {"--xml", "FILE", "a machine as hwloc wrote it down (lstopo --of xml)"},
    [GLN_OPTION_SYNTHETIC] = {"--synthetic", "TEXT",
                              "a machine such as \"package:2 numa:1 l3:1 core:8 pu:2\""},
    [GLN_OPTION_RANKS] = {"--ranks", "N",
                          "plan N ranks on the machine; default: its GPUs, else its NUMA nodes"},
    [GLN_OPTION_SVG] = {"--svg", "FILE", "draw the same into this file"},
    [GLN_OPTION_HIDDEN] = {"--hidden", "H", "columns of a row; default: as many as make 1 KiB"},
    [GLN_OPTION_BYTES] = {"--bytes", "N", "largest number of bytes per peer; default: 33554432"},
    [GLN_OPTION_DTYPE] = {"--dtype", "TYPE", "elements of a row: f32 (default) or bf16"},
    [GLN_OPTION_PATH] = {"--path", "WHAT",
                         "rows inside a node: auto (default), shared or messages"},
    [GLN_OPTION_SHAPES] = {"--shapes", "LIST",
                           "sizes; gemm: layers T:H:F:E:K (tokens, hidden, expert hidden, "
                           "experts, routes)"},
    [GLN_OPTION_AGAINST] = {"--against", "WHAT", "torch: the same layer in PyTorch, in turn"},
    [GLN_OPTION_PYTHON] = {"--python", "FILE", "interpreter that has torch; default: python3"},
    [GLN_OPTION_MEMORY] = {"--memory", NULL, "bytes a rank takes, by kind"},
    [GLN_OPTION_JOB_RANKS] = {"--ranks", "N",
                              "ranks of the job, also -n N; default: 1 (launch: all that fit)"},
    [GLN_OPTION_RANKS_PER_NODE] = {"--ranks-per-node", "N",
                                   "of them on a node; default: all on one"},
    [GLN_OPTION_HOSTS] = {"--hosts", "FILE",
                          "hosts of the job, one a line: NAME [slots=RANKS]; default: this one, or "
                          "Slurm's"},
    [GLN_OPTION_RANKS_PER_HOST] = {"--ranks-per-host", "N",
                                   "ranks that fit on each host, whatever the file says"},
    [GLN_OPTION_RETRIES] = {"--retries", "N", "tries after a failure without progress; default: 3"},
    [GLN_OPTION_DRY_RUN] = {"--dry-run", NULL, "print the command and do nothing"},
    [GLN_OPTION_STARTER] = {"--starter", "NAME",
                            "mpirun or srun; default: srun in a Slurm job, else mpirun"},
};

const gln_option_text_t *gln_option_text(gln_option_t option)
{
    return &texts[option];
}

enum { WORD_MAX = 64 };

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

static int distance(const char *a, const char *b)
{
    int na = (int)strnlen(a, WORD_MAX), nb = (int)strnlen(b, WORD_MAX);
    int d[WORD_MAX + 1][WORD_MAX + 1];
    for (int i = 0; i <= na; i++)
        d[i][0] = i;
    for (int j = 0; j <= nb; j++)
        d[0][j] = j;
    for (int i = 1; i <= na; i++)
        for (int j = 1; j <= nb; j++) {
            int change = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            d[i][j] = smaller(change, smaller(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = smaller(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[na][nb];
}

const char *gln_suggest(const char *word, const char *const *words)
{
    const char *nearest = NULL;
    int best = (int)strnlen(word, WORD_MAX) / 3 + 2; /* farther off it is another word */
    for (; *words; words++) {
        int away = distance(word, *words);
        if (away >= best) continue;
        best = away;
        nearest = *words;
    }
    return nearest;
}

static gln_status_t fail_option(const char *word, int length, uint64_t allowed)
{
    char name[WORD_MAX];
    const char *known[GLN_OPTIONS + 1];
    int count = 0;
    for (int i = 0; i < GLN_OPTIONS; i++)
        if (allowed & UINT64_C(1) << i) known[count++] = texts[i].name;
    known[count] = NULL;
    snprintf(name, sizeof name, "%.*s", length, word);
    const char *nearest = gln_suggest(name, known);
    if (nearest)
        return gln_fail(GLN_ERR_ARGUMENT, "unknown option %s; did you mean %s?", name, nearest);
    return gln_fail(GLN_ERR_ARGUMENT, "unknown option %s; --help lists the options", name);
}

static int find_option(const char *word, int length, uint64_t allowed)
{
    if (length == 2 && !strncmp(word, "-h", 2)) return GLN_OPTION_HELP;
    if (length == 2 && !strncmp(word, "-n", 2)) {
        word = texts[GLN_OPTION_JOB_RANKS].name;
        length = (int)strlen(word);
    }
    for (int i = 0; i < GLN_OPTIONS; i++)
        if ((allowed & UINT64_C(1) << i) && (int)strlen(texts[i].name) == length &&
            !strncmp(texts[i].name, word, (size_t)length))
            return i;
    return -1;
}

static gln_status_t keep(gln_arguments_t *out, int option, const char *value)
{
    out->given[option] = true;
    out->value[option] = value;
    if (option != GLN_OPTION_SET) return GLN_OK;
    if (out->sets_count == GLN_ARGUMENTS_SETS_MAX)
        return gln_fail(GLN_ERR_ARGUMENT, "--set: at most %d of them, found more; use a run file",
                        GLN_ARGUMENTS_SETS_MAX);
    out->sets[out->sets_count++] = value;
    return GLN_OK;
}

gln_status_t gln_arguments_parse(const char *const *words, int words_count, uint64_t allowed,
                                 int operands_max, gln_arguments_t *out)
{
    memset(out, 0, sizeof *out);
    bool operands_only = false;
    for (int i = 0; i < words_count; i++) {
        const char *word = words[i];
        if (!operands_only && !strcmp(word, "--")) {
            operands_only = true;
            continue;
        }
        if (operands_only || word[0] != '-' || word[1] == 0) {
            if (out->operands_count == operands_max ||
                out->operands_count == GLN_ARGUMENTS_OPERANDS_MAX)
                return gln_fail(GLN_ERR_ARGUMENT,
                                "unexpected operand \"%.200s\"; --help shows the form", word);
            out->operands[out->operands_count++] = word;
            continue;
        }
        const char *equals = strchr(word, '=');
        int length = equals ? (int)(equals - word) : (int)strlen(word);
        int option = find_option(word, length, allowed);
        if (option < 0) return fail_option(word, length, allowed);
        const char *value = equals ? equals + 1 : NULL;
        if (!texts[option].value && value)
            return gln_fail(GLN_ERR_ARGUMENT, "%s takes no value, found \"%.200s\"",
                            texts[option].name, value);
        if (texts[option].value && !value) {
            if (i + 1 == words_count)
                return gln_fail(GLN_ERR_ARGUMENT, "%s needs a value: %s %s", texts[option].name,
                                texts[option].name, texts[option].value);
            value = words[++i];
        }
        gln_status_t status = keep(out, option, value);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

gln_status_t gln_arguments_int(const gln_arguments_t *arguments, gln_option_t option,
                               int64_t fallback, int64_t min, int64_t max, int64_t *out)
{
    const char *text = arguments->value[option];
    if (!text) {
        *out = fallback;
        return GLN_OK;
    }
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "%s: expected an integer from %lld to %lld, found \"%.200s\"",
                        texts[option].name, (long long)min, (long long)max, text);
    *out = value;
    return GLN_OK;
}

gln_status_t gln_arguments_real(const gln_arguments_t *arguments, gln_option_t option,
                                double fallback, double min, double max, double *out)
{
    const char *text = arguments->value[option];
    if (!text) {
        *out = fallback;
        return GLN_OK;
    }
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < min || value > max)
        return gln_fail(GLN_ERR_ARGUMENT, "%s: expected a number from %g to %g, found \"%.200s\"",
                        texts[option].name, min, max, text);
    *out = value;
    return GLN_OK;
}
