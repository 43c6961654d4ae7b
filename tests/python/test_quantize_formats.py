"""Quantized models in the formats of other programs: the GPTQ layout unpacked here by hand, and the folders
of every family that keeps its own tensor names, loaded by transformers (compressed-tensors)."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from reference_llama import Shape, random_weights, write_model_dir


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Unsigned numbers of `bits` bits, packed into the 32-bit words of a row, lowest bits first."""
    bit = (words.long().unsqueeze(-1) >> torch.arange(32)) & 1
    stream = bit.flatten(1)[:, : count * bits].reshape(len(words), count, bits)
    return (stream << torch.arange(bits)).sum(-1)


def from_compressed_tensors(folder: Path) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    bits, tensors, result = weights["num_bits"], load_file(folder / "model.safetensors"), {}
    for name in [n.removesuffix("_packed") for n in tensors if n.endswith("_packed")]:
        rows, columns = tensors[name + "_shape"].tolist()
        scale = tensors[name + "_scale"].float()
        codes = unpack(tensors[name + "_packed"], bits, columns).reshape(rows, scale.shape[1], -1)
        zeros = torch.full_like(scale, 2 ** (bits - 1))
        if name + "_zero_point" in tensors:
            zeros = zeros + tensors[name + "_zero_point"]  # int8, not packed
        result[name] = ((codes - zeros.unsqueeze(-1)) * scale.unsqueeze(-1)).reshape(rows, columns)
    return result


def from_gptq(folder: Path) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "quantize_config.json").read_text())
    assert config["checkpoint_format"] == "gptq" and config["quant_method"] == "gptq"
    bits, tensors, result = config["bits"], load_file(folder / "model.safetensors"), {}
    for name in [n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight")]:
        groups, columns = tensors[name + ".g_idx"].long(), len(tensors[name + ".g_idx"])
        scales = tensors[name + ".scales"].float()
        codes = unpack(tensors[name + ".qweight"].T, bits, columns)
        zeros = unpack(tensors[name + ".qzeros"], bits, scales.shape[1]) + 1  # version 1 stores one less
        if config["sym"]:
            assert (zeros == 2 ** (bits - 1)).all(), name
        result[name + ".weight"] = ((codes.T - zeros[groups]) * scales[groups]).T
    return result


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    shape = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=128, layers=2, context=32)
    write_model_dir(folder, shape, random_weights(shape))
    return folder


@pytest.fixture
def quantize(run_program):
    def run(model, out, *arguments, method="rtn"):
        run_program(["osp", "quantize", model, "--method", method, "--out", out, "--quiet", *arguments])
        return out

    return run


def export(run_program, model, out, *arguments, **keywords):
    return run_program(
        ["osp", "export", model, "--format", "gptq", "--out", out, "--json", *arguments], **keywords
    )


@pytest.mark.parametrize(
    "arguments", [[], ["--group", "32"], ["--group", "32", "--asymmetric"]], ids=" ".join
)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_folder_holds_our_weights(bits, arguments, model_dir, tmp_path, quantize, run_program):
    source = quantize(model_dir, tmp_path / "q", "--bits", f"{bits}-16-16", "--profile", "best", *arguments)
    report = json.loads(export(run_program, source, tmp_path / "gptq", "--dtype", "fp32").stdout)
    assert report["layers"] == 14 and report["scale_rounding"] == 0
    found, wanted = from_gptq(tmp_path / "gptq"), from_compressed_tensors(source)
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name
    original, tensors = (
        load_file(model_dir / "model.safetensors"),
        load_file(tmp_path / "gptq" / "model.safetensors"),
    )
    tables = {"model.embed_tokens.weight", "lm_head.weight"}  # in 16 bits
    for name in original.keys() - wanted.keys():
        kept = original[name].bfloat16().float() if name in tables else original[name]
        assert torch.equal(tensors[name], kept), name
    assert AutoConfig.from_pretrained(tmp_path / "gptq").quantization_config["group_size"] == (
        32 if arguments else -1
    )


def test_scales_of_the_papers_profile_are_rounded_and_the_report_says_by_how_much(
    model_dir, tmp_path, quantize, run_program
):
    source = quantize(model_dir, tmp_path / "q", "--bits", "4-16-16")
    rounding = json.loads(export(run_program, source, tmp_path / "gptq").stdout)["scale_rounding"]
    found = from_gptq(tmp_path / "gptq")
    largest = max(
        ((found[name] - weight).abs() / weight.abs().clamp_min(1e-9)).max().item()
        for name, weight in from_compressed_tensors(source).items()
    )
    assert 1e-5 < rounding < 2**-11 * 1.001
    assert abs(largest - rounding) < 1e-6


@pytest.mark.parametrize(
    "method, bits, part",
    [
        ("ffn-hadamard+rtn", 4, "Hadamard transform before each down projection"),
        ("rtn", 5, "2, 3, 4 or 8 bits"),
    ],
)
def test_what_the_gptq_layout_cannot_carry_is_refused(
    method, bits, part, model_dir, tmp_path, quantize, run_program
):
    source = quantize(model_dir, tmp_path / "q", "--bits", f"{bits}-16-16", method=method)
    result = export(run_program, source, tmp_path / "gptq", check=False)
    assert result.returncode == 3 and part in result.stderr
    assert not (tmp_path / "gptq").exists() and not (tmp_path / "gptq.tmp").exists()


def test_a_model_that_is_not_quantized_has_no_codes_to_export(model_dir, tmp_path, run_program):
    result = export(run_program, model_dir, tmp_path / "gptq", check=False)
    assert result.returncode == 2 and "osp quantize" in result.stderr


FAMILIES = {
    "gpt_neox": dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, intermediate_size=128,
                     vocab_size=96, max_position_embeddings=32),
    "opt": dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, ffn_dim=128, vocab_size=96,
                max_position_embeddings=32, word_embed_proj_dim=64, pad_token_id=1),
    "stablelm": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
                     intermediate_size=128, vocab_size=96, max_position_embeddings=32),
    "smollm3": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
                    intermediate_size=128, vocab_size=96, max_position_embeddings=32, pad_token_id=1,
                    no_rope_layers=[1, 0]),
    "olmo2": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
                  intermediate_size=128, vocab_size=96, max_position_embeddings=32, pad_token_id=1),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_quantized_folder_of_every_family(family, tmp_path, quantize, run_program):
    pytest.importorskip("compressed_tensors")
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family], bos_token_id=None, eos_token_id=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    folder = quantize(tmp_path / "model", tmp_path / "q", "--bits", "4-4-16", "--profile", "best")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.arange(2, 22).reshape(1, 20)).logits  # the first pass unpacks the weights
    assert torch.isfinite(logits).all()
    loaded, wanted = dict(model.named_modules()), from_compressed_tensors(folder)
    linear = [n for n, m in loaded.items() if isinstance(m, torch.nn.Linear) and ".layers." in n]
    assert {n + ".weight" for n in linear} == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(loaded[name.removesuffix(".weight")].weight.float(), weight), name


@pytest.mark.parametrize("family", ["gpt_neox", "opt"])
def test_families_with_names_of_their_own_are_exported_with_them(family, tmp_path, quantize, run_program):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family], bos_token_id=None, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "model")
    folder = quantize(tmp_path / "model", tmp_path / "q", "--bits", "4-16-16", "--profile", "best")
    export(run_program, folder, tmp_path / "gptq", "--dtype", "fp32")
    found, wanted = from_gptq(tmp_path / "gptq"), from_compressed_tensors(folder)
    assert found.keys() == wanted.keys()
    modules = dict(model.named_modules())
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name
        module = modules[name.removesuffix(".weight")]
        error = (weight - module.weight.detach()).norm() / module.weight.detach().norm()
        assert error < 0.15, (name, error)  # 4 bits of a Gaussian: about 0.1
