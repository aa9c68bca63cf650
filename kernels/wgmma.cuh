/* wgmma.cuh - what some kernels need besides sm90.cuh: wgmma of other widths
 * and operands, words of four lanes turned over. */
#ifndef LLM_KERNELS_WGMMA_CUH
#define LLM_KERNELS_WGMMA_CUH

#include "kernels/sm90.cuh"

#if SM90_CODE

#define SM90_D16(d, i)  SM90_D8(d, i), SM90_D8(d, i + 8)
#define SM90_D8_TEXT    "%0, %1, %2, %3, %4, %5, %6, %7"
#define SM90_D16_TEXT                                                         \
    SM90_D8_TEXT ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SM90_D48_TEXT                                                         \
    SM90_D32_TEXT ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, " \
    "%43, %44, %45, %46, %47"
#define SM90_D96_TEXT                                                         \
    SM90_D64_TEXT ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, " \
    "%75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, "  \
    "%89, %90, %91, %92, %93, %94, %95"
#define SM90_D128_TEXT                                                        \
    SM90_D96_TEXT ", %96, %97, %98, %99, %100, %101, %102, %103, %104, "      \
    "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, "      \
    "%116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define SM90_WGMMA_SS_N(N, TEXT, A, B, ADD, TYPE, ...)                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD ", 0;\n"             \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "."    \
                 TYPE " {" TEXT "}, " A ", " B ", p, 1, 1, 0, 0;\n}\n"        \
                 : __VA_ARGS__ : "l"(a), "l"(b), "r"(add))

/* d [64 x N] (+)= a [64 x 16] b [N x 16]^T, N = 2 * elements of d. */
#define SM90_DEFINE_WGMMA_SS(N, REGS, TEXT, A, B, ADD, ...)                   \
static __device__ __forceinline__ void                                        \
wgmma_ss(float (&d)[REGS], uint64_t a, uint64_t b, int add, __nv_bfloat16)    \
{                                                                             \
    SM90_WGMMA_SS_N(N, TEXT, A, B, ADD, "bf16", __VA_ARGS__);                 \
}                                                                             \
static __device__ __forceinline__ void                                        \
wgmma_ss(float (&d)[REGS], uint64_t a, uint64_t b, int add, __half)           \
{                                                                             \
    SM90_WGMMA_SS_N(N, TEXT, A, B, ADD, "f16", __VA_ARGS__);                  \
}

SM90_DEFINE_WGMMA_SS("16", 8, SM90_D8_TEXT, "%8", "%9", "%10", SM90_D8(d, 0))
SM90_DEFINE_WGMMA_SS("32", 16, SM90_D16_TEXT, "%16", "%17", "%18",
                     SM90_D16(d, 0))
SM90_DEFINE_WGMMA_SS("64", 32, SM90_D32_TEXT, "%32", "%33", "%34",
                     SM90_D32(d, 0))
SM90_DEFINE_WGMMA_SS("96", 48, SM90_D48_TEXT, "%48", "%49", "%50",
                     SM90_D32(d, 0), SM90_D16(d, 32))
SM90_DEFINE_WGMMA_SS("192", 96, SM90_D96_TEXT, "%96", "%97", "%98",
                     SM90_D32(d, 0), SM90_D32(d, 32), SM90_D32(d, 64))
SM90_DEFINE_WGMMA_SS("256", 128, SM90_D128_TEXT, "%128", "%129", "%130",
                     SM90_D32(d, 0), SM90_D32(d, 32), SM90_D32(d, 64),
                     SM90_D32(d, 96))

/* d [64 x 128] (+)= a [64 x 16] b [128 x 16]^T: a in registers. */
#define SM90_WGMMA_RS_ROWS(TYPE)                                              \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                 \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE \
                 " {" SM90_D64_TEXT "}, {%64, %65, %66, %67}, %68, p, 1, 1, " \
                 "0;\n}\n" : SM90_D32(d, 0), SM90_D32(d, 32)                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),        \
                   "r"(add))

static __device__ __forceinline__ void
wgmma_rs_rows(float (&d)[64], const unsigned int *a, uint64_t b, int add,
              __nv_bfloat16)
{
    SM90_WGMMA_RS_ROWS("bf16");
}

static __device__ __forceinline__ void
wgmma_rs_rows(float (&d)[64], const unsigned int *a, uint64_t b, int add,
              __half)
{
    SM90_WGMMA_RS_ROWS("f16");
}

/* Word i of lane j of four lanes becomes word j of lane i. */
static __device__ __forceinline__ void
transpose_quad(unsigned int (&w)[4])
{
    bool          odd = threadIdx.x & 1, high = threadIdx.x & 2;
    unsigned int  a = __shfl_xor_sync(0xffffffffu, odd ? w[0] : w[1], 1);
    unsigned int  b = __shfl_xor_sync(0xffffffffu, odd ? w[2] : w[3], 1);
    w[0] = odd ? a : w[0];
    w[1] = odd ? w[1] : a;
    w[2] = odd ? b : w[2];
    w[3] = odd ? w[3] : b;
    a = __shfl_xor_sync(0xffffffffu, high ? w[0] : w[2], 2);
    b = __shfl_xor_sync(0xffffffffu, high ? w[1] : w[3], 2);
    w[0] = high ? a : w[0];
    w[2] = high ? w[2] : a;
    w[1] = high ? b : w[1];
    w[3] = high ? w[3] : b;
}

#endif /* SM90_CODE */

#endif
