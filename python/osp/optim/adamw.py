"""AdamW's step on this rank's pieces, by torch's kernels, with bits that do not depend on how they are cut.

The CPU's fused kernel takes 64 bytes at a time and rounds what is left at the end of a piece in another way.
That rest is therefore computed as a whole vector of its own: a piece of a sharded parameter gets the bits of
the whole one.
"""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from osp.optim.groups import Task, state_type
from osp.optim.sharing import local

LANES = 16  # numbers that the kernel takes at a time, of fp32; of fp64 half as many


def step_adamw(tasks: list[Task]) -> None:
    """One step of every task: weights, moments and counters change in place."""
    parts: dict[tuple, list[Task]] = {}
    for task in tasks:
        if task.gradient.numel() == 0:
            task.state["step"] += 1
            continue
        parts.setdefault((id(task.group), _may_be_fused(task)), []).append(task)
    for (_, fused), members in parts.items():
        _step_group(members, fused)


def _step_group(tasks: list[Task], fused: bool) -> None:
    rows, back = [], []  # of (weight, gradient, first moment, second moment, step); (to, from)
    for task in tasks:
        own = local(task.parameter)
        weight = own.to(state_type(own))
        moments = [local(task.state[name]) for name in ("exp_avg", "exp_avg_sq")]
        pieces = [weight, task.gradient.to(weight.dtype), *moments]
        if fused and weight.numel() % LANES:
            rows += _in_whole_vectors(pieces, task.state["step"], back)
        else:
            rows.append((*pieces, task.state["step"]))
        if weight.data_ptr() != own.data_ptr():
            back.append((own, weight))
    group = tasks[0].group
    weights, gradients, firsts, seconds, steps = map(list, zip(*rows, strict=True))
    adamw(
        weights,
        gradients,
        firsts,
        seconds,
        [],
        steps,
        foreach=False,
        fused=fused,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=float(group["lr"]),
        weight_decay=float(group["weight_decay"]),
        eps=group["adam_eps"],
        maximize=False,
    )
    for old, new in back:
        old.copy_(new)


def _in_whole_vectors(pieces: list[Tensor], step: Tensor, back: list) -> list[tuple]:
    """The pieces without their rest, and the rest with zeros behind it, which `back` returns."""
    # All are dense and lie alike in memory (_may_be_fused).
    flat = [piece.as_strided((piece.numel(),), (1,)) for piece in pieces]
    rest = flat[0].numel() % LANES
    whole = flat[0].numel() - rest
    last = [torch.nn.functional.pad(piece[whole:], (0, LANES - rest)) for piece in flat]
    back += [(flat[i][whole:], last[i][:rest]) for i in (0, 2, 3)]
    if whole == 0:
        return [(*last, step)]
    return [(*(piece[:whole] for piece in flat), step), (*last, step.clone())]


def _may_be_fused(task: Task) -> bool:
    """Whether the CPU's fused kernel, which reads memory in its order, finds equal elements at equal places.

    Moments are dense, so a weight of their strides is dense too.
    """
    weight = local(task.parameter)
    if weight.device.type != "cpu":
        return False
    pieces = (task.gradient, local(task.state["exp_avg"]), local(task.state["exp_avg_sq"]))
    return all(_layout(piece) == _layout(weight) for piece in pieces)


def _layout(tensor: Tensor) -> list[int]:
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
