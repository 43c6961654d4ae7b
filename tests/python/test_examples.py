"""The programs of examples/ do what they say: their output beside the commands' own numbers."""

import json
import re

import pytest


def test_kurtosis_by_layer_equals_osp_analyze(run_program, train_tokens, tmp_path):
    settings = ["layers=2", "width=32", "heads=2", "inner=64", "context=64", "vocabulary=4096"]
    (tmp_path / "recipe.toml").write_text(
        f'data.path = "{train_tokens}"\n[train]\nsteps = 2\nbatch_tokens = 256\nvalidation_tokens = 0\n'
        "[schedule]\nwarmup_steps = 0\n"
    )
    options = [word for setting in settings for word in ("--set", f"model.{setting}")]
    run_program(["osp", "train", tmp_path / "recipe.toml", "--out", tmp_path / "run", "--quiet", *options])
    model = tmp_path / "run" / "model"
    lines = run_program(["kurtosis_by_layer", model, train_tokens]).stdout.splitlines()
    analyze = ["osp", "analyze", model, "--data", train_tokens, "--max-tokens", "8192", "--json", "--quiet"]
    expected = json.loads(run_program(analyze).stdout)["excess_kurtosis"]["per_layer"]
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2]
    # The same windows and formula; printed with six decimals.
    assert [float(line.split()[1]) for line in lines] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_train_from_memory_learns(run_program):
    output = run_program(["train_from_memory"]).stdout
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss (\S+)$", output, re.MULTILINE)]
    assert len(losses) == 10
    assert losses[0] == pytest.approx(4.16, abs=0.3)  # ln 64: nothing is known at first
    assert losses[-1] < losses[0] - 0.5


def test_kurtosis_by_layer_explains_its_arguments(run_program):
    result = run_program(["kurtosis_by_layer"], check=False)
    assert result.returncode == 2 and "usage" in result.stderr
