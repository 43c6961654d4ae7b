"""Folders that torchao quantized and transformers saved (tests/python/record_torchao.py made one): osp reads
the numbers that torchao itself makes of its codes, and refuses what it does not read by name."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

RECORDED = Path(__file__).parent / "oracles" / "torchao-0.18.0"


def test_weights_are_the_numbers_of_torchao(run_program, tmp_path):
    run_program(["osp", "export", RECORDED, "--format", "hf", "--out", tmp_path / "plain"])
    found = load_file(tmp_path / "plain" / "model.safetensors")
    wanted = json.loads((RECORDED / "numbers.json").read_text())
    assert found.keys() == wanted.keys()
    for name, sha256 in wanted.items():
        assert hashlib.sha256(found[name].tobytes()).hexdigest() == sha256, name
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["osp_rounded_before"] == "torchao, FqnToConfig" and "quantization_config" not in config


def test_layers_of_different_widths_have_no_layout_of_one_width(run_program, tmp_path):
    command = ["osp", "export", RECORDED, "--format", "gptq", "--out", tmp_path / "gptq"]
    result = run_program(command, check=False)
    assert result.returncode == 3
    assert "has 4 bits in groups of 16, layers before it 8 bits in groups of 0" in result.stderr


Q = "model.layers.1.self_attn.q_proj."


def entry(tensors, metadata, **changes):
    described = json.loads(metadata[Q + "weight"])
    described["_data"] |= changes.pop("data", {})
    metadata[Q + "weight"] = json.dumps(described | changes)


def beyond(tensors, metadata):
    tensors[Q + "_weight_qdata"][2, 3] = 8


def without(name):
    return lambda tensors, metadata: tensors.pop(Q + name)


DAMAGE = {
    "four bits in the order of a kernel": (
        lambda t, m: entry(t, m, _type="Int4Tensor"),
        '_type is "Int4Tensor"; osp reads Int8Tensor, IntxUnpackedToInt8Tensor and Float8Tensor',
    ),
    "a scaled input": (
        lambda t, m: entry(t, m, _tensor_data_names=["qdata", "scale", "zero_point", "act_pre_scale"]),
        "the layer's input is scaled (act_pre_scale)",
    ),
    "blocks of text": (
        lambda t, m: entry(t, m, data={"block_size": "1"}),
        'block_size is "1", expected two sizes',
    ),
    "groups that do not divide": (
        lambda t, m: entry(t, m, data={"block_size": [1, 24]}),
        "groups of 24 do not divide the 32 inputs",
    ),
    "groups that the scales do not have": (
        lambda t, m: entry(t, m, data={"block_size": [1, 8]}),
        "_weight_scale is F32 [32, 2], expected F32 [32, 4]",
    ),
    "a type without bits": (
        lambda t, m: entry(t, m, data={"target_dtype": {"_type": "torch.dtype", "_data": "int64"}}),
        "osp reads int1 to int8",
    ),
    "a code of more bits": (beyond, "_weight_qdata holds 8, beyond 4 bits"),
    "no codes": (without("_weight_qdata"), "q_proj.weight is missing"),
    "no scales": (without("_weight_scale"), Q + "_weight_scale is missing"),
    "no zero points": (without("_weight_zero_point"), Q + "_weight_zero_point is missing"),
    "no text": (lambda t, m: m.update({Q + "weight": "[1]"}), "no text _type"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_not_read_is_refused_by_name(case, run_program, tmp_path):
    change, reason = DAMAGE[case]
    tensors = load_torch(RECORDED / "model.safetensors")
    with safe_open(RECORDED / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata)
    (tmp_path / "model" / "config.json").write_text((RECORDED / "config.json").read_text())
    command = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
    result = run_program(command, check=False)
    assert result.returncode == 3 and reason in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()
