"""`[[data.source]]`: several corpora in one run, the same bytes on any number of ranks and after a resume."""

import json
import random
import shutil

import pytest
from ranks_fixture import finished, settings
from train_fixture import metrics, one_thread, state_hash, timeless, write_recipe

WORDS = settings(
    "train.reduction_groups=4", "train.batch_tokens=256", "data.path=", "train.checkpoint_every=3"
)


@pytest.fixture(scope="module")
def numbers(run_program, repo_root, tmp_path_factory):
    """A second corpus of the same tokenizer."""
    folder = tmp_path_factory.mktemp("numbers")
    draw = random.Random(3)
    lines = [" plus ".join(str(draw.randrange(100)) for _ in range(5)) for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    words = ["--documents", "lines", "--validation-fraction", "0.1", "--quiet", "--out", folder / "numbers"]
    tokenizer = ["--tokenizer", repo_root / "recipes" / "gcide-4096"]
    run_program(["osp", "tokenize", folder / "text.txt", *tokenizer, *words])
    return folder / "numbers"


@pytest.fixture(scope="module")
def mixed(train_tokens, numbers):
    """Words of `osp train` that mix both corpora."""
    sources = [
        {"name": "words", "path": str(train_tokens), "weight": 0.75},
        {"name": "numbers", "path": str(numbers), "weight": 0.25},
    ]
    return [*WORDS, "--set", f"data.source={json.dumps(sources)}"]


def test_a_mixed_run_has_the_same_bytes_on_any_ranks_and_when_resumed(
    start_ranks, run_program, tmp_path, mixed, train_tokens
):
    recipe = write_recipe(tmp_path / "fp32-osp.toml", train_tokens)
    alone = ["osp", "train", recipe, "--out", tmp_path / "alone", *mixed, "--quiet"]
    run_program(alone, env=one_thread())
    for ranks in (2, 4):
        finished(start_ranks(ranks, tmp_path / f"ranks-{ranks}", *mixed))
    # Resumed on another number of ranks.
    shutil.copytree(tmp_path / "alone", tmp_path / "resumed")
    finished(start_ranks(2, tmp_path / "resumed", *mixed, "--resume-from", "step-3"))
    for name in ("ranks-2", "ranks-4", "resumed"):
        for step in (3, 6):
            assert state_hash(tmp_path / name, step) == state_hash(tmp_path / "alone", step), name
    expected = [line for line in timeless(tmp_path / "alone") if line["kind"] == "step"]
    for name in ("ranks-2", "ranks-4", "resumed"):
        assert [line for line in timeless(tmp_path / name) if line["kind"] == "step"] == expected

    # The log counts what was taken, and validates by source.
    taken = expected[-1]["sources"]
    assert sum(source["tokens"] for source in taken.values()) == 6 * 256
    assert taken["words"]["tokens"] > taken["numbers"]["tokens"] > 0 and taken["numbers"]["epochs"] > 0
    [*_, validation] = [line for line in metrics(tmp_path / "alone") if line["kind"] == "validation"]
    sources = validation["sources"].values()
    total = sum(source["loss"] * source["tokens"] for source in sources)
    assert total / sum(source["tokens"] for source in sources) == pytest.approx(validation["loss"], abs=1e-5)


def test_dry_run_and_plan_say_what_is_taken_of_each_source(run_program, tmp_path, mixed, train_tokens):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    dry = json.loads(run_program(["osp", "train", recipe, *mixed, "--dry-run", "--json"]).stdout)
    assert [source["name"] for source in dry["data"]] == ["words", "numbers"]
    assert sum(source["tokens_taken"] for source in dry["data"]) == dry["tokens"]
    words = ["--devices", "1", "--flops", "1TFLOP/s"]
    plan = json.loads(run_program(["osp", "plan", recipe, *mixed, *words, "--json"]).stdout)
    assert plan["data"] == dry["data"]
    text = run_program(["osp", "train", recipe, *mixed, "--dry-run"]).stdout
    assert '[[data.source]]\nname = "words"' in text and "(numbers, 25.0 % of the sequences)" in text
    assert "(numbers, 25.0 % of the sequences)" in run_program(["osp", "plan", recipe, *mixed, *words]).stdout
    one = json.loads(run_program(["osp", "train", recipe, "--dry-run", "--json"]).stdout)
    assert one["data"][0]["share"] == 1 and one["data"][0]["tokens_taken"] == one["tokens"]


def test_a_recipe_lists_corpora_beside_itself(run_program, tmp_path, train_tokens, numbers, repo_root):
    recipe = (repo_root / "recipes" / "mixture.toml").read_text()
    assert recipe.count("[[data.source]]") == 2
    lines = [line for line in recipe.splitlines() if line.startswith('path = "runs')]
    for line, path in zip(lines, (train_tokens, numbers), strict=True):
        recipe = recipe.replace(line, f'path = "{path}"')
    recipe = recipe.replace('inherit = "', f'inherit = "{repo_root}/recipes/')
    (tmp_path / "mixture.toml").write_text(recipe)
    text = run_program(["osp", "train", tmp_path / "mixture.toml", "--dry-run"]).stdout
    assert "% of the sequences" in text


def test_other_weights_are_another_run(run_program, tmp_path, mixed, train_tokens):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = ["osp", "train", recipe, "--out", tmp_path / "run", "--quiet"]
    run_program([*words, *mixed, *settings("train.steps=3")], env=one_thread())
    other = [word.replace("0.75", "0.5") for word in mixed]
    refused = run_program([*words, *other, "--resume"], check=False)
    assert refused.returncode == 2 and "data.source" in refused.stderr
