/* Errors of one process, exit statuses, and what the environment says about ranks. */
#include "base/log.h"
#include "launcher/command.h"
#include "launcher/session.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>

Test(session, exit_status_of_every_status)
{
    for (int status = 0; status < GLN_STATUS_COUNT; status++) {
        bool input = status == GLN_ERR_ARGUMENT || status == GLN_ERR_CONFIG ||
                     status == GLN_ERR_DATA || status == GLN_ERR_CHECKPOINT;
        int expected = status == GLN_OK ? 0 : input ? 2 : 1;
        cr_assert_eq(gln_session_exit_status((gln_status_t)status, true), expected, "%d", status);
        if (status == GLN_ERR_IO)
            expected = 2; /* before work began, the input's paths are at fault */
        cr_assert_eq(gln_session_exit_status((gln_status_t)status, false), expected, "%d", status);
    }
}

Test(session, the_first_error_is_printed_once, .init = cr_redirect_stderr)
{
    gln_session_t session;
    gln_session_start(&session);
    gln_fail(GLN_ERR_DATA, "text %d is empty", 7);
    gln_fail(GLN_ERR_PEER, "which led to this");
    cr_assert_eq(gln_session_agree(&session, GLN_OK), GLN_OK); /* nothing failed: nothing is said */
    cr_assert_eq(gln_session_agree(&session, GLN_ERR_DATA), GLN_ERR_DATA);
    cr_assert_eq(gln_session_agree(&session, GLN_ERR_DATA), GLN_ERR_DATA);
    cr_assert_eq(gln_session_leave(&session, GLN_ERR_DATA), GLN_EXIT_BAD_INPUT);
    cr_assert_stderr_eq_str("gleaner: error: text 7 is empty\n");
}

Test(session, a_forgotten_error_is_not_printed, .init = cr_redirect_stderr)
{
    gln_session_t session;
    gln_session_start(&session);
    gln_fail(GLN_ERR_CHECKPOINT, "no checkpoint there");
    gln_session_forget(&session);
    gln_fail(GLN_ERR_MEMORY, "out of memory");
    gln_session_agree(&session, GLN_ERR_MEMORY);
    gln_session_leave(&session, GLN_ERR_MEMORY);
    cr_assert_stderr_eq_str("gleaner: error: out of memory\n");
}

Test(session, warnings_are_printed_at_once, .init = cr_redirect_stderr)
{
    gln_session_t session;
    gln_session_start(&session);
    gln_log(GLN_LOG_WARN, "4 domains, %d before", 2);
    gln_log(GLN_LOG_INFO, "not for the screen");
    gln_session_leave(&session, GLN_OK);
    cr_assert_stderr_eq_str("gleaner: warning: 4 domains, 2 before\n");
}

static void clear_environment(void)
{
    const char *names[] = {
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE",
        "SLURM_PROCID",         "SLURM_NTASKS"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
}

Test(session, ranks_of_the_environment, .init = clear_environment)
{
    cr_assert_eq(gln_session_environment_rank(), 0);
    setenv("SLURM_PROCID", "5", 1);
    cr_assert_eq(gln_session_environment_rank(), 5);
    setenv("OMPI_COMM_WORLD_RANK", "3", 1); /* mpirun inside a Slurm job */
    cr_assert_eq(gln_session_environment_rank(), 3);
}
