"""Made tests/recorded: runs, token shards and quantized folders as this version of osp writes them.

    .venv/bin/python tests/python/record_fixtures.py NEW_FOLDER

The files of tests/recorded are never made anew (tests/recorded/README.md): this program shows what they are
and makes a further folder where a format is new. It runs with relative paths, so that no path of a machine
is in what it writes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from golden_losses import cpu
from safetensors.numpy import load_file
from small_tokenizers import letter_tokenizer
from train_fixture import write_text

ROOT = Path(__file__).resolve().parents[2]

RUN = """
[data]
path = "tokens"

[model]
layers = 2
width = 16
heads = 2
inner = 32
context = 32
norm = "single-scale"
embedding_projection = true

[optim]
name = "osp"
{options}

[schedule]
warmup_steps = 2

[train]
steps = 12
batch_tokens = 128
precision = "{precision}"
log_every = 1
peak_tflops = 1.0
validate_every = 6
validation_tokens = 256
sample_every = 6
sample_tokens = 8
checkpoint_every = 8
keep_checkpoints = 2
"""
# The second run has a momentum of 8 bits, too.
RUNS = {"fp32": [], "bf16": ["momentum_bits = 8"]}
# Of the model that the quantized folders come from: heads and layers that the integer engine takes.
LARGER = ["model.width=32", "model.heads=1", "model.inner=32", "model.embedding_projection=false",
          "model.norm=rms", "optim.name=adam", "train.steps=300", "train.checkpoint_every=0",
          "train.sample_every=0"]  # fmt: skip

FOLDERS = {
    "w4a4kv4": ["--method", "rtn"],
    "asymmetric": ["--method", "rtn", "--asymmetric", "--group", "32", "--bits", "4-16-16"],
    "rotated": ["--method", "quarot+rtn", "--seed", "3", "--tables", "int4"],
    "mxfp4": ["--method", "rtn", "--bits", "mxfp4-mxfp4-16", "--tables", "int8"],
}
REQUESTS = [
    {"context": "a cat sees", "continuation": " a tree."},
    {"context": "the dog", "continuation": " hears snow."},
    {"text": "one bird hears rain.\nthe dog sees a tree.\n"},
    {"context": "one", "max_tokens": 12},
]


def tokenizer() -> dict:
    """A token for each character of the text, and one for the end of a document."""
    made = letter_tokenizer()
    letters = "abcdefghijklmnopqrstuvwxyz.ĊĠ"
    made["model"]["vocab"] = {letter: i for i, letter in enumerate(letters)}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    made["added_tokens"] = [{"id": len(letters), "content": "<|endoftext|>", **flags}]
    return made


def weights_of(osp, folder: Path, name: str) -> str:
    """SHA-256 of all numbers that a folder's weights stand for, in fp32."""
    osp("export", name, "--format", "hf", "--out", f"plain-{name}")
    tensors = load_file(folder / f"plain-{name}" / "model.safetensors")
    shutil.rmtree(folder / f"plain-{name}")
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].shape}\n".encode() + tensors[key].tobytes())
    return digest.hexdigest()


def main(folder: Path) -> None:
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{ROOT / 'build/release'}:/usr/bin:/bin"}

    def osp(*words, stdin=""):
        command = ["osp", *map(str, words)]
        done = subprocess.run(
            command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False))
    write_text(folder / "text.txt")
    lines = (folder / "text.txt").read_text().splitlines()[:400]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    osp("tokenize", "text.txt", "--tokenizer", "tokenizer.json", "--documents", "lines", "--out", "tokens",
        "--validation-fraction", "0.1", "--shard-tokens", 4096)  # fmt: skip
    expected = {"version": osp("--version").strip(), "cpu": cpu(), "runs": {}, "folders": {}}
    for precision, options in RUNS.items():
        run = folder / f"run-{precision}"
        (folder / f"{precision}.toml").write_text(RUN.format(precision=precision, options="\n".join(options)))
        osp("train", f"{precision}.toml", "--out", run.name)
        kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        expected["runs"][run.name] = {
            "losses": {line["step"]: line["loss"] for line in kept if line["kind"] == "step"},
            "validation": {line["step"]: line["loss"] for line in kept if line["kind"] == "validation"},
        }
        measured = json.loads(osp("eval", run.name + "/step-8", "--data", "tokens", "--json"))
        expected["runs"][run.name]["perplexity"] = measured["results"][0]["perplexity"]
        # As a kill after the last step leaves it, with the checkpoint before.
        shutil.rmtree(run / "step-12")
        shutil.rmtree(run / "model")
        for name in ["lock", "exit.json", *(p.name for p in run.glob("events.*"))]:
            (run / name).unlink(missing_ok=True)
    settings = [word for setting in LARGER for word in ("--set", setting)]
    osp("train", "fp32.toml", "--out", "larger", *settings)
    for name, words in FOLDERS.items():
        osp("quantize", "larger/model", "--out", name, *words)
    osp("export", "w4a4kv4", "--format", "panels", "--out", "panels")
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in REQUESTS))
    for name in [*FOLDERS, "panels"]:
        measured = json.loads(osp("eval", name, "--data", "tokens", "--json"))
        generated = osp("generate", name, "--prompt", "the", "--max-tokens", 24, "--json")
        expected["folders"][name] = {
            "perplexity": measured["results"][0]["perplexity"],
            "scores": osp("score", name, "--requests", "requests.jsonl").splitlines(),
            "text": json.loads(generated)["text"],
            "weights": None if name == "panels" else weights_of(osp, folder, name),
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    shutil.rmtree(folder / "larger")
    (folder / "text.txt").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
