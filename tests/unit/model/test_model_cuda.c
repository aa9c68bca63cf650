/* test_model_cuda.c - models on the CUDA backend, whose own C files run against
 * a GPU that is none (tests/sim/cuda): what they launch, upload, keep and free.
 *
 * usage: test_model_cuda [SEED [NUM_SEEDS]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/backend/cuda/backend_cuda.h"
#include "engine/base/log.h"
#include "engine/model/model.h"
#include "tests/sim/cuda/fake_cuda.h"
#include "tests/sim/cuda/random_steps.h"

#define GIB          ((size_t) 1 << 30)
#define TOTAL_BYTES  (24 * GIB)

/* ---- models ----------------------------------------------------------------------- */

struct shape {
    const char *name;
    const char *architecture, *dtype;
    int         hidden_size, intermediate_size, num_layers;
    int         num_heads, num_kv_heads, head_dim;
    int         vocab_size, max_len;
    const char *more;           /* of config.json */
};

#define BF16  "bfloat16"
#define LLAMA "LlamaForCausalLM"

static const struct shape  shapes[] = {
    { "groups_of_4", LLAMA, BF16, 4096, 14336, 2, 32, 8, 128, 128256, 131072,
      "" },
    { "groups_of_7_with_biases", "Qwen2ForCausalLM", BF16, 896, 4864, 2, 14, 2,
      64, 151936, 32768, "" },
    { "a_group_of_12", LLAMA, BF16, 1536, 8960, 2, 12, 1, 128, 151936, 131072,
      "" },
    { "a_group_of_32_in_float16", LLAMA, "float16", 2048, 8192, 1, 32, 1, 64,
      262144, 262144, "" },
    { "32_kv_heads", LLAMA, BF16, 4096, 11008, 2, 32, 32, 128, 32000, 4096,
      "" },
    { "16_kv_heads", LLAMA, BF16, 2048, 8192, 1, 16, 16, 128, 32000, 131072,
      "" },
    { "head_dim_96", LLAMA, BF16, 768, 2048, 2, 8, 4, 96, 32000, 8192, "" },
    { "head_dim_256", LLAMA, BF16, 1024, 3072, 2, 8, 8, 256, 50257, 8192, "" },
    { "odd_sizes", LLAMA, BF16, 100, 77, 2, 3, 1, 34, 1001, 4096, "" },
    { "a_large_vocabulary", LLAMA, BF16, 512, 1024, 2, 8, 2, 64, 500000, 8192,
      "" },
    { "three_tokens_and_64_positions", LLAMA, BF16, 512, 1024, 2, 8, 2, 64, 3,
      64, "" },
    { "a_window_of_one", "MistralForCausalLM", BF16, 512, 1024, 2, 8, 2, 64,
      1000, 100000, ", \"sliding_window\": 1" },
    { "windows_in_some_layers", "Qwen3ForCausalLM", BF16, 512, 1024, 4, 8, 2,
      64, 1000, 100000,
      ", \"use_sliding_window\": true, \"sliding_window\": 100, "
      "\"layer_types\": [\"sliding_attention\", \"full_attention\", "
      "\"sliding_attention\", \"full_attention\"]" },
};
#define SHAPES  (sizeof shapes / sizeof *shapes)

/* What is the same for all shapes: the device and the options. */
struct setting {
    int  major, minor, num_sms;
    bool fp8, no_graphs, invariant, simple, no_fused;
    int  block_size, max_num_seqs, max_num_batched_tokens, max_len;
    bool warm_up;
    int  num_steps;
};

static const struct setting  settings[] = {
    { 9, 0, 132, .block_size = 32, .max_num_seqs = 400,
      .max_num_batched_tokens = 2048, .max_len = 32768, .num_steps = 40 },
    { 9, 0, 132, .fp8 = true, .block_size = 16, .max_num_seqs = 600,
      .max_num_batched_tokens = 700, .max_len = 8192, .num_steps = 40 },
    { 9, 0, 132, .block_size = 64, .max_num_seqs = 12, .warm_up = true,
      .max_num_batched_tokens = 64, .max_len = 2000, .num_steps = 300 },
    { 9, 0, 132, .block_size = 32, .max_num_seqs = 1, .warm_up = true,
      .max_num_batched_tokens = 1, .max_len = 5000, .num_steps = 100 },
    { 9, 0, 16, .no_fused = true, .block_size = 16, .max_num_seqs = 100,
      .max_num_batched_tokens = 300, .max_len = 3000, .warm_up = true,
      .num_steps = 200 },
    { 9, 0, 132, .no_graphs = true, .block_size = 16, .max_num_seqs = 40,
      .max_num_batched_tokens = 300, .max_len = 4096, .num_steps = 100 },
    { 9, 0, 132, .invariant = true, .block_size = 32, .max_num_seqs = 100,
      .max_num_batched_tokens = 700, .max_len = 5000, .num_steps = 60 },
    { 9, 0, 132, .simple = true, .block_size = 32, .max_num_seqs = 50,
      .max_num_batched_tokens = 100, .max_len = 1000, .num_steps = 60 },
    { 8, 0, 108, .no_graphs = true, .block_size = 64, .max_num_seqs = 300,
      .max_num_batched_tokens = 1000, .max_len = 16384, .num_steps = 60 },
    { 8, 6, 16, .fp8 = true, .block_size = 32, .max_num_seqs = 16,
      .max_num_batched_tokens = 50, .max_len = 1500, .warm_up = true,
      .num_steps = 200 },
    { 10, 0, 148, .invariant = true, .block_size = 16, .max_num_seqs = 100,
      .max_num_batched_tokens = 400, .max_len = 4096, .num_steps = 60 },
};
#define SETTINGS  (sizeof settings / sizeof *settings)

/* ---- one model on one device ------------------------------------------------------- */

static uint64_t  first_seed = 1;
static int       num_seeds = 1;
static char      dir[] = "/tmp/test_model_cuda.XXXXXX";
static int64_t   launched[FAKE_KERNELS];      /* by all tests */

static void
config_path(char path[256])
{
    (void) snprintf(path, 256, "%s/config.json", dir);
}

static void
write_config(const struct shape *s)
{
    char   path[256];
    FILE  *f;
    config_path(path);
    f = fopen(path, "w");
    assert_non_null(f);
    (void) fprintf(f, "{\"architectures\": [\"%s\"], \"torch_dtype\": \"%s\", "
                   "\"hidden_size\": %d, \"intermediate_size\": %d, "
                   "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
                   "\"num_key_value_heads\": %d, \"head_dim\": %d, "
                   "\"vocab_size\": %d, \"max_position_embeddings\": %d, "
                   "\"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
                   "\"hidden_act\": \"silu\", \"tie_word_embeddings\": false%s}",
                   s->architecture, s->dtype, s->hidden_size,
                   s->intermediate_size, s->num_layers, s->num_heads,
                   s->num_kv_heads, s->head_dim, s->vocab_size, s->max_len,
                   s->more);
    assert_int_equal(fclose(f), 0);
}

static int
open_backend(struct backend **be, const struct setting *s, struct err *err)
{
    return backend_cuda_create(be, &(struct backend_cuda_options) {
        BACKEND_CUDA_ABI, .simple_kernels = s->simple,
        .no_graphs = s->no_graphs, .no_fused = s->no_fused,
        .batch_invariant = s->invariant }, err);
}

static int
use_model(struct backend *be, const struct shape *shape,
          const struct setting *s, uint64_t seed, struct err *err)
{
    struct model  *m;
    int            rc = model_open(&m, &(struct model_options) {
        .path = dir, .load_format = LOAD_DUMMY,
        .max_model_len = s->max_len < shape->max_len ? s->max_len
                                                     : shape->max_len,
        .block_size = s->block_size,
        .kv_cache_dtype = s->fp8 ? DTYPE_F8_E4M3 : DTYPE_NONE,
        .gpu_memory_utilization = 0.9,
        .max_num_batched_tokens = s->max_num_batched_tokens,
        .max_num_seqs = s->max_num_seqs }, be, err);
    if (rc != OK) {
        return rc;
    }
    fake_cuda_watch(be, &m->kv.cache);
    if (s->warm_up) {
        model_time_steps(m);
        rc = model_warm_up(m, err);
    }
    if (rc == OK) {
        rc = random_steps(m, s->num_steps, seed, err);
    }
    model_close(m);
    return rc;
}

/* From the device's start to its end, after which nothing may be left. */
static int
run(const struct shape *shape, const struct setting *s, uint64_t seed,
    enum fake_call fail_call, int fail_at, struct err *err)
{
    struct backend  *be = NULL;
    write_config(shape);
    fake_cuda_start(&(struct fake_cuda_options) {
        .major = s->major, .minor = s->minor, .num_sms = s->num_sms,
        .total_bytes = TOTAL_BYTES, .seed = seed, .fail_call = fail_call,
        .fail_at = fail_at });
    int  rc = open_backend(&be, s, err);
    if (rc == OK) {
        rc = use_model(be, shape, s, seed, err);
        be->ops->destroy(be);
    }
    for (int i = 0; i < FAKE_KERNELS; i++) {
        launched[i] += fake_cuda_launched((enum fake_kernel) i);
    }
    fake_cuda_end();
    return rc;
}

static void
assert_runs(const struct shape *shape, const struct setting *s, uint64_t seed)
{
    struct err  err = { 0 };
    if (run(shape, s, seed, FAKE_NO_CALL, 0, &err) != OK) {
        fail_msg("%s on %d.%d: %s", shape->name, s->major, s->minor,
                 err.message);
    }
}

/* ---- random steps ----------------------------------------------------------------------- */

static void
random_steps_are_issued_right(void **state)
{
    const struct shape  *shape = *state;
    for (int i = 0; i < num_seeds; i++) {
        uint64_t  seed = first_seed + (uint64_t) i;
        print_message("seed %llu\n", (unsigned long long) seed);
        for (size_t j = 0; j < SETTINGS; j++) {
            assert_runs(shape, &settings[j], seed * SETTINGS + j);
        }
    }
}

/* ---- devices ------------------------------------------------------------------------------ */

static const struct setting  any_device = {
    .block_size = 32, .max_num_seqs = 32, .max_num_batched_tokens = 600,
    .max_len = 3000, .warm_up = true, .num_steps = 30
};

/* That none is launched elsewhere is what the fake GPU looks at. */
static void
hopper_kernels_and_programmatic_launches_are_for_hopper(void **state)
{
    static const struct {
        int  major, minor, num_sms;
    } devices[] = { { 8, 0, 108 }, { 8, 6, 84 }, { 9, 0, 132 }, { 10, 0, 148 },
                    { 12, 0, 170 } };
    (void) state;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        struct setting  s = any_device;
        s.major = devices[i].major;
        s.minor = devices[i].minor;
        s.num_sms = devices[i].num_sms;
        for (size_t j = 0; j < SHAPES; j++) {
            assert_runs(&shapes[j], &s, first_seed);
            if (j == 0) {
                assert_int_equal(fake_cuda_launched(FAKE_FUSED) > 0,
                                 s.major == 9);
            }
        }
    }
}

/* ---- failures ------------------------------------------------------------------------------ */

static const struct setting  small = {
    9, 0, 132, .block_size = 32, .max_num_seqs = 6, .max_num_batched_tokens = 8,
    .max_len = 200, .warm_up = true, .num_steps = 5
};

/* The first, the second ... call of the kind fails, until there are no more;
 * their number. */
static int
fail_each(const struct setting *s, enum fake_call call, const char *name)
{
    for (int at = 1; ; at++) {
        struct err  err = { 0 };
        int         rc = run(&shapes[1], s, first_seed, call, at, &err);
        if (!fake_cuda_has_failed()) {
            assert_int_equal(rc, OK);
            return at - 1;
        }
        if (rc == OK || strstr(err.message, "--") == NULL) {
            fail_msg("%s number %d failed on %d.%d: rc %d, \"%s\" names no "
                     "option", name, at, s->major, s->minor, rc, err.message);
        }
    }
}

static void
a_failed_call_is_told_with_an_option_and_leaves_nothing(void **state)
{
    static const struct {
        enum fake_call  call;
        const char     *name;
        int             least;      /* of these there are */
    } calls[] = {
        { FAKE_MALLOC, "device memory", 40 }, { FAKE_PINNED, "pinned memory", 8 },
        { FAKE_EVENT, "event", 14 }, { FAKE_STREAM, "stream", 1 },
        { FAKE_GRAPH, "graph", 16 }, { FAKE_HANDLE, "cuBLASLt handle", 1 },
    };
    struct setting  ampere = small;
    (void) state;
    ampere.major = 8;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        assert_in_range(fail_each(&small, calls[i].call, calls[i].name),
                        calls[i].least, 1000);
        assert_in_range(fail_each(&ampere, calls[i].call, calls[i].name),
                        calls[i].least, 1000);
    }
}

/* ---- limits ------------------------------------------------------------------------------- */

static int
reserve(int blocks_per_seq, struct err *err)
{
    struct backend  *be = NULL;
    fake_cuda_start(&(struct fake_cuda_options) {
        .major = 9, .num_sms = 132, .total_bytes = TOTAL_BYTES });
    int  rc = open_backend(&be, &small, err);
    assert_int_equal(rc, OK);
    rc = be->ops->reserve(be, &(struct backend_limits) {
        .max_num_batched_tokens = 64, .max_num_seqs = 4096,
        .max_num_logits = 64, .max_blocks_per_seq = blocks_per_seq,
        .max_model_len = 1 << 23, .row_elems_max = 64 }, err);
    be->ops->destroy(be);
    fake_cuda_end();
    return rc;
}

/* What unpack addresses by 32 bits: 4,096 tables of 262,144 blocks are 4 GiB. */
static void
step_arrays_of_4_gib_are_refused_with_the_options(void **state)
{
    struct err  err = { 0 };
    (void) state;
    assert_int_equal(reserve(261000, &err), OK);
    assert_int_equal(reserve(1 << 18, &err), ERROR);
    assert_non_null(strstr(err.message, "--max-num-seqs"));
    assert_non_null(strstr(err.message, "--max-model-len"));
    assert_int_equal(reserve(1 << 20, &err), ERROR);
    assert_non_null(strstr(err.message, "4294967295"));
}

/* ---- all ----------------------------------------------------------------------------------- */

static void
every_kernel_was_launched(void **state)
{
    (void) state;
    for (int i = 0; i < FAKE_KERNELS; i++) {
        if (launched[i] == 0) {
            fail_msg("%s was never launched",
                     fake_cuda_kernel_name((enum fake_kernel) i));
        }
    }
}

static int
remove_dir(void **state)
{
    char  path[256];
    (void) state;
    config_path(path);
    (void) unlink(path);
    return rmdir(dir);
}

int
main(int argc, char **argv)
{
    struct CMUnitTest  tests[SHAPES + 4];
    char               names[SHAPES][80];
    size_t             num = 0;
    const struct CMUnitTest  fixed[] = {
        cmocka_unit_test(hopper_kernels_and_programmatic_launches_are_for_hopper),
        cmocka_unit_test(a_failed_call_is_told_with_an_option_and_leaves_nothing),
        cmocka_unit_test(step_arrays_of_4_gib_are_refused_with_the_options),
        cmocka_unit_test(every_kernel_was_launched),
    };
    for (; num < SHAPES; num++) {
        (void) snprintf(names[num], sizeof names[num],
                        "random_steps_are_issued_right_with_%s",
                        shapes[num].name);
        tests[num] = (struct CMUnitTest) {
            .name = names[num], .test_func = random_steps_are_issued_right,
            .initial_state = (void *) (uintptr_t) &shapes[num] };
    }
    memcpy(tests + num, fixed, sizeof fixed);
    log_level = LOG_ALERT;       /* biases with fp8 are meant */
    if (argc > 1) {
        first_seed = strtoull(argv[1], NULL, 10);
    }
    if (argc > 2) {
        num_seeds = atoi(argv[2]);
    }
    if (mkdtemp(dir) == NULL) {
        return 1;
    }
    return cmocka_run_group_tests_name("model_cuda", tests, NULL, remove_dir);
}
