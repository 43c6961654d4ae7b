"""Muon for hidden matrices, AdamW for the rest, and the rule for scalar gains, in one torch optimizer.

    muon    buffer ← g + β buffer;  u = g + β buffer (Nesterov; else u = buffer)
            w ← (1 − lr·decay) w − lr · s · NewtonSchulz(u),   s = 0.2 sqrt(max(rows, columns))
    adamw   m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²
            w ← (1 − lr·decay) w − lr · (m / (1−β₁ᵗ)) / (sqrt(v / (1−β₂ᵗ)) + eps)
    gain    u as for muon;  w ← (1 − lr·decay) w − lr · 0.2 sqrt(length) · u / (‖u‖ + 1e-8)

The numbers are those of the program (osp/optim/muon.h, osp/optim/adamw.h, osp/optim/gain_rule.h;
arXiv 2506.19697).
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.optimizer import Optimizer

from osp.optim import sharing
from osp.optim.adamw import step_adamw
from osp.optim.groups import (
    REFUSED,
    Task,
    check_group,
    checked_state,
    from_torch_muon,
    hash_of,
    make_state,
    name_of,
    refuse,
    settings_of,
    state_type,
    update_scale,
    wrong_shape,
)
from osp.optim.newton_schulz import iterate, normalised, squared_norms

# The largest number of a gradient: its square must fit into fp32, as the limit of the program does.
LARGEST_GRADIENT = 1e18


class Muon(Optimizer):
    """Muon, AdamW and the gain rule, selected for each group by its key `optimizer`.

    `params`: parameters, named parameters, or groups as `osp.optim.param_groups(model)` makes them. A group
    without the key is Muon's, and every parameter of Muon has 2 dimensions, or 3 for a stack of matrices;
    others are refused by name. Parameters are real and of any float type. State is fp32 (fp64 for fp64
    parameters) and stays so through load_state_dict: `momentum_buffer`, or `step`, `exp_avg` and
    `exp_avg_sq`. A checkpoint of torch.optim.Muon is converted when it is loaded.

    `lr` may be a float or a tensor of one element. `coefficients`, `normalisation`, `ns_steps`,
    `renormalize` and `eps` are those of NewtonSchulz.of; `update_scale` is "match-adam", "original" or
    "spectral"; `betas` and `adam_eps` are AdamW's. A group's key `transposed` says that its matrices are
    [in, out], as those of transformers' Conv1D, for which param_groups sets it.

    FSDP2's parameters (DTensors) need nothing else: each rank orthogonalises its share of the matrices. With
    DDP name the `process_group` to share the work; without it every rank computes all of it. Nothing is kept
    of the parameters between the steps, so they may be replaced at any time.

    A gradient that is not finite anywhere, or has a number beyond 1e18, on any rank, skips the whole step:
    parameters and state stay as they are, `num_skipped` counts it, the first one warns. A step with lr 0 and
    gradients 0, by which torch.distributed.checkpoint makes the state, changes nothing either.

    Raises ValueError for options and parameters that it cannot serve, RuntimeError for sparse gradients.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.01,
        coefficients: str | Sequence = "jordan",
        normalisation: str = "frobenius",
        ns_steps: int = 5,
        renormalize: bool = False,
        eps: float = 1e-8,
        update_scale: str = "match-adam",
        betas: tuple[float, float] = (0.9, 0.95),
        adam_eps: float = 1e-8,
        process_group=None,
        **others,
    ) -> None:
        defaults = {
            "optimizer": "muon",
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "coefficients": coefficients,
            "normalisation": normalisation,
            "ns_steps": ns_steps,
            "renormalize": renormalize,
            "eps": eps,
            "update_scale": update_scale,
            "betas": betas,
            "adam_eps": adam_eps,
            "transposed": False,
        }
        for name, value in others.items():
            if name not in (*REFUSED, "foreach", "fused"):
                raise TypeError(f"Muon has no option {name}")
            refuse(name, value)
        self.process_group = process_group
        self.num_skipped = 0
        self.num_orthogonalised = 0  # matrices that this rank orthogonalised in the last step
        self._ranks_agree: tuple | None = None
        super().__init__(params, defaults | others)

    def __getstate__(self):
        # Process groups cannot be copied; a copy computes alone until it is given one.
        return super().__getstate__() | {"num_skipped": self.num_skipped}

    def __setstate__(self, state) -> None:
        self.__dict__.setdefault("process_group", None)
        self.__dict__.setdefault("num_skipped", 0)
        self.__dict__.setdefault("num_orthogonalised", 0)
        self.__dict__.setdefault("_ranks_agree", None)
        super().__setstate__(state)

    def add_param_group(self, param_group: dict) -> None:
        """Adds a group; raises ValueError, naming group and option or parameter, if it cannot be served."""
        index = len(self.param_groups)
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[index], index)
        except Exception:
            del self.param_groups[index]
            raise

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step on all parameters that have a gradient. Returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tasks = self._tasks()
        self.num_orthogonalised = 0
        if not self._may_step(tasks):
            return loss
        matrices = []
        for task in tasks:
            if task.group["optimizer"] == "muon":
                matrices.append(task)
            elif task.group["optimizer"] == "gain":
                _step_gain(task)
        self._step_matrices(matrices)
        step_adamw([task for task in tasks if task.group["optimizer"] == "adamw"])
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads state without changing its types: fp32 momentum stays fp32 beside bf16 parameters.

        A state of torch.optim.Muon is converted: its momentum is (1 − β) times this one's. Keys that a group
        of the state lacks are the defaults. Raises ValueError for groups that cannot be served, and changes
        nothing then.
        """
        loaded: dict = {}

        def before(_, given: dict) -> dict:
            given = from_torch_muon(given, self.param_groups)
            given = checked_state(given, self.param_groups, self.defaults)
            loaded.update(given)
            return given

        def after(_) -> None:
            # torch has cast the state to the parameters' types: take the given numbers again.
            keys = [key for group in loaded["param_groups"] for key in group["params"]]
            parameters = [p for group in self.param_groups for p in group["params"]]
            for key, parameter in zip(keys, parameters, strict=True):
                for name, value in loaded["state"].get(key, {}).items():
                    if name == "step":  # a plain number in the checkpoints of others
                        self.state[parameter][name] = torch.as_tensor(value, dtype=torch.float32).clone()
                    elif isinstance(value, Tensor):
                        kept = value.to(device=parameter.device, dtype=state_type(parameter))
                        self.state[parameter][name] = kept

        hooks = [
            self.register_load_state_dict_pre_hook(before),
            self.register_load_state_dict_post_hook(after, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    # ---- what a step does, phase by phase ---------------------------------------------------------

    def _tasks(self) -> list[Task]:
        """Parameters with a gradient, in the order of the groups; makes their state."""
        tasks = []
        for index, group in enumerate(self.param_groups):
            for i, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                name = name_of(group, index, i)
                if parameter.grad.layout != torch.strided:
                    raise RuntimeError(f"Muon does not support sparse gradients: {name}")
                if group["optimizer"] == "muon" and parameter.dim() not in (2, 3):
                    raise ValueError(wrong_shape(name, parameter))
                state = self.state[parameter]
                make_state(state, parameter, group["optimizer"])
                tasks.append(Task(parameter, sharing.local(parameter.grad), name, group, state))
        return tasks

    def _may_step(self, tasks: list[Task]) -> bool:
        """False if a gradient is unusable on any rank, or if the step is the one that makes state."""
        finite = _all_usable(tasks)
        idle = all(float(group["lr"]) == 0 for group in self.param_groups)
        bad, busy = not all(finite), not idle or any(bool(task.gradient.any()) for task in tasks)
        # Agree with the ranks that hold other pieces.
        groups = {g.group_name: g for task in tasks for g in _mesh_groups(task.parameter)}
        for _ in range(min(len(groups), 2)):  # the second time for ranks that share only one of the groups
            for group in groups.values():
                bad, busy = _any_rank(bad, busy, group, tasks)
        if not bad:
            return busy
        self.num_skipped += 1
        if self.num_skipped == 1:
            names = [t.name for t, ok in zip(tasks, finite, strict=True) if not ok]
            where = ", ".join(names[:3]) or "a parameter on another rank"
            why = f"is not finite, or has a number beyond {LARGEST_GRADIENT:g}"
            warnings.warn(f"step skipped: the gradient of {where} {why}", stacklevel=3)
        return False

    def _step_matrices(self, tasks: list[Task]) -> None:
        alone, replicated, odd = [], [], []
        sharded: dict[str, tuple] = {}
        for task in tasks:
            group = sharing.rows_group(task.parameter)
            if sharing.is_whole(task.parameter):
                shares = self.process_group is not None and not isinstance(task.parameter, DTensor)
                (replicated if shares else alone).append(task)
            elif group is not None and task.parameter.dim() == 2:
                sharded.setdefault(group.group_name, (group, []))[1].append(task)
            else:
                odd.append(task)
        for task in alone:
            if task.gradient.numel():
                self._apply(task, self._orthogonalise(task, _accumulate(task)))
        self._step_replicated(replicated)
        for group, members in sharded.values():
            self._step_sharded(members, group)
        for task in odd:
            self._step_gathered(task)

    def _step_replicated(self, tasks: list[Task]) -> None:
        """DDP: the momentum of each matrix on every rank, its iteration on its owner alone."""
        if not tasks:
            return
        group = self.process_group
        self._check_ranks(tasks)
        shapes = [task.parameter.shape for task in tasks]
        ranks = dist.get_world_size(group)
        owners = sharing.choose_owners(shapes, ranks)
        for bucket in sharing.buckets(shapes, owners, ranks):
            members = [tasks[i] for i in bucket]
            updates = [_accumulate(task) for task in members]
            settings = {id(u): settings_of(t.group) for u, t in zip(updates, members, strict=True)}

            def orthogonalise(u: Tensor, settings=settings) -> Tensor:
                self.num_orthogonalised += 1
                x = normalised(u, squared_norms(u), settings[id(u)])
                return iterate(x, settings[id(u)]).to(torch.bfloat16)

            results = sharing.broadcast_results(updates, [owners[i] for i in bucket], group, orthogonalise)
            for task, result in zip(members, results, strict=True):
                self._apply(task, result)

    def _step_sharded(self, tasks: list[Task], group) -> None:
        """FSDP2: rows to the owner, the iteration there, rows of the result back."""
        shapes = [task.parameter.shape for task in tasks]
        ranks = dist.get_world_size(group)
        owners = sharing.choose_owners(shapes, ranks)
        rank = dist.get_rank(group)
        for bucket in sharing.buckets(shapes, owners, ranks):
            members = [tasks[i] for i in bucket]
            updates = [_accumulate(task) for task in members]
            # The norms of the whole matrices: sums of squares over the ranks.
            squares = torch.stack([_squares_or_zero(update) for update in updates])
            dist.all_reduce(squares, group=group)
            pieces = [
                normalised(update, square, settings_of(task.group))
                for task, update, square in zip(members, updates, squares, strict=True)
            ]
            # Matrices of different settings are iterated by their own.
            queue = [settings_of(t.group) for t, i in zip(members, bucket, strict=True) if owners[i] == rank]
            settings = iter(queue)

            def run(x: Tensor, settings=settings) -> Tensor:
                self.num_orthogonalised += 1
                return iterate(x, next(settings))

            results = sharing.exchange_rows(
                pieces, [shapes[i] for i in bucket], [owners[i] for i in bucket], group, run
            )
            for task, result in zip(members, results, strict=True):
                self._apply(task, result)

    def _step_gathered(self, task: Task) -> None:
        """Any other layout: every rank gathers the matrix, orthogonalises it and keeps its piece."""
        mesh, placements = task.parameter.device_mesh, task.parameter.placements
        update = DTensor.from_local(
            _accumulate(task),
            mesh,
            placements,
            shape=task.parameter.shape,
            stride=task.parameter.stride(),
            run_check=False,
        )
        whole = self._orthogonalise(task, update.full_tensor())
        replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
        self._apply(task, replicated.redistribute(placements=placements).to_local())

    def _orthogonalise(self, task: Task, update: Tensor) -> Tensor:
        self.num_orthogonalised += 1
        settings = settings_of(task.group)
        # bf16 as on the wire, so that the number of ranks changes nothing.
        return iterate(normalised(update, squared_norms(update), settings), settings).to(torch.bfloat16)

    def _apply(self, task: Task, orthogonal: Tensor) -> None:
        rows, columns = task.parameter.shape[-2:]
        if task.group.get("transposed"):
            rows, columns = columns, rows
        scale = update_scale(task.group["update_scale"], rows, columns)
        _move(task, orthogonal, scale)

    def _check_ranks(self, tasks: list[Task]) -> None:
        """Once per list of matrices: all ranks have the same ones, with the same numbers."""
        key = tuple((task.name, tuple(task.parameter.shape)) for task in tasks)
        if key == self._ranks_agree:
            return
        checksum = sum(float(task.parameter.double().sum()) for task in tasks)
        digest = sum(hash_of(name, shape) for name, shape in key) % (1 << 52)
        mine = torch.tensor([len(tasks), digest, checksum], dtype=torch.float64)
        mine = mine.to(tasks[0].parameter.device)
        all_of = [torch.empty_like(mine) for _ in range(dist.get_world_size(self.process_group))]
        dist.all_gather(all_of, mine, group=self.process_group)
        for rank, other in enumerate(all_of):
            if not torch.equal(other, all_of[0]):
                raise ValueError(
                    f"rank {rank} of process_group has other matrices than rank 0, or other weights; "
                    "name the group of data-parallel ranks, or no group"
                )
        self._ranks_agree = key


# ---- gradients that are not finite -----------------------------------------------------------------


def _all_usable(tasks: list[Task]) -> list[bool]:
    """Whether each gradient is finite, and so small that sums with the momentum and squares are as well."""
    if not tasks:
        return []
    flags = [
        torch.linalg.vector_norm(task.gradient, math.inf) <= LARGEST_GRADIENT  # false for NaN
        if task.gradient.numel()
        else torch.tensor(True)
        for task in tasks
    ]
    return torch.stack([flag.to(tasks[0].gradient.device) for flag in flags]).tolist()


def _mesh_groups(parameter: Tensor) -> list:
    if not isinstance(parameter, DTensor):
        return []
    mesh = parameter.device_mesh
    return [mesh.get_group(i) for i, p in enumerate(parameter.placements) if not isinstance(p, Replicate)]


def _any_rank(bad: bool, busy: bool, group, tasks: list[Task]) -> tuple[bool, bool]:
    """Whether any rank has `bad`, `busy`; ValueError if the ranks have gradients of other parameters."""
    members = [
        t.name for t in tasks if any(g.group_name == group.group_name for g in _mesh_groups(t.parameter))
    ]
    digest = sum(hash_of(name, ()) for name in members) % (1 << 40)
    device = next(t.gradient.device for t in tasks)
    flags = torch.tensor([bad, busy, digest, -digest], dtype=torch.float64, device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=group)
    if flags[2] != -flags[3]:
        raise ValueError("the ranks have gradients of different parameters: give every rank the same ones")
    return bool(flags[0]), bool(flags[1])


# ---- elementwise parts -----------------------------------------------------------------------------


def _accumulate(task: Task) -> Tensor:
    """Adds the gradient to the momentum and returns the update u of this rank's piece."""
    buffer = sharing.local(task.state["momentum_buffer"])
    gradient = task.gradient.to(buffer.dtype)
    momentum = float(task.group["momentum"])
    buffer.mul_(momentum).add_(gradient)
    return gradient + buffer * momentum if task.group["nesterov"] else buffer.clone()


def _move(task: Task, direction: Tensor, scale: float) -> None:
    """w ← (1 − lr·decay) w − lr · scale · direction, in fp32, rounded once to the parameter's type."""
    lr = float(task.group["lr"])
    weight = sharing.local(task.parameter)
    exact = weight.to(state_type(weight))
    moved = exact * (1 - lr * float(task.group["weight_decay"]))
    weight.copy_(moved.sub_(direction.to(exact.dtype), alpha=lr * scale))


def _squares_or_zero(update: Tensor) -> Tensor:
    return squared_norms(update) if update.numel() else update.new_zeros((), dtype=torch.float64)


def _step_gain(task: Task) -> None:
    update = _accumulate(task)
    square = torch.linalg.vector_norm(update, dtype=torch.float64).square()
    groups = _mesh_groups(task.parameter)
    for group in groups:
        dist.all_reduce(square, group=group)
    length = task.parameter.numel()
    _move(task, update / (square.sqrt() + 1e-8).to(update.dtype), 0.2 * math.sqrt(length))
