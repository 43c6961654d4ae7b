"""What scripts/measure.sh runs on four-bit floating point: the demo's models, the race's longest runs and
SmolLM2 in MXFP4 and NVFP4."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from measuring import ROOT, machine_of, smollm2_file

DEMO = ROOT / "runs" / "demo"
FLOAT_BITS = "16-16-16,4-4-16,mxfp4-mxfp4-16,nvfp4-nvfp4-16,4-4-4,nvfp4-nvfp4-fp8"
# Blocks of a rotation are those of the numbers that share a scale.
SCALE_BLOCKS = {"mxfp4": 32, "nvfp4": 16}
FLOAT_METHODS = [
    ("rtn",),
    ("rtn", "--weight-scales", "mse"),
    ("gptq",),
    ("ffn-hadamard+rtn",),
    ("quarot+rtn",),
    ("quarot+rtn", "blocks"),
    ("quarot+gptq",),
    ("quarot+gptq", "blocks"),
]
SMOLLM2_TOKENS = 4096


def taxes(run_json: Callable, osp: str, model: Path, data: Path | str, tokens: int) -> dict:
    """A model at FLOAT_BITS rounded to nearest, with the outlier tax of each."""
    return run_json(osp, "eval", model, "--data", data, "--data-tokens", tokens, "--bits", FLOAT_BITS,
                    "--tax", "--rotations", 3, "--json", "--quiet")  # fmt: skip


def float_formats(run_json: Callable, osp: str) -> dict:
    """The demo's models at four bits of several kinds, with the outlier tax of each."""
    names = [f"{recipe}-{seed}" for seed in (1, 2, 3) for recipe in ("adam", "osp")]
    names = [name for name in names if (DEMO / name / "model" / "config.json").exists()]
    if not names:
        sys.exit("measure: float-formats needs the demo's models: run scripts/demo.sh first")
    models = [taxes(run_json, osp, DEMO / name / "model", DEMO / "tokens", 32768) for name in names]
    return {"models": [{**model, "run": name} for name, model in zip(names, models, strict=True)]}


def methods() -> Iterator[tuple[str, str, list]]:
    """A format, a method as the tables name it, and the options of `osp quantize`."""
    for kind, block in SCALE_BLOCKS.items():
        for method, *more in FLOAT_METHODS:
            blocks = more == ["blocks"]
            options = ["--rotation-block", block, "--hadamard-block", block] if blocks else more
            label = method + (f", blocks of {block}" if blocks else " ".join(["", *more]))
            yield kind, label, ["--method", method, *options, "--bits", f"{kind}-{kind}-16"]


def float_methods(run_json: Callable, osp: str) -> dict:
    """What the methods leave of the loss in four-bit floating point: divergence from the model at 16 bits."""
    label = {"adam": "Adam", "osp": "OSP"}
    models = {f"{label[name]}, demo": DEMO / f"{name}-1" / "model" for name in label}
    for folder in sorted((ROOT / "runs" / "race" / "tiny-100000").glob("*/model")):
        optimizer, _, seed = folder.parent.name.split("-")
        models[f"{label[optimizer]}, 100,000 steps, {seed}"] = folder
    text = DEMO / "tokens"
    rows, machine = [], {}
    for kind, method, words in methods():
        cells = []
        for model in models.values():
            found = run_json(osp, "quantize", model, *words, "--calibration", text, "--windows", 32,
                             "--report", "--data", text, "--data-tokens", 32768, "--json",
                             "--quiet")  # fmt: skip
            cells.append(found["runs"][0]["measured"]["kl_divergence"])
            machine = machine_of(found)
        rows.append([kind, method, *cells])
    columns = [{"title": "format"}, {"title": "method"}]
    columns += [{"title": name, "align": "right", "format": "{:.4f}"} for name in models]
    return {"columns": columns, "rows": rows, **machine}


def float_smollm2(options: argparse.Namespace, run_json: Callable, osp: str) -> dict:
    """SmolLM2 on the beginning of --text: the same methods, calibrated on --calibration, and the tax."""
    rows = []
    for kind, method, words in methods():
        found = run_json(osp, "quantize", smollm2_file(), *words, "--calibration", options.calibration,
                         "--windows", 16, "--length", 1024, "--report", "--data", options.text,
                         "--data-tokens", SMOLLM2_TOKENS, "--json", "--quiet")  # fmt: skip
        one = found["runs"][0]["measured"]
        rows.append([kind, method, one["perplexity"], one["kl_divergence"]])
    model = taxes(run_json, osp, smollm2_file(), options.text, SMOLLM2_TOKENS)
    columns = [
        {"title": "format"},
        {"title": "method"},
        {"title": "perplexity", "align": "right", "format": "{:,.1f}"},
        {"title": "KL", "align": "right", "format": "{:.3f}"},
    ]
    machine = machine_of(model)
    return {"columns": columns, "rows": rows, "models": [{**model, "run": "SmolLM2-135M"}], **machine}
