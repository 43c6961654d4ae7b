#!/usr/bin/env python3
"""The peer of osp's GGUF files: llama.cpp on a CPU, through the PyPI package `llama-cpp-python`.

    llama_cpp_peer.py perplexity MODEL.gguf WINDOWS
    llama_cpp_peer.py generate MODEL.gguf "Once upon a time" --tokens 16

`perplexity` evaluates each window of token ids from an empty cache (peer_windows.py describes the format
and the measure). `generate` continues a text greedily, by the largest logit. Each prints one JSON object on
stdout; llama.cpp's log goes to stderr with --verbose. llama.cpp rounds activations to 8 bits before it
multiplies them with quantized weights, so its perplexity differs a little from that of the same weights in
fp32.

llama.cpp's threads wait by spinning: on a machine with other work, fewer threads (--threads) are faster.

Installation in an environment of its own compiles llama.cpp for this machine's CPU with CMake, 12 minutes
with one job:

    python3 -m venv peer
    CMAKE_ARGS=-DGGML_NATIVE=ON CMAKE_BUILD_PARALLEL_LEVEL=1 \\
        peer/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    peer/bin/python bench/peers/llama_cpp_peer.py perplexity …
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy
import peer_windows

CACHE_TYPES = {"float16": llama_cpp.GGML_TYPE_F16, "float32": llama_cpp.GGML_TYPE_F32}


def load(options: argparse.Namespace, context: int) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(options.model),
        n_ctx=context,
        n_batch=min(context, 512),
        n_threads=options.threads,
        n_threads_batch=options.threads,
        logits_all=True,
        type_k=CACHE_TYPES[options.cache],
        type_v=CACHE_TYPES[options.cache],
        verbose=options.verbose,
    )


def description(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "cache": options.cache,
        "threads": options.threads,
        "versions": {
            "llama_cpp_python": llama_cpp.__version__,
            "llama_cpp": llama_cpp.llama_version().decode(),
        },
        "cpu": llama_cpp.llama_print_system_info().decode().strip(" |"),
    }


def perplexity(options: argparse.Namespace) -> dict[str, Any]:
    windows = peer_windows.read_windows(options.windows)
    model = load(options, max(map(len, windows)))

    def logits_of(window: list[int]) -> numpy.ndarray:
        model.reset()
        model.eval(window)
        return model.scores[: len(window)]

    start = time.perf_counter()
    value, tokens = peer_windows.perplexity(windows, logits_of)
    seconds = time.perf_counter() - start
    return {"perplexity": value, "tokens": tokens, "seconds": seconds, **description(options)}


def generate(options: argparse.Namespace) -> dict[str, Any]:
    # The context's size is fixed before the model can tokenize; a text has no more tokens than bytes.
    prompt = options.prompt.encode()
    model = load(options, len(prompt) + 2 + options.tokens)
    prompt_ids = model.tokenize(prompt)
    ids: list[int] = []
    start = time.perf_counter()
    model.eval(prompt_ids)
    while len(ids) < options.tokens:
        ids.append(int(model.scores[model.n_tokens - 1].argmax()))
        if ids[-1] == model.token_eos():
            break
        model.eval(ids[-1:])
    return {
        "prompt_ids": prompt_ids,
        "ids": ids,
        "text": model.detokenize(ids, prev_tokens=prompt_ids).decode(errors="replace"),
        "seconds": time.perf_counter() - start,
        **description(options),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cache", choices=CACHE_TYPES, default="float16", help="type of the key and value cache"
    )
    parser.add_argument("--verbose", action="store_true", help="show llama.cpp's log")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("perplexity", help="measure perplexity over windows of token ids")
    command.set_defaults(run=perplexity)
    command.add_argument("model", type=Path)
    command.add_argument("windows", type=Path)

    command = commands.add_parser("generate", help="continue a text greedily")
    command.set_defaults(run=generate)
    command.add_argument("model", type=Path)
    command.add_argument("prompt")
    command.add_argument("--tokens", type=int, default=16)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    print_result = peer_windows.claim_stdout()
    print_result(options.run(options))


if __name__ == "__main__":
    main()
