"""Exported GGUF files in ik_llama.cpp, a fork of llama.cpp that PyPI has as a wheel: its logits are those of
transformers on the model that was exported, and its ids those of the model's tokenizer."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

# Not imported here: it brings a second OpenMP library, which this process must not have.
if find_spec("ik_llama_cpp") is None:
    pytest.skip("could not find 'ik_llama_cpp'", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))
from test_gguf_architectures import MODELS, MORE, random_model
from test_gguf_experts import MODELS as EXPERTS
from test_gguf_experts import random_model as random_mixture
from test_gguf_sentencepiece import MARK, export, gemma, gemma_texts  # noqa: F401
from test_gguf_tokenizer import GPT_4O, LLAMA_3, QWEN_2, SEED, TEKKEN, tokenizer_json, vectors
from tokenizer_cases import random_texts

SAME = 2e-3  # of the largest logit: the fork keeps keys and values in fp16
# Not compared: olmo2 and arcee, which the fork does not know; phi3, whose tokenizer it takes for
# SentencePiece alone; gemma2, which it runs with flash attention alone; granite and Llama 3's scaled rotary
# embedding: it reads residual_scale and rope_freqs, and computes as if they were 1 (so does transformers
# without rope_freqs).
COMPARED = ["qwen2", "qwen2, tied", "qwen3", "smollm3", "mistral", "llama with biases", "glm4", "seed_oss",
            "ernie4_5"]  # fmt: skip


def llama_cpp(file: Path, **request) -> list:
    command = [sys.executable, Path(__file__).parent / "llama_cpp_logits.py", file, json.dumps(request)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def assert_logits_are_those_of(model, tmp_path, run_program, repo_root, routed=False):
    """With `routed`, of mixtures of experts: by rounded keys logits differ up to 0.015 where tokens meet
    other experts of nearly equal weight. With rounded weights most tokens of these random models meet others
    somewhere (transformers with the file's own weights is as far away), so that only the median says
    something: another function differs by about 1."""
    model.save_pretrained(tmp_path / "model")
    vocabulary = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"  # the library wants one
    (tmp_path / "model" / "tokenizer.json").write_bytes(vocabulary.read_bytes())
    tokens = torch.arange(80).reshape(2, 40) * 53 % 4096
    with torch.no_grad():
        wanted = model(tokens).logits
    for dtype, limit in (("fp32", 0.03 if routed else SAME), ("q8_0", 0.2 if routed else 0.1)):
        out = tmp_path / f"{dtype}.gguf"
        run_program(["osp", "export", tmp_path / "model", "--format", "gguf", "--dtype", dtype, "--out", out])
        found = torch.tensor(llama_cpp(out, tokens=tokens.tolist()))
        difference = (found - wanted).abs().amax(-1) / wanted.abs().max()
        judged = difference.median() if routed and dtype == "q8_0" else difference.max()
        assert judged < limit, dtype


# Not olmoe, which the fork does not know, and of gpt-oss what it computes otherwise (docs/formats.md).
@pytest.mark.parametrize("name", ["qwen3moe", "qwen3moe, tied", "gpt-oss, whole pairs", "gpt-oss, unscaled"])
def test_logits_of_mixtures_are_those_of_transformers(name, tmp_path, run_program, repo_root):
    assert name in EXPERTS
    assert_logits_are_those_of(random_mixture(name, vocab_size=4096), tmp_path, run_program, repo_root, True)


@pytest.mark.parametrize("name", COMPARED)
def test_logits_are_those_of_transformers(name, tmp_path, run_program, repo_root):
    _, cls, config, changed = {**MODELS, **MORE}[name][:4]
    model = random_model(cls, config, {**changed, "vocab_size": 4096})
    assert_logits_are_those_of(model, tmp_path, run_program, repo_root)


def texts_of(shared_data, name: str) -> list[str]:
    texts = vectors(shared_data, name)[0]
    texts += [t.decode("utf-8", errors="replace") for t in random_texts(300, 8, [])]
    return [t for t in texts if t and "\0" not in t]  # the library takes texts as C strings


def test_ids_of_the_published_mistral_tokenizer(shared_data, export):  # noqa: F811
    source = tokenizer_json(shared_data, "mistral_v1")
    path, _ = export(source, 32000)
    texts, peer = texts_of(shared_data, "mistral_v1"), Tokenizer.from_str(json.dumps(source))
    wanted = [peer.encode(t, add_special_tokens=False).ids for t in texts]
    assert llama_cpp(path, texts=texts) == wanted


def test_ids_of_a_tokenizer_of_gemma(shared_data, export):  # noqa: F811
    source = gemma(shared_data)
    path, _ = export(source, 32100)
    texts = [t for t in gemma_texts() if t and "\0" not in t and MARK not in t]
    peer = Tokenizer.from_str(json.dumps(source))
    found = llama_cpp(path, texts=texts)
    wanted = [peer.encode(t, add_special_tokens=False).ids for t in texts]
    assert len(texts) > 800 and found == wanted


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
CUTS = {"gpt-2": None, "llama-bpe": LLAMA_3, "smaug-bpe": LLAMA_3, "qwen2": QWEN_2, "seed-coder": SEED,
        "tekken": TEKKEN, "gpt-4o": GPT_4O}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_ids_of_byte_level_tokenizers(name, shared_data, export):  # noqa: F811
    source = tokenizer_json(shared_data, "gpt2")
    if CUTS[name]:
        split = {"type": "Split", "pattern": {"Regex": CUTS[name]}, "behavior": "Isolated", "invert": False}
        source["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, BYTES]}
    source["model"]["ignore_merges"] = name in ("llama-bpe", "tekken")
    path, _ = export(source, 50257)
    texts, peer = texts_of(shared_data, "gpt2"), Tokenizer.from_str(json.dumps(source))
    wanted = [peer.encode(t, add_special_tokens=False).ids for t in texts]
    found = llama_cpp(path, texts=texts)
    different = [t for t, a, b in zip(texts, found, wanted, strict=True) if a != b]
    # Its expressions know the case of a to z alone, and a few classes of characters less than Unicode has.
    allowed = 0.3 if name in ("tekken", "gpt-4o") else 0.02
    assert len(different) <= allowed * len(texts), different[:5]
    assert not [t for t in different if t.isascii()]
