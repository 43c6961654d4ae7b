"""Mixtures of experts in GGUF files, written and read: names, shapes and numbers by the rules of llama.cpp's
converter with the names of the package gguf, logits by transformers."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from expert_cases import put_random_weights
from gguf import GGMLQuantizationType as Type
from gpt_oss_cases import write_packed
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

sys.path.insert(0, str(Path(__file__).parent))
from packed_cases import FORMATS
from test_gguf import common_keys, finish
from test_gguf_architectures import SIZES, TOKENS
from test_gguf_model import logits  # noqa: F401

YARN = dict(
    rope_type="yarn",
    factor=4.0,
    beta_fast=32.0,
    beta_slow=1.0,
    truncate=False,
    original_max_position_embeddings=16,
    rope_theta=10000.0,
)
GPT_OSS = dict(num_local_experts=5, num_experts_per_tok=2, sliding_window=8, rope_parameters=YARN)
GPT_OSS_KEYS = {
    "expert_feed_forward_length": 160,
    "attention.sliding_window": 8,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
EXPERTS = dict(num_experts=5, num_experts_per_tok=2)
# Name: architecture, model, its options, the keys of its files beside a Llama's and the numbers of experts.
MODELS = {
    "qwen3moe": (
        "qwen3moe",
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        EXPERTS | dict(moe_intermediate_size=64, norm_topk_prob=True, head_dim=32),
        {"expert_feed_forward_length": 64},
    ),
    "qwen3moe, tied": (
        "qwen3moe",
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        EXPERTS | dict(moe_intermediate_size=96, norm_topk_prob=True, tie_word_embeddings=True),
        {"expert_feed_forward_length": 96},
    ),
    "olmoe": (
        "olmoe",
        OlmoeForCausalLM,
        OlmoeConfig,
        EXPERTS | dict(num_key_value_heads=6),
        {"expert_feed_forward_length": 160},
    ),
    "gpt-oss": ("gpt-oss", GptOssForCausalLM, GptOssConfig, GPT_OSS, GPT_OSS_KEYS),
    "gpt-oss, whole pairs": (
        "gpt-oss",
        GptOssForCausalLM,
        GptOssConfig,
        GPT_OSS | dict(rope_parameters=dict(YARN, truncate=True)),
        GPT_OSS_KEYS,
    ),
    "gpt-oss, unscaled": (
        "gpt-oss",
        GptOssForCausalLM,
        GptOssConfig,
        GPT_OSS | dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
        {"attention.sliding_window": 8},
    ),
}


def assert_logits_equal(found, model, tokens):
    """fp32 sums in another order, of products that the clamped SwiGLU makes large: 2e-5 was seen."""
    with torch.no_grad():
        expected = model(tokens).logits.numpy()
    assert np.abs(found - expected).max() < 5e-5 * np.abs(expected).max()


def random_model(name, **changed):
    _, cls, config, options, _ = MODELS[name]
    sizes = {key: value for key, value in {**SIZES, **options, **changed}.items() if key != "rope_theta"}
    torch.manual_seed(1)
    model = cls._from_config(config(**sizes), attn_implementation="eager").eval().float()
    put_random_weights(model)
    return model


def views(architecture: str, model) -> dict[str, torch.Tensor]:
    """The model's weights as the tensors of the converter's file: those of transformers, joined gate and up
    apart, all experts of a block together, [experts, out, in]."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    in_turn = architecture == "gpt-oss"  # gate, up, gate, up … and weights [E, in, out]
    found = {}
    for name, weight in model.named_parameters():
        end = "bias" if name.endswith("bias") else "weight"
        stem = name.removesuffix("_bias").removesuffix("." + end)
        if ".experts." in name and in_turn and end == "weight":
            weight = weight.transpose(1, 2)
        if not stem.endswith("gate_up_proj"):
            found[f"{names.get_name(stem)}.{end}"] = weight
            continue
        half = weight.shape[1] // 2
        parts = (weight[:, ::2], weight[:, 1::2]) if in_turn else (weight[:, :half], weight[:, half:])
        for kind, part in zip(("gate", "up"), parts, strict=True):
            found[f"{names.get_name(stem.replace('gate_up', kind))}.{end}"] = part
    # All tensors that the package has for the architecture, and no other.
    wanted = {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[arch]}
    wanted -= {"output"} if model.config.tie_word_embeddings else set()
    layers = range(model.config.num_hidden_layers)
    assert {name.rsplit(".", 1)[0] for name in found} == {s.format(bid=i) for s in wanted for i in layers}
    return found


def stored_tensors(architecture: str, model) -> dict[str, np.ndarray]:
    return {
        name: np.ascontiguousarray(weight.detach().numpy())
        for name, weight in views(architecture, model).items()
    }


def keys_of(architecture: str, model, more) -> dict:
    config = model.config
    size = getattr(config, "head_dim", None) or 16
    keys = {
        **common_keys(config, size, config.rope_parameters["rope_theta"], np.float32(config.rms_norm_eps)),
        "expert_count": 5,
        "expert_used_count": 2,
        **more,
    }
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def write_file(path, architecture, model, keys, type_=Type.F32):
    """As llama.cpp's converter would."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            bool: writer.add_bool,
            str: writer.add_string,
        }
        add[type(value)](key, value)
    for name, values in stored_tensors(architecture, model).items():
        kind = Type.F32 if values.ndim < 2 or "gate_inp" in name or "bias" in name else type_
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    finish(writer)


def export(run_program, source, out, *options, check=True):
    command = ["osp", "export", source, "--format", "gguf", *options, "--out", out]
    return run_program(command, check=check)


def tensors_of(path) -> dict:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", MODELS)
def test_exported_files_are_those_of_the_converter(name, tmp_path, logits, run_program):  # noqa: F811
    architecture, _, _, _, more = MODELS[name]
    model = random_model(name)
    model.save_pretrained(tmp_path / "model")
    result = export(run_program, tmp_path / "model", tmp_path / "m.gguf", "--dtype", "fp32")
    differs = "llama.cpp takes whole channel pairs"
    assert (differs in result.stderr) == (name == "gpt-oss")
    found = tensors_of(tmp_path / "m.gguf")
    for stored, values in stored_tensors(architecture, model).items():
        tensor = found.pop(stored)
        assert tensor.tensor_type == Type.F32 and tuple(tensor.shape[::-1]) == values.shape, stored
        assert np.array_equal(tensor.data.reshape(values.shape), values), stored
    assert not found
    fields = {key: f.contents() for key, f in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    for key, value in keys_of(architecture, model, more).items():
        assert fields[key] == value, key
    assert ("osp.yarn_truncate" in fields) == (name == "gpt-oss, whole pairs")
    assert_logits_equal(logits(tmp_path / "m.gguf", TOKENS), model, TOKENS)


def take_numbers(model, architecture: str, path) -> None:
    """The model's weights become the numbers of a file."""
    found = tensors_of(path)
    with torch.no_grad():
        for name, weight in views(architecture, model).items():
            values = gguf.dequantize(found[name].data, found[name].tensor_type)
            weight.copy_(torch.from_numpy(values).reshape(weight.shape))


@pytest.mark.parametrize("type_", [Type.F16, Type.Q8_0, Type.Q4_0], ids=["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", ["qwen3moe", "olmoe", "gpt-oss"])
def test_files_of_the_package_are_read(name, type_, tmp_path, logits):  # noqa: F811
    architecture, _, _, _, more = MODELS[name]
    model = random_model(name)
    write_file(tmp_path / "m.gguf", architecture, model, keys_of(architecture, model, more), type_)
    take_numbers(model, architecture, tmp_path / "m.gguf")
    assert_logits_equal(logits(tmp_path / "m.gguf", TOKENS), model, TOKENS)


def test_types_of_blocks_are_written_by_the_rules_of_the_package(tmp_path, logits, run_program):  # noqa: F811
    model = random_model("qwen3moe")
    model.save_pretrained(tmp_path / "model")
    export(run_program, tmp_path / "model", tmp_path / "m.gguf", "--dtype", "q8_0")
    found = tensors_of(tmp_path / "m.gguf")
    for name, values in stored_tensors("qwen3moe", model).items():
        kind = Type.F32 if values.ndim < 2 or "gate_inp" in name else Type.Q8_0
        assert found[name].tensor_type == kind, name
        assert np.array_equal(found[name].data.reshape(-1), gguf.quantize(values, kind).reshape(-1)), name


def test_a_quantized_model_is_written_with_its_codes(tmp_path, logits, run_program):  # noqa: F811
    random_model("olmoe").save_pretrained(tmp_path / "model")
    quantize = ["--method", "rtn", "--profile", "best", "--bits", "4-16-16", "--group", 32]
    run_program(["osp", "quantize", tmp_path / "model", *quantize, "--out", tmp_path / "w4"])
    export(run_program, tmp_path / "w4", tmp_path / "m.gguf")
    found = tensors_of(tmp_path / "m.gguf")
    assert found["blk.0.ffn_gate_exps.weight"].tensor_type == Type.Q4_0
    assert found["blk.4.ffn_down_exps.weight"].tensor_type == Type.Q4_0
    assert found["blk.0.ffn_gate_inp.weight"].tensor_type == Type.F32
    run_program(["osp", "export", tmp_path / "w4", "--format", "hf", "--out", tmp_path / "plain"])
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in (wanted.model.embed_tokens.weight, wanted.lm_head.weight):
            weight.copy_(weight.half().float())
    assert_logits_equal(logits(tmp_path / "m.gguf", TOKENS), wanted, TOKENS)


# A plain expert that is the first of its tensor, and one that is not.
LEFT_OUT = ["model.layers.0.mlp.experts.0.up_proj", "model.layers.1.mlp.experts.3.down_proj"]


def test_experts_of_which_some_have_no_codes_are_written_by_their_numbers(tmp_path, run_program):
    """A tensor of a file has one type; the others keep their codes."""
    random_model("qwen3moe").save_pretrained(tmp_path / "model")
    make, config = FORMATS["compressed-tensors"]
    rng = np.random.default_rng(1)
    tensors, wanted = {}, {}
    for key, weight in load_file(tmp_path / "model" / "model.safetensors").items():
        stem, weight = key.removesuffix(".weight"), weight.numpy()
        wanted[key] = weight
        if "_proj" not in key or stem in LEFT_OUT:
            tensors[key] = weight
            continue
        wanted[key], parts = make(rng, *weight.shape)
        tensors |= {f"{stem}.{ending}": part for ending, part in parts.items()}
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    routers = [key.removesuffix(".weight") for key in wanted if key.endswith("mlp.gate.weight")]
    written["quantization_config"] = config | {"ignore": ["lm_head", *routers, *LEFT_OUT]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(written))
    export(run_program, tmp_path / "model", tmp_path / "m.gguf")
    found = tensors_of(tmp_path / "m.gguf")
    for block in (0, 1, 2):
        for layer in ("gate", "up", "down"):
            tensor = found[f"blk.{block}.ffn_{layer}_exps.weight"]
            plain = (block, layer) in ((0, "up"), (1, "down"))
            assert tensor.tensor_type == (Type.F16 if plain else Type.Q4_0), tensor.name
            name = f"model.layers.{block}.mlp.experts.{{}}.{layer}_proj.weight"
            values = np.stack([wanted[name.format(expert)] for expert in range(5)])
            if plain:
                values = values.astype(np.float16).astype(np.float32)
            numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
            assert np.allclose(numbers, values, rtol=0 if plain else 1e-3, atol=0), tensor.name


def repacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks of a GGUF file: the scale, then 16 bytes, each with number i in its low and i + 16 in its high
    half. Published: bytes with number 2 i in the low and 2 i + 1 in the high half. −0 becomes 0."""
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
    codes[codes == 8] = 0
    halves = codes[..., :16] | codes[..., 16:] << 4
    return np.concatenate([scales[..., None], halves], -1).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["auto", "bf16"])
def test_published_mxfp4_experts_keep_their_numbers(dtype, tmp_path, logits, run_program):  # noqa: F811
    model = write_packed(tmp_path / "model", swiglu_limit=7.0)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    result = export(run_program, tmp_path / "model", tmp_path / "m.gguf", "--dtype", dtype, "--json")
    found = tensors_of(tmp_path / "m.gguf")
    down = found["blk.1.ffn_down_exps.weight"]
    assert down.tensor_type == (Type.MXFP4 if dtype == "auto" else Type.BF16)
    for name, values in stored_tensors("gpt-oss", model).items():
        if "_exps.weight" in name:
            tensor = found[name]
            numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
            assert np.array_equal(numbers, values), name
    if dtype == "bf16":
        return
    # The bytes of the converter, but for blocks whose numbers leave a choice of scales.
    stem = "model.layers.1.mlp.experts.down_proj"
    wanted = repacked(stored[stem + "_blocks"].numpy(), stored[stem + "_scales"].numpy())
    same = (down.data.reshape(wanted.shape) == wanted).all(-1)
    assert same.mean() > 0.9
    report = json.loads(result.stdout)
    assert report["dtype"] == "mxfp4" and report["layers_of_codes"] >= 3 * 5 * 3
    assert found["blk.0.attn_q.weight"].tensor_type == Type.F16
    take_numbers(model, "gpt-oss", tmp_path / "m.gguf")
    tokens = TOKENS[:, :30] % model.config.vocab_size
    assert_logits_equal(logits(tmp_path / "m.gguf", tokens), model, tokens)


UNSAYABLE = {
    "qwen3moe": [
        (dict(norm_topk_prob=False), "does not divide the chosen probabilities by their sum"),
        (dict(mlp_only_layers=[1]), "has blocks without experts"),
        (dict(attention_bias=True), "has biases that its files cannot hold"),
    ],
    "olmoe": [
        (dict(norm_topk_prob=True), "divides the chosen probabilities by their sum"),
        (dict(clip_qkv=1.0), "clamps queries, keys and values"),
        (dict(num_key_value_heads=2), "has fewer heads of keys than of queries"),
        (dict(tie_word_embeddings=True), "shares its head with the embedding"),
    ],
    "gpt-oss": [
        (dict(swiglu_limit=3.0), "clamps its experts with other numbers than 7 and 1.702"),
        (dict(attention_bias=False), "has no biases of its attention"),
        (dict(layer_types=["full_attention"] * 5), "has no sliding window"),
        (dict(layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"]),
         "has windows in other layers than all but every 2th"),
        (dict(rope_parameters=dict(YARN, attention_factor=2.0)), "have a factor of their own"),
        (dict(tie_word_embeddings=True), "shares its head with the embedding"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_the_files_cannot_say_is_refused(name, tmp_path, run_program):
    for number, (changed, reason) in enumerate(UNSAYABLE[name]):
        random_model(name, **changed).save_pretrained(tmp_path / str(number))
        out = tmp_path / "m.gguf"
        result = export(run_program, tmp_path / str(number), out, "--dtype", "fp32", check=False)
        assert result.returncode == 3 and reason in result.stderr, (changed, result.stderr)
        assert not out.exists()


CONTRADICTIONS = {
    "qwen3moe": [
        ({"expert_gating_func": 2}, "qwen3moe.expert_gating_func is 2, and osp computes a qwen3moe with 1"),
        ({"expert_weights_norm": False}, "expert_weights_norm is false, and osp computes"),
        ({"expert_weights_scale": 2.5}, "expert_weights_scale = 2.5 is not supported"),
        ({"expert_shared_count": 1}, "expert_shared_count = 1 is not supported"),
        ({"expert_count": 4}, "blk.0.ffn_gate_inp.weight has shape [5, 96], expected [4, 96]"),
        ({"expert_count": None}, '"qwen3moe.expert_count" is missing'),
        ({"expert_used_count": 6}, "6 experts per token of 5"),
        ({"expert_feed_forward_length": 32}, "gate_exps.weight has shape [5, 64, 96], expected [5, 32, 96]"),
    ],
    "gpt-oss": [
        ({"rope.scaling.type": "linear"}, 'gpt-oss.rope.scaling.type is "linear"'),
        ({"expert_gating_func": 1}, "gpt-oss.expert_gating_func is 1, and osp computes a gpt-oss with 3"),
        ({"attention.sliding_window": None}, '"gpt-oss.attention.sliding_window" is missing'),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_keys_that_contradict_the_architecture_are_refused_by_name(name, tmp_path, run_program):
    model = random_model(name)
    agree = {"expert_gating_func": 3 if name == "gpt-oss" else 1, "expert_weights_norm": name == "qwen3moe"}
    for number, (changed, reason) in enumerate([(agree, ""), *CONTRADICTIONS[name]]):
        keys = keys_of(name, model, MODELS[name][4] | changed)
        keys = {key: value for key, value in keys.items() if value is not None}
        write_file(tmp_path / "m.gguf", name, model, keys)
        command = ["osp", "export", tmp_path / "m.gguf", "--format", "hf", "--out", tmp_path / str(number)]
        result = run_program(command, check=False)
        assert result.returncode == (3 if reason else 0) and reason in result.stderr, (changed, result.stderr)
