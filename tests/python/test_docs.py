"""The documents against the tree: files, names, links, the tour's list of headers, and the width of lines.

Each check is a function that returns what it found wrong, so that a second test can plant an error.
"""

import importlib.util
import json
import re

import pytest
from test_layers import ORDER

MAX_COLUMNS = 110

# Folders with code, whose words are what a name in a document may refer to.
SOURCES = ("osp", "tests", "bench", "microbench", "examples", "fuzz", "python", "scripts", "recipes", "cmake")
SOURCE_SUFFIXES = {".h", ".cpp", ".inc", ".py", ".sh", ".toml", ".cmake", ".txt", ".js", ".css"}
CODE_FILE = re.compile(r"[\w./-]*\w\.(?:h|cpp|inc)\b(?![\w/])")
TREE_PATH = re.compile(
    r"(?<![\w./-])(?:osp|tests|bench|microbench|examples|fuzz|python|scripts|recipes|cmake|docs)/[\w./-]*\w"
)
PROGRAM = re.compile(r"build/release/(\w+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Names of other people's code, which the sources mention under other names or not at all.
FOREIGN = {"bos_token"}
FOREIGN_FILES = {"llama.cpp", "ik_llama.cpp"}


def documents(root):
    files = [*sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))]
    assert len(files) > 5
    return files


@pytest.fixture(scope="module")
def tree(repo_root):
    """All files of the project relative to its root, without what is built or fetched."""
    files = [path for path in repo_root.iterdir() if path.is_file()]
    for folder in (*SOURCES, "docs"):
        files += [path for path in (repo_root / folder).rglob("*") if path.is_file()]
    return {p.relative_to(repo_root).as_posix() for p in files if p.suffix != ".pyc"}


@pytest.fixture(scope="module")
def words(repo_root, tree):
    """Every identifier of the sources."""
    found = set()
    for name in tree:
        if name.split("/")[0] not in SOURCES and name != "CMakeLists.txt":
            continue
        if name.endswith("test_docs.py") or (repo_root / name).suffix not in SOURCE_SUFFIXES:
            continue
        found.update(re.findall(r"\w+", (repo_root / name).read_text(errors="replace")))
    return found


def is_placeholder(name):
    """osp/optim/NAME.h stands for a file that a reader is going to write."""
    return re.search(r"(^|[/_.-])[A-Z]{2,}([/_.-]|$)", name) is not None


def code_spans(text):
    """The contents of `…`, outside of indented or fenced blocks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    return re.findall(r"`([^`]+)`", text)


def missing_files(text, tree):
    """Paths and source files that a document names and that are not there."""
    names = {name.split("/")[-1] for name in tree}
    folders = {"/".join(name.split("/")[:depth]) for name in tree for depth in range(1, name.count("/") + 1)}
    found = []
    for path in TREE_PATH.findall(text):
        start = re.split(r"[*…{]", path)[0].rstrip("/.")
        known = start in tree or start in folders or any(name.startswith(start) for name in tree)
        if not is_placeholder(path) and not known:
            found.append(f"{path} is not there")
    for name in set(CODE_FILE.findall(text)) - FOREIGN_FILES:
        if "/" not in name and not is_placeholder(name) and name not in names:
            found.append(f"no file is called {name}")
    return found


def missing_programs(text, tree):
    built = {"osp"} | {f"osp_{folder}_test" for folder in ORDER} | {
        name.split("/")[-1].removesuffix(".cpp")
        for name in tree
        if name.endswith(".cpp") and name.startswith(("tests/probes/", "microbench/", "examples/"))
    }  # fmt: skip
    return [f"build/release/{name} is not built" for name in PROGRAM.findall(text) if name not in built]


def unknown_names(text, words):
    """Names in backticks that look like identifiers and are in no source file."""
    found = []
    for span in code_spans(text):
        name = re.sub(r"\(.*\)$", "", span)
        call = name != span
        if re.match(r"(at|torch|std|c10)(::|\.)", name):
            continue
        camel = re.fullmatch(r"[A-Z][a-z0-9]+(?:[A-Z][A-Za-z0-9]*)+", name)
        snake = re.fullmatch(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+_?", name) or (
            call and re.fullmatch(r"\w+", name)
        )
        scoped = re.fullmatch(r"\w+(?:::~?\w+)+", name)
        if not (camel or snake or scoped) or is_placeholder(name):
            continue
        for word in re.findall(r"\w+", name):
            if word not in words and word not in FOREIGN:
                found.append(f"`{span}`: {word} is in no source file")
    return found


def anchors(text):
    """The anchors of a document's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def broken_links(text, document, root):
    found = []
    for target in LINK.findall(text):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists():
            found.append(f"link to {target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text() if path else text):
            found.append(f"link to {target}: no such heading")
    return found


def long_lines(text):
    """Lines beyond the limit; rows of tables and lines without a place to break are excepted."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        one_word = " " not in line.strip() or re.fullmatch(r"\s*!?\[[^]]*\]\([^)]*\)\s*", line)
        if len(line) > MAX_COLUMNS and not line.startswith(("|", "<img")) and not one_word:
            found.append(f"line {number}: {len(line)} columns")
    return found


def tour_sections(text):
    """{folder: text} of the tour's headings `## osp/FOLDER`, in their order."""
    parts = re.split(r"^## osp/(\w+)[^\n]*\n", text, flags=re.MULTILINE)
    return {folder: body.split("\n## ")[0] for folder, body in zip(parts[1::2], parts[2::2], strict=True)}


def missing_headers(tour, tree):
    """Headers that the tour does not list under their folder, and files that it lists there in vain."""
    found = []
    for folder, body in tour_sections(tour).items():
        listed = {name for name in CODE_FILE.findall(body) if "/" not in name} - FOREIGN_FILES
        there = {name.split("/")[-1] for name in tree if name.startswith(f"osp/{folder}/")}
        headers = {name for name in there if name.endswith(".h")}
        found += [f"osp/{folder}/{name} is not in the tour" for name in sorted(headers - listed)]
        found += [f"the tour lists {name}, which osp/{folder} lacks" for name in sorted(listed - there)]
    return found


def folder_differences(tour, cmake, order):
    """The tour goes down from the program; CMake builds a library per folder, and the program."""
    found = []
    toured = list(tour_sections(tour))
    built = {*re.findall(r"^\s*osp_folder\((\w+)", cmake, re.MULTILINE), "cli"}
    if toured != list(reversed(order)):
        found.append(f"the tour's folders are {toured}, expected {list(reversed(order))}")
    found += [f"{folder}: in the tour or in CMakeLists.txt only" for folder in sorted(built ^ set(toured))]
    return found


def collect(root, check):
    return [f"{d.relative_to(root)}: {problem}" for d in documents(root) for problem in check(d)]


def report(found):
    assert not found, "\n" + "\n".join(found)


def test_files_and_programs_that_documents_name_exist(repo_root, tree):
    report(
        collect(
            repo_root, lambda d: missing_files(d.read_text(), tree) + missing_programs(d.read_text(), tree)
        )
    )


def test_names_in_backticks_are_in_the_sources(repo_root, words):
    report(collect(repo_root, lambda d: unknown_names(d.read_text(), words)))


def test_links_lead_somewhere(repo_root):
    report(collect(repo_root, lambda d: broken_links(d.read_text(), d, repo_root)))


def test_lines_are_wrapped(repo_root):
    report(collect(repo_root, lambda d: long_lines(d.read_text())))


def test_the_tour_lists_every_header(repo_root, tree):
    report(missing_headers((repo_root / "docs" / "tour.md").read_text(), tree))


def test_the_tour_and_the_build_have_the_same_folders(repo_root):
    tour = (repo_root / "docs" / "tour.md").read_text()
    report(folder_differences(tour, (repo_root / "CMakeLists.txt").read_text(), ORDER))


def tree_of_readme(text):
    """The folders of osp/ as the README draws them, from the first that may be included to the last."""
    drawn = re.search(r"^    osp/\n((?:      \w+/ .*\n)+)", text, re.MULTILINE)
    return re.findall(r"^      (\w+)/", drawn.group(1), re.MULTILINE)[::-1]


def test_the_tree_in_the_readme_has_the_folders_in_their_order(repo_root):
    assert tree_of_readme((repo_root / "README.md").read_text()) == ORDER


# ---- each check finds an error that is planted ---------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see osp/base/nowhere.h", ["osp/base/nowhere.h is not there"]),
        ("`nowhere.h`", ["no file is called nowhere.h"]),
        ("(osp/base/error.h), `error.h`, osp/base/, `osp/optim/NAME.cpp`, `NAME_test.cpp`, osp/base", []),
        ("`recipes/nowhere.toml`", ["recipes/nowhere.toml is not there"]),
        ("run `scripts/nowhere.sh`", ["scripts/nowhere.sh is not there"]),
    ],
)
def test_missing_files_are_found(tree, text, expected):
    assert missing_files(text, tree) == expected


def test_missing_programs_are_found(tree):
    assert missing_programs("build/release/osp_nowhere_test", tree)
    assert not missing_programs("build/release/osp train, build/release/osp_base_test", tree)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("the class `ForwardPasses`", ["ForwardPasses"]),
        ("`make_it_all_up()`", ["make_it_all_up"]),
        ("`make_it_all_up`", ["make_it_all_up"]),
        ("`Muon::step_nowhere`", ["step_nowhere"]),
        ("`ForwardPass`, `excess_kurtosis(moments)`, `at::made_up`, `OutlierTap`, `4-4-4`, `make_NAME`", []),
        ("    `ForwardPasses` in a block of code", []),
    ],
)
def test_unknown_names_are_found(words, text, expected):
    assert [problem.split()[1] for problem in unknown_names(text, words)] == expected


def test_broken_links_are_found(repo_root):
    readme = repo_root / "README.md"
    text = "# A heading, here\n[a](docs/tour.md) [b](docs/nowhere.md) [c](#a-heading-here) [d](#other)"
    assert broken_links(text, readme, repo_root) == [
        "link to docs/nowhere.md: no such file",
        "link to #other: no such heading",
    ]


def test_long_lines_are_found():
    long = "word " * 23
    assert long_lines(f"short\n{long}\n| {long} |\n{'x' * 200}") == ["line 2: 115 columns"]


def test_headers_that_the_tour_lacks_are_found():
    tree = {"osp/base/error.h", "osp/base/json.h", "osp/base/json.cpp"}
    tour = "## osp/base: what\n- `error.h`, `json.cpp`, `gone.h`\n\n## Building\n`other.h`\n"
    assert missing_headers(tour, tree) == [
        "osp/base/json.h is not in the tour",
        "the tour lists gone.h, which osp/base lacks",
    ]


def test_folders_that_differ_are_found():
    tour = "## osp/cli\n\n## osp/base\n"
    assert not folder_differences(tour, "osp_folder(base LINK x)", ["base", "cli"])
    assert folder_differences(tour, "osp_folder(base)\nosp_folder(runtime)", ["base", "cli"])
    assert folder_differences(tour, "osp_folder(base)", ["cli", "base"])


def unknown_tests(text, tests):
    """Tests that a document names, as test_… or as Suite.Name, and that are in no file."""
    named = set(re.findall(r"\btest_\w+\b(?!\.py|\w*\.cpp)", text))
    named |= set(re.findall(r"(?<![\w.`/])[A-Z]\w+\.[A-Z]\w{8,}", text))
    return [f"{name} is no test" for name in sorted(named - tests)]


@pytest.fixture(scope="module")
def tests(repo_root):
    found = set()
    for file in (repo_root / "tests" / "python").glob("test_*.py"):
        found |= {file.stem, *re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    for file in (repo_root / "osp").rglob("*_test.cpp"):
        cases = re.findall(r"^TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", file.read_text(), re.MULTILINE)
        found |= {f"{suite}.{name}" for suite, name in cases}
    return found


def test_tests_that_the_promises_name_exist(repo_root, tests):
    text = (repo_root / "docs" / "reliability.md").read_text()
    assert len(re.findall(r"\btest_[a-z_0-9]+\b", text)) > 30
    report(unknown_tests(text, tests))
    checks = (repo_root / "docs" / "numerics.md").read_text().split("### Checks of the engine")[1]
    checks = checks.split("\n## ")[0]
    assert len(re.findall(r"^\| \d\. ", checks, re.MULTILINE)) == 9
    report(unknown_tests(checks, tests))


def test_every_section_of_promises_says_how_its_tests_are_run(repo_root, tests):
    text = (repo_root / "docs" / "reliability.md").read_text()
    sections = [part for part in text.split("\n## ")[1:] if "| promise |" in part]
    assert len(sections) == 3
    for section in sections:
        title, _, command = section.partition("\nCommand: ")
        named = set(re.findall(r"`tests/python/(test_\w+)\.py`", title))
        run = set(re.findall(r"tests/python/(test_\w+)\.py", command))
        assert run and "--gtest_filter=" in command, title.splitlines()[0]
        assert run <= named, f"{title.splitlines()[0]}: {run - named} are of no promise"
        suites = re.findall(r"[':](\w+)\*?\.\*", command)
        assert suites and all(any(test.startswith(suite) for test in tests) for suite in suites)


def unbacked_cells(text, tests):
    """Cells of "What reads what" that name no test and do not say that there is none."""
    section = text.split("\n## What reads what\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    found = []
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        if name in ("command", "other program"):
            continue
        for number, cell in enumerate(cells):
            named = re.findall(r"`(test_\w+)`", cell)
            if not named and "untested" not in cell and cell != "—":
                found.append(f"{name}, column {number + 2}: {cell!r} names no test")
            found += [f"{name}: {test} is no test" for test in named if test not in tests]
    assert len(rows) > 10
    return found


def test_every_cell_of_what_reads_what_is_backed_by_a_test(repo_root, tests):
    report(unbacked_cells((repo_root / "docs" / "formats.md").read_text(), tests))


def test_cells_that_nothing_backs_are_found(repo_root, tests):
    text = (repo_root / "docs" / "formats.md").read_text()
    planted = text.replace("`test_greedy_text_is_that_of_transformers`", "certainly").replace(
        "yes: `test_generate_writes_the_same`", "`test_nowhere_at_all`"
    )
    assert unbacked_cells(planted, tests) == [
        "`generate`, column 2: 'yes: certainly' names no test",
        "`generate`: test_nowhere_at_all is no test",
    ]


def test_tests_that_are_not_there_are_found(tests):
    assert unknown_tests("test_nowhere_at_all, Guard.NowhereAtAll", tests) == [
        "Guard.NowhereAtAll is no test",
        "test_nowhere_at_all is no test",
    ]


# What a document calls a recipe's size, and by how much the number of parameters may differ from it.
SIZES = {
    "demo-osp": "1.9M parameters",
    "race/tiny-osp": "1.9M parameters",
    "demo-7m-osp": "7M parameters",
    "demo-long-osp": "30M parameters",
    "125m-osp": "161.6M parameters",
}


@pytest.mark.parametrize("recipe", SIZES)
def test_a_recipe_has_the_size_that_its_comment_says(run_program, repo_root, recipe):
    file = repo_root / "recipes" / f"{recipe}.toml"
    assert SIZES[recipe] in " ".join(file.read_text().replace("#", " ").split())
    words = ["osp", "train", file, "--dry-run", "--json", "--quiet", "--set", "data.path=/nowhere"]
    parameters = json.loads(run_program(words).stdout)["parameters"]
    said = float(SIZES[recipe].split("M")[0]) * 1e6
    assert abs(parameters - said) < 0.05 * said


def test_the_numbers_of_the_torture_are_those_of_its_file(repo_root):
    measured = json.loads((repo_root / "docs" / "reliability.json").read_text())
    text = (repo_root / "docs" / "reliability.md").read_text()
    for fault, count in measured["faults"].items():
        row = f"| {fault} | {count['injections']} | {count['survived']} | {count['failures']} |"
        assert row in text, row
    assert not measured["failed"] and not measured["skipped"]
    assert f"seed {measured['seed']}, {measured['runs']} runs" in text


def test_the_rows_of_the_evidence_are_those_of_its_file(repo_root):
    spec = importlib.util.spec_from_file_location("race", repo_root / "scripts" / "race.py")
    race = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(race)
    measured = [json.loads(line) for line in (repo_root / "docs" / "evidence.jsonl").read_text().splitlines()]
    printed = {race.table_row(row) for row in measured}
    rows = [
        line
        for line in (repo_root / "docs" / "evidence-rows.md").read_text().splitlines()
        if " | osp | " in line or " | adam | " in line
    ]
    assert len(rows) > 10 and all(row["command"].startswith("osp ") for row in measured)
    assert [row for row in rows if row not in printed] == []


def test_the_worked_example_of_a_family_is_the_source(repo_root):
    """The code that docs/extending.md quotes for SmolLM3, but for its comments."""
    text = (repo_root / "docs" / "extending.md").read_text()

    def lines(code):
        without = (re.sub(r" *//.*", "", line).strip() for line in code.splitlines())
        return [line for line in without if line]

    function = r"void smollm3\(.*?\n *\}\n"
    quoted = re.search(function, text, re.S)[0]
    source = re.search(function, (repo_root / "osp/model/family_keys.cpp").read_text(), re.S)[0]
    assert lines(quoted) == lines(source) and len(lines(quoted)) > 10
    for file, row in (
        ("hf_family.cpp", '{"SmolLM3ForCausalLM", "smollm3", smollm3, {}, rotary},'),
        ("gguf_names.cpp", '{"smollm3", "SmolLM3ForCausalLM", true},'),
    ):
        assert row in text and row in (repo_root / "osp/model" / file).read_text()
