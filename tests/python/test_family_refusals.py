"""Model dirs of other families that must be refused by name: config.json, weights and their index."""

import json

import family_cases
import pytest
import torch
import transformers
from family_cases import CASES, FAMILIES, LONGROPE, TWO_ROPES, YARN, assert_refused, random_model
from safetensors.torch import load_file, save_file

probe = family_cases.probe

CONFIG_REFUSALS = {
    "activation": ("Llama", dict(hidden_act="quick_gelu"), ["hidden_act", "quick_gelu", "silu", "relu"]),
    "OPT activation": ("OPT", dict(activation_function="tanh"), ["activation_function", "gelu"]),
    "rope type": (
        "Llama",
        dict(rope_parameters={"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}),
        ["rope_type", "proportional", "llama3", "yarn"],
    ),
    "rope type of Phi-3": (
        "Phi3",
        dict(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
        ["rope_type", "llama3", "longrope"],
    ),
    "yarn without a factor": (
        "Llama",
        dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
        ["factor"],
    ),
    "yarn with a base of 1": (
        "Llama",
        dict(rope_parameters=dict(YARN, rope_theta=1.0)),
        ["rope_theta", "yarn"],
    ),
    "an absurd beta": ("Llama", dict(rope_parameters=dict(YARN, beta_fast=-3.0)), ["beta_fast", "-3"]),
    "a factor of attention that is text": (
        "Llama",
        dict(rope_parameters=dict(YARN, attention_factor="1")),
        ["attention_factor"],
    ),
    # Eight pairs of a head's 16 channels, and factors for six.
    "factors for other pairs": ("Llama", dict(rope_parameters=LONGROPE), ["short_factor", "8 numbers"]),
    "a factor of 0": (
        "Llama",
        dict(rope_parameters=dict(LONGROPE, short_factor=[1.0] * 8, long_factor=[0.0] * 8)),
        ["long_factor"],
    ),
    "factors that are text": (
        "Llama",
        dict(rope_parameters=dict(LONGROPE, short_factor=["1"] * 8)),
        ["short_factor"],
    ),
    "a key of another rope type": (
        "Llama",
        dict(rope_parameters={"rope_type": "linear", "factor": 2.0, "beta_fast": 3.0}),
        ["beta_fast"],
    ),
    "two rotary embeddings of a Llama": ("Llama", dict(rope_parameters=TWO_ROPES), ["full_attention"]),
    "one rotary embedding of OLMo-3": (
        "Olmo3",
        dict(rope_parameters=YARN),
        ["rope_parameters", "full_attention"],
    ),
    "a scaled rotary embedding of windows": (
        "Gemma3",
        dict(rope_parameters=dict(TWO_ROPES, sliding_attention=YARN)),
        ["sliding_attention", "unscaled"],
    ),
    "no growth of queries": ("Ministral3", dict(rope_parameters=YARN), ["llama_4_scaling_beta"]),
    "two directions": ("Gemma2", dict(use_bidirectional_attention=True), ["use_bidirectional_attention"]),
    "a cap of Gemma 3's attention": ("Gemma3", dict(attn_logit_softcapping=50.0), ["attn_logit_softcapping"]),
    "a cap of 0": ("Gemma2", dict(final_logit_softcapping=0.0), ["final_logit_softcapping"]),
    "a multiplier of 0": ("Granite", dict(residual_multiplier=0.0), ["residual_multiplier"]),
    "unknown kinds of layers": ("Ministral", dict(layer_types=["chunked_attention"] * 3), ["layer_types"]),
    "too few kinds of layers": ("Olmo3", dict(layer_types=["full_attention"]), ["layer_types"]),
    "joined shapes": ("Phi3", dict(intermediate_size=81), ["gate_up_proj", "[160, 48]", "[162, 48]"]),
    "llama3 without factors": (
        "Llama",
        dict(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0}),
        ["low_freq_factor"],
    ),
    "partial rotation of a Llama": ("Llama", dict(partial_rotary_factor=0.5), ["partial_rotary_factor"]),
    "odd rotation": (
        "GPTNeoX",
        dict(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.2}),
        ["partial_rotary_factor", "0.2"],
    ),
    "alternating window": (
        "Mistral window",
        dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        ["layer_types"],
    ),
    "window of a Llama": ("Llama", dict(sliding_window=8), ["sliding_window"]),
    "window that is text": ("Mistral window", dict(sliding_window="8"), ["sliding_window"]),
    "negative clip": ("Olmo", dict(clip_qkv=-1.0), ["clip_qkv"]),
    "QK LayerNorm": ("StableLm", dict(qk_layernorm=True), ["qk_layernorm"]),
    "norm after the branch": ("OPT", dict(do_layer_norm_before=False), ["do_layer_norm_before"]),
    "narrow embedding": ("OPT", dict(word_embed_proj_dim=24), ["word_embed_proj_dim", "48"]),
    "no final norm": ("OPT", {"_remove_final_layer_norm": True}, ["_remove_final_layer_norm"]),
    "quantized": ("Qwen3", dict(quantization_config={"bits": 4}), ["quantization_config"]),
    "architecture": ("Qwen3", dict(architectures=["MambaForCausalLM"]), ["Mamba", "Qwen3ForCausalLM", "OPT"]),
    "keys of osp": ("Olmo2", dict(osp_norm="rms"), ["osp_norm", "Olmo2ForCausalLM"]),
    "more positions than stored": ("OPT", dict(max_position_embeddings=65), ["embed_positions", "[67, 48]"]),
    "biases that are not stored": ("Qwen3", dict(attention_bias=True), ["q_proj.bias"]),
    "biases that config.json denies": ("OPT", dict(enable_bias=False), ["bias", "belongs to no part"]),
    "more heads than stored": ("Qwen2", dict(num_key_value_heads=4), ["k_proj", "[48, 48]"]),
}


@pytest.mark.parametrize("case", CONFIG_REFUSALS)
def test_config_that_osp_cannot_follow_is_refused_by_name(case, probe, tmp_path):
    family, changes, named = CONFIG_REFUSALS[case]
    random_model(family).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **changes)))
    assert_refused(probe(tmp_path, check=False), [str(tmp_path), *named])


def with_value(value):
    def change(weights):
        weights["gpt_neox.layers.1.attention.query_key_value.weight"].view(-1)[7] = value

    return change


WEIGHT_REFUSALS = {
    "NaN": (with_value(float("nan")), ["layers.1.attention.query_key_value.weight", "nan", "element 7"]),
    "infinity": (with_value(float("inf")), ["layers.1.attention.query_key_value.weight", "inf"]),
    "missing": (
        lambda w: w.pop("gpt_neox.final_layer_norm.bias"),
        ["gpt_neox.final_layer_norm.bias", "missing"],
    ),
    "surplus": (lambda w: w.update({"gpt_neox.extra": torch.ones(2)}), ["gpt_neox.extra"]),
    "integers": (
        lambda w: w.update({"gpt_neox.embed_in.weight": torch.ones(101, 64, dtype=torch.int8)}),
        ["gpt_neox.embed_in.weight", "I8", "BF16"],
    ),
    "fused shape": (
        lambda w: w.update({"gpt_neox.layers.0.attention.query_key_value.weight": torch.ones(64, 192)}),
        ["query_key_value", "[64, 192]", "[192, 64]"],
    ),
}


@pytest.mark.parametrize("case", WEIGHT_REFUSALS)
def test_weights_that_do_not_fit_are_refused_by_name(case, probe, tmp_path):
    change, named = WEIGHT_REFUSALS[case]
    random_model("GPTNeoX").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    assert_refused(probe(tmp_path, check=False), ["model.safetensors", *named])


@pytest.mark.parametrize("outside", [False, True])
def test_index_that_names_no_file_of_the_folder_is_refused(outside, probe, tmp_path):
    folder = tmp_path / "model"
    random_model("Olmo2").save_pretrained(folder, max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard = index["weight_map"]["model.norm.weight"]
    (folder / shard).rename(tmp_path / shard)
    if outside:
        for name, file in index["weight_map"].items():
            if file == shard:
                index["weight_map"][name] = "../" + shard
        path.write_text(json.dumps(index))
    result = probe(folder, check=False)
    assert result.returncode == 3 and shard in result.stderr
    assert result.stderr.count("\n") == 1


EXPERT_FAMILIES = {"Qwen3Moe": "Qwen3MoeConfig", "Olmoe": "OlmoeConfig", "GptOss": "GptOssConfig"}


@pytest.mark.parametrize("family", [*FAMILIES, *EXPERT_FAMILIES])
def test_one_shared_expert_or_dense_block_is_refused_in_every_family(family, run_program, tmp_path):
    """Where 1 is a number of parts, not a factor that changes nothing."""
    name, options = (EXPERT_FAMILIES[family], {}) if family in EXPERT_FAMILIES else CASES[family]
    config = json.loads(getattr(transformers, name)(**options).to_json_string())
    config["architectures"] = [name.removesuffix("Config").removesuffix("Text") + "ForCausalLM"]
    for key in ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "first_k_dense_replace"):
        for count, refused in ((1, True), (0, False)):
            (tmp_path / "config.json").write_text(json.dumps(config | {key: count}))
            command = ["osp", "export", tmp_path, "--format", "hf", "--out", tmp_path / "out"]
            stderr = run_program(command, check=False).stderr
            # Without that key the folder lacks its weights alone.
            assert (f'"{key}" = 1 is not supported' in stderr) == refused, (key, stderr)
            assert refused or "neither model.safetensors nor" in stderr, (key, stderr)
