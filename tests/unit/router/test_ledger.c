/* The ledger as data: names, sums, and each equation broken once. */
#include "base/log.h"
#include "router/ledger.h"
#include <criterion/criterion.h>
#include <string.h>

static const gln_ledger_t good = {.tokens = 10,
                                  .choices = 20,
                                  .slots = 24,
                                  .routed = 13,
                                  .overflow = 7,
                                  .filled = 4,
                                  .padded = 7,
                                  .rescued = 2,
                                  .rectified = 3,
                                  .dropped = 2,
                                  .rect_tokens = 3,
                                  .rect_rows = 2,
                                  .unserved = 1,
                                  .sent_rows = 15};

Test(ledger, a_good_one_passes)
{
    cr_assert_eq(gln_ledger_check(&good, "step 1"), GLN_OK);
    gln_ledger_t zero = {0};
    cr_assert_eq(gln_ledger_check(&zero, "step 1"), GLN_OK);
}

Test(ledger, names_are_in_order)
{
    const char *const *names = gln_ledger_names();
    cr_assert_str_eq(names[0], "tokens");
    cr_assert_str_eq(names[4], "overflow");
    cr_assert_str_eq(names[9], "dropped");
    cr_assert_str_eq(names[GLN_LEDGER_FIELDS - 1], "sent_rows");
}

Test(ledger, adds_field_by_field)
{
    gln_ledger_t sum = good;
    gln_ledger_add(&sum, &good);
    const int64_t *one = &good.tokens, *two = &sum.tokens;
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++)
        cr_assert_eq(two[i], 2 * one[i]);
    cr_assert_eq(gln_ledger_check(&sum, "sum"), GLN_OK);
}

static void refuse(const gln_ledger_t *ledger, const char *named)
{
    cr_assert_eq(gln_ledger_check(ledger, "step 12, layer 3, domain 1"), GLN_ERR_LEDGER);
    cr_assert_not_null(strstr(gln_last_error(), "step 12, layer 3, domain 1"));
    cr_assert_not_null(strstr(gln_last_error(), named), "expected \"%s\" in \"%s\"", named,
                       gln_last_error());
}

Test(ledger, every_equation_is_checked_with_both_sides)
{
    gln_ledger_t l = good;
    l.choices = 21;
    refuse(&l, "choices = routed + overflow does not hold: 21 and 13 + 7");
    l = good;
    l.dropped = 3;
    refuse(&l, "overflow = rescued + rectified + dropped does not hold: 7 and 2 + 3 + 3");
    l = good;
    l.padded = 6;
    refuse(&l, "slots = routed + filled + padded does not hold: 24 and 13 + 4 + 6");
}

Test(ledger, every_negative_count_is_named)
{
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++) {
        gln_ledger_t l = good;
        (&l.tokens)[i] = -1;
        refuse(&l, gln_ledger_names()[i]);
    }
}
