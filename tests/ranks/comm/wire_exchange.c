/* A program that only exchanges: every token picks k of E experts at random, and its row goes to
 * the domains that hold them (plan, dispatch, combine). Prints, as one JSON object, what the
 * exchange says it sent between nodes, for comparison with the counters of network interfaces, and
 * how long it took. tests/cluster/ and cluster/virtual/compare.sh run it on virtual hosts.
 *
 *   wire_exchange [hidden H] [tokens T] [experts E] [k K] [steps S] [form auto|flat|hierarchical]
 *
 * D = P domains of T tokens and E/P experts; rows are f32. */
#include "base/rng.h"
#include "comm/exchange.h"
#include "tests/ranks/comm/check.h"
#include <time.h>

typedef struct job {
    int hidden, tokens, experts, k, steps;
    gln_exchange_across_t form;
    gln_comm_t *comm;
    int ranks, rank;
    int32_t *rows, *row_token, *zeros; /* [P], [P * T], [P] */
} job_t;

typedef struct sums {
    gln_traffic_t dispatch, combine;
    int64_t control_bytes; /* records of the plan that this rank sends to other nodes */
    int64_t rows;          /* rows that a flat exchange would send to other nodes */
    int64_t pairs;         /* distinct (token, remote node) pairs */
    int64_t hash;          /* of all combined rows; wraps */
} sums_t;

static void parse(job_t *job, int count, char **words)
{
    static const char *const forms[] = {"auto", "flat", "hierarchical"};
    const struct {
        const char *name;
        int *value;
    } numbers[] = {{"hidden", &job->hidden},
                   {"tokens", &job->tokens},
                   {"experts", &job->experts},
                   {"k", &job->k},
                   {"steps", &job->steps}};
    for (int w = 1; w + 1 < count; w += 2) {
        int known = 0;
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
            if (strcmp(words[w], numbers[n].name) != 0) continue;
            *numbers[n].value = atoi(words[w + 1]);
            known = *numbers[n].value > 0;
        }
        for (int f = 0; f < 3 && strcmp(words[w], "form") == 0; f++) {
            if (strcmp(words[w + 1], forms[f]) != 0) continue;
            job->form = (gln_exchange_across_t)f;
            known = 1;
        }
        CHECK(known, "%s %s", words[w], words[w + 1]);
    }
    CHECK(count % 2 == 1, "every name needs a value");
    CHECK(job->experts % job->ranks == 0 && job->k <= job->experts && job->experts <= 4096,
          "P must divide the number of experts (at most 4096), of which k are picked");
}

/* Which domains this rank's token wants: k different experts of E, by the step's random order. */
static void token_domains(const job_t *job, int step, int token, unsigned char *wanted)
{
    uint64_t stream =
        gln_rng_stream(GLN_RNG_TEST, (uint64_t)step, (uint64_t)(job->rank * job->tokens + token));
    memset(wanted, 0, (size_t)job->ranks);
    for (int c = 0; c < job->k; c++) {
        uint64_t expert = gln_rng_permute(7, stream, (uint64_t)job->experts, (uint64_t)c);
        wanted[expert / (uint64_t)(job->experts / job->ranks)] = 1;
    }
}

static void plan(const job_t *job, int step, sums_t *sums)
{
    unsigned char *wanted = allocate((size_t)job->tokens * (size_t)job->ranks);
    int home = gln_comm_node_of(job->comm, job->rank);
    for (int t = 0; t < job->tokens; t++) {
        unsigned char *mine = wanted + (size_t)t * (size_t)job->ranks;
        unsigned char seen[4096] = {0}; /* by node; there are no more nodes than ranks */
        token_domains(job, step, t, mine);
        for (int d = 0; d < job->ranks; d++) {
            int node = gln_comm_node_of(job->comm, d);
            if (!mine[d] || node == home) continue;
            sums->rows++;
            sums->pairs += !seen[node];
            seen[node] = 1;
        }
    }
    int64_t at = 0;
    for (int d = 0; d < job->ranks; d++) {
        job->rows[d] = 0;
        for (int t = 0; t < job->tokens; t++) {
            if (!wanted[(size_t)t * (size_t)job->ranks + (size_t)d]) continue;
            job->row_token[at++] = t;
            job->rows[d]++;
        }
        if (gln_comm_node_of(job->comm, d) != home)
            sums->control_bytes += (int64_t)(sizeof(int32_t) * (1 + 3)); /* status, three counts */
    }
    free(wanted);
}

static double now(const job_t *job)
{
    struct timespec t;
    CHECK_OK(gln_comm_barrier(job->comm));
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Steps of plan, dispatch, combine; rows come back as they were sent. The time of a step is that
 * between two barriers on rank 0. */
static sums_t exchange(const job_t *job, gln_exchange_t *x, double *seconds)
{
    sums_t sums = {.hash = 0};
    size_t values = (size_t)job->tokens * (size_t)job->hidden;
    float *in = allocate(values * sizeof *in), *out = allocate(values * sizeof *out);
    float *rows = allocate((size_t)gln_exchange_receive_max(x) * (size_t)job->hidden * sizeof *in);
    for (int step = 0; step < job->steps; step++) {
        gln_exchange_received_t received;
        gln_exchange_send_t send = {job->rows, job->row_token, job->zeros, job->zeros, ""};
        for (size_t v = 0; v < values; v++)
            in[v] = (float)((v * 7 + (size_t)job->rank * 13 + (size_t)step) % 1013) / 64.0f;
        plan(job, step, &sums);
        double start = now(job);
        CHECK_OK(gln_exchange_plan(x, &send, &received));
        CHECK_OK(gln_exchange_dispatch(x, in, rows));
        gln_traffic_t traffic = gln_exchange_traffic(x);
        gln_traffic_add(&sums.dispatch, &traffic);
        CHECK_OK(gln_exchange_combine(x, rows, out));
        traffic = gln_exchange_traffic(x);
        gln_traffic_add(&sums.combine, &traffic);
        seconds[step] = now(job) - start;
        uint64_t hash = hash_bytes(0xcbf29ce484222325u, out, values * sizeof *out);
        sums.hash += (int64_t)(hash >> 16);
    }
    free(in), free(out), free(rows);
    return sums;
}

/* Of a pair of domains: tokens that pick one of the E/P experts of a domain. */
static double rows_expected(const job_t *job)
{
    double missed = 1;
    for (int i = 0; i < job->k; i++) {
        double left = job->experts - i, elsewhere = left - (double)job->experts / job->ranks;
        missed *= elsewhere > 0 ? elsewhere / left : 0;
    }
    return job->tokens * (1 - missed);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const job_t *job, const gln_exchange_t *x, sums_t sums, double *seconds)
{
    CHECK_OK(gln_comm_sum_i64(job->comm, (int64_t *)&sums, (int)(sizeof sums / sizeof(int64_t))));
    qsort(seconds, (size_t)job->steps, sizeof *seconds, by_size);
    if (job->rank != 0) return;
    printf("{\"event\":\"exchange\",\"form\":\"%s\",\"reason\":\"%s\",\"ranks\":%d,\"nodes\":%d,",
           gln_exchange_form(x), gln_exchange_form_reason(x), job->ranks,
           gln_comm_nodes_count(job->comm));
    printf("\"tokens\":%d,\"hidden\":%d,\"experts\":%d,\"k\":%d,\"steps\":%d,", job->tokens,
           job->hidden, job->experts, job->k, job->steps);
    printf("\"pairs\":%lld,\"flat_rows\":%lld,", (long long)sums.pairs, (long long)sums.rows);
    printf("\"dispatch_rows\":%lld,\"combine_rows\":%lld,", (long long)sums.dispatch.remote_rows,
           (long long)sums.combine.remote_rows);
    printf("\"remote_bytes\":%lld,\"node_bytes\":%lld,\"control_bytes\":%lld,",
           (long long)(sums.dispatch.remote_bytes + sums.combine.remote_bytes),
           (long long)(sums.dispatch.node_bytes + sums.combine.node_bytes),
           (long long)sums.control_bytes);
    printf("\"median_seconds\":%.6f,\"min_seconds\":%.6f,\"digest\":\"%016llx\"}\n",
           seconds[job->steps / 2], seconds[0], (unsigned long long)sums.hash);
}

int main(int count, char **words)
{
    job_t job = {.hidden = 1024, .tokens = 256, .experts = 64, .k = 8, .steps = 4};
    CHECK_OK(gln_comm_open_world(&job.comm));
    job.ranks = gln_comm_size(job.comm);
    job.rank = gln_comm_rank(job.comm);
    parse(&job, count, words);
    size_t ranks = (size_t)job.ranks;
    job.rows = allocate(ranks * sizeof(int32_t));
    job.zeros = allocate(ranks * sizeof(int32_t));
    job.row_token = allocate(ranks * (size_t)job.tokens * sizeof(int32_t));
    gln_exchange_options_t options = {.domains = job.ranks,
                                      .tokens = job.tokens,
                                      .hidden = job.hidden,
                                      .dtype = GLN_F32,
                                      .rows_max = job.tokens,
                                      .across = job.form,
                                      .rows_expected = rows_expected(&job)};
    gln_exchange_t *x = NULL;
    double *seconds = allocate((size_t)job.steps * sizeof *seconds);
    CHECK_OK(gln_exchange_open(job.comm, &options, &x));
    sums_t sums = exchange(&job, x, seconds);
    print(&job, x, sums, seconds);
    gln_exchange_close(x);
    free(job.rows), free(job.zeros), free(job.row_token), free(seconds);
    gln_comm_close(job.comm);
    return 0;
}
