"""Checkpoints that all ranks write: the files of one process, whole or not there whatever happens to a rank,
and a run folder that all ranks see."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from ranks_fixture import (
    GROUPS,
    finished,
    rank_processes,
    settings,
    two_ranks,
    wait_for,
)
from train_fixture import checkpoints, one_thread, state_hash, timeless, write_recipe

FOREGROUND = settings("train.background_save=false")


def assert_intact(run):
    """Every checkpoint at a final name has the bytes that its manifest says; returns their steps."""
    for step in checkpoints(run):
        folder = run / f"step-{step}"
        files = json.loads((folder / "manifest.json").read_text())["files"]
        assert {"model.safetensors", "optimizer.safetensors", "trainer.json", "recipe.json"} <= set(files)
        assert set(files) | {"manifest.json"} == {path.name for path in folder.iterdir()}
        for name, said in files.items():
            content = (folder / name).read_bytes()
            assert said == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return checkpoints(run)


def alone(run_program, tmp_path, *words, precision="bf16"):
    recipe = tmp_path / f"{precision}-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())
    return tmp_path / "alone"


@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_file_is_that_of_one_process(start_ranks, run_program, tmp_path, background, precision):
    """All but the manifest and trainer.json, which count ranks and seconds."""
    words = settings(GROUPS, f"train.background_save={background}", "optim.momentum_bits=8")
    for ranks in (2, 3, 4):
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *words, precision=precision))
    one = alone(run_program, tmp_path, *words, precision=precision)
    for ranks in (2, 3, 4):
        run = tmp_path / f"ranks-{ranks}"
        assert assert_intact(run) == checkpoints(one)
        for step in checkpoints(one):
            names = {path.name for path in (one / f"step-{step}").iterdir()}
            for name in names - {"manifest.json", "trainer.json", "recipe.json"}:
                path = f"step-{step}/{name}"
                assert (run / path).read_bytes() == (one / path).read_bytes(), path
            trainers = [json.loads((r / f"step-{step}/trainer.json").read_text()) for r in (run, one)]
            assert trainers[0]["guard"] == trainers[1]["guard"] and trainers[0]["step"] == step
            manifests = [json.loads((r / f"step-{step}/manifest.json").read_text()) for r in (run, one)]
            assert list(manifests[0]["files"]) == list(manifests[1]["files"])
            assert manifests[0]["ranks"] == ranks


def written(log):
    """(file, offset, end) of every pwrite64 into a file of tensors that strace has logged with -y."""
    ranges = []
    for line in log.read_text().splitlines():
        if "pwrite64(" not in line or ".safetensors>" not in line:
            continue
        assert "unfinished" not in line, line
        name = line.split(".tmp/")[1].split(">")[0]
        offset, count = (int(word) for word in line.rsplit(", ", 1)[1].split(") = "))
        ranges.append((name, offset, offset + count))
    return ranges


def header_of(path):
    """The JSON header of a safetensors file."""
    with path.open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def test_no_byte_is_written_twice_and_none_is_left_out(strace, repo_root, osp_build, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens, precision="bf16")
    own_log, other_log = tmp_path / "rank-1.log", tmp_path / "rank-0.log"
    trace = [strace, "-f", "-y", "-e", "trace=pwrite64", "-o"]
    words = [*settings("train.steps=2"), *FOREGROUND]
    processes = two_ranks(
        repo_root, osp_build, tmp_path, recipe, around=[*trace, own_log], both=words,
        around_first=[*trace, other_log],
    )  # fmt: skip
    for process in processes:
        finished(process)
    assert written(own_log), "the second rank writes nothing"
    ranges = {}
    for name, begin, end in written(own_log) + written(other_log):
        ranges.setdefault(name, []).append((begin, end))
    # Adam's tables are shared by rows: their weights and state have ranges that begin within a tensor.
    for name in ("model.safetensors", "optimizer.safetensors"):
        header = header_of(tmp_path / "run" / "step-2" / name)
        begins = {tensor["data_offsets"][0] for tensor in header.values() if "data_offsets" in tensor}
        at = min(begin for begin, _ in ranges[name])
        assert any(begin - at not in begins for begin, _ in ranges[name])
    for name in ("model.safetensors", "optimizer.safetensors"):
        path = tmp_path / "run" / "step-2" / name
        with path.open("rb") as file:
            at = 8 + int.from_bytes(file.read(8), "little")
        for begin, end in sorted(ranges[name]):
            assert begin == at, (name, begin, at)
            at = end
        assert at == path.stat().st_size


# Calls of the second rank that write a checkpoint: it dies in the k-th of a thread. A save in the background
# is a thread of its own, so that there it dies in the first save.
KILLS = [
    (call, background, random.Random(f"{call} {background} {number}").randrange(2, most))
    for call, most, number, background in [
        ("pwrite64", 24, 0, "false"),
        ("pwrite64", 24, 1, "false"),
        ("pwrite64", 8, 0, "true"),
        ("fsync", 5, 0, "false"),
    ]
]


@pytest.mark.parametrize("call, background, k", KILLS)
def test_a_rank_that_dies_in_a_save_leaves_whole_checkpoints_alone(
    strace, repo_root, osp_build, run_program, train_tokens, tmp_path, call, background, k
):
    recipe = write_recipe(tmp_path / "bf16-osp.toml", train_tokens, precision="bf16")
    words = settings(f"train.background_save={background}")
    die = [strace, "-f", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={k}"]
    first, second = two_ranks(repo_root, osp_build, tmp_path, recipe, around=die, both=words)
    _, err = finished(first, 5)
    second.communicate(timeout=30)
    assert second.returncode != 0 and "another rank has ended or does not answer" in err
    run = tmp_path / "run"
    before = assert_intact(run)
    assert 6 not in before
    if not (run / "recipe.json").exists():
        pytest.fail("the rank died before there was a run")
    (tmp_path / "store").unlink(missing_ok=True)
    for process in two_ranks(repo_root, osp_build, tmp_path, recipe, both=[*words, "--resume"]):
        finished(process)
    assert set(before) <= set(assert_intact(run))
    assert not list(run.glob("*.tmp")) and max(checkpoints(run)) == 6
    one = alone(run_program, tmp_path, *settings(GROUPS), *words)
    assert state_hash(run, 6) == state_hash(one, 6)
    assert timeless(run) == timeless(one)


@pytest.mark.parametrize(
    "inject, said",
    [
        ("pwrite64:error=ENOSPC:when=3", "No space left on device"),
        ("pwrite64:error=EIO:when=9", "Input/output error"),
        ("fsync:error=EIO:when=2", "Input/output error"),
    ],
)
def test_a_disk_that_fails_another_rank_fails_that_save_and_not_the_run(
    strace, repo_root, osp_build, run_program, train_tokens, tmp_path, inject, said
):
    recipe = write_recipe(tmp_path / "bf16-osp.toml", train_tokens, precision="bf16")
    fault = [strace, "-f", "-o", "/dev/null", "-e", f"inject={inject}"]
    first, second = two_ranks(repo_root, osp_build, tmp_path, recipe, around=fault, both=FOREGROUND)
    _, err = finished(first)
    finished(second)
    lines = [line for line in err.splitlines() if "was not saved" in line]
    assert len(lines) == 1 and "rank 1 of 2: " in lines[0] and said in lines[0], err
    assert "training goes on, 1 of 3 failed saves in a row" in lines[0]
    one = alone(run_program, tmp_path, *settings(GROUPS), *FOREGROUND)
    run = tmp_path / "run"
    saved = assert_intact(run)
    assert len(saved) == len(checkpoints(one)) - 1 and not list(run.glob("*.tmp"))
    for step in saved:
        assert state_hash(run, step) == state_hash(one, step)


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_disk_of_another_rank_that_stays_full_ends_the_run_with_5(
    strace, repo_root, osp_build, train_tokens, tmp_path, background
):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    fault = [strace, "-f", "-o", "/dev/null", "-e", "inject=pwrite64:error=ENOSPC:when=1+"]
    # The proof that the folder is shared is written, too: its write is the first of the main thread.
    late = ["inject=pwrite64:error=ENOSPC:when=2+"]
    words = settings(f"train.background_save={background}", "train.steps=20")
    first, second = two_ranks(repo_root, osp_build, tmp_path, recipe, around=[*fault[:-1], *late], both=words)
    _, err = finished(first, 5)
    second.communicate(timeout=30)
    assert "3 saves in a row have failed" in err and "rank 1 of 2: " in err
    assert checkpoints(tmp_path / "run") == [] and not list((tmp_path / "run").glob("step-*"))


def test_a_run_killed_on_4_2_and_1_ranks_ends_on_4_like_the_undisturbed_one(
    start_ranks, run_program, tmp_path
):
    """Kills at moments that nobody chooses, of one rank each; saves in the background."""
    words = settings(GROUPS, "train.steps=48", "train.checkpoint_every=2", "train.validate_every=0",
                     "train.sample_every=0", "train.keep_checkpoints=3")  # fmt: skip
    run = tmp_path / "moved"
    reached = 0
    for ranks, victim in ((4, 3), (2, 0), (1, 0)):
        resume = ["--resume"] if reached else []
        process = start_ranks(ranks, run, *words, *resume, precision="bf16")
        wait_for(lambda least=reached + 6: max(checkpoints(run), default=0) >= least, process)
        # One rank is the process itself.
        os.kill(rank_processes(process)[victim] if ranks > 1 else process.pid, signal.SIGKILL)
        finished(process, 128 + signal.SIGKILL if ranks > 1 else -signal.SIGKILL, timeout=30)
        reached = max(assert_intact(run))
    assert reached < 48
    finished(start_ranks(4, run, *words, "--resume", precision="bf16"))
    one = alone(run_program, tmp_path, *words)
    assert assert_intact(run) == checkpoints(one)
    for step in checkpoints(one):
        assert state_hash(run, step) == state_hash(one, step)
    assert timeless(run) == timeless(one)


def test_a_rank_that_hangs_in_a_save_in_the_background_ends_all_in_time(
    strace, repo_root, osp_build, train_tokens, tmp_path
):
    """The save has an hour; training beside it has not, and gives it up."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = settings("train.collective_timeout_s=10", "train.steps=100000", "train.checkpoint_every=50",
                     "train.validate_every=0", "train.sample_every=0")  # fmt: skip
    stop = [strace, "-f", "-o", "/dev/null", "-e", "inject=pwrite64:signal=STOP:when=2"]
    first, second = two_ranks(repo_root, osp_build, tmp_path, recipe, around=stop, both=words)
    run = tmp_path / "run"
    wait_for(lambda: (run / "step-50.tmp" / "recipe.json").exists(), first)
    began = time.monotonic()
    try:
        _, err = finished(first, 5, timeout=90)
    finally:
        for child in rank_processes(second):
            os.kill(child, signal.SIGKILL)
        second.communicate(timeout=30)
    assert time.monotonic() - began < 60
    assert "another rank has ended or does not answer" in err
    assert checkpoints(run) == []


def test_a_run_folder_that_ranks_do_not_share_is_refused_before_the_first_step(
    repo_root, osp_build, train_tokens, tmp_path
):
    """Two machines with disks of their own: here a mount of its own."""
    bind = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"]
    if subprocess.run([*bind, tmp_path, tmp_path, "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    own, run = tmp_path / "own", tmp_path / "run"
    for case in ("the folder is missing", "another folder of that name"):
        for folder in (own, run):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (tmp_path / "store").unlink(missing_ok=True)
        if case == "another folder of that name":
            (own / "ranks.tmp").write_text("0123456789abcdef0123456789abcdef")
        for process in two_ranks(repo_root, osp_build, tmp_path, recipe, around=[*bind, own, run]):
            _, err = finished(process, 2)
            assert "does not see there what the others write" in err and "file system" in err
        assert {path.name for path in run.iterdir()} == {"lock"}
    # The same words on a folder that they share.
    (tmp_path / "store").unlink(missing_ok=True)
    for process in two_ranks(repo_root, osp_build, tmp_path, recipe):
        finished(process)
    assert not (run / "ranks.tmp").exists()
