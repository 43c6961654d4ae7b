"""The kind of fault: what a command prints cannot be written. A stderr that fails (a closed pipe, /dev/full,
a log on a disk that is full, no stderr at all) changes nothing; results that stdout does not take are exit 5.
Every command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest
from train_fixture import checkpoints, one_thread, state_hash, timeless, write_recipe

COMMANDS = [
    "train",
    "train-dry",
    "plan",
    "tokenize",
    "tokenize-stdin",
    "quantize",
    "quantize-table",
    "quantize-all",
    "eval",
    "eval-tasks",
    "analyze",
    "generate",
    "score",
    "export-hf",
    "export-gguf",
    "export-gptq",
    "export-panels",
    "average",
    "report",
    "bench-train",
    "bench-optim",
    "bench-eval",
    "bench-quantize",
    "bench-run",
    "bench-ranks",
    "help",
    "interface",
    "version",
]


# A peer of `osp bench eval` that has answered every item at once.
PEER = """
import json, sys
tasks = {}
for line in open(sys.argv[2]):
    task = tasks.setdefault(json.loads(line)["task"], {"items": 0, "seconds": 1.0, "batch_size": 1})
    task["items"] += 1
print(json.dumps({"tasks": tasks, "versions": {}}))
"""


@pytest.fixture
def arguments(tiny_run, tiny_quantized, serve_folder, questions, train_tokens, repo_root, tmp_path):
    """arguments(name) -> (words, stdin) of a call that ends in a second or two."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    text = tmp_path / "text.txt"
    text.write_text("the dog sees a tree.\n" * 400)
    model = tiny_run / "model"
    tokenizer = repo_root / "recipes" / "gcide-4096"
    (tmp_path / "peer.py").write_text(PEER)
    data = ["--data", text, "--data-tokens", 256]
    calibration = ["--calibration", text, "--windows", 4, "--length", 16]
    once = ["--repetitions", 1]
    table = {
        "train": ["train", recipe, "--out", tmp_path / "run"],
        "train-dry": ["train", recipe, "--dry-run"],
        "tokenize": ["tokenize", text, "--tokenizer", tokenizer, "--out", tmp_path / "tokens"],
        "tokenize-stdin": ["tokenize", "--stdin", "--tokenizer", tokenizer],
        "plan": ["plan", recipe, "--devices", 4, "--bandwidth", "1GB/s", "--flops", "1TFLOP/s", "--json"],
        "quantize": ["quantize", model, "--method", "rtn", "--out", tmp_path / "q", "--json"],
        "quantize-table": ["quantize", model, "--method", "rtn", "--report", *data],
        "quantize-all": [
            *["quantize", model, "--method", "all", "--spin-steps", 1, *calibration],
            *["--out", tmp_path / "all", "--report", *data],
        ],
        "eval": ["eval", model, *data],
        "eval-tasks": ["eval", model, "--tasks", "arc_easy", "--data", questions],
        "analyze": ["analyze", model, *data],
        "generate": ["generate", model, "--prompt", "the dog", "--max-tokens", 4],
        "score": ["score", model],
        "average": [
            "average",
            tiny_run / "step-4",
            tiny_run / "step-6",
            "--out",
            tmp_path / "mean",
            "--json",
        ],
        "export-hf": ["export", model, "--format", "hf", "--out", tmp_path / "hf", "--json"],
        "export-gguf": ["export", model, "--format", "gguf", "--out", tmp_path / "m.gguf", "--json"],
        "export-gptq": ["export", tiny_quantized, "--format", "gptq", "--out", tmp_path / "g", "--json"],
        "export-panels": ["export", tiny_quantized, "--format", "panels", "--out", tmp_path / "p", "--json"],
        "report": ["report", tiny_run, "--out", tmp_path / "r.html"],
        "bench-train": ["bench", "train", "--alone", "--model", "demo", "--steps", 1],
        "bench-optim": ["bench", "optim", "--alone", "--model", "demo", "--steps", 1],
        "bench-eval": [
            *["bench", "eval", model, "--data", questions, "--tasks", "arc_easy", *once],
            *["--python", sys.executable, "--peer", tmp_path / "peer.py"],
        ],
        "bench-quantize": [
            *["bench", "quantize", model, "--alone", *calibration, *once, "--calibration-type", "fp32"]
        ],
        "bench-run": [
            *["bench", "run", serve_folder, "--prefill", 8, "--depths", 0, "--sequences", 1],
            *["--decode-tokens", 2, *once],
        ],
        "bench-ranks": [
            *["bench", "ranks", "--alone", "--model", "demo", "--steps", 1],
            *["--batch-tokens", 512],
        ],
        "help": ["--help"],
        "interface": ["--interface"],
        "version": ["--version"],
    }
    inputs = {
        "tokenize-stdin": '"the dog"\n' * 9,
        "score": json.dumps({"context": "a", "continuation": " b"}) + "\n",
    }
    return lambda name: ([str(word) for word in table[name]], inputs.get(name, ""))


def call(osp_build, arguments, name, **streams):
    words, stdin = arguments(name)
    streams.setdefault("stdout", subprocess.PIPE)
    streams.setdefault("stderr", subprocess.PIPE)
    return subprocess.run(
        [osp_build / "osp", *words], input=stdin, text=True, env=one_thread(), timeout=240, **streams
    )


def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("target", ["full", "pipe"])
def test_a_stderr_that_fails_changes_nothing(osp_build, arguments, name, target):
    stream = os.open("/dev/full", os.O_WRONLY) if target == "full" else closed_pipe()
    result = call(osp_build, arguments, name, stderr=stream)
    os.close(stream)
    assert result.returncode == 0
    # `osp export` says with --json alone what it wrote.
    assert result.stdout


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("target", ["full", "pipe"])
def test_results_that_stdout_does_not_take_are_exit_5(osp_build, arguments, name, target):
    stream = os.open("/dev/full", os.O_WRONLY) if target == "full" else closed_pipe()
    result = call(osp_build, arguments, name, stdout=stream)
    os.close(stream)
    assert result.returncode == 5, result.stderr
    assert "error: stdout: cannot write the result" in result.stderr


def first_line_of(process):
    """Of the result on stdout, which says where the server is."""
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    return json.loads(line)


@pytest.fixture
def server(osp_build, tiny_run, serve_folder):
    """server(name, **streams) starts what ends by a signal alone."""
    started = []
    words = {
        "serve": ["serve", serve_folder, "--port", 0, "--json"],
        "report-watch": ["report", tiny_run, "--watch", "--json"],
    }

    def start(name, **streams):
        command = [str(word) for word in [osp_build / "osp", *words[name]]]
        started.append(subprocess.Popen(command, text=True, env=one_thread(), **streams))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


SERVERS = {"serve": "v1/models", "report-watch": ""}


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("target", ["full", "pipe"])
def test_a_server_whose_stderr_fails_serves_until_the_signal(server, name, target):
    stream = os.open("/dev/full", os.O_WRONLY) if target == "full" else closed_pipe()
    process = server(name, stdout=subprocess.PIPE, stderr=stream)
    os.close(stream)
    url = first_line_of(process)["url"]
    assert urllib.request.urlopen(url + SERVERS[name], timeout=30).status == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("target", ["full", "pipe"])
def test_a_server_whose_address_stdout_does_not_take_ends_with_5(server, name, target):
    stream = os.open("/dev/full", os.O_WRONLY) if target == "full" else closed_pipe()
    process = server(name, stdout=stream, stderr=subprocess.PIPE)
    os.close(stream)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5, said
    assert "error: stdout: cannot write the result" in said


def test_an_error_is_its_status_also_where_nobody_hears_it(osp_build, tmp_path):
    for stream in (os.open("/dev/full", os.O_WRONLY), closed_pipe()):
        result = subprocess.run([osp_build / "osp", "train", tmp_path / "none.toml"], stderr=stream)
        os.close(stream)
        assert result.returncode == 5 or result.returncode == 2


def test_closed_streams_do_not_mix_what_is_printed_into_files(osp_build, train_tokens, tmp_path):
    """A file that is opened first would get the number of a closed stderr and, with it, what is printed."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    command = f"{osp_build}/osp train {recipe} --out {tmp_path}/run"
    assert subprocess.run(f"{command} 2>&- >/dev/null <&-", shell=True, env=one_thread()).returncode == 0
    assert timeless(tmp_path / "run")[-1]["kind"] == "end"
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"tokens/s  mfu" not in path.read_bytes(), path
    again = f"{osp_build}/osp train {recipe} --out {tmp_path}/run --resume >&-"
    assert subprocess.run(again, shell=True, env=one_thread(), stderr=subprocess.PIPE).returncode == 5


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(size) mounts a file system of so many bytes, or resizes it -> its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size):
        option = f"size={size},{'remount' if mounted else 'mode=0755'}"
        result = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", option, "tmpfs", folder], capture_output=True, text=True
        )
        if result.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
        mounted.append(size)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", folder], check=True)


def undisturbed(osp_build, recipe, run):
    subprocess.run(
        [osp_build / "osp", "train", recipe, "--out", run, "--quiet"], check=True, env=one_thread()
    )
    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_full_disk_that_log_and_run_share_is_exit_5_and_the_run_goes_on_later(
    osp_build, train_tokens, small_disk, tmp_path, precision
):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens, precision=precision)
    whole = undisturbed(osp_build, recipe, tmp_path / "whole")
    one = sum(path.stat().st_size for path in (whole / "step-6").iterdir())
    disk = small_disk(one + one // 2)  # one checkpoint, and not two
    command = [osp_build / "osp", "train", recipe, "--out", disk / "run"]
    with open(disk / "log", "w") as log:
        log.write("x" * 4096)
        result = subprocess.run(command, stderr=log, stdout=log, env=one_thread(), timeout=120)
    assert result.returncode == 5
    assert checkpoints(disk / "run") == [2]
    small_disk(20 * one)
    resumed = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, env=one_thread(), timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
    assert state_hash(disk / "run", 6) == state_hash(whole, 6)
    assert timeless(disk / "run") == timeless(whole)
    shutil.rmtree(disk / "run")
