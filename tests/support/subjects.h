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

/* A backend on a pool of its own. */
typedef struct gln_bench {
    const gln_subject_t *subject;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
} gln_bench_t;

/** @return the first status that is not GLN_OK; nothing is open then */
gln_status_t gln_bench_open(const gln_subject_t *subject, int threads_count, gln_bench_t *out);
void gln_bench_close(gln_bench_t *bench);

#ifdef __cplusplus
}
#endif
#endif
