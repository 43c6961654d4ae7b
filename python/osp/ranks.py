"""Many processes that train one model: the start of each (a rank), and a launcher for one machine.

A rank starts with the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and where to meet),
makes torch.distributed's process group and hands its name to the program (OSP_PROCESS_GROUP), and that of a
second group for saving while training goes on (OSP_SAVE_GROUP); the program does the rest. The launcher,
`python -m osp train --ranks N …`, starts N of them here, passes on the exit status of the one that failed
first, and completes RUN/exit.json (osp/train/ending.h) where a rank could not.
"""

import contextlib
import ctypes
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEETING_S = 300  # how long ranks wait for each other at the start
GRACE_S = 10  # how long ranks have to notice that another has died
PARTING_S = 5  # how long a rank that is done waits for the others
LOST = 5  # the exit status of a rank that has lost another
SETTLED = (0, 2, 4, 75)  # exit statuses to which all ranks come together, as a rule
RANKS_THAT_SAVE_S = 3600  # how long they have where all were asked to stop: the first one saves


def split_ranks(words):
    """(N, the other words) of `--ranks N` or `--ranks=N`; (None, words) without it."""
    rest, count = [], None
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--ranks" and words:
            count = words.pop(0)
        elif word.startswith("--ranks="):
            count = word.removeprefix("--ranks=")
        else:
            rest.append(word)
    if count is None:
        return None, rest
    if not count.isdigit() or not 1 <= int(count) <= 4096:
        raise SystemExit(report(f'osp train: --ranks is "{count}", expected an integer from 1 to 4096'))
    return int(count), rest


def report(message):
    """Prints an error as the program does; returns the exit status of wrong usage."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


def set_threads():
    """Shares the cores among the ranks of this machine, unless the user has set the number of threads.

    torchrun sets OMP_NUM_THREADS=1 where it is unset, which leaves cores idle.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
    if "OMP_NUM_THREADS" not in os.environ or (by_torchrun and here > 1):
        os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // here))


def end_with_launcher():
    """Ends this process by SIGTERM when the launcher is gone, whatever ended it."""
    launcher = os.environ.get("OSP_LAUNCHER")
    if launcher is None:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(launcher):
        os.kill(os.getpid(), signal.SIGTERM)


def choose_device():
    """Shows this rank one CUDA device, the LOCAL_RANK-th of those that the user shows."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(rank)] if shown is None else shown.split(",")[rank : rank + 1]
    os.environ["CUDA_VISIBLE_DEVICES"] = "".join(devices)


def run_rank(words):
    """Trains as one of WORLD_SIZE ranks; never returns."""
    end_with_launcher()
    set_threads()
    choose_device()
    import torch
    import torch.distributed as dist

    from osp import engine

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = os.environ.get("OSP_MEETING")
    try:
        if meeting:
            store = dist.FileStore(meeting, size)
        else:
            store, rank, size = next(dist.rendezvous("env://", rank, size))
            # torchrun's store outlives a restart, with the addresses of ranks that are gone.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"osp/attempt-{attempt}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=MEETING_S),
        )
        saves = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=MEETING_S))
    except Exception as error:
        print(f"error: rank {rank}: the ranks did not meet: {error}", file=sys.stderr)
        leave(5)
    os.environ["OSP_PROCESS_GROUP"] = dist.group.WORLD.group_name
    os.environ["OSP_SAVE_GROUP"] = saves.group_name
    status = engine.load().main(["osp", *words])
    if status in SETTLED:
        wait_for_others(store, size)
    leave(status)


def wait_for_others(store, size):
    """Leaves together: a rank that leaves resets connections on which others may receive the last message."""
    until = time.monotonic() + PARTING_S
    try:
        store.add("osp/left", 1)
        while store.add("osp/left", 0) < size and time.monotonic() < until:
            time.sleep(0.01)
    except Exception:  # the store has left with its rank
        return


def leave(status):
    """Ends the process at once: its connections close, by which the other ranks learn of a failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def launch(count, words):
    """Starts `count` ranks on this machine and waits for all; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="osp-ranks-") as folder:
        environment = {
            **os.environ,
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "OSP_MEETING": str(Path(folder) / "store"),
            "OSP_LAUNCHER": str(os.getpid()),
            "OSP_RUN_NOTE": str(Path(folder) / "run"),
        }
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        command = [sys.executable, "-m", "osp", *words]
        stopped = []
        processes = []

        def pass_on(number, _frame):
            stopped.append(number)
            for process in processes:
                if process.poll() is None:
                    process.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, pass_on)
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A group of its own: a terminal's Ctrl-C reaches it once, from here.
            processes.append(subprocess.Popen(command, env={**environment, **own}, start_new_session=True))
        status, rank, cause = wait_for(processes, stopped)
        note = Path(folder) / "run"
        # A rank that was killed for its silence explains nothing where another has said what went wrong.
        if cause and not (status == LOST and says_root_cause(note)):
            print(f"error: {cause}", file=sys.stderr, flush=True)
            complete_record(note, status, rank, cause, count)
        return status


def wait_for(processes, stopped):
    """Waits for all ranks. Once one has failed, the others have a while to notice; then they are killed.

    Returns (exit status, rank, cause): those of the rank that failed first, and where it may not have known
    why itself, a sentence on what was seen here.
    """
    first_failure, failed_at, hanging = None, None, []
    while any(process.poll() is None for process in processes):
        time.sleep(0.05)
        codes = [process.poll() for process in processes]
        failures = [(worth(code), rank, code) for rank, code in enumerate(codes) if code not in (None, 0)]
        if failures and first_failure is None:
            first_failure, failed_at = min(failures), time.monotonic()
        patience = RANKS_THAT_SAVE_S if stopped and all(code in (None, 75) for code in codes) else GRACE_S
        if failed_at is not None and time.monotonic() - failed_at > patience:
            for rank, process in enumerate(processes):
                if process.poll() is None and rank not in hanging:
                    hanging.append(rank)
                    process.kill()
    if first_failure is None:
        failures = [(worth(p.returncode), rank, p.returncode) for rank, p in enumerate(processes)]
        first_failure = min(failures)
    _, rank, code = first_failure
    of_all = f"of {len(processes)}"
    if code < 0:
        return 128 - code, rank, f"rank {rank} {of_all} was ended by {signal.Signals(-code).name}"
    if hanging and code == LOST:
        return code, hanging[0], f"rank {hanging[0]} {of_all} did not answer and was killed"
    return code, rank, ""


def says_root_cause(note):
    """Whether a rank of the run that `note` names has recorded what went wrong, not only a loss."""
    with contextlib.suppress(OSError, ValueError):
        return read_record(Path(note.read_text()) / "exit.json").get("is_root_cause") is True
    return False


def read_record(path):
    """The record at `path`; {} without one, or for what is none."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(path.read_text())
        return record if isinstance(record, dict) else {}
    return {}


def complete_record(note, status, rank, cause, count):
    """Writes what the launcher alone knows into the RUN/exit.json of the run that `note` names, if any."""
    with contextlib.suppress(OSError, ValueError):
        path = Path(note.read_text()) / "exit.json"
        record = read_record(path) or {"step": None, "checkpoint": newest(path)}
        said = record.get("cause")
        record |= {"ending": "failed", "status": status, "cause": cause, "is_root_cause": True}
        record |= {"rank": rank, "ranks": count}
        if said:
            record["said_by_others"] = said
        temporary = path.with_name(f"exit.json.tmp-{os.getpid()}")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.replace(path)


def newest(path):
    """The step of the newest checkpoint beside `path`; None without one."""
    steps = [folder.name.removeprefix("step-") for folder in path.parent.glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=None)


def worth(code):
    """Orders exit statuses that are seen at once: deaths first; a lost peer (5) explains least, 0 nothing."""
    if code < 0:
        return 0
    return {0: 3, LOST: 2}.get(code, 1)
