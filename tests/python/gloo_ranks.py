"""Functions that Gloo ranks run, and how they are started: gloo_ranks.py FUNCTION RANK RANKS STORE OUT."""

import os
import subprocess
import sys
from pathlib import Path

import osp.nn
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import osp.optim

SHAPES = [(7, 5), (3, 8), (1, 6), (9, 9), (4, 2)]  # rows that do not divide, one row: empty pieces


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList([nn.Linear(columns, rows) for rows, columns in SHAPES])
        self.gain = osp.nn.SSNorm(4)


def train(model, steps=4, bad_at=None, **options):
    """Steps with the same gradients on every rank and in every layout. Returns the optimizer."""
    optimizer = osp.optim.Muon(osp.optim.param_groups(model, lr=0.02), **options)
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        for parameter in model.parameters():
            whole = torch.randn(parameter.shape, generator=generator)
            if step == bad_at and tuple(parameter.shape) == (9, 9):
                whole[0, 0] = torch.nan  # a row that the second rank does not hold
            if isinstance(parameter, DTensor):
                mesh, places = parameter.device_mesh, parameter.placements
                whole = torch.distributed.tensor.distribute_tensor(whole, mesh, places)
            parameter.grad = whole
        optimizer.step()
    return optimizer


def whole(model):
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def sharded():
    model = Small()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def fsdp2():
    model = sharded()
    optimizer = train(model, bad_at=2)
    assert optimizer.num_skipped == 1
    # The work is split, and every piece of state lies as its parameter does.
    counts = torch.tensor([optimizer.num_orthogonalised])
    dist.all_reduce(counts)
    assert counts.item() == len(SHAPES) and optimizer.num_orthogonalised < len(SHAPES)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            assert name == "step" or value.placements == parameter.placements
    # The state goes through torch's checkpoint functions into a fresh optimizer.
    saved = get_optimizer_state_dict(model, optimizer)
    fresh = osp.optim.Muon(osp.optim.param_groups(model, lr=0.02))
    before = whole(model)
    get_optimizer_state_dict(model, fresh)  # makes the state by a step with lr 0
    assert all(torch.equal(before[name], value) for name, value in whole(model).items())
    assert all(s["step"] == 0 for s in fresh.state.values() if "step" in s)
    set_optimizer_state_dict(model, fresh, saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            other = fresh.state[parameter][name]
            equal = other == value
            assert bool((equal.full_tensor() if isinstance(equal, DTensor) else equal).all()), name
    return whole(model)


def ddp():
    model = Small()
    optimizer = train(model, bad_at=2, process_group=dist.group.WORLD)
    counts = torch.tensor([optimizer.num_orthogonalised])
    dist.all_reduce(counts)
    assert counts.item() == len(SHAPES) and 0 < optimizer.num_orthogonalised < len(SHAPES)
    return whole(model)


def other_layout():
    """Columns over the ranks, as tensor parallelism has them."""
    model = Small()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.layers:
        place = [torch.distributed.tensor.Shard(1)]
        layer.weight = nn.Parameter(
            torch.distributed.tensor.distribute_tensor(layer.weight.data, mesh, place)
        )
    train(model, bad_at=2)
    return whole(model)


def different_weights():
    model = Small()
    if dist.get_rank() == 1:
        model.layers[0].weight.data.mul_(2)
    try:
        train(model, process_group=dist.group.WORLD)
    except ValueError as error:
        assert "other weights" in str(error)
        return {}
    raise AssertionError("ranks of different weights shared their work")


def start(program, name, folder, ranks=2):
    """What the function `name` of the file `program` returns on each of so many ranks."""
    path = os.pathsep.join([os.path.dirname(osp.__path__[0]), os.path.dirname(__file__)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    out = Path(folder) / f"{name}-{ranks}"
    words = [str(ranks), f"{out}.store", str(out)]
    running = [
        subprocess.Popen(
            [sys.executable, program, name, str(rank), *words],
            env=environment,
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in running]
    assert [rank.returncode for rank in running] == [0] * ranks, "\n".join(errors)
    return [torch.load(f"{out}.{rank}") for rank in range(ranks)]


def main(functions):
    name, rank, ranks, store, out = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(ranks))
    result = functions[name]()
    torch.save(result, f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(globals())
