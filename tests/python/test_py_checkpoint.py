"""osp.optim.Muon through torch.distributed.checkpoint, accelerate's swap, DDP and FSDP2."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
import checkpoint_ranks
import gloo_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def saved(folder):
    """{checkpoint: weights and state of the run that went on}; the checkpoints are in `folder`."""
    first, second = gloo_ranks.start(checkpoint_ranks.__file__, "save", folder)
    for name in first:
        assert_same(second[name], first[name])
    return first


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_checkpoint_of_two_ranks_goes_on_with_the_same_bits_on_any_number(saved, folder, ranks):
    """Weights and state after three more steps, sharded in rows, in HSDP's two dimensions or not at all."""
    for ends in gloo_ranks.start(checkpoint_ranks.__file__, "resume", folder, ranks):
        assert len(ends) == len(saved) * (1 if ranks == 2 else 2)
        for (_, name), end in ends.items():
            assert_same(end, saved[name])


def test_state_is_fp32_beside_bf16_parameters_in_a_checkpoint(saved):
    for name, end in saved.items():
        weights = torch.bfloat16 if name.startswith("bf16") else torch.float32
        state = {key: value for key, value in end.items() if "momentum" in key or "exp_avg" in key}
        assert len(state) == 10 and all(value.dtype == torch.float32 for value in state.values())
        assert end["layers.0.weight"].dtype == weights
        # Not fp32 numbers that were bf16 on the way.
        momentum = end["layers.0.weight.momentum_buffer"]
        assert not torch.equal(momentum, momentum.bfloat16().float())


def test_both_forms_of_a_checkpoint_hold_the_same(saved):
    for dtype in checkpoint_ranks.TYPES:
        assert_same(saved[f"{dtype}-names"], saved[f"{dtype}-numbers"])


def test_placeholders_replaced_by_sharded_parameters_train_as_one_process(tmp_path):
    model, optimizer = checkpoint_ranks.make("plain", torch.float32)
    checkpoint_ranks.train(model, optimizer, 0, checkpoint_ranks.END)
    alone = checkpoint_ranks.everything(model, optimizer)
    for found in gloo_ranks.start(checkpoint_ranks.__file__, "swapped", tmp_path):
        assert_same(found, alone)


def test_ddp_and_fsdp2_learn_what_one_process_does(tmp_path):
    """Of the same batch in two halves, whose gradients are sums in another order: within a rounding to bf16
    (2^-8) of the change. With passes in bf16 the gradients themselves differ, which the iteration enlarges
    where singular values are small."""
    alone = checkpoint_ranks.learn(*checkpoint_ranks.make("plain", torch.float32))
    first, second = gloo_ranks.start(checkpoint_ranks.__file__, "data_parallel", tmp_path)
    for way, limit in (("ddp", 2**-8), ("fsdp2", 2**-8), ("mixed", 0.25)):
        assert_same(second[way], first[way])
        for name, change in first[way].items():
            distance = (change - alone[name]).norm() / alone[name].norm()
            print(way, name, float(distance))
            assert distance <= limit, (way, name, float(distance))
