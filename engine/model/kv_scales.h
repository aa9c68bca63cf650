/* kv_scales.h - the scales of an fp8 KV cache, as checkpoints carry them.
 *
 * One positive number a layer for K and one for V, [] or [1] in float32,
 * bfloat16 or float16, under the first of these names that is there:
 *     model.layers.N.self_attn.{k,v}_scale             vLLM, llm-compressor
 *     model.layers.N.self_attn.attn.{k,v}_scale        vLLM's own modules
 *     model.layers.N.self_attn.{k,v}_proj.{k,v}_scale  ModelOpt
 *     model.layers.N.self_attn.{k,v}_proj.output_scale compressed-tensors
 *     model.layers.N.self_attn.kv_scale                both, AutoFP8 */
#ifndef LLM_MODEL_KV_SCALES_H
#define LLM_MODEL_KV_SCALES_H

#include "engine/base/err.h"
#include "engine/model/safetensors.h"

/* scales [num_layers][2]: K's, V's; 0: absent, NAN: not one number greater than
 * 0.  Marks what it finds as used. */
void kv_scales_find(float *scales, int num_layers, struct safetensors *files);

/* For a cache that needs them: absent ones become 1, with a notice that says
 * so; NAN is an error. */
int kv_scales_complete(float *scales, int num_layers, struct err *err);

#endif
