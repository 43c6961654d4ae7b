"""osp.optim.Muon against fp64, torch.optim.Muon and AdamW, the program, and what other code does to it."""

import copy
import os
import pickle
import sys

import pytest
import torch
from oracles.muon_paper import PaperMuon
from safetensors.torch import load_file, save_file
from test_optimizers import DECAY, LR, MOMENTUM, error, run_probe
from torch import nn
from torch.distributed.checkpoint.state_dict import _init_optim_state
from transformers.pytorch_utils import Conv1D

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "python"))
import gloo_ranks
import osp.nn
from osp.optim.sharing import buckets, choose_owners, rows_of

import osp.optim

SHAPES = [(48, 128), (128, 48), (64, 64)]


def parameter(shape, seed=0, dtype=torch.float32):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


def gradients(shape, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def muon(parameters, **options):
    return osp.optim.Muon(parameters, LR, momentum=MOMENTUM, weight_decay=DECAY, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_is_nearer_to_fp64_than_the_papers_operations(shape):
    weight = parameter(shape)
    start = weight.detach().double().clone()
    paper = PaperMuon(weight.detach(), LR, MOMENTUM, DECAY)
    exact = PaperMuon(start, LR, MOMENTUM, DECAY, dtype=torch.float64)
    optimizer = muon([weight])
    for gradient in gradients(shape, 10):
        weight.grad = gradient
        optimizer.step()
        paper.step(gradient)
        exact.step(gradient.double())
        # As the program: half as many roundings to bf16 as the paper's operations.
        ours = error(weight.detach().double(), exact.weight, start)
        assert ours < 0.75 * error(paper.weight.double(), exact.weight, start)
    assert torch.allclose(optimizer.state[weight]["momentum_buffer"], paper.buffer, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"preset": "tight"}, {"coefficients": "polar-express"}])
def test_muon_moves_as_the_program_does(run_program, tmp_path, options):
    start, given, theirs, out = run_probe(run_program, tmp_path, "muon", (1, 48, 128), 2, options, steps=10)
    weight = nn.Parameter(start[0].clone())
    same = {"coefficients": "you", "normalisation": "s8"} if "preset" in options else options
    optimizer = muon([weight], **same)
    for step in range(10):
        weight.grad = given[step][0]
        optimizer.step()
        # Both round the products of the same bf16 numbers at the same places, and sum in another order.
        assert error(weight.detach(), theirs[step][0], start[0]) < 0.02, step
    buffer = optimizer.state[weight]["momentum_buffer"]
    assert torch.allclose(buffer, out["state.muon.bank.momentum"][0], rtol=1e-6, atol=1e-5)


def test_gains_move_as_the_program_does(run_program, tmp_path):
    start, given, theirs, _ = run_probe(run_program, tmp_path, "gain", (1, 1, 8), 4, steps=10)
    weight = nn.Parameter(start[0, 0].clone())
    optimizer = muon([{"params": [weight], "optimizer": "gain"}])
    for step in range(10):
        weight.grad = given[step][0, 0]
        optimizer.step()
        assert torch.allclose(weight, theirs[step][0, 0], atol=1e-6)


@pytest.mark.parametrize("ours, theirs", [("match-adam", "match_rms_adamw"), ("original", None)])
def test_muon_is_as_near_to_fp64_as_torch_muon_and_loads_its_state(ours, theirs):
    mine, other = parameter((48, 128)), parameter((48, 128))
    start = mine.detach().clone()
    reference = torch.optim.Muon([other], LR, DECAY, MOMENTUM, adjust_lr_fn=theirs)
    optimizer = muon([mine], update_scale=ours)
    for gradient in gradients((48, 128), 6):
        mine.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
        # Different roundings of bf16: 1.4 % of the first update each.
        assert error(mine.detach(), other.detach(), start) < 0.03
    # Its lerp momentum becomes our sum.
    fresh = osp.optim.Muon([parameter((48, 128))], 1.0)
    fresh.load_state_dict(reference.state_dict())
    [state] = fresh.state.values()
    expected = optimizer.state[mine]["momentum_buffer"]
    assert torch.allclose(state["momentum_buffer"], expected, rtol=1e-5, atol=1e-5)
    assert fresh.param_groups[0]["update_scale"] == ours and fresh.param_groups[0]["lr"] == LR


def test_adamw_equals_torch_bit_for_bit():
    mine, other = parameter((16, 29)), parameter((16, 29))
    reference = torch.optim.AdamW([other], LR, (0.9, 0.95), weight_decay=DECAY, fused=True)
    optimizer = muon([{"params": [mine], "optimizer": "adamw"}])
    for gradient in gradients((16, 29), 5):
        mine.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_adamw_gives_rows_by_themselves_the_bits_of_the_whole(dtype):
    """torch's fused kernel does not: it rounds what no vector holds in another way."""
    whole = parameter((17, 29), dtype=dtype)
    rows = [nn.Parameter(whole[first : first + 4].detach().clone()) for first in range(0, 17, 4)]
    rows.append(nn.Parameter(torch.zeros(0, 29, dtype=dtype)))
    one = muon([{"params": [whole], "optimizer": "adamw"}])
    other = muon([{"params": rows, "optimizer": "adamw"}])
    for gradient in gradients((17, 29), 5):
        whole.grad = gradient.to(dtype)
        for row, piece in zip(rows, [*whole.grad.split(4), whole.grad[17:]], strict=True):
            row.grad = piece  # which does not begin where its storage does
        one.step()
        other.step()
    assert torch.equal(torch.cat(rows), whole)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(torch.cat([other.state[row][name] for row in rows]), one.state[whole][name])
    assert {int(other.state[row]["step"]) for row in rows} == {5}
    assert one.state[whole]["step"] == 5


@pytest.mark.parametrize("kind", ["channels_last", "converted", "loaded", "transposed", "gradient"])
def test_adamw_is_right_for_every_layout_in_memory(kind):
    shape = (8, 4, 3, 3) if kind in ("channels_last", "converted", "loaded") else (6, 8)
    start = parameter(shape).detach()
    mine, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    if kind == "channels_last":
        mine = nn.Parameter(start.to(memory_format=torch.channels_last))
    elif kind == "transposed":
        mine = nn.Parameter(start.t().contiguous().t())
    optimizer = muon([{"params": [mine], "optimizer": "adamw"}])
    reference = torch.optim.AdamW([other], LR, (0.9, 0.95), weight_decay=DECAY)
    for step, gradient in enumerate(gradients(shape, 5)):
        if step == 2 and kind == "converted":
            mine.data = mine.data.to(memory_format=torch.channels_last)
        if step == 2 and kind == "loaded":
            saved = copy.deepcopy(optimizer.state_dict())
            mine = nn.Parameter(mine.detach().to(memory_format=torch.channels_last))
            optimizer = muon([{"params": [mine], "optimizer": "adamw"}])
            optimizer.load_state_dict(saved)
        given = gradient.t().contiguous().t() if kind == "gradient" else gradient
        mine.grad, other.grad = given, gradient
        optimizer.step()
        reference.step()
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-7), step


def test_a_stack_of_matrices_is_orthogonalised_one_by_one():
    stack = parameter((3, 8, 6))
    single = [nn.Parameter(stack[i].detach().clone()) for i in range(3)]
    [gradient] = gradients((3, 8, 6), 1)
    stack.grad = gradient
    for i in range(3):
        single[i].grad = gradient[i]
    muon([stack]).step()
    muon(single).step()
    # bf16 products of another shape may sum in another order.
    assert torch.allclose(stack, torch.stack(list(single)), atol=2e-3 * LR * 0.2 * 8**0.5 * 10)


def test_state_keeps_its_types_through_load_state_dict():
    def mixed():
        matrix, table = parameter((8, 6), dtype=torch.bfloat16), parameter((8, 6), 1, torch.bfloat16)
        groups = [{"params": [matrix]}, {"params": [table], "optimizer": "adamw"}]
        return muon(groups), [matrix, table]

    first, parameters = mixed()
    for p in parameters:
        p.grad = torch.randn_like(p)
    first.step()
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    second, others = mixed()
    second.load_state_dict(state_dict=saved)
    for p, q in zip(parameters, others, strict=True):
        for name, value in first.state[p].items():
            assert value.dtype == torch.float32 and second.state[q][name].dtype == torch.float32
            assert torch.equal(value, second.state[q][name])


def trained():
    weight = parameter((8, 6))
    optimizer = muon([weight])
    weight.grad = torch.randn(8, 6)
    optimizer.step()
    return optimizer


def test_a_state_that_cannot_be_served_changes_nothing():
    optimizer, other = trained(), trained()
    before = copy.deepcopy(optimizer.state_dict())
    weight = optimizer.param_groups[0]["params"][0]
    adam = torch.optim.AdamW([weight], 0.3)
    adam.step()
    wrong = [
        ({"update_scale": "bogus"}, "match-adam"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"lr": -1.0}, "lr = -1"),
    ]
    states = [(adam.state_dict(), "group 0 of the state has no key optimizer")]
    for change, message in wrong:
        state = copy.deepcopy(other.state_dict())
        state["param_groups"][0] |= change
        states.append((state, message))
    theirs = torch.optim.Muon([weight], 0.3).state_dict()
    theirs["param_groups"][0]["adjust_lr_fn"] = "new"
    states.append((theirs, "adjust_lr_fn = 'new'"))
    for state, message in states:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for name, value in before["state"][0].items():
            assert torch.equal(value, after["state"][0][name])


def test_keys_that_a_state_lacks_are_the_defaults():
    state = copy.deepcopy(trained().state_dict())
    for name in ("eps", "renormalize", "transposed"):
        del state["param_groups"][0][name]
    other = osp.optim.Muon([parameter((8, 6))], 1.0, eps=1e-5)
    other.load_state_dict(state)
    group = other.param_groups[0]
    assert group["eps"] == 1e-5 and not group["renormalize"] and group["lr"] == LR
    other.param_groups[0]["params"][0].grad = torch.randn(8, 6)
    other.step()


@pytest.mark.parametrize("scale", ["match-adam", "original", "spectral"])
def test_a_conv1d_of_transformers_moves_as_the_linear_layer_of_its_transpose(scale):
    plain, other = nn.Linear(8, 32, bias=False), Conv1D(32, 8)
    other.weight.data = plain.weight.data.t().clone()
    start = plain.weight.detach().clone()
    [gradient] = gradients((32, 8), 1)
    plain.weight.grad, other.weight.grad = gradient, gradient.t().contiguous()
    for layer in (plain, other):
        osp.optim.Muon(osp.optim.param_groups(layer, lr=LR, update_scale=scale)).step()
    # The orientation of the iteration does not change its products.
    assert error(other.weight.detach().t(), plain.weight.detach(), start) < 0.01


def test_the_step_that_makes_state_changes_nothing():
    for lr in (0.1, torch.tensor(0.1)):
        matrix, table = parameter((8, 6)), parameter((5, 6))
        groups = [{"params": [matrix]}, {"params": [table], "optimizer": "adamw"}]
        optimizer = osp.optim.Muon(groups, lr)
        before = [matrix.detach().clone(), table.detach().clone()]
        _init_optim_state(optimizer)
        assert torch.equal(matrix, before[0]) and torch.equal(table, before[1])
        assert not optimizer.state[matrix]["momentum_buffer"].any()
        assert optimizer.state[table]["step"] == 0 and optimizer.num_skipped == 0
        assert optimizer.param_groups[0]["lr"] == lr


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_enters_nothing(bad):
    matrix, table = parameter((8, 6)), parameter((5, 6))
    optimizer = muon([{"params": [matrix]}, {"params": [table], "optimizer": "adamw"}])
    for p in (matrix, table):
        p.grad = torch.randn_like(p)
    optimizer.step()
    before = copy.deepcopy((matrix, table, optimizer.state_dict()["state"]))
    table.grad[0, 0] = bad
    with pytest.warns(UserWarning, match="parameter 0 of group 1"):
        optimizer.step()
    assert torch.equal(matrix, before[0]) and torch.equal(table, before[1]) and optimizer.num_skipped == 1
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, before[2][key][name]) for name, value in state.items())


def test_parameters_may_be_replaced_after_construction():
    """accelerate puts placeholders into the groups before it shards, and sharded parameters afterwards."""
    one, two = parameter((8, 6)), parameter((8, 6))
    optimizer, plain = muon([one]), muon([two])
    optimizer.param_groups[0]["params"] = [torch.empty(1)]
    replaced = nn.Parameter(one.detach().clone())
    optimizer.param_groups[0]["params"] = [replaced]
    [gradient] = gradients((8, 6), 1)
    replaced.grad = two.grad = gradient
    optimizer.step()
    plain.step()
    assert torch.equal(replaced, two) and list(optimizer.state) == [replaced]


def test_rates_closures_missing_gradients_and_copies():
    one, two, idle = parameter((8, 6)), parameter((8, 6)), parameter((8, 6))
    floats, tensors = muon([one, idle]), osp.optim.Muon([two], torch.tensor(LR), weight_decay=DECAY)

    def loss_of(p):
        def closure():
            p.grad = None
            loss = (p**3).sum()
            loss.backward()
            return loss

        return closure

    assert floats.step(loss_of(one)) == tensors.step(loss_of(two))
    assert torch.allclose(one, two, atol=1e-7) and idle not in floats.state
    # A copy goes on as the original does.
    copied = pickle.loads(pickle.dumps(copy.deepcopy(floats)))
    twin = copied.param_groups[0]["params"][0]
    assert torch.equal(twin, one)
    [gradient] = gradients((8, 6), 1, seed=2)
    before, twin.grad, one.grad = one.detach().clone(), gradient.clone(), gradient.clone()
    copied.step()
    floats.step()
    assert torch.equal(twin, one) and not torch.equal(one, before)
    assert copied.param_groups[0]["lr"] == LR
    empty = nn.Parameter(torch.empty(0, 6))
    empty.grad = torch.empty(0, 6)
    optimizer = muon([empty])
    optimizer.step()
    assert optimizer.state[empty]["momentum_buffer"].shape == (0, 6)
    scheduler = torch.optim.lr_scheduler.StepLR(floats, 1, 0.5)
    floats.step()
    scheduler.step()
    assert floats.param_groups[0]["lr"] == LR / 2


def test_names_and_other_keys_stay_in_the_groups():
    named = [("layer.weight", parameter((8, 6)))]
    optimizer = osp.optim.Muon([{"params": named, "fused": True, "foreach": False, "mine": 3}], LR)
    group = optimizer.state_dict()["param_groups"][0]
    assert group["param_names"] == ["layer.weight"] and group["fused"] and group["mine"] == 3


@pytest.mark.parametrize(
    "parameters, options, message",
    [
        ([parameter((8,))], {}, r"parameter 0 of group 0 \[8\] has 1 dimensions.*param_groups"),
        ([("bias", parameter((8,)))], {}, r"bias \[8\]"),
        ([nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))], {}, "complex64"),
        ([parameter((8, 6))], {"maximize": True}, "maximize=True; negate the loss"),
        ([parameter((8, 6))], {"capturable": True}, "capturable"),
        ([{"params": [parameter((8, 6))], "amsgrad": True}], {}, "amsgrad"),
        ([parameter((8, 6))], {"coefficients": "jordna"}, "jordan, you, polar-express"),
        ([parameter((8, 6))], {"coefficients": "you", "ns_steps": 6}, "5 steps"),
        ([parameter((8, 6))], {"weight_decay": -1}, "weight_decay = -1"),
        ([parameter((8, 6))], {"update_scale": "adam"}, "match-adam"),
        ([{"params": [parameter((8, 6))], "optimizer": "adam"}], {}, "muon, adamw, gain"),
    ],
)
def test_what_it_cannot_serve_is_refused_by_name(parameters, options, message):
    with pytest.raises(ValueError, match=message):
        osp.optim.Muon(parameters, 0.1, **options)


def test_sparse_gradients_and_unknown_options_are_refused():
    table = parameter((8, 6))
    table.grad = torch.eye(8, 6).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients: parameter 0"):
        muon([table]).step()
    with pytest.raises(TypeError, match="no option momentun"):
        osp.optim.Muon([table], momentun=0.9)


def test_owners_share_the_work_evenly_and_buckets_hold_everything():
    shapes = [(64, 64)] * 6 + [(128, 64)] * 3
    owners = choose_owners(shapes, 2)
    assert sorted(owners) == [0] * 4 + [1] * 5 or sorted(owners) == [0] * 5 + [1] * 4
    parts = list(buckets(shapes, owners, 2, limit=16384))
    assert sorted(i for part in parts for i in part) == list(range(9)) and len(parts) > 1
    assert rows_of(9, 4) == [3, 3, 3, 0] and rows_of(1, 2) == [1, 0]
    for rows, ranks in ((9, 4), (7, 2), (5, 8)):
        chunks = [len(c) for c in torch.zeros(rows).chunk(ranks)]
        assert rows_of(rows, ranks)[: len(chunks)] == chunks


@pytest.mark.parametrize("layout", ["fsdp2", "ddp", "other_layout"])
def test_two_ranks_have_the_bits_of_one_process(layout, tmp_path):
    model = gloo_ranks.Small()
    with pytest.warns(UserWarning, match="not finite"):
        gloo_ranks.train(model, bad_at=2)
    alone = gloo_ranks.whole(model)
    for result in gloo_ranks.start(gloo_ranks.__file__, layout, tmp_path):
        for name, value in alone.items():
            assert torch.equal(result[name], value), name


def test_ranks_of_different_weights_do_not_share_work(tmp_path):
    gloo_ranks.start(gloo_ranks.__file__, "different_weights", tmp_path)


def test_saved_state_survives_a_file(tmp_path):
    weight = parameter((8, 6))
    optimizer = muon([weight])
    weight.grad = torch.randn(8, 6)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = muon([parameter((8, 6))])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    save_file({"m": optimizer.state[weight]["momentum_buffer"]}, tmp_path / "m.safetensors")
    [state] = other.state.values()
    assert torch.equal(load_file(tmp_path / "m.safetensors")["m"], state["momentum_buffer"])
