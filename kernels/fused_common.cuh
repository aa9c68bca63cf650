/* fused_common.cuh - what the parts of the fused step share: shared memory, the
 * ring that weights come through, meeting of all blocks.
 *
 * A block is FUSED_WARPS consumer warps and one producer warp.  Shared memory:
 * the ring, the rows of x (or what attention needs), the sums of the warps, then
 * struct fused_smem.
 *
 * A stage of the ring is 16 rows of FUSED_STAGE_K weights, brought by TMA as two
 * boxes of 8 rows.  In a box, 64 weights of each row are together, 128 bytes a
 * row, swizzled: 16-byte piece c of row r is at c ^ r.  Or it is keys and values,
 * see fused_keys.cuh.
 *
 * What another block wrote is read past L1 (ld.cg, cp.async.cg). */
#ifndef LLM_KERNELS_FUSED_COMMON_CUH
#define LLM_KERNELS_FUSED_COMMON_CUH

#include "kernels/attention_items.h"
#include "kernels/attention_tile.cuh"     /* multiply_add, pack */
#include "kernels/decode_fused.h"
#include "kernels/sm90.cuh"

#define FUSED_WARPS      8
#define FUSED_CONSUMERS  (FUSED_WARPS * WARP)
#define FUSED_THREADS    (FUSED_CONSUMERS + WARP)
#define FUSED_STAGE_K    512
#define FUSED_CHUNK      64      /* k of a warp at once: two 16-byte pieces of
                                    each of four lanes */
#define FUSED_GROUPS     2       /* of warps, which take stages in turns */
#define FUSED_CHUNKS     2       /* of a warp in a stage */
#define FUSED_WINDOW     3       /* stages that are under way at most: 2, 3, 4
                                    make a step of 4.22, 3.87, 3.99 ms */
#define FUSED_BOX_BYTES  (8 * FUSED_STAGE_K * 2)
#define FUSED_STAGE_BYTES (2 * FUSED_BOX_BYTES)
#define FUSED_STAGES_MAX 16
#define FUSED_STAGES_MIN 6       /* a warp steps over as many at once */
#define FUSED_SUM_PITCH  20      /* floats: 16 rows, other banks for the next */
#define FUSED_X_PAD      64      /* bytes: two rows of x in other banks */
#define FUSED_HEAD_BYTES 128     /* of an op: all but the map */
#define FUSED_SPINS_MAX  (1 << 26)
#define FUSED_SYNC       1       /* named barrier of the consumers */

static_assert(FUSED_WARPS / FUSED_GROUPS * FUSED_CHUNKS * FUSED_CHUNK
              == FUSED_STAGE_K, "a group takes a stage");

/* Stages of x that a lane has under way, for so many rows. */
static __host__ __device__ constexpr int
fifo_depth(int rows)
{
    return rows <= 2 ? 8 : 4;
}

/* Pieces of a tile: two halve the reading of rows that come from L2. */
static __host__ __device__ constexpr int
pieces_of_rows(int rows, bool normed)
{
    return rows > 2 && !normed ? 2 : 1;
}

/* A row's keys and kv head that a block takes. */
struct unit {
    struct attention_item  item;
    int                    kv_head, group, end;   /* keys of earlier steps */
    const int32_t         *table;
};

struct fused_smem {
    uint64_t         full[FUSED_STAGES_MAX], empty[FUSED_STAGES_MAX];
    struct fused_op  op[2];
    float            sums[FUSED_ROWS_MAX][FUSED_WARPS];
    int              last;
    int              units;      /* of attention, the same in all layers; */
    struct unit      unit[2];    /* the block's first, always, and another */
};

/* Kernel parameters; sizes are those of shared memory. */
struct fused_args {
    struct fused_params  p;
    int                  stages, x_bytes, sum_bytes;
};

/* Where a block stands in the ring. */
struct ring_place {
    int           slot;
    unsigned int  parity;
};

struct fused_block {
    char               *ring, *x;
    float              *sum;
    struct fused_smem  *s;
    int                 stages;
    int                 lane, warp;      /* not read again and again */
};

#if SM90_CODE

static __device__ __forceinline__ void
ring_wait(uint64_t *barrier, unsigned int parity)
{
    for (int i = 0; !barrier_try(barrier, parity); i++) {
        if (i == FUSED_SPINS_MAX) {
            __trap();
        }
    }
}

/* n stages further, no more than the ring has, or back. */
static __device__ __forceinline__ void
ring_step(struct ring_place &at, int n, int stages)
{
    at.slot += n;
    if (at.slot >= stages) {
        at.slot -= stages;
        at.parity ^= 1;
    } else if (at.slot < 0) {
        at.slot += stages;
        at.parity ^= 1;
    }
}

static __device__ __forceinline__ void
consumers_sync(void)
{
    named_sync(FUSED_SYNC, FUSED_CONSUMERS);
}

/* ---- meeting of all blocks, by their consumers ---- */

/* What the consumers of this block wrote may be read after the next meet_wait()
 * of any block. */
static __device__ __forceinline__ void
meet_arrive(unsigned int *counter)
{
    consumers_sync();
    if (threadIdx.x == 0) {
        asm volatile("fence.acq_rel.gpu;\n"
                     "red.relaxed.gpu.global.add.u32 [%0], 1;\n"
                     :: "l"(counter) : "memory");
    }
}

static __device__ __forceinline__ void
meet_wait(const unsigned int *counter, unsigned int target)
{
    if (threadIdx.x == 0) {
        unsigned int  seen = 0;
        for (int i = 0; ; i++) {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n"
                         : "=r"(seen) : "l"(counter) : "memory");
            if (seen >= target) {
                break;
            }
            if (i == FUSED_SPINS_MAX) {
                __trap();
            }
        }
    }
    consumers_sync();
}

/* ---- copies ---- */

static __device__ __forceinline__ void
copy_16(void *dst, const void *src)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n"
                 :: "r"(smem_u32(dst)), "l"(src) : "memory");
}

static __device__ __forceinline__ uint4
load_16(const void *p)
{
    return __ldcg(static_cast<const uint4 *>(p));
}

template <typename T> static __device__ __forceinline__ float
load_one(const T *p)
{
    unsigned short  bits = __ldcg(
        reinterpret_cast<const unsigned short *>(p));
    T               x;
    memcpy(&x, &bits, sizeof x);
    return to_float(x);
}

static __device__ __forceinline__ void
load_8(float (&out)[8], const float *p)
{
    *reinterpret_cast<float4 *>(out) = __ldg(
        reinterpret_cast<const float4 *>(p));
    *reinterpret_cast<float4 *>(out + 4) = __ldg(
        reinterpret_cast<const float4 *>(p + 4));
}

#endif /* SM90_CODE */

#endif
