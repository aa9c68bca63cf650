/* cuda_fuse.c - small decode steps as one launch: kernels/decode_fused.cu.
 *
 * In a step of at most FUSED_ROWS_MAX rows of a model the ops do not launch
 * anything: each appends itself to a program, which runs when the step ends.
 * An op that the kernel does not take runs what there is so far, then itself as
 * always, and so do the rest of the ops; later steps of that model and number
 * of rows do not try again.  So a step of any ops gives the right result.
 *
 * A program is uploaded in the first step of its model and rows, which is not
 * recorded; later ones issue the same ops, as backend.h has it, and find it
 * there.  A rope is kept until the attention that follows it, which the kernel
 * does together. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

#include <stdlib.h>
#include <string.h>

/* ---- programs --------------------------------------------------------------------- */

int
cuda_fuse_reserve(struct cuda_backend *cb, struct err *err)
{
    struct cuda_fuse  *f = &cb->fuse;
    size_t             ops = CUDA_FUSED_OPS * sizeof *f->ops;
    size_t             bytes = FUSED_BARRIER_WORDS * sizeof *f->barrier
                               + CUDA_PROGRAMS_MAX * ops;
    void              *device;
    f->ops = calloc(CUDA_PROGRAMS_MAX + 1, ops);
    if (f->ops == NULL) {
        return err_set(err, "out of memory for programs of steps");
    }
    if (cuda_alloc(&cb->base, bytes, &device, err) != OK) {
        return err_prefix(err, "programs of steps");
    }
    cb->ops.fill(&cb->base, device, 0, bytes);
    f->barrier = device;
    for (int i = 0; i < CUDA_PROGRAMS_MAX; i++) {
        f->programs[i] = (struct cuda_program) {
            .host = f->ops + (i + 1) * CUDA_FUSED_OPS,
            .device = (struct fused_op *) (f->barrier + FUSED_BARRIER_WORDS)
                      + i * CUDA_FUSED_OPS };
    }
    return OK;
}

void
cuda_fuse_release(struct cuda_backend *cb)
{
    cuda_free(&cb->base, cb->fuse.barrier);
    free(cb->fuse.ops);
    cb->fuse = (struct cuda_fuse) { .on = false };
}

static struct cuda_program *
program_of(struct cuda_backend *cb)
{
    for (int i = 0; i < CUDA_PROGRAMS_MAX; i++) {
        struct cuda_program  *g = &cb->fuse.programs[i];
        if (g->model_id == cb->model->id && g->rows == cb->rows) {
            return g;
        }
        if (g->model_id == 0) {
            g->model_id = cb->model->id;
            g->rows = cb->rows;
            return g;
        }
    }
    return NULL;
}

void
cuda_fuse_begin(struct cuda_backend *cb, bool is_decode)
{
    struct cuda_fuse  *f = &cb->fuse;
    f->program = NULL;
    f->on = f->open = false;
    f->num_ops = 0;
    if (!cb->fuses || !is_decode || cb->model == NULL || cb->model->kv_fp8
        || cb->rows > FUSED_ROWS_MAX)
    {
        return;
    }
    f->program = program_of(cb);
    f->on = f->program != NULL && !f->program->refused;
    f->params = (struct fused_params) {
        .num_rows = cb->rows, .num_blocks = cb->num_sms,
        .ids = cb->dev.input_ids, .slots = cb->dev.slot_mapping,
        .logits_idx = cb->dev.logits_idx,
        .block_tables = cb->dev.block_tables, .items = cb->dev.decode,
        .num_items = cb->dev.num_decode, .partial_out = cb->partial_out,
        .partial_ml = cb->partial_ml, .counters = cb->counters,
        .barrier = f->barrier };
}

/* The device gets the ops of this step, if it has not got them before. */
static void
upload(struct cuda_backend *cb)
{
    struct cuda_fuse     *f = &cb->fuse;
    struct cuda_program  *g = f->program;
    size_t                bytes = (size_t) f->num_ops * sizeof *f->ops;
    if (g->num_ops == f->num_ops && memcmp(g->host, f->ops, bytes) == 0) {
        return;
    }
    check(cb->recording == NULL);    /* a model's ops are always the same */
    memcpy(g->host, f->ops, bytes);
    g->num_ops = f->num_ops;
    if (cuda_keep(cb, fused_plan(f->ops, &f->params), "program of a step")) {
        cb->base.ops->upload(&cb->base, g->device, f->ops, bytes);
    }
}

/* Runs what has been noted. */
static void
run_noted(struct cuda_backend *cb)
{
    struct cuda_fuse  *f = &cb->fuse;
    if (f->num_ops > 0) {
        f->params.num_ops = f->num_ops;
        f->params.ops = f->program->device;
        upload(cb);
        (void) cuda_keep(cb, fused_launch(f->program->host, &f->params,
                                          cb->stream),
                         "a step in one launch");
        cb->fresh = false;
    }
    f->num_ops = 0;
    if (f->open) {
        cuda_rope(cb, &f->rope);
    }
    f->on = f->open = false;
}

void
cuda_fuse_end(struct cuda_backend *cb)
{
    if (cb->fuse.on && cb->replaying == NULL) {
        run_noted(cb);
    }
}

/* ---- ops ---------------------------------------------------------------------------- */

/* False: not taken, nor are later ones. */
static bool
refuse(struct cuda_backend *cb)
{
    cb->fuse.program->refused = true;
    run_noted(cb);
    return false;
}

static bool
fits(struct cuda_backend *cb, enum dtype dtype, const struct fused_op *op)
{
    struct cuda_fuse   *f = &cb->fuse;
    enum kernel_dtype   kernel_dtype = cuda_kernel_dtype(dtype);
    if (f->num_ops == CUDA_FUSED_OPS
        || (f->num_ops > 0 && f->params.dtype != (int) kernel_dtype))
    {
        return false;
    }
    f->params.dtype = (int) kernel_dtype;
    return fused_takes(op, &f->params) != 0;
}

static bool
note(struct cuda_backend *cb, enum dtype dtype, const struct fused_op *op)
{
    if (cb->fuse.open || !fits(cb, dtype, op)) {
        return refuse(cb);
    }
    cb->fuse.ops[cb->fuse.num_ops++] = *op;
    return true;
}

bool
cuda_fuse_embed(struct cuda_backend *cb, const struct tensor *x,
                const struct weight *w)
{
    if (!cb->fuse.on) {
        return false;
    }
    if (w->part[0].dtype != x->dtype || cb->rows > x->shape[0]) {
        return refuse(cb);
    }
    return note(cb, x->dtype, &(struct fused_op) {
        .kind = FUSED_EMBED, .k = (int) w->in, .y = x->data,
        .x = w->part[0].data });
}

bool
cuda_fuse_linear(struct cuda_backend *cb, const struct linear_args *args)
{
    const struct weight  *w = args->weight;
    const struct weight  *norm = args->norm.weight;
    if (!cb->fuse.on) {
        return false;
    }
    if (w->num_parts != 1 || w->part[0].dtype != args->x.dtype
        || cb->rows > args->x.shape[0] || cb->rows > args->y.shape[0])
    {
        return refuse(cb);
    }
    return note(cb, args->x.dtype, &(struct fused_op) {
        .kind = FUSED_LINEAR, .n = (int) args->y.shape[1], .k = (int) w->in,
        .add = args->epilogue == EPILOGUE_ADD,
        .silu_mul = args->epilogue == EPILOGUE_SILU_MUL,
        .y = args->y.data, .x = args->x.data, .w = w->part[0].data,
        .bias = w->bias, .norm_weight = norm == NULL ? NULL : norm->vector,
        .eps = args->norm.eps });
}

bool
cuda_fuse_lm_head(struct cuda_backend *cb, const struct lm_head_args *args)
{
    const struct weight  *w = args->weight;
    const struct weight  *norm = args->norm.weight;
    if (!cb->fuse.on) {
        return false;
    }
    if (w->num_parts != 1 || w->part[0].dtype != args->x.dtype
        || cb->rows != cb->logit_rows || cb->rows > args->logits.shape[0])
    {
        return refuse(cb);
    }
    return note(cb, args->x.dtype, &(struct fused_op) {
        .kind = FUSED_LINEAR, .n = (int) w->rows, .k = (int) w->in,
        .y_f32 = 1, .gather = 1, .y = args->logits.data, .x = args->x.data,
        .w = w->part[0].data, .norm_weight = norm == NULL ? NULL : norm->vector,
        .eps = args->norm.eps });
}

/* What is the same for the attention of all layers: said by the first. */
static bool
same_attention(struct cuda_fuse *f, const struct rope_params *p)
{
    struct fused_params  *all = &f->params;
    if (all->num_heads == 0) {
        all->num_heads = p->num_heads;
        all->num_kv_heads = p->kv.num_kv_heads;
        all->head_dim = p->kv.head_dim;
        all->block_shift = p->kv.block_shift;
        all->cos_sin = p->cos_sin;
    }
    return all->num_heads == p->num_heads
           && all->num_kv_heads == p->kv.num_kv_heads
           && all->head_dim == p->kv.head_dim
           && all->block_shift == p->kv.block_shift
           && all->cos_sin == p->cos_sin;
}

bool
cuda_fuse_rope(struct cuda_backend *cb, const struct rope_params *p)
{
    struct cuda_fuse  *f = &cb->fuse;
    if (!f->on) {
        return false;
    }
    if (f->open || p->kv.dtype != p->dtype || p->num != cb->rows
        || !same_attention(f, p))
    {
        return refuse(cb);
    }
    f->rope = *p;
    f->open = true;
    return true;
}

bool
cuda_fuse_attention(struct cuda_backend *cb, const struct attention_params *p,
                    enum dtype dtype)
{
    struct cuda_fuse          *f = &cb->fuse;
    const struct rope_params  *r = &f->rope;
    if (!f->on) {
        return false;
    }
    if (!f->open || r->qkv != p->qkv || r->kv.k != p->kv.k
        || r->kv.v != p->kv.v || r->num_heads != p->num_heads
        || r->dtype != p->dtype || p->window != 0)
    {
        return refuse(cb);
    }
    const struct fused_op  op = {
        .kind = FUSED_ATTENTION, .y = p->out, .x = p->qkv, .scale = p->scale,
        .q_eps = r->q_eps, .k_eps = r->k_eps, .k_cache = p->kv.k,
        .v_cache = p->kv.v, .q_norm = r->q_norm, .k_norm = r->k_norm };
    if (!fits(cb, dtype, &op)) {
        return refuse(cb);
    }
    f->open = false;
    return note(cb, dtype, &op);
}
