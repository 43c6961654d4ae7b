"""A running `osp score`: a model that is loaded once and answers batches of requests.

Requests and answers are the JSON lines of docs/formats.md, "osp score".
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

# Answers must not fill their pipe while this side still writes. The program answers nothing before the
# blank line as long as a batch is smaller than the 131072 lines that it takes at once.
MOST_LINES = 4096
# A program whose input has ended ends soon; later it is killed.
END_SECONDS = 60


def find_program(program: str | None = None) -> str:
    """`program`, else $OSP_PROGRAM, else the release build of this checkout, else `osp` on the PATH."""
    given = program or os.environ.get("OSP_PROGRAM")
    built = Path(__file__).resolve().parents[2] / "build" / "release" / "osp"
    found = shutil.which(given or (str(built) if built.exists() else "osp"))
    if found is None:
        where = f"{given}: no such program" if given else f"no osp at {built} nor on the PATH"
        raise FileNotFoundError(f"{where}; build it, or name it with program=PATH or OSP_PROGRAM")
    return found


class ProgramError(RuntimeError):
    """The program has ended with an exit status other than 0.

    `status` is 2 for wrong usage, 3 for damaged or unsupported input, 4 for divergence, 5 for disk, I/O or
    memory, 75 if it was interrupted and can be resumed, and negative for a signal; `sentence` is its error.
    """

    def __init__(self, command: Sequence[str], status: int, said: str) -> None:
        """`said`: all that it wrote to stderr."""
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        sentence = errors[-1].removeprefix("error: ") if errors else said.strip() or "no message"
        super().__init__(f"{' '.join(command)}: ended with status {status}: {sentence}")
        self.command, self.status, self.sentence = list(command), status, sentence

    def __reduce__(self) -> tuple:
        return ProgramError, (self.command, self.status, "error: " + self.sentence)


class ScoreProcess:
    """A running `osp score MODEL`. Raises ProgramError with its sentence when the program ends too early.

    Threads may share it: one batch is answered after the other. An exception that leaves a batch half
    answered (Ctrl-C, a handler of SIGALRM) kills the program, since the answers still to come would be taken
    for those of the next batch; from then on every call raises RuntimeError.
    """

    where = "in a process of its own"
    most_lines = MOST_LINES

    def __init__(
        self,
        model: str,
        bits: str | None = None,
        batch_tokens: int = 8192,
        program: str | None = None,
        words: Sequence[str] = (),
    ) -> None:
        """Starts the program and waits until it has loaded the model; without `bits` at its own.

        `words` are more of the program's options.
        """
        self.program = find_program(program)
        self._model = str(model)
        self._command = [self.program, "score", self._model, *words]
        if bits is not None:
            self._command += ["--bits", str(bits)]
        self._command += ["--batch-tokens", str(batch_tokens), "--quiet"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._lock = threading.RLock()  # a handler of a signal may close it in the midst of a batch
        self._refusal: Callable[[], RuntimeError] | None = None  # why it answers nothing any more
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.answer([{"context": [0], "continuation": [0]}])

    def answer(self, requests: Sequence[dict]) -> list[dict]:
        """One answer for each of at most MOST_LINES requests, in order."""
        assert len(requests) <= MOST_LINES
        lines = "".join(json.dumps(request) + "\n" for request in requests).encode()
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            self._refusal = self._interrupted  # until every answer is read
            try:
                answers = self._exchange(lines, len(requests))
            except BaseException:
                self._process.kill()  # nothing if it has ended
                self._end()
                raise
            self._refusal = None
        return answers

    def close(self) -> None:
        """Ends the program, after the batch that another thread waits for. A second call does nothing."""
        with self._lock:
            if self._refusal is None:
                self._refusal = self._closed
            elif self._refusal == self._interrupted:
                self._process.kill()
            self._end()

    def _exchange(self, lines: bytes, count: int) -> list[dict]:
        answers = []
        try:
            self._process.stdin.write(lines + b"\n")
            self._process.stdin.flush()
            for _ in range(count):
                answers.append(json.loads(self._process.stdout.readline()))
        except (BrokenPipeError, json.JSONDecodeError):  # also of the empty line after the last one
            self._refusal = self._failed
            self._end()
            raise self._failed() from None
        return answers

    def _end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _failed(self) -> ProgramError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        return ProgramError(self._command, self._process.returncode, said)

    def _interrupted(self) -> RuntimeError:
        return RuntimeError(f"{self._model}: an interrupted call ended its process; load the model again")

    def _closed(self) -> RuntimeError:
        return RuntimeError(f"{self._model}: the model was closed; load it again")
