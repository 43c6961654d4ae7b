"""A running `osp score`: a model that is loaded once and answers batches of requests.

Requests and answers are the JSON lines of docs/formats.md, "osp score".
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Answers must not fill their pipe while this side still writes. The program answers nothing before the
# blank line as long as a batch is smaller than the 131072 lines that it takes at once.
MOST_LINES = 4096


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
    """A running `osp score MODEL`. Raises ProgramError with its sentence when the program ends too early."""

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
        self._command = [self.program, "score", str(model), *words]
        if bits is not None:
            self._command += ["--bits", str(bits)]
        self._command += ["--batch-tokens", str(batch_tokens), "--quiet"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.answer([{"context": [0], "continuation": [0]}])

    def answer(self, requests: Sequence[dict]) -> list[dict]:
        """One answer for each of at most MOST_LINES requests, in order."""
        assert len(requests) <= MOST_LINES
        text = "".join(json.dumps(request) + "\n" for request in requests)
        answers = []
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
            for _ in requests:
                line = self._process.stdout.readline()
                if not line.endswith(b"\n"):
                    self._fail()
                answers.append(json.loads(line))
        except (BrokenPipeError, ValueError):  # ValueError: a pipe that was closed before
            self._fail()
        return answers

    def close(self) -> None:
        """Ends the program. A second call does nothing."""
        if not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _fail(self) -> None:
        self.close()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        raise ProgramError(self._command, self._process.returncode, said)
