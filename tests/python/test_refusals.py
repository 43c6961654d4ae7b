"""Kinds of refusals without a true reason: what is the same model in other words is taken, and what is
refused is refused for what it is."""

import json
import shutil

import gguf
import pytest
import torch
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file, save_file
from small_tokenizers import letter_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=96, layers=1, context=32)
TIED = Shape(**{**SHAPE.__dict__, "tied": True})


def make(folder, shape=SHAPE, tokenizer=None):
    write_model_dir(folder, shape, random_weights(shape))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer or letter_tokenizer(), ensure_ascii=False))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("values", ["equal", "other"])
def test_a_tied_head_is_compared_by_its_values_not_by_its_type(dtype, values, run_program, tmp_path):
    model = make(tmp_path / "model", TIED)
    # Numbers that every type has.
    weights = {name: (w * 16).round() / 16 for name, w in load_file(model / "model.safetensors").items()}
    weights = {name: w.bfloat16() for name, w in weights.items()}
    head = weights["model.embed_tokens.weight"].to(dtype).clone()
    if values == "other":
        head[3, 5] += 1
    save_file({**weights, "lm_head.weight": head}, model / "model.safetensors", {"format": "pt"})
    result = run_program(["osp", "export", model, "--format", "hf", "--out", tmp_path / "out"], check=False)
    if values == "other":
        assert result.returncode == 3 and "differs from the embedding" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(
        out["model.embed_tokens.weight"], load_file(model / "model.safetensors")["lm_head.weight"].float()
    )


def test_the_post_processor_of_llama_3_is_exported(run_program, tmp_path):
    """A sequence of ByteLevel, which is about offsets, and a template."""
    tokenizer = letter_tokenizer()
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    begin = "<|begin_of_text|>"
    tokenizer["added_tokens"] = [{"id": 96, "content": begin, **token}]
    first, second = (
        [{"SpecialToken": {"id": begin, "type_id": i}}, {"Sequence": {"id": text, "type_id": i}}]
        for i, text in enumerate("AB")
    )
    template = {"type": "TemplateProcessing", "single": first, "pair": first + second,
                "special_tokens": {begin: {"id": begin, "ids": [96], "tokens": [begin]}}}  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    model = make(tmp_path / "model", tokenizer=tokenizer)
    run_program(["osp", "export", model, "--format", "gguf", "--out", tmp_path / "m.gguf"])
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 96
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    first, again = (
        json.loads(
            run_program(["osp", "generate", where, "--prompt", "a", "--max-tokens", 1, "--json"]).stdout
        )
        for where in (model, tmp_path / "m.gguf")
    )
    assert first["prompt_tokens"] == again["prompt_tokens"] == [96, 64]


SIZES = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1,
             vocab_size=96, intermediate_size=96, max_position_embeddings=32, bos_token_id=None,
             eos_token_id=None)  # fmt: skip
FAMILIES = {
    "qwen3": (dict(SIZES, head_dim=16, attention_bias=True), "has biases that its files cannot hold"),
    "smollm3": (
        dict(SIZES, no_rope_layers=[0], pad_token_id=1),
        "does not leave out the rotary embedding in",
    ),
    "olmo": (dict(SIZES, pad_token_id=1), "has norms of the kind layer-plain"),
    "mistral": (dict(SIZES, sliding_window=8), "has a sliding window of 8"),
    "gpt_neox": (SIZES, "has norms of the kind layer"),
    "arcee": (dict(SIZES, attention_bias=True), "has biases that its files cannot hold"),
    "gemma2": (dict(SIZES, head_dim=16), "scales its queries by 0.0625, and llama.cpp by 0.25"),
    "phi3": (dict(SIZES, pad_token_id=1, sliding_window=8), "has a sliding window of 8"),
    "ernie4_5": (dict(SIZES, head_dim=16, use_bias=True), "has biases that its files cannot hold"),
    "glm": (dict(SIZES, head_dim=16, pad_token_id=1), "has biases on a part of its projections"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_gguf_export_does_not_write_is_named_for_what_it_has(family, run_program, tmp_path):
    config, reason = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config))
    model.save_pretrained(tmp_path / "model")
    result = run_program(
        ["osp", "export", tmp_path / "model", "--format", "gguf", "--out", tmp_path / "m.gguf"], check=False
    )
    assert result.returncode == 3 and f"this model {reason}" in result.stderr, result.stderr
    run_program(["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "hf"])


def test_rows_that_an_export_makes_zeros_of_are_named(run_program, tmp_path):
    model = make(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.self_attn.o_proj.weight"][7] *= 2.0**-40
    weights["model.embed_tokens.weight"][9] *= 2.0**-40
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    for dtype in ("f16", "q8_0"):
        out = tmp_path / f"{dtype}.gguf"
        report = run_program(
            ["osp", "export", model, "--format", "gguf", "--dtype", dtype, "--out", out, "--json"]
        )
        for name, row in (("self_attn.o_proj", 7), ("embed_tokens", 9)):
            assert f"{name}.weight: 1 of" in report.stderr and f"the first is row {row}" in report.stderr
        assert len(json.loads(report.stdout)["lost_rows"]) == 2
    (tmp_path / "text.txt").write_text("some letters to calibrate with " * 60)
    del weights["model.layers.0.self_attn.o_proj.weight"]
    run_program(["osp", "quantize", model, "--calibration", tmp_path / "text.txt", "--windows", 2, "--bits",
                 "4-16-16", "--method", "rtn", "--out", tmp_path / "q"])  # fmt: skip
    result = run_program(["osp", "export", tmp_path / "q", "--format", "gptq", "--out", tmp_path / "g"],
                         check=False)  # fmt: skip
    assert result.returncode == 3 and "o_proj.weight has a scale that fp16 cannot hold" in result.stderr


def test_a_live_row_that_rounds_to_zeros_is_a_warning_with_its_name(run_program, tmp_path):
    """NVFP4's scales reach down to 2^-18 of the largest weight: a row far below is lost. A row of zeros is
    not, and integers have a scale for every row."""
    weights = random_weights(SHAPE)
    down = weights["model.layers.0.mlp.down_proj.weight"]
    down[3] = 0
    down[[5, 9]] *= 1e-12
    write_model_dir(tmp_path / "model", SHAPE, weights)
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))

    def warnings(bits):
        words = ["--method", "rtn", "--bits", bits, "--out", tmp_path / bits]
        said = run_program(["osp", "quantize", tmp_path / "model", *words]).stderr
        return [line for line in said.splitlines() if "rounded to zeros" in line]

    (line,) = warnings("nvfp4-16-16")
    assert "model.layers.0.mlp.down_proj.weight: 2 of 64 rows have weights" in line
    assert line.endswith("the first is row 5")
    assert warnings("4-16-16") == []


def test_a_mean_keeps_what_lies_beside_the_weights(run_program, tmp_path):
    first = make(tmp_path / "first")
    (first / "chat_template.jinja").write_text("{{ messages }}")
    (first / "generation_config.json").write_text('{"eos_token_id": [5, 7], "temperature": 0.5}')
    (first / "LICENSE").write_text("licence")
    shutil.copytree(first, tmp_path / "second")
    run_program(["osp", "average", first, tmp_path / "second", "--out", tmp_path / "mean"])
    for name in ("chat_template.jinja", "generation_config.json", "LICENSE", "tokenizer.json"):
        assert (tmp_path / "mean" / name).read_bytes() == (first / name).read_bytes(), name
