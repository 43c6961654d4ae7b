"""An independent model for the parity tests: transformers' LlamaForCausalLM, to which SSNorm, Simple
RMSNorm, EmbProj, QK-norm and the Outlier Protected block (no norms in the blocks, a norm of the embedding, a
scalar on each branch) are added here in plain PyTorch.

Weights live in one dict under osp's names; `write_model_dir` stores them as a model dir and
`ReferenceModel` computes with them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass
class Shape:
    layers: int = 2
    width: int = 48
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    inner: int = 80
    vocabulary: int = 101
    context: int = 64
    norm: str = "rms"
    tied: bool = False
    qk_norm: bool = False
    embedding_projection: bool = False
    embedding_norm: bool = False
    branch_scale: bool = False
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def plain(self) -> bool:
        return self.norm == "rms" and not (
            self.qk_norm or self.embedding_projection or self.embedding_norm or self.branch_scale
        )


def llama_config(shape: Shape, attention: str = "eager") -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attention,
    )


def random_weights(shape: Shape, seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights large enough that attention is not uniform and every gain differs from 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def normal(name, rows, columns, std=None):
        std = columns**-0.5 if std is None else std
        weights[name] = torch.randn(rows, columns, generator=generator) * std

    def gain(name, channels):
        if shape.norm != "simple":
            count = 1 if shape.norm in ("single-scale", "none") else channels
            weights[name] = 0.5 + torch.rand(count, generator=generator)

    def branch_scale(name):
        if shape.branch_scale:
            weights[name] = 0.2 + 0.5 * torch.rand(1, generator=generator)

    normal("model.embed_tokens.weight", shape.vocabulary, shape.width, 1.0)
    if shape.embedding_projection:
        normal("model.embed_proj.weight", shape.width, shape.width)
        normal("lm_head_proj.weight", shape.width, shape.width)
    if shape.embedding_norm:
        gain("model.embed_norm.weight", shape.width)
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        if shape.norm != "none":
            gain(block + "input_layernorm.weight", shape.width)
            gain(block + "post_attention_layernorm.weight", shape.width)
        branch_scale(block + "self_attn.branch_scale")
        branch_scale(block + "mlp.branch_scale")
        normal(block + "self_attn.q_proj.weight", shape.heads * shape.head_size, shape.width)
        normal(block + "self_attn.k_proj.weight", shape.kv_heads * shape.head_size, shape.width)
        normal(block + "self_attn.v_proj.weight", shape.kv_heads * shape.head_size, shape.width)
        normal(block + "self_attn.o_proj.weight", shape.width, shape.heads * shape.head_size)
        if shape.qk_norm:
            gain(block + "self_attn.q_norm.weight", shape.head_size)
            gain(block + "self_attn.k_norm.weight", shape.head_size)
        normal(block + "mlp.gate_proj.weight", shape.inner, shape.width)
        normal(block + "mlp.up_proj.weight", shape.inner, shape.width)
        normal(block + "mlp.down_proj.weight", shape.width, shape.inner)
    gain("model.norm.weight", shape.width)
    if not shape.tied:
        normal("lm_head.weight", shape.vocabulary, shape.width)
    return weights


def config_json(shape: Shape) -> dict:
    """config.json by hand, so that osp's reader is tested against something it did not write."""
    config = {
        "architectures": ["LlamaForCausalLM" if shape.plain else "OspForCausalLM"],
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "hidden_act": "silu",
    }
    if not shape.plain:
        config["osp_norm"] = shape.norm
        config["osp_qk_norm"] = shape.qk_norm
        config["osp_embedding_projection"] = shape.embedding_projection
        for name in ["embedding_norm", "branch_scale"]:
            if getattr(shape, name):
                config["osp_" + name] = True
    return config


def write_model_dir(folder: Path, shape: Shape, weights: dict, tokenizer: Path | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(shape)))
    save_file({name: w.detach().contiguous() for name, w in weights.items()}, folder / "model.safetensors")
    if tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


class Norm(nn.Module):
    """x / RMS(x) times a weight per channel, a scalar, or nothing."""

    def __init__(self, eps, weight):
        super().__init__()
        self.eps, self.weight = eps, weight

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        wide = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide if self.weight is None else wide * self.weight).to(x.dtype)


class ProjectThenNormHeads(nn.Module):
    def __init__(self, linear, norm, head_size):
        super().__init__()
        self.linear, self.norm, self.head_size = linear, norm, head_size

    def forward(self, x):
        y = self.linear(x)
        return self.norm(y.unflatten(-1, (-1, self.head_size))).flatten(-2)


class ProjectThenScale(nn.Module):
    def __init__(self, linear, scale):
        super().__init__()
        self.linear, self.scale = linear, scale

    def forward(self, x):
        y = self.linear(x)
        wide = y if y.dtype == torch.float64 else y.float()
        return (self.scale * wide).to(y.dtype)


class Rotary(nn.Module):
    """transformers' rotary embedding, which is fp32 whatever the model's type, in fp64."""

    def __init__(self, shape):
        super().__init__()
        even = torch.arange(0, shape.head_size, 2, dtype=torch.float64)
        self.register_buffer("frequencies", shape.rope_theta ** (-even / shape.head_size))

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


class ReferenceModel:
    """`parameters[name]` is the leaf of each of osp's tensors; gradients accumulate there.

    `dtype`: of weights and activations. In fp64 nothing is rounded to fp32 on the way, as transformers does
    in its rotary embedding, softmax and norms.
    """

    def __init__(self, shape: Shape, weights: dict[str, torch.Tensor], dtype=torch.float32):
        self.shape = shape
        self.dtype = dtype
        self.parameters = {name: nn.Parameter(w.to(dtype, copy=True)) for name, w in weights.items()}
        exact = dtype == torch.float64
        model = LlamaForCausalLM(llama_config(shape, "sdpa" if exact else "eager")).to(dtype).eval()
        if exact:
            model.model.rotary_emb = Rotary(shape)
        take = self.parameters.get

        def linear(name):
            layer = nn.Linear(1, 1, bias=False)
            layer.weight = self.parameters[name]
            return layer

        model.model.embed_tokens.weight = self.parameters["model.embed_tokens.weight"]
        head = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
        model.lm_head.weight = self.parameters[head]
        if shape.embedding_projection:
            model.model.embed_tokens = nn.Sequential(
                model.model.embed_tokens, linear("model.embed_proj.weight")
            )
            model.lm_head = nn.Sequential(linear("lm_head_proj.weight"), model.lm_head)
        if shape.embedding_norm:
            norm = Norm(shape.norm_eps, take("model.embed_norm.weight"))
            model.model.embed_tokens = nn.Sequential(model.model.embed_tokens, norm)
        for index, block in enumerate(model.model.layers):
            prefix = f"model.layers.{index}."
            for part, names in {
                block.self_attn: ["q_proj", "k_proj", "v_proj", "o_proj"],
                block.mlp: ["gate_proj", "up_proj", "down_proj"],
            }.items():
                where = "self_attn." if part is block.self_attn else "mlp."
                for name in names:
                    getattr(part, name).weight = self.parameters[f"{prefix}{where}{name}.weight"]
            if shape.qk_norm:
                for name in ["q", "k"]:
                    norm = Norm(shape.norm_eps, take(f"{prefix}self_attn.{name}_norm.weight"))
                    projection = getattr(block.self_attn, f"{name}_proj")
                    wrapped = ProjectThenNormHeads(projection, norm, shape.head_size)
                    setattr(block.self_attn, f"{name}_proj", wrapped)
            if shape.branch_scale:
                for part, name in [(block.self_attn, "o_proj"), (block.mlp, "down_proj")]:
                    where = "self_attn" if part is block.self_attn else "mlp"
                    scale = take(f"{prefix}{where}.branch_scale")
                    setattr(part, name, ProjectThenScale(getattr(part, name), scale))
            if shape.norm == "none":
                block.input_layernorm = block.post_attention_layernorm = nn.Identity()
            elif shape.norm == "rms" and not exact:
                block.input_layernorm.weight = self.parameters[prefix + "input_layernorm.weight"]
                block.post_attention_layernorm.weight = self.parameters[
                    prefix + "post_attention_layernorm.weight"
                ]
            else:
                block.input_layernorm = Norm(shape.norm_eps, take(prefix + "input_layernorm.weight"))
                block.post_attention_layernorm = Norm(
                    shape.norm_eps, take(prefix + "post_attention_layernorm.weight")
                )
        if shape.norm == "rms" and not exact:
            model.model.norm.weight = self.parameters["model.norm.weight"]
        else:
            model.model.norm = Norm(shape.norm_eps, take("model.norm.weight"))
        self.model = model

    def logits(self, tokens, documents=None):
        mask = None
        if documents is not None:
            length = tokens.shape[1]
            seen = torch.ones(length, length, dtype=torch.bool).tril()
            seen = seen & (documents[:, :, None] == documents[:, None, :])
            mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
            mask = mask[:, None].to(self.dtype)
        logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        return logits if self.dtype == torch.float64 else logits.float()

    def loss_sum(self, tokens, targets, documents=None):
        logits = self.logits(tokens, documents)
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
        )
