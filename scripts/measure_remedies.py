"""What scripts/measure.sh runs as "remedies" and "remedies-smollm2": what lowers the damage of 4 bits without
turning the residual stream, both arms of the demo treated alike, and for a model that has outliers."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

from measuring import ROOT, machine_of, smollm2_file

DEMO = ROOT / "runs" / "demo"
TRAINED = ROOT / "runs" / "remedies"
ARMS = ("adam", "osp")
SEEDS = (1, 2, 3)

# Of a finished model: words for `osp quantize`.
GROUPS = ["--activation-group", 32]
METHODS = {
    "RTN": ["--method", "rtn"],
    "groups of 64 at the down projection": ["--method", "rtn", "--down-group", 64],
    "groups of 32 everywhere": ["--method", "rtn", *GROUPS],
    "mean of the readers' inputs": ["--method", "rtn", "--mean-offset", "residual"],
    "mean of all inputs, groups of 32": ["--method", "rtn", "--mean-offset", "all", *GROUPS],
    "FFN Hadamard": ["--method", "ffn-hadamard+rtn"],
    "GPTQ": ["--method", "gptq"],
    "GPTQ, mean of all inputs, groups of 32": ["--method", "gptq", "--mean-offset", "all", *GROUPS],
    "QuaRot + GPTQ": ["--method", "quarot+gptq"],
    "QuaRot + GPTQ, groups of 32": ["--method", "quarot+gptq", *GROUPS],
}
# Of training: settings of the recipe, and how its checkpoints are joined.
AVERAGED = range(4200, 5001, 200)
TRAININGS = {
    "product": [
        "qat.bits=16-4-16",
        "qat.points=mlp_product",
        "qat.start=decay",
    ],
    "average": [
        "schedule.decay_fraction=0",
        f"train.checkpoint_every={AVERAGED.step}",
        f"train.keep_checkpoints={len(AVERAGED)}",
    ],
}
TRAINING_LABELS = {
    "product": "QAT of the product while the rate decays",
    "average": "average of five checkpoints, no decay of the rate",
}
AFTER_TRAINING = (
    "RTN",
    "groups of 64 at the down projection",
    "groups of 32 everywhere",
    "GPTQ, mean of all inputs, groups of 32",
)

SMOLLM2_METHODS = {
    "RTN": METHODS["RTN"],
    "groups of 64 at the down projection": METHODS["groups of 64 at the down projection"],
    "groups of 32 everywhere": METHODS["groups of 32 everywhere"],
    "mean of the readers' inputs": METHODS["mean of the readers' inputs"],
    "mean of all inputs, groups of 32": METHODS["mean of all inputs, groups of 32"],
    "QuaRot + Qronos": ["--method", "quarot+qronos"],
    "QuaRot + Qronos, groups of 32": ["--method", "quarot+qronos", *GROUPS],
    "QuaRot + Qronos, mean of all inputs, groups of 32": [
        "--method", "quarot+qronos", "--mean-offset", "all", *GROUPS],
}  # fmt: skip


def spread(values: list[float]) -> list[float]:
    return [mean(values), stdev(values)]


def trained(osp: str, run: Callable, training: str, arm: str, seed: int) -> Path:
    """The model of a run of the demo's recipe with other settings, trained unless it is there."""
    folder = TRAINED / f"{training}-{arm}-{seed}"
    model = folder / "model"
    if not (model / "config.json").exists():
        resume = ["--resume"] if (folder / "recipe.json").exists() else []
        settings = [f"run.seed={seed}", *TRAININGS[training]]
        words = [word for setting in settings for word in ("--set", setting)]
        run(osp, "train", f"recipes/demo-{arm}.toml", "--out", folder, *resume, *words, "--quiet",
            environment={"OMP_NUM_THREADS": "1"})  # fmt: skip
    if training != "average":
        return model
    joined = folder / "average"
    if not joined.exists():
        run(osp, "average", *(folder / f"step-{step}" for step in AVERAGED), "--out", joined, "--quiet")
    return joined


def remedies(_: argparse.Namespace, run: Callable, run_json: Callable, osp: str) -> dict:
    """Mean and standard deviation of three seeds of the demo's models."""
    missing = [arm for arm in ARMS if not (DEMO / f"{arm}-3" / "model" / "config.json").exists()]
    if missing:
        sys.exit("measure: remedies needs the demo's models: run scripts/demo.sh first")
    machine: dict = {}

    def row(label: str, words: list, model_of: Callable[[str, int], Path]) -> list:
        cells: list = [label]
        for arm in ARMS:
            found = [
                run_json(osp, "quantize", model_of(arm, seed), *words, "--calibration", DEMO / "tokens",
                         "--report", "--data", DEMO / "tokens", "--data-tokens", 65536, "--json", "--quiet")
                for seed in SEEDS
            ]  # fmt: skip
            machine.update(machine_of(found[0]))
            measured = [one["runs"][0]["measured"] for one in found]
            losses = [(math.log(one["perplexity_16"]), math.log(one["perplexity"])) for one in measured]
            cells += [
                spread([exact for exact, _ in losses]),
                spread([100 * (math.exp(rounded - exact) - 1) for exact, rounded in losses]),
                spread([one["kl_divergence"] for one in measured]),
            ]
        return cells

    rows = [
        row(label, words, lambda arm, seed: DEMO / f"{arm}-{seed}" / "model")
        for label, words in METHODS.items()
    ]
    for training, label in TRAINING_LABELS.items():
        for method in AFTER_TRAINING:
            whole = label if method == "RTN" else f"{label}; {method}"
            rows.append(
                row(
                    whole,
                    METHODS[method],
                    lambda arm, seed, name=training: trained(osp, run, name, arm, seed),
                )
            )
    columns: list[dict] = [{"title": "at 4-4-4"}]
    for label in ("Adam", "OSP"):
        for what, digits in (("loss at 16 bits", 3), ("damage, %", 2), ("KL", 4)):
            form = f"{{:.{digits}f}} ± {{:.{digits}f}}"
            columns.append({"title": f"{label}: {what}", "align": "right", "format": form})
    return {"columns": columns, "rows": rows, "trainings": TRAININGS, **machine}


def remedies_smollm2(options: argparse.Namespace, run_json: Callable, osp: str) -> dict:
    """SmolLM2 on the beginning of --text, and the last method on more of it."""
    rows, machine = [], {}
    jobs = [(label, words, 4096) for label, words in SMOLLM2_METHODS.items()]
    jobs.append(("the same on more of the text", jobs[-1][1], 32768))
    for label, words, tokens in jobs:
        found = run_json(osp, "quantize", smollm2_file(), *words, "--calibration", options.calibration,
                         "--windows", 16, "--length", 1024, "--report", "--data", options.text,
                         "--data-tokens", tokens, "--json", "--quiet")  # fmt: skip
        one = found["runs"][0]["measured"]
        machine = machine_of(found)
        rows.append([label, one["perplexity"], one["kl_divergence"], one["tokens"]])
    columns = [
        {"title": "at 4-4-4"},
        {"title": "perplexity", "align": "right", "format": "{:,.1f}"},
        {"title": "KL", "align": "right", "format": "{:.3f}"},
        {"title": "tokens scored", "align": "right", "format": "{:,d}"},
    ]
    return {"columns": columns, "rows": rows, "perplexity_16": one["perplexity_16"], **machine}
