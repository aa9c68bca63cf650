/* test_cuda_plan.c - every key of every decode row is in one item, items are in
 * order, and shares are equal. */
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
#define BLOCKS     264
#define ITEMS      200000
#define PARTIALS   200000

struct step {
    int32_t             rows[SEQS], lens[SEQS];
    struct decode_item  items[ITEMS];
    int32_t             first[BLOCKS + 1];
    int                 num_items;
};

static struct step  *step;

static struct decode_plan_args
args_of(int num_seqs, int heads, int chunk)
{
    return (struct decode_plan_args) {
        .num_seqs = num_seqs, .rows = step->rows, .tables = step->lens,
        .context_lens = step->lens,
        .num_kv_heads = heads, .num_shares = BLOCKS, .chunk_keys = chunk,
        .items = step->items, .items_max = ITEMS, .first = step->first,
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
tiles_of_block(int b)
{
    int64_t  tiles = 0;
    for (int i = step->first[b]; i < step->first[b + 1]; i++) {
        tiles += (step->items[i].key_end - step->items[i].key_begin
                  + ATTENTION_DECODE_KEYS - 1) / ATTENTION_DECODE_KEYS;
    }
    return tiles;
}

static void
assert_blocks(int64_t most)
{
    assert_int_equal(step->first[0], 0);
    assert_int_equal(step->first[BLOCKS], step->num_items);
    for (int b = 0; b < BLOCKS; b++) {
        assert_true(step->first[b] <= step->first[b + 1]);
        assert_true(tiles_of_block(b) <= most);
    }
}

static void
random_steps_are_covered_in_equal_shares(void **state)
{
    unsigned int  seed = 20261124;
    (void) state;
    printf("# seed %u\n", seed);
    srand(seed);
    for (int n = 0; n < 2000; n++) {
        int      num_seqs = 1 + rand() % SEQS, heads = 1 + rand() % 8;
        int64_t  tiles = 0;
        for (int s = 0; s < num_seqs; s++) {
            step->rows[s] = rand() % 8 ? s : -1;
            step->lens[s] = 1 + rand() % (rand() % 10 ? 2000 : 100000);
            tiles += step->rows[s] >= 0 ? (step->lens[s] + 31) / 32 : 0;
        }
        struct decode_plan_args  a = args_of(num_seqs, heads, 0);
        step->num_items = decode_plan(&a);
        assert_in_range(step->num_items, 0,
                        decode_plan_items_max(num_seqs, heads, BLOCKS));
        assert_covers(num_seqs, heads);
        int64_t  share = (tiles * heads + BLOCKS - 1) / BLOCKS;
        assert_blocks(share > DECODE_SHARE_MIN ? share : DECODE_SHARE_MIN);
    }
}

static void
chunks_cut_a_row_at_the_same_keys_whatever_its_company(void **state)
{
    (void) state;
    for (int num_seqs = 1; num_seqs <= SEQS; num_seqs += 37) {
        for (int s = 0; s < num_seqs; s++) {
            step->rows[s] = s;
            step->lens[s] = s == 0 ? 1500 : 1 + s * 97 % 5000;
        }
        struct decode_plan_args  a = args_of(num_seqs, 4, 256);
        step->num_items = decode_plan(&a);
        assert_true(step->num_items > 0);
        assert_covers(num_seqs, 4);
        assert_int_equal(step->items[0].num_parts, 6);
        for (int i = 0; i < 6; i++) {
            assert_int_equal(step->items[i].key_begin, 256 * i);
        }
        assert_blocks(1 << 30);
    }
}

static void
what_does_not_fit_is_said(void **state)
{
    (void) state;
    step->rows[0] = 0;
    step->lens[0] = 10000;
    struct decode_plan_args  a = args_of(1, 8, 256);
    a.items_max = 100;
    assert_int_equal(decode_plan(&a), -1);
    a.items_max = ITEMS;
    a.partials_max = 100;
    assert_int_equal(decode_plan(&a), -1);
    a.chunk_keys = 4096;
    assert_int_equal(decode_plan(&a), 24);
}

static void
a_small_step_uses_few_blocks(void **state)
{
    (void) state;
    step->rows[0] = 0;
    step->lens[0] = 100;
    struct decode_plan_args  a = args_of(1, 1, 0);
    step->num_items = decode_plan(&a);
    assert_int_equal(step->num_items, 2);
    assert_int_equal(step->first[1], 1);
    assert_int_equal(step->first[2], 2);
    assert_int_equal(step->first[BLOCKS], 2);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(random_steps_are_covered_in_equal_shares),
        cmocka_unit_test(chunks_cut_a_row_at_the_same_keys_whatever_its_company),
        cmocka_unit_test(what_does_not_fit_is_said),
        cmocka_unit_test(a_small_step_uses_few_blocks),
    };
    step = calloc(1, sizeof *step);
    check(step != NULL);
    int  rc = cmocka_run_group_tests_name("cuda_plan", tests, NULL, NULL);
    free(step);
    return rc;
}
