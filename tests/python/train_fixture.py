"""Tiny runs for the tests of `osp train`: a text, its shards, a recipe that takes a second."""

import hashlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

CALL_KEYS = ("tokens_per_s", "mfu", "data_share", "peak_memory_bytes", "seconds", "command", "machine")

RECIPE = """
[data]
path = "{tokens}"

[model]
layers = 1
width = 32
heads = 2
inner = 64
context = 32
norm = "{norm}"
embedding_projection = {projection}

[optim]
name = "{optimizer}"

[schedule]
warmup_steps = 2

[train]
steps = 6
batch_tokens = 128
precision = "{precision}"
log_every = 1
peak_tflops = 1.0
validate_every = 3
validation_tokens = 256
sample_every = 3
sample_tokens = 8
checkpoint_every = 2
keep_checkpoints = 10
"""


@pytest.fixture(scope="session")
def strace():
    """The path of a strace that may trace here, or a visible skip."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run([path, "-f", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"strace may not trace here (ptrace is forbidden): {probe.stderr.strip()}")
    return path


def write_text(path: Path) -> None:
    """Sentences of a small grammar, the same every time."""
    words = random.Random(5)
    subjects, verbs, objects = ["a cat", "the dog", "one bird"], ["sees", "hears"], ["rain", "a tree", "snow"]
    lines = [f"{words.choice(subjects)} {words.choice(verbs)} {words.choice(objects)}." for _ in range(1500)]
    path.write_text("\n".join(lines) + "\n")


def write_recipe(path: Path, tokens: Path, optimizer: str = "osp", precision: str = "fp32") -> Path:
    osp = optimizer != "adam"
    path.write_text(
        RECIPE.format(
            tokens=tokens,
            optimizer=optimizer,
            precision=precision,
            norm="single-scale" if osp else "rms",
            projection="true" if osp else "false",
        )
    )
    return path


def metrics(run: Path) -> list:
    """All lines of metrics.jsonl; fails on a torn one."""
    text = (run / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def timeless(run: Path) -> list:
    """The lines without what the clock, the machine and the call decide."""
    return [{k: v for k, v in line.items() if k not in CALL_KEYS} for line in metrics(run)]


def checkpoints(run: Path) -> list:
    """Steps of committed checkpoints, ascending."""
    names = [p.name for p in run.glob("step-*") if p.name[5:].isdigit()]
    return sorted(int(name[5:]) for name in names)


def state_hash(run: Path, step: int) -> str:
    """SHA-256 of the weights and of the optimizer state of a checkpoint."""
    digest = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        digest.update((run / f"step-{step}" / name).read_bytes())
    return digest.hexdigest()


def one_thread() -> dict:
    """Environment in which tiny runs do not wait for each other's threads."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
