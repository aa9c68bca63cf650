/* backend_cpu.c - the CPU backend's life: threads, memory, weights, steps.
 *
 * The ops are in cpu_ops.c, their inner loops in cpu_kernels.inc.  Nothing is
 * allocated after reserve(); a step runs on the caller's thread and its
 * workers and is finished when the op returns, so sync() has nothing to do. */
#include "engine/backend/cpu/backend_cpu.h"
#include "engine/backend/cpu/cpu_backend_internal.h"
#include "engine/base/check.h"

#include <cpuid.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* From here on memory is worth transparent huge pages. */
#define CPU_HUGE_BYTES  ((size_t) 2 << 20)

/* ---- instruction sets ---------------------------------------------------- */

/* clang 14's __builtin_cpu_supports() does not know this one. */
static bool
cpu_has_f16c(void)
{
    unsigned  eax, ebx, ecx = 0, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

static bool
isa_is_supported(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AVX512:
        return __builtin_cpu_supports("avx512f")
               && __builtin_cpu_supports("avx512bw")
               && __builtin_cpu_supports("avx512dq")
               && __builtin_cpu_supports("avx512vl");
    case CPU_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
               && cpu_has_f16c();
    case CPU_ISA_PLAIN:
    case CPU_ISA_AUTO:
        break;
    }
    return true;
}

const char *
cpu_isa_name(enum cpu_isa isa)
{
    static const char *const  names[] = { "auto", "plain", "avx2", "avx512" };
    return names[isa];
}

enum cpu_isa
cpu_isa_best(void)
{
    if (isa_is_supported(CPU_ISA_AVX512)) {
        return CPU_ISA_AVX512;
    }
    return isa_is_supported(CPU_ISA_AVX2) ? CPU_ISA_AVX2 : CPU_ISA_PLAIN;
}

static const struct cpu_kernels *
isa_kernels(enum cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_AVX512:
        return &cpu_kernels_avx512;
    case CPU_ISA_AVX2:
        return &cpu_kernels_avx2;
    case CPU_ISA_PLAIN:
    case CPU_ISA_AUTO:
        break;
    }
    return &cpu_kernels_plain;
}

/* ---- memory -------------------------------------------------------------- */

static int
cpu_alloc(struct backend *be, size_t bytes, void **out, struct err *err)
{
    (void) be;
    void    *data = NULL;
    bool     huge = bytes >= CPU_HUGE_BYTES;
    *out = NULL;
    if (posix_memalign(&data, huge ? CPU_HUGE_BYTES : 64, bytes) != 0) {
        return err_set(err, "out of memory: %zu bytes asked for; lower the KV "
                       "cache or the batch limits", bytes);
    }
    if (huge) {
        (void) madvise(data, bytes & ~(CPU_HUGE_BYTES - 1), MADV_HUGEPAGE);
    }
    *out = data;
    return OK;
}

static void
cpu_free(struct backend *be, void *data)
{
    (void) be;
    free(data);
}

static void
cpu_fill(struct backend *be, void *data, int byte, size_t bytes)
{
    (void) be;
    memset(data, byte, bytes);
}

static void
cpu_upload(struct backend *be, void *dst, const void *host_src, size_t bytes)
{
    (void) be;
    memcpy(dst, host_src, bytes);
}

static void
cpu_download(struct backend *be, void *host_dst, const void *src, size_t bytes)
{
    (void) be;
    memcpy(host_dst, src, bytes);
}

/* ---- weights ------------------------------------------------------------- */

static void
cpu_weight_destroy(struct backend *be, struct weight *w)
{
    (void) be;
    if (w == NULL) {
        return;
    }
    for (int i = 0; i < w->num_parts; i++) {
        free(w->part[i].bias);
    }
    free(w->vector);
    free(w);
}

/* A padded fp32 copy of a small tensor; NULL when out of memory. */
static float *
weight_widen(struct cpu_backend *cb, const struct tensor *t)
{
    size_t  num = (size_t) cpu_pad(t->shape[0]);
    float  *wide = calloc(num, sizeof *wide);
    if (wide != NULL) {
        cb->kernels->widen(wide, t->data, t->dtype, t->shape[0]);
    }
    return wide;
}

static int
cpu_weight_create(struct backend *be, const struct weight_desc *desc,
                  struct weight **out, struct err *err)
{
    struct cpu_backend  *cb = (struct cpu_backend *) be;
    struct weight       *w = calloc(1, sizeof *w);
    *out = NULL;
    if (w == NULL) {
        goto no_memory;
    }
    check(desc->num_parts >= 1 && desc->num_parts <= WEIGHT_PARTS_MAX);
    w->kind = desc->kind;
    if (desc->kind == WEIGHT_VECTOR) {
        check_eq(desc->parts[0].ndim, 1);
        w->in = desc->parts[0].shape[0];
        w->vector = weight_widen(cb, &desc->parts[0]);
        if (w->vector == NULL) {
            goto no_memory;
        }
        *out = w;
        return OK;
    }
    w->num_parts = desc->num_parts;
    for (int i = 0; i < desc->num_parts; i++) {
        const struct tensor  *t = &desc->parts[i];
        check(t->dtype != DTYPE_NONE);
        check_eq(t->ndim, 2);
        check_eq(t->shape[1], desc->parts[0].shape[1]);
        w->in = t->shape[1];
        w->rows += t->shape[0];
        w->part[i] = (struct cpu_weight_part) { t->data, t->dtype, t->shape[0],
                                                NULL };
        if (desc->bias[i].dtype != DTYPE_NONE) {
            check_eq(desc->bias[i].shape[0], t->shape[0]);
            w->part[i].bias = weight_widen(cb, &desc->bias[i]);
            if (w->part[i].bias == NULL) {
                goto no_memory;
            }
        }
    }
    check(desc->kind != WEIGHT_GATE_UP
          || (w->num_parts == 2 && w->part[0].rows == w->part[1].rows));
    *out = w;
    return OK;

no_memory:
    cpu_weight_destroy(be, w);
    return err_set(err, "out of memory while loading weights");
}

/* ---- sizes of a step ------------------------------------------------------ */

static int
reserve_scratch(struct cpu_backend *cb, struct err *err)
{
    size_t  row = (size_t) cb->row_pad;
    size_t  tile = (size_t) CPU_X_ROWS * CPU_ITEM_ROWS_MAX;
    size_t  heads = (size_t) CPU_HEADS_MAX * CPU_HEAD_DIM_MAX;
    size_t  keys = (size_t) CPU_KEYS_PER_TILE * CPU_HEAD_DIM_MAX;
    size_t  per_thread = 2 * tile + (CPU_ROW_BLOCK_MAX + 1) * row + 2 * heads
                         + keys + CPU_HEADS_MAX * (size_t) cb->scores_stride;
    size_t  num = CPU_X_ROWS * row + (size_t) cb->num_threads * per_thread;
    free(cb->scratch_memory);
    if (cpu_alloc(&cb->base, num * sizeof(float), &cb->scratch_memory, err)
        != OK)
    {
        return ERROR;
    }
    float  *next = cb->scratch_memory;
    cb->x = next;
    next += CPU_X_ROWS * row;
    for (int i = 0; i < cb->num_threads; i++) {
        struct cpu_scratch  *s = &cb->scratch[i];
        s->out_a = next;
        s->out_b = s->out_a + tile;
        s->wide = s->out_b + tile;
        s->row = s->wide + CPU_ROW_BLOCK_MAX * row;
        s->q = s->row + row;
        s->tile = s->q + heads;
        s->attn_out = s->tile + keys;
        s->scores = s->attn_out + heads;
        next += per_thread;
    }
    return OK;
}

static int
reserve_step(struct cpu_backend *cb, const struct backend_limits *l,
             struct err *err)
{
    size_t  tokens = (size_t) l->max_num_batched_tokens;
    size_t  seqs = (size_t) l->max_num_seqs;
    size_t  num = 4 * tokens + 2 * seqs + 1
                  + seqs * (size_t) l->max_blocks_per_seq
                  + (size_t) l->max_num_logits;
    free(cb->step_memory);
    cb->step_memory = calloc(num, sizeof *cb->step_memory);
    if (cb->step_memory == NULL) {
        return err_set(err, "out of memory: %zu bytes of step arrays",
                       num * sizeof *cb->step_memory);
    }
    int32_t  *next = cb->step_memory;
    cb->step.input_ids = next;
    cb->step.positions = next += tokens;
    cb->step.slot_mapping = next += tokens;
    cb->row_seq = next += tokens;
    cb->step.cu_seqlens_q = next += tokens;
    cb->step.context_lens = next += seqs + 1;
    cb->step.logits_idx = next += seqs;
    cb->step.block_tables = next + l->max_num_logits;
    return OK;
}

static int
cpu_reserve(struct backend *be, const struct backend_limits *limits,
            struct err *err)
{
    struct cpu_backend     *cb = (struct cpu_backend *) be;
    struct backend_limits   l = backend_limits_max(&cb->limits, limits);
    check(!cb->in_step);
    check(l.max_num_batched_tokens >= 1 && l.max_num_seqs >= 1);
    cb->row_pad = cpu_pad(l.row_elems_max);
    cb->scores_stride = cpu_pad(l.max_model_len);
    cb->limits = (struct backend_limits) { .max_num_seqs = 0 };
    if (reserve_step(cb, &l, err) != OK || reserve_scratch(cb, err) != OK) {
        return ERROR;
    }
    cb->limits = l;
    return OK;
}

static void
copy_ids(const int32_t *dst, const int32_t *src, int num)
{
    /* dst is ours (step_memory); readers see it const */
    memcpy((int32_t *) (uintptr_t) dst, src, (size_t) num * sizeof *src);
}

static enum step_action
cpu_step_begin(struct backend *be, const struct step_inputs *in)
{
    struct cpu_backend           *cb = (struct cpu_backend *) be;
    const struct backend_limits  *l = &cb->limits;
    struct step_inputs           *s = &cb->step;

    check(!cb->in_step);
    check(in->num_tokens >= 1 && in->num_tokens <= l->max_num_batched_tokens);
    check(in->num_seqs >= 1 && in->num_seqs <= l->max_num_seqs);
    check(in->num_logits >= 0 && in->num_logits <= l->max_num_logits);
    check_le(in->max_blocks_per_seq, l->max_blocks_per_seq);
    s->max_blocks_per_seq = in->max_blocks_per_seq;
    s->num_tokens = in->num_tokens;
    s->num_seqs = in->num_seqs;
    s->num_logits = in->num_logits;
    copy_ids(s->input_ids, in->input_ids, in->num_tokens);
    copy_ids(s->positions, in->positions, in->num_tokens);
    copy_ids(s->slot_mapping, in->slot_mapping, in->num_tokens);
    copy_ids(s->cu_seqlens_q, in->cu_seqlens_q, in->num_seqs + 1);
    copy_ids(s->context_lens, in->context_lens, in->num_seqs);
    copy_ids(s->block_tables, in->block_tables,
             in->num_seqs * in->max_blocks_per_seq);
    copy_ids(s->logits_idx, in->logits_idx, in->num_logits);

    check_eq(s->cu_seqlens_q[0], 0);
    check_eq(s->cu_seqlens_q[s->num_seqs], s->num_tokens);
    for (int seq = 0; seq < s->num_seqs; seq++) {
        int  begin = s->cu_seqlens_q[seq], end = s->cu_seqlens_q[seq + 1];
        check_lt(begin, end);
        check_le(s->context_lens[seq], l->max_model_len);
        for (int row = begin; row < end; row++) {
            check_eq(s->positions[row], s->context_lens[seq] - (end - row));
            check_le(0, s->positions[row]);
            cb->row_seq[row] = seq;
        }
    }
    for (int i = 0; i < s->num_logits; i++) {
        check(s->logits_idx[i] >= 0 && s->logits_idx[i] < s->num_tokens);
    }
    cb->in_step = true;
    return STEP_ISSUE;
}

static void
cpu_step_end(struct backend *be)
{
    struct cpu_backend  *cb = (struct cpu_backend *) be;
    check(cb->in_step);
    cb->in_step = false;
}

static void
cpu_copy_blocks(struct backend *be, const struct kv_cache *kv,
                const struct block_copy *copies, int num_copies)
{
    (void) be;
    size_t  block_bytes = (size_t) kv->num_kv_heads * (size_t) kv->block_size
                          * (size_t) kv->head_dim * dtype_bytes(kv->dtype);
    for (int plane = 0; plane < 2 * kv->num_layers; plane++) {
        char  *base = (char *) kv->data
                      + (size_t) plane * (size_t) kv->num_blocks * block_bytes;
        for (int i = 0; i < num_copies; i++) {
            const struct block_copy  *c = &copies[i];
            check(c->src_block_id > 0 && c->src_block_id < kv->num_blocks);
            check(c->dst_block_id > 0 && c->dst_block_id < kv->num_blocks);
            memcpy(base + (size_t) c->dst_block_id * block_bytes,
                   base + (size_t) c->src_block_id * block_bytes, block_bytes);
        }
    }
}

static int
cpu_sync(struct backend *be, struct err *err)
{
    (void) be;
    (void) err;
    return OK;
}

/* ---- life ----------------------------------------------------------------- */

static void
cpu_destroy(struct backend *be)
{
    struct cpu_backend  *cb = (struct cpu_backend *) be;
    if (cb == NULL) {
        return;
    }
    cpu_pool_destroy(cb->pool);
    free(cb->scratch_memory);
    free(cb->scratch);
    free(cb->step_memory);
    free(cb);
}

static int
count_cpus(void)
{
    cpu_set_t  set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    int  num = CPU_COUNT(&set);
    return num < 1 ? 1 : num > CPU_THREADS_MAX ? CPU_THREADS_MAX : num;
}

int
backend_cpu_create(struct backend **out, const struct backend_cpu_options *o,
                   struct err *err)
{
    *out = NULL;
    if (o->num_threads < 0 || o->num_threads > CPU_THREADS_MAX) {
        return err_set(err, "cpu threads: %d is not in 0 .. %d", o->num_threads,
                       CPU_THREADS_MAX);
    }
    if (!isa_is_supported(o->isa)) {
        return err_set(err, "this CPU cannot run the %s kernels; the best it "
                       "has is %s", cpu_isa_name(o->isa),
                       cpu_isa_name(cpu_isa_best()));
    }
    struct cpu_backend  *cb = calloc(1, sizeof *cb);
    if (cb == NULL) {
        return err_set(err, "cpu backend: out of memory");
    }
    enum cpu_isa  isa = o->isa == CPU_ISA_AUTO ? cpu_isa_best() : o->isa;
    cb->kernels = isa_kernels(isa);
    cb->num_threads = o->num_threads == 0 ? count_cpus() : o->num_threads;
    cb->scratch = calloc((size_t) cb->num_threads, sizeof *cb->scratch);
    if (cb->scratch == NULL) {
        cpu_destroy(&cb->base);
        return err_set(err, "cpu backend: out of memory");
    }
    if (cpu_pool_create(&cb->pool, cb->num_threads, err) != OK) {
        cpu_destroy(&cb->base);
        return ERROR;
    }
    (void) snprintf(cb->name, sizeof cb->name, "cpu (%s, %d thread%s)",
                    cb->kernels->name, cb->num_threads,
                    cb->num_threads == 1 ? "" : "s");
    cb->ops = (struct backend_ops) {
        .name = cb->name,
        .borrows_weights = true,
        .host_memory = true,
        .destroy = cpu_destroy,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .fill = cpu_fill,
        .upload = cpu_upload,
        .download = cpu_download,
        .weight_create = cpu_weight_create,
        .weight_destroy = cpu_weight_destroy,
        .reserve = cpu_reserve,
        .step_begin = cpu_step_begin,
        .embed = cpu_embed,
        .linear = cpu_linear,
        .qk_norm_rope_append = cpu_qk_norm_rope_append,
        .attention = cpu_attention,
        .lm_head = cpu_lm_head,
        .step_end = cpu_step_end,
        .copy_blocks = cpu_copy_blocks,
        .sync = cpu_sync,
    };
    cb->base.ops = &cb->ops;
    *out = &cb->base;
    return OK;
}
