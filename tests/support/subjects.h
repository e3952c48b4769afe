/* The backends under test. A new backend or dtype is one row of the table in subjects.c. */
#ifndef GLN_TESTS_SUPPORT_SUBJECTS_H
#define GLN_TESTS_SUPPORT_SUBJECTS_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_subject {
    const char *name; /* "cpu f32" */
    gln_backend_t backend;
    gln_dtype_t dtype;
} gln_subject_t;

extern const gln_subject_t gln_subjects[];
extern const int gln_subjects_count;

#ifdef __cplusplus
}
#endif
#endif
