/* Options of the public layer, held against those of the other ranks: every option as 64 bits, all
 * ranks gather them, all find the same first difference. Once, at open. */
#include "moe/gleaner_internal.h"

#include "base/log.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct field {
    const char *name;
    size_t offset;
    char kind; /* 'i' int or an enum, 'l' 64 bits, 'd' double */
} field_t;

#define MOE(kind, name)                                \
    {                                                  \
#name, offsetof(gln_moe_options_t, name), kind \
    }
#define ROUTER(kind, name)                                              \
    {                                                                   \
        "router." #name, offsetof(gln_moe_options_t, router.name), kind \
    }

static const field_t fields[] = {
    MOE('l', tokens),
    MOE('l', hidden),
    MOE('l', expert_hidden),
    MOE('i', experts),
    MOE('i', domains),
    MOE('i', expert_replicas),
    MOE('i', backend),
    MOE('i', dtype),
    MOE('l', seed),
    MOE('i', wire),
    MOE('i', across),
    MOE('i', overlap),
    MOE('i', stages),
    MOE('l', timeout_ms),
    ROUTER('i', policy),
    ROUTER('i', k),
    ROUTER('d', capacity_factor),
    ROUTER('i', min_capacity),
    ROUTER('i', priority),
    ROUTER('i', fill),
    ROUTER('i', fill_key),
    ROUTER('i', fill_rank),
    ROUTER('i', rectify),
    ROUTER('i', ir_tokens),
    ROUTER('i', ir_exclude),
    ROUTER('l', ir_capacity),
    ROUTER('i', ir_scope),
    ROUTER('i', ir_scale),
    ROUTER('i', weight),
    ROUTER('i', attached),
    ROUTER('d', balance_coef),
    ROUTER('d', z_coef),
    ROUTER('i', group_count),
    ROUTER('i', group_topk),
    ROUTER('d', route_scale),
    ROUTER('i', sinkhorn_iterations),
    ROUTER('d', sinkhorn_tolerance),
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static double value_of(const field_t *field, int64_t bits)
{
    double real;
    memcpy(&real, &bits, sizeof real);
    return field->kind == 'd' ? real : (double)bits;
}

gln_status_t gln_moe_compare_options(gln_comm_t *comm, const gln_moe_options_t *options)
{
    const int ranks = gln_comm_size(comm);
    int64_t mine[FIELDS], *all = malloc((size_t)ranks * sizeof mine);
    gln_status_t status = GLN_OK;
    if (!all) status = gln_fail(GLN_ERR_MEMORY, "no memory for the options of %d ranks", ranks);
    status = gln_moe_agree(comm, status, "gln_moe_open");
    for (int i = 0; i < FIELDS; i++) {
        const char *at = (const char *)options + fields[i].offset;
        int small;
        memcpy(&small, at, sizeof small);
        mine[i] = small;
        if (fields[i].kind != 'i') memcpy(&mine[i], at, sizeof mine[i]);
    }
    if (status == GLN_OK) status = gln_comm_allgather(comm, mine, sizeof mine, all);
    for (int r = 1; r < ranks && status == GLN_OK; r++)
        for (int i = 0; i < FIELDS && status == GLN_OK; i++)
            if (all[r * FIELDS + i] != all[i])
                status = gln_fail(GLN_ERR_ARGUMENT,
                                  "gln_moe_open: %s is %.17g on rank 0 and %.17g on rank %d; open "
                                  "the layer with the same options on all ranks",
                                  fields[i].name, value_of(&fields[i], all[i]),
                                  value_of(&fields[i], all[r * FIELDS + i]), r);
    free(all);
    return status;
}
