/* test_cuda_plan.c - every key of every decode row is in one item, items are in
 * order and get smaller towards the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/backend/cuda/cuda_plan.h"
#include "engine/base/check.h"

#define SEQS       300
#define WARPS      528
#define ITEMS      200000
#define PARTIALS   200000

struct step {
    int32_t             rows[SEQS], lens[SEQS];
    struct decode_item  items[ITEMS];
    int                 num_items;
};

static struct step  *step;

static struct decode_plan_args
args_of(int num_seqs, int heads)
{
    return (struct decode_plan_args) {
        .num_seqs = num_seqs, .rows = step->rows, .tables = step->lens,
        .context_lens = step->lens,
        .num_kv_heads = heads, .num_warps = WARPS,
        .items = step->items, .items_max = ITEMS,
        .partials_max = PARTIALS };
}

/* Items in the order of rows and heads hold each key once; parts count up. */
static void
assert_covers(int num_seqs, int heads)
{
    int  i = 0, partials = 0;
    for (int s = 0; s < num_seqs; s++) {
        for (int h = 0; step->rows[s] >= 0 && h < heads; h++) {
            int32_t  key = 0, part = 0;
            int      parts = step->items[i].num_parts;
            while (key < step->lens[s]) {
                const struct decode_item  *it = &step->items[i++];
                assert_int_equal(it->seq, s);
                assert_int_equal(it->row, step->rows[s]);
                assert_int_equal(it->table, step->lens[s]);
                assert_int_equal(it->kv_head, h);
                assert_int_equal(it->position, step->lens[s] - 1);
                assert_int_equal(it->key_begin, key);
                assert_int_equal(it->key_begin % ATTENTION_DECODE_KEYS, 0);
                assert_true(it->key_end > key);
                assert_int_equal(it->part, part++);
                assert_int_equal(it->num_parts, parts);
                assert_true(parts == 1 || it->partial == partials);
                key = it->key_end;
            }
            assert_int_equal(key, step->lens[s]);
            assert_int_equal(part, parts);
            partials += parts > 1 ? parts : 0;
        }
    }
    assert_int_equal(i, step->num_items);
}

static int64_t
tiles_of(int32_t keys)
{
    return (keys + ATTENTION_DECODE_KEYS - 1) / ATTENTION_DECODE_KEYS;
}

/* No item is larger than what was left for each warp when it was cut, but for
 * half of that more at a row's end, and rows of a few tiles. */
static void
assert_smaller_to_the_end(int64_t tiles)
{
    for (int i = 0; i < step->num_items; i++) {
        const struct decode_item  *it = &step->items[i];
        int64_t  size = tiles_of(it->key_end - it->key_begin);
        int64_t  each = tiles / WARPS;
        each = each < DECODE_ITEM_MIN ? DECODE_ITEM_MIN : each;
        assert_true(size < each + each / 2 || size == each);
        assert_true(size >= DECODE_ITEM_MIN / 2 || it->num_parts == 1);
        tiles -= size;
    }
    assert_int_equal(tiles, 0);
}

static void
random_steps_are_covered_by_items_that_get_smaller(void **state)
{
    unsigned int  seed = 20261130;
    (void) state;
    printf("# seed %u\n", seed);
    srand(seed);
    for (int n = 0; n < 2000; n++) {
        int      num_seqs = 1 + rand() % SEQS, heads = 1 + rand() % 8;
        int64_t  tiles = 0;
        for (int s = 0; s < num_seqs; s++) {
            step->rows[s] = rand() % 8 ? s : -1;
            step->lens[s] = 1 + rand() % (rand() % 10 ? 2000 : 100000);
            tiles += step->rows[s] >= 0 ? tiles_of(step->lens[s]) : 0;
        }
        struct decode_plan_args  a = args_of(num_seqs, heads);
        step->num_items = decode_plan(&a);
        assert_in_range(step->num_items, 0,
                        decode_plan_items_max(num_seqs, heads, WARPS));
        assert_covers(num_seqs, heads);
        assert_smaller_to_the_end(tiles * heads);
    }
}

/* The longest contexts there are need the most cuts. */
static void
a_million_keys_fit_the_room_for_items(void **state)
{
    (void) state;
    for (int num_seqs = 1; num_seqs <= SEQS; num_seqs += 23) {
        for (int s = 0; s < num_seqs; s++) {
            step->rows[s] = s;
            step->lens[s] = 1000000;
        }
        struct decode_plan_args  a = args_of(num_seqs, 8);
        step->num_items = decode_plan(&a);
        assert_in_range(step->num_items, 1,
                        decode_plan_items_max(num_seqs, 8, WARPS));
        assert_covers(num_seqs, 8);
    }
}

static void
early_rows_are_not_cut(void **state)
{
    (void) state;
    for (int s = 0; s < 256; s++) {
        step->rows[s] = s;
        step->lens[s] = 1024;
    }
    struct decode_plan_args  a = args_of(256, 8);
    step->num_items = decode_plan(&a);
    assert_covers(256, 8);
    for (int i = 0; i < 1024; i++) {
        assert_int_equal(step->items[i].num_parts, 1);
    }
    assert_true(step->items[step->num_items - 1].num_parts > 1);
}

static void
what_does_not_fit_is_said(void **state)
{
    (void) state;
    step->rows[0] = 0;
    step->lens[0] = 100000;
    struct decode_plan_args  a = args_of(1, 8);
    a.items_max = 100;
    assert_int_equal(decode_plan(&a), -1);
    a.items_max = ITEMS;
    a.partials_max = 100;
    assert_int_equal(decode_plan(&a), -1);
    a.partials_max = PARTIALS;
    assert_true(decode_plan(&a) > 100);
}

static void
a_small_step_has_few_items(void **state)
{
    (void) state;
    step->rows[0] = 0;
    step->lens[0] = 256;
    struct decode_plan_args  a = args_of(1, 1);
    step->num_items = decode_plan(&a);
    assert_int_equal(step->num_items, 2);
    assert_int_equal(step->items[0].key_end, 128);
    assert_int_equal(step->items[1].num_parts, 2);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(random_steps_are_covered_by_items_that_get_smaller),
        cmocka_unit_test(a_million_keys_fit_the_room_for_items),
        cmocka_unit_test(early_rows_are_not_cut),
        cmocka_unit_test(what_does_not_fit_is_said),
        cmocka_unit_test(a_small_step_has_few_items),
    };
    step = calloc(1, sizeof *step);
    check(step != NULL);
    int  rc = cmocka_run_group_tests_name("cuda_plan", tests, NULL, NULL);
    free(step);
    return rc;
}
