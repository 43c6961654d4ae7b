"""Token shards and texts in object stores (`s3://`, `gs://`): the same results as from local files, each
shard fetched once into a cache of limited size, and one sentence for each way in which it can fail."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ranks_fixture import finished, settings, wait_for
from small_tokenizers import letter_tokenizer
from store_fixture import free_port, store_environment
from train_fixture import checkpoints, metrics, state_hash, write_recipe, write_text

SHARDS = 8


@pytest.fixture(scope="module")
def local_tokens(run_program, tmp_path_factory):
    """Shards of 6 kB of train_fixture's text, with a tokenizer that is smaller than one of them."""
    folder = tmp_path_factory.mktemp("store-tokens")
    write_text(folder / "text.txt")
    (folder / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    words = ["--documents", "lines", "--validation-fraction", "0.1", "--shard-tokens", "3000", "--quiet"]
    tokenizer = ["--tokenizer", folder, "--end-of-document", "none", "--out", folder / "tokens"]
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


def test_a_shard_that_came_damaged_is_fetched_again_and_one_that_stays_damaged_is_refused(
    s3, train, local_tokens, tmp_path
):
    uri = s3.put_folder("spoilt", local_tokens)
    train(local_tokens, tmp_path / "local")
    s3.proxy.spoil["train-00003.u16"] = 1
    train(uri, tmp_path / "once")
    fetched = s3.proxy.gets(".u16")
    assert len(s3.proxy.gets("train-00003.u16")) == 2 and len(fetched) == len(set(fetched)) + 1
    assert state_hash(tmp_path / "once", 6) == state_hash(tmp_path / "local", 6)

    s3.proxy.spoil["validation-00000.u16"] = 100
    cache = tmp_path / "fresh"
    result = train(uri, tmp_path / "never", cache=cache, check=False)
    refused(result, 3, "spoilt/validation-00000.u16", "SHA-256", "damaged")
    assert not (tmp_path / "never").exists()  # before there is a run
    assert not list(cache.glob("*.part"))
    sizes = {path.stat().st_size for path in local_tokens.iterdir()}
    assert all(size in sizes for size in copies(cache).values())


def test_a_shard_that_is_corrupt_on_one_rank_ends_the_run_of_all(s3, start_ranks, local_tokens, tmp_path):
    uri = s3.put_folder("one-rank", local_tokens)
    # Whoever needs it first gets it wrong twice; nobody else does.
    shards = sorted(path.name for path in local_tokens.glob("train-*"))
    s3.proxy.spoil = {name: 2 for name in shards[2:]}
    words = settings("train.reduction_groups=4", "train.batch_tokens=256", f"data.path={json.dumps(uri)}")
    start = time.monotonic()
    process = start_ranks(2, tmp_path / "run", *words, environment=store_environment(tmp_path / "cache"))
    _, err = finished(process, status=3)
    assert "SHA-256" in err and "one-rank/train-" in err and "rank " in err
    assert time.monotonic() - start < 60


def test_a_copy_that_the_disk_has_changed_is_fetched_again(s3, train, local_tokens, tmp_path):
    uri = s3.put_folder("rotten", local_tokens)
    train(uri, tmp_path / "first")
    index = json.loads((local_tokens / "index.json").read_text())
    shard = index["splits"]["train"]["shards"][4]
    copy = tmp_path / "cache" / shard["sha256"]
    content = bytearray(copy.read_bytes())
    content[100] ^= 1
    copy.write_bytes(content)
    s3.proxy.reset()
    train(uri, tmp_path / "second")
    assert [path.rsplit("/", 1)[1] for path in s3.proxy.gets(".u16")] == [shard["file"]]
    assert state_hash(tmp_path / "second", 6) == state_hash(tmp_path / "first", 6)


def test_the_cache_stays_below_its_limit(s3, train, local_tokens, osp_build, tmp_path):
    uri = s3.put_folder("limit", local_tokens)
    words = settings("data.shuffle_tokens=3000", "train.steps=60", "train.checkpoint_every=0")
    train(local_tokens, tmp_path / "local", *words)
    cache, limit = tmp_path / "cache", 30_000
    recipe = write_recipe(tmp_path / "osp.toml", uri)
    process = subprocess.Popen(
        [str(osp_build / "osp"), "train", str(recipe), "--out", str(tmp_path / "run"), *words, "--quiet"],
        env=store_environment(cache, str(limit)),
    )
    largest = 0
    while process.poll() is None:
        sizes = [
            os.stat(path).st_size for path in (cache.iterdir() if cache.exists() else []) if path.exists()
        ]
        largest = max(largest, sum(sizes))
        time.sleep(0.002)
    assert process.returncode == 0
    assert 0 < largest <= limit
    total = sum(path.stat().st_size for path in local_tokens.glob("*.u16"))
    assert total > 1.5 * limit
    assert state_hash(tmp_path / "run", 60) == state_hash(tmp_path / "local", 60)
    # With every window shuffled among all, the cache is too small before there is a run.
    everything = settings("data.shuffle_tokens=0")
    result = train(uri, tmp_path / "thrash", *everything, size="30kB", cache=tmp_path / "small", check=False)
    refused(result, 2, "OSP_CACHE_SIZE", "data.shuffle_tokens")
    result = train(uri, tmp_path / "thrash", size="5kB", cache=tmp_path / "tiny", check=False)
    refused(result, 2, "OSP_CACHE_SIZE", "limit/")
    assert not (tmp_path / "thrash").exists()


def test_a_dry_run_says_what_would_be_fetched_and_fetches_nothing(store, train, local_tokens, tmp_path):
    uri = store.put_folder("dry", local_tokens)
    result = json.loads(train(uri, tmp_path / "run", "--dry-run", "--json").stdout)
    total = sum(path.stat().st_size for path in local_tokens.glob("*.u16"))
    [source] = result["data"]
    assert source["stored"]["bytes"] == source["stored"]["bytes_to_fetch"] == total
    assert source["stored"]["cache"] == str(tmp_path / "cache")
    assert not store.proxy.gets(".u16")
    train(uri, tmp_path / "run")
    [source] = json.loads(train(uri, tmp_path / "run", "--dry-run", "--json").stdout)["data"]
    tokenizer = (local_tokens / "tokenizer.json").stat().st_size
    here = sum(copies(tmp_path / "cache").values()) - tokenizer
    assert 0 < here == total - source["stored"]["bytes_to_fetch"]
    text = train(uri, tmp_path / "run", "--dry-run").stdout
    assert f"to fetch            {source['stored']['shards_to_fetch']} of " in text


FAILURES = {
    "no key": ({"key": "nothing"}, 2, ["nothing", "check the URI"]),
    "no bucket": ({"bucket": "no-such-bucket"}, 2, ["no-such-bucket", "check"]),
    "no folder of shards": ({"key": "texts"}, 2, ["no index.json there", "osp tokenize"]),
    "dead": ({"port": free_port()}, 5, ["does not answer", "check the network"]),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_store_that_gives_nothing_is_refused_in_one_sentence(store, train, tmp_path, name):
    store.put("texts/a.txt", b"a text")
    where, status, words = FAILURES[name]
    start = time.monotonic()
    result = train(store.uri(**{"key": "tokens", **where}), tmp_path / "run", check=False)
    refused(result, status, *words)
    assert time.monotonic() - start < 60 and not (tmp_path / "run").exists()


def test_a_refusal_names_the_credentials(store, train, tmp_path):
    store.proxy.refuse = 403
    names = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}
    refused(train(store.uri("x"), tmp_path / "run", check=False), 2, names[store.scheme])
    secret = store.uri("x").replace("://", "://key:secret@").replace("anonymous@", "")
    line = refused(train(secret, tmp_path / "run", check=False), 2, "must not hold a secret")
    assert "key:secret" not in line


def test_a_store_that_never_answers_is_given_up(s3, train, tmp_path):
    s3.proxy.hang = True
    start = time.monotonic()
    refused(train(s3.uri("x"), tmp_path / "run", check=False), 5, "does not answer")
    assert time.monotonic() - start < 90


def test_a_folder_that_lacks_a_shard_is_refused_before_a_run(store, train, local_tokens, tmp_path):
    shutil.copytree(local_tokens, tmp_path / "tokens")
    (tmp_path / "tokens" / "train-00005.u16").write_bytes(b"12")
    (tmp_path / "tokens" / "train-00006.u16").unlink()
    uri = store.put_folder("lacking", tmp_path / "tokens")
    refused(train(uri, tmp_path / "run", check=False), 3, "train-00005.u16", "upload the whole folder")
    store.put("lacking/train-00005.u16", (local_tokens / "train-00005.u16").read_bytes())
    refused(train(uri, tmp_path / "run", check=False), 3, "train-00006.u16", "missing")
    assert not store.proxy.gets(".u16")


def test_the_machine_must_have_the_plug_in_a_cache_and_room(s3, train, local_tokens, tmp_path):
    import resource

    uri = s3.put_folder("machine", local_tokens)
    environment = store_environment(tmp_path / "cache")
    words = {"env": {**environment, "OSP_ARROW_S3": str(tmp_path / "none.so")}, "check": False}
    refused(train(uri, tmp_path / "run", **words), 3, "plug-in", "pyarrow", "OSP_ARROW_S3")
    (tmp_path / "file").write_text("")
    refused(train(uri, tmp_path / "run", cache=tmp_path / "file" / "x", check=False), 5, "x: cannot create")
    refused(train(uri, tmp_path / "run", size="much", check=False), 2, "OSP_CACHE_SIZE")

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    result = train(uri, tmp_path / "run", check=False, preexec_fn=small_files)
    refused(result, 5, "no room for", "OSP_CACHE")
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_signal_ends_a_run_that_waits_for_the_store(s3, local_tokens, osp_build, tmp_path):
    uri = s3.put_folder("signal", local_tokens)
    s3.proxy.bytes_per_s = 3000
    recipe = write_recipe(tmp_path / "osp.toml", uri)
    process = subprocess.Popen(
        [str(osp_build / "osp"), "train", str(recipe), "--out", str(tmp_path / "run"), "--quiet"],
        env=store_environment(tmp_path / "cache"),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: checkpoints(tmp_path / "run") or (tmp_path / "run").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert checkpoints(tmp_path / "run")


def test_texts_of_a_store_are_tokenized_as_those_of_a_folder(store, run_program, repo_root, tmp_path):
    import gzip

    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    write_text(folder / "a.txt")
    lines = [f"line {i} of a file" for i in range(1000)]
    (folder / "b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in lines).encode())
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": lines[::-1]}), folder / "more" / "c.parquet")
    (folder / "more" / "picture.png").write_bytes(b"no text")
    (folder / ".hidden.txt").write_text("not read")
    uri = store.put_folder("texts", folder)
    words = ["--tokenizer", repo_root / "recipes" / "gcide-4096", "--json"]
    environment = {"env": store_environment(tmp_path / "cache")}
    run_program(["osp", "tokenize", folder, *words, "--out", tmp_path / "local"])
    told = run_program(["osp", "tokenize", uri, *words, "--out", tmp_path / "stored"], **environment).stderr
    assert "ignored 1 files" in told and "picture.png" in told
    local = json.loads((tmp_path / "local" / "index.json").read_text())
    stored = json.loads((tmp_path / "stored" / "index.json").read_text())
    assert stored["splits"] == local["splits"] and local["splits"]["train"]["documents"] == 2001
    assert [source["path"].split("?")[0].rsplit("/", 1)[1] for source in stored["sources"]] == [
        "a.txt",
        "b.jsonl.gz",
        "c.parquet",
    ]
    # One file by its own URI.
    one = store.uri("texts/more/c.parquet")
    run_program(["osp", "tokenize", one, *words, "--out", tmp_path / "one"], **environment)
    index = json.loads((tmp_path / "one" / "index.json").read_text())
    assert index["splits"]["train"]["documents"] == 1000

    def fails(*names, status=2):
        command = ["osp", "tokenize", *names, *words, "--out", tmp_path / "none"]
        return run_program(command, check=False, **environment), status

    refused(*fails(store.uri("texts/more/picture.png")), "--format")
    refused(*fails(store.uri("texts/*.txt")), "patterns are for local files")
    refused(*fails(store.uri("texts/none.txt")), "none.txt")
    store.put("broken/b.jsonl.gz", (folder / "b.jsonl.gz").read_bytes()[:-9])
    refused(*fails(store.uri("broken"), status=3), "broken/b.jsonl.gz", "truncated")
    assert not (tmp_path / "none").exists()


def test_tokens_cannot_be_written_to_a_store(s3, run_program, repo_root, tmp_path):
    write_text(tmp_path / "a.txt")
    words = ["--tokenizer", repo_root / "recipes" / "gcide-4096", "--out", s3.uri("written")]
    result = run_program(["osp", "tokenize", tmp_path / "a.txt", *words], check=False)
    refused(result, 2, "--out", "local folder", "aws s3 cp")


def test_perplexity_and_calibration_read_from_a_store(s3, run_program, tiny_run, train_tokens, tmp_path):
    uri = s3.put_folder("held-out", train_tokens)
    s3.put("text/a.txt", b"a cat sees rain. the dog hears a tree. one bird sees snow. " * 20)
    environment = {"env": store_environment(tmp_path / "cache")}

    def perplexity(data):
        words = ["osp", "eval", tiny_run / "model", "--data", data, "--json", "--quiet"]
        [result] = json.loads(run_program(words, **environment).stdout)["results"]
        return result["perplexity"]

    assert perplexity(uri) == perplexity(train_tokens)
    assert perplexity(uri.replace("held-out", "held-out/index.json")) == perplexity(train_tokens)
    (tmp_path / "a.txt").write_bytes(b"a cat sees rain. the dog hears a tree. one bird sees snow. " * 20)
    assert perplexity(s3.uri("text/a.txt")) == perplexity(tmp_path / "a.txt")

    def quantized(data, name):
        words = ["--method", "gptq", "--bits", "4-16-16", "--calibration", data, "--windows", "4", "--quiet"]
        command = ["osp", "quantize", tiny_run / "model", *words, "--length", "32", "--out", tmp_path / name]
        run_program(command, **environment)
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert quantized(uri, "stored") == quantized(train_tokens, "local")


def test_sources_of_a_mixture_may_lie_in_stores(s3, gs_server, train, local_tokens, tmp_path):
    gs_server.proxy.reset()
    uris = [s3.put_folder("mixed", local_tokens), gs_server.put_folder("mixed", local_tokens)]

    def mixture(paths):
        sources = [{"path": str(path), "weight": 1 + i, "name": f"n{i}"} for i, path in enumerate(paths)]
        return [*settings("data.path="), "--set", f"data.source={json.dumps(sources)}"]

    train("", tmp_path / "local", *mixture([local_tokens, local_tokens]))
    train("", tmp_path / "stored", *mixture(uris))
    assert state_hash(tmp_path / "stored", 6) == state_hash(tmp_path / "local", 6)
    # Equal shards of two stores are one copy.
    fetched = [path.rsplit("/", 1)[1] for path in s3.proxy.gets(".u16") + gs_server.proxy.gets(".u16")]
    assert len(fetched) == len(set(fetched))


def test_training_does_not_wait_for_shards_that_come_in_time(s3, train, local_tokens, tmp_path):
    uri = s3.put_folder("ahead", local_tokens)
    s3.proxy.bytes_per_s = 60_000  # a tenth of a second per shard, which lasts for 23 steps
    words = settings(
        "data.shuffle_tokens=3000",
        "train.steps=160",
        "train.checkpoint_every=0",
        "train.validate_every=0",
        "train.sample_every=0",
    )
    words += settings("model.layers=4", "model.width=64", "model.inner=256")
    train(uri, tmp_path / "run", *words)
    steps = [line for line in metrics(tmp_path / "run") if line["kind"] == "step"]
    fetched = s3.proxy.gets("train-00003.u16")
    assert len(steps) == 160 and len(fetched) == 1
    # A step that finds its shard missing waits for the wire, a tenth of a second, whatever else the machine
    # does: one for each of the shards, if none were fetched ahead.
    wire = [path.stat().st_size / s3.proxy.bytes_per_s for path in local_tokens.glob("train-*")]
    times = [0.0, *(line["seconds"] for line in steps)]
    waits = [
        line["data_share"] * (line["seconds"] - before) for line, before in zip(steps, times, strict=False)
    ]
    assert len(wire) > 6 and sum(wait > 0.5 * max(wire) for wait in waits) < len(wire) / 2
