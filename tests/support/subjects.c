/* Every pair of backend and dtype that gln_kernels_open accepts. */
#include "tests/support/subjects.h"

const gln_subject_t gln_subjects[] = {
    {"ref f32", GLN_BACKEND_REF, GLN_F32},
    {"ref f64", GLN_BACKEND_REF, GLN_F64},
    {"cpu f32", GLN_BACKEND_CPU, GLN_F32},
};
const int gln_subjects_count = (int)(sizeof gln_subjects / sizeof gln_subjects[0]);
