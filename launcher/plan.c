/* `gleaner plan`: the memory of a run, computed without running it and without its ranks. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/machine.h"
#include "launcher/memory.h"
#include "launcher/text.h"
#include "moe/gleaner.h"
#include <string.h>

typedef struct plan {
    gln_session_t session;
    gln_run_options_t run;
    int ranks, ranks_per_node, nodes;
    gln_memory_plan_t memory; /* of the rank that takes most */
    int rank;
} plan_t;

static const char *const meanings[GLN_MEMORY_KINDS] = {
    [GLN_MEMORY_OTHER] = "token ids and small tables",
    [GLN_MEMORY_WEIGHTS] = "master weights",
    [GLN_MEMORY_COPIES] = "weights rounded to the dtype of products",
    [GLN_MEMORY_GRADIENTS] = "one set of dense ones a domain, of experts' a replica group",
    [GLN_MEMORY_MOMENTS] = "AdamW, two a weight",
    [GLN_MEMORY_ACTIVATIONS] = "and their gradients; experts' rows for the worst routing",
    [GLN_MEMORY_ROUTER] = "routes, scores, scratch",
    [GLN_MEMORY_EXCHANGE] = "lists, staging and received rows of this rank alone",
    [GLN_MEMORY_WINDOW] = "received rows in memory that the node shares, this rank's part",
    [GLN_MEMORY_SCRATCH] = "sums over ranks",
};

static void print_line(const char *name, int64_t bytes, const char *meaning)
{
    char text[16];
    if (bytes == 0) return;
    gln_text_bytes((double)bytes, text, sizeof text);
    printf("  %-12s %10s   %s\n", name, text, meaning);
}

static void print(const plan_t *p, const char *path)
{
    const gln_memory_plan_t *m = &p->memory;
    char all[16], dense[16], expert[16], node[16];
    gln_text_count((double)m->parameters, all, sizeof all);
    gln_text_count((double)m->dense_parameters, dense, sizeof dense);
    gln_text_count((double)m->expert_parameters, expert, sizeof expert);
    printf("gleaner %s: memory of %s on %d rank%s, %d a node, %d thread%s a rank\n", gln_version(),
           path, p->ranks, p->ranks == 1 ? "" : "s", p->ranks_per_node,
           (int)p->run.parallel.threads, p->run.parallel.threads == 1 ? "" : "s");
    printf("  parameters   %s; a rank holds %s dense and %s of experts\n\na rank", all, dense,
           expert);
    if (p->ranks > 1) printf(" (rank %d, which takes most)", p->rank);
    printf(":\n");
    for (int i = 1; i < GLN_MEMORY_KINDS; i++)
        print_line(gln_memory_name((gln_memory_kind_t)i), m->bytes[i], meanings[i]);
    print_line(gln_memory_name(GLN_MEMORY_OTHER), m->bytes[GLN_MEMORY_OTHER],
               meanings[GLN_MEMORY_OTHER]);
    print_line("process", m->process_bytes, "program, libraries, products' code: measured here");
    print_line("allowance", m->allowance_bytes, "for what run and MPI take later");
    print_line("total", m->total_bytes, "peak of a rank");
    gln_text_bytes((double)m->total_bytes * p->ranks_per_node, node, sizeof node);
    printf("a node: %s; training text is mapped, and not counted\n", node);
}

static gln_status_t print_json(const plan_t *p)
{
    json_t *object =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:I, s:o}", "plan", "memory", "ranks", p->ranks,
                  "ranks_per_node", p->ranks_per_node, "nodes", p->nodes, "threads",
                  (int)p->run.parallel.threads, "rank", p->rank, "node_bytes",
                  (json_int_t)(p->memory.total_bytes * p->ranks_per_node), "a_rank",
                  gln_memory_plan_json(&p->memory));
    return gln_figures_print(object, stdout, "standard output");
}

static gln_status_t read_arguments(const gln_arguments_t *arguments, plan_t *p)
{
    int64_t ranks = 1, per_node = 0;
    gln_machine_t machine;
    gln_status_t status = GLN_OK;
    if (!arguments->given[GLN_OPTION_MEMORY])
        status = gln_fail(GLN_ERR_ARGUMENT, "plan needs --memory: what is to be planned");
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_JOB_RANKS, p->session.ranks, 1, 1 << 20,
                                   &ranks);
    if (status == GLN_OK)
        status =
            gln_arguments_int(arguments, GLN_OPTION_RANKS_PER_NODE, ranks, 1, ranks, &per_node);
    if (status == GLN_OK)
        status = gln_run_options_load(arguments->operands[0], arguments->sets,
                                      arguments->sets_count, (int)ranks, &p->run);
    if (status == GLN_OK)
        status = gln_machine_look(p->session.comm, (int)p->run.parallel.threads, &machine);
    if (status != GLN_OK) return status;
    p->ranks = (int)ranks;
    p->ranks_per_node = (int)per_node;
    p->nodes = (p->ranks + p->ranks_per_node - 1) / p->ranks_per_node;
    if (p->run.parallel.threads == 0) {
        int share = machine.cores_allowed / p->ranks_per_node;
        p->run.parallel.threads = share > 1 ? share : 1;
    }
    return GLN_OK;
}

/* Ranks differ where nodes do: the first and the last one see all there is. */
static gln_status_t compute(plan_t *p)
{
    const int candidates[] = {0, p->ranks - 1};
    for (int i = 0; i < (p->ranks > 1 ? 2 : 1); i++) {
        gln_memory_plan_t memory;
        gln_status_t status =
            gln_memory_plan(&p->run, candidates[i], p->ranks, p->ranks_per_node, &memory);
        if (status != GLN_OK) return status;
        if (i > 0 && memory.total_bytes <= p->memory.total_bytes) continue;
        p->memory = memory;
        p->rank = candidates[i];
    }
    return gln_memory_plan_process(&p->run, p->ranks, &p->memory);
}

int gln_command_plan(const gln_arguments_t *arguments)
{
    static plan_t plan;
    plan_t *p = &plan;
    memset(p, 0, sizeof *p);
    gln_session_start(&p->session);
    gln_status_t status = gln_session_join(&p->session);
    if (status == GLN_OK) status = gln_session_agree(&p->session, read_arguments(arguments, p));
    if (status == GLN_OK) status = gln_session_agree(&p->session, compute(p));
    if (status == GLN_OK && p->session.rank == 0) {
        if (arguments->given[GLN_OPTION_JSON])
            status = print_json(p);
        else
            print(p, arguments->operands[0]);
    }
    return gln_session_leave(&p->session, status);
}
