"""Tables and pictures of docs/evidence.md: pairs of equal loss, rows along a run, drawings of the files."""

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import ROOT


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("measured_evidence")


def row(stage, optimizer, loss, added=0.1, own=0.01, seed=1, rate=2e-3, **more):
    return {
        **{"stage": stage, "optimizer": optimizer, "rate": rate, "seed": seed, "loss": loss},
        **{"added_nats": added, "readers": {"own": own}, "tax": 0.01, "tax_share": 0.2, **more},
    }


def published(evidence, monkeypatch, tmp_path, rows):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "evidence.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    monkeypatch.setattr(evidence, "ROOT", tmp_path)


def test_equal_loss_pairs_seeds_at_the_best_rates(evidence, monkeypatch, tmp_path):
    rows = [row("tiny-2000", "osp", 3.6), row("tiny-5000", "osp", 3.2), row("tiny-5000", "adam", 3.5)]
    rows += [row("tiny-10000", "adam", 3.24, 0.3, 0.03), row("tiny-10000", "adam", 3.25, 0.4, 0.04, seed=2)]
    rows += [row("tiny-5000", "osp", 3.21, 0.2, 0.02, seed=2)]
    # Another rate, better in the second seed alone, is not the best; nor is a seed without a partner paired.
    rows += [row("tiny-10000", "adam", 3.30, rate=3e-3), row("tiny-10000", "adam", 3.0, rate=3e-3, seed=2)]
    rows += [row("tiny-10000", "adam", 3.26, seed=3)]
    published(evidence, monkeypatch, tmp_path, rows)
    assert evidence.equal_losses() == [("tiny-10000", "tiny-5000")]
    assert evidence.race_equal_loss().splitlines()[2:] == [
        "| 10,000 and 5,000 | 3.240, 3.250 | 0.040, 0.040 | 3.00, 2.00 | 0.030, 0.040 | 0.010, 0.020"
        " | 3.00, 2.00 |"
    ]


def test_losses_that_differ_by_more_in_one_seed_are_not_equal(evidence, monkeypatch, tmp_path):
    rows = [row("tiny-5000", "osp", 3.2), row("tiny-10000", "adam", 3.24)]
    rows += [row("tiny-5000", "osp", 3.2, seed=2), row("tiny-10000", "adam", 3.26, seed=2)]
    published(evidence, monkeypatch, tmp_path, rows)
    assert evidence.equal_losses() == []


def test_rows_along_a_run_are_no_results_of_it(evidence, monkeypatch, tmp_path):
    rows = [row("tiny-5000", "osp", 3.2), row("tiny-5000", "adam", 3.5)]
    rows += [row("tiny-5000", "adam", 3.1, at=500, added=9.0)]
    published(evidence, monkeypatch, tmp_path, rows)
    [line] = evidence.race_summary(["tiny-5000"]).splitlines()[2:]
    assert line.endswith("| 1.00 | 0.30 |")


@pytest.fixture
def charts(evidence):
    return importlib.import_module("evidence_charts")


def test_pictures_are_those_of_their_files(charts):
    script = ROOT / "scripts" / "evidence_charts.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    text = (ROOT / "docs" / "evidence.md").read_text()
    assert all(f"]({name})" in text for name in charts.PICTURES)


def test_another_number_is_another_picture(charts, monkeypatch, tmp_path):
    pages, race = [tmp_path / "old.html", tmp_path / "new.html"], charts.race_file()
    charts.write_page(pages[0])
    race["pairs"][3]["runs"][1]["tax"] += 0.001
    monkeypatch.setattr(charts, "race_file", lambda: race)
    charts.write_page(pages[1])
    old, new = map(charts.hashes, pages)
    assert [name for name in charts.PICTURES if old[name] != new[name]] == ["evidence-tax.svg"]


def test_every_seed_and_every_basis_is_a_mark(charts, evidence):
    marks = {}
    for name in charts.PICTURES:
        root = ElementTree.parse(ROOT / "docs" / name).getroot()
        groups = [one for one in root.iter() if one.get("class") == "points"]
        marks[name] = [len(group.findall("./{*}path[@class='point']")) for group in groups]
    seeds = sum(len(evidence.pairs_of(stage)) for stage in evidence.LENGTHS)
    assert [count for count in marks["evidence-tax.svg"] if count] == [seeds, seeds]
    assert [count for count in marks["evidence-ratio.svg"] if count] == [seeds]
    assert [count for count in marks["evidence-bases.svg"] if count] == [6, 6]
