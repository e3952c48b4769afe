/* `gleaner bench exchange`: dispatch and combine against MPI_Alltoallv with packing, against one
 * core that gathers the same rows into memory of its own, against memcpy, and against what two
 * cores allow.
 *
 * One domain per rank. For every size the rows of all pairs are drawn (uniform: each destination
 * gets a random set of the tokens, in random order) or follow recorded logits (each token goes once
 * to every domain that holds one of its k best experts). Then, in turn within each repetition:
 * dispatch into the exchange's receive buffer, combine out of it, pack + MPI_Alltoallv + unpack,
 * gather, memcpy; every rank does the same at once. A measurement begins with a barrier, its time
 * is the largest over the ranks, and small sizes are done several times within one, after one that
 * is not timed, so that every kind finds its lines where it left them. Bandwidth counts the bytes
 * of all rows that a rank sends, those to itself included, once.
 *
 * In these nobody reads the received rows in between. Where the receiver does, lines change cores:
 * `shared` gathers the rows into memory that the partner has just read, `pull` out of memory that
 * it has just written, both without any waiting; each goes through up to 256 KiB (or one set of
 * rows) of such memory, prepared anew each time. `handoff` is the way of one cache line from core
 * to core. A dispatch needs two of them in turn, as a buffer is its owner's between calls: leave to
 * write, and word of arrival; only the rows that leave have to fit between. Its floor is therefore
 * the larger of gather and (gather of the rows that leave + 2 handoffs). */
#include "launcher/command.h"

#include "base/log.h"
#include "base/rng.h"
#include "comm/handoff.h"
#include "launcher/figures.h"
#include "launcher/logits.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "moe/gleaner.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 1, REPEAT_MAX = 200, K_MAX = 64, INNER_MAX = 256, SLOTS_BYTES = 256 << 10 };

enum { DISPATCH, COMBINE, ALLTOALLV, GATHER, MEMCPY, SHARED, PULL, KINDS };
static const char *const names[KINDS] = {"dispatch", "combine", "alltoallv", "gather",
                                         "memcpy",   "shared",  "pull"};

typedef struct bench {
    gln_session_t session;
    gln_machine_t machine;
    gln_logits_t recorded; /* data NULL: none */
    int64_t hidden, repeat, bytes_max, k;
    size_t row;
    gln_dtype_t dtype; /* of rows */
    gln_exchange_path_t asked;
    /* of the size at hand */
    int64_t tokens, sent, received, inner;
    gln_handoff_t *handoff;
    int64_t *rows_of_ranks; /* [P] */
    size_t slot_bytes;      /* one set of rows in its memory */
    int64_t slots;
    gln_exchange_t *exchange;
    gln_exchange_path_t path;
    int32_t *rows_count, *row_token, *zeros; /* [P], [sent], [P] */
    size_t *send_bytes, *receive_bytes;      /* [P] */
    char *in, *out;                          /* [tokens, H] */
    char *packed, *arrived, *unpacked;       /* [sent, H], [received, H], [received, H] */
    char *gathered;                          /* [sent, H] that no other rank ever touches */
    double seconds[KINDS][REPEAT_MAX];
    double handoffs[REPEAT_MAX]; /* seconds, one way */
    double *all;                 /* [P] */
} bench_t;

static gln_status_t dtype_take(const gln_arguments_t *arguments, gln_dtype_t *dtype)
{
    const char *name = arguments->value[GLN_OPTION_DTYPE];
    *dtype = name && !strcmp(name, "bf16") ? GLN_BF16 : GLN_F32;
    if (name && *dtype == GLN_F32 && strcmp(name, "f32") != 0)
        return gln_fail(GLN_ERR_ARGUMENT, "--dtype: expected f32 or bf16, found \"%.200s\"", name);
    return GLN_OK;
}

static gln_status_t path_parse(const gln_arguments_t *arguments, gln_exchange_path_t *path)
{
    static const char *const words[] = {"auto", "messages", "shared", NULL};
    const char *word = arguments->value[GLN_OPTION_PATH];
    *path = GLN_PATH_AUTO;
    if (!word) return GLN_OK;
    for (int i = 0; words[i]; i++)
        if (strcmp(word, words[i]) == 0) {
            *path = (gln_exchange_path_t)i; /* in the order of the type */
            return GLN_OK;
        }
    return gln_fail(GLN_ERR_ARGUMENT, "--path: expected auto, shared or messages, found \"%s\"",
                    word);
}

static gln_status_t load(const gln_arguments_t *arguments, bench_t *b)
{
    const char *path = arguments->value[GLN_OPTION_LOGITS];
    gln_status_t status = path_parse(arguments, &b->asked);
    if (status == GLN_OK) status = dtype_take(arguments, &b->dtype);
    int64_t columns = 1024 / (int64_t)gln_dtype_bytes(b->dtype); /* rows of 1 KiB */
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_HIDDEN, columns, 1, 1 << 20, &b->hidden);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_REPEAT, 9, 1, REPEAT_MAX, &b->repeat);
    if (status == GLN_OK)
        status =
            gln_arguments_int(arguments, GLN_OPTION_BYTES, 32 << 20, 1024, 1 << 28, &b->bytes_max);
    if (status == GLN_OK && path)
        status = gln_logits_open(path, arguments->value[GLN_OPTION_TENSOR], 0, &b->recorded);
    if (status != GLN_OK) return status;
    int64_t experts = b->recorded.data ? b->recorded.experts : K_MAX;
    status =
        gln_arguments_int(arguments, GLN_OPTION_K, 2, 1, experts < K_MAX ? experts : K_MAX, &b->k);
    if (status == GLN_OK && path && experts % b->session.ranks != 0)
        status = gln_fail(GLN_ERR_ARGUMENT,
                          "%s: the number of ranks (%d) must divide the number of experts (%lld)",
                          path, b->session.ranks, (long long)experts);
    b->row = (size_t)b->hidden * gln_dtype_bytes(b->dtype);
    return status;
}

/* Which domains hold the k best experts of row `t` of the recording: marks [P]. */
static void recorded_marks(const bench_t *b, int64_t t, unsigned char *marks)
{
    const gln_logits_t *l = &b->recorded;
    const float *logits = l->data + t % (l->domains * l->tokens) * l->experts;
    int64_t taken[K_MAX];
    memset(marks, 0, (size_t)b->session.ranks);
    for (int64_t c = 0; c < b->k; c++) {
        int64_t best = -1;
        for (int64_t e = 0; e < l->experts; e++) {
            int used = 0;
            for (int64_t u = 0; u < c; u++)
                used |= taken[u] == e;
            if (!used && (best < 0 || logits[e] > logits[best])) best = e;
        }
        taken[c] = best;
        marks[best / (l->experts / b->session.ranks)] = 1;
    }
}

/* The lists of this rank: rows_count and row_token for `rows` rows per peer (recorded: about). */
static gln_status_t draw(bench_t *b, int64_t rows)
{
    int ranks = b->session.ranks, me = b->session.rank;
    int64_t per_token = b->recorded.data ? (b->k < ranks ? b->k : ranks) : 1;
    b->tokens = (rows * ranks + per_token - 1) / per_token;
    b->row_token = malloc((size_t)(b->tokens * ranks) * sizeof *b->row_token);
    unsigned char *marks = b->recorded.data ? malloc((size_t)(b->tokens * ranks)) : NULL;
    if (!b->row_token || (b->recorded.data && !marks)) {
        free(marks);
        return gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    }
    for (int64_t t = 0; t < b->tokens && marks; t++)
        recorded_marks(b, me * b->tokens + t, marks + t * ranks);
    b->sent = 0;
    for (int j = 0; j < ranks; j++) {
        int64_t first = b->sent;
        uint64_t stream = gln_rng_stream(GLN_RNG_TEST, (uint64_t)me, (uint64_t)j);
        for (int64_t t = 0; t < b->tokens; t++)
            if (marks && marks[t * ranks + j]) b->row_token[b->sent++] = (int32_t)t;
        for (int64_t i = 0; i < rows && !marks; i++)
            b->row_token[b->sent++] =
                (int32_t)gln_rng_permute(1, stream, (uint64_t)b->tokens, (uint64_t)i);
        b->rows_count[j] = (int32_t)(b->sent - first);
        b->send_bytes[j] = (size_t)b->rows_count[j] * b->row;
    }
    free(marks);
    return GLN_OK;
}

static void size_close(bench_t *b)
{
    void *memory[] = {b->row_token, b->in, b->out, b->packed, b->arrived, b->unpacked, b->gathered};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    b->row_token = NULL;
    b->in = b->out = b->packed = b->arrived = b->unpacked = b->gathered = NULL;
    gln_handoff_close(b->handoff);
    b->handoff = NULL;
    gln_exchange_close(b->exchange);
    b->exchange = NULL;
}

static char *take(int64_t rows, size_t row)
{
    size_t bytes = (size_t)(rows > 0 ? rows : 1) * row;
    void *data = NULL;
    if (posix_memalign(&data, 4096, bytes) != 0) return NULL;
    memset(data, 1, bytes); /* pages are there before anything is timed */
    return data;
}

/* Memory to share with the partner: sets of rows, one behind the other, alike on every rank. */
static gln_status_t handoff_open(bench_t *b)
{
    int64_t mine = b->sent > b->tokens ? b->sent : b->tokens, rows = 0;
    gln_status_t status = gln_comm_allgather(b->session.comm, &mine, sizeof mine, b->rows_of_ranks);
    if (status != GLN_OK) return status;
    for (int r = 0; r < b->session.ranks; r++)
        rows = b->rows_of_ranks[r] > rows ? b->rows_of_ranks[r] : rows;
    b->slot_bytes = (size_t)rows * b->row;
    b->slots = (int64_t)(SLOTS_BYTES / b->slot_bytes);
    b->slots = b->slots < 1 ? 1 : b->slots;
    size_t bytes = (size_t)b->slots * b->slot_bytes;
    status = gln_handoff_open(b->session.comm, bytes, &b->handoff);
    if (status == GLN_OK && gln_handoff_has_partner(b->handoff))
        memset(gln_handoff_own(b->handoff), 1, bytes);
    return status;
}

static gln_status_t size_open(bench_t *b, int64_t rows)
{
    gln_comm_t *comm = b->session.comm;
    int ranks = b->session.ranks;
    gln_status_t status = gln_session_agree(&b->session, draw(b, rows));
    if (status != GLN_OK) return status;
    int32_t *counts = malloc((size_t)ranks * sizeof *counts);
    status = counts ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(&b->session, status);
    if (status == GLN_OK) status = gln_comm_alltoall_i32(comm, b->rows_count, 1, counts);
    b->received = 0;
    for (int r = 0; r < ranks && status == GLN_OK; r++) {
        b->received += counts[r];
        b->receive_bytes[r] = (size_t)counts[r] * b->row;
    }
    free(counts);
    if (status != GLN_OK) return status;
    b->in = take(b->tokens, b->row);
    b->out = take(b->tokens, b->row);
    b->packed = take(b->sent, b->row);
    b->arrived = take(b->received, b->row);
    b->unpacked = take(b->received, b->row);
    b->gathered = take(b->sent, b->row);
    if (!b->in || !b->out || !b->packed || !b->arrived || !b->unpacked || !b->gathered)
        status = gln_fail(GLN_ERR_MEMORY, "bench: out of memory for %lld rows of %zu bytes",
                          (long long)b->sent, b->row);
    status = gln_session_agree(&b->session, status);
    if (status != GLN_OK) return status;
    gln_exchange_options_t options = {.domains = ranks,
                                      .tokens = b->tokens,
                                      .hidden = b->hidden,
                                      .dtype = b->dtype,
                                      .rows_max = b->tokens,
                                      .path = b->asked,
                                      .rows_expected = (double)rows};
    status = gln_exchange_open(comm, &options, &b->exchange);
    if (status != GLN_OK) return status;
    b->path = gln_exchange_path(b->exchange);
    gln_exchange_send_t send = {b->rows_count, b->row_token, b->zeros, b->zeros, NULL};
    gln_exchange_received_t received;
    status = gln_exchange_plan(b->exchange, &send, &received);
    b->inner = (int64_t)(((size_t)4 << 20) / ((size_t)(b->sent + 1) * b->row));
    b->inner = b->inner < 1 ? 1 : b->inner > INNER_MAX ? INNER_MAX : b->inner;
    status = gln_session_agree(&b->session, status);
    return status == GLN_OK ? handoff_open(b) : status;
}

static void gather_from(const bench_t *b, const char *in, char *to)
{
    for (int64_t r = 0; r < b->sent; r++)
        memcpy(to + (size_t)r * b->row, in + (size_t)b->row_token[r] * b->row, b->row);
}

static void gather(const bench_t *b, char *to)
{
    gather_from(b, b->in, to);
}

static gln_status_t packed_alltoallv(bench_t *b)
{
    gather(b, b->packed);
    gln_status_t status = gln_comm_library_alltoallv(b->session.comm, b->packed, b->send_bytes,
                                                     b->arrived, b->receive_bytes);
    for (int64_t r = 0; r < b->received && status == GLN_OK; r++)
        memcpy(b->unpacked + (size_t)r * b->row, b->arrived + (size_t)r * b->row, b->row);
    return status;
}

static gln_status_t work(bench_t *b, int kind)
{
    void *buffer = gln_exchange_receive_buffer(b->exchange);
    switch (kind) {
    case DISPATCH:
        return gln_exchange_dispatch(b->exchange, b->in, buffer);
    case COMBINE:
        return gln_exchange_combine(b->exchange, buffer, b->out);
    case ALLTOALLV:
        return packed_alltoallv(b);
    case GATHER:
        gather(b, b->gathered);
        return GLN_OK;
    default: /* contiguous, as many bytes; both arrays may be shorter than the other's rows */
        for (int64_t left = b->sent; left > 0; left -= b->tokens)
            memcpy(b->gathered + (size_t)(b->sent - left) * b->row, b->in,
                   (size_t)(left < b->tokens ? left : b->tokens) * b->row);
        return GLN_OK;
    }
}

/* The largest time of all ranks. */
static gln_status_t slowest(bench_t *b, gln_status_t status, double mine, double *seconds)
{
    status = gln_session_agree(&b->session, status);
    if (status == GLN_OK) status = gln_comm_allgather(b->session.comm, &mine, sizeof mine, b->all);
    *seconds = 0;
    for (int r = 0; r < b->session.ranks; r++)
        *seconds = fmax(*seconds, b->all[r]);
    return status;
}

static gln_status_t measure(bench_t *b, int kind, double *seconds)
{
    gln_status_t status = gln_comm_barrier(b->session.comm);
    if (status == GLN_OK && b->inner > 1) status = work(b, kind);
    if (status != GLN_OK) return status;
    double begin = gln_clock();
    for (int64_t i = 0; i < b->inner && status == GLN_OK; i++)
        status = work(b, kind);
    return slowest(b, status, (gln_clock() - begin) / (double)b->inner, seconds);
}

/* Rows into memory that the partner has just read, or out of memory that it has just written. */
static gln_status_t measure_lines(bench_t *b, int kind, double *seconds)
{
    volatile char *own = gln_handoff_own(b->handoff);
    char *theirs = gln_handoff_partner(b->handoff);
    size_t bytes = (size_t)b->slots * b->slot_bytes;
    for (size_t i = 0; own && i < bytes; i += 64) {
        char seen = own[i];
        if (kind == PULL) own[i] = (char)(seen + 1);
    }
    gather(b, b->gathered); /* the other side of the copies is warm, as in the gather */
    gln_status_t status = gln_comm_barrier(b->session.comm);
    if (status != GLN_OK) return status;
    double begin = gln_clock();
    for (int64_t i = 0; theirs && i < b->slots; i++, theirs += b->slot_bytes)
        gather_from(b, kind == PULL ? theirs : b->in, kind == PULL ? b->gathered : theirs);
    return slowest(b, status, (gln_clock() - begin) / (double)b->slots, seconds);
}

static gln_status_t measure_handoff(bench_t *b, double *seconds)
{
    enum { TURNS = 500 };
    gln_status_t status = gln_comm_barrier(b->session.comm);
    if (status != GLN_OK) return status;
    double begin = gln_clock();
    status = gln_handoff_bounce(b->handoff, TURNS);
    return slowest(b, status, (gln_clock() - begin) / (2 * TURNS), seconds);
}

/* Everything once, in turn. */
static gln_status_t measure_all(bench_t *b, int64_t repetition)
{
    int64_t at = repetition < 0 ? 0 : repetition;
    gln_status_t status = GLN_OK;
    for (int kind = 0; kind < KINDS && status == GLN_OK; kind++)
        status = kind < SHARED ? measure(b, kind, &b->seconds[kind][at])
                               : measure_lines(b, kind, &b->seconds[kind][at]);
    return status == GLN_OK ? measure_handoff(b, &b->handoffs[at]) : status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct figures {
    double bytes, remote;              /* a rank's rows, mean; those that leave the rank */
    double median[KINDS], best[KINDS]; /* bytes per second; NAN: not measured */
    double handoff, handoff_best;      /* seconds */
    double floor, floor_best;          /* bytes per second */
    double to_gather, to_alltoallv, to_floor, to_floor_best; /* of medians, of best */
} figures_t;

/* Bytes per second of a dispatch that waits for nothing but word from the other core. */
static double floor_of(const figures_t *f, double gather, double handoff)
{
    return f->bytes / fmax(f->bytes / gather, f->remote / gather + 2 * handoff);
}

static figures_t reckon(bench_t *b, const int64_t totals[2])
{
    figures_t f = {.bytes = (double)totals[0] / b->session.ranks,
                   .remote = (double)totals[1] / b->session.ranks};
    for (int kind = 0; kind < KINDS; kind++) {
        qsort(b->seconds[kind], (size_t)b->repeat, sizeof(double), compare);
        f.median[kind] = f.bytes / b->seconds[kind][b->repeat / 2];
        f.best[kind] = f.bytes / b->seconds[kind][0];
        if (kind >= SHARED && !gln_handoff_has_partner(b->handoff))
            f.median[kind] = f.best[kind] = NAN;
    }
    qsort(b->handoffs, (size_t)b->repeat, sizeof(double), compare);
    f.handoff = f.handoff_best = f.floor = f.floor_best = NAN;
    if (gln_handoff_has_partner(b->handoff)) {
        f.handoff = b->handoffs[b->repeat / 2];
        f.handoff_best = b->handoffs[0];
        f.floor = floor_of(&f, f.median[GATHER], f.handoff);
        f.floor_best = floor_of(&f, f.best[GATHER], f.handoff_best);
    }
    f.to_floor = f.median[DISPATCH] / f.floor;
    f.to_floor_best = f.best[DISPATCH] / f.floor_best;
    f.to_gather = f.median[DISPATCH] / f.median[GATHER];
    f.to_alltoallv = f.median[DISPATCH] / f.median[ALLTOALLV];
    return f;
}

static const char *path_name(const bench_t *b)
{
    return b->path == GLN_PATH_SHARED ? "shared" : "messages";
}

static gln_status_t print_json(const bench_t *b, int64_t size, const figures_t *f)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I}", "bench", "exchange",
                               "routing", b->recorded.data ? "recorded" : "uniform", "path",
                               path_name(b), "ranks", b->session.ranks, "hidden",
                               (json_int_t)b->hidden, "row_bytes", (json_int_t)b->row,
                               "bytes_per_peer", (json_int_t)size, "repeat", (json_int_t)b->repeat);
    char key[64];
    json_object_set_new(object, "dtype", json_string(gln_dtype_name(b->dtype)));
    json_object_set_new(object, "row_bytes_sent", gln_figures_real(f->bytes));
    json_object_set_new(object, "row_bytes_left", gln_figures_real(f->remote));
    for (int kind = 0; kind < KINDS; kind++) {
        snprintf(key, sizeof key, "%s_bytes_per_second", names[kind]);
        json_object_set_new(object, key, gln_figures_real(f->median[kind]));
        snprintf(key, sizeof key, "%s_best_bytes_per_second", names[kind]);
        json_object_set_new(object, key, gln_figures_real(f->best[kind]));
    }
    json_object_set_new(object, "handoff_seconds", gln_figures_real(f->handoff));
    json_object_set_new(object, "handoff_best_seconds", gln_figures_real(f->handoff_best));
    json_object_set_new(object, "floor_bytes_per_second", gln_figures_real(f->floor));
    json_object_set_new(object, "floor_best_bytes_per_second", gln_figures_real(f->floor_best));
    json_object_set_new(object, "dispatch_to_floor", gln_figures_real(f->to_floor));
    json_object_set_new(object, "dispatch_to_floor_best", gln_figures_real(f->to_floor_best));
    json_object_set_new(object, "dispatch_to_gather", gln_figures_real(f->to_gather));
    json_object_set_new(object, "dispatch_to_alltoallv", gln_figures_real(f->to_alltoallv));
    return gln_figures_print(object, stdout, "standard output");
}

/* median (best), or nothing where it was not measured */
static void print_pair(double median, double best, int digits)
{
    char text[32] = "-";
    if (isfinite(median)) snprintf(text, sizeof text, "%.*f (%.*f)", digits, median, digits, best);
    printf(" %15s", text);
}

static void print(const bench_t *b, int64_t size, const figures_t *f, int first)
{
    if (first) {
        printf("exchange of rows of %zu bytes (%s), %s routing, path inside a node: %s\n", b->row,
               gln_dtype_name(b->dtype), b->recorded.data ? "recorded" : "uniform", path_name(b));
        printf("%s; %d rank%s; %lld repetitions; GB/s of all rows a rank sends, its own included: "
               "median (best)\n\n",
               b->machine.summary, b->session.ranks, b->session.ranks == 1 ? "" : "s",
               (long long)b->repeat);
        printf("%10s", "B/peer");
        for (int kind = 0; kind < KINDS; kind++)
            printf(" %15s", names[kind]);
        printf(" %15s %15s %15s %15s %12s\n", "handoff ns", "floor", "to floor", "to gather",
               "to alltoallv");
    }
    printf("%10lld", (long long)size);
    for (int kind = 0; kind < KINDS; kind++)
        print_pair(1e-9 * f->median[kind], 1e-9 * f->best[kind], 2);
    print_pair(1e9 * f->handoff, 1e9 * f->handoff_best, 0);
    print_pair(1e-9 * f->floor, 1e-9 * f->floor_best, 2);
    print_pair(f->to_floor, f->to_floor_best, 2);
    print_pair(f->to_gather, f->best[DISPATCH] / f->best[GATHER], 2);
    printf(" %12.2f\n", f->to_alltoallv);
    fflush(stdout);
}

static gln_status_t size_run(bench_t *b, const gln_arguments_t *arguments, int64_t size)
{
    int64_t rows = size / (int64_t)b->row;
    gln_status_t status = size_open(b, rows < 1 ? 1 : rows);
    for (int64_t i = -WARM_UPS; status == GLN_OK && i < b->repeat; i++)
        status = measure_all(b, i);
    int64_t own = b->rows_count[b->session.rank];
    int64_t totals[2] = {b->sent * (int64_t)b->row, (b->sent - own) * (int64_t)b->row};
    if (status == GLN_OK) status = gln_comm_sum_i64(b->session.comm, totals, 2);
    if (status == GLN_OK && b->session.rank == 0) {
        figures_t f = reckon(b, totals);
        if (arguments->given[GLN_OPTION_JSON])
            status = print_json(b, size, &f);
        else
            print(b, size, &f, size == 1024);
    }
    size_close(b);
    return gln_session_agree(&b->session, status);
}

static gln_status_t bench(const gln_arguments_t *arguments, bench_t *b)
{
    gln_session_t *session = &b->session;
    size_t ranks = (size_t)session->ranks;
    gln_status_t status = load(arguments, b);
    b->rows_count = calloc(ranks, sizeof *b->rows_count);
    b->zeros = calloc(ranks, sizeof *b->zeros);
    b->send_bytes = calloc(ranks, sizeof *b->send_bytes);
    b->receive_bytes = calloc(ranks, sizeof *b->receive_bytes);
    b->all = calloc(ranks, sizeof *b->all);
    b->rows_of_ranks = calloc(ranks, sizeof *b->rows_of_ranks);
    if (status == GLN_OK && (!b->rows_count || !b->zeros || !b->send_bytes || !b->receive_bytes ||
                             !b->all || !b->rows_of_ranks))
        status = gln_fail(GLN_ERR_MEMORY, "bench: out of memory");
    status = gln_session_agree(session, status);
    if (status != GLN_OK) return status;
    status = gln_session_agree(session, gln_machine_look(session->comm, 1, &b->machine));
    session->working = true;
    for (int64_t size = 1024; status == GLN_OK;) {
        status = size_run(b, arguments, size);
        if (size == b->bytes_max) break;
        size = 4 * size < b->bytes_max ? 4 * size : b->bytes_max;
    }
    return status;
}

int gln_command_bench_exchange(const gln_arguments_t *arguments)
{
    static bench_t state;
    bench_t *b = &state;
    *b = (bench_t){0};
    gln_session_start(&b->session);
    gln_status_t status = gln_session_join(&b->session);
    if (status == GLN_OK) status = bench(arguments, b);
    free(b->rows_count);
    free(b->zeros);
    free(b->send_bytes);
    free(b->receive_bytes);
    free(b->all);
    free(b->rows_of_ranks);
    gln_logits_close(&b->recorded);
    return gln_session_leave(&b->session, status);
}
