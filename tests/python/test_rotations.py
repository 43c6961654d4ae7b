"""Rotations and Hadamard matrices against independent programs: Paley's matrices in plain Python,
transformers, and the demo's models where they have been trained."""

import json
import os
import subprocess

import pytest
import torch
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM


@pytest.fixture(scope="module")
def hadamard(osp_build, tmp_path_factory):
    """hadamard(size) -> x · H / sqrt(n) for x the identity."""

    def run(size):
        folder = tmp_path_factory.mktemp("hadamard")
        save_file({"hadamard": torch.eye(size)}, folder / "in.safetensors")
        command = [osp_build / "quant_probe", folder / "in.safetensors", folder / "out.safetensors"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return load_file(folder / "out.safetensors")["hadamard/values"]

    return run


def paley_one(n):
    """I + [[0, 1], [-1, Q]] for a prime n - 1 = 3 (mod 4), with Legendre symbols by Euler's criterion."""
    q = n - 1

    def legendre(a):
        return 0 if a % q == 0 else (1 if pow(a, (q - 1) // 2, q) == 1 else -1)

    matrix = torch.ones(n, n)
    matrix[1:, 0] = -1
    for i in range(q):
        for j in range(q):
            matrix[i + 1, j + 1] = 1 if i == j else legendre(i - j)
    return matrix


@pytest.mark.parametrize("size", [12, 20, 44, 60, 108, 140])
def test_paleys_matrices_equal_those_of_eulers_criterion(hadamard, size):
    # One product of ones, then one division: exact up to the rounding of 1 / sqrt(n).
    assert (hadamard(size) - paley_one(size) / size**0.5).abs().max() < 1e-7


@pytest.mark.parametrize("size", [28, 36, 40, 52, 156, 172, 312, 344, 768, 1536, 5632])
def test_matrices_are_orthogonal_with_entries_of_one_size(hadamard, size):
    matrix = hadamard(size)
    assert (matrix.abs() - size**-0.5).abs().max() < 1e-7
    signs = matrix.sign()
    # Sums of at most 5632 ones are exact in fp32.
    assert torch.equal(signs @ signs.T, size * torch.eye(size))


@pytest.mark.parametrize("shape", [Shape(), Shape(tied=True, heads=4, kv_heads=1, width=40, head_size=20)])
def test_transformers_gives_the_same_logits_for_the_rotated_model(run_program, tmp_path, shape):
    weights = random_weights(shape)
    write_model_dir(tmp_path / "model", shape, weights)
    run_program(["rotation_probe", "fold", tmp_path / "model", tmp_path / "rotated", "3"])
    tokens = torch.randint(0, shape.vocabulary, (2, 24), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        before, after = (
            LlamaForCausalLM.from_pretrained(tmp_path / name, attn_implementation="eager")(tokens).logits
            for name in ("model", "rotated")
        )
    rotated = load_file(tmp_path / "rotated" / "model.safetensors")
    assert (rotated["model.embed_tokens.weight"] - weights["model.embed_tokens.weight"]).abs().max() > 0.1
    assert (rotated["model.norm.weight"] == 1).all()
    # Two fp32 computations with weights that were rounded once: as in test_model_parity.py.
    assert (after - before).abs().max() < 2e-5 * before.abs().max()


@pytest.fixture(scope="module")
def demo_runs(repo_root):
    """The folder of the demo's runs: $OSP_DEMO_RUNS, else runs/demo."""
    return os.environ.get("OSP_DEMO_RUNS", repo_root / "runs" / "demo")


def perplexities(run_program, runs, model, bits, methods):
    folder = os.path.join(runs, model, "model")
    if not os.path.exists(os.path.join(folder, "config.json")):
        pytest.skip(
            f"no trained model at {folder}: run scripts/demo.sh,"
            " or set OSP_DEMO_RUNS to the folder of its runs"
        )
    tokens = os.path.join(runs, "tokens")
    result = run_program(["rotation_probe", "perplexity", folder, tokens, bits, "8192", "0", *methods])
    return {line["method"]: line["perplexity"] for line in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("model", ["adam-1", "osp-1"])
def test_trained_models_keep_their_perplexity_without_quantization(run_program, demo_runs, model):
    found = perplexities(
        run_program, demo_runs, model, "16-16-16", ["none", "ffn-hadamard", "quarot", "smoothquant"]
    )
    for method, value in found.items():
        # fp32 weights rounded once more: the loss moves by less than 1e-5.
        assert abs(value / found["none"] - 1) < 1e-4, method
