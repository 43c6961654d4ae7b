"""Muon for hidden matrices and AdamW for the rest in one optimizer, and the proof that it is so."""

from osp.optim.checking import CheckReport, check
from osp.optim.muon import Muon
from osp.optim.newton_schulz import NewtonSchulz, newton_schulz
from osp.optim.routing import RoutedGroups, param_groups
from osp.optim.trainer import TrainerFactory, for_trainer

__all__ = [
    "CheckReport",
    "Muon",
    "NewtonSchulz",
    "RoutedGroups",
    "TrainerFactory",
    "check",
    "for_trainer",
    "newton_schulz",
    "param_groups",
]
