/* fake_cuda.h - a GPU that is none: CUDA's runtime, cuBLASLt and the launch
 * functions of kernels/, for tests of the CUDA backend's host code.
 *
 *     fake_cuda_start(&(struct fake_cuda_options) { .major = 9, ... });
 *     ... backend_cuda_create(), model_open() ...
 *     fake_cuda_watch(be, &m->kv.cache);
 *     ... steps ...
 *     fake_cuda_end();                  nothing may be left
 *
 * Nothing is computed, everything is looked at:
 *   memory   Device addresses cannot be read by the host; what little content
 *            is needed lies elsewhere.  Every range that a launch names must be
 *            in one allocation.  Pinned memory begins with poison.
 *   stream   Work waits in a queue and runs at random times, as late as events
 *            and synchronisation allow.  What the host gave in pinned memory
 *            must be there unchanged when it runs.  Graphs are recorded and
 *            replayed.
 *   launches As kernels.h has it: what _takes() says, no Hopper kernel and no
 *            programmatic dependency elsewhere, none for a step's first kernel.
 *   steps    The arrays that a kernel finds on the device are those of
 *            step_begin(), and the work lists hold each key of each row once,
 *            with places of their own for partial results.
 * What is wrong fails the cmocka test.  One thread. */
#ifndef LLM_SIM_FAKE_CUDA_H
#define LLM_SIM_FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>
#include "engine/backend/backend.h"

/* Calls that can be told to fail, as if memory had run out. */
enum fake_call {
    FAKE_NO_CALL, FAKE_MALLOC, FAKE_PINNED, FAKE_EVENT, FAKE_STREAM,
    FAKE_GRAPH,        /* recording, instantiating or launching one */
    FAKE_HANDLE,       /* cuBLASLt's */
    FAKE_CALLS
};

enum fake_kernel {
    FAKE_UNPACK, FAKE_GATHER, FAKE_WIDEN, FAKE_RANDOM, FAKE_NORM,
    FAKE_EPILOGUE, FAKE_ADD, FAKE_SILU_MUL, FAKE_MATMUL_SIMPLE, FAKE_GEMV,
    FAKE_GEMM, FAKE_GEMM_LARGE, FAKE_CUBLAS, FAKE_ROPE, FAKE_ROPE_WIDE,
    FAKE_DECODE, FAKE_DECODE_SM90, FAKE_DECODE_BLOCK, FAKE_PREFILL,
    FAKE_PREFILL_SM90, FAKE_ATTENTION_SIMPLE, FAKE_MASK, FAKE_SAMPLE,
    FAKE_SAMPLE_SM90, FAKE_COPY_BLOCKS, FAKE_FUSED,
    FAKE_KERNELS
};

struct fake_cuda_options {
    int             major, minor, num_sms;
    size_t          total_bytes;    /* of device memory */
    uint64_t        seed;           /* of when queued work runs, and of times */
    enum fake_call  fail_call;      /* the fail_at-th of these fails, from 1 */
    int             fail_at;
};

void fake_cuda_start(const struct fake_cuda_options *options);
void fake_cuda_end(void);

/* From the next step_begin() on, of a model with this cache. */
void fake_cuda_watch(struct backend *be, const struct kv_cache *kv);

/* Since fake_cuda_start(): launches (of a graph: when recorded), calls of the
 * kind made, and whether the one that was to fail has failed. */
int fake_cuda_launched(enum fake_kernel kernel);
const char *fake_cuda_kernel_name(enum fake_kernel kernel);
bool fake_cuda_has_failed(void);

/* The id that the n-th launch of a sampler, from 0, gives a row; launches so
 * far. */
int32_t fake_cuda_sampled_id(uint64_t n, int row, int vocab_size);
uint64_t fake_cuda_samples(void);

/* Uniform in 0 .. n - 1. */
int fake_random(uint64_t *state, int n);

#endif
