"""Mixtures of experts against transformers: logits, greedy text, layouts of weights, refusals."""

import json

import family_cases
import pytest
import torch
import transformers
from expert_cases import (
    assert_narrow_shards_are_exact,
    assert_written_equals,
    pair_experts,
    put_random_weights,
)
from family_cases import LLAMA_LIKE, PROMPT, YARN, assert_refused, greedy
from safetensors.torch import load_file, save_file
from test_families import assert_equals, difference
from transformers import AutoModelForCausalLM

probe = family_cases.probe

QWEN = dict(LLAMA_LIKE, head_dim=16, moe_intermediate_size=32, num_experts=5, num_experts_per_tok=2)
OLMOE = dict(LLAMA_LIKE, num_experts=7, num_experts_per_tok=3)

# Name of the case → configuration class and its options.
CASES = {
    "Qwen3Moe": ("Qwen3MoeConfig", dict(QWEN, norm_topk_prob=True)),
    "Qwen3Moe as it comes": ("Qwen3MoeConfig", QWEN),
    "Qwen3Moe one expert per token": ("Qwen3MoeConfig", dict(QWEN, num_experts_per_tok=1)),
    "Qwen3Moe all experts": (
        "Qwen3MoeConfig",
        dict(QWEN, num_experts=3, num_experts_per_tok=3, norm_topk_prob=True),
    ),
    "Qwen3Moe one expert": ("Qwen3MoeConfig", dict(QWEN, num_experts=1, num_experts_per_tok=1)),
    "Qwen3Moe every second": (
        "Qwen3MoeConfig",
        dict(QWEN, num_hidden_layers=4, decoder_sparse_step=2, norm_topk_prob=True),
    ),
    "Qwen3Moe dense layers": (
        "Qwen3MoeConfig",
        dict(QWEN, mlp_only_layers=[0, 2], tie_word_embeddings=True, norm_topk_prob=True),
    ),
    "Qwen3Moe dense alone": ("Qwen3MoeConfig", dict(QWEN, mlp_only_layers=[0, 1, 2])),
    "Qwen3Moe many": (
        "Qwen3MoeConfig",
        dict(QWEN, num_experts=33, num_experts_per_tok=8, norm_topk_prob=True, rope_parameters=YARN),
    ),
    "Qwen3Moe window": ("Qwen3MoeConfig", dict(QWEN, use_sliding_window=True, sliding_window=5)),
    "Qwen3Moe biases": ("Qwen3MoeConfig", dict(QWEN, attention_bias=True, hidden_act="gelu")),
    # As wide as an expert's inner size: gate, up and down have one shape.
    "Qwen3Moe square": ("Qwen3MoeConfig", dict(QWEN, moe_intermediate_size=48, norm_topk_prob=True)),
    "Olmoe": ("OlmoeConfig", OLMOE),
    "Olmoe normalized": ("OlmoeConfig", dict(OLMOE, norm_topk_prob=True, tie_word_embeddings=True)),
    "Olmoe clipped": ("OlmoeConfig", dict(OLMOE, clip_qkv=0.7)),
    "Olmoe one expert per token": ("OlmoeConfig", dict(OLMOE, num_experts_per_tok=1)),
}


def random_model(case, **changes):
    name, options = CASES[case]
    torch.manual_seed(11)
    config = getattr(transformers, name)(**dict(options, **changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    put_random_weights(model)
    return model


@pytest.mark.parametrize("isa", [None, "portable"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_equal_transformers(case, isa, probe, tmp_path):
    assert_written_equals(random_model(case), tmp_path, probe, 13, isa)


@pytest.mark.parametrize(
    "case, changes",
    [
        ("Qwen3Moe", dict(norm_topk_prob=False)),
        ("Qwen3Moe", dict(num_experts_per_tok=3)),
        ("Olmoe", dict(norm_topk_prob=True)),
        ("Olmoe clipped", dict(clip_qkv=None)),
    ],
)
def test_each_switch_changes_the_logits(case, changes):
    """So that the test above could see a switch that osp passed over."""
    with torch.no_grad():
        a = random_model(case)(PROMPT).logits
        b = random_model(case, **changes)(PROMPT).logits
    assert difference(a, b) > 1e-3


@pytest.mark.parametrize("case", ["Qwen3Moe", "Olmoe"])
def test_equal_probabilities_choose_the_experts_of_transformers(case, probe, tmp_path):
    model = random_model(case, num_experts=6, num_experts_per_tok=3)
    for layer in model.model.layers:
        pair_experts(layer.mlp.gate)
    assert_written_equals(model, tmp_path, probe)


def joined_layout(weights):
    """The tensors of a folder with the experts of a block in one tensor, as transformers 5 holds them."""
    joined = {}
    experts = {}
    for name, tensor in weights.items():
        if ".experts." not in name:
            joined[name] = tensor
            continue
        block, rest = name.split("experts.")
        number, module, _ = rest.split(".")
        experts.setdefault(block, {})[int(number), module] = tensor
    for block, of in experts.items():
        count = 1 + max(number for number, _ in of)
        gate_up = [torch.cat([of[e, "gate_proj"], of[e, "up_proj"]]) for e in range(count)]
        joined[block + "experts.gate_up_proj"] = torch.stack(gate_up)
        joined[block + "experts.down_proj"] = torch.stack([of[e, "down_proj"] for e in range(count)])
    return joined


@pytest.mark.parametrize("case", ["Qwen3Moe", "Qwen3Moe dense layers", "Qwen3Moe square", "Olmoe"])
def test_experts_in_one_tensor_are_read_as_well(case, probe, tmp_path):
    model = random_model(case)
    model.save_pretrained(tmp_path)
    weights = joined_layout(load_file(tmp_path / "model.safetensors"))
    assert not any(".experts.0." in name for name in weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    tokens = greedy(model, PROMPT, 5)
    assert_equals(probe(tmp_path, tokens), model, tokens)


@pytest.mark.parametrize("case", ["Qwen3Moe", "Olmoe"])
def test_sharded_and_narrow_weights_are_read_exactly(case, probe, tmp_path):
    assert_narrow_shards_are_exact(random_model(case), tmp_path, probe)


# The values of published config.json files, and the sizes of tests in place of theirs.
QWEN3_30B_A3B = dict(
    architectures=["Qwen3MoeForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=151643,
    decoder_sparse_step=1,
    eos_token_id=151645,
    head_dim=128,
    hidden_act="silu",
    hidden_size=2048,
    initializer_range=0.02,
    intermediate_size=6144,
    max_position_embeddings=40960,
    max_window_layers=48,
    mlp_only_layers=[],
    model_type="qwen3_moe",
    moe_intermediate_size=768,
    norm_topk_prob=True,
    num_attention_heads=32,
    num_experts=128,
    num_experts_per_tok=8,
    num_hidden_layers=48,
    num_key_value_heads=4,
    output_router_logits=False,
    rms_norm_eps=1e-06,
    rope_scaling=None,
    rope_theta=1000000.0,
    router_aux_loss_coef=0.001,
    sliding_window=None,
    tie_word_embeddings=False,
    torch_dtype="bfloat16",
    transformers_version="4.51.0",
    use_cache=True,
    use_sliding_window=False,
    vocab_size=151936,
)
OLMOE_1B_7B = dict(
    architectures=["OlmoeForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    clip_qkv=None,
    eos_token_id=50279,
    hidden_act="silu",
    hidden_size=2048,
    initializer_range=0.02,
    intermediate_size=1024,
    max_position_embeddings=4096,
    model_type="olmoe",
    norm_topk_prob=False,
    num_attention_heads=16,
    num_experts=64,
    num_experts_per_tok=8,
    num_hidden_layers=16,
    num_key_value_heads=16,
    output_router_logits=False,
    pad_token_id=1,
    rms_norm_eps=1e-05,
    rope_scaling=None,
    rope_theta=10000.0,
    router_aux_loss_coef=0.01,
    tie_word_embeddings=False,
    torch_dtype="bfloat16",
    transformers_version="4.43.0.dev0",
    use_cache=True,
    vocab_size=50304,
)
# The published context stays.
SMALL = {key: value for key, value in LLAMA_LIKE.items() if key != "max_position_embeddings"}


@pytest.mark.parametrize(
    "published, case, small",
    [
        (QWEN3_30B_A3B, "Qwen3Moe", dict(SMALL, head_dim=16, moe_intermediate_size=32)),
        (OLMOE_1B_7B, "Olmoe", SMALL),
    ],
)
def test_a_published_config_is_read(published, case, small, probe, tmp_path):
    """With the published number of experts; the model that transformers makes of the same file."""
    config = dict(published, **small)
    sizes = {key: value for key, value in config.items() if key in small or "expert" in key}
    model = random_model(case, **sizes, norm_topk_prob=config["norm_topk_prob"])
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = greedy(read, PROMPT, 3)
    assert_equals(probe(tmp_path, tokens), read, tokens)


@pytest.mark.parametrize("published", [QWEN3_30B_A3B, OLMOE_1B_7B])
def test_a_published_config_in_its_own_sizes_asks_for_its_tensors(published, probe, tmp_path):
    """The file as it is, beside weights that are not the model's."""
    (tmp_path / "config.json").write_text(json.dumps(published))
    save_file({"model.embed_tokens.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    result = probe(tmp_path, check=False)
    shape = f"[{published['vocab_size']}, 2048]"
    assert result.returncode == 3 and "model.embed_tokens.weight" in result.stderr
    assert shape in result.stderr


# ---- what must be refused -------------------------------------------------------------------------

CONFIG_REFUSALS = {
    "too many per token": ("Qwen3Moe", dict(num_experts_per_tok=6), ["6 experts per token", "1 to 5"]),
    "none per token": ("Olmoe", dict(num_experts_per_tok=0), ["num_experts_per_tok", "0"]),
    "no experts": ("Qwen3Moe", dict(num_local_experts=0), ["num_local_experts", "0"]),
    "absurdly many": ("Olmoe", dict(num_experts=10**7), ["10000000", "65536"]),
    "text": ("Olmoe", dict(num_experts="7"), ["num_experts"]),
    "fewer than stored": ("Qwen3Moe", dict(num_local_experts=4), ["mlp.gate.weight", "[5, 48]", "[4, 48]"]),
    "more than stored": ("Qwen3Moe", dict(num_local_experts=6), ["mlp.gate.weight", "[5, 48]", "[6, 48]"]),
    "another inner size": (
        "Qwen3Moe",
        dict(moe_intermediate_size=33),
        ["experts.0.gate_proj.weight", "[32, 48]", "[33, 48]"],
    ),
    "no inner size": ("Qwen3Moe", dict(moe_intermediate_size=0), ["moe_intermediate_size"]),
    "a dense layer that is stored sparse": ("Qwen3Moe", dict(mlp_only_layers=[1]), ["layers.1.mlp"]),
    "a layer that is none": ("Qwen3Moe", dict(mlp_only_layers=[3]), ["mlp_only_layers", "0 to 2"]),
    "no step": ("Qwen3Moe", dict(decoder_sparse_step=0), ["decoder_sparse_step"]),
    "a shared expert": (
        "Qwen3Moe",
        dict(shared_expert_intermediate_size=64),
        ["shared_expert_intermediate_size", "64"],
    ),
    "shared experts": ("Olmoe", dict(n_shared_experts=2), ["n_shared_experts"]),
    "sigmoid scores": ("Qwen3Moe", dict(scoring_func="sigmoid"), ["scoring_func", "sigmoid", "softmax"]),
    "groups of experts": ("Olmoe", dict(n_group=8), ["n_group"]),
    "a factor of the routed part": (
        "Qwen3Moe",
        dict(routed_scaling_factor=2.5),
        ["routed_scaling_factor"],
    ),
    "experts of a dense family": ("dense", dict(num_local_experts=8), ["num_local_experts"]),
}


@pytest.mark.parametrize("case", CONFIG_REFUSALS)
def test_config_that_osp_cannot_follow_is_refused_by_name(case, probe, tmp_path):
    family, changes, named = CONFIG_REFUSALS[case]
    if family == "dense":
        transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**LLAMA_LIKE)).save_pretrained(tmp_path)
    else:
        random_model(family).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **changes)))
    assert_refused(probe(tmp_path, check=False), [str(tmp_path), *named])


@pytest.mark.parametrize(
    "changes", [dict(n_shared_experts=0), dict(n_group=1, topk_group=1), dict(scoring_func="softmax")]
)
def test_keys_that_change_nothing_are_passed_over(changes, probe, tmp_path):
    model = random_model("Qwen3Moe")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **changes)))
    tokens = greedy(model, PROMPT, 2)
    assert_equals(probe(tmp_path, tokens), model, tokens)


E1 = "model.layers.1.mlp.experts.1."


def with_nan(weights):
    weights[E1 + "up_proj.weight"][3, 2] = float("nan")


def with_nan_joined(weights):
    joined = joined_layout(weights)
    joined["model.layers.1.mlp.experts.down_proj"][2, 1, 0] = float("nan")
    weights.clear()
    weights.update(joined)


def with_a_joined_one_missing(weights):
    joined = joined_layout(weights)
    del joined["model.layers.2.mlp.experts.down_proj"]
    weights.clear()
    weights.update(joined)


def with_fewer_joined(weights):
    joined = joined_layout(weights)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    joined[name] = joined[name][:4].clone()
    weights.clear()
    weights.update(joined)


def with_both_layouts(weights):
    weights.update(joined_layout(weights))


WEIGHT_REFUSALS = {
    "NaN": (with_nan, [E1 + "up_proj.weight", "nan"]),
    "NaN in one tensor": (with_nan_joined, ["layers.1.mlp.experts.down_proj", "nan"]),
    "an expert is missing": (lambda w: w.pop(E1 + "down_proj.weight"), [E1 + "down_proj.weight", "missing"]),
    "the router is missing": (lambda w: w.pop("model.layers.2.mlp.gate.weight"), ["layers.2.mlp.gate"]),
    "one tensor is missing": (with_a_joined_one_missing, ["layers.2.mlp.experts.down_proj", "missing"]),
    "fewer in one tensor": (with_fewer_joined, ["gate_up_proj", "[4, 64, 48]", "[5, 64, 48]"]),
    "both layouts": (with_both_layouts, ["experts.0.down_proj.weight", "belongs to no part"]),
    "turned": (
        lambda w: w.update({E1 + "down_proj.weight": torch.ones(32, 48)}),
        [E1 + "down_proj.weight", "[32, 48]", "[48, 32]"],
    ),
}


@pytest.mark.parametrize("case", WEIGHT_REFUSALS)
def test_weights_that_do_not_fit_are_refused_by_name(case, probe, tmp_path):
    change, named = WEIGHT_REFUSALS[case]
    random_model("Qwen3Moe").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    assert_refused(probe(tmp_path, check=False), ["model.safetensors", *named])
