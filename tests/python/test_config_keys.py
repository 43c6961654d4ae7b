"""Every key about rotation, scale or window, at every level where it may stand: osp computes what
transformers computes, or refuses the file with the key's name."""

import json
import subprocess

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3,
             intermediate_size=96, vocab_size=96, max_position_embeddings=64, bos_token_id=None,
             eos_token_id=None, pad_token_id=None)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_type": "linear", "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
LONG = {"rope_type": "longrope", "short_factor": [1.5] * 8, "long_factor": [2.5] * 8}
SU = {"type": "su", "short_factor": [1.5] * 8, "long_factor": [2.5] * 8}

# What config.json says, and whether osp follows it (else it names the key).
VARIANTS = {
    "theta beside": ("llama", {"rope_theta": 500.0}, True),
    "theta inside": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, True),
    "theta inside wins": (
        "llama",
        {"rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        True,
    ),
    "scaling replaces parameters": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_scaling": LINEAR},
        True,
    ),
    "scaling replaces parameters, theta beside": (
        "llama",
        {
            "rope_theta": 300.0,
            "rope_parameters": {**LINEAR, "factor": 8.0, "rope_theta": 500.0},
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16},
        },
        True,
    ),
    "empty scaling replaces nothing": (
        "llama",
        {"rope_parameters": {**LINEAR, "rope_theta": 500.0}, "rope_scaling": {}},
        True,
    ),
    "theta inside scaling": ("llama", {"rope_scaling": {**LINEAR, "rope_theta": 500.0}}, True),
    "theta inside scaling, another beside": (
        "llama",
        {"rope_theta": 77.0, "rope_scaling": {**LINEAR, "rope_theta": 500.0}},
        True,
    ),
    "theta inside a scaling of the default type": (
        "llama",
        {"rope_scaling": {"rope_type": "default", "rope_theta": 500.0}},
        True,
    ),
    "partial rotation inside parameters": (
        "stablelm",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        True,
    ),
    "partial rotation inside parameters, another beside": (
        "stablelm",
        {
            "partial_rotary_factor": 0.25,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        True,
    ),
    "partial rotation inside parameters of a Llama": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        False,
    ),
    "partial rotation inside scaling of a Llama": (
        "llama",
        {"rope_scaling": {**LINEAR, "partial_rotary_factor": 0.5}},
        False,
    ),
    "longrope in a Llama": (
        "llama",
        {"rope_scaling": {**LONG, "original_max_position_embeddings": 32}},
        True,
    ),
    "longrope in a Llama, original context beside": (
        "llama",
        {"rope_scaling": LONG, "original_max_position_embeddings": 32},
        True,
    ),
    "longrope in a Llama with a factor": ("llama", {"rope_scaling": {**LONG, "factor": 2.0}}, True),
    "linear with an original context": (
        "llama",
        {"rope_scaling": {**LINEAR, "original_max_position_embeddings": 16}},
        True,
    ),
    "linear, original context beside": (
        "llama",
        {"rope_scaling": LINEAR, "original_max_position_embeddings": 16},
        True,
    ),
    "dynamic with an original context": (
        "llama",
        {"rope_scaling": {**DYNAMIC, "original_max_position_embeddings": 16}},
        True,
    ),
    "dynamic, original context beside": (
        "llama",
        {"rope_scaling": DYNAMIC, "original_max_position_embeddings": 16},
        True,
    ),
    "type": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, True),
    "rope_type before type": ("llama", {"rope_scaling": {**LINEAR, "type": "default"}}, True),
    "type before rope_type": ("llama", {"rope_scaling": {"type": "default", **LINEAR}}, True),
    "original context beside": (
        "llama",
        {
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32},
            "original_max_position_embeddings": 16,
        },
        True,
    ),
    "original context from the context": ("llama", {"rope_scaling": LLAMA3}, True),
    "partial rotation in a Llama": ("llama", {"partial_rotary_factor": 0.5}, False),
    "yarn": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, True),
    "yarn, original context beside": (
        "llama",
        {
            "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
            "original_max_position_embeddings": 16,
        },
        True,
    ),
    "yarn with a key of longrope": (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "long_factor": [1.0] * 8}},
        False,
    ),
    "yarn that derives its factor": (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16}},
        True,
    ),
    "yarn with a magnitude of 0": (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.0}},
        None,
    ),
    "partial rotation null in GLM": ("glm", {"partial_rotary_factor": None}, False),
    "proportional": ("llama", {"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, False),
    "old name of longrope in Phi-3": (
        "phi3",
        {
            "rope_scaling": {**SU, "original_max_position_embeddings": 32},
            "original_max_position_embeddings": 64,
        },
        True,
    ),
    "original context of Phi-3 inside": (
        "phi3",
        {"rope_scaling": {**SU, "original_max_position_embeddings": 8}},
        True,  # passed over: the key beside has a default
    ),
    "dynamic within the context": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, True),
    "multipliers of Granite": ("granite", {"residual_multiplier": 0.3, "logits_scaling": 4.0}, True),
    "default multipliers of Granite": ("granite", {}, True),
    "rope beside in OLMo-3": ("olmo3", {"rope_theta": 300.0}, True),
    "scaling beside in OLMo-3": (
        "olmo3",
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}},
        True,
    ),
    "one rope in OLMo-3": ("olmo3", {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}, False),
    "local base of Gemma 3": ("gemma3_text", {"rope_local_base_freq": 100.0, "rope_theta": 900.0}, True),
    "pattern of Gemma 3": ("gemma3_text", {"sliding_window_pattern": 2, "sliding_window": 4}, True),
    "window of Gemma 2": ("gemma2", {"sliding_window": 4}, True),
    "caps of Gemma 2": ("gemma2", {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 0.5}, True),
    "both directions in Gemma 3": ("gemma3_text", {"use_bidirectional_attention": True}, False),
    "partial rotation of GLM-4": ("glm4", {"partial_rotary_factor": 0.25}, True),
    "default partial rotation of Nemotron": ("nemotron", {}, True),
    "attention factor": ("llama", {"rope_scaling": {**LINEAR, "attention_factor": 0.5}}, False),
    "unknown rope key": ("llama", {"rope_local_base_freq": 100.0}, False),
    "interleaved": ("llama", {"rope_interleaved": True}, False),
    "not interleaved": ("llama", {"rope_interleaved": False}, True),
    "attention multiplier": ("llama", {"attention_multiplier": 0.5}, False),
    "neutral multiplier": ("llama", {"residual_multiplier": 1.0}, True),
    "softcap": ("llama", {"attn_logit_softcapping": 30.0}, False),
    "window in a Llama": ("llama", {"sliding_window": 4}, False),
    "window of Mistral": ("mistral", {"sliding_window": 4}, True),
    "chunks": ("mistral", {"sliding_window": None, "attention_chunk_size": 8}, False),
    "window switched off": ("qwen2", {"use_sliding_window": False, "sliding_window": 4}, True),
    "window from a layer on": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        True,
    ),
    "layer types decide": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 0,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
        True,
    ),
    "layer types all full": (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "layer_types": ["full_attention"] * 3,
        },
        True,
    ),
    "layer types that alternate": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        True,
    ),
    "layers without rotation": ("smollm3", {"no_rope_layers": [0, 1, 0]}, True),
    "layers without rotation by interval": ("smollm3", {"no_rope_layer_interval": 2}, True),
    "more layers without rotation than layers": ("smollm3", {"no_rope_layers": [1, 0, 1, 0, 0]}, True),
    "layers without rotation in a Llama": ("llama", {"no_rope_layers": [0, 1, 0]}, False),
    "window in SmolLM3": ("smollm3", {"use_sliding_window": True, "sliding_window": 4}, False),
    "window of SmolLM3 switched off": ("smollm3", {"use_sliding_window": False, "sliding_window": 4}, True),
    "base of SmolLM3": ("smollm3", {"rope_theta": 5000000.0}, True),
    "key and value heads null": ("qwen2", {"num_key_value_heads": None}, True),
    "old names of GPT-NeoX": ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 500}, True),
    "old and new names of GPT-NeoX disagree": (
        "gpt_neox",
        {"rotary_emb_base": 500, "rope_theta": 700.0},
        False,
    ),
    "new name alone in GPT-NeoX": ("gpt_neox", {"rope_theta": 700.0}, False),
    "parameters of GPT-NeoX": (
        "gpt_neox",
        {
            "rotary_emb_base": 500,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        },
        True,
    ),
    "partial rotation of StableLM": ("stablelm", {"partial_rotary_factor": 0.5}, True),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_key_is_followed_as_transformers_does_or_refused_by_name(name, osp_build, tmp_path):
    family, changes, follows = VARIANTS[name]
    torch.manual_seed(0)
    heads = {k: v for k, v in changes.items() if k == "num_key_value_heads"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **heads}))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.1) + (p.dim() == 1))
    model.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for key in [k for k in config if "rope" in k or "rotary" in k or "window" in k or k == "layer_types"]:
        del config[key]
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, **changes}))
    tokens = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    save_file({"tokens": tokens, "targets": tokens.clone()}, tmp_path / "in.safetensors")
    command = [osp_build / "model_probe", tmp_path / "m", tmp_path / "in.safetensors",
               tmp_path / "out.safetensors", "--forward"]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    if follows is None:
        assert result.returncode != 0 and "attention_factor" in result.stderr, result.stderr
        return
    if not follows:
        assert result.returncode != 0 and "not supported" in result.stderr, result.stderr
        inner = [key for value in changes.values() if isinstance(value, dict) for key in value]
        assert any(key in result.stderr for key in [*changes, *inner]), result.stderr
        return
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(
            tmp_path / "m", dtype=torch.float32, attn_implementation="eager"
        )  # the other implementations know no cap
        wanted = reference(tokens).logits
    found = load_file(tmp_path / "out.safetensors")["logits"]
    # transformers' angles are fp32.
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


GGUF_KEYS = [
    ("rope.scaling.type", "yarn", False),
    ("rope.scaling.type", "none", True),
    ("rope.scaling.type", "linear", True),  # without its factor, as llama.cpp takes it for granted
    ("rope.scaling.factor", 2.0, False),
    ("rope.scaling.factor", 1.0, True),
    ("rope.scaling.factor", 0.0, True),
    ("rope.scale_linear", 2.0, False),  # llama.cpp's old name of the factor
    ("rope.scale_linear", 1.0, True),
    ("rope.scaling.attn_factor", 2.0, False),
    ("rope.scaling.attn_factor", 1.0, True),
    ("rope.scaling.attn_factor", 0.0, False),
    ("rope.scaling.yarn_attn_factor", 1.0, True),
    ("rope.scaling.yarn_ext_factor", 1.0, False),
    ("rope.scaling.yarn_ext_factor", 0.0, True),
    ("rope.dimension_sections", [8, 8], False),
    ("rope.dimension_sections", [0, 0, 0, 0], True),
    ("rope.freq_base_swa", 500.0, False),
    ("rope.freq_base_swa", 1e4, True),
    ("attention.key_length_swa", 16, True),
    ("attention.sliding_window", 128, False),
    ("attention.sliding_window", 0, True),
    ("attention.sliding_window_pattern", 2, False),
    ("attention.sliding_window_pattern", [False], True),
    ("attention.sliding_window_pattern", [True], False),
    ("attention.scale", 0.5, False),
    ("attention.scale", 0.25, True),  # 1 / sqrt of 16 channels
    ("attention.clamp_kqv", 8.0, False),
    ("attention.max_alibi_bias", 8.0, False),
    ("attention.causal", False, False),
    ("attention.causal", True, True),
    ("attention.output_scale", 1.0, True),
    ("attention.temperature_scale", 0.1, False),
    ("attn_logit_softcapping", 30.0, False),
    ("final_logit_softcapping", 30.0, False),
    ("logit_scale", 0.5, False),
    ("logit_scale", 1.0, True),
    ("residual_scale", 0.5, False),
    ("residual_scale", 1.0, True),
    ("residual_scale", [1.0], True),
    ("residual_scale", [0.5], False),
    ("embedding_scale", 2.0, False),
    ("embedding_scale", 1.0, True),
    ("use_parallel_residual", True, False),
    ("use_parallel_residual", False, True),
    ("swiglu_clamp_exp", [0.0], True),
    ("swiglu_clamp_exp", [7.0], False),
    ("expert_count", 8, False),
    ("expert_used_count", 0, True),
    ("expert_weights_scale", 1.0, True),
    ("full_attention_interval", 4, False),
    ("a_key_of_tomorrow", 1, False),
    ("a_key_of_tomorrow", 0, True),
]
# The names of keys of an architecture that osp follows, and those that it knows to inform alone; all others
# are refused with a value that asks for something.
FOLLOWED = {
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
}
INFORMING = {
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "attention.layer_norm_epsilon",
    "tensor_data_layout",
    "pooling_type",
    "classifier.output_labels",
    "decoder_start_token_id",
}
# Groups whose keys are no model's text: the file, its parts, tokenizer, adapters, pictures and sound.
ASIDE = ("general.", "split.", "tokenizer.", "adapter.", "imatrix.", "clip.")
SIZES_OF_GGUF = {
    "block_count": 1,
    "context_length": 32,
    "embedding_length": 32,
    "feed_forward_length": 32,
    "attention.head_count": 2,
    "attention.key_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 1e4,
}


def names_of_keys(group=gguf.Keys):
    """All names that the package has, "{arch}." in front of those of an architecture."""
    for name, value in vars(group).items():
        if isinstance(value, type):
            yield from names_of_keys(value)
        elif isinstance(value, str) and not name.startswith("_"):
            yield value


def add_key(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def llama_file(path, metadata):
    """A Llama of one block of ones, with these keys beside its sizes or in their place."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {**{f"llama.{k}": v for k, v in SIZES_OF_GGUF.items()}, **metadata}.items():
        add_key(writer, name, value)
    shapes = {"token_embd": (50, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{name}"] = (32, 32)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def exported(run_program, tmp_path):
    """exported(metadata): what `osp export` says of a Llama with these keys."""
    return lambda metadata: run_program(
        ["osp", "export", llama_file(tmp_path / "m.gguf", metadata), "--format", "hf",
         "--out", tmp_path / "o"], check=False
    )  # fmt: skip


@pytest.mark.parametrize("key, value, follows", GGUF_KEYS, ids=str)
def test_a_key_of_gguf_metadata_is_neutral_or_refused_by_name(key, value, follows, exported):
    result = exported({f"llama.{key}": value})
    if follows:
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode == 3 and f"llama.{key} = " in result.stderr, result.stderr


def test_the_package_has_no_key_of_an_unknown_group():
    groups = {name.split(".")[0] + "." for name in names_of_keys()}
    assert groups == {"{arch}.", "diffusion.", "xielu.", *ASIDE}


@pytest.mark.parametrize("name", sorted({n for n in names_of_keys() if not n.startswith(ASIDE)}))
def test_no_name_that_llama_cpp_has_is_passed_over(name, exported, tmp_path):
    key = name.format(arch="llama", dense="dense_2")
    short = name.removeprefix("{arch}.")
    result = exported({key: 3})
    if short in INFORMING or (short in FOLLOWED and short.startswith("expert_")):
        assert result.returncode == 0, result.stderr  # no model of experts: nothing has that size
    elif short in FOLLOWED:
        assert result.returncode in (0, 3), result.stderr
        if result.returncode == 0:  # else the tensors of the file are not those of such a model
            config = json.loads((tmp_path / "o" / "config.json").read_text())
            assert 3 in config.values() or 3.0 in config["rope_parameters"].values(), config
    else:
        assert result.returncode == 3 and f"{key} = 3 is not supported" in result.stderr, result.stderr
