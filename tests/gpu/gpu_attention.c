/* gpu_attention.c - attention over the paged cache.
 *
 * Every key that a step may read is random, everything else in the cache is
 * NaN, and tables end in block ids that no memory has.  Sequences of a large
 * step share blocks. */
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS_MAX    400           /* of a cache */
#define STALE_BLOCK   0x7ffffff0

/* Random keys and values of exactly the blocks and tokens the step's tables
 * give to its sequences; everything else stays NaN.  Tables end in ids that
 * no memory has. */
static struct tensor
fill_cache(const struct cache_case *c, struct step *s)
{
    struct tensor  t = host_cache(c);
    int            order[BLOCKS_MAX], next = 0;
    for (int i = 0; i < c->num_blocks - 1; i++) {
        order[i] = i + 1;
    }
    for (int i = c->num_blocks - 2; i > 0; i--) {
        int  j = random_below(i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (int i = 0; i < SEQS_MAX * TABLE_MAX; i++) {
        s->tables[i] = STALE_BLOCK;
    }
    for (int q = 0; q < s->num_seqs; q++) {
        int32_t  *table = s->tables + q * TABLE_MAX;
        for (int key = 0; key < s->context[q]; key++) {
            int32_t  *block = &table[key / c->block_size];
            if (*block == STALE_BLOCK) {
                if (next == c->num_blocks - 1) {
                    printf("the test needs more than %d blocks\n",
                           c->num_blocks);
                    exit(1);
                }
                *block = order[next++];
            }
            int  slot = *block * c->block_size + key % c->block_size;
            for (int h = 0; h < 2 * c->kv_heads; h++) {
                size_t  at = cache_row(c, h % 2, slot, h / 2)
                             * (size_t) c->head_dim;
                for (int d = 0; d < c->head_dim; d++, at++) {
                    float  x = random_value() / (float) cache_scale(c, h % 2);
                    cpu_kernels_plain.narrow((char *) t.data + at
                                             * dtype_bytes(c->kv_dtype),
                                             c->kv_dtype, &x, 1);
                }
            }
        }
    }
    return t;
}

static struct tensor
run_attention(struct backend *be, const struct cache_case *c,
              const struct step *s, const struct tensor in[2])
{
    struct tensor    qkv = to_backend(be, &in[0]);
    struct tensor    cache = to_backend(be, &in[1]);
    struct tensor    host = host_tensor(c->dtype, s->num_tokens + 2,
                                        c->heads * c->head_dim);
    struct kv_cache  kv = kv_of(c, cache.data);
    memset(host.data, 0xff, tensor_bytes(&host));
    struct tensor  out = to_backend(be, &host);
    step_begin(be, s);
    be->ops->attention(be, &(struct attention_args) {
        .out = out, .qkv = qkv, .kv = &kv, .layer_idx = 1,
        .num_heads = c->heads, .sliding_window = c->window,
        .scale = 1.0f / sqrtf((float) c->head_dim) });
    be->ops->step_end(be);
    free(host.data);
    host = from_backend(be, &out);
    be->ops->free(be, qkv.data);
    be->ops->free(be, cache.data);
    return host;
}

/* q random; the k and v parts of qkv undefined. */
static struct tensor
random_q(const struct cache_case *c, int num)
{
    struct tensor  t = host_random(c->dtype, num + 2, qkv_cols(c));
    size_t         row = (size_t) qkv_cols(c) * dtype_bytes(c->dtype);
    size_t         q = (size_t) (c->heads * c->head_dim)
                       * dtype_bytes(c->dtype);
    for (int i = 0; i < num; i++) {
        memset((char *) t.data + (size_t) i * row + q, 0xff, row - q);
    }
    return t;
}

static void
attention_one(const struct cache_case *c, struct step *s)
{
    int            before = run.messages;
    struct tensor  in[2] = { random_q(c, s->num_tokens), fill_cache(c, s) };
    struct tensor  want = run_attention(run.cpu, c, s, in);
    struct tensor  got = run_attention(run.cuda, c, s, in);
    struct tensor  again = run_attention(run.cuda, c, s, in);
    size_t         cols = (size_t) (c->heads * c->head_dim);
    size_t         num = (size_t) s->num_tokens * cols;
    /* |V| <= 1.  P is rounded once on either side; fp32 sums and exp. */
    double  p = c->dtype == DTYPE_F32 ? 0.0 : half_ulp(c->dtype, 1.0);
    for (size_t i = 0; i < num; i++) {
        double  w = (double) elem(&want, i);
        compare((double) elem(&got, i), w, 2 * half_ulp(c->dtype, w) + p
                + 1e-5);
    }
    if (memcmp(got.data, again.data, tensor_bytes(&got)) != 0) {
        complain("the same step gave other bits the second time");
    }
    for (size_t i = num; i < num + 2 * cols; i++) {
        if (!isnan(elem(&got, i))) {
            complain("a row past num_tokens was written");
            break;
        }
    }
    if (run.messages > before && run.messages < 20) {
        printf("#   in %s kv %s heads %d/%d head_dim %d block %d window %d\n",
               dtype_name(c->dtype), dtype_name(c->kv_dtype), c->heads,
               c->kv_heads, c->head_dim, c->block_size, c->window);
    }
    struct tensor *const  all[] = { &in[0], &in[1], &want, &got, &again };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

static const int  attention_dims[] = { 64, 96, 128, 256, 20 };

static void
attention_grid(void (*fill)(struct step *s), int num_blocks, bool fp8)
{
    static const int    groups[] = { 1, 2, 3, 4, 5, 6, 7, 8, 16 };
    static struct step  s;
    int                 i = 0;
    for (int d = 0; d < 5; d++) {
        for (int g = 0; g < 9; g += run.small ? 4 : 1, i++) {
            struct cache_case  c = {
                .dtype = i % 5 == 4 ? DTYPE_F16 : i % 11 == 10 ? DTYPE_F32
                         : DTYPE_BF16,
                .heads = groups[g] * (g % 2 + 1), .kv_heads = g % 2 + 1,
                .head_dim = attention_dims[d], .block_size = 16 << i % 3,
                .num_blocks = num_blocks,
                .window = i % 4 == 3 ? 1 + random_below(200) : 0 };
            c.kv_dtype = fp8 ? DTYPE_F8_E4M3
                         : i % 13 == 12 ? DTYPE_F16 : c.dtype;
            s = (struct step) { .num_tokens = 0 };
            fill(&s);
            attention_one(&c, &s);
        }
    }
}

static void
fill_decode(struct step *s)
{
    static const int  lens[] = { 1, 2, 15, 16, 17, 33, 63, 64, 65, 127, 128,
                                 255, 256, 257, 300, 511, 513, 640 };
    int               num = run.small ? 14 : 18;
    for (int i = 0; i < num; i++) {
        step_add(s, 1, lens[i]);
    }
}

static void
fill_prefill(struct step *s)
{
    static const int  queries[] = { 2, 63, 64, 65, 16, 9, 40 };
    static const int  before[] = { 0, 0, 0, 0, 48, 100, 31 };
    for (int i = run.small ? 3 : 0; i < 7; i++) {
        step_add(s, queries[i], queries[i] + before[i]);
    }
}

static void
fill_mixed(struct step *s)
{
    for (int i = 0; i < 14; i++) {
        int  len = i % 3 == 0 ? 1 + random_below(60) : 1;
        step_add(s, len, len + random_below(180));
    }
}

void
test_decode_attention_for_all_head_sizes_and_groups(void)
{
    attention_grid(fill_decode, 300, false);
}

void
test_prefill_attention_for_all_head_sizes_and_groups(void)
{
    attention_grid(fill_prefill, 60, false);
}

void
test_mixed_steps_of_decode_and_prefill(void)
{
    attention_grid(fill_mixed, 260, false);
}

void
test_attention_over_an_fp8_cache(void)
{
    attention_grid(fill_decode, 300, true);
    attention_grid(fill_prefill, 60, true);
    attention_grid(fill_mixed, 260, true);
}

void
test_long_contexts_are_split_and_merged(void)
{
    static struct step  s;
    for (int i = 0; i < 8; i++) {
        s = (struct step) { .num_tokens = 0 };
        step_add(&s, 1, 4096);
        step_add(&s, 1, 7000);
        step_add(&s, 1, 30);
        step_add(&s, 5, 4100);
        attention_one(&(struct cache_case) {
            .dtype = DTYPE_BF16,
            .kv_dtype = i < 4 ? DTYPE_BF16 : DTYPE_F8_E4M3, .heads = 8,
            .kv_heads = 2, .head_dim = i % 2 ? 128 : 64, .block_size = 64,
            .num_blocks = 260, .window = i % 4 < 2 ? 0 : 1000 }, &s);
    }
}

/* Long contexts in the same blocks, each in an order of its own. */
static void
fill_large(struct step *s, struct step *whole, const struct cache_case *c)
{
    *s = (struct step) { .model_id = random_bits() | (uint64_t) 1 << 40 };
    for (int i = 0; i < SEQS_MAX; i++) {
        step_add(s, 1, c->block_size * 96
                       + random_below(c->block_size * 32 + 1));
    }
    for (int i = 0; i < SEQS_MAX * TABLE_MAX; i++) {
        s->tables[i] = STALE_BLOCK;
    }
    for (int seq = 0; seq < SEQS_MAX; seq++) {
        int  num = (s->context[seq] + c->block_size - 1) / c->block_size;
        for (int b = 0; b < num; b++) {
            s->tables[seq * TABLE_MAX + b] =
                whole->tables[(b * 5 + seq * 3) % 64];
        }
    }
}

/* Enough keys for the kernel that gives every warp an equal share; with one kv
 * head, the last two, for cut rows in the one that gives blocks their shares. */
void
test_large_decode_steps_share_the_keys(void)
{
    static struct step  s, whole;
    for (int i = 0; i < 10; i++) {
        struct cache_case  c = {
            .dtype = i % 4 == 3 ? DTYPE_F16 : DTYPE_BF16, .heads = i < 8 ? 16 : 7,
            .kv_heads = i < 8 ? 8 : 1, .head_dim = i > 4 && i < 9 ? 64 : 128,
            .block_size = i % 2 ? 64 : 32, .num_blocks = 70,
            .window = i % 4 == 2 ? 1500 : 0 };
        c.kv_dtype = i % 4 == 0 || i > 8 ? c.dtype : DTYPE_F8_E4M3;
        if (run.small && i > 1) {
            return;
        }
        whole = (struct step) { .num_tokens = 0 };
        step_add(&whole, 1, c.block_size * 64);
        struct tensor  cache = fill_cache(&c, &whole);
        fill_large(&s, &whole, &c);
        struct tensor  in[2] = { random_q(&c, s.num_tokens), cache };
        struct tensor  want = run_attention(run.cpu, &c, &s, in);
        struct tensor  first = run_attention(run.cuda, &c, &s, in);
        struct tensor  got = run_attention(run.cuda, &c, &s, in);
        size_t         num = (size_t) (s.num_tokens * c.heads * c.head_dim);
        for (size_t j = 0; j < num; j++) {
            double  w = (double) elem(&want, j);
            double  bound = 2 * half_ulp(c.dtype, w) + half_ulp(c.dtype, 1.0)
                            + 1e-5;
            compare((double) elem(&got, j), w, bound);
            compare((double) elem(&first, j), w, bound);
        }
        struct tensor *const  all[] = { &in[0], &in[1], &want, &first, &got };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            free(all[k]->data);
        }
    }
}

/* ---- rope, append and attention in one step ------------------------------------------ */

struct fused_result {
    struct tensor out, cache;
};

/* in: qkv, cache, cos_sin, norm weight. */
static struct fused_result
run_fused(struct backend *be, const struct cache_case *c,
          const struct step *s, const struct tensor in[4])
{
    struct tensor    qkv = to_backend(be, &in[0]);
    struct tensor    cache = to_backend(be, &in[1]);
    struct tensor    cos_sin = to_backend(be, &in[2]);
    struct tensor    host = host_tensor(c->dtype, s->num_tokens + 2,
                                        c->heads * c->head_dim);
    struct kv_cache  kv = kv_of(c, cache.data);
    struct weight   *norm = norm_weight(be, c, in[3]);
    memset(host.data, 0xff, tensor_bytes(&host));
    struct tensor  out = to_backend(be, &host);
    free(host.data);
    step_begin(be, s);
    rope_and_append(be, c, qkv, cos_sin, &kv, norm);
    be->ops->attention(be, &(struct attention_args) {
        .out = out, .qkv = qkv, .kv = &kv, .layer_idx = 1,
        .num_heads = c->heads, .sliding_window = c->window,
        .scale = 1.0f / sqrtf((float) c->head_dim) });
    be->ops->step_end(be);
    struct fused_result  r = { .out = from_backend(be, &out) };
    r.cache = from_backend(be, &cache);
    be->ops->free(be, qkv.data);
    be->ops->free(be, cos_sin.data);
    be->ops->weight_destroy(be, norm);
    return r;
}

/* Quarter turns: rotation is exact, and says which elements belong together. */
static struct tensor
quarter_turns(int head_dim)
{
    struct tensor  t = host_tensor(DTYPE_F32, LEN_MAX, head_dim);
    float         *x = t.data;
    int            half = head_dim / 2;
    for (int i = 0; i < LEN_MAX * half; i++) {
        int  turn = random_below(4), at = i / half * head_dim + i % half;
        x[at] = turn % 2 ? 0.0f : (float) (1 - turn);
        x[at + half] = turn % 2 ? (float) (2 - turn) : 0.0f;
    }
    return t;
}

/* The step's own keys are NaN in the cache before it, but for every third row,
 * which has no slot. */
static void
give_slots(const struct cache_case *c, struct step *s, struct tensor *cache)
{
    size_t  row = (size_t) c->head_dim * dtype_bytes(c->kv_dtype);
    for (int q = 0; q < s->num_seqs; q++) {
        int  key = s->context[q] - 1;
        int  slot = s->tables[q * TABLE_MAX + key / c->block_size]
                    * c->block_size + key % c->block_size;
        s->slots[q] = q % 3 == 2 ? SLOT_PADDING : slot;
        for (int h = 0; q % 3 != 2 && h < 2 * c->kv_heads; h++) {
            memset((char *) cache->data
                   + cache_row(c, h % 2, slot, h / 2) * row, 0xff, row);
        }
    }
}

static void
compare_fused(const struct cache_case *c, const struct step *s,
              const struct fused_result *want, const struct fused_result *got)
{
    /* normed elements may be rounded to a neighbour, see rope_one() */
    double  flip = c->norm ? 12 * 4.0 * half_ulp(c->dtype, 1.0) : 0.0;
    size_t  num = (size_t) (s->num_tokens * c->heads * c->head_dim);
    for (size_t i = 0; i < num; i++) {
        double  w = (double) elem(&want->out, i);
        compare((double) elem(&got->out, i), w,
                2 * half_ulp(c->dtype, w)
                + (c->norm ? 6 : 1) * half_ulp(c->dtype, 1.0) + 1e-5);
    }
    for (size_t i = 0; i < tensor_elems(&want->cache); i++) {
        double  w = (double) elem(&want->cache, i);
        double  g = (double) elem(&got->cache, i);
        if (both_numbers(i, g, w) && w != g) {
            compare(g, w, flip);
        }
    }
}

/* 5 to 8 rows of many keys, the first so long that it is cut.  With a window, be
 * it longer than they are, such a step is not one launch. */
static void
fill_few(struct step *s)
{
    for (int i = 5 + random_below(4); i > 0; i--) {
        step_add(s, 1, (s->num_seqs == 0 ? 2000 : 800) + random_below(300));
    }
}

/* Twice under one model_id: the first step teaches the backend, which then has
 * one kernel for all of it. */
static void
fused_one(const struct cache_case *c, void (*fill)(struct step *s))
{
    static struct step  s;
    s = (struct step) { .model_id = random_bits() | (uint64_t) 1 << 40 };
    fill(&s);
    struct tensor  in[4] = {
        host_random(c->dtype, s.num_tokens + 2, qkv_cols(c)),
        fill_cache(c, &s), quarter_turns(c->head_dim),
        host_random(c->dtype, c->head_dim, 0) };
    give_slots(c, &s, &in[1]);
    int                  before = run.messages;
    struct fused_result  r[3] = { run_fused(run.cpu, c, &s, in),
                                  run_fused(run.cuda, c, &s, in),
                                  run_fused(run.cuda, c, &s, in) };
    compare_fused(c, &s, &r[0], &r[1]);
    compare_fused(c, &s, &r[0], &r[2]);
    if (run.messages > before && run.messages < 20) {
        printf("#   in %s heads %d/%d head_dim %d block %d window %d norm %d\n",
               dtype_name(c->dtype), c->heads, c->kv_heads, c->head_dim,
               c->block_size, c->window, c->norm);
    }
    for (int i = 0; i < 3; i++) {
        free(r[i].out.data);
        free(r[i].cache.data);
    }
    for (int i = 0; i < 4; i++) {
        free(in[i].data);
    }
}

void
test_rope_append_and_attention_of_a_step_agree(void)
{
    static const int  groups[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16 };
    for (int i = 0; i < (run.small ? 6 : 44); i++) {
        int  group = groups[(run.small ? 3 * i : i) % 11];
        struct cache_case  c = {
            .dtype = i % 5 == 4 ? DTYPE_F16 : DTYPE_BF16,
            .heads = group * (1 + i % 2), .kv_heads = 1 + i % 2,
            .head_dim = i % 4 < 2 ? 128 : 64, .block_size = 16 << i % 3,
            .num_blocks = (4800 >> (4 + i % 3)) + 1, .norm = i % 3 == 1,
            .window = i % 7 == 6 ? 1 + random_below(200) : 0 };
        c.kv_dtype = i % 11 == 10 ? DTYPE_F8_E4M3 : c.dtype;
        c.norm &= c.kv_dtype == c.dtype;
        fused_one(&c, fill_decode);
    }
    for (int i = 0; i < (run.small ? 1 : 3); i++) {
        fused_one(&(struct cache_case) {
            .dtype = DTYPE_BF16, .kv_dtype = DTYPE_BF16,
            .heads = i == 1 ? 8 : 32, .kv_heads = 8, .head_dim = i < 2 ? 128 : 64,
            .block_size = 64, .num_blocks = 170, .norm = i == 1,
            .window = i == 0 ? 5000 : 0 }, fill_few);
    }
}

/* Decode attention of a row is the same bits alone and in a batch, wherever
 * its blocks lie. */
static void
alone_and_in_a_batch(enum dtype kv_dtype)
{
    static struct step  all, one;
    struct cache_case   c = {
        .dtype = DTYPE_BF16, .kv_dtype = kv_dtype, .heads = 8,
        .kv_heads = 2, .head_dim = 128, .block_size = 32, .num_blocks = 120 };
    all = (struct step) { .num_tokens = 0 };
    fill_decode(&all);
    struct tensor  in[2] = { random_q(&c, all.num_tokens),
                             fill_cache(&c, &all) };
    struct tensor  whole = run_attention(run.cuda, &c, &all, in);
    size_t         row = (size_t) (c.heads * c.head_dim) * 2;
    for (int i = 0; i < all.num_seqs; i++) {
        struct tensor  q = in[0];
        one = (struct step) { .num_tokens = 0 };
        step_add(&one, 1, all.context[i]);
        memcpy(one.tables, all.tables + i * TABLE_MAX, TABLE_MAX
               * sizeof *one.tables);
        q.data = (char *) q.data + (size_t) i * (size_t) qkv_cols(&c) * 2;
        q.shape[0] = 1;
        struct tensor  alone = run_attention(run.cuda, &c, &one,
                                             (struct tensor [2]) { q, in[1] });
        if (memcmp((char *) whole.data + (size_t) i * row, alone.data, row)
            != 0)
        {
            complain("context %d differs alone", all.context[i]);
        }
        free(alone.data);
    }
    free(in[0].data);
    free(in[1].data);
    free(whole.data);
}

void
test_decode_attention_does_not_depend_on_the_batch(void)
{
    alone_and_in_a_batch(DTYPE_BF16);
    alone_and_in_a_batch(DTYPE_F8_E4M3);
}

/* One sequence's NaN is its own affair. */
static void
nan_in_a_cache(enum dtype kv_dtype, int head_dim)
{
    static struct step  s;
    struct cache_case   c = {
        .dtype = DTYPE_BF16, .kv_dtype = kv_dtype, .heads = 4,
        .kv_heads = 1, .head_dim = head_dim, .block_size = 16, .num_blocks = 60 };
    s = (struct step) { .num_tokens = 0 };
    step_add(&s, 1, 70);
    step_add(&s, 1, 300);
    step_add(&s, 20, 90);
    step_add(&s, 20, 90);
    struct tensor  in[2] = { random_q(&c, s.num_tokens), fill_cache(&c, &s) };
    for (int q = 1; q < 4; q += 2) {      /* key 3 of the second and fourth */
        int  slot = s.tables[q * TABLE_MAX] * c.block_size + 3;
        size_t  row = (size_t) head_dim * dtype_bytes(kv_dtype);
        memset((char *) in[1].data + cache_row(&c, 1, slot, 0) * row, 0xff,
               row);
    }
    struct tensor  got = run_attention(run.cuda, &c, &s, in);
    for (int r = 0; r < s.num_tokens; r++) {
        bool  want = r == 1 || r >= 22;
        for (int d = 0; d < 4 * head_dim; d++) {
            size_t  at = (size_t) (r * 4 * head_dim + d);
            if (isnan(elem(&got, at)) != want) {
                complain("row %d: %s", r, want ? "NaN was lost"
                                               : "NaN came over");
                break;
            }
        }
    }
    free(in[0].data);
    free(in[1].data);
    free(got.data);
}

void
test_nan_stays_in_its_sequence(void)
{
    nan_in_a_cache(DTYPE_BF16, 64);
    nan_in_a_cache(DTYPE_F8_E4M3, 64);
    nan_in_a_cache(DTYPE_F8_E4M3, 128);
    nan_in_a_cache(DTYPE_F8_E4M3, 20);
}
