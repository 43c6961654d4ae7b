"""Finds and loads the program as a Python module, osp._engine."""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

NAME = "osp._engine"
FILE = "_engine.abi3.so"


def load():
    """The module osp._engine: the installed one, else that of $OSP_BUILD, else of build/release."""
    try:
        from osp import _engine

        return _engine
    except ImportError as error:
        if error.name not in (NAME, "osp"):
            raise
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("OSP_BUILD", root / "build" / "release")) / FILE
    if not path.exists():
        raise SystemExit(f"error: {path} does not exist: build first (scripts/build.sh), or set OSP_BUILD")
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(NAME, loader))
    loader.exec_module(module)
    sys.modules[NAME] = module
    return module
