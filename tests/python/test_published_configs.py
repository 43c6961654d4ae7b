"""The configuration of a published model of every family: that which transformers takes by default, which is
that of a release, in full and as short as published files are. Only config.json is there, so that what is
missing must be the weights, and nothing of the configuration."""

import json
import sys
from pathlib import Path

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from family_cases import CASES, FAMILIES

CONFIGS = {family: (CASES[family][0], f"{family}ForCausalLM") for family in FAMILIES}
CONFIGS["Gemma3 with images"] = ("Gemma3Config", "Gemma3ForConditionalGeneration")
CONFIGS["Mistral3 with images"] = ("Mistral3Config", "Mistral3ForConditionalGeneration")
# Kept in the short form: all that has no default in transformers or tells the model's kind.
SHORT = {"architectures", "model_type", "text_config", "vision_config"}
# Sizes that osp wants even where transformers has a default.
SIZES = {
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "ffn_dim",
    "vocab_size",
}


def configuration(name: str, architecture: str) -> dict:
    config = getattr(transformers, name)()
    if architecture == "Mistral3ForConditionalGeneration":
        config.text_config.model_type = "mistral"
    return {**json.loads(config.to_json_string(use_diff=False)), "architectures": [architecture]}


@pytest.mark.parametrize("form", ["whole", "short"])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_configuration_of_a_release_is_read(family, form, tmp_path, run_program):
    config = configuration(*CONFIGS[family])
    if form == "short":
        config = {key: value for key, value in config.items() if key in SHORT | SIZES}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run_program(
        ["osp", "quantize", tmp_path, "--method", "rtn", "--out", tmp_path / "q"], check=False
    )
    assert result.returncode in (2, 3), result.stderr
    assert "model.safetensors" in result.stderr and "config.json" not in result.stderr, result.stderr
