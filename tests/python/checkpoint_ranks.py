"""Checkpoints of torch.distributed.checkpoint on Gloo ranks: saved by some layout, continued by another.

A program as gloo_ranks.py, in whose working directory the checkpoints lie.
"""

import gloo_ranks
import osp.nn
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import osp.optim

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAVED_AT, END = 3, 6
# torchtitan saves the optimizer's state by names of parameters instead of numbers.
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class Model(nn.Module):
    """A lookup table, hidden matrices whose rows no number of ranks divides, a gain of one element."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(11, 10)
        self.layers = nn.ModuleList([nn.Linear(10, 7), nn.Linear(7, 6), nn.Linear(6, 9, bias=False)])
        self.norm = osp.nn.SSNorm(10)

    def forward(self, tokens):
        x = self.norm(self.table(tokens))
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def make(layout, dtype):
    """(model, optimizer) sharded over all ranks ("rows", "hsdp": half of them) or not ("plain")."""
    model = Model().to(dtype)
    if layout != "plain":
        ranks = dist.get_world_size()
        names = ("replicate", "shard")
        mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=names) if layout == "hsdp" else None
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, optimizer_of(model)


def optimizer_of(model):
    return osp.optim.Muon(osp.optim.param_groups(model, lr=0.02, adam_lr=0.01))


def train(model, optimizer, first, end):
    """Steps with gradients that depend on the step and the parameter alone."""
    for step in range(first, end):
        for i, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * step + i)
            gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        optimizer.step()
        assert optimizer.num_skipped == 0


def everything(model, optimizer):
    """Weights and state as whole tensors, by name."""
    found = gloo_ranks.whole(model)
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            assert not isinstance(value, DTensor) or value.placements == parameter.placements
            found[f"{name}.{key}"] = value.full_tensor() if isinstance(value, DTensor) else value.clone()
    return found


def save():
    """On two ranks: a checkpoint of each kind, and what the run itself goes on to."""
    ends = {}
    for dtype in TYPES:
        for kind, options in (("numbers", None), ("names", FLAT)):
            model, optimizer = make("rows", TYPES[dtype])
            train(model, optimizer, 0, SAVED_AT)
            weights, state = get_state_dict(model, optimizer, options=options)
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{dtype}-{kind}")
            train(model, optimizer, SAVED_AT, END)
            ends[f"{dtype}-{kind}"] = everything(model, optimizer)
    return ends


def resume():
    """The same steps from the checkpoints, in every layout of this number of ranks."""
    layouts = {1: ("rows", "plain"), 2: ("rows",), 4: ("rows", "hsdp")}[dist.get_world_size()]
    ends = {}
    for layout in layouts:
        for dtype in TYPES:
            for kind, options in (("numbers", None), ("names", FLAT)):
                model, optimizer = make(layout, TYPES[dtype])
                for parameter in model.parameters():
                    parameter.data.zero_()
                for group in optimizer.param_groups:
                    group["lr"] = 7.0
                weights, state = get_state_dict(model, optimizer, options=options)
                read = {"model": weights, "optimizer": state}
                dcp.load(read, checkpoint_id=f"{dtype}-{kind}")
                arguments = {"model_state_dict": weights, "optim_state_dict": read["optimizer"]}
                set_state_dict(model, optimizer, **arguments, options=options)
                train(model, optimizer, SAVED_AT, END)
                ends[layout, f"{dtype}-{kind}"] = everything(model, optimizer)
    return ends


def swapped():
    """As accelerate does: placeholders in the groups while the model is sharded, then its DTensors."""
    from accelerate.utils.fsdp_utils import fsdp2_switch_optimizer_parameters  # imports for seconds

    model = Model()
    optimizer = optimizer_of(model)
    addresses = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            group["params"][i] = torch.empty(1, dtype=parameter.dtype)
            group["params"][i].data_ptr = parameter.data_ptr()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    mapping = {addresses[name]: parameter for name, parameter in model.named_parameters()}
    fsdp2_switch_optimizer_parameters(optimizer, mapping)
    train(model, optimizer, 0, END)
    assert all(isinstance(parameter, DTensor) for parameter in optimizer.state)
    return everything(model, optimizer)


def learn(model, optimizer, rank=0, ranks=1):
    """Three real steps, on this rank's part of the batch; returns the changes of the parameters."""
    before = gloo_ranks.whole(model)
    tokens = torch.randint(0, 11, (8, 5), generator=torch.Generator().manual_seed(3)).chunk(ranks)[rank]
    for _ in range(3):
        optimizer.zero_grad()
        (model(tokens) - 0.5).square().mean().backward()
        optimizer.step()
    return {name: value - before[name] for name, value in gloo_ranks.whole(model).items()}


def data_parallel():
    """{way: changes} of the same batch in halves, by DDP and by FSDP2."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(Model())
    groups = osp.optim.param_groups(model, lr=0.02, adam_lr=0.01)
    changes = {}
    ddp = learn(model, osp.optim.Muon(groups, process_group=dist.group.WORLD), rank, ranks)
    changes["ddp"] = {name.removeprefix("module."): value for name, value in ddp.items()}
    changes["fsdp2"] = learn(*make("rows", torch.float32), rank, ranks)
    # bf16 in the passes, fp32 parameters and sums of gradients: the usual setting.
    model = Model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mp_policy=policy)
    optimizer = optimizer_of(model)
    changes["mixed"] = learn(model, optimizer, rank, ranks)
    for state in optimizer.state.values():
        assert all(value.dtype == torch.float32 for value in state.values())
    return changes


if __name__ == "__main__":
    gloo_ranks.main(globals())
