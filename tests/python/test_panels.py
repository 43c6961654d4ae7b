"""`osp export --format panels`: the folder that the integer engine maps gives the bits of the folder that it
was made from, in every command that runs it, and everything else refuses it by name."""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from serve_fixture import NOT_IN_INTEGERS


@pytest.fixture(scope="module")
def panels(run_program, serve_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("panels") / "tiny"
    answer = run_program(["osp", "export", serve_folder, "--format", "panels", "--out", out, "--json"])
    written = json.loads(answer.stdout)
    assert written["bytes"] == (out / "panels.safetensors").stat().st_size
    assert written["layout"] == 1 and written["numerics"] == 2
    return out


def test_nothing_but_the_weights_is_left_behind(panels, serve_folder):
    names = {path.name for path in serve_folder.iterdir()}
    assert {path.name for path in panels.iterdir()} == names - {"model.safetensors"} | {"panels.safetensors"}
    for name in names - {"model.safetensors"}:
        assert (panels / name).read_bytes() == (serve_folder / name).read_bytes()


def test_the_codes_lie_where_the_document_says(panels, serve_folder):
    """docs/formats.md, "Panels", read by an independent program."""
    file = load_file(panels / "panels.safetensors")
    with safe_open(serve_folder / "model.safetensors", "numpy") as stored:  # numpy has no bf16, as tables are
        names = [name for name in list(stored.keys()) if "_proj.weight_" in name]
        weights = {name: stored.get_tensor(name) for name in names}

    def codes_of(name):
        words = weights[f"model.layers.1.{name}.weight_packed"].view(np.uint32)
        return (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(len(words), -1)

    def unpacked(name):
        lines = file[f"layers.1.{name}.panels"]
        bytes_ = lines.reshape(*lines.shape[:2], 16, 4)
        columns = np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1)  # [panels, lines, outputs, 8]
        return columns.transpose(0, 2, 1, 3).reshape(16 * len(lines), -1)

    down = codes_of("mlp.down_proj")
    assert (unpacked("down") == down).all() and down.std() > 1
    assert (file["layers.1.down.centre"].reshape(-1) == down.sum(1) - 8.0 * down.shape[1]).all()
    assert (
        file["layers.1.down.scale"].reshape(-1) == weights["model.layers.1.mlp.down_proj.weight_scale"][:, 0]
    ).all()
    gate, up = codes_of("mlp.gate_proj"), codes_of("mlp.up_proj")
    turns = np.stack([gate.reshape(-1, 16, gate.shape[1]), up.reshape(-1, 16, up.shape[1])], axis=1)
    assert (unpacked("gate_up") == turns.reshape(-1, gate.shape[1])).all()


@pytest.mark.parametrize("head", ["16", "8", "4"])
def test_generate_writes_the_same(run_program, panels, serve_folder, head):
    words = ["--prompt", "The word", "--max-tokens", "24", "--temperature", "1", "--seed", "3", "--json"]
    answers = []
    for folder in (serve_folder, f"{panels}/"):
        answer = json.loads(run_program(["osp", "generate", folder, *words, "--head", head]).stdout)
        answers.append((answer["text"], answer["tokens"]))
        assert "integer engine (" in answer["engine"] and f"{head}-bit head" in answer["engine"]
    assert answers[0] == answers[1]


def test_eval_and_score_give_the_same_numbers(run_program, panels, serve_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The words of a book are read one after the other, line by line.\n" * 160)
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"context": "The word", "continuation": " is good"}\n')
    evaluated, scored = [], []
    for folder in (serve_folder, panels):
        found = json.loads(run_program(["osp", "eval", folder, "--data", text, "--json"]).stdout)
        evaluated.append([found["results"][0][key] for key in ("perplexity", "tokens")])
        scored.append(run_program(["osp", "score", folder, "--requests", requests]).stdout)
    assert evaluated[0] == evaluated[1] and evaluated[0][1] > 100
    assert scored[0] == scored[1] and scored[0]


def test_benchmarks_give_the_same(run_program, panels, serve_folder, tmp_path):
    questions = [
        {
            "id": str(i),
            "question": f"Which word is the {i}. one?",
            "choices": {"text": ["the word", "a house of words", "nobody", "two"], "label": list("ABCD")},
            "answerKey": "ABCD"[i % 4],
        }
        for i in range(6)
    ]
    (tmp_path / "arc_easy").mkdir()
    (tmp_path / "arc_easy" / "test.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    items = []
    for folder in (serve_folder, panels):
        out = tmp_path / f"{folder.parent.name}.jsonl"
        words = ["--data", tmp_path, "--tasks", "arc_easy", "--save-items", out]
        run_program(["osp", "eval", folder, *words])
        items.append([{k: v for k, v in json.loads(x).items() if k != "model"} for x in out.open()])
    assert items[0] == items[1] and len(items[0]) == len(questions)


def test_the_server_answers_the_same_under_the_same_fingerprint(start_server, panels, serve_folder):
    answers = []
    for folder in (serve_folder, panels):
        server = start_server(folder)
        answer = server.complete("The word", max_tokens=12, logprobs=3)
        answers.append((answer["system_fingerprint"], answer["choices"]))
        assert server.stop() == 0
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "{}", "--prompt", "a", "--engine", "simulated"],
        ["export", "{}", "--format", "gguf", "--out", "{out}"],
        ["export", "{}", "--format", "hf", "--out", "{out}"],
        ["export", "{}", "--format", "gptq", "--out", "{out}"],
        ["export", "{}", "--format", "panels", "--out", "{out}"],
    ],
    ids=lambda words: " ".join(words[:1] + words[2:4]),
)
def test_what_needs_the_weights_says_where_they_are(run_program, panels, tmp_path, words):
    out = tmp_path / "out"
    words = [w.format(panels, out=out) for w in words]
    result = run_program(["osp", *words], check=False)
    assert result.returncode == 3, result.stderr
    assert "holds panels" in result.stderr and "the folder that they were made from" in result.stderr
    assert not out.exists()


def test_damaged_files_are_refused_before_anything_is_written(run_program, panels, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(panels, copy)
    file = copy / "panels.safetensors"
    whole = bytearray(file.read_bytes())

    def refusal(content):
        file.write_bytes(content)
        result = run_program(["osp", "generate", copy, "--prompt", "a"], check=False)
        assert result.returncode == 3 and not result.stdout, result.stderr
        return result.stderr

    assert "truncated" in refusal(whole[:-1]) or "bytes" in refusal(whole[:-1])
    # One bit in the middle of the first layer's codes.
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    begin, end = header["layers.0.qkv.panels"]["data_offsets"]
    at = 8 + int.from_bytes(whole[:8], "little") + (begin + end) // 2
    flipped = whole.copy()
    flipped[at] ^= 4
    assert "layers.0.qkv" in refusal(flipped) and "export it again" in refusal(flipped)
    newer = whole.replace(b'"layout":"1"', b'"layout":"2"')
    assert newer != whole and 'version "2" of its layout' in refusal(newer)


def test_a_model_that_the_engine_cannot_run_gets_no_panels(
    run_program, serve_folder, simulated_folder, tmp_path
):
    for model, reason in (
        (serve_folder.parent / "source", "is not quantized"),
        (simulated_folder, NOT_IN_INTEGERS),
    ):
        words = ["osp", "export", model, "--format", "panels", "--out", tmp_path / "out"]
        result = run_program(words, check=False)
        assert result.returncode in (2, 3) and reason in result.stderr, result.stderr
        assert not (tmp_path / "out").exists()
