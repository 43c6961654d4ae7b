"""SentencePiece tokenizers in exported GGUF files: the published Mistral one against its own vectors, its
tokenizer.model and transformers; small ones against what llama.cpp's scores cannot say."""

import copy
import json
import struct
import sys
from itertools import pairwise
from pathlib import Path

import gguf
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, GemmaTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf_model import random_llama
from test_gguf_tokenizer import encode, protobuf_fields, tokenizer_json, vectors  # noqa: F401
from tokenizer_cases import random_texts

MARK = "▁"


def metadata(path: Path) -> dict:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items() if "tokenizer" in name}


@pytest.fixture
def export(run_program, tmp_path):
    """export(tokenizer) -> (the file, what the command said) of a model with that tokenizer.json."""

    def run(tokenizer: dict, vocabulary: int, check=True):
        if not (tmp_path / "model").exists():
            llama = random_llama(vocab_size=vocabulary, hidden_size=32, num_attention_heads=2,
                                 num_key_value_heads=2, intermediate_size=32,
                                 num_hidden_layers=1)  # fmt: skip
            llama.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
        out = tmp_path / "m.gguf"
        out.unlink(missing_ok=True)
        words = ["osp", "export", tmp_path / "model", "--format", "gguf", "--dtype", "f16", "--out", out]
        return out, run_program(words, check=check)

    return run


def test_the_published_mistral_tokenizer_keeps_its_ids(shared_data, tmp_path, export, encode):  # noqa: F811
    source = tokenizer_json(shared_data, "mistral_v1")
    path, result = export(source, 32000)
    assert "warning" not in result.stderr
    texts, ids = vectors(shared_data, "mistral_v1")
    assert encode(path, texts) == ids
    texts = [t.decode("utf-8", errors="replace") for t in random_texts(1000, 7, ["</s>", "  ", "<0x41>"])]
    peer = Tokenizer.from_str(json.dumps(source))
    assert encode(path, texts) == [e.ids for e in peer.encode_batch(texts, add_special_tokens=False)]
    # Tokens, types and order are those of SentencePiece's own file.
    model = (shared_data / "tokenizers" / "mistral_v1" / "tokenizer.model").read_bytes()
    pieces = [dict(protobuf_fields(value)) for number, value in protobuf_fields(model) if number == 1]
    found = metadata(path)
    assert found["tokenizer.ggml.model"] == "llama" and found["tokenizer.ggml.add_space_prefix"]
    assert found["tokenizer.ggml.tokens"] == [p[1].decode() for p in pieces]
    assert found["tokenizer.ggml.token_type"] == [p.get(3, 1) for p in pieces]
    assert [found[f"tokenizer.ggml.{k}_token_id"] for k in ("unknown", "bos")] == [0, 1]
    # Both scores put the tokens that merges make in one order, but where SentencePiece's are equal.
    ours = found["tokenizer.ggml.scores"]
    theirs = [struct.unpack("<f", p[2])[0] for p in pieces]
    made = {"".join(m.split(" ") if isinstance(m, str) else m) for m in source["model"]["merges"]}
    ids = [i for i, token in enumerate(found["tokenizer.ggml.tokens"]) if token in made]
    ids.sort(key=lambda i: (-theirs[i], -ours[i]))
    assert len(ids) > 25000 and all(ours[a] > ours[b] for a, b in pairwise(ids))


def test_transformers_reads_the_file_as_the_same_tokenizer(shared_data, export):
    path, _ = export(tokenizer_json(shared_data, "mistral_v1"), 32000)
    peer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts, ids = vectors(shared_data, "mistral_v1")
    # It puts no space in front of texts that begin with one, where llama.cpp and the model do.
    cases = [(t, i) for t, i in zip(texts, ids, strict=True) if not t.startswith(" ")]
    assert len(cases) >= 30
    for text, wanted in cases:
        assert peer(text, add_special_tokens=False)["input_ids"] == wanted, repr(text)


def small() -> dict:
    """A tokenizer of bytes, some letters and a few merges."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), MARK, *"abcé"]
    pieces += ["ab", "abc", "bc", MARK + "a", MARK + "ab", MARK + "abc", MARK * 2]
    merges = [("a", "b"), (MARK, "a"), (MARK, "ab"), (MARK + "a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c"),
              (MARK, "abc"), (MARK + "a", "bc"), (MARK + "ab", "c"), (MARK, MARK)]  # fmt: skip
    added = [{"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i in range(3)]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": [list(m) for m in merges]},
    }  # fmt: skip


def gemma(shared_data: Path) -> dict:
    """transformers' tokenizer of Gemma with the published Mistral pieces. In front of them those of Gemma:
    runs of line breaks and of marks, and tags, which are added tokens and made by merges, and a tab in the
    place of its byte."""
    model = (shared_data / "tokenizers" / "mistral_v1" / "tokenizer.model").read_bytes()
    pieces = [dict(protobuf_fields(value)) for number, value in protobuf_fields(model) if number == 1]
    scores = {p[1].decode(): struct.unpack("<f", p[2])[0] for p in pieces if p.get(3, 1) == 1}
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    lines, runs = (["\n" * n for n in range(1, 32)], [MARK * n for n in range(2, 32)])
    tags = ["<unused0>", "<unused1>", "<table>", "</td>"]
    bytes_ = ["\t" if b == 9 else f"<0x{b:02X}>" for b in range(256)]
    vocab = [*special, *tags, *lines, *runs, *bytes_, *scores]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    # As transformers makes them: all cuts of a token into two, tokens by falling score.
    by_score = [*lines[1:], *runs, *sorted(set(scores) - {*runs}, key=lambda t: (-scores[t], vocab[t]))]
    merges = [(t[:i], t[i:]) for t in by_score for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in [*tags, *lines, *runs]])
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in special[-2:]])
    source = json.loads(tokenizer._tokenizer.to_str())
    assert len(source["added_tokens"]) == len(special) + len(tags) + len(lines) + len(runs)
    return source


GEMMA_TEXTS = ["a\n\n\nb", "a\n\tb", "  two  spaces   and   more    ", "\n" * 70 + "x", " " * 70 + "x",
               "<start_of_turn>user\nHi  there<end_of_turn>\n", "<unused0><table>  <table>x</td>\n\n</td>",
               "12 345\t6", "日本語\n\n語", "é\u0300 \U0001f600"]  # fmt: skip


def gemma_texts() -> list[str]:
    texts = random_texts(1000, 9, ["<end_of_turn>", "\n\n", "   ", "<table>", "\t"])
    return GEMMA_TEXTS + [t.decode("utf-8", errors="replace") for t in texts]


def test_a_tokenizer_of_gemma_keeps_its_ids(shared_data, export, encode):  # noqa: F811
    source = gemma(shared_data)
    path, result = export(source, 32100)
    assert "U+2581 in a text is a space" in result.stderr
    found = metadata(path)
    assert found["tokenizer.ggml.model"] == "llama" and not found["tokenizer.ggml.add_space_prefix"]
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert (types["\n\n"], types["<unused0>"], types[MARK * 2], types["\t"]) == (4, 4, 1, 1)
    assert (types["<end_of_turn>"], types["<unk>"], types["<0x0A>"]) == (3, 2, 6)
    texts = [t for t in gemma_texts() if MARK not in t]
    peer = Tokenizer.from_str(json.dumps(source))
    assert encode(path, texts) == [e.ids for e in peer.encode_batch(texts, add_special_tokens=False)]


def metaspace(scheme: str, split=False) -> dict:
    step = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": step}


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
FORMS = {
    "prepended": ({}, True, None),
    "never": (metaspace("never"), False, None),
    "always": (metaspace("always"), True, "in front of those that begin with no space"),
    "first": (metaspace("first"), True, "behind every special token"),
    "replaced alone": ({"normalizer": REPLACE}, False, None),
    "cut at spaces that are gone": (
        {"normalizer": REPLACE, "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                                                  "behavior": "MergedWithPrevious", "invert": False}},
        False, None),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_mark_spaces_is_written_or_warned_of(form, export, encode):  # noqa: F811
    changed, prefix, warned = FORMS[form]
    source = {**small(), **changed}
    path, result = export(source, 300)
    assert metadata(path)["tokenizer.ggml.add_space_prefix"] == prefix
    assert ("warning" in result.stderr) == (warned is not None)
    assert warned is None or warned in result.stderr
    peer = Tokenizer.from_str(json.dumps(source))
    texts = ["abc", "ab abc  a", "a", "cab bc", "é\nabc", "x yz abcabc", "aabbcc abab"]
    assert encode(path, texts) == [peer.encode(t, add_special_tokens=False).ids for t in texts]


def edited(change) -> dict:
    tokenizer = copy.deepcopy(small())
    change(tokenizer, tokenizer["model"])
    return tokenizer


def add_token(text, **changed):
    def add(tokenizer, model):
        token = {**tokenizer["added_tokens"][0], "id": model["vocab"][text], "content": text}
        tokenizer["added_tokens"].append({**token, "special": False, **changed})

    return add


ADDED = {
    "cut out of texts": (add_token("ab"), True),
    "part of many": (add_token("a"), True),
    "a run of marks": (add_token(MARK * 2), False),
    "marks in front of letters": (add_token(MARK + "a"), False),
}


@pytest.mark.parametrize("case", ADDED)
def test_added_tokens_that_merges_make_keep_their_ids(case, export, encode):  # noqa: F811
    change, user_defined = ADDED[case]
    source = edited(change)
    source["normalizer"] = REPLACE
    path, result = export(source, 300)
    assert ("U+2581 in a text is a space" in result.stderr) == (not user_defined)
    token = source["added_tokens"][-1]
    assert metadata(path)["tokenizer.ggml.token_type"][token["id"]] == (4 if user_defined else 1)
    peer = Tokenizer.from_str(json.dumps(source))
    texts = ["abc", "ab abc  a", "a", "cab bc", "é\nabc", "   abcabc", "aabbcc  abab", "    ", " a ab  abc"]
    assert encode(path, texts) == [peer.encode(t, add_special_tokens=False).ids for t in texts]


REFUSED = {
    "a merge is missing": (lambda t, m: m["merges"].remove(["ab", "c"]), '1 merges that make "abc", where'),
    "no merge makes a token": (lambda t, m: m["merges"].remove(["b", "c"]), 'merges that make "bc"'),
    "one token at two places": (
        lambda t, m: m["merges"].insert(0, m["merges"].pop(m["merges"].index(["ab", "c"]))),
        "at two places of their order",
    ),
    "a special token is made": (add_token("ab", special=True), "an added one"),
    "an added token is no whole": (add_token("ab", single_word=True), "an added one"),
    "a run of marks behind the spaces": (add_token(MARK * 2, normalized=True), "an added one"),
    "a byte is missing": (lambda t, m: m["vocab"].update({"x": m["vocab"].pop("<0x7F>")}), "<0x7F>"),
    "words are cut": (lambda t, m: t.update(metaspace("always", split=True)), "the pre-tokenizer"),
    "spaces stay": (lambda t, m: t.update(normalizer=None), "no U+2581"),
    "another normalizer": (lambda t, m: t["normalizer"]["normalizers"].append({"type": "NFKC"}), "NFKC"),
    "a prefix twice": (
        lambda t, m: t.update(
            pre_tokenizer=metaspace("never")["pre_tokenizer"], normalizer={"type": "Prepend", "prepend": MARK}
        ),
        "the pre-tokenizer",
    ),
    "a very long token": (lambda t, m: m["vocab"].update({"a" * 600: 290}), "a token of 600 bytes"),
    "whole words": (lambda t, m: m.update(ignore_merges=True), "ignore_merges"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_scores_cannot_say_is_refused(case, export):
    change, reason = REFUSED[case]
    path, result = export(edited(change), 300, check=False)
    assert result.returncode == 3, result.stderr
    assert reason in result.stderr and "llama.cpp has no name" in result.stderr
    assert not path.exists()
