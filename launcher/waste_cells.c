/* cells.jsonl: one object a line, appended and forced to the disk when its cell is finished. A line
 * that was cut off is passed over, and the next one starts on a line of its own. */
#include "launcher/waste.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/run_folder.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool take_real(const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) return false;
    *out = json_number_value(value);
    return true;
}

static bool take_ledger(const json_t *object, gln_ledger_t *out)
{
    int64_t values[GLN_LEDGER_FIELDS];
    _Static_assert(sizeof *out == sizeof values, "a field was added to gln_ledger_t");
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++) {
        const json_t *value = json_object_get(object, gln_ledger_names()[i]);
        if (!json_is_integer(value)) return false;
        values[i] = json_integer_value(value);
    }
    memcpy(out, values, sizeof values);
    return true;
}

static void take_line(const char *line, gln_waste_grid_t *grid)
{
    json_t *object = json_loads(line, 0, NULL);
    const char *key = json_string_value(json_object_get(object, "key"));
    gln_waste_result_t r;
    bool whole = key && take_real(object, "bits_per_byte", &r.bits_trained) &&
                 take_real(object, "bits_per_byte_dropless", &r.bits_dropless) &&
                 take_real(object, "train_loss", &r.train_loss) &&
                 take_real(object, "seconds", &r.seconds) &&
                 take_ledger(json_object_get(object, "ledger"), &r.ledger);
    for (int i = 0; whole && i < grid->cells_count; i++) {
        if (strcmp(grid->cells[i].key, key)) continue;
        grid->cells[i].done = true;
        grid->cells[i].result = r;
    }
    json_decref(object);
}

gln_status_t gln_waste_read(const char *dir, gln_waste_grid_t *grid)
{
    char path[GLN_RUN_PATH_MAX], *line = NULL;
    size_t room = 0;
    snprintf(path, sizeof path, "%s/cells.jsonl", dir);
    FILE *file = fopen(path, "r");
    if (!file && (errno == ENOENT || errno == ENOTDIR)) return GLN_OK;
    if (!file) return gln_fail(GLN_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    while (getline(&line, &room, file) > 0)
        take_line(line, grid);
    bool bad = ferror(file) != 0;
    free(line);
    fclose(file);
    return bad ? gln_fail(GLN_ERR_IO, "%s: cannot read: %s", path, strerror(errno)) : GLN_OK;
}

static json_t *describe(const gln_waste_cell_t *cell)
{
    const gln_waste_result_t *r = &cell->result;
    json_t *object = json_pack("{s:s, s:s, s:I}", "key", cell->key, "policy", cell->policy->name,
                               "k", (json_int_t)cell->policy->k);
    double tokens = (double)(r->ledger.tokens > 0 ? r->ledger.tokens : 1);
    json_object_set_new(object, "capacity_factor", gln_figures_real(cell->capacity_factor));
    json_object_set_new(object, "balanced", json_boolean(!cell->unbalanced));
    json_object_set_new(object, "seed", json_integer(cell->seed));
    json_object_set_new(object, "bits_per_byte", gln_figures_real(r->bits_trained));
    json_object_set_new(object, "bits_per_byte_dropless", gln_figures_real(r->bits_dropless));
    json_object_set_new(object, "train_loss", gln_figures_real(r->train_loss));
    json_object_set_new(
        object, "rows_per_token",
        gln_figures_real((double)(r->ledger.routed + r->ledger.filled + r->ledger.rect_rows) /
                         tokens));
    json_object_set_new(object, "seconds", gln_figures_real(r->seconds));
    json_object_set_new(object, "ledger", gln_figures_ledger(&r->ledger));
    return object;
}

/* Whether the file is empty or ends with a line break. */
static bool ends_well(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) return true;
    bool well = fseek(file, -1, SEEK_END) != 0 || fgetc(file) == '\n';
    fclose(file);
    return well;
}

gln_status_t gln_waste_append(const char *dir, const gln_waste_cell_t *cell)
{
    char path[GLN_RUN_PATH_MAX];
    snprintf(path, sizeof path, "%s/cells.jsonl", dir);
    bool well = ends_well(path);
    FILE *file = fopen(path, "a");
    if (!file) return gln_fail(GLN_ERR_IO, "%s: cannot append: %s", path, strerror(errno));
    if (!well) fputc('\n', file);
    gln_status_t status = gln_figures_print(describe(cell), file, path);
    if (status == GLN_OK && fsync(fileno(file)) != 0)
        status = gln_fail(GLN_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    if (fclose(file) != 0 && status == GLN_OK)
        status = gln_fail(GLN_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    return status;
}
