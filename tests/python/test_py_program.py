"""osp.Model, osp.quantize and osp.evaluate: the program as functions, against transformers and itself."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from osp.program import run, words_of
from test_gguf_model import random_llama

import osp
from osp import program as osp_program


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


@pytest.mark.parametrize("choice", ["plain", "integer", "simulated", "head of 4 bits"])
def test_text_is_drawn_from_the_logits_that_the_model_shows(
    plain, quantized, choice, run_program, monkeypatch
):
    results = []

    def kept(*words, **keywords):
        results.append(run(*words, **keywords))
        return results[-1]

    monkeypatch.setattr(osp_program, "run", kept)
    path = plain[0] if choice == "plain" else quantized
    words = {"simulated": {"engine": "simulated"}, "head of 4 bits": {"head": 4}}.get(choice, {})
    with osp.Model.from_pretrained(path, **words) as model:
        found = [model.generate("A tree", max_tokens=6, temperature=2.0, seed=seed) for seed in (1, 2)]
    engine = results[-1].get("engine", "none")
    ends = {"integer": "16-bit head", "head of 4 bits": "4-bit head"}.get(choice)
    assert engine.endswith(ends) if ends else "head" not in engine
    options = {"integer": ["--head", "16"], "simulated": ["--engine", "simulated"], "plain": []}
    command = ["osp", "generate", path, *options.get(choice, ["--head", "4"]), "--prompt", "A tree"]
    command += ["--max-tokens", "6", "--temperature", "2", "--json", "--seed"]
    expected = [json.loads(run_program([*command, seed]).stdout)["text"] for seed in (1, 2)]
    assert found == expected and found[0] != found[1]


def test_empty_prompts_and_stops_like_options_are_values(plain, run_program):
    words = ["--prompt", "", "--max-tokens", "6", "--temperature", "2", "--seed", "1", "--json"]
    expected = json.loads(run_program(["osp", "generate", plain[0], *words]).stdout)["text"]
    with osp.Model.from_pretrained(plain[0]) as model:
        found = model.generate("", max_tokens=6, stop=["--", "--json"], temperature=2.0, seed=1)
    assert found == expected != ""


def test_arguments_of_another_kind_are_refused_and_not_guessed_at(plain):
    two_rows = torch.ones(2, 3, dtype=torch.int64)
    with osp.Model.from_pretrained(plain[0]) as model:
        for call in (
            lambda: model.generate("A tree", stop="END"),
            lambda: model.generate("A tree", stop="END", temperature=1.0),
            lambda: model.generate("A tree", stop=[5]),
            lambda: model.generate(two_rows),
            lambda: model.generate(b"A tree"),
            lambda: model.score_texts("A whole text"),
            lambda: model.score_texts([[1, 2]]),
            lambda: model.score("A tree"),
            lambda: model.score(("A ", "tr")),
            lambda: model.score([([1.7], [2])]),
            lambda: model.score([([1], [2.0])]),
            lambda: model.score([(torch.tensor([1.0]), [2])]),
            lambda: model.score([(two_rows, [2])]),
            lambda: model.logits(two_rows),
            lambda: model.logits([[1], [2]]),
            lambda: model.logits([1.0, 2.0]),
            lambda: words_of({"bits": b"4-4-4"}),
            lambda: words_of({"bits": {"4-4-4": 1}}),
        ):
            with pytest.raises(TypeError):
                call()
        # None of them has reached the program, and one row is one text.
        assert torch.equal(model.logits(torch.tensor([[1, 2]])), model.logits([1, 2]))
        assert model.score([(torch.tensor([1]), torch.tensor([2]))]) == model.score([([1], [2])])


class OutOfTime(Exception):
    pass


@contextmanager
def alarm(seconds):
    """Raises OutOfTime in the midst of the block."""

    def ring(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def process_of(model):
    return model._process._process


def test_after_an_interrupted_call_no_answer_is_that_of_another(plain):
    with osp.Model.from_pretrained(plain[0]) as model:
        process = process_of(model)
        os.kill(process.pid, signal.SIGSTOP)  # as if it had much to do
        try:
            with pytest.raises(OutOfTime), alarm(0.3):
                model.score([([1, 2], [3])] * 3)
        finally:
            process.send_signal(signal.SIGCONT)
        assert process.poll() == -signal.SIGKILL
        for call in (lambda: model.score([([7], [8])]), lambda: model.logits([1])):
            with pytest.raises(RuntimeError, match="load the model again"):
                call()
    with osp.Model.from_pretrained(plain[0]) as model:
        pass
    with pytest.raises(RuntimeError, match="was closed"):
        model.logits([1])


def test_threads_share_a_model(plain):
    """Each gets its own answers, in its own order."""
    texts = [[([1], [i % 50 + 2] * (i % 7 + 1))] * 40 for i in range(60)]
    with osp.Model.from_pretrained(plain[0]) as model, ThreadPoolExecutor(8) as pool:
        counts = [[score.tokens for score in scores] for scores in pool.map(model.score, texts)]
    assert counts == [[i % 7 + 1] * 40 for i in range(60)]


def test_a_model_can_be_closed_by_a_handler(plain):
    """Where it has just written a request, whose answer does not come."""
    model = osp.Model.from_pretrained(plain[0])
    os.kill(process_of(model).pid, signal.SIGSTOP)

    def ring(*_):
        model.close()

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(RuntimeError):
            model.score([([1, 2], [3])])
    finally:
        signal.signal(signal.SIGALRM, before)
        process_of(model).send_signal(signal.SIGCONT)
    assert process_of(model).poll() == -signal.SIGKILL


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
        "--bits=4-4-4,16-16-16", "--stop=a", "--stop=b",
    ]  # fmt: skip
    # Values that begin with a dash, and empty ones, after which the program reads "=" as "the next word".
    assert words_of({"stop": ["--", ""], "prompt": ""}) == ["--stop=--", "--stop", "", "--prompt", ""]
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


@pytest.fixture
def script(tmp_path):
    """script(LINES) -> a program in Python that runs them."""

    def write(lines):
        file = tmp_path / "program"
        file.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{lines}\n")
        file.chmod(0o755)
        return str(file)

    return write


def test_progress_is_shown_and_the_sentence_is_known(plain, text, tmp_path, capfd, script):
    with pytest.raises(osp.ProgramError) as error:
        osp.evaluate(tmp_path / "nowhere", data=text, quiet=False)
    assert "no config.json" in error.value.sentence
    assert "no config.json" in capfd.readouterr().err
    long = script(
        "os.write(2, 'begin é\\n'.encode()[:7]); time.sleep(0.1); os.write(2, 'é\\n'.encode()[1:])\n"
        "sys.stderr.write('progress\\n' * 100000 + 'error: the end\\n'); sys.exit(5)"
    )
    with pytest.raises(osp.ProgramError) as error:
        run("eval", program=long, quiet=False)
    assert (error.value.status, error.value.sentence) == (5, "the end")
    shown = capfd.readouterr().err
    assert shown.startswith("begin é\nprogress\n") and shown.endswith("error: the end\n")
    assert shown.count("progress\n") == 100000


def test_progress_is_shown_at_once(script, monkeypatch):
    class Shown:
        def __init__(self):
            self.came, self.flush = threading.Event(), lambda: None

        def write(self, _):
            self.came.set()
            raise OSError("the reader has gone")

    shown = Shown()
    waiting = script("os.write(2, b'half')\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)")
    monkeypatch.setattr(sys, "stderr", shown)
    go = Path(waiting).with_name("go")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run, go, program=waiting, quiet=False)
        came = shown.came.wait(20)
        go.touch()
        assert came and result.result(timeout=20) is None


@pytest.mark.parametrize("then", ["prints", "stays"])
def test_an_interrupted_program_ends(script, then, tmp_path, monkeypatch):
    """One with more to print than a pipe holds, and one that does not end by itself."""
    monkeypatch.setattr(osp_program, "INTERRUPT_SECONDS", 20 if then == "prints" else 0.3)
    late = {"prints": "sys.stdout.write('x' * 1000000); sys.exit(75)", "stays": "pass"}[then]
    waiting = script(
        f"def late(*_):\n    {late}\nsignal.signal(signal.SIGINT, late)\n"
        "with open(sys.argv[1], 'w') as file: file.write(str(os.getpid()))\nwhile True: time.sleep(0.02)"
    )
    begin = time.monotonic()
    with pytest.raises(OutOfTime), alarm(1.5):
        run(tmp_path / "pid", program=waiting)
    assert time.monotonic() - begin < 10
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


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
        "import osp, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
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
    while b"quantize" not in Path(f"/proc/{child}/cmdline").read_bytes():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=150)
    assert out == "interrupted\n"
    assert not Path(f"/proc/{child}").exists()
