"""Attention sinks, tap points and weights of osp analyze against transformers on a random Llama."""

import json

import pytest
import torch
from test_eval import SHAPE, centred, clipped, model, windows  # noqa: F401 (model is a fixture)


@pytest.fixture(scope="module")
def analysis(model, run_program):  # noqa: F811
    """osp's JSON, and what transformers computes on the same windows."""
    folder, llama, text, ids = model
    out = json.loads(run_program(["osp", "analyze", folder, "--data", text, "--json"]).stdout)
    seen = {"input": [], "product": [], "value": [], "key": []}
    hooks = []
    for layer in llama.model.layers:
        hooks.append(
            layer.self_attn.q_proj.register_forward_pre_hook(lambda m, i: seen["input"].append(i[0]))
        )
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(lambda m, i: seen["product"].append(i[0])))
        hooks.append(layer.self_attn.v_proj.register_forward_hook(lambda m, i, o: seen["value"].append(o)))
        hooks.append(layer.self_attn.k_proj.register_forward_hook(lambda m, i, o: seen["key"].append(o)))
    with torch.no_grad():
        result = llama(windows(ids), output_attentions=True)
    for hook in hooks:
        hook.remove()
    return out, llama, windows(ids), seen, result.attentions


def test_shares_of_attention_equal_transformers(analysis):
    out, _, batch, seen, attentions = analysis
    sinks = out["attention_sinks"]
    B, T = batch.shape
    assert (sinks["sequences"], sinks["length"]) == (B, T)
    assert sinks["heads"] == SHAPE.layers * SHAPE.heads == len(sinks["per_head"])
    queries = torch.arange(T, 0, -1).double()
    first_sinks = 0
    for head in sinks["per_head"]:
        share = attentions[head["layer"]][:, head["head"]].double().sum(1) / queries  # [B, T] by key
        # fp32 softmax of logits that agree to 1e-5 of their size.
        assert head["first"]["share"] == pytest.approx(share[:, 0].mean().item(), rel=1e-3)
        strongest = share[:, : T // 2].max(1)
        assert head["strongest"]["share"] == pytest.approx(strongest.values.mean().item(), rel=1e-3)
        assert head["strongest_is_first"] == pytest.approx(
            (strongest.indices == 0).double().mean().item(), abs=0.11
        )
        by_position = share[:, : T // 2].mean(0)
        top = head["top_positions"][0]
        assert top["share"] == pytest.approx(by_position.max().item(), rel=1e-3)
        group = head["head"] // (SHAPE.heads // SHAPE.kv_heads)
        for name in ("key", "value"):  # the rotation keeps the norm of a key
            norms = seen[name][head["layer"]].view(B, T, SHAPE.kv_heads, -1)[:, :, group].norm(dim=-1)
            assert head["first"][f"{name}_norm"] == pytest.approx(norms[:, 0].mean().item(), rel=1e-4)
            assert head["first"][f"other_{name}_norm"] == pytest.approx(norms[:, 1:].mean().item(), rel=1e-4)
        first_sinks += share[:, 0].mean().item() > sinks["threshold"]
    assert sinks["first_sink_heads"] == first_sinks


def test_gap_of_logits_equals_that_of_log_attention(analysis):
    """log a_ts differs from z_ts by a number of the query alone, which the gap does not see."""
    out, _, batch, _, attentions = analysis
    T = batch.shape[1]
    for head in out["attention_sinks"]["per_head"]:
        log = attentions[head["layer"]][:, head["head"]].double().log()
        gaps = [log[:, t, 0] - log[:, t, 1 : t + 1].mean(-1) for t in range(1, T)]
        assert head["first"]["gap"] == pytest.approx(torch.stack(gaps).mean().item(), rel=1e-3, abs=1e-3)


def test_points_equal_the_independent_computation(analysis):
    out, _, _, seen, _ = analysis
    points = {(p["point"], p["layer"]): p for p in out["points"]}
    for name, key in (("attention_input", "input"), ("mlp_product", "product")):
        for layer in range(SHAPE.layers):
            x, point = seen[key][layer], points[name, layer]
            kurtosis = point["excess_kurtosis"]
            assert kurtosis["context"] == pytest.approx(centred(x).mean().item(), rel=1e-3, abs=1e-3)
            assert kurtosis["context_clipped"] == pytest.approx(clipped(x).mean().item(), rel=1e-3, abs=1e-3)
            rms = x.double().square().mean((0, 1)).sqrt()
            assert point["top_channels"][0]["channel"] == rms.argmax().item()
            upper_median = rms.sort().values[rms.numel() // 2]
            assert point["channel_spread"] == pytest.approx((rms.max() / upper_median).item(), rel=1e-4)
            rows = x.double().flatten(0, 1)
            spread = rows.amax(1).clamp(min=0) - rows.amin(1).clamp(max=0)
            rest = rows.scatter(1, rows.abs().argmax(1, keepdim=True), 0)
            without = rest.amax(1).clamp(min=0) - rest.amin(1).clamp(max=0)
            assert point["step_share"] == pytest.approx((1 - without / spread).mean().item(), rel=1e-3)
            step = (spread / 15).unsqueeze(1)
            zero = (-rows.amin(1, keepdim=True).clamp(max=0) / step).round()
            error = step * (((rows / step).round() + zero).clamp(0, 15) - zero) - rows
            sqnr = 10 * torch.log10(rows.square().sum() / error.square().sum()).item()
            # Numbers that lie between two codes may be rounded either way.
            assert point["sqnr_db"] == pytest.approx(sqnr, abs=0.05)
            assert abs(point["predicted_sqnr_db"] - sqnr) < 1.5


def test_largest_activations_have_their_text(analysis):
    out, _, batch, _, _ = analysis
    values = [abs(a["value"]) for a in out["largest_activations"]]
    assert values == sorted(values, reverse=True) and len(values) == 20
    for activation in out["largest_activations"]:
        assert activation["token_id"] == batch[activation["sequence"], activation["position"]].item()
        assert isinstance(activation["before"], str) and isinstance(activation["after"], str)
    hurts = [h["sqnr_per_token_db"] for h in out["hurts_most"]]
    assert hurts == sorted(hurts)
    worst = [p["sqnr_per_token_db"] for p in out["points"] if p["sqnr_per_token_db"] is not None]
    assert hurts[0] == min(worst)


def test_weights_equal_the_independent_computation(analysis):
    out, llama, _, _, _ = analysis
    weights = {w["name"]: w for w in out["weights"]}
    parameters = {n: p for n, p in llama.named_parameters() if p.dim() == 2}
    assert set(weights) == set(parameters)
    for name, parameter in parameters.items():
        w, summary = parameter.detach().double(), weights[name]
        assert summary["shape"] == list(w.shape)
        assert summary["excess_kurtosis"] == pytest.approx(centred(w.flatten()).item(), rel=1e-6, abs=1e-6)
        assert summary["largest"] == pytest.approx(w.abs().max().item(), rel=1e-6)
        assert w[summary["row"], summary["column"]].abs().item() == pytest.approx(
            summary["largest"], rel=1e-6
        )
        is_table = name in ("model.embed_tokens.weight", "lm_head.weight")
        assert (summary["sqnr_db"] is None) == is_table
        if not is_table:
            assert 15 < summary["sqnr_db"] < 30  # a Gaussian row has about 20 dB


def test_bits_and_quantized_folders_are_analyzed(model, run_program, tmp_path):  # noqa: F811
    folder, _, text, _ = model

    def run(where, *options):
        return json.loads(run_program(["osp", "analyze", where, "--data", text, *options, "--json"]).stdout)

    plain, four = run(folder, "--sink-tokens", "0"), run(folder, "--bits", "4-4-4")
    assert plain["attention_sinks"] is None and four["attention_sinks"]["heads"] > 0
    assert (plain["bits"], four["bits"]) == ("16-16-16", "4-4-4")
    assert plain["excess_kurtosis"]["per_layer"][0] == four["excess_kurtosis"]["per_layer"][0]
    assert plain["excess_kurtosis"]["per_layer"][1] != four["excess_kurtosis"]["per_layer"][1]
    run_program(["osp", "quantize", folder, "--method", "rtn", "--bits", "4-4-4", "--out", tmp_path / "q"])
    stored = run(tmp_path / "q")
    assert stored["bits"] == "4-4-4"
    # The same grids; scales are stored in bf16 or fp16.
    assert stored["excess_kurtosis"]["mean"] == pytest.approx(four["excess_kurtosis"]["mean"], abs=0.1)
    result = run_program(["osp", "analyze", tmp_path / "q", "--data", text, "--bits", "4-8-8"], check=False)
    assert result.returncode == 2 and "leave out --bits" in result.stderr
    result = run_program(["osp", "analyze", folder, "--data", text, "--bits", "1-4-4"], check=False)
    assert result.returncode == 2 and "bits" in result.stderr
