/* What `gleaner train` prints and writes down: the same facts as text on the screen, as JSON
 * objects with --json, as lines of metrics.jsonl, and as report.txt. */
#include "launcher/train.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/text.h"
#include "moe/gleaner.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *choice(const char *key, int value)
{
    int count;
    const gln_config_field_t *fields = gln_run_fields(&count);
    for (int i = 0; i < count; i++)
        if (!strcmp(fields[i].key, key)) return fields[i].choices[value];
    return "?";
}

static const char *plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_ranks(const gln_train_t *t, FILE *out)
{
    const gln_machine_t *m = &t->machine;
    int64_t domains = t->run.parallel.domains, replicas = t->run.parallel.expert_replicas;
    fprintf(out, "  ranks     %d on %d node%s; %lld domain%s, %lld a rank; ", m->ranks, m->nodes,
            plural(m->nodes), (long long)domains, plural(domains), (long long)domains / m->ranks);
    if (replicas > 1) fprintf(out, "%lld replica groups; ", (long long)replicas);
    int64_t experts = t->run.model.experts * replicas / domains;
    fprintf(out, "%lld expert%s a domain\n", (long long)experts, plural(experts));
    fprintf(out, "  machine   %s\n", m->summary);
    fprintf(out, "  binding   rank 0 on %s; %d thread%s a rank\n", m->binding, m->threads,
            plural(m->threads));
    if (t->bind.ranks > 0)
        fprintf(out, "            parallel.bind auto: rank 0 %s; %d of %d rank%s bound by it\n",
                t->bind.mine.text, t->bind.bound, t->bind.ranks, plural(t->bind.ranks));
    fprintf(out, "  backend   %s, %s%s%s%s\n", choice("parallel.backend", t->run.parallel.backend),
            choice("parallel.dtype", t->run.parallel.dtype),
            t->run.parallel.wire == GLN_WIRE_BF16 ? ", rows between ranks bf16" : "",
            m->features[0] ? "; CPU has " : "", m->features);
}

static void print_exchange(const gln_train_t *t, FILE *out)
{
    const gln_model_t *model = gln_trainer_model(t->trainer);
    const char *form_reason, *form = gln_model_exchange_form(model, &form_reason);
    const char *path_reason, *path = gln_model_exchange_path(model, &path_reason);
    if (!form || t->machine.ranks == 1) return;
    fprintf(out, "  exchange  ");
    if (t->machine.nodes > 1) fprintf(out, "%s between nodes: %s; ", form, form_reason);
    fprintf(out, "%s inside a node: %s\n", path, path_reason);
}

static void print_model(const gln_train_t *t, FILE *out)
{
    char total[16], active[16];
    gln_text_count((double)t->parameters, total, sizeof total);
    gln_text_count((double)t->parameters_active, active, sizeof active);
    fprintf(out,
            "  model     %lld layers, hidden %lld, %lld experts of %lld; %s parameters, %s active "
            "per token\n",
            (long long)t->run.model.layers, (long long)t->run.model.hidden,
            (long long)t->run.model.experts, (long long)t->run.model.expert_hidden, total, active);
    const char *schedule = t->run.router.capacity_schedule;
    fprintf(out, "  router    %s, k %lld, capacity factor ",
            choice("router.policy", t->run.router.policy), (long long)t->run.router.k);
    if (schedule[0])
        fprintf(out, "%s", schedule);
    else
        fprintf(out, "%g", t->run.router.capacity_factor);
    fprintf(out, ", fill-in %s, rectification %s\n", t->run.router.fill ? "on" : "off",
            t->run.router.rectify ? "on" : "off");
}

static gln_status_t print_data(const gln_train_t *t, const char *name, const char *path, FILE *out)
{
    gln_data_glance_t glance;
    char tokens[16];
    gln_status_t status = gln_data_look(path, &glance);
    if (status != GLN_OK) return status;
    gln_text_count((double)glance.tokens, tokens, sizeof tokens);
    fprintf(out, "  %-9s %s %s (%s)\n", name, tokens, glance.is_bytes ? "bytes" : "tokens", path);
    (void)t;
    return GLN_OK;
}

static void print_memory(const gln_train_t *t, FILE *out)
{
    char parameters[16], activations[16], workspace[16];
    gln_model_bytes_t bytes = gln_model_bytes(gln_trainer_model(t->trainer));
    gln_text_bytes((double)bytes.parameters, parameters, sizeof parameters);
    gln_text_bytes((double)bytes.activations, activations, sizeof activations);
    gln_text_bytes((double)bytes.workspace, workspace, sizeof workspace);
    fprintf(out,
            "  memory    rank 0: %s weights, gradients and moments, %s activations, %s workspace\n",
            parameters, activations, workspace);
}

static void print_run(const gln_train_t *t, const char *changes, FILE *out)
{
    fprintf(out, "  run       %s, ", t->run.run.dir);
    if (t->first_step > 0)
        fprintf(out, "going on from step %lld", (long long)t->first_step);
    else
        fprintf(out, "from %s", t->run.train.upcycle[0] ? "a dense model, " : "the start");
    if (t->first_step == 0 && t->run.train.upcycle[0]) fprintf(out, "%s,", t->run.train.upcycle);
    fprintf(out, " to step %lld\n", (long long)t->run.train.steps);
    if (changes[0]) fprintf(out, "  changed   %s\n", changes);
    fprintf(
        out,
        "  ledger    below: per cent of choices (routed, rescued, rectified, dropped) | of slots "
        "(filled, padded)\n\n");
}

static void print_start_json(const gln_train_t *t, const char *changes, FILE *out)
{
    gln_model_bytes_t bytes = gln_model_bytes(gln_trainer_model(t->trainer));
    gln_data_glance_t train = {0}, valid = {0};
    gln_data_look(t->run.data.train, &train);
    if (t->validates) gln_data_look(t->run.data.valid, &valid);
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:s, s:s, s:i, s:s, s:s}", "event", "start",
                  "version", gln_version(), "run_dir", t->run.run.dir, "ranks", t->machine.ranks,
                  "nodes", t->machine.nodes, "domains", (json_int_t)t->run.parallel.domains,
                  "expert_replicas", (json_int_t)t->run.parallel.expert_replicas, "machine",
                  t->machine.summary, "binding", t->machine.binding, "threads", t->machine.threads,
                  "backend", choice("parallel.backend", t->run.parallel.backend), "dtype",
                  choice("parallel.dtype", t->run.parallel.dtype));
    json_t *rest = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:i}", "cpu_features",
        t->machine.features, "parameters", (json_int_t)t->parameters, "parameters_active",
        (json_int_t)t->parameters_active, "train_tokens", (json_int_t)train.tokens, "valid_tokens",
        (json_int_t)valid.tokens, "parameter_bytes", (json_int_t)bytes.parameters,
        "activation_bytes", (json_int_t)bytes.activations, "workspace_bytes",
        (json_int_t)bytes.workspace, "first_step", (json_int_t)t->first_step, "steps",
        (json_int_t)t->run.train.steps, "changed", changes, "bind",
        t->bind.ranks ? t->bind.mine.text : "parallel.bind is none", "bound_ranks", t->bind.bound);
    json_object_update(object, rest);
    json_decref(rest);
    if (t->run.train.upcycle[0])
        json_object_set_new(object, "upcycle", json_string(t->run.train.upcycle));
    json_object_set_new(object, "wire", json_string(choice("parallel.wire", t->run.parallel.wire)));
    const char *reason, *form = gln_model_exchange_form(gln_trainer_model(t->trainer), &reason);
    if (form) {
        json_object_set_new(object, "exchange", json_string(form));
        json_object_set_new(object, "exchange_reason", json_string(reason));
        const char *path = gln_model_exchange_path(gln_trainer_model(t->trainer), &reason);
        json_object_set_new(object, "path", json_string(path));
        json_object_set_new(object, "path_reason", json_string(reason));
    }
    gln_figures_print(object, out, "standard output");
}

gln_status_t gln_train_print_start(gln_train_t *t, const char *changes)
{
    if (t->json) {
        print_start_json(t, changes, stdout);
        return GLN_OK;
    }
    printf("gleaner %s: training %s\n", gln_version(), t->source.path);
    print_ranks(t, stdout);
    print_exchange(t, stdout);
    print_model(t, stdout);
    gln_status_t status = print_data(t, "train", t->run.data.train, stdout);
    if (status == GLN_OK && t->validates)
        status = print_data(t, "valid", t->run.data.valid, stdout);
    if (status != GLN_OK) return status;
    print_memory(t, stdout);
    print_run(t, changes, stdout);
    return GLN_OK;
}

/* Steps and validations still to come, at the pace since the last line. */
static double seconds_left(const gln_train_t *t)
{
    int64_t at = t->last.step, steps = t->run.train.steps, every = t->run.eval.every;
    double left = (double)(steps - at) * t->line_seconds / (double)t->line_steps;
    if (!t->validates || t->valid_step < 0 || at == steps) return left;
    int64_t validations = every ? steps / every - at / every + (steps % every != 0) : 1;
    return left + (double)validations * t->valid.seconds;
}

static void print_line(const gln_train_t *t)
{
    char pace[16], left[16], ledger[160], valid[32] = "-", steps[32];
    gln_text_count((double)t->line_tokens / t->line_seconds, pace, sizeof pace);
    gln_text_duration(seconds_left(t), left, sizeof left);
    gln_figures_ledger_text(&t->last.ledger, ledger, sizeof ledger);
    if (t->valid_step >= 0)
        snprintf(valid, sizeof valid, "%.4f",
                 t->byte_level ? t->valid.bits_per_byte : t->valid.loss);
    int width = snprintf(steps, sizeof steps, "%lld", (long long)t->run.train.steps);
    printf("step %*lld/%s  loss %.4f  %s %6s  lr %.2e  %s tokens/s  %s left  %s\n", width,
           (long long)t->last.step, steps, t->last.loss,
           t->byte_level ? "valid bits/byte" : "valid loss", valid, t->last.lr, pace, left, ledger);
}

gln_status_t gln_train_print_step(gln_train_t *t, bool validated)
{
    char name[GLN_RUN_PATH_MAX];
    snprintf(name, sizeof name, "%s/metrics.jsonl", t->run.run.dir);
    json_t *object = gln_figures_step(&t->last);
    if (object && validated) json_object_set_new(object, "valid", gln_figures_eval(&t->valid));
    json_t *line = json_incref(object);
    gln_status_t status = gln_figures_print(line, t->metrics, name);
    if (t->json && status == GLN_OK) {
        json_object_set_new(object, "event", json_string("step"));
        gln_figures_print(object, stdout, "standard output"); /* a reader that left stops no run */
    } else {
        json_decref(object);
        print_line(t);
    }
    t->line_tokens = t->line_steps = 0;
    t->line_seconds = 0;
    return status;
}

static double gzip_bits(const gln_train_t *t)
{
    return 8.0 * (double)t->gzip_bytes / (double)t->valid_bytes;
}

static void write_result(const gln_train_t *t, FILE *out)
{
    if (t->first_step < t->last.step)
        fprintf(out, "train loss %.4f nats per token at step %lld\n", t->last.loss,
                (long long)t->last.step);
    if (t->valid_step >= 0)
        fprintf(out, "valid loss %.4f nats per token over %lld tokens\n", t->valid.loss,
                (long long)t->valid.tokens);
    if (t->gzip_bytes > 0) {
        double bits = gzip_bits(t), ours = t->valid.bits_per_byte;
        fprintf(out,
                "validation text: %.4f bits per byte; gzip -9 needs %.4f (%lld of %lld bytes): "
                "%.1f %% %s\n",
                ours, bits, (long long)t->gzip_bytes, (long long)t->valid_bytes,
                100 * fabs(1 - ours / bits), ours < bits ? "fewer" : "MORE");
    } else if (t->byte_level && t->valid_step >= 0) {
        fprintf(out, "validation text: %.4f bits per byte\n", t->valid.bits_per_byte);
    }
}

static void write_work(const gln_train_t *t, FILE *out)
{
    char time[16], pace[16], ledger[160];
    double steps = (double)(t->last.step - t->first_step);
    if (t->step_seconds <= 0) return;
    gln_text_duration(gln_clock() - t->begin, time, sizeof time);
    gln_text_count((double)t->tokens / t->step_seconds, pace, sizeof pace);
    gln_figures_ledger_text(&t->ledger, ledger, sizeof ledger);
    fprintf(out, "%lld steps, %lld tokens in %s, %s tokens/s\n",
            (long long)(t->last.step - t->first_step), (long long)t->tokens, time, pace);
    fprintf(out,
            "time in MoE layers, of all step time on rank 0: GEMM %.1f %%, exchange %.1f %%, "
            "router %.1f %%\n",
            100 * t->gemm_seconds / t->step_seconds, 100 * t->exchange_seconds / t->step_seconds,
            100 * t->router_seconds / t->step_seconds);
    if (t->session.ranks > 1)
        fprintf(
            out,
            "rows of MoE layers under way: %.1f ms a step; %.1f ms of it (%.0f %%) hidden behind "
            "work\n",
            1e3 * t->flight_seconds / steps, 1e3 * t->hidden_seconds / steps,
            100 * t->hidden_seconds / t->flight_seconds);
    fprintf(out, "ledger of all steps, per cent: %s\n", ledger);
}

static void write_memory(const gln_train_t *t, FILE *out)
{
    const gln_memory_measured_t *m = &t->measured;
    char planned[16], peak[16], node[16];
    gln_text_bytes((double)t->planned.total_bytes, planned, sizeof planned);
    gln_text_bytes((double)m->peak_bytes, peak, sizeof peak);
    gln_text_bytes((double)m->node_bytes, node, sizeof node);
    if (t->planned.total_bytes == 0)
        fprintf(out, "memory: could not be planned; peak %s", peak);
    else
        fprintf(out, "memory: planned %s a rank, peak %s (%+.1f %%)", planned, peak,
                100 * ((double)m->peak_bytes / (double)t->planned.total_bytes - 1));
    if (t->session.ranks > 1) fprintf(out, " on rank %d; %s a node", m->rank, node);
    fprintf(out, "\n");
}

static void write_next(const gln_train_t *t, FILE *out)
{
    const char *program = t->arguments->program, *dir = t->run.run.dir;
    fprintf(out, "\nrun directory: %s\n  config.yaml  metrics.jsonl  report.txt  %s\n", dir,
            t->checkpoint + (strncmp(t->checkpoint, dir, strlen(dir)) ? 0 : strlen(dir) + 1));
    fprintf(out, "try next:\n");
    if (t->byte_level)
        fprintf(out, "  %s generate %s --prompt \"In the \" --count 400\n", program, dir);
    if (t->validates) fprintf(out, "  %s eval %s\n", program, dir);
    fprintf(out, "  %s ckpt digest %s\n", program, dir);
    char start[64] = "";
    if (t->machine.ranks > 1)
        snprintf(start, sizeof start, "mpirun %s-n %d ",
                 geteuid() == 0 ? "--allow-run-as-root " : "", t->machine.ranks);
    fprintf(out, "  %s%s train %s --set run.dir=%s-plain --set router.fill=false", start, program,
            t->source.path, dir);
    fprintf(out, " --set router.rectify=false\n");
}

static gln_status_t print_end_json(const gln_train_t *t, const char *sample)
{
    json_t *object =
        json_pack("{s:s, s:b, s:I, s:I, s:s, s:s}", "event", "end", "stopped", (int)t->stopped,
                  "step", (json_int_t)t->last.step, "tokens", (json_int_t)t->tokens, "run_dir",
                  t->run.run.dir, "checkpoint", t->checkpoint);
    json_object_set_new(object, "seconds", gln_figures_real(gln_clock() - t->begin));
    json_object_set_new(object, "step_seconds", gln_figures_real(t->step_seconds));
    json_object_set_new(object, "ledger", gln_figures_ledger(&t->ledger));
    json_object_set_new(object, "memory_planned",
                        t->planned.total_bytes ? gln_memory_plan_json(&t->planned) : json_null());
    json_object_set_new(object, "memory", gln_memory_measured_json(&t->measured));
    if (t->valid_step >= 0) json_object_set_new(object, "valid", gln_figures_eval(&t->valid));
    if (t->gzip_bytes > 0) {
        json_object_set_new(object, "gzip_bytes", json_integer(t->gzip_bytes));
        json_object_set_new(object, "gzip_bits_per_byte", gln_figures_real(gzip_bits(t)));
    }
    if (sample) json_object_set_new(object, "sample", json_string(sample));
    return gln_figures_print(object, stdout, "standard output");
}

gln_status_t gln_train_print_end(gln_train_t *t, const char *sample)
{
    if (t->stopped) {
        if (t->json) return print_end_json(t, NULL);
        printf("\nstopped by a signal after step %lld; saved %s\nthe same command goes on from "
               "there\n",
               (long long)t->last.step, t->checkpoint);
        return GLN_OK;
    }
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return gln_fail(GLN_ERR_MEMORY, "report: out of memory");
    write_result(t, out);
    write_work(t, out);
    write_memory(t, out);
    if (sample) fprintf(out, "\ngenerated text:\n----\n%s\n----\n", sample);
    write_next(t, out);
    gln_status_t status =
        fclose(out) == 0 ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "report: out of memory");
    if (status == GLN_OK) status = gln_run_folder_write_report(t->run.run.dir, text);
    if (status == GLN_OK && t->json) status = print_end_json(t, sample);
    if (status == GLN_OK && !t->json) printf("\n%s", text);
    free(text);
    return status;
}
