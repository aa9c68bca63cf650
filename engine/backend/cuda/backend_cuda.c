/* backend_cuda.c - the CUDA backend's life: device, memory, weights. */
#include "engine/backend/cuda/backend_cuda.h"
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPUTE_MAJOR_MIN  8      /* bf16 tensor cores, cp.async */
#define PDL_MAJOR          9      /* other GPUs run Ampere's PTX, whose kernels
                                     do not wait for the one before */
#define FUSED_MAJOR        9
#define PAGE_BYTES         ((uintptr_t) 4096)
#define PIN_BYTES_MIN      ((size_t) 1 << 20)

/* ---- errors ---------------------------------------------------------------------- */

/* Kernels are loaded and steps recorded when the KV cache has its memory. */
static const char *
remedy_of(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation
           ? "; lower --gpu-memory-utilization or --kv-cache-memory-bytes, or "
             "end what else uses the GPU" : "";
}

bool
cuda_keep(struct cuda_backend *cb, cudaError_t e, const char *what)
{
    if (e == cudaSuccess) {
        return true;
    }
    if (!cb->failed) {
        cb->failed = true;
        (void) err_set(&cb->failure, "%s: %s: %s (%s)%s", cb->name, what,
                       cudaGetErrorString(e), cudaGetErrorName(e),
                       remedy_of(e));
    }
    return false;
}

void
cuda_keep_status(struct cuda_backend *cb, cublasStatus_t s, const char *what)
{
    if (s != CUBLAS_STATUS_SUCCESS && !cb->failed) {
        cb->failed = true;
        (void) err_set(&cb->failure, "%s: %s: %s%s", cb->name, what,
                       cublasLtGetStatusString(s),
                       remedy_of(s == CUBLAS_STATUS_ALLOC_FAILED
                                 ? cudaErrorMemoryAllocation : cudaSuccess));
    }
}

static int
cuda_sync(struct backend *be, struct err *err)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    (void) cuda_keep(cb, cudaStreamSynchronize(cb->stream), "a step");
    return cb->failed ? err_set(err, "%s", cb->failure.message) : OK;
}

/* ---- memory ------------------------------------------------------------------------ */

int
cuda_alloc(struct backend *be, size_t bytes, void **out, struct err *err)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    size_t                free_bytes = 0, total = 0;
    *out = NULL;
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    cudaError_t  e = cudaMalloc(out, bytes == 0 ? CUDA_ALIGN : bytes);
    if (e == cudaSuccess) {
        return OK;
    }
    (void) cudaGetLastError();       /* out of memory is not sticky */
    (void) cudaMemGetInfo(&free_bytes, &total);
    (void) err_set(err, "GPU memory: %zu bytes asked for, %zu of %zu are free "
                   "(%s); lower --gpu-memory-utilization, "
                   "--max-num-batched-tokens or --max-num-seqs, or end what "
                   "else uses the GPU", bytes,
                   free_bytes, total, cudaGetErrorString(e));
    return err_device_full(err);
}

void
cuda_free(struct backend *be, void *data)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    if (data != NULL) {
        (void) cudaSetDevice(cb->device_idx);
        (void) cudaFree(data);       /* waits for what uses it */
    }
}

static int
cuda_memory(struct backend *be, size_t *free_bytes, size_t *total_bytes,
            struct err *err)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    cudaError_t  e = cudaMemGetInfo(free_bytes, total_bytes);
    return e == cudaSuccess ? OK : err_set(err, "GPU memory: %s",
                                           cudaGetErrorString(e));
}

static void
cuda_fill(struct backend *be, void *data, int byte, size_t bytes)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    (void) cuda_keep(cb, cudaMemsetAsync(data, byte, bytes, cb->stream),
                     "fill");
}

/* Pins the pages of a large source for the time of its copy: the driver then
 * reads them itself instead of copying them through its own buffer.  NULL:
 * not pinned, and the copy is slower. */
static void *
pin_pages(const void *host_src, size_t bytes)
{
    static const unsigned int  flags[] = { cudaHostRegisterReadOnly,
                                           cudaHostRegisterDefault };
    uintptr_t  first = (uintptr_t) host_src / PAGE_BYTES * PAGE_BYTES;
    uintptr_t  end = ((uintptr_t) host_src + bytes + PAGE_BYTES - 1)
                     / PAGE_BYTES * PAGE_BYTES;
    if (bytes < PIN_BYTES_MIN) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (cudaHostRegister((void *) first, end - first, flags[i])
            == cudaSuccess)
        {
            return (void *) first;
        }
        (void) cudaGetLastError();       /* not sticky */
    }
    return NULL;
}

/* Done on return: the source may be freed. */
static void
cuda_upload(struct backend *be, void *dst, const void *host_src, size_t bytes)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    void  *pinned = pin_pages(host_src, bytes);
    (void) cuda_keep(cb, cudaMemcpyAsync(dst, host_src, bytes,
                                         cudaMemcpyHostToDevice, cb->stream),
                     "upload");
    (void) cuda_keep(cb, cudaStreamSynchronize(cb->stream), "upload");
    if (pinned != NULL) {
        (void) cuda_keep(cb, cudaHostUnregister(pinned), "upload");
    }
}

static void
cuda_download(struct backend *be, void *host_dst, const void *src,
              size_t bytes)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    (void) cuda_keep(cb, cudaMemcpyAsync(host_dst, src, bytes,
                                         cudaMemcpyDeviceToHost, cb->stream),
                     "download");
    (void) cuda_keep(cb, cudaStreamSynchronize(cb->stream), "download");
}

/* ---- weights ------------------------------------------------------------------------- */

static void
cuda_weight_destroy(struct backend *be, struct weight *w)
{
    if (w == NULL) {
        return;
    }
    cuda_graphs_drop((struct cuda_backend *) be);    /* they hold addresses */
    cuda_free(be, w->memory);
    free(w);
}

/* A tensor's elements to `dst`: from the host, or random. */
static void
fill_tensor(struct cuda_backend *cb, void *dst, const struct tensor *t,
            const struct weight_random *random)
{
    int64_t  num = t->shape[0] * (t->ndim == 2 ? t->shape[1] : 1);
    if (t->data != NULL) {
        cuda_upload(&cb->base, dst, t->data,
                    (size_t) num * dtype_bytes(t->dtype));
        return;
    }
    (void) cuda_keep(cb, random_launch(dst, cuda_kernel_dtype(t->dtype), num,
                                       random->state, random->scale,
                                       cb->stream), "random weights");
}

/* Uploads a small tensor to fp32 `dst`, through `dst`-sized room after it. */
static int
upload_wide(struct cuda_backend *cb, float *dst, const struct tensor *t,
            const struct weight_random *random, struct err *err)
{
    void    *raw;
    size_t   bytes = (size_t) t->shape[0] * dtype_bytes(t->dtype);
    if (cuda_alloc(&cb->base, bytes, &raw, err) != OK) {
        return ERROR;
    }
    fill_tensor(cb, raw, t, random);
    (void) cuda_keep(cb, widen_launch(dst, raw, cuda_kernel_dtype(t->dtype),
                                      t->shape[0], cb->stream), "widen");
    cuda_free(&cb->base, raw);
    return OK;
}

/* The bias of part i from its first row on, if it has the weights' dtype. */
static void
upload_bias16(struct cuda_backend *cb, struct weight *w, int64_t first,
              const struct weight_desc *desc, int i)
{
    size_t  bytes = dtype_bytes(desc->parts[0].dtype);
    if (w->bias16 != NULL && desc->bias[i].dtype == desc->parts[0].dtype) {
        fill_tensor(cb, (char *) w->bias16 + (size_t) first * bytes,
                    &desc->bias[i], &desc->bias_random[i]);
    } else {
        w->bias16 = NULL;
    }
}

static int
create_vector(struct cuda_backend *cb, const struct weight_desc *desc,
              struct weight *w, struct err *err)
{
    const struct tensor  *t = &desc->parts[0];
    check_eq(t->ndim, 1);
    w->in = t->shape[0];
    if (cuda_alloc(&cb->base, (size_t) w->in * sizeof(float), &w->memory, err)
        != OK)
    {
        return ERROR;
    }
    w->vector = w->memory;
    return upload_wide(cb, w->vector, t, &desc->random[0], err);
}

static size_t
part_bytes(const struct tensor *t)
{
    return (size_t) t->shape[0] * (size_t) t->shape[1] * dtype_bytes(t->dtype);
}

/* Parts of one dtype lie one after the other and are one matrix. */
static int
create_matrix(struct cuda_backend *cb, const struct weight_desc *desc,
              struct weight *w, struct err *err)
{
    bool    same = true, has_bias = false;
    size_t  bytes = 0;
    for (int i = 0; i < desc->num_parts; i++) {
        const struct tensor  *t = &desc->parts[i];
        check(t->dtype != DTYPE_NONE);
        check_eq(t->ndim, 2);
        check_eq(t->shape[1], desc->parts[0].shape[1]);
        w->rows += t->shape[0];
        same = same && t->dtype == desc->parts[0].dtype;
        has_bias = has_bias || desc->bias[i].dtype != DTYPE_NONE;
        bytes += cuda_align(part_bytes(t));
    }
    w->in = desc->parts[0].shape[1];
    size_t  bias_bytes = has_bias ? cuda_align((size_t) w->rows
                                               * sizeof(float)) : 0;
    if (cuda_alloc(&cb->base, bytes + 2 * bias_bytes, &w->memory, err) != OK) {
        return ERROR;
    }
    char    *next = w->memory;
    float   *bias = (float *) (void *) (next + bytes);
    if (has_bias) {
        w->bias = bias;
        w->bias16 = next + bytes + bias_bytes;
        cuda_fill(&cb->base, bias, 0, 2 * bias_bytes);
    }
    for (int i = 0; i < desc->num_parts; i++) {
        const struct tensor  *t = &desc->parts[i];
        fill_tensor(cb, next, t, &desc->random[i]);
        w->part[i] = (struct cuda_weight_part) { next, t->dtype, t->shape[0] };
        next += same ? part_bytes(t) : cuda_align(part_bytes(t));
        if (desc->bias[i].dtype != DTYPE_NONE) {
            check_eq(desc->bias[i].shape[0], t->shape[0]);
            if (upload_wide(cb, bias, &desc->bias[i], &desc->bias_random[i],
                            err) != OK)
            {
                return ERROR;
            }
            upload_bias16(cb, w, bias - w->bias, desc, i);
        }
        bias += t->shape[0];
    }
    w->num_parts = desc->num_parts;
    if (same) {
        w->num_parts = 1;
        w->part[0].rows = w->rows;
    }
    return OK;
}

static int
cuda_weight_create(struct backend *be, const struct weight_desc *desc,
                   struct weight **out, struct err *err)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    struct weight        *w = calloc(1, sizeof *w);
    *out = NULL;
    if (w == NULL) {
        return err_set(err, "out of memory while loading weights");
    }
    check(desc->num_parts >= 1 && desc->num_parts <= WEIGHT_PARTS_MAX);
    check(desc->kind != WEIGHT_GATE_UP
          || (desc->num_parts == 2
              && desc->parts[0].shape[0] == desc->parts[1].shape[0]));
    check(desc->kind != WEIGHT_EMBEDDING || desc->num_parts == 1);
    w->kind = desc->kind;
    int  rc = desc->kind == WEIGHT_VECTOR
              ? create_vector(cb, desc, w, err)
              : create_matrix(cb, desc, w, err);
    if (rc != OK || cuda_sync(be, err) != OK) {
        cuda_weight_destroy(be, w);
        return err_prefix(err, "weights");
    }
    *out = w;
    return OK;
}

/* ---- life ------------------------------------------------------------------------------ */

static void
cuda_destroy(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    if (cb == NULL) {
        return;
    }
    (void) cudaSetDevice(cb->device_idx);
    cuda_release_step(cb);
    cuda_timing_release(cb);
    cuda_gemm_destroy(cb);
    cuda_free(be, cb->copies);
    if (cb->stream != NULL) {
        (void) cudaStreamDestroy(cb->stream);
    }
    free(cb->tune_path);
    free(cb);
}

/* AGAIN: there is no GPU that could be used. */
static int
find_device(int device_idx, struct cudaDeviceProp *prop, struct err *err)
{
    int          num = 0;
    cudaError_t  e = cudaGetDeviceCount(&num);
    if (e != cudaSuccess || num == 0) {
        (void) err_set(err, "no CUDA: %s", e == cudaErrorInsufficientDriver
                       ? "no NVIDIA driver, or one too old for this library"
                       : e == cudaSuccess ? "the driver finds no GPU"
                                          : cudaGetErrorString(e));
        return e == cudaSuccess || e == cudaErrorNoDevice
               || e == cudaErrorInsufficientDriver ? AGAIN : ERROR;
    }
    if (device_idx < 0 || device_idx >= num) {
        return err_set(err, "CUDA device %d: this machine has %d", device_idx,
                       num);
    }
    e = cudaGetDeviceProperties(prop, device_idx);
    if (e != cudaSuccess) {
        return err_set(err, "CUDA device %d: %s", device_idx,
                       cudaGetErrorString(e));
    }
    if (prop->major < COMPUTE_MAJOR_MIN) {
        (void) err_set(err, "no CUDA: %s has compute capability %d.%d; the "
                       "kernels need %d.0", prop->name, prop->major,
                       prop->minor, COMPUTE_MAJOR_MIN);
        return AGAIN;
    }
    return OK;
}

static int
open_device(struct cuda_backend *cb, struct err *err)
{
    void  *copies = NULL;
    if (!cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice")
        || !cuda_keep(cb, cudaStreamCreateWithFlags(&cb->stream,
                                                    cudaStreamNonBlocking),
                      "cudaStreamCreate")
        || !cuda_keep(cb, attention_init(), "attention_init")
        || !cuda_keep(cb, sample_sm90_init(&cb->sample_cluster_max),
                      "sample_sm90_init")
        || !cuda_keep(cb, gemm_init(&cb->gemm_limits), "gemm_init"))
    {
        return err_set(err, "%s", cb->failure.message);
    }
    if (cuda_alloc(&cb->base, CUDA_COPIES_MAX * 2 * sizeof *cb->copies,
                   &copies, err) != OK)
    {
        return ERROR;
    }
    cb->copies = copies;
    return cuda_gemm_init(cb, err);
}

int
backend_cuda_create(struct backend **out, const struct backend_cuda_options *o,
                    struct err *err)
{
    struct cudaDeviceProp  prop;
    *out = NULL;
    if (o->abi != BACKEND_CUDA_ABI) {
        return err_set(err, "CUDA: the library was built from another version "
                       "of the engine; run `make cuda`");
    }
    int  rc = find_device(o->device_idx, &prop, err);
    if (rc != OK) {
        return rc;
    }
    struct cuda_backend  *cb = calloc(1, sizeof *cb);
    if (cb == NULL) {
        return err_set(err, "cuda backend: out of memory");
    }
    (void) snprintf(cb->name, sizeof cb->name, "cuda %d (%s, %zu MiB%s)",
                    o->device_idx, prop.name, prop.totalGlobalMem >> 20,
                    o->simple_kernels ? ", simple kernels" : "");
    cb->device_idx = o->device_idx;
    cb->simple_kernels = o->simple_kernels;
    cb->graphs = !o->no_graphs;
    cb->pdl = !o->no_pdl && prop.major == PDL_MAJOR;
    cb->invariant = o->batch_invariant;
    cb->fuses = !o->no_fused && !o->simple_kernels && !o->batch_invariant
                && prop.major == FUSED_MAJOR;
    cb->tune = !o->no_tuning && !o->simple_kernels && !o->batch_invariant;
    if (o->gemm_cache != NULL && o->gemm_cache[0] != '\0') {
        cb->tune_path = strdup(o->gemm_cache);
    }
    cb->num_sms = prop.multiProcessorCount;
    cb->ops = (struct backend_ops) {
        .name = cb->name,
        .borrows_weights = false,
        .host_memory = false,
        .makes_random = true,
        .destroy = cuda_destroy,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .memory = cuda_memory,
        .fill = cuda_fill,
        .upload = cuda_upload,
        .download = cuda_download,
        .weight_create = cuda_weight_create,
        .weight_destroy = cuda_weight_destroy,
        .reserve = cuda_reserve,
        .step_begin = cuda_step_begin,
        .embed = cuda_embed,
        .linear = cuda_linear,
        .qk_norm_rope_append = cuda_qk_norm_rope_append,
        .attention = cuda_attention,
        .lm_head = cuda_lm_head,
        .step_end = cuda_step_end,
        .sample = cuda_sample,
        .sampled = cuda_sampled,
        .sample_is_done = cuda_sample_is_done,
        .time_steps = cuda_time_steps,
        .step_time = cuda_step_time,
        .copy_blocks = cuda_copy_blocks,
        .sync = cuda_sync,
    };
    cb->base.ops = &cb->ops;
    if (open_device(cb, err) != OK) {
        cuda_destroy(&cb->base);
        return ERROR;
    }
    *out = &cb->base;
    return OK;
}
