#!/usr/bin/env python3
"""Compares measured perplexities with the paper's, for scripts/paper_checkpoints.sh.

    paper_compare.py FOLDER EXPECTED

FOLDER has a folder per model with eval.json and quantize-METHOD.json; EXPECTED is recipes/paper_expected.json
or a file like it. Prints a Markdown table. The exit status is 1 if a number lies outside of its tolerance.
"""

import json
import sys
from pathlib import Path


def measured(folder: Path) -> dict[str, float]:
    """Perplexity by width and by method. The methods' numbers are those of 4-4-4."""
    values = {}
    path = folder / "eval.json"
    if path.exists():
        for result in json.loads(path.read_text())["results"]:
            values["rtn" if result["bits"] == "4-4-4" else result["bits"]] = result["perplexity"]
    for path in sorted(folder.glob("quantize-*.json")):
        for run in json.loads(path.read_text())["runs"]:
            values[run["measured"]["method"]] = run["measured"]["perplexity"]
    return values


def verdict(expected: dict, column: str, paper: float, ours: float) -> tuple[bool, str]:
    destroyed = expected["destroyed"]
    if paper > destroyed["above"]:
        factor = destroyed["factor"]
        return paper / factor <= ours <= paper * factor, f"a factor of {factor}"
    allowed = next(t["relative"] for t in expected["tolerances"] if column in t["columns"])
    return abs(ours / paper - 1) <= allowed, f"± {100 * allowed:g} %"


def main() -> int:
    folder, expected = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    agree = True
    print("| model | bits or method | paper | measured | ratio | tolerance | |")
    print("|---|---|---:|---:|---:|---|---|")
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        ours = measured(folder / name)
        if ours and name not in expected["models"]:
            print(f"paper: {name}: no expected numbers under this name", file=sys.stderr)
        for column, paper in expected["models"].get(name, {}).items():
            if column not in ours:
                print(f"| {name} | {column} | {paper:g} | | | | not measured |")
                continue
            good, tolerance = verdict(expected, column, paper, ours[column])
            agree = agree and good
            print(
                f"| {name} | {column} | {paper:g} | {ours[column]:.5g} | {ours[column] / paper:.3f}"
                f" | {tolerance} | {'agrees' if good else 'DIFFERS'} |"
            )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
