"""GGUF files by architecture: read and written, against transformers and the package gguf."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import (
    ArceeConfig,
    ArceeForCausalLM,
    AutoModelForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf import common_keys, finish
from test_gguf_model import LOGITS, assert_logits_equal, heads_of, logits, permuted, restored  # noqa: F401

SIZES = dict(
    num_hidden_layers=5,
    hidden_size=96,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=160,
    vocab_size=320,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=50000.0,
    initializer_range=0.1,
    pad_token_id=None,
    bos_token_id=None,
    eos_token_id=0,
)
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
# Name: the architecture in the file, the model, whether llama.cpp turns neighbouring channels.
MODELS = {
    "qwen2": ("qwen2", Qwen2ForCausalLM, Qwen2Config, {}, False),
    "qwen2, tied": ("qwen2", Qwen2ForCausalLM, Qwen2Config, dict(tie_word_embeddings=True), False),
    "qwen3": ("qwen3", Qwen3ForCausalLM, Qwen3Config, dict(head_dim=32), False),
    "olmo2": ("olmo2", Olmo2ForCausalLM, Olmo2Config, {}, False),
    "smollm3": ("smollm3", SmolLM3ForCausalLM, SmolLM3Config, dict(use_sliding_window=False), True),
    "mistral": ("llama", MistralForCausalLM, MistralConfig, dict(sliding_window=None), True),
    "llama with biases": (
        "llama",
        LlamaForCausalLM,
        LlamaConfig,
        dict(attention_bias=True, mlp_bias=True),
        True,
    ),
    "llama 3": (
        "llama",
        LlamaForCausalLM,
        LlamaConfig,
        dict(rope_parameters=LLAMA3, rope_theta=None, max_position_embeddings=16384),
        True,
    ),
}
FACTORS = {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.3}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "attention_factor": 1.25}
LONGROPE |= {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
# As above, with the keys that llama.cpp's converter writes beside a Llama's.
MORE = {
    "phi3": ("phi3", Phi3ForCausalLM, Phi3Config, dict(sliding_window=None), False,
             {"rope.dimension_count": 16, "rope.scaling.original_context_length": 64,
              "attention.sliding_window": 0}),
    "phi3, part of a head": ("phi3", Phi3ForCausalLM, Phi3Config, dict(
        sliding_window=None, partial_rotary_factor=0.5, num_key_value_heads=6), False,
        {"rope.dimension_count": 8, "rope.scaling.original_context_length": 64,
         "attention.sliding_window": 0}),
    "phi3, longrope": ("phi3", Phi3ForCausalLM, Phi3Config, dict(
        sliding_window=None, rope_parameters=LONGROPE, rope_theta=None, original_max_position_embeddings=40),
        False, {"rope.dimension_count": 16, "rope.scaling.original_context_length": 40,
                "rope.scaling.attn_factor": 1.25, "attention.sliding_window": 0}),
    "phi3, longrope beyond": ("phi3", Phi3ForCausalLM, Phi3Config, dict(
        sliding_window=None, rope_parameters=LONGROPE, rope_theta=None, original_max_position_embeddings=20),
        False, {"rope.dimension_count": 16, "rope.scaling.original_context_length": 20,
                "rope.scaling.attn_factor": 1.25, "attention.sliding_window": 0}),
    "granite": ("granite", GraniteForCausalLM, GraniteConfig, FACTORS | {"logits_scaling": 4.0}, True,
                {"attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.3, "logit_scale": 4.0,
                 "rope.dimension_count": 16}),
    "glm4": ("glm4", Glm4ForCausalLM, Glm4Config, dict(attention_bias=True), False,
             {"rope.dimension_count": 8}),
    "seed_oss": ("seed_oss", SeedOssForCausalLM, SeedOssConfig, dict(head_dim=32), False, {}),
    "arcee": ("arcee", ArceeForCausalLM, ArceeConfig, {}, True, {"rope.dimension_count": 16}),
    "ernie4_5": ("ernie4_5", Ernie4_5ForCausalLM, Ernie4_5Config, dict(tie_word_embeddings=True), False, {}),
    "olmo3": ("olmo2", Olmo3ForCausalLM, Olmo3Config, dict(
        sliding_window=8, rope_theta=500000.0), False,
              {"attention.sliding_window": 8,
               "attention.sliding_window_pattern": [True, True, True, False, True]}),
}  # fmt: skip
GEMMA = dict(num_hidden_layers=7, sliding_window=8, query_pre_attn_scalar=16, tie_word_embeddings=True)
GEMMA_KEYS = {"attention.sliding_window": 8}
CAPS = {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 5.0}
READ = {
    "gemma2": ("gemma2", Gemma2ForCausalLM, Gemma2Config, GEMMA | CAPS, GEMMA_KEYS | CAPS),
    "gemma2, default caps": ("gemma2", Gemma2ForCausalLM, Gemma2Config, GEMMA, GEMMA_KEYS),
    "gemma3": ("gemma3", Gemma3ForCausalLM, Gemma3TextConfig, GEMMA, GEMMA_KEYS),
}
TOKENS = torch.arange(2 * 40).reshape(2, 40) * 7 % 320


def random_model(cls, config, changed):
    sizes = {key: value for key, value in {**SIZES, **changed}.items() if key != "rope_theta" or value}
    torch.manual_seed(1)
    model = cls(config(**sizes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(torch.rand_like(weight) + 0.5)
            elif name.endswith("bias"):
                weight.copy_(torch.randn_like(weight) * 0.3)
    return model


def gguf_names(architecture: str, model) -> dict[str, str]:
    """The package's name of each parameter."""
    # transformers' names of norms that the package has for other families.
    own = {"seed_oss": {"post_attention_layernorm": "post_attention_norm"}}.get(architecture, {})
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    found = {}
    for name, _ in model.named_parameters():
        stem, end = name.rsplit(".", 1)
        last = stem.rsplit(".", 1)[-1]
        ours = f"blk.{stem.split('.')[2]}.{own[last]}" if last in own else names.get_name(stem)
        found[name] = f"{ours}.{end}"
    assert len(set(found.values())) == len(found) and not any("None" in name for name in found.values())
    return found


def turned(values: np.ndarray, heads: int, turn) -> np.ndarray:
    return turn(values.reshape(len(values), -1), heads).reshape(values.shape) if heads else values


def write_file(path, architecture, model, neighbours, type_=Type.F32, changed=None):
    """As llama.cpp's converter would; the model's weights become the dequantized ones."""
    config = model.config
    rope = config.rope_parameters
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    from_one = architecture.startswith("gemma")  # its norms multiply by 1 + w, and the file has that
    writer = gguf.GGUFWriter(path, architecture)
    metadata = {
        **common_keys(config, size, rope.get("full_attention", rope)["rope_theta"], config.rms_norm_eps),
    }
    for key, value in {**metadata, **(changed or {})}.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add = writer.add_bool if isinstance(value, bool) else add
        add = writer.add_array if isinstance(value, list) else add
        add(f"{architecture}.{key}", value)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            heads = heads_of(name, config) if neighbours else 0
            values = turned(weight.numpy(), heads, permuted)
            values = values + 1 if from_one and "norm" in name else values
            kind = type_ if values.ndim > 1 else Type.F32
            blocks = gguf.quantize(values, kind)
            writer.add_tensor(gguf_names(architecture, model)[name], blocks, raw_dtype=kind)
            back = gguf.dequantize(blocks, kind).reshape(values.shape)
            back = back - 1 if from_one and "norm" in name else back
            weight.copy_(torch.from_numpy(turned(back, heads, restored).copy()))
    if rope.get("rope_type") == "longrope":
        for kind in ("long", "short"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], np.float32))
    if rope.get("rope_type") == "llama3":
        plain = 500000.0 ** -(np.arange(0, 16, 2) / 16)
        divisors = plain / model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    finish(writer)


@pytest.mark.parametrize("type_", [Type.F32, Type.Q8_0], ids=["F32", "Q8_0"])
@pytest.mark.parametrize("name", MODELS)
def test_files_have_the_logits_of_transformers(name, type_, tmp_path, logits):  # noqa: F811
    architecture, cls, config, changed, neighbours = MODELS[name]
    model = random_model(cls, config, changed)
    write_file(tmp_path / "m.gguf", architecture, model, neighbours, type_)
    assert_logits_equal(logits(tmp_path / "m.gguf", TOKENS), model, TOKENS)


@pytest.mark.parametrize("name", READ)
def test_gemmas_are_read_with_windows_caps_and_factors(name, tmp_path, logits, run_program):  # noqa: F811
    architecture, cls, config, changed, keys = READ[name]
    model = random_model(cls, config, changed)
    write_file(tmp_path / "m.gguf", architecture, model, False, Type.Q8_0, keys)
    assert_logits_equal(logits(tmp_path / "m.gguf", TOKENS), model, TOKENS)
    # Written with what it was read with.
    out = tmp_path / "n.gguf"
    run_program(["osp", "export", tmp_path / "m.gguf", "--format", "gguf", "--dtype", "fp32", "--out", out])
    fields = {key: field.contents() for key, field in gguf.GGUFReader(out).fields.items()}
    for key, value in keys.items():
        assert fields[f"{architecture}.{key}"] == value, key
    assert_logits_equal(logits(out, TOKENS), model, TOKENS)


@pytest.mark.parametrize("type_", [Type.F32, Type.Q8_0], ids=["F32", "Q8_0"])
@pytest.mark.parametrize("name", MORE)
def test_files_of_more_families_are_read_and_written(name, type_, tmp_path, logits, run_program):  # noqa: F811
    architecture, cls, config, changed, neighbours, keys = MORE[name]
    model = random_model(cls, config, changed)
    write_file(tmp_path / "m.gguf", architecture, model, neighbours, type_, keys)
    assert_logits_equal(logits(tmp_path / "m.gguf", TOKENS), model, TOKENS)
    # From the folder of transformers: the same keys, tensors and numbers as the converter's.
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "n.gguf"
    run_program(["osp", "export", tmp_path / "model", "--format", "gguf", "--dtype", "fp32", "--out", out])
    ours, theirs = gguf.GGUFReader(out), gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in theirs.tensors}
    for tensor in ours.tensors:
        assert np.array_equal(tensor.data, tensors.pop(tensor.name)), tensor.name
    assert not tensors
    fields = {key: field.contents() for key, field in ours.fields.items()}
    for key, value in keys.items():
        wanted = float(np.float32(value)) if isinstance(value, float) else value
        assert fields[f"{architecture}.{key}"] == wanted, key
    assert_logits_equal(logits(out, TOKENS), model, TOKENS)


@pytest.mark.parametrize("name", MODELS)
def test_exported_files_have_the_names_and_numbers_of_the_converter(name, tmp_path, logits, run_program):  # noqa: F811
    architecture, cls, config, changed, neighbours = MODELS[name]
    model = random_model(cls, config, changed)
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "m.gguf"
    run_program(["osp", "export", tmp_path / "model", "--format", "gguf", "--dtype", "f16", "--out", out])
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.architecture"].contents() == architecture
    found = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf_names(architecture, model)
    with torch.no_grad():
        for ours, weight in model.named_parameters():
            tensor = found.pop(names[ours])
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
            heads = heads_of(ours, model.config) if neighbours else 0
            kept = weight.numpy() if weight.ndim == 1 else weight.numpy().astype(np.float16)
            assert np.array_equal(turned(values, heads, restored), kept.astype(np.float32)), ours
            weight.copy_(torch.from_numpy(kept.astype(np.float32)))
    assert set(found) == ({"rope_freqs.weight"} if name == "llama 3" else set())
    # Read back.
    assert_logits_equal(logits(out, TOKENS), model, TOKENS)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_transformers_reads_exported_files(name, tmp_path, run_program):
    _, cls, config, _, _ = MODELS[name]
    # Its reader passes the key for the size of heads over and takes the family's default.
    model = random_model(cls, config, {"head_dim": 128} if name == "qwen3" else {})
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "m.gguf"
    run_program(["osp", "export", tmp_path / "model", "--format", "gguf", "--dtype", "f16", "--out", out])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    assert type(theirs) is cls
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(weight.half().float())
        wanted, found = model(TOKENS).logits, theirs(TOKENS).logits
    assert (found - wanted).abs().max() < LOGITS * wanted.abs().max()


WINDOW = dict(use_sliding_window=True, sliding_window=8, max_window_layers=0)
LINEAR = dict(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, rope_theta=None)
UNSAYABLE = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, WINDOW, "has a sliding window of 8"),
    "mistral": (MistralForCausalLM, MistralConfig, dict(sliding_window=16), "has a sliding window of 16"),
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config,
        dict(attention_bias=True),
        "has biases that its files cannot hold",
    ),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config,
        dict(no_rope_layers=[1, 0, 1, 0, 1]),
        "does not leave out the rotary embedding in every 4th layer",
    ),
    "llama": (LlamaForCausalLM, LlamaConfig, LINEAR, "is scaled (linear)"),
    "phi3": (Phi3ForCausalLM, Phi3Config, dict(sliding_window=16), "has a sliding window of 16"),
    "olmo3": (
        Olmo3ForCausalLM,
        Olmo3Config,
        dict(sliding_window=8, layer_types=["sliding_attention"] * 4 + ["full_attention"]),
        "has windows in other layers than all but every 4th",
    ),
    "olmo2, tied": (
        Olmo2ForCausalLM,
        Olmo2Config,
        dict(tie_word_embeddings=True),
        "shares its head with the embedding",
    ),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config,
        GEMMA | dict(query_pre_attn_scalar=24),
        "scales its queries by",
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GEMMA | dict(final_logit_softcapping=5.0),
        "caps its logits",
    ),
    "granite": (GraniteForCausalLM, GraniteConfig, dict(attention_bias=True), "has biases that"),
    "seed_oss": (SeedOssForCausalLM, SeedOssConfig, dict(attention_out_bias=True), "has biases that"),
    "ernie4_5": (Ernie4_5ForCausalLM, Ernie4_5Config, dict(use_bias=True), "has biases that"),
    "arcee": (ArceeForCausalLM, ArceeConfig, dict(hidden_act="silu"), "has silu for relu2"),
    "glm4": (
        Glm4ForCausalLM,
        Glm4Config,
        dict(rope_parameters=dict(LLAMA3, partial_rotary_factor=0.5), rope_theta=None),
        "has a scaled rotary embedding",
    ),
    "llama, relu": (LlamaForCausalLM, LlamaConfig, dict(hidden_act="relu"), "has relu for SiLU"),
    "smollm3, biases": (SmolLM3ForCausalLM, SmolLM3Config, dict(mlp_bias=True), "has biases that"),
    "olmo2": (
        Olmo2ForCausalLM,
        Olmo2Config,
        dict(rope_parameters=LLAMA3, rope_theta=None),
        "has a scaled rotary embedding",
    ),
}


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_the_files_cannot_say_is_refused(name, tmp_path, run_program):
    cls, config, changed, reason = UNSAYABLE[name]
    random_model(cls, config, changed).save_pretrained(tmp_path / "model")
    command = ["osp", "export", tmp_path / "model", "--format", "gguf", "--out", tmp_path / "m.gguf"]
    result = run_program(command, check=False)
    assert result.returncode == 3 and reason in result.stderr
    assert not (tmp_path / "m.gguf").exists()


def test_tensors_and_keys_beyond_the_architecture_are_refused_by_name(tmp_path, run_program):
    model = random_model(*MODELS["olmo2"][1:4])
    for changed, reason in (
        ({"attention.scale": 0.5}, "olmo2.attention.scale = 0.5 is not supported"),
        (
            {"attention.sliding_window": 32, "attention.sliding_window_pattern": [True, False]},
            "sliding_window_pattern has 2 elements, expected a boolean for each of 5 layers",
        ),
        (
            {"attention.key_length": 8, "attention.value_length": 8},
            "attn_q.weight has shape [96, 96], expected [48, 96]",
        ),
        ({"block_count": 4}, '"blk.4.attn_k.weight" belongs to no part'),
        (  # before a list of them is made
            {"block_count": (1 << 32) - 1, "attention.sliding_window": 32},
            "olmo2.block_count is 4294967295, expected a number from 1 to 1024",
        ),
    ):
        write_file(tmp_path / "m.gguf", "olmo2", model, False, changed=changed)
        command = ["osp", "export", tmp_path / "m.gguf", "--format", "hf", "--out", tmp_path / "x"]
        result = run_program(command, check=False)
        assert result.returncode == 3 and reason in result.stderr, result.stderr


def test_a_granite_without_a_rotary_embedding_is_refused(tmp_path, run_program):
    """llama.cpp takes rope.scaling.finetuned of this architecture for whether there is one."""
    name = next(name for name, case in MORE.items() if case[0] == "granite")
    _, cls, config, changed, neighbours, keys = MORE[name]
    model = random_model(cls, config, changed)
    for value in (True, False):
        file = tmp_path / f"{value}.gguf"
        write_file(file, "granite", model, neighbours, Type.F32, {**keys, "rope.scaling.finetuned": value})
        command = ["osp", "export", file, "--format", "hf", "--out", tmp_path / str(value)]
        result = run_program(command, check=False)
        assert result.returncode == (0 if value else 3), result.stderr
    assert "granite.rope.scaling.finetuned = false is not supported" in result.stderr


def test_a_file_is_named_after_its_folder_with_all_dots(tmp_path, run_program):
    random_model(*MODELS["qwen3"][1:4]).save_pretrained(tmp_path / "Qwen3-0.6B")
    out = tmp_path / "out.gguf"
    run_program(
        ["osp", "export", tmp_path / "Qwen3-0.6B", "--format", "gguf", "--dtype", "f16", "--out", out]
    )
    assert gguf.GGUFReader(out).fields["general.name"].contents() == "Qwen3-0.6B"


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_a_quantized_model_is_written_with_its_codes(name, tmp_path, logits, run_program):  # noqa: F811
    _, cls, config, changed, _ = MODELS[name]
    random_model(cls, config, changed).save_pretrained(tmp_path / "model")
    folder, out = tmp_path / "w4", tmp_path / "m.gguf"
    quantize = ["--method", "rtn", "--profile", "best", "--bits", "4-16-16", "--group", 32]
    run_program(["osp", "quantize", tmp_path / "model", *quantize, "--out", folder])
    run_program(["osp", "export", folder, "--format", "gguf", "--out", out])
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_0" and types["blk.4.ffn_down.weight"] == "Q4_0"
    plain = tmp_path / "plain"
    run_program(["osp", "export", folder, "--format", "hf", "--out", plain])
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
        assert json.loads((plain / "config.json").read_text())["architectures"] == [cls.__name__]
        for weight_name in ("model.embed_tokens.weight", "lm_head.weight"):
            weight = dict(wanted.named_parameters()).get(weight_name)
            if weight is not None:
                weight.copy_(weight.half().float())
    assert_logits_equal(logits(out, TOKENS), wanted, TOKENS)
