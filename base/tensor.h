/* Element types, the tensor view, and the dimension letters used in every comment of this project:
 *   T tokens of a domain or rank   H hidden        F expert hidden   E experts   L experts of a
 * domain K routes per token             D domains       P ranks           R replica groups   C
 * capacity B batch (sequences)            S sequence      V vocabulary      N layers (in kernels:
 * rows) Tensors are dense and row-major unless a row stride ("ld", in elements) is given. */
#ifndef GLN_BASE_TENSOR_H
#define GLN_BASE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* F64 exists for proofs by finite differences: the reference kernels, the router and the layer run
 * in it; the fast backends do not. */
typedef enum gln_dtype { GLN_F32 = 0, GLN_BF16 = 1, GLN_F64 = 2 } gln_dtype_t;

/** Bytes of one element. */
size_t gln_dtype_bytes(gln_dtype_t dtype);
/** "f32", "bf16", "f64". Static storage. */
const char *gln_dtype_name(gln_dtype_t dtype);
/** The type that statistics, router scores, master weights and gradients use beside `dtype`:
 *  F32 for F32 and BF16, F64 for F64. Called "acc" in comments. */
gln_dtype_t gln_dtype_acc(gln_dtype_t dtype);

#define GLN_TENSOR_DIMS_MAX 4 /* dimensions of a tensor at most */

/** A view: it owns nothing. */
typedef struct gln_tensor {
    void *data;                        /* first element */
    gln_dtype_t dtype;                 /* of an element */
    int dims_count;                    /* of dims */
    int64_t dims[GLN_TENSOR_DIMS_MAX]; /* outermost first */
} gln_tensor_t;

/** Address of element `index` of an array of `dtype`. */
static inline void *gln_at(const void *data, int64_t index, gln_dtype_t dtype)
{
    return (char *)(uintptr_t)data + (size_t)index * (dtype == GLN_F64   ? 8u
                                                      : dtype == GLN_F32 ? 4u
                                                                         : 2u);
}

/** Read or write one element as double, for code that is not on a hot path. */
double gln_load(const void *data, int64_t index, gln_dtype_t dtype);
/** Write one element, rounded to dtype. */
void gln_store(void *data, int64_t index, gln_dtype_t dtype, double value);

#ifdef __cplusplus
}
#endif
#endif
