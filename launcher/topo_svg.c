#include "launcher/topo.h"
gln_status_t gln_topo_write_svg(const gln_topo_t *topo, const char *path)
{
    (void)topo;
    (void)path;
    return GLN_OK;
}
