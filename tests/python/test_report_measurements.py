"""`osp report`: perplexities of different texts, token counts or windows never make one figure of damage."""

import json
import re

import pytest


def evaluation(
    path, values, *, data="wiki.test", tokens=1000, window=256, precision="fp32", model="models/small"
):
    """An output of `osp eval --json` with the perplexities of `values` by bits."""
    results = [{"bits": bits, "perplexity": value, "tokens": tokens, "window": window, "stride": window}
               for bits, value in values.items()]  # fmt: skip
    path.write_text(json.dumps({"model": model, "data": data, "precision": precision, "results": results}))
    return path


def quantization(path, values, *, data="c4.txt", tokens=500, window=128, model="models/small"):
    """An output of `osp quantize --json`: (method, perplexity at 16 bits, at 4 bits)."""
    runs = [{"model": model, "method": method, "seed": 0,
             "report": {"settings": {"method": method, "bits": "4-4-4"}, "layers": []},
             "measured": {"method": method, "perplexity_16": full, "perplexity": four, "kl_divergence": 0.1,
                          "tokens": tokens, "window": window}}
            for method, full, four in values]  # fmt: skip
    path.write_text(json.dumps({"bits": "4-4-4", "call": {"data": data}, "runs": runs}))
    return path


@pytest.fixture
def report(run_program, tmp_path):
    """The table, summary.json and the page of some result files."""

    def make(*files):
        page = tmp_path / "page.html"
        summary = tmp_path / "summary.json"
        table = run_program(["osp", "report", *files, "--out", page, "--summary", summary]).stdout
        return table, json.loads(summary.read_text()), page.read_text()

    return make


def cells(table, row):
    """The cells of a row of a Markdown table by their columns."""
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == row), strict=True))


DIFFERENCES = [
    ("data", "c4.txt", "other text"),
    ("tokens", 2000, "other token count"),
    ("window", 1024, "other window"),
    ("precision", "bf16", "other settings"),
]


@pytest.mark.parametrize(("key", "value", "reason"), DIFFERENCES)
def test_bits_of_different_measurements_make_no_damage(report, tmp_path, key, value, reason):
    full = evaluation(tmp_path / "full.json", {"16-16-16": 20.0})
    four = evaluation(tmp_path / "four.json", {"4-4-4": 19.5}, **{key: value})
    for files in ((full, four), (four, full)):
        table, summary, page = report(*files)
        row = cells(table, "small")
        assert row["damage"] == f"– ({reason})", table
        assert len(summary["small"]["perplexity"]) == 1
        assert "2.5 %" not in table and "2.5 %" not in page


def test_quantize_and_eval_on_other_texts_do_not_mix(report, tmp_path):
    full = evaluation(tmp_path / "full.json", {"16-16-16": 10.0})
    table, _, page = report(full, quantization(tmp_path / "q.json", [("rtn", 200.0, 220.9)]))
    row = cells(table, "small")
    assert "2,109" not in table and "2,109" not in page
    assert row["damage"] == "+10.5 %" and row["PPL 16-16-16"] == "200.00"
    assert row["measured on"] == "c4.txt, 500 tokens, window 128"


def test_a_whole_measurement_is_preferred_to_halves_of_two(report, tmp_path):
    whole = evaluation(tmp_path / "whole.json", {"16-16-16": 20.0, "4-4-4": 22.0})
    later = evaluation(tmp_path / "later.json", {"16-16-16": 15.0}, data="c4.txt")
    table, summary, _ = report(whole, later)
    assert cells(table, "small")["damage"] == "+10.0 %"
    assert summary["small"]["perplexity"] == {"16-16-16": 20.0, "4-4-4": 22.0}
    assert summary["small"]["measured_on"] == {"text": "wiki.test", "tokens": 1000, "window": 256}


def test_models_are_compared_on_the_text_that_most_of_them_have(report, tmp_path):
    files = [evaluation(tmp_path / f"{name}.json", {"16-16-16": 20.0, "4-4-4": 22.0}, model=name)
             for name in ("a", "b")]  # fmt: skip
    files.append(evaluation(tmp_path / "other.json", {"16-16-16": 9.0, "4-4-4": 9.9}, data="c4", model="b"))
    table, _, _ = report(*files)
    assert {cells(table, name)["measured on"] for name in ("a", "b")} == {
        "wiki.test, 1,000 tokens, window 256"
    }


def test_files_that_do_not_name_their_text_are_not_taken_for_one_measurement(report, tmp_path):
    for name, bits, value in (("full", "16-16-16", 20.0), ("four", "4-4-4", 25.0)):
        document = {"model": "models/small", "results": [{"bits": bits, "perplexity": value}]}
        (tmp_path / name).write_text(json.dumps(document))
    table, _, _ = report(tmp_path / "full", tmp_path / "four")
    assert cells(table, "small")["damage"] == "– (text not recorded)", table


def test_charts_hold_one_measurement_at_a_time(report, tmp_path):
    page = report(evaluation(tmp_path / "full.json", {"16-16-16": 20.0}),
                  evaluation(tmp_path / "four.json", {"4-4-4": 19.5}, data="c4.txt"),
                  quantization(tmp_path / "q.json", [("rtn", 200.0, 220.9)], tokens=9))[2]  # fmt: skip
    charts = {
        c["id"]: c for c in json.loads(re.search(r'id="charts">(.*?)</script>', page, re.S)[1])["charts"]
    }
    bits = [(trace["y"], trace["meta"]["choice"]) for trace in charts["bits"]["traces"]]
    assert bits == [([20], 0), ([19.5], 1)]
    levels = [t["y"] for t in charts["methods"]["traces"] if t["meta"]["role"] == "level"]
    assert levels == [[200]]  # the model before it was quantized, on the same text
