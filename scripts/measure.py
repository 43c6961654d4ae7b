"""What scripts/measure.sh runs: measurements by name, each to docs/measured/NAME.json."""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure_causes import causes, state_errors
from measure_floats import float_formats, float_methods, float_smollm2
from measure_remedies import remedies, remedies_smollm2
from measuring import ROOT, commit, machine_of, smollm2_file

MEASURED = ROOT / "docs" / "measured"
OSP = os.environ.get("OSP", "build/release/osp")  # a copy can be measured while the project is rebuilt


def run(*words: object, environment: dict | None = None) -> str:
    """Standard output of a command in the repository's folder; its stderr is ours."""
    command = [str(word) for word in words]
    print("measure:", " ".join(command), file=sys.stderr, flush=True)
    result = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if result.returncode != 0:
        sys.exit(f"measure: {' '.join(command)} ended with status {result.returncode}")
    return result.stdout


def run_json(*words: object, environment: dict | None = None) -> dict:
    return json.loads(run(*words, environment=environment).strip().splitlines()[-1])


# ---- measurements --------------------------------------------------------------------------------


def training(model: str) -> Callable:
    def measure(_: argparse.Namespace) -> dict:
        return run_json(OSP, "bench", "train", "--model", model, "--json")

    return measure


def optimizers(_: argparse.Namespace) -> dict:
    return run_json(OSP, "bench", "optim", "--model", "125m", "--json")


# The Muons of PyTorch programs as bench/peers/optim_peer.py names them, with the environment of each.
MUONS = {
    "`osp.optim.Muon`": ("package-muon", {}),
    "the same without `_ops.so`": ("package-muon", {"OSP_ISA": "reference"}),
    "`torch.optim.Muon`": ("torch-muon", {}),
    "its steps on stacks of matrices": ("batched-muon", {}),
}
MATRICES_OF_125M = "50x768x768,24x2048x768,12x768x2048"
ALLOCATORS = {  # the second as the program sets it for itself
    "defaults": {},
    "keep freed memory": {
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
        "MALLOC_TOP_PAD_": "67108864",
    },
}


def python_muon(options: argparse.Namespace) -> dict:
    """A step of the package's Muon, the program's and PyTorch's, in turn; of PyTorch by its faster malloc."""

    def step(name: str, allocator: str) -> dict:
        kind, environment = MUONS[name]
        words = ["bench/peers/optim_peer.py", kind, MATRICES_OF_125M]
        return run_json(sys.executable, *words, environment=environment | ALLOCATORS[allocator])

    def program() -> tuple[dict, dict]:
        found = run_json(OSP, "bench", "optim", "--model", "125m", "--alone", "--json")
        groups = [group for one in found["optimizers"] for group in one["groups"]]
        return next(group for group in groups if group["kind"] == "muon"), machine_of(found)

    trials = {name: {way: step(name, way)["seconds"] for way in ALLOCATORS} for name in MUONS}
    best = {name: min(ways, key=ways.get) for name, ways in trials.items()}
    found: dict[str, list] = {name: [] for name in ("the program", *MUONS)}
    for _ in range(options.rounds):
        group, machine = program()
        found["the program"].append(group)
        for name in MUONS:
            found[name].append(step(name, best[name]))
    rows, package = [], found[next(iter(MUONS))]
    for name, steps in found.items():
        pairs = [one["seconds"] / ours["seconds"] for one, ours in zip(steps, package, strict=True)]
        rows.append(
            [
                name,
                statistics.median(one["seconds"] for one in steps),
                statistics.median(one["cpu_seconds"] for one in steps),
                statistics.median(pairs),
                f"{min(pairs):.2f} to {max(pairs):.2f}",
                best.get(name, "its own"),
            ]
        )
    number = {"align": "right", "format": "{:.2f}"}
    columns = [
        {"title": "Muon"},
        {"title": "a step, s", **number},
        {"title": "CPU, s", **number},
        {"title": "of the package's time", **number},
        {"title": "in each round"},
        {"title": "malloc"},
    ]
    return {"columns": columns, "rows": rows, "trials": trials, "matrices": MATRICES_OF_125M, **machine}


def ranks(options: argparse.Namespace) -> dict:
    """Needs root for limited networks."""
    return run_json(OSP, "bench", "ranks", "--model", "demo", "--repetitions", options.rounds + 1, "--json")


def plain_folder(scratch: Path) -> Path:
    """SmolLM2 as a plain model folder."""
    plain = scratch / "smollm2"
    run(OSP, "export", smollm2_file(), "--format", "hf", "--out", plain, "--quiet")
    return plain


CALIBRATED = [
    "--profile",
    "best",
    "--activation-group",
    0,
    "--calibration",
    "docs/numerics.md",
    "--windows",
    16,
    "--length",
    512,
]
# The folders that are timed, by words for `osp quantize`.
ENGINE_FOLDERS = {
    "W4A4KV4": ["--bits", "4-4-4", "--method", "quarot+gptq", *CALIBRATED],
    "W4A8KV4": ["--bits", "4-8-4", "--method", "quarot+gptq", *CALIBRATED],
    "W4A16KV16": ["--bits", "4-16-16", "--method", "gptq", *CALIBRATED, "--group", 64, "--asymmetric"],
    "W8A8KV8": ["--bits", "8-8-8", "--method", "rtn"],
}


def engine_folders(scratch: Path) -> dict:
    """Panels of SmolLM2 by their bits."""
    model = smollm2_file()
    folders = {}
    for name, words in ENGINE_FOLDERS.items():
        run(OSP, "quantize", model, *words, "--out", scratch / name, "--quiet")
        panels = scratch / (name + "-panels")
        run(OSP, "export", scratch / name, "--format", "panels", "--out", panels, "--quiet")
        folders[name] = panels
    return folders


def quality(models: dict) -> list:
    """Perplexity and bits per byte of each on README.md."""
    rows = []
    for name, model in models.items():
        found = run_json(OSP, "eval", model, "--data", "README.md", "--json", "--quiet")["results"][0]
        rows.append([name, found["tokens"], found["perplexity"], found["bits_per_byte"]])
    return rows


PEER = "bench/peers/run_peer.py"
# glibc asks for huge pages, as osp does for its own large blocks.
PEER_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
NO_FLASH = ["--no-flash-attention", "--prefill", "512,2048", "--depths", "512,2048"]


def llama_peers(options: argparse.Namespace, half: Path, scratch: Path) -> dict:
    """llama.cpp and OpenVINO, from the GGUF file that osp writes."""
    file = scratch / "q4_0.gguf"
    run(options.peers, PEER, half, "--quantize", "Q4_0", "--out", file)
    return {
        "llama.cpp": ([options.peers, PEER, file, "--sequences", "4,8"], {}),
        "llama.cpp, no flash attention": ([options.peers, PEER, file, *NO_FLASH], {}),
        "OpenVINO": ([options.peers, PEER, "--engine", "openvino", file], {}),
    }


def ik_peers(options: argparse.Namespace, half: Path, scratch: Path) -> dict:
    """ik_llama.cpp, from what its own quantizer makes of that file."""
    find = "from importlib.util import find_spec as f; print(f('ik_llama_cpp').origin)"
    package = Path(run(options.ik, "-c", find).strip()).parent
    libraries = {"LD_LIBRARY_PATH": f"{package}/lib"}
    file = scratch / "ik-q4_0.gguf"
    run(f"{package}/bin/llama-quantize", half, file, "Q4_0", environment=libraries)
    words = [options.ik, PEER, "--engine", "ik_llama_cpp", file, "--merge-qkv"]
    return {
        "ik_llama.cpp": (words, libraries),
        "ik_llama.cpp, no flash attention": ([*words, *NO_FLASH], libraries),
    }


def onnxruntime_peers(options: argparse.Namespace, scratch: Path) -> dict:
    """ONNX Runtime GenAI, from what its builder makes of the plain folder that osp writes."""
    plain, built = plain_folder(scratch), scratch / "onnx"
    run(options.onnxruntime, "-m", "onnxruntime_genai.models.builder", "-i", plain, "-o", built, "-e", "cpu",
        "-p", "int4", "-c", scratch,
        "--extra_options", "int4_accuracy_level=4", "int4_block_size=32", "prune_lm_head=true")  # fmt: skip
    return {"ONNX Runtime": ([options.onnxruntime, PEER, "--engine", "onnxruntime", built], {})}


def engine(options: argparse.Namespace) -> dict:
    """osp's folders and the peers in turn, with one and two threads."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        half = scratch / "f16.gguf"
        run(OSP, "export", smollm2_file(), "--format", "gguf", "--dtype", "f16", "--out", half, "--quiet")
        peers = llama_peers(options, half, scratch) if options.peers else {}
        peers |= ik_peers(options, half, scratch) if options.ik else {}
        peers |= onnxruntime_peers(options, scratch) if options.onnxruntime else {}
        folders = engine_folders(scratch)
        models = {"16 bits": smollm2_file(), **{f"osp {name}": folder for name, folder in folders.items()}}
        if (scratch / "q4_0.gguf").exists():
            models["llama.cpp's Q4_0, its weights alone, run by osp"] = scratch / "q4_0.gguf"
        measured = quality(models)
        for number in range(options.rounds):
            for threads in (1, 2):
                row = {"round": number + 1, "threads": threads, "sides": {}}
                for name, folder in folders.items():
                    row["sides"][f"osp {name}"] = run_json(
                        OSP, "bench", "run", folder, "--threads", threads, "--sequences", "4,8", "--json"
                    )
                for name, (words, more) in peers.items():
                    row["sides"][name] = run_json(
                        *words, "--threads", threads, environment={**PEER_ENVIRONMENT, **more}
                    )
                rows.append(row)
    return {"rounds": rows, "quality": measured}


# Ways to run the demo's models with few bits: words for `osp quantize`.
FEW_BITS = {
    "W4A4KV4, rtn": ["--method", "rtn", "--bits", "4-4-4"],
    "W4A4KV4, quarot+gptq": ["--method", "quarot+gptq", "--bits", "4-4-4", "--calibration", "TOKENS"],
    "W4A8KV4, rtn": ["--method", "rtn", "--bits", "4-8-4"],
}


def engine_quality(_: argparse.Namespace) -> dict:
    """Perplexity and bits per byte of the demo's models in integers, beside 16 bits and Q4_0."""
    tokens = ROOT / "runs" / "demo" / "tokens"
    rows, machine = [], {}
    for title, name in (("OSP", "osp-1"), ("Adam", "adam-1")):
        model = ROOT / "runs" / "demo" / name / "model"
        if not (model / "config.json").exists():
            sys.exit("measure: engine-quality needs the demo's models: run scripts/demo.sh first")
        with tempfile.TemporaryDirectory() as temporary:
            half = Path(temporary) / "q4_0.gguf"
            run(OSP, "export", model, "--format", "gguf", "--dtype", "q4_0", "--out", half, "--quiet")
            ways = {"16 bits": model, "Q4_0, its weights alone": half}
            for way, words in FEW_BITS.items():
                ways[way] = Path(temporary) / way.replace(", ", "-")
                words = [str(tokens) if word == "TOKENS" else word for word in words]
                run(OSP, "quantize", model, *words, "--out", ways[way], "--quiet")
            for way, file in ways.items():
                found = run_json(OSP, "eval", file, "--data", tokens, "--json", "--quiet")
                one = found["results"][0]
                rows.append([title, way, one["perplexity"], one["bits_per_byte"]])
                machine = machine_of(found)
    columns = [
        {"title": "model"},
        {"title": "numbers"},
        {"title": "perplexity", "align": "right", "format": "{:.2f}"},
        {"title": "bits per byte", "align": "right", "format": "{:.3f}"},
    ]
    return {"columns": columns, "rows": rows, **machine}


TASKS = ("arc_easy,arc_challenge,commonsense_qa,hellaswag,mmlu,openbookqa,piqa,siqa,winogrande,"
         "trivia_qa,gsm8k")  # fmt: skip


def benchmarks(options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        plain = plain_folder(Path(temporary))
        result = run_json(OSP, "bench", "eval", plain, "--data", options.benchmarks, "--tasks", TASKS,
                          "--limit", 24, "--repetitions", options.rounds, "--json")  # fmt: skip
    return {**result, "model": "SmolLM2-135M-Instruct"}


def gptq(options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        plain = plain_folder(Path(temporary))
        result = run_json(OSP, "bench", "quantize", plain, "--calibration", options.calibration,
                          "--python", options.gptqmodel, "--repetitions", options.rounds,
                          "--json")  # fmt: skip
    return {**result, "model": "SmolLM2-135M-Instruct"}


# The recipes that validate on the most tokens beside those that they train on.
WATCHED = ["recipes/demo-adam.toml", "recipes/demo-osp.toml"]


def watching(options: argparse.Namespace) -> dict:
    """CPU seconds of a validation with and without what is watched, and of the training between two."""
    program = "build/release/kurtosis_microbench"
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    words = [program, max(options.rounds, 3), 20, *WATCHED]
    result = run_json(*words, environment=environment)
    return {**result, "command": " ".join(map(str, words)), "environment": environment}


# Recipes whose three steps fit anywhere, each with a number of ranks.
PLANNED = [
    *((name, 1) for name in ("demo-osp", "demo-adam", "demo-7m-osp", "demo-7m-adam", "demo-long-osp",
                             "demo-long-adam", "ablation/adafactor", "ablation/muon-ssnorm")),
    *((name, 2) for name in ("demo-osp", "demo-adam", "demo-7m-osp", "demo-7m-adam")),
]  # fmt: skip
PLANNED_SETTINGS = {
    "data.path": "runs/demo/tokens",
    "train.steps": 3,
    "schedule.warmup_steps": 1,
    "train.checkpoint_every": 2,
}


def peak_of(words: list[str]) -> int:
    """Most bytes of memory that a command, or one of the processes that it starts, has held."""
    print("measure:", " ".join(words), file=sys.stderr, flush=True)
    with open(os.devnull, "w") as nowhere:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "python")}
        process = subprocess.Popen(words, cwd=ROOT, stdout=nowhere, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"measure: {' '.join(words)} ended with status {process.returncode}")
    return usage.ru_maxrss * 1024


def planned_memory(_: argparse.Namespace) -> dict:
    """The estimate of a dry run beside the peak of a process in three steps that save a checkpoint."""
    rows, machine = [], {}
    for name, ranks in PLANNED:
        settings = {**PLANNED_SETTINGS, "train.reduction_groups": ranks}
        words = ["train", f"recipes/{name}.toml", "--ranks", str(ranks), "--quiet"]
        for key, value in settings.items():
            words += ["--set", f"{key}={value}"]
        described = run_json(OSP, *words, "--dry-run", "--json")
        # Several ranks are processes of Python.
        program = [OSP] if ranks == 1 else [sys.executable, "-m", "osp"]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "run"
            peak = peak_of([*program, *words, "--out", str(folder)])
            with open(folder / "metrics.jsonl") as log:
                start = json.loads(log.readline())
        machine = machine_of(start)
        estimate = described["memory_bytes"]
        saved, total = estimate["snapshot"] / 1e6, estimate["total"] / 1e6
        rows.append([f"`recipes/{name}.toml`", ranks, total, saved, peak / 1e6, 1e6 * total / peak])
    number = {"align": "right", "format": "{:,.0f}"}
    columns = [
        {"title": "recipe"},
        {"title": "ranks", "align": "right", "format": "{}"},
        {"title": "estimate, MB", **number},
        {"title": "of it a save, MB", **number},
        {"title": "peak of a process, MB", **number},
        {"title": "ratio", "align": "right", "format": "{:.2f}"},
    ]
    return {"columns": columns, "rows": rows, "settings": PLANNED_SETTINGS, **machine}


# What a measurement cannot do without, by its option.
NEEDS = {
    "eval": ("benchmarks", "the folder with the benchmarks' files"),
    "remedies-smollm2": ("text", "the text that SmolLM2 is measured on, such as WikiText-2's test split"),
    "float-smollm2": ("text", "the text that SmolLM2 is measured on"),
    "quantize": ("gptqmodel", "the interpreter of the environment with GPTQModel"),
}
MEASUREMENTS: dict[str, tuple[str, Callable]] = {
    "train-demo": ("a training step of 7M parameters beside PyTorch", training("demo")),
    "train-50m": ("the same with 50M", training("50m")),
    "train-125m": ("the same with 125M", training("125m")),
    "optim-125m": ("a step of every optimizer on 125M parameters beside PyTorch's", optimizers),
    "python-muon": ("a step of osp.optim.Muon beside PyTorch's Muon, 125M", python_muon),
    "ranks": ("two ranks that train the demo's model beside PyTorch's; limited networks need root", ranks),
    "engine": ("SmolLM2 quantized, in integers, beside the peers whose environments are given", engine),
    "engine-quality": ("what few bits cost the demo's models on the integer engine", engine_quality),
    "float-formats": (
        "the demo's models in MXFP4, NVFP4 and INT4, and their outlier tax",
        lambda _: float_formats(run_json, OSP),
    ),
    "float-methods": (
        "what the methods leave in MXFP4 and NVFP4, on the demo's models and the race's longest runs",
        lambda _: float_methods(run_json, OSP),
    ),
    "float-smollm2": (
        "SmolLM2 in MXFP4 and NVFP4 by the same methods, and its outlier tax",
        lambda options: float_smollm2(options, run_json, OSP),
    ),
    "causes": (
        "what 4 bits cost, by cause: the demo's models and SmolLM2, or the files of --witness",
        lambda options: causes(options, run_json, OSP),
    ),
    "state-errors": (
        "the relative error of the last state of the demo's models and the race's",
        lambda options: state_errors(options, run_json, OSP),
    ),
    "remedies": (
        "what lowers the damage of 4 bits without a rotation, on the demo's models; trains 12 more",
        lambda options: remedies(options, run, run_json, OSP),
    ),
    "remedies-smollm2": (
        "the same for SmolLM2",
        lambda options: remedies_smollm2(options, run_json, OSP),
    ),
    "memory": ("the memory that a dry run estimates beside the peak of twelve runs", planned_memory),
    "watching": ("what watching outliers costs during training", watching),
    "eval": ("benchmarks of SmolLM2 beside lm-eval on transformers", benchmarks),
    "quantize": ("GPTQ of SmolLM2 beside GPTQModel in bf16 and in fp32, 128 windows; over an hour", gptq),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/measure.sh")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--ik", metavar="PYTHON")
    parser.add_argument("--onnxruntime", metavar="PYTHON")
    parser.add_argument("--benchmarks", metavar="FOLDER")
    parser.add_argument("--gptqmodel", metavar="PYTHON")
    parser.add_argument("--calibration", metavar="PATH")
    parser.add_argument("--text", metavar="PATH")
    parser.add_argument("--witness", metavar="NAME=FILE", action="append")
    parser.add_argument("--witness-tokens", type=int, default=4096)
    parser.add_argument("--witness-attribution", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.list:
        for name, (text, _) in MEASUREMENTS.items():
            print(f"{name:<19} {text}")
        return
    for name in options.names:
        if name not in MEASUREMENTS:
            parser.error(f"{name} is no measurement; --list names them")
    names = options.names or list(MEASUREMENTS)
    if options.gptqmodel and not options.calibration:
        parser.error("--gptqmodel needs --calibration: text, JSON lines or Parquet for GPTQ's windows")
    if options.text and not options.calibration:
        parser.error("--text needs --calibration: text, JSON lines or Parquet for calibration windows")
    for name, (option, what) in NEEDS.items():
        if name in names and not getattr(options, option):
            if options.names:
                parser.error(f"{name} needs --{option}, {what}")
            names.remove(name)
            print(f"measure: without --{option}, {what}, {name} is left out", file=sys.stderr)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"measure: the machine is busy (load {load:.1f}); figures will be lower", file=sys.stderr)
    MEASURED.mkdir(exist_ok=True)
    for name in names:
        header = {
            "measurement": name,
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "load_average": os.getloadavg()[0],
        }
        result = MEASUREMENTS[name][1](options)
        text = json.dumps({**header, "result": result}, indent=1)
        for secret in (str(ROOT) + "/", str(Path.home()) + "/"):
            text = text.replace(secret, "")
        (MEASURED / f"{name}.json").write_text(text + "\n")
        print(f"measure: wrote docs/measured/{name}.json", file=sys.stderr)
    run(sys.executable, "scripts/measured_tables.py")


if __name__ == "__main__":
    main()
