#include "base/status.h"
#include <criterion/criterion.h>
#include <string.h>

Test(status, every_code_has_its_own_name)
{
    for (int i = 0; i < GLN_STATUS_COUNT; i++) {
        const char *name = gln_status_name((gln_status_t)i);
        cr_assert(name && *name);
        for (int j = 0; j < i; j++)
            cr_assert(strcmp(name, gln_status_name((gln_status_t)j)), "%d and %d share a name", i,
                      j);
    }
    cr_assert_str_eq(gln_status_name(GLN_OK), "ok");
    cr_assert_str_eq(gln_status_name(GLN_ERR_ARGUMENT), "bad argument");
}

Test(status, codes_outside_the_enum_have_a_name_too)
{
    cr_assert_str_eq(gln_status_name(GLN_STATUS_COUNT), "unknown status");
    cr_assert_str_eq(gln_status_name((gln_status_t)-1), "unknown status");
}
