"""Tables of the documents are those of docs/measured/*.json, a changed number is found, and no table of
numbers stands outside of them."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import pytest


def check(folder):
    """measured_tables.py --check on a copy of the documents."""
    return subprocess.run(
        [sys.executable, folder / "scripts" / "measured_tables.py", "--check"], capture_output=True, text=True
    )


@pytest.fixture
def copy(repo_root, tmp_path):
    for folder in ("docs", "recipes"):
        shutil.copytree(repo_root / folder, tmp_path / folder)
    shutil.copytree(repo_root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repo_root / "README.md", tmp_path)
    return tmp_path


def test_tables_are_those_of_the_measurements(copy):
    result = check(copy)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_changed_measurement_or_table_is_found(copy):
    path = copy / "docs" / "performance.md"
    text = path.read_text()
    begin = text.index("<!-- measured: ")
    digit = next(i for i in range(begin + 200, len(text)) if text[i].isdigit())
    path.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    result = check(copy)
    assert result.returncode == 1 and "performance.md" in result.stdout
    path.write_text(text.replace("<!-- measured: training -->", "<!-- measured: nothing -->"))
    result = check(copy)
    assert result.returncode == 1 and "nothing is no table" in result.stderr


PAGES = ["README.md", "docs/results.md", "docs/performance.md", "docs/evidence.md", "docs/corpus.md"]
PAGES += ["docs/mutation.md", "docs/evidence-rows.md"]
# Tables whose numbers nothing printed, by file and the beginning of their first line, and why they are there.
NOT_MEASURED = {
    ("README.md", "| | osp | torchtitan |"): "what other projects can do, from their documentation",
    ("docs/evidence-rows.md", "| stage | model | steps"): "the plan of the runs, written before them",
    ("docs/evidence-rows.md", "| package | model | licence"): "sentences on packages, sizes as published",
}
REGION = re.compile(r"<!-- (measured: [a-z0-9-]+) -->\n.*?<!-- end of measured -->", re.DOTALL)
NUMBER = re.compile(r"^[*`+−-]*\d")


def tables_by_hand(text):
    """First lines of the tables outside of generated regions in which some cell begins with a number."""
    rest = REGION.sub("", text)
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", rest, re.MULTILINE):
        first, _, *rows = table.splitlines()
        cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
        if any(NUMBER.match(cell) for cell in cells):
            found.append(first)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_numbers_are_generated_or_said_to_be_facts(repo_root, page):
    expected = [begin for file, begin in NOT_MEASURED if file == page]
    found = tables_by_hand((repo_root / page).read_text())
    unknown = [first for first in found if not any(first.startswith(begin) for begin in expected)]
    assert unknown == [], "numbers belong into docs/measured, see scripts/measured_tables.py"
    stale = [begin for begin in expected if not any(first.startswith(begin) for first in found)]
    assert stale == [], "exceptions that no longer stand there"


def test_a_table_of_numbers_by_hand_is_found():
    table = "| a | loss |\n|---|---:|\n| osp | {} |\n"
    for number in ("3.21", "**2.8**", "−0.03", "+3.0 %", "1,024"):
        assert tables_by_hand("text\n\n" + table.format(number) + "\nmore\n") == ["| a | loss |"]
    assert tables_by_hand(table.format("W4A4")) == []
    region = f"<!-- measured: x -->\n{table.format(1)}<!-- end of measured -->\n"
    assert tables_by_hand(region) == []
    assert tables_by_hand(region + "\n" + table.format(2)) == ["| a | loss |"]


def test_files_of_measurements_are_used_and_say_where_their_numbers_are_from(repo_root):
    pages = [repo_root / "README.md", *(repo_root / "docs").glob("*.md")]
    shown = {name for page in pages for name in REGION.findall(page.read_text())}
    for path in sorted((repo_root / "docs" / "measured").glob("*.json")):
        one = json.loads(path.read_text())
        if "columns" not in one:
            continue
        assert f"measured: {path.stem}" in shown, f"{path.name} is in no document"
        assert one["table"] == path.stem
        for key in ("source", "command", "machine", "date"):
            assert one[key], f"{path.name}: {key}"


def test_cells_of_a_stated_table(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(repo_root / "scripts")
    stated = importlib.import_module("measured_tables").stated
    columns = [{"title": "a"}, {"title": "b", "align": "right", "format": "{:.2f} ({:+.1f} %)"}]
    rows = [
        ["x", [1.5, -2]],
        [None, {"format": "{:,d}", "values": [1200]}],
        {"format": "{:d}", "cells": ["y", -3]},
    ]
    assert stated({"columns": columns, "rows": rows}).splitlines() == [
        "| a | b |",
        "|---|---:|",
        "| x | 1.50 (−2.0 %) |",
        "|  | 1,200 |",
        "| y | −3 |",
    ]
    with pytest.raises(ValueError):
        stated({"columns": columns, "rows": [["x"]]})


def test_measurements_name_where_they_were_made(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(repo_root / "scripts")
    measure = importlib.import_module("measure")
    for path in sorted((repo_root / "docs" / "measured").glob("*.json")):
        found = json.loads(path.read_text())
        if found.get("measurement") not in measure.MEASUREMENTS:
            continue
        assert found["measurement"] == path.stem
        assert found["commit"] and found["date"] and found["load_average"] >= 0
        assert str(repo_root) not in path.read_text()


def test_watching_costs_under_a_percent_with_every_recipe(repo_root, monkeypatch):
    """By the measured recipes' own cost; the others watch no more of the tokens that they train on."""
    monkeypatch.syspath_prepend(repo_root / "scripts")
    tables = importlib.import_module("measured_tables")
    measured = tables.load("watching")["result"]["recipes"]

    def watched(recipe):
        train = tables.resolved_train(repo_root / recipe)
        return train["validation_tokens"] / (train["validate_every"] * train["batch_tokens"])

    for one in measured:
        train = tables.resolved_train(repo_root / one["recipe"])
        assert all(one[key] == train[key] for key in ("batch_tokens", "validation_tokens"))
        shares = tables.watching_shares(one)
        assert len(shares) >= 3 and max(shares) < 0.01, one["recipe"]
    recipes = [*(repo_root / "recipes").rglob("*.toml")]
    most = max(watched(one["recipe"]) for one in measured)
    assert len(recipes) > 20 and all(watched(recipe) <= most for recipe in recipes)


def test_measure_names_what_it_does_not_know(repo_root):
    words = [sys.executable, repo_root / "scripts" / "measure.py"]
    listed = subprocess.run([*words, "--list"], capture_output=True, text=True, check=True).stdout
    assert "train-demo" in listed and "engine" in listed
    refused = subprocess.run([*words, "nothing"], capture_output=True, text=True)
    assert refused.returncode == 2 and "nothing is no measurement" in refused.stderr
