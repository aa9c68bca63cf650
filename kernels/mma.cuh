/* mma.cuh - fragments of mma.sync m16n8k16 and the copies of 16 bytes, cp.async,
 * that bring operands to shared memory: what Ampere has, in plain words. */
#ifndef LLM_KERNELS_MMA_CUH
#define LLM_KERNELS_MMA_CUH

#include "kernels/common.cuh"

/* 16 bytes to shared memory; zeros, and no read, when !valid. */
static __device__ __forceinline__ void
copy_async(void *dst, const void *src, bool valid)
{
    int  bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :: "r"(smem_u32(dst)), "l"(src), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void
copy_async(void *dst, const void *src)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n"
                 :: "r"(smem_u32(dst)), "l"(src) : "memory");
}

static __device__ __forceinline__ void
copy_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most `PENDING` of this thread's latest groups are under way. */
template <int PENDING> static __device__ __forceinline__ void
copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;\n" :: "n"(PENDING) : "memory");
}

/* For all of this thread's copies, in groups or not. */
static __device__ __forceinline__ void
copy_wait_all(void)
{
    asm volatile("cp.async.wait_all;\n" ::: "memory");
}

/* Four 8 x 8 fragments of 16-bit elements: lane l says where row l mod 8 of
 * fragment l / 8 is. */
static __device__ __forceinline__ void
load_matrix(unsigned int r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(p)) : "memory");
}

static __device__ __forceinline__ void
load_matrix_transposed(unsigned int r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(p)) : "memory");
}

static __device__ __forceinline__ void
multiply_add(float c[4], const unsigned int a[4], const unsigned int *b,
             __nv_bfloat16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                   "r"(b[1]));
}

static __device__ __forceinline__ void
multiply_add(float c[4], const unsigned int a[4], const unsigned int *b,
             __half)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                   "r"(b[1]));
}

/* Two values rounded to T in one register, the first in the low half. */
template <typename T> static __device__ __forceinline__ unsigned int
pack(float low, float high)
{
    T               pair[2] = { from_float<T>(low), from_float<T>(high) };
    unsigned short  bits[2];
    memcpy(bits, pair, sizeof bits);
    return bits[0] | static_cast<unsigned int>(bits[1]) << 16;
}

#endif
