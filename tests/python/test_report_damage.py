"""The damage chart, the paper's numbers, titles, and downloads of the report's page."""

import csv
import json
import re
import time

import pytest
import report_fixture
from test_report_measurements import evaluation, quantization

DRAWN = "document.documentElement.dataset.drawn"


@pytest.fixture(scope="module")
def page(run_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    runs = report_fixture.write_demo(folder)
    run_program(["osp", "report", *runs, "--out", folder / "report.html"])
    return folder / "report.html"


def chart(text, name):
    data = json.loads(re.search(r'id="charts">(.*?)</script>', text, re.S)[1])
    return next(chart for chart in data["charts"] if chart["id"] == name)


def test_damage_is_that_of_one_measurement(run_program, tmp_path):
    files = [evaluation(tmp_path / "e.json", {"16-16-16": 20.0, "4-8-8": 21.0, "4-4-4": 25.0}),
             quantization(tmp_path / "q.json", [("rtn", 40.0, 80.0), ("gptq", 40.0, 50.0)])]  # fmt: skip
    run_program(["osp", "report", *files, "--out", tmp_path / "r.html"])
    traces = chart((tmp_path / "r.html").read_text(), "damage")["traces"]
    drawn = [dict(zip(t["x"], t["y"], strict=True)) for t in traces]
    assert drawn == [{"nearest, 4-8-8": 5, "nearest, 4-4-4": 25}, {"rtn, 4-4-4": 100, "gptq, 4-4-4": 25}]
    assert [t["meta"]["choice"] for t in traces] == [0, 1]


def test_published_numbers_are_marked_and_stand_beside_ours(page):
    text = page.read_text()
    part = text[text.index("The paper's numbers beside ours</h3>") :]
    assert "Published: from the paper, not measured by this program" in part
    rows = re.findall(r"<tr>(.*?)</tr>", part[: part.index("</table>")])
    adam = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", next(row for row in rows if ">Adam<" in row))
    header = re.findall(r"<th[^>]*>(.*?)</th>", rows[0])
    row = dict(zip(header, adam, strict=True))
    assert row["kurtosis, published"] == "1,819"
    assert row["PPL 16-16-16, here"] == "25.75"  # of two models
    assert all("published" in name or "here" in name for name in header[1:])


def test_title_says_what_was_trained(page):
    assert "<title>Adam and OSP, trained on 3,072,000 tokens</title>" in page.read_text()


def test_every_chart_and_table_can_be_saved(page, chromium, tmp_path):
    chromium.open(page.as_uri(), ready=DRAWN)
    chromium.command("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    missing = (
        "[...document.querySelectorAll('figure')]"
        ".filter((f) => f.querySelectorAll('.save button').length !== 3)"
    )
    assert chromium.evaluate(missing + ".length") == 0
    assert chromium.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((s) => !s.closest('figure') &&"
        " !(s.nextElementSibling && s.nextElementSibling.className === 'save')).length") == 0  # fmt: skip
    for label in ("Validation loss as SVG", "Validation loss as PNG", "Validation loss as CSV",
                  "Results of all models as CSV"):  # fmt: skip
        chromium.evaluate(f"document.querySelector('[aria-label=\"{label}\"]').click()")
        time.sleep(0.6)
    wanted = {
        name: tmp_path / name
        for name in (
            "validation-loss.svg",
            "validation-loss.png",
            "validation-loss.csv",
            "results-of-all-models.csv",
        )
    }
    deadline = time.monotonic() + 20
    while not all(path.exists() and path.stat().st_size for path in wanted.values()):
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.1)
    assert wanted["validation-loss.svg"].read_text().startswith("<svg")
    assert wanted["validation-loss.png"].read_bytes().startswith(b"\x89PNG")
    with open(wanted["results-of-all-models.csv"]) as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["tokens"] == "3072000" and rows[2]["excess kurtosis"] == "-0.05"
    assert rows[0]["measured on"].endswith("1,000 tokens, window 256")
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert chromium.complaints == []
