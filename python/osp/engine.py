"""Finds and loads the program as a Python module, osp._engine, and opens models with it in this process."""

import atexit
import contextlib
import ctypes
import importlib.machinery
import importlib.util
import json
import math
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from osp.score_process import ProgramError

NAME = "osp._engine"
FILE = "_engine.abi3.so"


class EngineError(ProgramError):
    """What the engine refuses: `sentence`, and the exit `status` that the program would have."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__([], status, "error: " + sentence)
        self.args = (sentence,)

    def __str__(self) -> str:
        return self.sentence

    def __reduce__(self) -> tuple:
        return EngineError, (self.sentence, self.status)


def find(file: str = FILE) -> Path | None:
    """A file that was built: the installed one, else that of $OSP_BUILD, else of build/release, if any."""
    here = Path(__file__).resolve()
    build = Path(os.environ.get("OSP_BUILD", here.parents[2] / "build" / "release"))
    for folder in (here.parent, build):
        if (folder / file).exists():
            return folder / file
    return None


def load():
    """The module osp._engine; SystemExit if there is none. ImportError if it is for another PyTorch."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    path = find()
    if path is None:
        raise SystemExit(
            f"error: there is no {FILE} beside {__file__} nor in build/release: install the wheel that has "
            "it (scripts/wheel.sh), build (scripts/build.sh), or set OSP_BUILD"
        )
    check_torch(path.with_name("_engine.torch"))
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    with threads_that_sleep():
        try:
            module = importlib.util.module_from_spec(importlib.util.spec_from_loader(NAME, loader))
        except ImportError as error:
            if "cannot open shared object file" not in str(error):
                raise
            load_libraries()
            module = importlib.util.module_from_spec(importlib.util.spec_from_loader(NAME, loader))
        loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def check_torch(file: Path) -> None:
    """Refuses another PyTorch than the one that the engine was built for.

    Two versions of its libraries cannot share a process, and Python would say only that a symbol is missing.
    """
    if not file.exists():
        return
    wanted = file.read_text().strip()
    try:
        found = sys.modules["torch"].__version__ if "torch" in sys.modules else metadata.version("torch")
    except (metadata.PackageNotFoundError, AttributeError):
        return
    if str(found).split("+")[0] != wanted.split("+")[0]:
        raise ImportError(
            f"{NAME} was built for PyTorch {wanted}, and this Python has {found}: install that version, or "
            "build osp with this one",
            name=NAME,
        )


def load_libraries() -> None:
    """Loads the engine's libraries from where Python has their packages.

    It looks for them beside its own package, where they are not if osp is installed in another folder.
    """
    for package, patterns in (
        ("torch", ["lib/libgomp*.so*", "lib/libc10.so", "lib/libtorch_cpu.so"]),
        ("pyarrow", ["libarrow.so.*", "libparquet.so.*"]),
    ):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations if spec else []:
            for pattern in patterns:
                for file in sorted(Path(folder).glob(pattern)):
                    ctypes.CDLL(str(file))


def plotly_file() -> str | None:
    """The script of reports' charts, of the package plotly, if that is installed."""
    spec = importlib.util.find_spec("plotly")
    for folder in spec.submodule_search_locations if spec else []:
        file = Path(folder) / "package_data" / "plotly.min.js"
        if file.exists():
            return str(file)
    return None


@contextlib.contextmanager
def threads_that_sleep() -> Iterator[None]:
    """As in the executable: OpenMP's threads that wait do not spin. It reads this once, when it is loaded."""
    name = "OMP_WAIT_POLICY"
    if name in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ[name] = "passive"
    try:
        yield
    finally:
        del os.environ[name]


def as_json(options: dict) -> str:
    """The options of a call; ValueError names one that JSON cannot hold."""
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, expected a finite number")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{name}: character {error.start} is half of a surrogate pair") from error
    return json.dumps(options, default=plain)


class EngineModel:
    """A model in this process. Calls of several threads are answered one after the other.

    An exception in the midst of a call (Ctrl-C, a handler of SIGALRM) cancels that call alone: it leaves at
    its next forward pass, and later calls work as before.
    """

    where = "in this process"
    most_lines = 1 << 17  # requests answered together, as `osp score` answers those of a file

    def __init__(self, path: str, options: dict[str, str]) -> None:
        """Loads the model with options of `osp score`. Raises EngineError with osp's sentence."""
        self.path = path
        engine = load()
        with translated(engine):
            self._model = engine.Model(path, json.dumps(options))
        self._engine = engine
        open_models.add(self)

    @property
    def engine(self) -> str:
        """What computes: "integer engine (avx512-vnni, avx512), 2 threads, 16-bit head"; "" if plain."""
        return self._model.engine()

    def answer(self, requests: Sequence[dict]) -> list[dict]:
        """One answer for each request of `osp score`, in order."""
        lines = "\n".join(json.dumps(request) for request in requests)
        return [json.loads(line) for line in self._result("answer", lines).splitlines()]

    def logits(self, ids: str | list[int]) -> tuple[bytearray, tuple[int, int]]:
        """fp32 numbers of one text, and their shape: tokens, vocabulary."""
        numbers = bytearray(self._result("logits", json.dumps({"logits_of": ids})))
        vocabulary = self._model.vocabulary()
        return numbers, (len(numbers) // (4 * vocabulary), vocabulary)

    def generate(self, options: dict) -> dict:
        """What `osp generate` prints with --json, for its options as keywords."""
        return json.loads(self._result("generate", as_json(options)))

    def stream(self, options: dict) -> Iterator[str]:
        """The text in pieces, as it comes. Leaving the iterator before the end cancels the generation."""
        with translated(self._engine):
            call = self._model.start("generate", as_json(options))
        return self._pieces(call)

    def close(self) -> None:
        """Cancels what runs and frees the weights. A second call does nothing."""
        self._model.close()

    def _pieces(self, call) -> Iterator[str]:
        try:
            while (piece := call.next_piece()) is not None:
                yield piece
            with translated(self._engine):
                call.wait()
        finally:
            call.cancel()

    def _result(self, kind: str, request: str) -> bytes:
        with translated(self._engine):
            return self._model.start(kind, request).wait()


@contextlib.contextmanager
def translated(engine) -> Iterator[None]:
    """The module's errors as EngineError."""
    try:
        yield
    except engine.Error as error:
        raise EngineError(*error.args) from None


def plain(value: object) -> object:
    """Numbers of numpy and torch as Python's, for JSON."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"an option is a text, a number or a list of texts, not {type(value).__name__}")


# A thread that computes must not outlive the libraries that it uses.
open_models: weakref.WeakSet[EngineModel] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """Closes every model at the end of the process."""
    for model in list(open_models):
        model.close()
