"""Codes from every kind of quantized folder to every format that carries codes: the same weights, or a
refusal that says why."""

import json
import re

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from packed_cases import AWQ_ORDER, FORMATS, SIZES, write_folder
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

OURS = {
    "osp": ["--bits", "4-16-16", "--group", 32],
    "osp, activations and cache": ["--bits", "4-4-4", "--group", 32],
    "osp, asymmetric": ["--bits", "4-16-16", "--group", 32, "--asymmetric"],
    "osp, 8 bits": ["--bits", "8-16-16"],
}
SOURCES = [*FORMATS, *OURS]
EIGHT_BITS = {"gptq, 8 bits", "compressed-tensors, 8 bits", "osp, 8 bits"}


def unpacked_along(words, axis, bits, order=None):
    """The reverse of packed_along."""
    words = np.moveaxis(words.view(np.uint32), axis, -1)
    per = 32 // bits
    values = np.zeros((*words.shape, per), np.int64)
    for place in range(per):
        values[..., order[place] if order else place] = (words >> np.uint32(place * bits)) & (2**bits - 1)
    return np.moveaxis(values.reshape(*words.shape[:-1], -1), -1, axis)


def weights_of_gptq(tensors, config):
    bits, found = config["bits"], {}
    assert config["checkpoint_format"] == "gptq"
    for name in [n for n in tensors if n.endswith(".qweight")]:
        stem = name.removesuffix("qweight")
        q = unpacked_along(tensors[name], 0, bits)
        z = unpacked_along(tensors[stem + "qzeros"], 1, bits) + 1
        s, index = tensors[stem + "scales"].astype(np.float32), tensors[stem + "g_idx"]
        in_order = (np.diff(index) >= 0).all()
        assert config["desc_act"] == (not in_order), name
        found[stem + "weight"] = (s[index] * (q - z[index]).astype(np.float32)).T
    return found


def weights_of_awq(tensors, config):
    found = {}
    for name in [n for n in tensors if n.endswith(".qweight")]:
        stem = name.removesuffix("qweight")
        q = unpacked_along(tensors[name], 1, 4, AWQ_ORDER)
        z = unpacked_along(tensors[stem + "qzeros"], 1, 4, AWQ_ORDER)
        s = tensors[stem + "scales"].astype(np.float32)
        group = q.shape[0] if config["group_size"] == -1 else config["group_size"]
        index = np.arange(q.shape[0]) // group
        found[stem + "weight"] = (s[index] * (q - z[index]).astype(np.float32)).T
    return found


def weights_of_compressed(folder):
    """What transformers unpacks with the package compressed-tensors."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    return {n: w.detach().numpy() for n, w in model.named_parameters() if "proj" in n}


@pytest.fixture(scope="module")
def sources(run_program, tmp_path_factory):
    """By name: a folder and the fp32 weights that its codes stand for."""
    place = tmp_path_factory.mktemp("sources")
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(place / "plain")
    made = {}

    def make(name):
        if name in made:
            return made[name]
        folder = place / name.replace(" ", "-").replace(",", "")
        if name in FORMATS:
            model = write_folder(folder, name)
            weights = {n: w.detach().numpy() for n, w in model.named_parameters() if "proj" in n}
        else:
            run_program(["osp", "quantize", place / "plain", "--method", "rtn", "--profile", "best",
                         *OURS[name], "--out", folder])  # fmt: skip
            run_program(["osp", "export", folder, "--format", "hf", "--out", f"{folder}-hf"])
            weights = load_file(f"{folder}-hf/model.safetensors")
            weights = {n: w for n, w in weights.items() if "proj" in n}
        made[name] = folder, weights
        return made[name]

    return make


def refusal(source, target):
    """The reason for which a pair is refused, None where it is not."""
    if target == "awq" and source in EIGHT_BITS:
        return "the AWQ layout holds integers of 4 bits, these weights are 8 bits"
    if target in ("awq", "compressed-tensors") and "act-order" in source:
        return r"q_proj\.weight has its columns in another order than its groups \(act-order\)"
    return None


@pytest.mark.parametrize("target", ["gptq", "awq", "compressed-tensors"])
@pytest.mark.parametrize("source", SOURCES)
def test_codes_of_every_source_are_the_same_weights_in_every_layout(
    source, target, sources, run_program, tmp_path
):
    folder, wanted = sources(source)
    out = tmp_path / "out"
    command = ["osp", "export", folder, "--format", target, "--out", out]
    reason = refusal(source, target)
    result = run_program(command, check=False)
    if reason is not None:
        assert result.returncode == 3 and re.search(reason, result.stderr), result.stderr
        assert not out.exists()
        return
    assert result.returncode == 0, result.stderr
    tensors = load_file(out / "model.safetensors") if target != "compressed-tensors" else {}
    config = json.loads((out / "config.json").read_text())
    assert "osp_quantization" not in config and config["architectures"] == ["LlamaForCausalLM"]
    quantization = config["quantization_config"]
    # By readers that are not ours.
    if target == "gptq":
        found = weights_of_gptq(tensors, quantization)
    elif target == "awq":
        found = weights_of_awq(tensors, quantization)
    else:
        assert quantization["quantization_status"] == "compressed"
        found = weights_of_compressed(out)
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert np.array_equal(found[name], weight), name
    # And by osp.
    run_program(["osp", "export", out, "--format", "hf", "--out", tmp_path / "back"])
    back = load_file(tmp_path / "back" / "model.safetensors")
    for name, weight in wanted.items():
        assert np.array_equal(back[name], weight), name


# The type of the linear layers in a GGUF file of each source; F16: no type holds its codes.
GGUF_TYPES = {
    "gptq": "Q4_1",
    "gptq, version 2": "Q4_1",
    "gptq, one group": "Q4_1",
    "gptq, 8 bits": "F16",
    "gptq, 2 bits": "Q4_1",
    "gptq, act-order": "F16",
    "awq": "Q4_1",
    "awq, old names": "Q4_1",
    "compressed-tensors": "Q4_0",
    "compressed-tensors, channel": "Q4_0",
    "compressed-tensors, 8 bits": "Q8_0",
    "compressed-tensors, asymmetric": "Q4_1",
}


@pytest.mark.parametrize("source", GGUF_TYPES)
def test_a_gguf_file_holds_codes_of_other_programs_where_a_type_does(source, sources, run_program, tmp_path):
    folder, wanted = sources(source)
    path = tmp_path / "model.gguf"
    run_program(["osp", "export", folder, "--format", "gguf", "--out", path])
    reader = GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for layer in range(SIZES["num_hidden_layers"]):
        # Projections whose rows llama.cpp does not reorder.
        for theirs, ours in (("ffn_down", "mlp.down_proj"), ("attn_v", "self_attn.v_proj")):
            tensor = tensors[f"blk.{layer}.{theirs}.weight"]
            weight = wanted[f"model.layers.{layer}.{ours}.weight"]
            assert tensor.tensor_type.name == GGUF_TYPES[source], source
            found = dequantize(tensor.data, tensor.tensor_type)
            if GGUF_TYPES[source] in ("Q4_0", "Q8_0"):
                assert np.array_equal(found, weight), tensor.name
            else:  # a minimum, or the number, is rounded to fp16
                assert np.abs(found - weight).max() <= 2.0**-10 * np.abs(weight).max(), tensor.name


def test_a_model_without_codes_is_refused_with_what_to_do(sources, run_program, tmp_path):
    plain = sources("osp")[0].parent / "plain"
    for target in ("gptq", "awq", "compressed-tensors"):
        command = ["osp", "export", plain, "--format", target, "--out", tmp_path / target]
        result = run_program(command, check=False)
        assert result.returncode == 2 and "not quantized; run osp quantize first" in result.stderr
    run_program(["osp", "export", plain, "--format", "gguf", "--out", tmp_path / "plain.gguf"])
    command = ["osp", "export", tmp_path / "plain.gguf", "--format", "awq", "--out", tmp_path / "awq"]
    result = run_program(command, check=False)
    assert result.returncode == 2 and "has no codes of them; run osp quantize first" in result.stderr


def test_a_model_that_needs_a_transform_while_it_runs_is_refused(sources, run_program, tmp_path):
    plain = sources("osp")[0].parent / "plain"
    run_program(["osp", "quantize", plain, "--method", "quarot+rtn", "--bits", "4-4-16",
                 "--out", tmp_path / "w4"])  # fmt: skip
    for target in ("gptq", "awq", "compressed-tensors"):
        command = ["osp", "export", tmp_path / "w4", "--format", target, "--out", tmp_path / target]
        result = run_program(command, check=False)
        assert result.returncode == 3 and "needs a Hadamard transform before each" in result.stderr
