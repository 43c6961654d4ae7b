"""Optimizers over 50 steps on random banks, against PyTorch and the paper's order of operations."""

import json
import os

import pytest
import torch
from oracles.kfac import Kfac
from oracles.muon_paper import PaperMuon, newton_schulz
from oracles.shampoo import Shampoo
from oracles.soap import Soap, eigenbasis
from safetensors.torch import load_file, save_file
from transformers.optimization import Adafactor

STEPS = 50
LR, DECAY, MOMENTUM = 0.01, 0.1, 0.95


def run_probe(run_program, folder, kind, shape, seed, optim=None, decay=DECAY, steps=STEPS, isa=""):
    """(initial weight, gradients, weights after every step, state) of one bank."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(steps)]
    tensors = {f"gradient.{i + 1}": g for i, g in enumerate(gradients)}
    ours, out = run_probe_on(run_program, folder, kind, weight, tensors, steps, optim, decay, isa)
    return weight, gradients, ours, out


def run_probe_on(run_program, folder, kind, weight, tensors, steps, optim=None, decay=DECAY, isa=""):
    """(weights after every step, state) of one bank with these tensors of every step, under OSP_ISA = isa. A
    CPU without these instructions skips the test."""
    save_file({"weight": weight} | tensors, folder / "in.safetensors")
    options = {
        "kind": kind,
        "lr": LR,
        "weight_decay": decay,
        "momentum": MOMENTUM,
        "steps": steps,
        "optim": optim or {},
    }
    (folder / "options.json").write_text(json.dumps(options))
    environment = {name: value for name, value in os.environ.items() if name != "OSP_ISA"}
    result = run_program(
        ["optim_probe", folder / "in.safetensors", folder / "out.safetensors", folder / "options.json"],
        env=environment | ({"OSP_ISA": isa} if isa else {}),
        check=not isa,
    )
    if isa and "this CPU supports" in result.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert result.returncode == 0, result.stderr
    out = load_file(folder / "out.safetensors")
    return [out[f"weight.{i + 1}"] for i in range(steps)], out


def error(ours, theirs, start):
    """Distance of two results relative to the way from the start."""
    return (torch.linalg.norm(ours - theirs) / torch.linalg.norm(theirs - start)).item()


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_equals_torch_over_50_steps(run_program, tmp_path, fused):
    weight, gradients, ours, out = run_probe(
        run_program, tmp_path, "adam", (3, 17, 29), 1, {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    )
    theirs = torch.nn.Parameter(weight.clone())
    adam = torch.optim.AdamW([theirs], lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY, fused=fused)
    for step in range(STEPS):
        theirs.grad = gradients[step]
        adam.step()
        # The same kernel: the same bits. PyTorch's plain loop: one fp32 rounding (6e-8 at weights
        # near 1, 2.4e-7 at 4) a step on either side.
        limit = 0 if fused else 5e-7 * (step + 1)
        assert (ours[step] - theirs.detach()).abs().max().item() <= limit, step
    assert out["state.adam.step"].item() == STEPS


@pytest.mark.parametrize("shape", [(2, 48, 128), (2, 128, 48), (3, 64, 64)])
def test_muon_is_nearer_to_fp64_than_the_papers_operations(run_program, tmp_path, shape):
    weight, gradients, ours, out = run_probe(run_program, tmp_path, "muon", shape, 2)
    for i in range(shape[0]):
        paper = PaperMuon(weight[i], LR, MOMENTUM, DECAY)
        exact = PaperMuon(weight[i].double(), LR, MOMENTUM, DECAY, dtype=torch.float64)
        for step in range(STEPS):
            paper.step(gradients[step][i])
            exact.step(gradients[step][i].double())
            # Against the same algorithm in fp64: the paper's bf16 operations err by 2-3 % of the first update
            # (15 roundings of 2^-9, amplified), and less of the way of many steps, whose errors are
            # independent. osp rounds half as often and is half as far away (0.43 to 0.52 of the paper's is
            # seen).
            start = weight[i].double()
            allowed = 0.75 * error(paper.weight.double(), exact.weight, start)
            assert error(ours[step][i].double(), exact.weight, start) < allowed, step
        buffer = out["state.muon.bank.momentum"][i]
        # fp32, a multiplication and an addition a step (which our compiler may fuse).
        assert torch.allclose(buffer, paper.buffer, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("isa", ["reference", "portable", "avx2", "avx512", "amx"])
@pytest.mark.parametrize("shape", [(2, 48, 128), (1, 96, 40)])
def test_muon_is_near_fp64_under_every_instruction_set(run_program, tmp_path, shape, isa):
    """The same bound as above: every path rounds at most as often as the paper's operations."""
    weight, gradients, ours, _ = run_probe(run_program, tmp_path, "muon", shape, 2, steps=10, isa=isa)
    for i in range(shape[0]):
        paper = PaperMuon(weight[i], LR, MOMENTUM, DECAY)
        exact = PaperMuon(weight[i].double(), LR, MOMENTUM, DECAY, dtype=torch.float64)
        for step in range(10):
            paper.step(gradients[step][i])
            exact.step(gradients[step][i].double())
            start = weight[i].double()
            allowed = error(paper.weight.double(), exact.weight, start)
            assert error(ours[step][i].double(), exact.weight, start) < allowed, step


@pytest.mark.parametrize("shape", [(2, 48, 128), (2, 17, 29)])
def test_momentum_in_eight_bits_has_the_codes_of_its_formula(run_program, tmp_path, shape):
    folders = [tmp_path / "8", tmp_path / "32"]  # load_file maps the files
    for folder in folders:
        folder.mkdir()
    start, gradients, ours, out = run_probe(run_program, folders[0], "muon", shape, 5, {"momentum_bits": 8})
    _, _, fp32, _ = run_probe(run_program, folders[1], "muon", shape, 5)
    codes, scales = out["state.muon.bank.momentum_codes"], out["state.muon.bank.momentum_scales"]
    assert codes.dtype == torch.int8 and codes.shape == shape
    for i in range(shape[0]):
        kept = torch.zeros(shape[1:]).flatten()
        for gradient in gradients:
            blocks = (gradient[i].flatten() + MOMENTUM * kept).split(256)
            steps = [block.abs().max() / 127 for block in blocks]
            rounded = [torch.round(block / step) for block, step in zip(blocks, steps, strict=True)]
            kept = torch.cat([r * step for r, step in zip(rounded, steps, strict=True)])
        # Each operation is one of IEEE's: the same bits.
        assert torch.equal(codes[i].flatten(), torch.cat(rounded).to(torch.int8))
        assert torch.equal(scales[i], torch.stack(steps))
    # Rounding errors are 0.7 % of the momentum a step, of which about 1 / sqrt(1 - 0.95^2) = 3.2 times as
    # much is seen; the updates of 50 steps err independently of each other, not in one direction.
    distance = error(ours[-1], fp32[-1], start)
    assert 1e-5 < distance < 0.03


def test_muon_is_as_near_to_fp64_as_torch_muon(run_program, tmp_path):
    weight, gradients, ours, _ = run_probe(run_program, tmp_path, "muon", (2, 48, 128), 3)
    for i in range(2):
        theirs = torch.nn.Parameter(weight[i].clone())
        muon = torch.optim.Muon(
            [theirs], lr=LR, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
        exact = PaperMuon(weight[i].double(), LR, MOMENTUM, DECAY, dtype=torch.float64)
        for step in range(STEPS):
            theirs.grad = gradients[step][i].clone()
            muon.step()
            exact.step(gradients[step][i].double())
            # The same number of bf16 roundings at other places (PyTorch rounds before it normalises, too):
            # osp is as near to the same algorithm in fp64 (both 1.4 % of the first update or less away);
            # 0.97 to 1.09 times is seen.
            start = weight[i].double()
            allowed = 1.25 * error(theirs.detach().double(), exact.weight, start)
            assert error(ours[step][i].double(), exact.weight, start) < allowed, step


@pytest.mark.parametrize("shape", [(3, 48, 128), (2, 128, 48), (2, 1, 64), (2, 64, 1)])
@pytest.mark.parametrize("momentum, relative", [(0.0, False), (0.9, False), (0.0, True)])
def test_adafactor_equals_transformers_over_50_steps(run_program, tmp_path, shape, momentum, relative):
    decay = 0.0 if relative else DECAY  # transformers' decay would be relative to the weights, too
    options = {"adafactor_momentum": momentum, "adafactor_relative_step": relative}
    weight, gradients, ours, _ = run_probe(run_program, tmp_path, "adafactor", shape, 6, options, decay)
    for i in range(shape[0]):
        theirs = torch.nn.Parameter(weight[i].clone())
        adafactor = Adafactor(
            [theirs],
            lr=LR,
            beta1=momentum or None,
            weight_decay=decay,
            relative_step=False,
            scale_parameter=relative,
            warmup_init=False,
        )
        for step in range(STEPS):
            theirs.grad = gradients[step][i].clone()
            adafactor.step()
            # fp32: a few roundings a step of weights below 4 (2.4e-7 each).
            difference = (ours[step][i] - theirs.detach()).abs().max().item()
            assert difference < 5e-7 * (step + 1), step


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24), (2, 1, 33), (2, 33, 1)])
@pytest.mark.parametrize("largest", [1024, 16])
def test_shampoo_equals_the_formula_over_50_steps(run_program, tmp_path, shape, largest):
    options = {"beta1": 0.95, "beta2": 0.95, "precondition_every": 10, "shampoo_block": largest}
    weight, gradients, ours, out = run_probe(run_program, tmp_path, "shampoo", shape, 9, options)
    assert out["state.shampoo.failures"].item() == 0
    for i in range(shape[0]):
        exact = Shampoo(weight[i].double(), LR, (0.95, 0.95), 0.95, 1e-8, DECAY, 10, largest)
        for step in range(STEPS):
            exact.step(gradients[step][i].double())
            # fp32 rounds weights near 1 by 6e-8, 6e-6 of a first step of 0.01; the roots of the smallest
            # eigenvalues add as much (1.3e-5 is seen).
            assert error(ours[step][i].double(), exact.weight, weight[i].double()) < 5e-5, step


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24), (2, 32, 32), (2, 1, 8), (2, 8, 1)])
def test_soap_equals_the_papers_operations_over_50_steps(run_program, tmp_path, shape):
    # No side is longer than 10 times the other: after 10 gradients every factor has full rank, and what
    # orthogonal iteration makes of it is unique.
    options = {"beta1": 0.95, "beta2": 0.95, "precondition_every": 10}
    (tmp_path / "first").mkdir()
    weight, _, after_first, first = run_probe(
        run_program, tmp_path / "first", "soap", shape, 7, options, steps=1
    )
    assert torch.equal(after_first[0], weight), "the first gradient only makes the bases"
    weight, gradients, ours, out = run_probe(run_program, tmp_path, "soap", shape, 7, options)
    assert out["state.soap.failures"].item() == 0
    for i in range(shape[0]):
        bases = [first[f"state.soap.bank.{side}_basis"][i].double() for side in ("left", "right")]
        gradient = gradients[0][i].double()
        for basis, factor in zip(bases, (gradient @ gradient.T, gradient.T @ gradient), strict=True):
            # fp32 eigenvectors: a few 1e-7 of the largest eigenvalue stay beside the diagonal.
            turned, values = basis.T @ factor @ basis, torch.linalg.eigvalsh(factor).flip(0)
            assert (turned - torch.diag(values)).abs().max() < 1e-5 * values[0]
        exact = Soap(weight[i].double(), gradient, *bases, LR, (0.95, 0.95), 0.95, 1e-8, DECAY, 10)
        for step in range(1, STEPS):
            exact.step(gradients[step][i].double())
            # fp32 rounds weights near 1 by 6e-8, 6e-6 of a first step of 0.01; turned bases add less (7e-6 is
            # seen).
            assert error(ours[step][i].double(), exact.weight, weight[i].double()) < 3e-5, step


def test_soap_equals_the_papers_operations_from_its_own_bases(run_program, tmp_path):
    """A square gradient separates the eigenvalues: eigenvectors are unique but for signs, which cancel."""
    options = {"beta1": 0.95, "beta2": 0.95, "precondition_every": 10}
    weight, gradients, ours, _ = run_probe(run_program, tmp_path, "soap", (2, 8, 8), 8, options, steps=30)
    for i in range(2):
        gradient = gradients[0][i].double()
        bases = eigenbasis(gradient @ gradient.T), eigenbasis(gradient.T @ gradient)
        exact = Soap(weight[i].double(), gradient, *bases, LR, (0.95, 0.95), 0.95, 1e-8, DECAY, 10)
        for step in range(1, 30):
            exact.step(gradients[step][i].double())
            # As above; the first eigenvectors of fp32 add 6e-8 over gaps of a hundredth of the largest value.
            assert error(ours[step][i].double(), exact.weight, weight[i].double()) < 3e-5, step


@pytest.mark.parametrize("shape", [(3, 12, 20), (2, 20, 12), (2, 1, 16), (2, 16, 1)])
@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_kfac_equals_the_kronecker_product_written_out_over_50_steps(run_program, tmp_path, shape, clip):
    generator, tokens = torch.Generator().manual_seed(10), 32
    weight = torch.randn(shape, generator=generator)
    # Inputs of very different sizes in each channel, and gradients of a mean loss.
    sizes = torch.logspace(-1, 1, shape[2])
    inputs = [torch.randn(shape[0], tokens, shape[2], generator=generator) * sizes for _ in range(STEPS)]
    output_gradients = [
        torch.randn(shape[0], tokens, shape[1], generator=generator) / tokens for _ in range(STEPS)
    ]
    tensors = {}
    for i, (x, dy) in enumerate(zip(inputs, output_gradients, strict=True)):
        tensors |= {f"input.{i + 1}": x, f"output_gradient.{i + 1}": dy, f"gradient.{i + 1}": dy.mT @ x}
    options = {"beta1": 0.9, "precondition_every": 10, "kfac_damping": 1e-3, "kfac_clip": clip}
    ours, out = run_probe_on(run_program, tmp_path, "kfac", weight, tensors, STEPS, options)
    assert out["state.kfac.failures"].item() == 0
    exact = Kfac(weight.double(), LR, 0.9, 0.95, DECAY, 10, 1e-3, clip)
    for step in range(STEPS):
        exact.step(inputs[step].double(), output_gradients[step].double())
        for i in range(shape[0]):
            # fp32 rounds weights near 1 by 6e-8, up to 2e-5 of a first step; inverses err by 6e-8 times a
            # condition of up to 1e4 in directions that carry little of the way (4e-5 is seen).
            assert error(ours[step][i].double(), exact.weights[i], weight[i].double()) < 2e-4, step


@pytest.mark.parametrize("length", [1, 64])
def test_gains_equal_the_papers_rule(run_program, tmp_path, length):
    weight, gradients, ours, _ = run_probe(run_program, tmp_path, "gain", (4, 1, length), 4)
    for i in range(4):
        paper = PaperMuon(weight[i, 0], LR, MOMENTUM, DECAY)
        for step in range(STEPS):
            paper.step(gradients[step][i, 0])
            # fp32: a few roundings of weights below 4 a step.
            assert (ours[step][i, 0] - paper.weight).abs().max().item() < 5e-7 * (step + 1), step


def test_the_oracles_rounding_is_bf16_and_no_more():
    """The oracle itself: in fp64 its singular values lie where the coefficients put them."""
    update = torch.randn(48, 128, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = torch.linalg.svdvals(newton_schulz(update, dtype=torch.float64))
    assert values.min() > 0.68 and values.max() < 1.14
