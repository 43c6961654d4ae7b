"""MXFP4, NVFP4 and FP8 against the quantizer of compressed-tensors, bit for bit, and GPTQ on their grids."""

import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("compressed_tensors")
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize, quantize
from compressed_tensors.quantization.quant_scheme import MXFP4, NVFP4
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from compressed_tensors.quantization.utils.mxfp_utils import generate_mx_scales

KINDS = ["mxfp4", "nvfp4", "fp8"]
ARGS = {
    "mxfp4": MXFP4["weights"],
    "nvfp4": NVFP4["weights"],
    "fp8": QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True),
}


@pytest.fixture(scope="module")
def probe(osp_build, tmp_path_factory):
    def run(tensors, *arguments, isa=None):
        folder = tmp_path_factory.mktemp("float")
        save_file({name: x.clone().contiguous() for name, x in tensors.items()}, folder / "in.safetensors")
        command = [
            osp_build / "quant_probe",
            *arguments,
            folder / "in.safetensors",
            folder / "out.safetensors",
        ]
        env = dict(os.environ, OSP_ISA=isa) if isa else None
        result = subprocess.run(command, capture_output=True, text=True, env=env)
        assert result.returncode == 0, result.stderr
        return load_file(folder / "out.safetensors")

    return run


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples():
    """Ordinary numbers, outliers, every tie between two numbers of E2M1, powers of two over all of fp32 and
    around the mantissa at which E8M0 rounds up, numbers below the normal ones, zeros and negative zeros."""
    outliers = random(24, 128, seed=1)
    outliers[:, 7] *= 60
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    ties = torch.cat([ties, ties.nextafter(torch.tensor(9.0)), ties.nextafter(torch.tensor(0.0)), -ties])
    ties = ties.repeat(4).repeat(9, 1) * 2.0 ** torch.arange(-4, 5)[:, None]
    exponents = torch.arange(-149, 127)[:, None]
    spread = random(276, 128, seed=2).clamp(-1, 1) * torch.ldexp(torch.ones(276, 1), exponents)
    edges = torch.ones(6, 128)
    edges[:, 0] = torch.tensor([1.75, 1.7499999, 1.7500001, 1.9999999, 1.5, 1.0])
    some = random(8, 128, seed=3)
    some[2:5] = 0
    some[5, :64] = -0.0
    halves = torch.arange(-64, 64).float().div(16).repeat(3, 1)
    return {
        "gaussian": random(40, 128),
        "outliers": outliers,
        "ties": ties,
        "spread": spread,
        "edges": edges,
        "some": some,
        "halves": halves,
        "zeros": torch.zeros(2, 128),
        "tiny": random(3, 128) * 1e-40,
        "below": torch.full((2, 128), 1e-45),
        "small": random(3, 128) * 1e-36,
        "huge": random(4, 128).clamp(-3, 3) * 1e38,
        "shifted": random(5, 128) + 100,
    }


def qparams(x, kind):
    """Scales and the global scale of compressed-tensors for a weight or, with one row, for a token."""
    block = {"mxfp4": 32, "nvfp4": 16, "fp8": x.shape[-1]}[kind]
    blocks = x.unflatten(-1, (-1, block))
    low, high = blocks.amin(-1), blocks.amax(-1)
    overall = generate_gparam(x.min(), x.max()) if kind == "nvfp4" else None
    return calculate_qparams(low, high, ARGS[kind], global_scale=overall)[0], overall


def same(found, wanted):
    """Equal numbers, NaN where the other one is."""
    return torch.equal(found.isnan(), wanted.isnan()) and torch.equal(
        found.nan_to_num(7), wanted.nan_to_num(7)
    )


@pytest.mark.parametrize("isa", ["portable", None])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_compressed_tensors_bit_for_bit(probe, kind, isa):
    requests = {f"float.{kind}.matrix.{name}": x for name, x in samples().items()}
    out = probe(requests, isa=isa)
    for request, x in requests.items():
        scale, overall = qparams(x, kind)
        assert torch.equal(out[request + "/scale"], scale), request
        if kind == "nvfp4":
            assert torch.equal(out[request + "/global"], overall), request
        wanted = fake_quantize(x, scale, None, ARGS[kind], global_scale=overall)
        assert same(out[request + "/values"], wanted), request
        codes = quantize(x, scale, None, ARGS[kind], global_scale=overall)
        if kind == "fp8":
            packed = codes.to(torch.float8_e4m3fn).view(torch.uint8)
            assert torch.equal(out[request + "/codes"].to(torch.uint8), packed), request
            continue
        pairs = out[request + "/codes"].to(torch.uint8).unflatten(-1, (-1, 2))
        finite = ~wanted.isnan().any()
        if finite:
            assert torch.equal(pairs[..., 0] | pairs[..., 1] << 4, pack_fp4_to_uint8(codes)), request


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_compressed_tensors_bit_for_bit(probe, kind):
    """NVFP4: every token with the global scale that compressed-tensors would give it alone."""
    requests = {f"float.{kind}.rows.{name}": x for name, x in samples().items()}
    out = probe(requests)
    for request, x in requests.items():
        for i, row in enumerate(x):
            scale, overall = qparams(row[None], kind)
            wanted = fake_quantize(row[None], scale, None, ARGS[kind], global_scale=overall)
            assert same(out[request + "/values"][i], wanted[0]), (request, i)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_not_finite_stay_so(probe, kind):
    x = random(6, 64)
    x[0, 3], x[1, 40], x[2, 5] = float("nan"), float("inf"), float("-inf")
    values = probe({f"float.{kind}.rows.x": x})[f"float.{kind}.rows.x/values"]
    for row, column in ((0, 3), (1, 40), (2, 5)):
        assert not values[row, column].isfinite()
    assert values[3:].isfinite().all()  # other tokens are not concerned


def test_every_exponent_of_a_block_gives_the_scale_of_compressed_tensors(probe):
    """All 255 exponents with mantissas on both sides of 1.75."""
    mantissas = torch.tensor([0, 1, 0x5FFFFF, 0x600000, 0x600001, 0x7FFFFF])
    bits = (torch.arange(255)[:, None] << 23) + mantissas
    largest = bits.to(torch.int32).view(torch.float32).flatten()
    x = torch.zeros(len(largest), 32)
    x[:, 11] = -largest
    scale = probe({"float.mxfp4.matrix.x": x})["float.mxfp4.matrix.x/scale"].flatten()
    exponent = generate_mx_scales(largest).clamp(0, 255)
    assert torch.equal(scale, torch.ldexp(torch.ones_like(scale), exponent.int() - 127))


def test_all_numbers_between_two_of_e4m3_round_as_in_torch(probe):
    """Every fp32 number with 12 leading bits of mantissa from 2^-17 to 448."""
    bits = torch.arange(110 << 12, (135 << 12) + 0xC01) << 11
    x = bits.to(torch.int32).view(torch.float32)
    x = torch.cat([x, -x])
    x = torch.cat([x, torch.full((-len(x) % 64,), 448.0)]).reshape(-1, 64)
    x[:, 0] = 448  # so that the scale of every row is 1
    values = probe({"float.fp8.rows.x": x})["float.fp8.rows.x/values"]
    assert torch.equal(values, x.to(torch.float8_e4m3fn).float())


def gptq(weight, hessian, kind, ordered):
    """GPTQ with the scales of the weights as they are, in fp64; the numbers c."""
    scale, overall = qparams(weight, kind)
    effective = scale if overall is None else scale / overall
    block = weight.shape[1] // effective.shape[1]
    effective = effective.repeat_interleave(block, 1)
    w, h = weight.double().clone(), hessian.double().clone()
    order = torch.argsort(h.diagonal(), descending=True, stable=True) if ordered else torch.arange(len(h))
    w, h, effective = w[:, order], h[order][:, order], effective[:, order]
    h.diagonal().add_(0.01 * h.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    values = torch.zeros_like(weight)
    one = QuantizationArgs(num_bits=ARGS[kind].num_bits, type="float", strategy="channel", symmetric=True)
    for i in range(len(h)):
        column = w[:, i].float()[:, None]
        value = fake_quantize(column, effective[:, i : i + 1], None, one)[:, 0]
        if kind == "nvfp4":
            value = value.bfloat16().float()  # as the folder's weights will be
        error = (w[:, i] - value.double()) / upper[i, i]
        w[:, i:] -= error[:, None] * upper[i, i:]
        values[:, order[i]] = value
    return values


@pytest.mark.parametrize("order", ["plain", "ordered"])
@pytest.mark.parametrize("kind", KINDS)
def test_gptq_rounds_onto_scales_that_were_fixed_before(probe, kind, order):
    weight, x = random(32, 128, seed=5), random(400, 128, seed=6) @ random(128, 128, seed=7)
    hessian = x.T @ x / 400
    rtn, name = f"rtn.{kind}.0.symmetric.fp32.plain.a", f"gptq.{kind}.0.symmetric.fp32.{order}.b"
    out = probe({f"{rtn}/weight": weight, f"{name}/weight": weight, f"{name}/hessian": hessian}, "--weights")
    assert torch.equal(out[name + "/scale"], out[rtn + "/scale"])
    assert torch.equal(out[rtn + "/scale"], qparams(weight, kind)[0])
    found, wanted = out[name + "/values"], gptq(weight, hessian, kind, order == "ordered")
    # A weight within fp32's rounding of the edge between two numbers may fall to either side, and moves
    # what follows in its row.
    assert (found != wanted).float().mean() < 0.01
    assert (found != gptq(weight, hessian, kind, order == "plain")).float().mean() > 0.05

    def damage(values):
        return ((weight - values) @ hessian * (weight - values)).sum()

    assert damage(found) < 0.9 * damage(out[rtn + "/values"])
