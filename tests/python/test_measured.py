"""Tables of the documents are those of docs/measured/*.json, and a changed number is found."""

import importlib
import json
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
    shutil.copytree(repo_root / "docs", tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    shutil.copy(repo_root / "scripts" / "measured_tables.py", tmp_path / "scripts")
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


def test_measure_names_what_it_does_not_know(repo_root):
    words = [sys.executable, repo_root / "scripts" / "measure.py"]
    listed = subprocess.run([*words, "--list"], capture_output=True, text=True, check=True).stdout
    assert "train-demo" in listed and "engine" in listed
    refused = subprocess.run([*words, "nothing"], capture_output=True, text=True)
    assert refused.returncode == 2 and "nothing is no measurement" in refused.stderr
