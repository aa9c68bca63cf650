"""model.py - a Llama in plain PyTorch, with LoRA, named as Hugging Face does.

The parameter names of state_dict() are those of LlamaForCausalLM, so a
checkpoint is written without any mapping.  Only training needs this file;
checks and servers read the exported folder.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Shape:
    """The numbers of one model; see config_json() for their HF names."""
    vocab: int = 3072
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    inner: int = 704
    context: int = 2048
    theta: float = 10000.0
    eps: float = 1e-5


MAIN = Shape()
DRAFT = Shape(hidden=128, layers=4, heads=4, kv_heads=2, inner=352)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
           "down_proj")


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Linear(nn.Linear):
    """A linear layer without bias that can carry a LoRA adapter."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        self.lora_A = self.lora_B = None
        self.scale = 0.0

    def add_lora(self, rank, alpha):
        a = torch.empty(rank, self.in_features, device=self.weight.device)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(torch.zeros(
            self.out_features, rank, device=self.weight.device))
        self.scale = alpha / rank

    def forward(self, x):
        y = F.linear(x, self.weight)
        if self.lora_A is not None:
            y = y + F.linear(F.linear(x, self.lora_A),
                             self.lora_B) * self.scale
        return y


def rotate(x, cos, sin):
    """Rotary positions, halves layout: x is [batch, heads, time, dim]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.q_proj = Linear(s.hidden, s.heads * s.head_dim)
        self.k_proj = Linear(s.hidden, s.kv_heads * s.head_dim)
        self.v_proj = Linear(s.hidden, s.kv_heads * s.head_dim)
        self.o_proj = Linear(s.heads * s.head_dim, s.hidden)

    def forward(self, x, cos, sin):
        s, (b, t, _) = self.s, x.shape

        def split(y, heads):
            return y.view(b, t, heads, s.head_dim).transpose(1, 2)

        q = rotate(split(self.q_proj(x), s.heads), cos, sin)
        k = rotate(split(self.k_proj(x), s.kv_heads), cos, sin)
        v = split(self.v_proj(x), s.kv_heads)
        group = s.heads // s.kv_heads
        k = k.repeat_interleave(group, dim=1)
        v = v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.gate_proj = Linear(s.hidden, s.inner)
        self.up_proj = Linear(s.hidden, s.inner)
        self.down_proj = Linear(s.inner, s.hidden)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.input_layernorm = Norm(s.hidden, s.eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden, s.eps)
        self.mlp = Mlp(s)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = Norm(s.hidden, s.eps)


class Llama(nn.Module):
    """forward(ids [batch, time]) -> hidden states; head() -> logits."""

    def __init__(self, s):
        super().__init__()
        self.s = s
        self.model = Body(s)
        inv = s.theta ** (-torch.arange(0, s.head_dim, 2) / s.head_dim)
        angle = torch.outer(torch.arange(s.context).float(), inv.float())
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * s.layers)
                                               if deep else 1.0))

    def forward(self, ids):
        t = ids.shape[1]
        cos, sin = self.cos[:t], self.sin[:t]
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def head(self, x):
        return F.linear(x, self.model.embed_tokens.weight)

    def add_lora(self, rank, alpha):
        """Freeze the model and give every projection an adapter."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Linear):
                module.add_lora(rank, alpha)


def config_json(s, old_form):
    """config.json; old_form as transformers 4 wrote it, else as 5 does."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": s.vocab - 5,
        "head_dim": s.head_dim,
        "hidden_act": "silu",
        "hidden_size": s.hidden,
        "initializer_range": 0.02,
        "intermediate_size": s.inner,
        "max_position_embeddings": s.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": s.heads,
        "num_hidden_layers": s.layers,
        "num_key_value_heads": s.kv_heads,
        "pad_token_id": s.vocab - 7,
        "pretraining_tp": 1,
        "rms_norm_eps": s.eps,
    }
    if old_form:
        config.update({"rope_scaling": None, "rope_theta": s.theta,
                       "tie_word_embeddings": True,
                       "torch_dtype": "bfloat16",
                       "transformers_version": "4.57.1"})
    else:
        config.update({"dtype": "bfloat16",
                       "rope_parameters": {"rope_theta": s.theta,
                                           "rope_type": "default"},
                       "tie_word_embeddings": True,
                       "transformers_version": "5.17.0"})
    config.update({"use_cache": True, "vocab_size": s.vocab})
    return config
