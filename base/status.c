/* Names of the status codes: one table, indexed by the code. */
#include "base/status.h"

static const char *const names[GLN_STATUS_COUNT] = {
    [GLN_OK] = "ok",
    [GLN_ERR_ARGUMENT] = "bad argument",
    [GLN_ERR_CONFIG] = "bad configuration",
    [GLN_ERR_DATA] = "bad data",
    [GLN_ERR_IO] = "input or output failed",
    [GLN_ERR_CHECKPOINT] = "bad checkpoint",
    [GLN_ERR_MEMORY] = "out of memory",
    [GLN_ERR_CAPACITY] = "capacity exceeded",
    [GLN_ERR_LEDGER] = "waste ledger does not add up",
    [GLN_ERR_NUMERIC] = "not a finite number",
    [GLN_ERR_PEER] = "peer lost",
    [GLN_ERR_BACKEND] = "backend refused",
};

const char *gln_status_name(gln_status_t status)
{
    if ((int)status < 0 || status >= GLN_STATUS_COUNT) return "unknown status";
    return names[status];
}
