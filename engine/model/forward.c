/* forward.c - the decoder-only transformer of Llama, Mistral, Qwen2 and Qwen3.
 *
 * The four differ in data only: which weights have a bias, whether q and k are
 * normed, the rope table, the window of each layer.  Each line is one op of
 * backend.h; rows, positions and block tables belong to the step. */
#include "engine/model/forward.h"

#include <math.h>

static struct norm
norm_of(const struct model *m, const struct weight *weight)
{
    return (struct norm) { weight, (float) m->config.rms_norm_eps };
}

static void
forward_attention(struct model *m, int layer_idx)
{
    struct backend              *be = m->be;
    const struct model_config   *cfg = &m->config;
    const struct layer_weights  *w = &m->weights.layers[layer_idx];

    be->ops->linear(be, &(struct linear_args) {
        .y = m->qkv, .x = m->hidden, .norm = norm_of(m, w->input_layernorm),
        .weight = w->qkv_proj, .epilogue = EPILOGUE_NONE });
    be->ops->qk_norm_rope_append(be, &(struct qk_norm_rope_append_args) {
        .qkv = m->qkv, .q_norm = norm_of(m, w->q_norm),
        .k_norm = norm_of(m, w->k_norm), .cos_sin = m->cos_sin,
        .kv = &m->kv.cache, .layer_idx = layer_idx,
        .num_heads = cfg->num_attention_heads });
    be->ops->attention(be, &(struct attention_args) {
        .out = m->attn, .qkv = m->qkv, .kv = &m->kv.cache,
        .layer_idx = layer_idx, .num_heads = cfg->num_attention_heads,
        .sliding_window = cfg->sliding_window[layer_idx],
        .scale = (float) (1.0 / sqrt(cfg->head_dim)) });
    be->ops->linear(be, &(struct linear_args) {
        .y = m->hidden, .x = m->attn, .weight = w->o_proj,
        .epilogue = EPILOGUE_ADD });
}

static void
forward_mlp(struct model *m, int layer_idx)
{
    struct backend              *be = m->be;
    const struct layer_weights  *w = &m->weights.layers[layer_idx];

    be->ops->linear(be, &(struct linear_args) {
        .y = m->mlp, .x = m->hidden,
        .norm = norm_of(m, w->post_attention_layernorm),
        .weight = w->gate_up_proj, .epilogue = EPILOGUE_SILU_MUL });
    be->ops->linear(be, &(struct linear_args) {
        .y = m->hidden, .x = m->mlp, .weight = w->down_proj,
        .epilogue = EPILOGUE_ADD });
}

void
forward_issue(struct model *m)
{
    struct backend  *be = m->be;

    be->ops->embed(be, m->hidden, m->weights.embed_tokens);
    for (int i = 0; i < m->config.num_hidden_layers; i++) {
        forward_attention(m, i);
        forward_mlp(m, i);
    }
    be->ops->lm_head(be, &(struct lm_head_args) {
        .logits = m->logits, .x = m->hidden,
        .norm = norm_of(m, m->weights.norm), .weight = m->weights.lm_head });
}
