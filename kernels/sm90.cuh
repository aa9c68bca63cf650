/* sm90.cuh - Hopper's instructions in plain words: mbarrier, clusters, TMA, wgmma;
 * each once, under one name.
 *
 * Everything here is PTX of sm_90a; the functions exist in that pass of the
 * compiler only (SM90_CODE).  Operand tiles in shared memory are the image that
 * TMA writes with CU_TENSOR_MAP_SWIZZLE_128B: rows of 128 bytes (64 elements of
 * 16 bits), 16-byte chunk c of row r at c ^ (r & 7), the tile 1024-byte
 * aligned; wider rows are several such tiles side by side.
 * Source: PTX ISA 8.5, "Asynchronous warpgroup level matrix instructions". */
#ifndef LLM_KERNELS_SM90_CUH
#define LLM_KERNELS_SM90_CUH

#include <cuda.h>
#include <stdint.h>

#include "kernels/common.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SM90_CODE  1
#else
#define SM90_CODE  0
#endif

#define WARPGROUP      128       /* threads that issue one wgmma */
#define SWIZZLE_BYTES  128
#define SWIZZLE_ELEMS  64        /* of 16 bits */

#if SM90_CODE

/* A place in a ring of `STAGES` and the parity of its barrier. */
template <int STAGES> struct stage_at {
    int          stage;
    unsigned int parity;
    __device__ __forceinline__ void
    next(void)
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ void
    skip(int stages)                    /* at most STAGES */
    {
        if ((stage += stages) >= STAGES) {
            stage -= STAGES;
            parity ^= 1;
        }
    }
};

/* ---- mbarrier: phases alternate 0, 1, 0 ..; wait(parity) returns once the
 * phase of that parity has completed. */
static __device__ __forceinline__ void
barrier_init(uint64_t *barrier, unsigned int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n"
                 :: "r"(smem_u32(barrier)), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void
barrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

static __device__ __forceinline__ void
barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n"
                 :: "r"(smem_u32(barrier)) : "memory");
}

static __device__ __forceinline__ void
barrier_arrive_expect(uint64_t *barrier, unsigned int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n"
                 :: "r"(smem_u32(barrier)), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void
barrier_wait(uint64_t *barrier, unsigned int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra.uni ready;\n"
                 "bra.uni again;\n"
                 "ready:\n"
                 "}\n" :: "r"(smem_u32(barrier)), "r"(parity) : "memory");
}

/* False: not yet, after a while. */
static __device__ __forceinline__ bool
barrier_try(uint64_t *barrier, unsigned int parity)
{
    unsigned int  done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(done) : "r"(smem_u32(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}

/* As barrier_wait(), for one thread of a warp. */
static __device__ __forceinline__ void
barrier_wait_one(uint64_t *barrier, unsigned int parity)
{
    while (!barrier_try(barrier, parity)) {
    }
}

/* True in one lane of a whole warp; the compiler knows that it is one. */
static __device__ __forceinline__ bool
elect_lane(void)
{
    unsigned int  elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
    return elected != 0;
}

/* ---- clusters ---- */
static __device__ __forceinline__ int
cluster_rank(void)
{
    int  rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return rank;
}

static __device__ __forceinline__ void
cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void
cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}

/* All threads of the cluster that have not ended, whole warps. */
static __device__ __forceinline__ void
cluster_sync(void)
{
    __syncwarp();
    cluster_arrive();
    cluster_wait();
}

/* Where p, of this block, is in another block of the cluster. */
static __device__ __forceinline__ unsigned int
cluster_address(const void *p, int rank)
{
    unsigned int  address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;\n"
        : "=r"(address) : "r"(smem_u32(p)), "r"(rank));
    return address;
}

static __device__ __forceinline__ void
cluster_store(unsigned int address, float4 v)
{
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};\n"
                 :: "r"(address), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}

/* barrier_arrive() at the same barrier of block `rank` of the cluster.  Without
 * .release.cluster, which is a fence of the whole GPU and costs a microsecond:
 * for readers of what TMA wrote, who have nothing to make visible. */
static __device__ __forceinline__ void
barrier_arrive_at(uint64_t *barrier, unsigned int rank)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}\n" :: "r"(smem_u32(barrier)), "r"(rank) : "memory");
}

/* ---- TMA: one box of a 2-D map into shared memory; its bytes count for barrier */
static __device__ __forceinline__ void
tma_load_2d(void *dst, const CUtensorMap *map, int col, int row, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];\n"
                 :: "r"(smem_u32(dst)), "l"(map), "r"(col), "r"(row),
                    "r"(smem_u32(barrier)) : "memory");
}

/* `bytes` (a multiple of 16) of contiguous memory instead of a box. */
static __device__ __forceinline__ void
bulk_load(void *dst, const void *src, unsigned int bytes, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global"
                 ".mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n"
                 :: "r"(smem_u32(dst)), "l"(src), "r"(bytes),
                    "r"(smem_u32(barrier)) : "memory");
}

/* Read once: does not push out of L2 what is read again. */
static __device__ __forceinline__ uint64_t
policy_evict_first(void)
{
    uint64_t  policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n"
                 : "=l"(policy));
    return policy;
}

/* Boxes of 3-D and 4-D maps, with a policy. */
static __device__ __forceinline__ void
tma_load_3d(void *dst, const void *map, int c0, int c1, int c2,
            uint64_t *barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1, {%2, %3, %4}], [%5], %6;\n"
                 :: "r"(smem_u32(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2),
                    "r"(smem_u32(barrier)), "l"(policy) : "memory");
}

static __device__ __forceinline__ void
tma_load_4d(void *dst, const CUtensorMap *map, int c0, int c1, int c2, int c3,
            uint64_t *barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1, {%2, %3, %4, %5}], [%6], %7;\n"
                 :: "r"(smem_u32(dst)), "l"(map), "r"(c0), "r"(c1), "r"(c2),
                    "r"(c3), "r"(smem_u32(barrier)), "l"(policy) : "memory");
}

/* tma_load_2d() into every block of the cluster in `blocks`, at dst's offset and
 * for the barrier at barrier's. */
static __device__ __forceinline__ void
tma_load_2d_multicast(void *dst, const CUtensorMap *map, int col, int row,
                      uint64_t *barrier, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%2, %3}], [%4], %5;\n"
                 :: "r"(smem_u32(dst)), "l"(map), "r"(col), "r"(row),
                    "r"(smem_u32(barrier)), "h"(blocks) : "memory");
}

/* A box of shared memory to where the map says, or added to what is there,
 * rounded; nothing outside of the matrix is written. */
static __device__ __forceinline__ void
tma_store_2d(const CUtensorMap *map, const void *src, int col, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group"
                 " [%0, {%1, %2}], [%3];\n"
                 :: "l"(map), "r"(col), "r"(row), "r"(smem_u32(src))
                 : "memory");
}

static __device__ __forceinline__ void
tma_add_2d(const CUtensorMap *map, const void *src, int col, int row)
{
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile"
                 ".bulk_group [%0, {%1, %2}], [%3];\n"
                 :: "l"(map), "r"(col), "r"(row), "r"(smem_u32(src))
                 : "memory");
}

static __device__ __forceinline__ void
tma_store_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}

/* Until all but the last PENDING groups of this thread have read what they
 * store. */
template <int PENDING> static __device__ __forceinline__ void
tma_store_wait(void)
{
    asm volatile("cp.async.bulk.wait_group.read %0;\n" :: "n"(PENDING)
                 : "memory");
}

static __device__ __forceinline__ void
tma_prefetch_map(const void *map)
{
    asm volatile("prefetch.tensormap [%0];\n" :: "l"(map) : "memory");
}

/* What this thread wrote to shared memory may be read by TMA and wgmma. */
static __device__ __forceinline__ void
async_proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/* Named barriers 1 .. 15 of the block. */
static __device__ __forceinline__ void
named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;\n" :: "r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void
named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;\n" :: "r"(id), "r"(threads) : "memory");
}

template <int REGISTERS> static __device__ __forceinline__ void
registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" :: "n"(REGISTERS));
}

template <int REGISTERS> static __device__ __forceinline__ void
registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" :: "n"(REGISTERS));
}

/* ---- fragments: 8 x 8 elements of 16 bits, lane l has row l / 4 and columns
 * 2 (l mod 4) and the next ---- */

static __device__ __forceinline__ unsigned int
transpose_fragment(unsigned int v)
{
    unsigned int  t;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n"
                 : "=r"(t) : "r"(v));
    return t;
}

/* ---- wgmma ---- */

/* Address of an operand in 128-byte swizzled rows.  Rows along the operand's
 * M or N with K contiguous: stride_bytes is the distance of eight rows (1024),
 * lead_bytes unused.  K along the rows ("transposed" B): stride_bytes is that
 * of eight k, lead_bytes that of the next 64 columns. */
static __device__ __forceinline__ uint64_t
matrix_descriptor(const void *p, unsigned int lead_bytes,
                  unsigned int stride_bytes)
{
    return static_cast<uint64_t>((smem_u32(p) & 0x3ffff) >> 4)
           | static_cast<uint64_t>(lead_bytes >> 4) << 16
           | static_cast<uint64_t>(stride_bytes >> 4) << 32
           | static_cast<uint64_t>(1) << 62;
}

static __device__ __forceinline__ void
wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void
wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void
wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" :: "n"(PENDING)
                 : "memory");
}

/* Keeps the compiler from moving uses of registers across wgmma. */
template <int N> static __device__ __forceinline__ void
pin(float (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+f"(r[i]) :: "memory");
    }
}

template <int N> static __device__ __forceinline__ void
pin(unsigned int (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+r"(r[i]) :: "memory");
    }
}

#define SM90_D8(d, i)                                                         \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]),               \
    "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SM90_D32(d, i)                                                        \
    SM90_D8(d, i), SM90_D8(d, i + 8), SM90_D8(d, i + 16), SM90_D8(d, i + 24)
#define SM90_D32_TEXT                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "  \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "  \
    "%30, %31"
#define SM90_D64_TEXT                                                         \
    SM90_D32_TEXT ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, " \
    "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "  \
    "%57, %58, %59, %60, %61, %62, %63"

/* d [64 x 128] (+)= a [64 x 16] b [128 x 16]^T, both in shared memory. */
#define SM90_WGMMA_SS(TYPE)                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                 \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE \
                 " {" SM90_D64_TEXT "}, %64, %65, p, 1, 1, 0, 0;\n}\n"        \
                 : SM90_D32(d, 0), SM90_D32(d, 32)                            \
                 : "l"(a), "l"(b), "r"(add))

static __device__ __forceinline__ void
wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, int add, __nv_bfloat16)
{
    SM90_WGMMA_SS("bf16");
}

static __device__ __forceinline__ void
wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, int add, __half)
{
    SM90_WGMMA_SS("f16");
}

/* d [64 x 128 or 64] += a [64 x 16] b [16 x 128 or 64]: a in registers, b with
 * its columns contiguous. */
#define SM90_WGMMA_RS_128(TYPE)                                               \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE \
                 " {" SM90_D64_TEXT "}, {%64, %65, %66, %67}, %68, 1, 1, 1, " \
                 "1;\n" : SM90_D32(d, 0), SM90_D32(d, 32)                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define SM90_WGMMA_RS_64(TYPE)                                                \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE  \
                 " {" SM90_D32_TEXT "}, {%32, %33, %34, %35}, %36, 1, 1, 1, " \
                 "1;\n" : SM90_D32(d, 0)                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

static __device__ __forceinline__ void
wgmma_rs(float (&d)[64], const unsigned int *a, uint64_t b, __nv_bfloat16)
{
    SM90_WGMMA_RS_128("bf16");
}

static __device__ __forceinline__ void
wgmma_rs(float (&d)[64], const unsigned int *a, uint64_t b, __half)
{
    SM90_WGMMA_RS_128("f16");
}

static __device__ __forceinline__ void
wgmma_rs(float (&d)[32], const unsigned int *a, uint64_t b, __nv_bfloat16)
{
    SM90_WGMMA_RS_64("bf16");
}

static __device__ __forceinline__ void
wgmma_rs(float (&d)[32], const unsigned int *a, uint64_t b, __half)
{
    SM90_WGMMA_RS_64("f16");
}

#endif /* SM90_CODE */

#endif
