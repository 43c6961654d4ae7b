#!/usr/bin/env python3
"""The peer of `osp eval --tasks`: lm-eval with its HFLM (transformers, fp32, CPU).

    lm_eval_peer.py MODEL SAMPLES

MODEL is a Hugging Face folder with its tokenizer, SAMPLES a file of `osp eval --save-items`: the peer answers
the same requests in the same order of tasks. For every task it first finds the fastest of --batch-sizes on
--probe requests that lie at equal distances, then answers all. Prints one JSON object on stdout: by task
`seconds` (one call of lm-eval, from texts to results, without loading), `items`, `batch_size`,
`largest_difference` of a log-likelihood from ours and `equal_texts`. lm-eval is in the test environment
(requirements.txt).
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

# Work offline: never ask the hub.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def arguments_of(line: dict) -> list[tuple]:
    """The requests of lm-eval for one item."""
    if "text" in line:
        return [(line["context"], {"until": line["stop"], "max_gen_toks": line["max_tokens"]})]
    contexts = line.get("contexts") or [line["context"]] * len(line["choices"])
    return list(zip(contexts, line["choices"], strict=True))


def answer(model: HFLM, kind: str, arguments: list[tuple], batch_size: int) -> tuple[list, float]:
    """The answers and the seconds they took."""
    model.batch_size_per_gpu = batch_size
    requests = [
        Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)
    ]
    start = time.perf_counter()
    answers = getattr(model, kind)(requests, disable_tqdm=True)
    return answers, time.perf_counter() - start


def spread(values: list, count: int) -> list:
    return [values[i * len(values) // count] for i in range(min(count, len(values)))]


def run_task(model: HFLM, lines: list[dict], options: argparse.Namespace) -> dict:
    generates = "text" in lines[0]
    kind = "generate_until" if generates else "loglikelihood"
    arguments = [each for line in lines for each in arguments_of(line)]
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    probe = spread(arguments, options.probe)
    answer(model, kind, probe[:1], 1)  # the first call allocates
    times = (
        {size: answer(model, kind, probe, size)[1] for size in sizes} if len(sizes) > 1 else {sizes[0]: 0.0}
    )
    best = min(times, key=times.get)
    answers, seconds = answer(model, kind, arguments, best)
    result = {"seconds": seconds, "items": len(lines), "requests": len(arguments), "batch_size": best}
    if generates:
        return {
            **result,
            "equal_texts": sum(line["text"] == text for line, text in zip(lines, answers, strict=True)),
        }
    ours = [score for line in lines for score in line["log_likelihoods"]]
    return {**result, "largest_difference": max(abs(a - b[0]) for a, b in zip(ours, answers, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("samples", type=Path)
    parser.add_argument("--batch-sizes", default="1,4,16")
    parser.add_argument("--probe", type=int, default=32, help="requests to try the batch sizes on")
    parser.add_argument("--threads", type=int, default=0, help="0: the default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    tasks: dict[str, list[dict]] = {}
    for line in options.samples.read_text().splitlines():
        sample = json.loads(line)
        tasks.setdefault(sample["task"], []).append(sample)
    model = HFLM(pretrained=options.model, device="cpu", dtype="float32")
    results = {name: run_task(model, lines, options) for name, lines in tasks.items()}
    versions = {
        "lm_eval": version("lm_eval"),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps({"tasks": results, "threads": torch.get_num_threads(), "versions": versions}))


if __name__ == "__main__":
    main()
