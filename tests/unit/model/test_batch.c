/* test_batch.c - the step arrays of the example in batch.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/model/batch.h"

static void
assert_ids(const int32_t *got, const int32_t *want, int num)
{
    for (int i = 0; i < num; i++) {
        assert_int_equal(got[i], want[i]);
    }
}

static void
test_the_arrays_are_those_of_the_manual(void **state)
{
    struct batch               b;
    struct err                 err = { 0 };
    const struct batch_limits  limits = { 8, 2, 4, 3 };
    const int32_t              ids[] = { 5, 6, 7 }, next[] = { 99 };
    const int32_t              blocks_a[] = { 9 }, blocks_b[] = { 4, 2 };
    (void) state;
    assert_int_equal(batch_init(&b, &limits, &err), OK);
    for (int round = 0; round < 2; round++) {
        batch_reset(&b);
        assert_int_equal(batch_append(&b, &(struct batch_seq) {
            ids, 3, 0, blocks_a, 32, 1 }), 0);
        assert_int_equal(batch_append(&b, &(struct batch_seq) {
            next, 1, 40, blocks_b, 32, 1 }), 1);
        assert_int_equal(b.num_tokens, 4);
        assert_int_equal(b.num_seqs, 2);
        assert_int_equal(b.num_logits, 2);
        assert_ids(b.input_ids, (int32_t[]) { 5, 6, 7, 99 }, 4);
        assert_ids(b.positions, (int32_t[]) { 0, 1, 2, 40 }, 4);
        assert_ids(b.slot_mapping, (int32_t[]) { 288, 289, 290, 72 }, 4);
        assert_ids(b.cu_seqlens_q, (int32_t[]) { 0, 3, 4 }, 3);
        assert_ids(b.context_lens, (int32_t[]) { 3, 41 }, 2);
        assert_ids(b.logits_idx, (int32_t[]) { 2, 3 }, 2);
        assert_ids(batch_block_table(&b, 0), blocks_a, 1);
        assert_ids(batch_block_table(&b, 1), blocks_b, 2);
    }
    batch_destroy(&b);
    batch_destroy(&b);
}

static void
test_an_unfinished_chunk_wants_no_logits(void **state)
{
    struct batch               b;
    struct err                 err = { 0 };
    const struct batch_limits  limits = { 4, 1, 4, 1 };
    const int32_t              ids[] = { 1, 2, 3, 4 }, block = 3;
    (void) state;
    assert_int_equal(batch_init(&b, &limits, &err), OK);
    assert_int_equal(batch_append(&b, &(struct batch_seq) {
        ids, 4, 0, &block, 16, 0 }), 0);
    assert_int_equal(b.num_logits, 0);
    batch_reset(&b);
    (void) batch_append(&b, &(struct batch_seq) { ids, 4, 0, &block, 16, 4 });
    assert_ids(b.logits_idx, (int32_t[]) { 0, 1, 2, 3 }, 4);
    batch_destroy(&b);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_the_arrays_are_those_of_the_manual),
        cmocka_unit_test(test_an_unfinished_chunk_wants_no_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
