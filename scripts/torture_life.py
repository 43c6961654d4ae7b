"""One run folder under faults, for scripts/torture.py, which says what a life is: the faults that it can
meet, and what must hold after each."""

import collections
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))
from train_fixture import checkpoints, timeless  # noqa: E402

STEPS, SMOKE_STEPS, CHECKPOINT_EVERY, KEEP = 400, 150, 10, 3
# Exit statuses (docs/formats.md): whatever happens, a start ends with one of these or by our signal.
DONE, USAGE, DAMAGED, IO, INTERRUPTED = 0, 2, 3, 5, 75

KINDS = {
    "SIGKILL at a random time": "the run is killed and started again",
    "SIGKILL at a call of a save": "strace kills the run at its k-th write, fsync, rename, unlink or mkdir",
    "signal that asks to stop": "SIGTERM, SIGINT, SIGUSR1 or SIGHUP at a random time: exit 75",
    "newest checkpoint truncated": "a file of it ends early",
    "newest checkpoint with a flipped bit": "one bit of one of its files",
    "newest checkpoint without a file": "one of its files is removed",
    "token shard with a flipped bit": "the run is refused (exit 3), and goes on when it is mended",
    "full disk": "a tmpfs is filled while the run writes to it, and freed again",
    "EIO": "strace fails one write, fsync or rename of a save, or the reading of a checkpoint",
    "second trainer": "another process starts in the same folder, at once or later",
    "clock jumps": "the clock of the day jumps by seconds to decades, also back; so do times of files",
}
WRITE_CALLS = ("write", "fsync", "rename", "unlink,unlinkat,rmdir", "mkdir", "openat")


class Failed(Exception):
    """What a life found wrong."""


@dataclass
class Setup:
    osp: Path
    folder: Path  # scratch
    tokens: Path
    recipe: Path
    strace: str | None = None
    clock: Path | None = None
    disks: bool = False
    steps: int = STEPS
    wholes: dict = field(default_factory=dict)  # optimizer -> folder of the undisturbed run
    longest_pause: float = 2.2  # seconds before a fault, so that it meets a run


@dataclass
class Start:
    status: int | None  # None: killed by our SIGKILL
    text: str  # stderr


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def intact(folder: Path) -> bool:
    """Whether a checkpoint is what its manifest says; read here independently of osp."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = manifest["files"]
        names = {path.name for path in folder.iterdir()} - {"manifest.json"}
        return names >= set(files) and all(
            (folder / name).stat().st_size == entry["bytes"] and digest(folder / name) == entry["sha256"]
            for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Life:
    def __init__(self, setup: Setup, name: str, optimizer: str, seed: str, run: Path | None = None):
        self.setup, self.name, self.optimizer = setup, name, optimizer
        self.random = random.Random(seed)
        self.run = run or setup.folder / "lives" / name / "run"
        self.run.parent.mkdir(parents=True, exist_ok=True)
        self.injections = collections.Counter()
        self.noticed = collections.Counter()  # of the faults that a run may miss: those that it met
        self.history = []  # what happened, for a report of a failure
        self.damaged = set()  # steps that we damaged
        self.tokens = setup.tokens
        self.environment = {}
        self.settings = {"train.background_save": self.random.choice(("true", "false"))}

    def note(self, text: str) -> None:
        self.history.append(text)

    def inject(self, kind: str, detail: str) -> None:
        assert kind in KINDS
        self.injections[kind] += 1
        self.note(f"{kind}: {detail}")

    def require(self, condition: bool, text: str) -> None:
        if not condition:
            raise Failed(text)

    # ---- starts ----------------------------------------------------------------------------------

    def command(self) -> list:
        settings = {"optim.name": self.optimizer, "data.path": self.tokens, **self.settings}
        words = [self.setup.osp, "train", self.setup.recipe, "--out", self.run]
        if self.run.exists() and any(self.run.iterdir()):
            words.append("--resume")
        return [str(w) for w in words] + [w for k, v in settings.items() for w in ("--set", f"{k}={v}")]

    def open(self, before: tuple = ()) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        if before:  # strace passes these on to the program and is not under them itself
            before = [*before, *(w for k, v in self.environment.items() for w in ("-E", f"{k}={v}"))]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = (self.run.parent / f"stderr-{len(self.history)}.txt").open("w+")
        process = subprocess.Popen(
            [*before, *self.command()], stdout=subprocess.DEVNULL, stderr=log, env=environment
        )
        process.log = log
        return process

    def wait(self, process: subprocess.Popen, signalled: int = 0, timeout: float = 300) -> Start:
        """The end of a start; `signalled` may have ended it before its handlers stood."""
        try:
            status = process.wait(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise Failed(f"no end after {timeout} s") from error
        process.log.seek(0)
        text = process.log.read()
        process.log.close()
        os.unlink(process.log.name)
        start = Start(None if status in (-signal.SIGKILL, 128 + signal.SIGKILL) else status, text)
        self.note(f"  ended with {start.status}: {text.strip().splitlines()[-1:]}")
        known = (None, DONE, USAGE, DAMAGED, IO, INTERRUPTED, -signalled)
        self.require(start.status in known, f"status {status}\n{text}")
        return start

    def steps(self) -> list:
        return checkpoints(self.run) if self.run.exists() else []

    def intact_steps(self) -> list:
        return [s for s in self.steps() if s not in self.damaged and intact(self.run / f"step-{s}")]

    def newest_intact(self) -> int:
        return max(self.intact_steps(), default=-1)

    def check_resumed(self, start: Start, newest: int, damaged: set) -> None:
        """It went on from the newest intact checkpoint, and said so if that was not the newest."""
        going = [line for line in start.text.splitlines() if "going on from" in line]
        if not going:  # it died before, or there was none
            self.require(newest < 0 or start.status != DONE, f"began anew, though step-{newest} was intact")
            return
        step = int(going[0].rsplit("step-", 1)[1])
        self.require(step == newest, f"resumed from step {step}, step {newest} was the newest intact one")
        for one in damaged:
            self.require(f"step-{one}" in start.text and "warning" in start.text, f"silent about step-{one}")
        self.damaged.clear()

    def start_and(self, meanwhile, before: tuple = (), signalled: int = 0) -> Start:
        """Starts the run, does `meanwhile(process)`, and waits for the end."""
        newest, damaged = self.newest_intact(), self.damaged & set(self.steps())
        process = self.open(before)
        meanwhile(process)
        start = self.wait(process, signalled)
        self.check_resumed(start, newest, damaged)
        # Only a save in progress may have left anything, and never at a final name.
        for step in self.steps():
            good = step in self.damaged or intact(self.run / f"step-{step}")
            self.require(good, f"step-{step} is at its final name and not whole")
        kept = self.newest_intact()
        self.require(kept >= newest, f"step-{newest} was intact before this start, now step-{kept} is newest")
        return start

    def pause(self, least: float = 0.0, most: float = 0.0) -> float:
        return self.random.uniform(least, most or max(least, self.setup.longest_pause))

    # ---- faults ----------------------------------------------------------------------------------

    def kill(
        self,
        kind: str = "SIGKILL at a random time",
        sent: int = signal.SIGKILL,
        after_checkpoint: bool = False,
    ) -> bool:
        """Kills a start after a random time, counted from its first checkpoint if `after_checkpoint`. False
        if the run was over before."""
        delay = self.pause(0.05)

        def later(process):
            while after_checkpoint and not self.steps() and process.poll() is None:
                time.sleep(0.002)
            time.sleep(delay)
            if process.poll() is None:
                self.inject(kind, f"{signal.Signals(sent).name} after {delay:.3f} s")
                process.send_signal(sent)

        start = self.start_and(later, signalled=sent)
        if sent != signal.SIGKILL:
            allowed = (DONE, INTERRUPTED, -sent, None)
            self.require(start.status in allowed, f"{signal.Signals(sent).name}: status {start.status}")
        return start.status != DONE

    def damage(self) -> None:
        """Damages a file of the newest checkpoint, if an older one is intact."""
        steps = self.intact_steps()
        if len(steps) < 2:
            return
        folder = self.run / f"step-{steps[-1]}"
        path = self.random.choice(sorted(folder.iterdir()))
        content = bytearray(path.read_bytes())
        kind = self.random.choice([k for k in KINDS if k.startswith("newest checkpoint")])
        at = self.random.randrange(len(content))
        self.inject(kind, f"{folder.name}/{path.name}, byte {at}")
        if "truncated" in kind:
            path.write_bytes(content[:at])
        elif "flipped" in kind:
            content[at] ^= 1 << self.random.randrange(8)
            path.write_bytes(content)
        else:
            path.unlink()
        self.damaged.add(steps[-1])

    def traced(self, inject: str) -> Start:
        return self.start_and(lambda _: None, (self.setup.strace, "-f", "-o", "/dev/null", "-e", inject))

    def kill_at_call(self) -> bool:
        calls = self.random.choice(WRITE_CALLS)
        first = 290 if calls == "openat" else 1  # loading the libraries opens files too
        k = first + self.random.randrange(60 if calls in ("write", "fsync", "openat") else 12)
        start = self.traced(f"inject={calls}:signal=KILL:when={k}")
        if start.status is None:
            self.inject("SIGKILL at a call of a save", f"{calls} {k}")
        return start.status != DONE

    def fail_call(self) -> bool:
        """A write-like call of the run fails once, or for a while, or reading a checkpoint does."""
        newest = self.newest_intact()
        if newest >= 0 and not self.damaged and self.random.random() < 0.3:
            path = self.run / f"step-{newest}" / self.random.choice(("manifest.json", "trainer.json"))
            return self.fail_read(path)
        calls = self.random.choice(WRITE_CALLS[:-1])
        k = 1 + self.random.randrange(60 if calls in ("write", "fsync") else 12)
        until = self.random.choice(("", f"..{k + self.random.randrange(1, 40)}"))
        error = self.random.choice(("EIO", "EIO", "ENOSPC", "EDQUOT"))
        self.inject("EIO", f"{error} at {calls} {k}{until}")
        start = self.traced(f"inject={calls}:error={error}:when={k}{until}")
        self.require(start.status in (DONE, IO), f"status {start.status}\n{start.text}")
        self.noticed["EIO"] += start.status == IO or "warning" in start.text
        return start.status != DONE

    def fail_read(self, path: Path) -> bool:
        """A file of the newest checkpoint cannot be read in this start: an older one is taken, loudly."""
        self.inject("EIO", f"EIO at opening {path.parent.name}/{path.name}")
        older = len(self.intact_steps()) > 1
        before = (self.setup.strace, "-f", "-o", "/dev/null", "-P", str(path))
        start = self.wait(self.open((*before, "-e", "inject=openat:error=EIO")))
        self.require("Input/output error" in start.text, f"silent about {path}\n{start.text}")
        self.noticed["EIO"] += 1
        expected = (DONE, IO) if older else (DAMAGED, IO)
        self.require(start.status in expected, f"status {start.status}\n{start.text}")
        return start.status != DONE

    def fill_disk(self) -> bool:
        """The disk fills up after a random time; perhaps it is freed while the run goes on."""
        filler = self.run.parent / "filler"
        delay, length = self.pause(0.1), self.pause(0.2, 3.0)
        left = self.random.randrange(0, 3_000_000)

        def meanwhile(process):
            time.sleep(delay)
            if process.poll() is not None:
                return
            disk = os.statvfs(self.run.parent)
            size = max(0, disk.f_bavail * disk.f_frsize - left)
            self.inject("full disk", f"{left} bytes left after {delay:.3f} s, for {length:.3f} s")
            try:
                with filler.open("wb") as file:
                    file.write(bytes(size))
            except OSError:
                pass  # the run has written meanwhile: the disk is full all the same
            time.sleep(length)
            filler.unlink(missing_ok=True)

        start = self.start_and(meanwhile)
        filler.unlink(missing_ok=True)
        self.require(start.status in (DONE, IO), f"status {start.status}\n{start.text}")
        self.noticed["full disk"] += "No space left on device" in start.text
        return start.status != DONE

    def second_trainer(self) -> bool:
        """Another trainer starts beside the first; exactly one trains, and the other says why not."""
        delay = self.random.choice((0.0, self.pause()))
        newest, damaged = self.newest_intact(), self.damaged & set(self.steps())
        first = self.open()
        time.sleep(delay)
        if first.poll() is not None:
            start = self.wait(first)
            self.check_resumed(start, newest, damaged)
            return start.status != DONE
        self.inject("second trainer", f"after {delay:.3f} s")
        self.note("  second")
        second = self.open()
        time.sleep(self.pause(0.5, 1.5))
        self.note("  ends of both")
        # Whoever has the lock is killed at a random time; the other was refused, or had not come so far.
        for process in (first, second):
            if process.poll() is None:
                process.kill()
        ends = [self.wait(first), self.wait(second)]
        self.require([end.status for end in ends].count(USAGE) <= 1, "both were refused")
        for end in ends:
            if end.status == USAGE:
                self.require("lock" in end.text or "add --resume" in end.text, end.text)
            self.require(end.status in (None, DONE, USAGE), f"status {end.status}\n{end.text}")
        # A second one that comes when the first has ended goes on from where that left the run.
        if [end.status for end in ends] != [DONE, DONE]:
            for end in ends:
                self.check_resumed(end, newest, damaged)
        self.require(self.newest_intact() >= newest, "a checkpoint was lost")
        return DONE not in (ends[0].status, ends[1].status)

    def break_shard(self) -> None:
        """One bit of the training tokens differs: refused, and nothing of the run changes."""
        self.tokens = self.run.parent / "tokens"
        shutil.copytree(self.setup.tokens, self.tokens, dirs_exist_ok=True)
        shard = self.random.choice(sorted(path for path in self.tokens.iterdir() if path.suffix != ".json"))
        good = shard.read_bytes()
        content = bytearray(good)
        at = self.random.randrange(len(content))
        content[at] ^= 1 << self.random.randrange(8)
        shard.write_bytes(content)
        before = {path: digest(path) for path in self.run.rglob("*") if path.is_file()}
        self.inject("token shard with a flipped bit", f"{shard.name}, byte {at}")
        start = self.wait(self.open())
        after = {path: digest(path) for path in self.run.rglob("*") if path.is_file()}
        self.require(start.status == DAMAGED, f"status {start.status}, not {DAMAGED}\n{start.text}")
        self.require(before == after, "the run changed")
        shard.write_bytes(good)

    def jump_clock(self) -> None:
        self.environment = {"LD_PRELOAD": str(self.setup.clock)}
        for path in self.run.rglob("*") if self.run.exists() else []:
            moment = self.random.randrange(0, 4_000_000_000)
            os.utime(path, (moment, moment))

    # ---- the end ---------------------------------------------------------------------------------

    def finish(self) -> None:
        self.environment = {}
        self.note("left alone")
        start = self.start_and(lambda _: None)
        self.require(start.status == DONE, f"status {start.status} when left alone\n{start.text}")
        whole = self.setup.wholes[self.optimizer]
        for name in (
            f"step-{self.setup.steps}/model.safetensors",
            f"step-{self.setup.steps}/optimizer.safetensors",
            "model/model.safetensors",
        ):
            self.require(digest(self.run / name) == digest(whole / name), f"{name} differs")
        ours, theirs = timeless(self.run), timeless(whole)
        for lines in (ours, theirs):
            lines[0].pop("recipe")  # it has settings of the call, such as the path of the data
        self.require(ours == theirs, "metrics.jsonl differs")
        self.require(len(checkpoints(self.run)) <= KEEP, f"{checkpoints(self.run)} are kept")
        left = [path.name for path in self.run.glob("step-*.*")]
        self.require(not left, f"left over: {left}")
