"""Small random models of every family by transformers, and osp's logits of them, for the families' tests."""

import os
import subprocess

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SIZES = dict(
    vocab_size=101,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LLAMA_LIKE = dict(SIZES, intermediate_size=80, num_key_value_heads=2)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)

# Factors of wavelengths for six pairs of channels, those of a head of 12.
SHORT = [1.0, 1.1, 1.3, 1.5, 1.8, 2.0]
LONG = [1.0, 1.5, 2.5, 4.0, 6.0, 8.0]
LONGROPE = dict(rope_type="longrope", rope_theta=500.0, short_factor=SHORT, long_factor=LONG)
YARN = dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=16)
# Two rotary embeddings by the kind of block.
TWO_ROPES = {
    "full_attention": dict(YARN, beta_fast=2.0),
    "sliding_attention": dict(rope_type="default", rope_theta=50.0),
}
GEMMA = dict(
    LLAMA_LIKE,
    head_dim=16,
    sliding_window=5,
    query_pre_attn_scalar=10,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)
GRANITE = dict(
    LLAMA_LIKE,
    embedding_multiplier=3.5,
    residual_multiplier=0.7,
    attention_multiplier=0.11,
    logits_scaling=1.7,
)

# Name of the case → configuration class and its options.
CASES = {
    "Llama": ("LlamaConfig", dict(LLAMA_LIKE, head_dim=16)),
    "Llama tied": ("LlamaConfig", dict(LLAMA_LIKE, tie_word_embeddings=True)),
    "Llama 3 rope": ("LlamaConfig", dict(LLAMA_LIKE, rope_parameters=LLAMA3_ROPE)),
    "Llama linear rope": (
        "LlamaConfig",
        dict(LLAMA_LIKE, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=2.5)),
    ),
    "Llama yarn": ("LlamaConfig", dict(LLAMA_LIKE, rope_parameters=YARN)),
    "Llama yarn to the pair": (
        "LlamaConfig",
        dict(LLAMA_LIKE, rope_parameters=dict(YARN, beta_fast=3.0, beta_slow=0.2, truncate=False)),
    ),
    "Llama yarn with a factor": (
        "LlamaConfig",
        dict(LLAMA_LIKE, rope_parameters=dict(YARN, attention_factor=1.3)),
    ),
    "Llama yarn with scales": (
        "LlamaConfig",
        dict(LLAMA_LIKE, rope_parameters=dict(YARN, mscale=0.7, mscale_all_dim=1.9)),
    ),
    "Llama longrope": (
        "LlamaConfig",
        dict(LLAMA_LIKE, rope_parameters=dict(LONGROPE, original_max_position_embeddings=32)),
    ),
    "Llama longrope with a factor": (
        "LlamaConfig",
        dict(
            LLAMA_LIKE,
            rope_parameters=dict(LONGROPE, factor=9.0, attention_factor=1.4),
            original_max_position_embeddings=48,
        ),
    ),
    "Llama dynamic rope": (
        "LlamaConfig",
        dict(LLAMA_LIKE, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.5)),
    ),
    "Llama biases": ("LlamaConfig", dict(LLAMA_LIKE, attention_bias=True, mlp_bias=True)),
    "Llama gelu": ("LlamaConfig", dict(LLAMA_LIKE, hidden_act="gelu_pytorch_tanh")),
    "Mistral": ("MistralConfig", dict(LLAMA_LIKE, sliding_window=None)),
    "Mistral window": ("MistralConfig", dict(LLAMA_LIKE, sliding_window=5)),
    "Qwen2": ("Qwen2Config", LLAMA_LIKE),
    "Qwen2 window": (
        "Qwen2Config",
        dict(LLAMA_LIKE, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    ),
    "Qwen2 windows by layer": (
        "Qwen2Config",
        dict(
            LLAMA_LIKE,
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    "Qwen3": ("Qwen3Config", dict(LLAMA_LIKE, head_dim=16)),
    "Qwen3 yarn": ("Qwen3Config", dict(LLAMA_LIKE, head_dim=16, rope_parameters=YARN)),
    # Three layers: by list, by interval, and by the default of 4, which leaves all of them rotated.
    "SmolLM3": ("SmolLM3Config", dict(LLAMA_LIKE, no_rope_layers=[0, 1, 0], tie_word_embeddings=False)),
    "SmolLM3 interval": ("SmolLM3Config", dict(LLAMA_LIKE, no_rope_layer_interval=2, attention_bias=True)),
    "SmolLM3 default": ("SmolLM3Config", dict(LLAMA_LIKE, mlp_bias=True)),
    "SeedOss": ("SeedOssConfig", dict(LLAMA_LIKE, head_dim=16)),
    "SeedOss biases": (
        "SeedOssConfig",
        dict(LLAMA_LIKE, head_dim=16, attention_bias=False, attention_out_bias=True, mlp_bias=True),
    ),
    "Arcee": ("ArceeConfig", dict(LLAMA_LIKE, rope_parameters=YARN)),
    "Arcee biases": ("ArceeConfig", dict(LLAMA_LIKE, attention_bias=True, mlp_bias=True)),
    "Ernie4_5": ("Ernie4_5Config", dict(LLAMA_LIKE, head_dim=16)),
    "Ernie4_5 biases": ("Ernie4_5Config", dict(LLAMA_LIKE, head_dim=16, use_bias=True)),
    "Ministral": (
        "MinistralConfig",
        dict(
            LLAMA_LIKE,
            head_dim=16,
            sliding_window=5,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
    ),
    "Ministral default": ("MinistralConfig", dict(LLAMA_LIKE, head_dim=16, sliding_window=6)),
    "Ministral3": (
        "Ministral3Config",
        dict(
            LLAMA_LIKE,
            head_dim=16,
            rope_parameters=dict(
                YARN,
                original_max_position_embeddings=6,
                mscale=1.0,
                mscale_all_dim=1.0,
                llama_4_scaling_beta=0.6,
            ),
        ),
    ),
    "Ministral3 default": ("Ministral3Config", dict(LLAMA_LIKE, head_dim=16, sliding_window=5)),
    "Phi3": ("Phi3Config", LLAMA_LIKE),
    "Phi3 longrope": (
        "Phi3Config",
        dict(
            LLAMA_LIKE,
            hidden_size=64,  # three quarters of 16 channels: six pairs
            sliding_window=6,
            original_max_position_embeddings=32,
            rope_parameters=dict(LONGROPE, partial_rotary_factor=0.75),
        ),
    ),
    "Granite": ("GraniteConfig", GRANITE),
    "Granite tied": ("GraniteConfig", dict(GRANITE, tie_word_embeddings=True, attention_bias=True)),
    "Olmo": ("OlmoConfig", dict(LLAMA_LIKE, clip_qkv=0.9)),
    "Olmo2": ("Olmo2Config", LLAMA_LIKE),
    "Olmo3": (
        "Olmo3Config",
        dict(
            LLAMA_LIKE,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=TWO_ROPES,
        ),
    ),
    "Olmo3 default": ("Olmo3Config", dict(LLAMA_LIKE, num_hidden_layers=5, sliding_window=5)),
    "Gemma2": ("Gemma2Config", dict(GEMMA, attn_logit_softcapping=1.5, final_logit_softcapping=2.5)),
    "Gemma2 plain": (
        "Gemma2Config",
        dict(
            GEMMA,
            layer_types=None,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            tie_word_embeddings=False,
        ),
    ),
    "Gemma3": ("Gemma3TextConfig", dict(GEMMA, rope_parameters=TWO_ROPES, final_logit_softcapping=2.5)),
    "Gemma3 default": ("Gemma3TextConfig", dict(GEMMA, layer_types=None, num_hidden_layers=7)),
    "Glm": ("GlmConfig", dict(LLAMA_LIKE, head_dim=16)),
    "Glm4": ("Glm4Config", dict(LLAMA_LIKE, head_dim=16)),
    "Glm4 without biases": (
        "Glm4Config",
        dict(LLAMA_LIKE, head_dim=16, attention_bias=False, partial_rotary_factor=0.25),
    ),
    "Nemotron": ("NemotronConfig", LLAMA_LIKE),
    "Nemotron biases": ("NemotronConfig", dict(LLAMA_LIKE, attention_bias=True, mlp_bias=True)),
    "GPTNeoX": ("GPTNeoXConfig", dict(SIZES, intermediate_size=96, hidden_size=64)),
    "GPTNeoX sequential": (
        "GPTNeoXConfig",
        dict(
            SIZES,
            intermediate_size=96,
            use_parallel_residual=False,
            rope_parameters=dict(rope_type="default", rope_theta=1e3, partial_rotary_factor=0.5),
            attention_bias=False,
        ),
    ),
    "StableLm": ("StableLmConfig", dict(LLAMA_LIKE, hidden_size=64)),
    "StableLm parallel": (
        "StableLmConfig",
        dict(LLAMA_LIKE, hidden_size=64, use_parallel_residual=True, use_qkv_bias=True),
    ),
    "OPT": ("OPTConfig", dict(SIZES, ffn_dim=96)),
    "OPT plain": (
        "OPTConfig",
        dict(SIZES, ffn_dim=96, enable_bias=False, layer_norm_elementwise_affine=False),
    ),
}
FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Olmo", "Olmo2", "GPTNeoX", "StableLm", "OPT"]
NEW_FAMILIES = ["SeedOss", "Arcee", "Ernie4_5", "Ministral", "Ministral3", "Phi3", "Granite", "Olmo3",
                "Gemma2", "Gemma3", "Glm", "Glm4", "Nemotron"]  # fmt: skip
FAMILIES += NEW_FAMILIES


def random_model(case, **changes):
    """Random weights large enough that attention is not uniform, no gain 1 and no bias 0."""
    name, options = CASES[case]
    torch.manual_seed(11)
    config = getattr(transformers, name)(**dict(options, **changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15)
            elif parameter_name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            else:
                parameter.uniform_(0.5, 1.5)
    return model


@torch.no_grad()
def greedy(model, tokens, count):
    """`tokens` [B, T] and the `count` most likely ones after them, without a cache."""
    for _ in range(count):
        best = model(input_ids=tokens, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, best], 1)
    return tokens


# Families whose norms multiply by 1 + weight.
NORMS_FROM_ONE = ["Gemma2", "Gemma3", "Nemotron"]
PROMPT = torch.tensor([[3, 99, 14, 15, 92, 65, 35], [2, 71, 82, 81, 82, 84, 59]])
NEW_TOKENS = 13


@pytest.fixture(scope="module")
def probe(osp_build, tmp_path_factory):
    """Logits and cached logits of a model dir by osp, or the failed process."""

    def run(folder, tokens=PROMPT, isa=None, check=True, cache=3):
        files = tmp_path_factory.mktemp("probe")
        save_file({"tokens": tokens.contiguous(), "targets": tokens.clone()}, files / "in.safetensors")
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        environment.pop("OSP_ISA", None)
        if isa is not None:
            environment["OSP_ISA"] = isa
        command = [osp_build / "model_probe", folder, files / "in.safetensors", files / "out.safetensors"]
        command += ["--forward", *(["--cache", str(cache)] if cache else [])]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if not check:
            return result
        assert result.returncode == 0, result.stderr
        return load_file(files / "out.safetensors")

    return run


def assert_refused(result, words):
    """A probe's process ended with one line that has all the words."""
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr, word
