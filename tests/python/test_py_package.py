"""The wheel: built without network, installed into a new environment, imported from another folder."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest


@pytest.fixture(scope="module")
def wheel(repo_root, tmp_path_factory):
    """Built from a copy: setuptools writes beside its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "MANIFEST.in"):
        (source / name).write_bytes((repo_root / name).read_bytes())
    for file in (repo_root / "python").rglob("*"):
        if file.suffix in (".py", ".typed"):
            target = source / file.relative_to(repo_root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    result = subprocess.run([*command, "-w", out, source], capture_output=True, text=True, cwd=out)
    assert result.returncode == 0, result.stderr
    [built] = out.glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_the_programs_version(wheel, repo_root):
    version = re.search(r"project\(osp VERSION (\S+)", (repo_root / "CMakeLists.txt").read_text()).group(1)
    assert wheel.name == f"osp-{version}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    for file in (repo_root / "python" / "osp").rglob("*.py"):
        assert file.relative_to(repo_root / "python").as_posix() in names
    assert "osp/py.typed" in names
    [metadata] = [name for name in names if name.endswith("/METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "Requires-Dist: torch>=2.10\n" in text


def test_an_installed_wheel_works_in_another_folder(wheel, tmp_path, repo_root):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "venv" / "lib" / version / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", packages, wheel]
    subprocess.run(install, check=True, capture_output=True)
    # PyTorch is the one that is there.
    (packages / "torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    program = """
import sys, osp
assert "torch" not in sys.modules, "import osp is cheap"
import osp.score_process
import torch
from importlib.metadata import version
assert osp.__version__ == version("osp"), osp.__version__
model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), osp.nn.SSNorm(4))
optimizer = osp.optim.Muon(osp.optim.param_groups(model, lr=0.1))
model(torch.arange(9)).square().sum().backward()
optimizer.step()
assert optimizer.num_orthogonalised == 1
print(osp.__file__, callable(osp.watch), callable(osp.convert), callable(osp.fuse))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(packages)) and "False" not in result.stdout


def test_the_version_of_a_checkout_is_that_of_the_program(run_program, repo_root):
    result = subprocess.run(
        [sys.executable, "-c", "import osp; print(osp.__version__)"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(repo_root / "python")},
    )
    assert result.stdout.strip() in run_program(["osp", "--version"]).stdout
