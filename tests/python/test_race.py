"""scripts/race.py: what was published counts as measured, so that new machines go on."""

import json
import subprocess
import sys

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

    states = [line.split(maxsplit=1) for line in race("--dry-run", "--out", tmp_path).splitlines()]
    missing = next((name.strip() for state, name in states if state == "not"), None)
    if missing is None:
        return  # everything is published
    name = missing.removeprefix("begun").strip()
    row = json.loads(PUBLISHED.read_text().splitlines()[0])
    stage, rest = name.split("/")
    optimizer, rate, seed = rest.rsplit("-", 2) if rest.count("-") == 2 else rest.split("-")
    row |= {
        "stage": stage,
        "optimizer": optimizer,
        "rate": float(rate),
        "seed": int(seed.removeprefix("seed")),
    }
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(row))
    race("--export", file, "--out", tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert row in rows
    assert len(rows) == len(PUBLISHED.read_text().splitlines()) + 1
