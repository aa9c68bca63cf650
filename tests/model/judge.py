#!/usr/bin/env python3
"""judge.py - random small models, judged by Hugging Face transformers.

usage: judge.py models   [--cases N] [--seed S] [--only I] [--build DIR] [--keep DIR]
       judge.py refusals [--seed S] [--build DIR] [--keep DIR]

models: draws config.json and weights over everything the four architectures
may say (heads, biases, rope types, windows, forms of transformers 4 and 5,
shards, leftovers), lets transformers load the same directory, and compares
float32 logits, 16-bit logits within transformers' own error, greedy tokens,
and the number of parameters that `nginx-llm-tool inspect` prints.

refusals: spoils a good model in one way each; nginx-llm-engine must exit 78
with one message that names the thing, or serve where that is right.

Needs torch, transformers, safetensors, gcc and a built tree (make engine
tools).  A development tool: not part of `make test`.  Exit status 1 on a
difference.
"""
import argparse
import copy
import json
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (AutoModelForCausalLM, GenerationConfig, LlamaConfig,  # noqa: E402
                          MistralConfig, Qwen2Config, Qwen3Config)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

logging.disable(logging.WARNING)
disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_GREEDY = 16
CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig,
           "qwen2": Qwen2Config, "qwen3": Qwen3Config}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16,
          "float16": torch.float16}


# ---- drawing models --------------------------------------------------------

def draw_rope(r, max_position):
    theta = r.choice([500.0, 10000.0, 10000, 75000.5, 500000.0, 1000000.0, 1e8])
    kind = r.choice(["default", "linear", "llama3", "yarn"])
    rope = {"rope_type": kind, "rope_theta": theta}
    if kind != "default":
        rope["factor"] = r.choice([1.0, 1.5, 2, 4.0, 8.0, 32.0, 40])
    if kind == "llama3":
        low = r.choice([0.5, 1.0, 2])
        rope.update(low_freq_factor=low,
                    high_freq_factor=low * r.choice([2, 4.0, 16]))
    if kind in ("llama3", "yarn") and r.random() < 0.8:
        rope["original_max_position_embeddings"] = r.choice(
            [16, 32, max_position // 2, max_position])
    if kind == "yarn":
        for key, values in (("beta_fast", [16, 32, 32.0, 64]),
                            ("beta_slow", [0.5, 1, 1.0, 2]),
                            ("attention_factor", [0.8, 1.0, 1.3]),
                            ("truncate", [True, False])):
            if r.random() < 0.4:
                rope[key] = r.choice(values)
        if r.random() < 0.4:
            rope.update(mscale=r.choice([0.707, 1.0, 1]),
                        mscale_all_dim=r.choice([0.5, 0.707, 1.0]))
    return rope


def draw(r):
    """(architecture, keyword arguments of its configuration class)."""
    name = r.choice(list(CLASSES))
    kv = r.choice([1, 1, 2, 3])
    group = r.choice([1, 2, 3, 4, 5, 6, 7, 8])
    heads = kv * group
    head_dim = r.choice([8, 16, 24, 32, 48, 64, 80, 96, 112, 128])
    hidden = r.choice([32, 36, 52, 64, 96, 100, 128])
    explicit = name == "qwen3" or r.random() < 0.6
    if name == "llama" or not explicit:
        # without head_dim, and for Llama's class always, a multiple of heads
        hidden = heads * r.choice([2, 4, 6, 8]) if heads > 8 \
            else heads * r.choice([4, 8, 10, 16])
    max_position = r.choice([64, 100, 128, 512, 4096])
    c = dict(hidden_size=hidden, num_attention_heads=heads,
             num_key_value_heads=kv, intermediate_size=r.choice([40, 77, 128, 200]),
             num_hidden_layers=r.choice([1, 2, 2, 3]),
             vocab_size=r.choice([97, 131, 257, 500, 1003, 2048]),
             max_position_embeddings=max_position,
             rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]),
             tie_word_embeddings=r.random() < 0.5,
             bos_token_id=r.choice([None, 1]),
             eos_token_id=r.choice([2, [2, 5], [7, 11, 13]]),
             rope_parameters=draw_rope(r, max_position))
    if explicit:
        c["head_dim"] = head_dim
    if name in ("llama", "qwen3"):
        c["attention_bias"] = r.random() < 0.4
    if name == "llama":
        c["mlp_bias"] = r.random() < 0.4
    if name == "mistral":
        c["sliding_window"] = r.choice([None, 1, 7, 16, 33, 4096])
    if name in ("qwen2", "qwen3") and r.random() < 0.5:
        c.update(use_sliding_window=r.random() < 0.8,
                 sliding_window=r.choice([5, 16, 31]),
                 max_window_layers=r.choice([0, 1, 2, 28]))
        if c["use_sliding_window"] and r.random() < 0.5:
            c["layer_types"] = [r.choice(["full_attention", "sliding_attention"])
                                for _ in range(c["num_hidden_layers"])]
    return name, c


def fill(model, seed, tied):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=g)
            if name.endswith("norm.weight"):
                x = 1.0 + 0.2 * x
            elif name.endswith("bias"):
                x = 0.5 * x
            elif "embed_tokens" in name or "lm_head" in name:
                x = x * (0.25 if tied else 1.0)
            else:
                x = x / np.sqrt(p.shape[1])
            p.copy_(x)


def old_form(config, r, by_hand):
    """config.json as transformers 4 wrote it, or as a person would."""
    c = dict(config)
    rope = dict(c.pop("rope_parameters"))
    c["rope_theta"] = rope.pop("rope_theta")
    kind = rope["rope_type"]
    c["torch_dtype"] = c.pop("dtype")
    c["transformers_version"] = "4.46.0"
    types = c.pop("layer_types", None)
    if types and r["keep_types"]:
        c["layer_types"] = types
    if kind == "default":
        c["rope_scaling"] = None
    else:
        if by_hand:
            rope["type"] = rope.pop("rope_type")
        c["rope_scaling"] = rope
        if r["original_outside"] and "original_max_position_embeddings" in rope:
            c["original_max_position_embeddings"] = rope.pop(
                "original_max_position_embeddings")
    if by_hand:
        for key, value in (("tie_word_embeddings", False), ("rope_scaling", None),
                           ("attention_bias", False), ("mlp_bias", False),
                           ("rope_theta", 10000.0), ("use_cache", True),
                           ("pretraining_tp", 1), ("rms_norm_eps", 1e-6),
                           ("torch_dtype", c["torch_dtype"]),
                           ("hidden_act", "silu"), ("initializer_range", 0.02),
                           ("attention_dropout", 0.0), ("pad_token_id", None)):
            if key in c and c[key] == value:
                del c[key]
    return c


def simple_tokenizer(path, vocab_size):
    """A byte-level BPE of vocab_size tokens without merges."""
    chars = [chr(0x100 + i) for i in range(vocab_size)]
    known = bytes_to_unicode()
    chars[:min(256, vocab_size)] = known[:min(256, vocab_size)]
    vocab, i = {}, 0
    for ch in chars:
        while ch in vocab:
            i += 1
            ch = chr(0x4E00 + i)
        vocab[ch] = len(vocab)
    write_json(path / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False,
                          "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True,
                    "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False,
                  "vocab": vocab, "merges": []}})
    write_json(path / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})


def bytes_to_unicode():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(len(rest))]


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def make(path, name, options, dtype, r):
    """Writes one model directory; returns what was drawn about its form."""
    config = CLASSES[name](**copy.deepcopy(options))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    fill(model, r.randrange(1 << 30), config.tie_word_embeddings)
    model.to(DTYPES[dtype])
    shard = r.choice([None, None, "20KB", "60KB"])
    model.save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
    form = r.choice(["v5", "v4", "hand"])
    bits = {"keep_types": bool(options.get("layer_types")),
            "original_outside": r.random() < 0.3}
    file = path / "config.json"
    if form != "v5":
        config = json.loads(file.read_text())
        write_json(file, old_form(config, bits, form == "hand"))
    if r.random() < 0.3:
        write_json(path / "generation_config.json",
                   {"bos_token_id": 1, "eos_token_id": [3, 4, 2]})
    one = path / "model.safetensors"
    extras = []
    if one.exists() and r.random() < 0.5:
        tensors = load_file(one)
        half = (options.get("head_dim") or options["hidden_size"]
                // options["num_attention_heads"]) // 2
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(half)
        extras.append("inv_freq")
        if r.random() < 0.5:
            tensors["model.unused_thing.weight"] = torch.ones(3, dtype=torch.int8)
            extras.append("unused")
        if options["tie_word_embeddings"]:
            tensors["lm_head.weight"] = \
                tensors["model.embed_tokens.weight"].clone()
            extras.append("lm_head")
        save_file(tensors, one, metadata={"format": "pt"})
    simple_tokenizer(path, options["vocab_size"])
    return f"{form} shards={shard} extras={','.join(extras) or '-'}"


# ---- judging -----------------------------------------------------------------

def build_driver(build):
    b = ROOT / build / "release"
    out = b / "judge_driver"
    libs = [b / "lib" / f"engine_{n}.a" for n in ("model", "backend_cpu", "backend",
                                                  "base")]
    subprocess.run(["gcc", "-O2", "-std=c11", "-D_GNU_SOURCE", "-pthread",
                    f"-I{ROOT}", str(ROOT / "tests/model/judge_driver.c"),
                    *[str(p) for p in libs if p.exists()], "-lm", "-o", str(out)],
                   check=True)
    return out


def ours(driver, path, prompts, chunk):
    text = "".join(" ".join(map(str, p)) + "\n" for p in prompts)
    p = subprocess.run([driver, path, str(chunk), str(NUM_GREEDY)],
                       input=text.encode(), capture_output=True, timeout=120)
    if p.returncode != 0:
        raise RuntimeError(f"exit {p.returncode}: {p.stderr.decode()[-400:]}")
    vocab, at, out = int(np.frombuffer(p.stdout, np.int32, 1)[0]), 4, []
    for ids in prompts:
        n = len(ids) * vocab
        logits = np.frombuffer(p.stdout, np.float32, n, at).reshape(len(ids), vocab)
        at += 4 * n
        greedy = np.frombuffer(p.stdout, np.int32, NUM_GREEDY, at).tolist()
        at += 4 * NUM_GREEDY
        out.append((torch.from_numpy(logits.copy()), greedy))
    assert at == len(p.stdout)
    return out


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy_of(model, ids):
    """transformers' cache of a window of one key keeps all of them."""
    use_cache = getattr(model.config, "sliding_window", None) != 1
    config = GenerationConfig(do_sample=False, max_new_tokens=NUM_GREEDY,
                              eos_token_id=None, bos_token_id=None, pad_token_id=0,
                              use_cache=use_cache)
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), generation_config=config,
                             attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return out[0, len(ids):].tolist()


def judge_prompt(dtype, own, ref, ids, got):
    """The worst error over its bound; raises on different tokens."""
    logits, greedy = got
    want = logits_of(ref, ids)
    error = float((logits - want).abs().max())
    if dtype == "float32":
        bound = 32 * 2.0 ** -23 * float(want.abs().max())
        want_greedy = greedy_of(ref, ids)
    else:
        bound = 2 * float((logits_of(own, ids) - want).abs().max())
        want_greedy = greedy_of(own, ids)
    if not error <= bound:
        raise RuntimeError(f"logits differ by {error:.3g}, bound {bound:.3g}")
    for i, (a, b) in enumerate(zip(greedy, want_greedy)):
        if a == b:
            continue
        top = logits_of(ref, ids + greedy[:i])[-1].topk(2).values
        margin = float(top[0] - top[1])
        if margin > 2 * bound:
            raise RuntimeError(f"token {i}: {greedy[:i + 1]} instead of "
                               f"{want_greedy[:i + 1]}, margin {margin:.3g}, "
                               f"bound {bound:.3g}")
        return error / bound, i      # a coin toss: both may go their way
    return error / bound, NUM_GREEDY


def inspect(build, path):
    text = subprocess.run([ROOT / build / "release/nginx-llm-tool", "inspect", path],
                          capture_output=True, text=True, timeout=60)
    if text.returncode != 0:
        raise RuntimeError("inspect: " + text.stderr)
    return {m[1]: m[2] for m in re.finditer(r"^(\w+(?: \w+)*) {2,}(.*)$",
                                            text.stdout, re.M)}


def judge_model(args, driver, seed, path):
    r = random.Random(seed)
    name, options = draw(r)
    dtype = r.choice(["float32", "float32", "bfloat16", "float16"])
    form = make(path, name, options, dtype, r)
    line = (f"{name} {dtype} {form} h{options['hidden_size']} "
            f"q{options['num_attention_heads']}/kv{options['num_key_value_heads']} "
            f"d{options.get('head_dim')} L{options['num_hidden_layers']} "
            f"window {options.get('sliding_window')} "
            f"{options.get('layer_types', '')} {options['rope_parameters']}")
    own = AutoModelForCausalLM.from_pretrained(
        path, dtype="auto", attn_implementation="eager").eval()
    if own.dtype != DTYPES[dtype]:
        raise RuntimeError(f"the judge loaded {own.dtype} | {line}")
    ref = copy.deepcopy(own).float().eval()
    room = options["max_position_embeddings"] - NUM_GREEDY
    prompts = [[r.randrange(options["vocab_size"]) for _ in range(n)]
               for n in (1, min(11, room), min(150, room))]
    chunk = r.choice([1, 7, 32, 256])
    try:
        got = ours(driver, path, prompts, chunk)
        worst = [judge_prompt(dtype, own, ref, p, g) for p, g in zip(prompts, got)]
        shown = int(inspect(args.build, path)["parameters"].split()[0])
        if shown != own.num_parameters():
            raise RuntimeError(f"inspect says {shown} parameters, transformers "
                               f"{own.num_parameters()}")
    except (RuntimeError, subprocess.TimeoutExpired) as e:
        raise RuntimeError(f"{e}\n      {line} chunk {chunk}") from e
    return line, max(w[0] for w in worst), min(w[1] for w in worst)


def models(args):
    driver = build_driver(args.build)
    torch.set_num_threads(1)
    failed = 0
    chosen = range(args.cases) if args.only is None else [args.only]
    for i in chosen:
        path = pathlib.Path(args.keep or tempfile.mkdtemp()) / f"m{i}"
        path.mkdir(parents=True, exist_ok=True)
        try:
            line, ratio, same = judge_model(args, driver, args.seed + i, path)
            print(f"ok {i} ratio {ratio:.2f} greedy {same} {line}", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAILED {i} {type(e).__name__}: {e}", flush=True)
        if not args.keep:
            shutil.rmtree(path.parent)
    print(f"{len(chosen) - failed} equal, {failed} different")
    return failed


# ---- refusals ------------------------------------------------------------------

def good_model(path, r):
    options = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
                   intermediate_size=48, num_hidden_layers=2, vocab_size=300,
                   max_position_embeddings=128, tie_word_embeddings=False,
                   eos_token_id=2, rope_parameters={"rope_type": "default",
                                                    "rope_theta": 10000.0})
    config = LlamaConfig(**options)
    model = AutoModelForCausalLM.from_config(config).float()
    fill(model, r.randrange(1 << 30), False)
    model.save_pretrained(path)
    simple_tokenizer(path, 300)


def config_change(**changes):
    def change(path):
        c = json.loads((path / "config.json").read_text())
        for key, value in changes.items():
            if value is None:
                c.pop(key, None)
            else:
                c[key] = value
        write_json(path / "config.json", c)
    return change


def rope_change(**rope):
    return config_change(rope_parameters={"rope_theta": 10000.0, **rope})


def tensor_change(edit):
    def change(path):
        tensors = load_file(path / "model.safetensors")
        edit(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()},
                  path / "model.safetensors", metadata={"format": "pt"})
    return change


def replace_tensor(name, value):
    return tensor_change(lambda t: t.update({name: value(t[name])}))


def cut(name, keep):
    def change(path):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[:keep if keep >= 0 else len(data) + keep])
    return change


def overwrite(name, data):
    return lambda path: (path / name).write_bytes(data)


def remove(name):
    return lambda path: (path / name).unlink()


def sharded(spoil):
    def change(path):
        tensors = load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
        names = sorted(tensors)
        parts = [names[:5], names[5:]]
        where = {}
        for i, part in enumerate(parts):
            file = f"model-{i + 1:05}-of-00002.safetensors"
            save_file({n: tensors[n] for n in part}, path / file)
            where.update(dict.fromkeys(part, file))
        index = {"metadata": {"total_size": 1}, "weight_map": where}
        spoil(path, index)
        write_json(path / "model.safetensors.index.json", index)
    return change


def template(text):
    def change(path):
        c = json.loads((path / "tokenizer_config.json").read_text())
        c["chat_template"] = text
        write_json(path / "tokenizer_config.json", c)
    return change


def drop_template(path):
    c = json.loads((path / "tokenizer_config.json").read_text())
    del c["chat_template"]
    write_json(path / "tokenizer_config.json", c)


def tokenizer_edit(edit):
    def change(path):
        t = json.loads((path / "tokenizer.json").read_text())
        edit(t)
        write_json(path / "tokenizer.json", t)
    return change


Q = "model.layers.0.self_attn.q_proj.weight"
SERVES = None
# name: (change, a pattern of the message, or SERVES)
REFUSALS = {
    "good": (lambda path: None, SERVES),
    "arch unknown": (config_change(architectures=["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
    "arch absent": (config_change(architectures=None), "architectures"),
    "arch a string": (config_change(architectures="LlamaForCausalLM"), "architectures"),
    "config no JSON": (overwrite("config.json", b"{\"a\": "), "config.json"),
    "config empty": (overwrite("config.json", b""), "config.json"),
    "config a list": (overwrite("config.json", b"[1]"), "config.json"),
    "config binary": (overwrite("config.json", bytes(range(256))), "config.json"),
    "config absent": (remove("config.json"), "config.json"),
    "rope dynamic": (rope_change(rope_type="dynamic", factor=2.0), "dynamic"),
    "rope longrope": (rope_change(rope_type="longrope", short_factor=[1.0] * 4,
                                  long_factor=[1.0] * 4), "longrope"),
    "rope unknown": (rope_change(rope_type="nope"), "nope"),
    "rope type a number": (rope_change(rope_type=3), "rope_type"),
    "rope factor absent": (rope_change(rope_type="linear"), "factor"),
    "rope factor 0": (rope_change(rope_type="linear", factor=0), "factor"),
    "rope factor text": (rope_change(rope_type="linear", factor="2"), "factor"),
    "rope per layer": (config_change(rope_parameters={
        "full_attention": {"rope_type": "default", "rope_theta": 1.0}}), "full_attention"),
    "rope partial": (rope_change(rope_type="default", partial_rotary_factor=0.5),
                     "partial_rotary_factor"),
    "rope llama3 low": (rope_change(rope_type="llama3", factor=2.0,
                                    high_freq_factor=4.0), "low_freq_factor"),
    "quantized": (config_change(quantization_config={"quant_method": "gptq", "bits": 4}),
                  "quantization_config.*gptq"),
    "gelu": (config_change(hidden_act="gelu"), "hidden_act gelu"),
    "softcap": (config_change(final_logit_softcapping=30.0), "final_logit_softcapping"),
    "dtype float8": (config_change(dtype="float8_e4m3fn"), "float8_e4m3fn"),
    "dtype differs": (config_change(dtype="bfloat16"), SERVES),
    "heads do not divide": (config_change(num_attention_heads=5, head_dim=None),
                            "num_attention_heads|num_key_value_heads"),
    "kv heads do not divide": (config_change(num_key_value_heads=3), "num_key_value_heads 3"),
    "kv heads 0": (config_change(num_key_value_heads=0), "num_key_value_heads"),
    "heads negative": (config_change(num_attention_heads=-4), "num_attention_heads"),
    "hidden text": (config_change(hidden_size="32"), "hidden_size"),
    "hidden float": (config_change(hidden_size=32.5), "hidden_size"),
    "hidden huge": (config_change(hidden_size=1 << 62), "hidden_size"),
    "hidden other": (config_change(hidden_size=64, head_dim=8), "shape"),
    "head_dim odd": (config_change(head_dim=7), "head_dim"),
    "layers 0": (config_change(num_hidden_layers=0), "num_hidden_layers"),
    "layers more": (config_change(num_hidden_layers=3), r"model\.layers\.2\."),
    "layers fewer": (config_change(num_hidden_layers=1), SERVES),
    "vocab other": (config_change(vocab_size=400), "embed_tokens.*300.*400"),
    "bias asked": (config_change(attention_bias=True), "q_proj.bias"),
    "intermediate absent": (config_change(intermediate_size=None), "intermediate_size"),
    "intermediate other": (config_change(intermediate_size=47), "gate_proj.*48.*47"),
    "positions 0": (config_change(max_position_embeddings=0), "max_position_embeddings"),
    "eos beyond": (config_change(eos_token_id=1 << 40), "eos_token_id"),
    "eos text": (config_change(eos_token_id="2"), "eos_token_id"),
    "eps negative": (config_change(rms_norm_eps=-1.0), "rms_norm_eps"),
    "tie a number": (config_change(tie_word_embeddings=1), "tie_word_embeddings"),
    "generation no JSON": (overwrite("generation_config.json", b"{"), "generation_config.json"),
    "tensor missing": (tensor_change(lambda t: t.pop(Q)), re.escape(Q)),
    "head missing": (tensor_change(lambda t: t.pop("lm_head.weight")), "lm_head.weight"),
    "norm missing": (tensor_change(lambda t: t.pop("model.norm.weight")), "model.norm.weight"),
    "embedding missing": (tensor_change(lambda t: t.pop("model.embed_tokens.weight")),
                          "model.embed_tokens.weight"),
    "tensor misshapen": (replace_tensor(Q, lambda t: t[:, :-1]), re.escape(Q)),
    "tensor transposed": (replace_tensor("model.layers.0.mlp.down_proj.weight",
                                         lambda t: t.T), "down_proj"),
    "tensor flat": (replace_tensor(Q, lambda t: t.flatten()), re.escape(Q)),
    "tensor int8": (replace_tensor(Q, lambda t: t.to(torch.int8)), "dtype I8"),
    "tensor float64": (replace_tensor(Q, lambda t: t.double()), "dtype F64"),
    "tensor fp8": (replace_tensor(Q, lambda t: t.to(torch.float8_e4m3fn)), "dtype F8_E4M3"),
    "embedding int8": (replace_tensor("model.embed_tokens.weight",
                                      lambda t: t.to(torch.int8)), "embed_tokens.*I8"),
    "weights cut": (cut("model.safetensors", -100), "model.safetensors"),
    "weights cut in header": (cut("model.safetensors", 100), "model.safetensors"),
    "weights empty": (overwrite("model.safetensors", b""), "model.safetensors"),
    "weights garbage": (overwrite("model.safetensors", os.urandom(5000)), "model.safetensors"),
    "weights a git-lfs pointer": (overwrite(
        "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:"
        + b"0" * 64 + b"\nsize 123\n"), "model.safetensors"),
    "weights absent": (remove("model.safetensors"), "model.safetensors"),
    "shards good": (sharded(lambda p, i: None), SERVES),
    "shard absent": (sharded(lambda p, i: (p / "model-00002-of-00002.safetensors").unlink()),
                     "model-00002-of-00002"),
    "shard cut": (sharded(lambda p, i: cut("model-00002-of-00002.safetensors", -8)(p)),
                  "model-00002-of-00002"),
    "index elsewhere": (sharded(lambda p, i: i["weight_map"].update(
        {Q: "../../etc/passwd"})), "plain file name"),
    "index extra": (sharded(lambda p, i: i["weight_map"].update(
        {"model.nothing": "model-00001-of-00002.safetensors"})), "model.nothing"),
    "index without map": (sharded(lambda p, i: i.pop("weight_map")), "weight_map"),
    "tokenizer absent": (remove("tokenizer.json"), "tokenizer.json"),
    "tokenizer cut": (cut("tokenizer.json", 500), "tokenizer.json"),
    "tokenizer empty object": (overwrite("tokenizer.json", b"{}"), "tokenizer.json"),
    "tokenizer Unigram": (tokenizer_edit(lambda t: t["model"].update(type="Unigram")),
                          "Unigram"),
    "tokenizer WordPiece": (tokenizer_edit(lambda t: t["model"].update(type="WordPiece")),
                            "WordPiece"),
    "tokenizer normalizer": (tokenizer_edit(lambda t: t.update(
        normalizer={"type": "Nmt"})), "Nmt"),
    "tokenizer smaller": (lambda path: simple_tokenizer(path, 280), SERVES),
    "tokenizer larger": (lambda path: simple_tokenizer(path, 320), SERVES),
    "template absent": (drop_template, SERVES),
    "template corrupt": (template("{% for m in messages %}{{ m.content }}"),
                         "(?i)template"),
    "template unknown filter": (template("{{ messages|nofilter }}"), "nofilter"),
    "template a number": (template(5), "chat_template"),
    "template file": (overwrite("chat_template.jinja", b"{% if %}"), "chat_template.jinja"),
}


def run_engine(args, path, seconds=10):
    """Exit code (None: it serves) and its log."""
    sock = str(path) + ".sock"
    log = open(str(path) + ".log", "w+b")
    p = subprocess.Popen([ROOT / args.build / "release/nginx-llm-engine", "--model", path,
                          "--socket", sock, "--threads", "1", "--log-level", "notice",
                          "--kv-cache-memory-bytes", "1M"], stdout=log, stderr=log)
    end = time.time() + seconds
    text = ""
    while time.time() < end and p.poll() is None and "ready after" not in text:
        time.sleep(0.02)
        log.seek(0)
        text = log.read().decode(errors="replace")
    code = p.poll()
    if code is None:
        if "ready after" not in text:
            code = -999
        p.send_signal(signal.SIGTERM)
        p.wait(10)
    log.seek(0)
    return code, log.read().decode(errors="replace")


def refusals(args):
    r = random.Random(args.seed)
    root = pathlib.Path(args.keep or tempfile.mkdtemp())
    root.mkdir(exist_ok=True)
    good_model(root / "good-model", r)
    failed = 0
    for name, (change, pattern) in REFUSALS.items():
        path = root / name.replace(" ", "-")
        shutil.copytree(root / "good-model", path)
        change(path)
        code, log = run_engine(args, path)
        lines = [x for x in log.splitlines() if x.strip()]
        last = lines[-1] if lines else ""
        alerts = [x for x in lines if "[alert]" in x or " alert" in x]
        if pattern is SERVES:
            good = code is None
            shown = " / ".join(x for x in lines if "warn" in x) or "-"
        else:
            good = code == 78 and re.search(pattern, last) and len(alerts) <= 1
            shown = last
        failed += not good
        print(f"{'ok' if good else 'FAILED'} {name}: exit {code}: {shown}", flush=True)
    if not args.keep:
        shutil.rmtree(root)
    print(f"{len(REFUSALS) - failed} as they should, {failed} not")
    return failed


def main():
    ap = argparse.ArgumentParser(usage=__doc__)
    ap.add_argument("what", choices=["models", "refusals"])
    ap.add_argument("--cases", type=int, default=40)
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    ap.add_argument("--only", type=int)
    ap.add_argument("--build", default="build")
    ap.add_argument("--keep")
    args = ap.parse_args()
    print("seed", args.seed)
    return 1 if {"models": models, "refusals": refusals}[args.what](args) else 0


if __name__ == "__main__":
    sys.exit(main())
