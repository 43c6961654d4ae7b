"""The order of the folders and what the sources must not contain.

A folder of osp/ includes only itself and folders above it in this list (docs/tour.md); the byte-level folders
know no tensor library; files compiled for one instruction set include raw-pointer headers only.
"""

import re

import pytest

ORDER = [
    "base", "formats", "tokenizer", "data", "ops", "model", "measure", "optim", "quant", "train", "eval", "ptq",
    "export", "bench", "report", "cli",
]  # fmt: skip
WITHOUT_TENSORS = ["base", "formats", "tokenizer", "data", "report"]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
TENSOR_HEADER = re.compile(r"^(ATen|torch|c10|caffe2)/")

# What no source may contain, and why.
BANNED = {
    r"std::(basic_)?regex|#\s*include\s*<regex>": "std::regex is slow and overflows the stack on long input",
    r"torch::(jit::)?load\b|torch::pickle_load|\bpickle_load\b": "loading pickles runs code from the file",
    r"#\s*include\s*<torch/torch\.h>": "per-operator headers only",
}


def sources(root, folders=("osp", "tests", "bench", "microbench", "fuzz")):
    files = sorted(
        path
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.suffix in (".h", ".cpp", ".cu", ".cuh")
    )
    assert files
    return files


def strip_comments(text):
    """Without // and /* */ comments, so that prose may name what code must not contain; strings stay."""
    pattern = r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, lambda m: m.group(1) or " ", text, flags=re.DOTALL)


def violations_of(name, text):
    """What is wrong with the includes of the file osp/`name`."""
    found = []
    folder = name.split("/")[0]
    for quote, header in INCLUDE.findall(text):
        if header.startswith("osp/"):
            target = header.split("/")[1]
            if target not in ORDER:
                found.append(f"{name} includes {header}: {target} is not in the list of folders")
            elif ORDER.index(target) > ORDER.index(folder):
                found.append(f"{name} includes {header}: {target} comes after {folder}")
            if quote == "<":
                found.append(f"{name} includes <{header}>: our own headers stand in quotation marks")
        elif quote == '"':
            found.append(f'{name} includes "{header}": includes start at the root, "osp/..."')
        if TENSOR_HEADER.match(header) and folder in WITHOUT_TENSORS:
            found.append(f"{name} includes {header}: {folder} knows no tensor library")
        if TENSOR_HEADER.match(header) and re.search(r"_(avx2|avx512)\.cpp$", name):
            found.append(
                f"{name} includes {header}: one object of an inline function for all instruction sets"
            )
    return found


def test_folders_include_only_folders_above_them(repo_root):
    found = []
    for path in sources(repo_root, ["osp"]):
        name = path.relative_to(repo_root / "osp").as_posix()
        assert name.split("/")[0] in ORDER, f"osp/{name}: unknown folder"
        found += violations_of(name, path.read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name, line, expected",
    [
        ("base/x.cpp", '#include "osp/formats/safetensors.h"', "comes after"),
        ("optim/x.h", '  #  include "osp/train/trainer.h"', "comes after"),
        ("cli/x.cpp", '#include "osp/nowhere/x.h"', "not in the list"),
        ("data/x.h", "#include <ATen/core/Tensor.h>", "no tensor library"),
        ("ops/gemm_avx512.cpp", "#include <ATen/core/Tensor.h>", "instruction sets"),
        ("ops/x.cpp", '#include "x.h"', "start at the root"),
        ("ops/x.cpp", "#include <osp/ops/x.h>", "quotation marks"),
        ("ops/x.cpp", '#include <ATen/ops/mm.h>\n#include "osp/base/error.h"\n#include "osp/ops/x.h"', None),
    ],
)
def test_the_check_itself_finds_violations(name, line, expected):
    found = violations_of(name, line)
    assert (expected in found[0]) if expected else not found


def test_instruction_set_files_reach_no_tensor_header(repo_root):
    """Through our own headers as well."""
    for path in sources(repo_root, ["osp"]):
        if not re.search(r"_(avx2|avx512)\.cpp$", path.name):
            continue
        pending, seen = [path], set()
        while pending:
            file = pending.pop()
            for _, header in INCLUDE.findall(file.read_text()):
                assert not TENSOR_HEADER.match(header), f"{path}: {file} includes {header}"
                if header.startswith("osp/") and header not in seen:
                    seen.add(header)
                    pending.append(repo_root / header)


def banned_in(text, is_header):
    code = strip_comments(text)
    found = [why for pattern, why in BANNED.items() if re.search(pattern, code)]
    if is_header and re.search(r"^\s*using\s+namespace\b", code, re.MULTILINE):
        found.append("using namespace in a header")
    return found


def test_no_banned_constructs(repo_root):
    found = [(str(p), banned_in(p.read_text(), p.suffix in (".h", ".cuh"))) for p in sources(repo_root)]
    assert not [item for item in found if item[1]]


def test_the_ban_finds_code_and_not_comments():
    assert banned_in("std::regex word;", False)
    assert banned_in("using namespace osp;", True)
    assert not banned_in("using namespace osp;", False)
    assert banned_in('auto t = torch::load(t, "x");', False)
    assert not banned_in('// never std::regex\nauto url = "http://x";  /* torch::load */\nint a;', True)


def test_every_header_is_guarded_by_pragma_once(repo_root):
    missing = [
        str(p)
        for p in sources(repo_root)
        if p.suffix in (".h", ".cuh") and "#pragma once" not in p.read_text()
    ]
    assert not missing


def test_no_build_file_asks_for_fast_math(repo_root):
    files = [*repo_root.glob("CMake*"), *(repo_root / "cmake").glob("*"), *sources(repo_root)]
    assert any(f.name == "CMakeLists.txt" for f in files)
    for file in files:
        assert not re.search(r"-ffast-math|-Ofast|fast-math", file.read_text()), file
