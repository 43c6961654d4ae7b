"""`osp bench eval` and `osp bench quantize` beside a peer of this file, whose speed depends on its settings
alone: the fastest of them is found, and both sides do the same work. And the script that times the peers of
`osp bench run`, on a module of known speed."""

import json
import os
import subprocess
import sys

import pytest
from reference_llama import Shape, random_weights, write_model_dir
from small_tokenizers import letter_tokenizer

SHAPE = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=96, layers=1, context=64)

# Fast with threads bound to cores; osp's own wait policy must not reach it. Keeps what it was called with.
PEER = """
import json, os, sys
bound = os.environ.get("OMP_PROC_BIND") == "true" and "OMP_WAIT_POLICY" not in os.environ
bound = bound and os.environ["MALLOC_TOP_PAD_"] == "67108864"
seconds = 1.0 if bound else 2.0
file = sys.argv[3] if sys.argv[1] == "quantize" else sys.argv[2]
text = open(file).read()
with open({log!r}, "a") as log:
    log.write(json.dumps(text) + "\\n")
if sys.argv[1] == "quantize":
    print(json.dumps({{"seconds": seconds, "peak_memory_bytes": 2, "versions": {{"gptqmodel": "0"}}}}))
else:
    tasks = {{}}
    for line in map(json.loads, text.splitlines()):
        task = tasks.setdefault(line["task"], {{"items": 0, "seconds": seconds, "batch_size": 1}})
        task["items"] += 1
    print(json.dumps({{"tasks": tasks, "versions": {{"lm_eval": "1"}}}}))
"""


@pytest.fixture
def place(tmp_path):
    """A model, a benchmark of 14 items, a text, and the peer with its log."""
    write_model_dir(tmp_path / "model", SHAPE, random_weights(SHAPE))
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    (tmp_path / "piqa").mkdir()
    item = {"goal": "some", "sol1": "letters", "sol2": "more", "label": 1}
    (tmp_path / "piqa" / "validation.jsonl").write_text("".join(json.dumps(item) + "\n" for _ in range(14)))
    (tmp_path / "text.txt").write_text("some letters to quantize with " * 400)
    (tmp_path / "peer.py").write_text(PEER.format(log=str(tmp_path / "log")))
    return tmp_path


def bench(run_program, place, *words):
    peer = ["--python", sys.executable, "--peer", place / "peer.py"]
    result = json.loads(run_program(["osp", "bench", *words, *peer, "--json", "--quiet"]).stdout)
    calls = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    return result, calls


def check_trials(settings, trials, unit):
    rates = {trial["settings"]: trial[unit] for trial in trials}
    assert len(rates) >= 4 and settings == "keep freed memory, threads bound to cores"
    assert all(rates[settings] == 2 * rate for name, rate in rates.items() if name != settings)


def test_eval_takes_the_fastest_settings_and_the_same_items(run_program, place):
    words = ["eval", place / "model", "--data", place, "--tasks", "piqa", "--repetitions", 2]
    result, calls = bench(run_program, place, *words)
    check_trials(result["peer_settings"], result["peer_trials"], "items_per_s")
    # Trials on the same ten items, then both repetitions on all.
    trials = len(result["peer_trials"])
    assert [len(call.splitlines()) for call in calls] == [10] * trials + [14] * 2
    assert len(set(calls[:trials])) == 1
    assert result["tasks"]["piqa"]["items"] == 14 and result["tasks"]["piqa"]["peer_items_per_s"] == 14
    assert result["instruction_set"] and result["load_average"] >= 0
    assert result["peer_versions"] == {"lm_eval": "1"}
    cpu, wall = result["processes"]["cpu_seconds"], result["processes"]["wall_seconds"]
    assert min(cpu["peer"], wall["osp"], wall["ratio"]) > 0


def test_quantize_takes_the_fastest_settings_and_the_first_windows(run_program, place):
    words = [
        "quantize",
        place / "model",
        "--calibration",
        place / "text.txt",
        "--windows",
        32,
        "--length",
        16,
    ]
    words += ["--calibration-type", "fp32", "--repetitions", 2]
    result, calls = bench(run_program, place, *words)
    (compared,) = result["comparisons"]
    check_trials(compared["peer_settings"], compared["peer_trials"], "windows_per_s")
    windows = [json.loads(call)["windows"] for call in calls]
    trials = len(compared["peer_trials"])
    assert [len(each) for each in windows] == [2] * trials + [32] * 2
    assert all(each == windows[-1][:2] for each in windows[:trials])
    assert len(windows[-1][0]) == 16 and [peer["seconds"] for peer in compared["peers"]] == [1, 1]
    assert [run["windows"] for run in compared["runs"]] == [8, 16, 32, 32]
    assert all(run["process_cpu_seconds"] > 0 for run in compared["runs"])
    assert len(compared["ratios"]) == 2 and compared["cpu_ratio"] > 0


LLAMA_CPP = """
import time

__version__ = "7"
GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 = range(3)


class Llama:
    def __init__(self, model, **settings):
        assert settings["n_threads"] == settings["n_threads_batch"] == 2 and settings["flash_attn"]
        self.length = 0

    def n_vocab(self):
        return 100

    def reset(self):
        self.length = 0

    def eval(self, tokens):
        self.length += len(tokens)
        assert all(0 <= token < 100 for token in tokens)
        time.sleep(0.002 * len(tokens) if len(tokens) > 1 else 0.01)
"""


def test_the_peer_of_the_engine_times_the_work_and_says_how(repo_root, tmp_path):
    """Against a module that reads 500 tokens a second and decodes 100."""
    (tmp_path / "llama_cpp.py").write_text(LLAMA_CPP)
    options = ["--threads", "2", "--prefill", "50", "--depths", "0,20", "--decode-tokens", "5"]
    result = subprocess.run(
        [sys.executable, repo_root / "bench/peers/run_peer.py", "a.gguf", *options, "--cache", "q8_0"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.stdout)
    # A sleep is never shorter than asked for; how much longer it is depends on the machine's work.
    assert 100 < found["prefill"]["50"] <= 500
    assert all(20 < rate <= 100 for rate in found["decode"].values()) and set(found["decode"]) == {"0", "20"}
    assert (found["version"], found["cache"], found["flash_attention"]) == ("7", "q8_0", True)
    assert found["threads"] == 2 and found["peak_memory_bytes"] > 0
    assert found["command"] == f"run_peer.py a.gguf {' '.join(options)} --cache q8_0"


IK_LLAMA_CPP = {
    "__init__": """
import json, os, time
from pathlib import Path
from . import _ctypes_api, llama

__version__ = "5"


class Context:
    def decode(self, batch):
        time.sleep(0.001)
        return 0

    def kv_cache_clear(self):
        pass


class IkLlama:
    def __init__(self, model, n_ctx, n_threads, flash_attn, verbose):
        settings, cache = _ctypes_api.llama_model_default_params(), _ctypes_api.llama_context_default_params()
        flash = flash_attn and llama._cpu_has_avx_vnni()
        seen = [settings.repack_tensors, cache.type_k, cache.type_v, flash]
        Path(os.environ["SEEN"]).write_text(json.dumps(seen))
        self._context = Context()
""",
    "_ctypes_api": """
from types import SimpleNamespace


def llama_model_default_params():
    return SimpleNamespace(repack_tensors=False)


def llama_context_default_params():
    return SimpleNamespace(type_k=1, type_v=1)


def llama_batch_free(batch):
    pass
""",
    "_internals": "def make_batch_range(part, pos_start, logits_last):\n    return part\n",
    "llama": "def _cpu_has_avx_vnni():\n    return False\n",
}


@pytest.mark.parametrize(
    "options, seen",
    [
        ([], [True, 1, 1, True]),
        (["--no-repack", "--cache", "q8_0"], [False, 8, 8, True]),
        (["--no-flash-attention"], [True, 1, 1, False]),
    ],
)
def test_ik_is_run_with_the_engines_best_settings(options, seen, repo_root, tmp_path):
    """Its package repacks nothing and turns flash attention off where it sees no AVX-VNNI."""
    (tmp_path / "ik_llama_cpp").mkdir()
    for name, text in IK_LLAMA_CPP.items():
        (tmp_path / "ik_llama_cpp" / f"{name}.py").write_text(text)
    words = ["--engine", "ik_llama_cpp", "a.gguf", "--prefill", "8", "--depths", "0", "--decode-tokens", "2"]
    result = subprocess.run(
        [sys.executable, repo_root / "bench/peers/run_peer.py", *words, *options],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "seen.json")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads((tmp_path / "seen.json").read_text()) == seen
    found = json.loads(result.stdout)
    assert (found["repacked"], found["flash_attention"]) == (seen[0], seen[3])
