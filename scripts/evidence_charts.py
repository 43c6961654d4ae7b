#!/usr/bin/env python3
"""Draws the pictures of docs/evidence.md with the page of `osp report`.

    scripts/evidence_charts.py [--check | --page FILE]

The races of docs/evidence.jsonl (every seed of both arms at its best rate, over the length of training) and
the demo's models in other bases of docs/measured/causes.json go into `osp report`; the charts that its page
draws in a browser are saved as SVG, as the page's own button does. --page writes that page and draws
nothing. --check changes nothing, needs no browser, and ends with status 1 if a picture is not that of its
files: each picture carries a hash of the data and axes that the page drew it from.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import measured_evidence
from measuring import ROOT, load

PROGRAM = Path(os.environ.get("OSP", ROOT / "build" / "release" / "osp"))
# Picture and the chart of the page.
PICTURES = {
    "evidence-tax.svg": "tax-training",
    "evidence-ratio.svg": "ratio-training",
    "evidence-bases.svg": "dose-response",
}
WIDTH, HEIGHT = 760, 400


def race_file() -> dict:
    """All lengths of the small models, as docs/formats.md has it."""
    keys = ("loss", "added_nats", "tax")
    pairs = [
        {
            "tokens": adam["tokens"],
            "seed": adam["seed"],
            "runs": [{key: run[key] for key in keys} for run in (adam, osp)],
        }
        for stage in measured_evidence.LENGTHS
        for adam, osp in measured_evidence.pairs_of(stage)
    ]
    return {"arms": ["Adam", "OSP"], "pairs": pairs}


def analyses() -> list[dict]:
    """Of the demo's models, what they cost in other bases, as `osp analyze` prints it."""
    models = {model["name"]: model for model in load("causes")["result"]["models"]}
    return [
        {
            "model": f"runs/demo/{name}/model",
            "data": "runs/demo/tokens",
            "tokens": models[name]["tokens"],
            "excess_kurtosis": {"mean": models[name]["excess_kurtosis"], "per_layer": []},
            "largest_activation": {"value": models[name]["largest_activation"]},
            "cost": models[name]["cost"],
            "command": models[name]["command"],
        }
        for name in measured_evidence.DEMO
    ]


def write_page(page: Path) -> None:
    """The page of `osp report` on the files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "race.json").write_text(json.dumps(race_file()))
        for i, analysis in enumerate(analyses()):
            (folder / f"{i}.json").write_text(json.dumps(analysis))
        inputs = sorted(path.name for path in folder.glob("*.json"))
        labels = [f"{name}={label}" for name, label in measured_evidence.DEMO.items()]
        words = [word for label in labels for word in ("--label", label)]
        title = ["--title", "Adam and OSP, measured"]
        command = [PROGRAM, "report", *inputs, *words, *title, "--quiet", "--out", page.resolve()]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def hashes(page: Path) -> dict[str, str]:
    """Of the data and axes of each chart, by picture."""
    text = page.read_text()
    start = text.index('id="charts">') + len('id="charts">')
    charts = {
        chart["id"]: chart for chart in json.loads(text[start : text.index("</script>", start)])["charts"]
    }
    return {
        picture: hashlib.sha256(json.dumps(charts[name], sort_keys=True).encode()).hexdigest()
        for picture, name in PICTURES.items()
    }


def draw(page: Path) -> dict[str, str]:
    """Every picture as the page draws it."""
    sys.path.append(str(ROOT / "tests" / "python"))
    import browser

    if browser.find_chromium() is None:
        raise SystemExit("evidence_charts: no browser; install chromium with scripts/setup.sh --with-tests")
    drawn = {}
    with browser.browsing() as window:
        window.open(page.as_uri(), ready="document.documentElement.dataset.drawn")
        for picture, name in PICTURES.items():
            options = json.dumps({"format": "svg", "width": WIDTH, "height": HEIGHT, "imageDataOnly": True})
            drawn[picture] = window.evaluate(f"Plotly.toImage(document.getElementById('{name}'), {options})")
    return drawn


def mark(digest: str) -> str:
    return f"<!-- {digest} -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 for another picture")
    parser.add_argument("--page", type=Path, help="write the page here, draw nothing")
    options = parser.parse_args()
    if options.page:
        write_page(options.page)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        write_page(page)
        found = hashes(page)
        docs = ROOT / "docs"
        old = {name for name in PICTURES if (docs / name).exists()}
        other = [name for name in PICTURES
                 if name not in old or not (docs / name).read_text().endswith(mark(found[name]))]  # fmt: skip
        if options.check:
            for name in other:
                print(f"{name} is not that of its files: run scripts/evidence_charts.py")
            return int(bool(other))
        drawn = draw(page) if other else {}
        for name in other:
            (docs / name).write_text(drawn[name] + mark(found[name]))
            print(f"{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
