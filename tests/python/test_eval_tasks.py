"""osp eval --tasks: the whole program on a small random Llama and a few items of the real benchmarks."""

import csv
import json
import os
import signal
import subprocess
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_llama import Shape
from test_model_dir import transformers_llama

SHAPE = Shape(layers=2, vocabulary=4096, context=512, width=64)
TASKS = ["arc_easy", "hellaswag", "mmlu", "trivia_qa", "winogrande"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, repo_root):
    folder = tmp_path_factory.mktemp("eval-tasks") / "model"
    transformers_llama(SHAPE).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(
        (repo_root / "recipes" / "gcide-4096" / "tokenizer.json").read_bytes()
    )
    return folder


@pytest.fixture(scope="module")
def bench(shared_data):
    if not (shared_data / "bench").is_dir():
        pytest.skip(f"no benchmarks at {shared_data}/bench; put them there to run this")
    return shared_data / "bench"


def evaluate(run_program, *arguments):
    return json.loads(run_program(["osp", "eval", *arguments, "--quiet", "--json"]).stdout)


def without_times(document):
    if isinstance(document, dict):
        return {
            key: without_times(value)
            for key, value in document.items()
            if key not in ("seconds", "data", "command")
        }
    return [without_times(value) for value in document] if isinstance(document, list) else document


def test_results_say_how_they_came_about(model, bench, run_program, tmp_path):
    out = evaluate(
        run_program,
        model,
        "--data",
        bench,
        "--tasks",
        ",".join(TASKS),
        "--limit",
        "3",
        "--out",
        tmp_path / "out.json",
    )
    assert json.loads((tmp_path / "out.json").read_text()) == out
    assert "unfinished" not in out and out["prompts"] == "reference" and out["version"]
    assert out["command"].startswith(f"osp eval {model} --data") and "Linux" in out["machine"]
    (result,) = out["models"][0]["results"]
    assert list(result["tasks"]) == TASKS and result["average"] is None
    for name, task in result["tasks"].items():
        assert task["n"] == 3 and len(task["prompts_sha256"]) == 64 and task["seconds"] > 0, name
        assert 0 <= task["score"] <= 1 and task["standard_error"] >= 0, name
    assert result["tasks"]["trivia_qa"]["shots"] == 5


def test_the_papers_table_has_a_row_for_each_model(model, bench, run_program, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(model)
    run_program(
        [
            "osp",
            "eval",
            model,
            other,
            "--data",
            bench,
            "--tasks",
            "paper",
            "--limit",
            "1",
            "--quiet",
            "--bits",
            "16-16-16,4-4-4",
            "--table",
            tmp_path / "table.csv",
        ]
    )
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["model"] for row in rows] == [str(model), str(other)]
    scores = {name: float(rows[0][name]) for name in list(rows[0])[4:15]}
    arc = (scores.pop("arc_easy") + scores.pop("arc_challenge")) / 2
    assert float(rows[0]["average at 16-16-16"]) == pytest.approx((arc + sum(scores.values())) / 10, abs=0.06)
    assert rows[0]["average at 4-4-4"] != "" and int(rows[0]["parameters"]) > 0


def records(path, count):
    return [json.loads(line) for line in path.read_text().splitlines()[:count]]


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parquet_in_the_hubs_layout_gives_the_same(model, bench, run_program, tmp_path):
    write_parquet(
        tmp_path / "ai2_arc/ARC-Easy/test-00000-of-00001.parquet", records(bench / "arc_easy/test.jsonl", 3)
    )
    write_parquet(
        tmp_path / "datasets--tau--commonsense_qa/snapshots/abc/data/validation-00000-of-00001.parquet",
        records(bench / "commonsense_qa/validation.jsonl", 3),
    )
    write_parquet(
        tmp_path / "winogrande/winogrande_xl/validation-00000-of-00001.parquet",
        records(bench / "winogrande/validation.jsonl", 3),
    )
    write_parquet(tmp_path / "winogrande/winogrande_l/validation-00000-of-00001.parquet", [{"other": 1}])
    write_parquet(
        tmp_path / "trivia_qa/rc.nocontext/validation-00000-of-00001.parquet",
        records(bench / "trivia_qa/sample500.jsonl", 3),
    )
    write_parquet(
        tmp_path / "trivia_qa/rc.nocontext/train-00000-of-00001.parquet",
        records(bench / "trivia_qa/sample500b.jsonl", 5),
    )
    hub_mmlu = tmp_path / "hub"
    write_parquet(
        hub_mmlu / "mmlu/all/test-00000-of-00001.parquet",
        [
            {"question": row[0], "subject": "anatomy", "choices": row[1:5], "answer": "ABCD".index(row[5])}
            for row in list(csv.reader((bench / "mmlu/test/anatomy_test.csv").open()))[:3]
        ],
    )
    (tmp_path / "csv/mmlu/test").mkdir(parents=True)
    with (bench / "mmlu/test/anatomy_test.csv").open() as file:
        rows = list(csv.reader(file))[:3]
    with (tmp_path / "csv/mmlu/test/anatomy_test.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    tasks = "arc_easy,commonsense_qa,winogrande,trivia_qa"
    ours = evaluate(run_program, model, "--data", bench, "--tasks", tasks, "--limit", "3")
    hub = evaluate(run_program, model, "--data", tmp_path, "--tasks", tasks, "--limit", "3")
    assert without_times(ours) == without_times(hub)
    ours = evaluate(run_program, model, "--data", tmp_path / "csv", "--tasks", "mmlu")
    hub = evaluate(run_program, model, "--data", hub_mmlu, "--tasks", "mmlu")
    assert without_times(ours["models"]) == without_times(hub["models"])


def test_stopped_and_resumed_gives_the_same(model, bench, run_program, osp_build, tmp_path):
    arguments = [model, "--data", bench, "--tasks", "winogrande,piqa", "--limit", "600"]
    whole = evaluate(run_program, *arguments)
    kept = tmp_path / "kept.json"
    command = [str(word) for word in [osp_build / "osp", "eval", *arguments, "--quiet", "--out", kept]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not kept.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and f"--resume {kept}" in error, error
    assert json.loads(kept.read_text())["unfinished"]
    resumed = evaluate(run_program, *arguments, "--resume", kept)
    assert without_times(resumed) == without_times(whole)
    other = run_program(["osp", "eval", *arguments[:-1], "500", "--resume", kept], check=False)
    assert other.returncode == 2 and "--limit" in other.stderr


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_have_every_item_and_add_up_to_the_results(model, bench, run_program, tmp_path):
    samples = tmp_path / "samples.jsonl"
    out = evaluate(
        run_program,
        model,
        "--data",
        bench,
        "--tasks",
        ",".join(TASKS),
        "--limit",
        "40",
        "--save-items",
        samples,
    )
    (result,) = out["models"][0]["results"]
    lines = lines_of(samples)
    assert len(lines) == 40 * len(TASKS)
    for name, task in result["tasks"].items():
        of_task = [line for line in lines if line["task"] == name]
        assert [line["index"] for line in of_task] == list(range(40))
        # mmlu's score is the mean of its subjects.
        over_items = task["acc_norm"]["value"] if name == "mmlu" else task["score"]
        assert sum(line["correct"] for line in of_task) / 40 == pytest.approx(over_items)
        assert all(line["model"] == str(model) and line["bits"] == "16-16-16" for line in of_task)
        if name == "trivia_qa":
            assert of_task[0]["stop"] == ["Question"] and of_task[0]["context"].count("Question: ") == 6
            continue
        for metric in ["acc", "acc_norm", "acc_bytes"]:
            assert sum(line[metric] for line in of_task) / 40 == pytest.approx(task[metric]["value"])
        for line in of_task:
            scores = line["log_likelihoods"]
            assert len(scores) == len(line["choices"])
            assert line["acc"] == (scores.index(max(scores)) == line["answer"])


def test_mmlu_is_also_counted_by_subject(model, bench, run_program, tmp_path):
    samples = tmp_path / "samples.jsonl"
    out = evaluate(
        run_program, model, "--data", bench, "--tasks", "mmlu", "--limit", "114", "--save-items", samples
    )
    task = out["models"][0]["results"][0]["tasks"]["mmlu"]
    subjects, lines = task["subjects"], lines_of(samples)
    assert list(subjects) == sorted({line["subject"] for line in lines}) and "high_school_physics" in subjects
    assert sum(subject["n"] for subject in subjects.values()) == 114
    for name, subject in subjects.items():
        of_subject = [line for line in lines if line["subject"] == name]
        assert len(of_subject) == subject["n"]
        assert all(name.replace("_", " ") in line["context"] for line in of_subject)
        for metric in ["acc", "acc_norm"]:
            assert subject[metric] == pytest.approx(sum(line[metric] for line in of_subject) / subject["n"])


def test_mmlu_enters_the_average_as_the_mean_of_its_subjects(model, bench, run_program):
    """400 items at equal distances: 3 of the smallest subjects, 43 of professional_law."""

    def mmlu(*options):
        out = evaluate(run_program, model, "--data", bench, "--tasks", "mmlu", "--limit", "400", *options)
        return out["models"][0]["results"][0]["tasks"]["mmlu"]

    task = mmlu()
    subjects = [subject["acc_norm"] for subject in task["subjects"].values()]
    assert len(subjects) == 57 and task["mean_over"] == "subjects"
    assert task["score"] == pytest.approx(sum(subjects) / 57)
    assert task["acc_norm"]["value"] != pytest.approx(task["score"])
    by_items = mmlu("--prompts", "lm-eval")
    assert by_items["mean_over"] == "items" and by_items["score"] == by_items["acc_norm"]["value"]


def test_truncated_shots_are_marked(model, bench, run_program, tmp_path):
    """Eight shots of gsm8k are longer than the model's 512 tokens; the questions of piqa fit."""
    arguments = [model, "--data", bench, "--tasks", "gsm8k,piqa", "--limit", "2"]
    run = ["osp", "eval", *arguments, "--quiet", "--table", tmp_path / "table.md", "--out", tmp_path / "out"]
    text = run_program(run).stdout
    tasks = json.loads((tmp_path / "out").read_text())["models"][0]["results"][0]["tasks"]
    assert tasks["gsm8k"]["cut"] == 2 and tasks["piqa"]["cut"] == 0
    marked = [line for line in text.splitlines() if "0.0*" in line]
    assert len(marked) == 2 and marked[0].startswith("gsm8k")  # and the Markdown row
    assert "* 2 of 2 prompts truncated on the left to fit the context: fewer than 8 shots" in text
    assert (
        "prompts truncated on the left to fit the context: 2 of gsm8k" in (tmp_path / "table.md").read_text()
    )


def test_resumed_samples_are_as_if_never_stopped(model, bench, run_program, tmp_path):
    """A file that was cut within a line, at any place of the work, is completed."""
    arguments = [
        model,
        "--data",
        bench,
        "--tasks",
        "winogrande,piqa",
        "--limit",
        "300",
        "--bits",
        "16-16-16,4-4-4",
    ]
    whole, cut, kept = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl", tmp_path / "kept.json"
    evaluate(run_program, *arguments, "--save-items", whole, "--out", kept)
    document = json.loads(kept.read_text())
    lines = lines_of(whole)
    for result in document["models"][0]["results"]:
        result["tasks"].pop("piqa")
    document["models"][0]["results"].pop()
    kept.write_text(json.dumps(document))
    text = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(text[:450]) + text[450][:40])
    evaluate(run_program, *arguments, "--save-items", cut, "--resume", kept)
    assert lines_of(cut) == lines and len(lines) == 1200
    cut.write_text("".join(text[:299]))
    refused = run_program(["osp", "eval", *arguments, "--save-items", cut, "--resume", kept], check=False)
    assert refused.returncode == 2 and "299 of 300 items" in refused.stderr
    cut.write_text("".join(text[1:3]))
    refused = run_program(["osp", "eval", *arguments, "--save-items", cut, "--resume", kept], check=False)
    assert refused.returncode == 3 and "cut.jsonl line 1" in refused.stderr


def test_bad_input_is_named(model, bench, run_program, tmp_path):
    def error(status, *arguments):
        result = run_program(["osp", "eval", *arguments, "--quiet"], check=False)
        assert result.returncode == status, result.stderr
        return result.stderr

    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").write_text(
        '{"goal": "g", "sol1": "a", "sol2": "b", "label": 3}\n'
    )
    assert "validation.jsonl: line 1" in error(3, model, "--data", tmp_path, "--tasks", "piqa")
    assert "siqa" in error(2, model, "--data", tmp_path, "--tasks", "siqa")
    assert "arc_easy" in error(2, model, "--data", bench, "--tasks", "arc")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ["config.json", "model.safetensors"]:
        os.symlink(model / name, bare / name)
    assert "tokenizer.json" in error(2, bare, "--data", bench, "--tasks", "piqa")
    assert ".csv" in error(2, model, "--data", bench, "--tasks", "piqa", "--table", "t.txt")
    assert "none.d" in error(
        5, model, "--data", bench, "--tasks", "piqa", "--save-items", tmp_path / "none.d" / "x"
    )
    assert "--save-items" in error(2, model, "--data", bench / "README", "--save-items", tmp_path / "x")
