/* fake_attention.c - the launch functions of rope and attention. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>
#include <string.h>

#define GRID_Y_MAX     65535
#define WIDE_HEAD_DIM  256      /* the fast kernels need the shared memory of
                                   an A100 or Hopper for it */

/* ---- rope ------------------------------------------------------------------------ */

static size_t
plane_bytes(const struct kv_layer *kv)
{
    return (((size_t) kv->num_blocks * (size_t) kv->num_kv_heads)
            << kv->block_shift) * (size_t) kv->head_dim
           * fake_dtype_bytes(kv->dtype);
}

/* Of a layer of the cache that is watched. */
static void
check_kv(const struct kv_layer *kv)
{
    const struct kv_cache  *c = &fake.kv;
    size_t                  plane = plane_bytes(kv);
    size_t                  at = (size_t) ((const char *) kv->k
                                           - (const char *) c->data);
    FAKE_CHECK(kv->num_blocks == c->num_blocks
               && 1 << kv->block_shift == c->block_size
               && kv->num_kv_heads == c->num_kv_heads
               && kv->head_dim == c->head_dim);
    FAKE_CHECK(at % (2 * plane) == 0
               && at / (2 * plane) < (size_t) c->num_layers);
    FAKE_CHECK((const char *) kv->v == (const char *) kv->k + plane);
    (void) fake_at(kv->k, 2 * plane, "cache");
}

static void
check_cos_sin(const float *cos_sin, int head_dim)
{
    const struct fake_step  *s = fake_step_of();
    for (int i = 0; i < s->num_seqs; i++) {
        (void) fake_at(cos_sin + (size_t) (s->context_lens[i] - 1)
                                 * (size_t) head_dim,
                       (size_t) head_dim * sizeof *cos_sin, "rope: cos_sin");
    }
}

static void
run_rope(void *args)
{
    const struct rope_params  *p = args;
    size_t  num = (size_t) p->num;
    size_t  row = (size_t) (p->num_heads + 2 * p->kv.num_kv_heads)
                  * (size_t) p->kv.head_dim;
    (void) fake_at(p->qkv, num * row * fake_dtype_bytes(p->dtype),
                   "rope: qkv");
    check_kv(&p->kv);
    check_cos_sin(p->cos_sin, p->kv.head_dim);
    fake_check_positions(fake_at(p->positions, num * sizeof(int32_t),
                                 "rope: positions"), p->num);
    fake_check_slots(fake_at(p->slots, num * sizeof(int32_t), "rope: slots"),
                     p->num);
    fake_step_of()->roped += fake_step_of()->num_tokens;
}

int
rope_wide_takes(const struct rope_params *p)
{
    int  hd = p->kv.head_dim;
    return p->dtype != KERNEL_F32
           && (p->kv.dtype == p->dtype || p->kv.dtype == KERNEL_F8_E4M3)
           && (hd == 64 || hd == 128 || hd == 256);
}

cudaError_t
rope_wide_launch(const struct rope_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && rope_wide_takes(p));
    fake_launch(FAKE_ROPE_WIDE, stream, p->pdl);
    FAKE_PUSH(run_rope, p);
    return cudaSuccess;
}

cudaError_t
rope_append_launch(const struct rope_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1);
    fake_launch(FAKE_ROPE, stream, p->pdl);
    FAKE_PUSH(run_rope, p);
    return cudaSuccess;
}

/* ---- which attention ------------------------------------------------------------------ */

cudaError_t
attention_init(void)
{
    return cudaSuccess;
}

static bool
has_much_shared_memory(void)
{
    return fake.options.major != 12
           && !(fake.options.major == 8 && fake.options.minor != 0);
}

int
attention_tile_takes(const struct attention_params *p)
{
    int  hd = p->kv.head_dim;
    return p->dtype != KERNEL_F32
           && (p->dtype == p->kv.dtype || p->kv.dtype == KERNEL_F8_E4M3)
           && (hd == 64 || hd == 96 || hd == 128
               || (hd == WIDE_HEAD_DIM && has_much_shared_memory()))
           && p->num_heads / p->kv.num_kv_heads <= ATTENTION_GROUP_MAX;
}

static bool
is_hopper_shape(const struct attention_params *p)
{
    return fake_is_hopper() && p->dtype != KERNEL_F32
           && (p->kv.head_dim == 64 || p->kv.head_dim == 128)
           && p->num_heads / p->kv.num_kv_heads <= ATTENTION_GROUP_MAX
           && p->kv.block_shift >= 4 && p->kv.block_shift <= 6;
}

int
attention_decode_sm90_takes(const struct attention_params *p)
{
    return is_hopper_shape(p)
           && (p->dtype == p->kv.dtype || p->kv.dtype == KERNEL_F8_E4M3);
}

int
attention_decode_block_takes(const struct attention_params *p)
{
    return is_hopper_shape(p) && p->dtype == p->kv.dtype;
}

int
attention_prefill_sm90_takes(const struct attention_params *p)
{
    return fake_is_hopper() && p->window == 0 && p->kv.dtype == p->dtype
           && (p->kv.head_dim == 64 || p->kv.head_dim == 128)
           && p->kv.block_shift <= 6 && p->num_heads <= GRID_Y_MAX
           && p->num <= GRID_Y_MAX;
}

/* ---- attention ------------------------------------------------------------------------ */

static void
check_row(const void *data, int row)
{
    const struct attention_params  *p = data;
    size_t  elem = fake_dtype_bytes(p->dtype), at = (size_t) row;
    size_t  out = (size_t) p->num_heads * (size_t) p->kv.head_dim * elem;
    (void) fake_at((const char *) p->qkv
                   + at * (size_t) p->qkv_stride * elem,
                   (size_t) p->qkv_stride * elem, "attention: qkv");
    (void) fake_at((const char *) p->out + at * out, out, "attention: out");
    fake_step_of()->attended++;
}

static void
check_counters(const struct attention_params *p)
{
    (void) fake_at(p->counters, (size_t) fake_step_of()->num_seqs
                                * (size_t) p->kv.num_kv_heads
                                * sizeof *p->counters, "attention: counters");
}

static void
run_decode(void *args)
{
    const struct attention_params  *p = args;
    const int32_t  *num = fake_at(p->num_items, sizeof *num, "decode: number");
    FAKE_CHECK(*num >= 1 && *num <= p->num);
    struct decode_item  *items = fake_items_of(
        fake_at(p->items, (size_t) *num * sizeof *p->items, "decode: items"),
        *num);
    check_kv(&p->kv);
    check_counters(p);
    fake_check_decode(&(struct fake_work) {
        .items = items, .num = *num, .heads = 1, .tile = 64,
        .all_partial = true, .partial_heads = p->num_heads,
        .head_dim = p->kv.head_dim, .partial_out = p->partial_out,
        .partial_ml = p->partial_ml, .block_tables = p->block_tables,
        .row = check_row, .data = p });
    free(items);
}

cudaError_t
attention_decode_launch(const struct attention_params *p, cudaStream_t stream)
{
    FAKE_CHECK(attention_tile_takes(p) && p->rope.cos_sin == NULL);
    fake_launch(FAKE_DECODE, stream, p->pdl);
    FAKE_PUSH(run_decode, p);
    return cudaSuccess;
}

/* Shares: of multiprocessors or of warps. */
struct shares {
    struct attention_params  p;
    int                      num;
};

static void
run_shares(void *args)
{
    const struct shares            *s = args;
    const struct attention_params  *p = &s->p;
    const int32_t  *first = fake_at(p->decode_first,
                                    ((size_t) s->num + 1) * sizeof *first,
                                    "decode: first");
    FAKE_CHECK(first[0] == 0);
    for (int i = 0; i < s->num; i++) {
        FAKE_CHECK(first[i] <= first[i + 1]);
    }
    int     num = first[s->num];
    size_t  bytes = (size_t) num * sizeof *p->decode_items;
    FAKE_CHECK(num >= 1);
    struct decode_item  *items = malloc(bytes);
    FAKE_CHECK(items != NULL);
    memcpy(items, fake_at(p->decode_items, bytes, "decode: items"), bytes);
    check_kv(&p->kv);
    check_counters(p);
    fake_check_decode(&(struct fake_work) {
        .items = items, .num = num, .heads = p->kv.num_kv_heads,
        .tile = ATTENTION_DECODE_KEYS,
        .partial_heads = p->num_heads / p->kv.num_kv_heads,
        .head_dim = p->kv.head_dim, .partial_out = p->partial_out,
        .partial_ml = p->partial_ml, .block_tables = p->block_tables,
        .row = check_row, .data = p });
    if (p->rope.cos_sin != NULL) {
        check_cos_sin(p->rope.cos_sin, p->kv.head_dim);
        fake_check_slots(fake_at(p->rope.slots,
                                 (size_t) fake_step_of()->num_tokens
                                 * sizeof(int32_t), "decode: slots"),
                         fake_step_of()->num_tokens);
        fake_step_of()->roped += fake_step_of()->num_tokens;
    }
    free(items);
}

cudaError_t
attention_decode_sm90_launch(const struct attention_params *p,
                             cudaStream_t stream)
{
    FAKE_CHECK(attention_decode_sm90_takes(p) && p->rope.cos_sin == NULL);
    FAKE_CHECK(p->decode_shares <= p->decode_blocks * ATTENTION_DECODE_WARPS);
    fake_launch(FAKE_DECODE_SM90, stream, p->pdl);
    FAKE_PUSH(run_shares, (&(struct shares) { *p, p->decode_shares }));
    return cudaSuccess;
}

cudaError_t
attention_decode_block_launch(const struct attention_params *p,
                              cudaStream_t stream)
{
    FAKE_CHECK(attention_decode_block_takes(p));
    fake_launch(FAKE_DECODE_BLOCK, stream, p->pdl);
    FAKE_PUSH(run_shares, (&(struct shares) { *p, p->decode_blocks }));
    return cudaSuccess;
}

static void
run_prefill(void *args)
{
    const struct attention_params  *p = args;
    const struct fake_step         *s = fake_step_of();
    check_kv(&p->kv);
    fake_check_prefill(p);
    for (int seq = 0; seq < s->num_seqs; seq++) {
        int  end = s->cu_seqlens_q[seq + 1];
        if (end - s->cu_seqlens_q[seq] > 1) {
            for (int row = s->cu_seqlens_q[seq]; row < end; row++) {
                check_row(p, row);
            }
        }
    }
}

cudaError_t
attention_prefill_launch(const struct attention_params *p, cudaStream_t stream)
{
    FAKE_CHECK(fake.recording == NULL && p->num >= 1
               && attention_tile_takes(p));
    fake_launch(FAKE_PREFILL, stream, p->pdl);
    FAKE_PUSH(run_prefill, p);
    return cudaSuccess;
}

cudaError_t
attention_prefill_sm90_launch(const struct attention_params *p,
                              cudaStream_t stream)
{
    FAKE_CHECK(fake.recording == NULL && p->num >= 1
               && attention_prefill_sm90_takes(p));
    fake_launch(FAKE_PREFILL_SM90, stream, p->pdl);
    FAKE_PUSH(run_prefill, p);
    return cudaSuccess;
}

static void
run_simple(void *args)
{
    const struct attention_params  *p = args;
    const struct fake_step         *s = fake_step_of();
    size_t          bytes = (size_t) p->num * sizeof(int32_t);
    const int32_t  *tables = fake_at(p->row_table, bytes, "attention: tables");
    check_kv(&p->kv);
    fake_check_positions(fake_at(p->positions, bytes, "attention: positions"),
                         p->num);
    for (int row = 0; row < p->num; row++) {
        if (row < s->num_tokens) {
            fake_check_table(p->block_tables, s->seq_of[row], tables[row]);
            check_row(p, row);
        } else {
            FAKE_CHECK(tables[row] < 0);
        }
    }
}

cudaError_t
attention_simple_launch(const struct attention_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1);
    fake_launch(FAKE_ATTENTION_SIMPLE, stream, p->pdl);
    FAKE_PUSH(run_simple, p);
    return cudaSuccess;
}
