"""Small random models of gpt-oss by transformers, and their experts packed in the published MXFP4 layout."""

import json

import numpy as np
import torch
from expert_cases import put_random_weights
from family_cases import LLAMA_LIKE, YARN
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

# A limit that cuts many of the gates and ups of such weights; every other layer has the window.
GPT_OSS = dict(
    LLAMA_LIKE,
    head_dim=16,
    intermediate_size=32,
    num_local_experts=5,
    num_experts_per_tok=2,
    sliding_window=5,
    swiglu_limit=0.8,
    rope_parameters=dict(YARN, beta_fast=3.0, beta_slow=0.2, truncate=False),
    tie_word_embeddings=False,
)
# In blocks of 32 columns.
PACKABLE = dict(GPT_OSS, hidden_size=64, intermediate_size=96)
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6] * 2, np.float32) * np.repeat([1, -1], 8).astype(np.float32)


def random_model(**options):
    torch.manual_seed(11)
    config = GptOssConfig(**dict(GPT_OSS, **options))
    model = GptOssForCausalLM._from_config(config, attn_implementation="eager").eval().float()
    put_random_weights(model)
    return model


def pack(rng, experts, rows, columns, exponents=(116, 124)):
    """Random codes and scales of experts [E, out, in]: blocks, scales and the numbers that they stand for."""
    codes = rng.integers(0, 16, (experts, rows, columns))
    scales = rng.integers(*exponents, (experts, rows, columns // 32)).astype(np.uint8)
    pairs = codes.reshape(experts, rows, columns // 32, 16, 2)
    blocks = (pairs[..., 0] | pairs[..., 1] << 4).astype(np.uint8)
    values = E2M1[codes] * np.exp2(scales.astype(np.float32).repeat(32, -1) - 127)
    return blocks, scales, values.astype(np.float32)


def write_packed(folder, changed=None, **options):
    """A folder of the published layout; returns transformers' model of the numbers that the codes stand for.

    `changed` gets the tensors by name before they are written."""
    model = random_model(**dict(PACKABLE, **options))
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(3)
    for number, layer in enumerate(model.model.layers):
        for name in ("gate_up_proj", "down_proj"):
            weight = getattr(layer.mlp.experts, name)
            blocks, scales, values = pack(rng, weight.shape[0], weight.shape[2], weight.shape[1])
            with torch.no_grad():
                weight.copy_(torch.from_numpy(values).transpose(1, 2))
            stem = f"model.layers.{number}.mlp.experts.{name}"
            del tensors[stem]
            tensors |= {
                stem + "_blocks": torch.from_numpy(blocks),
                stem + "_scales": torch.from_numpy(scales),
            }
    if changed is not None:
        changed(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": MXFP4}))
    return model
