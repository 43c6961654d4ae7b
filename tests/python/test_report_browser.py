"""The page of `osp report` in a real browser: light, dark, and as wide as a phone."""

import itertools
import json
import re

import browser
import colour_sight
import pytest
import report_fixture

VIEWS = {"light": {}, "dark": {"dark": True}, "phone": {"width": browser.PHONE, "height": 844}}
DRAWN = "document.documentElement.dataset.drawn"

# Of every chart: what is drawn and what its table says.
CHARTS = """[...document.querySelectorAll('.plot')].map((plot) => {
  const figure = plot.closest('figure'), box = plot.getBoundingClientRect();
  const titles = Object.keys(plot.layout).filter((key) => /^[xy]axis/.test(key))
    .map((key) => [key, (plot.layout[key].title || {}).text || '']);
  const hex = (channel) => Number(channel).toString(16).padStart(2, '0');
  const rgb = (paint) => '#' + (paint.match(/\\d+/g) || []).slice(0, 3).map(hex).join('');
  return {
    id: plot.id, title: figure.querySelector('h3').textContent,
    caption: figure.querySelector('figcaption p').textContent,
    axes: Object.fromEntries(titles), width: box.width, height: box.height,
    bar: ((plot.layout.coloraxis || {}).colorbar || {title: {}}).title.text || '',
    marks: plot.querySelectorAll('.trace path, .trace .point, .hm image, .scatterlayer path').length,
    fonts: [...plot.querySelectorAll('svg text')].map((t) => parseFloat(getComputedStyle(t).fontSize)),
    background: rgb(getComputedStyle(figure).backgroundColor),
    texts: [...plot.querySelectorAll('svg text')].filter((t) => t.textContent && !t.closest('.heatmaplayer'))
      .map((t) => rgb(getComputedStyle(t).fill)),
    lines: plot.data.filter((t) => t.line && t.visible !== false && t.meta.run !== undefined)
      .map((t) => t.line.color),
    rows: [...figure.querySelectorAll('details tbody tr')].map((r) => [...r.cells].map((c) => c.textContent)),
    values: plot.data.filter((t) => t.meta.role !== 'raw')
      .flatMap((t) => (t.customdata && t.meta.grid === undefined ? t.customdata : t.z || t.y).flat())
      .filter((v) => typeof v === 'number'),
  };
})"""


def results(folder, runs):
    """Results of osp eval --tasks, osp analyze and osp quantize, so that every section has its charts."""
    names = [f"{run}/model" for run in runs]
    scores = {
        task: {
            "score": 0.3 + 0.07 * i,
            "standard_error": 0.02,
            "metric": "acc_norm",
            "n": 200,
            "chance": 0.25,
        }
        for i, task in enumerate(
            ["arc_easy", "arc_challenge", "hellaswag", "mmlu", "openbookqa", "piqa", "siqa"]
        )
    }
    race = {"arms": ["Adam", "OSP"], "pairs": [
        {"tokens": tokens, "seed": seed,
         "runs": [{"loss": 3.5, "added_nats": 0.0625 + 0.0625 * arm, "tax": 0.03125 * (1 - arm)}
                  for arm in range(2)]}
        for tokens in (1_000_000, 5_000_000, 50_000_000) for seed in (1, 2)]}  # fmt: skip
    bench = {"models": [
        {"model": str(run), "results": [{"bits": bits, "tasks": scores} for bits in ("16-16-16", "4-4-4")]}
        for run in runs]}  # fmt: skip
    layers = [{"name": f"model.layers.{block}.{part}.weight", "sqnr_db": 18.25 + block,
               "relative_output_error": 0.0625}
              for block in range(6) for part in ("self_attn.q_proj", "mlp.down_proj")]  # fmt: skip
    quantized = {"runs": [
        {"model": name, "report": {"settings": {"method": method, "bits": "4-4-4"}, "layers": layers},
         "measured": {"perplexity_16": 16.5, "perplexity": 17.25 + seed, "kl_divergence": 0.0625}}
        for name in names for method in ("rtn", "quarot+gptq") for seed in range(2)]}  # fmt: skip
    logits = {"low": -8.0, "high": 8.0, "counts": [1, 2, 40, 300, 40, 2, 0, 1]}
    written = [folder / "bench.json", folder / "quantized.json", folder / "race.json"]
    for path, document in zip(written, (bench, quantized, race), strict=True):
        path.write_text(json.dumps(document))
    for run, name in zip(runs, names, strict=True):
        analysis = json.loads((run / "analysis.json").read_text())
        analysis["model"] = name
        analysis["cost"] = report_fixture.cost(0.016, 0.016 if "osp" in run.name else 0.011)
        analysis["attention_sinks"] = {"threshold": 0.3, "heads": 24, "per_head": [
            {"layer": layer, "head": head, "first": {"share": 0.125 * (head + 1)},
             "strongest": {"share": 0.1875 * (head + 1)},
             "logits": {"first_histogram": logits, "others_histogram": logits}}
            for layer in range(6) for head in range(4)]}  # fmt: skip
        written.append(folder / f"{run.name}-analysis.json")
        written[-1].write_text(json.dumps(analysis))
    return written


@pytest.fixture(scope="module")
def page(run_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = report_fixture.write_demo(folder)
    run_program(
        ["osp", "report", *runs, *results(folder, runs), "--out", folder / "report.html", "--title", "Demo"]
    )
    return folder / "report.html"


@pytest.fixture(scope="module", params=VIEWS)
def charts(request, chromium, page):
    chromium.open(page.as_uri(), ready=DRAWN, **VIEWS[request.param])
    chromium.evaluate("document.querySelectorAll('figure details').forEach((d) => { d.open = true; })")
    chromium.wait("[...document.querySelectorAll('div.points')].every((p) => p.querySelector('td'))")
    return request.param, chromium, chromium.evaluate(CHARTS)


def test_page_draws_all_without_complaint_and_asks_for_nothing(charts):
    _, chromium, found = charts
    assert chromium.complaints == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:"))] == []
    assert {chart["id"] for chart in found} >= {"training-loss", "kurtosis", "heat", "histogram", "sinks",
                                                "logits", "bits", "methods", "layer-sqnr", "layer-error",
                                                "tasks", "outlier-tax", "dose-response",
                                                "quantizer-cost", "tax-training",
                                                "ratio-training"}  # fmt: skip
    for chart in found:
        assert chart["marks"] > 0 and chart["width"] > 100 and chart["height"] > 200, chart["id"]


def test_every_chart_has_title_units_and_readable_letters(charts):
    _, _, found = charts
    for chart in found:
        assert len(chart["title"]) > 4 and len(chart["caption"]) > 20, chart["id"]
        titles = chart["axes"].values()
        if chart["bar"]:  # a heat map: its colours have the unit, and its last horizontal axis
            assert any(titles), chart["id"]
        else:
            assert all(titles), (chart["id"], chart["axes"])
        assert min(chart["fonts"]) >= 11, chart["id"]
        # WCAG AA for text.
        low = min(colour_sight.contrast(text, chart["background"]) for text in chart["texts"])
        assert low >= 4.5, (chart["id"], low)


def numbers_of(rows):
    for row in rows:
        for cell in row[1:]:
            for text in re.findall(r"(?<![\w.-])[-−]?\d[\d,]*\.?\d*(?:e[-−+]?\d+)?", cell):
                yield float(text.replace("−", "-").replace(",", ""))


@pytest.mark.parametrize("name", ["kurtosis", "validation-loss", "training-loss", "largest", "layers",
                                  "attention-logit", "bits", "sinks", "layer-sqnr", "layer-error", "logits",
                                  "histogram", "tasks"])  # fmt: skip
def test_table_has_the_numbers_that_are_drawn(charts, name):
    """At least one number of each row, since rows also hold tokens, positions and names."""
    view, _, found = charts
    chart = next(chart for chart in found if chart["id"] == name)
    rows = chart["rows"]
    if name in (
        "logits",
        "histogram",
    ):  # below the summary stand the points of what is shown, in three columns
        rows = [row for row in rows if len(row) == 3]
    assert len(rows) >= 2
    drawn = sorted(chart["values"])
    for row in rows:
        if row[-1] == "–":
            continue
        # Tables have four digits, and scores one after the point.
        least = 0.0051 if name == "kurtosis" else 0
        near = [min(abs(value - other) for other in drawn) <= max(6e-4 * abs(value), least)
                for value in numbers_of([row])]  # fmt: skip
        assert any(near), (view, row)


def test_page_does_not_scroll_sideways(charts):
    _, chromium, _ = charts  # all tables are open by now
    assert chromium.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    chromium.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert chromium.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_scheme_changes_the_colours_of_what_is_drawn(chromium, page):
    chromium.open(page.as_uri(), ready=DRAWN)
    seen = []
    for dark in (False, True):
        chromium.scheme(dark)
        chromium.wait(f"matchMedia('(prefers-color-scheme: dark)').matches === {json.dumps(dark)}")
        chromium.evaluate("new Promise((done) => setTimeout(done, 500))")
        seen.append(chromium.evaluate(CHARTS))
    for light, dark in zip(*seen, strict=True):
        assert light["background"] != dark["background"]
        assert not light["lines"] or set(light["lines"]) != set(dark["lines"])


def test_choice_axis_and_smoothing_change_what_is_drawn(chromium, page):
    chromium.open(page.as_uri(), ready=DRAWN)
    change = """((id, value, event) => { const e = document.getElementById(id); e.value = value;
        e.dispatchEvent(new Event(event)); return new Promise((done) => setTimeout(done, 500)); })"""
    chromium.evaluate(f"{change}('axis', 'time', 'change')")
    assert "time" in chromium.evaluate("document.getElementById('kurtosis').layout.xaxis.title.text")
    shown = "JSON.stringify(document.getElementById('sinks').data.map((t) => t.visible))"
    before = chromium.evaluate(shown)
    chromium.evaluate(f"{change}('sinks-choice', '1', 'change')")
    assert chromium.evaluate(shown) != before
    rough = "document.getElementById('training-loss').data.at(-1).y.slice(100, 110).join()"
    before = chromium.evaluate(rough)
    chromium.evaluate(f"{change}('training-loss-smooth', '10', 'input')")
    assert chromium.evaluate(rough) != before
    assert chromium.complaints == []


@pytest.mark.parametrize(
    ("palette", "backgrounds"), [("light", r":root \{(.*?)\}"), ("bright", r"dark\) \{(.*?)\}")]
)
def test_colours_are_told_apart_by_everyone(page, palette, backgrounds):
    text = page.read_text()
    colours = re.findall(r"#\w{6}", re.search(rf"const {palette} = \[(.*?)\]", text)[1])
    style = re.search(backgrounds, text, re.S)[1]
    papers = [re.search(rf"--{name}: (#\w{{6}})", style)[1] for name in ("paper", "panel")]
    assert len(colours) == 6
    for vision in colour_sight.VISIONS:
        # A step of 2 is just noticeable side by side; lines apart from each other need several. The first
        # three, which most pages have, are held to more.
        for count, least in ((3, 20), (6, 12)):
            for a, b in itertools.combinations(colours[:count], 2):
                assert colour_sight.distance(a, b, vision) >= least, (vision, a, b)
    for colour, paper in itertools.product(colours, papers):
        assert colour_sight.contrast(colour, paper) >= 3, (colour, paper)  # WCAG 1.4.11, graphics
