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
PARTS = {
    "readers": ("attention_input", "mlp_input"),
    "generators": ("attention_output", "mlp_product"),
}
REMEDIES = [
    "--down-group 64",
    "--mean-offset residual",
    "--down-group 64 --mean-offset residual",
]


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


def divergence_and_error(weights, batch, down_hadamard, bits=(4, 4, 4), **options):
    """Kullback-Leibler divergence from 16 bits, and R_L, over the tokens that predict another."""
    states = []
    with torch.no_grad():
        exact, four = (
            quantized_logits(
                weights, SHAPE, batch, *widths, down_hadamard=down_hadamard, last_states=states, **options
            )[:, :-1]
            .double()
            .log_softmax(-1)
            for widths in ((16, 16, 16), bits)
        )
    before, after = (x[:, :-1].double() for x in states)
    error = ((after - before).pow(2).sum(-1) / before.pow(2).sum(-1)).mean().item()
    return (exact.exp() * (exact - four)).sum(-1).mean().item(), error


def divergence(weights, batch, down_hadamard):
    return divergence_and_error(weights, batch, down_hadamard)[0]


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
    plain, error_plain = divergence_and_error(weights, batch, False)
    assert tax["kl"] == pytest.approx(plain, rel=2e-2)
    assert tax["state_error"] == pytest.approx(error_plain, rel=2e-2)
    turned = with_down_hadamard(weights)
    own, error_own = divergence_and_error(turned, batch, True)
    assert tax["own"] == pytest.approx(own, rel=2e-2)
    assert tax["own_state_error"] == pytest.approx(error_own, rel=2e-2)
    # One half of the inputs rounded, weights and cache exact.
    for part, points in PARTS.items():
        half, _ = divergence_and_error(turned, batch, True, bits=(16, 4, 16), rounded=points)
        assert tax[part]["own"] == pytest.approx(half, rel=2e-2)
        assert len(tax[part]["rotated_values"]) == ROTATIONS
    # Other random rotations: equal within their spread.
    values = torch.tensor([divergence(rotated(turned, seed), batch, True) for seed in range(ROTATIONS)])
    error = (values.var().item() / ROTATIONS + tax["error"] ** 2) ** 0.5
    assert abs(tax["tax"] - (own - values.mean().item())) < 4 * error + 2e-2 * own
    assert len(tax["rotated_values"]) == ROTATIONS
    if size == 0:
        assert abs(tax["share"]) < 0.25
    else:
        assert tax["tax"] > 5 * error and tax["share"] > 0.15
        assert tax["rotated_state_error"] < tax["own_state_error"]
        # The outlier is in the stream: those who read it pay.
        assert tax["readers"]["tax"] > 5 * tax["readers"]["error"]
        assert abs(tax["generators"]["share"]) < tax["readers"]["share"] / 2


def test_eval_prints_both_halves_of_the_tax(text, run_program, tmp_path):
    path, _, tokenizer = text
    model = write_model_dir(tmp_path / "model", SHAPE, with_outlier(16.0), tokenizer)
    printed = run_program(["osp", "eval", str(model), "--data", str(path), "--bits", "4-4-4", "--tax"]).stdout
    for words in ("4-4-4: outlier tax", "R_L", "readers (q k v, gate up)", "generators (o, down)"):
        assert words in printed


def test_analyze_answers_what_the_outliers_cost(text, run_program, tmp_path):
    path, _, tokenizer = text
    model = write_model_dir(tmp_path / "model", SHAPE, with_outlier(16.0), tokenizer)
    command = ["osp", "analyze", str(model), "--data", str(path)]
    cost = json.loads(run_program([*command, "--json"]).stdout)["cost"]
    assert cost["outlier_tax"]["share"] > 0.15
    assert "% of the" in cost["verdict"][0] and "quarot" in cost["verdict"][2]
    assert cost["verdict"][-1].startswith("Which bits: ") and "R_L" in cost["verdict"][1]
    assert 0 < cost["outlier_tax"]["state_error"] < 1
    assert [remedy["options"] for remedy in cost["remedies"]] == REMEDIES
    assert len(cost["linears"]) == 7 * SHAPE.layers and len(cost["inputs"]) == 4 * SHAPE.layers
    assert [point["basis"] for point in cost["bases"]][:2] == ["own", "principal"]
    printed = run_program(command).stdout
    for words in (
        "outlier tax",
        "all but this",
        "informative SQNR",
        "What to do",
        "Which bits",
        "(R_L): as it is",
    ):
        assert words in printed


def test_what_cannot_be_measured_is_said(text, run_program, tmp_path):
    path, _, tokenizer = text
    model = write_model_dir(tmp_path / "model", SHAPE, with_outlier(0.0), tokenizer)
    skipped = run_program(["osp", "analyze", str(model), "--data", str(path), "--cost-tokens", "0"]).stdout
    assert "not measured: --cost-tokens is 0" in skipped
    rounded = run_program(["osp", "analyze", str(model), "--data", str(path), "--bits", "4-4-4"]).stdout
    assert "not measured: the model runs at 4-4-4" in rounded
    short = run_program(["osp", "analyze", str(model), "--data", str(path), "--data-tokens", "9"]).stdout
    assert f"not measured: the text has 9 tokens, fewer than one window of {SHAPE.context}" in short
