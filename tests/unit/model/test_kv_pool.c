/* test_kv_pool.c - sizes, the null block, and poison where it belongs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/model/kv_pool.h"

static const struct kv_pool_options  small = {
    .dtype = DTYPE_BF16, .num_layers = 3, .num_kv_heads = 2, .head_dim = 8,
    .block_size = 16, .num_blocks = 5
};

static struct backend *
backend(void)
{
    struct backend  *be;
    struct err       err = { 0 };
    assert_int_equal(backend_cpu_create(&be, &(struct backend_cpu_options) {
        .num_threads = 1 }, &err), OK);
    return be;
}

static void
test_a_block_is_all_layers_of_keys_and_values(void **state)
{
    (void) state;
    assert_int_equal(kv_pool_block_bytes(&small), 3 * 2 * 2 * 16 * 8 * 2);
    struct kv_pool_options  huge = small;
    huge.num_layers = huge.num_kv_heads = huge.head_dim = INT32_MAX;
    assert_int_equal(kv_pool_block_bytes(&huge), 0);
}

/* True when every byte of the block in every layer is the poison. */
static bool
is_poisoned(const struct kv_pool *pool, int block_id)
{
    size_t       plane_block = pool->block_bytes / 6;
    const char  *data = pool->cache.data;
    for (int plane = 0; plane < 6; plane++) {
        const char  *p = data + ((size_t) plane * 5 + (size_t) block_id)
                                * plane_block;
        for (size_t i = 0; i < plane_block; i++) {
            if ((unsigned char) p[i] != 0xff) {
                return false;
            }
        }
    }
    return true;
}

static void
test_poison_reaches_the_named_blocks_only(void **state)
{
    struct backend  *be = backend();
    struct kv_pool   pool;
    struct err       err = { 0 };
    int32_t          ids[] = { 4, 2 };
    (void) state;
    assert_int_equal(kv_pool_init(&pool, be, &small, &err), OK);
    assert_int_equal(pool.bytes, 5 * pool.block_bytes);
    assert_true(is_poisoned(&pool, KV_NULL_BLOCK_ID));
    memset(pool.cache.data, 0, pool.bytes);
    kv_pool_poison(&pool, ids, 2);
    for (int b = 0; b < 5; b++) {
        assert_int_equal(is_poisoned(&pool, b), b == 2 || b == 4);
    }
    kv_pool_destroy(&pool);
    kv_pool_destroy(&pool);
    be->ops->destroy(be);
}

static void
test_impossible_sizes_are_refused(void **state)
{
    struct backend          *be = backend();
    struct kv_pool           pool;
    struct err               err = { 0 };
    struct kv_pool_options   o = small;
    (void) state;
    o.block_size = 24;
    assert_int_equal(kv_pool_init(&pool, be, &o, &err), ERROR);
    assert_non_null(strstr(err.message, "block_size 24"));
    o = small;
    o.num_blocks = 1;
    assert_int_equal(kv_pool_init(&pool, be, &o, &err), ERROR);
    assert_non_null(strstr(err.message, "1 blocks"));
    o.num_blocks = KV_NUM_BLOCKS_MAX + 1;
    assert_int_equal(kv_pool_init(&pool, be, &o, &err), ERROR);
    kv_pool_destroy(&pool);
    be->ops->destroy(be);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_a_block_is_all_layers_of_keys_and_values),
        cmocka_unit_test(test_poison_reaches_the_named_blocks_only),
        cmocka_unit_test(test_impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
