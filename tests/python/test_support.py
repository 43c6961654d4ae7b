"""The table of families, methods and formats in docs/formats.md: every cell is a command on a small model."""

import json
import re

import family_cases
import gpt_oss_cases
import pytest
import test_experts
from conftest import ROOT

# Sizes that every format can hold: groups of 32, heads whose size is a power of two.
SIZES = dict(vocab_size=4096, hidden_size=64)
PLAIN_ROPE = dict(rope_type="default", rope_theta=1e4)
GEMMA = dict(num_hidden_layers=7, layer_types=None, query_pre_attn_scalar=16, tie_word_embeddings=True)
# Family: its case among those of the families' tests, and what it has as its releases do.
FAMILIES = {
    "Llama": ("Llama", {}),
    "Mistral": ("Mistral", {}),
    "Qwen 2": ("Qwen2", {}),
    "Qwen 3": ("Qwen3", {}),
    "SmolLM3": ("SmolLM3 default", {"mlp_bias": False}),
    "Seed-OSS": ("SeedOss", {}),
    "Arcee": ("Arcee", {"rope_parameters": PLAIN_ROPE}),
    "ERNIE 4.5": ("Ernie4_5", {}),
    "Ministral": ("Ministral", {}),
    "Ministral 3": ("Ministral3", {}),
    "Phi-3, Phi-4": ("Phi3", {"sliding_window": None}),
    "Granite": ("Granite", {}),
    "OLMo": ("Olmo", {"clip_qkv": None}),
    "OLMo with clipping": ("Olmo", {}),
    "OLMo 2": ("Olmo2", {}),
    "OLMo 3": ("Olmo3 default", {}),
    "Gemma 2": ("Gemma2", GEMMA),
    "Gemma 3": ("Gemma3 default", GEMMA),
    "GLM": ("Glm", {}),
    "GLM-4": ("Glm4", {}),
    "Nemotron": ("Nemotron", {}),
    "Pythia": ("GPTNeoX", {}),
    "StableLM": ("StableLm", {}),
    "OPT": ("OPT", {}),
    "Qwen3-MoE": ("Qwen3Moe", {"moe_intermediate_size": 32}),
    "OLMoE": ("Olmoe", {"num_key_value_heads": 4}),
    "gpt-oss": ("gpt-oss", {"swiglu_limit": 7.0}),
}
METHODS = ["rtn", "gptq", "gptaq", "qronos", "awq", "smoothquant", "ffn-hadamard", "quarot", "spinquant"]
EXPORTS = ["hf", "gguf"]  # of the plain model
CODES = ["gptq", "awq", "compressed-tensors"]  # of a folder whose weights alone are rounded
COLUMNS = [*METHODS, *EXPORTS, *(f"codes as {name}" for name in CODES), "panels"]
YES, NO = "yes", "–"


def model_of(family):
    case, changes = FAMILIES[family]
    if family == "gpt-oss":
        return gpt_oss_cases.random_model(**SIZES, intermediate_size=64, **changes)
    module = test_experts if case in test_experts.CASES else family_cases
    inner = {"ffn_dim" if case == "OPT" else "intermediate_size": 128}
    return module.random_model(case, **(SIZES | inner | changes))


def written():
    """The table of docs/formats.md: family → column → cell."""
    text = (ROOT / "docs" / "formats.md").read_text()
    header, _, *rows = text[text.index("| family | rtn |") :].split("\n\n")[0].splitlines()
    assert [cell.strip() for cell in header.split("|")[2:-1]] == COLUMNS
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    return {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in cells}


def commands(model, text, folder):
    """Column → the words of its command; those behind others read what these have written."""
    calibration = ["--calibration", text, "--windows", 2, "--length", 32]
    spin = ["--spin-steps", 1, "--spin-batch", 1]
    for method in METHODS:
        more = ([] if method == "rtn" else calibration) + (spin if method == "spinquant" else [])
        yield method, ["quantize", model, "--method", method, "--bits", "4-4-4", *more, "--quiet"]
    for name in EXPORTS:
        yield name, ["export", model, "--format", name]
    codes = ["quantize", model, "--method", "rtn", "--bits", "4-16-16", "--group", 32, "--quiet"]
    yield "codes", codes
    for name in CODES:
        yield f"codes as {name}", ["export", folder / "codes", "--format", name]
    yield "panels", ["export", folder / "rtn", "--format", "panels"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_table_says_is_what_the_commands_do(family, run_program, tmp_path):
    model, text = tmp_path / "model", tmp_path / "text.txt"
    model_of(family).save_pretrained(model)
    tokenizer = ROOT / "recipes" / "gcide-4096" / "tokenizer.json"
    (model / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    text.write_text("An apple is the fruit of a tree, and a word has many meanings. " * 60)
    found = {}
    for column, words in commands(model, text, tmp_path):
        out = tmp_path / column
        result = run_program(["osp", *words, "--out", out], check=False)
        assert result.returncode in (0, 3), (column, result.stderr)
        assert out.exists() == (result.returncode == 0), column
        found[column] = YES if result.returncode == 0 else NO
        if result.returncode:
            sentence = result.stderr.strip().splitlines()[-1]
            assert re.match(r"error: .{40,}", sentence) and "internal" not in sentence, (column, sentence)
    assert found.pop("codes") == YES
    assert found == written()[family], json.dumps(found)


def test_the_table_has_every_family():
    assert list(written()) == list(FAMILIES)
    tested = {case.split()[0] for case, _ in FAMILIES.values()}
    known = {case.split()[0] for case in [*family_cases.CASES, *test_experts.CASES]}
    assert tested - {"gpt-oss"} == known
