"""Faults against `osp train`, called by scripts/torture.sh, which says what the options mean.

A life is one run folder from its first start to its end. In a life the run is started again and again; each
start meets a fault (the run is killed, its disk fills up, a call fails, …) or nothing, and between two starts
its newest checkpoint may be damaged. The last start is left alone. Then the folder must be that of a run that
nobody disturbed: the same bytes of weights and optimizer state, the same lines in metrics.jsonl, the same
finished model, as many checkpoints as it should keep and no left-overs. After every start the life also
checks that the run went on from the newest checkpoint that was intact.

Plans come from the seed alone: random.Random("SEED/ROUND/LIFE").
"""

import argparse
import collections
import concurrent.futures
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from measuring import commit
from torture_life import (
    CHECKPOINT_EVERY,
    DONE,
    KEEP,
    KINDS,
    ROOT,
    SMOKE_STEPS,
    STEPS,
    Failed,
    Life,
    Setup,
)

sys.path.insert(0, str(ROOT / "tests" / "python"))
from train_fixture import write_recipe, write_text

OPTIMIZERS = ("osp", "adam", "muon", "adafactor", "soap", "shampoo", "kfac")


# ---- lives: what happens in one ------------------------------------------------------------------


def life_of_kills(life: Life, starts: int) -> None:
    for i in range(starts):
        # Whatever the machine's speed, at least one start finds a checkpoint to go on from.
        if not life.kill(after_checkpoint=i == 0):
            return
        if life.random.random() < 0.4:
            life.damage()


def life_of_calls(life: Life, starts: int) -> None:
    for i in range(starts):
        if not (life.fail_call() if i % 2 else life.kill_at_call()):
            return
        if life.random.random() < 0.2:
            life.damage()


def life_of_signals(life: Life, starts: int) -> None:
    for _ in range(starts):
        sent = life.random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP))
        if not life.kill("signal that asks to stop", sent):
            return
        if life.random.random() < 0.3:
            life.damage()


def life_on_a_small_disk(life: Life, starts: int) -> None:
    disk = life.run.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)], check=True)
    life.settings["train.max_failed_saves"] = 2
    for _ in range(starts):
        if not life.fill_disk():
            return


def life_with_a_second_trainer(life: Life, starts: int) -> None:
    for _ in range(starts):
        if not life.second_trainer():
            return
        if life.random.random() < 0.3:
            life.damage()


def life_with_a_broken_shard(life: Life, starts: int) -> None:
    life.settings["data.verify"] = "true"
    for _ in range(starts):
        if not life.kill():
            return
        life.break_shard()


def life_of_clock_jumps(life: Life, starts: int) -> None:
    for _ in range(starts):
        life.jump_clock()
        life.inject("clock jumps", "preloaded")
        if not life.kill():
            return


# (life, how many of a round, starts with a fault in each)
ROUND = (
    (life_of_kills, 14, 6),
    (life_of_calls, 7, 8),
    (life_of_signals, 3, 5),
    (life_on_a_small_disk, 4, 4),
    (life_with_a_second_trainer, 3, 4),
    (life_with_a_broken_shard, 2, 3),
    (life_of_clock_jumps, 3, 4),
)
SMOKE = (
    (life_of_kills, 2, 3),
    (life_of_calls, 1, 3),
    (life_of_signals, 1, 2),
    (life_on_a_small_disk, 1, 2),
    (life_with_a_second_trainer, 1, 2),
    (life_with_a_broken_shard, 1, 1),
    (life_of_clock_jumps, 1, 2),
)


# ---- preparation ---------------------------------------------------------------------------------


def program_works(command: list) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def clock_jumps(library: Path) -> bool:
    """Whether a program under the library sees decades pass, and go back."""
    code = "import time; times = [time.time() for _ in range(60)]; print(max(times) - min(times))"
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    return seen.returncode == 0 and float(seen.stdout) > 1e9


def may_mount(folder: Path) -> bool:
    probe = folder / "probe"
    probe.mkdir()
    if not program_works(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(probe)]):
        return False
    return program_works(["umount", str(probe)])


def prepare(build: Path, folder: Path, optimizers: tuple, steps: int) -> Setup:
    osp = folder / "osp"  # a copy: a build meanwhile changes nothing
    shutil.copy(build / "osp", osp)
    write_text(folder / "text.txt")
    tokenizer = ROOT / "recipes" / "gcide-4096"
    options = ["--documents", "lines", "--validation-fraction", "0.1", "--quiet"]
    tokens = folder / "tokens"
    subprocess.run(
        [osp, "tokenize", folder / "text.txt", "--tokenizer", tokenizer, *options, "--out", tokens],
        check=True,
    )
    recipe = write_recipe(folder / "osp.toml", tokens)
    text = recipe.read_text().replace('precision = "fp32"', 'precision = "bf16"')
    for key, value in {
        "steps": steps,
        "checkpoint_every": CHECKPOINT_EVERY,
        "keep_checkpoints": KEEP,
        "validate_every": 40,
        "sample_every": 0,
    }.items():
        text = "\n".join(
            f"{key} = {value}" if line.startswith(f"{key} =") else line for line in text.splitlines()
        )
    assert 'precision = "bf16"' in text and f"steps = {steps}" in text
    recipe.write_text(text + "\n[guard]\nloss_z = 12\ngradient_norm_z = 20\n")

    setup = Setup(osp, folder, tokens, recipe, steps=steps)
    setup.strace = shutil.which("strace")
    if setup.strace and not program_works([setup.strace, "-f", "-o", "/dev/null", "true"]):
        setup.strace = None
    clock = folder / "clock.so"
    source = ROOT / "scripts" / "torture_clock.cpp"
    if program_works(["g++", "-std=c++20", "-O1", "-shared", "-fPIC", str(source), "-o", str(clock)]):
        setup.clock = clock
    if setup.clock and not clock_jumps(clock):
        setup.clock = None
    setup.disks = may_mount(folder)
    for optimizer in optimizers:
        life = Life(setup, f"whole-{optimizer}", optimizer, "whole")
        began = time.monotonic()
        end = life.wait(life.open())
        setup.longest_pause = min(setup.longest_pause, (time.monotonic() - began) / 3)
        if end.status != DONE:
            sys.exit(f"torture: the undisturbed run of {optimizer} failed\n{end.text}")
        setup.wholes[optimizer] = life.run
    return setup


def possible(setup: Setup, body) -> str:
    """Why a kind of life cannot be lived here, or ""."""
    if body is life_of_calls and not setup.strace:
        return "strace is missing or may not trace"
    if body is life_on_a_small_disk and not setup.disks:
        return "no tmpfs can be mounted"
    if body is life_of_clock_jumps and not setup.clock:
        return "the clock that jumps cannot be compiled or preloaded"
    return ""


# ---- rounds --------------------------------------------------------------------------------------


@dataclass
class Totals:
    injections: collections.Counter = field(default_factory=collections.Counter)
    failures: collections.Counter = field(default_factory=collections.Counter)
    noticed: collections.Counter = field(default_factory=collections.Counter)
    failed_lives: list = field(default_factory=list)
    skipped: dict = field(default_factory=dict)
    lives: int = 0


def live(
    setup: Setup, body, starts: int, name: str, optimizer: str, seed: str, out: Path, totals: Totals, lock
):
    life = Life(setup, name, optimizer, seed)
    problem = ""
    try:
        body(life, starts)
        life.finish()
    except Failed as error:
        problem = str(error)
    except Exception:
        problem = traceback.format_exc()
    with lock:
        totals.lives += 1
        totals.injections.update(life.injections)
        totals.noticed.update(life.noticed)
        if problem:
            totals.failures.update(life.injections)
            totals.failed_lives.append(
                {
                    "life": name,
                    "optimizer": optimizer,
                    "seed": seed,
                    "problem": problem,
                    "history": life.history,
                }
            )
            print(f"torture: {name} ({optimizer}) FAILED: {problem}", file=sys.stderr, flush=True)
            for line in life.history:
                print(f"torture:   {line}", file=sys.stderr, flush=True)
            shutil.copytree(life.run.parent, out / "failed" / name, dirs_exist_ok=True)
    if body is life_on_a_small_disk:
        subprocess.run(["umount", str(life.run.parent)], capture_output=True)
    shutil.rmtree(life.run.parent, ignore_errors=True)


def plan(setup: Setup, kinds: tuple, optimizers: tuple, round_number: int, totals: Totals) -> list:
    lives = []
    for body, count, starts in kinds:
        reason = possible(setup, body)
        if reason:
            totals.skipped[body.__name__] = reason
            continue
        for i in range(count):
            name = f"{round_number}-{body.__name__}-{i}"
            lives.append((body, starts, name, optimizers[(i + round_number) % len(optimizers)]))
    return lives


def table(totals: Totals) -> str:
    """One line per kind of fault. A failed life counts against every injection that it had."""
    lines = [f"{'fault':40} {'injections':>10} {'survived':>10} {'failures':>10}"]
    for kind in KINDS:
        n, failed = totals.injections[kind], totals.failures[kind]
        lines.append(f"{kind:40} {n:>10} {n - failed:>10} {failed:>10}")
    n, failed = sum(totals.injections.values()), sum(totals.failures.values())
    lines.append(f"{'all':40} {n:>10} {n - failed:>10} {failed:>10}")
    for kind, count in sorted(totals.noticed.items()):
        lines.append(f"{kind}: {count} of {totals.injections[kind]} met a write or a read of the run")
    lines += [f"SKIPPED {name}: {reason}" for name, reason in totals.skipped.items()]
    return "\n".join(lines)


def machine() -> str:
    """The processor's name and the number of its threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1] for line in lines if line.startswith("model name")]
    return f"{names[0].strip() if names else 'unknown processor'}, {os.cpu_count()} threads"


def result_json(totals: Totals, options: argparse.Namespace, seconds: float, rounds: int) -> dict:
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "seed": options.seed,
        "rounds": rounds,
        "runs": totals.lives,
        "seconds": round(seconds),
        "steps_of_a_run": SMOKE_STEPS if options.smoke else STEPS,
        "precision": "bf16",
        "faults": {
            kind: {
                "injections": totals.injections[kind],
                "survived": totals.injections[kind] - totals.failures[kind],
                "failures": totals.failures[kind],
            }
            for kind in KINDS
        },
        "met_by_the_run": dict(totals.noticed),
        "skipped": totals.skipped,
        "failed": totals.failed_lives,
    }


def main() -> int:
    parser = argparse.ArgumentParser(usage="scripts/torture.sh [options]; its first lines say what they mean")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "torture")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", default="", metavar="LIFE", help="lives whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=Path, required=True)
    options = parser.parse_args()
    optimizers = ("osp", "adam") if options.smoke else OPTIMIZERS
    start = time.monotonic()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    totals, lock, rounds = Totals(), threading.Lock(), 0
    with tempfile.TemporaryDirectory(prefix="osp-torture-") as scratch:
        setup = prepare(options.build, Path(scratch), optimizers, SMOKE_STEPS if options.smoke else STEPS)
        while True:
            kinds = [k for k in (SMOKE if options.smoke else ROUND) if options.only in k[0].__name__]
            lives = plan(setup, kinds, optimizers, rounds, totals)
            with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
                for body, starts, name, optimizer in lives:
                    seed = f"{options.seed}/{name}"
                    pool.submit(live, setup, body, starts, name, optimizer, seed, options.out, totals, lock)
            rounds += 1
            seconds = time.monotonic() - start
            (options.out / "torture.json").write_text(
                json.dumps(result_json(totals, options, seconds, rounds), indent=1) + "\n"
            )
            print(f"torture: round {rounds} done after {seconds:.0f} s", file=sys.stderr, flush=True)
            if options.smoke or rounds == options.rounds or seconds > options.minutes * 60:
                break
    print(table(totals))
    print(f"{totals.lives} runs in {seconds:.0f} s; {options.out / 'torture.json'}")
    return 1 if totals.failed_lives else 0


if __name__ == "__main__":
    sys.exit(main())
