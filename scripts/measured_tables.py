#!/usr/bin/env python3
"""Writes the tables of README.md and docs/*.md that come from measurements.

    scripts/measured_tables.py [--check]

A table stands between the lines `<!-- measured: NAME -->` and `<!-- end of measured -->`. NAME is one of
TABLES below, which are made of the results of scripts/measure.sh, of the demo and of the races, or a file
docs/measured/NAME.json that holds the table itself (`stated`): as a measurement has made it, or numbers as
their command printed them, before results were kept whole. --check changes nothing and ends with status 1 if
a table is not that of its file.
"""

import argparse
import re
import statistics
import sys
import textwrap
import tomllib
from pathlib import Path

import measured_evidence
from measuring import MEASURED, ROOT, load, provenance, table

BLOCK = re.compile(r"(<!-- measured: ([a-z0-9-]+) -->\n).*?(<!-- end of measured -->)", re.DOTALL)


# ---- tables --------------------------------------------------------------------------------------


def training_measurements() -> list[dict]:
    return [m for m in (load(f"train-{size}") for size in ("demo", "50m", "125m")) if m]


def training() -> str:
    found = training_measurements()
    rows = []
    for one in found:
        r = one["result"]
        peer = r["peer"]
        pairs = ", ".join(f"{ratio:.2f}" for ratio in sorted(r["ratios"]))
        parts = "" if peer["micro_batches"] == 1 else f"; {peer['micro_batches']} micro-batches"
        rows.append(
            [
                f"{r['model']}, context {r['context']:,}",
                f"{r['tokens_per_s']:,.0f}",
                f"{r['peer_tokens_per_s']:,.0f}",
                f"{r['ratio']:.2f} ({pairs})",
                f"{r['cpu_ratio']:.2f}",
                f"{r['peak_memory_ratio']:.2f}",
                f"{100 * r['share_of_product_rate']:.0f} %",
                f"{peer['mode']}; {peer['settings']}{parts}",
            ]
        )
    header = ["model", "osp, tokens/s", "PyTorch", "ratio, median (each pair)", "CPU seconds, PyTorch / osp",
              "peak memory, osp / PyTorch", "of product rate", "PyTorch's fastest way"]  # fmt: skip
    return table(header, rows) + "\n\n" + provenance(found, found[0]["result"])


def training_trials() -> str:
    rows = []
    for one in training_measurements():
        for trial in one["result"]["peer_trials"]:
            rows.append(
                [
                    one["result"]["model"],
                    trial["mode"],
                    trial["settings"],
                    str(trial["micro_batches"]),
                    f"{trial['tokens_per_s']:,.0f}",
                ]
            )
    return table(["model", "mode", "settings", "micro-batches", "tokens/s"], rows, left=3)


def ranks() -> str:
    """Two ranks on networks of several rates: osp's ways, then the peers."""
    one = load("ranks")
    rows = []
    for network in one["result"]["networks"]:
        rate = network["rate"] or "unlimited"
        for side in network["osp"] + network["peers"]:
            beside = side.get("ratios", {})
            fastest = side["name"] == network["fastest_peer"]
            pairs = ", ".join(f"{ratio:.2f}" for ratio in sorted(beside.get("steps_by_pair", [])))
            shares = [beside.get(key) for key in ("cpu_seconds", "sent_bytes", "peak_memory_bytes")]
            rows.append(
                [
                    rate,
                    side["name"] + (" (the fastest peer)" if fastest else ""),
                    f"{side['steps_per_s']:.2f}",
                    f"{side['cpu_seconds']:.2f}",
                    "" if side["sent_bytes"] is None else f"{side['sent_bytes'] / 1e6:.1f}",
                    f"{side['peak_memory_bytes'] / 1e6:,.0f}",
                    f"{beside['steps']:.2f} ({pairs})" if beside else "",
                    " · ".join(f"{share:.2f}" for share in shares if share is not None),
                ]
            )
            rate = ""
    header = ["network", "", "steps/s", "CPU s a step", "MB sent a step", "peak MB of a rank",
              "steps, osp / fastest peer (each pair)", "CPU · bytes · memory, osp / it"]  # fmt: skip
    return table(header, rows, left=2) + "\n\n" + provenance([one], one["result"])


def optimizers() -> str:
    """Optimizers with a peer: seconds of a step and, for each peer, the ratios of the pairs."""
    one = load("optim-125m")
    rows = []
    for optimizer in one["result"]["optimizers"]:
        for group in optimizer["groups"]:
            for i, peer in enumerate(group["peers"]):
                own = i == 0
                ratios = ", ".join(f"{ratio:.2f}" for ratio in sorted(peer["ratios"]))
                rows.append(
                    [
                        f"{optimizer['optimizer']}: {group['group']}" if own else "",
                        f"{group['parameters'] / 1e6:,.1f}M" if own else "",
                        f"{group['seconds']:.4f}" if own else "",
                        peer["peer"],
                        f"{peer['seconds']:.4f}",
                        f"{peer['ratio']:.2f} ({ratios})",
                        f"{peer['cpu_ratio']:.2f}",
                        f"{group['bytes_per_parameter']:.2f}" if own else "",
                    ]
                )
    header = ["optimizer: group", "parameters", "osp, s a step", "peer", "s a step",
              "ratio, median (each pair)", "CPU seconds, peer / osp", "bytes a parameter"]  # fmt: skip
    return table(header, rows) + "\n\n" + provenance([one], one["result"])


def engine_rates(rounds: list[dict], threads: int, side: str, kind: str, n: str) -> float | None:
    rates = [
        r["sides"][side].get(kind, {}).get(n)
        for r in rounds
        if r["threads"] == threads and side in r["sides"]
    ]
    return statistics.mean(rates) if rates and None not in rates else None


def engine() -> str:
    """Of a peer that ran in several ways, "NAME" and "NAME, how", a row shows the fastest."""
    one = load("engine")
    rounds = one["result"]["rounds"]
    sides = list(rounds[0]["sides"])
    ours = [side for side in sides if side.startswith("osp")]
    peers = [side for side in sides if side not in ours and "," not in side]
    first, last = ours[0], ours[-1]
    rows = []

    def best(threads: int, side: str, kind: str, n: str) -> float | None:
        ways = [other for other in sides if other.split(",")[0] == side]
        rates = [engine_rates(rounds, threads, way, kind, n) for way in ways]
        return max((rate for rate in rates if rate), default=None)

    for threads in sorted({r["threads"] for r in rounds}):
        for kind, title in (
            ("prefill", "prompt of {}"),
            ("decode", "decoding behind {}"),
            ("batch", "{} texts"),
        ):
            for n in rounds[0]["sides"][first][kind]:
                row = [str(threads), title.format(f"{int(n):,}")]
                rates = {side: best(threads, side, kind, n) for side in [*ours, *peers]}
                row += [f"{rate:,.0f}" if rate else "" for rate in rates.values()]
                row += [f"{rates[first] / rates[s]:.2f}" if rates[s] else "" for s in peers]
                row.append(f"{rates[last] / rates[peers[0]]:.2f}" if peers and rates[peers[0]] else "")
                rows.append(row)
    memory = ["1", "peak memory, MB"]
    once = next(r for r in rounds if r["threads"] == 1)["sides"]
    memory += [f"{once[s]['peak_memory_bytes'] / 1e6:.0f}" for s in [*ours, *peers]]
    memory += [""] * (len(peers) + 1)
    header = ["threads", "", *ours, *peers, *(f"{first} / {s}" for s in peers)]
    header.append(f"{last} / {peers[0]}" if peers else "")
    return table(header, [*rows, memory], left=2) + "\n\n" + provenance([one], once[first])


def engine_perplexity() -> str:
    rows = [[name, f"{ppl:.1f}", f"{bits:.3f}"] for name, _, ppl, bits in load("engine")["result"]["quality"]]
    return table(["", "perplexity", "bits per byte"], rows)


def benchmarks() -> str:
    one = load("eval")
    rows = []
    for name, task in one["result"]["tasks"].items():
        ratios = ", ".join(f"{ratio:.2f}" for ratio in sorted(task["ratios"]))
        rows.append(
            [
                name,
                str(task["items"]),
                f"{task['items_per_s']:.2f}",
                f"{task['peer_items_per_s']:.2f}",
                f"{task['ratio']:.2f} ({ratios})",
                str(task["peer_batch_size"]),
            ]
        )
    rows.append(["all together", "", "", "", f"{one['result']['ratio']:.2f}", ""])
    header = ["task", "items", "osp, items/s", "lm-eval, items/s", "ratio, median (each pair)",
              "lm-eval's fastest batch"]  # fmt: skip
    return table(header, rows) + "\n\n" + provenance([one], one["result"])


def gptq() -> str:
    one = load("quantize")
    rows = []
    for compared in one["result"]["comparisons"]:
        ours, peer = compared["runs"][-1], compared["peers"][-1]
        rows.append(
            [
                compared["precision"],
                str(ours["windows"]),
                f"{ours['seconds']:.0f}",
                f"{peer['seconds']:.0f}",
                f"{compared['ratio']:.2f} ({', '.join(f'{ratio:.2f}' for ratio in compared['ratios'])})",
                f"{ours['peak_memory_bytes'] / 1e9:.2f}",
                f"{peer['peak_memory_bytes'] / 1e9:.2f}",
                compared["peer_settings"],
            ]
        )
    header = ["both sides in", "windows of 2,048", "last: osp, s", "GPTQModel, s", "ratio, median (each)",
              "osp, peak GB", "GPTQModel, peak GB", "GPTQModel's fastest settings"]  # fmt: skip
    return table(header, rows) + "\n\n" + provenance([one], one["result"])


def float_formats(name: str = "float-formats") -> str:
    one = load(name)
    models = one["result"]["models"]
    rows = []
    for model in models:
        loss = model["results"][0]["loss"]
        for i, result in enumerate(model["results"]):
            tax = result.get("outlier_tax")
            cells = ["", "", ""]
            if tax:
                cells = [
                    f"{tax['kl']:.4f}",
                    f"{round(tax['tax'], 4) + 0.0:.4f} ± {tax['error']:.4f}",
                    f"{round(100 * tax['share'], 1) + 0.0:.1f} %",
                ]
            added = f"{result['loss'] - loss:.4f}" if i else ""
            numbers = [cell.replace("-", "−") for cell in (f"{result['loss']:.4f}", added, *cells)]
            rows.append([model["run"] if i == 0 else "", result["bits"], *numbers])
    header = ["run", "bits", "loss", "added nats", "KL", "tax, nats", "share"]
    return table(header, rows, left=2) + "\n\n" + provenance([one], models[0])


def resolved_train(recipe: Path) -> dict:
    """The section [train] of a recipe with what it inherits."""
    document = tomllib.loads(recipe.read_text())
    inherited = resolved_train(recipe.parent / document["inherit"]) if "inherit" in document else {}
    return {**inherited, **document.get("train", {})}


def watching_shares(recipe: dict) -> list[float]:
    """Beside the steps between two validations, round by round, at the interval that the recipe has."""
    every = resolved_train(ROOT / recipe["recipe"])["validate_every"]
    return [(r["everything"] - r["loss"]) / (every * r["step"]) for r in recipe["rounds"]]


def watching() -> str:
    """What watching outliers costs between two validations; seconds of the CPU, medians of the rounds."""
    one = load("watching")
    rows = []
    for recipe in one["result"]["recipes"]:
        rounds = recipe["rounds"]
        every = resolved_train(ROOT / recipe["recipe"])["validate_every"]
        steps = [every * r["step"] for r in rounds]
        shares = watching_shares(recipe)
        whole = [r["everything"] / s for r, s in zip(rounds, steps, strict=True)]
        pairs = ", ".join(f"{100 * share:.2f}" for share in sorted(shares))
        rows.append(
            [
                f"{Path(recipe['recipe']).stem}, {recipe['validation_tokens']:,} tokens",
                f"{every} of {recipe['batch_tokens']:,} tokens",
                f"{statistics.median(steps):.2f}",
                f"{statistics.median([r['loss'] for r in rounds]):.2f}",
                f"{statistics.median([r['everything'] for r in rounds]):.2f}",
                f"{100 * statistics.median(shares):.2f} % ({pairs})",
                f"{100 * statistics.median(whole):.1f} %",
            ]
        )
    header = ["recipe, validation on", "every … steps", "those steps, s", "loss alone, s", "all, s",
              "watching beside the steps (each round)", "validation in all"]  # fmt: skip
    return table(header, rows, left=2) + "\n\n" + provenance([one], one["result"])


def short(value: float) -> str:
    """1.69e-4."""
    return f"{value:.2e}".replace("e-0", "e-")


def equality_line(one: dict, tasks: dict) -> str:
    """Under a table of equality: where the numbers were made."""
    versions = " ".join(f"{name} {number}," for name, number in one["versions"].items())
    commits = {
        task["commit"][:7] + "-changed" * task["commit"].endswith("-changed") for task in tasks.values()
    }
    commands = sorted({task.get("command", one["command"]) for task in tasks.values()})
    machines = {task["machine"] for task in tasks.values() if "machine" in task}
    parts = [*(f"`{command}`" for command in commands), *sorted(machines), one["isa"]]
    parts += [f"{versions} Python {one['python']}", f"commit {', '.join(sorted(commits))}"]
    return textwrap.fill(f"Measured: {'; '.join(parts)}.", 110, break_on_hyphens=False)


def equality() -> str:
    """Choices: every log-likelihood beside lm-eval's."""
    one = load("equality-lm-eval")
    tasks = {name: task for name, task in one["tasks"].items() if "choices" in task}
    rows = []
    for name, task in tasks.items():
        marks = [
            f"{100 * task[mark]['osp']:.1f} and {100 * task[mark]['lm_eval']:.1f}"
            for mark in ("acc", "acc_norm")
        ]
        differences = [short(task["largest_difference_nats"]), short(task["largest_relative_difference"])]
        rows.append(
            [name, str(task["items"]), f"{task['choices']:,}", *differences, *marks,
             str(task["items_judged_differently"])]
        )  # fmt: skip
    header = ["task", "items", "choices", "largest difference, nats", "relative", "acc, osp and lm-eval",
              "acc_norm, osp and lm-eval", "items judged differently"]  # fmt: skip
    return table(header, rows) + "\n\n" + equality_line(one, tasks)


def equality_texts() -> str:
    """Greedy texts beside lm-eval's."""
    one = load("equality-lm-eval")
    tasks = {name: task for name, task in one["tasks"].items() if "equal_texts" in task}
    rows = []
    for name, task in tasks.items():
        stop = ", ".join(f"`{word}`" for word in task.get("stop", [])).replace("\n", "\\n")
        characters = f"{task['characters']:,}" if "characters" in task else ""
        limit = str(task.get("tokens_at_most", ""))
        rows.append([name, str(task["items"]), str(task["equal_texts"]), characters, limit, stop])
    header = ["task", "items", "equal texts", "characters in all", "tokens at most", "stop"]
    return table(header, rows, left={0, 5}) + "\n\n" + equality_line(one, tasks)


# ---- numbers that a document stated --------------------------------------------------------------


def stated(one: dict) -> str:
    """A table that its file holds. A cell is null, text, a number, or several in a list, printed by the
    format of its column; or {"format", "values"}. A row may be {"format", "cells"}.
    """

    def text(cell: object, form: str) -> str:
        if cell is None or isinstance(cell, str):
            return cell or ""
        if isinstance(cell, dict):
            return text(cell["values"], cell["format"])
        return form.format(*(cell if isinstance(cell, list) else [cell])).replace("-", "−")

    columns, rows = one["columns"], []
    for row in one["rows"]:
        forms = [column.get("format") for column in columns]
        if isinstance(row, dict):
            forms, row = [row["format"]] * len(columns), row["cells"]
        rows.append([text(cell, form) for cell, form in zip(row, forms, strict=True)])
    words = {i for i, column in enumerate(columns) if column.get("align") != "right"}
    return table([column["title"] for column in columns], rows, left=words)


TABLES = {
    "training": training,
    "training-trials": training_trials,
    "optimizers": optimizers,
    "engine": engine,
    "engine-perplexity": engine_perplexity,
    "benchmarks": benchmarks,
    "gptq": gptq,
    "ranks": ranks,
    "float-formats": float_formats,
    "float-smollm2-tax": lambda: float_formats("float-smollm2"),
    "watching": watching,
    "equality": equality,
    "equality-texts": equality_texts,
    **measured_evidence.TABLES,
}


def table_of(name: str, path: Path) -> str:
    if name in TABLES:
        return TABLES[name]()
    one = load(name) or {}
    if "columns" in one.get("result", {}):
        return stated(one["result"]) + "\n\n" + provenance([one], one["result"])
    if "columns" not in one:
        names = [*TABLES, *(file.stem for file in sorted(MEASURED.glob("*.json")))]
        sys.exit(f"{path}: {name} is no table; known are {', '.join(names)}")
    return stated(one)


def rendered(text: str, path: Path) -> str:
    def block(match: re.Match) -> str:
        return f"{match[1]}{table_of(match[2], path)}\n{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a table is stale")
    options = parser.parse_args()
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        new = rendered(text, path)
        if new == text:
            continue
        stale.append(path.name)
        if not options.check:
            path.write_text(new)
    for name in stale:
        print(f"{name}: {'differs from docs/measured' if options.check else 'written anew'}")
    if options.check and stale:
        sys.exit("run scripts/measured_tables.py")


if __name__ == "__main__":
    main()
