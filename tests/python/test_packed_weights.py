"""Folders that other programs quantized (GPTQ, AWQ, compressed-tensors): the numbers that their codes stand
for, in every command that takes a plain model."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_tokenizers import letter_tokenizer
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

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


def write_folder(folder, name, changed_config=None, changed_parts=None):
    """A Llama in the format; returns transformers' model with the weights that the codes stand for."""
    make, config = FORMATS[name]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    rng = np.random.default_rng(1)
    tensors = {}
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "proj" not in key:
                tensors[key] = weight.detach().numpy()
                continue
            values, parts = make(rng, *weight.shape)
            weight.copy_(torch.from_numpy(values))
            stem = key.removesuffix("weight")
            tensors |= {stem + ending: part for ending, part in parts.items()}
    folder.mkdir()
    for key, value in (changed_parts or {}).items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value(tensors[key]) if callable(value) else value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    plain = json.loads(model.config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]}
    plain["quantization_config"] = config | (changed_config or {})
    (folder / "config.json").write_text(json.dumps(plain))
    (folder / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    return model


def logits_of(run_program, folder, tmp_path):
    save_file({"tokens": TOKENS, "targets": TOKENS}, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    run_program(["model_probe", folder, tmp_path / "in.safetensors", out, "--forward"])
    return load_file(out)["logits"]


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_numbers_that_the_codes_stand_for(name, run_program, tmp_path):
    model = write_folder(tmp_path / "model", name)
    with torch.no_grad():
        wanted = model(torch.from_numpy(TOKENS)).logits.numpy()
    found = logits_of(run_program, tmp_path / "model", tmp_path)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    # As a plain model, bit for bit.
    run_program(["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "plain"])
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    for key, weight in model.named_parameters():
        assert np.array_equal(plain[key], weight.detach().numpy()), key
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("compressed")])
def test_compressed_tensors_unpacks_the_same_weights(name, run_program, tmp_path):
    model = write_folder(tmp_path / "model", name)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    found = dict(theirs.named_parameters())
    for key, weight in model.named_parameters():
        assert (found[key] - weight).abs().max() <= 1e-6 * weight.abs().max(), key


def test_our_own_gptq_export_is_read_back(run_program, tmp_path):
    torch.manual_seed(2)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "model")
    quantize = ["--method", "rtn", "--profile", "best", "--bits", "4-16-16", "--group", 32]
    run_program(["osp", "quantize", tmp_path / "model", *quantize, "--out", tmp_path / "w4"])
    run_program(["osp", "export", tmp_path / "w4", "--format", "gptq", "--out", tmp_path / "gptq"])
    for source in ("w4", "gptq"):
        run_program(
            ["osp", "export", tmp_path / source, "--format", "hf", "--out", tmp_path / f"{source}-hf"]
        )
    ours, back = (load_file(tmp_path / f"{n}-hf" / "model.safetensors") for n in ("w4", "gptq"))
    assert ours.keys() == back.keys()
    for key, values in ours.items():
        kept = values if "proj" in key or values.ndim == 1 else values.astype(np.float16).astype(np.float32)
        assert np.array_equal(back[key], values) or np.array_equal(back[key], kept), key


def test_commands_take_such_a_folder_as_a_plain_model(run_program, tmp_path):
    write_folder(tmp_path / "model", "awq")
    (tmp_path / "text.txt").write_text("some letters to read and to calibrate with " * 60)
    data = ["--data", tmp_path / "text.txt"]
    result = run_program(["osp", "eval", tmp_path / "model", *data, "--bits", "16-16-16,4-4-4", "--json"])
    losses = [r["loss"] for r in json.loads(result.stdout)["results"]]
    assert losses[0] != losses[1]
    run_program(["osp", "analyze", tmp_path / "model", *data, "--json", "--quiet"])
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--bits", "4-4-16",
                 "--out", tmp_path / "again"])  # fmt: skip
    made = json.loads(
        run_program(
            ["osp", "generate", tmp_path / "again", "--prompt", "some", "--max-tokens", 4, "--json"]
        ).stdout
    )
    assert len(made["tokens"]) == 4


Q = "model.layers.1.self_attn.q_proj."
ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
DAMAGE = {
    "method": (
        "gptq",
        {"quant_method": "bitsandbytes"},
        {},
        'quant_method is "bitsandbytes"; osp reads gptq',
    ),
    "3 bits": ("gptq", {"bits": 3}, {}, "quantization_config.bits is 3; osp reads 2, 4 and 8"),
    "bits of text": ("gptq", {"bits": "4"}, {}, 'bits is "4", expected a whole number'),
    "no bits": ("gptq", {"bits": None}, {}, "bits is missing, expected a whole number"),
    "group 0": ("gptq", {"group_size": 0}, {}, "group_size is 0; osp reads"),
    "group that does not divide": (
        "gptq",
        {"group_size": 40},
        {},
        "groups of 40 do not divide the 64 inputs",
    ),
    "another group": ("gptq", {"group_size": 16}, {}, "qzeros is I32 [2, 8], expected I32 [4, 8]"),
    "marlin": ("gptq", {"checkpoint_format": "marlin"}, {}, 'checkpoint_format is "marlin"; osp reads gptq'),
    "gemv": ("awq", {"version": "gemv"}, {}, 'version is "gemv"; osp reads gemm'),
    "no scales": ("gptq", {}, {Q + "scales": None}, Q + "scales is missing"),
    "scales of NaN": (
        "awq",
        {},
        {Q + "scales": lambda s: s * np.float16("nan")},
        "scales holds nan, expected",
    ),
    "short codes": (
        "gptq",
        {},
        {Q + "qweight": lambda q: q[:4].copy()},
        "qweight is I32 [4, 64], expected I32 [8",
    ),
    "codes of floats": ("awq", {}, {Q + "qweight": lambda q: q.astype(np.float32)}, "qweight is F32"),
    "a zero point of 0 less one": (
        "gptq",
        {},
        {Q + "qzeros": lambda z: np.full_like(z, -1)},
        "qzeros has a zero point of 0 in version 1",
    ),
    "group beyond": ("gptq", {}, {Q + "g_idx": lambda g: g + 1}, "g_idx names group 2 of 2"),
    "negative group": ("gptq", {}, {Q + "g_idx": lambda g: g - 1}, "g_idx names group -1 of 2"),
    "shape that differs": (
        "compressed-tensors",
        {},
        {Q + "weight_shape": np.array([64, 32], np.int64)},
        "weight_shape differs from [64, 64]",
    ),
    "rounded activations": (
        "compressed-tensors",
        {
            "config_groups": {
                "g": {
                    "targets": ["Linear"],
                    "weights": scheme()["config_groups"]["group_0"]["weights"],
                    "input_activations": ACTIVATIONS,
                }
            }
        },
        {},
        "input_activations is given; osp reads rounded weights alone",
    ),
    "cache": ("compressed-tensors", {"kv_cache_scheme": ACTIVATIONS}, {}, "kv_cache_scheme is given"),
    "dense floats": ("compressed-tensors", {"format": "float-quantized"}, {}, 'format is "float-quantized"'),
    "asymmetric without zero points": (
        "compressed-tensors",
        {"config_groups": scheme(symmetric=False)["config_groups"]},
        {},
        "weight_zero_point is missing",
    ),
    "a plain matrix more": ("gptq", {}, {Q + "weight": np.ones((64, 64), np.float32)}, "belongs to no part"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_contradicts_itself_or_is_not_read_is_refused_by_name(case, run_program, tmp_path):
    name, config, parts, reason = DAMAGE[case]
    write_folder(tmp_path / "model", name, config, parts)
    command = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
    result = run_program(command, check=False)
    assert result.returncode == 3 and reason in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()
