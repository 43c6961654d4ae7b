"""Shared by the peers that measure perplexity: windows of token ids, the measure, a clean stdout.

A file of windows is JSON, {"windows": [[id, ...], ...]}; every window has at least two ids. A window's
first token has no context and is not counted; with p the model's probability of token t after those
before it in its window, perplexity = exp(mean of -log p over all counted tokens of all windows), in fp64.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy

ROWS_AT_ONCE = 256  # 100 MB of fp64 for a vocabulary of 49,152


def read_windows(path: Path) -> list[list[int]]:
    windows = json.loads(path.read_text())["windows"]
    if not windows:
        raise SystemExit(f"{path}: no windows")
    for number, window in enumerate(windows):
        if len(window) < 2:
            raise SystemExit(f"{path}: window {number} has {len(window)} ids, expected 2 or more")
    return windows


def negative_log_likelihood(logits_TV: numpy.ndarray, targets_T: numpy.ndarray) -> float:
    """The sum over T of log(sum over V of exp(logit)) - logit[target], in nats and fp64."""
    total = 0.0
    for start in range(0, len(targets_T), ROWS_AT_ONCE):
        rows = logits_TV[start : start + ROWS_AT_ONCE].astype(numpy.float64)
        targets = targets_T[start : start + ROWS_AT_ONCE]
        largest = rows.max(axis=1)
        log_sums = largest + numpy.log(numpy.exp(rows - largest[:, None]).sum(axis=1))
        total += float((log_sums - rows[numpy.arange(len(targets)), targets]).sum())
    return total


def perplexity(
    windows: list[list[int]], logits_of: Callable[[list[int]], numpy.ndarray]
) -> tuple[float, int]:
    """The perplexity and its number of tokens; logits_of returns a window's logits, [T, V]."""
    total, tokens = 0.0, 0
    for window in windows:
        logits_TV = logits_of(window)
        if not numpy.isfinite(logits_TV).all():
            raise SystemExit("the model's logits are not finite")
        total += negative_log_likelihood(logits_TV[:-1], numpy.asarray(window[1:]))
        tokens += len(window) - 1
    return float(numpy.exp(total / tokens)), tokens


def claim_stdout() -> Callable[[dict], None]:
    """Redirects everything that a library prints to stderr; returns a function that prints the result."""
    result_file = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def print_result(result: dict) -> None:
        print(json.dumps(result), file=result_file, flush=True)

    return print_result
