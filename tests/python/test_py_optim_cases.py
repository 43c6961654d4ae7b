"""What every optimizer of torch does, asked of osp.optim.Muon with its three kinds of groups: copies, saved
state, new groups, closures, kernels, rates as tensors, schedulers, hooks, GradScaler; and huge gradients."""

import copy
import io
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from osp.optim import Muon


def parameters(seed=1):
    """A matrix of Muon, a table and a vector of AdamW, a scalar of the gain rule."""
    torch.manual_seed(seed)
    shapes = {"matrix": (6, 4), "table": (9, 4), "vector": (4,), "gain": (1,)}
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def groups(p):
    return [
        {"params": [p["matrix"]], "optimizer": "muon"},
        {"params": [p["table"], p["vector"]], "optimizer": "adamw", "lr": 0.02},
        {"params": [p["gain"]], "optimizer": "gain"},
    ]


def give_gradients(p, step, scale=1.0):
    torch.manual_seed(100 + step)
    for parameter in p.values():
        parameter.grad = torch.randn_like(parameter) * scale


def train(p, optimizer, steps, first=0):
    for step in range(first, first + steps):
        give_gradients(p, step)
        optimizer.step()


def assert_equal(p, q):
    for name in p:
        assert torch.equal(p[name], q[name]), name


@pytest.fixture
def trained():
    p = parameters()
    optimizer = Muon(groups(p), lr=0.05)
    train(p, optimizer, 3)
    return p, optimizer


def through_state_dict(p, optimizer):
    q = {name: torch.nn.Parameter(x.detach().clone()) for name, x in p.items()}
    other = Muon(groups(q), lr=9.0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    return q, other


def through_deepcopy(p, optimizer):
    return copy.deepcopy((p, optimizer))


def through_pickle(p, optimizer):
    return pickle.loads(pickle.dumps((p, optimizer)))


@pytest.mark.parametrize("way", [through_state_dict, through_deepcopy, through_pickle])
def test_what_was_copied_goes_on_with_the_same_bits(trained, way):
    p, optimizer = trained
    q, other = way(p, optimizer)
    train(p, optimizer, 3, first=3)
    before = {name: x.detach().clone() for name, x in q.items()}
    train(q, other, 3, first=3)
    assert_equal(p, q)
    assert not torch.equal(before["matrix"], q["matrix"])
    # Nothing is shared: the copy goes on alone.
    train(q, other, 1, first=6)
    assert not torch.equal(p["matrix"], q["matrix"])


def test_state_dict_is_as_torchs_are(trained):
    _, optimizer = trained
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2], [3]]
    assert set(saved["state"][0]) == {"momentum_buffer"}
    assert set(saved["state"][1]) == {"step", "exp_avg", "exp_avg_sq"}
    again = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    for key, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(again["state"][key][name]))


def test_a_group_that_is_added_later_is_as_one_that_was_there():
    p, q = parameters(), parameters()
    whole = Muon(groups(p), lr=0.05)
    grown = Muon(groups(q)[:1], lr=0.05)
    for group in groups(q)[1:]:
        grown.add_param_group(group)
    train(p, whole, 3)
    train(q, grown, 3)
    assert_equal(p, q)
    with pytest.raises(ValueError, match="more than one parameter group"):
        grown.add_param_group({"params": [q["matrix"]]})


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad(trained, to_none):
    p, optimizer = trained
    optimizer.zero_grad(set_to_none=to_none)
    for x in p.values():
        assert (x.grad is None) if to_none else not x.grad.any()
    before = {name: x.detach().clone() for name, x in p.items()}
    optimizer.step()
    if to_none:
        assert_equal(before, p)
    else:  # momentum goes on
        assert not torch.equal(before["matrix"], p["matrix"])


def test_a_closure_is_called_once_with_gradients_on():
    p = parameters()
    optimizer = Muon(groups(p), lr=0.05)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = sum((x * x).sum() for x in p.values())
        loss.backward()
        calls.append(loss.item())
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses == calls and losses[2] < losses[0]


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": None}])
def test_a_choice_of_kernel_changes_no_number(options):
    p, q = parameters(), parameters()
    train(p, Muon(groups(p), lr=0.05), 3)
    train(q, Muon(groups(q), lr=0.05, **options), 3)
    assert_equal(p, q)


def test_a_rate_may_be_a_tensor_that_others_change():
    p, q = parameters(), parameters()
    rate = torch.tensor(0.05)
    a, b = Muon(groups(p)[:1], lr=0.05), Muon(groups(q)[:1], lr=rate)
    train(p, a, 2)
    train(q, b, 2)
    torch.testing.assert_close(p["matrix"], q["matrix"], atol=1e-6, rtol=0)  # 0.05 is rounded to fp32
    rate.zero_()
    before = q["matrix"].detach().clone()
    train(q, b, 1, first=2)
    assert torch.equal(before, q["matrix"])


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_set_the_rates_of_steps(name):
    """The same rates set by hand give the same bits, and those of SGD under the scheduler are the same."""
    p, q, r = parameters(), parameters(), parameters()
    ours = Muon(groups(p), lr=0.05)
    by_hand = Muon(groups(q), lr=0.05)
    reference = torch.optim.SGD(
        [{k: v for k, v in g.items() if k != "optimizer"} for g in groups(r)], lr=0.05
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR passes a deprecated argument
        schedule, wanted = SCHEDULERS[name](ours), SCHEDULERS[name](reference)
    for step in range(6):
        rates = [group["lr"] for group in reference.param_groups]
        assert [group["lr"] for group in ours.param_groups] == rates
        for group, rate in zip(by_hand.param_groups, rates, strict=True):
            group["lr"] = rate
        for params, optimizer in ((p, ours), (q, by_hand)):
            train(params, optimizer, 1, first=step)
        reference.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule.step()
            wanted.step()
    assert_equal(p, q)


def test_a_plateau_lowers_every_groups_rate():
    optimizer = Muon(groups(parameters()), lr=0.05)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for loss in (1.0, 2.0):
        schedule.step(loss)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.01, 0.025]


def test_hooks_are_called_around_a_step(trained):
    p, optimizer = trained
    seen = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append(("before", p["matrix"].detach().clone()))),
        optimizer.register_step_post_hook(lambda *_: seen.append(("after", p["matrix"].detach().clone()))),
    ]
    train(p, optimizer, 1, first=3)
    for handle in handles:
        handle.remove()
    train(p, optimizer, 1, first=4)
    assert [when for when, _ in seen] == ["before", "after"]
    assert not torch.equal(seen[0][1], seen[1][1])


def test_a_grad_scaler_changes_no_number_and_skips_what_overflows():
    """Its factor is a power of two, so that scaling and unscaling are exact."""
    p, q = parameters(), parameters()
    plain, scaled = Muon(groups(p), lr=0.05), Muon(groups(q), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=1000)
    for _ in range(3):
        for params, optimizer, scale in ((p, plain, lambda x: x), (q, scaled, scaler.scale)):
            optimizer.zero_grad()
            scale(sum((x * x).sum() for x in params.values())).backward()
            if optimizer is plain:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    assert_equal(p, q)
    before, state = copy.deepcopy(q), copy.deepcopy(scaled.state_dict()["state"])
    give_gradients(q, 0)
    q["vector"].grad[0] = float("inf")
    scaler.scale(torch.ones(()))  # a scaler wants to have scaled before
    scaler.step(scaled)
    scaler.update()
    assert scaler.get_scale() == 2.0**11 and scaled.num_skipped == 0
    assert_equal(before, q)
    for key, entries in scaled.state_dict()["state"].items():
        for name, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state[key][name]))


@pytest.mark.parametrize("name", ["matrix", "table", "vector", "gain"])
@pytest.mark.parametrize("huge", [3e38, -3e38, 2e18])
def test_a_finite_gradient_whose_sums_or_squares_overflow_enters_nothing(trained, name, huge):
    """3e38 is finite, but g + 0.95 (g + …) is not: the momentum would be lost for good."""
    p, optimizer = trained
    before, state = copy.deepcopy(p), copy.deepcopy(optimizer.state_dict()["state"])
    give_gradients(p, 3)
    p[name].grad.view(-1)[0] = huge
    with pytest.warns(UserWarning, match="beyond 1e"):
        optimizer.step()
    assert optimizer.num_skipped == 1
    assert_equal(before, p)
    for key, entries in optimizer.state_dict()["state"].items():
        for entry, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state[key][entry]))
    train(p, optimizer, 2, first=4)
    assert all(torch.isfinite(x).all() for x in p.values())


def test_the_largest_gradient_that_is_taken_leaves_everything_finite():
    p = parameters()
    optimizer = Muon(groups(p), lr=0.05)
    for step in range(40):
        give_gradients(p, step)
        for x in p.values():
            x.grad.fill_(1e18)
        optimizer.step()
    assert optimizer.num_skipped == 0
    for x in p.values():
        assert torch.isfinite(x).all()
    for state in optimizer.state.values():
        assert all(torch.isfinite(torch.as_tensor(value)).all() for value in state.values())
