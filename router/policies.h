/* The table of policies: one row each. A policy is a row here and a file router/policy_NAME.c
 * that defines gln_policy_NAME (see router/policy_internal.h). Nothing else knows how many there
 * are. The order is that of enum gln_policy, whose numbers are stored: append only. */
#ifndef GLN_ROUTER_POLICIES_H
#define GLN_ROUTER_POLICIES_H

/* ROW(UPPER, lower) for every policy. */
#define GLN_POLICIES(ROW)             \
    ROW(TOPK, topk)                   \
    ROW(SWITCH, switch)               \
    ROW(GSHARD, gshard)               \
    ROW(MIXTRAL, mixtral)             \
    ROW(EXPERT_CHOICE, expert_choice) \
    ROW(SINKHORN, sinkhorn)           \
    ROW(DEEPSEEK_V3, deepseek_v3)     \
    ROW(EXPANDED_DROP, expanded_drop) \
    ROW(RANDOM, random)

#endif
