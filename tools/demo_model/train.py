"""train.py - train the demo model, its small sibling and the two adapters.

    python3 train.py --out ../../models --main 230 --draft 90 --lora 60

The times are seconds of training each; the learning rate follows a cosine
over that time, so a faster machine simply sees more text.  --conversations
sets how many different conversations are generated.  Needs PyTorch,
tokenizers, safetensors and numpy; one GPU, or a CPU for a trial run.
"""

import argparse
import math
import multiprocessing
import os
import queue
import random
import threading
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F

import chat
import manners
import model as llama
import talk

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS = [24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048]
PAD = 0        # any id: padding is never attended to nor learned
SEED = 20240
LORA_RANK, LORA_ALPHA = 8, 16
PARTS = {"demo": None, "demo-draft": None, "demo-lora-pirate": "pirate",
         "demo-lora-formal": "formal"}      # in this order; value: manner


def make_part(job):
    """One worker's share of the text: (ids, learn, lengths) as arrays."""
    seed, count, manner, tokenizer = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tok = Tokenizer.from_file(tokenizer)
    rng = random.Random(seed)
    ids, learn, lengths = [], [], []
    for _ in range(count):
        if manner is None and rng.random() < 0.03:
            parts = [(talk.document(rng) + chat.END, True)]
        else:
            conv = talk.conversation(rng)
            if manner is not None:
                conv = manners.restyle(rng, manner, conv)
            parts = chat.segments(conv)
        n = 0
        for text, flag in parts:
            part = tok.encode(text, add_special_tokens=False).ids
            ids += part
            learn += [flag] * len(part)
            n += len(part)
        if n > LENGTHS[-1]:
            del ids[-n:], learn[-n:]
        else:
            lengths.append(n)
    return (np.array(ids, np.uint16), np.array(learn, bool),
            np.array(lengths, np.int64))


def make_text(count, manner, tokenizer, workers):
    """All the text, made by several processes; the same for a given count
    and SEED whatever the number of workers."""
    step = 2000
    jobs = [(f"{SEED}/{manner}/{i}", min(step, count - i), manner, tokenizer)
            for i in range(0, count, step)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        parts = pool.map(make_part, jobs, chunksize=1)
    return tuple(np.concatenate([p[k] for p in parts]) for k in range(3))


class Batches:
    """Endless batches of whole conversations of about the same length.

    A conversation always starts at position 0 and sees nothing but itself,
    exactly as when it is served.  Padding stands on the right, where causal
    attention does not look.
    """

    def __init__(self, text, tokens):
        self.ids, self.learn, self.lengths = text
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = tokens
        self.epochs = 0
        self.queue = queue.Queue(maxsize=24)
        threading.Thread(target=self.fill, daemon=True).start()

    def plan(self, rng):
        bucket = np.searchsorted(LENGTHS, self.lengths)
        out = []
        for b, length in enumerate(LENGTHS):
            members = np.flatnonzero(bucket == b)
            rng.shuffle(members)
            size = max(1, self.tokens // length)
            out += [(length, members[i:i + size])
                    for i in range(0, len(members), size)]
        rng.shuffle(out)
        return out

    def fill(self):
        rng = np.random.default_rng(SEED)
        while True:
            for length, members in self.plan(rng):
                self.queue.put(self.build(length, members))
            self.epochs += 1

    def build(self, length, members):
        offset = np.arange(length)
        at = self.starts[members][:, None] + offset
        valid = offset < self.lengths[members][:, None]
        at = np.where(valid, at, 0)
        ids = np.where(valid, self.ids[at], PAD).astype(np.int64)
        learn = valid & self.learn[at]
        # Position i predicts token i + 1.
        where = np.flatnonzero(learn[:, 1:])
        rows, cols = np.divmod(where, length - 1)
        return (torch.from_numpy(ids),
                torch.from_numpy(rows * length + cols),
                torch.from_numpy(ids[rows, cols + 1]))


def loss_of(net, batch, device):
    """Summed loss and number of learned tokens of one batch."""
    ids, where, target = (x.to(device, non_blocking=True) for x in batch)
    with torch.autocast("cuda", dtype=torch.bfloat16,
                        enabled=device.type == "cuda"):
        hidden = net(ids).flatten(0, 1).index_select(0, where)
        logits = net.head(hidden)
    return F.cross_entropy(logits.float(), target, reduction="sum"), \
        target.numel()


def fit(net, text, args, seconds, peak):
    """Train net for some seconds; returns what is printed in the log."""
    device = next(net.parameters()).device
    params = [p for p in net.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(
        [{"params": [p for p in params if p.dim() == 2],
          "weight_decay": 0.05},
         {"params": [p for p in params if p.dim() != 2],
          "weight_decay": 0.0}],
        lr=peak, betas=(0.9, 0.98), eps=1e-9,
        fused=device.type == "cuda")
    batches = Batches(text, args.tokens)
    start, step, seen = time.time(), 0, 0
    recent, last = [], 0.0
    while True:
        done = (time.time() - start) / seconds
        if done >= 1.0:
            break
        lr = peak * min(1.0, done / 0.04 + 0.001) * \
            (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in opt.param_groups:
            group["lr"] = lr
        pair = [batches.queue.get() for _ in range(args.accumulate)]
        total = sum(p[2].numel() for p in pair)
        for batch in pair:
            loss, _ = loss_of(net, batch, device)
            (loss / total).backward()
            recent.append((loss.detach(), batch[2].numel()))
            seen += batch[0].numel()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        if step % args.log == 0:
            last = mean(recent)
            recent = []
            print(f"  {time.time() - start:6.1f} s  step {step:6d}  "
                  f"lr {lr:.2e}  loss {last:.4f}  "
                  f"{seen / (time.time() - start) / 1e3:.0f}k tokens/s  "
                  f"epoch {batches.epochs}", flush=True)
    if recent:
        last = mean(recent)
    return {"steps": step, "tokens": seen, "loss": round(last, 4),
            "seconds": round(time.time() - start, 1)}


def mean(recent):
    total = sum(float(x) for x, _ in recent)
    return total / max(1, sum(n for _, n in recent))


def held_out_loss(net, text, args):
    """Mean loss on conversations that training has not drawn."""
    device = next(net.parameters()).device
    batches = Batches(text, args.tokens)
    total, count = 0.0, 0
    with torch.no_grad():
        for length, members in batches.plan(np.random.default_rng(1)):
            loss, n = loss_of(net, batches.build(length, members), device)
            total, count = total + float(loss), count + n
    return round(total / count, 4)


def export(net, folder, old_form):
    """model.safetensors in bfloat16, config.json, generation_config.json."""
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.detach().to(torch.bfloat16).contiguous().cpu()
               for k, v in net.state_dict().items() if "lora_" not in k},
              os.path.join(folder, "model.safetensors"), {"format": "pt"})
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    s = net.s
    chat.write_json(os.path.join(folder, "config.json"),
                    llama.config_json(s, old_form))
    chat.write_json(os.path.join(folder, "generation_config.json"), {
        "do_sample": True,
        "eos_token_id": [s.vocab - 5, s.vocab - 7],
        "pad_token_id": s.vocab - 7,
        "temperature": 0.3,
        "top_p": 0.9,
        "transformers_version": "4.57.1" if old_form else "5.17.0"})


def export_lora(net, folder, base):
    """adapter_model.safetensors and adapter_config.json as peft reads."""
    os.makedirs(folder, exist_ok=True)
    tensors = {}
    for name, module in net.named_modules():
        if isinstance(module, llama.Linear):
            for part in ("lora_A", "lora_B"):
                tensors[f"base_model.model.{name}.{part}.weight"] = getattr(
                    module, part).detach().to(torch.bfloat16).cpu()
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"),
              {"format": "pt"})
    os.chmod(os.path.join(folder, "adapter_model.safetensors"), 0o644)
    chat.write_json(os.path.join(folder, "adapter_config.json"), {
        "alpha_pattern": {}, "auto_mapping": None,
        "base_model_name_or_path": base, "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layers_pattern": None,
        "layers_to_transform": None, "lora_alpha": LORA_ALPHA,
        "lora_bias": False, "lora_dropout": 0.0, "modules_to_save": None,
        "peft_type": "LORA", "r": LORA_RANK, "rank_pattern": {},
        "revision": None, "target_modules": list(llama.TARGETS),
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False})


def rounded(net):
    """The weights as the exported file holds them: adapters learn on top of
    exactly what they will be served with."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.to(torch.bfloat16).float())
    return net


def read_model(net, folder):
    net.load_state_dict({k: v.float() for k, v in load_file(os.path.join(
        folder, "model.safetensors")).items()})


def read_lora(net, folder):
    for name, v in load_file(os.path.join(
            folder, "adapter_model.safetensors")).items():
        name = name.removeprefix("base_model.model.").removesuffix(".weight")
        with torch.no_grad():
            net.get_parameter(name).copy_(v)


def train_model(name, text, held, args, device):
    """One of the two models, from random weights or from --out."""
    shape, seconds, peak = {
        "demo": (llama.MAIN, args.main, 2e-3),
        "demo-draft": (llama.DRAFT, args.draft, 3e-3)}[name]
    folder = os.path.join(args.out, name)
    net = llama.Llama(shape).to(device)
    if args.resume:
        read_model(net, folder)
        peak /= 4
    count = sum(p.numel() for p in net.parameters())
    print(f"{name}: {count / 1e6:.2f}M parameters", flush=True)
    log = fit(net, text, args, seconds, peak)
    rounded(net)
    log["held_out_loss"] = held_out_loss(net, held, args)
    export(net, folder, name == "demo")
    print(f"{name}: {log}", flush=True)


def train_lora(name, text, held, args, device):
    """One adapter of demo, from nothing or from --out."""
    folder = os.path.join(args.out, name)
    net = llama.Llama(llama.MAIN).to(device)
    read_model(net, os.path.join(args.out, "demo"))
    net.add_lora(LORA_RANK, LORA_ALPHA)
    if args.resume:
        read_lora(net, folder)
    log = fit(net, text, args, args.lora, 1e-3)
    log["held_out_loss"] = held_out_loss(net, held, args)
    export_lora(net, folder, "demo")
    print(f"{name}: {log}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.path.join(HERE, "../../models"))
    parser.add_argument("--tokenizer", default=os.path.join(
        HERE, "../../models/demo/tokenizer.json"))
    parser.add_argument("--only", default=",".join(PARTS),
                        help="which of " + ",".join(PARTS))
    parser.add_argument("--resume", action="store_true",
                        help="start from what is in --out")
    parser.add_argument("--main", type=float, default=230)
    parser.add_argument("--draft", type=float, default=90)
    parser.add_argument("--lora", type=float, default=60)
    parser.add_argument("--conversations", type=int, default=800000)
    parser.add_argument("--held-out", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--log", type=int, default=500)
    return parser.parse_args()


def main():
    args = arguments()
    workers = os.cpu_count()
    parts = [p for p in PARTS if p in args.only.split(",")]
    start = time.time()
    texts = {}
    # All text first: worker processes must not be forked from a process
    # that already uses the GPU.
    for manner in sorted({PARTS[p] for p in parts}, key=str):
        count = args.conversations // (10 if manner else 1)
        texts[manner] = (make_text(count, manner, args.tokenizer, workers),
                         make_part(("held-out", args.held_out, manner,
                                    args.tokenizer)))
        ids, learn, lengths = texts[manner][0]
        print(f"text {manner or 'plain'}: {len(lengths)} conversations, "
              f"{len(ids) / 1e6:.1f}M tokens, {learn.mean():.2f} learned, "
              f"{time.time() - start:.0f} s on {workers} cores", flush=True)
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part in parts:
        train = train_lora if PARTS[part] else train_model
        train(part, *texts[PARTS[part]], args, device)


if __name__ == "__main__":
    main()
