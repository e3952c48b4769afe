/* Rows as they travel. Where the wire's type is the layer's, nothing here does anything. With f32
 * and a bf16 wire, tokens are rounded once before a dispatch and widened where they are received;
 * on the way back results are rounded once per (token, domain), the exchange rounds each partial
 * sum, and the token's sum is widened. All rows take this path, those that stay on their rank too:
 * the bits hang on domains alone. One pass over the rows each, 6 bytes an element, cut into blocks
 * of equal size. */
#include "moe/layer_internal.h"

#include "base/bf16.h"
#include "base/clones.h"
#include "base/log.h"

enum { BLOCK = 1 << 15 }; /* elements of a task */

typedef struct convert {
    const void *from;
    void *to;
    int64_t count;
} convert_t;

GLN_CLONES static void round_block(const float *from, int64_t n, uint16_t *to)
{
    for (int64_t i = 0; i < n; ++i)
        to[i] = gln_bf16_round(from[i]);
}

GLN_CLONES static void widen_block(const uint16_t *from, int64_t n, float *to)
{
    for (int64_t i = 0; i < n; ++i)
        to[i] = gln_bf16_load(from[i]);
}

static int64_t block_of(const convert_t *c, int task, int64_t *first)
{
    *first = (int64_t)task * BLOCK;
    return c->count - *first < BLOCK ? c->count - *first : BLOCK;
}

static void round_task(void *ctx, int task, int worker)
{
    const convert_t *c = ctx;
    int64_t first, n = block_of(c, task, &first);
    (void)worker;
    round_block((const float *)c->from + first, n, (uint16_t *)c->to + first);
}

static void widen_task(void *ctx, int task, int worker)
{
    const convert_t *c = ctx;
    int64_t first, n = block_of(c, task, &first);
    (void)worker;
    widen_block((const uint16_t *)c->from + first, n, (float *)c->to + first);
}

static void convert(gln_layer_t *layer, gln_task_fn task, const void *from, int64_t rows, void *to)
{
    convert_t c = {from, to, rows * layer->workspace->bounds.hidden};
    gln_pool_run(layer->kernels->pool, (int)((c.count + BLOCK - 1) / BLOCK), task, &c);
}

gln_status_t gln_layer_wire_dtype(const gln_kernels_t *kernels, gln_wire_t wire, gln_dtype_t *out)
{
    if (wire == GLN_WIRE_AUTO || (wire == GLN_WIRE_F32 && kernels->dtype == GLN_F32)) {
        *out = kernels->dtype;
        return GLN_OK;
    }
    if (wire == GLN_WIRE_BF16 && kernels->dtype != GLN_F64) {
        *out = GLN_BF16;
        return GLN_OK;
    }
    return gln_fail(GLN_ERR_ARGUMENT,
                    "layer: rows of %s cannot travel as wire type %s; expected auto, the "
                    "layer's own type, or bf16 with f32",
                    gln_dtype_name(kernels->dtype),
                    wire == GLN_WIRE_F32    ? "f32"
                    : wire == GLN_WIRE_BF16 ? "bf16"
                                            : "(unknown)");
}

static int narrow(const gln_layer_t *layer)
{
    return layer->workspace->wire_tokens != NULL;
}

static int64_t tokens_count(const gln_layer_t *layer)
{
    return layer->workspace->bounds.local_domains * layer->workspace->bounds.tokens;
}

static void *wire_row(const gln_layer_t *layer, int64_t row)
{
    const gln_layer_workspace_t *w = layer->workspace;
    return gln_at(w->wire_rows, row * w->bounds.hidden, GLN_BF16);
}

static void *received_row(const gln_layer_t *layer, int64_t row)
{
    const gln_layer_workspace_t *w = layer->workspace;
    return gln_at(w->received_x, row * w->bounds.hidden, layer->kernels->dtype);
}

const void *gln_layer_wire_send(gln_layer_t *layer, const void *tokens)
{
    if (!narrow(layer)) return tokens;
    convert(layer, round_task, tokens, tokens_count(layer), layer->workspace->wire_tokens);
    return layer->workspace->wire_tokens;
}

void gln_layer_wire_received(gln_layer_t *layer, int64_t first, int64_t count)
{
    if (narrow(layer))
        convert(layer, widen_task, wire_row(layer, first), count, received_row(layer, first));
}

void gln_layer_wire_return(gln_layer_t *layer, int64_t first, int64_t count)
{
    if (narrow(layer))
        convert(layer, round_task, received_row(layer, first), count, wire_row(layer, first));
}

void *gln_layer_wire_sums(gln_layer_t *layer, void *tokens)
{
    return narrow(layer) ? layer->workspace->wire_tokens : tokens;
}

void gln_layer_wire_returned(gln_layer_t *layer, void *tokens)
{
    if (narrow(layer))
        convert(layer, widen_task, layer->workspace->wire_tokens, tokens_count(layer), tokens);
}
