"""Fixtures of the whole-program tests: where the build is, where shared data is, how to run a program."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from browser import chromium  # noqa: F401 (a fixture)
from probe_fixture import osp_logits, osp_outputs  # noqa: F401 (fixtures)
from ranks_fixture import start_ranks  # noqa: F401 (a fixture)
from serve_fixture import serve_folder, server, simulated_folder, start_server  # noqa: F401 (fixtures)
from store_fixture import gs_server, s3_server  # noqa: F401 (fixtures)
from train_fixture import one_thread, strace, write_recipe, write_text  # noqa: F401 (strace: a fixture)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def osp_build() -> Path:
    """The build folder under test: $OSP_BUILD, else build/release."""
    path = Path(os.environ.get("OSP_BUILD", ROOT / "build" / "release"))
    if not (path / "osp").exists():
        pytest.fail(f"{path}/osp does not exist: build first (scripts/test.sh does)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tokenizers, texts and vectors: $OSP_DATA, else ../shared/data beside the checkout."""
    path = Path(os.environ.get("OSP_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}; set OSP_DATA to a folder that has it")
    return path


@pytest.fixture(scope="session")
def run_program(osp_build):
    """run_program(["osp", "eval", ...], check=True, timeout=300, input=None) -> CompletedProcess (text)."""

    def run(args, check=True, timeout=300, **keywords):
        command = [str(osp_build / args[0])] + [str(a) for a in args[1:]]
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **keywords)
        if check and result.returncode != 0:
            raise AssertionError(f"{command} -> {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    return run


@pytest.fixture(scope="session")
def train_tokens(run_program, repo_root, tmp_path_factory):
    """Shards of train_fixture's text for the tests of `osp train`, a tenth of them for validation."""
    folder = tmp_path_factory.mktemp("train-tokens")
    write_text(folder / "text.txt")
    run_program(
        [
            "osp",
            "tokenize",
            folder / "text.txt",
            "--tokenizer",
            repo_root / "recipes" / "gcide-4096",
            "--documents",
            "lines",
            "--validation-fraction",
            "0.1",
            "--out",
            folder / "tokens",
            "--quiet",
        ]
    )
    return folder / "tokens"


@pytest.fixture(scope="session")
def tiny_run(run_program, train_tokens, tmp_path_factory):
    """A finished run of train_fixture's recipe; its model is at RUN/model."""
    folder = tmp_path_factory.mktemp("tiny-run")
    recipe = write_recipe(folder / "osp.toml", train_tokens)
    run_program(["osp", "train", recipe, "--out", folder / "run", "--quiet"], env=one_thread())
    return folder / "run"


@pytest.fixture(scope="session")
def tiny_quantized(run_program, tiny_run, tmp_path_factory):
    """The model of tiny_run with weights of 4 bits, as every format of codes takes them."""
    out = tmp_path_factory.mktemp("tiny-quantized") / "q"
    words = ["--method", "rtn", "--profile", "best", "--bits", "4-16-16", "--out", out, "--quiet"]
    run_program(["osp", "quantize", tiny_run / "model", *words], env=one_thread())
    return out


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    """A folder of benchmarks: six questions of arc_easy."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "arc_easy").mkdir()
    choices = {"text": ["a cat", "the rain", "nobody", "two"], "label": list("ABCD")}
    records = [
        {"id": str(i), "question": f"Who sees tree {i}?", "choices": choices, "answerKey": "ABCD"[i % 4]}
        for i in range(6)
    ]
    (folder / "arc_easy" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder
