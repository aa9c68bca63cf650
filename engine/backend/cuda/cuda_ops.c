/* cuda_ops.c - the small ops, and what all ops share.
 *
 * Arguments are checked as the CPU backend checks them. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

struct cuda_backend *
cuda_of(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    check(cb->in_step);
    return cb;
}

/* Whether the kernel launched now may start before the last one has ended: not
 * the first of a step, see kernels.h. */
int
cuda_overlap(struct cuda_backend *cb)
{
    int  on = cb->pdl && !cb->fresh;
    cb->fresh = false;
    return on;
}

int
cuda_rows_of(const struct cuda_backend *cb, const struct tensor *t)
{
    return cb->rows < t->shape[0] ? cb->rows : (int) t->shape[0];
}

void
cuda_check_activation(const struct cuda_backend *cb, const struct tensor *t,
                       int64_t row_elems)
{
    check(t->dtype != DTYPE_NONE);
    check_eq(t->ndim, 2);
    check_eq(t->shape[1], row_elems);
    check_le(cb->step.num_tokens, t->shape[0]);
}

void
cuda_embed(struct backend *be, struct tensor x, const struct weight *w)
{
    struct cuda_backend            *cb = cuda_of(be);
    const struct cuda_weight_part  *part = &w->part[0];
    check(w->kind == WEIGHT_EMBEDDING);
    cuda_check_activation(cb, &x, w->in);
    check_lt(cb->id_max, part->rows);
    cuda_flush(cb);
    if (cb->model != NULL) {
        cb->model->num_ids = part->rows;
    }
    if (cuda_fuse_embed(cb, &x, w)) {
        return;
    }
    (void) cuda_keep(cb, gather_launch(&(struct gather_params) {
        .y = x.data, .x = part->data, .ids = cb->dev.input_ids,
        .y_dtype = cuda_kernel_dtype(x.dtype),
        .x_dtype = cuda_kernel_dtype(part->dtype),
        .num = cuda_rows_of(cb, &x), .n = (int) w->in, .pdl = cuda_overlap(cb) },
        cb->stream), "embed");
}

/* ---- between steps ------------------------------------------------------------------ */

void
cuda_copy_blocks(struct backend *be, const struct kv_cache *kv,
                 const struct block_copy *copies, int num_copies)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    size_t                block_bytes = (size_t) kv->num_kv_heads
                                        * (size_t) kv->block_size
                                        * (size_t) kv->head_dim
                                        * dtype_bytes(kv->dtype);
    _Static_assert(sizeof *copies == 2 * sizeof(int32_t), "pairs, unpadded");
    for (int i = 0; i < num_copies; i++) {
        check(copies[i].src_block_id > 0
              && copies[i].src_block_id < kv->num_blocks);
        check(copies[i].dst_block_id > 0
              && copies[i].dst_block_id < kv->num_blocks);
    }
    for (int first = 0; first < num_copies; first += CUDA_COPIES_MAX) {
        int  rest = num_copies - first;
        int  num = rest < CUDA_COPIES_MAX ? rest : CUDA_COPIES_MAX;
        be->ops->upload(be, cb->copies, copies + first,
                        (size_t) num * sizeof *copies);
        (void) cuda_keep(cb, copy_blocks_launch(&(struct copy_params) {
            .data = kv->data, .pairs = cb->copies, .num = num,
            .num_planes = 2 * kv->num_layers,
            .plane_bytes = (size_t) kv->num_blocks * block_bytes,
            .block_bytes = block_bytes }, cb->stream), "copy of blocks");
    }
}
