/* The schema of a run file, and the rules that involve several keys. */
#include "moe/run_options.h"

#include "base/log.h"
#include "moe/run_router.h"

#include <math.h>
#include <string.h>

#define NAME(upper, name) #name,
static const char *const policies[] = {GLN_POLICIES(NAME) NULL};
static const char *const eval_policies[] = {"train", GLN_POLICIES(NAME) NULL};
#undef NAME
/* in the order of the router's enums */
static const char *const switches[] = {"false", "true", "auto", NULL};
static const char *const priorities[] = {"auto", "max", "position", "random", "score", NULL};
static const char *const fill_keys[] = {"next", "max", NULL};
static const char *const ir_token_sets[] = {"auto", "none_left", "any_lost", NULL};
static const char *const ir_scales[] = {"k", "k_gate", NULL};
static const char *const weight_forms[] = {"auto", "p", "topk_softmax", "normalized", NULL};
static const char *const balances[] = {"domain", "global", NULL};
static const char *const backends[] = {"cpu", "ref", NULL};
static const char *const dtypes[] = {"f32", "f64", "bf16", NULL};
static const char *const exchanges[] = {"auto", "flat", "hierarchical", NULL};
static const char *const wires[] = {"auto", "f32", "bf16", NULL}; /* gln_wire_t */
static const char *const paths[] = {"auto", "messages", "shared", NULL};
static const char *const overlaps[] = {"auto", "on", "off", NULL}; /* as gln_overlap_t */
static const char *const routings[] = {"dropless", "train", NULL};
static const char *const binds[] = {"auto", "none", NULL};
static const char *const resumes[] = {"auto", "never", NULL};

#define AT(member) offsetof(gln_run_options_t, member)
#define INT(key_, low, high, value_, help_)                             \
    {                                                                   \
#key_, GLN_CONFIG_INT, AT(key_), low, high, NULL, value_, help_ \
    }
#define REAL(key_, low, high, value_, help_)                             \
    {                                                                    \
#key_, GLN_CONFIG_REAL, AT(key_), low, high, NULL, value_, help_ \
    }
#define BOOL(key_, value_, help_)                                   \
    {                                                               \
#key_, GLN_CONFIG_BOOL, AT(key_), 0, 0, NULL, value_, help_ \
    }
#define TEXT(key_, value_, help_)                                   \
    {                                                               \
#key_, GLN_CONFIG_TEXT, AT(key_), 0, 0, NULL, value_, help_ \
    }
#define CHOICE(key_, choices_, value_, help_)                             \
    {                                                                     \
#key_, GLN_CONFIG_CHOICE, AT(key_), 0, 0, choices_, value_, help_ \
    }

#define LARGE 1e9

static const gln_config_field_t fields[] = {
    INT(model.vocabulary, 2, LARGE, "256", "tokens known to the model; 256 for raw bytes"),
    INT(model.hidden, 1, 1 << 20, "256", "hidden size H"),
    INT(model.layers, 1, 4096, "4", "number of blocks"),
    INT(model.heads, 1, 4096, "8", "attention heads"),
    INT(model.kv_heads, 1, 4096, "4", "key/value heads; must divide heads"),
    INT(model.head_dim, 0, 4096, "0", "size of a head, even; 0: hidden / heads"),
    INT(model.experts, 1, 1 << 20, "8", "experts E of a MoE layer"),
    INT(model.expert_hidden, 1, 1 << 20, "512", "hidden size F of an expert"),
    INT(model.dense_hidden, 0, 1 << 20, "0", "hidden size of layers without experts; 0: k * F"),
    INT(model.shared_hidden, 0, 1 << 20, "0", "hidden size of the shared expert; 0: none"),
    INT(model.moe_every, 1, 4096, "1", "every n-th layer has experts"),
    INT(model.sequence, 1, 1 << 24, "256", "sequence length S"),
    REAL(model.rope_theta, 1, 1e12, "10000", "base of the rotary embedding"),
    REAL(model.norm_eps, 1e-12, 1, "1e-5", "epsilon of RMSNorm"),
    REAL(model.init_std, 1e-6, 10, "0.02", "standard deviation of initial weights"),

    CHOICE(router.policy, policies, "topk", "who selects"),
    INT(router.k, 0, 1 << 20, "0", "routes per token; at most experts; 0: the policy's"),
    REAL(router.capacity_factor, -1, INFINITY, "-1",
         "slots / (k T / E); inf: dropless; 0 gives no slot; -1: the policy's"),
    TEXT(router.capacity_schedule, "",
         "factors by steps done, \"0:2.0,100:1.25\"; empty: capacity_factor throughout"),
    INT(router.min_capacity, 0, LARGE, "0", "slots per (domain, expert) at least"),
    CHOICE(router.priority, priorities, "auto",
           "who is served first among equal choice ranks; auto: the policy's"),
    CHOICE(router.fill, switches, "auto",
           "fill-in rectification: padded slots go to next-best tokens; auto: with topk"),
    INT(router.fill_from, 0, 1e12, "0", "fill-in begins when this many steps are done"),
    CHOICE(router.fill_key, fill_keys, "next",
           "fill-in candidates ranked by their next or largest p"),
    INT(router.fill_rank, 0, 1 << 20, "0", "the candidate is the token's r-th expert; 0: k + 1"),
    CHOICE(router.rectify, switches, "auto",
           "intra-device rectification of tokens that lost routes; auto: with topk"),
    INT(router.rectify_from, 0, 1e12, "0", "rectification begins when this many steps are done"),
    CHOICE(router.ir_tokens, ir_token_sets, "auto", "who is short; auto: none_left for k = 1"),
    BOOL(router.ir_exclude, "false", "rectify only to experts that do not serve the token yet"),
    REAL(router.ir_capacity, 1, INFINITY, "inf", "rectified rows per local expert and domain"),
    INT(router.ir_scope, 1, 1 << 20, "1", "domains whose experts count as local"),
    CHOICE(router.ir_scale, ir_scales, "k",
           "multiplicity counts from k, or k + 1 where fill is on"),
    CHOICE(router.weight, weight_forms, "auto", "weights of the routes served; auto: the policy's"),
    CHOICE(router.detach, switches, "auto",
           "the weights' denominator gets no gradient; auto: the policy's"),
    INT(router.group_count, 0, 1 << 20, "0", "deepseek_v3: groups of experts; 0: 1"),
    INT(router.group_topk, 0, 1 << 20, "0", "deepseek_v3: groups a token may use; 0: all"),
    REAL(router.route_scale, 0, 1e6, "0", "deepseek_v3: factor on all weights; 0: 1"),
    REAL(router.bias_rate, 0, 1e3, "0.001",
         "deepseek_v3: step of the selection bias, once per optimizer step"),
    INT(router.sinkhorn_iterations, 0, LARGE, "0", "sinkhorn: at most; 0: 100"),
    REAL(router.sinkhorn_tolerance, 0, 1e6, "0", "sinkhorn: mean change to stop at; 0: 1e-4"),
    CHOICE(router.balance, balances, "domain",
           "load that the balance loss looks at: a domain's, or all domains' of a micro-batch"),
    REAL(router.balance_coef, -1, 1e6, "-1",
         "coefficient of the balance loss; -1: 0.01, 0 where the policy balances by itself"),
    REAL(router.z_coef, 0, 1e6, "0.001", "coefficient of the router z-loss"),

    INT(parallel.domains, 0, 1 << 20, "0", "domains D, part of the run's meaning; 0: one per rank"),
    INT(parallel.expert_replicas, 1, 1 << 20, "1", "replica groups R"),
    INT(parallel.threads, 0, 1024, "0", "threads per rank; 0: the cores this rank may use"),
    CHOICE(
        parallel.bind, binds, "auto",
        "auto: give each rank cores of its own and the memory next to them where none were given"),
    INT(parallel.timeout_ms, 0, 1e12, "600000",
        "a rank awaited longer than this ends the job, which names it; 0: wait for ever"),
    CHOICE(parallel.backend, backends, "cpu", "kernels: cpu (oneDNN) or ref (slow, plain C)"),
    CHOICE(parallel.dtype, dtypes, "f32",
           "compute type; bf16 keeps f32 master weights; f64 needs backend ref"),
    CHOICE(parallel.exchange, exchanges, "auto",
           "rows between nodes: each for itself, or once per node and fanned out there; no result "
           "depends on it"),
    CHOICE(parallel.wire, wires, "auto",
           "type of rows between ranks; auto: parallel.dtype; bf16 with dtype f32: half the bytes, "
           "rounded"),
    CHOICE(
        parallel.path, paths, "auto",
        "rows inside a node: messages, or through memory that its ranks share; no result depends "
        "on it"),
    CHOICE(parallel.overlap, overlaps, "auto",
           "compute the experts' near rows while others travel; auto: where they travel between "
           "nodes and are not few; no result depends on it"),
    INT(parallel.stages, 1, 64 /* GLN_STAGES_MAX */, "1",
        "where near rows overlap: cut the others into stages by source rank and compute some while "
        "others travel; 1: none; no result depends on it"),
    TEXT(parallel.placement, "",
         "file of gleaner place that says which domain hosts which expert; empty: none"),

    INT(train.steps, 0, 1e12, "1000", "optimizer steps in all"),
    INT(train.batch, 1, LARGE, "32",
        "sequences per step over all domains; D * accumulation divides it"),
    INT(train.accumulation, 1, LARGE, "1", "micro-batches per step"),
    INT(train.seed, 0, 9e15, "1", "seed of weights, data order and draws"),
    REAL(train.lr, 0, 1e3, "1e-3", "peak learning rate"),
    REAL(train.lr_min, 0, 1e3, "0", "learning rate at the end of the decay"),
    INT(train.warmup_steps, 0, 1e12, "0", "linear warm-up"),
    INT(train.decay_steps, 0, 1e12, "0", "cosine decay reaches lr_min at this step; 0: constant"),
    REAL(train.beta1, 0, 1, "0.9", "AdamW"),
    REAL(train.beta2, 0, 1, "0.95", "AdamW"),
    REAL(train.eps, 0, 1, "1e-8", "AdamW"),
    REAL(train.weight_decay, 0, 1e3, "0.1", "AdamW, matrices only"),
    REAL(train.clip, 0, 1e9, "1.0", "bound on the global gradient norm; 0: none"),
    INT(train.log_every, 1, LARGE, "10", "steps between progress lines"),
    INT(train.checkpoint_every, 0, 1e12, "0", "steps between checkpoints; 0: only at the end"),
    TEXT(train.upcycle, "",
         "run or checkpoint folder of a dense model (model.experts: 1): every expert starts as a "
         "copy of its feed-forward; empty: none"),

    TEXT(data.train, NULL, "training text or token file"),
    TEXT(data.valid, "", "validation text or token file; empty: none"),

    INT(eval.every, 0, 1e12, "0", "steps between validations; 0: only at the end"),
    INT(eval.windows, 0, 1e12, "0", "validation windows; 0: the whole file"),
    CHOICE(eval.routing, routings, "dropless",
           "dropless: without capacity, fill-in and rectification; or as trained"),
    CHOICE(eval.policy, eval_policies, "train",
           "another policy on the same weights; train: the training's"),
    REAL(eval.capacity_factor, -1, INFINITY, "-1",
         "with eval.routing train: another factor; -1: the training's at that step"),
    CHOICE(eval.fill, switches, "auto", "with eval.routing train; auto: as in training"),
    CHOICE(eval.rectify, switches, "auto", "with eval.routing train; auto: as in training"),

    TEXT(run.dir, NULL, "run directory: config, metrics, checkpoints, report"),
    CHOICE(run.resume, resumes, "auto", "auto: continue from the newest checkpoint in run.dir"),
    INT(run.keep_checkpoints, 0, LARGE, "2", "newest checkpoints kept; 0: all"),
};

const gln_config_field_t *gln_run_fields(int *count)
{
    *count = (int)(sizeof fields / sizeof fields[0]);
    return fields;
}

static gln_status_t check_model(const gln_config_t *c, const gln_run_options_t *r)
{
    if (r->model.heads % r->model.kv_heads != 0)
        return gln_config_fail(c, "model.kv_heads", "must divide model.heads = %lld, found %lld",
                               (long long)r->model.heads, (long long)r->model.kv_heads);
    if (r->model.head_dim == 0 && r->model.hidden % r->model.heads != 0)
        return gln_config_fail(c, "model.heads",
                               "must divide model.hidden = %lld, found %lld; or set model.head_dim",
                               (long long)r->model.hidden, (long long)r->model.heads);
    int64_t dh = r->model.head_dim ? r->model.head_dim : r->model.hidden / r->model.heads;
    if (dh % 2 != 0)
        return gln_config_fail(c, "model.head_dim", "must be even, found %lld", (long long)dh);
    if (r->router.k > r->model.experts)
        return gln_config_fail(c, "router.k", "at most model.experts = %lld, found %lld",
                               (long long)r->model.experts, (long long)r->router.k);
    if (r->router.k != 0 && r->router.fill_rank != 0 && r->router.fill_rank <= r->router.k)
        return gln_config_fail(c, "router.fill_rank",
                               "0 or at least router.k + 1 = %lld, found %lld",
                               (long long)r->router.k + 1, (long long)r->router.fill_rank);
    if (r->model.layers < r->model.moe_every)
        return gln_config_fail(c, "model.moe_every", "at most model.layers = %lld, found %lld",
                               (long long)r->model.layers, (long long)r->model.moe_every);
    return GLN_OK;
}

static gln_status_t check_parallel(const gln_config_t *c, const gln_run_options_t *r, int ranks)
{
    int64_t domains = r->parallel.domains, replicas = r->parallel.expert_replicas;
    if (domains % ranks != 0)
        return gln_config_fail(
            c, "parallel.domains",
            "must be a multiple of the %d ranks, found %lld; run on fewer ranks or "
            "set a multiple of %d",
            ranks, (long long)domains, ranks);
    if (domains % replicas != 0)
        return gln_config_fail(c, "parallel.expert_replicas",
                               "must divide parallel.domains = %lld, found %lld",
                               (long long)domains, (long long)replicas);
    if (ranks % replicas != 0 && replicas % ranks != 0)
        return gln_config_fail(c, "parallel.expert_replicas",
                               "must divide the %d ranks or be a multiple of them, found %lld",
                               ranks, (long long)replicas);
    int64_t group = domains / replicas;
    if (r->model.experts % group != 0)
        return gln_config_fail(
            c, "model.experts",
            "must be a multiple of parallel.domains / parallel.expert_replicas = "
            "%lld, found %lld",
            (long long)group, (long long)r->model.experts);
    if (group % r->router.ir_scope != 0)
        return gln_config_fail(
            c, "router.ir_scope",
            "must divide parallel.domains / parallel.expert_replicas = %lld, found %lld",
            (long long)group, (long long)r->router.ir_scope);
    if (r->train.batch % (domains * r->train.accumulation) != 0)
        return gln_config_fail(
            c, "train.batch",
            "must be a multiple of parallel.domains * train.accumulation = %lld, "
            "found %lld",
            (long long)(domains * r->train.accumulation), (long long)r->train.batch);
    if (gln_run_dtype(r) == GLN_F64 && r->parallel.backend != 1)
        return gln_config_fail(c, "parallel.dtype",
                               "f64 runs on backend ref alone; set parallel.backend: ref, or "
                               "f32 or bf16");
    if (gln_run_dtype(r) == GLN_F64 && r->parallel.wire != GLN_WIRE_AUTO)
        return gln_config_fail(c, "parallel.wire",
                               "auto with parallel.dtype: f64; f32 and bf16 go with f32");
    if (gln_run_dtype(r) == GLN_BF16 && r->parallel.wire == GLN_WIRE_F32)
        return gln_config_fail(c, "parallel.wire",
                               "auto or bf16 with parallel.dtype: bf16, whose rows are bf16 "
                               "before they travel");
    return GLN_OK;
}

gln_status_t gln_run_options_load(const char *path, const char *const *overrides,
                                  int overrides_count, int ranks, gln_run_options_t *out)
{
    gln_run_options_t run;
    gln_config_t *config = NULL;
    int count = 0;
    memset(&run, 0, sizeof run);
    gln_run_fields(&count);
    gln_status_t status =
        gln_config_load(fields, count, path, overrides, overrides_count, &run, sizeof run, &config);
    if (status != GLN_OK) return status;
    if (run.parallel.domains == 0) run.parallel.domains = ranks;
    status = check_model(config, &run);
    if (status == GLN_OK) status = check_parallel(config, &run, ranks);
    if (status == GLN_OK) status = gln_run_router_resolve(config, &run);
    if (status == GLN_OK && run.data.train[0] == 0)
        status = gln_config_fail(config, "data.train", "must name a file, found an empty text");
    if (status == GLN_OK && run.run.dir[0] == 0)
        status = gln_config_fail(config, "run.dir", "must name a folder, found an empty text");
    gln_config_close(config);
    if (status != GLN_OK) return status;
    if (run.model.head_dim == 0) run.model.head_dim = run.model.hidden / run.model.heads;
    if (run.model.dense_hidden == 0)
        run.model.dense_hidden = run.router.k * run.model.expert_hidden;
    *out = run;
    return GLN_OK;
}

int64_t gln_run_options_timeout(const char *path, const char *const *overrides, int overrides_count,
                                int64_t otherwise)
{
    gln_run_options_t run;
    gln_config_t *config = NULL;
    int count = 0;
    memset(&run, 0, sizeof run);
    gln_run_fields(&count);
    gln_log_hold(1); /* what is wrong with the file is reported when it is loaded */
    gln_status_t status =
        gln_config_load(fields, count, path, overrides, overrides_count, &run, sizeof run, &config);
    gln_log_hold(0);
    if (status != GLN_OK) return otherwise;
    gln_config_close(config);
    return run.parallel.timeout_ms;
}

gln_dtype_t gln_run_dtype(const gln_run_options_t *run)
{
    static const gln_dtype_t types[] = {GLN_F32, GLN_F64, GLN_BF16}; /* as `dtypes` */
    return types[run->parallel.dtype];
}

gln_model_options_t gln_run_model_options(const gln_run_options_t *run)
{
    return (gln_model_options_t){
        .vocabulary = (int)run->model.vocabulary,
        .hidden = run->model.hidden,
        .layers = (int)run->model.layers,
        .heads = (int)run->model.heads,
        .kv_heads = (int)run->model.kv_heads,
        .head_dim = (int)run->model.head_dim,
        .experts = (int)run->model.experts,
        .expert_hidden = run->model.expert_hidden,
        .dense_hidden = run->model.dense_hidden,
        .shared_hidden = run->model.shared_hidden,
        .moe_every = (int)run->model.moe_every,
        .sequence = run->model.sequence,
        .rope_theta = run->model.rope_theta,
        .norm_eps = run->model.norm_eps,
        .init_std = run->model.init_std,
        .router = gln_run_router_options(run),
        .capacity_factor_max = gln_run_capacity_max(run),
        .balance_global = run->router.balance == 1,
        .bias = gln_policy_has_bias((gln_policy_t)run->router.policy),
        .across = (gln_exchange_across_t)run->parallel.exchange,
        .wire = (gln_wire_t)run->parallel.wire,
        .path = (gln_exchange_path_t)run->parallel.path,
        .overlap = (gln_overlap_t)run->parallel.overlap,
        .stages = (int)run->parallel.stages,
    };
}
