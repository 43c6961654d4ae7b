#!/usr/bin/env python3
"""Starts a command as several ranks, each in a network of its own, for `osp bench ranks`.

    ranks_launch.py --ranks 2 --rate 200mbit --threads 1 -- COMMAND WORDS…

Every rank gets a network namespace that is wired to one bridge; `--rate` limits what it sends and what it
receives (a token bucket, `tc … tbf`). So the bytes of its interface are its own, whatever else the machine
does. This needs root and Debian's iproute2. Where the networks cannot be made, the ranks talk over the
loopback interface, whose bytes are everyone's and not told, and a rate is refused.

The command finds its peers by the variables that torchrun sets. Each rank prints one JSON object; this prints
{"ranks": [...]}, in order. If one rank fails the others are ended, and so is this, with its status.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HUB = "hub"
PORT = "29411"


class CannotSeparate(Exception):
    """The networks cannot be made; the text says what failed."""


def run(*words):
    words = [str(word) for word in words]
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotSeparate(f"{words[0]}: {error.strerror}") from error
    if result.returncode:
        raise CannotSeparate(f"`{' '.join(words)}`: {result.stderr.strip() or result.returncode}")


class Networks:
    """A namespace for each rank and one for the bridge between them, named after this process."""

    def __init__(self, ranks, rate):
        self.ranks, self.rate = ranks, rate
        self.made = []

    def name(self, part):
        return f"osp-{os.getpid()}-{part}"

    def address(self, rank):
        return f"10.99.{(rank + 1) // 256}.{(rank + 1) % 256}"

    def __enter__(self):
        try:
            self.add_namespace(HUB)
            run("ip", "-n", self.name(HUB), "link", "add", "bridge", "type", "bridge")
            run("ip", "-n", self.name(HUB), "link", "set", "bridge", "up")
            for rank in range(self.ranks):
                self.add_rank(rank)
        except BaseException:
            self.__exit__()
            raise
        return self

    def add_namespace(self, part):
        run("ip", "netns", "add", self.name(part))
        self.made.append(self.name(part))
        run("ip", "-n", self.name(part), "link", "set", "lo", "up")

    def add_rank(self, rank):
        self.add_namespace(rank)
        own, hub, port = self.name(rank), self.name(HUB), f"rank{rank}"
        run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", own)
        run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
        run("ip", "-n", own, "address", "add", f"{self.address(rank)}/16", "dev", "eth0")
        run("ip", "-n", own, "link", "set", "eth0", "up")
        if self.rate:
            limit = ["root", "tbf", "rate", self.rate, "burst", "1mb", "latency", "200ms"]
            run("tc", "-n", own, "qdisc", "add", "dev", "eth0", *limit)
            run("tc", "-n", hub, "qdisc", "add", "dev", port, *limit)

    def __exit__(self, *_):
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self.made = []


class Loopback:
    """No networks of their own."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def start_ranks(options, networks, outputs):
    """One process per rank, its stdout in the file of the same place in `outputs`."""
    apart = isinstance(networks, Networks)
    processes = []
    for rank in range(options.ranks):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(options.ranks),
            "LOCAL_WORLD_SIZE": str(options.ranks),
            "MASTER_ADDR": networks.address(0) if apart else "127.0.0.1",
            "MASTER_PORT": PORT if apart else str(options.port),
            "GLOO_SOCKET_IFNAME": "eth0" if apart else "lo",
            "OMP_NUM_THREADS": str(options.threads),
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # it cannot name the other end, which is no fault
        }
        inside = ["ip", "netns", "exec", networks.name(rank)] if apart else []
        command = [*inside, *options.command]
        processes.append(subprocess.Popen(command, env=environment, stdout=outputs[rank]))
    return processes


def wait_for_all(processes, timeout_s):
    """The first status that is not 0, after which the others are ended; 0 if there is none."""
    end = time.monotonic() + timeout_s
    status = 0
    try:
        while any(process.poll() is None for process in processes) and not status:
            failed = [process.returncode for process in processes if process.poll() not in (None, 0)]
            status = failed[0] if failed else 124 if time.monotonic() > end else 0
            time.sleep(0.02)
    finally:  # also when this process is asked to end
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
    return status or next((p.returncode for p in processes if p.returncode), 0)


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rate", default="", help="what tc knows: 200mbit, 1gbit")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for all of it")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    networks = Networks(options.ranks, options.rate)
    try:
        with networks:
            pass
    except CannotSeparate as reason:
        if options.rate:
            print(f"error: the network cannot be limited to {options.rate}, which needs root: {reason}",
                  file=sys.stderr)  # fmt: skip
            return 2
        networks = Loopback()
        options.port = free_port()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    with networks, tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, str(rank)) for rank in range(options.ranks)]
        with contextlib.ExitStack() as files:
            outputs = [files.enter_context(open(path, "w")) for path in paths]
            status = wait_for_all(start_ranks(options, networks, outputs), options.timeout)
        if status:
            print(f"error: a rank of {options.command[0]} ended with status {status}", file=sys.stderr)
            return status if status > 0 else 128 - status
        results = []
        for path in paths:
            with open(path) as file:
                results.append(json.load(file))
    print(json.dumps({"ranks": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
