"""`osp report` as a whole: the page, the table, summary.json, bad input, and the page in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import report_fixture

LABELS = ["--label", "adam=Adam, same rate", "--label", "adam-best=Adam, best rate", "--label", "osp=OSP"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return report_fixture.write_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return report_fixture.write_demo(tmp_path_factory.mktemp("hostile"), text=report_fixture.HOSTILE)


def test_table_summary_and_json_agree(run_program, demo, tmp_path):
    page, summary = tmp_path / "report.html", tmp_path / "summary.json"
    args = ["osp", "report", *demo, "--out", page, "--summary", summary, *LABELS]
    table = run_program(args).stdout
    assert re.search(r"^\| Adam, same rate +\| 3,072,000 \| 2\.700 \| +8\.50 \| +1,792 \|", table, re.M)
    assert table.splitlines()[0].split("|")[2].strip() == "tokens"
    written = json.loads(summary.read_text())
    assert list(written) == ["adam", "adam_best", "osp"]
    assert written["adam"]["perplexity"] == {"16-16-16": 28.4, "4-4-4": 29.0}
    assert set(written["osp"]) == {"tokens", "loss", "excess_kurtosis", "largest_activation", "outlier_tax",
                                   "perplexity", "measured_on", "outliers_measured_on"}  # fmt: skip
    assert written["osp"]["outlier_tax"]["nats"] is None and "outlier tax" not in table
    assert json.loads(run_program([*args, "--json"]).stdout) == written
    assert page.stat().st_size < 10_000_000


def test_the_outlier_tax_is_in_table_headline_and_claims(run_program, tmp_path):
    for name, rate, kurtosis, tax in (
        ("adam", 2e-3, 3.0, (0.016, 0.011)),
        ("osp", 1e-3, 0.0, (0.015, 0.0149)),
    ):
        report_fixture.write_run(tmp_path / name, rate=rate, final_kurtosis=kurtosis, peak=9.0, tax=tax,
                                 perplexities={"16-16-16": 40.0, "4-4-4": 41.0})  # fmt: skip
    page, summary = tmp_path / "report.html", tmp_path / "summary.json"
    args = ["osp", "report", tmp_path / "adam", tmp_path / "osp", "--out", page, "--summary", summary]
    table = run_program(args).stdout
    # exp(0.02) - 1, and 0.005 of 0.016.
    assert re.search(r"^\| adam .*\| +\+2\.5 % \| +\+2\.0 % \| 0\.0050 \(31 %\) \|$", table, re.M), table
    assert json.loads(summary.read_text())["adam"]["outlier_tax"]["share"] == pytest.approx(0.3125)
    text = page.read_text()
    assert re.search(r"“adam” pays 0\.0050 nats a token for its outliers, 31\.[23] %", text)
    assert "Shown.</b> A rotation gives a model trained with Adam much of its precision back" in text
    on = "a word, 8,128 tokens, window 256"
    assert f"Found: Adam +31.2 % ({on}). Judged by: outlier tax, share of every Adam model at least" in text
    assert f"Outlier tax, and what is measured with it: on {on}, at 4-4-4." in text
    assert "Excess kurtosis and largest activation: on a word, 65,536 tokens." in text
    assert table.count("Outlier tax, and what is measured with it") == 1
    assert f"Found: OSP +0.7 % ({on}). Judged by: outlier tax, share of every OSP model below +5.0 %" in text
    assert "nothing &lt;b&gt;here&lt;/b&gt;" in text  # the verdict of osp analyze, as text


def test_missing_results_are_named_in_the_page(run_program, tmp_path):
    report_fixture.write_run(tmp_path / "osp", rate=1e-3, final_kurtosis=0.1, peak=9.0,
                             perplexities={}, extra_files=False)  # fmt: skip
    run_program(["osp", "report", tmp_path / "osp", "--out", tmp_path / "r.html"])
    page = (tmp_path / "r.html").read_text()
    for name in ("recipe.json", "eval.json", "analysis.json"):
        assert f"{name} is missing" in page


@pytest.mark.parametrize("tail", ['{"kind":"step"', '{"kind":"step"}\n', "nonsense\n", '{"a":1,"a":2}\n'])
def test_damaged_line_is_named_and_nothing_is_written(run_program, tmp_path, tail):
    report_fixture.write_run(tmp_path / "osp", rate=1e-3, final_kurtosis=0.1, peak=9.0,
                             perplexities={}, steps=3)  # fmt: skip
    with open(tmp_path / "osp" / "metrics.jsonl", "a") as file:
        file.write(tail)
    out = tmp_path / "r.html"
    result = run_program(["osp", "report", tmp_path / "osp", "--out", out], check=False)
    assert result.returncode == 3
    assert "metrics.jsonl:6" in result.stderr  # start, 3 steps and end come before it
    assert not out.exists()


def test_usage_errors(run_program, demo, tmp_path):
    for args in (["no-such-run"], [demo[0], "--label", "nobody=X"], [demo[0], demo[0]]):
        result = run_program(["osp", "report", *args, "--out", tmp_path / "r.html"], check=False)
        assert result.returncode == 2, result.stderr


def test_absent_plotly_is_an_error_that_says_what_to_do(run_program, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("OSP_PLOTLY", str(tmp_path / "absent.js"))
    result = run_program(["osp", "report", *demo, "--out", tmp_path / "r.html"], check=False)
    assert result.returncode == 5
    assert "absent.js" in result.stderr and "OSP_PLOTLY" in result.stderr


class Elements(HTMLParser):
    """Names of all elements and attributes of a document, and its title."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.title = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        if self.title is None and self.tags and self.tags[-1] == "title":
            self.title = data


def browse(page, tmp_path):
    """The page's document after its scripts ran, and what the browser's console said."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium (apt-get install chromium): the page was not drawn")
    result = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=390,844",
         "--virtual-time-budget=30000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=180)  # fmt: skip
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("kind", ["demo", "hostile"])
def test_browser_draws_every_chart_without_complaint(run_program, kind, tmp_path, request):
    runs = request.getfixturevalue(kind)
    page = tmp_path / "report.html"
    title = report_fixture.HOSTILE if kind == "hostile" else "Demo"
    labels = ["--label", f"osp={title}"]
    run_program(["osp", "report", *runs, "--out", page, "--title", title, *labels])
    dom, console = browse(page, tmp_path)
    assert console == []
    charts = len(re.findall(r'class="plot[ "]', dom))
    assert charts == 12
    assert f'data-drawn="{charts}"' in dom
    assert len(re.findall(r'class="main-svg"', dom)) >= charts
    found = Elements()
    found.feed(dom)
    assert found.tags.count("script") == 3  # the data, the library, our own
    assert "img" not in found.tags and "onerror" not in found.attributes
    assert found.title == title
