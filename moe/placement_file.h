/* The file that says which domain hosts which expert, layer by layer (docs/placement.md). */
#ifndef GLN_MOE_PLACEMENT_FILE_H
#define GLN_MOE_PLACEMENT_FILE_H

#include "base/status.h"
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** @param group_domains  D/R
 *  @param layers_count   layers of the model; those that the file does not name get the default,
 *                        expert e on domain e / L
 *  @param domain_of      [layers_count, E] out, written on success only
 *  @return GLN_OK; GLN_ERR_CONFIG: no such file, malformed, made for another number of experts or
 *          domains, a layer that the model lacks, or a domain that hosts not exactly L experts;
 *          GLN_ERR_MEMORY. */
gln_status_t gln_placement_file_read(const char *path, int experts, int group_domains,
                                     int layers_count, int32_t *domain_of);

/** @param layer      [layers_count] indices of layers in the model, ascending
 *  @param domain_of  [layers_count, E]
 *  @return GLN_OK; GLN_ERR_IO; GLN_ERR_MEMORY. */
gln_status_t gln_placement_file_write(const char *path, int experts, int group_domains,
                                      const int *layer, int layers_count, const int32_t *domain_of);

#ifdef __cplusplus
}
#endif
#endif
