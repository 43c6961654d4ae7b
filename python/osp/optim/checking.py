"""Proof, on one real step, that Newton–Schulz runs on every hidden matrix and nowhere else.

An optimizer that is silently SGD or AdamW trains too, with a loss that goes down. `check` therefore looks at
what a first step does to the weights: Muon's goes along NewtonSchulz(g), SGD's along g, AdamW's along
g / (|g| + eps).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from osp.optim.groups import settings_of
from osp.optim.newton_schulz import NewtonSchulz, newton_schulz
from osp.optim.routing import route

# Cosines: with the settings of the parameter's own group at most the roundings of bf16 differ, which leaves
# 0.99 and more; for a random matrix the direction of SGD has 0.85 with Muon's, AdamW's first one 0.7.
ALIKE = 0.95


@dataclass(frozen=True)
class Row:
    """One parameter: cosines of its update with three directions, and singular values over their rms."""

    name: str
    expected: str
    muon: float
    sgd: float
    adamw: float
    singular_values: tuple[float, float, float] | None  # least, median, largest


@dataclass(frozen=True)
class CheckReport:
    """What a step did; `str()` gives a table."""

    rows: list[Row]
    without_gradient: list[str] = field(default_factory=list)  # matrices that the step could not show

    @property
    def num_matrices(self) -> int:
        """Hidden matrices whose update was orthogonalised."""
        return sum(row.expected == "muon" for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'parameter':<48} {'rule':<6} {'muon':>6} {'sgd':>6} {'adamw':>6}  singular values / rms"]
        for row in self.rows:
            values = " ".join(f"{v:.2f}" for v in row.singular_values or ())
            cosines = f"{row.muon:>6.2f} {row.sgd:>6.2f} {row.adamw:>6.2f}"
            lines.append(f"{row.name:<48} {row.expected:<6} {cosines}  {values}")
        if self.without_gradient:
            lines.append(f"without gradient: {', '.join(self.without_gradient)}")
        return "\n".join(lines)


def check(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping | Callable[[], Tensor] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> CheckReport:
    """One step of any optimizer on real gradients, measured and taken back; raises if it is not Muon's.

    `batch`: arguments of the model, whose result has a `loss`, or a function that returns the loss; None
    takes the gradients that are there. `overrides` as for param_groups. Weights, state, rates and gradients
    are restored. A gradient of zero counts as none, and its matrix is listed in `without_gradient`: zeros at
    the start (LoRA's B, output projections) leave some. With sharded parameters every rank must call it.

    Raises ValueError with the names of hidden matrices that were not orthogonalised, of other matrices that
    were, of trainable parameters that the optimizer lacks or that did not move, and if no matrix has a
    gradient.
    """
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer  # accelerate's wrapper
    routes, parameters, _ = route(model, overrides or {})
    kept_gradients = [p.grad for p in parameters]
    if batch is not None:
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad():
            loss = batch() if callable(batch) else model(**batch).loss
            loss.backward()
    try:
        rows, without, problems = _measure(optimizer, routes, parameters)
    finally:
        for parameter, gradient in zip(parameters, kept_gradients, strict=True):
            parameter.grad = gradient
    if not any(row.expected == "muon" for row in rows):
        problems.append("no hidden matrix has a gradient: give a batch, or call it after backward()")
    if problems:
        raise ValueError("this optimizer is not Muon on hidden matrices alone: " + "; ".join(problems))
    return CheckReport(rows, without)


@torch.no_grad()
def _measure(optimizer, routes, parameters) -> tuple[list[Row], list[str], list[str]]:
    before = [p.detach().clone() for p in parameters]
    state, rates = optimizer.state, [(g["lr"], g.get("weight_decay")) for g in optimizer.param_groups]
    counted = getattr(optimizer, "num_skipped", 0)
    # A first step with rate 1 and no decay: the change of the weights is the update.
    optimizer.state = type(state)(dict)
    for group in optimizer.param_groups:
        group["lr"] = torch.ones_like(group["lr"]) if isinstance(group["lr"], Tensor) else 1.0
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    try:
        optimizer.step()
        changes = [_whole(b) - _whole(p.detach()) for b, p in zip(before, parameters, strict=True)]
    finally:
        optimizer.state = state
        for group, (lr, decay) in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
            if decay is not None:
                group["weight_decay"] = decay
        for old, parameter in zip(before, parameters, strict=True):
            parameter.copy_(old)
    problems = []
    if getattr(optimizer, "num_skipped", 0) != counted:
        optimizer.num_skipped = counted
        return [], [], ["the gradients are not finite, so the step was skipped"]
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rows, without = [], []
    for r, parameter, change in zip(routes, parameters, changes, strict=True):
        if id(parameter) not in groups:
            problems.append(f"{r.name}: the optimizer does not have it")
        elif parameter.dim() in (2, 3):
            gradient = None if parameter.grad is None else _whole(parameter.grad)
            if gradient is None or not gradient.any():
                without.append(r.name)
                continue
            rows.append(_row(r, change, gradient, groups[id(parameter)]))
            problems += _problems(rows[-1], change)
    return rows, without, problems


def _iteration_of(group: dict) -> NewtonSchulz:
    """The settings of a group of osp.optim.Muon or torch.optim.Muon; the usual ones for other optimizers."""
    if "normalisation" in group:
        return settings_of(group)
    if "ns_coefficients" in group:
        return NewtonSchulz.of(group["ns_coefficients"], group["ns_steps"])
    return NewtonSchulz.of()


def _row(route, change: Tensor, gradient: Tensor, group: dict) -> Row:
    # The update of the first step to the bit: the iteration enlarges the roundings of a gradient of low rank.
    update = gradient + gradient * float(group["momentum"]) if group.get("nesterov") else gradient
    muon = newton_schulz(update, _iteration_of(group))
    values = torch.linalg.svdvals(change.float())
    values = values / values.square().mean().sqrt().clamp_min(1e-30)
    spectrum = (values.min().item(), values.median().item(), values.max().item())
    return Row(
        name=route.name,
        expected=route.optimizer,
        muon=_cosine(change, muon),
        sgd=_cosine(change, gradient),
        adamw=_cosine(change, gradient / (gradient.abs() + 1e-8)),
        singular_values=spectrum,
    )


def _problems(row: Row, change: Tensor) -> list[str]:
    if not change.any():
        return [f"{row.name} did not move"]
    orthogonal = row.muon > ALIKE
    if row.expected == "muon" and not orthogonal:
        like = "SGD" if row.sgd > ALIKE else "AdamW" if row.adamw > ALIKE else "neither SGD nor AdamW"
        return [f"{row.name}: not orthogonalised (cosine {row.muon:.2f}; its update is that of {like})"]
    if row.expected != "muon" and orthogonal and max(row.sgd, row.adamw) < row.muon:
        return [f"{row.name}: orthogonalised, although it is for {row.expected}"]
    return []


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.float().clone()


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()
