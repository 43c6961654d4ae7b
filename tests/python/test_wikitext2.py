"""osp eval --tasks wikitext2: the test text of WikiText-2 cut as GPTQ and the paper's reference cut it."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reference_llama import Shape
from test_model_dir import transformers_llama
from tokenizers import Tokenizer

SHAPE = Shape(layers=1, vocabulary=50257, context=2048, width=32, heads=2, kv_heads=2, head_size=16, inner=64)
# As published for GPT-2 and this cut of the text.
GPT2_TOKENS = 287_644


@pytest.fixture(scope="module")
def raw(shared_data):
    file = shared_data / "wikitext2" / "wiki.test.raw"
    if not file.exists():
        pytest.skip(f"no {file}; put WikiText-2's raw test text there to run this")
    return file


@pytest.fixture(scope="module")
def rows(raw):
    """The hub's rows: every line with its line break, a blank line as an empty row."""
    return ["" if line == " \n" else line for line in raw.read_text().splitlines(keepends=True)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, shared_data):
    folder = tmp_path_factory.mktemp("wikitext2") / "model"
    llama = transformers_llama(SHAPE)
    llama.save_pretrained(folder)
    (file,) = (shared_data / "tokenizers" / "gpt2").rglob("tokenizer.json")
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    return folder, llama


def evaluate(run_program, model, data):
    words = ["osp", "eval", model[0], "--tasks", "wikitext2", "--data", data, "--data-tokens", 4096, "--json"]
    done = run_program([*words, "--quiet"])
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def result(model, raw, run_program):
    return evaluate(run_program, model, raw)


def test_the_text_has_the_published_number_of_tokens(result, rows, model):
    document, stderr = result
    assert document["text_tokens"] == GPT2_TOKENS and document["task"] == "wikitext2" and stderr == ""
    tokenizer = Tokenizer.from_file(str(model[0] / "tokenizer.json"))
    assert len(tokenizer.encode("\n\n".join(rows), add_special_tokens=False).ids) == GPT2_TOKENS


def test_its_perplexity_equals_transformers(result, rows, model):
    tokenizer = Tokenizer.from_file(str(model[0] / "tokenizer.json"))
    ids = tokenizer.encode("\n\n".join(rows[:200]), add_special_tokens=False).ids[:4096]
    batch = torch.tensor(ids).view(2, 2048)
    with torch.no_grad():
        logits = model[1](batch).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), batch[:, 1:].flatten()).item()
    (ours,) = result[0]["results"]
    assert (ours["window"], ours["stride"], ours["tokens"]) == (2048, 2048, 2 * 2047)
    assert ours["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


@pytest.mark.parametrize("form", ["folder", "crlf", "parquet", "hub", "json lines"])
def test_every_form_of_the_text_gives_the_same(form, result, raw, rows, model, run_program, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    if form == "folder":
        (data / "wiki.test.raw").write_bytes(raw.read_bytes())
    elif form == "crlf":
        data = data / "text"
        data.write_bytes(raw.read_bytes().replace(b"\n", b"\r\n"))
    elif form == "json lines":
        data = data / "test.jsonl"
        data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    else:
        folder = data / "wikitext-2-raw-v1" if form == "hub" else data
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table({"text": rows}), folder / "test-00000-of-00001.parquet")
    document, stderr = evaluate(run_program, model, data)
    assert stderr == "" and document["text_tokens"] == GPT2_TOKENS
    assert document["results"][0]["loss"] == result[0]["results"][0]["loss"]


def test_other_texts_are_told_apart(raw, model, run_program, tmp_path):
    (tmp_path / "short.raw").write_text("".join(raw.read_text().splitlines(keepends=True)[:300]))
    _, stderr = evaluate(run_program, model, tmp_path / "short.raw")
    assert "1294336" in stderr and "do not compare with published ones" in stderr
    words = ["osp", "eval", model[0], "--tasks", "wikitext2", "--data"]
    tokens = run_program([*words, raw.parent / "wiki.test.tokens"], check=False)
    assert tokens.returncode == 2 and "<unk>" in tokens.stderr and "wiki.test.raw" in tokens.stderr
    empty = run_program([*words, tmp_path], check=False)
    assert empty.returncode == 2 and "neither wiki.test.raw nor" in empty.stderr
    both = run_program([*words, raw, "--tasks", "wikitext2,piqa"], check=False)
    assert both.returncode == 2
