"""Benchmarks in `osp report`: items in pairs, McNemar's test, errors of averages, MMLU's subjects."""

import json
import re

import pytest

TASKS = ["arc_easy", "arc_challenge", "commonsense_qa", "gsm8k", "hellaswag", "mmlu", "openbookqa", "piqa",
         "siqa", "trivia_qa", "winogrande"]  # fmt: skip


def scores(value):
    tasks = {name: {"score": value, "standard_error": 0.2 if name.startswith("arc") else 0.02,
                    "metric": "acc_norm", "n": 8,
                    "chance": 0.25, "cut": 3 if name == "gsm8k" else 0} for name in TASKS}  # fmt: skip
    tasks["mmlu"]["subjects"] = {"anatomy": {"n": 101, "acc": 0.2, "acc_norm": 0.5},
                                 "world_religions": {"n": 26, "acc": 0.2, "acc_norm": 0.2}}  # fmt: skip
    return tasks


def item(bits, task, index, correct, context="Question"):
    return json.dumps({"model": "small", "bits": bits, "task": task, "index": index,
                       "context": f"{context} {index}", "choices": ["a", "b"], "answer": 0,
                       "correct": correct})  # fmt: skip


@pytest.fixture(scope="module")
def page(run_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    results = [{"bits": bits, "tasks": scores(value), "average": {"value": value}}
               for bits, value in (("16-16-16", 0.625), ("4-4-4", 0.375))]  # fmt: skip
    document = {"prompts": "reference", "data": "bench", "limit": 0,
                "models": [{"model": "small", "results": results}]}  # fmt: skip
    (folder / "bench.json").write_text(json.dumps(document))
    full, four = [1, 1, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1, 1, 0]
    lines = [item(bits, "piqa", i, bool(c)) for bits, marks in (("16-16-16", full), ("4-4-4", four))
             for i, c in enumerate(marks)]  # fmt: skip
    lines += [item("16-16-16", "siqa", 0, True), item("4-4-4", "siqa", 0, False, context="Another")]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    args = [folder / "bench.json", folder / "items.jsonl", "--out", folder / "report.html"]
    run_program(["osp", "report", *args])
    return (folder / "report.html").read_text()


def rows_of(page, heading):
    part = page[page.index(heading) :]
    table = part[: part.index("</table>")]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]


def test_items_are_compared_in_pairs(page):
    rows = {row[1]: row[2:] for row in rows_of(page, "<h3>The same items")}
    assert rows["PIQA"] == ["4-4-4", "8", "62.5", "37.5", "−25.0 ± 25.0", "3", "1", "0.6250"]
    assert rows["SIQA"][4] == "– (other items)"
    assert rows["HellaSwag"][4] == "– (single items not given)"


def test_averages_have_a_standard_error_and_cut_prompts_are_marked(page):
    rows = {row[0]: row for row in rows_of(page, ">Benchmarks</h3>")}
    # Ten scores, nine with an error of 2 points; ARC's two, with 20 points each, count half.
    assert rows["average"][-1] == "37.5 ± 1.5"
    assert rows["GSM8K"][-1] == "37.5 ± 2.0 (3 prompts cut)"
    assert not any("_" in name for name in rows)


def test_subjects_of_mmlu_and_their_mean(page):
    rows = {row[0]: row[1:] for row in rows_of(page, "<h3>Subjects of MMLU")}
    assert rows["anatomy"] == ["101", "50.0 ± 5.0", "50.0 ± 5.0"]
    assert rows["mean over subjects"][1:] == ["35.0 ± 4.7", "35.0 ± 4.7"]
    assert "world religions" in rows


def test_a_torn_line_of_items_is_named(run_program, tmp_path):
    (tmp_path / "items.jsonl").write_text(item("16-16-16", "piqa", 0, True))
    result = run_program(["osp", "report", tmp_path / "items.jsonl", "--out", tmp_path / "r"], check=False)
    assert result.returncode == 3 and "items.jsonl:1" in result.stderr
