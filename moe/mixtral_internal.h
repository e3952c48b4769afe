/* Which tensors of the Mixtral layout a parameter is made of. */
#ifndef GLN_MOE_MIXTRAL_INTERNAL_H
#define GLN_MOE_MIXTRAL_INTERNAL_H

#include "moe/mixtral.h"

enum { GLN_MIXTRAL_PARTS_MAX = 3, GLN_MIXTRAL_NAME_MAX = 128 };

/* Columns [first, first + cols) of the parameter [rows, dim1], or all of a vector (cols 0). */
typedef struct gln_mixtral_part {
    char name[GLN_MIXTRAL_NAME_MAX];
    int64_t rows, first, cols;
    int transposed; /* the tensor is [cols, rows]; 0: [rows, cols] or [rows] */
} gln_mixtral_part_t;

/** Number of parts of `param`, 1 to GLN_MIXTRAL_PARTS_MAX; 0: the layout has no such parameter. */
int gln_mixtral_parts(const gln_mixtral_config_t *config, const gln_param_t *param,
                      gln_mixtral_part_t *parts);

#endif
