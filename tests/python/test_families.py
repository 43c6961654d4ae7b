"""Models of other families against transformers: logits, greedy text, storage, refusals."""

import json
import os
import subprocess

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_model_parity import cpu_levels
from transformers import AutoModelForCausalLM

# Two correct fp32 programs differ by rounding: sums of up to 96 products, 2^-24 each, in two or
# three blocks; relative to the norm of all logits it stays below this.
FP32 = 1e-5

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


def difference(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def assert_equals(outputs, model, tokens):
    """Logits as transformers' and every greedy step as transformers', with and without a cache."""
    with torch.no_grad():
        wanted = model(input_ids=tokens, use_cache=False).logits.float()
    for name in ["logits", "cached_logits"]:
        assert difference(outputs[name], wanted) < FP32, name
        steps = outputs[name][:, PROMPT.shape[1] - 1 : -1].argmax(-1)
        assert torch.equal(steps, tokens[:, PROMPT.shape[1] :]), name


@pytest.mark.parametrize("isa", [level for level in cpu_levels() if level != "avx2"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_equal_transformers(case, isa, probe, tmp_path):
    model = random_model(case)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens, isa), model, tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_and_narrow_weights_are_read_exactly(family, dtype, probe, tmp_path):
    random_model(family).to(dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens), model, tokens)


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize(
    "case", ["Mistral window", "Qwen2 window", "OPT", "GPTNeoX", "Ministral3", "Olmo3", "Gemma2", "Gemma3"]
)
def test_cache_in_other_steps_gives_the_same_logits(case, step, probe, tmp_path):
    model = random_model(case)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens, cache=step), model, tokens)


@pytest.mark.parametrize("original, long", [(19, True), (20, False)])
def test_longrope_is_chosen_by_the_length_of_the_text(original, long, probe, tmp_path):
    """20 tokens: beyond 19 all of them turn by the long factors, as in transformers."""
    changes = dict(original_max_position_embeddings=original)
    model = random_model("Phi3 longrope", **changes)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    with torch.no_grad():
        wanted = model(input_ids=tokens, use_cache=False).logits.float()
    assert difference(probe(tmp_path, tokens, cache=None)["logits"], wanted) < FP32
    if not long:
        return
    # At once through a cache; in two steps the kept keys would be those of a short text.
    assert difference(probe(tmp_path, tokens, cache=20)["cached_logits"], wanted) < FP32
    refused = probe(tmp_path, tokens, check=False)
    assert refused.returncode == 3 and "longrope" in refused.stderr and "19" in refused.stderr
    other = random_model("Phi3 longrope", original_max_position_embeddings=20)
    with torch.no_grad():
        assert difference(other(input_ids=tokens, use_cache=False).logits, wanted) > 1e-3


def test_a_prompt_beyond_longropes_original_context_is_continued(run_program, repo_root, tmp_path):
    """A prompt is read in pieces; the first shows that the text is a long one."""
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    sizes = dict(vocab_size=4096, original_max_position_embeddings=300, max_position_embeddings=1024)
    model = random_model("Phi3 longrope", **sizes)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    words = "A word of many meanings, and the fruit of a tree. " * 50
    command = ["osp", "generate", tmp_path / "model", "--prompt", words, "--max-tokens", 8, "--json"]
    report = json.loads(run_program(command).stdout)
    prompt = torch.tensor([report["prompt_tokens"]])
    assert 600 < prompt.shape[1] < 1000
    wanted = greedy(model, prompt, len(report["tokens"]))[0, prompt.shape[1] :]
    assert report["tokens"] == wanted.tolist() and len(wanted) > 0


def test_a_text_that_grows_past_longropes_original_context_is_read_again(run_program, repo_root, tmp_path):
    """As in transformers, whose Phi-3 drops its cache there."""
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    sizes = dict(vocab_size=4096, original_max_position_embeddings=24, max_position_embeddings=256)
    model = random_model("Phi3 longrope", **sizes)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    command = ["osp", "generate", tmp_path / "model", "--prompt", "A word of many meanings, and", "--json"]
    report = json.loads(run_program([*command, "--max-tokens", 40]).stdout)
    tokens = torch.tensor([report["prompt_tokens"]])
    assert tokens.shape[1] < 20 and report["dropped_tokens"] == 0 and len(report["tokens"]) > 20
    with torch.no_grad():  # without a cache: the length of the text chooses the factors of every pass
        for _ in report["tokens"]:
            newest = model(input_ids=tokens, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, newest], 1)
    assert report["tokens"] == tokens[0, -len(report["tokens"]) :].tolist()


def test_the_integer_engine_goes_on_with_the_newest_half_at_longropes_original_context(
    run_program, repo_root, tmp_path
):
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    sizes = dict(vocab_size=4096, original_max_position_embeddings=24, max_position_embeddings=256)
    random_model("Phi3 longrope", **sizes).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    folder = tmp_path / "w4"
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--out", folder, "--quiet"])
    words = ["--prompt", "A word of many meanings, and", "--max-tokens", 40, "--json"]
    report = json.loads(run_program(["osp", "generate", folder, *words, "--engine", "integer"]).stdout)
    assert len(report["tokens"]) == 40 and report["dropped_tokens"] > 0
    whole = json.loads(run_program(["osp", "generate", folder, *words, "--engine", "simulated"]).stdout)
    assert len(whole["tokens"]) == 40 and whole["dropped_tokens"] == 0
    # Longer texts at once, and texts that would grow past it among others, are refused with the reason.
    long = run_program(["osp", "score", folder], input=json.dumps({"text": "word " * 60}) + "\n", check=False)
    assert long.returncode == 3 and "longrope" in long.stderr and "--engine simulated" in long.stderr
    request = json.dumps({"context": list(range(5, 20)), "max_tokens": 20}) + "\n"
    result = run_program(["osp", "score", tmp_path / "model"], input=request, check=False)
    assert result.returncode == 3 and "pass the 24 tokens beyond which" in result.stderr


def test_scores_of_texts_on_both_sides_of_longropes_original_context(run_program, tmp_path):
    """Choices of different lengths behind one context: short ones share it, a long one does not."""
    model = random_model("Phi3 longrope", original_max_position_embeddings=14)
    model.save_pretrained(tmp_path)
    context, choices = list(range(5, 17)), [[30, 31], [30, 31, 32], [30, 31, 32, 33, 34], [40] * 6]
    requests = "".join(json.dumps({"context": context, "continuation": choice}) + "\n" for choice in choices)
    answers = run_program(["osp", "score", tmp_path], input=requests).stdout.splitlines()
    for choice, score in zip(choices, map(json.loads, answers), strict=True):
        tokens = torch.tensor([context + choice[:-1]])
        with torch.no_grad():
            log_p = model(input_ids=tokens, use_cache=False).logits[0].double().log_softmax(-1)
        rows = log_p[len(context) - 1 :]
        wanted = float(rows.gather(1, torch.tensor(choice)[:, None]).sum())
        assert abs(score["log_likelihood"] - wanted) < 1e-4, (choice, wanted)


def test_dynamic_rope_is_refused_beyond_the_context(probe, tmp_path):
    model = random_model("Llama dynamic rope", max_position_embeddings=19)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    for cache in (None, 20):
        refused = probe(tmp_path, tokens, check=False, cache=cache)
        assert refused.returncode == 3 and "dynamic" in refused.stderr and "19" in refused.stderr


SWITCHES = {
    "Granite": dict(embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=1.0,
                    logits_scaling=1.0),
    "Ministral3": dict(rope_parameters=dict(YARN, original_max_position_embeddings=6, mscale=1.0,
                                            mscale_all_dim=1.0, llama_4_scaling_beta=0.0)),
    "Gemma2": dict(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=16),
    "Gemma3": dict(rope_parameters=dict(TWO_ROPES, sliding_attention=dict(rope_theta=500.0)),
                   final_logit_softcapping=None),
}  # fmt: skip


@pytest.mark.parametrize("family", SWITCHES)
def test_each_switch_of_a_family_changes_the_logits(family):
    """The cases would otherwise prove nothing."""
    with torch.no_grad():
        here = random_model(family)(input_ids=PROMPT, use_cache=False).logits
        for key, value in SWITCHES[family].items():
            there = random_model(family, **{key: value})(input_ids=PROMPT, use_cache=False).logits
            assert difference(there, here) > 1e-3, key


def test_a_window_changes_the_logits_of_the_test(probe, tmp_path):
    """The case would otherwise prove nothing."""
    narrow, wide = random_model("Mistral window"), random_model("Mistral")
    with torch.no_grad():
        a, b = (m(input_ids=PROMPT, use_cache=False).logits for m in (narrow, wide))
    assert difference(a, b) > 1e-3


def test_pythias_head_is_found_under_both_of_its_names(probe, tmp_path):
    model = random_model("GPTNeoX")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(n for n in ("embed_out.weight", "lm_head.weight") if n in weights)
    other = {"embed_out.weight": "lm_head.weight", "lm_head.weight": "embed_out.weight"}[name]
    weights[other] = weights.pop(name)
    # Masks that old versions stored.
    weights["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(weights, tmp_path / "model.safetensors")
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens), model, tokens)


def test_old_spellings_of_the_rotary_options_mean_the_same(probe, tmp_path):
    model = random_model("GPTNeoX sequential")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config.update(rotary_emb_base=rope["rope_theta"], rotary_pct=rope["partial_rotary_factor"])
    path.write_text(json.dumps(config))
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens), model, tokens)


# ---- what must be refused -------------------------------------------------------------------------

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
    result = probe(tmp_path, check=False)
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("\n") == 1 and str(tmp_path) in result.stderr
    for word in named:
        assert word in result.stderr, word


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
    result = probe(tmp_path, check=False)
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("\n") == 1 and "model.safetensors" in result.stderr
    for word in named:
        assert word in result.stderr, word


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


# ---- the commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "SmolLM3", "Olmo2", "GPTNeoX", "OPT", *NEW_FAMILIES])
def test_commands_work_on_models_from_elsewhere(family, run_program, repo_root, tmp_path):
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    model = random_model(family, vocab_size=4096)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    arguments = [
        "osp",
        "generate",
        tmp_path / "model",
        "--prompt",
        "A word of many",
        "--max-tokens",
        "9",
        "--json",
    ]
    report = json.loads(run_program(arguments).stdout)
    prompt = torch.tensor([report["prompt_tokens"]])
    wanted = greedy(model, prompt, len(report["tokens"]))[0, prompt.shape[1] :]
    assert report["tokens"] == wanted.tolist() and len(wanted) > 0
    text = tmp_path / "text.txt"
    text.write_text("An apple is the fruit of a tree, and a word has many meanings. " * 30)
    for command in ["eval", "analyze"]:
        result = run_program(["osp", command, tmp_path / "model", "--data", text, "--json", "--quiet"])
        assert json.loads(result.stdout)

    exported = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
    run_program(exported)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        if family in NORMS_FROM_ONE and a.dim() == 1 and not name.endswith("bias"):
            a, b = 1 + a, 1 + b  # what the model computes with; osp holds the sum
        assert torch.equal(a, b), name
