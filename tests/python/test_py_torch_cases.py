"""torch's own cases for optimizers (torch.testing._internal.common_optimizers), asked of osp.optim.Muon.

The options and the wrong inputs are those that torch generates for its Muon and its AdamW; what is asked is
what test_optim.py of PyTorch asks of every optimizer.
"""

import copy
import io
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import (
    OptimizerErrorEnum,
    OptimizerInfo,
    get_error_inputs_for_all_optims,
    optim_inputs_func_adamw,
    optim_inputs_func_muon,
)
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from osp.optim.groups import TORCH_SCALES

from osp.optim import Muon

# Our names of torch's options.
NAMES = {"ns_coefficients": "coefficients", "adjust_lr_fn": "update_scale", "eps": "adam_eps"}


def ours(inputs):
    for given in inputs:
        kwargs = {NAMES.get(name, name): value for name, value in given.kwargs.items()}
        if "update_scale" in kwargs:
            kwargs["update_scale"] = TORCH_SCALES[kwargs["update_scale"]]
        yield pytest.param(kwargs, id=given.desc)


INFOS = {
    "muon": OptimizerInfo(
        Muon, optim_inputs_func=optim_inputs_func_muon, supports_complex=False, supported_impls=()
    ),
    "adamw": OptimizerInfo(
        Muon, optim_inputs_func=optim_inputs_func_adamw, supports_complex=False, supported_impls=()
    ),
}
CASES = [
    pytest.param(kind, *case.values, id=f"{kind}-{case.id}")
    for kind, info in INFOS.items()
    for case in ours(info.optim_inputs_func("cpu", torch.float32))
]
REFUSED = [case for case in CASES if {"maximize", "amsgrad"} & case.values[1].keys()]
CASES = [case for case in CASES if case not in REFUSED]


def make(kind, kwargs, seed=0):
    """(the two parameters of test_optim.py's linear problem, optimizer)."""
    torch.manual_seed(seed)
    shapes = [(10, 5), (10, 1)] if kind == "muon" else [(10, 5), (10,)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    return parameters, Muon([{"params": parameters, "optimizer": kind}], **kwargs)


def closure_of(parameters, optimizer):
    weight, bias = parameters
    target = torch.randn(5, generator=torch.Generator().manual_seed(9))

    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(target) + bias.flatten()).pow(2).sum()
        loss.backward()
        return loss

    return closure


def run(parameters, optimizer, steps):
    closure = closure_of(parameters, optimizer)
    return [optimizer.step(closure).item() for _ in range(steps)]


@pytest.mark.parametrize("error", get_error_inputs_for_all_optims("cpu", torch.float32))
def test_wrong_inputs_are_refused_with_torchs_words(error):
    given = error.optimizer_error_input
    assert error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
    parameters = given.params if given.params is not None else [torch.nn.Parameter(torch.ones(2, 2))]
    expected = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
    with expected(error.error_type, match=error.error_regex):
        Muon(parameters, **given.kwargs)


@pytest.mark.parametrize("kind, kwargs", REFUSED)
def test_options_that_are_not_served_are_refused(kind, kwargs):
    with pytest.raises(ValueError, match="does not support"):
        make(kind, kwargs)


@pytest.mark.parametrize("kind, kwargs", CASES)
@pytest.mark.parametrize("scheduled", [False, True])
def test_it_goes_in_the_right_direction(kind, kwargs, scheduled):
    parameters, optimizer = make(kind, kwargs)
    closure = closure_of(parameters, optimizer)
    schedules = [
        lr_scheduler.StepLR(optimizer, gamma=0.99, step_size=10),
        lr_scheduler.ReduceLROnPlateau(optimizer),
    ]
    first = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure).detach()
        for schedule in schedules if scheduled else ():
            plateau = isinstance(schedule, lr_scheduler.ReduceLROnPlateau)
            schedule.step(loss) if plateau else schedule.step()
    assert closure().item() < first


@pytest.mark.parametrize("kind, kwargs", CASES)
def test_a_tensor_rate_is_as_a_float(kind, kwargs):
    plain, tensor = copy.deepcopy(kwargs), copy.deepcopy(kwargs)
    plain["lr"] = float(torch.tensor(float(kwargs.get("lr", 0.001))))  # as fp32 holds it
    tensor["lr"] = torch.tensor(plain["lr"])
    (p, a), (q, b) = make(kind, plain), make(kind, tensor)
    assert run(p, a, 5) == run(q, b, 5)
    assert all(map(torch.equal, p, q))


@pytest.mark.parametrize("kind, kwargs", CASES)
def test_a_saved_state_goes_on_the_same_and_is_plain_numbers(kind, kwargs):
    parameters, optimizer = make(kind, kwargs)
    run(parameters, optimizer, 3)
    others, fresh = make(kind, kwargs, seed=1)
    with torch.no_grad():
        for p, q in zip(parameters, others, strict=True):
            q.copy_(p)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert run(parameters, optimizer, 3) == run(others, fresh, 3)
    assert all(map(torch.equal, parameters, others))
    # A second time from the same optimizer: saving changes nothing.
    again = copy.deepcopy(fresh.state_dict())
    torch.testing.assert_close(fresh.state_dict()["state"], again["state"], rtol=0, atol=0)


def test_steps_that_were_saved_as_numbers_are_loaded():
    """As checkpoints of old versions of PyTorch and those of other programs have them."""
    parameters, optimizer = make("adamw", {})
    run(parameters, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    fresh = Muon([{"params": others, "optimizer": "adamw"}])
    fresh.load_state_dict(saved)
    assert run(parameters, optimizer, 2) == run(others, fresh, 2)
    assert all(state["step"] == 5 for state in fresh.state.values())


@pytest.mark.parametrize("kind, kwargs", CASES)
def test_copies_have_every_public_attribute_and_state_is_never_empty(kind, kwargs):
    parameters, optimizer = make(kind, kwargs)
    run(parameters, optimizer, 2)

    def public(thing):
        return {name for name in thing.__dict__ if not name.startswith("_")}

    assert public(copy.deepcopy(optimizer)) == public(optimizer)
    assert all(optimizer.state[p] for p in parameters) and "Muon" in repr(optimizer)


@pytest.mark.parametrize("kind, kwargs", CASES)
@pytest.mark.parametrize("gradient", [None, 0.0])
def test_without_gradients_nothing_moves(kind, kwargs, gradient):
    kwargs = {**kwargs, "weight_decay": 0.0}
    parameters, optimizer = make(kind, kwargs)
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = None if gradient is None else torch.zeros_like(p)
    optimizer.step()
    assert all(map(torch.equal, parameters, before))


class WritesNothingTo(TorchDispatchMode):
    """Raises if an operator changes one of these tensors in place.

    AdamW's fused kernel may, says its schema: it would divide gradients by a GradScaler's factor.
    """

    def __init__(self, tensors):
        super().__init__()
        self.addresses = {tensor.data_ptr() for tensor in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            written = written and func is not torch.ops.aten._fused_adamw_.default
            for tensor in (value if isinstance(value, list | tuple) else [value]) if written else ():
                assert tensor.data_ptr() not in self.addresses, f"{func} writes to a gradient"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind, kwargs", CASES)
def test_gradients_are_never_written_to(kind, kwargs):
    parameters, optimizer = make(kind, kwargs)
    for _ in range(2):
        for p in parameters:
            p.grad = torch.randn_like(p)
        before = [p.grad.clone() for p in parameters]
        with WritesNothingTo([p.grad for p in parameters]):
            optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True))


@pytest.mark.parametrize("kind", INFOS)
def test_groups_have_their_own_options(kind):
    parameters, _ = make(kind, {})
    weight, bias = parameters
    kept = bias.detach().clone()
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.0}]
    optimizer = Muon([group | {"optimizer": kind} for group in groups], lr=0.01, weight_decay=0.0)
    losses = run(parameters, optimizer, 20)
    assert losses[-1] < losses[0] and torch.equal(bias, kept)


def test_hooks_of_all_optimizers_and_of_one_are_called_in_torchs_order():
    parameters, optimizer = make("muon", {})
    seen = []

    def note(word):
        return lambda *_: seen.append(word)

    handles = [
        register_optimizer_step_pre_hook(note("global before")),
        register_optimizer_step_post_hook(note("global after")),
        optimizer.register_step_pre_hook(note("before")),
        optimizer.register_step_post_hook(note("after")),
        optimizer.register_load_state_dict_pre_hook(note("before loading")),
        optimizer.register_load_state_dict_post_hook(note("after loading")),
        optimizer.register_state_dict_pre_hook(note("before saving")),
        optimizer.register_state_dict_post_hook(note("after saving")),
    ]
    run(parameters, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    for handle in handles:
        handle.remove()
    run(parameters, optimizer, 1)
    step = ["global before", "before", "after", "global after"]
    assert seen == [*step, "before saving", "after saving", "before loading", "after loading"]


def test_a_hook_may_change_the_state_that_is_loaded():
    parameters, optimizer = make("muon", {})
    run(parameters, optimizer, 1)
    saved = optimizer.state_dict()

    def slower(_, given):
        given = copy.deepcopy(given)
        given["param_groups"][0]["lr"] = 0.125
        for state in given["state"].values():
            state["momentum_buffer"].zero_()
        return given

    optimizer.register_load_state_dict_pre_hook(slower)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert not any(state["momentum_buffer"].any() for state in optimizer.state.values())
