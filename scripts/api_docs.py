#!/usr/bin/env python3
"""Builds the reference of the Python package from its docstrings: a static site that loads nothing.

    scripts/api_docs.py [--out FOLDER]      # default build/api; open its index.html

It needs the environment of scripts/setup.sh --with-tests.
"""

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# osp.optim and osp.nn follow from osp.
MODULES = ["osp", "osp.program", "osp.watching", "osp.lm_eval_adapter"]


def build(out: Path) -> None:
    """Writes a page per module of MODULES and of what they document as a module."""
    # The checkout's package, also where another one is installed.
    sys.path.insert(0, str(ROOT / "python"))
    import pdoc

    for module in map(importlib.import_module, MODULES):
        # What a package imports at first use counts for pdoc only once it is there.
        for name in getattr(module, "__all__", []):
            setattr(module, name, getattr(module, name))
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=out)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "api", help="folder to write")
    out = parser.parse_args().out
    build(out)
    print(out / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
