/* Text out of a model: the last S tokens go through the whole model for every new token (no
 * key/value cache: S^2 work a token, meant for a look at a model, not for serving). */
#include "base/log.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "moe/trainer_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t likeliest(const double *logits, int64_t v)
{
    int64_t best = 0;
    for (int64_t i = 1; i < v; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Inverse of the cumulative softmax at a uniform draw. */
static int64_t sample(const double *logits, int64_t v, double temperature, double draw)
{
    const double top = logits[likeliest(logits, v)];
    double sum = 0, part = 0;
    for (int64_t i = 0; i < v; i++)
        sum += exp((logits[i] - top) / temperature);
    for (int64_t i = 0; i < v; i++) {
        part += exp((logits[i] - top) / temperature);
        if (part >= draw * sum) return i;
    }
    return v - 1;
}

static gln_status_t next_token(gln_trainer_t *x, const int32_t *tokens, int64_t count,
                               double temperature, double draw, double *logits, int32_t *out)
{
    const int64_t s = x->run.model.sequence, v = x->run.model.vocabulary;
    const int64_t used = count < s ? count : s;
    memset(x->ids, 0, (size_t)s * sizeof *x->ids);
    memcpy(x->ids, tokens + count - used, (size_t)used * sizeof *x->ids);
    const gln_model_call_t call = {.ids = x->ids};
    gln_model_result_t result;
    gln_status_t status = gln_model_run(x->model, &call, &result);
    if (status == GLN_OK) status = gln_model_logits(x->model, used - 1, logits);
    if (status != GLN_OK) return status;
    for (int64_t i = v; i-- > 0;) /* widen in place, from the end */
        logits[i] = gln_load(logits, i, x->kernels->acc);
    *out = (int32_t)(temperature > 0 ? sample(logits, v, temperature, draw) : likeliest(logits, v));
    return GLN_OK;
}

gln_status_t gln_trainer_generate(gln_trainer_t *x, int32_t *tokens, int64_t prompt_count,
                                  int64_t count, double temperature, uint64_t seed)
{
    if (x->parallel.ranks != 1 || x->parallel.domains != 1)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "generation needs one rank and one domain, found %d and %d",
                        x->parallel.ranks, x->parallel.domains);
    if (prompt_count < 1 || count < 0 || !(temperature >= 0))
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "the prompt needs at least one token and the temperature must be 0 or more, "
            "found %lld tokens and %g",
            (long long)prompt_count, temperature);
    for (int64_t i = 0; i < prompt_count; i++)
        if (tokens[i] < 0 || tokens[i] >= x->run.model.vocabulary)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "prompt token %lld is %d, outside the vocabulary of %lld", (long long)i,
                            tokens[i], (long long)x->run.model.vocabulary);
    double *logits = calloc((size_t)x->run.model.vocabulary, sizeof *logits);
    if (!logits) return gln_fail(GLN_ERR_MEMORY, "no memory for logits");
    gln_status_t status = GLN_OK;
    for (int64_t i = 0; i < count && status == GLN_OK; i++) {
        const double draw =
            gln_rng_uniform(seed, gln_rng_stream(GLN_RNG_SAMPLE, 0, 0), (uint64_t)i);
        status = next_token(x, tokens, prompt_count + i, temperature, draw, logits,
                            &tokens[prompt_count + i]);
    }
    free(logits);
    return status;
}
