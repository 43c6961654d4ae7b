"""Newton–Schulz: an approximation of the orthogonal polar factor U Vᵀ of a matrix U Σ Vᵀ.

For each step's (a, b, c), with X normalised so that its singular values are at most about 1 and transposed
if it has more rows than columns:

    A = X Xᵀ;   X ← a X + (b A + c A A) X

Settings and numbers are those of the program (osp/optim/newton_schulz.h): normalised in fp32, products in
bf16 with fp32 accumulation, each sum rounded once. On CPUs with AVX-512's bf16 products and without AMX the
program's own kernels iterate (osp.native), with its bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from osp import native

Triple = tuple[float, float, float]

# The paper's is jordan (arXiv 2506.19697), whose one triple serves every step.
COEFFICIENTS: dict[str, tuple[Triple, ...]] = {
    "jordan": ((3.4445, -4.7750, 2.0315),),
    "you": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar-express": (
        (8.15655, -22.48329, 15.87877),
        (4.04293, -2.80892, 0.50002),
        (3.89167, -2.77248, 0.50606),
        (3.28575, -2.36813, 0.46449),
        (2.34654, -1.70978, 0.42324),
    ),
}
# A zero update stays zero: the Schatten norm may not vanish as a divisor.
LEAST_DIVISOR = 1e-6


@dataclass(frozen=True)
class NewtonSchulz:
    """Settings of the iteration; `of` makes them from the options of a parameter group."""

    steps: tuple[Triple, ...]
    norm_scale: float = 1.0  # X = update / (norm_scale · ‖update‖_F + eps)
    eps: float = 1e-8
    by_schatten_norm: bool = False  # divide by ‖(X Xᵀ)²‖_F^(1/4) as well
    # The kernels may join the first two steps of a long matrix; needs small singular values.
    pair_first: bool = True
    renormalize: bool = False  # scale the result to ‖·‖_F = sqrt(min(rows, columns))

    @staticmethod
    def of(
        coefficients: str | Sequence = "jordan",
        ns_steps: int = 5,
        normalisation: str = "frobenius",
        eps: float = 1e-8,
        renormalize: bool = False,
    ) -> "NewtonSchulz":
        """Settings from options. `coefficients` is a name, one (a, b, c), or one (a, b, c) for each step.

        Raises ValueError for an unknown name and for more steps than the set has.
        """
        if normalisation not in ("frobenius", "s8"):
            raise ValueError(f'normalisation = "{normalisation}": write "frobenius" or "s8"')
        triples = _triples(coefficients)
        if ns_steps < 1 or (len(triples) > 1 and ns_steps > len(triples)):
            raise ValueError(
                f"ns_steps = {ns_steps}: the coefficients {coefficients!r} have {len(triples)} steps; "
                "use 1 to that many, or jordan"
            )
        polar = coefficients == "polar-express"
        return NewtonSchulz(
            steps=tuple(triples[0 if len(triples) == 1 else i] for i in range(ns_steps)),
            norm_scale=1.02 if polar else 1.0,
            eps=1e-6 if polar else eps,
            by_schatten_norm=normalisation == "s8",
            pair_first=coefficients in ("jordan", "you"),  # as exact: measured for these
            renormalize=renormalize,
        )


def _triples(coefficients: str | Sequence) -> tuple[Triple, ...]:
    if isinstance(coefficients, str):
        if coefficients not in COEFFICIENTS:
            names = ", ".join(COEFFICIENTS)
            raise ValueError(f'coefficients = "{coefficients}": write one of {names}, or numbers (a, b, c)')
        return COEFFICIENTS[coefficients]
    numbers = [coefficients] if isinstance(coefficients[0], (int, float)) else coefficients
    triples = tuple(tuple(float(x) for x in triple) for triple in numbers)
    if any(len(triple) != 3 for triple in triples):
        raise ValueError(f"coefficients = {coefficients!r}: (a, b, c), or one of them for each step")
    return triples


def squared_norms(update: Tensor) -> Tensor:
    """fp64 sums of squares of matrices [..., rows, columns], as [...].

    In fp64 the order of the sum is lost in the rounding to fp32, so a matrix that lies in pieces has the
    norm of the whole one.
    """
    return torch.linalg.vector_norm(update, dim=(-2, -1), dtype=torch.float64).square()


def normalised(update: Tensor, squares: Tensor, settings: NewtonSchulz, dtype=torch.bfloat16) -> Tensor:
    """update / (norm_scale · ‖update‖_F + eps), in `dtype`; `squares` as those of squared_norms()."""
    divisor = squares.sqrt() * settings.norm_scale + settings.eps
    return (update / divisor[..., None, None].to(update.dtype)).to(dtype)


def iterate(x: Tensor, settings: NewtonSchulz) -> Tensor:
    """The iteration on normalised matrices [rows, columns] or [n, rows, columns], in their dtype."""
    single = x.dim() == 2
    x = x.unsqueeze(0) if single else x
    if native.serves_matrices(x):
        how = (settings.steps, settings.norm_scale, settings.by_schatten_norm, settings.pair_first)
        x = native.newton_schulz(x, *how)
    else:
        x = _iterate_plainly(x, settings)
    if settings.renormalize:
        length = math.sqrt(min(x.shape[1:]))
        norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float64)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x * (length / (norms + 1e-8)).to(x.dtype)
    return x.squeeze(0) if single else x


def _iterate_plainly(x: Tensor, settings: NewtonSchulz) -> Tensor:
    """The steps on matrices [n, rows, columns] by PyTorch's products."""
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    for i, (a, b, c) in enumerate(settings.steps):
        gram = torch.bmm(x, x.mT)
        if settings.by_schatten_norm and i == 0:
            squared = torch.bmm(gram, gram)
            norms = torch.linalg.vector_norm(squared, dim=(1, 2), keepdim=True, dtype=torch.float64)
            s = norms.pow(0.25).clamp_min(LEAST_DIVISOR) * settings.norm_scale
            polynomial = (gram * (b / s.pow(2)) + squared * (c / s.pow(4))).to(x.dtype)
            x = (x * (a / s) + torch.bmm(polynomial, x) / s).to(x.dtype)
        else:
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, polynomial, x, beta=a, alpha=1)
    return x.mT if tall else x


def newton_schulz(
    update: Tensor, settings: NewtonSchulz | None = None, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Approximately the orthogonal factor of `update`, fp32 or fp64 [rows, columns] or [n, rows, columns].

    The result has the dtype of `update`; the products are in `dtype`. Zero stays zero.
    """
    settings = settings or NewtonSchulz.of()
    return iterate(normalised(update, squared_norms(update), settings, dtype), settings).to(update.dtype)
