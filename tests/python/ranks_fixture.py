"""Runs with many ranks for the tests: started by `python -m osp train --ranks`, awaited, asked for their
processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_fixture import one_thread, write_recipe

GROUPS = "train.reduction_groups=4"


def settings(*assignments):
    return [word for assignment in assignments for word in ("--set", assignment)]


LONG = settings(
    "train.reduction_groups=4", "train.steps=100000", "train.checkpoint_every=5", "train.validate_every=0"
)


@pytest.fixture
def start_ranks(osp_build, repo_root, train_tokens, tmp_path):
    """start_ranks(ranks, out, *words, precision=) -> Popen of `python -m osp train --ranks`, with pipes."""

    def run(ranks, out, *words, precision="fp32", optimizer="osp", environment=None):
        recipe = write_recipe(tmp_path / f"{precision}-{optimizer}.toml", train_tokens, optimizer, precision)
        command = [
            sys.executable,
            "-m",
            "osp",
            "train",
            "--ranks",
            str(ranks),
            str(recipe),
            "--out",
            str(out),
        ]
        given = {"PYTHONPATH": str(repo_root / "python"), "OSP_BUILD": str(osp_build), **(environment or {})}
        return subprocess.Popen(
            [*command, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**one_thread(), **given},
        )

    return run


def finished(process, status=0, timeout=90):
    """(stdout, stderr) of a process that must end with `status`."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, err
    return out, err


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None or condition(), process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rank_processes(launcher):
    """Process ids of the ranks, in their order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children]


def begun(start_ranks, out, *words, ranks=2, checkpoint=5):
    """A run that has saved `checkpoint` and goes on for long."""
    process = start_ranks(ranks, out, *LONG, *words)
    wait_for(lambda: (out / f"step-{checkpoint}").exists(), process)
    return process


def environment_of_rank(repo_root, osp_build, folder, rank, ranks):
    return {
        **one_thread(),
        "PYTHONPATH": str(repo_root / "python"),
        "OSP_BUILD": str(osp_build),
        "OSP_MEETING": str(folder / "store"),
        "GLOO_SOCKET_IFNAME": "lo",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }


def two_ranks(repo_root, osp_build, folder, recipe, own=(), around=(), both=(), around_first=()):
    """Starts two ranks by hand; `own` are the words of the second alone, `around` those in front of it,
    `both` those of both, `around_first` those in front of the first."""
    processes = []
    for rank in range(2):
        command = [*(around if rank == 1 else around_first), sys.executable, "-m", "osp", "train", recipe]
        words = ["--out", folder / "run", *settings(GROUPS), *both, *(own if rank == 1 else [])]
        processes.append(
            subprocess.Popen(
                [*command, *words],
                stderr=subprocess.PIPE,
                text=True,
                env=environment_of_rank(repo_root, osp_build, folder, rank, 2),
            )
        )
    return processes
