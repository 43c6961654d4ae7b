"""SSNorm and Newton–Schulz by the program's kernels in eager PyTorch (_ops.so) against plain PyTorch and the
program; what the file needs."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_optimizers import LR, MOMENTUM, run_probe_on

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
import osp.nn
from osp.optim.newton_schulz import NewtonSchulz, iterate, normalised, squared_norms

import osp.optim
from osp import native

SHAPES = [(1, 9), (3, 17), (2, 5, 64), (300, 33), (257, 256)]


@pytest.fixture(scope="module", autouse=True)
def built(osp_build):
    assert (osp_build / native.FILE).exists(), "build the target torch_operators"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSP_BUILD", str(osp_build))
        patch.delenv("OSP_ISA", raising=False)
        native.load.cache_clear()
        assert native.load()
        yield
    native.load.cache_clear()


def inputs(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, dy = torch.randn(2, *shape, generator=generator)
    return (3 * x).to(dtype), dy.to(dtype)


def passes(norm, x, dy, plain=False):
    """(y, dx, dgain) of a copy of the layer."""
    norm, x = copy.deepcopy(norm), x.detach().clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(native, "serves", lambda x, weight: False)
        y = norm(x)
        y.backward(dy)
    return y.detach(), x.grad, norm.weight.grad


def names_of(function):
    """The operators that a call of the function dispatches to."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.name for event in profile.events()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_are_those_of_plain_pytorch_up_to_rounding(shape, dtype):
    x, dy = inputs(shape, dtype)
    norm = osp.nn.SSNorm(shape[-1], eps=1e-4, gain=1.25)
    ours, plain = passes(norm, x, dy), passes(norm, x, dy, plain=True)
    exact = passes(norm.double(), x.double(), dy.double(), plain=True)
    # Sums of D numbers in another order; a rounding to bf16 that falls the other way is one of its last bit.
    limit = 2e-6 if dtype == torch.float32 else 2**-7
    for mine, theirs, truth in zip(ours, plain, exact, strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        scale = truth.abs().mean() + truth.abs()
        assert ((mine.double() - truth).abs() <= limit * scale).all()
        assert ((mine.double() - theirs.double()).abs() <= 2 * limit * scale).all()
    # As near as plain PyTorch: both round each number a few times.
    error = [(way[0].double() - exact[0]).abs().max() for way in (ours, plain)]
    assert error[0] <= 3 * error[1] + 1e-9


def test_layers_take_it_for_eager_tensors_of_the_cpu_alone():
    x, _ = inputs((4, 8), torch.float32)
    norm = osp.nn.SSNorm(8)
    assert "osp::ss_norm" in names_of(lambda: norm(x))
    assert "osp::ss_norm_backward" in names_of(lambda: norm(x).sum().backward())
    assert "osp::ss_norm" in names_of(lambda: norm.bfloat16()(x.bfloat16()))
    others = {
        "fp64": lambda: osp.nn.SSNorm(8).double()(x.double()),
        "vmap": lambda: torch.vmap(osp.nn.SSNorm(8))(x),
        "forward gradient": lambda: torch.func.jvp(osp.nn.SSNorm(8), (x,), (x,)),
        "compiled": lambda: torch.compile(osp.nn.SSNorm(8), backend="aot_eager")(x),
        "traced": lambda: torch.jit.trace(osp.nn.SSNorm(8), x, check_trace=False),
        "no rows": lambda: osp.nn.SSNorm(8)(x[:0]),
        "subclass": lambda: osp.nn.SSNorm(8)(torch.nn.Parameter(x).as_subclass(Marked)),
    }
    for name, call in others.items():
        assert "osp::ss_norm" not in names_of(call), name
    assert osp.nn.SSNorm(8, device="meta")(x.to("meta")).device.type == "meta"
    with pytest.raises(RuntimeError, match="shape"):
        norm(torch.ones(4, 9))


class Marked(torch.Tensor):
    """A subclass, whose own rules for operators are to be asked."""


def test_other_layouts_and_frozen_gains():
    x, dy = inputs((6, 4, 8), torch.float32)
    norm = osp.nn.SSNorm(8)
    turned = x.transpose(0, 1)
    assert torch.equal(norm(turned), norm(turned.contiguous()))
    left = turned.detach().requires_grad_()
    norm(left).backward(dy.transpose(0, 1))
    right = turned.detach().contiguous().requires_grad_()
    norm(right).backward(dy.transpose(0, 1).contiguous())
    assert torch.equal(left.grad, right.grad)
    # The gradient of a sum has strides of zero.
    expanded = x.detach().requires_grad_()
    norm(expanded).sum().backward()
    assert torch.allclose(expanded.grad, passes(norm, x, torch.ones_like(x), plain=True)[1], atol=1e-6)
    frozen = osp.nn.SSNorm(8).requires_grad_(False)
    assert not frozen(x).requires_grad
    assert torch.equal(passes(frozen.requires_grad_(True), x, dy)[1], passes(osp.nn.SSNorm(8), x, dy)[1])


def test_gradients_of_gradients_are_those_of_plain_pytorch():
    x, dy = inputs((5, 8), torch.float32)
    results = []
    for plain in (False, True):
        norm, given = osp.nn.SSNorm(8, gain=1.5), x.clone().requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(native, "serves", lambda x, weight: False)
            y = norm(given)
        first = torch.autograd.grad(y, (given, norm.weight), dy, create_graph=True)
        penalty = first[0].square().sum() + first[1].square().sum()
        results.append([*first, *torch.autograd.grad(penalty, (given, norm.weight))])
    for mine, theirs in zip(*results, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)  # sums in fp32 of another order


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_keep_pytorchs_rules(dtype):
    x, dy = inputs((5, 8), dtype)
    gain = torch.ones(1)
    operators = torch.ops.osp
    for leaf in (False, True):
        arguments = (x.clone().requires_grad_(leaf), gain.clone().requires_grad_(leaf), 1e-5)
        torch.library.opcheck(operators.ss_norm.default, arguments)
    _, inverse_rms = operators.ss_norm(x, gain, 1e-5)
    torch.library.opcheck(operators.ss_norm_backward.default, (dy, x, inverse_rms, gain))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.ones(4, 8).t()}, "contiguous"),
        ({"x": torch.ones(4, 8, dtype=torch.float64)}, "fp32 or bf16"),
        ({"gain": torch.ones(2)}, "one fp32 number"),
        ({"gain": torch.ones(1, dtype=torch.float64)}, "one fp32 number"),
        ({"x": torch.tensor(1.0)}, "contiguous"),
    ],
)
def test_the_operators_refuse_what_they_would_misread(change, message):
    given = {"x": torch.ones(4, 8), "gain": torch.ones(1), "eps": 1e-5} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.osp.ss_norm(**given)
    x = torch.ones(4, 8)
    with pytest.raises(RuntimeError, match="type and size"):
        torch.ops.osp.ss_norm_backward(torch.ones(4, 9), x, torch.ones(4), torch.ones(1))
    wrong = [torch.ones(3), torch.ones(4, dtype=torch.bfloat16), torch.ones(8)[::2]]
    for inverse_rms in wrong:
        with pytest.raises(RuntimeError, match="inverse_rms must be contiguous, fp32"):
            torch.ops.osp.ss_norm_backward(x, x, inverse_rms, torch.ones(1))


def test_the_number_of_threads_changes_no_bit():
    x, dy = inputs((700, 96), torch.float32)
    norm, threads, results = osp.nn.SSNorm(96), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(passes(norm, x, dy))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_it_uses_pytorch_through_the_stable_interface_of_2_10_alone(osp_build):
    file = osp_build / native.FILE
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", file], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()]
    ours = [name for name in names if "torch" in name or "c10" in name or "2at" in name]
    assert ours and all(name.startswith(("aoti_torch_", "torch_")) for name in ours)
    dynamic = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    loader = {name for name in needed if name.startswith("ld-linux-")}
    known = {"libtorch_cpu.so", "libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"}
    assert needed - loader <= known
    assert "PATH)" not in dynamic
    # Nothing of it is seen by other libraries of the process.
    shown = subprocess.run(["nm", "-D", "--defined-only", file], capture_output=True, text=True, check=True)
    assert not [line for line in shown.stdout.splitlines() if "osp" in line]


def test_an_audit_of_the_stable_interface_finds_nothing_newer(osp_build):
    pytest.importorskip("torch_abi_audit", reason="torch-abi-audit of requirements.txt is missing")
    command = [sys.executable, "-m", "torch_abi_audit.cli", str(osp_build / native.FILE), "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    [library] = json.loads(result.stdout)["bundled_libs"]
    found = library["torch"]
    assert found["stable"] and found["min_torch_version"] == "2.10.0", result.stdout
    assert not found["unstable_symbols"] and not found["unknown_shim_symbols"]


@pytest.mark.parametrize("variables", [{"OSP_BUILD": "/nonexistent"}, {"OSP_ISA": "reference"}])
def test_without_the_file_layers_are_plain_pytorch(variables, osp_build):
    code = (
        "import torch, osp.nn\nfrom osp import native\n"
        "print(osp.nn.SSNorm(2)(torch.tensor([3.0, 4.0])).tolist(), native.load())"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(osp.__path__[0]).parent), "OSP_BUILD": str(osp_build)}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment | variables)
    assert result.stdout.endswith("False\n") and result.stdout.startswith("[0.848"), result.stderr


def test_a_file_that_cannot_be_loaded_is_told_once(tmp_path, monkeypatch):
    (tmp_path / native.FILE).write_bytes(b"no library")
    monkeypatch.setenv("OSP_BUILD", str(tmp_path))
    native.load.cache_clear()
    with pytest.warns(UserWarning, match="cannot be loaded, so SSNorm and Muon are plain PyTorch"):
        assert not native.load()
    assert torch.allclose(
        osp.nn.SSNorm(2)(torch.tensor([3.0, 4.0])), torch.tensor([0.8485, 1.1314]), atol=1e-4
    )
    native.load.cache_clear()
    monkeypatch.undo()


# ---- Newton–Schulz ------------------------------------------------------------------------------------

MATRICES = [(48, 128), (128, 48), (96, 96), (1, 40), (33, 70)]
SETTINGS = {
    "paper": {},
    "tight": {"coefficients": "you", "normalisation": "s8"},
    "polar": {"coefficients": "polar-express"},
    "one step": {"ns_steps": 1},
}


@pytest.fixture
def panels():
    if not torch.ops.osp.serves_newton_schulz():
        pytest.skip("this CPU has no bf16 products of AVX-512, or has AMX")


def matrix(shape, seed=0, **settings):
    """A normalised matrix and its settings."""
    update = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    settings = NewtonSchulz.of(**settings)
    return normalised(update, squared_norms(update), settings), settings


def plainly(x, settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "serves_matrices", lambda x: False)
        return iterate(x, settings)


@pytest.mark.parametrize("shape", MATRICES)
@pytest.mark.parametrize("name", SETTINGS)
def test_matrices_are_iterated_with_the_programs_bits(run_program, tmp_path, panels, shape, name):
    options = SETTINGS[name]
    chosen = {"preset": "tight"} if name == "tight" else options
    # Powers of two, which all have the same mantissa when they are divided by the norm.
    generator = torch.Generator().manual_seed(5)
    powers = torch.randint(-3, 4, shape, generator=generator).float().exp2()
    gradient = powers * (1 - 2 * torch.randint(0, 2, shape, generator=generator).float())
    tensors = {"gradient.1": gradient[None].contiguous()}
    [moved], _ = run_probe_on(
        run_program, tmp_path, "muon", torch.zeros(1, *shape), tensors, 1, chosen, decay=0
    )
    settings = NewtonSchulz.of(**options)
    update = gradient + MOMENTUM * gradient  # the first step's buffer is the gradient
    ours = iterate(normalised(update, squared_norms(update), settings), settings)
    scale = LR * 0.2 * max(shape) ** 0.5
    assert ours.dtype == torch.bfloat16 and ours.count_nonzero() == ours.numel()
    assert torch.equal((moved[0] / -scale).bfloat16(), ours)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("renormalize", [False, True])
def test_the_kernels_are_as_near_to_fp64_as_plain_pytorch(panels, name, renormalize):
    for shape in MATRICES:
        errors = [0.0, 0.0]
        for seed in range(5):  # one draw may fall either way
            x, settings = matrix(shape, seed, **SETTINGS[name], renormalize=renormalize)
            exact = iterate(x.double(), settings)
            for i, way in enumerate((iterate(x, settings), plainly(x, settings))):
                assert way.dtype == (torch.float32 if renormalize else torch.bfloat16)
                errors[i] += ((way.double() - exact).norm() / exact.norm()).item() / 5
        assert errors[0] < 1.1 * errors[1] + 1e-3 and errors[0] < 0.03, (shape, errors)


def test_stacks_layouts_and_zeros(panels):
    x, settings = matrix((3, 40, 72))
    whole = iterate(x, settings)
    assert all(torch.equal(iterate(one, settings), each) for one, each in zip(x, whole, strict=True))
    turned = x[0].t()
    assert torch.equal(iterate(turned, settings), iterate(turned.contiguous(), settings))
    assert iterate(torch.zeros(8, 12, dtype=torch.bfloat16), settings).count_nonzero() == 0


def test_muon_takes_the_kernels_for_eager_bf16_matrices_of_the_cpu_alone(panels):
    weight = torch.nn.Parameter(torch.ones(8, 16))
    weight.grad = torch.randn(8, 16)
    assert "osp::newton_schulz" in names_of(lambda: osp.optim.Muon([weight]).step())
    x, settings = matrix((8, 16))
    stale = x.clone().requires_grad_()
    others = {
        "fp32": lambda: iterate(x.float(), settings),
        "gradient": lambda: iterate(stale, settings).sum().backward(),
        "vmap": lambda: torch.vmap(lambda one: iterate(one, settings))(x[None]),
        "compiled": lambda: torch.compile(iterate, backend="aot_eager")(x, settings),
        "empty": lambda: iterate(x[:0], settings),
    }
    for name, call in others.items():
        assert "osp::newton_schulz" not in names_of(call), name
    assert stale.grad.abs().sum() > 0


def test_the_operator_keeps_pytorchs_rules_and_its_bits_on_any_threads(panels):
    x, settings = matrix((200, 300))
    arguments = (x[None], [3.4445, -4.775, 2.0315] * 2, 1.0, False, True)
    torch.library.opcheck(torch.ops.osp.newton_schulz.default, arguments)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(iterate(x, settings))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.ones(1, 4, 8)}, "contiguous bf16 matrices"),
        ({"x": torch.ones(4, 8).bfloat16()}, "contiguous bf16 matrices"),
        ({"x": torch.ones(1, 4, 8).bfloat16().mT}, "contiguous bf16 matrices"),
        ({"steps": [1.0, 2.0]}, "of each step"),
        ({"steps": []}, "of each step"),
    ],
)
def test_the_iteration_refuses_what_it_would_misread(change, message):
    given = {"x": torch.ones(1, 4, 8).bfloat16(), "steps": [1.0, 0.0, 0.0], "norm_scale": 1.0}
    given |= {"by_schatten_norm": False, "pair_first": False} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.osp.newton_schulz(**given)


def test_a_cpu_without_the_products_computes_plainly(osp_build):
    code = (
        "import torch, osp.optim\nfrom osp import native\n"
        "x = torch.eye(4).bfloat16()[None] / 2\n"
        "print(native.load(), native.serves_matrices(x))\n"
        "print(osp.optim.newton_schulz(torch.eye(4)).diag().mean().item())\n"
        "try:\n    torch.ops.osp.newton_schulz(x, [1.0, 0.0, 0.0], 1.0, False, False)\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(osp.__path__[0]).parent), "OSP_BUILD": str(osp_build)}
    command = [sys.executable, "-W", "error", "-c", code]
    for level in ("portable", "avx2"):
        result = subprocess.run(command, capture_output=True, text=True, env=environment | {"OSP_ISA": level})
        lines = result.stdout.splitlines()
        assert lines[0] == "True False" and abs(float(lines[1]) - 1) < 0.3, result.stderr
        assert "this CPU has no bf16 products" in lines[2]
