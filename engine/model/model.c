/* model.c - opens a model: limits first, then weights, then memory.
 *
 * Every size is decided and checked before the weights are read, so that an
 * option out of range fails in milliseconds. */
#include "engine/model/model.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/minmax.h"
#include "engine/model/forward.h"
#include "engine/model/kv_scales.h"
#include "engine/model/rope.h"

#include <stdlib.h>

#define GIB(bytes)  ((double) (bytes) / (1024.0 * 1024.0 * 1024.0))

size_t
model_kv_bytes_per_token(const struct model_config *cfg, enum dtype kv_dtype)
{
    return 2 * (size_t) cfg->num_hidden_layers
           * (size_t) cfg->num_key_value_heads * (size_t) cfg->head_dim
           * dtype_bytes(kv_dtype);
}

static int
open_limits(struct model *m, const struct model_options *o, struct err *err)
{
    int  len_max = model_config_max_len(&m->config);
    m->max_model_len = o->max_model_len == 0 ? len_max : o->max_model_len;
    m->block_size = o->block_size == 0 ? KV_BLOCK_SIZE_DEFAULT : o->block_size;
    if (m->max_model_len < 1 || m->max_model_len > len_max) {
        return err_set(err, "max_model_len %d: the model is made for at most "
                       "%d positions", m->max_model_len, len_max);
    }
    if (m->block_size != 16 && m->block_size != 32 && m->block_size != 64) {
        return err_set(err, "block_size %d: must be 16, 32 or 64",
                       m->block_size);
    }
    if (o->max_num_batched_tokens < 1 || o->max_num_seqs < 1
        || o->max_num_logits < 0)
    {
        return err_set(err, "max_num_batched_tokens %d and max_num_seqs %d "
                       "must be at least 1", o->max_num_batched_tokens,
                       o->max_num_seqs);
    }
    m->limits = (struct batch_limits) {
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_num_seqs = o->max_num_seqs,
        .max_num_logits = o->max_num_logits == 0 ? o->max_num_seqs
                                                 : o->max_num_logits,
        .max_blocks_per_seq = (m->max_model_len + m->block_size - 1)
                              / m->block_size,
    };
    return OK;
}

static int
open_weights(struct model *m, const struct model_options *o, struct err *err)
{
    struct safetensors  *files;
    if (o->load_format == LOAD_DUMMY) {
        return weights_load_dummy(&m->weights, m->be, &m->config,
                                  o->dummy_seed, err);
    }
    if (safetensors_open(&files, o->path, err) != OK) {
        return ERROR;
    }
    return weights_load_take(&m->weights, m->be, &m->config, files, err);
}

/* Bytes for the KV cache when no size was given: what the device may be filled
 * up to, less what is on it now, by whomever. */
static int
device_room(struct model *m, const struct model_options *o, size_t *out,
            struct err *err)
{
    size_t  free_bytes = 0, total = 0;
    if (m->be->ops->memory == NULL) {
        return err_set(err, "the KV cache needs a size: this device's memory "
                       "is the host's");
    }
    if (m->be->ops->sync(m->be, err) != OK
        || m->be->ops->memory(m->be, &free_bytes, &total, err) != OK)
    {
        return ERROR;
    }
    size_t  may = (size_t) ((double) total * o->gpu_memory_utilization);
    size_t  used = total - free_bytes;
    if (may <= used) {
        return err_set(err, "GPU memory: %.2f of %.2f GiB are taken before the "
                       "KV cache (weights %.2f GiB), and "
                       "--gpu-memory-utilization %g allows %.2f GiB: raise it, "
                       "lower --max-num-batched-tokens or --max-num-seqs, or "
                       "end what else uses the GPU", GIB(used), GIB(total),
                       GIB(m->weights.bytes), o->gpu_memory_utilization,
                       GIB(may));
    }
    *out = may - used;
    return OK;
}

static int
count_blocks(struct model *m, const struct model_options *o,
             size_t block_bytes, int *out, struct err *err)
{
    size_t  bytes = o->kv_cache_bytes;
    if (bytes == 0 && device_room(m, o, &bytes, err) != OK) {
        return ERROR;
    }
    size_t  num = bytes / block_bytes;
    *out = num > KV_NUM_BLOCKS_MAX ? KV_NUM_BLOCKS_MAX : (int) num;
    if (*out < 2) {
        return err_set(err, "KV cache of %zu bytes holds %d blocks of %zu "
                       "bytes; it needs at least 2", bytes, *out,
                       block_bytes);
    }
    return OK;
}

/* What an fp8 cache needs besides memory. */
static int
check_fp8(struct model *m, struct err *err)
{
    const struct model_config  *c = &m->config;
    if (c->qkv_bias && !c->qk_norm) {
        log_warn("fp8 KV cache: %s has biases on its keys and no norm, which "
                 "make some channels large; such models (Qwen2, Qwen2.5) are "
                 "known to lose much accuracy with it", c->architecture);
    }
    return kv_scales_complete(m->weights.kv_scales, c->num_hidden_layers, err);
}

/* One sequence of the longest length must fit; a number of blocks that was
 * asked for is taken as it is, and requests that cannot fit are refused. */
static int
check_len(struct model *m, const struct model_options *o, int num_blocks,
          size_t block_bytes, struct err *err)
{
    int64_t  fits = (int64_t) (num_blocks - 1) * m->block_size;
    size_t   token_bytes = block_bytes / (size_t) m->block_size;
    if (fits >= m->max_model_len
        || (o->max_model_len != 0 && o->num_blocks != 0))
    {
        return OK;
    }
    if (o->max_model_len != 0) {
        return err_set(err, "max_model_len %d needs %.2f GiB of KV cache for "
                       "one sequence, %.2f GiB are there: lower "
                       "--max-model-len to %lld or give more memory "
                       "(--gpu-memory-utilization, --kv-cache-memory-bytes)",
                       m->max_model_len,
                       GIB(token_bytes * (size_t) m->max_model_len),
                       GIB(block_bytes * (size_t) num_blocks),
                       (long long) fits);
    }
    log_warn("max_model_len is %lld, not the model's %d: the KV cache holds "
             "no more", (long long) fits, m->max_model_len);
    m->max_model_len = (int) fits;
    return OK;
}

/* Blocks of the cache, 0: as many as there is room for. */
static int
size_kv(struct model *m, const struct model_options *o, size_t block_bytes,
        int *num_blocks, struct err *err)
{
    if (*num_blocks == 0 && block_bytes != 0
        && count_blocks(m, o, block_bytes, num_blocks, err) != OK)
    {
        return ERROR;
    }
    /* slot ids are int32 */
    if ((int64_t) *num_blocks * m->block_size > INT32_MAX) {
        *num_blocks = INT32_MAX / m->block_size;
    }
    return check_len(m, o, *num_blocks, block_bytes, err);
}

static int
open_kv(struct model *m, const struct model_options *o, struct err *err)
{
    const struct model_config  *c = &m->config;
    struct kv_pool_options      p = {
        .dtype = o->kv_cache_dtype == DTYPE_NONE ? m->dtype
                                                 : o->kv_cache_dtype,
        .num_layers = c->num_hidden_layers,
        .num_kv_heads = c->num_key_value_heads,
        .head_dim = c->head_dim,
        .block_size = m->block_size,
        .num_blocks = o->num_blocks,
    };
    if (p.dtype == DTYPE_F8_E4M3) {
        if (check_fp8(m, err) != OK) {
            return ERROR;
        }
        p.scales = m->weights.kv_scales;
    } else if (m->weights.kv_scales[0] > 0) {
        log_notice("the checkpoint has scales for an fp8 KV cache, which "
                   "--kv-cache-dtype fp8 uses");
    }
    if (size_kv(m, o, kv_pool_block_bytes(&p), &p.num_blocks, err) != OK) {
        /* the device's room decided */
        return o->num_blocks == 0 && o->kv_cache_bytes == 0
               ? err_device_full(err) : ERROR;
    }
    return kv_pool_init(&m->kv, m->be, &p, err);
}

static int
open_activation(struct model *m, struct tensor *t, int64_t rows, int64_t cols,
                struct err *err)
{
    size_t  bytes = (size_t) rows * (size_t) cols * dtype_bytes(t->dtype);
    t->ndim = 2;
    t->shape[0] = rows;
    t->shape[1] = cols;
    m->activation_bytes += bytes;
    return m->be->ops->alloc(m->be, bytes, &t->data, err);
}

/* 0 where the device does not say. */
static size_t
device_free(const struct model *m)
{
    size_t      free_bytes = 0, total = 0;
    struct err  ignored = { 0 };
    if (m->be->ops->memory == NULL
        || m->be->ops->memory(m->be, &free_bytes, &total, &ignored) != OK)
    {
        return 0;
    }
    return free_bytes;
}

static int
open_activations(struct model *m, struct err *err)
{
    const struct model_config  *c = &m->config;
    int64_t  cap = m->limits.max_num_batched_tokens;
    int64_t  q = (int64_t) c->num_attention_heads * c->head_dim;
    int64_t  qkv = q + 2 * (int64_t) c->num_key_value_heads * c->head_dim;
    int64_t  num_logits = m->limits.max_num_logits;

    m->hidden.dtype = m->qkv.dtype = m->attn.dtype = m->mlp.dtype = m->dtype;
    m->logits.dtype = DTYPE_F32;
    if (open_activation(m, &m->hidden, cap, c->hidden_size, err) != OK
        || open_activation(m, &m->qkv, cap, qkv, err) != OK
        || open_activation(m, &m->attn, cap, q, err) != OK
        || open_activation(m, &m->mlp, cap, c->intermediate_size, err) != OK
        || open_activation(m, &m->logits, num_logits, c->vocab_size, err)
           != OK)
    {
        return ERROR;
    }
    if (!m->be->ops->host_memory) {
        m->host_logits = malloc((size_t) num_logits * (size_t) c->vocab_size
                                * sizeof *m->host_logits);
        if (m->host_logits == NULL) {
            return err_set(err, "out of memory for %lld rows of logits",
                           (long long) num_logits);
        }
    }
    struct backend_limits  limits = {
        .max_num_batched_tokens = m->limits.max_num_batched_tokens,
        .max_num_seqs = m->limits.max_num_seqs,
        .max_num_logits = m->limits.max_num_logits,
        .max_blocks_per_seq = m->limits.max_blocks_per_seq,
        .max_model_len = m->max_model_len,
        .row_elems_max = max_int(max_int(c->hidden_size, (int) qkv),
                                 c->intermediate_size),
    };
    size_t  before = device_free(m);
    if (m->be->ops->reserve(m->be, &limits, err) != OK) {
        return ERROR;
    }
    size_t  after = device_free(m);
    m->scratch_bytes = before > after ? before - after : 0;
    return OK;
}

static int
open_rope(struct model *m, struct err *err)
{
    size_t  num = (size_t) m->max_model_len * (size_t) m->config.head_dim;
    float  *table = malloc(num * sizeof *table);
    void   *data = NULL;
    if (table == NULL) {
        return err_set(err, "out of memory: %zu bytes of rope table",
                       num * sizeof *table);
    }
    rope_table(&m->config.rope, m->config.head_dim, m->max_model_len, table);
    int  rc = m->be->ops->alloc(m->be, num * sizeof *table, &data, err);
    if (rc == OK) {
        m->be->ops->upload(m->be, data, table, num * sizeof *table);
        m->cos_sin = data;
    }
    free(table);
    return rc;
}

/* Two models on one backend, or one opened after another was closed, may have
 * everything at the same addresses; they cannot have the same time too. */
static uint64_t
open_id(const struct model *m)
{
    return hash_mix64((uint64_t) clock_now_ns() ^ hash_mix64((uintptr_t) m))
           | 1;
}

int
model_open(struct model **out, const struct model_options *o,
           struct backend *be, struct err *err)
{
    struct model  *m = calloc(1, sizeof *m);
    *out = NULL;
    if (m == NULL) {
        return err_set(err, "out of memory");
    }
    m->be = be;
    m->id = open_id(m);
    if (model_config_load(&m->config, o->path, err) != OK
        || open_limits(m, o, err) != OK || open_weights(m, o, err) != OK)
    {
        goto fail;
    }
    m->dtype = m->weights.dtype;
    /* the KV cache last: it may take what is left */
    if (open_activations(m, err) != OK || open_rope(m, err) != OK
        || open_kv(m, o, err) != OK)
    {
        goto fail;
    }
    log_info("model %s: %s, %lld parameters, %s, weights %zu bytes, KV cache "
             "%d blocks of %d tokens (%s, %zu bytes), activations %zu bytes, "
             "%s", o->path, m->config.architecture,
             (long long) model_config_num_parameters(&m->config),
             dtype_name(m->dtype), m->weights.bytes, m->kv.cache.num_blocks,
             m->block_size, dtype_name(m->kv.cache.dtype), m->kv.bytes,
             m->activation_bytes, be->ops->name);
    *out = m;
    return OK;

fail:
    model_close(m);
    return ERROR;
}

void
model_memory(const struct model *m, struct model_memory *out)
{
    struct err  ignored = { 0 };
    *out = (struct model_memory) {
        .weights = m->weights.bytes, .kv = m->kv.bytes,
        .activations = m->activation_bytes, .scratch = m->scratch_bytes };
    if (m->be->ops->memory != NULL) {
        (void) m->be->ops->memory(m->be, &out->device_free,
                                  &out->device_total, &ignored);
    }
}

void
model_close(struct model *m)
{
    if (m == NULL) {
        return;
    }
    struct tensor *const  all[] = { &m->hidden, &m->qkv, &m->attn, &m->mlp,
                                    &m->logits };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        m->be->ops->free(m->be, all[i]->data);
    }
    m->be->ops->free(m->be, m->cos_sin);
    free(m->host_logits);
    kv_pool_destroy(&m->kv);
    weights_destroy(&m->weights);
    free(m);
}

void
model_issue(struct model *m, const struct batch *b)
{
    struct backend      *be = m->be;
    struct step_inputs   in = {
        .num_tokens = b->num_tokens,
        .num_seqs = b->num_seqs,
        .num_logits = b->num_logits,
        .max_blocks_per_seq = b->limits.max_blocks_per_seq,
        .model_id = m->id,
        .input_ids = b->input_ids,
        .positions = b->positions,
        .slot_mapping = b->slot_mapping,
        .cu_seqlens_q = b->cu_seqlens_q,
        .context_lens = b->context_lens,
        .block_tables = b->block_tables,
        .logits_idx = b->logits_idx,
    };
    if (be->ops->step_begin(be, &in) == STEP_ISSUE) {
        forward_issue(m);
    }
    be->ops->step_end(be);
}

int
model_sync(struct model *m, struct err *err)
{
    return m->be->ops->sync(m->be, err);
}

int
model_forward(struct model *m, const struct batch *b, const float **logits,
              struct err *err)
{
    struct backend  *be = m->be;

    model_issue(m, b);
    if (model_sync(m, err) != OK) {
        return ERROR;
    }
    *logits = m->logits.data;
    if (!be->ops->host_memory) {
        be->ops->download(be, m->host_logits, m->logits.data,
                          (size_t) b->num_logits
                          * (size_t) m->config.vocab_size * sizeof **logits);
        *logits = m->host_logits;
    }
    return OK;
}

bool
model_samples(const struct model *m)
{
    return m->be->ops->sample != NULL;
}

void
model_sample(struct model *m, const struct sample_row *rows, int num_rows)
{
    m->be->ops->sample(m->be, &(struct sample_args) {
        .logits = m->logits, .num_rows = num_rows, .rows = rows });
}

int
model_sampled(struct model *m, int32_t *token_ids, struct err *err)
{
    return m->be->ops->sampled(m->be, token_ids, err);
}

bool
model_sample_is_done(const struct model *m)
{
    return m->be->ops->sample_is_done == NULL
           || m->be->ops->sample_is_done(m->be);
}

void
model_time_steps(struct model *m)
{
    if (m->be->ops->time_steps != NULL) {
        m->be->ops->time_steps(m->be);
    }
}

bool
model_step_time(struct model *m, struct step_time *out)
{
    return m->be->ops->step_time != NULL
           && m->be->ops->step_time(m->be, out);
}
