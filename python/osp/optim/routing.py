"""Routing: which parameter is trained by which rule, decided by the module that owns it, not by its shape.

The first row that fits decides; a matrix that none fits is refused by name.

| parameter | rule |
|---|---|
| named by a pattern of `overrides` | as it says |
| table of an nn.Embedding, input or output embeddings of a transformers model, also when tied | adamw |
| linear layer outside of a transformers model's base model (a head) | adamw |
| where no head is known: the only linear layer that has the shape of a lookup table | adamw |
| factor of LoRA | adamw |
| scalar gain of osp.nn.SSNorm | gain |
| any other vector or scalar (norm, bias) | adamw, or gain for norms with gain_rule = "reference" |
| convolution | adamw |
| matrix of a linear layer or of attention | muon |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from osp.nn import EmbeddingProjection, SSNorm
from osp.optim.groups import KINDS, OPTIONS

LINEAR_NAMES = ("Conv1D",)  # transformers' linear layer of GPT-2, with [in, out]


@dataclass(frozen=True)
class Route:
    """One trainable parameter."""

    name: str
    shape: tuple[int, ...]
    optimizer: str
    reason: str


class RoutedGroups(list):
    """Groups for Muon: a list with the `routes` of all parameters and the names of the `frozen` ones."""

    def __init__(self, groups: list[dict], routes: list[Route], frozen: list[str]) -> None:
        super().__init__(groups)
        self.routes, self.frozen = routes, frozen

    @property
    def table(self) -> str:
        """One line per (name with layer numbers as *, shape, rule): how many, and why."""
        rows: dict[tuple, int] = {}
        for route in self.routes:
            pattern = ".".join("*" if part.isdigit() else part for part in route.name.split("."))
            shape = "x".join(map(str, route.shape))
            key = (pattern, shape, route.optimizer, route.reason)
            rows[key] = rows.get(key, 0) + 1
        lines = [f"{'parameter':<48} {'shape':>12} {'count':>5}  {'rule':<6} because"]
        for (pattern, shape, rule, reason), count in rows.items():
            lines.append(f"{pattern:<48} {shape:>12} {count:>5}  {rule:<6} {reason}")
        if self.frozen:
            lines.append(f"frozen: {len(self.frozen)} parameters")
        return "\n".join(lines)


def param_groups(
    model: nn.Module,
    lr: float | Tensor = 1e-3,
    *,
    adam_lr: float | Tensor | None = None,
    gain_lr: float | Tensor | None = None,
    weight_decay: float = 0.01,
    vector_weight_decay: float | None = None,
    gain_rule: str = "auto",
    overrides: Mapping[str, str] | None = None,
    **options,
) -> RoutedGroups:
    """Groups for osp.optim.Muon with every trainable parameter of `model` exactly once.

    `adam_lr` and `gain_lr` default to `lr`, `vector_weight_decay` (biases, norms) to `weight_decay`.
    `gain_rule`: "auto" gives the gain rule to SSNorm's scalars and AdamW to other norms, "reference" gives it
    to all gains of norms, as the program does, "adam" to none. `overrides` maps patterns of names (* for
    anything) to "muon", "adamw" or "gain". `options` of Muon are put into every group.

    Raises TypeError for an option that Muon lacks, ValueError that names every parameter without a rule, a
    pattern that fits nothing, a parameter that two patterns fit, or a model without any hidden matrix.
    """
    if gain_rule not in ("auto", "reference", "adam"):
        raise ValueError(f'gain_rule = "{gain_rule}": write "auto", "reference" or "adam"')
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"param_groups has no option {name}")
    routes, parameters, frozen = route(model, overrides or {}, gain_rule)
    transposed = {id(m.weight) for m in model.modules() if type(m).__name__ in LINEAR_NAMES}
    if not any(r.optimizer == "muon" for r in routes):
        raise ValueError("no parameter of this model is a hidden matrix: Muon would train nothing")
    rate = {"muon": lr, "adamw": lr if adam_lr is None else adam_lr}
    rate["gain"] = lr if gain_lr is None else gain_lr
    groups: dict[tuple, dict] = {}
    for r, parameter in zip(routes, parameters, strict=True):
        vector = parameter.dim() < 2
        decay = weight_decay if not vector or vector_weight_decay is None else vector_weight_decay
        turned = r.optimizer == "muon" and id(parameter) in transposed
        key = (r.optimizer, decay, turned)
        if key not in groups:
            groups[key] = {
                "params": [],
                "param_names": [],
                "optimizer": r.optimizer,
                "lr": rate[r.optimizer],
                "weight_decay": decay,
                "transposed": turned,
                **options,
            }
        groups[key]["params"].append(parameter)
        groups[key]["param_names"].append(r.name)
    return RoutedGroups(list(groups.values()), routes, frozen)


def route(model: nn.Module, overrides: Mapping[str, str], gain_rule: str = "auto"):
    """(routes, their parameters, names of frozen parameters)."""
    for pattern, kind in overrides.items():
        if kind not in KINDS:
            raise ValueError(f'overrides: "{pattern}": "{kind}"; write one of {", ".join(KINDS)}')
    owners = _owners(model)
    tables, heads = _tables_and_heads(model)
    alike = _shaped_like_tables(model, tables, heads)
    used = dict.fromkeys(overrides, False)
    routes, parameters, frozen, unknown = [], [], [], []
    for parameter, places in owners.values():
        names = [name for name, _, _ in places]
        if not parameter.requires_grad:
            frozen.append(names[0])
            continue
        fitting = [p for p in overrides if any(fnmatchcase(name, p) for name in names)]
        if len(fitting) > 1:
            raise ValueError(f"overrides: {names[0]} fits two patterns, {fitting[0]} and {fitting[1]}")
        if fitting:
            used[fitting[0]] = True
            found = (overrides[fitting[0]], f"overrides {fitting[0]}")
        else:
            found = _rule(parameter, places, tables, heads, gain_rule)
        shape = tuple(parameter.shape)
        if id(parameter) in alike and not fitting:
            # One such layer is the head. Of several, each may be a hidden matrix.
            found = ("adamw", "head: has the shape of a lookup table") if len(alike) == 1 else None
        if found is None:
            why = " (a head or a hidden matrix, shaped like a lookup table)" if id(parameter) in alike else ""
            unknown.append(f"{names[0]} {list(shape)} of {type(places[0][1]).__name__}{why}")
            continue
        routes.append(Route(names[0], shape, *found))
        parameters.append(parameter)
    unfit = [pattern for pattern, was_used in used.items() if not was_used]
    if unfit:
        raise ValueError(f"overrides: {', '.join(unfit)} fits no trainable parameter")
    if unknown:
        raise ValueError(
            "no rule for " + "; ".join(unknown) + '. Say what they are: overrides={"NAME": "muon"} for '
            'hidden matrices, "adamw" for anything else'
        )
    return routes, parameters, frozen


def _owners(model: nn.Module) -> dict[int, tuple[Tensor, list]]:
    """{id: (parameter, [(full name, module, own name)])}: a tied parameter has several places."""
    owners: dict[int, tuple[Tensor, list]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if hasattr(parameter, "_is_flat_param") or type(parameter).__name__ == "FlatParameter":
                raise ValueError(f"{full} is flattened by FSDP 1, which hides matrices: use fully_shard")
            owners.setdefault(id(parameter), (parameter, []))[1].append((full, module, name))
    return owners


def _tables_and_heads(model: nn.Module) -> tuple[set[int], set[int]]:
    """Ids of parameters of lookup tables, and of output embeddings and heads."""
    tables, heads = set(), set()
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            tables.add(id(module.weight))
        for getter, ids in (("get_input_embeddings", tables), ("get_output_embeddings", heads)):
            if not callable(getattr(module, getter, None)):
                continue
            try:
                found = getattr(module, getter)()
            except (NotImplementedError, AttributeError):
                continue
            if found is not None and isinstance(getattr(found, "weight", None), Tensor):
                ids.add(id(found.weight))
        # A head on top of a transformers model: classification, reward.
        base = getattr(module, getattr(module, "base_model_prefix", "") or "\0", None)
        if isinstance(base, nn.Module) and base is not module:
            inside = {id(p) for p in base.parameters()}
            for layer in module.modules():
                linear = isinstance(layer, nn.Linear) and not isinstance(layer, EmbeddingProjection)
                if linear and id(layer.weight) not in inside:
                    heads.add(id(layer.weight))
    return tables, heads


def _shaped_like_tables(model: nn.Module, tables: set[int], heads: set[int]) -> set[int]:
    """Ids of linear layers' weights that have the shape of a lookup table, where no head is known."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and isinstance(m.weight, Tensor)]
    if heads or any(id(layer.weight) in tables for layer in linear):
        return set()
    shapes = {
        tuple(module.weight.shape)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    shapes = {shape for shape in shapes if shape[0] != shape[-1]}
    return {id(layer.weight) for layer in linear if tuple(layer.weight.shape) in shapes}


def _rule(parameter, places, tables, heads, gain_rule) -> tuple[str, str] | None:
    names = [name for name, _, _ in places]
    modules = [module for _, module, _ in places]
    if id(parameter) in tables:
        tied = " (tied)" if id(parameter) in heads or len(places) > 1 else ""
        return "adamw", f"lookup table{tied}"
    if id(parameter) in heads:
        return "adamw", "head"
    if any("lora_" in name for name in names):
        return "adamw", "factor of LoRA"
    if any(isinstance(module, SSNorm) for module in modules):
        return ("adamw" if gain_rule == "adam" else "gain"), "scalar gain of SSNorm"
    module, own = modules[0], places[0][2]
    linear = isinstance(module, nn.Linear) or type(module).__name__ in LINEAR_NAMES
    if linear and own == "weight" and parameter.dim() != 2:
        return None  # flattened by somebody: training it otherwise would be silent
    if parameter.dim() < 2:
        norm = "norm" in type(module).__name__.lower()
        kind = "gain" if norm and own != "bias" and gain_rule == "reference" else "adamw"
        return kind, "norm" if norm else "bias" if own.endswith("bias") else "vector"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "adamw", "convolution"
    if linear:
        return "muon", "matrix of a linear layer"
    if isinstance(module, nn.MultiheadAttention) and own.endswith("_weight"):
        return "muon", "matrix of attention"
    return None
