#!/usr/bin/env python3
"""make_golden.py - small random models and what Hugging Face computes on them.

usage: make_golden.py OUTDIR        (needs torch, transformers, numpy)

Every model goes to OUTDIR/NAME as save_pretrained() writes it; beside it
expected.st (safetensors form) holds, for two prompts (0: 40 tokens, 1: 5):
  prompt.P   I32 [n]      token ids
  logits.P   F32 [n, V]   of the same stored weights computed in float32, eager
  greedy.P   I32 [16]     greedy continuation in the model's own dtype
  margin.P   F32 [16]     top-1 minus top-2 of those steps, in float32
  hf_error.P F32 [1]      max |logits in own dtype - logits in float32|
Weights come from numpy's PCG64 seeded by the tensor's name, so the models do
not depend on the torch version.  Prompts are the ones of 64 candidates whose
smallest margin is largest against hf_error, so that "greedy tokens equal" is
a fair demand for 16-bit models.
"""
import copy
import json
import os
import sys
import traceback
import zlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, MistralConfig,
                          Qwen2Config, Qwen3Config)

VOCAB = 131
NUM_GREEDY = 16
NUM_CANDIDATES = 64
PROMPT_LENS = (40, 5)


def rope(rope_type="default", theta=10000.0, **more):
    return {"rope_type": rope_type, "rope_theta": theta, **more}


LLAMA3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope("yarn", 10000.0, factor=4.0, original_max_position_embeddings=32)
COMMON = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80,
              num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256,
              bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)

# name: (config class, dtype, shard bytes or None, config)
MODELS = {
    "llama-f32-tied": (LlamaConfig, "float32", None, dict(
        tie_word_embeddings=True, rope_parameters=rope())),
    "llama-f32-bias-linear": (LlamaConfig, "float32", None, dict(
        attention_bias=True, mlp_bias=True, num_key_value_heads=4,
        rope_parameters=rope("linear", 100000.0, factor=4.0))),
    "llama-bf16-llama3": (LlamaConfig, "bfloat16", None, dict(
        head_dim=32, num_key_value_heads=1, rope_parameters=LLAMA3)),
    "llama-f16-shards": (LlamaConfig, "float16", "40KB", dict(
        rope_parameters=rope("linear", 10000.0, factor=2.0))),
    "mistral-f32-window": (MistralConfig, "float32", None, dict(
        head_dim=24, sliding_window=16, rope_parameters=rope())),
    "mistral-bf16-full": (MistralConfig, "bfloat16", None, dict(
        head_dim=32, sliding_window=None,
        rope_parameters=rope(theta=1000000.0))),
    "mistral-bf16-window": (MistralConfig, "bfloat16", None, dict(
        head_dim=16, sliding_window=16, tie_word_embeddings=True,
        rope_parameters=rope())),
    "qwen2-f32-group7": (Qwen2Config, "float32", None, dict(
        hidden_size=56, num_attention_heads=14, num_key_value_heads=2,
        tie_word_embeddings=True, rope_parameters=rope(theta=1000000.0))),
    "qwen2-f32-window": (Qwen2Config, "float32", None, dict(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=16,
        max_window_layers=1, rope_parameters=rope())),
    "qwen2-bf16-yarn": (Qwen2Config, "bfloat16", None, dict(
        rope_parameters=YARN)),
    "qwen3-f32-tied": (Qwen3Config, "float32", None, dict(
        head_dim=32, tie_word_embeddings=True,
        rope_parameters=rope(theta=1000000.0))),
    "qwen3-f32-yarn": (Qwen3Config, "float32", None, dict(
        head_dim=16, attention_bias=True, rope_parameters=YARN)),
    "qwen3-bf16": (Qwen3Config, "bfloat16", None, dict(
        head_dim=32, rope_parameters=rope(theta=1000000.0))),
}


def fill(model):
    """Weights by name: linear ~ N(0, 1/in), embeddings and head ~ N(0, 1),
    norms ~ 1 + N(0, 0.04), biases ~ N(0, 0.25).  Tied embeddings are a quarter
    of that, or every model would only repeat its last token."""
    seen = {}
    for name, p in model.named_parameters():
        if p.data_ptr() in seen:
            continue
        seen[p.data_ptr()] = name
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        x = rng.standard_normal(tuple(p.shape))
        if name.endswith("norm.weight"):
            x = 1.0 + 0.2 * x
        elif name.endswith("bias"):
            x = 0.5 * x
        elif "embed_tokens" not in name and "lm_head" not in name:
            x = x / np.sqrt(p.shape[1])
        elif model.config.tie_word_embeddings:
            x = 0.25 * x
        with torch.no_grad():
            p.copy_(torch.from_numpy(x))


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def choose_prompt(own, ref, num_tokens, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    ids = torch.from_numpy(rng.integers(3, VOCAB, (NUM_CANDIDATES, num_tokens)))
    start_own, start_ref = logits_of(own, ids), logits_of(ref, ids)
    error = (start_own - start_ref).abs().amax(dim=(1, 2))
    margins, agrees = [], torch.ones(NUM_CANDIDATES, dtype=torch.bool)
    all_ids = ids
    for _ in range(NUM_GREEDY):
        own_last = logits_of(own, all_ids)[:, -1]
        ref_last = logits_of(ref, all_ids)[:, -1]
        error = torch.maximum(error, (own_last - ref_last).abs().amax(1))
        top = ref_last.topk(2, dim=-1)
        margins.append(top.values[:, 0] - top.values[:, 1])
        best = own_last.argmax(-1)
        agrees &= best == top.indices[:, 0]
        all_ids = torch.cat([all_ids, best[:, None]], 1)
    margins = torch.stack(margins, 1)
    score = margins.amin(1) / (error + 1e-6) * agrees
    # repetitive continuations prove little: prefer varied ones
    varied = torch.tensor([len(set(r.tolist())) for r in
                           all_ids[:, num_tokens:]])
    score = torch.where(varied >= 4, score, score * 0.01)
    c = int(score.argmax())
    return dict(ids=ids[c].int(), logits=start_ref[c].contiguous(),
                greedy=all_ids[c, num_tokens:].int().contiguous(),
                margin=margins[c].contiguous(), error=error[c:c + 1].clone(),
                score=float(score[c]))


def old_form(config):
    """The same config.json as transformers 4 would have written it."""
    c = dict(config)
    r = dict(c.pop("rope_parameters"))
    c["rope_theta"] = r.pop("rope_theta")
    c["rope_scaling"] = r if r.get("rope_type") != "default" else None
    if c["rope_scaling"] and r["rope_type"] == "linear":
        c["rope_scaling"] = {"type": "linear", "factor": r["factor"]}
    c["torch_dtype"] = c.pop("dtype")
    c.pop("layer_types", None)
    c["transformers_version"] = "4.46.0"
    return c


def make(name, out):
    cls, dtype, shard, options = MODELS[name]
    config = cls(**{**COMMON, **options})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    ref = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager").float().eval()
    fill(ref)
    own = copy.deepcopy(ref).to(getattr(torch, dtype)).eval()
    ref = copy.deepcopy(own).float().eval()      # the stored, rounded weights
    path = os.path.join(out, name)
    own.save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
    tensors, line = {}, []
    for i, n in enumerate(PROMPT_LENS):
        p = choose_prompt(own, ref, n, 1000 + i)
        tensors.update({f"prompt.{i}": p["ids"].contiguous(),
                        f"logits.{i}": p["logits"], f"greedy.{i}": p["greedy"],
                        f"margin.{i}": p["margin"],
                        f"hf_error.{i}": p["error"]})
        line.append(f"{p['score']:.1f} err {float(p['error'][0]):.2g} margin "
                    f"{float(p['margin'].min()):.3g} std "
                    f"{float(p['logits'].std()):.3g} "
                    f"distinct {len(set(p['greedy'].tolist()))}")
    save_file(tensors, os.path.join(path, "expected.st"))
    with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
        new = json.load(f)
    if "rope_parameters" in new:
        with open(os.path.join(path, "config_v4.json"), "w",
                  encoding="utf-8") as f:
            json.dump(old_form(new), f, indent=2, sort_keys=True)
            f.write("\n")
    print(name, "|", " | ".join(line), flush=True)


def main():
    out = sys.argv[1]
    failed = 0
    torch.set_num_threads(8)
    for name in MODELS:
        try:
            make(name, out)
        except Exception:
            failed += 1
            print("FAILED", name)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
