"""Text models inside checkpoints of text and images: osp computes what transformers' whole model does for
text without images, whichever version of transformers wrote the names, and leaves the image encoder out."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralVisionConfig,
    SiglipVisionConfig,
)

sys.path.insert(0, str(Path(__file__).parent))
from small_tokenizers import letter_tokenizer
from test_gguf_model import assert_logits_equal, logits  # noqa: F401

TOKENS = torch.randint(3, 94, (2, 24), generator=torch.Generator().manual_seed(1))
SIZES = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
             pad_token_id=0, initializer_range=0.2)  # fmt: skip
VISION = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
              patch_size=14)  # fmt: skip


def gemma3():
    text = {**SIZES, "model_type": "gemma3_text", "sliding_window": 8, "query_pre_attn_scalar": 16,
            "num_hidden_layers": 7}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=SiglipVisionConfig(**VISION), mm_tokens_per_image=4,
                          image_token_index=95)  # fmt: skip
    return Gemma3ForConditionalGeneration(config)


def mistral3(model_type="mistral", **more):
    text = {**SIZES, "model_type": model_type, "sliding_window": None, "rms_norm_eps": 1e-5, **more}
    vision = PixtralVisionConfig(**VISION)
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=95)
    return Mistral3ForConditionalGeneration(config)


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "llama_4_scaling_beta": 0.1}  # fmt: skip
MODELS = {
    "Gemma3": gemma3,
    "Mistral3": mistral3,
    "Ministral3": lambda: mistral3("ministral3", rope_parameters=YARN),
}


@pytest.fixture
def source(tmp_path, request):
    """A random model and its folder."""
    torch.manual_seed(3)
    model = MODELS[request.param]().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    return model, tmp_path / "model"


OLDER, NEWER, OLDER_HEAD = "language_model.model.", "model.language_model.", "language_model.lm_head.weight"


def rename(folder, beginnings):
    weights = {}
    for name, x in load_file(folder / "model.safetensors").items():
        begin = next((begin for begin in beginnings if name.startswith(begin)), "")
        weights[beginnings.get(begin, "") + name.removeprefix(begin)] = x
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("source", MODELS, indirect=True)
def test_the_logits_are_those_of_the_whole_model(source, logits):  # noqa: F811
    model, folder = source
    assert_logits_equal(logits(folder, TOKENS), model, TOKENS)
    names = load_file(folder / "model.safetensors")
    assert any("vision" in name for name in names)

    # The other of the two ways in which published files name the text model's tensors.
    older = any(name.startswith("language_model.") for name in names)
    other = (
        {OLDER_HEAD: "lm_head.weight", OLDER: NEWER}
        if older
        else {"lm_head.weight": OLDER_HEAD, NEWER: OLDER}
    )
    rename(folder, other)
    assert any(name.startswith(NEWER if older else OLDER) for name in load_file(folder / "model.safetensors"))
    assert_logits_equal(logits(folder, TOKENS), model, TOKENS)


@pytest.mark.parametrize("source", ["Gemma3"], indirect=True)
def test_keys_that_published_files_leave_out_have_transformers_defaults(source, logits):  # noqa: F811
    """Gemma 3's own config.json says little more than sizes."""
    model, folder = source
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    kept = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim",
            "num_attention_heads", "num_key_value_heads", "sliding_window",
            "query_pre_attn_scalar")  # fmt: skip
    config["text_config"] = {key: text[key] for key in kept}
    (folder / "config.json").write_text(json.dumps(config))
    assert_logits_equal(logits(folder, TOKENS), model, TOKENS)


@pytest.mark.parametrize("source", ["Gemma3", "Mistral3"], indirect=True)
def test_what_is_written_is_the_text_model_alone(source, run_program, tmp_path, logits):  # noqa: F811
    model, folder = source

    def export(given, out):
        words = ["osp", "export", given, "--format", "hf", "--dtype", "fp32", "--out", tmp_path / out]
        return run_program(words)

    assert "the image encoder is left out" in export(folder, "hf").stderr
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    alone = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
    assert config["architectures"] == [alone.get(type(model).__name__, "MistralForCausalLM")]
    assert not any("vision" in name for name in load_file(tmp_path / "hf" / "model.safetensors"))
    assert_logits_equal(logits(tmp_path / "hf", TOKENS), model, TOKENS)
    words = ["osp", "quantize", folder, "--method", "rtn", "--bits", "8-16-16", "--out", tmp_path / "q"]
    assert "the image encoder is left out" in run_program(words).stderr
    export(tmp_path / "q", "q-hf")
    with torch.no_grad():
        wanted = model(TOKENS).logits.numpy()
    difference = np.linalg.norm(logits(tmp_path / "q-hf", TOKENS) - wanted)
    assert 0 < difference < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize("source", ["Mistral3"], indirect=True)
def test_ids_and_the_head_follow_the_text_model(source, logits, run_program, tmp_path):  # noqa: F811
    """transformers 5 writes the ids in text_config alone, and a default about the head beside it."""
    model, folder = source
    config = json.loads((folder / "config.json").read_text())
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        config.pop(key, None)
    text = config["text_config"] | {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 5}
    text["tie_word_embeddings"] = False
    config |= {"text_config": text, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    # With a head of its own the model is not tied, whatever the default says; without one it is.
    weights = load_file(folder / "model.safetensors")
    table = next(x for name, x in weights.items() if name.endswith("embed_tokens.weight"))
    head = next((name for name in weights if name.endswith("lm_head.weight")), None)
    for with_head in (True, False):
        changed = {name: x for name, x in weights.items() if name != head}
        if with_head:
            changed["lm_head.weight"] = torch.roll(table, 7, 0).clone()
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        model.lm_head.weight = torch.nn.Parameter(changed["lm_head.weight"] if with_head else table)
        assert_logits_equal(logits(folder, TOKENS), model, TOKENS)
    run_program(["osp", "export", folder, "--format", "hf", "--out", tmp_path / "hf"])
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert [written[f"{key}_token_id"] for key in ("eos", "bos", "pad")] == [2, 1, 5]


@pytest.mark.parametrize("source", ["Gemma3"], indirect=True)
def test_a_tensor_under_two_names_is_refused(source, run_program):
    _, folder = source
    weights = load_file(folder / "model.safetensors")
    for name in ("model.language_model.norm.weight", "language_model.model.norm.weight"):
        weights[name] = torch.ones(64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    result = run_program(["osp", "generate", folder, "--prompt", "a"], check=False)
    assert result.returncode == 3 and "stands under two names" in result.stderr


@pytest.mark.parametrize("source", ["Mistral3"], indirect=True)
def test_other_text_models_and_damaged_configurations_are_refused(source, run_program):
    _, folder = source
    config = json.loads((folder / "config.json").read_text())
    for change, status, part in (
        ({"text_config": None}, 3, "text_config is missing"),
        ({"text_config": [1]}, 3, "text_config is [1]"),
        ({"text_config": {**config["text_config"], "model_type": "qwen2"}}, 3, 'model_type is "qwen2"'),
        ({"text_config": {**config["text_config"], "num_hidden_layers": 4}}, 3, "layers.3."),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        result = run_program(["osp", "generate", folder, "--prompt", "a"], check=False)
        assert result.returncode == status and part in result.stderr, result.stderr
