#!/usr/bin/env python3
"""The text of Debian packages as documents, for scripts/corpus.sh.

    corpus_text.py list [--small]                  names of the packages, one a line
    corpus_text.py extract PACKAGE DEB OUT         documents of a package's .deb file, as JSON lines
    corpus_text.py mix FOLDER OUT                  all packages' documents in one order, without duplicates
    corpus_text.py sample FOLDER OUT               plain text of the first documents, for a vocabulary
    corpus_text.py table INDEXES FOLDER PACKAGES   the table of docs/corpus.md; also [--small]
    corpus_text.py total INDEX                     tokens of the shards in words

A document is a file, or an entry of a dictionary, or one saying of a collection. Markup is removed from HTML,
Mallard and manual pages; other files stay as they are. The order is by the SHA-256 of the text: a function of
the documents alone, in which every stretch is a mixture of all packages. Memory: the largest file of a
package, or one of 64 parts of the corpus.
"""

import argparse
import contextlib
import gzip
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PARTS = 64
NO_DOCUMENT = 4  # exit status of extract
SAMPLE_BYTES = 64_000_000
LONGEST_PROSE, LONGEST_CODE, SHORTEST = 1_000_000, 200_000, 200


@dataclass(frozen=True)
class Package:
    """Files of a package whose path matches `only`; `share` of them, chosen by the hash of their path."""

    name: str
    what: str
    only: str = ""
    share: float = 1.0
    small: bool = False


SPHINX = r"/_sources/"
PYTHON = r"\.py$"
PACKAGES = [
    # English: dictionaries, sayings, handbooks.
    Package("dict-gcide", "the Collaborative International Dictionary of English"),
    Package("dict-wn", "WordNet"),
    Package("dict-foldoc", "dictionary of computing"),
    Package("dict-jargon", "the jargon file", small=True),
    Package("dict-devil", "the Devil's Dictionary", small=True),
    Package("dict-vera", "computer acronyms"),
    Package("fortunes", "sayings", r"games/fortunes/[^.]+$", small=True),
    Package("debian-faq", "questions on Debian", r"\.en\.html$"),
    Package("debian-policy", "Debian's rules", r"\.html$"),
    Package("debian-reference-en", "handbook of Debian", r"\.en\.html$"),
    Package("debian-handbook", "handbook of Debian", r"/en-US/"),
    Package("developers-reference", "manual for Debian's developers", r"\.html$"),
    Package("harden-doc", "securing Debian", r"/en-US/.*\.html$"),
    Package("installation-guide-amd64", "installing Debian", r"/en/"),
    Package("gnome-user-docs", "help of the GNOME desktop", r"/help/C/"),
    Package("libreoffice-help-en-us", "help of LibreOffice", r"\.html$"),
    # English about programs.
    Package("manpages", "manual pages of Linux", r"/man\d/", small=True),
    Package("manpages-dev", "manual pages of Linux and the C library", r"/man\d/"),
    Package("linux-doc-6.1", "documentation of the Linux kernel", SPHINX),
    Package("perl-doc", "documentation of Perl", r"\.pod$"),
    Package("postgresql-doc-15", "documentation of PostgreSQL", r"\.html$"),
    Package("python3.11-doc", "documentation of Python", SPHINX),
    Package("python-django-doc", "documentation of Django", r"\.html$"),
    Package("twisted-doc", "documentation of Twisted", SPHINX),
    Package("vim-runtime", "documentation and scripts of Vim", r"/doc/.*\.txt$|\.vim$"),
    Package("nodejs-doc", "documentation of Node.js", r"\.html$|\.md$"),
    Package("git-doc", "documentation of git", r"\.txt$"),
    Package("apache2-doc", "documentation of Apache", r"/manual/en/.*\.html$"),
    Package("octave-doc", "documentation of Octave", r"\.html$"),
    Package("r-doc-html", "documentation of R", r"\.html$"),
    Package("cppreference-doc-en-html", "reference of C and C++", r"\.html$"),
    Package("racket-doc", "documentation of Racket", r"\.html$"),
    Package("erlang-doc", "documentation of Erlang", r"\.html$"),
    Package("openjdk-17-doc", "documentation of Java", r"\.html$"),
    Package("rust-doc", "documentation of Rust", r"/(book|nomicon|reference|std|core|alloc)/", share=0.5),
    Package("python-scipy-doc", "documentation of SciPy", r"\.html$"),
    Package("python-pandas-doc", "documentation of pandas", r"\.html$"),
    Package("sagemath-doc", "documentation of SageMath", r"/en/.*\.html$"),
    Package("python-sympy-doc", "documentation of SymPy", r"\.html$"),
    Package("python-sklearn-doc", "documentation of scikit-learn", r"\.html$"),
    Package("python-statsmodels-doc", "documentation of statsmodels", r"\.html$"),
    Package("python-astropy-doc", "documentation of Astropy", r"\.html$"),
    Package("qtbase5-doc-html", "documentation of Qt", r"\.html$"),
    Package("llvm-19-doc", "documentation of LLVM", SPHINX),
    Package("libstdc++-12-doc", "documentation of the C++ library", r"\.html$", share=0.3),
    # Code, much of it commented.
    Package("linux-source-6.1", "the Linux kernel in C", r"\.[ch]$", share=0.35),
    Package("golang-1.19-src", "Go's library and compiler", r"\.go$"),
    Package("rust-src", "Rust's library and compiler", r"\.rs$|\.md$"),
    Package("openjdk-17-source", "Java's library", r"\.java$"),
    Package("emacs-el", "Emacs in Lisp", r"\.el$"),
    Package("acl2-books-source", "theorems and proofs in Lisp", r"\.lisp$"),
    Package("perl-modules-5.36", "Perl's library", r"\.p[ml]$"),
    Package("libpython3.11-stdlib", "Python's library", PYTHON),
    Package("python3-numpy", "NumPy in Python", PYTHON),
    Package("python3-scipy", "SciPy in Python", PYTHON),
    Package("python3-pandas", "pandas in Python", PYTHON),
    Package("python3-sympy", "SymPy in Python", PYTHON),
    Package("python3-sklearn", "scikit-learn in Python", PYTHON),
    Package("python3-statsmodels", "statsmodels in Python", PYTHON),
    Package("python3-matplotlib", "Matplotlib in Python", PYTHON),
    Package("python3-django", "Django in Python", PYTHON),
    Package("python3-twisted", "Twisted in Python", PYTHON),
]
# Files that no one wrote: indexes, registers of graphics cards, tables of characters.
UNWANTED = re.compile(
    r"genindex|py-modindex|searchindex|index-all|/search\.html|/_modules/|allclasses|package-tree|-members\.html"
    r"|/drm/amd/include/|/core_?arch/|/core/arch/|/std/arch/|/_static/|/Documentation/|_tables\.|/nls/nls_|changelog|copyright"
)


def named(name: str) -> Package:
    return next(package for package in PACKAGES if package.name == name)


def chosen(small: bool) -> list[Package]:
    return [package for package in PACKAGES if package.small or not small]


# ---- from files to text -------------------------------------------------------------------------

DROPPED = re.compile(
    r"<!--.*?-->|<(script|style|nav|head|header|footer|form|select|svg|math)\b[^>]*>.*?</\1\s*>", re.S | re.I
)
PREFORMATTED = re.compile(r"<pre\b[^>]*>(.*?)</pre\s*>", re.S | re.I)
BLOCK = re.compile(
    r"</?(?:p|div|section|h[1-6]|title|item|note|li|tr|dt|dd|ul|ol|dl|table|br|hr|blockquote)\b[^>]*>", re.I
)
TAG = re.compile(r"<[^>]*>")


def from_html(text: str) -> str:
    """Text of a page: what is beside the article is dropped, blocks begin lines, <pre> keeps its lines."""
    text = text.split('class="sphinxsidebar', 1)[0]
    text = re.split(r'role="main"[^>]*>', text, maxsplit=1)[-1]
    text = DROPPED.sub(" ", text)
    parts = PREFORMATTED.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            part = BLOCK.sub("\n", re.sub(r"\s+", " ", part))
        parts[i] = html.unescape(TAG.sub("", part)).replace("\xa0", " ")
        parts[i] = parts[i].replace("¶", "") if i % 2 == 0 else f"\n{parts[i]}\n"
    lines = [line.rstrip() for line in "".join(parts).split("\n")]
    lines = [line if line.startswith("    ") else line.strip() for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


ROFF_GLYPHS = {
    "-": "-",
    "e": "\\",
    "&": "",
    "~": " ",
    " ": " ",
    "|": "",
    "^": "",
    "0": " ",
    "c": "",
    "/": "",
    ",": "",
}
ROFF_ESCAPE = re.compile(r"\\(?:f(?:\[\w*\]|\(..|.)|s[-+]?\d+|\*?\((..)|\*?\[([^\]]*)\]|\*?(.))")
ROFF_NAMED = {"aq": "'", "oq": "'", "cq": "'", "dq": '"', "lq": '"', "rq": '"', "bu": "*", "em": "--",
              "en": "-", "co": "(c)", "ha": "^", "ti": "~", "rs": "\\", "mu": "x", "->": "->", "<=": "<=",
              ">=": ">="}  # fmt: skip


def from_roff(text: str) -> str:
    """Text of a manual page: headings, paragraphs and words; requests that only place them are dropped."""

    def escape(match: re.Match) -> str:
        name = match.group(1) or match.group(2)
        if name is not None:
            return ROFF_NAMED.get(name, "")
        return ROFF_GLYPHS.get(match.group(3) or "", "")

    # Lines of a paragraph are joined, as a formatter would, except between requests that keep them.
    lines, filling = [""], True

    def add(words: str) -> None:
        if filling and lines[-1] and not words.startswith(" "):
            lines[-1] += " " + words
        else:
            lines.append(words)

    for line in text.split("\n"):
        if line[:1] not in (".", "'"):
            add(line)
            continue
        request, _, rest = line[1:].strip().partition(" ")
        words = [quoted or plain for quoted, plain in re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)]
        if request in ("SH", "SS", "Sh", "Ss"):
            lines += ["", " ".join(words), ""]
        elif request in ("PP", "P", "LP", "TP", "Pp", "sp", "IP", "TQ", "nf", "fi", "EX", "EE"):
            filling = (filling and request not in ("nf", "EX")) or request in ("fi", "EE")
            lines += [""] if request != "IP" else ["", *words[:1]]
        elif request in ("B", "I", "SM", "SB", "R"):
            add(" ".join(words))
        elif request in ("BR", "IR", "RB", "RI", "BI", "IB"):
            add("".join(words))
    return re.sub(r"\n{3,}", "\n\n", ROFF_ESCAPE.sub(escape, "\n".join(lines))).strip() + "\n"


BASE64 = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


def dictionary(index: bytes, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Entries of a dictd dictionary in the order of the file, each once."""

    def number(digits: str) -> int:
        value = 0
        for digit in digits:
            value = value * 64 + BASE64[digit]
        return value

    places = {}
    for line in index.decode("utf-8", errors="replace").splitlines():
        word, offset, length = line.split("\t")[:3]
        if not word.startswith("00"):
            places[number(offset), number(length)] = word
    for (offset, length), word in sorted(places.items()):
        yield word, data[offset : offset + length]


def files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Path and contents of every file of a package, in its order; archives and dictionaries in parts.

    Nothing is unpacked on disk. Memory: the largest file, and no archive inside of the package but a .zip.
    """
    program = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    dictionaries = {}
    with tarfile.open(fileobj=program.stdout, mode="r|") as package:
        for member in package:
            name = member.name.removeprefix("./")
            if not member.isfile():
                continue
            source = package.extractfile(member)
            if "/dictd/" in name and name.endswith((".index", ".dict.dz")):
                dictionaries[name] = source.read()
            elif "/fortunes/" in name and "." not in Path(name).name:
                for i, saying in enumerate(source.read().split(b"\n%\n")):
                    yield f"{name}/{i}.entry", saying
            elif re.fullmatch(r"usr/src/[^/]+\.tar\.\w+", name):
                with tarfile.open(fileobj=source, mode="r|*") as archive:
                    for inner in archive:
                        if inner.isfile() and inner.size <= LONGEST_PROSE:
                            yield f"{name}/{inner.name}", archive.extractfile(inner).read()
            elif name.endswith("/src.zip"):
                with zipfile.ZipFile(io.BytesIO(source.read())) as archive:
                    yield from ((f"{name}/{inner}", archive.read(inner)) for inner in archive.namelist())
            elif name.endswith(".gz"):
                # Sources have broken archives among their test data, on purpose.
                with contextlib.suppress(OSError, EOFError, zlib.error):
                    yield name[:-3], gzip.decompress(source.read())
            else:
                yield name, source.read()
    if program.wait():
        raise tarfile.ReadError("dpkg-deb cannot read it")
    for name in sorted(name for name in dictionaries if name.endswith(".index")):
        data = gzip.decompress(dictionaries[name.removesuffix(".index") + ".dict.dz"])
        yield from ((f"{name}/{word}.entry", entry) for word, entry in dictionary(dictionaries[name], data))


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def document(name: str, data: bytes) -> str | None:
    """The text of a file, or None where there is too little, too much, or no text."""
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    if name.endswith(".entry"):
        return text.strip("\n") + "\n" if len(text) > 20 else None
    prose = True
    if is_page(name):
        text = from_html(text)
    elif re.search(r"/man\d/", name):
        text = from_roff(text)
    elif not re.search(r"\.(txt|rst|md|pod)$", name):
        prose = False
    longest = LONGEST_PROSE if prose else LONGEST_CODE
    if not SHORTEST <= len(text) <= longest or "\0" in text:
        return None
    # More digits than a fifth, or very long lines: a table or data, not writing.
    if sum(map(text.count, "0123456789")) > len(text) / 5 or len(text) / (text.count("\n") + 1) > 1000:
        return None
    return text


def extract(package: Package, deb: Path, out: Path) -> None:
    wanted = re.compile(package.only)
    seen, licences = Counter(), Counter()
    temporary = out.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as target:
        for name, data in files(deb):
            if re.fullmatch(r"usr/share/doc/[^/]+/copyright", name):
                licences.update(re.findall(r"^License: *(\S.{,50})$", data.decode(errors="replace"), re.M))
            if not is_chosen(package, name, wanted):
                continue
            text = document(name, data)
            if text and is_page(name):
                text = without_refrains(text, seen, longer_than=40, times=3, alone=False)
            if text:
                json.dump({"text": text, "source": f"{package.name}/{name}"}, target, ensure_ascii=False)
                target.write("\n")
    complete = out.with_suffix(".tmp2")
    count = drop_menus(temporary, complete)
    temporary.unlink()
    if count == 0:
        complete.unlink()
        print(
            f"corpus: {package.name}: no document found; does this version have other paths?", file=sys.stderr
        )
        sys.exit(NO_DOCUMENT)
    short = ", ".join(name for name, _ in licences.most_common(3)) or "see its copyright file"
    out.with_suffix(".licence").write_text(short + "\n")
    complete.rename(out)


def is_chosen(package: Package, name: str, wanted: re.Pattern) -> bool:
    if not name.endswith(".entry") and (UNWANTED.search(name) or not wanted.search(f"/{name}")):
        return False
    return int(hash_of(f"{package.name}/{name}")[:8], 16) < package.share * 2**32


def is_page(name: str) -> bool:
    return re.search(r"\.(html|htm|xhtml|page)(\.en)?$", name) is not None


def without_refrains(text: str, seen: Counter, longer_than: int, times: int, alone: bool) -> str | None:
    """Drops lines that have come so many times in a package before: generated pages repeat themselves.

    alone: only lines between empty ones, as entries of menus are and lines of code are not.
    """
    lines = text.split("\n")
    kept = []
    for i, line in enumerate(lines):
        if len(line) > longer_than and not (alone and (lines[i - 1] or "".join(lines[i + 1 : i + 2]))):
            key = hashlib.blake2b(line.encode(), digest_size=8).digest()
            seen[key] += 1
            if seen[key] > times:
                continue
        kept.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept))
    return text if len(text) >= SHORTEST else None


def drop_menus(documents: Path, out: Path) -> int:
    """Copies JSON lines; of pages without the short lines that menus repeat. Returns the documents left."""
    seen = Counter()
    count = 0
    with documents.open(encoding="utf-8") as lines, out.open("w", encoding="utf-8") as target:
        for line in lines:
            record = json.loads(line)
            if is_page(record["source"]):
                record["text"] = without_refrains(record["text"], seen, longer_than=3, times=20, alone=True)
            if record["text"]:
                json.dump(record, target, ensure_ascii=False)
                target.write("\n")
                count += 1
    return count


# ---- from packages to one corpus ----------------------------------------------------------------


def mix(folder: Path, out: Path) -> None:
    """Sorts all documents by the hash of their text: first into parts by its first digits, then each part."""
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    parts = [(temporary / f"part-{i:02}.jsonl").open("w", encoding="utf-8") for i in range(PARTS)]
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                key = hash_of(json.loads(line)["text"])
                parts[int(key[:8], 16) * PARTS >> 32].write(f"{key}\t{line}")
    for part in parts:
        part.close()
        path = Path(part.name)
        by_key = {}
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            key, _, record = line.partition("\t")
            by_key.setdefault(key, record)
        path.write_text("".join(f"{by_key[key]}\n" for key in sorted(by_key)), encoding="utf-8")
    temporary.rename(out)


def sample(folder: Path, out: Path) -> None:
    left = SAMPLE_BYTES
    with out.open("w", encoding="utf-8") as target:
        for path in sorted(folder.glob("*.jsonl")):
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    text = json.loads(line)["text"]
                    left -= target.write(text)
                    if left <= 0:
                        return


def table(folder: Path, texts: Path, packages: Path, small: bool) -> None:
    print("| package | what | licence | download, MB | documents | text, MB | tokens |")
    print("|---|---|---|---:|---:|---:|---:|")
    for package in chosen(small):
        index = folder / f"{package.name}.json"
        if not index.exists():
            continue
        made = json.loads(index.read_text())
        deb = max(packages.glob(f"{package.name}_*.deb"), default=None)
        print(
            f"| `{package.name}` | {package.what} | {(texts / f'{package.name}.licence').read_text().strip()}"
            f" | {deb.stat().st_size / 1e6 if deb else 0:.1f}"
            f" | {sum(s['documents'] for s in made['sources']):,}"
            f" | {sum(s['text_bytes'] for s in made['sources']) / 1e6:.1f}"
            f" | {sum(s['tokens'] for s in made['splits'].values()):,} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "extract", "mix", "sample", "table", "total"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    paths = [Path(argument) for argument in options.arguments]
    if options.command == "list":
        print("\n".join(package.name for package in chosen(options.small)))
    elif options.command == "extract":
        try:
            extract(named(options.arguments[0]), paths[1], paths[2])
        except (tarfile.TarError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
            print(f"corpus: {paths[1]} is damaged ({error}); remove it and call again", file=sys.stderr)
            sys.exit(3)
    elif options.command == "mix":
        mix(*paths)
    elif options.command == "sample":
        sample(*paths)
    elif options.command == "table":
        table(*paths, options.small)
    else:
        splits = json.loads(paths[0].read_text())["splits"]
        print(", ".join(f"{split['tokens']:,} tokens of {name}" for name, split in splits.items()))


if __name__ == "__main__":
    sys.exit(main())
