"""The tokenizer against the vectors of real tokenizers and against the PyPI package `tokenizers`."""

import hashlib
import json
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from tokenizer_cases import all_cases, random_texts

REAL = ["gpt2", "smollm2", "mistral_v1"]
TEXTS_PER_REAL_TOKENIZER = 22_000  # four of them and the small cases: over 100,000 strings
TEXTS_PER_CASE = 200


@pytest.fixture(scope="session")
def probe(osp_build):
    """probe(tokenizer, mode, records) -> records; texts are bytes, ids lists."""

    def run(tokenizer: Path, mode: str, records: list) -> list:
        def pack(r):
            return r if isinstance(r, bytes) else struct.pack(f"<{len(r)}I", *r)

        stdin = b"".join(struct.pack("<I", len(r)) + pack(r) for r in records)
        command = [str(osp_build / "tokenizer_probe"), str(tokenizer), mode]
        result = subprocess.run(command, input=stdin, capture_output=True, timeout=600)
        assert result.returncode == 0, result.stderr.decode()
        return list(unpack(result.stdout, mode))

    return run


def unpack(data: bytes, mode: str):
    at = 0
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        size = 4 * count if mode.startswith("encode") else count
        body = data[at + 4 : at + 4 + size]
        yield list(struct.unpack(f"<{count}I", body)) if mode.startswith("encode") else body
        at += 4 + size


def tokenizer_path(name: str, repo_root: Path, request) -> Path:
    if name == "gcide-4096":
        return repo_root / "recipes" / name / "tokenizer.json"
    return request.getfixturevalue("shared_data") / "tokenizers" / name / "tokenizer.json"


def compare(path: Path, texts: list[bytes], probe, special: bool = False) -> None:
    """Ids of `texts`, and the text of those ids again, must equal the package's."""
    peer = Tokenizer.from_file(str(path))
    decoded = [t.decode("utf-8", errors="replace") for t in texts]
    expected = [e.ids for e in peer.encode_batch(decoded, add_special_tokens=special)]
    found = probe(path, "encode-special" if special else "encode", texts)
    assert len(found) == len(expected)
    for text, ours, theirs in zip(decoded, found, expected, strict=True):
        assert ours == theirs, repr(text)
    for skip in (False, True):
        back = probe(path, "decode-skip-special" if skip else "decode", expected)
        for text, ours, theirs in zip(
            decoded, back, peer.decode_batch(expected, skip_special_tokens=skip), strict=True
        ):
            assert ours.decode("utf-8", errors="replace") == theirs, repr(text)


@pytest.mark.parametrize("name", REAL)
def test_ids_equal_the_published_vectors(name, shared_data, probe):
    vectors = [json.loads(line) for line in (shared_data / "tokenizers" / "vectors.jsonl").open()]
    vectors = [v for v in vectors if v["tokenizer"] == name]
    assert len(vectors) == 34
    found = probe(shared_data / "tokenizers" / name, "encode", [v["text"].encode() for v in vectors])
    assert found == [v["ids"] for v in vectors]


@pytest.mark.parametrize("name", REAL)
def test_token_hash_of_a_whole_book_of_text_is_known(name, shared_data, probe):
    known = json.loads((shared_data / "tokenizers" / "wikitext2_test_raw_tokens.json").read_text())[name]
    (path,) = (shared_data / "wikitext2").rglob("wiki.test.raw")
    (ids,) = probe(shared_data / "tokenizers" / name, "encode", [path.read_bytes()])
    assert len(ids) == known["tokens"]
    assert hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest() == known["sha256_of_le_u32_ids"]


@pytest.mark.parametrize("name", [*REAL, "gcide-4096"])
def test_random_texts_equal_the_package(name, repo_root, request, probe):
    path = tokenizer_path(name, repo_root, request)
    added = [t["content"] for t in json.loads(path.read_text())["added_tokens"]]
    compare(path, random_texts(TEXTS_PER_REAL_TOKENIZER, 11, added), probe)


@pytest.mark.parametrize("name", all_cases().keys())
def test_each_component_equals_the_package(name, tmp_path, probe):
    case = all_cases()[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(case, ensure_ascii=False))
    added = [t["content"] for t in case["added_tokens"]] + ["then", "word", "été", " <x>", "<l> ", "  <sp>  "]
    # Known characters only: the package, PCRE2 and utf8proc know different versions of Unicode.
    texts = random_texts(TEXTS_PER_CASE, 12, added, any_character=False)
    compare(path, [b"", b" ", b"a", *texts], probe, special=name == "template")


def child_seconds() -> float:
    """Processor time of finished child processes: it does not grow when the machine is busy."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("name", [*REAL, "gcide-4096"])
def test_a_mebibyte_of_one_character_takes_bounded_time(name, repo_root, request, probe):
    path = tokenizer_path(name, repo_root, request)
    for character in ("a", " ", "\n", "0", "!", "'", "é", "日", "\u0301"):
        text = (character * (1 << 20)).encode()[: 1 << 20]
        start = child_seconds()
        (ids,) = probe(path, "encode", [text])
        # About 0.3 s, most of it reading the vocabulary; a quadratic algorithm would need minutes.
        assert child_seconds() - start < 15, repr(character)
        assert len(ids) > 1000


# Not smollm2: it has no token for some bytes (0x14, 0xF2, …), which therefore vanish.
@pytest.mark.parametrize("name", ["gpt2", "gcide-4096"])
def test_byte_level_text_comes_back_byte_for_byte(name, repo_root, request, probe):
    path = tokenizer_path(name, repo_root, request)
    texts = [t.decode("utf-8", errors="replace").encode() for t in random_texts(3000, 13, [])]
    ids = probe(path, "encode", texts)
    assert probe(path, "decode", ids) == texts
    assert probe(path, "token-texts", ids) == texts  # streaming, token by token


def broken(path: list, value):
    case = all_cases()["llama 3"]
    target = case
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return case


UNSUPPORTED = {
    "Unigram": broken(["model", "type"], "Unigram"),
    "dropout": broken(["model", "dropout"], 0.1),
    "end_of_word_suffix": broken(["model", "end_of_word_suffix"], "</w>"),
    "BertNormalizer": broken(["normalizer"], {"type": "BertNormalizer"}),
    "Punctuation": broken(["pre_tokenizer"], {"type": "Punctuation", "behavior": "Isolated"}),
    "WhitespaceSplit": broken(["pre_tokenizer", "pretokenizers", 1], {"type": "WhitespaceSplit"}),
    "BertProcessing": broken(["post_processor"], {"type": "BertProcessing"}),
    "WordPiece": broken(["decoder"], {"type": "WordPiece"}),
    "RightAligned": broken(["pre_tokenizer", "pretokenizers", 0, "behavior"], "RightAligned"),
}


@pytest.mark.parametrize("name", UNSUPPORTED.keys())
def test_what_is_not_supported_is_named(name, tmp_path, run_program):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(UNSUPPORTED[name]))
    result = run_program(["tokenizer_probe", path, "encode"], check=False, input="")
    assert result.returncode == 3
    assert name in result.stderr and "tokenizer.json" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
