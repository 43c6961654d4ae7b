"""The version: CMakeLists.txt has it, and an installed package got it from there when it was built."""

import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path


def find_version() -> str:
    """The version of the checkout that this file lies in, else that of the installed package."""
    project = Path(__file__).resolve().parents[2] / "CMakeLists.txt"
    if project.is_file():
        found = re.search(r"^project\(osp VERSION ([0-9.]+)", project.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    try:
        return installed_version("osp")
    except PackageNotFoundError:
        return "unknown"


__version__ = find_version()
