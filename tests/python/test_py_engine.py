"""Models in this process (osp._engine): the program's numbers bit for bit, errors, Ctrl-C, threads."""

import base64
import gc
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from test_gguf_model import random_llama

import osp
from osp import engine

PAIRS = [("A tree is a", " tall plant"), ("To run", " is to move"), ("", "Without"), ([5, 90], [7, 8, 9])]
TEXT = "the dog sees a tall tree, and one bird hears the rain.\n"


@pytest.fixture(scope="module", autouse=True)
def built(osp_build):
    if not (osp_build / engine.FILE).exists():
        pytest.skip("osp._engine is not built (target python_engine)")
    before = {name: os.environ.pop(name, None) for name in ("OSP_PROGRAM", "OSP_BUILD")}
    os.environ["OSP_BUILD"] = str(osp_build)
    yield
    del os.environ["OSP_BUILD"]
    os.environ.update({name: value for name, value in before.items() if value is not None})


@pytest.fixture(scope="module")
def folders(tmp_path_factory, repo_root, run_program):
    """A random model with a tokenizer, and the same in 4 bits."""
    root = tmp_path_factory.mktemp("engine")
    random_llama(vocab_size=4096, max_position_embeddings=64).eval().save_pretrained(root / "plain")
    file = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    (root / "plain" / "tokenizer.json").write_bytes(file.read_bytes())
    (root / "text.txt").write_text(TEXT * 120)
    words = ["--method", "gptq", "--calibration", root / "text.txt", "--windows", "4", "--bits", "4-4-4"]
    run_program(["osp", "quantize", root / "plain", "--out", root / "quantized", *words, "--quiet"])
    return root


WAYS = {
    "plain": ("plain", {}),
    "integer": ("quantized", {}),
    "simulated": ("quantized", {"engine": "simulated"}),
    "at widths": ("plain", {"bits": "4-4-4"}),
    "head of 4 bits": ("quantized", {"head": 4}),
}


@pytest.fixture(params=WAYS)
def way(request, folders):
    """A folder, keywords of from_pretrained, and the same as words of a command."""
    folder, options = WAYS[request.param]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return folders / folder, options, words


def test_numbers_are_the_programs_bit_for_bit(way, run_program):
    path, options, words = way
    lines = [{"context": context, "continuation": continuation} for context, continuation in PAIRS]
    lines += [{"text": TEXT * 9}, {"context": "A tree", "max_tokens": 9}, {"logits_of": [5, 90, 700, 33]}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    told = [
        json.loads(line)
        for line in run_program(["osp", "score", path, *words], input=text).stdout.splitlines()
    ]
    with osp.Model.from_pretrained(path, **options) as model:
        assert "in this process" in repr(model)
        assert model._process.answer(lines) == told
        scores = [(s.log_likelihood, s.greedy, s.tokens, s.cut) for s in model.score(PAIRS[:1])]
        alone = run_program(["osp", "score", path, *words], input=json.dumps(lines[0]) + "\n").stdout
        assert scores == [tuple(json.loads(alone).values())]
        logits = model.logits([5, 90, 700, 33])
    assert logits.numpy().tobytes() == base64.b64decode(told[-1]["logits"])
    assert logits.dtype == torch.float32 and logits.shape == (4, 4096)


def test_texts_are_the_programs(way, run_program):
    path, options, words = way
    head = ["--head", "16"] if path.name == "quantized" and not options else []
    given = {"temperature": 1.5, "top_k": 50, "seed": 3, "max_tokens": 12}
    told = run_program(
        ["osp", "generate", path, *words, *head, "--prompt", "A tree is", "--json"]
        + [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), str(value))]
    )
    expected = json.loads(told.stdout)["text"]
    with osp.Model.from_pretrained(path, **options) as model:
        assert model.generate("A tree is", **given) == expected
        pieces = list(model.stream("A tree is", **given))
        assert "".join(pieces) == expected and len(pieces) > 1
        stop = expected[len(expected) // 2]
        cut = model.generate("A tree is", stop=[stop], **given)
        assert cut == expected.split(stop)[0] == "".join(model.stream("A tree is", stop=[stop], **given))


def test_another_head_is_that_of_the_program(folders, run_program):
    words = ["--prompt", "A tree is", "--max-tokens", "12", "--temperature", "2", "--seed", "1", "--json"]
    told = run_program(["osp", "generate", folders / "quantized", *words])  # 8 bits
    with osp.Model.from_pretrained(folders / "quantized") as model:
        found = model.generate("A tree is", max_tokens=12, temperature=2.0, seed=1, head=8)
        assert model._process.engine.endswith("16-bit head")
    assert found == json.loads(told.stdout)["text"]


def test_numbers_do_not_depend_on_settings_of_the_caller(folders):
    """What a program has set up for its own work is nothing to the engine's thread."""
    with osp.Model.from_pretrained(folders / "plain") as model:
        expected = model.logits([5, 90, 700])
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model.logits([5, 90, 700]), expected)
        torch.set_default_dtype(torch.float64)
        try:
            with osp.Model.from_pretrained(folders / "plain") as other:
                assert torch.equal(other.logits([5, 90, 700]), expected)
        finally:
            torch.set_default_dtype(torch.float32)


def test_the_process_has_one_tensor_library():
    engine.load()
    maps = Path("/proc/self/maps").read_text().splitlines()
    for name in ("libtorch_cpu.so", "libc10.so", "libgomp"):
        files = {line.split()[-1] for line in maps if name in line}
        assert len(files) == 1, files
        assert Path(files.pop()).is_relative_to(Path(torch.__file__).parent)


def test_an_engine_for_another_pytorch_is_refused_by_name(tmp_path, osp_build):
    (tmp_path / engine.FILE).symlink_to(osp_build / engine.FILE)
    (tmp_path / "_engine.torch").write_text("2.99.1\n")
    code = "import osp; osp.Model.from_pretrained('nowhere')"
    given = {**os.environ, "OSP_BUILD": str(tmp_path), "PYTHONPATH": str(Path(engine.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given)
    assert result.returncode == 1
    version = torch.__version__.split("+")[0]
    assert f"built for PyTorch 2.99.1, and this Python has {version}" in result.stderr
    # The module itself looks, too.
    code = "import sys, types\nsys.modules['torch'] = types.SimpleNamespace(__version__='2.98.0')\n"
    code += "from osp import engine\nengine.check_torch = lambda file: None\nengine.load()"
    given["OSP_BUILD"] = str(osp_build)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given)
    assert result.returncode == 1 and "this process has 2.98.0" in result.stderr


def test_what_is_refused_is_an_exception_with_osps_sentence(folders, tmp_path, capfd):
    def sentence(call, status):
        with pytest.raises(osp.ProgramError) as error:
            call()
        assert error.value.status == status and str(error.value) == error.value.sentence
        again = pickle.loads(pickle.dumps(error.value))
        assert (again.sentence, again.status) == (error.value.sentence, status)
        return error.value.sentence

    open_model = osp.Model.from_pretrained
    assert "no config.json" in sentence(lambda: open_model(tmp_path / "nowhere"), 2)
    assert "--bits 8-8-8" in sentence(lambda: open_model(folders / "quantized", bits="8-8-8"), 2)
    assert "is for quantized model dirs" in sentence(lambda: open_model(folders / "plain", head=8), 2)
    assert "batch_tokens" in sentence(lambda: open_model(folders / "plain", batch_tokens=0), 2)
    with open_model(folders / "plain") as model:
        assert "65 tokens" in sentence(lambda: model.logits([1] * 65), 3)
        assert "token ids" in sentence(lambda: model.score([([-1], [2])]), 3)
        assert "request line 2" in sentence(lambda: model._process.answer([{"text": "a"}, {"text": ""}]), 3)
        for options, said in [
            ({"temprature": 1}, "did you mean temperature?"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_k": 5}, "--temperature above 0"),
            ({"system": "Be kind."}, "needs chat"),
            ({"temperature": -1.0}, "temperature is -1"),
        ]:
            assert said in sentence(lambda options=options: model.generate("A", **options), 2)
            with pytest.raises(osp.ProgramError, match=said):
                list(model.stream("A", **options))
        # It stays usable.
        assert model.logits([1, 2]).shape == (2, 4096)
    with pytest.raises(RuntimeError, match="was closed"):
        model.logits([1])
    model.close()
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


def many(count=3000):
    return [([1, 2, i % 4000 + 3], [3, 4]) for i in range(count)]


class OutOfTime(Exception):
    pass


@pytest.fixture
def alarm():
    """alarm(seconds, action=raise OutOfTime): runs in the midst of what the main thread does."""

    def ring(*_):
        raise OutOfTime

    before = signal.getsignal(signal.SIGALRM)

    def start(seconds, action=ring):
        signal.signal(signal.SIGALRM, lambda *_: action())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("path", ["plain", "quantized"])
def test_an_exception_in_a_call_cancels_it_and_the_model_stays_usable(folders, path, alarm):
    with osp.Model.from_pretrained(folders / path, batch_tokens=64) as model:
        [expected] = model.score([([1, 2], [3])])
        begin = time.monotonic()
        with pytest.raises(OutOfTime):
            alarm(0.3)
            while True:
                model.score(many())
        assert model.score([([1, 2], [3])]) == [expected]
        assert time.monotonic() - begin < 20
        with pytest.raises(OutOfTime):
            alarm(0.3)
            while True:
                for _ in model.stream("A tree", max_tokens=1000000, temperature=1.0):
                    pass
        assert model.score([([1, 2], [3])]) == [expected]


def test_ctrl_c_is_a_keyboard_interrupt(folders):
    code = (
        "import osp, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
        "model = osp.Model.from_pretrained(sys.argv[1], batch_tokens=64)\n"
        "expected = model.score([([1, 2], [3])])\n"
        "try:\n"
        # In front of the loop: CPython 3.11 looks for the handler of an interrupt between two rounds there.
        "    print('ready', flush=True)\n"
        "    while True: model.score([([1, 2, i], [3, 4]) for i in range(4000)])\n"
        "except KeyboardInterrupt:\n"
        "    print(model.score([([1, 2], [3])]) == expected)\n"
    )
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, folders / "plain"], stdout=subprocess.PIPE, text=True, env=given
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "True\n" and process.returncode == 0


def test_a_handler_may_use_and_close_the_model_in_the_midst_of_a_call(folders, alarm):
    with osp.Model.from_pretrained(folders / "plain", batch_tokens=256) as model:
        [expected] = model.score([([1, 2], [3])])
        heard = []
        requests = many()
        before = model.score(requests)
        alarm(0.05, lambda: heard.extend(model.score([([1, 2], [3])])))
        while not heard:
            assert model.score(requests) == before
        assert heard == [expected]
        alarm(0.1, model.close)
        with pytest.raises((osp.ProgramError, RuntimeError)):
            while True:
                model.score(requests)


def test_threads_share_a_model_and_leave_the_interpreter_free(folders):
    texts = [[([1], [i % 50 + 2] * (i % 7 + 1))] * 40 for i in range(60)]
    with osp.Model.from_pretrained(folders / "plain") as model, ThreadPoolExecutor(8) as pool:
        expected = [model.score(pairs) for pairs in texts[:7]]
        found = list(pool.map(model.score, texts))
        assert [len(scores) for scores in found] == [40] * 60
        assert found[:7] == expected
        # Python runs on while a call computes.
        ticks, done = 0, threading.Event()
        pool.submit(lambda: (model.score(many(20000)), done.set()))
        begin = time.monotonic()
        while not done.is_set() and time.monotonic() - begin < 60:
            ticks += 1
            time.sleep(0.001)
    assert done.is_set() and ticks > 20


def test_several_models_at_once(folders):
    with (
        osp.Model.from_pretrained(folders / "plain") as plain,
        osp.Model.from_pretrained(folders / "quantized") as integer,
        osp.Model.from_pretrained(folders / "quantized", engine="simulated") as simulated,
        ThreadPoolExecutor(3) as pool,
    ):
        models = [plain, integer, simulated]
        alone = [model.logits([5, 90, 700]) for model in models]
        for together in pool.map(lambda i: (i, models[i % 3].logits([5, 90, 700])), range(30)):
            assert torch.equal(together[1], alone[together[0] % 3])
        assert not torch.equal(alone[0], alone[1])


def test_a_stream_that_is_left_frees_the_model_at_once(folders):
    with osp.Model.from_pretrained(folders / "plain") as model:
        stream = model.stream("A tree", max_tokens=1000000, temperature=1.0)
        assert "".join(itertools.islice(stream, 3))
        stream.close()
        begin = time.monotonic()
        model.logits([1])
        assert time.monotonic() - begin < 10


def run_python(code, *words):
    """The finished process of a program that can import osp."""
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=60)


def test_a_forked_process_is_told_to_open_its_own(folders):
    code = (
        "import os, osp, sys\n"
        "model = osp.Model.from_pretrained(sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    try: model.logits([1])\n"
        "    except osp.ProgramError as error: print(error, flush=True)\n"
        "    model.close()\n"
        "else:\n"
        "    os.wait(); print(len(model.score([([1], [2])])))\n"
    )
    result = run_python(code, folders / "plain")
    assert result.returncode == 0, result.stderr
    assert "forked" in result.stdout and result.stdout.endswith("\n1\n")


def test_a_process_that_ends_in_the_midst_of_a_call_ends_quietly(folders):
    code = (
        "import osp, sys, time\n"
        "model = osp.Model.from_pretrained(sys.argv[1])\n"
        "kept = model.stream('A tree', max_tokens=10**9, temperature=1.0)\n"
        "time.sleep(0.3)\n"
    )
    result = run_python(code, folders / "plain")
    assert (result.returncode, result.stderr) == (0, "")


def test_without_the_engine_the_program_runs_and_the_model_says_so(folders, osp_build, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "find", lambda: None)
    with osp.Model.from_pretrained(folders / "plain") as model:
        assert "in a process of its own" in repr(model)
        assert model.logits([1, 2]).shape == (2, 4096)
        with pytest.raises(RuntimeError, match=r"osp\._engine"):
            model.stream("A tree")


def test_lm_evals_model_is_in_this_process_and_answers_as_the_program(folders, osp_build):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from osp.lm_eval_adapter import OspLM

    def asked(kind, *arguments):
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    answers = []
    for program in (None, str(osp_build / "osp")):
        model = OspLM(model=str(folders / "quantized"), program=program, batch_tokens=512)
        assert isinstance(model._process, engine.EngineModel) == (program is None)
        pairs = [asked("loglikelihood", *pair) for pair in PAIRS[:3]]
        until = asked("generate_until", "A tree is", {"until": ["."], "max_gen_toks": 9})
        answers.append(
            [
                model.loglikelihood(pairs, disable_tqdm=True),
                model.loglikelihood_rolling([asked("loglikelihood_rolling", TEXT * 9)], disable_tqdm=True),
                model.generate_until([until], disable_tqdm=True),
            ]
        )
        model.close()
    assert answers[0] == answers[1]


def test_a_stream_that_nobody_begins_is_not_computed(folders):
    """Its text would keep the model busy for minutes."""
    with osp.Model.from_pretrained(folders / "plain") as model:
        stream = model.stream("A tree", max_tokens=10**9, temperature=1.0)
        del stream
        gc.collect()
        start = time.monotonic()
        model.generate("A", max_tokens=1)
        assert time.monotonic() - start < 30


def test_a_call_whose_model_is_closed_says_so(folders):
    model = osp.Model.from_pretrained(folders / "plain")
    stream = model.stream("A tree", max_tokens=10**9, temperature=1.0)
    next(stream)
    model.close()
    with pytest.raises(engine.EngineError, match="the model was closed during the call"):
        list(stream)


def test_what_json_cannot_hold_is_named(folders):
    with osp.Model.from_pretrained(folders / "plain") as model:
        with pytest.raises(ValueError, match="temperature is nan"):
            model.generate("A", temperature=math.nan)
        with pytest.raises(ValueError, match="prompt: character 3 is half of a surrogate pair"):
            model.generate("abc\ud800", temperature=1.0)
