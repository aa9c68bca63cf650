/* kv_pool.c - sizes with overflow checks, one allocation, a poisoned block 0. */
#include "engine/model/kv_pool.h"
#include "engine/base/check.h"

/* 0xff bytes are NaN in every dtype. */
#define KV_POISON_BYTE  0xff

/* Bytes of one block in one layer, K or V alone. */
static size_t
plane_block_bytes(const struct kv_cache *kv)
{
    return (size_t) kv->num_kv_heads * (size_t) kv->block_size
           * (size_t) kv->head_dim * dtype_bytes(kv->dtype);
}

size_t
kv_pool_block_bytes(const struct kv_pool_options *o)
{
    size_t  bytes = 2 * dtype_bytes(o->dtype);
    size_t  sizes[] = {
        (size_t) o->num_layers, (size_t) o->num_kv_heads,
        (size_t) o->head_dim, (size_t) o->block_size
    };
    for (int i = 0; i < 4; i++) {
        if (__builtin_mul_overflow(bytes, sizes[i], &bytes)) {
            return 0;
        }
    }
    return bytes;
}

int
kv_pool_init(struct kv_pool *pool, struct backend *be,
             const struct kv_pool_options *o, struct err *err)
{
    *pool = (struct kv_pool) { .be = be };
    if (o->block_size != 16 && o->block_size != 32 && o->block_size != 64) {
        return err_set(err, "block_size %d: must be 16, 32 or 64",
                       o->block_size);
    }
    size_t  block_bytes = kv_pool_block_bytes(o), bytes;
    if (o->num_blocks < 2 || o->num_blocks > KV_NUM_BLOCKS_MAX
        || block_bytes == 0
        || __builtin_mul_overflow(block_bytes, (size_t) o->num_blocks, &bytes))
    {
        return err_set(err, "KV cache of %d blocks of %zu bytes: need 2 .. %d "
                       "blocks (block 0 is reserved); change the KV cache size",
                       o->num_blocks, block_bytes, KV_NUM_BLOCKS_MAX);
    }
    pool->cache = (struct kv_cache) {
        .dtype = o->dtype,
        .num_layers = o->num_layers,
        .num_blocks = o->num_blocks,
        .block_size = o->block_size,
        .num_kv_heads = o->num_kv_heads,
        .head_dim = o->head_dim,
        .scales = o->scales,
    };
    if (be->ops->alloc(be, bytes, &pool->cache.data, err) != OK) {
        return err_prefix(err, "KV cache of %d blocks", o->num_blocks);
    }
    pool->block_bytes = block_bytes;
    pool->bytes = bytes;
    int32_t  null_block = KV_NULL_BLOCK_ID;
    kv_pool_poison(pool, &null_block, 1);
    return OK;
}

void
kv_pool_destroy(struct kv_pool *pool)
{
    if (pool->be != NULL) {
        pool->be->ops->free(pool->be, pool->cache.data);
    }
    *pool = (struct kv_pool) { .be = NULL };
}

void
kv_pool_poison(struct kv_pool *pool, const int32_t *block_ids, int num_blocks)
{
    const struct kv_cache  *kv = &pool->cache;
    size_t                  bytes = plane_block_bytes(kv);
    for (int plane = 0; plane < 2 * kv->num_layers; plane++) {
        for (int i = 0; i < num_blocks; i++) {
            check(block_ids[i] >= 0 && block_ids[i] < kv->num_blocks);
            size_t  block = (size_t) plane * (size_t) kv->num_blocks
                            + (size_t) block_ids[i];
            pool->be->ops->fill(pool->be, (char *) kv->data + block * bytes,
                                KV_POISON_BYTE, bytes);
        }
    }
}
