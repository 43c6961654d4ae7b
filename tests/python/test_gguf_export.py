"""Exported GGUF files against the PyPI package `gguf` and transformers."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf_model import gguf_name, heads_of, permuted, random_llama
from test_gguf_tokenizer import GPT_4O, LLAMA_3, SEED, TEKKEN


@pytest.fixture
def model_dir(tmp_path, repo_root):
    """A model dir with the shipped vocabulary, and transformers' model of it."""
    llama = random_llama(vocab_size=4096, max_position_embeddings=64)
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    llama.config.eos_token_id = json.loads(tokenizer.read_text())["added_tokens"][0]["id"]
    llama.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return tmp_path / "model", llama


def export(run_program, source, out, dtype, **keywords):
    return run_program(
        ["osp", "export", source, "--format", "gguf", "--dtype", dtype, "--out", out, "--json"], **keywords
    )


def dequantized(path: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        tensors[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return tensors


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_exported_tensors_are_those_that_the_package_would_write(dtype, model_dir, tmp_path, run_program):
    source, llama = model_dir
    out = tmp_path / "m.gguf"
    report = json.loads(export(run_program, source, out, dtype).stdout)
    assert report["dtype"] == dtype and report["parameters"] == llama.num_parameters()
    found = dequantized(out)
    type_ = Type["F32" if dtype == "fp32" else dtype.upper()]
    for name, weight in llama.named_parameters():
        values, heads = weight.detach().numpy(), heads_of(name, llama.config)
        values = permuted(values, heads) if heads else values
        if values.ndim > 1:
            values = gguf.dequantize(gguf.quantize(values, type_), type_).reshape(values.shape)
        assert np.array_equal(found.pop(gguf_name(name)), values), name
    assert not found  # tied: no output.weight


def test_metadata_names_everything_that_a_reader_needs(model_dir, tmp_path, run_program):
    source, llama = model_dir
    export(run_program, source, tmp_path / "m.gguf", "f16")
    fields = {k: f.contents() for k, f in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    config = llama.config
    expected = {
        "general.architecture": "llama",
        "general.file_type": 1,
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": 64,
        "llama.embedding_length": 96,
        "llama.feed_forward_length": 160,
        "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.vocab_size": 4096,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {key: fields[key] for key in expected} == expected
    assert len(fields["tokenizer.ggml.tokens"]) == 4096 == len(fields["tokenizer.ggml.token_type"])
    end = fields["tokenizer.ggml.eos_token_id"]
    assert end == config.eos_token_id
    assert fields["tokenizer.ggml.token_type"][end] == int(gguf.TokenType.CONTROL)


def test_transformers_reads_the_same_configuration_and_ids(model_dir, tmp_path, run_program):
    """Its loading of weights from GGUF needs the package accelerate; the tensors are compared above."""
    source, llama = model_dir
    export(run_program, source, tmp_path / "m.gguf", "f16")
    config = AutoConfig.from_pretrained(tmp_path, gguf_file="m.gguf")
    for key in ("hidden_size", "head_dim", "num_key_value_heads", "vocab_size", "tie_word_embeddings"):
        assert getattr(config, key) == getattr(llama.config, key), key
    text = "A word, in 1913: of many meanings; isn't it?\n  Two  spaces."
    peer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    original = Tokenizer.from_file(str(source / "tokenizer.json"))
    assert (
        peer(text, add_special_tokens=False)["input_ids"]
        == original.encode(text, add_special_tokens=False).ids
    )


def unpacked(packed: np.ndarray, columns: int) -> np.ndarray:
    """Codes of compressed-tensors' 4-bit layout: eight in an int32, lowest first, plus 8."""
    nibbles = packed.view(np.uint32)[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    return nibbles.reshape(packed.shape[0], -1)[:, :columns].astype(np.int32) - 8


@pytest.mark.parametrize("group", [0, 32])
def test_codes_of_a_quantized_model_come_back_with_half_scales(group, model_dir, tmp_path, run_program):
    source, llama = model_dir
    quantized, out = tmp_path / "quantized", tmp_path / "m.gguf"
    run_program(
        [
            "osp",
            "quantize",
            source,
            "--method",
            "rtn",
            "--bits",
            "4-16-16",
            "--group",
            group,
            "--tables",
            "fp32",
            "--out",
            quantized,
        ]
    )
    report = json.loads(export(run_program, quantized, out, "auto").stdout)
    assert report["dtype"] == "q4_0" and report["scale_rounding"] <= 2.0**-11  # half a unit of fp16
    stored, found = load_file(quantized / "model.safetensors"), dequantized(out)
    types = {t.name: t.tensor_type for t in gguf.GGUFReader(out).tensors}
    names = [n.removesuffix("_packed") for n in stored if n.endswith("_packed")]
    assert len(names) == 7 * llama.config.num_hidden_layers
    for name in names:
        _, columns = stored[name + "_shape"]
        scale = stored[name + "_scale"].astype(np.float16).astype(np.float32)
        scale = np.repeat(scale, columns // scale.shape[1], axis=1)
        values = unpacked(stored[name + "_packed"], columns).astype(np.float32) * scale
        heads = heads_of(name, llama.config)
        assert types[gguf_name(name)] == Type.Q4_0
        assert np.array_equal(found[gguf_name(name)], permuted(values, heads) if heads else values), name
    assert types["token_embd.weight"] == Type.F16


def test_a_gguf_file_is_quantized_with_the_tokenizer_that_is_in_it(
    model_dir, tmp_path, run_program, repo_root
):
    source, _ = model_dir
    export(run_program, source, tmp_path / "m.gguf", "f16")
    text = repo_root / "README.md"
    run_program(["osp", "quantize", tmp_path / "m.gguf", "--method", "gptq", "--calibration", text,
                 "--windows", 4, "--out", tmp_path / "q"])  # fmt: skip
    settings = json.loads((tmp_path / "q" / "quantize.json").read_text())["settings"]
    ids = (
        Tokenizer.from_file(str(source / "tokenizer.json"))
        .encode(text.read_text(), add_special_tokens=False)
        .ids
    )
    assert settings["calibration_tokens"] == len(ids)
    assert (tmp_path / "q" / "tokenizer.json").exists()
    # The files beside it are those that transformers and other programs look for.
    ids = AutoTokenizer.from_pretrained(tmp_path / "q")
    assert ids.eos_token_id is not None and ids.model_max_length == 64


def test_osp_reads_its_own_file_as_the_same_model(model_dir, tmp_path, run_program):
    source, _ = model_dir
    export(run_program, source, tmp_path / "a.gguf", "f16")
    export(run_program, tmp_path / "a.gguf", tmp_path / "b.gguf", "f16")
    a, b = dequantized(tmp_path / "a.gguf"), dequantized(tmp_path / "b.gguf")
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    run_program(["osp", "export", tmp_path / "a.gguf", "--format", "hf", "--out", tmp_path / "back"])
    back, first = (
        json.loads((tmp_path / "back" / "tokenizer.json").read_text()),
        json.loads((source / "tokenizer.json").read_text()),
    )
    assert back["model"]["vocab"] == first["model"]["vocab"]
    weights = load_file(tmp_path / "back" / "model.safetensors")
    assert np.array_equal(weights["model.embed_tokens.weight"], a["token_embd.weight"])


def edited(path: Path, **changed) -> None:
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    for key, value in changed.items():
        target = tokenizer["model"] if key in tokenizer["model"] else tokenizer
        target[key] = value
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))


SPACES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REFUSED = {
    "pre-tokenizer": (dict(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}), "the pre-tokenizer"),
    "prefix space": (dict(pre_tokenizer=SPACES), "the pre-tokenizer"),
    "normalizer": (dict(normalizer={"type": "NFKC"}), "the normalizer"),
    "byte fallback without bytes": (dict(byte_fallback=True), "the pre-tokenizer"),
}


def test_nfc_is_written_with_a_warning(model_dir, tmp_path, run_program):
    """Qwen's tokenizers have it, and llama.cpp leaves it out for every file of theirs."""
    source, _ = model_dir
    edited(source, normalizer={"type": "NFC"})
    result = export(run_program, source, tmp_path / "m.gguf", "f16")
    assert "does not bring text into the normal form NFC" in result.stderr
    assert (tmp_path / "m.gguf").exists()


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WRITTEN = [("tekken", TEKKEN, True), ("gpt-4o", GPT_4O, False), ("seed-coder", SEED, False),
           ("llama-bpe", LLAMA_3, True), ("smaug-bpe", LLAMA_3, False)]  # fmt: skip


@pytest.mark.parametrize("name, expression, whole", WRITTEN)
def test_cuts_are_written_under_llama_cpps_names(name, expression, whole, model_dir, tmp_path, run_program):
    source, _ = model_dir
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    cut = {"type": "Sequence", "pretokenizers": [split, BYTES]}
    edited(source, pre_tokenizer=cut, ignore_merges=whole)
    result = export(run_program, source, tmp_path / "m.gguf", "f16")
    keys = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert keys["tokenizer.ggml.pre"].contents() == name
    assert ("capital and small ones alike" in result.stderr) == (name in ("tekken", "gpt-4o"))
    # What llama.cpp has under no name: the other choice about whole words.
    if name in ("tekken", "gpt-4o", "seed-coder"):
        edited(source, ignore_merges=not whole)
        result = export(run_program, source, tmp_path / "other.gguf", "f16", check=False)
        assert result.returncode == 3
        assert f"ignore_merges = {str(not whole).lower()} with the pre-tokenizer" in result.stderr


@pytest.mark.parametrize("case", REFUSED.keys())
def test_tokenizers_without_a_name_in_llama_cpp_are_refused(case, model_dir, tmp_path, run_program):
    source, _ = model_dir
    changed, named = REFUSED[case]
    edited(source, **changed)
    result = export(run_program, source, tmp_path / "m.gguf", "f16", check=False)
    assert result.returncode == 3, result.stderr
    assert named in result.stderr and "llama.cpp has no name" in result.stderr
    assert not (tmp_path / "m.gguf").exists() and not (tmp_path / "m.gguf.tmp").exists()


def test_scaled_rotary_embeddings_are_refused(model_dir, tmp_path, run_program):
    source, _ = model_dir
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (source / "config.json").write_text(json.dumps(config))
    result = export(run_program, source, tmp_path / "m.gguf", "f16", check=False)
    assert result.returncode == 3 and "linear" in result.stderr


def test_wrong_types_and_missing_codes_are_refused(model_dir, tmp_path, run_program):
    source, _ = model_dir
    result = export(run_program, source, tmp_path / "m.gguf", "mxfp4", check=False)
    assert result.returncode == 2 and "takes the codes of a model quantized to mxfp4" in result.stderr
    command = ["osp", "export", source, "--format", "hf", "--tables", "q8_0", "--out", tmp_path / "hf"]
    result = run_program(command, check=False)
    assert result.returncode == 2 and "--tables: is for --format gguf" in result.stderr
    (tmp_path / "m.gguf").write_text("")
    result = export(run_program, source, tmp_path / "m.gguf", "f16", check=False)
    assert result.returncode == 2 and "exists" in result.stderr
