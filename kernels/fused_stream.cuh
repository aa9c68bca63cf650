/* fused_stream.cuh - the producer warp's part of products, see decode_fused.cu:
 * the block's weights, in the order of the program, through the ring.  Keys and
 * values: fused_keys.cuh. */
#ifndef LLM_KERNELS_FUSED_STREAM_CUH
#define LLM_KERNELS_FUSED_STREAM_CUH

#include "kernels/fused_common.cuh"

#if SM90_CODE

static __device__ __forceinline__ int
first_tile(const struct fused_params &p, int first)
{
    int  tile = static_cast<int>(blockIdx.x) - first;
    return tile < 0 ? tile + p.num_blocks : tile;
}

struct weight_stream {
    int  kind, n, k, tiles, first, pieces, silu_mul;
};

static __device__ __forceinline__ struct weight_stream
stream_of(const struct fused_op *op)
{
    return { __ldg(&op->kind), __ldg(&op->n), __ldg(&op->k),
             __ldg(&op->tiles), __ldg(&op->first), __ldg(&op->pieces),
             __ldg(&op->silu_mul) };
}

/* Where the producer stands: the next stage, and the first under way. */
struct producer_place {
    struct ring_place  at, landed;
    int                under_way;
};

/* Where so many bytes go now, when there is room; they count for *full. */
static __device__ __forceinline__ char *
stage_begin(const struct fused_block &b, struct producer_place &place,
            unsigned int bytes, uint64_t *&full)
{
    int  slot = place.at.slot;
    full = &b.s->full[slot];
    /* more would only wait in the memory's queues, before what others need */
    if (place.under_way == FUSED_WINDOW) {
        ring_wait(&b.s->full[place.landed.slot], place.landed.parity);
        ring_step(place.landed, 1, b.stages);
        place.under_way--;
    }
    place.under_way++;
    ring_wait(&b.s->empty[slot], place.at.parity ^ 1);
    barrier_arrive_expect(full, bytes);
    ring_step(place.at, 1, b.stages);
    return b.ring + slot * FUSED_STAGE_BYTES;
}

static __device__ __forceinline__ void
produce_stage(const struct fused_block &b, struct producer_place &place,
              const void *map, int low, int high, int chunk, uint64_t policy)
{
    uint64_t  *full;
    char      *to = stage_begin(b, place, FUSED_STAGE_BYTES, full);
    tma_load_3d(to, map, 0, low, chunk, full, policy);
    tma_load_3d(to + FUSED_BOX_BYTES, map, 0, high, chunk, full, policy);
}

static __device__ __forceinline__ void
produce_tile(const struct weight_stream &w, const void *map, int tile,
             const struct fused_block &b, struct producer_place &place,
             uint64_t policy)
{
    for (int k = 0; k < w.k; k += FUSED_STAGE_K) {
        for (int piece = 0; piece < w.pieces; piece++) {
            int  row = (tile * w.pieces + piece) * 16;
            produce_stage(b, place, map, w.silu_mul ? tile * 8 : row,
                          w.silu_mul ? w.n + tile * 8 : row + 8,
                          k / FUSED_CHUNK, policy);
        }
    }
}

/* One lane's work. */
static __device__ __forceinline__ void
produce(const struct fused_params &p, const struct fused_block &b,
        struct producer_place &place, const struct weight_stream &w,
        const struct fused_op *op, uint64_t policy)
{
    tma_prefetch_map((op + 1)->map);
    for (int tile = first_tile(p, w.first); tile < w.tiles;
         tile += p.num_blocks)
    {
        produce_tile(w, op->map, tile, b, place, policy);
    }
}

#endif /* SM90_CODE */

#endif
