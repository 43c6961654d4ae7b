"""Crashes and failing disks during `osp train`, made by strace: whatever call dies, the resumed run ends
bit for bit like one that nobody disturbed. In bf16, as every shipped recipe trains.

osp/train/crash_test.cpp kills and fails every call of a run that writes, one after the other; here it is
the whole program, with saves in the background as well."""

import json
import resource
import shutil
import subprocess

import pytest
from train_fixture import checkpoints, metrics, one_thread, state_hash, timeless, write_recipe


@pytest.fixture(scope="module")
def setup(run_program, train_tokens, tmp_path_factory):
    """(recipe, folder of an undisturbed run)"""
    folder = tmp_path_factory.mktemp("crash")
    recipe = write_recipe(folder / "osp.toml", train_tokens, precision="bf16")
    # strace counts calls by thread: saves in the main thread make the k-th call of the run well defined.
    recipe.write_text(recipe.read_text() + "background_save = false\n")
    run_program(["osp", "train", recipe, "--out", folder / "whole", "--quiet"], env=one_thread())
    return recipe, folder / "whole"


def traced(strace, osp_build, inject, recipe, run, *arguments):
    """Runs `osp train` under an injection."""
    return subprocess.run(
        [
            strace,
            "-f",
            "-o",
            "/dev/null",
            "-e",
            f"inject={inject}",
            osp_build / "osp",
            "train",
            recipe,
            "--out",
            run,
            "--quiet",
            *arguments,
        ],
        capture_output=True,
        text=True,
        env=one_thread(),
        timeout=120,
    )


def count_calls(strace, osp_build, call, recipe, run):
    """How often a whole run makes a system call."""
    log = run.parent / f"{call}.log"
    subprocess.run(
        [
            strace,
            "-f",
            "-o",
            log,
            "-e",
            f"trace={call}",
            osp_build / "osp",
            "train",
            recipe,
            "--out",
            run,
            "--quiet",
        ],
        check=True,
        capture_output=True,
        env=one_thread(),
        timeout=120,
    )
    return sum(f"{call}(" in line for line in log.read_text().splitlines())


def check_intact(run):
    """A crash may leave whole checkpoints, left-overs named as such, and whole lines, nothing else."""
    for step in checkpoints(run):
        assert (run / f"step-{step}" / "manifest.json").exists()


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_kill_at_any_call_loses_nothing(strace, osp_build, setup, run_program, tmp_path, call):
    recipe, whole = setup
    calls = count_calls(strace, osp_build, call, recipe, tmp_path / "count")
    assert calls >= 4
    # Every rename; of the fsyncs every fifth, another phase of the commit each time.
    for k in range(1, calls + 1, 1 if call == "rename" else 5):
        run = tmp_path / f"run-{k}"
        result = traced(strace, osp_build, f"{call}:signal=KILL:when={k}", recipe, run)
        assert result.returncode != 0
        check_intact(run)
        run_program(["osp", "train", recipe, "--out", run, "--resume", "--quiet"], env=one_thread())
        assert state_hash(run, 6) == state_hash(whole, 6), f"killed at {call} {k}"
        assert timeless(run) == timeless(whole), f"killed at {call} {k}"
        assert not list(run.glob("step-*.tmp"))
        shutil.rmtree(run)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failed_fsync_fails_that_save_and_not_the_run(strace, osp_build, setup, tmp_path, error):
    recipe, whole = setup
    run = tmp_path / "run"
    # Two fsyncs for recipe.json, one for metrics.jsonl, then those of the first checkpoint.
    result = traced(strace, osp_build, f"fsync:error={error}:when=6", recipe, run)
    assert result.returncode == 0, result.stderr
    assert "warning: " in result.stderr and "training goes on" in result.stderr
    assert checkpoints(run) == [4, 6]
    assert state_hash(run, 6) == state_hash(whole, 6)
    assert timeless(run) == timeless(whole)


def test_a_disk_that_stays_full_ends_the_run_with_5(strace, osp_build, setup, run_program, tmp_path):
    recipe, whole = setup
    run = tmp_path / "run"
    result = traced(strace, osp_build, "fsync:error=ENOSPC:when=6+", recipe, run)
    assert result.returncode == 5, result.stderr
    assert "No space left on device" in result.stderr
    assert checkpoints(run) == []
    run_program(["osp", "train", recipe, "--out", run, "--resume", "--quiet"], env=one_thread())
    assert state_hash(run, 6) == state_hash(whole, 6)
    assert timeless(run) == timeless(whole)


def test_a_small_disk_keeps_the_checkpoints_that_fit(osp_build, setup, run_program, tmp_path):
    recipe, whole = setup
    run = tmp_path / "run"
    run_program(["osp", "train", recipe, "--out", run, "--quiet", "--set", "train.steps=6"], env=one_thread())
    for step in (4, 6):
        shutil.rmtree(run / f"step-{step}")
    limit = (whole / "step-6" / "model.safetensors").stat().st_size // 2
    result = subprocess.run(
        [osp_build / "osp", "train", recipe, "--out", run, "--resume", "--quiet"],
        capture_output=True,
        text=True,
        env=one_thread(),
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    assert result.returncode == 5, result.stderr
    assert "File too large" in result.stderr
    assert checkpoints(run) == [2]
    assert not list(run.glob("step-*.tmp"))
    run_program(["osp", "train", recipe, "--out", run, "--resume", "--quiet"], env=one_thread())
    assert state_hash(run, 6) == state_hash(whole, 6)
    assert timeless(run) == timeless(whole)


def test_metrics_survive_a_kill_in_the_middle_of_a_run(strace, osp_build, setup, run_program, tmp_path):
    recipe, whole = setup
    for k in (3, 7, 12):
        run = tmp_path / f"run-{k}"
        traced(strace, osp_build, f"pwrite64:signal=KILL:when={k}", recipe, run)
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size:
            metrics(run)
        run_program(["osp", "train", recipe, "--out", run, "--resume", "--quiet"], env=one_thread())
        assert timeless(run) == timeless(whole)


def test_a_kill_in_a_background_save_loses_nothing(strace, osp_build, setup, run_program, tmp_path):
    recipe, whole = setup
    in_background = ["--set", "train.background_save=true"]
    for k in (2, 5, 8):  # counted in the saving thread
        run = tmp_path / f"run-{k}"
        result = traced(strace, osp_build, f"fsync:signal=KILL:when={k}", recipe, run, *in_background)
        assert result.returncode != 0
        run_program(
            ["osp", "train", recipe, "--out", run, "--resume", "--quiet", *in_background],
            env=one_thread(),
        )
        assert state_hash(run, 6) == state_hash(whole, 6)
        assert timeless(run)[1:] == timeless(whole)[1:]  # the first line has the recipe


def test_a_model_that_cannot_be_read_back_is_not_called_done(strace, osp_build, setup, run_program, tmp_path):
    """A write of the finished model is said to be done and was not."""
    recipe, whole = setup
    run = tmp_path / "run"
    weights = run / "model.tmp" / "model.safetensors"
    inject = ["-f", "-o", "/dev/null", "-P", weights, "-e", "inject=write:retval=1:when=2"]
    command = [osp_build / "osp", "train", recipe, "--out", run, "--quiet"]
    result = subprocess.run(
        [strace, *inject, *command], capture_output=True, text=True, env=one_thread(), timeout=120
    )
    assert result.returncode in (3, 5), result.stderr
    assert "model.safetensors" in result.stderr or "was read back with other numbers" in result.stderr
    assert not (run / "model").exists()
    assert "end" not in [line["kind"] for line in metrics(run)]
    assert json.loads((run / "exit.json").read_text())["status"] == result.returncode
    run_program(["osp", "train", recipe, "--out", run, "--resume", "--quiet"], env=one_thread())
    for name in ("model.safetensors", "config.json"):
        assert (run / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    assert [line["kind"] for line in metrics(run)].count("end") == 1 and timeless(run)[-1]["kind"] == "end"
