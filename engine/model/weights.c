/* weights.c - asks for every tensor by name and shape.
 *
 * A source answers "tensor NAME of SHAPE": from the files, with checks, or
 * from random memory.  What is asked for is written once, in load_layer() and
 * load_all(), and is the same for both. */
#include "engine/model/weights.h"
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/model/kv_scales.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TENSOR_NAME_BYTES  256
#define HUGE_BYTES         ((size_t) 2 << 20)
#define UNUSED_LOGGED_MAX  8
#define RANDOM_STEP        0x9e3779b97f4a7c15ULL

struct source {
    struct weights            *w;
    const struct model_config *cfg;
    struct err                *err;
    uint64_t                   random;      /* LOAD_DUMMY */
    struct weight_random       drawn;       /* of the last tensor */
    char                      *next, *end;  /* LOAD_DUMMY: free memory */
};

/* ---- random memory --------------------------------------------------------- */

static uint64_t
random_next(uint64_t *state)
{
    uint64_t  z = *state += RANDOM_STEP;    /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    return z ^ z >> 31;
}

/* Truncation is good enough for random values, whose magnitude is normal or 0
 * in every dtype. */
static void
store_value(char *p, enum dtype dtype, float x)
{
    uint32_t  u;
    uint16_t  half;
    memcpy(&u, &x, sizeof u);
    if (dtype == DTYPE_F32) {
        memcpy(p, &u, sizeof u);
        return;
    }
    half = (uint16_t) (u >> 16);
    if (dtype == DTYPE_F16) {
        uint32_t  exponent = u >> 23 & 0xff;
        half = (uint16_t) (half & 0x8000);
        if (exponent > 112 && exponent < 143) {
            half = (uint16_t) (half | (exponent - 112) << 10
                               | (u >> 13 & 0x3ff));
        }
    }
    memcpy(p, &half, sizeof half);
}

/* Uniform values of variance 1 / (columns), so that activations keep their
 * size; norm weights are 1. */
static int
find_random(struct source *s, const char *name, struct tensor *t)
{
    size_t  elem = dtype_bytes(t->dtype), num = 1;
    for (int i = 0; i < t->ndim; i++) {
        num *= (size_t) t->shape[i];
    }
    float  scale = sqrtf(3.0f / (float) t->shape[t->ndim - 1]) / 32768.0f;
    bool   is_norm = t->ndim == 1 && strstr(name, "norm.weight") != NULL;
    if (s->w->be->ops->makes_random) {
        s->drawn = (struct weight_random) { s->random, is_norm ? 0 : scale };
        s->random += RANDOM_STEP * ((num + 3) / 4);
        return OK;
    }
    check_le(num * elem, s->end - s->next);
    for (size_t i = 0; i < num; i += 4) {
        uint64_t  r = random_next(&s->random);
        for (size_t j = i; j < num && j < i + 4; j++, r >>= 16) {
            float  x = (float) (int16_t) (uint16_t) r * scale;
            store_value(s->next + j * elem, t->dtype, is_norm ? 1.0f : x);
        }
    }
    t->data = s->next;
    s->next += (num * elem + 63) & ~(size_t) 63;
    return OK;
}

/* ---- files ------------------------------------------------------------------- */

static void
shape_text(char *out, size_t bytes, const struct tensor *t)
{
    size_t  len = 0;
    out[0] = '\0';
    for (int i = 0; i < t->ndim && len < bytes; i++) {
        int  n = snprintf(out + len, bytes - len, "%s%lld", i == 0 ? "" : ", ",
                          (long long) t->shape[i]);
        len += n > 0 ? (size_t) n : 0;
    }
}

static int
find_in_files(struct source *s, const char *name, struct tensor *t)
{
    const struct safetensors_entry  *e =
        safetensors_find(s->w->files, str_from(name));
    char  want[80], have[80];
    if (e == NULL) {
        return err_set(s->err, "tensor %s is missing from the safetensors "
                       "files; config.json (%s) needs it", name,
                       s->cfg->architecture);
    }
    bool  same = e->tensor.ndim == t->ndim;
    for (int i = 0; same && i < t->ndim; i++) {
        same = e->tensor.shape[i] == t->shape[i];
    }
    if (!same) {
        shape_text(want, sizeof want, t);
        shape_text(have, sizeof have, &e->tensor);
        return err_set(s->err, "%s: tensor %s has shape [%s], config.json "
                       "implies [%s]", e->file, name, have, want);
    }
    if (e->tensor.dtype == DTYPE_NONE) {
        return err_set(s->err, "%s: tensor %s has dtype %s; supported are F32, "
                       "BF16 and F16", e->file, name, e->dtype_name);
    }
    *t = e->tensor;
    return OK;
}

/* Fills t->data (and the stored dtype) of the tensor named by the format. */
static int __attribute__((format(printf, 3, 4)))
source_find(struct source *s, struct tensor *t, const char *format, ...)
{
    char     name[TENSOR_NAME_BYTES];
    va_list  args;
    va_start(args, format);
    (void) vsnprintf(name, sizeof name, format, args);
    va_end(args);
    t->dtype = s->w->dtype;
    return s->w->files == NULL ? find_random(s, name, t)
                               : find_in_files(s, name, t);
}

/* ---- weights ------------------------------------------------------------------ */

static int
source_create(struct source *s, const struct weight_desc *d,
              struct weight **out)
{
    for (int i = 0; i < d->num_parts; i++) {
        const struct tensor  *t = &d->parts[i];
        size_t  num = (size_t) t->shape[0]
                      * (size_t) (t->ndim == 2 ? t->shape[1] : 1);
        s->w->bytes += d->kind == WEIGHT_EMBEDDING
                       ? 0 : num * dtype_bytes(t->dtype);
    }
    return s->w->be->ops->weight_create(s->w->be, d, out, s->err);
}

static int
load_vector(struct source *s, const char *name, int64_t len,
            struct weight **out)
{
    struct weight_desc  d = { .kind = WEIGHT_VECTOR, .num_parts = 1 };
    d.parts[0] = tensor_1d(DTYPE_NONE, NULL, len);
    if (source_find(s, &d.parts[0], "%s.weight", name) != OK) {
        return ERROR;
    }
    d.random[0] = s->drawn;
    return source_create(s, &d, out);
}

/* One projection of a stacked weight: "prefix.name.weight" and perhaps bias. */
struct part_spec {
    const char *name;
    int64_t     rows;
    bool        bias;
};

struct linear_spec {
    enum weight_kind  kind;
    const char       *prefix;
    int64_t           in;
    int               num_parts;
    struct part_spec  parts[WEIGHT_PARTS_MAX];
};

static int
load_linear(struct source *s, const struct linear_spec *spec,
            struct weight **out)
{
    struct weight_desc  d = { .kind = spec->kind,
                              .num_parts = spec->num_parts };
    for (int i = 0; i < spec->num_parts; i++) {
        const struct part_spec  *p = &spec->parts[i];
        d.parts[i] = tensor_2d(DTYPE_NONE, NULL, p->rows, spec->in);
        if (source_find(s, &d.parts[i], "%s%s.weight", spec->prefix, p->name)
            != OK)
        {
            return ERROR;
        }
        d.random[i] = s->drawn;
        if (p->bias) {
            d.bias[i] = tensor_1d(DTYPE_NONE, NULL, p->rows);
            if (source_find(s, &d.bias[i], "%s%s.bias", spec->prefix, p->name)
                != OK)
            {
                return ERROR;
            }
            d.bias_random[i] = s->drawn;
        }
    }
    return source_create(s, &d, out);
}

static int
load_norms(struct source *s, const char *prefix, struct layer_weights *l)
{
    const struct model_config  *c = s->cfg;
    char                        name[TENSOR_NAME_BYTES];
    const struct {
        const char     *name;
        int64_t         len;
        bool            wanted;
        struct weight **out;
    } norms[] = {
        { "input_layernorm", c->hidden_size, true, &l->input_layernorm },
        { "post_attention_layernorm", c->hidden_size, true,
          &l->post_attention_layernorm },
        { "self_attn.q_norm", c->head_dim, c->qk_norm, &l->q_norm },
        { "self_attn.k_norm", c->head_dim, c->qk_norm, &l->k_norm },
    };
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        (void) snprintf(name, sizeof name, "%s%s", prefix, norms[i].name);
        if (norms[i].wanted
            && load_vector(s, name, norms[i].len, norms[i].out) != OK)
        {
            return ERROR;
        }
    }
    return OK;
}

static int
load_layer(struct source *s, int layer_idx, struct layer_weights *l)
{
    const struct model_config  *c = s->cfg;
    int64_t                     q = (int64_t) c->num_attention_heads
                                    * c->head_dim;
    int64_t                     kv = (int64_t) c->num_key_value_heads
                                     * c->head_dim;
    char                        prefix[64];
    (void) snprintf(prefix, sizeof prefix, "model.layers.%d.", layer_idx);

    const struct linear_spec  qkv = { WEIGHT_LINEAR, prefix, c->hidden_size, 3, {
        { "self_attn.q_proj", q, c->qkv_bias },
        { "self_attn.k_proj", kv, c->qkv_bias },
        { "self_attn.v_proj", kv, c->qkv_bias } } };
    const struct linear_spec  o = { WEIGHT_LINEAR, prefix, q, 1, {
        { "self_attn.o_proj", c->hidden_size, c->o_bias } } };
    const struct linear_spec  gate_up = {
        WEIGHT_GATE_UP, prefix, c->hidden_size, 2, {
        { "mlp.gate_proj", c->intermediate_size, c->mlp_bias },
        { "mlp.up_proj", c->intermediate_size, c->mlp_bias } } };
    const struct linear_spec  down = {
        WEIGHT_LINEAR, prefix, c->intermediate_size, 1, {
        { "mlp.down_proj", c->hidden_size, c->mlp_bias } } };

    if (load_norms(s, prefix, l) != OK
        || load_linear(s, &qkv, &l->qkv_proj) != OK
        || load_linear(s, &o, &l->o_proj) != OK
        || load_linear(s, &gate_up, &l->gate_up_proj) != OK
        || load_linear(s, &down, &l->down_proj) != OK)
    {
        return ERROR;
    }
    return OK;
}

static int
load_all(struct source *s)
{
    struct weights             *w = s->w;
    const struct model_config  *c = s->cfg;
    const struct linear_spec    embed = {
        WEIGHT_EMBEDDING, "model.", c->hidden_size, 1, {
        { "embed_tokens", c->vocab_size, false } } };
    const struct linear_spec    head = {
        WEIGHT_LINEAR, "", c->hidden_size, 1, {
        { "lm_head", c->vocab_size, false } } };

    w->num_layers = c->num_hidden_layers;
    w->layers = calloc((size_t) w->num_layers, sizeof *w->layers);
    w->kv_scales = calloc((size_t) w->num_layers, 2 * sizeof *w->kv_scales);
    if (w->layers == NULL || w->kv_scales == NULL) {
        return err_set(s->err, "out of memory while loading weights");
    }
    if (load_linear(s, &embed, &w->embed_tokens) != OK) {
        return ERROR;
    }
    for (int i = 0; i < w->num_layers; i++) {
        if (load_layer(s, i, &w->layers[i]) != OK) {
            return ERROR;
        }
    }
    if (load_vector(s, "model.norm", c->hidden_size, &w->norm) != OK) {
        return ERROR;
    }
    if (c->tie_word_embeddings) {
        w->lm_head = w->embed_tokens;
        w->bytes += (size_t) c->vocab_size * (size_t) c->hidden_size
                    * dtype_bytes(w->dtype);
        return OK;
    }
    return load_linear(s, &head, &w->lm_head);
}

/* Leftovers every release of some models has; scales of an attention in fp8
 * arithmetic, which is not done here. */
static bool
is_known_leftover(const struct safetensors_entry *e)
{
    return str_ends_with(e->name, STR("rotary_emb.inv_freq"))
           || str_eq(e->name, STR("lm_head.weight"))
           || str_ends_with(e->name, STR(".q_scale"))
           || str_ends_with(e->name, STR(".prob_scale"));
}

static void
count_unused(struct weights *w)
{
    size_t  num = safetensors_num_tensors(w->files);
    for (size_t i = 0; i < num; i++) {
        const struct safetensors_entry  *e = safetensors_entry_at(w->files, i);
        if (e->used) {
            continue;
        }
        if (is_known_leftover(e)) {
            log_debug("%s: tensor %.*s is not used", e->file, STR_ARG(e->name));
        } else if (++w->num_unused <= UNUSED_LOGGED_MAX) {
            log_warn("%s: tensor %.*s is not used by this architecture",
                     e->file, STR_ARG(e->name));
        }
    }
    if (w->num_unused > UNUSED_LOGGED_MAX) {
        log_warn("%zu more tensors are not used",
                 w->num_unused - UNUSED_LOGGED_MAX);
    }
}

int
weights_load_take(struct weights *w, struct backend *be,
                  const struct model_config *cfg, struct safetensors *files,
                  struct err *err)
{
    struct source  s = { .w = w, .cfg = cfg, .err = err };
    *w = (struct weights) { .be = be, .files = files };
    const struct safetensors_entry  *embed =
        safetensors_find(files, STR("model.embed_tokens.weight"));
    w->dtype = embed == NULL ? DTYPE_NONE : embed->tensor.dtype;
    if (load_all(&s) != OK) {
        return ERROR;
    }
    if (cfg->dtype != DTYPE_NONE && cfg->dtype != w->dtype) {
        log_notice("config.json says dtype %s, the weights are stored as %s "
                   "and computed so", dtype_name(cfg->dtype),
                   dtype_name(w->dtype));
    }
    kv_scales_find(w->kv_scales, w->num_layers, files);
    count_unused(w);
    if (!be->ops->borrows_weights) {
        safetensors_close(w->files);
        w->files = NULL;
    }
    return OK;
}

int
weights_load_dummy(struct weights *w, struct backend *be,
                   const struct model_config *cfg, uint64_t seed,
                   struct err *err)
{
    struct source  s = { .w = w, .cfg = cfg, .err = err, .random = seed };
    *w = (struct weights) { .be = be };
    w->dtype = cfg->dtype == DTYPE_NONE ? DTYPE_BF16 : cfg->dtype;
    if (be->ops->makes_random) {
        return load_all(&s);
    }
    /* every tensor is padded to 64 bytes; 16 tensors a layer at most */
    size_t  bytes = (size_t) model_config_num_parameters(cfg)
                    * dtype_bytes(w->dtype)
                    + 64 * (size_t) (16 * cfg->num_hidden_layers + 3);
    if (posix_memalign(&w->dummy, HUGE_BYTES, bytes) != 0) {
        w->dummy = NULL;
        return err_set(err, "out of memory: %zu bytes of random weights",
                       bytes);
    }
    (void) madvise(w->dummy, bytes & ~(HUGE_BYTES - 1), MADV_HUGEPAGE);
    s.next = w->dummy;
    s.end = s.next + bytes;
    if (load_all(&s) != OK) {
        return ERROR;
    }
    if (!be->ops->borrows_weights) {
        free(w->dummy);
        w->dummy = NULL;
    }
    return OK;
}

void
weights_destroy(struct weights *w)
{
    struct backend  *be = w->be;
    if (be == NULL) {
        return;
    }
    for (int i = 0; w->layers != NULL && i < w->num_layers; i++) {
        const struct layer_weights  *l = &w->layers[i];
        struct weight *const         all[] = {
            l->input_layernorm, l->qkv_proj, l->q_norm, l->k_norm, l->o_proj,
            l->post_attention_layernorm, l->gate_up_proj, l->down_proj
        };
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) {
            be->ops->weight_destroy(be, all[j]);
        }
    }
    free(w->layers);
    free(w->kv_scales);
    if (w->lm_head != w->embed_tokens) {
        be->ops->weight_destroy(be, w->lm_head);
    }
    be->ops->weight_destroy(be, w->embed_tokens);
    be->ops->weight_destroy(be, w->norm);
    safetensors_close(w->files);
    free(w->dummy);
    *w = (struct weights) { .be = NULL };
}
