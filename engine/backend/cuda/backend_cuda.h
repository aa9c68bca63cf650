/* backend_cuda.h - the CUDA backend: the op table on one NVIDIA GPU.
 *
 * It lives in nginx-llm-cuda.so, so that the engine starts where no CUDA is
 * installed; this header needs no CUDA either.  Open it with backend_load.h:
 *
 *     struct backend_cuda_options o = { BACKEND_CUDA_ABI, .device_idx = 0 };
 *     switch (backend_load_cuda(&be, &o, err)) {
 *     case OK:     ...
 *     case AGAIN:  no GPU here, err->message says why: run on the CPU
 *     case ERROR:  there is one and it does not work
 *     }
 *
 * Linear layers go through cuBLASLt with fp32 accumulation and a workspace of
 * our own, with few rows through kernels/gemv.cu, large ones of decode steps on
 * Hopper through kernels/gemm_sm90.cu; everything else is in kernels/ too.
 * Steps of one token a sequence are recorded as CUDA graphs, see cuda_graph.c;
 * of at most eight sequences they are one kernel on Hopper, see cuda_fuse.c.
 * Weights are copied to the device in the dtype they have.
 * Attention runs on tensor cores for bf16 and f16, head_dim 64, 96, 128, 256
 * and up to 16 query heads a kv head, and on a slow kernel that takes anything
 * otherwise.
 *
 * INVARIANCE.  The same step gives the same bits every time, recorded or not; at
 * another start too when there is a gemm_cache.  A row's attention is split by
 * key position alone (cuda_step.c has the two exceptions), but the algorithm of
 * a matrix product depends on the number of rows, and prompt chunks and single
 * tokens take different attention kernels; so unlike the CPU backend, a row's
 * bits do depend on what it is computed with.  With batch_invariant they do not
 * depend on the other rows or their number: gemm_sm90.cu whatever the rows, or
 * one algorithm of cuBLASLt a matrix where it does not take it, keys split by
 * position only.  (A prompt's last chunk of a single token is still computed as
 * a decode row.)
 *
 * THREADS.  One thread at a time, any thread; work is issued on one stream. */
#ifndef LLM_BACKEND_CUDA_BACKEND_CUDA_H
#define LLM_BACKEND_CUDA_BACKEND_CUDA_H

#include <stdbool.h>
#include "engine/backend/backend.h"

/* Changes with the op table, so that a stale .so is refused. */
#define BACKEND_CUDA_ABI  (sizeof(struct backend_ops)                         \
                           + 4096 * sizeof(struct step_inputs)                \
                           + 65536 * sizeof(struct backend_cuda_options)      \
                           + ((size_t) 1 << 32) * sizeof(struct err))

struct backend_cuda_options {
    size_t abi;               /* BACKEND_CUDA_ABI of the caller */
    int    device_idx;        /* as CUDA numbers the GPUs it may use */
    bool   simple_kernels;    /* the slow kernels for everything: to find out
                                 which kernel is at fault */
    bool   no_graphs;         /* issue every step; the same bits */
    bool   no_pdl;            /* no kernel starts before the last has ended */
    bool   no_fused;          /* no step is one launch; other bits */
    bool   batch_invariant;   /* see INVARIANCE; slower */
    bool   no_tuning;         /* cuBLASLt's first guess instead of its fastest */
    const char *gemm_cache;   /* file that keeps what was found to be fastest,
                                 made when it is not there; NULL: none */
};

/* OK; AGAIN without a usable GPU or driver; ERROR otherwise.  *err is set in
 * both other cases. */
__attribute__((visibility("default")))
int backend_cuda_create(struct backend **out,
                        const struct backend_cuda_options *options,
                        struct err *err);

#endif
