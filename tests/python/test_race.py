"""scripts/race.py: what was published counts as measured, so that new machines go on; every stage is a recipe
that `osp train` takes; the models on the way of a run are kept and measured."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

PUBLISHED = ROOT / "docs" / "evidence.jsonl"


def race(*words):
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "race.py", *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_published_rows_are_measured(tmp_path):
    states = [line.split() for line in race("--dry-run", "--out", tmp_path).splitlines()]
    measured = [words for words in states if words[0] == "measured"]
    assert len(measured) == len(PUBLISHED.read_text().splitlines())
    assert ["measured", "tiny-50000/osp-0.002-seed3"] in measured


def test_anew_measures_everything_again(tmp_path):
    assert "measured" not in race("--dry-run", "--anew", "--out", tmp_path)


def test_an_export_keeps_published_rows_and_adds_new_ones(tmp_path):
    file = tmp_path / "rows.jsonl"
    race("--export", file, "--out", tmp_path)
    assert file.read_text() == PUBLISHED.read_text()

    states = race("--dry-run", "--out", tmp_path).splitlines()
    names = [line.split()[-1] for line in states if line.startswith("not begun")]
    if not names:
        return  # everything is published
    name = names[0]
    stage, optimizer, rate, seed = re.fullmatch(r"(.+)/(.+?)-([0-9.e-]+)-seed(\d)", name).groups()
    row = json.loads(PUBLISHED.read_text().splitlines()[0])
    row |= {"stage": stage, "optimizer": optimizer, "rate": float(rate), "seed": int(seed)}
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(row))
    race("--export", file, "--out", tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert row in rows
    assert len(rows) == len(PUBLISHED.read_text().splitlines()) + 1


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    found = importlib.import_module("race")
    monkeypatch.setattr(found, "PUBLISHED", {})
    return found


def stage_names():
    source = (ROOT / "scripts" / "race.py").read_text()
    return re.findall(r'^    "([a-z0-9-]+)": Stage\(', source, re.MULTILINE)


@pytest.mark.parametrize("stage", stage_names())
def test_osp_takes_the_recipe_of_every_stage(module, run_program, tmp_path, stage):
    plan = module.STAGES[stage]
    sizes = {}
    for optimizer in plan.optimizers:
        run = module.Run(tmp_path, stage, optimizer, 1e-3, 1)
        words = [str(word) for word in module.train_words(run)]
        words = ["osp", words[0], str(ROOT / words[1]), "--dry-run", "--json", "--quiet", *words[2:]]
        answer = json.loads(run_program([*words, "--set", "data.path=/nowhere"]).stdout)
        sizes[optimizer] = answer["parameters"]
    assert len(sizes) == len(plan.optimizers) >= 1
    size = {"tiny": 1.9e6, "7m": 7e6, "deep": 9e6, "30m": 30e6}[stage.split("-")[0]]
    assert all(abs(found / size - 1) < 0.1 for found in sizes.values()), sizes


def test_every_stage_stands_in_the_table_of_the_protocol(module):
    text = (ROOT / "docs" / "evidence-rows.md").read_text()
    table = text[text.index("| stage | model | steps") :].split("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in line.split("|")[1].strip().split(", ")]
    assert sorted(named) == sorted(module.STAGES)
    begun = {json.loads(line)["stage"] for line in PUBLISHED.read_text().splitlines()}
    for line in table.splitlines()[2:]:
        for name in line.split("|")[1].strip().split(", "):
            assert ("not begun" in line) == (name not in begun), line


def test_the_ablation_has_the_rows_of_the_recipes(module):
    for row, settings in module.ABLATION.items():
        recipe = tomllib.loads((ROOT / "recipes" / "ablation" / f"{row}.toml").read_text())
        osp = {"model.norm": "single-scale", "model.embedding_projection": "true", "optim.name": "osp"}
        for key, value in {**osp, **settings}.items():
            section, name = key.split(".")
            written = recipe[section][name]
            assert (str(written).lower() if isinstance(written, bool) else written) == value


def row_of(module, run, loss=3.0):
    run.folder.mkdir(parents=True, exist_ok=True)
    row = {key: getattr(run, key) for key in module.KEYS}
    (run.folder / "row.json").write_text(json.dumps({**row, "loss": loss}))


def test_rates_of_another_optimizer_and_given_ones(module, tmp_path):
    assert module.searched(tmp_path, "tiny-10000-fast", "adam") == ([], None)
    for rate in module.GRID:
        for optimizer, best in (("adam", 3e-3), ("osp", 2e-3)):
            row_of(module, module.Run(tmp_path, "tiny-10000", optimizer, rate, 1), abs(rate - best))
    assert [run.name for run in module.runs_of(tmp_path, "tiny-10000-fast")] == [
        f"tiny-10000-fast/adam-0.01-seed{seed}" for seed in (1, 2, 3)
    ]
    ablation = module.runs_of(tmp_path, "tiny-10000-ablation")
    assert len(ablation) == 12 and {run.rate for run in ablation} == {2e-3}
    assert [run.name for run in module.runs_of(tmp_path, "30m-16000")] == [
        "30m-16000/adam-0.001-seed1",
        "30m-16000/osp-0.003-seed1",
    ]


def test_models_on_the_way_are_multiples_of_the_checkpoints(module):
    for stage in module.STAGES.values():
        steps = module.along(stage.steps)
        assert [step / stage.steps for step in steps] == module.ALONG
        assert all(step % module.checkpoint_every(stage.steps) == 0 for step in steps)


@pytest.fixture
def small_stage(module, monkeypatch, osp_build, train_tokens, tmp_path):
    """A tiny recipe of 40 steps as a stage, so few that the trainer removes no checkpoint too early."""
    recipe = tmp_path / "recipe-adam.toml"
    recipe.write_text(
        f'[data]\npath = "{train_tokens}"\n[model]\nlayers = 1\nwidth = 32\nheads = 2\ninner = 64\n'
        'context = 32\nvocabulary = 4096\n[optim]\nname = "adam"\n[train]\nbatch_tokens = 128\n'
        "validate_every = 0\nvalidation_tokens = 256\nlog_every = 30\n[schedule]\nwarmup_steps = 4\n"
    )
    stage = module.Stage(
        40,
        "given",
        recipe=str(tmp_path / "recipe-{}.toml"),
        seeds=1,
        optimizers=("adam",),
        given={"adam": 1e-3},
    )
    monkeypatch.setitem(module.STAGES, "small", stage)
    monkeypatch.setattr(module, "PROGRAM", osp_build / "osp")
    monkeypatch.setattr(module, "TOKENS", train_tokens)
    monkeypatch.setattr(module, "ALONG", [0.25, 0.5])
    return tmp_path


def test_models_on_the_way_are_kept_and_measured(module, small_stage, tmp_path):
    queue = module.Queue(small_stage, ["small"])
    queue.work()
    assert queue.failed == []
    runs = module.runs_of(small_stage, "small")
    assert [(run.at, run.state()) for run in runs] == [(0, "measured"), (10, "measured"), (20, "measured")]
    rows = {run.at: run.row() for run in runs}
    assert "at" not in rows[0] and rows[20]["at"] == 20
    assert [rows[at]["tokens"] for at in (10, 20, 0)] == [10 * 128, 20 * 128, 40 * 128]
    assert rows[10]["loss"] > rows[20]["loss"] > rows[0]["loss"]
    assert rows[0]["loss_4_8_8"] > 0 and 0 <= rows[0]["readers_mean_share"] <= 1
    assert "readers" in rows[20] and "sites" not in rows[20] and "sites" in rows[0]
    model = runs[1].folder / "model"
    assert not (model / "optimizer.safetensors").exists() and (model / "model.safetensors").exists()
    assert module.table_row(rows[20]).startswith("| small at 20 | adam | 0.001 | 1 | ")
    # Published rows along a run are measured as well.
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    module.read_published(file)
    assert [run.state() for run in module.runs_of(tmp_path / "elsewhere", "small")] == ["measured"] * 3


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(module, small_stage):
    run = module.Run(small_stage, "small", "adam", 1e-3, 1)
    assert run.state() == "not begun"
    module.train(run)
    for path in [*run.folder.glob("step-*"), run.folder / "along", run.folder / "model"]:
        shutil.rmtree(path)
    (run.folder / "exit.json").unlink()
    assert run.state() == "interrupted"
    module.train(run)
    assert run.state() == "trained"


def test_a_checkpoint_that_is_not_whole_is_not_kept(module, tmp_path):
    checkpoint = tmp_path / "step-5"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_text("weights")
    module.keep(checkpoint, tmp_path / "along")
    assert not (tmp_path / "along").exists()
    (checkpoint / "manifest.json").write_text("{}")
    module.keep(checkpoint, tmp_path / "along")
    shutil.rmtree(checkpoint)
    assert [path.name for path in (tmp_path / "along" / "model").iterdir()] == ["model.safetensors"]


def test_older_rows_have_dashes(module):
    row = json.loads(PUBLISHED.read_text().splitlines()[0])
    cells = dict(zip(module.COLUMNS, module.table_row(row)[2:-2].split(" | "), strict=True))
    assert cells["loss, 4-8-8"] == cells["token mean"] == cells["added, Hadamard"] == "–"
    row |= {"loss_4_8_8": 3.21, "readers_mean_share": 0.25, "added_nats_hadamard": 0.01}
    cells = dict(zip(module.COLUMNS, module.table_row(row)[2:-2].split(" | "), strict=True))
    assert cells["loss, 4-8-8"] == "3.210" and cells["token mean"] == "25 %"
    assert cells["added, Hadamard"] == "0.0100"


def test_stages_without_their_text_are_left_out(tmp_path):
    words = [sys.executable, ROOT / "scripts" / "race.py", "--out", tmp_path, "--stage", "30m-16000"]
    if not (ROOT / "runs" / "corpus" / "tokens").exists() and (ROOT / "build" / "release" / "osp").exists():
        result = subprocess.run(words, capture_output=True, text=True)
        assert "30m-16000 is left out: runs/corpus/tokens is missing" in result.stderr
        assert not any(tmp_path.iterdir())
