"""scripts/paper_checkpoints.sh and scripts/gpu_race.sh from end to end, with tiny models on the CPU."""

import json
import os
import shutil
import subprocess

import pytest
from reference_llama import Shape, random_weights, write_model_dir

SHAPE = Shape(layers=2, vocabulary=4096, context=32, width=64)
NAME = "OSP-1.4B-100B-Adam"


def call(repo_root, osp_build, *words, **environment):
    environment = {**os.environ, "OSP": str(osp_build / "osp"), **environment}
    return subprocess.run(
        [str(word) for word in (repo_root / words[0], *words[1:])],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def checkpoints(repo_root, tmp_path_factory):
    """A folder of one small model that bears a published checkpoint's name, and a text."""
    folder = tmp_path_factory.mktemp("paper")
    tokenizer = repo_root / "recipes/gcide-4096/tokenizer.json"
    write_model_dir(folder / "models" / NAME, SHAPE, random_weights(SHAPE), tokenizer)
    (folder / "text.txt").write_text((repo_root / "README.md").read_text()[:4000])
    return folder


def paper(repo_root, osp_build, folder, out, *words, **environment):
    text = folder / "text.txt"
    return call(repo_root, osp_build, "scripts/paper_checkpoints.sh", "--data", text, "--calibration", text,
                "--method", "ffn-hadamard+rtn", "--out", out, *words, **environment)  # fmt: skip


def test_other_weights_under_a_published_name_differ_from_the_paper(
    repo_root, osp_build, checkpoints, tmp_path
):
    result = paper(repo_root, osp_build, checkpoints, tmp_path / "out", checkpoints / "models")
    assert result.returncode == 1, result.stderr
    rows = [line.split(" | ") for line in result.stdout.splitlines()[2:]]
    assert [row[1] for row in rows] == ["16-16-16", "4-8-8", "rtn", "ffn-hadamard+rtn"]
    assert "DIFFERS" in result.stdout and f"| {NAME} | 16-16-16 | 11.4 |" in result.stdout
    assert (tmp_path / "out/comparison.md").read_text() == result.stdout


def test_numbers_within_their_tolerance_agree_and_are_not_measured_twice(
    repo_root, osp_build, checkpoints, tmp_path
):
    out = tmp_path / "out"
    paper(repo_root, osp_build, checkpoints, out, checkpoints / "models" / NAME)
    expected = json.loads((repo_root / "recipes/paper_expected.json").read_text())
    ours = {
        result["bits"]: result["perplexity"]
        for result in json.loads((out / NAME / "eval.json").read_text())["results"]
    }
    expected["models"] = {NAME: {"16-16-16": ours["16-16-16"] * 1.01, "rtn": ours["4-4-4"] * 4}}
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    time = (out / NAME / "eval.json").stat().st_mtime_ns
    again = paper(repo_root, osp_build, checkpoints, out, "--expected", tmp_path / "expected.json",
                  checkpoints / "models" / NAME)  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert (out / NAME / "eval.json").stat().st_mtime_ns == time
    # 1.04 of a number that is below 100 would differ; of a destroyed model only the size is compared.
    assert "a factor of 5 | agrees" in again.stdout


def test_a_name_is_downloaded_with_the_users_own_tool(repo_root, osp_build, checkpoints, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "hf").write_text(
        '#!/bin/sh\n[ "$1 $2" = "download dmis-lab/' + NAME + '" ] || exit 1\n'
        'mkdir -p "$4" && cp "' + str(checkpoints / "models" / NAME) + '"/* "$4"\n'
    )
    (tools / "hf").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    result = paper(repo_root, osp_build, checkpoints, tmp_path / "out", NAME, PATH=path)
    assert f"| {NAME} | 16-16-16 |" in result.stdout, result.stderr
    result = paper(repo_root, osp_build, checkpoints, tmp_path / "out", "OSP-7B", PATH=path)
    assert result.returncode == 2 and "neither a folder nor a name" in result.stderr


def test_every_published_checkpoint_has_numbers_and_every_column_a_tolerance(repo_root):
    expected = json.loads((repo_root / "recipes/paper_expected.json").read_text())
    columns = {column for tolerance in expected["tolerances"] for column in tolerance["columns"]}
    assert len(expected["models"]) == 8
    assert {column for numbers in expected["models"].values() for column in numbers} == columns


@pytest.fixture(scope="module")
def recipes(train_tokens, tmp_path_factory):
    """The recipes of a pair of tiny models."""
    folder = tmp_path_factory.mktemp("recipes")
    for optimizer, norm, projection in (("adam", "rms", "false"), ("osp", "single-scale", "true")):
        (folder / f"tiny-{optimizer}.toml").write_text(
            f'[data]\npath = "{train_tokens}"\n[model]\nlayers = 1\nwidth = 32\nheads = 2\ninner = 64\n'
            f'context = 32\nvocabulary = 4096\nnorm = "{norm}"\nembedding_projection = {projection}\n'
            f'[optim]\nname = "{optimizer}"\n[train]\nbatch_tokens = 128\nvalidation_tokens = 256\n'
        )
    return folder


def test_the_pair_is_trained_and_measured(repo_root, osp_build, recipes, train_tokens, tmp_path):
    words = ["scripts/gpu_race.sh", "10", "--device", "cpu", "--recipe", recipes / "tiny", "--steps", "20",
             "--tokens", train_tokens, "--out", tmp_path / "race", "--checkpoints", "2",
             "--every-checkpoint"]  # fmt: skip
    result = call(repo_root, osp_build, *words, "--side-by-side")
    assert result.returncode == 0, result.stderr
    for run in ("adam-1e-3-seed1", "osp-3e-3-seed1"):
        folder = tmp_path / "race" / run
        row = json.loads((folder / "row.json").read_text())
        assert (row["tokens"], row["stage"], "at" in row) == (20 * 128, "tiny", False)
        assert abs(row["tax"] - (row["kl_hadamard"] - row["kl_rotated"])) < 1e-12
        along = json.loads((folder / "measured/step-10/row.json").read_text())
        assert (along["tokens"], along["at"]) == (10 * 128, 10)
        assert {path.name for path in folder.glob("step-*")} == {"step-10", "step-20"}
    rows = [line.split(" | ")[:4] for line in result.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| tiny at 10", "| tiny at 10", "| tiny", "| tiny"]
    assert ["| tiny", "osp", "0.003", "1"] in rows

    again = call(repo_root, osp_build, *words)
    assert again.returncode == 0 and "training" not in again.stderr
    assert again.stdout == result.stdout


def test_a_run_that_was_cut_short_is_measured_at_its_newest_checkpoint(
    repo_root, osp_build, recipes, train_tokens, tmp_path
):
    out = tmp_path / "race"
    words = ["--device", "cpu", "--recipe", recipes / "tiny", "--tokens", train_tokens, "--out", out]
    result = call(repo_root, osp_build, "scripts/gpu_race.sh", "10", *words, "--steps", "20", "--checkpoints",
                  "2", "--no-measure", "--side-by-side")  # fmt: skip
    assert result.returncode == 0 and result.stdout == "", result.stderr
    shutil.rmtree(out / "adam-1e-3-seed1/model")
    shutil.rmtree(out / "adam-1e-3-seed1/step-20")
    result = call(repo_root, osp_build, "scripts/gpu_race.sh", "0", *words, "--no-train")
    assert result.returncode == 0, result.stderr
    rows = [line.split(" | ")[:2] for line in result.stdout.splitlines()[2:]]
    assert rows == [["| tiny at 10", "adam"], ["| tiny", "osp"]]


def test_a_run_is_stopped_at_the_end_of_its_time_and_the_same_call_goes_on(
    repo_root, osp_build, recipes, train_tokens, tmp_path
):
    words = ["scripts/gpu_race.sh", "0", "--device", "cpu", "--recipe", recipes / "tiny", "--tokens",
             train_tokens, "--out", tmp_path / "r", "--no-measure"]  # fmt: skip
    # No minute at all: each run has the second that a run is given at least.
    result = call(repo_root, osp_build, *words, "--steps", "1000000")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("was stopped at the end of its time") == 2
    again = call(repo_root, osp_build, *words)
    assert again.returncode == 0 and "1000000 steps a run, as the first call chose" in again.stderr
