/* fake_fused.c - steps in one launch: the program as the device has it. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>

#define MAP_MARK   UINT64_C(0x66757365)     /* fused_plan() was there */

static bool
is_aligned(const void *a, const void *b, const void *c)
{
    return (((uintptr_t) a | (uintptr_t) b | (uintptr_t) c) & 15) == 0;
}

static int
attention_takes(const struct fused_op *op, const struct fused_params *p)
{
    return is_aligned(op->x, op->y, p->cos_sin)
           && is_aligned(op->k_cache, op->v_cache, NULL)
           && is_aligned(op->q_norm, op->k_norm, NULL)
           && (p->head_dim == 64 || p->head_dim == 128)
           && p->num_heads % p->num_kv_heads == 0
           && p->num_heads / p->num_kv_heads <= FUSED_GROUP_MAX
           && 1 << p->block_shift >= 16;
}

int
fused_takes(const struct fused_op *op, const struct fused_params *p)
{
    if (p->num_rows < 1 || p->num_rows > FUSED_ROWS_MAX
        || (p->num_rows & (p->num_rows - 1)) != 0
        || (p->dtype != KERNEL_BF16 && p->dtype != KERNEL_F16)
        || !fake_is_hopper())
    {
        return 0;
    }
    switch (op->kind) {
    case FUSED_EMBED:
        return op->k % 8 == 0;
    case FUSED_LINEAR:
        return is_aligned(op->x, op->w, op->norm_weight) && op->k % 64 == 0
               && (!op->silu_mul || (op->n % 8 == 0
                                     && op->norm_weight != NULL))
               && (op->norm_weight == NULL || op->k <= FUSED_NORM_K_MAX);
    default:
        return attention_takes(op, p);
    }
}

cudaError_t
fused_plan(struct fused_op *ops, const struct fused_params *p)
{
    for (int i = 0; i < p->num_ops; i++) {
        ops[i].tiles = 1;
        ops[i].map[0] = MAP_MARK;
    }
    return cudaSuccess;
}

/* ---- running a program -------------------------------------------------------------- */

static void
check_row(const void *data, int row)
{
    const struct fused_params  *p = data;
    const struct fake_step     *s = fake_step_of();
    FAKE_CHECK(row < p->num_rows && row < s->num_tokens);
    fake_step_of()->attended++;
    fake_step_of()->roped++;
}

static void
run_embed(const struct fused_params *p, const struct fused_op *op)
{
    size_t          num = (size_t) p->num_rows;
    size_t          row = (size_t) op->k * fake_dtype_bytes(p->dtype);
    const int32_t  *ids = fake_at(p->ids, num * sizeof *ids, "fused: ids");
    (void) fake_at(op->y, num * row, "fused: y");
    fake_check_ids(ids, p->num_rows);
    for (int i = 0; i < p->num_rows; i++) {
        (void) fake_at((const char *) op->x + (size_t) ids[i] * row, row,
                       "fused: embedding");
    }
}

static void
run_linear(const struct fused_params *p, const struct fused_op *op)
{
    fake_check_product(&(struct fake_product) {
        op->y, op->x, op->w, op->bias, p->dtype, p->num_rows, op->n, op->k,
        op->silu_mul, op->y_f32 });
    if (op->norm_weight != NULL) {
        (void) fake_at(op->norm_weight, (size_t) op->k * sizeof(float),
                       "fused: norm");
    }
    if (op->gather) {
        fake_check_logits(fake_at(p->logits_idx, (size_t) p->num_rows
                                                 * sizeof(int32_t),
                                  "fused: logits_idx"), p->num_rows);
    }
}

static void
run_attention(const struct fused_params *p, const struct fused_op *op)
{
    size_t  elem = fake_dtype_bytes(p->dtype), num = (size_t) p->num_rows;
    size_t  q = (size_t) p->num_heads * (size_t) p->head_dim;
    size_t  kv = (size_t) p->num_kv_heads * (size_t) p->head_dim;
    size_t  plane = ((size_t) fake.kv.num_blocks << p->block_shift) * kv
                    * elem;
    const int32_t  *items = fake_at(p->num_items, sizeof *items,
                                    "fused: number");
    (void) fake_at(op->x, num * (q + 2 * kv) * elem, "fused: qkv");
    (void) fake_at(op->y, num * q * elem, "fused: out");
    (void) fake_at(op->k_cache, plane, "fused: keys");
    (void) fake_at(op->v_cache, plane, "fused: values");
    fake_check_slots(fake_at(p->slots, num * sizeof(int32_t), "fused: slots"),
                     p->num_rows);
    struct decode_item  *work = fake_items_of(
        fake_at(p->items, (size_t) *items * sizeof *p->items, "fused: items"),
        *items);
    fake_check_decode(&(struct fake_work) {
        .items = work, .num = *items, .heads = 1, .tile = FUSED_ITEM_KEYS,
        .all_partial = true, .partial_heads = p->num_heads,
        .head_dim = p->head_dim, .partial_out = p->partial_out,
        .partial_ml = p->partial_ml, .block_tables = p->block_tables,
        .row = check_row, .data = p });
    free(work);
}

static void
run_fused(void *args)
{
    const struct fused_params  *p = args;
    const struct fused_op      *ops = fake_at(p->ops, (size_t) p->num_ops
                                                      * sizeof *ops,
                                              "fused: program");
    (void) fake_at(p->barrier, FUSED_BARRIER_WORDS * sizeof *p->barrier,
                   "fused: barrier");
    for (int i = 0; i < p->num_ops; i++) {
        FAKE_CHECK(ops[i].map[0] == MAP_MARK && fused_takes(&ops[i], p));
        switch (ops[i].kind) {
        case FUSED_EMBED:
            run_embed(p, &ops[i]);
            break;
        case FUSED_LINEAR:
            run_linear(p, &ops[i]);
            break;
        default:
            run_attention(p, &ops[i]);
        }
    }
}

cudaError_t
fused_launch(const struct fused_op *ops, const struct fused_params *p,
             cudaStream_t stream)
{
    FAKE_CHECK(ops != NULL && p->num_ops >= 1
               && p->num_blocks == fake.options.num_sms);
    fake_launch(FAKE_FUSED, stream, 0);
    FAKE_PUSH(run_fused, p);
    return cudaSuccess;
}
