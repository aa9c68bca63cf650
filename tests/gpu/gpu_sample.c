/* gpu_sample.c - token ids on the GPU against the host's sampler, bit for bit,
 * and their way into the next step. */
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sample/sampler.h"

#define SAMPLE_ROWS  256      /* of one call, at most */
#define MASKS_MAX    80

static bool
has_sampler(void)
{
    if (run.cuda->ops->sample == NULL) {
        printf("#   skipped: %s does not sample\n", run.cuda->ops->name);
    }
    return run.cuda->ops->sample != NULL;
}

/* Ties, flat rows, peaks, -0, all of one sign, and now and then what no model
 * should give. */
static void
random_logits(float *x, int vocab)
{
    static const float  scales[] = { 0.0f, 0.01f, 1.0f, 6.0f, 30.0f };
    float  scale = scales[random_below(5)];
    int    kind = random_below(14);
    for (int i = 0; i < vocab; i++) {
        float  v = random_value();
        x[i] = v * v * v * scale;
        if (kind < 4) {
            x[i] = rintf(x[i] * 2.0f) / 2.0f;      /* equal logits, -0 too */
        }
        if (kind == 4 && random_below(3) > 0) {
            x[i] = -INFINITY;
        }
        if (kind == 6) {
            x[i] += 20.0f;
        }
    }
    if (kind == 5) {
        x[random_below(vocab)] = 40.0f;
    }
    if (random_below(40) == 0) {
        static const float  bad[] = { NAN, INFINITY, -NAN, 3e38f };
        x[random_below(vocab)] = bad[random_below(4)];
    }
    if (random_below(60) == 0) {
        for (int i = 0; i < vocab; i++) {
            x[i] = -INFINITY;
        }
    }
}

static struct sample_row
random_row(int vocab, int32_t *masked)
{
    static const float  temperatures[] = { 0.0f, 1e-6f, 0.2f, 0.7f, 1.0f,
                                           1.0f, 2.0f, 1e-4f, 100.0f };
    static const float  top_ps[] = { 1.0f, 1.0f, 0.9f, 0.5f, 0.999f, 1e-6f,
                                     0.99999f };
    static const float  min_ps[] = { 0.0f, 0.0f, 0.0f, 0.05f, 1.0f, 1e-4f };
    struct sample_row   r = {
        .temperature = temperatures[random_below(9)],
        .top_p = top_ps[random_below(7)], .min_p = min_ps[random_below(6)],
        .seed = (uint64_t) random_bits() << 32 | random_bits(),
        .position = random_below(100000), .masked_ids = masked };
    switch (random_below(6)) {
    case 0:
        r.top_k = 1 + random_below(3);
        break;
    case 1:
        r.top_k = 1 + random_below(100);
        break;
    case 2:
        r.top_k = 1 + random_below(vocab + 5);
        break;
    default:
        break;
    }
    if (random_below(4) == 0) {
        r.num_masked = random_below(MASKS_MAX);
        for (int i = 0; i < r.num_masked; i++) {
            masked[i] = random_below(vocab + 10) - 5;
        }
    }
    return r;
}

/* `num_rows` rows in calls of up to rows_max.  One call in five is all greedy,
 * one in five without top_k and top_p; a temperature that only the kernels
 * without clusters take sends one in eight to them. */
static void
sample_vocab(int vocab, int num_rows, int rows_max)
{
    static struct sample_row  rows[SAMPLE_ROWS];
    static int32_t            masked[SAMPLE_ROWS][MASKS_MAX];
    int32_t          ids[SAMPLE_ROWS];
    struct err       err = { 0 };
    struct sampler  *sampler;
    struct tensor    host = host_tensor(DTYPE_F32, rows_max, vocab);
    struct tensor    dev = to_backend(run.cuda, &host);
    float           *x = host.data;
    require(sampler_create(&sampler, vocab, &err), &err, "sampler");
    for (int done = 0; done < num_rows;) {
        int  num = 1 + random_below(random_below(4) ? rows_max : 4);
        int  kind = random_below(5), slow = random_below(8);
        for (int i = 0; i < num; i++) {
            random_logits(x + (size_t) i * (size_t) vocab, vocab);
            rows[i] = random_row(vocab, masked[i]);
            if (kind == 0) {
                rows[i].temperature = 0.0f;
            } else if (kind == 1) {
                rows[i].top_k = 0;
                rows[i].top_p = 1.0f;
            }
        }
        if (slow == 0) {
            rows[0].temperature = 1e31f;
        }
        run.cuda->ops->upload(run.cuda, dev.data, x, (size_t) num
                              * (size_t) vocab * sizeof *x);
        run.cuda->ops->sample(run.cuda, &(struct sample_args) {
            .logits = dev, .num_rows = num, .rows = rows });
        require(run.cuda->ops->sampled(run.cuda, ids, &err), &err, "sampled");
        for (int i = 0; i < num; i++) {
            struct sampling_params  p = {
                .temperature = rows[i].temperature, .top_p = rows[i].top_p,
                .min_p = rows[i].min_p, .top_k = rows[i].top_k,
                .seed = rows[i].seed };
            int32_t  want = sampler_sample(
                sampler, x + (size_t) i * (size_t) vocab,
                &(struct sampler_row) {
                    .params = &p, .position = rows[i].position,
                    .masked_ids = rows[i].masked_ids,
                    .num_masked = rows[i].num_masked });
            if (ids[i] != want) {
                complain("vocabulary %d: %d, want %d (temperature %g top_k %d "
                         "top_p %g min_p %g masked %d)", vocab, ids[i], want,
                         (double) p.temperature, p.top_k, (double) p.top_p,
                         (double) p.min_p, rows[i].num_masked);
            }
        }
        done += num;
    }
    sampler_destroy(sampler);
    run.cuda->ops->free(run.cuda, dev.data);
    free(host.data);
}

void
test_sampling_equals_the_host_bit_for_bit(void)
{
    static const int  sizes[][3] = {
        { 1, 200, 64 }, { 7, 2000, 256 }, { 255, 4000, 64 }, { 256, 2000, 64 },
        { 257, 2000, 64 }, { 1003, 10000, 256 }, { 5000, 6000, 256 },
        { 32000, 400, 64 }, { 50257, 200, 64 }, { 128256, 500, 256 },
        { 151936, 130, 64 }, { 262144, 70, 32 }, { 1000000, 10, 8 } };
    if (!has_sampler()) {
        return;
    }
    for (int i = 0; i < (run.small ? 6 : 13); i++) {
        sample_vocab(sizes[i][0], run.small ? 100 : sizes[i][1],
                     run.small ? 64 : sizes[i][2]);
    }
}

static void
embed_sampled(const struct weight *w, struct tensor x, const int32_t *rows,
              int num)
{
    struct step  *s = rows_step(num);
    for (int i = 0; i < num; i++) {
        s->ids[i] = rows[i];
    }
    step_begin(run.cuda, s);
    run.cuda->ops->embed(run.cuda, x, w);
    run.cuda->ops->step_end(run.cuda);
}

/* Two samples on their way, the second step fed by the first before the host
 * has seen it; a row with an error gives the next step id 0. */
void
test_sampled_ids_reach_the_next_step_and_the_host_in_order(void)
{
    enum { VOCAB = 3000, NUM = 9, COLS = 16 };
    struct err      err = { 0 };
    struct weight  *w;
    struct tensor   table = host_random(DTYPE_BF16, VOCAB, COLS), x_dev, logits;
    struct tensor   x = host_tensor(DTYPE_BF16, NUM, COLS);
    struct sample_row  rows[NUM] = { { .temperature = 0.0f } };
    if (!has_sampler()) {
        free(table.data);
        free(x.data);
        return;
    }
    require(run.cuda->ops->weight_create(run.cuda, &(struct weight_desc) {
        .kind = WEIGHT_EMBEDDING, .num_parts = 1, .parts = { table } }, &w,
        &err), &err, "weight");
    for (int round = 0; round < 20; round++) {
        int32_t         want[2][NUM], got[NUM], next[NUM];
        struct tensor   host[2];
        for (int n = 0; n < 2; n++) {
            host[n] = host_tensor(DTYPE_F32, NUM, VOCAB);
            for (int i = 0; i < NUM; i++) {
                want[n][i] = random_below(VOCAB);
                ((float *) host[n].data)[i * VOCAB + want[n][i]] = 1.0f;
            }
        }
        ((float *) host[0].data)[VOCAB * 4 + 77] = NAN;
        want[0][4] = SAMPLE_NUMERIC_ERROR;
        for (int i = 0; i < NUM; i++) {
            next[i] = i == 0 ? 5 : INPUT_SAMPLED((i * 4 + round) % NUM);
        }
        x_dev = to_backend(run.cuda, &x);
        logits = to_backend(run.cuda, &host[0]);
        struct tensor  second = to_backend(run.cuda, &host[1]);
        run.cuda->ops->sample(run.cuda, &(struct sample_args) {
            .logits = logits, .num_rows = NUM, .rows = rows });
        embed_sampled(w, x_dev, next, NUM);
        run.cuda->ops->sample(run.cuda, &(struct sample_args) {
            .logits = second, .num_rows = NUM, .rows = rows });
        for (int n = 0; n < 2; n++) {
            require(run.cuda->ops->sampled(run.cuda, got, &err), &err,
                    "sampled");
            for (int i = 0; i < NUM; i++) {
                if (got[i] != want[n][i]) {
                    complain("sample %d row %d: %d, want %d", n, i, got[i],
                             want[n][i]);
                }
            }
            free(host[n].data);
        }
        struct tensor  out = from_backend(run.cuda, &x_dev);
        for (int i = 0; i < NUM; i++) {
            int32_t  id = i == 0 ? 5 : want[0][(i * 4 + round) % NUM];
            size_t   bytes = COLS * dtype_bytes(DTYPE_BF16);
            id = id < 0 ? 0 : id;
            if (memcmp((char *) out.data + (size_t) i * bytes,
                       (char *) table.data + (size_t) id * bytes, bytes) != 0)
            {
                complain("row %d is not the embedding of %d", i, id);
            }
        }
        free(out.data);
        run.cuda->ops->free(run.cuda, logits.data);
        run.cuda->ops->free(run.cuda, second.data);
    }
    run.cuda->ops->weight_destroy(run.cuda, w);
    free(table.data);
    free(x.data);
}
