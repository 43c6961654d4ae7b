"""Parameter groups of Muon: options, checks, what a step needs of a parameter, its state, the scale."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from osp.optim.newton_schulz import NewtonSchulz

KINDS = ("muon", "adamw", "gain")
UPDATE_SCALES = ("match-adam", "original", "spectral")
# torch.optim.Muon's names of the same factors.
TORCH_SCALES = {
    None: "original",
    "original": "original",
    "match_rms_adamw": "match-adam",
    "spectral_unclamped": "spectral",
}
# Options of other optimizers that would change the numbers; foreach and fused only choose a kernel.
REFUSED = ("maximize", "capturable", "differentiable", "amsgrad")
# What a group may say beside its parameters, `optimizer`, `lr` and `weight_decay`.
OPTIONS = (
    "momentum",
    "nesterov",
    "coefficients",
    "normalisation",
    "ns_steps",
    "renormalize",
    "eps",
    "update_scale",
    "betas",
    "adam_eps",
    "foreach",
    "fused",
    *REFUSED,
)


@dataclass
class Task:
    """A parameter with a gradient, and what its step needs."""

    parameter: Tensor
    gradient: Tensor  # this rank's piece
    name: str
    group: dict
    state: dict


def hash_of(name: str, shape: tuple) -> int:
    """A number of name and shape that is the same in every process."""
    number = 0
    for byte in f"{name}{shape}".encode():
        number = (number * 1000003 + byte) % (1 << 40)
    return number


def update_scale(kind: str, rows: int, columns: int) -> float:
    """The factor s of the update of one orthogonalised matrix."""
    if kind == "original":
        return math.sqrt(max(1.0, rows / columns))
    if kind == "spectral":
        return math.sqrt(rows / columns)
    return 0.2 * math.sqrt(max(rows, columns))


def refuse(name: str, value) -> None:
    if name in REFUSED and value:
        instead = "; negate the loss" if name == "maximize" else ""
        raise ValueError(f"Muon does not support {name}={value}{instead}")


def name_of(group: dict, index: int, i: int) -> str:
    names = group.get("param_names")
    shape = list(group["params"][i].shape)
    return f"{names[i]} {shape}" if names else f"parameter {i} of group {index} {shape}"


def wrong_shape(name: str, parameter: Tensor) -> str:
    return (
        f"{name} has {parameter.dim()} dimensions: Muon needs matrices. Make groups with "
        'osp.optim.param_groups(model), or give its group "optimizer": "adamw"'
    )


def check_group(group: dict, index: int) -> None:
    where = f"group {index}"
    if group["optimizer"] not in KINDS:
        raise ValueError(f"{where}: optimizer = {group['optimizer']!r}; write one of {', '.join(KINDS)}")
    for name in REFUSED:
        refuse(name, group.get(name))
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"{where}: Tensor lr must be 1-element, not of {lr.numel()} elements")
    for name in ("lr", "weight_decay", "momentum", "eps", "adam_eps"):
        if not float(group[name]) >= 0:
            raise ValueError(f"{where}: {name} = {group[name]}; 0 or more is needed")
    if not float(group["momentum"]) < 1 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"{where}: momentum and betas must be at least 0 and less than 1")
    if group["update_scale"] not in UPDATE_SCALES:
        raise ValueError(
            f"{where}: update_scale = {group['update_scale']!r}; write one of {', '.join(UPDATE_SCALES)}"
        )
    settings_of(group)
    for i, parameter in enumerate(group["params"]):
        name = name_of(group, index, i)
        if not parameter.is_floating_point():
            raise ValueError(f"{name} is {parameter.dtype}: Muon trains real floating-point parameters")
        if group["optimizer"] == "muon" and parameter.dim() not in (2, 3):
            raise ValueError(wrong_shape(name, parameter))


def settings_of(group: dict) -> NewtonSchulz:
    return NewtonSchulz.of(
        group["coefficients"], group["ns_steps"], group["normalisation"], group["eps"], group["renormalize"]
    )


def state_type(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def make_state(state: dict, parameter: Tensor, kind: str) -> None:
    names = ("exp_avg", "exp_avg_sq") if kind == "adamw" else ("momentum_buffer",)
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(parameter, dtype=state_type(parameter))
    if kind == "adamw" and "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)


def checked_state(given: dict, groups: list[dict], defaults: dict) -> dict:
    """The state with the groups that loading will make: keys that it lacks are the defaults.

    Raises ValueError for a group that cannot be served, before anything is loaded.
    """
    merged = []
    for index, group in enumerate(given["param_groups"]):
        if "optimizer" not in group:
            raise ValueError(
                f"group {index} of the state has no key optimizer: it is neither of osp.optim.Muon nor of "
                "torch.optim.Muon"
            )
        merged.append(defaults | group)
        if len(given["param_groups"]) != len(groups) or len(group["params"]) != len(groups[index]["params"]):
            continue  # torch's own check tells it
        own = {name: groups[index][name] for name in ("params", "param_names") if name in groups[index]}
        check_group(merged[-1] | own, index)
    return {**given, "param_groups": merged}


def from_torch_muon(given: dict, groups: list[dict]) -> dict:
    """The state with torch.optim.Muon's groups in our terms; a state of ours is returned as it is."""
    if not any("adjust_lr_fn" in group for group in given["param_groups"]):
        return given
    if len(given["param_groups"]) != len(groups):
        return given  # torch's own check tells it
    out = {"state": {k: dict(v) for k, v in given["state"].items()}, "param_groups": []}
    for theirs, ours in zip(given["param_groups"], groups, strict=True):
        group = {k: v for k, v in ours.items() if k not in ("params", "param_names")}
        taken = ("lr", "initial_lr", "weight_decay", "momentum", "nesterov", "ns_steps", "param_names")
        group |= {k: theirs[k] for k in taken if k in theirs}
        group["coefficients"] = tuple(theirs["ns_coefficients"])
        if theirs["adjust_lr_fn"] not in TORCH_SCALES:
            raise ValueError(f"the state has adjust_lr_fn = {theirs['adjust_lr_fn']!r}, which is unknown")
        group["update_scale"] = TORCH_SCALES[theirs["adjust_lr_fn"]]
        group["optimizer"], group["params"] = "muon", theirs["params"]
        for key in theirs["params"]:
            state = out["state"].get(key, {})
            if "momentum_buffer" in state:
                state["momentum_buffer"] = state["momentum_buffer"].float() / (1 - theirs["momentum"])
        out["param_groups"].append(group)
    return out
