/* From words to cells. A policy is a word: its name with k behind it, "top" for topk, then +fr, +ir
 * or +dropless. A cell is the run file plus a few overrides; its key is these overrides and a
 * 64-bit FNV-1a hash over the rest of the run, written as YAML after the keys that cells set, and
 * those that change no result, were set to fixed values. */
#include "launcher/waste.h"

#include "base/log.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sets {
    char text[GLN_WASTE_SETS_MAX][96];
    int count;
} sets_t;

static const char default_policies[] =
    "top1,top1+fr,top1+ir,top1+fr+ir,top1+dropless,expanded_drop1,"
    "top2,top2+fr,top2+ir,top2+fr+ir,top2+dropless,expanded_drop2";

/* The words of a list, each at most GLN_WASTE_NAME_MAX - 1 long. */
typedef struct words {
    char word[GLN_WASTE_LIST_MAX][GLN_WASTE_NAME_MAX];
    int count;
} words_t;

static gln_status_t split(const char *option, const char *text, words_t *out)
{
    out->count = 0;
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, ",");
        if (length == 0 || length >= GLN_WASTE_NAME_MAX || out->count == GLN_WASTE_LIST_MAX)
            return gln_fail(
                GLN_ERR_ARGUMENT,
                "%s: expected at most %d words of at most %d bytes, separated by commas, "
                "found \"%.200s\"",
                option, GLN_WASTE_LIST_MAX, GLN_WASTE_NAME_MAX - 1, text);
        memcpy(out->word[out->count], at, length);
        out->word[out->count][length] = 0;
        for (int i = 0; i < out->count; i++)
            if (!strcmp(out->word[i], out->word[out->count]))
                return gln_fail(GLN_ERR_ARGUMENT, "%s: \"%s\" stands there twice", option,
                                out->word[i]);
        out->count++;
        at += length + (at[length] == ',');
    }
    return GLN_OK;
}

/* Length of the policy's name at the head of `word`; the longest that fits. */
static size_t find_policy(const char *word, int *policy)
{
    size_t best = 0;
    const char *const *names = gln_policy_names();
    for (int i = 0; names[i]; i++) {
        size_t length = strlen(names[i]);
        if (length <= best || strncmp(word, names[i], length)) continue;
        best = length;
        *policy = i;
    }
    if (best == 0 && !strncmp(word, "top", 3)) {
        best = 3;
        *policy = GLN_POLICY_TOPK;
    }
    return best;
}

static bool is_known(int policy)
{
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(fields[i].key, "router.policy")) continue;
        for (const char *const *choice = fields[i].choices; *choice; choice++)
            if (!strcmp(*choice, gln_policy_name((gln_policy_t)policy))) return true;
    }
    return false;
}

static gln_status_t parse_policy(const char *word, gln_waste_policy_t *out)
{
    gln_waste_policy_t p = {0};
    size_t length = find_policy(word, &p.policy);
    char *end = NULL;
    if (length > 0 && word[length] >= '0' && word[length] <= '9')
        p.k = strtoll(word + length, &end, 10);
    while (end && *end) {
        if (!strncmp(end, "+fr", 3) && !p.fill)
            p.fill = true, end += 3;
        else if (!strncmp(end, "+ir", 3) && !p.rectify)
            p.rectify = true, end += 3;
        else if (!strncmp(end, "+dropless", 9) && !p.dropless)
            p.dropless = true, end += 9;
        else
            end = NULL;
    }
    if (!end || p.k < 1)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "--policies: expected a policy, its k, then +fr, +ir or +dropless, such as "
                        "top2+fr+ir or expanded_drop1; found \"%s\"",
                        word);
    snprintf(p.name, sizeof p.name, "%s", word);
    snprintf(p.variant, sizeof p.variant, "%.*s%s%s%s", (int)length, word, p.fill ? "+fr" : "",
             p.rectify ? "+ir" : "", p.dropless ? "+dropless" : "");
    p.known = is_known(p.policy);
    *out = p;
    return GLN_OK;
}

static gln_status_t parse_policies(const gln_arguments_t *arguments, gln_waste_grid_t *grid)
{
    words_t words;
    const char *text = arguments->value[GLN_OPTION_POLICIES];
    gln_status_t status = split("--policies", text ? text : default_policies, &words);
    for (int i = 0; status == GLN_OK && i < words.count; i++)
        status = parse_policy(words.word[i], &grid->policies[i]);
    grid->policies_count = words.count;
    return status;
}

static gln_status_t parse_factors(const gln_arguments_t *arguments, gln_option_t option,
                                  const char *fallback, double *out, int *count)
{
    words_t words;
    const char *name = gln_option_text(option)->name, *text = arguments->value[option];
    if (!text) text = fallback;
    *count = 0;
    if (!strcmp(text, "none")) return GLN_OK;
    gln_status_t status = split(name, text, &words);
    for (int i = 0; status == GLN_OK && i < words.count; i++) {
        char *end;
        out[i] = strtod(words.word[i], &end);
        if (end == words.word[i] || *end || !isfinite(out[i]) || out[i] < 0)
            status = gln_fail(GLN_ERR_ARGUMENT,
                              "%s: expected finite numbers from 0 on, or none; found \"%s\"", name,
                              words.word[i]);
    }
    if (status == GLN_OK) *count = words.count;
    return status;
}

static gln_status_t parse_seeds(const gln_arguments_t *arguments, gln_waste_grid_t *grid)
{
    words_t words;
    const char *text = arguments->value[GLN_OPTION_SEEDS];
    gln_status_t status = split("--seeds", text ? text : "1,2,3", &words);
    for (int i = 0; status == GLN_OK && i < words.count; i++) {
        char *end;
        grid->seeds[i] = strtoll(words.word[i], &end, 10);
        if (end == words.word[i] || *end || grid->seeds[i] < 0)
            status = gln_fail(GLN_ERR_ARGUMENT,
                              "--seeds: expected integers from 0 on, found \"%s\"", words.word[i]);
    }
    grid->seeds_count = words.count;
    return status;
}

static void format_factor(double value, char *out, size_t size)
{
    snprintf(out, size, "%g", value);
    if (strtod(out, NULL) != value) snprintf(out, size, "%.17g", value);
}

static void add_set(sets_t *sets, const char *key, const char *value)
{
    snprintf(sets->text[sets->count++], sizeof sets->text[0], "%s=%s", key, value);
}

static sets_t cell_sets(const gln_waste_cell_t *cell)
{
    sets_t sets = {.count = 0};
    char number[40];
    add_set(&sets, "router.policy", gln_policy_name((gln_policy_t)cell->policy->policy));
    snprintf(number, sizeof number, "%lld", (long long)cell->policy->k);
    add_set(&sets, "router.k", number);
    format_factor(cell->capacity_factor, number, sizeof number);
    add_set(&sets, "router.capacity_factor", number);
    add_set(&sets, "router.fill", cell->policy->fill ? "true" : "false");
    add_set(&sets, "router.rectify", cell->policy->rectify ? "true" : "false");
    snprintf(number, sizeof number, "%lld", (long long)cell->seed);
    add_set(&sets, "train.seed", number);
    add_set(&sets, "eval.routing", "train");
    if (cell->unbalanced) add_set(&sets, "router.balance_coef", "0");
    return sets;
}

static gln_status_t load(const gln_arguments_t *arguments, const sets_t *sets, int ranks,
                         gln_run_options_t *out)
{
    const char *all[GLN_ARGUMENTS_SETS_MAX + GLN_WASTE_SETS_MAX];
    int count = arguments->sets_count;
    memcpy(all, arguments->sets, (size_t)count * sizeof *all);
    for (int i = 0; i < sets->count; i++)
        all[count++] = sets->text[i];
    return gln_run_options_load(arguments->operands[0], all, count, ranks, out);
}

gln_status_t gln_waste_cell_run(const gln_arguments_t *arguments, const gln_waste_cell_t *cell,
                                int ranks, gln_run_options_t *out)
{
    sets_t sets = cell_sets(cell);
    return load(arguments, &sets, ranks, out);
}

/* Hash of the run file without what cells set and what changes no figure. */
static gln_status_t hash_rest(const gln_arguments_t *arguments, int ranks, uint64_t *out)
{
    static const sets_t fixed = {
        .text = {"router.policy=topk", "router.k=1", "router.capacity_factor=1",
                 "router.fill=false", "router.rectify=false", "train.seed=1", "eval.routing=train"},
        .count = 7};
    gln_run_options_t run;
    gln_status_t status = load(arguments, &fixed, ranks, &run);
    if (status != GLN_OK) return status;
    run.parallel.threads = 0;
    run.parallel.bind = 0;
    run.parallel.exchange = run.parallel.path = run.parallel.overlap = 0;
    run.parallel.stages = 1;
    run.parallel.timeout_ms = 0;
    run.train.log_every = 1;
    run.train.checkpoint_every = 0;
    run.eval.every = 0;
    memset(&run.run, 0, sizeof run.run);
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    if (!file) return gln_fail(GLN_ERR_MEMORY, "waste: out of memory");
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    status = gln_config_write(fields, count, &run, file);
    if (fclose(file) != 0 && status == GLN_OK)
        status = gln_fail(GLN_ERR_MEMORY, "waste: out of memory");
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
    free(text);
    if (status == GLN_OK) *out = hash;
    return status;
}

static gln_status_t add_cell(const gln_arguments_t *arguments, int ranks, gln_waste_grid_t *grid,
                             gln_waste_cell_t cell)
{
    gln_run_options_t run;
    sets_t sets = cell_sets(&cell);
    for (int i = 0; i < sets.count; i++) {
        size_t used = strlen(cell.key);
        snprintf(cell.key + used, sizeof cell.key - used, "%s ", sets.text[i]);
    }
    size_t used = strlen(cell.key);
    snprintf(cell.key + used, sizeof cell.key - used, "rest=%016llx",
             (unsigned long long)grid->rest);
    grid->cells[grid->cells_count++] = cell;
    return load(arguments, &sets, ranks, &run);
}

static gln_status_t add_cells(const gln_arguments_t *arguments, int ranks, gln_waste_grid_t *grid,
                              int64_t seed, bool unbalanced)
{
    const double *factors = unbalanced ? grid->unbalanced : grid->capacities;
    int factors_count = unbalanced ? grid->unbalanced_count : grid->capacities_count;
    gln_status_t status = GLN_OK;
    for (int p = 0; p < grid->policies_count; p++) {
        const gln_waste_policy_t *policy = &grid->policies[p];
        int count = policy->dropless && factors_count > 1 ? 1 : factors_count;
        for (int c = 0; status == GLN_OK && policy->known && c < count; c++)
            status = add_cell(
                arguments, ranks, grid,
                (gln_waste_cell_t){.policy = policy,
                                   .capacity_factor = policy->dropless ? INFINITY : factors[c],
                                   .unbalanced = unbalanced,
                                   .seed = seed});
    }
    return status;
}

gln_status_t gln_waste_grid_open(const gln_arguments_t *arguments, int ranks, gln_waste_grid_t *out)
{
    gln_waste_grid_t *grid = out;
    memset(grid, 0, sizeof *grid);
    gln_status_t status = parse_policies(arguments, grid);
    if (status == GLN_OK)
        status = parse_factors(arguments, GLN_OPTION_CAPACITY, "0.5,1.0,1.25", grid->capacities,
                               &grid->capacities_count);
    if (status == GLN_OK)
        status = parse_factors(arguments, GLN_OPTION_UNBALANCED, "1.0", grid->unbalanced,
                               &grid->unbalanced_count);
    if (status == GLN_OK) status = parse_seeds(arguments, grid);
    if (status == GLN_OK) status = hash_rest(arguments, ranks, &grid->rest);
    if (status != GLN_OK) return status;
    int most = grid->policies_count * (grid->capacities_count + grid->unbalanced_count) *
               grid->seeds_count;
    grid->cells = calloc((size_t)most + 1, sizeof *grid->cells);
    if (!grid->cells) return gln_fail(GLN_ERR_MEMORY, "waste: out of memory for %d cells", most);
    for (int s = 0; status == GLN_OK && s < grid->seeds_count; s++) {
        status = add_cells(arguments, ranks, grid, grid->seeds[s], false);
        if (status == GLN_OK) status = add_cells(arguments, ranks, grid, grid->seeds[s], true);
    }
    if (status == GLN_OK && grid->cells_count == 0)
        status = gln_fail(GLN_ERR_ARGUMENT,
                          "--policies: none of them is known to run files of this build");
    return status;
}

void gln_waste_grid_close(gln_waste_grid_t *grid)
{
    free(grid->cells);
    grid->cells = NULL;
    grid->cells_count = 0;
}

void gln_waste_cell_text(const gln_waste_cell_t *cell, char *out, size_t size)
{
    char factor[48] = "";
    if (!cell->policy->dropless) {
        snprintf(factor, sizeof factor, ", capacity ");
        format_factor(cell->capacity_factor, factor + strlen(factor), 32);
    }
    snprintf(out, size, "%s%s%s, seed %lld", cell->policy->name, factor,
             cell->unbalanced ? ", no balance loss" : "", (long long)cell->seed);
}
