#!/usr/bin/env python3
"""Prints what the demo's runs show over three seeds, and writes it to FOLDER/seeds.json.

    scripts/demo_table.py FOLDER

FOLDER holds the runs osp-1 … adam-3 with the eval.json and analysis.json of scripts/demo.sh.
"""

import datetime
import json
import math
import sys
from pathlib import Path
from statistics import mean, stdev

from measuring import table

ARMS = {"adam": "Adam", "osp": "OSP"}
SEEDS = [1, 2, 3]


def analysis_of(run: Path) -> dict:
    return json.loads((run / "analysis.json").read_text())


def numbers(run: Path) -> dict:
    """The measurements of one run."""
    loss, loss4 = (result["loss"] for result in json.loads((run / "eval.json").read_text())["results"])
    analysis = analysis_of(run)
    tax = analysis["cost"]["outlier_tax"]
    return {
        "perplexity": math.exp(loss),
        "perplexity at 4 bits": math.exp(loss4),
        "added nats": loss4 - loss,
        "added nats, FFN Hadamard": tax["own_added_nats"],
        "outlier tax": tax["tax"],
        "share": tax["share"],
        "share of readers": tax["readers"]["share"],
        "excess kurtosis": analysis["excess_kurtosis"]["mean"],
    }


def spread(rows: list[dict], key: str, digits: int, factor: float = 1, unit: str = "") -> str:
    values = [factor * row[key] for row in rows]
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}{unit}".replace("-", "−")


def arms_table(rows: dict[str, list[dict]]) -> str:
    """A row for each arm."""
    header = ["", "PPL 16-16-16", "PPL 4-4-4", "added nats", "with FFN Hadamard", "outlier tax, nats"]
    header += ["share", "share of readers"]
    lines = []
    for arm, label in ARMS.items():
        own = rows[arm]
        cells = [
            label,
            spread(own, "perplexity", 2),
            spread(own, "perplexity at 4 bits", 2),
            spread(own, "added nats", 3),
            spread(own, "added nats, FFN Hadamard", 3),
            spread(own, "outlier tax", 4),
            spread(own, "share", 1, 100, " %"),
            spread(own, "share of readers", 1, 100, " %"),
        ]
        lines.append(cells)
    return table(header, lines)


def sentences(rows: dict[str, list[dict]]) -> list[str]:
    """What holds in every seed, judged by limits that were set before the runs; first what does not."""
    adam, osp = rows["adam"], rows["osp"]
    shares = [row["share"] for row in adam]
    ratios = [a["added nats"] / o["added nats"] for a, o in zip(adam, osp, strict=True)]
    taxed = min(shares) >= 0.15 and all(abs(row["share"]) < 0.05 for row in osp)
    better = all(
        o[key] < a[key]
        for a, o in zip(adam, osp, strict=True)
        for key in ("perplexity", "perplexity at 4 bits")
    )
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    found = [
        (taxed, "Outlier tax, Adam's at least 15 % of its divergence and OSP's below 5 % in every seed"),
        (min(ratios) >= 1.3, f"Damage at 4 bits, Adam over OSP: {listed}; at least 1.3 in every seed"),
        (better, "OSP is the better model at 16 and at 4 bits in every seed"),
    ]
    found.sort(key=lambda one: one[0])
    return [f"{'Shown' if shown else 'NOT shown'}: {text}." for shown, text in found]


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    rows = {arm: [numbers(folder / f"{arm}-{seed}") for seed in SEEDS] for arm in ARMS}
    print("\nThree seeds, mean ± standard deviation:\n")
    print(arms_table(rows))
    print()
    found = sentences(rows)
    for sentence in found:
        print(sentence)
    first = analysis_of(folder / "adam-1")
    origin = {key: first[key] for key in ("version", "machine", "instruction_set", "tensor_library")}
    origin |= {"command": "scripts/demo.sh", "date": datetime.date.today().isoformat()}
    result = {**origin, "runs": rows, "sentences": found}
    (folder / "seeds.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
