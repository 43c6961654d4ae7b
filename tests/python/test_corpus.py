"""scripts/corpus.sh on packages made here, without a network; and the removal of markup on small pages."""

import base64
import gzip
import importlib.util
import json
import os
import shutil
import subprocess

import pytest


@pytest.fixture(scope="module")
def corpus_text(repo_root):
    specification = importlib.util.spec_from_file_location(
        "corpus_text", repo_root / "scripts/corpus_text.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Three of the small corpus's four packages as .deb files."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    folder = tmp_path_factory.mktemp("packages")

    def build(name, files):
        root = folder / name
        files = {**files, "DEBIAN/control": control.format(name=name).encode()}
        for path, data in {**files, f"usr/share/doc/{name}/copyright": b"License: GPL-2+\n"}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", root, folder / f"{name}_1.0_all.deb"],
            check=True,
            capture_output=True,
        )
        shutil.rmtree(root)

    control = "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: a test\n"
    entries = [f"word{i}\n   the meaning of word number {i}\n".encode() for i in range(40)]
    index, offset = [], 0
    for i, entry in enumerate(entries):
        index.append(f"word{i}\t{digits(offset)}\t{digits(len(entry))}\n")
        offset += len(entry)
    build(
        "dict-jargon",
        {
            "usr/share/dictd/jargon.dict.dz": gzip.compress(b"".join(entries)),
            "usr/share/dictd/jargon.index": "".join(index).encode(),
        },
    )
    sayings = [f"Saying number {i} is longer than twenty letters.\n" for i in range(30)]
    # The same saying in two files is one document of the corpus.
    build(
        "fortunes", {f"usr/share/games/fortunes/{name}": "%\n".join(sayings).encode() for name in ("a", "b")}
    )
    page = (
        ".TH LS 1\n.SH NAME\nls \\- list\n.SH DESCRIPTION\n" + "Lists what a folder holds, one a line.\n" * 9
    )
    build("manpages", {"usr/share/man/man1/ls.1.gz": gzip.compress(page.encode())})
    return folder


def digits(number):
    """A number as dictd writes it: base 64, the most significant digit first."""
    text = base64.b64encode(number.to_bytes(3, "big")).decode().lstrip("A")
    return text or "A"


def call(repo_root, osp_build, *words):
    environment = {**os.environ, "OSP": str(osp_build / "osp")}
    command = [repo_root / "scripts/corpus.sh", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


def test_a_folder_of_packages_becomes_shards_and_a_second_call_does_nothing(
    repo_root, osp_build, packages, tmp_path
):
    out = tmp_path / "corpus"
    first = call(repo_root, osp_build, "--small", "--packages", packages, "--out", out, "--table")
    assert first.returncode == 0, first.stderr
    assert "left out: dict-devil" in first.stderr
    assert "| `dict-jargon` | the jargon file | GPL-2+ |" in first.stdout
    index = json.loads((out / "tokens/index.json").read_text())
    assert sum(split["documents"] for split in index["splits"].values()) == 40 + 30 + 1

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    second = call(repo_root, osp_build, "--small", "--packages", packages, "--out", out)
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times


def test_a_package_that_came_later_is_mixed_in(repo_root, osp_build, packages, tmp_path):
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(packages / "fortunes_1.0_all.deb", some)
    arguments = ("--small", "--packages", some, "--out", tmp_path / "corpus")
    assert call(repo_root, osp_build, *arguments).returncode == 0
    shutil.copy(packages / "manpages_1.0_all.deb", some)
    assert call(repo_root, osp_build, *arguments).returncode == 0
    index = json.loads((tmp_path / "corpus/tokens/index.json").read_text())
    assert sum(split["documents"] for split in index["splits"].values()) == 30 + 1


def test_mistakes_are_named(repo_root, osp_build, packages, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    result = call(repo_root, osp_build, "--small", "--packages", empty, "--out", tmp_path / "a")
    assert result.returncode == 5 and "no package to be had" in result.stderr
    (empty / "fortunes_1.0_all.deb").write_bytes(b"not a package")
    result = call(repo_root, osp_build, "--small", "--packages", empty, "--out", tmp_path / "b")
    assert result.returncode == 3 and "is damaged" in result.stderr
    result = call(repo_root, osp_build, "--packages", tmp_path / "nowhere")
    assert result.returncode == 2 and "no such folder" in result.stderr
    result = call(repo_root, osp_build, "--vocabulary", "many")
    assert result.returncode == 2 and "takes a number" in result.stderr
    assert call(repo_root, osp_build, "--larger").returncode == 2


def test_the_order_is_by_hash_without_duplicates(corpus_text, tmp_path):
    texts = [f"document {i}\u2028of the corpus" for i in range(200)]
    (tmp_path / "text").mkdir()
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    (tmp_path / "text/a.jsonl").write_text("".join(lines[:120]))
    (tmp_path / "text/b.jsonl").write_text("".join(lines[80:]))
    corpus_text.mix(tmp_path / "text", tmp_path / "documents")
    parts = sorted((tmp_path / "documents").iterdir())
    mixed = [json.loads(x)["text"] for p in parts for x in p.read_text().split("\n")[:-1]]
    assert mixed == sorted(texts, key=corpus_text.hash_of)


def test_html_becomes_its_article(corpus_text):
    page = (
        "<html><head><title>x</title></head><body><nav>menu</nav>\n<h1>Title &amp; more</h1>"
        "<p>One\nsentence   <b>here</b>.</p><pre>\n  a &lt; b\n    c\n</pre><script>var x;</script>"
        "<ul><li>first</li><li>second</li></ul><footer>imprint</footer></body></html>"
    )
    wanted = "Title & more\n\nOne sentence here.\n\na < b\n    c\n\nfirst\n\nsecond\n"
    assert corpus_text.from_html(page) == wanted


def test_a_manual_page_becomes_its_paragraphs(corpus_text):
    page = (
        '.\\" a comment\n.TH LS 1\n.SH NAME\nls \\- list\n.SH "SEE ALSO"\n.BR dir (1),\n\\fIfiles\\fP\n'
        ".PP\nNext \\(aqparagraph\\(aq.\n.nf\nint  x;\n  y;\n.fi\n"
    )
    assert corpus_text.from_roff(page) == (
        "NAME\n\nls - list\n\nSEE ALSO\n\ndir(1), files\n\nNext 'paragraph'.\n\nint  x;\n  y;\n"
    )


def test_data_is_no_document(corpus_text):
    assert corpus_text.document("a.c", b"int x;\n" * 100)
    assert corpus_text.document("a.c", b"0x1234, 5678,\n" * 100) is None
    assert corpus_text.document("a.c", b"x" * 5000) is None
    assert corpus_text.document("a.c", b"\xff\xfe" * 500) is None
    assert corpus_text.document("a.c", b"short") is None
