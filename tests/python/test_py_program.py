"""osp.Model, osp.quantize and osp.evaluate: the program as functions, against transformers and itself."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from osp.program import run, words_of
from test_gguf_model import random_llama

import osp


@pytest.fixture(scope="module", autouse=True)
def program(osp_build):
    os.environ["OSP_PROGRAM"] = str(osp_build / "osp")
    yield
    del os.environ["OSP_PROGRAM"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, repo_root):
    folder = tmp_path_factory.mktemp("program") / "model"
    llama = random_llama(vocab_size=4096, max_position_embeddings=64).eval()
    llama.save_pretrained(folder)
    file = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    return folder, llama, Tokenizer.from_file(str(file))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the dog sees a tall tree, and one bird hears the rain.\n" * 120)
    return file


@pytest.fixture(scope="module")
def quantized(plain, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantized") / "model"
    result = osp.quantize(plain[0], out, method="gptq", calibration=text, windows=4, bits="4-4-4")
    assert result and (out / "quantize.json").exists()
    return out


def test_logits_are_those_of_transformers(plain):
    folder, llama, tokenizer = plain
    ids = tokenizer.encode("A tree is a tall plant").ids
    with osp.Model.from_pretrained(folder) as model, torch.no_grad():
        found = model.logits(ids)
        assert found.shape == (len(ids), 4096) and found.dtype == torch.float32
        # fp32 sums in another order.
        torch.testing.assert_close(found, llama(torch.tensor([ids])).logits[0], atol=1e-4, rtol=0)
        assert torch.equal(found, model.logits("A tree is a tall plant"))
        assert torch.equal(found, model.logits(torch.tensor(ids)))


@pytest.mark.parametrize("choice", ["quantized", "simulated", "at widths"])
def test_logits_of_few_bits_are_what_the_program_scores_with(plain, quantized, choice):
    """Log-likelihoods by the program, and the same numbers from its logits."""
    ids = [5, 90, 700, 33, 1200, 8]
    path = plain[0] if choice == "at widths" else quantized
    words = {"simulated": {"engine": "simulated"}, "at widths": {"bits": "4-4-4"}}.get(choice, {})
    with osp.Model.from_pretrained(path, **words) as model:
        log_p = model.logits(ids).double().log_softmax(-1)
        [score] = model.score([(ids[:2], ids[2:])])
    expected = sum(log_p[1 + i, token].item() for i, token in enumerate(ids[2:]))
    assert score.log_likelihood == pytest.approx(expected, abs=1e-4)
    assert score.tokens == 4 and score.cut == 0
    with osp.Model.from_pretrained(plain[0]) as whole:
        assert (whole.logits(ids).double().log_softmax(-1) - log_p).abs().max() > 1e-3


def test_texts_and_continuations(plain, run_program):
    folder, _, tokenizer = plain
    with osp.Model.from_pretrained(folder) as model:
        [whole] = model.score_texts(["A tree is a tall plant"])
        log_p = model.logits([0, *tokenizer.encode("A tree is a tall plant").ids]).double().log_softmax(-1)
        ids = tokenizer.encode("A tree is a tall plant").ids
        assert whole.log_likelihood == pytest.approx(
            sum(log_p[i, token].item() for i, token in enumerate(ids)), abs=1e-4
        )
        greedy = model.generate("A tree is", max_tokens=8)
        sampled = [model.generate("A tree is", max_tokens=8, temperature=1.5, seed=s) for s in (1, 1, 2)]
    told = run_program(["osp", "generate", folder, "--prompt", "A tree is", "--max-tokens", "8", "--json"])
    assert json.loads(told.stdout)["text"] == greedy
    assert sampled[0] == sampled[1] != sampled[2]


def test_evaluate_returns_what_the_program_prints(plain, quantized, text, run_program):
    found = osp.evaluate(quantized, data=text, data_tokens=512)
    words = ["osp", "eval", quantized, "--data", text, "--data-tokens", "512", "--json", "--quiet"]
    assert without_times(found) == without_times(json.loads(run_program(words).stdout))
    at_widths = osp.evaluate(plain[0], data=text, data_tokens=512, bits=["16-16-16", "4-4-4"])
    assert json.dumps(at_widths).count('"perplexity"') == 2


def without_times(value):
    if isinstance(value, dict):
        call = ("command", "time", "date")
        return {k: without_times(v) for k, v in value.items() if "second" not in k and k not in call}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_keywords_are_options():
    assert words_of({"down_group": 4, "asymmetric": True, "out": None, "chat": False}) == [
        "--down-group=4",
        "--asymmetric",
    ]
    assert words_of({"bits": ["4-4-4", "16-16-16"], "stop": ["a", "b"]}) == [
        "--bits", "4-4-4,16-16-16", "--stop", "a", "--stop", "b",
    ]  # fmt: skip
    assert words_of({"prompt": "--json"}) == ["--prompt=--json"]


def test_what_the_program_refuses_is_an_error_with_its_sentence(plain, text, tmp_path):
    with pytest.raises(osp.ProgramError, match=r"no config\.json") as usage:
        osp.evaluate(tmp_path / "nowhere", data=text)
    assert usage.value.status == 2 and not usage.value.sentence.startswith("error")
    with pytest.raises(osp.ProgramError) as unknown:
        osp.quantize(plain[0], tmp_path / "q", mehtod="gptq")
    assert unknown.value.status == 2 and "--method" in unknown.value.sentence
    again = pickle.loads(pickle.dumps(unknown.value))
    assert (again.status, again.sentence, str(again)) == (2, unknown.value.sentence, str(unknown.value))
    with pytest.raises(osp.ProgramError) as missing:
        osp.Model.from_pretrained(tmp_path / "nowhere")
    assert missing.value.status != 0
    with pytest.raises(FileNotFoundError, match="no such program"):
        run("eval", program=str(tmp_path / "no-program"))


@pytest.mark.parametrize(
    "ids, said", [([], "0 tokens"), ([1] * 65, "65 tokens"), ([4096], "4096"), ([-1], "token ids")]
)
def test_logits_of_what_the_model_cannot_read_are_refused(plain, ids, said):
    with osp.Model.from_pretrained(plain[0]) as model:
        with pytest.raises(osp.ProgramError, match=said) as error:
            model.logits(ids)
        assert error.value.status == 3
        with pytest.raises(osp.ProgramError):  # its process has ended
            model.logits([1])


def test_ctrl_c_reaches_the_program(plain, text, tmp_path):
    """The function raises KeyboardInterrupt after the program has ended."""
    code = (
        "import osp, sys\n"
        "try:\n"
        "    osp.quantize(sys.argv[1], sys.argv[2], method='spinquant', calibration=sys.argv[3], windows=8,\n"
        "                 spin_steps=100000)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    command = [sys.executable, "-c", code, plain[0], tmp_path / "q", text]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=given)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not children.read_text().split():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child = int(children.read_text().split()[0])
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out == "interrupted\n"
    assert not Path(f"/proc/{child}").exists()
