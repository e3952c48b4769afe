/* The waste ledger as data: names, sums and equations. The fields are read as an array, which the
 * static assertions below allow. */
#include "router/ledger.h"
#include "base/log.h"
#include <stddef.h>

_Static_assert(sizeof(gln_ledger_t) == GLN_LEDGER_FIELDS * sizeof(int64_t),
               "GLN_LEDGER_FIELDS counts the fields");
_Static_assert(offsetof(gln_ledger_t, sent_rows) == (GLN_LEDGER_FIELDS - 1) * sizeof(int64_t),
               "the fields have no gaps");

static const char *const names[GLN_LEDGER_FIELDS] = {
    "tokens",  "choices",   "slots",   "routed",      "overflow",  "filled",   "padded",
    "rescued", "rectified", "dropped", "rect_tokens", "rect_rows", "unserved", "sent_rows",
};

const char *const *gln_ledger_names(void)
{
    return names;
}

void gln_ledger_add(gln_ledger_t *sum, const gln_ledger_t *item)
{
    int64_t *to = &sum->tokens;
    const int64_t *from = &item->tokens;
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++)
        to[i] += from[i];
}

gln_status_t gln_ledger_check(const gln_ledger_t *ledger, const char *where)
{
    const gln_ledger_t *l = ledger;
    const int64_t *fields = &l->tokens;
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++)
        if (fields[i] < 0)
            return gln_fail(GLN_ERR_LEDGER, "%s: ledger: %s is %lld, expected 0 or more", where,
                            names[i], (long long)fields[i]);
    if (l->choices != l->routed + l->overflow)
        return gln_fail(
            GLN_ERR_LEDGER,
            "%s: ledger: choices = routed + overflow does not hold: %lld and %lld + %lld", where,
            (long long)l->choices, (long long)l->routed, (long long)l->overflow);
    if (l->overflow != l->rescued + l->rectified + l->dropped)
        return gln_fail(GLN_ERR_LEDGER,
                        "%s: ledger: overflow = rescued + rectified + dropped does not hold: "
                        "%lld and %lld + %lld + %lld",
                        where, (long long)l->overflow, (long long)l->rescued,
                        (long long)l->rectified, (long long)l->dropped);
    if (l->slots != l->routed + l->filled + l->padded)
        return gln_fail(GLN_ERR_LEDGER,
                        "%s: ledger: slots = routed + filled + padded does not hold: "
                        "%lld and %lld + %lld + %lld",
                        where, (long long)l->slots, (long long)l->routed, (long long)l->filled,
                        (long long)l->padded);
    return GLN_OK;
}
