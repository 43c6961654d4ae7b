"""The outlier tax of osp eval and osp analyze against an independent PyTorch program (quant_reference.py)."""

import json

import pytest
import torch
from quant_reference import hadamard, quantized_logits
from reference_llama import Shape, random_weights, write_model_dir
from test_eval import TEXT
from tokenizers import Tokenizer

SHAPE = Shape(layers=2, width=64, heads=4, kv_heads=2, inner=128, vocabulary=4096, context=32)
ROTATIONS = 8


def with_outlier(size):
    """A random Llama with a constant on one channel of the residual stream, gains that are not 1."""
    weights = random_weights(SHAPE)
    weights["model.embed_tokens.weight"][:, 11] += size
    generator = torch.Generator().manual_seed(5)
    for name in weights:
        if "norm" in name:
            weights[name] = 1 + 0.1 * torch.randn(weights[name].shape, generator=generator)
    return weights


def readers_of(name):
    """The norm whose gains scale the columns of a weight, or None."""
    block = name.rsplit(".", 3)[0] + "."
    if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
        return block.replace("self_attn.", "") + "input_layernorm.weight"
    if "gate_proj" in name or "up_proj" in name:
        return block.replace("mlp.", "") + "post_attention_layernorm.weight"
    return "model.norm.weight" if name == "lm_head.weight" else None


def with_down_hadamard(weights):
    return {name: hadamard(w) if "down_proj" in name else w for name, w in weights.items()}


def orthogonal(size, seed):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix)[0]


def rotated(weights, seed):
    """Gains folded, the stream turned by R1, the values of each head by R2."""
    r1 = orthogonal(SHAPE.width, seed)
    result = {}
    for name, weight in weights.items():
        w = weight.double()
        norm = readers_of(name)
        if "norm" in name:
            w = torch.ones_like(w)
        elif norm is not None or name == "model.embed_tokens.weight":
            w = (w if norm is None else w * weights[norm].double()) @ r1
        elif "o_proj" in name or "down_proj" in name:
            w = r1.T @ w
        if "v_proj" in name or "o_proj" in name:
            r2 = orthogonal(SHAPE.head_size, 1000 * seed + int(name.split(".")[2]))
            if "v_proj" in name:
                w = (w.T.reshape(SHAPE.width, -1, SHAPE.head_size) @ r2).reshape(SHAPE.width, -1).T
            else:
                w = (w.reshape(SHAPE.width, -1, SHAPE.head_size) @ r2).reshape(SHAPE.width, -1)
        result[name] = w.float().contiguous()
    return result


def divergence(weights, batch, down_hadamard):
    with torch.no_grad():
        exact, four = (
            quantized_logits(weights, SHAPE, batch, *bits, down_hadamard=down_hadamard)[:, :-1]
            .double()
            .log_softmax(-1)
            for bits in ((16, 16, 16), (4, 4, 4))
        )
    return (exact.exp() * (exact - four)).sum(-1).mean().item()


@pytest.fixture(scope="module")
def text(tmp_path_factory, repo_root):
    """A text file, its tokens in windows, and the tokenizer."""
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    path = tmp_path_factory.mktemp("tax") / "text.txt"
    path.write_text(TEXT)
    ids = Tokenizer.from_file(str(tokenizer)).encode(TEXT, add_special_tokens=False).ids
    count = len(ids) // SHAPE.context
    return path, torch.tensor(ids[: count * SHAPE.context]).reshape(count, -1), tokenizer


@pytest.mark.parametrize("size", [0.0, 16.0])
def test_a_planted_outlier_costs_what_an_independent_program_finds(size, text, run_program, tmp_path):
    path, batch, tokenizer = text
    weights = with_outlier(size)
    model = write_model_dir(tmp_path / "model", SHAPE, weights, tokenizer)
    command = ["osp", "eval", model, "--data", path, "--bits", "4-4-4", "--tax", "--rotations", ROTATIONS]
    tax = json.loads(run_program([*map(str, command), "--json"]).stdout)["results"][0]["outlier_tax"]
    # The same fp32 arithmetic up to the order of sums; a number on the edge between two codes may fall on
    # the other side, which moves the mean over some hundred tokens by less than a percent.
    assert tax["kl"] == pytest.approx(divergence(weights, batch, False), rel=2e-2)
    turned = with_down_hadamard(weights)
    own = divergence(turned, batch, True)
    assert tax["own"] == pytest.approx(own, rel=2e-2)
    # Other random rotations: equal within their spread.
    values = torch.tensor([divergence(rotated(turned, seed), batch, True) for seed in range(ROTATIONS)])
    error = (values.var().item() / ROTATIONS + tax["error"] ** 2) ** 0.5
    assert abs(tax["tax"] - (own - values.mean().item())) < 4 * error + 2e-2 * own
    assert len(tax["rotated_values"]) == ROTATIONS
    if size == 0:
        assert abs(tax["share"]) < 0.25
    else:
        assert tax["tax"] > 5 * error and tax["share"] > 0.15


def test_analyze_answers_what_the_outliers_cost(text, run_program, tmp_path):
    path, _, tokenizer = text
    model = write_model_dir(tmp_path / "model", SHAPE, with_outlier(16.0), tokenizer)
    command = ["osp", "analyze", str(model), "--data", str(path)]
    cost = json.loads(run_program([*command, "--json"]).stdout)["cost"]
    assert cost["outlier_tax"]["share"] > 0.15
    assert "% of the" in cost["verdict"][0] and "quarot" in cost["verdict"][-1]
    assert len(cost["linears"]) == 7 * SHAPE.layers and len(cost["inputs"]) == 4 * SHAPE.layers
    assert [point["basis"] for point in cost["bases"]][:2] == ["own", "principal"]
    printed = run_program(command).stdout
    for words in ("outlier tax", "all but this", "informative SQNR", "What to do"):
        assert words in printed


def test_what_cannot_be_measured_is_said(text, run_program, tmp_path):
    path, _, tokenizer = text
    model = write_model_dir(tmp_path / "model", SHAPE, with_outlier(0.0), tokenizer)
    skipped = run_program(["osp", "analyze", str(model), "--data", str(path), "--cost-tokens", "0"]).stdout
    assert "not measured: --cost-tokens is 0" in skipped
    rounded = run_program(["osp", "analyze", str(model), "--data", str(path), "--bits", "4-4-4"]).stdout
    assert "not measured: the model runs at 4-4-4" in rounded
