"""What scripts/gpu_check.sh runs: training on a GPU beside the CPU and beside PyTorch's compiled model.

1. Losses: the demo's recipes train some steps on the CPU and on the device; every loss must agree within
   LOSS_TOLERANCE nats (both compute in bf16, in different orders).
2. Checkpoints: a run that begins on one and goes on on the other ends within the same tolerance.
3. Speed: 125M and four layers of the 1.4B model, tokens/s and the share of the device's peak that the passes
   take (MFU), beside bench/peers/train_torch.py compiled.
4. What Muon costs: the time of a step of 125M with OSP's optimizer against Adam's, at a large batch.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from random import Random

from measuring import ROOT, commit, table

OSP = os.environ.get("OSP", str(ROOT / "build" / "release" / "osp"))
LOSS_TOLERANCE = 0.02  # nats; one step of the demo moves the loss by more
STEPS = 20
# Dense bf16 TFLOP/s as the makers state them.
PEAKS = {"H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312}
# What a model of each size is for osp (`--set`), and for the peer (its --model).
SIZES = {
    "125m": {
        "recipe": "recipes/125m-osp.toml",
        "set": {"model.vocabulary": 32768, "train.activation_memory_mb": 12000},
    },
    "1.4b-4-layers": {
        "recipe": "recipes/osp-1.4b.toml",
        "set": {"model.layers": 4, "model.vocabulary": 32768, "train.activation_memory_mb": 12000},
    },
    "demo": {"recipe": "recipes/demo-7m-osp.toml", "set": {"model.vocabulary": 4096}},
}


class OutOfTime(Exception):
    pass


class Check:
    """The options, a folder to work in, and the end of the time."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options, self.scratch = options, scratch
        self.end = time.monotonic() + 60 * options.minutes
        self.failed: list[str] = []
        self.rows: list[list[str]] = []  # of the table, as they are measured

    def run(self, *words: object) -> subprocess.CompletedProcess:
        left = self.end - time.monotonic()
        if left < 1:
            raise OutOfTime
        command = [str(word) for word in words]
        print("gpu-check:", " ".join(command), file=sys.stderr, flush=True)
        try:
            result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        if result.returncode != 0:
            raise RuntimeError(f"status {result.returncode}: {' '.join(command)}")
        return result

    def train(self, recipe: str, device: str, out: Path, settings: dict, *more: object) -> list[dict]:
        """The lines of the run's log."""
        words = [OSP, "train", recipe, "--device", device, "--out", out, "--quiet", *more]
        for key, value in settings.items():
            words += ["--set", f"{key}={value}"]
        self.run(*words)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def random_tokens(folder: Path, vocabulary: int, count: int) -> Path:
    """Shards in the layout of llm.c. Small ids are frequent, so that there is something to learn."""
    folder.mkdir(parents=True)
    random = Random(1)
    for split, tokens in (("train", count), ("val", count // 8)):
        header = struct.pack("<256i", 20240520, 1, tokens, *[0] * 253)
        ids = array("H", (int(vocabulary * random.random() ** 4) for _ in range(tokens)))
        (folder / f"random_{split}_000000.bin").write_bytes(header + ids.tobytes())
    return folder


def short_run(steps: int, data: Path) -> dict:
    return {
        "data.path": data,
        "train.steps": steps,
        "train.tokens": 0,  # recipes of large models have tokens in place of steps
        "schedule.warmup_steps": min(5, steps // 2),
        "train.log_every": 1,
        "train.validate_every": 1_000_000,
        "train.sample_every": 0,
        "train.checkpoint_every": 1_000_000,
    }


def losses(lines: list[dict]) -> list[float]:
    return [line["loss"] for line in lines if line["kind"] == "step"]


def largest_difference(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def flops_per_token(check: Check, size: dict, tokens: int) -> float:
    """Of the passes, by the planner's formula."""
    words = [OSP, "plan", size["recipe"], "--devices", 1, "--bandwidth", "100GB/s", "--flops", "1TFLOP/s"]
    for key, value in {**size["set"], "train.batch_tokens": tokens}.items():
        words += ["--set", f"{key}={value}"]
    plan = json.loads(check.run(*words, "--json").stdout)
    return plan["pass_flops_per_device"] / tokens


def seconds_per_step(lines: list[dict]) -> float:
    """Median of the second half of the steps; the first ones choose kernels."""
    steps = [line for line in lines if line["kind"] == "step"]
    each = [(b["tokens"] - a["tokens"]) / b["tokens_per_s"] for a, b in itertools.pairwise(steps)]
    return statistics.median(each[len(each) // 2 :])


def our_seconds(check: Check, name: str, tokens: int, steps: int, data: Path, **settings: object) -> float:
    size = SIZES[name]
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    optimizer = changed.get("optim.name", "osp")
    out = data.parent / f"{name}-{optimizer}"
    values = {**short_run(steps, data), **size["set"], "train.batch_tokens": tokens, **changed}
    lines = check.train(size["recipe"], check.options.device, out, values)
    shutil.rmtree(out)  # gigabytes
    return seconds_per_step(lines)


def check_speed(check: Check) -> None:
    """Tokens a second and MFU beside the peer, for the sizes of the call."""
    options = check.options
    sizes = ["demo"] if options.small else ["125m", "1.4b-4-layers"]
    tokens, steps = (2048, 4) if options.small else (65536, 20)
    for name in sizes:
        vocabulary = SIZES[name]["set"]["model.vocabulary"]
        data = random_tokens(check.scratch / "speed" / f"{name}-tokens", vocabulary, max(1 << 17, 4 * tokens))
        rate = tokens / our_seconds(check, name, tokens, steps, data)
        flops = flops_per_token(check, SIZES[name], tokens)
        words = ["bench/peers/train_torch.py", "--model", name, "--device", options.device]
        words += ["--mode", "eager" if options.small else "compile", "--steps", steps]
        words += ["--batch-tokens", tokens, "--micro-batches", 1 if options.small else 4]

        def share(per_s: float, flops: float = flops) -> str:
            return f"{100 * per_s * flops / options.peak / 1e12:.1f} %" if options.peak else "no peak known"

        what = f"{name}, {tokens:,} tokens a step: osp"
        check.rows.append([what, f"{rate:,.0f} tokens/s", f"MFU {share(rate)}"])
        peer = json.loads(check.run(sys.executable, *words).stdout)["tokens_per_s"]
        check.rows.append([f"{name}: PyTorch", f"{peer:,.0f} tokens/s", f"MFU {share(peer)}"])
        check.rows.append([f"{name}: osp / PyTorch", f"{rate / peer:.2f}", ""])


def check_muon(check: Check) -> None:
    """Beside Adam at a batch that is large, as in the paper's run."""
    small = check.options.small
    name, tokens, steps = ("demo", 4096, 4) if small else ("125m", 524_288, 6)
    vocabulary = SIZES[name]["set"]["model.vocabulary"]
    data = random_tokens(check.scratch / "muon" / "tokens", vocabulary, 4 * tokens)
    osp = our_seconds(check, name, tokens, steps, data)
    adam = our_seconds(check, name, tokens, steps, data, optim__name="adam")
    what = f"{name}, {tokens:,} tokens a step: OSP's optimizer, Adam's"
    check.rows.append([what, f"{osp:.3f} s, {adam:.3f} s", f"{100 * (osp / adam - 1):+.1f} %"])


def check_losses(check: Check) -> None:
    """Runs of STEPS steps on either, and runs that change the device half way, at a constant rate."""
    device = check.options.device
    data = random_tokens(check.scratch / "losses" / "tokens", 4096, 1 << 16)
    for recipe in ("demo-adam", "demo-osp"):
        settings = {**short_run(STEPS, data), "schedule.decay_fraction": 0}

        def train(name: str, where: str, steps: int, *more: str, of: str = recipe, like: dict = settings):
            out = check.scratch / f"{of}-{name}"
            return losses(
                check.train(f"recipes/{of}.toml", where, out, {**like, "train.steps": steps}, *more)
            )

        whole = train("cpu", "cpu", STEPS)
        there = train("device", device, STEPS)
        what = f"{recipe}: losses of {STEPS} steps, {device} beside cpu"
        judge(check, what, largest_difference(whole, there))
        for way, (first, second) in {"there": ("cpu", device), "back": (device, "cpu")}.items():
            train(way, first, STEPS // 2)
            changed = train(way, second, STEPS, "--resume")
            what = f"{recipe}: begun on {first}, gone on on {second}"
            judge(check, what, largest_difference(whole, changed))


def judge(check: Check, what: str, difference: float) -> None:
    good = difference <= LOSS_TOLERANCE
    if not good:
        check.failed.append(what)
    said = "equal enough" if good else f"FAILED: above {LOSS_TOLERANCE}"
    check.rows.append([what, f"{difference:.1e} nats", said])


PARTS = {"losses": check_losses, "muon": check_muon, "speed": check_speed}  # what compiles comes last


def device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch  # only here: it takes seconds

    if not torch.cuda.is_available():
        sys.exit(
            "gpu-check: PyTorch finds no CUDA device; --device cpu --small tries this script without one"
        )
    return torch.cuda.get_device_name()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--peak", type=float, metavar="TFLOPS")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*PARTS, []])
    options = parser.parse_args()
    if not Path(OSP).exists():
        sys.exit(f"gpu-check: {OSP} is missing; run scripts/build.sh osp first")
    name = device_name(options.device)
    if options.peak is None:
        options.peak = next((peak for known, peak in PEAKS.items() if re.search(rf"\b{known}\b", name)), None)
    left_out = []
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(options, Path(scratch))
        for part in options.parts or PARTS:
            try:
                PARTS[part](check)
            except OutOfTime:
                left_out.append(part)
                print(f"gpu-check: {part} left out: {options.minutes:g} minutes are over", file=sys.stderr)
            except (RuntimeError, ValueError, KeyError) as error:
                check.failed.append(f"{part}: {error}")
                print(f"gpu-check: {part} FAILED: {error}", file=sys.stderr)
    print(table([f"on {name}", "", ""], check.rows, left=3))
    if options.out:
        kept = {"commit": commit(), "device": name, "peak_tflops": options.peak, "rows": check.rows}
        kept |= {"failed": check.failed, "left_out": left_out}
        options.out.write_text(json.dumps(kept, indent=1) + "\n")
    for what in check.failed:
        print(f"gpu-check: FAILED: {what}", file=sys.stderr)
    return 1 if check.failed or left_out else 0


if __name__ == "__main__":
    sys.exit(main())
