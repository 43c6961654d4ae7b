"""The optimizer of transformers' Trainer.

A class of optimizers would get the Trainer's own two groups, made by weight decay, and the routing would be
lost. A factory gets the model: `Trainer(optimizer_cls_and_kwargs=osp.optim.for_trainer(lr=1e-3), ...)`.
"""

import torch.distributed as dist
from torch import Tensor, nn

from osp.optim.muon import Muon
from osp.optim.routing import param_groups

# What param_groups takes; the other options are Muon's.
GROUP_OPTIONS = ("adam_lr", "gain_lr", "weight_decay", "vector_weight_decay", "gain_rule", "overrides")


class TrainerFactory:
    """`TrainerFactory()(model, lr=…, **options)` is a Muon over all of the model's trainable parameters."""

    def __call__(self, model: nn.Module, lr: float | Tensor, share_work: bool = True, **options) -> Muon:
        """With `share_work` each of several data-parallel ranks orthogonalises its share of the matrices."""
        for_groups = {name: options.pop(name) for name in GROUP_OPTIONS if name in options}
        groups = param_groups(model, lr, **for_groups)
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        group = dist.group.WORLD if share_work and several else None
        return Muon(groups, lr, process_group=group, **options)


def for_trainer(lr: float, **options) -> tuple[type[TrainerFactory], dict]:
    """The Trainer's `optimizer_cls_and_kwargs`; options of param_groups and Muon, and `share_work`."""
    return TrainerFactory, {"lr": lr, **options}
