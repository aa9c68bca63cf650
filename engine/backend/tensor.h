/* tensor.h - a shape, an element type and a pointer; nothing is hidden.
 *
 * Row-major, outermost dimension first, no strides: a view of rows is a
 * pointer and a smaller shape[0].  `data` is memory of the backend that
 * allocated it (host memory for the CPU backend, device memory for CUDA) and
 * is never owned by the tensor. */
#ifndef LLM_BACKEND_TENSOR_H
#define LLM_BACKEND_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#define TENSOR_DIMS_MAX  4

/* DTYPE_NONE is "not set" in options and "absent" in files. */
enum dtype {
    DTYPE_NONE, DTYPE_F32, DTYPE_BF16, DTYPE_F16,
    DTYPE_F8_E4M3       /* of a KV cache only: e4m3.h */
};

struct tensor {
    enum dtype  dtype;
    int         ndim;                    /* 0 .. TENSOR_DIMS_MAX */
    int64_t     shape[TENSOR_DIMS_MAX];  /* [ndim], outermost first */
    void       *data;                    /* borrowed; backend memory */
};

static inline size_t
dtype_bytes(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return 4;
    case DTYPE_BF16:
    case DTYPE_F16:
        return 2;
    case DTYPE_F8_E4M3:
        return 1;
    case DTYPE_NONE:
        break;
    }
    return 0;
}

/* Hugging Face's name: "float32", "bfloat16", "float16", "float8_e4m3fn";
 * "none". */
static inline const char *
dtype_name(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return "float32";
    case DTYPE_BF16:
        return "bfloat16";
    case DTYPE_F16:
        return "float16";
    case DTYPE_F8_E4M3:
        return "float8_e4m3fn";
    case DTYPE_NONE:
        break;
    }
    return "none";
}

static inline struct tensor
tensor_1d(enum dtype dtype, void *data, int64_t len)
{
    return (struct tensor) { dtype, 1, { len }, data };
}

static inline struct tensor
tensor_2d(enum dtype dtype, void *data, int64_t rows, int64_t cols)
{
    return (struct tensor) { dtype, 2, { rows, cols }, data };
}

#endif
