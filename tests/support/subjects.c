/* Every pair of backend and dtype that gln_kernels_open accepts. */
#include "tests/support/subjects.h"

const gln_subject_t gln_subjects[] = {
    {"ref f32", GLN_BACKEND_REF, GLN_F32},   {"ref f64", GLN_BACKEND_REF, GLN_F64},
    {"cpu f32", GLN_BACKEND_CPU, GLN_F32},   {"ref bf16", GLN_BACKEND_REF, GLN_BF16},
    {"cpu bf16", GLN_BACKEND_CPU, GLN_BF16},
};
const int gln_subjects_count = (int)(sizeof gln_subjects / sizeof gln_subjects[0]);

gln_status_t gln_bench_open(const gln_subject_t *subject, int threads_count, gln_bench_t *out)
{
    gln_bench_t bench = {.subject = subject};
    gln_status_t status = gln_pool_open(threads_count, &bench.pool);

    if (status != GLN_OK) return status;
    status = gln_kernels_open(subject->backend, subject->dtype, bench.pool, &bench.kernels);
    if (status != GLN_OK) {
        gln_pool_close(bench.pool);
        return status;
    }
    *out = bench;
    return GLN_OK;
}

void gln_bench_close(gln_bench_t *bench)
{
    gln_kernels_close(bench->kernels);
    gln_pool_close(bench->pool);
}
