"""The types of GGUF files that osp writes, by the package `gguf` and by osp's own reader."""

import copy
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf import probe  # noqa: F401 (a fixture)
from test_gguf_export import dequantized, unpacked
from test_gguf_model import (
    assert_logits_equal,
    gguf_name,
    heads_of,
    logits,  # noqa: F401 (a fixture)
    permuted,
    random_llama,
    restored,
)

SIZES = dict(hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=4)


@pytest.fixture(scope="module")
def llama():
    return random_llama(vocab_size=300, max_position_embeddings=64, **SIZES)


@pytest.fixture
def model(llama, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def export(run_program, source, out, *options, **keywords):
    command = ["osp", "export", source, "--format", "gguf", "--out", out, "--json", *options]
    result = run_program(command, **keywords)
    return result if keywords.get("check") is False else json.loads(result.stdout)


def quantize(run_program, source, out, *options, method="rtn"):
    run_program(["osp", "quantize", source, "--method", method, "--out", out, *options])
    return out


def types_of(path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def noise(found: dict, llama) -> float:
    """Squared error of the matrices of the blocks over their energy."""
    error = energy = 0.0
    for name, weight in llama.named_parameters():
        if ".layers." in name and weight.ndim == 2:
            values, heads = weight.detach().numpy(), heads_of(name, llama.config)
            values = permuted(values, heads) if heads else values
            error += float(((found[gguf_name(name)] - values) ** 2).sum())
            energy += float((values**2).sum())
    return error / energy


def test_k_types_lose_less_than_the_simple_types_of_their_width(llama, model, tmp_path, run_program):
    """Q4_K has 4.5 bits for a weight as Q4_0; Q6_K 6.56, Q5_0 5.5 and Q8_0 8.5."""
    loss = {}
    for dtype in ("q4_0", "q4_k", "q5_0", "q6_k", "q8_0"):
        out = tmp_path / f"{dtype}.gguf"
        export(run_program, model, out, "--dtype", dtype, "--tables", "f16")
        types = types_of(out)
        assert types["blk.0.ffn_down.weight"] == dtype.upper() and types["token_embd.weight"] == "F16"
        loss[dtype] = noise(dequantized(out), llama)
    assert loss["q4_k"] < 0.75 * loss["q4_0"]  # measured 0.60
    assert loss["q8_0"] < loss["q6_k"] < 0.35 * loss["q5_0"]


def test_k_types_hold_every_kind_of_block(tmp_path, probe):  # noqa: F811
    """Zeros, constants, one sign, far outliers, tiny and large numbers: never worse than two steps."""
    rng = np.random.default_rng(5)
    values = rng.standard_normal((12, 256)).astype(np.float32)
    values[1] = 0
    values[2] = 3.25
    values[3] = -np.abs(values[3])
    values[4] = np.abs(values[4]) + 5
    values[5, 17] = 900
    values[6] *= 1e-4
    values[7] *= 1e4
    values[8, 32:] = 0
    values[9, ::2] = 0
    values[10] = np.linspace(-1, 1, 256)
    save_file({"w": values}, tmp_path / "in.safetensors")
    for name, steps in (("Q4_K", 15), ("Q6_K", 63)):
        probe("quantize", name.lower(), tmp_path / "in.safetensors", tmp_path / "out.safetensors")
        back = gguf.dequantize(load_file(tmp_path / "out.safetensors")["w"], Type[name]).reshape(values.shape)
        assert np.isfinite(back).all() and not back[1].any()
        part = 32 if name == "Q4_K" else 16
        parts, errors = values.reshape(-1, part), np.abs(back - values).reshape(-1, part).max(1)
        reach = np.maximum(parts.max(1), 0) - np.minimum(parts.min(1), 0)
        if name == "Q6_K":  # codes on both sides of 0
            reach = 2 * np.abs(parts).max(1)
        # Two steps of the part (the fit may cut its ends off, where that lowers the squared error), and
        # the rounding of its scale to a 63rd or 128th of the largest one.
        largest = np.repeat(reach.reshape(12, -1).max(1), 256 // part)
        assert (errors <= 2 * reach / steps + largest / 63).all(), name


def test_rows_that_are_no_blocks_of_256_take_the_types_that_llama_cpp_takes(tmp_path, run_program):
    small = random_llama(vocab_size=300, max_position_embeddings=64)  # width 96, inner size 160
    small.save_pretrained(tmp_path / "model")
    for dtype, other in (("q4_k", "Q5_0"), ("q6_k", "Q8_0")):
        report = export(run_program, tmp_path / "model", tmp_path / f"{dtype}.gguf", "--dtype", dtype)
        types = types_of(tmp_path / f"{dtype}.gguf")
        assert {types[n] for n in types if "norm" not in n} == {other}
        assert f"model.layers.0.self_attn.q_proj.weight as {other}" in report["substituted"]


CODES = {
    "4 bits": (["--bits", "4-16-16", "--group", 32, "--profile", "best"], "q4_0"),
    "4 bits, rows": (["--bits", "4-16-16", "--profile", "best"], "q4_0"),
    "3 bits": (["--bits", "3-16-16", "--group", 64, "--profile", "best"], "q4_0"),
    "5 bits": (["--bits", "5-16-16", "--group", 32, "--profile", "best"], "q5_0"),
    "8 bits": (["--bits", "8-16-16", "--group", 32, "--profile", "best"], "q8_0"),
    "zero points": (["--bits", "4-16-16", "--group", 32, "--profile", "best", "--asymmetric"], "q4_1"),
    "zero points of 5 bits": (["--bits", "5-16-16", "--profile", "best", "--asymmetric"], "q5_1"),
    "mxfp4": (["--bits", "mxfp4-16-16"], "mxfp4"),
}


@pytest.mark.parametrize("case", CODES.keys())
def test_codes_come_back_from_the_type_that_holds_them(case, model, llama, tmp_path, run_program):
    options, dtype = CODES[case]
    quantized = quantize(run_program, model, tmp_path / "q", *options)
    report = export(run_program, quantized, tmp_path / "m.gguf")
    assert report["dtype"] == dtype and report["tables"] == "f16" and not report["rounded_again"]
    assert report["layers_of_codes"] == 7 * llama.config.num_hidden_layers
    run_program(["osp", "export", quantized, "--format", "hf", "--out", tmp_path / "hf"])
    wanted, found = load_file(tmp_path / "hf" / "model.safetensors"), dequantized(tmp_path / "m.gguf")
    for name, values in wanted.items():
        if values.ndim < 2 or ".layers." not in name:
            continue
        heads = heads_of(name, llama.config)
        values = permuted(values, heads) if heads else values
        back = found[gguf_name(name)]
        if "zero" in case:
            # Scales are fp16 numbers, minima are rounded to fp16: at most 31 scales, of 11 bits.
            assert np.abs(back - values).max() <= np.abs(values).max() * 2.0**-10, name
        else:
            assert np.array_equal(back, values), name


def test_codes_that_do_not_fit_are_rounded_once_more_with_a_warning(model, tmp_path, run_program):
    quantized = quantize(run_program, model, tmp_path / "q", "--bits", "4-16-16", "--group", 16)
    refused = export(run_program, quantized, tmp_path / "m.gguf", check=False)
    assert refused.returncode == 3 and "has groups of 16" in refused.stderr and "q8_0" in refused.stderr
    result = export(run_program, quantized, tmp_path / "m.gguf", "--dtype", "q4_0", check=False)
    assert result.returncode == 0 and "rounded once more" in result.stderr
    report = json.loads(result.stdout)
    assert len(report["rounded_again"]) == 14 and report["layers_of_codes"] == 0
    assert report["rounded_again"][0].endswith("has groups of 16")
    # 4-bit codes are whole numbers of Q8_0, too, where its groups hold them.
    fits = quantize(run_program, model, tmp_path / "p", "--bits", "4-16-16", "--group", 32)
    assert export(run_program, fits, tmp_path / "p.gguf", "--dtype", "q8_0")["layers_of_codes"] == 14


@pytest.mark.parametrize("bits, dtype", [("4-4-16", "q4_0"), ("mxfp4-mxfp4-16", "q8_0")])
def test_codes_behind_a_hadamard_transform_are_rounded_once_more_with_a_warning(
    bits, dtype, model, tmp_path, run_program
):
    turned = quantize(run_program, model, tmp_path / "t", "--bits", bits, method="ffn-hadamard+rtn")
    # The smallest type refuses them, a type by its name takes the numbers, which need no transform.
    assert export(run_program, turned, tmp_path / "t.gguf", check=False).returncode == 3
    result = export(run_program, turned, tmp_path / "t.gguf", "--dtype", dtype, check=False)
    assert result.returncode == 0 and "rounded once more" in result.stderr
    report = json.loads(result.stdout)
    downs = [text for text in report["rounded_again"] if "behind a Hadamard transform" in text]
    assert [text.split()[0] for text in downs] == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)]
    assert report["layers_of_codes"] == (12 if bits.startswith("4") else 0)


def test_mxfp4_is_refused_for_codes_behind_a_hadamard_transform(model, tmp_path, run_program):
    options = ["--bits", "mxfp4-mxfp4-16"]
    turned = quantize(run_program, model, tmp_path / "t", *options, method="ffn-hadamard+rtn")
    refused = export(run_program, turned, tmp_path / "t.gguf", "--dtype", "mxfp4", check=False)
    assert refused.returncode == 3 and "down_proj.weight has codes behind a Hadamard" in refused.stderr
    assert "choose another --dtype" in refused.stderr


@pytest.mark.parametrize("tables, dtype", [("int8", "q8_0"), ("int4", "q4_0")])
def test_integer_tables_come_back_exactly(tables, dtype, model, llama, tmp_path, run_program):
    options = ["--bits", "4-16-16", "--group", 32, "--tables", tables]
    quantized = quantize(run_program, model, tmp_path / "q", *options)
    stored = load_file(quantized / "model.safetensors")
    rows, columns = llama.model.embed_tokens.weight.shape
    scale = np.repeat(stored["model.embed_tokens.weight_scale"].astype(np.float32), 32, axis=1)
    packed = stored["model.embed_tokens.weight_packed"]
    if tables == "int8":
        codes = packed.view(np.uint8).astype(np.int32).reshape(rows, -1)[:, :columns] - 128
    else:
        codes = unpacked(packed, columns)
    report = export(run_program, quantized, tmp_path / "m.gguf")
    assert report["tables"] == dtype and types_of(tmp_path / "m.gguf")["token_embd.weight"] == dtype.upper()
    found = dequantized(tmp_path / "m.gguf")["token_embd.weight"]
    assert np.array_equal(found, codes.astype(np.float32) * scale)
    # Integers are those of a type that rounds them once more, too, but then not the same.
    report = export(run_program, quantized, tmp_path / "k.gguf", "--tables", "q6_k")
    assert report["tables"] == "q6_k" and report["rounded_again"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "f16", "q8_0", "q6_k", "q5_1", "q4_1", "q4_k"])
def test_osp_reads_what_it_wrote_as_the_package_does(
    dtype,
    llama,
    model,
    tmp_path,
    run_program,
    logits,  # noqa: F811
):
    """Logits of our reader, and transformers' with the tensors that the package reads."""
    out = tmp_path / "m.gguf"
    export(run_program, model, out, "--dtype", dtype, "--tables", "q8_0")
    found, peer = dequantized(out), copy.deepcopy(llama)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            values, heads = found[gguf_name(name)], heads_of(name, peer.config)
            values = restored(values, heads) if heads else values
            weight.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    tokens = torch.arange(1, 40).view(1, -1)
    assert_logits_equal(logits(out, tokens), peer, tokens)
