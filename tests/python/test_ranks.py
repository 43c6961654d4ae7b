"""Training with many ranks: byte-equal runs on 1, 2 and 4 of them, resumed over other numbers of ranks, and
what happens when ranks disagree, die or are asked to stop."""

import array
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks_fixture import (
    GROUPS,
    begun,
    environment_of_rank,
    finished,
    rank_processes,
    settings,
    two_ranks,
)
from train_fixture import checkpoints, one_thread, timeless, write_recipe

# Clipping active in all groups, masks of documents, and a last micro-batch of another size.
HARD = [
    "optim.clip_adam=0.05",
    "optim.clip_muon=0.05",
    "optim.clip_gain=0.05",
    "data.document_mask=true",
    "train.batch_tokens=384",
    "train.micro_batch_sequences=2",
]


def assert_equal_runs(one, other):
    """Checkpoints, model and log of two runs are the same bytes, but for times and numbers of ranks."""
    assert timeless(one) == timeless(other)
    assert_equal_files(one, other)


def assert_equal_files(one, other):
    assert checkpoints(one) == checkpoints(other)
    for step in checkpoints(one):
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (one / f"step-{step}" / name).read_bytes() == (other / f"step-{step}" / name).read_bytes()
    assert (one / "model/model.safetensors").read_bytes() == (other / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "precision, extra",
    [
        ("fp32", ["optim.momentum_bits=8"]),
        ("bf16", []),
        ("bf16", ["optim.per_head=true", "optim.momentum_bits=8"]),
    ],
)
def test_a_run_has_the_same_bytes_on_1_2_and_4_ranks(start_ranks, run_program, tmp_path, precision, extra):
    words = settings(GROUPS, *HARD, *extra)
    for ranks in (2, 4):
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *words, precision=precision))
    recipe = tmp_path / f"{precision}-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())
    for ranks in (2, 4):
        assert_equal_runs(tmp_path / "alone", tmp_path / f"ranks-{ranks}")
    clipped = [line for line in timeless(tmp_path / "alone") if line["kind"] == "step"]
    assert all(line["gradient_norm"]["all"] > 0.05 and line["update_norm"]["muon"] > 0 for line in clipped)


@pytest.mark.parametrize("groups, numbers", [(4, [3]), (6, [2, 3, 5]), (3, [2, 3])])
def test_numbers_that_are_no_powers_of_two_have_the_same_bytes(
    start_ranks, run_program, tmp_path, groups, numbers
):
    """Ranks with unequal numbers of groups, which send the sums of several subtrees."""
    words = settings(f"train.reduction_groups={groups}", "train.batch_tokens=224", *HARD[:4])
    for ranks in numbers:
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *words, precision="bf16"))
    recipe = tmp_path / "bf16-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())
    for ranks in numbers:
        assert_equal_runs(tmp_path / "alone", tmp_path / f"ranks-{ranks}")


def test_without_exact_ranks_losses_are_equal_up_to_rounding(start_ranks, run_program, tmp_path):
    """In fp32, where a wrong sum of gradients, a wrong share or a lost micro-batch would be seen at once."""
    steps = ["train.steps=12", "train.batch_tokens=224", "train.micro_batch_sequences=2"]
    words = settings("train.exact_ranks=false", "optim.clip_muon=0.05", *steps)
    for ranks in (2, 3):
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *words))
    recipe = tmp_path / "fp32-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())

    def losses(run):
        return [line["loss"] for line in timeless(run) if line["kind"] == "step"]

    alone = losses(tmp_path / "alone")
    for ranks in (2, 3):
        found = losses(tmp_path / f"ranks-{ranks}")
        # Newton-Schulz rounds to bf16: a last bit of a gradient can move an update by 2^-9 of itself.
        assert found == pytest.approx(alone, rel=1e-4)
        assert found != alone, "the sums are those of groups: nothing is traded"
    # The weights of the two numbers of ranks are each other's neighbours, too.
    model = [(tmp_path / f"ranks-{ranks}/model/model.safetensors").read_bytes() for ranks in (2, 3)]
    assert model[0] != model[1]


def test_gradients_in_bf16_on_the_wire_are_rounded_once(start_ranks, tmp_path):
    """Against the same ranks with fp32 on the wire, in fp32 passes: one rounding of bf16 apart."""
    words = settings("train.exact_ranks=false", "optim.name=adam", "train.steps=3", "train.batch_tokens=224")
    for reduce in ("fp32", "bf16"):
        finished(start_ranks(3, tmp_path / reduce, *words, "--set", f"train.reduce_precision={reduce}"))
    wide, narrow = (
        [line for line in timeless(tmp_path / reduce) if line["kind"] == "step"]
        for reduce in ("fp32", "bf16")
    )
    assert narrow[0]["loss"] == wide[0]["loss"]  # before any update
    norms = [lines[0]["gradient_norm"]["all"] for lines in (wide, narrow)]
    # Each number is off by at most 2^-9 of itself, in both directions; the norm of all by far less.
    assert 0 < abs(norms[0] - norms[1]) < 2**-9 * norms[0]
    assert narrow[2]["loss"] == pytest.approx(wide[2]["loss"], rel=1e-3)


@pytest.mark.parametrize(
    "extra", [[], ["train.recompute_blocks=true"], ["model.norm=rms", "optim.name=adam"]]
)
def test_what_is_sent_during_the_backward_pass_is_what_is_sent_after_it(start_ranks, tmp_path, extra):
    """As many ranks as groups: each block's gradients go to their owners as soon as they are complete."""
    words = settings(
        "train.reduction_groups=3", "train.batch_tokens=224", "model.layers=3", *HARD[:4], *extra
    )
    for name, size in [("blocks", 0), ("pairs", 0.1), ("end", 1e6)]:
        finished(
            start_ranks(3, tmp_path / name, *words, "--set", f"train.bucket_mb={size}", precision="bf16")
        )
    for name in ("blocks", "pairs"):
        assert_equal_files(tmp_path / name, tmp_path / "end")


def with_empty_windows(tokens, folder):
    """The shards again, with most windows of 32 tokens full of ends of documents, which score nothing."""
    shutil.copytree(tokens, folder)
    index = json.loads((folder / "index.json").read_text())
    choose = random.Random(3)
    for shard in index["splits"]["train"]["shards"]:
        ids = array.array("H", (folder / shard["file"]).read_bytes())
        for first in range(0, len(ids) - 32, 32):
            if choose.random() < 0.8:
                ids[first : first + 33] = array.array("H", [index["end_of_document"]] * 33)
        (folder / shard["file"]).write_bytes(ids.tobytes())
        shard["sha256"] = hashlib.sha256(ids.tobytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def test_a_rank_without_scored_tokens_adds_nothing_and_waits_for_nobody(
    start_ranks, run_program, train_tokens, tmp_path
):
    """On 4 ranks each has one sequence a step: nearly every step has a rank that scores nothing."""
    tokens = with_empty_windows(train_tokens, tmp_path / "tokens")
    words = settings(GROUPS, "data.document_mask=true", f"data.path={tokens}", "train.steps=12")
    for ranks in (2, 4):
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *words, precision="bf16"))
    recipe = tmp_path / "bf16-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())
    for ranks in (2, 4):
        assert_equal_runs(tmp_path / "alone", tmp_path / f"ranks-{ranks}")
    steps = [line for line in timeless(tmp_path / "alone") if line["kind"] == "step"]
    skipped = [line for line in steps if line.get("skipped")]
    assert 0 < len(skipped) < len(steps)
    assert all(line["skip_reason"] == "no token of its batch is scored" for line in skipped)


@pytest.mark.parametrize(
    "optimizer, numbers, extra",
    [
        ("adam", [2, 4], []),
        # Rows that are no multiple of the 16 numbers of a vector.
        ("adam", [3], ["model.width=24", "model.inner=40", "optim.clip_adam=0.05", "train.precision=bf16"]),
        ("adafactor", [2], []),
    ],
)
def test_other_optimizers_have_the_same_bytes_on_more_ranks(
    start_ranks, run_program, tmp_path, optimizer, numbers, extra
):
    words = settings(GROUPS, *HARD[3:], *extra)
    for ranks in numbers:
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *words, optimizer=optimizer))
    recipe = tmp_path / f"fp32-{optimizer}.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())
    for ranks in numbers:
        assert_equal_runs(tmp_path / "alone", tmp_path / f"ranks-{ranks}")


def test_a_run_resumed_on_other_numbers_of_ranks_is_the_undisturbed_one(start_ranks, run_program, tmp_path):
    """Steps 1 and 2 on 4 ranks, 3 and 4 on 2, 5 and 6 on one, 7 and 8 on 4: each call goes on to the end."""
    words = settings(GROUPS, *HARD, "train.steps=8", "optim.momentum_bits=8")
    for ranks, resume in ((4, []), (2, ["step-2"]), (1, ["step-4"]), (4, ["step-6"])):
        choice = ["--resume-from", *resume] if resume else []
        finished(start_ranks(ranks, tmp_path / "moved", *words, *choice, precision="bf16"))
    recipe = tmp_path / "bf16-osp.toml"
    run_program(["osp", "train", recipe, "--out", tmp_path / "alone", *words, "--quiet"], env=one_thread())
    assert_equal_runs(tmp_path / "alone", tmp_path / "moved")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_all_within_seconds(start_ranks, tmp_path, victim):
    process = begun(start_ranks, tmp_path / "run", ranks=4)
    ranks = rank_processes(process)
    os.kill(ranks[victim], signal.SIGKILL)
    began = time.monotonic()
    _, err = finished(process, 128 + signal.SIGKILL, timeout=20)
    assert time.monotonic() - began < 10
    assert f"rank {victim} of 4 was ended by SIGKILL" in err
    assert "another rank has ended or does not answer" in err
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_a_rank_that_hangs_ends_all_within_the_timeout(start_ranks, tmp_path):
    process = begun(start_ranks, tmp_path / "run", "--set", "train.collective_timeout_s=2")
    hanging = rank_processes(process)[1]
    os.kill(hanging, signal.SIGSTOP)
    began = time.monotonic()
    out, err = process.communicate(timeout=40)
    assert time.monotonic() - began < 25
    assert process.returncode == 5 and "another rank has ended or does not answer" in err, (out, err)


@pytest.mark.parametrize("to", ["launcher", "rank 1"])
def test_sigterm_saves_by_agreement(start_ranks, tmp_path, to):
    process = begun(start_ranks, tmp_path / "run")
    os.kill(process.pid if to == "launcher" else rank_processes(process)[1], signal.SIGTERM)
    _, err = finished(process, 75)
    assert "saved at step" in err
    step = max(checkpoints(tmp_path / "run"))
    trainer = json.loads((tmp_path / "run" / f"step-{step}" / "trainer.json").read_text())
    assert trainer["step"] == step


def test_ranks_that_disagree_say_in_what(run_program, repo_root, osp_build, train_tokens, tmp_path):
    other = tmp_path / "other-tokens"
    (tmp_path / "other.txt").write_text("".join(f"the dog hears rain {i}.\n" for i in range(900)))
    tokenize = [
        "osp",
        "tokenize",
        tmp_path / "other.txt",
        "--tokenizer",
        repo_root / "recipes" / "gcide-4096",
    ]
    run_program(
        [*tokenize, "--documents", "lines", "--validation-fraction", "0.1", "--out", other, "--quiet"]
    )
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    own = [*settings("optim.lr=0.5", f"data.path={other}"), "--init-from", "elsewhere"]
    wanted = ["the ranks disagree in recipe (", ", data (", ", starting weights ("]
    for process in two_ranks(repo_root, osp_build, tmp_path, recipe, own):
        err = failed(process, wanted)
    assert "optim.lr (0.003 there, 0.5 here)" in err
    assert not (tmp_path / "run").exists()


def failed(process, wanted):
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    for said in wanted:
        assert said in err, err
    return err


def test_ranks_that_would_not_meet_at_checkpoints_are_told(repo_root, osp_build, train_tokens, tmp_path):
    """No result depends on the setting, but one rank would wait for the other."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    own = settings("train.checkpoint_every=3")
    for process in two_ranks(repo_root, osp_build, tmp_path, recipe, own):
        failed(process, ["device and checkpoints", "checkpoint_every = 3"])


def test_all_ranks_begin_with_the_weights_that_the_first_has_read(
    repo_root, osp_build, run_program, train_tokens, tmp_path
):
    """Two machines may have different files at the path of --init-from: here by a mount of its own."""
    bind = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"]
    if subprocess.run([*bind, tmp_path, tmp_path, "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    for seed in (1, 2):
        words = ["--out", tmp_path / f"seed{seed}", *settings(f"run.seed={seed}", "train.steps=3")]
        run_program(["osp", "train", recipe, *words, "--quiet"], env=one_thread())
    path = tmp_path / "seed1" / "step-3"
    around = [*bind, tmp_path / "seed2" / "step-3", path]
    processes = []
    for rank in range(2):
        command = [sys.executable, "-m", "osp", "train", recipe, "--out", tmp_path / "run", "--quiet"]
        words = [*settings(GROUPS), "--init-from", path]
        environment = environment_of_rank(repo_root, osp_build, tmp_path, rank, 2)
        processes.append(
            subprocess.Popen([*(around if rank == 1 else []), *command, *words], env=environment)
        )
    for process in processes:
        assert process.wait(timeout=90) == 0
    words = ["--out", tmp_path / "alone", *settings(GROUPS), "--init-from", path, "--quiet"]
    run_program(["osp", "train", recipe, *words], env=one_thread())
    assert_equal_runs(tmp_path / "alone", tmp_path / "run")


@pytest.mark.parametrize("words", [["--dry-run", "--json"], ["--help"]])
def test_what_describes_a_run_is_said_once(words, repo_root, osp_build, run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    given = {"PYTHONPATH": str(repo_root / "python"), "OSP_BUILD": str(osp_build)}
    command = ["train", recipe, *settings(GROUPS), *words, "--ranks", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "osp", *command],
        capture_output=True,
        text=True,
        env={**one_thread(), **given},
        timeout=60,
    )
    assert result.returncode == 0
    assert result.stdout == run_program(["osp", *command]).stdout


def test_a_dry_run_checks_the_number_of_ranks_and_counts_what_they_need(run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = ["osp", "train", recipe, "--dry-run", "--json", "--quiet"]
    refused = run_program([*words, "--ranks", "3", *settings("train.reduction_groups=2")], check=False)
    assert refused.returncode == 2 and "3 ranks do not fit train.reduction_groups = 2" in refused.stderr

    def memory(*more):
        described = json.loads(run_program([*words, *more]).stdout)
        return described["ranks"], described["parameters"], described["memory_bytes"]

    _, parameters, alone = memory()
    assert alone["group_sums"] == alone["exchange"] == 0
    _, _, grouped = memory(*settings(GROUPS))
    assert grouped["group_sums"] == 2 * 4 * parameters  # two levels of the tree
    ranks, _, two = memory(*settings(GROUPS), "--ranks", "2")
    assert ranks == 2
    assert two["group_sums"] == 4 * parameters
    assert two["exchange"] > 0 and two["optimizer"] < 0.8 * alone["optimizer"]
    # A background save copies what a rank owns.
    assert alone["snapshot"] == 4 * parameters + alone["optimizer"]
    assert two["optimizer"] + 2 * parameters < two["snapshot"] < 0.8 * alone["snapshot"]
    # Adam's banks are shared by rows: in a model of Adam alone each rank has its share of the state.
    adam = settings(GROUPS, "optim.name=adam")
    _, _, whole_adam = memory(*adam)
    _, _, half_adam = memory(*adam, "--ranks", "2")
    assert 0.49 * whole_adam["optimizer"] < half_adam["optimizer"] < 0.53 * whole_adam["optimizer"]
    _, _, four = memory(*settings(GROUPS), "--ranks", "4")
    assert four["group_sums"] == 0
    # With bf16 copies only the owners keep fp32 weights.
    _, _, half = memory(*settings(GROUPS, "train.precision=bf16"), "--ranks", "2")
    assert 2 * parameters + 1.9 * parameters < half["weights"] < 2 * parameters + 4 * 0.8 * parameters
    _, _, whole = memory(*settings(GROUPS, "train.precision=bf16"))
    assert whole["weights"] == 6 * parameters


@pytest.mark.parametrize(
    "ranks, assignments, said",
    [
        (5, [GROUPS, "train.batch_tokens=512"], "5 ranks do not fit train.reduction_groups = 4, as each"),
        (5, ["train.exact_ranks=false"], "5 ranks, but a step has 4 sequences"),
        (2, [GROUPS, "optim.name=soap"], "the optimizer soap cannot train with several ranks"),
        (1, ["train.reduction_groups=64"], "a step has 4 sequences"),
        (2, [GROUPS, "train.reduce_precision=bf16"], "set train.exact_ranks = false as well"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_folder(
    start_ranks, tmp_path, ranks, assignments, said
):
    _, err = finished(start_ranks(ranks, tmp_path / "run", *settings(*assignments)), 2)
    assert said in err
    assert not (tmp_path / "run").exists()


def test_the_program_says_who_starts_many_ranks(run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    result = run_program(["osp", "train", recipe, "--ranks", "2"], check=False)
    assert result.returncode == 2 and "python -m osp train --ranks 2" in result.stderr


def test_torchrun_starts_the_ranks(repo_root, osp_build, run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = [str(recipe), *settings(GROUPS)]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "osp",
    ]
    given = {"PYTHONPATH": str(repo_root / "python"), "OSP_BUILD": str(osp_build)}
    result = subprocess.run(
        [*command, "train", *words, "--out", str(tmp_path / "two"), "--json"],
        capture_output=True,
        text=True,
        env={**one_thread(), **given},
        timeout=90,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 6
    run_program(["osp", "train", *words, "--out", tmp_path / "alone", "--quiet"], env=one_thread())
    assert_equal_runs(tmp_path / "alone", tmp_path / "two")


@pytest.mark.parametrize("words", [["--version"], ["trian"], ["train", "nowhere.toml"], ["eval", "nowhere"]])
def test_the_module_does_what_the_program_does(repo_root, osp_build, run_program, words):
    program = run_program(["osp", *words], check=False)
    given = {**os.environ, "PYTHONPATH": str(repo_root / "python"), "OSP_BUILD": str(osp_build)}
    module = subprocess.run(
        [sys.executable, "-m", "osp", *words], capture_output=True, text=True, env=given, timeout=60
    )
    assert (module.returncode, module.stdout, module.stderr) == (
        program.returncode,
        program.stdout,
        program.stderr,
    )
