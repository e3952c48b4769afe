/* Layout of domains, groups and experts over ranks: a few divisions, O(1), plus the list of numbers
 * that would do for the message of an error.
 *
 * P divides D and one of P, R divides the other, so a rank hosts either a part of one replica group
 * or several whole groups; in both cases its experts are one contiguous run and its groups too. */
#include "moe/parallel.h"

#include "base/log.h"
#include <stdio.h>
#include <string.h>

enum { LIST_BYTES = 160, LIST_NUMBERS_MAX = 12 };

typedef struct number_list {
    char text[LIST_BYTES];
    size_t used;
    int count;
} number_list_t;

/* "1, 2, 4" in the end; long lists end in "...". */
static void list_add(number_list_t *list, int number)
{
    if (list->count > LIST_NUMBERS_MAX || list->used + 16 >= sizeof list->text) return;
    if (list->count == LIST_NUMBERS_MAX)
        list->used +=
            (size_t)snprintf(list->text + list->used, sizeof list->text - list->used, ", ...");
    else
        list->used += (size_t)snprintf(list->text + list->used, sizeof list->text - list->used,
                                       "%s%d", list->count > 0 ? ", " : "", number);
    list->count += 1;
}

static int one_divides_other(int a, int b)
{
    return a % b == 0 || b % a == 0;
}

/* Divisors of `domains` that may be the number of ranks (groups > 0: that fit the groups too). */
static number_list_t rank_counts(int domains, int groups)
{
    number_list_t list = {{0}, 0, 0};

    for (int ranks = 1; ranks <= domains; ++ranks)
        if (domains % ranks == 0 && (groups == 0 || one_divides_other(ranks, groups)))
            list_add(&list, ranks);
    return list;
}

static gln_status_t check_positive(const char *name, int value)
{
    if (value >= 1) return GLN_OK;
    return gln_fail(GLN_ERR_CONFIG, "%s must be at least 1, found %d", name, value);
}

static gln_status_t check_counts(int ranks, int rank, int domains, int groups, int experts)
{
    gln_status_t status = check_positive("the number of ranks", ranks);

    if (status == GLN_OK) status = check_positive("the number of domains", domains);
    if (status == GLN_OK) status = check_positive("the number of replica groups", groups);
    if (status == GLN_OK) status = check_positive("the number of experts", experts);
    if (status != GLN_OK) return status;
    if (rank < 0 || rank >= ranks)
        return gln_fail(GLN_ERR_CONFIG, "rank %d is outside the world of %d ranks; use 0 to %d",
                        rank, ranks, ranks - 1);
    return GLN_OK;
}

static gln_status_t check_divisions(int ranks, int domains, int groups, int experts)
{
    number_list_t list;

    if (domains % groups != 0) {
        list = rank_counts(domains, 0);
        return gln_fail(GLN_ERR_CONFIG,
                        "the number of replica groups must divide the number of domains: found %d "
                        "groups and %d domains; with %d domains use %s groups",
                        groups, domains, domains, list.text);
    }
    if (domains % ranks != 0) {
        list = rank_counts(domains, groups);
        return gln_fail(GLN_ERR_CONFIG,
                        "the number of ranks must divide the number of domains: found %d ranks and "
                        "%d domains; start %s ranks, or set a multiple of %d domains",
                        ranks, domains, list.text, ranks);
    }
    if (!one_divides_other(ranks, groups)) {
        list = rank_counts(domains, groups);
        return gln_fail(
            GLN_ERR_CONFIG,
            "of the number of ranks and the number of replica groups one must divide the "
            "other: found %d ranks and %d groups; with %d domains and %d groups start %s "
            "ranks",
            ranks, groups, domains, groups, list.text);
    }
    if (experts % (domains / groups) != 0) {
        int group_domains = domains / groups;
        int below = experts / group_domains * group_domains;
        list = (number_list_t){{0}, 0, 0};
        if (below > 0) list_add(&list, below);
        list_add(&list, below + group_domains);
        return gln_fail(
            GLN_ERR_CONFIG,
            "the domains of a replica group must divide the number of experts: found %d "
            "domains in a group (%d domains / %d groups) and %d experts; use %s or "
            "another multiple of %d experts",
            group_domains, domains, groups, experts, list.text, group_domains);
    }
    return GLN_OK;
}

gln_status_t gln_parallel_layout(int ranks, int rank, int domains, int groups, int experts,
                                 gln_parallel_t *out)
{
    gln_status_t status = check_counts(ranks, rank, domains, groups, experts);

    if (status == GLN_OK) status = check_divisions(ranks, domains, groups, experts);
    if (status != GLN_OK) return status;

    gln_parallel_t p = {.ranks = ranks, .rank = rank, .domains = domains, .groups = groups};
    p.experts = experts;
    p.group_domains = domains / groups;
    p.per_domain = experts / p.group_domains;
    p.local_domains = domains / ranks;
    p.first_domain = rank * p.local_domains;
    p.local_groups = groups > ranks ? groups / ranks : 1;
    p.first_group = p.first_domain / p.group_domains;
    /* where a rank hosts whole groups it holds all experts, else those of its part of one group */
    p.local_experts = p.local_domains >= p.group_domains ? experts : p.per_domain * p.local_domains;
    p.first_expert = p.first_domain % p.group_domains * p.per_domain;
    *out = p;
    return GLN_OK;
}

gln_status_t gln_parallel_open(gln_comm_t *comm, int domains, int groups, int experts,
                               gln_parallel_t *out)
{
    gln_parallel_t p;
    gln_status_t status =
        gln_parallel_layout(gln_comm_size(comm), gln_comm_rank(comm), domains, groups, experts, &p);

    if (status != GLN_OK) return status;
    p.comm = comm;
    /* same first expert, same experts; rank order is group order */
    status = gln_comm_split(comm, p.first_expert, &p.replicas);
    if (status != GLN_OK) return status;
    *out = p;
    return GLN_OK;
}

void gln_parallel_close(gln_parallel_t *p)
{
    if (p == NULL) return;
    gln_comm_close(p->replicas);
    memset(p, 0, sizeof *p);
}
