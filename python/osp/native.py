"""SSNorm and Newton–Schulz by the program's kernels, for eager tensors on the CPU: torch.ops.osp of _ops.so.

The file is optional. It is for every PyTorch from 2.10 on (python/ops), and lies beside this file (in wheels)
or in the folder of the release build. Without it, with OSP_ISA=reference, and for tensors that it does not
serve, osp.nn.SSNorm and osp.optim are plain PyTorch, with the same numbers up to rounding.
"""

import functools
import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from osp import engine

FILE = "_ops.so"


@functools.cache
def load() -> bool:
    """Makes the operators torch.ops.osp. False if there is no file, or it cannot be loaded."""
    path = engine.find(FILE)
    if path is None or os.environ.get("OSP_ISA") == "reference":
        return False
    try:
        torch.ops.load_library(path)
    except OSError as error:
        warnings.warn(f"{path} cannot be loaded, so SSNorm and Muon are plain PyTorch: {error}", stacklevel=2)
        return False
    _register()
    return True


@functools.cache
def _register() -> None:
    torch.library.register_fake("osp::ss_norm", _fake)
    torch.library.register_fake("osp::ss_norm_backward", _fake_backward)
    torch.library.register_autograd("osp::ss_norm", _backward, setup_context=_keep)
    torch.library.register_fake("osp::newton_schulz", lambda x, *settings: torch.empty_like(x))


def _is_eager(x: Tensor) -> bool:
    """Whether x is a plain tensor of the CPU that has numbers, and nobody traces or transforms what is done.

    Compilers fuse PyTorch's own operators; torch.func and forward gradients know how to derive them.
    """
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and forward_ad._current_level < 0
        and torch._C._functorch.maybe_current_level() is None
    )


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether ss_norm(x, weight, eps) is for these: plain eager tensors of the CPU in fp32 or bf16."""
    return (
        type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight.device.type == "cpu"
        and _is_eager(x)
        and load()
    )


def serves_matrices(x: Tensor) -> bool:
    """Whether newton_schulz() is for these: plain eager bf16 matrices [n, rows, columns] without a gradient.

    The CPU multiplies bf16 by AVX-512; with AMX, which PyTorch's own products use, they are faster.
    """
    return (
        x.dtype == torch.bfloat16
        and x.dim() == 3
        and not (x.requires_grad and torch.is_grad_enabled())
        and _is_eager(x)
        and load()
        and torch.ops.osp.serves_newton_schulz()
    )


def ss_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight · x / sqrt(mean(x²) + eps) over the last dimension; the sums are fp32, the result as x."""
    return torch.ops.osp.ss_norm(x.contiguous(), weight.float(), eps)[0]


def newton_schulz(
    x: Tensor,
    steps: Sequence[tuple[float, float, float]],
    norm_scale: float,
    by_schatten_norm: bool,
    pair_first: bool,
) -> Tensor:
    """The iteration X ← a X + (b A + c A A) X, A = X Xᵀ, of normalised matrices, as bf16 [n, rows, columns].

    With `pair_first` the first two steps of a long matrix are joined (osp/optim/panel_iteration.h).
    """
    numbers = [float(number) for triple in steps for number in triple]
    return torch.ops.osp.newton_schulz(x.contiguous(), numbers, norm_scale, by_schatten_norm, pair_first)


def _fake(x, gain, eps):
    rows = x.numel() // x.shape[-1]
    return torch.empty_like(x), x.new_empty((rows,), dtype=torch.float32)


def _fake_backward(dy, x, inverse_rms, gain):
    return torch.empty_like(x), x.new_empty((1,), dtype=torch.float32)


def _keep(ctx, inputs, output):
    x, gain, ctx.eps = inputs
    ctx.save_for_backward(x, gain, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, dy, _):
    x, gain, inverse_rms = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: operators that can be derived again
        exact, given = x.float(), dy.float()
        scale = (exact.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
        unit = exact * scale
        dx = gain * scale * (given - unit * (given * unit).mean(-1, keepdim=True))
        return dx.to(x.dtype), (given * unit).sum().view(gain.shape), None
    dx, d_gain = torch.ops.osp.ss_norm_backward(dy.contiguous(), x, inverse_rms, gain)
    return dx, d_gain.view(gain.shape), None
