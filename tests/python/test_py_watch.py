"""osp.watch against osp analyze, on eager and compiled models, and what it costs others."""

import copy
import json
import math
import os
import pickle
import sys
import warnings

import pytest
import torch
from test_eval import model as osp_model  # noqa: F401 (a fixture)
from test_eval import windows
from test_py_routing import batch, llama

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "python"))
from osp.watching import _Pass, excess_kurtosis

import osp


def test_kurtosis_of_known_rows():
    one = torch.zeros(1, 100)
    one[0, 3] = 7
    total, count = excess_kurtosis(one)
    assert count == 1 and total == pytest.approx(100 - 5, abs=1.1)  # about D - 5
    assert excess_kurtosis(torch.full((3, 8), 0.1)) == (0.0, 0)
    broken = torch.full((1, 8), torch.nan).index_fill(1, torch.tensor(0), 1.0)
    assert math.isnan(excess_kurtosis(broken)[0])


@pytest.mark.parametrize("layer", [0, 1])
def test_numbers_that_are_not_finite_are_shown(layer):
    model = llama()
    model.model.layers[layer].self_attn.q_proj.weight.data[0, 0] = torch.nan
    values = osp.watch(model).measure(batch()["input_ids"])
    for name in ("excess_kurtosis", "largest_activation", "largest_attention_logit"):
        assert math.isnan(values[name]), name
    # A later call of attention in the same block does not hide it.
    seen = _Pass(1, None)
    seen.layer = 0
    for value in (1.0, torch.nan, 2.0):
        seen.add_logits(torch.tensor([value]))
    assert math.isnan(seen.logits[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_values_equal_osp_analyze(osp_model, run_program, attention):  # noqa: F811
    folder, model, text, ids = osp_model
    out = json.loads(run_program(["osp", "analyze", folder, "--data", text, "--json"]).stdout)
    model.set_attn_implementation(attention)
    watch = osp.watch(model)
    values = watch.measure(windows(ids))
    watch.close()
    # fp32 forward passes that agree to 1e-5.
    expected = out["excess_kurtosis"]
    assert values["excess_kurtosis"] == pytest.approx(expected["mean"], rel=1e-3, abs=1e-3)
    assert values["excess_kurtosis_per_layer"] == pytest.approx(expected["per_layer"], rel=1e-3, abs=1e-3)
    largest = out["largest_activation"]["value"]
    assert values["largest_activation"] == pytest.approx(largest, rel=1e-4)
    logit = out["largest_attention_logit"]
    logit = logit["value"] if isinstance(logit, dict) else logit
    assert values["largest_attention_logit"] == pytest.approx(logit, rel=1e-3)


def test_training_passes_are_counted_and_nothing_else_changes():
    plain, watched = llama(), llama()
    got = []
    watch = osp.watch(watched, every=3, to=got.append)
    for _ in range(7):
        losses = [m(**batch()).loss for m in (plain, watched)]
        assert torch.equal(*losses)
        losses[1].backward()
    watched.eval()
    with torch.no_grad():
        watched(**batch())
    assert [values["step"] for values in got] == [0, 3, 6]
    assert watch.take() == got[-1] and watch.take() is None
    assert all(z is not None for z in got[0]["largest_attention_logit_per_layer"])
    watch.close()
    assert not watched._forward_hooks and not watched.model.layers[0]._forward_hooks


def test_padding_is_no_token_and_a_failed_pass_leaves_nothing_behind():
    model = llama()
    watch = osp.watch(model, every=1)
    ids = batch(rows=2)["input_ids"]
    mask = torch.ones_like(ids)
    mask[:, 12:] = 0
    padded = watch.measure(ids, attention_mask=mask)
    short = watch.measure(ids[:, :12])
    assert padded["excess_kurtosis"] == pytest.approx(short["excess_kurtosis"], rel=1e-4)
    with pytest.raises(IndexError):
        model(torch.full((1, 4), 1000))
    assert torch.overrides._get_current_function_mode() is None
    assert model(ids) is not None and watch.latest["step"] == 1


class Interrupt:
    """As ^C in the middle of a forward pass."""

    def __call__(self, *args):
        raise KeyboardInterrupt


def test_an_interrupted_pass_is_cleaned_up_by_the_next_one_or_by_close():
    model = llama()
    watch = osp.watch(model, every=1)
    other = osp.watch(llama(), every=1)
    for tidy in ("next", "close"):
        hook = model.model.layers[1].register_forward_pre_hook(Interrupt())
        with pytest.raises(KeyboardInterrupt):
            model(**batch())
        hook.remove()
        # Another mode that came later stays.
        with Unchanged() as unchanged:
            if tidy == "next":
                model(**batch())
                assert watch.latest["step"] == 1 and watch.latest["largest_attention_logit"] is not None
            else:
                watch.close()
            assert torch.overrides._get_current_function_mode() is unchanged
        assert torch.overrides._get_current_function_mode() is None
    other.close()
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        watch.measure(batch()["input_ids"])


class Unchanged(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_a_watched_model_can_be_copied_and_pickled(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    model = llama()
    with SummaryWriter(tmp_path) as writer:
        watch = osp.watch(model, every=1, to=writer)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(**batch()).loss, model(**batch()).loss)
            again = osp.watch(copied, every=1)
            copied(**batch())
            assert again.latest["step"] == 0
        # The copies' passes do not count.
        assert watch.latest["step"] == 1


@pytest.mark.parametrize("watched", ["model", "compiled", "in place"])
def test_a_compiled_model_is_measured_between_steps(watched):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = llama()
    if watched == "in place":
        model.compile(backend="eager")
    compiled = model if watched == "in place" else torch.compile(model, backend="eager", fullgraph=True)
    watch = osp.watch(compiled if watched == "compiled" else model, every=2)
    for _ in range(4):
        compiled(**batch()).loss.backward()
    assert watch.take() is None, "the hooks are nothing in a compiled graph"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    values = watch.measure(batch()["input_ids"])
    assert values["excess_kurtosis"] is not None and values["largest_attention_logit"] is not None
    torch._dynamo.reset()


@pytest.mark.parametrize("in_place", [True, False])
def test_blocks_that_are_compiled_one_by_one_warn_once(in_place):
    torch._dynamo.reset()
    model = llama()
    watch = osp.watch(model, every=1) if in_place else None
    for i, block in enumerate(model.model.layers):
        if in_place:
            block.compile(backend="eager")
        else:
            model.model.layers[i] = torch.compile(block, backend="eager")
    watch = watch or osp.watch(model, every=1)
    with pytest.warns(UserWarning, match="compiled one by one.*measure"):
        model(**batch()).loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**batch()).loss.backward()
    assert watch.take() is None
    assert torch.overrides._get_current_function_mode() is None
    values = watch.measure(batch()["input_ids"])
    assert None not in values["largest_attention_logit_per_layer"] + values["excess_kurtosis_per_layer"]
    torch._dynamo.reset()


def test_a_writer_gets_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        values = osp.watch(llama(), to=writer).measure(batch()["input_ids"])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set()
    for name, count in (("excess_kurtosis", 3), ("largest_activation", 3), ("largest_attention_logit", 2)):
        tags |= {f"outliers/{name}"} | {f"outliers_{name}/{layer:02d}" for layer in range(count)}
        [scalar] = events.Scalars(f"outliers/{name}")
        assert scalar.value == pytest.approx(values[name], rel=1e-6) and scalar.step == 0
    assert set(events.Tags()["scalars"]) == tags
