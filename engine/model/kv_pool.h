/* kv_pool.h - the memory of the paged KV cache.
 *
 * One allocation, [layer][K/V][block][kv_head][token][head_dim], so that the
 * (block, kv head) of a layer is one contiguous run.  Blocks are numbered from
 * 0; block 0 is the null block: filled with NaN and never handed out, so that
 * a stray table entry shows as NaN instead of another request's text.  THE
 * SCHEDULER'S ALLOCATOR HANDS OUT IDS 1 .. num_blocks - 1.
 *
 * Sharing, copying and freeing of blocks is bookkeeping of sched/kv_blocks;
 * this file only knows bytes. */
#ifndef LLM_MODEL_KV_POOL_H
#define LLM_MODEL_KV_POOL_H

#include "engine/backend/backend.h"
#include "engine/base/err.h"

#define KV_BLOCK_SIZE_DEFAULT  32
#define KV_NULL_BLOCK_ID       0
#define KV_NUM_BLOCKS_MAX      (1 << 24)   /* slot ids stay within int32 */

struct kv_pool {
    struct backend  *be;
    struct kv_cache  cache;        /* what ops take */
    size_t           block_bytes;  /* one block over all layers, K and V */
    size_t           bytes;        /* block_bytes * num_blocks */
};

/* Shape of a pool; the sizes come from model_config. */
struct kv_pool_options {
    enum dtype  dtype;
    int         num_layers;
    int         num_kv_heads;
    int         head_dim;
    int         block_size;     /* 16, 32 or 64 */
    int         num_blocks;     /* with the null block, >= 2 */
    const float *scales;        /* borrowed: see struct kv_cache */
};

/* Bytes of one block over all layers; 0 when the product overflows. */
size_t kv_pool_block_bytes(const struct kv_pool_options *options);

int kv_pool_init(struct kv_pool *pool, struct backend *be,
                 const struct kv_pool_options *options, struct err *err);
void kv_pool_destroy(struct kv_pool *pool);   /* safe on a zeroed pool */

/* Fills blocks with NaN: the null block at init, freed blocks in tests. */
void kv_pool_poison(struct kv_pool *pool, const int32_t *block_ids,
                    int num_blocks);

#endif
