"""Small Llamas in the layouts of GPTQ, AWQ and compressed-tensors integers, with the weights that their codes
stand for."""

import json

import numpy as np
import torch
from safetensors.numpy import save_file
from small_tokenizers import letter_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = dict(
    hidden_size=64,
    intermediate_size=96,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_hidden_layers=2,
    vocab_size=96,
    max_position_embeddings=48,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
    initializer_range=0.2,
)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
TOKENS = np.arange(2 * 40).reshape(2, 40) * 7 % 96


def codes_of(rng, rows, columns, groups, bits, half):
    """Random codes and zero points from 0 to 2^bits - 1, and scales of fp16."""
    q = rng.integers(0, 2**bits, (rows, columns))
    z = np.full((rows, groups), 2 ** (bits - 1)) if half else rng.integers(1, 2**bits, (rows, groups))
    s = rng.uniform(0.5, 1.5, (rows, groups)).astype(np.float16) * np.float16(0.3 / 2**bits)
    return q, z, s


def packed_along(values, axis, bits, order=None):
    """int32 words of 32 / bits values that follow each other along an axis, the first lowest."""
    values = np.moveaxis(values, axis, -1).astype(np.uint32)
    per = 32 // bits
    parts = values.reshape(*values.shape[:-1], values.shape[-1] // per, per)
    words = np.zeros(parts.shape[:-1], np.uint32)
    for place in range(per):
        column = order[place] if order else place
        words |= parts[..., column] << np.uint32(place * bits)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def gptq(rng, rows, columns, bits=4, group=32, version=1, reorder=False):
    groups = columns // group if group > 0 else 1
    q, z, s = codes_of(rng, rows, columns, groups, bits, half=False)
    index = np.arange(columns) // (group if group > 0 else columns)
    if reorder:
        index = rng.permutation(index)
    weight = s.astype(np.float32)[:, index] * (q - z[:, index]).astype(np.float32)
    parts = {
        "qweight": packed_along(q.T, 0, bits),
        "qzeros": packed_along(z.T - (1 if version == 1 else 0), 1, bits),
        "scales": np.ascontiguousarray(s.T),
        "g_idx": index.astype(np.int32),
    }
    return weight, parts


def awq(rng, rows, columns, group=32):
    q, z, s = codes_of(rng, rows, columns, columns // group, 4, half=False)
    index = np.arange(columns) // group
    weight = s.astype(np.float32)[:, index] * (q - z[:, index]).astype(np.float32)
    parts = {
        "qweight": packed_along(q.T, 1, 4, AWQ_ORDER),
        "qzeros": packed_along(z.T, 1, 4, AWQ_ORDER),
        "scales": np.ascontiguousarray(s.T),
    }
    return weight, parts


def compressed(rng, rows, columns, bits=4, group=32, symmetric=True):
    groups = columns // group if group > 0 else 1
    q, z, s = codes_of(rng, rows, columns, groups, bits, half=symmetric)
    index = np.arange(columns) // (group if group > 0 else columns)
    weight = s.astype(np.float32)[:, index] * (q - z[:, index]).astype(np.float32)
    parts = {
        "weight_packed": packed_along(q, 1, bits),
        "weight_scale": s.astype(np.float32),
        "weight_shape": np.array([rows, columns], dtype=np.int64),
    }
    if not symmetric:
        parts["weight_zero_point"] = packed_along(z, 0, bits)
    return weight, parts


def scheme(bits=4, group=32, symmetric=True):
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False}
    weights |= {"strategy": "group", "group_size": group} if group > 0 else {"strategy": "channel"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def gptq_config(bits=4, group=32, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": True} | more


FORMATS = {
    "gptq": (lambda r, o, i: gptq(r, o, i), gptq_config()),
    "gptq, version 2": (
        lambda r, o, i: gptq(r, o, i, version=2),
        gptq_config(checkpoint_format="gptq_v2"),
    ),
    "gptq, version 2, new key": (
        lambda r, o, i: gptq(r, o, i, version=2),
        gptq_config(format="GPTQ_V2"),
    ),
    "gptq, one group": (lambda r, o, i: gptq(r, o, i, group=-1), gptq_config(group=-1)),
    "gptq, 8 bits": (lambda r, o, i: gptq(r, o, i, bits=8), gptq_config(8)),
    "gptq, 2 bits": (lambda r, o, i: gptq(r, o, i, bits=2), gptq_config(2)),
    "gptq, act-order": (lambda r, o, i: gptq(r, o, i, reorder=True), gptq_config(desc_act=True)),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    "awq, old names": (awq, {"quant_method": "awq", "w_bit": 4, "q_group_size": 32}),
    "compressed-tensors": (compressed, scheme()),
    "compressed-tensors, channel": (lambda r, o, i: compressed(r, o, i, group=0), scheme(group=0)),
    "compressed-tensors, 8 bits": (lambda r, o, i: compressed(r, o, i, bits=8), scheme(bits=8)),
    "compressed-tensors, asymmetric": (
        lambda r, o, i: compressed(r, o, i, symmetric=False),
        scheme(symmetric=False),
    ),
}


def write_folder(folder, name, changed_config=None, changed_parts=None, plain=(), coded=()):
    """A Llama in the format; returns transformers' model with the weights that the codes stand for. The
    layers `plain` have none, those of `coded` (the head) have some beside the blocks' linear layers.
    """
    make, config = FORMATS[name]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    rng = np.random.default_rng(1)
    tensors = {}
    with torch.no_grad():
        for key, weight in model.named_parameters():
            stem = key.removesuffix("weight")
            if stem[:-1] in plain or ("proj" not in key and stem[:-1] not in coded):
                tensors[key] = weight.detach().numpy()
                continue
            values, parts = make(rng, *weight.shape)
            weight.copy_(torch.from_numpy(values))
            tensors |= {stem + ending: part for ending, part in parts.items()}
    folder.mkdir()
    for key, value in (changed_parts or {}).items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value(tensors[key]) if callable(value) else value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    written = json.loads(model.config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]}
    written["quantization_config"] = config | (changed_config or {})
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    return model


def assert_refused(run_program, tmp_path, reason):
    """The folder tmp_path/model is refused as damaged or unsupported, by name, before anything is written."""
    command = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
    result = run_program(command, check=False)
    assert result.returncode == 3 and reason in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()
