"""Tables of docs/evidence.md: the demo, the races, and what 4 bits cost, by cause (causes.json)."""

import json
import math
from collections.abc import Callable

import demo_table
import race
from measuring import ROOT, load, provenance, table

SMALLEST_TAX = 0.0005  # nats a token: what a tax is at least taken for when another is divided by it


def number(value: float, digits: int) -> str:
    """Without a minus in front of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


# ---- the demo and the races ----------------------------------------------------------------------


def demo_runs() -> dict[str, list[dict]]:
    return json.loads((ROOT / "docs" / "evidence-demo.json").read_text())["runs"]


def demo() -> str:
    """README's table: means over the seeds."""
    return demo_table.arms_table(demo_runs())


def demo_seeds() -> str:
    runs = demo_runs()
    rows = []
    for i, (adam, osp) in enumerate(zip(runs["adam"], runs["osp"], strict=True)):
        for label, row in (("Adam", adam), ("OSP", osp)):
            ratio = f"{adam['added nats'] / osp['added nats']:.2f}" if row is adam else ""
            cells = [f"{row['added nats']:.4f}", ratio, f"{row['outlier tax']:.4f}"]
            cells += [f"{100 * row[key]:.1f} %" for key in ("share", "share of readers")]
            rows.append([label, str(i + 1), *(cell.replace("-", "−") for cell in cells)])
    header = ["", "seed", "loss added at 4-4-4", "R", "tax, nats", "share", "share of readers"]
    return table(header, rows)


def published_rows() -> list[dict]:
    """Of finished runs: what was measured on their way has the step as `at`."""
    rows = map(json.loads, (ROOT / "docs" / "evidence.jsonl").read_text().splitlines())
    return [row for row in rows if "at" not in row]


def best_rate(arm: list[dict]) -> float:
    """Of the rows of an optimizer in a stage, by the loss of the first seed."""
    return min((row for row in arm if row["seed"] == 1), key=lambda row: row["loss"])["rate"]


def race_rows(stages: list[str], which: str) -> str:
    """Rows of docs/evidence.jsonl: "all" of these stages, those of rates with several "seeds", or those of
    the "best" rates, by the loss of the first seed."""
    found = [row for row in published_rows() if row["stage"] in stages]

    def arm(row: dict) -> tuple:
        return row["stage"], row["optimizer"]

    def wanted(row: dict) -> bool:
        same = [other for other in found if arm(other) == arm(row)]
        if which == "seeds":
            return sum(other["rate"] == row["rate"] for other in same) > 1
        return which == "all" or row["rate"] == best_rate(same)

    def order(row: dict) -> tuple:
        return stages.index(row["stage"]), row["optimizer"], row["rate"], row["seed"]

    rows = [race.table_row(row) for row in sorted(filter(wanted, found), key=order)]
    return "\n".join([table(race.COLUMNS, [], left=2), *rows])


def best_rows(stage: str, optimizer: str) -> dict[int, dict]:
    """By seed, those of the best rate; empty if the first seed is not measured."""
    arm = [row for row in published_rows() if (row["stage"], row["optimizer"]) == (stage, optimizer)]
    if not any(row["seed"] == 1 for row in arm):
        return {}
    return {row["seed"]: row for row in arm if row["rate"] == best_rate(arm)}


def pairs_of(stage: str, shorter: str = "") -> list[tuple[dict, dict]]:
    """Adam's rows and OSP's (those of another stage, if it is named) of the seeds that both have."""
    adam, osp = best_rows(stage, "adam"), best_rows(shorter or stage, "osp")
    return [(adam[seed], osp[seed]) for seed in sorted(adam.keys() & osp.keys())]


def each(pairs: list[tuple[dict, dict]], value: Callable[[dict, dict], float], digits: int) -> str:
    """A number for each seed."""
    return ", ".join(number(value(adam, osp), digits) for adam, osp in pairs)


def race_summary(stages: list[str]) -> str:
    """A row a stage: both arms at their best rates, seed by seed."""
    rows = []
    for stage in stages:
        pairs = pairs_of(stage)
        if not pairs:
            continue
        rows.append(
            [
                stage,
                f"{pairs[0][0]['rate']:g} and {pairs[0][1]['rate']:g}",
                each(pairs, lambda adam, osp: adam["tax"] / max(osp["tax"], SMALLEST_TAX), 0),
                each(pairs, lambda adam, _: 100 * adam["tax_share"], 0),
                each(pairs, lambda _, osp: 100 * osp["tax_share"], 1),
                each(pairs, lambda adam, osp: adam["added_nats"] / osp["added_nats"], 2),
                each(pairs, lambda adam, osp: adam["loss"] - osp["loss"], 2),
            ]
        )
    header = ["stage", "rates, Adam and OSP", "tax, times OSP's bound", "Adam's share, %", "OSP's share, %",
              "R", "OSP's loss lower by, nats"]  # fmt: skip
    return table(header, rows, left=2)


LENGTHS = ["tiny-2000", "tiny-5000", "tiny-10000", "tiny-50000", "tiny-100000"]
EQUAL_LOSS = 0.05  # nats: what two losses differ by at most, in every seed, to count as equal


def equal_losses() -> list[tuple[str, str]]:
    """Stages of Adam's and of OSP's whose losses are about equal: of the shorter ones, OSP's nearest."""
    found = []
    for i, stage in enumerate(LENGTHS):

        def distance(shorter: str, stage: str = stage) -> float:
            return max((abs(a["loss"] - b["loss"]) for a, b in pairs_of(stage, shorter)), default=math.inf)

        nearest = min(LENGTHS[:i], key=distance, default=None)
        if nearest and distance(nearest) <= EQUAL_LOSS:
            found.append((stage, nearest))
    return found


def race_equal_loss() -> str:
    """A row a pair of stages: Adam's long runs beside OSP's shorter ones of about the same loss."""
    rows = []
    for stage, shorter in equal_losses():
        pairs = pairs_of(stage, shorter)
        steps = [f"{race.STAGES[name].steps:,}" for name in (stage, shorter)]
        rows.append(
            [
                " and ".join(steps),
                each(pairs, lambda adam, _: adam["loss"], 3),
                each(pairs, lambda adam, osp: adam["loss"] - osp["loss"], 3),
                each(pairs, lambda adam, osp: adam["added_nats"] / osp["added_nats"], 2),
                each(pairs, lambda adam, _: adam["readers"]["own"], 3),
                each(pairs, lambda _, osp: osp["readers"]["own"], 3),
                each(pairs, lambda adam, osp: adam["readers"]["own"] / osp["readers"]["own"], 2),
            ]
        )
    header = ["steps, Adam and OSP", "Adam's loss", "OSP's lower by, nats", "R", "readers' KL, Adam",
              "readers' KL, OSP", "their ratio"]  # fmt: skip
    return table(header, rows)


# ---- what 4 bits cost, by cause ------------------------------------------------------------------

DEMO = {"adam-1": "Adam", "osp-1": "OSP"}
SITES = {
    "attention_input": "inputs of q, k, v",
    "mlp_input": "inputs of gate and up",
    "attention_output": "input of o",
    "mlp_product": "input of the down projection",
    "cache": "cache",
    "weights": "weights",
}


def demo_attribution(models: list[dict]) -> str:
    """The demo's models: every kind of quantizer alone, what reaches it, what a layer passes on."""
    rows = []
    for site, label in SITES.items():
        sites = [{one["site"]: one for one in model["cost"]["attribution"]["sites"]} for model in models]
        rows.append([f"{label} alone, nats", *(number(by_site[site]["only"], 4) for by_site in sites)])
    rows.append(["everything, nats", *(number(model["cost"]["attribution"]["all"], 4) for model in models)])
    for site in ("attention_input", "mlp_input"):
        cells = [number(model["cost"]["inputs"][site]["sqnr_db"], 1) for model in models]
        rows.append([f"SQNR of the {SITES[site]}, dB", *cells])
    for key, label, digits in (("noise_gain", "noise gain", 2), ("stable_rank", "stable rank", 0)):
        rows.append(
            [
                f"{label} of a linear layer",
                *(number(model["cost"]["linears"][key], digits) for model in models),
            ]
        )
    return table(["", *(DEMO[model["name"]] for model in models)], rows)


def demo_bases(models: list[dict]) -> str:
    """The demo's models in other bases: divergence, and the kurtosis of what the readers get."""
    rows, header = [], [""]
    for model in models:
        bases = model["cost"]["bases"]
        width = max(one["block"] for one in bases)
        header = [""]
        cells = []
        for one in bases:
            mixed = f"all {width} mixed" if one["block"] == width else f"{one['block']} mixed"
            header.append({"own": "own", "principal": "principal axes"}.get(one["basis"], mixed))
            cells.append(f"{number(one['kl'], 4)} ({number(one['reader_kurtosis'], 1)})")
        rows.append([DEMO[model["name"]], *cells])
    return table(header, rows)


def witnesses(models: list[dict]) -> str:
    """Models that other people trained: the outlier tax, where one can be measured."""
    rows = []
    for model in models:
        tax = model["cost"].get("outlier_tax")
        cells = [number(tax["own"], 2) if tax else "–", *["–"] * 4]
        if tax and "rotated" in tax:
            share = f"{number(100 * tax['share'], 0)} %"
            readers = f"{number(100 * tax['readers']['share'], 0)} %"
            rotated = f"{number(tax['rotated'], 2)} ± {number(tax['rotated_deviation'], 2)}"
            cells = [number(tax["own"], 2), rotated, f"{number(tax['tax'], 2)} ± {number(tax['error'], 2)}",
                     share, readers]  # fmt: skip
        rows.append(
            [
                model["name"],
                number(model["excess_kurtosis"], 0),
                f"{abs(model['largest_activation']):,.0f}",
                *cells,
            ]
        )
    header = ["model", "excess kurtosis", "largest activation", "KL, own basis", "KL, rotated",
              "tax, nats", "share", "share of readers"]  # fmt: skip
    return table(header, rows)


def witness_attribution(models: list[dict]) -> str:
    """The same models: divergence with one kind of quantizer on in all layers, and with all but one."""
    rows = []
    for model in models:
        found = model["cost"].get("attribution")
        if not found:
            continue
        by_site = {one["site"]: one for one in found["sites"]}
        cells = [
            f"{number(by_site[site]['only'], 2)} · {number(by_site[site]['without'], 2)}"
            if site in by_site
            else "–"
            for site in SITES
        ]
        rows.append([model["name"], number(found["all"], 2), *cells])
    return table(["model", "all", *SITES.values()], rows)


def of_causes(write: Callable[[list[dict]], str], demo: bool) -> Callable[[], str]:
    """A table of the demo's models, or of other people's, with a line on where and when."""

    def made() -> str:
        result = load("causes")["result"]
        models = [model for model in result["models"] if (model["name"] in DEMO) == demo]
        machines = sorted({model["machine"] for model in models})
        return write(models) + "\n\n" + provenance(models, {"machine": "; ".join(machines)})

    return made


TABLES = {
    "demo": demo,
    "demo-seeds": demo_seeds,
    "demo-attribution": of_causes(demo_attribution, demo=True),
    "demo-bases": of_causes(demo_bases, demo=True),
    "witnesses": of_causes(witnesses, demo=False),
    "witness-attribution": of_causes(witness_attribution, demo=False),
    "race-summary": lambda: race_summary([*LENGTHS, "7m-1500"]),
    "race-equal-loss": race_equal_loss,
    "race-variants": lambda: race_summary(
        ["tiny-2000-decay", "tiny-2000-qknorm", "tiny-10000-decay", "tiny-10000-qknorm"]
    ),
    "race-2000": lambda: race_rows(["tiny-2000", "tiny-2000-decay", "tiny-2000-qknorm"], "best"),
    "race-10000": lambda: race_rows(["tiny-10000"], "seeds"),
    "race-50000": lambda: race_rows(["tiny-50000"], "all"),
    "race-100000": lambda: race_rows(["tiny-100000"], "all"),
    "race-7m": lambda: race_rows(["7m-1500"], "all"),
}
