/* test_backend_cuda.c - every op on the GPU against the CPU backend, then
 * whole models; a plain program, because GPU machines have no test library.
 *
 * usage: test-backend-cuda [--small] [--simple] [--self] [--list] [NAME]
 *
 * NAME: the tests whose name contains it; --list: their names only, without a
 * GPU; --simple: the slow kernels only; --self: the CPU's plain C kernels in
 * CUDA's place, which tests the test.
 *
 * Inputs are random and rounded to their dtypes first, so that what differs is
 * the order of fp32 sums and one rounding: bounds are computed per element
 * (kernels.md C) and the largest error / bound of each test is printed.
 * Whatever a correct op must not read is NaN or an impossible block id, and
 * whatever it must not write is compared with what was there.  --small keeps
 * to shapes that run under compute-sanitizer in seconds. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cpu/backend_cpu.h"
#include "engine/backend/cuda/backend_cuda.h"
#include "tests/gpu/gpu_test.h"

#define CPU_THREADS   4

static const struct {
    const char *name;
    void      (*fn)(void);
} tests[] = {
#define TEST(name)  { #name, test_##name }
    TEST(uploads_of_any_size_and_address_arrive),
    TEST(embed_gives_the_same_bits),
    TEST(linear_with_every_epilogue),
    TEST(linear_of_many_rows_with_every_epilogue),
    TEST(linear_of_decode_steps),
    TEST(batch_invariant_products_do_not_depend_on_the_rows),
    TEST(linear_with_weights_of_another_dtype),
    TEST(lm_head_takes_the_wanted_rows_only),
    TEST(rope_and_append_write_their_slots_only),
    TEST(decode_attention_for_all_head_sizes_and_groups),
    TEST(prefill_attention_for_all_head_sizes_and_groups),
    TEST(mixed_steps_of_decode_and_prefill),
    TEST(long_contexts_are_split_and_merged),
    TEST(decode_attention_does_not_depend_on_the_batch),
    TEST(nan_stays_in_its_sequence),
    TEST(fp8_appends_are_the_same_bytes),
    TEST(attention_over_an_fp8_cache),
    TEST(large_decode_steps_share_the_keys),
    TEST(rope_append_and_attention_of_a_step_agree),
    TEST(copied_blocks_are_equal_and_others_untouched),
    TEST(small_models_equal_transformers),
    TEST(random_models_equal_the_cpu),
    TEST(sampling_equals_the_host_bit_for_bit),
    TEST(sampled_ids_reach_the_next_step_and_the_host_in_order),
    TEST(recorded_steps_equal_issued_ones_bit_for_bit),
    TEST(small_steps_in_one_launch_equal_kernel_by_kernel),
    TEST(batch_invariant_rows_do_not_depend_on_their_company),
    TEST(a_gemm_cache_is_read_and_a_broken_one_made_anew),
    TEST(engine_writes_what_transformers_wrote),
    TEST(engine_keeps_max_tokens_min_tokens_and_stop_ids),
    TEST(engine_a_step_ahead_and_again_writes_the_same),
    TEST(engine_nan_ends_its_own_request_only),
    TEST(engine_many_random_requests_end_and_leave_nothing),
    TEST(engine_threads_submit_cancel_and_park_at_any_moment),
    TEST(engine_batch_invariant_writes_the_same_alone_and_among_63),
};

static bool
wanted(size_t i, const char *filter)
{
    return filter == NULL || strstr(tests[i].name, filter) != NULL;
}

static int
list_tests(const char *filter)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (wanted(i, filter)) {
            puts(tests[i].name);
        }
    }
    return 0;
}

static void
run_tests(const char *filter)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        struct timespec  t0, t1;
        if (!wanted(i, filter)) {
            continue;
        }
        run.worst = 0.0;
        run.bad = false;
        run.messages = 0;
        clock_gettime(CLOCK_MONOTONIC, &t0);
        tests[i].fn();
        clock_gettime(CLOCK_MONOTONIC, &t1);
        run.passed += !run.bad;
        run.failed += run.bad;
        printf("%s - %s (error / bound %.3f, %d messages, %.1f s)\n",
               run.bad ? "not ok" : "ok", tests[i].name, run.worst,
               run.messages, (double) (t1.tv_sec - t0.tv_sec)
               + (double) (t1.tv_nsec - t0.tv_nsec) * 1e-9);
        fflush(stdout);
    }
}

int
main(int argc, char **argv)
{
    struct err   err = { 0 };
    const char  *filter = NULL;
    bool         list = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--small") == 0) {
            run.small = true;
        } else if (strcmp(argv[i], "--simple") == 0) {
            run.simple = true;
        } else if (strcmp(argv[i], "--self") == 0) {
            run.self = true;
        } else if (strcmp(argv[i], "--list") == 0) {
            list = true;
        } else {
            filter = argv[i];
        }
    }
    if (list) {
        return list_tests(filter);
    }
    run.rng = SEED;
    int  rc = run.self
        ? backend_cpu_create(&run.cuda, &(struct backend_cpu_options) {
              .num_threads = 1, .isa = CPU_ISA_PLAIN }, &err)
        : backend_load_cuda(&run.cuda, &(struct backend_cuda_options) {
              .abi = BACKEND_CUDA_ABI, .simple_kernels = run.simple }, &err);
    if (rc == AGAIN) {
        printf("SKIP: no CUDA device (%s)\n", err.message);
        return 0;
    }
    require(rc, &err, "backend_load_cuda");
    require(backend_cpu_create(&run.cpu, &(struct backend_cpu_options) {
        .num_threads = CPU_THREADS }, &err), &err, "cpu backend");
    printf("# %s against %s, seed %u\n", run.cuda->ops->name,
           run.cpu->ops->name, SEED);
    reserve(run.cpu);
    reserve(run.cuda);
    run_tests(filter);
    require(run.cuda->ops->sync(run.cuda, &err), &err, "last sync");
    run.cuda->ops->destroy(run.cuda);
    run.cpu->ops->destroy(run.cpu);
    printf("%d passed, %d failed\n", run.passed, run.failed);
    return run.failed > 0;
}
