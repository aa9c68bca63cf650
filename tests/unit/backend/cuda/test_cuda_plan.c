/* test_cuda_plan.c - every key of every decode row is in one item, the kv heads
 * of a row are side by side, and shares are equal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    struct decode_draft drafts[ITEMS];
    bool                partial_used[PARTIALS];
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
        .partials_max = PARTIALS, .drafts = step->drafts,
        .drafts_max = ITEMS };
}

/* The item is the next part of a row's head; the key that it ends before. */
static int32_t
assert_part(const struct decode_item *it, int seq, int head, int32_t key,
            int32_t part)
{
    assert_int_equal(it->seq, seq);
    assert_int_equal(it->row, step->rows[seq]);
    assert_int_equal(it->table, step->lens[seq]);
    assert_int_equal(it->kv_head, head);
    assert_int_equal(it->position, step->lens[seq] - 1);
    assert_int_equal(it->key_begin, key);
    assert_int_equal(it->key_begin % ATTENTION_DECODE_KEYS, 0);
    assert_true(it->key_end > key);
    assert_int_equal(it->part, part);
    return it->key_end;
}

static int
by_row_and_key(const void *a, const void *b)
{
    const struct decode_item  *x = a, *y = b;
    int  by_seq = x->seq - y->seq, by_head = x->kv_head - y->kv_head;
    return by_seq != 0 ? by_seq : by_head != 0 ? by_head
                                               : x->key_begin - y->key_begin;
}

/* Parts of a row have places of their own. */
static void
assert_parts(void)
{
    memset(step->partial_used, 0, sizeof step->partial_used);
    for (int i = 0; i < step->num_items; i++) {
        const struct decode_item  *it = &step->items[i];
        int                        at = it->partial + it->part;
        if (it->num_parts > 1) {
            assert_in_range(at, 0, PARTIALS - 1);
            assert_false(step->partial_used[at]);
            step->partial_used[at] = true;
        }
    }
}

/* Each key is in one item; parts count up.  Puts the items in order. */
static void
assert_rows_are_covered(int num_seqs, int heads)
{
    int  i = 0;
    qsort(step->items, (size_t) step->num_items, sizeof *step->items,
          by_row_and_key);
    for (int s = 0; s < num_seqs; s++) {
        for (int h = 0; step->rows[s] >= 0 && h < heads; h++) {
            int32_t  key = 0, part = 0;
            while (key < step->lens[s]) {
                key = assert_part(&step->items[i++], s, h, key, part++);
            }
            assert_int_equal(key, step->lens[s]);
            assert_int_equal(step->items[i - 1].num_parts, part);
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

/* The shares of a group have the same keys. */
static void
assert_heads_side_by_side(int heads)
{
    for (int b = 0; b + heads <= BLOCKS; b += heads) {
        int  num = step->first[b + 1] - step->first[b];
        for (int h = 0; h < heads; h++) {
            const struct decode_item  *x = step->items + step->first[b];
            const struct decode_item  *y = step->items + step->first[b + h];
            assert_int_equal(step->first[b + h + 1] - step->first[b + h], num);
            for (int i = 0; i < num; i++) {
                assert_int_equal(x[i].seq, y[i].seq);
                assert_int_equal(x[i].key_begin, y[i].key_begin);
                assert_int_equal(y[i].kv_head, h);
            }
        }
    }
}

static void
start_random(unsigned int seed)
{
    printf("# seed %u\n", seed);
    srand(seed);
}

/* Rows of up to `longest` keys, now and then `rarely`; one of eight is none.
 * Returns their tiles. */
static int64_t
random_rows(int num_seqs, int longest, int rarely)
{
    int64_t  tiles = 0;
    for (int s = 0; s < num_seqs; s++) {
        step->rows[s] = rand() % 8 ? s : -1;
        step->lens[s] = 1 + rand() % (rand() % 10 ? longest : rarely);
        tiles += step->rows[s] >= 0 ? (step->lens[s] + 31) / 32 : 0;
    }
    return tiles;
}

static void
random_steps_are_covered_in_equal_shares(void **state)
{
    (void) state;
    start_random(20261124);
    for (int n = 0; n < 2000; n++) {
        int      num_seqs = 1 + rand() % SEQS, heads = 1 + rand() % 8;
        int64_t  tiles = random_rows(num_seqs, 2000, 100000);
        struct decode_plan_args  a = args_of(num_seqs, heads, 0);
        step->num_items = decode_plan(&a);
        assert_in_range(step->num_items, 0,
                        decode_plan_items_max(num_seqs, heads, BLOCKS));
        int64_t  groups = BLOCKS / heads, share = (tiles + groups - 1) / groups;
        assert_blocks(share > DECODE_SHARE_MIN ? share : DECODE_SHARE_MIN);
        assert_heads_side_by_side(heads);
        assert_parts();
        assert_rows_are_covered(num_seqs, heads);
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
        assert_blocks(1 << 30);
        assert_parts();
        assert_rows_are_covered(num_seqs, 4);
        assert_int_equal(step->items[0].num_parts, 6);
        for (int i = 0; i < 6; i++) {
            assert_int_equal(step->items[i].key_begin, 256 * i);
        }
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

/* ---- whole rows --------------------------------------------------------------------- */

static void
random_steps_are_dealt_out_in_shares_of_whole_rows(void **state)
{
    (void) state;
    start_random(20261130);
    for (int n = 0; n < 2000; n++) {
        int      num_seqs = 1 + rand() % SEQS, heads = 1 + rand() % 8;
        int      longest = 1 << rand() % 17;
        int64_t  tiles = random_rows(num_seqs, longest, 10000);
        struct decode_plan_args  a = args_of(num_seqs, heads, 0);
        a.items_max = decode_plan_items_max(num_seqs, heads, 8 * BLOCKS);
        a.drafts_max = 2 * a.items_max;
        step->num_items = decode_plan_rows(&a);
        assert_true(step->num_items >= 0);
        int64_t  share = (tiles * heads + BLOCKS - 1) / BLOCKS;
        share = share > PLAN_SHARE_MIN ? share : PLAN_SHARE_MIN;
        assert_blocks(share + share / 8 + PLAN_SLACK);
        assert_parts();
        assert_rows_are_covered(num_seqs, heads);
    }
}

/* 1,024 keys each: what cutting would gain is less than what it costs. */
static void
rows_of_one_length_stay_whole(void **state)
{
    static const int  nums[] = { 33, 66, 99, 260 };
    (void) state;
    for (size_t n = 0; n < sizeof nums / sizeof *nums; n++) {
        for (int s = 0; s < nums[n]; s++) {
            step->rows[s] = s;
            step->lens[s] = 1024;
        }
        struct decode_plan_args  a = args_of(nums[n], 8, 0);
        step->num_items = decode_plan_rows(&a);
        assert_int_equal(step->num_items, nums[n] * 8);
        assert_blocks(32 * ((nums[n] * 8 + BLOCKS - 1) / BLOCKS));
    }
}

static void
a_plan_without_room_is_refused(void **state)
{
    (void) state;
    step->rows[0] = step->rows[1] = 0;
    step->lens[0] = step->lens[1] = 10000;
    struct decode_plan_args  a = args_of(2, 8, 0);
    a.partials_max = 10;
    assert_int_equal(decode_plan_rows(&a), -1);
    a.partials_max = PARTIALS;
    a.items_max = 100;
    assert_int_equal(decode_plan_rows(&a), -1);
    a.items_max = ITEMS;
    a.drafts_max = 20;
    assert_int_equal(decode_plan_rows(&a), -1);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(random_steps_are_covered_in_equal_shares),
        cmocka_unit_test(chunks_cut_a_row_at_the_same_keys_whatever_its_company),
        cmocka_unit_test(what_does_not_fit_is_said),
        cmocka_unit_test(a_small_step_uses_few_blocks),
        cmocka_unit_test(random_steps_are_dealt_out_in_shares_of_whole_rows),
        cmocka_unit_test(rows_of_one_length_stay_whole),
        cmocka_unit_test(a_plan_without_room_is_refused),
    };
    step = calloc(1, sizeof *step);
    check(step != NULL);
    int  rc = cmocka_run_group_tests_name("cuda_plan", tests, NULL, NULL);
    free(step);
    return rc;
}
