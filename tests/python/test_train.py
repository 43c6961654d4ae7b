"""`osp train` from end to end: what a run leaves, resuming, refusals, exit statuses."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from train_fixture import checkpoints, metrics, one_thread, state_hash, timeless, write_recipe


@pytest.fixture
def train(run_program, tmp_path, train_tokens):
    """train(*arguments, optimizer="osp", precision="fp32", check=True) -> CompletedProcess."""

    def run(*arguments, optimizer="osp", precision="fp32", check=True, **keywords):
        recipe = write_recipe(tmp_path / f"{optimizer}.toml", train_tokens, optimizer, precision)
        return run_program(["osp", "train", recipe, *arguments], check=check, env=one_thread(), **keywords)

    return run


@pytest.fixture(scope="module")
def long_run(run_program, train_tokens, tmp_path_factory):
    """(arguments, folder) of an undisturbed run of 200 steps."""
    arguments = [
        "--set",
        "train.steps=200",
        "--set",
        "train.checkpoint_every=0",
        "--set",
        "train.validate_every=0",
        "--set",
        "train.sample_every=0",
        "--set",
        "train.precision=bf16",
    ]
    folder = tmp_path_factory.mktemp("long")
    recipe = write_recipe(folder / "osp.toml", train_tokens)
    run_program(["osp", "train", recipe, *arguments, "--out", folder / "whole", "--quiet"], env=one_thread())
    return arguments, folder / "whole"


@pytest.fixture
def refused(train):
    """refused(status, *arguments) -> the one line that says why."""

    def run(status, *arguments, **keywords):
        result = train(*arguments, "--quiet", check=False, **keywords)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        assert result.returncode == status, result.stderr
        assert len(lines) == 1, result.stderr
        assert result.stdout == ""
        return lines[0]

    return run


@pytest.mark.parametrize("optimizer", ["osp", "adam"])
def test_a_run_leaves_a_model_metrics_and_events(train, tmp_path, optimizer):
    run = tmp_path / "run"
    result = json.loads(train("--out", run, "--json", optimizer=optimizer).stdout)
    assert result["step"] == 6 and result["tokens"] == 768 and result["skipped_steps"] == 0
    assert result["fused_logit_relative_difference"] < 1e-4  # fp32 sums in another order
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (run / "model" / "tokenizer.json").exists()
    lines = metrics(run)
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [0, 3, 6]
    assert [line["step"] for line in lines if line["kind"] == "sample"] == [3, 6]
    assert lines[0]["kind"] == "start" and lines[-1]["kind"] == "end"
    assert lines[0]["command"].startswith("osp train ") and "Linux" in lines[0]["machine"]
    assert lines[0]["recipe"]["train"]["steps"] == 6
    assert lines[0]["recipe"] == json.loads((run / "recipe.json").read_text())
    validation = [line for line in lines if line["kind"] == "validation"][-1]
    assert len(validation["excess_kurtosis"]["per_layer"]) == 2
    assert validation["loss"] == result["validation_loss"]
    assert validation["largest_activation"]["value"] > 0
    assert set(validation["gains"]) == {
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.norm.weight",
    }
    rates = [line["lr"] for line in lines if line["kind"] == "step"]
    assert rates == [0.0015, 0.003, 0.003, 0.003, 0.003, 0.003]  # two steps of warm-up
    step = [line for line in lines if line["kind"] == "step"][-1]
    assert set(step["update_norm"]) | {"all"} == set(step["gradient_norm"])
    total = sum(v * v for k, v in step["gradient_norm"].items() if k != "all") ** 0.5
    assert step["gradient_norm"]["all"] == pytest.approx(total, rel=1e-12)


def test_event_files_hold_the_same_numbers(train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train("--out", run, "--quiet")
    events = EventAccumulator(str(run))
    events.Reload()
    losses = {line["step"]: line["loss"] for line in metrics(run) if line["kind"] == "step"}
    read = {e.step: e.value for e in events.Scalars("train/loss")}
    assert read == pytest.approx(losses, rel=1e-6)  # stored as float32
    assert [e.step for e in events.Scalars("validation/loss")] == [0, 3, 6]
    assert [e.step for e in events.Tensors("sample")] == [3, 6]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_recipe_gives_the_same_bits(train, tmp_path, precision):
    for name in ("a", "b"):
        train("--out", tmp_path / name, "--quiet", precision=precision)
    assert state_hash(tmp_path / "a", 6) == state_hash(tmp_path / "b", 6)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_blocks_computed_again_give_the_same_bits_in_the_same_micro_batches(train, tmp_path):
    """Also where the memory estimate decides the micro-batch: a run may resume with the other value."""
    small = [
        "--quiet",
        "--set",
        "train.activation_memory_mb=1",
        "--set",
        "model.layers=12",
    ]  # two of four sequences
    train("--out", tmp_path / "kept", *small)
    train("--out", tmp_path / "again", *small, "--set", "train.recompute_blocks=true")
    assert metrics(tmp_path / "again")[0]["recipe"]["train"]["micro_batch_sequences"] == 2
    assert state_hash(tmp_path / "kept", 6) == state_hash(tmp_path / "again", 6)
    train("--out", tmp_path / "kept", *small, "--resume", "--set", "train.recompute_blocks=true")


def test_the_share_of_reading_batches_is_logged(train, tmp_path):
    train("--out", tmp_path / "run", "--quiet")
    shares = [line["data_share"] for line in metrics(tmp_path / "run") if line["kind"] == "step"]
    assert shares and all(0 < share < 1 for share in shares)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_leaves_with_75_and_the_run_goes_on_bit_for_bit(
    train, tmp_path, train_tokens, osp_build, long_run, sent
):
    arguments, whole = long_run
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    process = subprocess.Popen(
        [osp_build / "osp", "train", recipe, *arguments, "--out", run],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=one_thread(),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until it has trained a few steps
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().split("\n")) > 5:
            break
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert sent.name in errors and "--resume" in errors
    stopped_at = checkpoints(run)[-1]
    assert 0 < stopped_at < 200
    assert metrics(run)[-1]["step"] == stopped_at
    train(*arguments, "--out", run, "--resume", "--quiet")
    assert state_hash(run, 200) == state_hash(whole, 200)
    assert timeless(run) == timeless(whole)


def test_a_second_trainer_is_refused(train, refused, tmp_path, train_tokens, osp_build):
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    first = subprocess.Popen(
        [osp_build / "osp", "train", recipe, "--set", "train.steps=100000", "--out", run, "--quiet"],
        env=one_thread(),
    )
    try:
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        message = refused(2, "--out", run, "--resume", "--set", "train.steps=100000")
        assert "lock" in message and str(run) in message
    finally:
        first.terminate()
        assert first.wait(timeout=60) == 75


def test_a_folder_with_checkpoints_says_what_to_do(train, refused, tmp_path):
    run = tmp_path / "run"
    train("--out", run, "--quiet")
    assert "has checkpoints up to step-6; add --resume" in refused(2, "--out", run)
    message = refused(2, "--out", run, "--resume", "--set", "optim.lr=0.1")
    assert "optim.lr (0.003 there, 0.1 here)" in message


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_damage_in_any_file_of_the_newest_checkpoint_falls_back_loudly(train, tmp_path, precision):
    whole = tmp_path / "whole"
    train("--out", whole, "--quiet", precision=precision)
    names = sorted(p.name for p in (whole / "step-6").iterdir())
    assert len(names) >= 7
    for name in names:
        run = tmp_path / f"damaged-{name}"
        shutil.copytree(whole, run)
        path = run / "step-6" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
        result = train("--out", run, "--resume", "--quiet", precision=precision)
        assert "warning: checkpoint step-6 cannot be used" in result.stderr
        assert state_hash(run, 6) == state_hash(whole, 6)
        assert timeless(run) == timeless(whole)
        # The run has passed it: an intact step-6 is back.
        assert not (run / "step-6.damaged").exists()


def test_no_intact_checkpoint_is_an_error_not_a_fresh_start(train, refused, tmp_path):
    run = tmp_path / "run"
    train("--out", run, "--quiet")
    before = (run / "metrics.jsonl").read_bytes()
    for step in checkpoints(run):
        (run / f"step-{step}" / "trainer.json").unlink()
    assert "none of its 3 checkpoints is intact" in refused(3, "--out", run, "--resume")
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "assignment, status, parts",
    [
        ("optim.lrr=1", 2, ["unknown key optim.lrr", "did you mean optim.lr?"]),
        ("train.stesp=1", 2, ["did you mean train.steps?"]),
        ("train.steps=many", 2, ["train.steps", "an integer"]),
        ("model.norm=rmss", 2, ["did you mean rms?"]),
        ("model.heads=5", 2, ["model.heads = 5", "model.width = 32"]),
        ("model.heads=0", 2, ["from 1 to"]),
        ("train.batch_tokens=100", 2, ["multiple of model.context", "96 or 128"]),
        ("train.tokens=5", 2, ["train.steps = 6", "train.tokens = 5"]),
        ("model.vocabulary=100", 2, ["model.vocabulary = 100", "4096"]),
        ("model.tied=true", 2, ["model.tied", "model.embedding_projection"]),
        ("model.branch_scale_init=0.2", 2, ["model.branch_scale_init = 0.2", "model.branch_scale = true"]),
        ("data.path=nowhere", 2, ["nowhere", "osp tokenize"]),
        ("schedule.warmup_steps=100", 2, ["warmup"]),
        ("optim.routes=nothing*=adam", 2, ["optim.routes", "matches no parameter"]),
        ("optim.momentum_bits=16", 2, ["optim.momentum_bits = 16", "32 bits or in 8"]),
        ("optim.momentum_bits=4", 2, ["optim.momentum_bits", "from 8 to 32"]),
    ],
)
def test_bad_recipes_are_refused_in_one_line(refused, tmp_path, assignment, status, parts):
    result = refused(status, "--set", assignment, "--out", tmp_path / "run")
    for part in parts:
        assert part in result
    assert not (tmp_path / "run").exists()


def test_a_recipe_names_line_and_nearest_key(run_program, tmp_path):
    recipe = tmp_path / "a.toml"
    recipe.write_text("[model]\nlayers = 2\nwidht = 32\n")
    result = run_program(["osp", "train", recipe], check=False)
    assert result.returncode == 2
    assert f"{recipe}:3: unknown key model.widht; did you mean model.width?" in result.stderr


def test_a_truncated_shard_is_found_before_the_first_step(train, refused, tmp_path, train_tokens):
    copy = tmp_path / "tokens"
    shutil.copytree(train_tokens, copy)
    shard = next(copy.glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:-2])
    message = refused(3, "--set", f"data.path={copy}", "--out", tmp_path / "run")
    assert shard.name in message
    assert not (tmp_path / "run").exists()


def test_too_many_skipped_steps_end_as_diverged(refused, tmp_path):
    message = refused(
        4,
        "--out",
        tmp_path / "run",
        "--set",
        "train.steps=200",
        "--set",
        "schedule.kind=constant",
        "--set",
        "guard.loss_z=0.001",
        "--set",
        "guard.max_consecutive_skips=2",
    )
    assert "guard.max_consecutive_skips" in message
    skipped = [line for line in metrics(tmp_path / "run") if line.get("skipped")]
    assert skipped and all(line["skip_reason"] for line in skipped)


def test_dry_run_describes_the_run_and_writes_nothing(train, tmp_path):
    text = train("--dry-run", "--out", tmp_path / "run").stdout
    for part in ("[train]", "steps = 6", "muon", "parameters", "model FLOPs", "optimizer"):
        assert part in text
    described = json.loads(train("--dry-run", "--json").stdout)
    # Two tables, two projections, q k v o, gate up down, three gains.
    assert described["parameters"] == 2 * 4096 * 32 + 2 * 32 * 32 + 4 * 32 * 32 + 3 * 64 * 32 + 3
    # 6 operations for each weight that multiplies a state, 6 L H K T for attention.
    assert described["flops_per_token"] == 6 * (4096 * 32 + 6 * 1024 + 3 * 2048) + 6 * 32 * 32
    assert described["tokens"] == 768
    assert not (tmp_path / "run").exists()


def test_a_run_can_start_from_old_weights_with_or_without_optimizer(train, refused, tmp_path):
    train("--out", tmp_path / "a", "--quiet")
    frozen = ["--set", "optim.lr=0", "--set", "optim.weight_decay=0", "--quiet"]
    source = tmp_path / "a" / "step-6"
    train("--out", tmp_path / "b", "--init-from", source, *frozen)
    weights = (source / "model.safetensors").read_bytes()
    assert (tmp_path / "b" / "step-6" / "model.safetensors").read_bytes() == weights
    train("--out", tmp_path / "c", "--init-from", source, "--with-optimizer", *frozen)
    states = [tmp_path / n / "step-6" / "optimizer.safetensors" for n in "bc"]
    assert states[0].read_bytes() != states[1].read_bytes()
    message = refused(2, "--out", tmp_path / "d", "--init-from", tmp_path / "a" / "model")
    assert "embed_proj" in message  # the fused model has no projections


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}, "set model.heads as in"),
        ({"osp_window": 8}, "the sliding window is another than in this recipe's model; no recipe can say"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "the scaling of the rotary embedding",
        ),
    ],
    ids=["heads", "window", "scaling"],
)
def test_weights_of_a_model_that_computes_otherwise_are_refused(train, refused, tmp_path, changes, reason):
    train("--out", tmp_path / "a", "--quiet")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (other / name).write_bytes((tmp_path / "a" / "step-6" / name).read_bytes())
    same = ("--out", tmp_path / "b", "--init-from", other, "--quiet")
    train(*same)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **changes}))
    assert reason in refused(2, "--out", tmp_path / "c", "--init-from", other)


@pytest.mark.parametrize("optimizer", ["osp", "adam"])
def test_without_kernels_a_run_learns_the_same(run_program, tmp_path, train_tokens, optimizer):
    """OSP_ISA=reference runs what a device without our kernels runs, gains and samples included."""
    recipe = write_recipe(tmp_path / "run.toml", train_tokens, optimizer)
    curves = {}
    for isa in ("", "reference"):
        run = tmp_path / (isa or "fast")
        run_program(["osp", "train", recipe, "--out", run, "--quiet"], env=one_thread() | {"OSP_ISA": isa})
        rows = metrics(run)
        steps = [row["loss"] for row in rows if row["kind"] == "step"]
        validation = [row for row in rows if row["kind"] == "validation"]
        curves[isa] = steps + [row["loss"] for row in validation], validation[-1]["gains"]
    losses, gains = curves[""]
    assert len(losses) > 2 and losses[0] != losses[-1]
    assert curves["reference"][0] == pytest.approx(losses, rel=2e-3)
    assert any(gain != 1 for gain in gains.values())
    assert curves["reference"][1] == pytest.approx(gains, rel=2e-3)


def test_cuda_is_refused_clearly_where_there_is_none(refused, tmp_path):
    from pathlib import Path

    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a CUDA device; the refusal needs one without")
    message = refused(3, "--device", "cuda", "--out", tmp_path / "run")
    assert "--device cpu" in message


@pytest.mark.parametrize(
    "recipe",
    [
        "demo-osp",
        "demo-adam",
        "demo-7m-osp",
        "demo-7m-adam",
        "demo-7m-adam-best",
        "demo-long-osp",
        "demo-long-adam",
        "demo-long-adam-best",
        "125m-osp",
        "osp-1.4b",
        "ablation/adam",
        "ablation/muon-without-adam",
        "ablation/muon",
        "ablation/muon-ssnorm",
        "ablation/muon-embproj",
        "ablation/osp",
        "ablation/adafactor",
        "ablation/shampoo",
        "ablation/soap",
        "ablation/kfac",
        "ablation/muon-simple",
        "ablation/outlier-protected",
        "ablation/outlier-protected-muon",
    ],
)
def test_every_recipe_resolves(run_program, repo_root, recipe, tmp_path):
    result = run_program(
        [
            "osp",
            "train",
            repo_root / "recipes" / f"{recipe}.toml",
            "--dry-run",
            "--json",
            "--set",
            f"data.path={tmp_path / 'none'}",
        ]
    )
    described = json.loads(result.stdout)
    if recipe.startswith("demo-long"):
        assert described["parameters"] >= 25e6 and described["tokens"] >= 50e6
    if recipe == "osp-1.4b":
        assert described["recipe"]["model"]["inner"] == 5504
        assert 1.3e9 < described["parameters"] < 1.5e9
