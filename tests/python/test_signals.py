"""The kind of fault: a signal that long work does not hear, or that costs what was done. SIGTERM, SIGINT and
SIGHUP at random times to every command that may run for long: it leaves soon, with a documented status, and
what it was asked for can be completed.

OSP_LONG_TESTS=1 sends each signal at ten times to each command, which takes some minutes; without it at one.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from train_fixture import one_thread, state_hash, timeless, write_recipe
from transformers import LlamaConfig, LlamaForCausalLM

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
TIMES = 10 if os.environ.get("OSP_LONG_TESTS") == "1" else 1
SOON_S = 20  # on a busy machine; a loop that does not ask runs for minutes
LONG = [
    "train",
    "validation",
    "quantize",
    "spinquant",
    "spinquant-kurtosis",
    "quarot",
    "awq",
    "smoothquant",
    "qronos",
    "all",
    "scoring",
    "tokenize",
    "eval",
    "divergence",
    "tax",
    "analyze",
    "score",
]
# These keep nothing, and die by the signal as programs do.
KEEPS_NOTHING = ("eval", "divergence", "tax", "analyze", "score")


@pytest.fixture(scope="module")
def long_calls(tiny_run, train_tokens, repo_root, tmp_path_factory):
    """long_calls(name, out) -> the words of a call that runs for minutes."""
    folder = tmp_path_factory.mktemp("signals")
    recipe = write_recipe(folder / "osp.toml", train_tokens)
    text = folder / "text.txt"
    text.write_text("the dog sees a tree.\na cat hears rain.\n" * 150000)
    model = tiny_run / "model"
    calibration = ["--calibration", text, "--length", "32", "--windows", "20000"]
    many = ["--set", "train.steps=1000000", "--set", "train.checkpoint_every=0"]
    requests = folder / "requests.jsonl"
    requests.write_text(json.dumps({"text": "the dog sees a tree. " * 20}) + "\n")
    with requests.open("a") as file:
        file.write(requests.read_text() * 40000)
    table = {
        "train": ["train", recipe, *many],
        "validation": [
            "train",
            recipe,
            *many,
            "--set",
            "train.sample_every=1",
            "--set",
            "train.sample_tokens=4096",
        ],
        "quantize": ["quantize", model, "--method", "gptq", *calibration],
        "spinquant": ["quantize", model, "--method", "spinquant", "--spin-steps", "100000", *calibration],
        "spinquant-kurtosis": [
            "quantize",
            model,
            "--method",
            "spinquant-kurtosis",
            "--spin-steps",
            "100000",
            *calibration,
        ],
        **{
            name: ["quantize", model, "--method", f"{name}+gptq", *calibration]
            for name in ("quarot", "awq", "smoothquant")
        },
        "qronos": ["quantize", model, "--method", "qronos", *calibration],
        "all": ["quantize", model, "--method", "all", *calibration],
        "scoring": ["quantize", model, "--method", "rtn", "--report", "--data", text, "--data-tokens", "0"],
        "tokenize": [
            "tokenize",
            *[text] * 40,
            "--tokenizer",
            repo_root / "recipes" / "gcide-4096",
            "--threads",
            "1",
        ],
        "eval": ["eval", model, "--data", text],
        "divergence": ["eval", model, "--data", text, "--bits", "4-4-4", "--divergence-from", model],
        "tax": ["eval", model, "--data", text, "--bits", "4-4-4", "--tax", "--data-tokens", "500000"],
        "score": ["score", model, "--requests", requests],
        "analyze": ["analyze", model, "--data", text, "--data-tokens", "0"],
    }

    def words(name, out):
        with_out = name not in (*KEEPS_NOTHING, "scoring")
        return [str(word) for word in table[name] + (["--out", out] if with_out else [])]

    return words


@pytest.fixture
def start():
    """Popen with the signals of a terminal's program, even below nohup; nothing outlives its test."""
    started = []

    def begin(command, **keywords):
        started.append(
            subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGHUP, signal.SIGINT)],
                **keywords,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def wait_for_handlers(process):
    """Until then the program is being loaded, has begun nothing, and a signal ends it as any other."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)


@pytest.mark.parametrize("name", LONG)
def test_every_long_command_leaves_soon_whenever_a_signal_comes(osp_build, long_calls, start, tmp_path, name):
    times = random.Random(f"signals {name}")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for i, sent in enumerate(SIGNALS * TIMES):
        out = tmp_path / f"out-{i}"
        command = [osp_build / "osp", *long_calls(name, out)]
        process = start(command, stdout=subprocess.PIPE, env={**one_thread(), "TMPDIR": str(temporary)})
        if name not in KEEPS_NOTHING:
            wait_for_handlers(process)
        time.sleep(math.exp(times.uniform(math.log(0.02), math.log(5))))  # often within the set-up
        if process.poll() is not None:
            pytest.skip("the work is over before the signal comes: this machine is too fast for it")
        process.send_signal(sent)
        asked = time.monotonic()
        _, rest = process.communicate(timeout=120)
        left_after = time.monotonic() - asked
        assert left_after < SOON_S, f"{name} did not hear {sent.name}"
        if process.returncode == 0 and left_after < 2:
            pytest.skip("the work was done as the signal came: this machine is too fast for it")
        expected = {75, -sent} if name in KEEPS_NOTHING else {75}
        assert process.returncode in expected, (name, sent, process.returncode, rest)
        if process.returncode == 75:
            assert sent.name in rest
        if name not in KEEPS_NOTHING:
            assert not list(temporary.iterdir()), "temporary files stay"


WRITTEN = ["hf", "gguf", "average", "gptq", "awq", "compressed-tensors", "panels"]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_signal_leaves_nothing_of_a_file_or_folder_that_was_being_written(osp_build, start, tmp_path, name):
    """No part of the result, no lock: at any time from the first tensor that is read on."""
    source = tmp_path / "source"
    model = LlamaConfig(vocab_size=64, hidden_size=512, intermediate_size=2048, num_hidden_layers=12,
                        num_attention_heads=8, num_key_value_heads=8)  # fmt: skip
    LlamaForCausalLM(model).save_pretrained(source)
    quantized = tmp_path / "quantized"
    if name in WRITTEN[3:]:
        bits = "4-4-4" if name == "panels" else "4-16-16"
        quantize = ["quantize", source, "--method", "rtn", "--bits", bits, "--out", quantized, "--quiet"]
        subprocess.run([osp_build / "osp", *quantize], check=True)
    words = {
        **{layout: ["export", quantized, "--format", layout] for layout in WRITTEN[3:]},
        "hf": ["export", source, "--format", "hf"],
        "gguf": ["export", source, "--format", "gguf", "--dtype", "q4_k"],
        "average": ["average", source, source],
    }[name]
    times, stopped = random.Random(f"written {name}"), 0
    for i, sent in enumerate(SIGNALS * 2 * TIMES):
        folder = tmp_path / f"out-{i}"
        folder.mkdir()
        process = start([osp_build / "osp", *words, "--out", folder / "result", "--quiet"], env=one_thread())
        wait_for_handlers(process)
        time.sleep(math.exp(times.uniform(math.log(0.005), math.log(1))))
        process.send_signal(sent)
        _, rest = process.communicate(timeout=120)
        left = sorted(path.name for path in folder.iterdir())
        if process.returncode == 0:
            assert left == ["result"]
        else:
            assert process.returncode == 75 and f"stopped by {sent.name} while" in rest, rest
            assert left == []
            stopped += 1
        if left == ["result"]:
            (shutil.rmtree if (folder / "result").is_dir() else os.remove)(folder / "result")
    assert stopped


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_at_any_time_costs_a_run_nothing(osp_build, train_tokens, tiny_run, start, tmp_path, sent):
    times = random.Random(f"run {sent}")
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    run = tmp_path / "run"
    command = [osp_build / "osp", "train", recipe, "--out", run, "--quiet"]
    for attempt in range(100):
        process = start([*command, *(["--resume"] if (run / "lock").exists() else [])], env=one_thread())
        time.sleep(times.uniform(0.05, 0.05 * (attempt + 4)))
        process.send_signal(sent)
        _, rest = process.communicate(timeout=120)
        # Before the handlers stand nothing is begun, and the signal ends the program.
        assert process.returncode in (0, 75, -sent), rest
        if process.returncode == 0:
            break
        if not (run / "recipe.json").exists():
            run = tmp_path / f"run-{attempt}"
            command[4] = run
    assert process.returncode == 0
    subprocess.run([*command, "--resume"], check=True, env=one_thread(), capture_output=True)
    assert state_hash(run, 6) == state_hash(tiny_run, 6)
    assert timeless(run) == timeless(tiny_run)


def test_a_hangup_that_the_caller_ignores_stays_ignored(osp_build, train_tokens, tmp_path):
    """nohup."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    process = subprocess.Popen(
        [osp_build / "osp", "train", recipe, "--out", tmp_path / "run"],
        env=one_thread(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        restore_signals=False,
    )
    for line in process.stderr:
        if line.startswith("step 1"):
            process.send_signal(signal.SIGHUP)
            break
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_scoring_that_was_stopped_goes_on_without_quantizing_again(osp_build, long_calls, tmp_path):
    out = tmp_path / "out"
    command = [str(osp_build / "osp"), *long_calls("scoring", ""), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=one_thread())
    for line in process.stderr:
        if "windows scored" in line or line.startswith("wrote"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 75, rest
    assert "--resume" in rest
    report = (out / "quantize.json").read_bytes()
    short = [word if word != "0" else "320" for word in command]
    again = subprocess.run([*short, "--resume"], capture_output=True, text=True, env=one_thread())
    assert again.returncode == 0 and "blocks had been quantized before" in again.stderr, again.stderr
    assert (out / "quantize.json").read_bytes() == report
    assert os.listdir(tmp_path) == ["out"]
