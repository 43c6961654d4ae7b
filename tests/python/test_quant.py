"""Codes bit for bit and quantized logits against an independent PyTorch program (quant_reference.py)."""

import subprocess

import pytest
import torch
from quant_reference import asymmetric, hadamard, hadamard_matrix, quantized_logits, symmetric
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def probe(osp_build, tmp_path_factory):
    def run(tensors, *arguments):
        folder = tmp_path_factory.mktemp("quant")
        save_file({name: x.clone() for name, x in tensors.items()}, folder / "input.safetensors")
        command = [
            osp_build / "quant_probe",
            *arguments,
            folder / "input.safetensors",
            folder / "output.safetensors",
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return load_file(folder / "output.safetensors")

    return run


def random(*shape, seed=0, scale=1.0, shift=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


def samples():
    """Random rows, rows with outliers, ties at halves, and rows of a real-looking weight."""
    outliers = random(24, 128, seed=1)
    outliers[:, 7] *= 60
    halves = torch.arange(-64, 64).float().div(2).repeat(3, 1)
    weight = random_weights(Shape())["model.layers.0.mlp.gate_proj.weight"].repeat(1, 3)[:, :128].contiguous()
    return {
        "gaussian": random(40, 128),
        "outliers": outliers,
        "halves": halves,
        "weight": weight,
        "shifted": random(8, 128, seed=2, shift=5.0),
        "zeros": torch.zeros(2, 128),
        "tiny": random(3, 128) * 1e-7,
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_weight_codes_and_scales_are_equal_bit_for_bit(probe, bits):
    requests = {
        f"symmetric.{bits}.{mode}.{name}": x for name, x in samples().items() for mode in ("search", "plain")
    }
    out = probe(requests)
    for request, x in requests.items():
        codes, scale = symmetric(x, bits, ".search." in request)
        assert torch.equal(out[request + "/codes"], codes), request
        assert torch.equal(out[request + "/scale"], scale), request
        assert torch.equal(out[request + "/values"], codes * scale), request


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group", [16, 128])
def test_activation_codes_are_equal_bit_for_bit(probe, bits, group):
    requests = {
        f"asymmetric.{bits}.{group}.{mode}.{name}": x
        for name, x in samples().items()
        for mode in ("zero", "free")
    }
    out = probe(requests)
    for request, x in requests.items():
        codes, scale, zero = asymmetric(x, bits, group, ".zero." in request)
        assert torch.equal(out[request + "/codes"], codes), request
        assert torch.equal(out[request + "/scale"], scale), request
        assert torch.equal(out[request + "/zero"], zero), request
        assert torch.equal(out[request + "/values"], scale * (codes - zero)), request


@pytest.mark.parametrize("size", [1, 2, 16, 64, 128])
def test_hadamard_equals_sylvesters_matrix(probe, size):
    x = random(12, size, seed=size)
    out = probe({"hadamard": x})["hadamard/values"]
    assert torch.equal(out, hadamard(x))  # the same sums in the same order
    exact = x.double() @ hadamard_matrix(size).double() / size**0.5
    assert (out - exact).abs().max() < 3e-6  # at most 8 roundings of numbers below 40


@pytest.mark.parametrize("bits", ["4-16-16", "16-4-16", "16-16-4", "4-4-4", "8-8-8"])
def test_quantized_logits_follow_the_reference_forward_pass(probe, tmp_path, bits):
    shape = Shape(heads=4, kv_heads=2, layers=2)
    weights = random_weights(shape)
    write_model_dir(tmp_path / "model", shape, weights)
    tokens = torch.randint(0, shape.vocabulary, (2, 24), generator=torch.Generator().manual_seed(4))
    logits = probe({"tokens": tokens}, "--model", tmp_path / "model", bits)["logits"]
    wanted = quantized_logits(weights, shape, tokens, *map(int, bits.split("-")))
    plain = quantized_logits(weights, shape, tokens)
    # Two fp32 programs differ by rounding, and a number that lies at the edge of two codes may then get
    # the other one: few do, but each moves later ones. The quantization itself must be told apart.
    error, damage = (logits - wanted).norm(), (plain - wanted).norm()
    assert error < 0.2 * damage, (error / damage).item()
    position = (logits - wanted).norm(dim=-1) / (plain - wanted).norm(dim=-1)
    assert position.median() < 0.02, position  # most positions see no flipped code at all


def test_sixteen_bits_change_nothing(probe, tmp_path):
    shape = Shape()
    weights = random_weights(shape)
    write_model_dir(tmp_path / "model", shape, weights)
    tokens = torch.arange(20).reshape(2, 10)
    logits = probe({"tokens": tokens}, "--model", tmp_path / "model", "16-16-16")["logits"]
    wanted = quantized_logits(weights, shape, tokens)
    assert (logits - wanted).abs().max() < 2e-5 * wanted.abs().max()  # as in test_model_parity.py
