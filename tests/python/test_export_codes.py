"""Codes from every kind of quantized folder to every format that carries codes: the same weights, or a
refusal that says why."""

import json
import re

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from packed_cases import AWQ_ORDER, FORMATS, SIZES, TOKENS, write_folder
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    CompressedTensorsConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

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


def numbers_of(run_program, model, out):
    run_program(["osp", "export", model, "--format", "hf", "--out", out])
    return load_file(out / "model.safetensors")


# Codes that GGUF files hold, by the type of the linear layers, and the layouts that hold them.
GGUF_SOURCES = {
    "osp": ("Q4_0", ["gptq", "awq", "compressed-tensors"]),
    "osp, asymmetric": ("Q4_1", []),  # most minima are rounded, and then no multiples of their scales
    "Q4_0": ("Q4_0", ["gptq", "awq", "compressed-tensors"]),  # its scales have both signs
    "Q8_0": ("Q8_0", ["gptq", "compressed-tensors"]),
}


@pytest.mark.parametrize("target", ["gptq", "awq", "compressed-tensors"])
@pytest.mark.parametrize("source", GGUF_SOURCES)
def test_codes_of_a_gguf_file_are_the_same_weights_in_every_layout(
    source, target, sources, run_program, tmp_path
):
    kind, targets = GGUF_SOURCES[source]
    file, out = tmp_path / "model.gguf", tmp_path / "out"
    if source in OURS:
        run_program(["osp", "export", sources(source)[0], "--format", "gguf", "--out", file])
    else:
        run_program(["osp", "export", sources("osp")[0].parent / "plain", "--format", "gguf",
                     "--dtype", kind.lower(), "--tables", "f16", "--out", file])  # fmt: skip
        scales = [t.data.reshape(-1, 18)[:, :2].copy().view(np.float16) for t in GGUFReader(file).tensors
                  if t.tensor_type.name == "Q4_0"]  # fmt: skip
        if source == "Q4_0":
            assert 0.2 < np.mean([(s < 0).mean() for s in scales]) < 0.8
    result = run_program(
        ["osp", "export", file, "--format", target, "--out", out, "--dtype", "fp32"], check=False
    )
    if target not in targets:
        reason = (
            "8 bits" if kind == "Q8_0" else f"no integers with a scale for columns of a row (GGUF, {kind}"
        )
        assert result.returncode == 3 and reason in result.stderr, result.stderr
        assert not out.exists()
        return
    assert result.returncode == 0, result.stderr
    wanted = numbers_of(run_program, file, tmp_path / "numbers")
    found = numbers_of(run_program, out, tmp_path / "back")
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert np.array_equal(found[name], weight), name
    # By readers that are not ours; rows of q and k stand in another order in the file.
    if target == "compressed-tensors":
        others = weights_of_compressed(out)
    else:
        reader = weights_of_gptq if target == "gptq" else weights_of_awq
        config = json.loads((out / "config.json").read_text())
        others = reader(load_file(out / "model.safetensors"), config["quantization_config"])
    assert len(others) == 7 * SIZES["num_hidden_layers"]
    for name, weight in others.items():
        assert np.array_equal(weight, wanted[name]), name


LEFT_OUT = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("target", ["gptq", "awq", "compressed-tensors"])
@pytest.mark.parametrize("source", ["awq", "compressed-tensors"])
def test_a_layer_without_codes_is_named_in_the_configuration(source, target, run_program, tmp_path):
    changed = {"awq": {"modules_to_not_convert": [LEFT_OUT]},
               "compressed-tensors": {"ignore": ["lm_head", LEFT_OUT]}}[source]  # fmt: skip
    model = write_folder(tmp_path / "model", source, changed, plain=[LEFT_OUT])
    out = tmp_path / "out"
    command = ["osp", "export", tmp_path / "model", "--format", target, "--dtype", "fp32", "--out", out]
    result = run_program(command, check=False)
    if target == "gptq":
        assert result.returncode == 3 and f"{LEFT_OUT} has no codes, and the GPTQ layout" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    assert "1 linear layers have no codes" in result.stderr and LEFT_OUT in result.stderr
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    listed = config["modules_to_not_convert" if target == "awq" else "ignore"]
    assert set(listed) == {"lm_head", LEFT_OUT}
    back = numbers_of(run_program, out, tmp_path / "back")
    for name, weight in model.named_parameters():
        assert np.array_equal(back[name], weight.detach().numpy()), name
    if target == "compressed-tensors":
        loaded = AutoModelForCausalLM.from_pretrained(
            out, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
        )
        with torch.no_grad():
            tokens = torch.from_numpy(TOKENS)
            assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("source", ["awq", "compressed-tensors"])
def test_a_layer_without_codes_is_not_rounded_in_a_gguf_file(source, run_program, tmp_path):
    model = write_folder(tmp_path / "model", source, plain=[LEFT_OUT])
    file = tmp_path / "model.gguf"
    command = ["osp", "export", tmp_path / "model", "--format", "gguf", "--out", file, "--json"]
    result = run_program(command)
    assert json.loads(result.stdout)["plain_layers"] == [f"{LEFT_OUT}.weight"]
    assert f"1 linear layers have no codes in {tmp_path / 'model'} and are written in f16" in result.stderr
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    assert types["blk.1.ffn_down.weight"] == "F16" and types["blk.0.ffn_down.weight"] in ("Q4_0", "Q4_1")
    back = numbers_of(run_program, file, tmp_path / "back")[f"{LEFT_OUT}.weight"]
    weight = model.get_submodule(LEFT_OUT).weight.detach().numpy()
    assert np.array_equal(back, weight.astype(np.float16).astype(np.float32))
    # A type by its name is for every linear layer.
    run_program([*command[:-3], "--out", tmp_path / "named.gguf", "--dtype", "q8_0"])
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "named.gguf").tensors}
    assert types["blk.1.ffn_down.weight"] == "Q8_0"


def test_gpt_neox_is_refused_in_the_awq_layout(run_program, tmp_path):
    """transformers divides its activations there by scales, which it makes up where there are none."""
    torch.manual_seed(6)
    sizes = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=1,
                 vocab_size=96, max_position_embeddings=48)  # fmt: skip
    GPTNeoXForCausalLM(GPTNeoXConfig(**sizes)).save_pretrained(tmp_path / "model")
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--bits", "4-16-16",
                 "--out", tmp_path / "w4"])  # fmt: skip
    for target, status in (("awq", 3), ("compressed-tensors", 0)):
        command = ["osp", "export", tmp_path / "w4", "--format", target, "--out", tmp_path / target]
        result = run_program(command, check=False)
        assert result.returncode == status, result.stderr
        assert (status == 3) == ("transformers divides the activations of GPT-NeoX" in result.stderr)


@pytest.mark.parametrize("target", ["gptq", "awq", "compressed-tensors"])
def test_a_head_with_codes_becomes_the_numbers_that_they_stand_for(target, run_program, tmp_path):
    changed = {"ignore": []}
    model = write_folder(tmp_path / "model", "compressed-tensors", changed, coded=["lm_head"])
    out = tmp_path / "out"
    result = run_program(
        ["osp", "export", tmp_path / "model", "--format", target, "--dtype", "fp32", "--out", out]
    )
    assert "written as the numbers that their codes stand for: lm_head.weight" in result.stderr
    tensors = load_file(out / "model.safetensors")
    assert np.array_equal(tensors["lm_head.weight"], model.lm_head.weight.detach().numpy())
    assert not any(name.startswith("lm_head.") and name != "lm_head.weight" for name in tensors)


def test_a_model_without_codes_is_refused_with_what_to_do(sources, run_program, tmp_path):
    plain = sources("osp")[0].parent / "plain"
    for target in ("gptq", "awq", "compressed-tensors"):
        command = ["osp", "export", plain, "--format", target, "--out", tmp_path / target]
        result = run_program(command, check=False)
        assert result.returncode == 2 and "not quantized; run osp quantize first" in result.stderr
    for dtype, status, reason in (
        ("f16", 2, "not quantized; run osp quantize first"),
        ("q5_0", 3, "its codes are no integers with a scale for columns of a row (GGUF, Q5_0)"),
    ):
        file = tmp_path / f"{dtype}.gguf"
        run_program(["osp", "export", plain, "--format", "gguf", "--dtype", dtype, "--tables", "f16",
                     "--out", file])  # fmt: skip
        command = ["osp", "export", file, "--format", "awq", "--out", tmp_path / "awq"]
        result = run_program(command, check=False)
        assert result.returncode == status and reason in result.stderr, result.stderr


def test_a_model_that_needs_a_transform_while_it_runs_is_refused(sources, run_program, tmp_path):
    plain = sources("osp")[0].parent / "plain"
    run_program(["osp", "quantize", plain, "--method", "quarot+rtn", "--bits", "4-4-16",
                 "--out", tmp_path / "w4"])  # fmt: skip
    for target in ("gptq", "awq", "compressed-tensors"):
        command = ["osp", "export", tmp_path / "w4", "--format", target, "--out", tmp_path / target]
        result = run_program(command, check=False)
        assert result.returncode == 3 and "needs a Hadamard transform before each" in result.stderr
