"""Kinds of faults around a run folder: what is overwritten, what is kept, what makes a run impossible to
resume. After any history of kills and resumes the folder holds what docs/formats.md promises."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from train_fixture import checkpoints, metrics, one_thread, state_hash, write_recipe


@pytest.fixture
def train(osp_build, train_tokens, tmp_path):
    """train(*arguments) -> CompletedProcess, into tmp_path/run."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)

    def run(*arguments, out=tmp_path / "run"):
        words = [osp_build / "osp", "train", recipe, "--out", out, *arguments]
        return subprocess.run(
            [str(w) for w in words], capture_output=True, text=True, env=one_thread(), timeout=240
        )

    return run


def done(result):
    assert result.returncode == 0, result.stderr
    return result


def named(run, pattern):
    return sorted(path.name for path in run.glob(pattern))


def setting(**values):
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


# What is never overwritten.


@pytest.mark.parametrize("left", ["model", "metrics.jsonl", "recipe.json", "events.out.tfevents.*", "step-2"])
def test_a_folder_that_holds_anything_of_a_run_is_not_overwritten(train, tiny_run, tmp_path, left):
    run = tmp_path / "run"
    run.mkdir()
    for path in tiny_run.glob(left):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, run / path.name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = train("--quiet")
    assert result.returncode == 2 and "choose another folder" in result.stderr, result.stderr
    for path, content in before.items():
        assert path.read_bytes() == content, path


@pytest.mark.parametrize("without", ["steps", "steps and recipe", "everything but model"])
def test_a_finished_run_without_checkpoints_is_not_replaced_even_by_resume(
    train, tiny_run, tmp_path, without
):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for path in run.iterdir():
        keep = not path.name.startswith("step-")
        keep = keep and not (without == "steps and recipe" and path.name == "recipe.json")
        keep = keep and (without != "everything but model" or path.name == "model")
        if not keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = (run / "model" / "model.safetensors").read_bytes()
    for arguments in ([], ["--resume"]):
        result = train("--quiet", *arguments, *setting(run__seed=1))
        assert result.returncode == 2, result.stderr
        assert (run / "model" / "model.safetensors").read_bytes() == before


def test_another_recipe_is_seen_also_where_recipe_json_is_lost(train, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "recipe.json").unlink()
    result = train("--resume", *setting(optim__lr=0.5))
    assert result.returncode == 2 and "optim.lr" in result.stderr
    done(train("--resume"))


# What is kept.


def kill_after_first_new_checkpoint(osp_build, recipe, run, *arguments):
    before = checkpoints(run) if run.exists() else []
    words = [osp_build / "osp", "train", recipe, "--out", run, "--quiet", *arguments]
    process = subprocess.Popen([str(w) for w in words], env=one_thread(), stderr=subprocess.PIPE)
    while process.poll() is None and not (
        run.exists() and max(checkpoints(run), default=0) > max(before, default=0)
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("damage", ["none", "newest", "older"])
def test_retention_counts_every_intact_checkpoint_over_three_restarts(
    osp_build, train, train_tokens, tmp_path, damage
):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens, precision="bf16")
    run = tmp_path / "run"
    options = setting(
        train__steps=4000,
        train__checkpoint_every=5,
        train__keep_checkpoints=2,
        train__validate_every=0,
        train__validation_tokens=0,
        train__sample_every=0,
    )
    for restart in range(3):
        kill_after_first_new_checkpoint(osp_build, recipe, run, *options, *(["--resume"] if restart else []))
        steps = checkpoints(run)
        assert steps and len(steps) <= 3, "keep_checkpoints and one more while saving"
        if damage != "none" and len(steps) > 1:
            broken = steps[-1] if damage == "newest" else steps[-2]
            file = run / f"step-{broken}" / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    intact = [step for step in checkpoints(run) if step != (broken if damage != "none" else None)]
    process = subprocess.Popen(
        [str(w) for w in [osp_build / "osp", "train", recipe, "--out", run, "--resume", *options]],
        env=one_thread(),
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step "):
            break
    if intact:
        assert max(intact) in checkpoints(run), "an intact one was lost"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 75
    assert 1 <= len(checkpoints(run)) <= 2
    assert not named(run, "step-*.tmp") and not named(run, "step-*.old")


def test_what_was_damaged_goes_when_the_run_has_passed_it(train, tmp_path):
    run = tmp_path / "run"
    done(train())
    file = run / "step-4" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    shutil.rmtree(run / "step-6")
    done(train("--resume"))
    assert checkpoints(run) == [2, 4, 6] and not named(run, "*.damaged")


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damaged(train, tmp_path):
    """A folder in place of a file: the system refuses to read it, and nothing says that it is damaged."""
    run = tmp_path / "run"
    done(train())
    (run / "step-6" / "model.safetensors").rename(tmp_path / "kept")
    (run / "step-6" / "model.safetensors").symlink_to(run / "step-6" / "model.safetensors")  # a loop
    result = train("--resume", *setting(train__steps=4))
    assert result.returncode == 0 and "step-6 cannot be used" in result.stderr, result.stderr
    assert 6 in checkpoints(run)


# Skipped steps.


def skipping(steps):
    """Every step from the eighth on is skipped: none falls a standard deviation and more."""
    return setting(
        train__steps=steps,
        train__checkpoint_every=1,
        train__keep_checkpoints=2,
        schedule__kind="constant",
        guard__loss_z=0.001,
        guard__max_consecutive_skips=6,
        train__validate_every=0,
        train__validation_tokens=0,
        train__sample_every=0,
    )


def consecutive(run, step):
    return json.loads((run / f"step-{step}" / "trainer.json").read_text())["guard"]["consecutive"]


def test_skipped_steps_push_out_no_healthy_checkpoint_and_an_older_one_can_be_chosen(train, tmp_path):
    run = tmp_path / "run"
    result = train(*skipping(400))
    assert result.returncode == 4, result.stderr
    steps = checkpoints(run)
    assert len(steps) == 2 and all(consecutive(run, step) == 0 for step in steps)
    assert f"--resume-from step-{steps[-1]}" in result.stderr
    # The same trouble again, from either; each time the run could go on.
    for _ in range(2):
        assert train("--resume", *skipping(400)).returncode == 4
        assert all(consecutive(run, step) == 0 for step in checkpoints(run)) and len(checkpoints(run)) == 2
    older = checkpoints(run)[0]
    done(train("--resume-from", f"step-{older}", *skipping(older)))
    assert checkpoints(run) == [older]
    assert named(run, "step-*.superseded")


def test_a_step_that_is_not_there_is_named(train, tmp_path):
    done(train())
    for name in ("step-3", "7", "x"):
        result = train("--resume-from", name)
        assert result.returncode == 2 and "step-" in result.stderr


# Weights.


@pytest.mark.parametrize("key", ["optim.eps", "optim.shampoo_eps", "optim.kfac_damping"])
def test_an_eps_of_zero_is_refused(train, tmp_path, key):
    result = train("--set", f"{key}=0")
    assert result.returncode == 2 and key in result.stderr


@pytest.mark.parametrize("name", ["osp", "adam", "adafactor", "shampoo", "soap", "kfac"])
def test_weights_that_are_not_finite_are_neither_saved_nor_called_done(train, tmp_path, name):
    """A rate at which decay alone multiplies weights by -1e5 a step."""
    run = tmp_path / "run"
    scales = {f"optim__{group}_lr_scale": 1e6 for group in ("adam", "muon", "gain", "preconditioned")}
    options = setting(
        optim__name=name,
        optim__lr=10,
        train__steps=60,
        train__checkpoint_every=1,
        schedule__warmup_steps=0,
        **scales,
    )
    result = train(*options, *setting(guard__max_consecutive_skips=3))
    assert result.returncode == 4, (result.returncode, result.stderr)
    assert not (run / "model").exists()


# What is lost or new does not end a run.


@pytest.mark.parametrize("loss", ["deleted", "short", "empty", "changed"])
def test_a_log_that_was_lost_does_not_end_a_run(train, tiny_run, tmp_path, loss):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "step-6")
    log = run / "metrics.jsonl"
    text = log.read_bytes()
    if loss == "deleted":
        log.unlink()
    elif loss == "short":
        log.write_bytes(text[: len(text) // 3])
    elif loss == "empty":
        log.write_bytes(b"")
    else:
        log.write_bytes(b'{"kind":"note"}\n' + text)
    result = done(train("--resume"))
    assert "metrics.jsonl" in result.stderr
    assert state_hash(run, 6) == state_hash(tiny_run, 6)
    lines = metrics(run)
    assert lines[-1]["kind"] == "end" and lines[0]["kind"] in ("start", "note")
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == sorted(set(steps)) and steps[-2:] == [5, 6]
    done(train("--resume"))  # and once more


@pytest.mark.parametrize("place", ["run", "checkpoint", "both"])
def test_a_key_that_an_older_program_did_not_know_has_its_default_there(train, tmp_path, place):
    run = tmp_path / "run"
    done(train())
    shutil.rmtree(run / "step-6")
    files = [run / "recipe.json"] if place != "checkpoint" else []
    files += [run / "step-4" / "recipe.json"] if place != "run" else []
    for file in files:
        recipe = json.loads(file.read_text())
        del recipe["optim"]["momentum"], recipe["model"]["qk_norm"], recipe["schedule"]["decay_shape"]
        del recipe["model"]["head_size"]  # its default follows from others
        file.write_text(json.dumps(recipe))
    rehash(run / "step-4")
    done(train("--resume"))
    shutil.rmtree(run / "step-6")
    if place != "run":
        result = train("--resume", *setting(optim__momentum=0.5))
        assert result.returncode == 2 and "optim.momentum (0.95 there, 0.5 here)" in result.stderr


def rehash(folder):
    """Makes the manifest say what the folder holds, with a recipe hash of another program."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["recipe_hash"] = "0" * 64
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    dumped = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    manifest["sha256"] = hashlib.sha256(dumped.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_can_be_extended_and_shortened_down_to_its_checkpoint(train, tmp_path):
    run = tmp_path / "run"
    done(train())
    result = done(train("--resume", *setting(train__steps=10)))
    assert "the run of 6 steps now has 10" in result.stderr
    lines = metrics(run)
    assert next(line for line in lines if line["kind"] == "extend")["steps"] == 10
    assert lines[-1] == {**lines[-1], "kind": "end", "step": 10}
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 11))
    assert json.loads((run / "recipe.json").read_text())["train"]["steps"] == 10
    refused = train("--resume", *setting(train__steps=5))
    assert refused.returncode == 2 and "train.steps" in refused.stderr
    assert "train.steps" not in done(train("--resume", *setting(train__steps=10))).stderr


def test_points_of_a_run_that_starts_again_appear_once(osp_build, train, train_tokens, tmp_path):
    """Killed before the first checkpoint, where nothing says that the run is resumed."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    run = tmp_path / "run"
    for restart in range(3):
        words = [
            osp_build / "osp",
            "train",
            recipe,
            "--out",
            run,
            *setting(train__steps=3000, train__checkpoint_every=0),
        ]
        words += ["--resume"] if restart else []
        process = subprocess.Popen(
            [str(w) for w in words], env=one_thread(), stderr=subprocess.PIPE, text=True
        )
        for line in process.stderr:
            if line.startswith("step 5/"):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done(train("--resume", *setting(train__checkpoint_every=0)))
    events = event_accumulator.EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    for tag in ("train/loss", "validation/loss"):
        steps = [point.step for point in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
