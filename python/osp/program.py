"""The program `osp` from Python: models that it has loaded, quantization and evaluation as functions.

    model = osp.Model.from_pretrained("models/quantized")
    model.generate("A tree is", max_tokens=20)
    osp.quantize("models/plain", "models/quantized", method="gptq", calibration="tokens")
    osp.evaluate("models/quantized", data="tokens")["results"]

Everything here runs the program (osp.score_process.find_program says which) and gives what it prints with
`--json`, described in docs/formats.md. Keywords are its options, which `osp quantize --help` lists:
`down_group=4` is `--down-group 4`, True is an option without a value, a list is an option that is repeated,
or for `bits` and `tasks` one value with commas. What the program refuses is a ProgramError with its sentence
and status.
"""

import base64
import json
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from osp.score_process import MOST_LINES, ProgramError, ScoreProcess, find_program

if TYPE_CHECKING:
    import torch

__all__ = ["Model", "ProgramError", "Score", "evaluate", "quantize", "run"]

Path = str | PathLike
JOINED = {"bits", "tasks"}  # options that take several values as one, with commas


def run(*words: object, program: str | None = None, quiet: bool = True) -> dict | None:
    """Runs `osp WORDS --json` and returns the object that it prints; None where it prints nothing.

    With quiet=False its progress goes to stderr. Ctrl-C reaches the program, which keeps what it can be
    resumed from. Raises ProgramError with its sentence where it ends with another status than 0.
    """
    command = [find_program(program), *map(str, words), "--json", *(["--quiet"] if quiet else [])]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors if quiet else None)
        try:
            out, _ = process.communicate()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if process.returncode != 0:
        raise ProgramError(command, process.returncode, said)
    return json.loads(out) if out.strip() else None


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
        if value is True:
            words.append(option)
        elif isinstance(value, Iterable) and not isinstance(value, str | PathLike):
            values = [str(one) for one in value]
            words += (
                [option, ",".join(values)] if name in JOINED else [w for v in values for w in (option, v)]
            )
        else:
            words.append(f"{option}={value}")  # also a value that begins with a dash
    return words


@dataclass(frozen=True)
class Score:
    """The log-likelihood of a continuation or text, in nats."""

    log_likelihood: float
    greedy: bool  # every token was the most likely one
    tokens: int  # that were scored
    cut: int  # tokens of the context that were dropped on the left to fit the model's


class Model:
    """A model that the program has loaded: a model dir (also quantized), checkpoint, run or GGUF file.

    It lives in a process of its own, which `close()` ends, or the end of a `with` block.
    """

    def __init__(self, process: ScoreProcess, path: str, words: list[str]) -> None:
        """Use from_pretrained."""
        self.path = path
        self._process = process
        self._words = words  # of commands that load the model once more
        self._program = process.program

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
        """Loads the model; at `bits` (weights-activations-cache), or those that it was quantized to."""
        given = words_of({"bits": bits, "engine": engine, "head": head})
        process = ScoreProcess(str(path), None, batch_tokens, program, given)
        return cls(process, str(path), given)

    def score(self, pairs: Iterable[tuple[str, str] | tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """For every (context, continuation), texts or token ids: how likely the continuation is."""
        return [
            Score(**answer)
            for answer in self._answers(
                [{"context": as_given(c), "continuation": as_given(t)} for c, t in pairs]
            )
        ]

    def score_texts(self, texts: Iterable[str]) -> list[Score]:
        """For every text: how likely it is as a whole, in windows of the model's context."""
        return [Score(**answer) for answer in self._answers([{"text": text} for text in texts])]

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        stop: Sequence[str] = (),
        **options: object,
    ) -> str:
        """The continuation of a prompt, before the first text of `stop`: of the most likely tokens.

        With options of `osp generate`, such as temperature=0.8, seed=1 or chat=True, the program is run for
        this one prompt, which must be a text.
        """
        if not options:
            request = {"context": as_given(prompt), "max_tokens": max_tokens, "until": list(stop)}
            return self._answers([request])[0]["text"]
        if not isinstance(prompt, str):
            raise TypeError("with options of `osp generate` the prompt must be a text")
        given = {"prompt": prompt, "max_tokens": max_tokens, "stop": list(stop), **options}
        words = ["generate", self.path, *self._words, *words_of(given)]
        return run(*words, program=self._program)["text"]

    def logits(self, ids: str | Sequence[int]) -> "torch.Tensor":
        """Logits [tokens, vocabulary] in fp32 of one text or list of token ids, at most a context of them."""
        import torch

        given = ids if isinstance(ids, str) else torch.as_tensor(ids).flatten().tolist()
        [answer] = self._answers([{"logits_of": given}])
        numbers = bytearray(base64.b64decode(answer["logits"]))
        return torch.frombuffer(numbers, dtype=torch.float32).reshape(answer["shape"])

    def close(self) -> None:
        """Ends the process. A second call does nothing."""
        self._process.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self, requests: list[dict]) -> list[dict]:
        answers = []
        for begin in range(0, len(requests), MOST_LINES):
            answers += self._process.answer(requests[begin : begin + MOST_LINES])
        return answers


def as_given(text: str | Sequence[int]) -> str | list[int]:
    """A text, or token ids as a list of ints (also from a tensor)."""
    return text if isinstance(text, str) else [int(token) for token in text]
