"""Weights that were rounded before osp read them are named in results and in what osp writes of them."""

import json

import pytest
import torch
from packed_cases import SIZES, write_folder
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "gptq": "GPTQ, 4 bits, groups of 32",
    "gptq, act-order": "GPTQ, 4 bits, groups of 32, act-order",
    "gptq, one group": "GPTQ, 4 bits, one scale per row",
    "awq": "AWQ, 4 bits, groups of 32",
    "compressed-tensors, 8 bits": "compressed-tensors, 8 bits, groups of 32",
}


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("some letters to read and to calibrate with " * 60)
    return path


def results_of(run_program, *command):
    result = run_program(["osp", *command, "--json"])
    return json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_eval_analyze_and_quantize_name_the_first_rounding(name, text, run_program, tmp_path):
    write_folder(tmp_path / "model", name)
    wanted = NAMES[name]
    data = ["--data", text]
    for command in (["eval", tmp_path / "model", *data], ["analyze", tmp_path / "model", *data]):
        found, said = results_of(run_program, *command)
        assert found["rounded_before"] == wanted
        assert f"its weights were rounded before ({wanted}); do not compare" in said
    found, said = results_of(
        run_program, "quantize", tmp_path / "model", "--method", "rtn", "--bits", "4-16-16",
        "--out", tmp_path / "again", "--report", *data,
    )  # fmt: skip
    assert found["runs"][0]["rounded_before"] == wanted
    assert f"rounded before ({wanted})" in said
    # The folder says it, and so does what is measured of it.
    assert (
        json.loads((tmp_path / "again" / "quantize.json").read_text())["settings"]["rounded_before"] == wanted
    )
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["osp_quantization"]["rounded_before"] == wanted
    assert results_of(run_program, "eval", tmp_path / "again", *data)[0]["rounded_before"] == wanted


def test_score_and_the_page_say_it_too(text, run_program, tmp_path):
    write_folder(tmp_path / "model", "awq")
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"context": "some", "continuation": " letters"}\n')
    words = [tmp_path / "model", "--data", text]
    made = tmp_path / "again"
    said = run_program(["osp", "score", tmp_path / "model", "--requests", requests]).stderr
    assert f"its weights were rounded before ({NAMES['awq']})" in said
    for command in (
        ["eval", *words],
        ["analyze", *words],
        ["quantize", *words, "--method", "rtn", "--bits", "4-16-16", "--report", "--out", made],
    ):
        results_file = tmp_path / "results.json"
        results_file.write_text(run_program(["osp", *command, "--json"]).stdout)
        for file in (results_file, made / "quantize.json"):
            if not file.exists():
                continue
            run_program(["osp", "report", file, "--out", tmp_path / "page.html"])
            page = (tmp_path / "page.html").read_text()
            assert page.count(f"its weights were rounded before ({NAMES['awq']}), so that") == 1, command
            (tmp_path / "page.html").unlink()


def test_plain_copies_of_rounded_weights_say_it_too(text, run_program, tmp_path):
    write_folder(tmp_path / "model", "awq")
    wanted, data = NAMES["awq"], ["--data", text]
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--bits", "4-16-16",
                 "--out", tmp_path / "again"])  # fmt: skip
    twice = f"osp quantize, rtn, 4 bits, one scale per row; before that {wanted}"
    for source, what in (("model", wanted), ("again", twice)):
        run_program(
            ["osp", "export", tmp_path / source, "--format", "hf", "--out", tmp_path / f"{source}-hf"]
        )
        gguf = tmp_path / f"{source}.gguf"
        run_program(["osp", "export", tmp_path / source, "--format", "gguf", "--dtype", "f16", "--out", gguf])
        for plain in (tmp_path / f"{source}-hf", gguf):
            assert results_of(run_program, "eval", plain, *data)[0]["rounded_before"] == what, plain


def test_types_of_a_gguf_file_are_named(text, run_program, tmp_path):
    write_folder(tmp_path / "model", "compressed-tensors")
    gguf = tmp_path / "model.gguf"
    run_program(["osp", "export", tmp_path / "model", "--format", "gguf", "--tables", "q8_0", "--out", gguf])
    # From codes, which are rounded once.
    found, _ = results_of(run_program, "eval", gguf, "--data", text)
    assert found["rounded_before"] == "GGUF, Q4_0 and Q8_0"


def test_weights_of_full_precision_have_no_such_note(text, run_program, tmp_path):
    torch.manual_seed(4)
    write_folder(tmp_path / "packed", "awq")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text((tmp_path / "packed" / "tokenizer.json").read_text())
    run_program(["osp", "export", tmp_path / "model", "--format", "gguf", "--out", tmp_path / "m.gguf"])
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--bits", "4-16-16",
                 "--out", tmp_path / "w4"])  # fmt: skip
    for source in ("model", "m.gguf", "w4"):
        found, said = results_of(run_program, "eval", tmp_path / source, "--data", text)
        assert "rounded_before" not in found and "rounded before" not in said, source
