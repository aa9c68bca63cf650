/* fake_device.c - the fake GPU's life, its properties, what every launch must be. */
#include "tests/sim/cuda/fake_gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define CONTEXT_BYTES  ((size_t) 500 << 20)    /* taken by the driver */

struct fake_gpu  fake;

static const struct {
    const char *name;
    bool        hopper;
} kernels[FAKE_KERNELS] = {
    [FAKE_UNPACK] = { "unpack", false },
    [FAKE_GATHER] = { "gather", false },
    [FAKE_WIDEN] = { "widen", false },
    [FAKE_RANDOM] = { "random", false },
    [FAKE_NORM] = { "norm", false },
    [FAKE_EPILOGUE] = { "epilogue", false },
    [FAKE_ADD] = { "add", false },
    [FAKE_SILU_MUL] = { "silu_mul", false },
    [FAKE_MATMUL_SIMPLE] = { "matmul_simple", false },
    [FAKE_GEMV] = { "gemv", false },
    [FAKE_GEMM] = { "gemm", true },
    [FAKE_GEMM_LARGE] = { "gemm_large", true },
    [FAKE_CUBLAS] = { "cublasLtMatmul", false },
    [FAKE_ROPE] = { "rope_append", false },
    [FAKE_ROPE_WIDE] = { "rope_wide", false },
    [FAKE_DECODE] = { "attention_decode", false },
    [FAKE_DECODE_SM90] = { "attention_decode_sm90", true },
    [FAKE_DECODE_BLOCK] = { "attention_decode_block", true },
    [FAKE_PREFILL] = { "attention_prefill", false },
    [FAKE_PREFILL_SM90] = { "attention_prefill_sm90", true },
    [FAKE_ATTENTION_SIMPLE] = { "attention_simple", false },
    [FAKE_MASK] = { "sample_mask", false },
    [FAKE_SAMPLE] = { "sample", false },
    [FAKE_SAMPLE_SM90] = { "sample_sm90", true },
    [FAKE_COPY_BLOCKS] = { "copy_blocks", false },
    [FAKE_FUSED] = { "fused", true },
};

/* ---- life ------------------------------------------------------------------------ */

int
fake_random(uint64_t *state, int n)
{
    uint64_t  z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (int) ((z ^ z >> 31) % (uint64_t) n);
}

/* What a failed test has left is given up. */
void
fake_cuda_start(const struct fake_cuda_options *options)
{
    fake_queue_drop();
    fake_steps_drop();
    fake_memory_drop();
    fake = (struct fake_gpu) { .options = *options, .rng = options->seed,
                               .used = CONTEXT_BYTES };
}

void
fake_cuda_end(void)
{
    fake_run_until(fake.tail);
    fake_step_finish();
    fake_steps_drop();
    if (fake.num_device > 0 || fake.num_pinned > 0 || fake.live_events > 0
        || fake.live_streams > 0 || fake.live_graphs > 0
        || fake.live_handles > 0 || fake.used != CONTEXT_BYTES)
    {
        fake_fault("left: %d of device memory, %d of pinned memory, %d events, "
                   "%d streams, %d graphs, %d cuBLASLt handles",
                   fake.num_device, fake.num_pinned, fake.live_events,
                   fake.live_streams, fake.live_graphs, fake.live_handles);
    }
}

void
fake_fault(const char *fmt, ...)
{
    char     text[1024];
    va_list  args;
    va_start(args, fmt);
    (void) vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fail_msg("fake GPU %d.%d: %s", fake.options.major, fake.options.minor,
             text);
    abort();
}

bool
fake_fails(enum fake_call call)
{
    fake.made[call]++;
    if (call != fake.options.fail_call
        || fake.made[call] != fake.options.fail_at)
    {
        return false;
    }
    fake.failed = true;
    return true;
}

bool
fake_cuda_has_failed(void)
{
    return fake.failed;
}

/* ---- launches --------------------------------------------------------------------- */

void
fake_launch(enum fake_kernel kernel, cudaStream_t stream, int pdl)
{
    const char  *name = kernels[kernel].name;
    if (stream == NULL || stream != fake.stream) {
        fake_fault("%s: not on the backend's stream", name);
    }
    if (kernels[kernel].hopper && !fake_is_hopper()) {
        fake_fault("%s: a Hopper kernel", name);
    }
    if (pdl && !fake_is_hopper()) {
        fake_fault("%s: programmatic dependency, but its code does not wait",
                   name);
    }
    if (pdl && fake.first && kernel != FAKE_UNPACK) {
        fake_fault("%s: the first of a step does not wait for its arrays",
                   name);
    }
    fake.first = kernel == FAKE_UNPACK;
    fake.launched[kernel]++;
}

int
fake_cuda_launched(enum fake_kernel kernel)
{
    return fake.launched[kernel];
}

const char *
fake_cuda_kernel_name(enum fake_kernel kernel)
{
    return kernels[kernel].name;
}

/* ---- the runtime: devices and errors ------------------------------------------------ */

cudaError_t
cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t
cudaSetDevice(int device)
{
    FAKE_CHECK(device == 0);
    return cudaSuccess;
}

cudaError_t
cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    FAKE_CHECK(device == 0);
    memset(prop, 0, sizeof *prop);
    (void) snprintf(prop->name, sizeof prop->name, "fake");
    prop->major = fake.options.major;
    prop->minor = fake.options.minor;
    prop->multiProcessorCount = fake.options.num_sms;
    prop->totalGlobalMem = fake.options.total_bytes;
    return cudaSuccess;
}

cudaError_t
cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t
cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t
cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *
cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}

const char *
cudaGetErrorName(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
                                              : "cudaErrorUnknown";
}
