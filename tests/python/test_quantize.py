"""`osp quantize` on a small model: the written folder against transformers and compressed-tensors, its codes
against quantize_reference.py, and what the command says and refuses."""

import json
import math
import resource
import signal
import subprocess
import sys
from random import Random

import pytest
import torch
from quantize_reference import round_to_nearest
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file, save_file
from small_tokenizers import letter_tokenizer


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A plain Llama with a word-level alphabet of 101 tokens, and shards would be too much: a text file."""
    folder = tmp_path_factory.mktemp("model")
    shape = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=128, layers=2, context=32)
    write_model_dir(folder / "model", shape, random_weights(shape))
    alphabet = [chr(33 + i) for i in range(94)]
    (folder / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 94, (4000,), generator=generator).tolist()
    (folder / "text.txt").write_text("".join(alphabet[i] for i in ids))
    return folder


@pytest.fixture(scope="module")
def quantize(run_program, small_model):
    def run(*arguments, check=True):
        return run_program(["osp", "quantize", small_model / "model", "--calibration",
                            small_model / "text.txt", "--windows", 8, *arguments], check=check)  # fmt: skip

    return run


@pytest.fixture(scope="module")
def best_folder(quantize, small_model):
    quantize("--method", "gptq", "--profile", "best", "--out", small_model / "best", "--quiet")
    return small_model / "best"


def dequantized(folder):
    """Weights of all packed layers, unpacked here by hand (4 bits, symmetric)."""
    tensors = load_file(folder / "model.safetensors")
    weights = {}
    for name in [n[: -len("_packed")] for n in tensors if n.endswith("_packed")]:
        words, scale = tensors[name + "_packed"], tensors[name + "_scale"].float()
        nibbles = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], -1).flatten(1)
        out, columns = tensors[name + "_shape"].tolist()
        codes = nibbles[:, :columns].float() - 8
        weights[name] = (codes.reshape(out, scale.shape[1], -1) * scale[:, :, None]).reshape(out, columns)
    return weights


def test_transformers_loads_the_folder_with_our_weights(best_folder, quantize, small_model):
    compressed = pytest.importorskip(
        "compressed_tensors", reason="the package compressed-tensors is not installed"
    )
    from transformers import AutoModelForCausalLM

    assert compressed is not None
    # Logits are compared in test_quantized_folders.py, where a quantized cache is refused.
    loadable = small_model / "loadable"
    quantize("--method", "gptq", "--profile", "best", "--bits", "4-4-16", "--out", loadable, "--quiet")
    model = AutoModelForCausalLM.from_pretrained(loadable, dtype=torch.float32)
    with torch.no_grad():
        model(torch.arange(20).reshape(1, 20))  # the first pass unpacks the weights
    weights = dequantized(loadable)
    assert len(weights) == 14
    loaded = dict(model.named_modules())
    for name, wanted in weights.items():
        module = loaded[name.removesuffix(".weight")]
        assert torch.equal(module.weight.float(), wanted), name  # exactly: scales are fp16 numbers
    config = json.loads((best_folder / "config.json").read_text())["quantization_config"]
    assert config["kv_cache_scheme"]["strategy"] == "group" and config["kv_cache_scheme"]["group_size"] == 16
    assert config["kv_cache_scheme"]["dynamic"] is True and config["kv_cache_scheme"]["symmetric"] is False


def test_scales_of_best_are_stored_as_fp16_and_those_of_the_paper_as_fp32(best_folder, quantize, small_model):
    quantize("--method", "rtn", "--out", small_model / "paper", "--quiet")
    name = "model.layers.0.self_attn.q_proj.weight_scale"
    assert load_file(best_folder / "model.safetensors")[name].dtype == torch.float16
    assert load_file(small_model / "paper" / "model.safetensors")[name].dtype == torch.float32


def test_rtn_folder_holds_the_codes_of_the_independent_program(quantize, small_model):
    quantize("--method", "rtn", "--out", small_model / "rtn", "--quiet")
    original = load_file(small_model / "model" / "model.safetensors")
    for name, values in dequantized(small_model / "rtn").items():
        codes, scale, _ = round_to_nearest(original[name], 4)
        assert torch.equal(values, codes * scale), name


def test_eval_of_the_folder_gives_the_perplexity_measured_at_quantization(run_program, quantize, small_model):
    for method in ("gptq", "quarot"):
        out = small_model / f"measured-{method}"
        result = quantize(
            "--method",
            method,
            "--report",
            "--data",
            small_model / "text.txt",
            "--out",
            out,
            "--json",
            "--quiet",
        )
        measured = json.loads(result.stdout)["runs"][0]["measured"]
        evaluated = run_program(
            [
                "osp",
                "eval",
                out,
                "--data",
                small_model / "text.txt",
                "--engine",
                "simulated",
                "--json",
                "--quiet",
            ]
        )
        row = json.loads(evaluated.stdout)["results"][0]
        assert row["bits"] == "4-4-4"
        # The same numbers added up in another order (batches of windows, one window).
        assert math.isclose(row["perplexity"], measured["perplexity"], rel_tol=1e-5)
        assert measured["perplexity_16"] != measured["perplexity"] and measured["kl_divergence"] > 0


def test_report_of_every_layer_is_written(best_folder):
    report = json.loads((best_folder / "quantize.json").read_text())
    assert len(report["layers"]) == 14
    for layer in report["layers"]:
        assert 5 < layer["sqnr_db"] < 40, layer  # 4 bits of a Gaussian: about 20 dB
        assert 0 < layer["relative_output_error"] < 0.5, layer
        assert layer["input_kurtosis_before"] is not None and layer["seconds"] >= 0
    assert report["totals"]["layers"] == 14
    assert report["settings"]["samples"] == 8 and report["settings"]["length"] == 32


def test_table_has_a_row_per_method_and_the_spread_of_seeds(quantize, small_model):
    text = small_model / "text.txt"
    result = quantize("--method", "all", "--report", "--data", text, "--data-tokens", 320, "--quiet")
    lines = result.stdout.splitlines()
    assert lines[2].startswith("| 16-16-16")
    methods = [
        "rtn",
        "ffn-hadamard+rtn",
        "ffn-hadamard+gptq",
        "quarot+gptq",
        "spinquant+gptq",
        "smoothquant+rtn",
        "awq+rtn",
    ]
    assert [line.split()[2] for line in lines[3:]] == methods
    result = quantize(
        "--method", "gptq", "--report", "--data", text, "--data-tokens", 320, "--seeds", 3, "--quiet"
    )
    assert result.stdout.count("±") == 2


def test_block_hadamards_and_clips_are_applied_and_stored(quantize, run_program, small_model):
    """Inner size 128 has a Hadamard matrix in blocks of 16 as well; each choice gives another model."""
    text, perplexities = small_model / "text.txt", set()
    for choice in (
        [],
        ["--hadamard-block", 16],
        ["--rotation-block", 16],
        ["--activation-clip", 0.9],
        ["--cache-clip", 0.95],
    ):
        out = small_model / ("choice" + "".join(map(str, choice)))
        result = quantize(
            "--method", "quarot+rtn", "--report", "--data", text, "--out", out, "--json", "--quiet", *choice
        )
        measured = json.loads(result.stdout)["runs"][0]["measured"]["perplexity"]
        evaluated = run_program(
            ["osp", "eval", out, "--data", text, "--engine", "simulated", "--json", "--quiet"]
        )
        assert math.isclose(json.loads(evaluated.stdout)["results"][0]["perplexity"], measured, rel_tol=1e-5)
        perplexities.add(round(measured, 6))
    assert len(perplexities) == 5
    result = quantize(
        "--method", "quarot+rtn", "--rotation-block", 24, "--out", small_model / "no", check=False
    )
    assert result.returncode == 2 and "is no multiple of blocks of 24" in result.stderr
    result = quantize(
        "--method", "quarot+rtn", "--hadamard-block", 24, "--out", small_model / "no", check=False
    )
    assert result.returncode == 2 and "blocks of 24 do not divide the inner size 128" in result.stderr


def measured_and_reloaded(quantize, run_program, small_model, out, *arguments):
    """Perplexity as osp quantize measured it, which osp eval must find again in the folder."""
    text = small_model / "text.txt"
    result = quantize("--report", "--data", text, "--out", out, "--json", "--quiet", *arguments)
    measured = json.loads(result.stdout)["runs"][0]["measured"]["perplexity"]
    evaluated = run_program(
        ["osp", "eval", out, "--data", text, "--engine", "simulated", "--json", "--quiet"]
    )
    row = json.loads(evaluated.stdout)["results"][0]
    # The same numbers added up in another order (batches of windows, one window).
    assert math.isclose(row["perplexity"], measured, rel_tol=1e-5)
    return measured


def test_groups_and_offsets_of_activations_are_applied_and_stored(quantize, run_program, small_model):
    perplexities = set()
    for method in ("rtn", "quarot+gptq", "awq"):
        for choice in (
            [],
            ["--down-group", 32],
            ["--activation-group", 16],
            ["--mean-offset", "residual"],
            ["--mean-offset", "all", "--activation-group", 8, "--profile", "best"],
        ):
            out = small_model / ("remedy-" + method + "".join(map(str, choice)))
            found = measured_and_reloaded(
                quantize, run_program, small_model, out, "--method", method, *choice
            )
            perplexities.add(round(found, 6))
    assert len(perplexities) == 15


def test_profile_best_groups_activations_of_four_bits_unless_told_otherwise(quantize, small_model):
    def groups(name, *words):
        out = small_model / ("grouped-" + name)
        quantize("--method", "rtn", *words, "--out", out, "--quiet")
        kept = json.loads((out / "config.json").read_text())["osp_quantization"]
        return kept.get("activation_group", 0), kept.get("down_group", 0)

    best = ["--profile", "best"]
    assert groups("best", *best, "--bits", "4-4-4") == (32, 0)
    assert groups("paper", "--bits", "4-4-4") == (0, 0)
    assert groups("eight", *best, "--bits", "4-8-4") == (0, 0)
    assert groups("none", *best, "--bits", "4-4-4", "--activation-group", 0) == (0, 0)
    assert groups("down", *best, "--bits", "4-4-4", "--down-group", 64) == (0, 64)
    assert groups("static", *best, "--bits", "4-4-4", "--activation-scales", "per-tensor") == (0, 0)


def test_eval_rounds_activations_in_groups_without_a_quantized_folder(run_program, small_model):
    text, rows = small_model / "text.txt", set()
    command = ["osp", "eval", small_model / "model", "--data", text, "--bits", "16-4-16", "--json", "--quiet"]
    for choice in ([], ["--down-group", 32], ["--activation-group", 16]):
        rows.add(json.loads(run_program([*command, *choice]).stdout)["results"][0]["perplexity"])
    assert len(rows) == 3
    refused = run_program([*command, "--down-group", 48], check=False)
    assert refused.returncode == 2 and "groups of 48 do not divide the inner size 128" in refused.stderr


def test_offsets_of_activations_change_no_export_of_weights(quantize, run_program, small_model):
    plain, offset = small_model / "export-plain", small_model / "export-offset"
    quantize("--method", "rtn", "--profile", "best", "--out", plain, "--quiet")
    quantize("--method", "rtn", "--profile", "best", "--mean-offset", "all", "--out", offset, "--quiet")
    config = json.loads((offset / "config.json").read_text())
    assert config["osp_quantization"]["mean_offset"] == "all"
    for folder in (plain, offset):
        run_program(["osp", "export", folder, "--format", "gptq", "--out", f"{folder}-gptq", "--quiet"])
    wanted, found = (load_file(f"{folder}-gptq/model.safetensors") for folder in (plain, offset))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(
    "arguments, status, part",
    [
        (["--method", "gtpq"], 2, "did you mean gptq"),
        (["--method", "gptq+rtn"], 2, "exclude each other"),
        (["--bits", "9-4-4"], 2, "2 to 8"),
        (["--bits", "16-4-4"], 2, "16 bits"),
        (["--group", "48"], 2, "groups of 48 do not divide"),
        (["--profile", "better"], 2, "osp-paper or best"),
        (["--down-group", "48"], 2, "groups of 48 do not divide the inner size 128"),
        (["--mean-offset", "some"], 2, "none, residual or all"),
        (["--bits", "4-16-4", "--mean-offset", "all"], 2, "activations keep 16 bits"),
        (["--activation-scales", "after-norm", "--method", "rtn"], 3, "fold the norms"),
    ],
)
def test_wrong_requests_are_explained(quantize, small_model, arguments, status, part):
    result = quantize("--out", small_model / "never", *arguments, check=False)
    assert result.returncode == status, result.stderr
    assert part in result.stderr, result.stderr
    assert not (small_model / "never").exists()


def test_missing_calibration_is_said_before_any_model_is_read(run_program, tmp_path):
    result = run_program(["osp", "quantize", tmp_path / "nothing", "--method", "all", "--report", "--data",
                          tmp_path / "nothing"], check=False)  # fmt: skip
    assert result.returncode == 2 and "needs --calibration" in result.stderr


def test_calibration_shorter_than_a_window_says_how_much_is_missing(run_program, small_model):
    short = small_model / "short.txt"
    short.write_text("abcdefghij")
    result = run_program(["osp", "quantize", small_model / "model", "--calibration", short, "--out",
                          small_model / "never"], check=False)  # fmt: skip
    assert result.returncode == 3
    assert "10 tokens, 22 fewer than one calibration window of 32" in result.stderr


def test_weights_that_are_nan_are_named(run_program, small_model, tmp_path):
    weights = load_file(small_model / "model" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((small_model / "model" / "config.json").read_bytes())
    result = run_program(
        ["osp", "quantize", tmp_path, "--method", "rtn", "--out", tmp_path / "out"], check=False
    )
    assert result.returncode == 3
    assert "model.layers.1.mlp.up_proj.weight" in result.stderr


def test_a_full_disk_ends_with_status_5_and_the_finished_blocks_are_taken_up(
    quantize, run_program, small_model
):
    """The file size limit stands for the disk: the model's file is larger than any part of it."""
    out = small_model / "full"
    arguments = ["osp", "quantize", small_model / "model", "--calibration", small_model / "text.txt",
                 "--windows", 8, "--method", "gptq", "--out", out]  # fmt: skip
    parts = small_model / "parts"
    run_program([*arguments[:-1], parts])
    size = (parts / "model.safetensors").stat().st_size

    def limit():
        return resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, resource.RLIM_INFINITY))

    result = run_program(arguments, check=False, preexec_fn=limit)
    assert result.returncode == 5, result.stderr
    assert "model.safetensors" in result.stderr and "File too large" in result.stderr
    assert not out.exists()
    resumed = run_program([*arguments, "--resume"])
    assert "2 blocks had been quantized before" in resumed.stderr
    assert (out / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert not (small_model / "full.work").exists() and not (small_model / "full.tmp").exists()


def test_a_signal_stops_with_status_75_and_resume_goes_on(quantize, osp_build, small_model, tmp_path):
    wanted = small_model / "whole"
    quantize("--method", "gptq", "--out", wanted)
    arguments = ["osp", "quantize", small_model / "model", "--calibration", small_model / "text.txt",
                 "--windows", 8, "--method", "gptq", "--out", tmp_path / "out"]  # fmt: skip
    command = [str(osp_build / "osp"), *map(str, arguments[1:])]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in program.stderr:
        if "1/14 layers" in line:
            break
    program.send_signal(signal.SIGTERM)
    rest = program.stderr.read()
    assert program.wait(timeout=60) == 75, rest
    assert "--resume goes on" in rest and not (tmp_path / "out").exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        wanted / "model.safetensors"
    ).read_bytes()


def peak_memory(run_program, osp_build, *arguments):
    code = ("import resource, subprocess, sys; "
            "subprocess.run(sys.argv[1:], check=True, capture_output=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")  # fmt: skip
    command = [sys.executable, "-c", code, osp_build / "osp", *arguments]
    return (
        int(subprocess.run([str(a) for a in command], check=True, capture_output=True, text=True).stdout)
        * 1024
    )


def test_memory_does_not_grow_with_the_number_of_blocks(run_program, osp_build, small_model, tmp_path):
    peaks, sizes = [], []
    for layers in (2, 22):
        shape = Shape(width=256, heads=4, kv_heads=4, head_size=64, inner=1024, layers=layers, context=32)
        model = tmp_path / f"model-{layers}"
        write_model_dir(model, shape, random_weights(shape))
        (model / "tokenizer.json").write_bytes((small_model / "model" / "tokenizer.json").read_bytes())
        sizes.append((model / "model.safetensors").stat().st_size)
        peaks.append(peak_memory(run_program, osp_build, "quantize", model, "--method", "quarot",
                                 "--calibration", small_model / "text.txt", "--windows", 4, "--out",
                                 tmp_path / f"out-{layers}"))  # fmt: skip
    block = (sizes[1] - sizes[0]) // 20
    assert block > 4e6
    # 20 blocks more: 84 MB of weights, and 10 MB of codes that are written from a mapping. A copy of the
    # model in memory would show as 84 MB and more; 30 MB were measured, of which the allocator keeps the
    # larger part.
    assert peaks[1] - peaks[0] < 10 * block, (peaks, block)


def test_bench_runs_ours_on_parts_of_the_windows_and_gives_the_peer_the_same_ones(
    run_program, small_model, tmp_path
):
    peer = tmp_path / "peer.py"
    peer.write_text("""
import json, sys
command, model, windows, _, dtype = sys.argv[1:]
given = json.load(open(windows))["windows"]
assert command == "quantize" and open(model + "/config.json")
print(json.dumps({"seconds": 50.0, "peak_memory_bytes": 1, "shape": [len(given), len(given[0])],
                  "dtype": dtype, "first": given[0], "versions": {"gptqmodel": "0"}}))
""")
    text = small_model / "text.txt"
    arguments = ["osp", "bench", "quantize", small_model / "model", "--calibration", text, "--windows", 8,
                 "--python", sys.executable, "--peer", peer]  # fmt: skip
    result = json.loads(run_program([*arguments, "--json"]).stdout)
    compared = result["comparisons"]
    # Never our bf16 beside the peer's fp32.
    assert [(one["precision"], {peer["dtype"] for peer in one["peers"]}) for one in compared] == [
        ("fp32", {"float32"}),
        ("bf16", {"bfloat16"}),
    ]
    for one in compared:
        assert [run["windows"] for run in one["runs"]] == [2, 4, 8, 8, 8] and len(one["peers"]) == 3
        assert all(len(run["block_seconds"]) == 2 and run["peak_memory_bytes"] > 1e6 for run in one["runs"])
        assert all(peer["shape"] == [8, 32] for peer in one["peers"])
        ratios = [50.0 / run["seconds"] for run in one["runs"][2:]]
        assert one["ratios"] == pytest.approx(ratios) and math.isclose(one["ratio"], sorted(ratios)[1])
    # The first window begins where the reference's does: randint(0, n - 33) after seed(0), here of 4,000
    # characters.
    start = Random(0).randint(0, 4000 - 33)
    assert compared[0]["peers"][0]["first"] == [ord(c) - 33 for c in text.read_text()[start : start + 32]]
    table = run_program([*arguments, "--calibration-type", "fp32"]).stdout
    assert "in fp32: 50.0 s" in table and "bf16" not in table
