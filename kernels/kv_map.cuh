/* kv_map.cuh - host side of the Hopper kernels: is the device one, the driver's
 * function that makes TMA's maps, and those of a layer of the paged cache.
 *
 * A map sees K (or V) of one layer as rows of head_dim elements, row ((block *
 * num_kv_heads + kv_head) << block_shift) + token; a box is 128 bytes (64
 * columns, or 128 of fp8) of box_rows rows of one block, swizzled as sm90.cuh
 * says; 64 bytes and that swizzle for fp8 of head_dim 64. */
#ifndef LLM_KERNELS_KV_MAP_CUH
#define LLM_KERNELS_KV_MAP_CUH

#include <cuda.h>

#include "kernels/sm90.cuh"

typedef CUresult (*kv_map_encoder)(CUtensorMap *, CUtensorMapDataType,
                                   cuuint32_t, void *, const cuuint64_t *,
                                   const cuuint64_t *, const cuuint32_t *,
                                   const cuuint32_t *, CUtensorMapInterleave,
                                   CUtensorMapSwizzle, CUtensorMapL2promotion,
                                   CUtensorMapFloatOOBfill);

static inline int
device_is_sm90(void)
{
    int  major = 0, device = 0;
    return cudaGetDevice(&device) == cudaSuccess
           && cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                     device) == cudaSuccess
           && major == 9;
}

/* The driver's function: the library is not linked with the driver. */
static inline cudaError_t
kv_map_find_encoder(kv_map_encoder *out)
{
    void                            *function = NULL;
    cudaDriverEntryPointQueryResult  found;
    cudaError_t  e = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    *out = reinterpret_cast<kv_map_encoder>(function);
    if (e == cudaSuccess && (found != cudaDriverEntryPointSuccess
                             || function == NULL))
    {
        e = cudaErrorSymbolNotFound;
    }
    return e;
}

static inline cudaError_t
kv_map_init(CUtensorMap *map, kv_map_encoder encode, const void *data,
            const struct kv_layer *kv, int box_rows)
{
    cuuint64_t  size[2] = {
        static_cast<cuuint64_t>(kv->head_dim),
        (static_cast<cuuint64_t>(kv->num_blocks)
         * static_cast<cuuint64_t>(kv->num_kv_heads)) << kv->block_shift };
    cuuint32_t  bytes = kv->dtype == KERNEL_F8_E4M3 ? 1 : 2;
    cuuint64_t  pitch[1] = { static_cast<cuuint64_t>(kv->head_dim) * bytes };
    cuuint32_t  row = static_cast<cuuint32_t>(kv->head_dim) * bytes;
    cuuint32_t  wide = row < SWIZZLE_BYTES ? row : SWIZZLE_BYTES;
    cuuint32_t  box[2] = { wide / bytes, static_cast<cuuint32_t>(box_rows) };
    cuuint32_t  step[2] = { 1, 1 };
    CUresult    e = encode(
        map, kv->dtype == KERNEL_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
             : kv->dtype == KERNEL_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2, const_cast<void *>(data), size, pitch, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        wide == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* Maps of K and V with boxes of at most max_rows rows. */
static inline cudaError_t
kv_maps_init(CUtensorMap *k_map, CUtensorMap *v_map,
             const struct kv_layer *kv, int max_rows)
{
    kv_map_encoder  encode;
    int             block_size = 1 << kv->block_shift;
    int             rows = block_size < max_rows ? block_size : max_rows;
    cudaError_t     e = kv_map_find_encoder(&encode);
    if (e == cudaSuccess) {
        e = kv_map_init(k_map, encode, kv->k, kv, rows);
    }
    if (e == cudaSuccess) {
        e = kv_map_init(v_map, encode, kv->v, kv, rows);
    }
    return e;
}

#endif
