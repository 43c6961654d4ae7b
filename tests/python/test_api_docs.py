"""The reference of the Python package: it is built, it loads nothing, and everything public is explained."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("pdoc")

# Of everything that is documented: its name, and whether it has a docstring of its own. Fields of
# dataclasses say what they are by their name and type.
NAMES = """
import importlib, inspect, json, sys
sys.path[:0] = ["scripts", "python"]
import api_docs
found = {}
def public(owner, name):
    value = inspect.unwrap(getattr(owner, name))
    return callable(value) and (getattr(value, "__module__", None) or "").startswith("osp")
for module in map(importlib.import_module, [*api_docs.MODULES, "osp.optim", "osp.nn"]):
    names = getattr(module, "__all__", [n for n, v in vars(module).items()
                                        if getattr(v, "__module__", None) == module.__name__])
    for name in names:
        if name.startswith("_") or not public(module, name):
            continue
        value = getattr(module, name)
        found[f"{module.__name__}.{name}"] = bool(vars(value).get("__doc__") if inspect.isclass(value)
                                                 else value.__doc__)
        for member in vars(value) if inspect.isclass(value) else []:
            if not member.startswith("_") and public(value, member):
                known = any(hasattr(base, member) for base in value.__mro__[1:])
                found[f"{module.__name__}.{name}.{member}"] = known or bool(getattr(value, member).__doc__)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    command = [sys.executable, ROOT / "scripts" / "api_docs.py", "--out", folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "Warn" not in result.stderr, result.stderr
    assert result.stdout == f"{folder}/index.html\n"
    return folder


@pytest.fixture(scope="module")
def names():
    command = [sys.executable, "-c", NAMES]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def test_everything_public_has_a_docstring(names):
    assert [name for name, explained in names.items() if not explained] == []
    assert {"osp.Model", "osp.Model.stream", "osp.optim.Muon", "osp.nn.SSNorm", "osp.watch"} <= set(names)


def test_every_public_name_stands_on_its_page(site, names):
    pages = {}
    for name in names:
        module = max((m for m in ("osp", "osp.optim", "osp.nn", "osp.program", "osp.watching",
                                  "osp.lm_eval_adapter") if name.startswith(m + ".")), key=len)  # fmt: skip
        page = site / (module.replace(".", "/") + ".html")
        text = pages.setdefault(page, page.read_text())
        anchor = name[len(module) + 1 :]
        assert f'id="{anchor}"' in text or f'href="{module.split(".")[-1]}/{anchor}.html"' in text, name


def test_pages_load_nothing(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', page.read_text())
        assert [address for address in loaded if "pdoc.dev" not in address] == []
