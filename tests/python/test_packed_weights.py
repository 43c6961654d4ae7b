"""Folders that other programs quantized (GPTQ, AWQ, compressed-tensors): the numbers that their codes stand
for, in every command that takes a plain model."""

import json

import numpy as np
import pytest
import torch
from packed_cases import FORMATS, SIZES, TOKENS, assert_refused, gptq_config, scheme, write_folder
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM


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
    "floats of integers": (
        "compressed-tensors",
        {"format": "float-quantized"},
        {},
        'format is "float-quantized" and weights.type "int"; the two contradict each other',
    ),
    "an unknown format": (
        "compressed-tensors",
        {"format": "marlin-24"},
        {},
        'format is "marlin-24"; osp reads',
    ),
    "online transforms": (
        "compressed-tensors",
        {"transform_config": {"config_groups": {"u": {}}}},
        {},
        "transform_config is given",
    ),
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
    assert_refused(run_program, tmp_path, reason)


def test_a_configuration_that_says_codes_where_all_weights_are_plain_is_refused(run_program, tmp_path):
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    for config, what in (
        (gptq_config(), "GPTQ, 4 bits, groups of 32"),
        (scheme(), "compressed-tensors, 4 bits"),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
        command = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
        result = run_program(command, check=False)
        assert result.returncode == 3, result.stderr
        assert f"no tensor holds codes, but quantization_config of config.json says {what}" in result.stderr


def test_scales_that_make_no_number_are_refused(run_program, tmp_path):
    change = {Q + "weight_scale": lambda s: s * np.float32(3e38) / s.max()}
    write_folder(tmp_path / "model", "compressed-tensors", {}, change)
    command = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
    result = run_program(command, check=False)
    assert result.returncode == 3 and "its scales make" in result.stderr, result.stderr
