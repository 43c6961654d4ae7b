"""osp from Python: models that are loaded, quantization and evaluation as functions.

    model = osp.Model.from_pretrained("models/quantized")
    model.generate("A tree is", max_tokens=20)
    osp.quantize("models/plain", "models/quantized", method="gptq", calibration="tokens")
    osp.evaluate("models/quantized", data="tokens")["results"]

A Model is in this process where there is osp._engine (osp/engine.py), else a process of the program. The
functions run the program (osp.score_process.find_program says which, else it is `python -m osp`) and give
what it prints with `--json`, described in docs/formats.md. Keywords are its options, which
`osp quantize --help` lists: `down_group=4` is `--down-group 4`, True is an option without a value, a list is
an option that is repeated, or for `bits` and `tasks` one value with commas. What the program refuses is a
ProgramError with its sentence and status.
"""

import base64
import codecs
import contextlib
import json
import operator
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import IO, TYPE_CHECKING

from osp import engine
from osp.score_process import ProgramError, ScoreProcess, find_program

if TYPE_CHECKING:
    import torch

__all__ = ["Model", "ProgramError", "Score", "evaluate", "quantize", "run"]

Path = str | PathLike
JOINED = {"bits", "tasks"}  # options that take several values as one, with commas
# After Ctrl-C a program may need this long to keep what it can be resumed from; then it is killed.
INTERRUPT_SECONDS = 120
KEPT_OF_STDERR = 1 << 16  # bytes at its end, where the error stands


def run(*words: object, program: str | None = None, quiet: bool = True) -> dict | None:
    """Runs `osp WORDS --json` and returns the object that it prints; None where it prints nothing.

    With quiet=False its progress goes to sys.stderr. Ctrl-C reaches the program, which keeps what it can be
    resumed from and is killed if it has not ended after INTERRUPT_SECONDS, or at a second Ctrl-C. Raises
    ProgramError with its sentence where it ends with another status than 0.
    """
    command = [*command_of(program), *map(str, words), "--json", *(["--quiet"] if quiet else [])]
    with tempfile.TemporaryFile() as errors:
        with contextlib.ExitStack() as copied:
            stderr = errors if quiet else copied.enter_context(copy_of_stderr(errors))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
            out = output_of(process)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if process.returncode != 0:
        raise ProgramError(command, process.returncode, said)
    return json.loads(out) if out.strip() else None


def command_of(program: str | None) -> list[str]:
    """How the program is started: find_program(), or where there is none `python -m osp` with osp._engine."""
    try:
        return [find_program(program)]
    except FileNotFoundError:
        if program or "OSP_PROGRAM" in os.environ or engine.find() is None:
            raise
        return [sys.executable, "-m", "osp"]


def output_of(process: subprocess.Popen) -> bytes:
    """What a process prints until it ends. It has ended too where this raises."""
    try:
        return process.communicate()[0]
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=INTERRUPT_SECONDS)  # it may have more to print before it ends
        finally:
            process.kill()  # nothing if it has ended
            process.wait()
            process.stdout.close()
        raise


@contextlib.contextmanager
def copy_of_stderr(tail: IO[bytes]) -> Iterator[int]:
    """A file descriptor for a program's stderr, which goes to sys.stderr at once; `tail` gets its end."""
    reader, writer = os.pipe()
    kept = bytearray()

    def copy() -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while data := os.read(reader, 1 << 16):
            kept.extend(data)
            del kept[:-KEPT_OF_STDERR]
            with contextlib.suppress(Exception):  # no sys.stderr, or a closed one: the program goes on
                sys.stderr.write(decoder.decode(data))
                sys.stderr.flush()
        os.close(reader)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join(timeout=10)  # longer only where a forked process holds the pipe too
        tail.write(bytes(kept))


def quantize(
    model: Path, out: Path, *, program: str | None = None, quiet: bool = True, **options: object
) -> dict:
    """`osp quantize MODEL --out OUT`: writes a quantized model dir; returns what `--json` prints.

    The options are those of the program, such as method="gptq", bits="4-4-4", calibration=FOLDER.
    """
    return run("quantize", model, "--out", out, *words_of(options), program=program, quiet=quiet)


def evaluate(
    models: Path | Sequence[Path],
    *,
    data: Path,
    program: str | None = None,
    quiet: bool = True,
    **options: object,
) -> dict:
    """`osp eval MODELS --data DATA`: perplexity, or tasks="piqa" and others; returns what `--json` prints."""
    paths = [models] if isinstance(models, str | PathLike) else list(models)
    return run("eval", *paths, "--data", data, *words_of(options), program=program, quiet=quiet)


def words_of(options: dict[str, object]) -> list[str]:
    """Keywords as options of the program; None and False are left out."""
    words: list[str] = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if isinstance(value, bytes | bytearray | Mapping):
            raise TypeError(f"{name} is a text, a number or a list of them, not {type(value).__name__}")
        if value is True:
            words.append(option)
        elif isinstance(value, Iterable) and not isinstance(value, str | PathLike):
            values = [str(one) for one in value]
            for one in [",".join(values)] if name in JOINED else values:
                words += valued(option, one)
        else:
            words += valued(option, str(value))
    return words


def valued(option: str, value: str) -> list[str]:
    """One word, since a value may begin with a dash; an empty value must be a word of its own."""
    return [f"{option}={value}"] if value else [option, value]


@dataclass(frozen=True)
class Score:
    """The log-likelihood of a continuation or text, in nats."""

    log_likelihood: float
    greedy: bool  # every token was the most likely one
    tokens: int  # that were scored
    cut: int  # tokens of the context that were dropped on the left to fit the model's


LOADING = ("bits", "engine", "head")  # options that a loaded model has for good


def open_scorer(
    path: str, options: dict[str, str], program: str | None = None
) -> "engine.EngineModel | ScoreProcess":
    """What answers requests of `osp score`: a model in this process, or a running `osp score`.

    The latter where osp._engine is not there, or where `program` or $OSP_PROGRAM names a program. `where` of
    the result says which it is.
    """
    if program is None and "OSP_PROGRAM" not in os.environ and engine.find() is not None:
        return engine.EngineModel(path, options)
    batch_tokens = int(options.get("batch_tokens", 8192))
    words = words_of({name: value for name, value in options.items() if name != "batch_tokens"})
    return ScoreProcess(path, None, batch_tokens, program, words)


class Model:
    """A loaded model: a model dir (also quantized), checkpoint, run or GGUF file.

    `close()` frees it, or the end of a `with` block. Threads may share it. It is in this process, where
    an exception during a call (Ctrl-C, a handler of SIGALRM) cancels that call alone. Without osp._engine it
    is a process of its own, which such an exception ends; later calls then raise RuntimeError.
    """

    def __init__(
        self, scorer: "engine.EngineModel | ScoreProcess", path: str, options: dict[str, str]
    ) -> None:
        """Use from_pretrained."""
        self.path = path
        self._process = scorer
        self._options = options
        # Of commands that load the model once more.
        self._words = words_of({k: v for k, v in options.items() if k in LOADING})
        self._program = getattr(scorer, "program", None)
        self._head = ["--head=16"]  # of `osp score`, until the program says that the model has no such choice

    @classmethod
    def from_pretrained(
        cls,
        path: Path,
        *,
        bits: str | None = None,
        engine: str | None = None,
        head: int | str | None = None,
        batch_tokens: int = 8192,
        program: str | None = None,
    ) -> "Model":
        """Loads the model; at `bits` (weights-activations-cache), or those that it was quantized to.

        `engine`: "integer" or "simulated" for a quantized one, by default integer where it can be.
        """
        given = {"bits": bits, "engine": engine, "head": head, "batch_tokens": batch_tokens}
        options = {name: str(value) for name, value in given.items() if value is not None}
        path = os.fspath(path)
        return cls(open_scorer(path, options, program), path, options)

    def __repr__(self) -> str:
        return f"<osp.Model {self.path!r} {self._process.where}>"

    def score(self, pairs: Iterable[tuple[str, str] | tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """For every (context, continuation), texts or token ids: how likely the continuation is."""
        requests = []
        for pair in listed("pairs", pairs):
            if isinstance(pair, str):
                raise TypeError('pairs is a list of (context, continuation): [("A tree is a", " plant")]')
            context, continuation = pair
            requests.append({"context": as_given(context), "continuation": as_given(continuation)})
        return [Score(**answer) for answer in self._answers(requests)]

    def score_texts(self, texts: Iterable[str]) -> list[Score]:
        """For every text: how likely it is as a whole, in windows of the model's context."""
        return [
            Score(**answer)
            for answer in self._answers([{"text": text} for text in listed_texts("texts", texts)])
        ]

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        stop: Sequence[str] = (),
        **options: object,
    ) -> str:
        """The continuation of a prompt, before the first text of `stop`: of the most likely tokens.

        With options of `osp generate`, such as temperature=0.8, seed=1 or chat=True, the prompt must be a
        text. Tokens are drawn from the logits that `logits` gives, unless head=8 or 4 is among the options:
        with one of bits, engine and head the model is loaded once more for this call.
        """
        stops = listed_texts("stop", stop)
        if not options:
            request = {"context": as_given(prompt), "max_tokens": max_tokens, "until": stops}
            return self._answers([request])[0]["text"]
        given = self._generation(prompt, max_tokens, stops, options)
        if isinstance(self._process, engine.EngineModel):
            loading = {name: str(given.pop(name)) for name in LOADING if name in given}
            if not loading:
                return self._process.generate(given)["text"]
            other = engine.EngineModel(self.path, {**self._options, **loading})
            try:
                return other.generate(given)["text"]
            finally:
                other.close()
        return self._generate_by_program(given)

    def stream(
        self, prompt: str, *, max_tokens: int = 128, stop: Sequence[str] = (), **options: object
    ) -> Iterator[str]:
        """The text of `generate` in pieces, as it comes; leaving the loop early ends the generation.

        Only in this process (osp._engine), and without bits, engine and head among the options.
        """
        if not isinstance(self._process, engine.EngineModel):
            raise RuntimeError(f"{self!r}: streams need osp._engine, which is not there (docs/python.md)")
        return self._process.stream(self._generation(prompt, max_tokens, listed_texts("stop", stop), options))

    def _generation(self, prompt: str, max_tokens: int, stops: list[str], options: dict) -> dict:
        """Keywords of `osp generate`; those that are None or False are left out."""
        if not isinstance(prompt, str):
            raise TypeError("with options of `osp generate` the prompt must be a text")
        given = {"prompt": prompt, "max_tokens": max_tokens, "stop": stops, **options}
        return {name: value for name, value in given.items() if value is not None and value is not False}

    def _generate_by_program(self, options: dict) -> str:
        given = options
        words = ["generate", self.path, *self._words, *words_of(given)]
        if any(word.startswith("--head=") for word in words):
            return run(*words, program=self._program)["text"]
        try:
            return run(*words, *self._head, program=self._program)["text"]
        except ProgramError as error:
            # "--head: is for quantized model dirs", or "for the integer engine, and this model is simulated".
            if not self._head or "--head" not in error.sentence.split(":")[0]:
                raise
        if "engine" not in options:
            self._head = []
        return run(*words, program=self._program)["text"]

    def logits(self, ids: str | Sequence[int]) -> "torch.Tensor":
        """Logits [tokens, vocabulary] in fp32 of one text or list of token ids, at most a context of them."""
        import torch

        given = as_given(ids)
        if isinstance(self._process, engine.EngineModel):
            rows, shape = self._process.logits(given)
            return torch.frombuffer(rows, dtype=torch.float32).reshape(shape)
        [answer] = self._answers([{"logits_of": given}])
        numbers = bytearray(base64.b64decode(answer["logits"]))
        return torch.frombuffer(numbers, dtype=torch.float32).reshape(answer["shape"])

    def close(self) -> None:
        """Frees the model. A second call does nothing."""
        self._process.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self, requests: list[dict]) -> list[dict]:
        answers = []
        most = self._process.most_lines
        for begin in range(0, len(requests), most):
            answers += self._process.answer(requests[begin : begin + most])
        return answers


def as_given(text: str | Sequence[int]) -> str | list[int]:
    """A text, or token ids as a list of ints, also from a tensor [tokens] or [1, tokens]."""
    if isinstance(text, str):
        return text
    if isinstance(text, bytes | bytearray):
        raise TypeError("a text is a str, not bytes")
    ids = text.tolist() if hasattr(text, "tolist") else list(text)
    if len(ids) == 1 and isinstance(ids[0], list):
        ids = ids[0]
    if any(isinstance(one, list | tuple) or getattr(one, "ndim", 0) for one in ids):
        raise TypeError(f"one text is a list of token ids; these are {len(ids)} rows")
    return [operator.index(one) for one in ids]


def listed(name: str, values: Iterable) -> list:
    """A list; a single text is refused, which would be taken for a list of its characters."""
    if isinstance(values, str | bytes | bytearray):
        raise TypeError(f"{name} is a list, not one text; write [{values[:40]!r}]")
    return list(values)


def listed_texts(name: str, texts: Iterable[str]) -> list[str]:
    values = listed(name, texts)
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{name} is a list of texts, and {type(value).__name__} is none")
    return values
