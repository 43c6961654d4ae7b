"""Token shards and texts in object stores (`s3://`, `gs://`): the same results as from local files, each shard
fetched once into a cache of limited size, and one sentence for each way in which it can fail."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from ranks_fixture import finished, settings, wait_for
from store_fixture import free_port, store_environment
from train_fixture import checkpoints, metrics, state_hash, write_recipe

SHARDS = 8


@pytest.fixture(scope="module")
def local_tokens(run_program, repo_root, tmp_path_factory):
    """Shards of some kB of train_fixture's text, several per split."""
    from train_fixture import write_text

    folder = tmp_path_factory.mktemp("store-tokens")
    write_text(folder / "text.txt")
    words = ["--documents", "lines", "--validation-fraction", "0.1", "--shard-tokens", "1500", "--quiet"]
    tokenizer = ["--tokenizer", repo_root / "recipes" / "gcide-4096", "--out", folder / "tokens"]
    run_program(["osp", "tokenize", folder / "text.txt", *words, *tokenizer])
    assert len(list((folder / "tokens").glob("train-*"))) >= SHARDS
    return folder / "tokens"


@pytest.fixture(params=["s3", "gs"])
def store(request):
    """Both stores, one after the other."""
    server = request.getfixturevalue(f"{request.param}_server")
    server.proxy.reset()
    return server


@pytest.fixture
def s3(s3_server):
    s3_server.proxy.reset()
    return s3_server


@pytest.fixture
def train(run_program, tmp_path):
    """train(tokens, out, *words, cache=, size=, check=): a run of train_fixture's recipe."""

    def run(tokens, out, *words, cache=tmp_path / "cache", size="1GB", **keywords):
        recipe = write_recipe(tmp_path / "osp.toml", tokens)
        keywords.setdefault("env", store_environment(cache, size))
        return run_program(["osp", "train", recipe, "--out", out, *words, "--quiet"], **keywords)

    return run


def copies(cache: Path) -> dict:
    """The files of a cache with their sizes."""
    return {path.name: path.stat().st_size for path in cache.iterdir() if len(path.name) == 64}


def refused(result, status: int, *words: str) -> str:
    """The one sentence of a command that must fail."""
    assert result.returncode == status, (result.returncode, result.stderr)
    [line] = result.stderr.strip().splitlines()
    for word in ("error: ", *words):
        assert word in line, line
    return line


def test_training_from_a_store_has_the_bytes_of_training_from_a_folder(store, train, local_tokens, tmp_path):
    uri = store.put_folder("same", local_tokens)
    train(local_tokens, tmp_path / "local")
    train(uri, tmp_path / "stored")
    for step in (2, 6):
        assert state_hash(tmp_path / "stored", step) == state_hash(tmp_path / "local", step)
    fetched = store.proxy.gets(".u16")
    assert len(fetched) == len(set(fetched)) >= SHARDS  # each shard once

    # The next run finds all in the cache: it reads the index alone.
    store.proxy.reset()
    train(uri, tmp_path / "again")
    assert not store.proxy.gets(".u16") and not store.proxy.gets("tokenizer.json")
    assert store.proxy.gets("index.json")
    assert state_hash(tmp_path / "again", 6) == state_hash(tmp_path / "local", 6)
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_killed_run_resumes_from_the_store(s3, train, local_tokens, osp_build, tmp_path):
    uri = s3.put_folder("killed", local_tokens)
    train(local_tokens, tmp_path / "local")
    recipe = write_recipe(tmp_path / "osp.toml", uri)
    command = [osp_build / "osp", "train", recipe, "--out", tmp_path / "run", *settings("train.steps=100000")]
    process = subprocess.Popen(
        list(map(str, command)), env=store_environment(tmp_path / "cache"), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: 2 in checkpoints(tmp_path / "run"), process)
    process.kill()
    process.wait()
    # Set back to the checkpoint, and on in a folder without a cache: the shards are fetched again.
    s3.proxy.reset()
    train(uri, tmp_path / "run", "--resume-from", "step-2", cache=tmp_path / "other")
    assert s3.proxy.gets(".u16")
    assert state_hash(tmp_path / "run", 6) == state_hash(tmp_path / "local", 6)


def test_an_interrupted_fetch_leaves_nothing_that_is_believed(s3, train, local_tokens, osp_build, tmp_path):
    uri = s3.put_folder("torn", local_tokens)
    s3.proxy.bytes_per_s = 2000  # a second and a half per shard
    recipe = write_recipe(tmp_path / "osp.toml", uri)
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [str(osp_build / "osp"), "train", str(recipe), "--out", str(tmp_path / "torn")],
        env=store_environment(cache),
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: cache.exists() and list(cache.glob("*.part")), process)
    process.kill()
    process.wait()
    [left, *_] = cache.glob("*.part")
    assert not (cache / left.stem).exists()
    s3.proxy.reset()
    train(local_tokens, tmp_path / "local")
    train(uri, tmp_path / "stored")
    assert state_hash(tmp_path / "stored", 6) == state_hash(tmp_path / "local", 6)
    assert not list(cache.glob("*.part"))


def test_two_ranks_of_a_machine_fetch_each_shard_once(s3, train, start_ranks, local_tokens, tmp_path):
    uri = s3.put_folder("ranks", local_tokens)
    words = settings("train.reduction_groups=4", "train.batch_tokens=256")
    train(local_tokens, tmp_path / "local", *words)
    s3.proxy.bytes_per_s = 100_000  # slow enough that both want the same at the same time
    environment = store_environment(tmp_path / "cache")
    process = start_ranks(
        2, tmp_path / "ranks", *words, "--set", f"data.path={json.dumps(uri)}", environment=environment
    )
    finished(process)
    fetched = s3.proxy.gets(".u16")
    assert len(fetched) == len(set(fetched)) >= SHARDS
    assert state_hash(tmp_path / "ranks", 6) == state_hash(tmp_path / "local", 6)
