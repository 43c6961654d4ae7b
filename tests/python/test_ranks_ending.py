"""RUN/exit.json: how a run with one rank or many has ended, and what torchrun's restarts make of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ranks_fixture import begun, finished, rank_processes, settings, wait_for
from train_fixture import checkpoints, one_thread, write_recipe

GROUPS = "train.reduction_groups=4"
DIVERGING = [
    "train.steps=200",
    "guard.gradient_norm_z=0.001",  # the norm grows from step 4 on
    "guard.window=8",
    "guard.max_consecutive_skips=2",
    "train.validate_every=0",
    "train.sample_every=0",
]


def record(run: Path) -> dict:
    return json.loads((run / "exit.json").read_text())


def test_a_finished_run_says_so(start_ranks, run_program, tmp_path):
    finished(start_ranks(2, tmp_path / "two", *settings(GROUPS)))
    wanted = {"ending": "finished", "status": 0, "step": 6, "checkpoint": 6}
    assert record(tmp_path / "two") == {**wanted, "ranks": 2}
    recipe = tmp_path / "fp32-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "one", "--quiet"], env=one_thread())
    assert record(tmp_path / "one") == {**wanted, "ranks": 1}


def test_while_a_run_trains_there_is_no_record(start_ranks, tmp_path):
    run = tmp_path / "run"
    process = begun(start_ranks, run)
    os.kill(process.pid, signal.SIGTERM)
    _, err = finished(process, 75)
    first = record(run)
    assert (first["ending"], first["status"], first["ranks"]) == ("stopped", 75, 2)
    assert first["step"] == first["checkpoint"] == max(checkpoints(run))
    assert first["cause"] in err and first["is_root_cause"]
    # The next one begins without it.
    process = begun(start_ranks, run, "--resume", checkpoint=first["step"] // 5 * 5 + 5)
    assert not (run / "exit.json").exists()
    os.kill(process.pid, signal.SIGTERM)
    finished(process, 75)
    assert record(run)["step"] > first["step"]


def test_a_rank_that_was_killed_is_the_cause(start_ranks, tmp_path):
    process = begun(start_ranks, tmp_path / "run", ranks=4)
    os.kill(rank_processes(process)[2], signal.SIGKILL)
    finished(process, 128 + signal.SIGKILL, timeout=20)
    found = record(tmp_path / "run")
    assert (found["ending"], found["status"], found["rank"], found["ranks"]) == ("failed", 137, 2, 4)
    assert found["cause"] == "rank 2 of 4 was ended by SIGKILL" and found["is_root_cause"]
    assert "another rank has ended or does not answer" in found["said_by_others"]
    assert found["checkpoint"] == max(checkpoints(tmp_path / "run")) <= found["step"]


def test_ranks_that_are_killed_together_are_recorded_as_well(start_ranks, tmp_path):
    process = begun(start_ranks, tmp_path / "run")
    for rank in rank_processes(process):
        os.kill(rank, signal.SIGKILL)
    finished(process, 137, timeout=20)
    found = record(tmp_path / "run")
    assert (found["status"], found["step"]) == (137, None)
    assert found["checkpoint"] == max(checkpoints(tmp_path / "run"))


def test_a_rank_that_hangs_is_named(start_ranks, tmp_path):
    process = begun(start_ranks, tmp_path / "run", "--set", "train.collective_timeout_s=2")
    os.kill(rank_processes(process)[1], signal.SIGSTOP)
    _, err = finished(process, 5, timeout=40)
    found = record(tmp_path / "run")
    assert (found["status"], found["rank"]) == (5, 1)
    assert found["cause"] == "rank 1 of 2 did not answer and was killed" and found["cause"] in err


# The launcher with ranks that are scripts: the second fails at once and the first goes on computing.
RANKS_THAT_ARE_SCRIPTS = """
import sys
from osp import ranks
ranks.GRACE_S = 0.5
ranks.sys.executable = sys.argv[1]
sys.exit(ranks.launch(2, ["train"]))
"""
ONE_FAILS = """#!/bin/sh
if [ "$RANK" = 0 ]; then exec sleep 60; fi
if [ -n "$RUN" ]; then
    [ -z "$RECORD" ] || printf '%s' "$RECORD" > "$RUN/exit.json"
    printf '%s' "$RUN" > "$OSP_RUN_NOTE"
fi
exit 5
"""
KILLED = "rank 0 of 2 did not answer and was killed"
NO_SPACE = {"ending": "failed", "status": 5, "cause": "no space left", "is_root_cause": True, "rank": 1}
LOST = {**NO_SPACE, "cause": "another rank has ended", "is_root_cause": False}


@pytest.mark.parametrize(
    "written, cause",
    [
        (json.dumps(NO_SPACE), "no space left"),
        (json.dumps(LOST), KILLED),
        ("", KILLED),
        ("[]", KILLED),
        ("{", KILLED),
    ],
)
def test_a_slow_rank_that_is_killed_hides_no_root_cause(repo_root, osp_build, tmp_path, written, cause):
    script = tmp_path / "rank"
    script.write_text(ONE_FAILS)
    script.chmod(0o755)
    run = tmp_path / "run"
    run.mkdir()
    given = {"PYTHONPATH": str(repo_root / "python"), "OSP_BUILD": str(osp_build)}
    result = subprocess.run(
        [sys.executable, "-c", RANKS_THAT_ARE_SCRIPTS, script],
        env={**one_thread(), **given, "RUN": str(run), "RECORD": written},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert result.returncode == 5
    assert (KILLED in result.stderr) == (cause != NO_SPACE["cause"])
    assert "Traceback" not in result.stderr
    if cause == KILLED:
        found = record(run)
        assert (found["cause"], found["rank"], found["is_root_cause"]) == (KILLED, 0, True)
        assert found.get("said_by_others") == (LOST["cause"] if "cause" in written else None)
    else:
        assert record(run) == NO_SPACE


def test_divergence_is_recorded_in_the_words_of_the_first_rank(start_ranks, tmp_path):
    words = settings(GROUPS, *DIVERGING)
    _, err = finished(start_ranks(2, tmp_path / "run", *words), 4)
    found = record(tmp_path / "run")
    assert (found["ending"], found["status"], found["rank"]) == ("failed", 4, 0)
    assert found["is_root_cause"] and found["cause"] in err
    assert "go on from before the trouble" in found["cause"]


def test_a_folder_that_another_process_holds_is_left_alone(start_ranks, run_program, tmp_path):
    run = tmp_path / "run"
    process = begun(start_ranks, run)
    recipe = tmp_path / "fp32-osp.toml"
    refused = run_program(["osp", "train", recipe, "--out", run, "--resume"], check=False, env=one_thread())
    assert refused.returncode == 2 and not (run / "exit.json").exists()
    os.kill(process.pid, signal.SIGTERM)
    finished(process, 75)


def torchrun(repo_root, osp_build, words, restarts=1):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = {"PYTHONPATH": str(repo_root / "python"), "OSP_BUILD": str(osp_build)}
    return subprocess.Popen(
        [*command, "--max-restarts", str(restarts), "-m", "osp", "train", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**one_thread(), **given},
    )  # fmt: skip


def test_torchrun_starts_ranks_again_and_the_end_is_the_undisturbed_one(
    repo_root, osp_build, run_program, train_tokens, tmp_path
):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = [
        recipe,
        *settings(GROUPS, "train.steps=60", "train.checkpoint_every=5", "train.validate_every=0"),
    ]
    run = tmp_path / "run"
    process = torchrun(repo_root, osp_build, [*words, "--out", run, "--auto-resume"])
    wait_for(lambda: (run / "step-5").exists(), process)
    lines = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    os.kill(int(lines.stdout.split()[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "going on from" in err
    assert record(run)["ending"] == "finished"
    run_program(["osp", "train", *words, "--out", tmp_path / "alone", "--quiet"], env=one_thread())
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (run / "step-60" / name).read_bytes() == (tmp_path / "alone/step-60" / name).read_bytes()


def test_what_a_restart_cannot_help_is_not_begun_again(repo_root, osp_build, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = [recipe, *settings(GROUPS, *DIVERGING)]
    process = torchrun(repo_root, osp_build, [*words, "--out", tmp_path / "run", "--auto-resume"])
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "not started again after exit status 4" in err and "going on from" not in err
    assert record(tmp_path / "run")["status"] == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"launch": 3, "status": "x"}', '{"launch": "a"}'])
def test_a_record_that_is_no_record_stops_no_restart(run_program, train_tokens, tmp_path, content):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    run = tmp_path / "run"
    run.mkdir()
    (run / "exit.json").write_text(content)
    words = ["osp", "train", recipe, "--out", run, "--auto-resume", "--quiet"]
    run_program(words, env=restarted_by_torchrun("a"))
    assert record(run)["status"] == 0 and record(run)["launch"] == "a"


def restarted_by_torchrun(logs):
    """The environment of the first restart of a torchrun whose default name for the job is "none"."""
    return {
        **one_thread(),
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_x/{logs}/attempt_1/0/error.json" if logs else "",
    }


@pytest.mark.parametrize("status", [2, 4, 75])
def test_a_record_of_an_earlier_job_of_the_same_name_stops_no_restart(
    run_program, train_tokens, tmp_path, status
):
    """An attempt that dies before it holds the folder leaves the record of the job before."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    for earlier, now, expected in [
        ("none_abcd1234", "none_abcd1234", status),
        ("none_abcd1234", "none_efgh5678", 0),
        ("none", "none_efgh5678", 0),
        ("none", "", 0),
        ("", "", 0),
    ]:
        run = tmp_path / f"run-{earlier}-{now}"
        run.mkdir()
        before = {"ending": "failed", "status": status, "cause": "that of before", "launch": earlier}
        (run / "exit.json").write_text(json.dumps(before))
        words = ["osp", "train", recipe, "--out", run, "--auto-resume", "--quiet"]
        result = run_program([*words, *settings("train.steps=2", "schedule.warmup_steps=0")], check=False,
                             env=restarted_by_torchrun(now))  # fmt: skip
        assert result.returncode == expected, result.stderr
        assert ("not started again" in result.stderr) == (expected != 0)
        assert record(run)["status"] == expected


# --auto-resume, whose words are the same at every start.


def test_auto_resume_goes_back_to_no_checkpoint(run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    run = tmp_path / "run"
    words = ["osp", "train", recipe, "--quiet", "--auto-resume", "--out"]
    run_program([*words, run], env=one_thread())
    before = checkpoints(run)
    for out in (run, tmp_path / "new"):
        refused = run_program([*words, out, "--resume-from", "step-2"], check=False, env=one_thread())
        assert refused.returncode == 2 and "go back once with --resume-from alone" in refused.stderr
    assert checkpoints(run) == before and not (tmp_path / "new").exists()


def test_auto_resume_finds_a_run_that_was_copied_without_its_lock(run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    run_program(["osp", "train", recipe, "--out", tmp_path / "one", "--quiet"], env=one_thread())
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "one", copy, ignore=shutil.ignore_patterns("lock"))
    words = ["osp", "train", recipe, "--out", copy, "--auto-resume"]
    result = run_program([*words, *settings("train.steps=8")], env=one_thread())
    assert "going on from" in result.stderr and max(checkpoints(copy)) == 8


def test_auto_resume_goes_on_beside_the_weights_that_the_run_began_with(run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    weights = tmp_path / "other" / "step-6"
    run_program(["osp", "train", recipe, "--out", tmp_path / "other", "--quiet"], env=one_thread())
    whole, run = tmp_path / "whole", tmp_path / "run"
    for name in ("whole", "run"):
        words = ["osp", "train", recipe, "--out", tmp_path / name, "--auto-resume", "--init-from", weights]
        begun = run_program(words, env=one_thread())
        assert "starting with the weights" in begun.stderr
    for name in ["model", *(f"step-{step}" for step in checkpoints(run)[1:])]:
        shutil.rmtree(run / name)
    again = run_program(words, env=one_thread())
    assert "going on from" in again.stderr and "starting with the weights" not in again.stderr
    last = "step-6/model.safetensors"
    assert (run / last).read_bytes() == (whole / last).read_bytes() != (weights.parent / last).read_bytes()
    for other in (["--with-optimizer"], ["--init-from", weights.parent / "model"]):
        refused = run_program([*words, *other] if len(other) == 1 else [*words[:-2], *other], check=False,
                              env=one_thread())  # fmt: skip
        assert refused.returncode == 2 and f"began with --init-from {weights}, not" in refused.stderr
    plain = ["osp", "train", recipe, "--out", weights.parent, "--auto-resume", "--init-from", weights]
    refused = run_program(plain, check=False, env=one_thread())
    assert refused.returncode == 2 and "began with initialised weights" in refused.stderr


def test_another_number_of_ranks_is_told_where_it_changes_rounding(start_ranks, run_program, tmp_path):
    for name, choice, warned in [("exact", GROUPS, False), ("fast", "train.exact_ranks=false", True)]:
        run = tmp_path / name
        finished(start_ranks(2, run, *settings(choice)))
        words = ["osp", "train", tmp_path / "fp32-osp.toml", "--out", run, "--resume"]
        result = run_program([*words, *settings(choice, "train.steps=8")], env=one_thread())
        assert ("made with 2 ranks and goes on with 1:" in result.stderr) == warned
        again = run_program([*words, *settings(choice, "train.steps=9")], env=one_thread())
        assert "goes on with" not in again.stderr
