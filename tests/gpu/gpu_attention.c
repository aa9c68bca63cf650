/* gpu_attention.c - what works on the paged cache: rope and append, attention,
 * block copies.
 *
 * Every key that a step may read is random, everything else in the cache is
 * NaN, and tables end in block ids that no memory has. */
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS_MAX    400           /* of a cache */
#define STALE_BLOCK   0x7ffffff0

struct cache_case {
    enum dtype  dtype, kv_dtype;
    int         heads, kv_heads, head_dim, block_size, num_blocks, window;
    bool        norm;
};

static int
qkv_cols(const struct cache_case *c)
{
    return (c->heads + 2 * c->kv_heads) * c->head_dim;
}

/* Two layers of cache as one tensor of rows of head_dim. */
static struct tensor
host_cache(const struct cache_case *c)
{
    struct tensor  t = host_tensor(c->kv_dtype, (int64_t) 4 * c->num_blocks
                                   * c->kv_heads * c->block_size,
                                   c->head_dim);
    memset(t.data, 0xff, tensor_bytes(&t));
    return t;
}

static struct kv_cache
kv_of(const struct cache_case *c, void *data)
{
    return (struct kv_cache) { c->kv_dtype, 2, c->num_blocks, c->block_size,
                               c->kv_heads, c->head_dim, data, NULL };
}

/* Row of host_cache of layer 1. */
static size_t
cache_row(const struct cache_case *c, int is_v, int slot, int head)
{
    return ((((size_t) 2 + (size_t) is_v) * (size_t) c->num_blocks
             + (size_t) (slot / c->block_size)) * (size_t) c->kv_heads
            + (size_t) head) * (size_t) c->block_size
           + (size_t) (slot % c->block_size);
}

struct rope_result {
    struct tensor qkv, cache;
};

static struct rope_result
run_rope(struct backend *be, const struct cache_case *c,
         const struct step *s, const struct tensor in[4])
{
    struct tensor   qkv = to_backend(be, &in[0]);
    struct tensor   cache = to_backend(be, &in[1]);
    struct tensor   cos_sin = to_backend(be, &in[2]);
    struct weight  *norm = NULL;
    struct err      err = { 0 };
    struct kv_cache  kv = kv_of(c, cache.data);
    if (c->norm) {
        require(be->ops->weight_create(be, &(struct weight_desc) {
            .kind = WEIGHT_VECTOR, .num_parts = 1, .parts = { in[3] } }, &norm,
            &err), &err, "norm");
    }
    step_begin(be, s);
    be->ops->qk_norm_rope_append(be, &(struct qk_norm_rope_append_args) {
        .qkv = qkv, .q_norm = { norm, 1e-6f }, .k_norm = { norm, 1e-6f },
        .cos_sin = cos_sin.data, .kv = &kv, .layer_idx = 1,
        .num_heads = c->heads });
    be->ops->step_end(be);
    struct rope_result  r = { .qkv = from_backend(be, &qkv) };
    r.cache = from_backend(be, &cache);
    be->ops->free(be, cos_sin.data);
    be->ops->weight_destroy(be, norm);
    return r;
}

static void
rope_one(const struct cache_case *c)
{
    static struct step  s;
    s = (struct step) { .num_tokens = 0 };
    for (int i = 0; i < 9; i++) {
        step_add(&s, 1 + i % 3, 3 + random_below(100));
    }
    for (int i = 0; i < s.num_tokens; i++) {   /* distinct slots, two rows a
                                                  block at most */
        s.slots[i] = i == 4 ? SLOT_PADDING
                     : (1 + i / 2) * c->block_size + i % 2 * 7;
    }
    struct tensor  in[4] = {
        host_random(c->dtype, s.num_tokens + 1, qkv_cols(c)), host_cache(c),
        host_random(DTYPE_F32, 128, c->head_dim),
        host_random(c->dtype, c->head_dim, 0) };
    struct rope_result  want = run_rope(run.cpu, c, &s, in);
    struct rope_result  got = run_rope(run.cuda, c, &s, in);
    /* |rotated| <= sqrt 2 |value|; a normed value is below 24 here */
    double  flip = !c->norm ? 0.0 : c->dtype == DTYPE_F32 ? 24 * 0x1p-21
                   : 24 * 4.0 * half_ulp(c->dtype, 1.0);
    for (size_t i = 0; i < tensor_elems(&want.qkv); i++) {
        if ((int) (i % (size_t) qkv_cols(c)) < c->heads * c->head_dim) {
            double  w = (double) elem(&want.qkv, i);
            compare((double) elem(&got.qkv, i), w,
                    2 * half_ulp(c->dtype, w) + flip + 16 * 0x1p-23);
        }
    }
    for (size_t i = 0; i < tensor_elems(&want.cache); i++) {
        double  w = (double) elem(&want.cache, i);
        double  g = (double) elem(&got.cache, i);
        if (isnan(w) != isnan(g)) {
            complain("cache element %zu: got %g, want %g", i, g, w);
        } else if (!isnan(w)) {
            compare(g, w, 2 * half_ulp(c->dtype, w)
                    + 2 * half_ulp(c->kv_dtype, w) + flip + 16 * 0x1p-23);
        }
    }
    struct tensor *const  all[] = { &in[0], &in[1], &in[2], &in[3], &want.qkv,
                                    &want.cache, &got.qkv, &got.cache };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

void
test_rope_and_append_write_their_slots_only(void)
{
    static const int  dims[] = { 8, 20, 64, 96, 128, 256 };
    for (int d = 0; d < 6; d++) {
        for (int i = 0; i < 9; i++) {
            rope_one(&(struct cache_case) {
                .dtype = (enum dtype) (DTYPE_F32 + i / 3),
                .kv_dtype = (enum dtype) (DTYPE_F32 + i % 3),
                .heads = 6, .kv_heads = 2 + i % 2, .head_dim = dims[d],
                .block_size = 16 << i % 3, .num_blocks = 16,
                .norm = (d + i) % 2 });
        }
    }
}

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
                    float  x = random_value();
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
attention_grid(void (*fill)(struct step *s), int num_blocks)
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
            c.kv_dtype = i % 13 == 12 ? DTYPE_F16 : c.dtype;
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
    attention_grid(fill_decode, 300);
}

void
test_prefill_attention_for_all_head_sizes_and_groups(void)
{
    attention_grid(fill_prefill, 60);
}

void
test_mixed_steps_of_decode_and_prefill(void)
{
    attention_grid(fill_mixed, 260);
}

void
test_long_contexts_are_split_and_merged(void)
{
    static struct step  s;
    for (int i = 0; i < 4; i++) {
        s = (struct step) { .num_tokens = 0 };
        step_add(&s, 1, 4096);
        step_add(&s, 1, 7000);
        step_add(&s, 1, 30);
        step_add(&s, 5, 4100);
        attention_one(&(struct cache_case) {
            .dtype = DTYPE_BF16, .kv_dtype = DTYPE_BF16, .heads = 8,
            .kv_heads = 2, .head_dim = i % 2 ? 128 : 64, .block_size = 64,
            .num_blocks = 260, .window = i < 2 ? 0 : 1000 }, &s);
    }
}

/* Decode attention of a row is the same bits alone and in a batch, wherever
 * its blocks lie. */
void
test_decode_attention_does_not_depend_on_the_batch(void)
{
    static struct step  all, one;
    struct cache_case   c = {
        .dtype = DTYPE_BF16, .kv_dtype = DTYPE_BF16, .heads = 8,
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

/* One sequence's NaN is its own affair. */
void
test_nan_stays_in_its_sequence(void)
{
    static struct step  s;
    struct cache_case   c = {
        .dtype = DTYPE_BF16, .kv_dtype = DTYPE_BF16, .heads = 4,
        .kv_heads = 1, .head_dim = 64, .block_size = 16, .num_blocks = 60 };
    s = (struct step) { .num_tokens = 0 };
    step_add(&s, 1, 70);
    step_add(&s, 1, 300);
    step_add(&s, 20, 90);
    step_add(&s, 20, 90);
    struct tensor  in[2] = { random_q(&c, s.num_tokens), fill_cache(&c, &s) };
    for (int q = 1; q < 4; q += 2) {      /* key 3 of the second and fourth */
        int  slot = s.tables[q * TABLE_MAX] * c.block_size + 3;
        memset((char *) in[1].data + cache_row(&c, 1, slot, 0) * 64 * 2, 0xff,
               64 * 2);
    }
    struct tensor  got = run_attention(run.cuda, &c, &s, in);
    for (int r = 0; r < s.num_tokens; r++) {
        bool  want = r == 1 || r >= 22;
        for (int d = 0; d < 4 * 64; d++) {
            if (isnan(elem(&got, (size_t) (r * 4 * 64 + d))) != want) {
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
test_copied_blocks_are_equal_and_others_untouched(void)
{
    for (int i = 0; i < 3; i++) {
        struct cache_case  c = {
            .dtype = DTYPE_BF16, .kv_dtype = (enum dtype) (DTYPE_F32 + i),
            .heads = 2, .kv_heads = 1 + i, .head_dim = i == 2 ? 9 : 64,
            .block_size = 16, .num_blocks = 20 };
        struct block_copy  copies[] = { { 3, 7 }, { 3, 9 }, { 12, 1 } };
        struct tensor      host = host_random(c.kv_dtype, 4 * 20 * c.kv_heads
                                              * 16, c.head_dim);
        struct tensor      result[2];
        for (int b = 0; b < 2; b++) {
            struct backend  *be = b == 0 ? run.cpu : run.cuda;
            struct tensor    t = to_backend(be, &host);
            struct kv_cache  kv = kv_of(&c, t.data);
            be->ops->copy_blocks(be, &kv, copies, 3);
            result[b] = from_backend(be, &t);
        }
        if (memcmp(result[0].data, result[1].data, tensor_bytes(&host)) != 0
            || memcmp(result[0].data, host.data, tensor_bytes(&host)) == 0)
        {
            complain("%s blocks differ", dtype_name(c.kv_dtype));
        }
        free(host.data);
        free(result[0].data);
        free(result[1].data);
    }
}
