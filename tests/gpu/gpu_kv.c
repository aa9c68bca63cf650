/* gpu_kv.c - what writes to the paged cache: rope and append, block copies. */
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
qkv_cols(const struct cache_case *c)
{
    return (c->heads + 2 * c->kv_heads) * c->head_dim;
}

/* Two layers of cache as one tensor of rows of head_dim. */
struct tensor
host_cache(const struct cache_case *c)
{
    struct tensor  t = host_tensor(c->kv_dtype, (int64_t) 4 * c->num_blocks
                                   * c->kv_heads * c->block_size,
                                   c->head_dim);
    memset(t.data, 0xff, tensor_bytes(&t));
    return t;
}

/* Of both layers; those of layer 0 must not be used. */
static const float  cache_scales[] = { NAN, NAN, 0.004f, 0.005f };

struct kv_cache
kv_of(const struct cache_case *c, void *data)
{
    return (struct kv_cache) {
        c->kv_dtype, 2, c->num_blocks, c->block_size, c->kv_heads, c->head_dim,
        data, c->kv_dtype == DTYPE_F8_E4M3 ? cache_scales : NULL };
}

double
cache_scale(const struct cache_case *c, int is_v)
{
    return c->kv_dtype == DTYPE_F8_E4M3 ? (double) cache_scales[2 + is_v] : 1;
}

/* Row of host_cache of layer 1. */
size_t
cache_row(const struct cache_case *c, int is_v, int slot, int head)
{
    return ((((size_t) 2 + (size_t) is_v) * (size_t) c->num_blocks
             + (size_t) (slot / c->block_size)) * (size_t) c->kv_heads
            + (size_t) head) * (size_t) c->block_size
           + (size_t) (slot % c->block_size);
}

struct weight *
norm_weight(struct backend *be, const struct cache_case *c, struct tensor t)
{
    struct weight  *norm = NULL;
    struct err      err = { 0 };
    if (c->norm) {
        require(be->ops->weight_create(be, &(struct weight_desc) {
            .kind = WEIGHT_VECTOR, .num_parts = 1, .parts = { t } }, &norm,
            &err), &err, "norm");
    }
    return norm;
}

void
rope_and_append(struct backend *be, const struct cache_case *c,
                struct tensor qkv, struct tensor cos_sin,
                const struct kv_cache *kv, const struct weight *norm)
{
    be->ops->qk_norm_rope_append(be, &(struct qk_norm_rope_append_args) {
        .qkv = qkv, .q_norm = { norm, 1e-6f }, .k_norm = { norm, 1e-6f },
        .cos_sin = cos_sin.data, .kv = kv, .layer_idx = 1,
        .num_heads = c->heads });
}

bool
both_numbers(size_t elem_idx, double got, double want)
{
    if (isnan(want) != isnan(got)) {
        complain("cache element %zu: got %g, want %g", elem_idx, got, want);
    }
    return !isnan(want) && !isnan(got);
}

struct rope_result {
    struct tensor qkv, cache;
};

static struct rope_result
run_rope(struct backend *be, const struct cache_case *c,
         const struct step *s, const struct tensor in[4])
{
    struct tensor    qkv = to_backend(be, &in[0]);
    struct tensor    cache = to_backend(be, &in[1]);
    struct tensor    cos_sin = to_backend(be, &in[2]);
    struct weight   *norm = norm_weight(be, c, in[3]);
    struct kv_cache  kv = kv_of(c, cache.data);
    step_begin(be, s);
    rope_and_append(be, c, qkv, cos_sin, &kv, norm);
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
        if (both_numbers(i, g, w)) {
            /* in units of the scale: half of the cache is K */
            int     is_v = i / (tensor_elems(&want.cache) / 4) % 2;
            double  scale = cache_scale(c, is_v);
            compare(g, w, (2 * half_ulp(c->dtype, w * scale) + flip
                           + 16 * 0x1p-23) / scale
                          + 2 * half_ulp(c->kv_dtype, w));
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
        for (int i = 0; i < 12; i++) {
            rope_one(&(struct cache_case) {
                .dtype = (enum dtype) (DTYPE_F32 + i / 4),
                .kv_dtype = (enum dtype) (DTYPE_F32 + i % 4),
                .heads = 6, .kv_heads = 2 + i % 2, .head_dim = dims[d],
                .block_size = 16 << i % 3, .num_blocks = 16,
                .norm = (d + i) % 2 });
        }
    }
}

/* Random magnitudes, with what is special among them. */
static struct tensor
special_qkv(const struct cache_case *c, int rows)
{
    static const float  special[] = { 0.0f, -0.0f, 1e30f, -1e30f, INFINITY,
                                      -INFINITY, NAN };
    struct tensor       t = host_tensor(c->dtype, rows, qkv_cols(c));
    for (size_t i = 0; i < tensor_elems(&t); i++) {
        float  x = ldexpf(random_value(), random_below(26) - 20);
        if (random_below(40) == 0) {
            x = special[random_below(7)];
        }
        cpu_kernels_plain.narrow((char *) t.data + i * dtype_bytes(c->dtype),
                                 c->dtype, &x, 1);
    }
    return t;
}

/* Without a norm, and rotated by nothing: division and rounding alone. */
void
test_fp8_appends_are_the_same_bytes(void)
{
    static const int    dims[] = { 64, 128, 256, 96, 20 };
    static struct step  s;
    for (int i = 0; i < 15; i++) {
        struct cache_case  c = {
            .dtype = (enum dtype) (DTYPE_F32 + i % 3),
            .kv_dtype = DTYPE_F8_E4M3, .heads = 2, .kv_heads = 2,
            .head_dim = dims[i / 3], .block_size = 16, .num_blocks = 16 };
        s = (struct step) { .num_tokens = 0 };
        step_add(&s, 100, 100);
        for (int row = 0; row < s.num_tokens; row++) {
            s.slots[row] = 16 + row;
        }
        struct tensor  in[4] = { special_qkv(&c, 100), host_cache(&c),
                                 host_tensor(DTYPE_F32, 128, c.head_dim),
                                 { .data = NULL } };
        for (int k = 0; k < 128 * c.head_dim; k++) {
            ((float *) in[2].data)[k] = k % c.head_dim < c.head_dim / 2;
        }
        struct rope_result  want = run_rope(run.cpu, &c, &s, in);
        struct rope_result  got = run_rope(run.cuda, &c, &s, in);
        if (memcmp(want.cache.data, got.cache.data, tensor_bytes(&got.cache))
            != 0)
        {
            complain("%s, head_dim %d: bytes differ", dtype_name(c.dtype),
                     c.head_dim);
        }
        struct tensor *const  all[] = { &in[0], &in[1], &in[2], &want.qkv,
                                        &want.cache, &got.qkv, &got.cache };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            free(all[k]->data);
        }
    }
}

void
test_copied_blocks_are_equal_and_others_untouched(void)
{
    for (int i = 0; i < 4; i++) {
        struct cache_case  c = {
            .dtype = DTYPE_BF16, .kv_dtype = (enum dtype) (DTYPE_F32 + i),
            .heads = 2, .kv_heads = 1 + i, .head_dim = i >= 2 ? 9 : 64,
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
