"""gpt-oss in every command: text, scores, kurtosis by expert, quantized folders with every expert rounded by
its own tokens, transforms that keep the model, and what is refused."""

import json
import re

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
from gpt_oss_cases import random_model, write_packed
from oracles import quantize_methods as oracle
from safetensors.torch import load_file
from small_tokenizers import letter_tokenizer
from test_families import difference
from train_fixture import write_recipe

probe = family_cases.probe

SIZES = dict(vocab_size=96, hidden_size=64, intermediate_size=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(model of transformers, its folder, a text, its tokens): one token a character."""
    folder = tmp_path_factory.mktemp("source")
    return write_source(random_model(**SIZES), folder)


@pytest.fixture(scope="module")
def quantize(run_program, source):
    """quantize(options…) -> folder, made once for each choice."""

    def run(*options):
        _, folder, text, _ = source
        return quantize_once(run_program, folder, text, options)

    return run


def test_every_expert_is_calibrated_by_its_own_tokens(source, quantize):
    model, _, _, tokens = source
    found, _ = codes_of(quantize("--method", "gptq", "--bits", "4-16-16"))
    windows = oracle.windows_of(tokens, WINDOWS, LENGTH)
    # fp32 sums against fp64: a weight at the edge between two codes moves what follows in its row.
    assert share_that_differs(found, quantized_by_oracle(random_model(**SIZES), windows)) <= 0.002
    nearest = {n: round_to_nearest(w)[0] for n, w in stored_weights(model) if n in found}
    assert share_that_differs(found, nearest, "experts") > 0.1  # the comparison sees what GPTQ does


def test_rounding_to_nearest_is_that_of_every_matrix_and_leaves_the_rest(source, quantize):
    model, _, _, _ = source
    out = quantize("--method", "rtn", "--bits", "4-16-16")
    found, _ = codes_of(out)
    for name, w in stored_weights(model):
        if name not in found:
            assert name.endswith("mlp.router.weight") or "model.layers" not in name, name
            continue
        assert (round_to_nearest(w)[0] != found[name]).float().mean() <= 0.001, name
    # Router, sinks and biases are as they were.
    stored, plain = load_file(out / "model.safetensors"), model.state_dict()
    same = [n for n in plain if re.search(r"router|sinks|self_attn\..*bias", n)]
    assert len(same) == 7 * 3
    for name in same:
        assert torch.equal(stored[name], plain[name]), name
    bias = plain["model.layers.1.mlp.experts.gate_up_proj_bias"]
    assert torch.equal(stored["model.layers.1.mlp.experts.4.up_proj.bias"], bias[4, 1::2])
    assert torch.equal(stored["model.layers.1.mlp.experts.4.gate_proj.bias"], bias[4, ::2])


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_quantized_folder_gives_the_logits_of_its_numbers(method, quantize, probe, run_program, tmp_path):
    out = quantize("--method", method, "--bits", "4-16-16")
    codes, scales = codes_of(out)
    model = random_model(**SIZES)
    put_weights(model, {name: codes[name] * scales[name] for name in codes})
    tokens = torch.randint(0, 94, (3, 31), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model(tokens).logits
    assert difference(probe(out, tokens)["logits"], wanted) < 1e-5
    # And as a plain model for transformers.
    run_program(["osp", "export", out, "--format", "hf", "--out", tmp_path / "hf", "--quiet"])
    back = type(model).from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        assert difference(back(tokens).logits, wanted) < 1e-5


ROTATIONS = ["ffn-hadamard+rtn", "ffn-hadamard+gptq", "quarot+rtn", "quarot+gptq", "smoothquant+rtn"]


@pytest.mark.parametrize("method", ROTATIONS)
def test_transforms_keep_the_model(method, source, quantize, probe):
    """At 8 bits of weights little is rounded: what is left of the difference is the transform's."""
    model, _, _, _ = source
    out = quantize("--method", method, "--bits", "8-16-16", "--group", 16)
    tokens = torch.randint(0, 94, (3, 31), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model(tokens).logits
    plain = quantize("--method", "rtn", "--bits", "8-16-16", "--group", 16)
    own = difference(probe(plain, tokens)["logits"], wanted)
    assert own < 0.05
    assert difference(probe(out, tokens)["logits"], wanted) < 3 * own


CHOICES = [
    ("--bits", "4-4-4", "--method", "gptq"),
    ("--bits", "4-4-4", "--method", "quarot+gptq", "--hadamard-block", "16"),
    ("--bits", "4-4-16", "--mean-offset", "all", "--method", "rtn"),
    ("--bits", "mxfp4-mxfp4-16", "--method", "rtn"),
]


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_a_folder_of_other_choices_runs_simulated(choice, quantize, run_program, source):
    _, folder, text, _ = source
    out = quantize(*choice)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["OspQuantizedForCausalLM"]
    result = run_program(["osp", "eval", out, "--data", text, "--json", "--quiet"])
    plain = run_program(["osp", "eval", folder / "model", "--data", text, "--json", "--quiet"])
    loss, wanted = (json.loads(r.stdout)["results"][0]["loss"] for r in (result, plain))
    assert abs(loss - wanted) < 0.5, (loss, wanted)
    refused = run_program(["osp", "generate", out, "--prompt", "a", "--engine", "integer"], check=False)
    assert refused.returncode == 3, refused.stderr
    assert ("mxfp4 numbers" if "mxfp4" in choice[1] else "learned sinks") in refused.stderr


REFUSALS = {
    "awq": ["AWQ", "expert"],
    "spinquant": ["SpinQuant", "gradients", "QuaRot"],
    "gptaq": ["gptaq", "different experts", "gptq"],
    "qronos": ["qronos", "different experts"],
}


@pytest.mark.parametrize("method", REFUSALS)
def test_methods_that_cannot_serve_it_are_refused_before_any_work(method, source, run_program, tmp_path):
    _, folder, text, _ = source
    result = run_program(["osp", "quantize", folder / "model", "--method", method, "--calibration", text,
                          "--out", tmp_path / "out"], check=False)  # fmt: skip
    assert result.returncode == 3 and not (tmp_path / "out").exists()
    for word in REFUSALS[method]:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize("form", ["gptq", "panels"])
def test_formats_without_its_parts_are_refused_by_name(form, quantize, run_program, tmp_path):
    model = quantize("--method", "rtn", "--bits", "4-16-16")
    result = run_program(["osp", "export", model, "--format", form, "--out", tmp_path / "out"], check=False)
    assert result.returncode == 3 and "experts" in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_training_it_is_refused_by_name(source, run_program, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", train_tokens)
    result = run_program(["osp", "train", recipe, "--init-from", source[1] / "model", "--out",
                          tmp_path / "run"], check=False)  # fmt: skip
    assert result.returncode == 3 and "does not train mixtures of experts" in result.stderr, result.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_those_of_transformers(precision, source, run_program):
    model, folder, text, tokens = source
    command = ["osp", "eval", folder / "model", "--data", text, "--json", "--quiet", "--precision", precision]
    result = json.loads(run_program(command).stdout)["results"][0]
    windows = torch.tensor(tokens[: len(tokens) // 64 * 64]).view(-1, 64)
    with torch.no_grad():
        wanted = model(windows).logits[:, :-1].log_softmax(-1)
    wanted = -wanted.gather(-1, windows[:, 1:, None]).mean().item()
    # Sums of fp32 in another order; weights and activations of 8 bits of mantissa.
    assert abs(result["loss"] - wanted) < (1e-5 if precision == "fp32" else 0.03), (result, wanted)


def test_text_and_scores_are_those_of_transformers(source, run_program, tmp_path):
    model, folder, _, tokens = source
    prompt = tokens[:7]
    arguments = [
        "osp",
        "generate",
        folder / "model",
        "--prompt",
        letters(prompt),
        "--max-tokens",
        "20",
        "--json",
    ]
    report = json.loads(run_program(arguments).stdout)
    assert report["prompt_tokens"] == prompt
    assert report["tokens"] == greedy(model, torch.tensor([prompt]), 20)[0, 7:].tolist()
    # Continuations of a common beginning, packed with each other: beyond the window of 5 and within it.
    lengths = (1, 3, 9)
    for begin in (2, 5, 17):
        requests = [
            {"context": letters(tokens[:begin]), "continuation": letters(tokens[begin : begin + n])}
            for n in lengths
        ]
        lines = run_program(["osp", "score", folder / "model", "--quiet"],
                            input="".join(json.dumps(r) + "\n" for r in requests)).stdout  # fmt: skip
        with torch.no_grad():
            logs = model(torch.tensor([tokens[: begin + 9]])).logits[0].log_softmax(-1)
        for line, n in zip(lines.splitlines(), lengths, strict=True):
            wanted = sum(logs[begin - 1 + i, tokens[begin + i]] for i in range(n)).item()
            assert abs(json.loads(line)["log_likelihood"] - wanted) < 1e-3, (begin, line)


def test_analyze_gives_kurtosis_by_expert_and_the_attention_of_the_first_token(source, run_program):
    model, folder, text, tokens = source
    command = ["osp", "analyze", folder / "model", "--data", text, "--data-tokens", 512, "--cost-tokens", 0,
               "--quiet"]  # fmt: skip
    report = json.loads(run_program([*command, "--json"]).stdout)
    windows = torch.tensor(tokens[: report["tokens"]]).view(-1, 64)
    assert assert_kurtosis_by_expert(report, model, windows) == 3 * 5
    # The first token's share of what the sinks leave, in the block without a window.
    with torch.no_grad():
        share = model(windows, output_attentions=True).attentions[1][..., 0].mean((0, 2))
    heads = {h["head"]: h for h in report["attention_sinks"]["per_head"] if h["layer"] == 1}
    assert [heads[h]["first"]["share"] for h in range(4)] == pytest.approx(share.tolist(), rel=1e-3)


def test_a_packed_folder_is_quantized_again(run_program, tmp_path):
    write_packed(tmp_path / "model", vocab_size=96)
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--bits", "mxfp4-16-16", "--out",
                 tmp_path / "out", "--quiet"])  # fmt: skip
    for folder in (tmp_path / "model", tmp_path / "out"):
        run_program(["osp", "export", folder, "--format", "hf", "--out", f"{folder}-hf"])
    first, again = (load_file(tmp_path / f"{f}-hf" / "model.safetensors") for f in ("model", "out"))
    name = "model.layers.1.mlp.experts.down_proj"
    assert difference(again[name], first[name]) < 0.1  # the scale of a block is chosen anew
