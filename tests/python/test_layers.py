"""The order of the folders and what the sources must not contain.

The osp_folder lines of CMakeLists.txt are the list of folders. A folder includes headers of itself and of the
folders that it links, directly or through them; all of these come before it. Folders without TORCH know no
tensor library, training and evaluation know nothing of post-training quantization, and a file compiled for
one instruction set includes raw-pointer headers only.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Folder(NamedTuple):
    uses_tensors: bool
    links: list[str]


def folders_of(text):
    """The folders that the text of a CMakeLists.txt declares, in order."""
    lines = re.findall(r"^osp_folder\((\w+)( TORCH)?(?: PROGRAM \w+)? LINK ([^)]+)\)", text, re.MULTILINE)
    assert len(lines) == len(re.findall(r"\bosp_folder\s*\(", strip_cmake_comments(text)))
    folders = {}
    for name, torch, libraries in lines:
        everything = "${OSP_LIBRARIES}" in libraries
        links = list(folders) if everything else re.findall(r"\bosp_(\w+)", libraries)
        folders[name] = Folder(bool(torch), links)
    return folders


def strip_cmake_comments(text):
    return re.sub(r"#[^\n]*", "", text)


FOLDERS = folders_of((ROOT / "CMakeLists.txt").read_text())
ORDER = list(FOLDERS)

# Forbidden whatever the order and the links say.
NEVER = {
    ("train", "ptq"): "training uses numbers of few bits, not the ways of getting a trained model there",
    ("eval", "ptq"): "evaluation takes a quantized model as it is",
}

# The instruction sets that cmake/folder.cmake knows: the ends of the names of such files.
LEVELS = re.findall(r"^set\(OSP_FLAGS_(\w+)", (ROOT / "cmake" / "folder.cmake").read_text(), re.MULTILINE)
KERNEL_FILE = re.compile(rf"_({'|'.join(LEVELS)})\.cpp$|_body\.inc$")
# Headers without functions, or with intrinsics only.
RAW_HEADERS = {"cstddef", "cstdint", "immintrin.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
TENSOR_HEADER = re.compile(r"^(ATen|torch|c10|caffe2)/")
HEADERS = (".h", ".cuh", ".inc")

# What no source may contain, and why.
BANNED = {
    r"std::(basic_)?regex|#\s*include\s*<regex>": "std::regex is slow and overflows the stack on long input",
    r"torch::(jit::)?load\b|torch::pickle_load|\bpickle_load\b": "loading pickles runs code from the file",
    r"#\s*include\s*<torch/torch\.h>": "per-operator headers only",
}


def sources(root, folders=("osp", "python", "tests", "examples", "microbench", "fuzz")):
    files = sorted(
        path
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.suffix in (*HEADERS, ".cpp", ".cu")
    )
    assert files
    return files


def strip_comments(text):
    """Without // and /* */ comments, so that prose may name what code must not contain; strings stay."""
    pattern = r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, lambda m: m.group(1) or " ", text, flags=re.DOTALL)


def linked_by(name):
    """The folders that `name` links, directly or through others."""
    found, pending = set(), list(FOLDERS[name].links)
    while pending:
        folder = pending.pop()
        if folder not in found:
            found.add(folder)
            pending += FOLDERS[folder].links
    return found


def wrong_with_folder(folder, target):
    """Why a file of `folder` must not include a header of the folder `target`; None if it may."""
    if target not in FOLDERS:
        return f"{target} is not in the list of folders"
    if (folder, target) in NEVER:
        return f"{target} never in {folder}: {NEVER[folder, target]}"
    if ORDER.index(target) > ORDER.index(folder):
        return f"{target} comes after {folder}"
    if FOLDERS[target].uses_tensors and not FOLDERS[folder].uses_tensors:
        return f"{folder} knows no tensor library, {target} does"
    if target != folder and target not in linked_by(folder):
        return f"{folder} does not link {target}"
    return None


def violations_of(name, text):
    """What is wrong with the includes of the file osp/`name`."""
    found = []
    folder = name.split("/")[0]
    for quote, header in INCLUDE.findall(text):
        wrong = []
        if header.startswith("osp/"):
            wrong.append(wrong_with_folder(folder, header.split("/")[1]))
            if quote == "<":
                wrong.append("our own headers stand in quotation marks")
        elif quote == '"':
            wrong.append('includes start at the root, "osp/..."')
        elif KERNEL_FILE.search(name) and header not in RAW_HEADERS:
            wrong.append("one object of an inline function for all instruction sets")
        if TENSOR_HEADER.match(header) and not FOLDERS[folder].uses_tensors:
            wrong.append(f"{folder} knows no tensor library")
        found += [f"{name} includes {header}: {reason}" for reason in wrong if reason]
    return found


def test_the_list_of_folders_is_the_tree():
    assert ORDER[0] == "base" and ORDER[-1] == "cli"
    assert sorted(ORDER) == sorted(p.name for p in (ROOT / "osp").iterdir() if p.is_dir())
    assert not FOLDERS["report"].uses_tensors, "the report is drawn from files, without the tensor library"
    for name, folder in FOLDERS.items():
        late = [link for link in folder.links if link not in ORDER[: ORDER.index(name)]]
        assert not late, f"osp_folder({name}): links {late}, declared below it"


def test_a_folder_line_that_cannot_be_read_is_an_error():
    assert folders_of("osp_folder(base LINK fmt::fmt)\nosp_folder(ops TORCH LINK osp_base)\n") == {
        "base": Folder(False, []),
        "ops": Folder(True, ["base"]),
    }
    with pytest.raises(AssertionError):
        folders_of("osp_folder(base LINK fmt::fmt)\n  osp_folder(ops LINK osp_base)\n")


def test_folders_include_only_folders_that_they_link(repo_root):
    found = []
    for path in sources(repo_root, ["osp"]):
        found += violations_of(path.relative_to(repo_root / "osp").as_posix(), path.read_text())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name, line, expected",
    [
        ("base/x.cpp", '#include "osp/formats/safetensors.h"', "comes after"),
        ("optim/x.h", '  #  include "osp/train/trainer.h"', "comes after"),
        ("optim/x.inc", '#include "osp/train/trainer.h"', "comes after"),
        ("cli/x.cpp", '#include "osp/nowhere/x.h"', "not in the list"),
        ("train/x.cpp", '#include "osp/ptq/gptq.h"', "ptq never in train"),
        ("eval/x.h", '#include "osp/ptq/gptq.h"', "ptq never in eval"),
        ("export/x.cpp", '#include "osp/train/loop.h"', "does not link train"),
        ("report/x.cpp", '#include "osp/data/shards.h"', "does not link data"),
        ("report/x.cpp", '#include "osp/measure/moments.h"', "report knows no tensor library"),
        ("report/x.cpp", "#include <ATen/core/Tensor.h>", "report knows no tensor library"),
        ("data/x.h", "#include <ATen/core/Tensor.h>", "no tensor library"),
        ("ops/gemm_avx2.cpp", "#include <ATen/core/Tensor.h>", "instruction sets"),
        ("ops/gemm_avx512.cpp", "#include <ATen/core/Tensor.h>", "instruction sets"),
        ("ops/gemm_avx512bf16.cpp", "#include <ATen/core/Tensor.h>", "instruction sets"),
        ("ops/gemm_portable.cpp", "#include <vector>", "instruction sets"),
        ("ops/gemm_body.inc", "#include <cmath>", "instruction sets"),
        ("ops/gemm_avx512bf16.cpp", "#include <immintrin.h>", None),
        ("ops/x.cpp", '#include "x.h"', "start at the root"),
        ("ops/x.cpp", "#include <osp/ops/x.h>", "quotation marks"),
        ("ops/x.cpp", '#include <ATen/ops/mm.h>\n#include "osp/base/error.h"\n#include "osp/ops/x.h"', None),
    ],
)
def test_the_check_itself_finds_violations(name, line, expected):
    found = violations_of(name, line)
    assert (expected in found[0]) if expected else not found


def unsafe_includes(root, files):
    """Headers that code of one instruction set must not see, in `files` and what they include of ours."""
    found, pending, seen = [], list(files), set()
    while pending:
        file = pending.pop()
        for _, header in INCLUDE.findall((root / file).read_text()):
            if header.startswith("osp/"):
                if header not in seen:
                    seen.add(header)
                    pending.append(header)
            elif header not in RAW_HEADERS:
                found.append(f"{file} includes {header}")
    return found


def kernel_files(root):
    """The files that each object of one instruction set starts from: a body has its family's header."""
    for path in sources(root, ["osp"]):
        name = path.relative_to(root).as_posix()
        if KERNEL_FILE.search(name):
            family = name.removesuffix("_body.inc") + ".h"
            yield [name, family] if name.endswith(".inc") else [name]


def test_instruction_set_files_reach_raw_pointer_headers_only(repo_root):
    assert {"portable", "avx2", "avx512", "avx512bf16"} <= set(LEVELS)
    found = [unsafe for files in kernel_files(repo_root) for unsafe in unsafe_includes(repo_root, files)]
    assert not found, "\n".join(found)


def test_a_tensor_header_behind_a_header_is_found(tmp_path):
    folder = tmp_path / "osp" / "ops"
    folder.mkdir(parents=True)
    (folder / "x_body.inc").write_text("int f();\n")
    (folder / "x.h").write_text('#include "osp/ops/y.h"\n')
    (folder / "y.h").write_text("#include <cstdint>\n#include <ATen/core/Tensor.h>\n")
    files = list(kernel_files(tmp_path))
    assert files == [["osp/ops/x_body.inc", "osp/ops/x.h"]]
    assert unsafe_includes(tmp_path, files[0]) == ["osp/ops/y.h includes ATen/core/Tensor.h"]


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


def types_of(text):
    """The classes and structs that a header defines outside of others, with their namespaces."""
    found, space = set(), ""
    for line in strip_comments(text).splitlines():
        if match := re.match(r"namespace ([\w:]+) \{", line):
            space = match[1]
        elif match := re.match(r"(?:class|struct)(?: alignas\([^)]*\))? (\w+)[^;]*$", line):
            found.add(f"{space}::{match[1]}")
    return found


def test_no_type_has_the_name_of_another(repo_root):
    """The linker would take one destructor for both, whichever it finds first."""
    files = {}
    for path in sources(repo_root, ["osp"]):
        if path.suffix in HEADERS:
            for name in types_of(path.read_text()):
                files.setdefault(name, []).append(path.relative_to(repo_root).as_posix())
    assert len(files) > 400
    assert not {name: twice for name, twice in files.items() if len(twice) > 1}


def test_types_are_told_from_declarations():
    text = "namespace osp {\nclass A;\nstruct B {\n  struct C {};\n};\nclass alignas(64) D\n    : E {\n}\n"
    assert types_of(text) == {"osp::B", "osp::D"}


def test_no_build_file_asks_for_fast_math(repo_root):
    files = [*repo_root.glob("CMake*"), *(repo_root / "cmake").glob("*"), *sources(repo_root)]
    assert any(f.name == "CMakeLists.txt" for f in files)
    for file in files:
        assert not re.search(r"-ffast-math|-Ofast|fast-math", file.read_text()), file


def test_no_source_file_is_over_500_lines(repo_root):
    others = [
        path
        for folder in ("osp", "python", "scripts", "tests", "bench", "cmake", "examples", ".ci")
        for path in (repo_root / folder).rglob("*")
        if path.suffix in {".py", ".js", ".css", ".html", ".sh", ".cmake"} or path.parent.name == ".ci"
    ]
    assert len(others) > 100
    lengths = {str(path): len(path.read_text().splitlines()) for path in [*sources(repo_root), *others]}
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_lines_of_cpp_have_at_most_100_columns(repo_root):
    """Comments too, which the formatter leaves as they are. Strings that hold JSON may not break."""
    folders = ("osp", "python", "tests", "fuzz", "examples", "microbench", "cmake")
    files = [path for folder in folders for path in (repo_root / folder).rglob("*")]
    paths = [path for path in files if path.suffix in {".cpp", ".h", ".inc"}]
    assert len(paths) > 500
    long = [
        f"{path}:{number}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100 and "clang-format off" not in line and not re.search(r'[\])}]"[,;)]|^ *"', line)
    ]
    assert not long
