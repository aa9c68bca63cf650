/* test_forward.c - a row's logits are the same bits whatever surrounds it.
 *
 * The reference of each test is the whole prompt, alone, in one step.  Against
 * it: the prompt in chunks, in a batch of 32, in permuted and shared blocks,
 * recomputed after preemption, on more threads, on the plain twin, and with
 * every buffer poisoned.  All comparisons are memcmp on logits of every row. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/model/model.h"

#define GOLDEN_DIR     "tests/model/golden"
#define SEED           7u
#define VOCAB          131
#define PROMPT_TOKENS  90
#define SEQS_MAX       32
#define SEQ_BLOCKS     8          /* of 16 tokens */
#define NUM_BLOCKS     (SEQS_MAX * SEQ_BLOCKS + 1)

struct fixture {
    struct backend *be;
    struct model   *m;
    struct batch    batch;
    uint64_t        rng;
    int32_t         prompt[PROMPT_TOKENS];
    float           want[PROMPT_TOKENS * VOCAB];   /* alone, in one step */
    float           got[PROMPT_TOKENS * VOCAB];
};

static uint32_t
random_below(struct fixture *f, uint32_t n)
{
    f->rng = f->rng * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t) (f->rng >> 33) % n;
}

static void
poison_everything(struct fixture *f)
{
    struct tensor *const  all[] = { &f->m->hidden, &f->m->qkv, &f->m->attn,
                                    &f->m->mlp, &f->m->logits };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t  bytes = (size_t) all[i]->shape[0] * (size_t) all[i]->shape[1]
                        * dtype_bytes(all[i]->dtype);
        f->be->ops->fill(f->be, all[i]->data, 0xff, bytes);
    }
}

static void
poison_kv(struct fixture *f)
{
    f->be->ops->fill(f->be, f->m->kv.cache.data, 0xff, f->m->kv.bytes);
}

/* Blocks of sequence number s: s * SEQ_BLOCKS + 1 .. */
static void
own_blocks(int s, int32_t *block_ids)
{
    for (int i = 0; i < SEQ_BLOCKS; i++) {
        block_ids[i] = s * SEQ_BLOCKS + 1 + i;
    }
}

static const float *
forward(struct fixture *f)
{
    const float  *logits;
    struct err    err = { 0 };
    poison_everything(f);
    assert_int_equal(model_forward(f->m, &f->batch, &logits, &err), OK);
    return logits;
}

static int
append(struct fixture *f, const int32_t *ids, int num, int position,
       const int32_t *block_ids)
{
    return batch_append(&f->batch, &(struct batch_seq) {
        .token_ids = ids, .query_len = num, .position = position,
        .block_ids = block_ids, .block_size = f->m->block_size,
        .num_logits = num });
}

/* Prompt rows [first, end) in chunks; logits to out rows [first, end). */
static void
run_chunks(struct fixture *f, int first, int end, int chunk,
           const int32_t *block_ids, float *out)
{
    for (int at = first; at < end; at += chunk) {
        int  num = end - at < chunk ? end - at : chunk;
        batch_reset(&f->batch);
        (void) append(f, f->prompt + at, num, at, block_ids);
        memcpy(out + at * VOCAB, forward(f),
               (size_t) (num * VOCAB) * sizeof *out);
    }
}

static void
setup_with(struct fixture *f, const char *name,
           struct backend_cpu_options options)
{
    char        dir[256];
    struct err  err = { 0 };
    (void) snprintf(dir, sizeof dir, GOLDEN_DIR "/%s", name);
    if (backend_cpu_create(&f->be, &options, &err) != OK
        || model_open(&f->m, &(struct model_options) {
               .path = dir, .num_blocks = NUM_BLOCKS, .block_size = 16,
               .max_num_batched_tokens = 512, .max_num_seqs = SEQS_MAX,
               .max_num_logits = 512 }, f->be, &err) != OK
        || batch_init(&f->batch, &f->m->limits, &err) != OK)
    {
        fail_msg("%s: %s", name, err.message);
    }
    assert_int_equal(f->m->config.vocab_size, VOCAB);
    f->rng = SEED;
    for (int i = 0; i < PROMPT_TOKENS; i++) {
        f->prompt[i] = (int32_t) random_below(f, VOCAB);
    }
    int32_t  block_ids[SEQ_BLOCKS];
    own_blocks(0, block_ids);
    poison_kv(f);
    run_chunks(f, 0, PROMPT_TOKENS, PROMPT_TOKENS, block_ids, f->want);
    for (int i = 0; i < PROMPT_TOKENS * VOCAB; i++) {
        assert_true(isfinite(f->want[i]));
    }
    poison_kv(f);
}

static void
teardown(struct fixture *f)
{
    batch_destroy(&f->batch);
    model_close(f->m);
    f->be->ops->destroy(f->be);
}

static const char *const  models[] = {
    "llama-bf16-llama3", "llama-f16-shards", "mistral-bf16-window",
    "mistral-f32-window", "qwen2-f32-group7", "qwen2-bf16-yarn", "qwen3-bf16"
};

#define FOR_EACH_MODEL(f)                                                     \
    for (size_t model_ = 0; model_ < sizeof models / sizeof *models;          \
         model_++)                                                            \
        for (bool once_ = (setup_with((f), models[model_],                    \
                               (struct backend_cpu_options) {                 \
                                   .num_threads = 2 }), true);                \
             once_; once_ = false, teardown(f))

static void
assert_rows_equal(const struct fixture *f, int first, int end)
{
    for (int i = first; i < end; i++) {
        assert_memory_equal(f->got + i * VOCAB, f->want + i * VOCAB,
                            VOCAB * sizeof *f->got);
    }
}

static void
test_chunks_of_1_7_32_64_give_the_bits_of_one_step(void **state)
{
    static struct fixture  f;
    static const int       chunks[] = { 1, 7, 32, 64 };
    int32_t                block_ids[SEQ_BLOCKS];
    (void) state;
    own_blocks(3, block_ids);
    FOR_EACH_MODEL(&f) {
        for (int i = 0; i < 4; i++) {
            poison_kv(&f);
            run_chunks(&f, 0, PROMPT_TOKENS, chunks[i], block_ids, f.got);
            assert_rows_equal(&f, 0, PROMPT_TOKENS);
        }
    }
}

/* One step of 32 sequences: prompts of all lengths, ours somewhere inside. */
static void
batch_of_32(struct fixture *f, int ours, int first, int num)
{
    static int32_t  ids[SEQS_MAX][16 * SEQ_BLOCKS];
    int             row = 0;
    batch_reset(&f->batch);
    for (int s = 0; s < SEQS_MAX; s++) {
        int32_t  block_ids[SEQ_BLOCKS];
        int      len = 1 + (int) random_below(f, 12);
        own_blocks(s, block_ids);
        if (s == ours) {
            row = append(f, f->prompt + first, num, first, block_ids);
            continue;
        }
        for (int i = 0; i < len; i++) {
            ids[s][i] = (int32_t) random_below(f, VOCAB);
        }
        (void) append(f, ids[s], len, 0, block_ids);
    }
    memcpy(f->got + first * VOCAB, forward(f) + row * VOCAB,
           (size_t) (num * VOCAB) * sizeof *f->got);
}

static void
test_a_batch_of_32_gives_the_bits_of_the_prompt_alone(void **state)
{
    static struct fixture  f;
    (void) state;
    print_message("seed %u\n", SEED);
    FOR_EACH_MODEL(&f) {
        int  ours = (int) random_below(&f, SEQS_MAX);
        for (int at = 0; at < PROMPT_TOKENS; ) {
            int  num = 1 + (int) random_below(&f, 24);
            num = num < PROMPT_TOKENS - at ? num : PROMPT_TOKENS - at;
            batch_of_32(&f, ours, at, num);
            at += num;
        }
        assert_rows_equal(&f, 0, PROMPT_TOKENS);
    }
}

static void
test_permuted_blocks_give_the_same_bits(void **state)
{
    static struct fixture  f;
    (void) state;
    print_message("seed %u\n", SEED);
    FOR_EACH_MODEL(&f) {
        for (int round = 0; round < 4; round++) {
            int32_t  block_ids[NUM_BLOCKS - 1];
            for (int i = 0; i < NUM_BLOCKS - 1; i++) {
                block_ids[i] = i + 1;
            }
            for (int i = 0; i < SEQ_BLOCKS; i++) {
                int      j = i + (int) random_below(
                                 &f, (uint32_t) (NUM_BLOCKS - 1 - i));
                int32_t  swap = block_ids[i];
                block_ids[i] = block_ids[j];
                block_ids[j] = swap;
            }
            poison_kv(&f);
            run_chunks(&f, 0, PROMPT_TOKENS, 40, block_ids, f.got);
            assert_rows_equal(&f, 0, PROMPT_TOKENS);
        }
    }
}

/* The prefix cache's situation: two sequences share their first blocks and
 * differ after them. */
static void
test_shared_prefix_blocks_give_the_bits_of_own_ones(void **state)
{
    static struct fixture  f;
    enum { SHARED = 48 };
    int32_t  first[SEQ_BLOCKS], second[SEQ_BLOCKS];
    (void) state;
    FOR_EACH_MODEL(&f) {
        own_blocks(0, first);
        own_blocks(1, second);
        memcpy(second, first, SHARED / 16 * sizeof *first);
        run_chunks(&f, 0, PROMPT_TOKENS, 33, first, f.got);
        memset(f.got, 0, sizeof f.got);
        run_chunks(&f, SHARED, PROMPT_TOKENS, 33, second, f.got);
        assert_rows_equal(&f, SHARED, PROMPT_TOKENS);

        /* and the first still has its own continuation */
        run_chunks(&f, PROMPT_TOKENS - 1, PROMPT_TOKENS, 1, first, f.got);
        assert_rows_equal(&f, PROMPT_TOKENS - 1, PROMPT_TOKENS);
    }
}

static void
test_copied_blocks_continue_with_the_same_bits(void **state)
{
    static struct fixture    f;
    struct block_copy        copies[SEQ_BLOCKS];
    int32_t                  from[SEQ_BLOCKS], to[SEQ_BLOCKS];
    enum { SPLIT = 50 };
    (void) state;
    own_blocks(2, from);
    own_blocks(5, to);
    for (int i = 0; i < SEQ_BLOCKS; i++) {
        copies[i] = (struct block_copy) { from[i], to[i] };
    }
    FOR_EACH_MODEL(&f) {
        run_chunks(&f, 0, SPLIT, SPLIT, from, f.got);
        f.be->ops->copy_blocks(f.be, &f.m->kv.cache, copies, 4);
        kv_pool_poison(&f.m->kv, from, SEQ_BLOCKS);
        run_chunks(&f, SPLIT, PROMPT_TOKENS, 8, to, f.got);
        assert_rows_equal(&f, 0, PROMPT_TOKENS);
    }
}

/* Preemption by recompute: what decode wrote token by token is computed again
 * as one prompt, in other blocks. */
static void
test_a_recomputed_sequence_continues_with_the_same_bits(void **state)
{
    static struct fixture  f;
    int32_t                before[SEQ_BLOCKS], after[SEQ_BLOCKS];
    (void) state;
    own_blocks(4, before);
    own_blocks(9, after);
    FOR_EACH_MODEL(&f) {
        run_chunks(&f, 0, 40, 40, before, f.got);
        run_chunks(&f, 40, 70, 1, before, f.got);
        kv_pool_poison(&f.m->kv, before, SEQ_BLOCKS);
        run_chunks(&f, 0, 70, 64, after, f.got);
        run_chunks(&f, 70, PROMPT_TOKENS, 1, after, f.got);
        assert_rows_equal(&f, 0, PROMPT_TOKENS);
    }
}

static void
test_threads_and_instruction_sets_give_the_same_bits(void **state)
{
    static struct fixture             f;
    static float                      first[PROMPT_TOKENS * VOCAB];
    const struct backend_cpu_options  options[] = {
        { 1, CPU_ISA_AUTO }, { 3, CPU_ISA_AUTO }, { 8, CPU_ISA_AUTO },
        { 1, CPU_ISA_PLAIN }, { 2, CPU_ISA_PLAIN },
        { 2, CPU_ISA_AVX2 }, { 2, CPU_ISA_AVX512 },
    };
    (void) state;
    for (size_t model = 0; model < sizeof models / sizeof *models; model++) {
        for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
            if (options[i].isa > cpu_isa_best()) {
                if (model == 0) {
                    print_message("skipped: %s, this CPU lacks it\n",
                                  cpu_isa_name(options[i].isa));
                }
                continue;
            }
            setup_with(&f, models[model], options[i]);
            if (i == 0) {
                memcpy(first, f.want, sizeof first);
            }
            assert_memory_equal(f.want, first, sizeof first);
            teardown(&f);
        }
    }
}

static void
test_a_wrong_block_table_entry_shows_as_nan(void **state)
{
    static struct fixture  f;
    int32_t                block_ids[SEQ_BLOCKS];
    (void) state;
    setup_with(&f, models[0], (struct backend_cpu_options) { 1, CPU_ISA_AUTO });
    own_blocks(0, block_ids);
    run_chunks(&f, 0, PROMPT_TOKENS, PROMPT_TOKENS, block_ids, f.got);
    block_ids[1] = KV_NULL_BLOCK_ID;
    run_chunks(&f, PROMPT_TOKENS - 1, PROMPT_TOKENS, 1, block_ids, f.got);
    assert_true(isnan(f.got[(PROMPT_TOKENS - 1) * VOCAB]));
    teardown(&f);
}

static void
test_padding_rows_write_no_key_and_no_value(void **state)
{
    static struct fixture  f;
    int32_t                block_ids[SEQ_BLOCKS];
    (void) state;
    setup_with(&f, models[0], (struct backend_cpu_options) { 1, CPU_ISA_AUTO });
    own_blocks(0, block_ids);
    char  *before = malloc(f.m->kv.bytes);
    memcpy(before, f.m->kv.cache.data, f.m->kv.bytes);
    batch_reset(&f.batch);
    (void) append(&f, f.prompt, 5, 0, block_ids);
    for (int i = 0; i < 5; i++) {
        f.batch.slot_mapping[i] = SLOT_PADDING;
    }
    (void) forward(&f);
    assert_memory_equal(f.m->kv.cache.data, before, f.m->kv.bytes);
    free(before);
    teardown(&f);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_chunks_of_1_7_32_64_give_the_bits_of_one_step),
        cmocka_unit_test(test_a_batch_of_32_gives_the_bits_of_the_prompt_alone),
        cmocka_unit_test(test_permuted_blocks_give_the_same_bits),
        cmocka_unit_test(test_shared_prefix_blocks_give_the_bits_of_own_ones),
        cmocka_unit_test(test_copied_blocks_continue_with_the_same_bits),
        cmocka_unit_test(test_a_recomputed_sequence_continues_with_the_same_bits),
        cmocka_unit_test(test_threads_and_instruction_sets_give_the_same_bits),
        cmocka_unit_test(test_a_wrong_block_table_entry_shows_as_nan),
        cmocka_unit_test(test_padding_rows_write_no_key_and_no_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
