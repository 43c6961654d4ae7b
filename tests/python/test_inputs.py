"""Kinds of inputs that must not be taken in silence: data that changed on disk, a run that is not there,
weights that would be ignored, numbers that are none, and lines of JSON that cannot be read."""

import json
import os
import shutil
import subprocess

import pytest
from train_fixture import checkpoints, one_thread, state_hash, write_recipe


@pytest.fixture
def osp(osp_build, tmp_path):
    """osp(words) -> CompletedProcess with bytes, run in tmp_path."""

    def run(*words):
        command = [osp_build / "osp", *words]
        return subprocess.run(
            [w if isinstance(w, bytes) else str(w) for w in command],
            capture_output=True,
            timeout=240,
            cwd=tmp_path,
            env=one_thread(),
        )

    return run


@pytest.fixture
def train(osp, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    return lambda *words: osp("train", recipe, "--quiet", *words)


# Data that changed on disk.


@pytest.fixture(scope="module")
def flipped_tokens(train_tokens, tmp_path_factory):
    """Shards with one id of each split exchanged for another id of the vocabulary."""
    folder = tmp_path_factory.mktemp("flipped") / "tokens"
    shutil.copytree(train_tokens, folder)
    for file in folder.glob("*.u16"):
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    return folder


def test_a_flipped_token_id_is_found_on_first_use_by_every_command(train, osp, flipped_tokens, tiny_run):
    model = tiny_run / "model"
    for result in (
        train("--out", "run", "--set", f"data.path={flipped_tokens}"),
        osp("eval", model, "--data", flipped_tokens),
        osp("analyze", model, "--data", flipped_tokens),
        osp("quantize", model, "--calibration", flipped_tokens, "--windows", "2", "--bits", "4-16-16",
            "--out", "q"),
    ):  # fmt: skip
        assert result.returncode == 3 and b"SHA-256 differs" in result.stderr, result.stderr
    unchecked = train("--out", "run", "--set", f"data.path={flipped_tokens}", "--set", "data.verify=false")
    assert unchecked.returncode == 0, unchecked.stderr


@pytest.mark.parametrize("link", ["a.txt", "folder", "data.jsonl.gz"])
def test_a_link_that_leads_nowhere_in_a_text_folder_is_no_omission(osp, repo_root, tmp_path, link):
    (tmp_path / "texts" / "below").mkdir(parents=True)
    (tmp_path / "texts" / "b.txt").write_text("text")
    (tmp_path / "texts" / "below" / link).symlink_to(tmp_path / "gone" / link)
    result = osp("tokenize", "texts", "--tokenizer", repo_root / "recipes" / "gcide-4096", "--out", "t")
    assert result.returncode == 5 and f"{link}: the link leads nowhere".encode() in result.stderr
    assert not (tmp_path / "t").exists()


# A run that is not there, and weights that would be ignored.


@pytest.mark.parametrize("words", [["--resume"], ["--resume-from", "step-2"]])
def test_a_mistyped_out_with_resume_begins_nothing(train, tmp_path, words):
    (tmp_path / "empty").mkdir()
    for out in ("mistyped", "empty"):
        result = train("--out", out, *words)
        assert result.returncode == 2 and b"there is no run to resume" in result.stderr, result.stderr
    assert not (tmp_path / "mistyped").exists() and not list((tmp_path / "empty").iterdir())


def test_init_from_beside_resume_is_followed_or_refused(train, tiny_run, tmp_path):
    weights = tiny_run / "step-6"
    run = tmp_path / "run"
    first = train("--out", "plain", "--init-from", weights)
    assert first.returncode == 0, first.stderr
    # A run that was killed before its first checkpoint begins again with the same weights.
    for again in ([], ["--init-from", weights], ["--init-from", f"{weights}/"]):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(tmp_path / "plain", run)
        for name in ["model", *(f"step-{step}" for step in checkpoints(run))]:
            shutil.rmtree(run / name)
        result = train("--out", run, "--resume", *again)
        assert result.returncode == 0, result.stderr
        assert state_hash(run, 6) == state_hash(tmp_path / "plain", 6)
    assert state_hash(run, 6) != state_hash(tiny_run, 6)
    # One that has a checkpoint goes on from that.
    result = train("--out", run, "--resume", "--init-from", weights)
    assert result.returncode == 2 and b"leave one of --resume and --init-from out" in result.stderr
    # Other weights than it began with.
    for name in ["model", *(f"step-{step}" for step in checkpoints(run))]:
        shutil.rmtree(run / name)
    result = train("--out", run, "--resume", "--init-from", tiny_run / "step-2")
    assert result.returncode == 2 and b"not with --init-from" in result.stderr


# Numbers that are none.


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "-1", "2", "0x1p-1", ""])
def test_a_validation_fraction_that_is_no_fraction_is_refused(osp, repo_root, tmp_path, number):
    (tmp_path / "a.txt").write_text("text")
    result = osp("tokenize", "a.txt", "--tokenizer", repo_root / "recipes" / "gcide-4096", "--out", "t",
                 f"--validation-fraction={number}")  # fmt: skip
    assert result.returncode == 2 and b"validation-fraction" in result.stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("key", ["optim.lr", "optim.eps", "schedule.decay_fraction", "guard.loss_z"])
@pytest.mark.parametrize("number", ["nan", "inf", "1e999"])
def test_a_number_of_a_recipe_is_finite(train, key, number):
    result = train("--dry-run", "--set", f"{key}={number}")
    assert result.returncode == 2 and key.encode() in result.stderr


# Lines of JSON that cannot be read.


LINES = [
    (b'{"text":"one"}', None, "one"),
    (b'{"text":"two","n":1e999,"n":NaN,"s":"\\ud83d"}', None, "two"),
    (b'{"text":"x \\ud83d y"}', "lone_surrogate", "x \N{REPLACEMENT CHARACTER} y"),
    (b'{"text":"caf\xe9"}', "not_utf8", "caf\N{REPLACEMENT CHARACTER}"),
    (b'{"text":"cut', "not_an_object", None),
    (b'{"body":"b"}', "no_field", None),
    (b'{"text":null}', None, None),
    (b'{"text":"a","text":"last"}', "field_twice", "last"),
]


@pytest.mark.parametrize("policy", ["stop", "skip", "repair"])
def test_bad_lines_stop_are_skipped_or_repaired_and_counted(osp, repo_root, tmp_path, policy):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(line for line, _, _ in LINES))
    tokenizer = repo_root / "recipes" / "gcide-4096"
    words = ["tokenize", "a.jsonl", "--tokenizer", tokenizer, "--out", "t", "--json"]
    result = osp(*words, *([] if policy == "stop" else ["--on-bad-line", policy]))
    if policy == "stop":
        assert result.returncode == 3 and b"a.jsonl: line 3: " in result.stderr, result.stderr
        assert b"surrogate" in result.stderr and b"--on-bad-line skip" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    kept = [(line, reason, text) for line, reason, text in LINES if reason is None or policy == "repair"]
    mended = {reason: 1 for _, reason, text in kept if reason and text}
    skipped = {reason: 1 for _, reason, _ in LINES if reason and reason not in mended}
    index = json.loads((tmp_path / "t" / "index.json").read_text())
    assert index["bad_lines"] == {"policy": policy, "skipped": skipped, "repaired": mended}
    report = json.loads(result.stdout)
    assert report["bad_lines"] == index["bad_lines"] and report["dropped_documents"] == 1
    ids = (tmp_path / "t" / "train-00000.u16").read_bytes()
    texts = [text for _, _, text in kept if text]
    assert index["splits"]["train"]["documents"] == len(texts)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    osp("tokenize", "b.jsonl", "--tokenizer", tokenizer, "--out", "wanted")
    assert ids == (tmp_path / "wanted" / "train-00000.u16").read_bytes()
    # Sets of programs that did not count are read all the same.
    del index["bad_lines"]
    (tmp_path / "t" / "index.json").write_text(json.dumps(index))
    assert osp("tokenize", "b.jsonl", "--tokenizer", tokenizer, "--out", "t", "--overwrite").returncode == 0


# Names that are not UTF-8.


def test_names_that_are_not_utf8_end_no_run(osp, train_tokens, tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    subprocess.run(["cp", "-r", train_tokens, odd], check=True)
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    words = ["train", recipe, "--set", b"data.path=" + odd, "--set", b"train.sample_prompt=\xe9", "--out"]
    for more in ([], ["--resume"], ["--dry-run"], ["--dry-run", "--json"]):
        result = osp(*words, odd + b"-run", *more)
        assert result.returncode == 0, result.stderr
    assert osp("average", odd + b"-run/step-2", odd + b"-run/step-4", "--out", odd + b"-mean").returncode == 0
    weights = [*words, odd + b"-second", "--init-from", odd + b"-mean", "--json"]
    result = osp(*weights)
    assert result.returncode == 0 and json.loads(result.stdout)["step"] == 6, result.stderr
    assert osp("report", odd + b"-run", odd + b"-second", "--out", odd + b".html").returncode == 0
