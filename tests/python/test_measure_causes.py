"""scripts/measure_causes.py: the held-out text, and that models measured before keep their numbers."""

import argparse
import importlib
import json
from pathlib import Path

import pytest
from conftest import ROOT

TEXTS = ["one two  three", "Über\nvier", "“5”"]


@pytest.fixture
def causes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("measure_causes")
    tokens = tmp_path / "demo" / "tokens"
    tokens.mkdir(parents=True)
    (tokens / "tokenizer.json").write_text((ROOT / "recipes" / "gcide-4096" / "tokenizer.json").read_text())
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokens / "tokenizer.json"))
    shards = [TEXTS[:1], TEXTS[1:]]
    for i, texts in enumerate(shards):
        ids = [token for text in texts for token in [*tokenizer.encode(text).ids, 0]]
        (tokens / f"validation-{i}.u16").write_bytes(b"".join(n.to_bytes(2, "little") for n in ids))
    files = [{"file": f"validation-{i}.u16"} for i in range(len(shards))]
    index = {"tokenizer": {"file": "tokenizer.json"}, "end_of_document": 0}
    (tokens / "index.json").write_text(json.dumps({**index, "splits": {"validation": {"shards": files}}}))
    monkeypatch.setattr(module, "TOKENS", tokens)
    monkeypatch.setattr(module, "KEPT", tmp_path / "causes.json")
    return module


def test_the_held_out_text_is_that_of_the_validation_split(causes):
    assert causes.held_out_text() == "\n\n".join(TEXTS) + "\n"


def answer(command):
    layer = {"noise_gain": 0.5, "stable_rank": 9.0}
    point = {"point": "mlp_input", "mean_share": 0.1, "informative_sqnr_db": 8}
    inputs = [{**point, "sqnr_db": 8}, {**point, "sqnr_db": 10}]
    cost = {"attribution": {"all": 1.0, "sites": []}, "inputs": inputs, "verdict": []}
    cost["linears"] = [layer, layer]
    keys = ("version", "machine", "instruction_set", "tensor_library")
    return {
        **dict.fromkeys(keys, "x"),
        "command": " ".join(command),
        "tokens": 8,
        "excess_kurtosis": {"mean": 3.0},
        "largest_activation": {"value": -7.0},
        "cost": cost,
    }


def test_other_peoples_models_are_added_and_named_without_a_path(causes, tmp_path):
    texts = []

    def run_json(*words):
        words = [str(word) for word in words]
        texts.append(words[words.index("--data") + 1])
        assert Path(texts[-1]).is_dir() or Path(texts[-1]).read_text() == causes.held_out_text()
        return answer(words)

    def measured(witness):
        options = argparse.Namespace(witness=witness, witness_tokens=2048, witness_attribution=64)
        found = causes.causes(options, run_json, "/elsewhere/osp")
        causes.KEPT.write_text(json.dumps({"result": found}))
        return {model["name"]: model for model in found["models"]}

    first = measured([f"A={tmp_path}/a.gguf"])
    assert list(first) == ["A"]
    assert first["A"]["command"].startswith("osp analyze a.gguf --data held-out.txt --data-tokens 2048 ")
    assert "--attribution-tokens 64 --sink-tokens 0" in first["A"]["command"]
    assert first["A"]["cost"]["inputs"]["mlp_input"]["sqnr_db"] == 9
    assert first["A"]["cost"]["linears"] == {"noise_gain": 0.5, "stable_rank": 9.0}
    both = measured([f"B={tmp_path}/b=b.gguf"])
    assert list(both) == ["A", "B"] and both["A"] == first["A"]
    assert both["B"]["command"].split(" ")[2] == "b=b.gguf"
    everything = measured(None)
    assert list(everything) == ["A", "B", "adam-1", "osp-1", "SmolLM2-135M-Instruct"]
    assert everything["osp-1"]["command"].split(" ")[2].endswith("demo/osp-1/model")
    assert len(texts) == 5 and texts[2] == texts[3] == str(causes.TOKENS)
