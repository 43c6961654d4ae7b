"""Twenty steps of every recipe of recipes/ablation at a tiny size, and the file of the losses they must give.

    .venv/bin/python tests/python/golden_losses.py FOLDER    # records tests/golden/losses.json anew

FOLDER is an empty place for runs. A change that is meant to change numbers records them anew; its commit then
shows which recipes and instruction sets it touches. The losses are those of one thread. What osp computes
itself has the same bits on every CPU of a level; the products of the tensor library choose kernels by the
CPU too, so the file names the CPU and the library that it is exact for.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "golden" / "losses.json"
RECIPES = sorted(path.stem for path in (ROOT / "recipes" / "ablation").glob("*.toml"))
LEVELS = ["portable", "avx2", "avx512"]
SETTINGS = {
    "model.layers": 2,
    "model.width": 32,
    "model.heads": 2,
    "model.inner": 64,
    "model.context": 32,
    "optim.precondition_every": 4,  # so that the roots and bases are used, and found anew
    "schedule.warmup_steps": 4,
    "train.steps": 20,
    "train.batch_tokens": 128,
    "train.log_every": 1,
    "train.validate_every": 0,
    "train.sample_every": 0,
    "train.checkpoint_every": 0,
    "train.peak_tflops": 1.0,  # not measured
}


def cpu() -> str:
    """ "AuthenticAMD 25/17": vendor, family and model, by which libraries choose kernels."""
    found = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return f"{found.get('vendor_id')} {found.get('cpu family')}/{found.get('model')}"


def write_tokens(osp: Path, folder: Path) -> Path:
    """Shards of the tiny text of train_fixture."""
    from train_fixture import write_text

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "text.txt")
    command = [osp, "tokenize", folder / "text.txt", "--tokenizer", ROOT / "recipes" / "gcide-4096"]
    command += ["--documents", "lines", "--validation-fraction", "0.1", "--out", folder / "tokens", "--quiet"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "tokens"


def losses(osp: Path, recipe: str, level: str, tokens: Path, out: Path) -> list[float] | None:
    """The loss of every step; None where this CPU lacks the level."""
    command = [osp, "train", ROOT / "recipes" / "ablation" / f"{recipe}.toml", "--out", out, "--quiet"]
    for key, value in {"data.path": tokens, **SETTINGS}.items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "OSP_ISA": level, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if "this CPU supports" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def all_losses(osp: Path, recipe: str, tokens: Path, folder: Path) -> dict[str, list[float]]:
    """By level; two runs of one thread at a time."""
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda level: losses(osp, recipe, level, tokens, folder / level), LEVELS)
        return {level: curve for level, curve in zip(LEVELS, found, strict=True) if curve is not None}


def main() -> None:
    osp = Path(os.environ.get("OSP_BUILD", ROOT / "build" / "release")) / "osp"
    folder = Path(sys.argv[1])
    tokens = write_tokens(osp, folder)
    curves = {name: all_losses(osp, name, tokens, folder / name) for name in RECIPES}
    rows = [
        f'  "{name}": {{\n'
        + ",\n".join(f'   "{level}": {json.dumps(curve)}' for level, curve in levels.items())
        + "\n  }"
        for name, levels in curves.items()
    ]
    FILE.parent.mkdir(exist_ok=True)
    text = f'{{\n "cpu": "{cpu()}",\n "torch": "{version("torch")}",\n "losses": {{\n'
    FILE.write_text(text + ",\n".join(rows) + "\n }\n}\n")


if __name__ == "__main__":
    main()
