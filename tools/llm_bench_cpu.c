/* llm_bench_cpu.c - decode and prefill speed of the CPU backend, beside the
 * time the same threads need to read the weights once.
 *
 * usage: nginx-llm-bench_cpu DIR [THREADS [STEPS [plain|avx2|avx512]]]
 *
 * DIR needs a config.json only: when it has no model.safetensors, the weights
 * are random.  The floor is measured before and between the steps, on the same
 * memory, by plain 64-byte loads; a decode step must read the same bytes, so
 * floor / step is the share of the bandwidth the step reaches. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/base/clock.h"
#include "engine/model/model.h"

#define PROMPT_TOKENS  128
#define CONTEXT_MAX    1024
#define STEPS_DEFAULT  16
#define FLOOR_EVERY    4      /* steps between two measurements of the floor */

/* ---- the floor: reading the weights once ---------------------------------- */

struct reader {
    pthread_t       thread;
    const uint64_t *data;
    size_t          num_words;   /* a multiple of 8 */
    uint64_t        sum;
};

/* Four streams a thread, as the kernels have: one alone does not fill the
 * memory pipeline. */
static void *
read_words(void *data)
{
    struct reader   *r = data;
    size_t           quarter = r->num_words / 4;
    const uint64_t  *p[4] = { r->data, r->data + quarter,
                              r->data + 2 * quarter, r->data + 3 * quarter };
    uint64_t         sum[4] = { 0 };
    for (size_t i = 0; i + 8 <= quarter; i += 8) {
        for (size_t s = 0; s < 4; s++) {
            const uint64_t  *q = p[s] + i;
            sum[s] ^= q[0] ^ q[1] ^ q[2] ^ q[3] ^ q[4] ^ q[5] ^ q[6] ^ q[7];
        }
    }
    r->sum = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    return NULL;
}

/* Seconds for num_threads threads to read all bytes once; best of rounds. */
static double
read_seconds(const void *data, size_t bytes, int num_threads, int rounds)
{
    double          best = 1e9;
    struct reader  *readers = calloc((size_t) num_threads, sizeof *readers);
    size_t          words = bytes / 64 / (size_t) num_threads * 8;
    if (readers == NULL) {
        return best;
    }
    for (int round = 0; round < rounds; round++) {
        int64_t  start = clock_now_ns();
        for (int i = 0; i < num_threads; i++) {
            readers[i].data = (const uint64_t *) data + (size_t) i * words;
            readers[i].num_words = words;
            if (pthread_create(&readers[i].thread, NULL, read_words,
                               &readers[i]) != 0)
            {
                abort();
            }
        }
        for (int i = 0; i < num_threads; i++) {
            pthread_join(readers[i].thread, NULL);
        }
        double  seconds = (double) (clock_now_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    free(readers);
    return best;
}

/* The weights' memory: the random block or the largest tensor's file. */
static double
floor_seconds(const struct model *m, int num_threads, int rounds)
{
    const struct weights  *w = &m->weights;
    const void            *data = w->dummy;
    size_t                 bytes = w->bytes;
    if (data == NULL) {
        const struct safetensors_entry  *e = safetensors_entry_at(w->files, 0);
        for (size_t i = 1; i < safetensors_num_tensors(w->files); i++) {
            const struct safetensors_entry  *f =
                safetensors_entry_at(w->files, i);
            e = f->tensor.data < e->tensor.data ? f : e;
        }
        data = e->tensor.data;
        bytes = w->bytes < safetensors_data_bytes(w->files)
                ? w->bytes : safetensors_data_bytes(w->files);
        bytes -= bytes > (1 << 20) ? 1 << 20 : 0;    /* the header's share */
    }
    return read_seconds(data, bytes, num_threads, rounds) * (double) w->bytes
           / (double) bytes;
}

/* ---- steps ------------------------------------------------------------------ */

static int
run_step(struct model *m, struct batch *b, const int32_t *block_ids,
         int position, int num_tokens)
{
    int32_t       ids[PROMPT_TOKENS];
    const float  *logits;
    struct err    err = { 0 };
    for (int i = 0; i < num_tokens; i++) {
        ids[i] = (position + i) * 7919 % m->config.vocab_size;
    }
    batch_reset(b);
    (void) batch_append(b, &(struct batch_seq) {
        .token_ids = ids, .query_len = num_tokens, .position = position,
        .block_ids = block_ids, .block_size = m->block_size,
        .num_logits = 1 });
    return model_forward(m, b, &logits, &err);
}

static int
bench(struct model *m, int num_threads, int num_steps)
{
    struct batch  batch;
    struct err    err = { 0 };
    int32_t       block_ids[CONTEXT_MAX / 16];
    if (batch_init(&batch, &m->limits, &err) != OK) {
        return ERROR;
    }
    for (int i = 0; i < CONTEXT_MAX / 16; i++) {
        block_ids[i] = i + 1;
    }
    int64_t  start = clock_now_ns();
    int      rc = run_step(m, &batch, block_ids, 0, PROMPT_TOKENS);
    double   prefill = (double) (clock_now_ns() - start) * 1e-9;
    double   floor = floor_seconds(m, num_threads, 3), best = 1e9, sum = 0.0;
    for (int i = 0; i < num_steps && rc == OK; i++) {
        start = clock_now_ns();
        rc = run_step(m, &batch, block_ids, PROMPT_TOKENS + i, 1);
        double  seconds = (double) (clock_now_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
        sum += seconds;
        seconds = i % FLOOR_EVERY != 0 ? floor : floor_seconds(m, num_threads, 1);
        floor = seconds < floor ? seconds : floor;
    }
    batch_destroy(&batch);
    double  bytes = (double) m->weights.bytes;
    printf("weights %.1f MB, %s\n", bytes * 1e-6, m->be->ops->name);
    printf("reading them once   %8.2f ms  %6.2f GB/s\n", floor * 1e3,
           bytes / floor * 1e-9);
    printf("decode, batch 1     %8.2f ms  best of %d (mean %.2f)  %6.2f GB/s, "
           "%.0f %% of the read bandwidth\n", best * 1e3, num_steps,
           sum / num_steps * 1e3, bytes / best * 1e-9, floor / best * 100.0);
    printf("prefill %d tokens  %8.2f ms  %.0f tokens/s\n", PROMPT_TOKENS,
           prefill * 1e3, PROMPT_TOKENS / prefill);
    return rc;
}

int
main(int argc, char **argv)
{
    struct err       err = { 0 };
    struct backend  *be = NULL;
    struct model    *m = NULL;
    char             path[4096];
    int              num_threads = argc > 2 ? atoi(argv[2]) : 0;
    int              num_steps = argc > 3 ? atoi(argv[3]) : STEPS_DEFAULT;
    enum cpu_isa     isa = CPU_ISA_AUTO;

    if (argc < 2 || num_steps < 1 || num_steps > CONTEXT_MAX - PROMPT_TOKENS) {
        fprintf(stderr, "usage: %s DIR [THREADS [STEPS [ISA]]]\n", argv[0]);
        return 2;
    }
    for (int i = CPU_ISA_PLAIN; argc > 4 && i <= CPU_ISA_AVX512; i++) {
        isa = strcmp(argv[4], cpu_isa_name((enum cpu_isa) i)) == 0
              ? (enum cpu_isa) i : isa;
    }
    if (num_threads <= 0) {
        num_threads = (int) sysconf(_SC_NPROCESSORS_ONLN);
    }
    (void) snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
    struct model_options  o = {
        .path = argv[1],
        .load_format = access(path, R_OK) == 0 ? LOAD_AUTO : LOAD_DUMMY,
        .max_model_len = CONTEXT_MAX,
        .num_blocks = CONTEXT_MAX / 16 + 1,
        .max_num_batched_tokens = PROMPT_TOKENS,
        .max_num_seqs = 1,
    };
    int  rc = backend_cpu_create(&be, &(struct backend_cpu_options) {
        .num_threads = num_threads, .isa = isa }, &err);
    if (rc == OK) {
        rc = model_open(&m, &o, be, &err);
    }
    if (rc == OK) {
        rc = bench(m, num_threads, num_steps);
    }
    if (rc != OK) {
        fprintf(stderr, "%s\n", err.message);
    }
    model_close(m);
    if (be != NULL) {
        be->ops->destroy(be);
    }
    return rc == OK ? 0 : 1;
}
