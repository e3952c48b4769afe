/* The table of policies as data: rows and names by number. */
#include "router/policy_internal.h"

#define ROW(upper, name) [GLN_POLICY_##upper] = &gln_policy_##name,
static const gln_policy_ops_t *const table[GLN_POLICIES_COUNT] = {GLN_POLICIES(ROW)};
#undef ROW

#define ROW(upper, name) [GLN_POLICY_##upper] = #name,
static const char *const names[GLN_POLICIES_COUNT + 1] = {GLN_POLICIES(ROW)};
#undef ROW

const gln_policy_ops_t *gln_policy_ops(gln_policy_t policy)
{
    return (unsigned)policy < GLN_POLICIES_COUNT ? table[policy] : NULL;
}

const char *gln_policy_name(gln_policy_t policy)
{
    return (unsigned)policy < GLN_POLICIES_COUNT ? names[policy] : NULL;
}

const char *const *gln_policy_names(void)
{
    return names;
}

size_t gln_policy_no_state(const gln_router_t *router)
{
    (void)router;
    return 0;
}
