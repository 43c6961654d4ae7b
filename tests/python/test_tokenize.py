"""`osp tokenize` from end to end: every format and packing, splits, --stdin, errors and exit statuses."""

import gzip
import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

TEXTS = [
    "A first document.\nWith two lines, and a wörd.",
    "Second: 12,345 \u4e2d\u6587 \U0001f600",
    "   leading space\tand tab",
    "x",
]
END = 0  # <|endoftext|> of the shipped vocabulary


@pytest.fixture(scope="session")
def tokenizer_path(repo_root) -> Path:
    return repo_root / "recipes" / "gcide-4096" / "tokenizer.json"


@pytest.fixture(scope="session")
def peer(tokenizer_path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_path))


@pytest.fixture
def tokenize(run_program, tokenizer_path, tmp_path):
    """tokenize(*arguments) -> (result object, folder of shards)."""

    def run(*arguments, out="shards"):
        folder = tmp_path / out
        result = run_program(
            [
                "osp",
                "tokenize",
                *arguments,
                "--tokenizer",
                tokenizer_path,
                "--out",
                folder,
                "--json",
                "--quiet",
            ]
        )
        assert result.stderr == ""
        return json.loads(result.stdout), folder

    return run


@pytest.fixture
def refused(run_program, tokenizer_path):
    """refused(status, *arguments) -> the one line that says why."""

    def run(status, *arguments, tokenizer=tokenizer_path):
        result = run_program(
            ["osp", "tokenize", *arguments, "--tokenizer", tokenizer, "--quiet"], check=False
        )
        assert result.returncode == status, result.stderr
        assert result.stdout == ""
        return result.stderr

    return run


def read_split(folder: Path, split: str) -> list[int]:
    """The ids of a split, after checking every count and hash of the index."""
    index = json.loads((folder / "index.json").read_text())
    tokenizer = (folder / index["tokenizer"]["file"]).read_bytes()
    assert hashlib.sha256(tokenizer).hexdigest() == index["tokenizer"]["sha256"]
    ids = []
    for shard in index["splits"][split]["shards"]:
        data = (folder / shard["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        part = np.frombuffer(data, {"u16": "<u2", "u32": "<u4"}[index["dtype"]])
        assert len(part) == shard["tokens"]
        ids += part.tolist()
    assert len(ids) == index["splits"][split]["tokens"]
    return ids


def expected_ids(peer: Tokenizer, texts: list[str]) -> list[int]:
    return [i for t in texts for i in [*peer.encode(t, add_special_tokens=False).ids, END]]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKINGS = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstd}


def json_lines(texts) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


def parquet(texts, kind=None, **options) -> bytes:
    sink = pa.BufferOutputStream()
    column = pa.array(texts, kind or pa.string())
    table = pa.table({"id": list(range(len(texts))), "text": column})
    pq.write_table(table, sink, row_group_size=3, **options)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".jsonl", ".parquet"])
def test_every_format_and_packing_gives_the_packages_ids(suffix, packing, tokenize, peer, tmp_path):
    separator = "\n<end>\n"
    data = {
        ".jsonl": json_lines(TEXTS),
        ".parquet": parquet(TEXTS),
    }.get(suffix, separator.join(TEXTS).encode())
    path = tmp_path / f"corpus{suffix}{packing}"
    path.write_bytes(PACKINGS[packing](data))
    is_text = suffix in (".txt", ".md")
    result, folder = tokenize(path, *(["--document-separator", r"\n<end>\n"] if is_text else []))
    assert read_split(folder, "train") == expected_ids(peer, TEXTS)
    assert result["train"] == {"tokens": len(expected_ids(peer, TEXTS)), "documents": len(TEXTS), "shards": 1}
    assert result["text_bytes"] == sum(len(t.encode()) for t in TEXTS)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_parquet_text_columns_of_every_type_with_nulls(kind, compression, tokenize, peer, tmp_path):
    texts = [TEXTS[0], None, TEXTS[1], "", TEXTS[0], None, TEXTS[2]] * 20
    values = texts
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = [t if t is None else t.encode() for t in texts]
    path = tmp_path / "corpus.parquet"
    path.write_bytes(parquet(values, kind, compression=compression))
    result, folder = tokenize(path)
    assert read_split(folder, "train") == expected_ids(peer, [t for t in texts if t])
    assert result["dropped_documents"] == 60


def test_the_field_option_chooses_column_and_key(tokenize, peer, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1, "body": "one"}\n{"body": null}\n')
    pq.write_table(pa.table({"text": [1], "body": ["two"]}), tmp_path / "b.parquet")
    _, folder = tokenize(tmp_path / "a.jsonl", tmp_path / "b.parquet", "--field", "body")
    assert read_split(folder, "train") == expected_ids(peer, ["one", "two"])


def test_folders_and_globs_are_read_in_sorted_order(tokenize, peer, tmp_path):
    for name in ["d/b.txt", "d/a/2.txt", "d/a/1.txt", "d/.hidden/3.txt", "d/image.png", "e1.txt", "e0.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    _, folder = tokenize(tmp_path / "e*.txt", tmp_path / "d", tmp_path / "e0.txt")
    names = ["e0.txt", "e1.txt", "d/a/1.txt", "d/a/2.txt", "d/b.txt"]
    assert read_split(folder, "train") == expected_ids(peer, names)
    index = json.loads((folder / "index.json").read_text())
    assert [s["path"] for s in index["sources"]] == [str(tmp_path / n) for n in names]


ENTRIES = [f"Word{i} \\Word\\, n.\n   1. Sense {i}.\n\n   2. Another." for i in range(400)]


def test_split_and_shards_do_not_depend_on_threads(tokenize, peer, tmp_path):
    path = tmp_path / "a.dict.dz"
    path.write_bytes(gzip.compress(("\n\n".join(ENTRIES) + "\n").encode()))
    options = [path, "--documents", "entries", "--validation-fraction", "0.1", "--shard-tokens", "1000"]
    folders = [tokenize(*options, "--threads", n, out=f"threads{n}")[1] for n in (1, 2, 5)]
    files = [{p.name: p.read_bytes() for p in f.iterdir()} for f in folders]
    assert files[0] == files[1] == files[2]
    held_out = [int.from_bytes(hashlib.sha256(e.encode()).digest()[:8], "big") < 0.1 * 2**64 for e in ENTRIES]
    assert read_split(folders[0], "train") == expected_ids(
        peer, [e for e, h in zip(ENTRIES, held_out, strict=True) if not h]
    )
    assert read_split(folders[0], "validation") == expected_ids(
        peer, [e for e, h in zip(ENTRIES, held_out, strict=True) if h]
    )


def test_begin_and_end_tokens_are_as_asked(tokenize, peer, tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    ids = [peer.encode(t, add_special_tokens=False).ids for t in ("one", "two")]
    cases = {
        ("--end-of-document", "none"): [*ids[0], *ids[1]],
        ("--end-of-document", "7"): [*ids[0], 7, *ids[1], 7],
        ("--begin-of-document", "<|endoftext|>"): [END, *ids[0], END, END, *ids[1], END],
    }
    for number, (options, expected) in enumerate(cases.items()):
        result, folder = tokenize(tmp_path / "a.txt", "--documents", "lines", *options, out=f"out{number}")
        assert read_split(folder, "train") == expected
        if options[1] == "none":
            assert result["end_of_document"] is None


def test_wide_vocabularies_are_written_as_u32(run_program, tmp_path):
    from tokenizers import models, pre_tokenizers

    vocabulary = {"a": 0, "b": 70_000, "[UNK]": 1}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("abba")
    run_program(
        [
            "osp",
            "tokenize",
            tmp_path / "a.txt",
            "--tokenizer",
            tmp_path,
            "--out",
            tmp_path / "out",
            "--end-of-document",
            "none",
            "--quiet",
        ]
    )
    assert (tmp_path / "out" / "index.json").exists()
    assert read_split(tmp_path / "out", "train") == [0, 70_000, 70_000, 0]


def test_stdin_equals_the_package(run_program, tokenizer_path, peer):
    texts = [*TEXTS, "", "line\nbreaks\r\n\u2028", "\u0000\u007f", '"quotes" and \\', "a" * 5000]
    lines = "".join(json.dumps(t, ensure_ascii=i % 2 == 0) + "\n" for i, t in enumerate(texts))
    result = run_program(["osp", "tokenize", "--tokenizer", tokenizer_path, "--stdin"], input=lines)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert answers == [peer.encode(t, add_special_tokens=False).ids for t in texts]


def test_stdin_answers_each_line_at_once(osp_build, tokenizer_path):
    command = [osp_build / "osp", "tokenize", "--tokenizer", tokenizer_path, "--stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        for text in ("one", "two"):
            program.stdin.write(json.dumps(text) + "\n")
            program.stdin.flush()
            assert json.loads(program.stdout.readline())
        program.stdin.close()
        assert program.wait(timeout=60) == 0


def test_bad_input_is_refused_with_its_place(refused, tmp_path):
    out = ["--out", tmp_path / "out"]
    files = {
        "empty.txt": b"", "blank.txt": b" \n\n", "plain.txt": b"text", "noise.txt.gz": b"no gzip",
        "cut.txt.gz": gzip.compress(b"text" * 10_000)[:-9], "cut.txt.zst": zstd(b"text" * 10_000)[:-3],
        "line.jsonl": b'{"text": "a"}\n{"text": 5}\n', "field.jsonl": b'{"body": "a"}\n',
        "cut.parquet": parquet(TEXTS)[:-5], "noise.parquet": b"PAR1" + b"x" * 100,
        "unknown.xyz": b"text",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    numbers = pa.table({"text": [1, 2]})
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    cases = [
        (3, "empty.txt", [], "no text"),
        (3, "blank.txt", [], "no text"),
        (2, "missing.txt", [], "missing.txt"),
        (2, "*.none", [], "*.none"),
        (2, "unknown.xyz", [], "--format"),
        (3, "noise.txt.gz", [], "noise.txt.gz"),
        (3, "cut.txt.gz", [], "truncated"),
        (3, "cut.txt.zst", [], "truncated"),
        (3, "line.jsonl", [], "line 2"),
        (3, "field.jsonl", [], "body"),
        (3, "cut.parquet", [], "cut.parquet"),
        (3, "noise.parquet", [], "noise.parquet"),
        (2, "numbers.parquet", [], "int64"),
        (2, "numbers.parquet", ["--field", "body"], "text"),
        (2, "plain.txt", ["--documents", "chapters"], "chapters"),
        (2, "plain.txt", ["--document-separator", r"\q"], r"\q"),
        (2, "plain.txt", ["--end-of-document", "<nothing>"], "<nothing>"),
        (2, "plain.txt", ["--end-of-document", "4096"], "4096"),
        (2, "plain.txt", ["--validation-fraction", "1"], "validation"),
        (2, "plain.txt", ["--validation-fraction", "1.5"], "1.5"),
        (2, "plain.txt", ["--shard-tokens", "0"], "shard-tokens"),
        (2, "plain.txt", ["--treads", "2"], "treads"),
    ]
    for status, name, options, said in cases:
        message = refused(status, tmp_path / name, *out, *options)
        assert said in message, (name, message)
        left = {p.name for p in tmp_path.iterdir()} - set(files) - {"numbers.parquet"}
        assert not left, (name, left)
    assert "--out" in refused(2, tmp_path / "plain.txt")
    assert "no input" in refused(2, *out)
    refused(2, "--stdin", tmp_path / "plain.txt")
    refused(5, tmp_path / "plain.txt", *out, tokenizer=tmp_path / "no-tokenizer.json")


def test_stdin_refuses_what_is_no_json_string(run_program, tokenizer_path):
    for text, said in [('"a"\n[1]\n', "line 2"), ('"a', "line 1"), ('"a" "b"\n', "line 1")]:
        result = run_program(
            ["osp", "tokenize", "--tokenizer", tokenizer_path, "--stdin"], check=False, input=text
        )
        assert result.returncode == 3
        assert said in result.stderr


def test_existing_output_is_kept_unless_told_otherwise(tokenize, refused, peer, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    _, folder = tokenize(tmp_path / "a.txt")
    assert "--overwrite" in refused(2, tmp_path / "b.txt", "--out", folder)
    (tmp_path / "damaged.jsonl").write_text("{")
    refused(3, tmp_path / "b.txt", tmp_path / "damaged.jsonl", "--out", folder, "--overwrite")
    assert read_split(folder, "train") == expected_ids(peer, ["one"])
    tokenize(tmp_path / "b.txt", "--overwrite")
    assert read_split(folder, "train") == expected_ids(peer, ["two"])
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("dear")
    refused(2, tmp_path / "b.txt", "--out", precious, "--overwrite")
    assert (precious / "letter.txt").exists()


def test_a_signal_ends_the_work_and_leaves_nothing(osp_build, tokenizer_path, tmp_path):
    with gzip.open(tmp_path / "a.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(60):  # enough that it is still running when the signal comes
            file.write("\n".join(ENTRIES).encode() * 40)
    command = [osp_build / "osp", "tokenize", tmp_path / "a.txt.gz", "--documents", "lines",
               "--tokenizer", tokenizer_path, "--out", tmp_path / "out", "--threads", "1"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        while not list(tmp_path.glob("out.tmp-*")):
            assert program.poll() is None, program.stderr.read()
            time.sleep(0.01)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=120) == 75
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt.gz"]


def test_a_full_disk_ends_the_work_and_leaves_nothing(osp_build, tokenizer_path, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(ENTRIES) * 20)

    def limit():
        return resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [osp_build / "osp", "tokenize", path, "--documents", "lines", "--quiet",
               "--tokenizer", tokenizer_path, "--out", tmp_path / "out"]  # fmt: skip
    # Python ignores SIGXFSZ; the program must inherit that to see the failed write instead.
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, restore_signals=False)
    assert result.returncode == 5, result.stderr
    assert "train-00000.u16" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_memory_does_not_grow_with_the_text(osp_build, tokenizer_path, tmp_path):
    """Peak memory of a run over 30 MB is that of one over 3 MB, up to the chunks in flight."""
    peaks = []
    for number, repetitions in enumerate((70, 700)):
        path = tmp_path / f"{number}.txt"
        path.write_text("\n".join(ENTRIES) * repetitions)
        script = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [osp_build / "osp", "tokenize", path, "--documents", "lines", "--quiet", "--json",
                   "--tokenizer", tokenizer_path, "--out", tmp_path / f"out{number}",
                   "--threads", "2"]  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True, check=True
        )
        peaks.append(int(result.stdout.splitlines()[-1]) / 1024)
    # MB. Six chunks of 1 MiB, their ids (4 bytes for each of fewer ids than bytes), and noise.
    assert peaks[1] - peaks[0] < 20, peaks
