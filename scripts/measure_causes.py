"""What scripts/measure.sh runs as "causes": the cost of 4 bits by cause, for the demo's models and for
models that other people trained."""

import argparse
import datetime
import json
import statistics
from array import array
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import ROOT, commit, machine_of, smollm2_file
from tokenizers import Tokenizer

TOKENS = ROOT / "runs" / "demo" / "tokens"
KEPT = ROOT / "docs" / "measured" / "causes.json"
# The demo's models are small: as many tokens as the races take.
SMALL = ["--data-tokens", 65536, "--cost-tokens", 16384]


def few(tokens: int, attribution: int) -> list:
    """Large models take hours."""
    return ["--data-tokens", tokens, "--cost-tokens", tokens, "--attribution-tokens", attribution]


def held_out_text() -> str:
    """The validation split of the demo's text, for other tokenizers to cut; entries stand apart by a line."""
    index = json.loads((TOKENS / "index.json").read_text())
    tokenizer = Tokenizer.from_file(str(TOKENS / index["tokenizer"]["file"]))
    texts, ids = [], array("H")
    for shard in index["splits"]["validation"]["shards"]:
        ids.frombytes((TOKENS / shard["file"]).read_bytes())
    first = 0
    for i, token in enumerate(ids):
        if token == index["end_of_document"]:
            texts.append(tokenizer.decode(list(ids[first:i])))
            first = i + 1
    return "\n\n".join(texts) + "\n"


def shortened(found: dict) -> dict:
    """What the tables show of an answer of `osp analyze`; of what it has by layer the means."""
    cost = found["cost"]

    def means(rows: list[dict], *keys: str) -> dict:
        return {key: statistics.mean(row[key] for row in rows) for key in keys}

    inputs: dict[str, list[dict]] = {}
    for row in cost.get("inputs", []):
        inputs.setdefault(row["point"], []).append(row)
    keys = ("version", "command", "machine", "instruction_set", "tensor_library", "tokens")
    return {
        **{key: found[key] for key in keys},
        "excess_kurtosis": found["excess_kurtosis"]["mean"],
        "largest_activation": found["largest_activation"]["value"],
        "cost": {
            **{key: cost[key] for key in ("outlier_tax", "attribution", "bases", "verdict") if key in cost},
            "inputs": {
                point: means(rows, "mean_share", "sqnr_db", "informative_sqnr_db")
                for point, rows in inputs.items()
            },
            **({"linears": means(cost["linears"], "noise_gain", "stable_rank")} if "linears" in cost else {}),
        },
    }


def causes(options: argparse.Namespace, run_json: Callable, osp: str) -> dict:
    """Models that docs/measured/causes.json has and this call does not measure keep their numbers.

    Without --witness the demo's models and SmolLM2 are measured, with it the files that it names alone.
    """
    kept = json.loads(KEPT.read_text())["result"]["models"] if KEPT.exists() else []
    models = {model["name"]: model for model in kept}
    with TemporaryDirectory() as scratch:
        text = Path(scratch) / "held-out.txt"
        text.write_text(held_out_text())
        wanted = {}
        for named in options.witness or []:
            name, _, file = named.partition("=")
            tokens = few(options.witness_tokens, options.witness_attribution)
            wanted[name] = (file, text, [*tokens, "--sink-tokens", 0])
        if not wanted:
            for name in ("adam-1", "osp-1"):
                wanted[name] = (TOKENS.parent / name / "model", TOKENS, SMALL)
            wanted["SmolLM2-135M-Instruct"] = (smollm2_file(), text, few(4096, 256))
        for name, (model, data, words) in wanted.items():
            found = run_json(osp, "analyze", model, "--data", data, *words, "--json")
            shown = found["command"].split(" ")[1:]
            if data is text:
                shown[1], shown[3] = Path(shown[1]).name, text.name
            found["command"] = " ".join(["osp", *shown])
            models[name] = {
                "name": name,
                "date": datetime.date.today().isoformat(),
                "commit": commit(),
                **shortened(found),
            }
    return {"models": list(models.values())}


# Of the races at their best rates.
RACED = ("tiny-100000/adam-0.002-seed3", "tiny-100000/osp-0.002-seed3", "7m-1500/adam-0.001-seed1",
         "7m-1500/osp-0.002-seed1")  # fmt: skip


def state_errors(_: argparse.Namespace, run_json: Callable, osp: str) -> dict:
    """Relative error of the last state at 4-4-4: the demo's models and those of RACED."""
    folders = [TOKENS.parent / f"{arm}-{seed}" for seed in (1, 2, 3) for arm in ("adam", "osp")]
    folders += [ROOT / "runs" / "race" / name for name in RACED]
    rows, machine = [], {}
    for folder in folders:
        if not (folder / "model" / "config.json").exists():
            raise SystemExit(f"measure: {folder} is missing: run scripts/demo.sh and scripts/race.py first")
        found = run_json(osp, "eval", folder / "model", "--data", TOKENS, "--data-tokens", 16384, "--bits",
                         "4-4-4", "--tax", "--rotations", 1, "--json", "--quiet")  # fmt: skip
        machine = machine_of(found)
        tax = found["results"][0]["outlier_tax"]
        keys = ("kl", "state_error", "own_state_error", "rotated_state_error")
        rows.append([f"{folder.parent.name}/{folder.name}", *(tax[key] for key in keys)])
    titles = ("KL", "R_L", "R_L, Hadamard", "R_L, rotated")
    columns = [{"title": title, "align": "right", "format": "{:.4f}"} for title in titles]
    return {"columns": [{"title": "run"}, *columns], "rows": rows, **machine}
