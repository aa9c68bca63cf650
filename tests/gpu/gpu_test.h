/* gpu_test.h - what the parts of test-backend-cuda share: two backends, random
 * tensors, a comparison that keeps the worst error / bound, and steps.
 *
 * Values are random in [-1, 1) and rounded to their dtype when made, so that
 * both backends start from the same bits.  complain() fails the test running;
 * require() ends the program, for what must work before anything can be
 * tested. */
#ifndef LLM_TESTS_GPU_GPU_TEST_H
#define LLM_TESTS_GPU_GPU_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu_kernels.h"

#define SEED          20261124u
#define SEQS_MAX      24
#define TABLE_MAX     300       /* blocks of a sequence */
#define ROW_MAX       8192      /* elements */
#define LEN_MAX       8192      /* keys */
#define TOKENS_MAX    512

struct run {
    struct backend *cpu, *cuda;
    bool            small, simple, self;   /* options */
    uint64_t        rng;
    int             passed, failed, messages;
    double          worst;      /* error / bound of the test running */
    bool            bad;
};

extern struct run  run;

void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void require(int rc, const struct err *err, const char *what);
void *need(void *p);      /* ends the program when it is NULL */

uint32_t random_bits(void);
int random_below(int n);
float random_value(void);

float value_at(const void *data, enum dtype dtype, size_t i);
float rounded(enum dtype dtype, float x);
double half_ulp(enum dtype dtype, double x);
double dot_c(int64_t k);  /* times the sum of |products|: what two fp32 sums
                             of k products may differ by */
void compare(double got, double want, double bound);

/* Tensors in host memory, freed with free(t.data); cols 0: one dimension. */
struct tensor host_tensor(enum dtype dtype, int64_t rows, int64_t cols);
struct tensor host_random(enum dtype dtype, int64_t rows, int64_t cols);
size_t tensor_elems(const struct tensor *t);
size_t tensor_bytes(const struct tensor *t);
float elem(const struct tensor *t, size_t i);

/* A copy in the backend's memory; and back, which frees it there. */
struct tensor to_backend(struct backend *be, const struct tensor *host);
struct tensor from_backend(struct backend *be, struct tensor *t);
void reserve(struct backend *be);

struct step {
    int     num_tokens, num_seqs, num_logits;
    int32_t ids[TOKENS_MAX], positions[TOKENS_MAX], slots[TOKENS_MAX];
    int32_t cu[SEQS_MAX + 1], context[SEQS_MAX], logits_idx[TOKENS_MAX];
    int32_t tables[SEQS_MAX * TABLE_MAX];
    uint64_t model_id;      /* of step_inputs */
};

void step_add(struct step *s, int query_len, int context_len);
void step_begin(struct backend *be, const struct step *s);
struct step *rows_step(int num);      /* one sequence of num rows */

/* gpu_kv.c, for gpu_attention.c: what works on a paged cache. */
struct cache_case {
    enum dtype  dtype, kv_dtype;
    int         heads, kv_heads, head_dim, block_size, num_blocks, window;
    bool        norm;
};

int qkv_cols(const struct cache_case *c);
struct tensor host_cache(const struct cache_case *c);
struct kv_cache kv_of(const struct cache_case *c, void *data);
double cache_scale(const struct cache_case *c, int is_v);
size_t cache_row(const struct cache_case *c, int is_v, int slot, int head);
/* The norm weight's backend copy, NULL without one. */
struct weight *norm_weight(struct backend *be, const struct cache_case *c,
                           struct tensor t);
/* In a step, of layer 1. */
void rope_and_append(struct backend *be, const struct cache_case *c,
                     struct tensor qkv, struct tensor cos_sin,
                     const struct kv_cache *kv, const struct weight *norm);
/* Whether both are numbers; complains when one is. */
bool both_numbers(size_t elem_idx, double got, double want);

/* The tests: gpu_ops.c, gpu_attention.c, gpu_models.c, gpu_sample.c,
 * gpu_graphs.c, gpu_fused.c, gpu_engine.c. */
void test_uploads_of_any_size_and_address_arrive(void);
void test_embed_gives_the_same_bits(void);
void test_linear_with_every_epilogue(void);
void test_linear_of_many_rows_with_every_epilogue(void);
void test_linear_of_decode_steps(void);
void test_batch_invariant_products_do_not_depend_on_the_rows(void);
void test_linear_with_weights_of_another_dtype(void);
void test_lm_head_takes_the_wanted_rows_only(void);
void test_rope_and_append_write_their_slots_only(void);
void test_decode_attention_for_all_head_sizes_and_groups(void);
void test_prefill_attention_for_all_head_sizes_and_groups(void);
void test_mixed_steps_of_decode_and_prefill(void);
void test_long_contexts_are_split_and_merged(void);
void test_decode_attention_does_not_depend_on_the_batch(void);
void test_nan_stays_in_its_sequence(void);
void test_fp8_appends_are_the_same_bytes(void);
void test_attention_over_an_fp8_cache(void);
void test_large_decode_steps_share_the_keys(void);
void test_rope_append_and_attention_of_a_step_agree(void);
void test_copied_blocks_are_equal_and_others_untouched(void);
void test_small_models_equal_transformers(void);
void test_random_models_equal_the_cpu(void);
void test_sampling_equals_the_host_bit_for_bit(void);
void test_sampled_ids_reach_the_next_step_and_the_host_in_order(void);
void test_recorded_steps_equal_issued_ones_bit_for_bit(void);
void test_small_steps_in_one_launch_equal_kernel_by_kernel(void);
void test_batch_invariant_rows_do_not_depend_on_their_company(void);
void test_a_gemm_cache_is_read_and_a_broken_one_made_anew(void);
void test_engine_writes_what_transformers_wrote(void);
void test_engine_keeps_max_tokens_min_tokens_and_stop_ids(void);
void test_engine_a_step_ahead_and_again_writes_the_same(void);
void test_engine_nan_ends_its_own_request_only(void);
void test_engine_many_random_requests_end_and_leave_nothing(void);
void test_engine_threads_submit_cancel_and_park_at_any_moment(void);
void test_engine_batch_invariant_writes_the_same_alone_and_among_63(void);

#endif
