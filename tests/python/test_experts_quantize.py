"""Quantized mixtures of experts: codes of every expert against an fp64 GPTQ on its own tokens, folders that
give the same logits again, experts without tokens, kurtosis by expert, and what is refused."""

import json

import family_cases
import pytest
import torch
from expert_oracle import (
    LENGTH,
    WINDOWS,
    assert_kurtosis_by_expert,
    codes_of,
    letters,
    put_weights,
    quantize_once,
    quantized_by_oracle,
    round_to_nearest,
    share_that_differs,
    stored_weights,
    write_source,
)
from family_cases import greedy
from oracles import quantize_methods as oracle
from safetensors.torch import load_file, save_file
from test_experts import random_model
from test_families import difference
from train_fixture import one_thread, write_recipe

probe = family_cases.probe

SIZES = dict(vocab_size=96, hidden_size=64, intermediate_size=64)
CASES = {
    "Qwen3Moe": dict(SIZES, moe_intermediate_size=32),
    "Qwen3Moe dense layers": dict(SIZES, moe_intermediate_size=32, mlp_only_layers=[1]),
    "Olmoe": dict(SIZES, intermediate_size=32),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """source(case) -> (model of transformers, its folder, a text, its tokens): one token a character."""
    made = {}

    def make(case):
        if case not in made:
            folder = tmp_path_factory.mktemp("source")
            model = random_model(case, **CASES[case])
            made[case] = write_source(model, folder)
        return made[case]

    return make


@pytest.fixture(scope="module")
def quantize(run_program, source):
    """quantize(case, options…) -> folder, made once for each choice."""

    def run(case, *options, text=None):
        _, folder, usual, _ = source(case)
        return quantize_once(run_program, folder, text or usual, options, case, text)

    return run


@pytest.mark.parametrize("case", CASES)
def test_every_expert_is_calibrated_by_its_own_tokens(case, source, quantize):
    model, _, _, tokens = source(case)
    found, _ = codes_of(quantize(case, "--method", "gptq", "--bits", "4-16-16"))
    windows = oracle.windows_of(tokens, WINDOWS, LENGTH)
    fresh = random_model(case, **CASES[case])
    # fp32 sums against fp64: a weight at the edge between two codes moves what follows in its row.
    assert share_that_differs(found, quantized_by_oracle(fresh, windows)) <= 0.002
    nearest = {n: round_to_nearest(w)[0] for n, w in stored_weights(model) if n in found}
    assert share_that_differs(found, nearest, "experts") > 0.1  # the comparison sees what GPTQ does


@pytest.mark.parametrize("case", CASES)
def test_rounding_to_nearest_is_that_of_every_matrix_and_leaves_the_router(case, source, quantize):
    model, folder, _, _ = source(case)
    out = quantize(case, "--method", "rtn", "--bits", "4-16-16")
    found, scales = codes_of(out)
    for name, w in stored_weights(model):
        if name not in found:
            assert name.endswith("mlp.gate.weight") or "model.layers" not in name, name
            continue
        codes, _ = round_to_nearest(w)
        assert (codes != found[name]).float().mean() <= 0.001, name
    stored, plain = load_file(out / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    routers = [n for n in plain if n.endswith("mlp.gate.weight")]
    assert routers
    for name in routers:
        assert torch.equal(stored[name].float(), plain[name]), name
    assert len(scales) == len(found)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("case", CASES)
def test_a_quantized_folder_gives_the_logits_of_its_numbers(case, method, quantize, probe):
    out = quantize(case, "--method", method, "--bits", "4-16-16")
    codes, scales = codes_of(out)
    model = random_model(case, **CASES[case])
    put_weights(model, {name: codes[name] * scales[name] for name in codes})
    tokens = torch.randint(0, 94, (3, 31), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model(tokens).logits
    assert difference(probe(out, tokens)["logits"], wanted) < 1e-5


ROTATIONS = ["ffn-hadamard+rtn", "ffn-hadamard+gptq", "quarot+rtn", "quarot+gptq", "smoothquant+rtn"]


@pytest.mark.parametrize("method", ROTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_transforms_keep_the_model(case, method, source, quantize, probe):
    """At 16 bits of weights nearly nothing is rounded: what is left of the difference is the transform's."""
    model, _, _, _ = source(case)
    out = quantize(case, "--method", method, "--bits", "8-16-16", "--group", 16)
    tokens = torch.randint(0, 94, (3, 31), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model(tokens).logits
    plain = quantize(case, "--method", "rtn", "--bits", "8-16-16", "--group", 16)
    own = difference(probe(plain, tokens)["logits"], wanted)
    assert own < 0.05
    assert difference(probe(out, tokens)["logits"], wanted) < 3 * own


CHOICES = [
    ("--bits", "4-4-4", "--method", "gptq"),
    ("--bits", "4-4-4", "--method", "quarot+gptq", "--hadamard-block", "16"),
    ("--bits", "4-8-16", "--activation-scales", "per-tensor", "--method", "rtn"),
    ("--bits", "4-4-16", "--down-group", "16", "--asymmetric", "--method", "rtn"),
    ("--bits", "4-4-16", "--mean-offset", "all", "--method", "rtn"),
    ("--bits", "mxfp4-mxfp4-16", "--method", "rtn"),
    ("--bits", "nvfp4-16-16", "--method", "gptq"),
    ("--bits", "fp8-fp8-16", "--method", "rtn"),
]


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_other_choices_runs_simulated(case, choice, quantize, run_program, source):
    _, folder, text, _ = source(case)
    out = quantize(case, *choice)
    info = json.loads((out / "config.json").read_text())
    assert info["osp_quantization"]["osp_alone"]
    assert info["architectures"] == ["OspQuantizedForCausalLM"]
    result = run_program(["osp", "eval", out, "--data", text, "--json", "--quiet"])
    plain = run_program(["osp", "eval", folder / "model", "--data", text, "--json", "--quiet"])
    loss, wanted = (json.loads(r.stdout)["results"][0]["loss"] for r in (result, plain))
    assert abs(loss - wanted) < 0.5, (loss, wanted)
    refused = run_program(["osp", "generate", out, "--prompt", "a", "--engine", "integer"], check=False)
    assert refused.returncode == 3


def test_experts_without_tokens_are_rounded_to_nearest_with_one_warning(source, run_program, tmp_path):
    """A router that never takes expert 2, and takes expert 3 for one token alone."""
    _, folder, text, _ = source("Qwen3Moe")
    (tmp_path / "model").mkdir()
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / "model" / file).write_bytes((folder / "model" / file).read_bytes())
    weights = load_file(folder / "model" / "model.safetensors")
    for name, router in weights.items():
        if name.endswith("mlp.gate.weight"):
            # The rows' largest logits are those of the others whatever the input: two rows and their reverse.
            router[3], router[4] = 3 * router[0], -3 * router[0]
            router[2] = 0.0
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    result = run_program(["osp", "quantize", tmp_path / "model", "--method", "gptq", "--bits", "4-16-16",
                          "--calibration", text, "--windows", 1, "--length", 4, "--calibration-type", "fp32",
                          "--out", tmp_path / "out"], env=one_thread())  # fmt: skip
    warnings = [line for line in result.stderr.splitlines() if "rounded to nearest" in line]
    assert len(warnings) == 1, result.stderr
    report = json.loads((tmp_path / "out" / "quantize.json").read_text())["layers"]
    experts = [layer for layer in report if ".experts." in layer["name"]]
    few = [layer for layer in experts if layer.get("rounded_to_nearest")]
    none = [layer for layer in few if layer["expert_tokens"] == 0]
    assert len(experts) == 45 and few and none
    assert f"{len(few)} of 45 layers" in warnings[0] and f"({len(none)} layers: none at all)" in warnings[0]
    assert all(layer["expert_tokens"] < 8 for layer in few)
    codes, _ = codes_of(tmp_path / "out")
    for layer in few:
        wanted, _ = round_to_nearest(weights[layer["name"]])
        assert (codes[layer["name"]] != wanted).float().mean() <= 0.001


REFUSALS = {
    "awq": ["AWQ", "expert"],
    "spinquant": ["SpinQuant", "gradients", "QuaRot"],
    "spinquant-kurtosis": ["SpinQuant", "gradients"],
    "gptaq": ["gptaq", "different experts", "gptq"],
    "qronos": ["qronos", "different experts"],
}


@pytest.mark.parametrize("method", REFUSALS)
def test_methods_that_cannot_serve_experts_are_refused_before_any_work(method, source, run_program, tmp_path):
    _, folder, text, _ = source("Qwen3Moe")
    result = run_program(["osp", "quantize", folder / "model", "--method", method, "--calibration", text,
                          "--out", tmp_path / "out"], check=False)  # fmt: skip
    assert result.returncode == 3 and not (tmp_path / "out").exists()
    for word in REFUSALS[method]:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize("form", ["gptq", "panels"])
def test_formats_without_experts_are_refused_by_name(form, quantize, run_program, tmp_path):
    model = quantize("Olmoe", "--method", "rtn", "--bits", "4-16-16")
    result = run_program(["osp", "export", model, "--format", form, "--out", tmp_path / "out"], check=False)
    assert result.returncode == 3 and "experts" in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", CASES)
def test_commands_work_on_mixtures_of_experts(case, source, run_program, tmp_path):
    model, folder, _, tokens = source(case)
    arguments = ["osp", "generate", folder / "model", "--prompt", letters(tokens[:7]), "--max-tokens", "9",
                 "--json"]  # fmt: skip
    report = json.loads(run_program(arguments).stdout)
    assert report["prompt_tokens"] == tokens[:7]
    assert report["tokens"] == greedy(model, torch.tensor([tokens[:7]]), 9)[0, 7:].tolist()
    # osp score: log-likelihoods of a continuation, packed with others.
    parts = [letters(tokens[5 : 5 + n]) for n in (1, 3, 9)]
    requests = [{"context": letters(tokens[:5]), "continuation": part} for part in parts]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))
    lines = run_program(["osp", "score", folder / "model", "--quiet"],
                        input=(tmp_path / "requests.jsonl").read_text()).stdout.splitlines()  # fmt: skip
    with torch.no_grad():
        logs = model(torch.tensor([tokens[:14]])).logits[0].log_softmax(-1)
    for line, n in zip(lines, (1, 3, 9), strict=True):
        wanted = sum(logs[4 + i, tokens[5 + i]] for i in range(n)).item()
        assert abs(json.loads(line)["log_likelihood"] - wanted) < 1e-3, line
    # osp export --format hf gives the same tensors again.
    run_program(["osp", "export", folder / "model", "--format", "hf", "--out", tmp_path / "out", "--quiet"])
    again, before = (load_file(f / "model.safetensors") for f in (tmp_path / "out", folder / "model"))
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_training_them_is_refused_by_name(source, run_program, train_tokens, tmp_path):
    _, folder, _, _ = source("Qwen3Moe")
    recipe = write_recipe(tmp_path / "recipe.toml", train_tokens)
    result = run_program(["osp", "train", recipe, "--init-from", folder / "model", "--out", tmp_path / "run"],
                         check=False)  # fmt: skip
    assert result.returncode == 3 and "does not train mixtures of experts" in result.stderr, result.stderr


@pytest.mark.parametrize("case", CASES)
def test_analyze_gives_kurtosis_by_expert(case, source, run_program):
    model, folder, text, tokens = source(case)
    command = ["osp", "analyze", folder / "model", "--data", text, "--data-tokens", 512, "--cost-tokens", 0,
               "--quiet"]  # fmt: skip
    report = json.loads(run_program([*command, "--json"]).stdout)
    windows = torch.tensor(tokens[: report["tokens"]]).view(-1, 64)
    count = assert_kurtosis_by_expert(report, model, windows)
    shown = run_program(command).stdout
    assert "worst experts" in shown and f"{count} experts" in shown


def as_of_another_program(folder, out):
    """osp's folder of 4-bit weights with what only osp says about it taken away: compressed-tensors'."""
    out.mkdir()
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [config.pop("osp_quantization")["architecture"]]
    config["model_type"] = "qwen3_moe"
    quantization = config["quantization_config"]
    quantization["quantization_status"] = "compressed"
    quantization["config_groups"] = {
        "group_0": dict(quantization["config_groups"]["group_0"], targets=["Linear"])
    }
    quantization["ignore"] += ["re:.*mlp.gate$"]
    (out / "config.json").write_text(json.dumps(config))
    (out / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return out


def test_packed_experts_of_other_programs_are_read_as_a_plain_model(quantize, probe, tmp_path):
    folder = quantize("Qwen3Moe", "--method", "rtn", "--bits", "4-16-16")
    other = as_of_another_program(folder, tmp_path / "other")
    tokens = torch.randint(0, 94, (3, 31), generator=torch.Generator().manual_seed(3))
    wanted, found = probe(folder, tokens)["logits"], probe(other, tokens)["logits"]
    assert difference(found, wanted) < 1e-5


@pytest.mark.parametrize("own", [True, False])
def test_scales_of_experts_that_are_not_finite_are_refused(own, quantize, probe, tmp_path):
    folder = quantize("Qwen3Moe", "--method", "rtn", "--bits", "4-16-16")
    other = as_of_another_program(folder, tmp_path / "other")
    if own:
        (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(other / "model.safetensors")
    name = "model.layers.2.mlp.experts.3.down_proj.weight"
    weights[name + "_scale"][5] = float("nan")
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    result = probe(other, check=False)
    assert result.returncode == 3 and name in result.stderr, result.stderr
    del weights[name + "_scale"]
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    result = probe(other, check=False)
    assert result.returncode == 3 and name + "_scale" in result.stderr, result.stderr
