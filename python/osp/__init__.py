"""Outlier-Safe Pre-Training (arXiv 2506.19697) for PyTorch: the optimizer, the layers and the measurements.

    osp.optim.Muon, param_groups, check, for_trainer      the optimizer
    osp.nn.SSNorm, EmbeddingProjection                    the layers
    osp.convert(model), osp.fuse(model)                   into an OSP model, and into a plain Llama again
    osp.watch(model)                                      kurtosis and largest numbers during training
    osp.Model, quantize, evaluate                         models loaded, quantized, measured

`osp.Model` and `osp.lm_eval_adapter` use the engine in this process (`osp._engine`) where it is there, else
the program `osp`, as `quantize` and `evaluate` do; they import no PyTorch (except for logits). Everything is
imported at first use, so that `import osp` is cheap.
"""

import importlib
from typing import TYPE_CHECKING

from osp.version import __version__

if TYPE_CHECKING:
    from osp import nn, optim
    from osp.conversion import convert, fuse
    from osp.program import Model, ProgramError, evaluate, quantize
    from osp.watching import Watch, watch

__all__ = [
    "Model",
    "ProgramError",
    "Watch",
    "__version__",
    "convert",
    "evaluate",
    "fuse",
    "nn",
    "optim",
    "quantize",
    "watch",
]

_MODULES = ("nn", "optim")
_FUNCTIONS = {
    "Model": "osp.program",
    "ProgramError": "osp.program",
    "evaluate": "osp.program",
    "quantize": "osp.program",
    "convert": "osp.conversion",
    "fuse": "osp.conversion",
    "watch": "osp.watching",
    "Watch": "osp.watching",
}


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"osp.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'osp' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
